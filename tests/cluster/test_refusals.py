"""Manifests that can never run: refused with the field and the remedy named, and no pod started."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.installation import Installation
from tests.cluster.manifests import python, step, workflow
from tests.cluster.runs import Run
from tests.cluster.waiting import until

_AGENT = python("pass")


def _step(name: str, **fields: Any) -> dict[str, Any]:
    return step(name, _AGENT, **fields)


#: Refused by `kubectl apply`: manifest and what is said.
BY_APPLY = {
    "unknown-dependency": (
        workflow("refused", _step("a", dependsOn=["typo"]), _step("b")),
        "spec.steps: dependsOn names steps that do not exist: a depends on typo",
    ),
    "itself": (
        workflow("refused", _step("a", dependsOn=["a"])),
        "spec.steps: Invalid value: a step cannot depend on itself: remove its name from its dependsOn",
    ),
    "too-many-steps": (
        workflow("refused", *(_step(f"s{number}") for number in range(501))),
        "spec.steps: Too many: 501: must have at most 500 items",
    ),
    "twice": (workflow("refused", _step("a"), _step("a")), "two steps have the same name: give each its own"),
    "no-image": (
        workflow("refused", {"name": "a", "agent": {"args": ["x"]}}),
        "every step needs agent.image or agent.templateRef",
    ),
    "unknown-field": (workflow("refused", _step("a", retries=3)), 'unknown field "spec.steps[0].retries"'),
}
#: Refused by the operator: manifest and the condition's message.
BY_THE_OPERATOR = {
    "cycle": (
        workflow("cycle", *(_step(name, dependsOn=[needed]) for name, needed in ("ac", "ba", "cb"))),
        ["spec.steps[", "dependsOn[0]: the steps wait for each other: ", "break the cycle"],
    ),
    "unknown-step": (
        workflow("unknown-step", _step("collect"), _step("b", input={"all": "${steps.colect.output}"})),
        ["spec.steps[1].input.all: ", "there is no step 'colect'; did you mean 'collect'?"],
    ),
    "bad-expression": (
        workflow("bad-expression", _step("a", input={"n": "${1 +}"})),
        ["spec.steps[0].input.n: "],
    ),
    "unknown-name": (
        workflow("unknown-name", _step("a", input={"n": "${imputs.x}"})),
        ["spec.steps[0].input.n: ", "unknown name 'imputs': known here are inputs, steps, workflow"],
    ),
    "large-inputs": (
        workflow("large-inputs", _step("a"), inputs={"text": "x" * (64 * 1024)}),
        ["spec.inputs: has 655", "bytes as compact JSON; at most 65536 are allowed: put large data where"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def refusing(perdure: Installation) -> str:
    """A namespace in which nothing ever runs."""
    return perdure.make_namespace("refusals")


@pytest.mark.parametrize("case", BY_APPLY)
def test_the_api_server_refuses_a_faulty_manifest(perdure: Installation, refusing: str, case: str) -> None:
    manifest, message = BY_APPLY[case]
    said = perdure.apply(refusing, manifest)
    assert said.code != 0
    assert message in said.error
    assert (
        perdure.ok("get", "workflows", "-n", refusing, "--ignore-not-found", "-o", "name").count("refused")
        == 0
    )


@pytest.mark.parametrize("case", BY_THE_OPERATOR)
def test_the_operator_refuses_a_faulty_manifest(perdure: Installation, refusing: str, case: str) -> None:
    manifest, parts = BY_THE_OPERATOR[case]
    run = Run.apply(perdure, refusing, manifest)
    condition = until(lambda: run.condition("Accepted"), seconds=30, what="condition Accepted")
    assert (condition["status"], condition["reason"]) == ("False", "InvalidConfig")
    for part in parts:
        assert part in condition["message"]
    status = run.until("Failed")
    assert (status["phase"], status["message"]) == ("Failed", condition["message"])
    assert [event["type"] for event in run.events()] == ["workflow.created", "workflow.failed"]
    assert not run.tasks()
    assert not perdure.items("pods", "-n", refusing)
