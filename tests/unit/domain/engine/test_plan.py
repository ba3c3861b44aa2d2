"""Snapshots compiled: what each field becomes, and what one that is left out means."""

from datetime import timedelta
from typing import Any

import pytest
from tests.unit.domain.builders import IMAGE, planned
from tests.unit.domain.cases import step

from perdure.domain.engine.plan import Plan, PlannedStep, compile_plan
from perdure.domain.engine.retry import DEFAULT_BACKOFF, DISRUPTION_LIMIT, Backoff
from perdure.steps import KINDS


def plan_of(**fields: Any) -> PlannedStep:
    return compile_plan(planned(step("a", **fields)), KINDS).steps["a"]


def test_a_snapshot_of_an_earlier_version_still_loads() -> None:
    """A run that is under way when the operator is upgraded goes on."""
    old = {
        "inputs": {"x": 1},
        "parallelism": 3,
        "retention": {"ttlAfterFinished": "168h"},
        "steps": [
            {"name": "b", "dependsOn": ["a"], "agent": IMAGE, "input": {}, "retry": {"limit": 2}},
            {"name": "a", "dependsOn": [], "agent": IMAGE, "input": "${inputs.x}", "retry": {"limit": 0}},
        ],
        "outputs": {},
    }
    plan = compile_plan(old, KINDS)
    assert (plan.order, plan.finally_order, plan.settings.parallelism) == (("a", "b"), (), 3)
    assert (plan.settings.priority, plan.timeout, plan.settings.failure_policy) == (0, None, "FinishRunning")
    assert (plan.pod_retention, plan.retention) == ("Always", timedelta(days=7))
    first, second = plan.steps["a"], plan.steps["b"]
    assert (second.retry_limit, second.sees, second.depends_on) == (2, ("a",), ("a",))
    for each in (first, second):
        assert (each.kind.field, each.is_finally, each.is_for_each, each.is_indexed) == (
            "agent",
            False,
            False,
            False,
        )
        assert (each.when, each.repeat, each.cache, each.parallelism, each.max_failures) == (None,) * 5
        assert (each.timeout, each.pending_timeout, each.idle_timeout, each.timed) == (
            None,
            None,
            None,
            False,
        )
        assert (each.disruption_limit, each.retry.backoff) == (DISRUPTION_LIMIT, DEFAULT_BACKOFF)
        assert not each.continue_on_failure
        assert "result" not in each.block, "an agent need not leave a result"


def test_the_run_as_a_whole() -> None:
    fields = {
        "parallelism": 2,
        "priority": -3,
        "timeout": "2h",
        "failurePolicy": "RunAll",
        "retention": {"ttlAfterFinished": "1h", "checkpointsPerTask": 10, "pods": "Never"},
    }
    plan: Plan = compile_plan(planned(step("a"), finally_=(step("g", "f"), step("f")), **fields), KINDS)
    assert (plan.order, plan.finally_order) == (("a",), ("f", "g"))
    assert plan.steps["f"].is_finally
    assert (plan.settings.parallelism, plan.settings.priority, plan.timeout) == (2, -3, timedelta(hours=2))
    assert (plan.settings.failure_policy, plan.pod_retention, plan.retention) == (
        "RunAll",
        "Never",
        timedelta(hours=1),
    )


@pytest.mark.parametrize(
    ("given", "backoff"),
    [
        ({}, Backoff()),
        ({"initial": "10s"}, Backoff(initial=10)),
        (
            {"initial": "0s", "factor": 1, "max": "5m", "jitter": 0},
            Backoff(initial=0, factor=1, longest=300, jitter=0),
        ),
        ({"factor": 1.5, "jitter": 1}, Backoff(factor=1.5, jitter=1)),
    ],
)
def test_a_backoff_is_compiled_with_its_defaults(given: dict[str, Any], backoff: Backoff) -> None:
    """22."""
    assert plan_of(retry={"limit": 1, "backoff": given}).retry.backoff == backoff


@pytest.mark.parametrize("field", ["timeout", "pendingTimeout", "idleTimeout"])
def test_any_timeout_makes_a_step_one_that_time_can_end(field: str) -> None:
    """24."""
    planned_step = plan_of(**{field: "90s"})
    assert planned_step.timed
    found = (planned_step.timeout, planned_step.pending_timeout, planned_step.idle_timeout)
    assert sorted(limit for limit in found if limit is not None) == [timedelta(seconds=90)]


def test_a_step_is_of_the_kind_whose_block_it_has() -> None:
    """5."""
    assert plan_of().kind.field == "agent"
    assert plan_of(wait={"duration": "1s"}).kind.field == "wait"
    child = plan_of(workflow={"spec": {"steps": [{"name": "s", "input": "${inputs.x}"}]}, "inputs": {"x": 1}})
    assert child.kind.field == "workflow"
    assert child.block["spec"]["steps"][0]["input"] == "${inputs.x}", "its expressions are the child's own"


def test_what_makes_tasks_numbered() -> None:
    assert plan_of(forEach=[1]).is_indexed
    assert plan_of(repeat={"until": "${true}", "maxIterations": 3}).is_indexed


def test_a_cache_without_a_ttl_lives_for_a_week() -> None:
    cache = plan_of(cache={"key": "x"}).cache
    assert cache is not None
    assert cache.ttl == timedelta(days=7)


def test_finally_steps_wait_for_each_other_and_see_all() -> None:
    """11."""
    see = {"a": "${steps.a.phase}", "f": "${steps.f.phase}"}
    plan = compile_plan(planned(step("a"), finally_=(step("f"), step("g", input=see))), KINDS)
    assert (plan.steps["g"].depends_on, plan.steps["g"].sees) == (("f",), ("a", "f"))
