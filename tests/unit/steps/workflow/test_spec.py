"""The manifest of `workflow` steps: template or inline spec, and the fields that are refused."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.manifests import parse_workflow
from tests.unit.api.validation.cases import (
    AGENT,
    CHILD,
    WAIT,
    inline,
    nested_workflows,
    one_step_of,
    problems_of,
)

NO_WORKFLOW = "does not go together with workflow"

#: Name of the case, manifest, path of the problem, part of its message.
MISTAKES: list[tuple[str, dict[str, Any], str, str]] = [
    *(
        (
            f"workflow with {field}",
            one_step_of({**CHILD, field: value}),
            f"spec.steps[0].{field}",
            NO_WORKFLOW,
        )
        for field, value in {
            "agent": AGENT,
            "input": {},
            "pendingTimeout": "1s",
            "idleTimeout": "1s",
        }.items()
    ),
    (
        "no workflow",
        one_step_of({**CHILD, "workflow": {}}),
        "spec.steps[0].workflow",
        "takes exactly one of templateRef and spec",
    ),
    (
        "two workflows",
        one_step_of({**CHILD, "workflow": {"templateRef": "t", "spec": {"steps": [WAIT]}}}),
        "spec.steps[0].workflow",
        "takes exactly one of templateRef and spec",
    ),
    (
        "inputs of a workflow",
        one_step_of({**CHILD, "workflow": {"templateRef": "t", "inputs": {"a": "x" * 65_536}}}),
        "spec.steps[0].workflow.inputs",
        "at most 65536 are allowed",
    ),
    (
        "inside, by its own path",
        inline({"steps": [{"name": "b", "agent": {"image": 5}}]}),
        "spec.steps[0].workflow.spec.steps[0].agent.image",
        "must be text",
    ),
    (
        "inputs inside",
        inline({"inputs": {}, "steps": [WAIT]}),
        "spec.steps[0].workflow.spec.inputs",
        "it belongs next to spec, in workflow.inputs",
    ),
    (
        "template inside",
        inline({"templateRef": "t", "steps": [WAIT]}),
        "spec.steps[0].workflow.spec.templateRef",
        "it belongs in workflow, instead of spec",
    ),
    ("no steps inside", inline({}), "spec.steps[0].workflow.spec.steps", "is required"),
    (
        "nine deep",
        nested_workflows(9),
        "spec" + ".steps[0].workflow.spec" * 9,
        "has 9 workflows around it; at most 8",
    ),
]


@pytest.mark.parametrize(
    ("manifest", "path", "message"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES]
)
def test_a_mistake_in_a_child_workflow_is_one_problem_with_its_path(
    manifest: dict[str, Any], path: str, message: str
) -> None:
    (problem,) = problems_of(manifest)
    assert problem.path == path
    assert message in problem.message


GOOD: list[tuple[str, dict[str, Any]]] = [
    ("child", one_step_of({**CHILD, "timeout": "1h", "retry": {"limit": 1}, "cache": {"key": "k"}})),
    ("child of a child", nested_workflows(8)),
]


@pytest.mark.parametrize("manifest", [row[1] for row in GOOD], ids=[row[0] for row in GOOD])
def test_a_child_workflow_is_parsed_as_it_is_written(manifest: dict[str, Any]) -> None:
    assert parse_workflow(manifest).manifest() == manifest["spec"]
