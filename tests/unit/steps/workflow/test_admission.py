"""The snapshot of a `workflow` step, and the admission of a spec inside the step."""

from typing import Any

import pytest
from tests.unit.domain.admission.cases import BACKOFF, BARE, one, refused
from tests.unit.domain.builders import IMAGE, snapshot, workflow


def test_a_workflow_step_takes_only_its_own_limits_from_the_defaults() -> None:
    made = one(
        {"workflow": {"templateRef": "child", "inputs": {"x": "${inputs.y}"}}, "timeout": "1h"},
        pendingTimeout="1m",
        idleTimeout="1m",
        retry={"limit": 1},
    )
    assert made == {
        "name": "a",
        **BARE,
        "workflow": {"templateRef": "child", "inputs": {"x": "${inputs.y}"}},
        "retry": {"limit": 1, "backoff": BACKOFF},
        "disruptions": {"limit": 10},
        "timeout": "1h",
    }
    child = {"steps": [{"name": "in", "agent": {"templateRef": "late"}}]}
    assert one({"workflow": {"spec": child}})["workflow"] == {"spec": child, "inputs": {}}


def child(**spec: Any) -> dict[str, Any]:
    inner = {"defaults": {"agent": IMAGE}, "steps": [{"name": "in"}], **spec}
    return {"name": "child", "workflow": {"inputs": {"x": "${steps.a.output}"}, "spec": inner}}


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"steps": [{"name": "in", "input": "${steps.a.output}"}]}, "steps[0].input"),
        ({"steps": [{"name": "in", "input": "${item}"}]}, "steps[0].input"),
        ({"outputs": {"o": "${steps.a.output}"}}, "outputs.o"),
        ({"finally": [{"name": "late", "dependsOn": ["gone"]}]}, "finally[0].dependsOn[0]"),
        (
            {"steps": [{"name": "x", "dependsOn": ["y"]}, {"name": "y", "dependsOn": ["x"]}]},
            "steps[0].dependsOn[0]",
        ),
        (
            {
                "steps": [
                    {
                        "name": "deep",
                        "workflow": {"spec": {"steps": [{"name": "z", "agent": IMAGE, "when": "${q}"}]}},
                    }
                ]
            },
            "steps[0].workflow.spec.steps[0].when",
        ),
    ],
)
def test_a_child_is_checked_with_names_of_its_own(spec: dict[str, Any], path: str) -> None:
    (problem,) = refused(workflow({"name": "a"}, {**child(**spec), "forEach": [1]}))
    assert problem.startswith(f"spec.steps[1].workflow.spec.{path}: ")


def test_a_childs_inputs_are_the_parents_matter() -> None:
    made = snapshot(workflow({"name": "a"}, child()))
    assert made["steps"][1]["dependsOn"] == ["a"]
    # Its own expressions and templates wait until it starts.
    template = {"steps": [{"name": "in", "agent": {"templateRef": "late"}, "input": "${inputs.x}"}]}
    assert refused(workflow({"name": "a"}, child(**template))) == []
