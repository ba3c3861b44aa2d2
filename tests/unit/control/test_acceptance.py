"""From an object in the store to a run: accepted, waiting for templates, or refused."""

from typing import Any

import pytest
from tests.unit.control.objects import obj
from tests.unit.domain.clock import START, at

from perdure.control.acceptance import Waits, accept, refusal
from perdure.control.keys import RunKey
from perdure.control.store import AGENT_TEMPLATE, Root, Store
from perdure.domain.accept import Refused
from perdure.domain.names import shard_of
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import AGENT_TASK, WORKFLOW, TaskKey
from perdure.domain.view import RunView

IMAGE = {"image": "agents/audit:1"}


def root_of(kind: str, spec: dict[str, Any], store: Store | None = None) -> tuple[Root, Store]:
    store = store or Store()
    store.apply(kind, obj("audit", 5, uid="uid-1", spec=spec))
    return store.roots[RunKey(kind, "team", "audit")], store


def refused(kind: str, spec: dict[str, Any], store: Store | None = None) -> str:
    with pytest.raises(Refused) as raised:
        accept(*root_of(kind, spec, store))
    return str(raised.value)


def test_an_accepted_workflow_is_a_run_without_history() -> None:
    view = accept(*root_of(WORKFLOW, {"steps": [{"name": "a", "agent": IMAGE}]}))
    assert isinstance(view, RunView)
    run = view.run
    assert (run.uid, run.kind, run.namespace, run.name) == ("uid-1", "Workflow", "team", "audit")
    assert (run.phase, run.version, run.generation, run.created_at) == (Phase.PENDING, 0, 1, START)
    assert run.shard == shard_of("uid-1")
    assert run.spec["steps"][0]["agent"] == IMAGE
    assert (view.tasks, view.steps) == ({}, {})


def test_an_accepted_task_is_a_run_of_its_own_kind() -> None:
    view = accept(*root_of(AGENT_TASK, {"agent": IMAGE}))
    assert isinstance(view, RunView)
    assert view.run.kind == "AgentTask"
    assert list(view.plan.steps) == [TaskKey("").step]


@pytest.mark.parametrize(
    ("kind", "spec", "problem"),
    [
        # What the schema would have said, had it been asked.
        (WORKFLOW, {}, "spec.steps: is required"),
        (WORKFLOW, {"steps": [{"name": "A", "agent": IMAGE}]}, "spec.steps[0].name: 'A' is no DNS label"),
        (
            WORKFLOW,
            {"steps": [{"name": "a", "agent": IMAGE, "wen": "x"}]},
            "spec.steps[0].wen: unknown field",
        ),
        (
            WORKFLOW,
            {"steps": [{"name": f"s{number}", "agent": IMAGE} for number in range(501)]},
            "spec.steps: has 501 entries; at most 500 are allowed",
        ),
        (
            WORKFLOW,
            {"steps": [{"name": "a", "agent": IMAGE}], "inputs": {"x": "y" * 66_000}},
            "spec.inputs: has 66008 bytes as compact JSON; at most 65536",
        ),
        # What only acceptance can say.
        (
            WORKFLOW,
            {"steps": [{"name": "a", "agent": IMAGE, "dependsOn": ["b"]}]},
            "spec.steps[0].dependsOn[0]: there is no step 'b'",
        ),
        (AGENT_TASK, {"agent": IMAGE, "input": "${item}"}, "spec.input: ${item}: unknown name 'item'"),
    ],
)
def test_refusals_name_the_field(kind: str, spec: dict[str, Any], problem: str) -> None:
    assert refused(kind, spec).startswith(problem)


def test_a_run_waits_for_its_templates_and_then_copies_them() -> None:
    spec = {
        "defaults": {"agent": {"templateRef": "base"}},
        "steps": [{"name": "a"}, {"name": "b", "agent": IMAGE}],
    }
    root, store = root_of(WORKFLOW, spec)
    waits = accept(root, store)
    assert isinstance(waits, Waits)
    assert waits.templates == {("team", "base")}
    assert "spec.steps[0].agent.templateRef: there is no AgentTemplate 'base'" in waits.message
    store.apply(AGENT_TEMPLATE, obj("base", 6, spec={"image": "base:1"}))
    view = accept(root, store)
    assert isinstance(view, RunView)
    assert view.plan.steps["a"].agent == {"image": "base:1"}


def test_a_template_of_another_namespace_does_not_count() -> None:
    root, store = root_of(AGENT_TASK, {"agent": {"templateRef": "base"}})
    template = obj("base", 6, spec={"image": "base:1"})
    template["metadata"]["namespace"] = "other"
    store.apply(AGENT_TEMPLATE, template)
    assert isinstance(accept(root, store), Waits)


def test_a_fault_in_a_template_is_said_to_be_there() -> None:
    store = Store()
    store.apply(AGENT_TEMPLATE, obj("base", 1, spec={"image": "base:1", "comand": ["x"]}))
    problem = refused(WORKFLOW, {"steps": [{"name": "a", "agent": {"templateRef": "base"}}]}, store)
    assert problem == "AgentTemplate base: spec.comand: unknown field; did you mean command?"


def test_faults_count_before_missing_templates() -> None:
    spec = {"steps": [{"name": "a", "agent": {"templateRef": "late"}, "input": "${steps.b.output}"}]}
    assert "there is no step 'b'" in refused(WORKFLOW, spec)


def test_the_history_of_a_refused_workflow() -> None:
    root, _ = root_of(WORKFLOW, {})
    commit = refusal(root, Reason.INVALID_CONFIG, "spec.steps: " + "x" * 5000, at(3))
    assert (commit.run.phase, commit.run.reason, commit.run.version) == (
        Phase.FAILED,
        Reason.INVALID_CONFIG,
        0,
    )
    assert commit.run.finished_at == at(3)
    assert commit.run.expires_at is not None and commit.run.expires_at > at(3)
    assert len(commit.run.message) == 1024
    assert [event.type for event in commit.events] == ["workflow.created", "workflow.failed"]
    assert commit.events[1].data["message"] == commit.run.message
    assert (commit.steps, commit.tasks, commit.attempts, commit.run.spec) == ((), (), (), {})


def test_the_history_of_a_refused_task() -> None:
    root, _ = root_of(AGENT_TASK, {})
    (event,) = refusal(root, Reason.TEMPLATE_NOT_FOUND, "no template", at(3)).events
    assert (event.type, event.task) == ("task.failed", "audit")
