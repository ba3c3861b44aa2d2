"""A faulty manifest is checked as a whole: all faults at once, none that only follows from another."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.manifests import (
    Checked,
    InvalidManifest,
    check_agenttask,
    check_agenttemplate,
    check_inline_workflow,
    check_workflow,
    check_workflowschedule,
    check_workflowtemplate,
)

from perdure.api.base import Model

AGENT = {"image": "busybox"}


def workflow(*steps: Any, **spec: Any) -> dict[str, Any]:
    return {"kind": "Workflow", "metadata": {"name": "run"}, "spec": {**spec, "steps": list(steps)}}


def reported(checked: Checked[Model]) -> list[str]:
    return [problem.path for problem in checked.problems]


TEN = {
    "apiVersion": "perdure.dev/v1",
    "kind": "Workflow",
    "metadata": {"name": "Audit"},
    "spec": {
        "inputs": {"ratio": float("nan")},
        "parallelism": 0,
        "steps": [
            {"name": "list", "agent": {"imgae": "busybox"}},
            {"agent": AGENT, "retry": {"backoff": {"initial": "5m", "max": "1m"}}},
            {"name": "pause", "wait": {"duration": "5 days"}, "dependsOn": ["pause"]},
            {"name": "sub", "workflow": {"spec": {"steps": [{"name": "x", "wait": {"duration": "1s"}}, 5]}}},
        ],
        "finally": [{"name": "list", "agent": AGENT}],
    },
}


def test_ten_faults_and_a_bit_are_reported_in_the_order_of_the_manifest() -> None:
    assert reported(check_workflow(TEN)) == [
        "apiVersion",
        "metadata.name",
        "spec.inputs.ratio",
        "spec.parallelism",
        "spec.steps[0].agent.imgae",
        "spec.steps[1].retry.backoff",
        "spec.steps[1].name",
        "spec.steps[2].wait.duration",
        "spec.steps[2].dependsOn[0]",
        "spec.steps[3].workflow.spec.steps[1]",
        "spec.finally[0].name",
    ]


def test_the_manifest_stays_as_it_was() -> None:
    given = copy.deepcopy(TEN)
    given["spec"]["inputs"] = TEN["spec"]["inputs"]  # type: ignore[index] # not a number is not equal to itself
    check_workflow(given)
    assert given == TEN


def test_a_repaired_spec_can_be_checked_further() -> None:
    checked = check_workflow(TEN)
    assert checked.spec is not None and not checked.valid
    assert checked.spec.manifest() == {
        "inputs": {"ratio": 0},
        "steps": [
            {"name": "list", "agent": {"image": "busybox"}},
            {"name": "unnamed-steps-1", "agent": AGENT, "retry": {}},
            {"name": "pause", "wait": {"duration": "0s"}, "dependsOn": []},
            {"name": "sub", "workflow": TEN["spec"]["steps"][3]["workflow"]},  # type: ignore[index]
        ],
        "finally": [{"name": "unnamed-finally-0", "agent": AGENT}],
    }
    inner = checked.inner["spec.steps[3].workflow.spec"]
    assert inner.spec is not None and [step.name for step in inner.spec.steps] == ["x"]
    assert not inner.names.complete
    with pytest.raises(InvalidManifest):
        checked.require()


def test_a_manifest_without_problems() -> None:
    checked = check_workflow(workflow({"name": "a", "agent": AGENT}))
    assert checked.valid and checked.require() is checked.spec
    assert checked.names.steps == {"a"} and checked.names.complete
    assert checked.where("spec.steps[0].agent") == "spec.steps[0].agent"


#: A manifest, and the one fault in it that is reported.
NO_FOLLOWERS: list[tuple[str, dict[str, Any], str]] = [
    ("misspelt image", workflow({"name": "a", "agent": {"imgae": "x"}}), "spec.steps[0].agent.imgae"),
    ("misspelt agent", workflow({"name": "a", "agnet": AGENT}), "spec.steps[0].agnet"),
    ("image in the step", workflow({"name": "a", "image": "x"}), "spec.steps[0].image"),
    ("agent a text", workflow({"name": "a", "agent": "x"}), "spec.steps[0].agent"),
    ("image a number", workflow({"name": "a", "agent": {"image": 5}}), "spec.steps[0].agent.image"),
    (
        "default agent a text",
        workflow({"name": "a"}, {"name": "b"}, defaults={"agent": "x"}),
        "spec.defaults.agent",
    ),
    ("misspelt defaults", workflow({"name": "a"}, default={"agent": AGENT}), "spec.default"),
    ("misspelt name", workflow({"nmae": "a", "agent": AGENT}), "spec.steps[0].nmae"),
    ("misspelt steps", {"spec": {"step": [{"name": "a", "agent": AGENT}]}}, "spec.step"),
    ("no step left", workflow("a"), "spec.steps[0]"),
    (
        "misspelt forEach",
        workflow({"name": "a", "agent": AGENT, "foreach": [1], "parallelism": 1, "maxFailures": 1}),
        "spec.steps[0].foreach",
    ),
    ("wait a text", workflow({"name": "a", "wait": "1h"}), "spec.steps[0].wait"),
    ("wait wrong", workflow({"name": "a", "wait": {"duration": "1d"}}), "spec.steps[0].wait.duration"),
    ("workflow a text", workflow({"name": "a", "workflow": "x"}), "spec.steps[0].workflow"),
    (
        "template of a child",
        workflow({"name": "a", "workflow": {"templateRef": "A_b"}}),
        "spec.steps[0].workflow.templateRef",
    ),
    (
        "template of an agent",
        workflow({"name": "a", "agent": {"templateRef": "A_b"}}),
        "spec.steps[0].agent.templateRef",
    ),
    (
        "secret a text",
        workflow(
            {
                "name": "a",
                "agent": {**AGENT, "env": [{"name": "A", "valueFrom": {"secretKeyRef": "s"}}]},
            }
        ),
        "spec.steps[0].agent.env[0].valueFrom.secretKeyRef",
    ),
    (
        "date",
        workflow({"name": "a", "wait": {"until": datetime.date(2026, 1, 1)}}),
        "spec.steps[0].wait.until",
    ),
]


@pytest.mark.parametrize(
    ("manifest", "path"), [row[1:] for row in NO_FOLLOWERS], ids=[row[0] for row in NO_FOLLOWERS]
)
def test_no_fault_is_reported_that_only_follows_from_another(manifest: dict[str, Any], path: str) -> None:
    checked = check_workflow(manifest)
    assert reported(checked) == [path]
    assert checked.spec is not None and checked.spec.steps


def test_a_field_is_known_by_what_it_was_meant_to_be() -> None:
    checked = check_workflow(workflow({"name": "a", "agent": AGENT, "for_each": ["x"]}))
    assert checked.spec is not None
    assert checked.spec.steps[0].for_each == ["x"]
    assert checked.where("spec.steps[0].forEach[0]") == "spec.steps[0].for_each[0]"
    # An unknown field stands for none that is there.
    both = check_workflow(workflow({"name": "a", "agent": AGENT, "for_each": ["x"], "forEach": ["y"]}))
    assert both.spec is not None
    assert both.spec.steps[0].for_each == ["y"]


def test_paths_in_the_repaired_spec_are_traced_back() -> None:
    checked = check_workflow(
        workflow(
            "oops",
            {"name": "a", "agent": {**AGENT, "args": [5, "${x}"], "env": [{"value": "1"}, {"name": "B"}]}},
            {"name": "b", "agent": AGENT, "dependsOn": [7, "gone"], "input": {"a b": {"c.d": 1}}},
        )
    )
    assert checked.spec is not None
    assert [step.name for step in checked.spec.steps] == ["a", "b"]
    for repaired, written in {
        "spec.steps[0].name": "spec.steps[1].name",
        "spec.steps[0].agent.args[0]": "spec.steps[1].agent.args[1]",
        "spec.steps[0].agent.env[0].name": "spec.steps[1].agent.env[1].name",
        "spec.steps[1].dependsOn[0]": "spec.steps[2].dependsOn[1]",
        "spec.steps[1].input.a b.c.d": "spec.steps[2].input.a b.c.d",
        'spec.steps[1].input["a b"][0]': 'spec.steps[2].input["a b"][0]',
        "spec.outputs.x": "spec.outputs.x",
        "WorkflowTemplate t: spec.steps[0]": "WorkflowTemplate t: spec.steps[0]",
    }.items():
        assert checked.where(repaired) == written


def test_names_are_known_as_written() -> None:
    checked = check_workflow(
        workflow(
            {"name": "A_b", "agent": AGENT},
            {"name": "c", "agent": AGENT},
            {"name": "c", "agent": AGENT},
            **{"finally": [{"name": "z", "agent": AGENT}]},
        )
    )
    assert checked.names.steps == {"A_b", "c"} and checked.names.finally_ == {"z"}
    assert checked.names.complete
    assert checked.spec is not None
    names = [step.name for step in checked.spec.steps]
    assert names == ["unnamed-steps-0", "c", "unnamed-steps-2"], "each step has a name of its own"


@pytest.mark.parametrize(
    "steps", [[{"agent": AGENT}], ["a"], [{"name": 5, "agent": AGENT}], {"name": "a"}, [{"name": ""}]]
)
def test_a_name_that_could_not_be_read_may_be_any(steps: Any) -> None:
    assert not check_workflow({"spec": {"steps": steps}}).names.complete


def test_too_many_steps_are_all_known() -> None:
    checked = check_workflow(workflow(*({"name": f"s{n}", "agent": AGENT} for n in range(502))))
    assert reported(checked) == ["spec.steps"]
    assert checked.spec is not None and len(checked.spec.steps) == 500
    assert "s501" in checked.names.steps


def test_a_schedule_has_its_workflow_inside() -> None:
    checked = check_workflowschedule(
        {
            "metadata": {"name": "nightly"},
            "spec": {
                "schedule": "soon",
                "workflow": {"spec": {"steps": [{"name": "a"}, {"name": "b", "agent": AGENT}]}},
            },
        }
    )
    assert reported(checked) == ["spec.schedule", "spec.workflow.spec.steps[0].agent"]
    inner = checked.inner["spec.workflow.spec"]
    assert inner.root == "spec.workflow.spec" and inner.names.steps == {"a", "b"}


CHECKS: list[Callable[[Any], Checked[Any]]] = [
    check_workflow,
    check_agenttask,
    check_agenttemplate,
    check_workflowtemplate,
    check_workflowschedule,
    lambda manifest: check_inline_workflow(manifest["spec"], "spec"),
]
NAMES = (
    "name steps agent image env value valueFrom secretKeyRef key forEach foreach input dependsOn retry limit"
    " inputs outputs retention defaults templateRef finally wait duration until workflow spec repeat when on"
    " maxIterations cache backoff initial metadata labels podTemplate parameters schedule timeZone"
).split()
WORDS = ["a", "b", "A_b", "1s", "5 days", "${x}", "${a} and ${b}", "@daily", "UTC", "busybox", "\0", ""]
values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.sampled_from(WORDS),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from([*NAMES, "x y", 5]), children, max_size=5)
    ),
    max_leaves=25,
)
steps = st.lists(st.dictionaries(st.sampled_from(NAMES), values, max_size=6) | values, max_size=4)
specs = values | st.fixed_dictionaries(
    {"steps": steps, "agent": values, "schedule": values}, optional={"finally": steps, "workflow": values}
)


def test_a_name_that_is_no_text_in_an_inner_workflow_is_reported_once() -> None:
    inner = {"steps": [{"name": "x", "agent": AGENT}], 5: None}
    assert reported(check_workflow(workflow({"name": "a", "workflow": {"spec": inner}}))) == [
        "spec.steps[0].workflow.spec"
    ]


@settings(deadline=None)
@given(spec=specs)
@pytest.mark.parametrize("check", CHECKS)
def test_for_any_manifest_the_repaired_spec_is_valid(check: Callable[[Any], Checked[Any]], spec: Any) -> None:
    checked = check({"metadata": {"name": "a"}, "spec": spec})
    assert checked.spec is not None or checked.problems
    for inner in (checked, *checked.inner.values()):
        if inner.spec is not None:
            type(inner.spec).model_validate(inner.spec.manifest())
            names = [step.name for part in ("steps", "finally_") for step in getattr(inner.spec, part, ())]
            assert len(set(names)) == len(names)
    assert len(set(checked.problems)) == len(checked.problems), "nothing is reported twice"
