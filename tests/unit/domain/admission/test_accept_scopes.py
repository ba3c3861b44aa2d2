"""Which names expressions know, place by place, and what is said of those that they do not."""

from typing import Any

import pytest
from tests.unit.domain.admission.cases import refused
from tests.unit.domain.builders import IMAGE, workflow

EVERYWHERE = {"inputs", "steps", "workflow"}
ALL = ("inputs", "steps", "workflow", "item", "index", "last", "attempt", "state")


def place(where: str, text: str) -> dict[str, Any]:
    """A spec with one expression at a place."""
    each: dict[str, Any] = {"forEach": [1]}
    repeat = {"until": "${true}", "maxIterations": 2}
    steps: dict[str, dict[str, Any]] = {
        "when": {"when": text},
        "when of forEach": {**each, "when": text},
        "forEach": {"forEach": text},
        "forEach's items": {"forEach": [text]},
        "input": {"input": text},
        "input of forEach": {**each, "input": text},
        "args of forEach": {**each, "agent": {**IMAGE, "args": [text]}},
        "env of forEach": {**each, "agent": {**IMAGE, "env": [{"name": "A", "value": text}]}},
        "input of repeat": {"repeat": repeat, "input": text},
        "until": {"repeat": {**repeat, "until": text}},
        "when of repeat": {"repeat": repeat, "when": text},
        "retry": {"retry": {"on": text}},
        "retry of forEach": {**each, "retry": {"on": text}},
        "retry of repeat": {"repeat": repeat, "retry": {"on": text}},
        "cache of forEach": {**each, "cache": {"key": text}},
        "wait": {"wait": {"duration": text}},
        "wait of forEach": {**each, "wait": {"until": text}},
        "child of forEach": {**each, "workflow": {"templateRef": "t", "inputs": {"x": text}}},
    }
    if where == "outputs":
        return workflow({"name": "a"}, outputs={"x": text})
    if where.startswith("finally: "):
        return workflow({"name": "b"}, **{"finally": [{"name": "a", **steps[where[9:]]}]})
    return workflow({"name": "a", **steps[where]}, {"name": "b"})


@pytest.mark.parametrize(
    ("where", "more"),
    [
        ("when", set()),
        ("when of forEach", set()),
        ("when of repeat", set()),
        ("forEach", set()),
        ("forEach's items", set()),
        ("input", set()),
        ("input of forEach", {"item", "index"}),
        ("args of forEach", {"item", "index"}),
        ("env of forEach", {"item", "index"}),
        ("input of repeat", {"last", "index"}),
        ("until", {"last", "index"}),
        ("retry", {"attempt"}),
        ("retry of forEach", {"attempt", "item", "index"}),
        ("retry of repeat", {"attempt", "last", "index"}),
        ("cache of forEach", {"item", "index"}),
        ("wait", set()),
        ("wait of forEach", {"item", "index"}),
        ("child of forEach", {"item", "index"}),
        ("finally: input", set()),
        ("finally: input of forEach", {"item", "index"}),
        ("outputs", set()),
    ],
)
def test_which_names_are_known(where: str, more: set[str]) -> None:
    known = set()
    for name in ALL:
        reference = "steps.b.phase" if name == "steps" else name
        found = refused(place(where, f"${{{reference}}}"))
        if where == "outputs" and name == "steps":
            found = refused(place(where, "${steps.a.phase}"))
        assert all(f"unknown name {name!r}" in problem for problem in found), found
        if not found:
            known.add(name)
    assert known == EVERYWHERE | more


@pytest.mark.parametrize(
    ("where", "name", "remedy"),
    [
        ("input", "item", "only a step with forEach has it"),
        ("input", "last", "only a step with repeat has it"),
        ("input", "attempt", "only retry.on has it"),
        ("when of forEach", "item", "this is decided once for the whole step"),
        ("input", "state", "known here are inputs, steps, workflow"),
    ],
)
def test_each_unknown_name_has_its_remedy(where: str, name: str, remedy: str) -> None:
    (problem,) = refused(place(where, f"${{{name}}}"))
    assert remedy in problem


@pytest.mark.parametrize("where", ["when", "until", "retry", "wait", "wait of forEach", "forEach"])
@pytest.mark.parametrize("text", ["${inputs.x} ${inputs.y}", "${inputs.x}${inputs.y}"])
def test_some_fields_take_exactly_one_expression(where: str, text: str) -> None:
    (problem,) = refused(place(where, text))
    assert "one ${} expression" in problem


@pytest.mark.parametrize(
    ("expression", "reported"),
    [
        ("steps.b.result", "a step has no 'result'"),
        ("steps.b.outptu", "did you mean 'output'?"),
        ('steps["b"].exitcode', "did you mean 'exitCode'?"),
        ("workflow.nmae", "did you mean 'name'?"),
        ("workflow.failures", "only finally steps see workflow.failures"),
        ("steps.b.outputs", "step 'b' has no forEach: what it gave is `output`"),
        ("steps.each.output.x", "step 'each' has forEach: what its tasks gave is the list `outputs`"),
        ("has(steps.each.output)", ""),
        ("has(steps.b.outputs) ? 1 : 2", ""),
        ("steps.b.output.size() + steps.each.outputs.size()", ""),
        ("[steps.b].map(s, s.whatever)", ""),
        ("steps.b.output.nothing.workflow.nmae", ""),
        ("inputs.steps.b.result", ""),
        ("steps.b.reason + steps.b.message + string(steps.b.attempts)", ""),
    ],
)
def test_fields_of_what_is_known(expression: str, reported: str) -> None:
    spec = workflow(
        {"name": "a", "input": f"${{{expression}}}"}, {"name": "b"}, {"name": "each", "forEach": [1]}
    )
    found = refused(spec)
    assert [reported in problem for problem in found] == [True] * bool(reported)


def test_fields_of_an_attempt() -> None:
    (problem,) = refused(place("retry", "${attempt.exitcode == 2 || attempt.number > 1}"))
    assert "attempt has no 'exitcode'; did you mean 'exitCode'?" in problem


@pytest.mark.parametrize(
    "step",
    [
        {"dependsOn": ["notify"]},
        {"input": "${steps.notify.output}"},
        {"when": "${steps.notify.phase == 'Failed'}"},
    ],
)
def test_no_main_step_waits_for_a_finally_step(step: dict[str, Any]) -> None:
    spec = workflow({"name": "a", **step}, **{"finally": [{"name": "notify"}]})
    (problem,) = refused(spec)
    assert "'notify' is a finally step, which starts when all others have ended" in problem


def test_finally_steps_may_not_wait_for_each_other_in_a_circle() -> None:
    steps = [{"name": "x", "dependsOn": ["y"]}, {"name": "y", "input": "${steps.x.output}"}]
    (problem,) = refused(workflow({"name": "a"}, **{"finally": steps}))
    assert problem.startswith("spec.finally[0].dependsOn[0]: the steps wait for each other: x -> y -> x")


def test_every_cycle_is_reported() -> None:
    pairs = [("a", "b"), ("b", "a"), ("c", "d"), ("d", "c"), ("e", "a")]
    found = refused(workflow(*({"name": name, "dependsOn": [other]} for name, other in pairs)))
    assert [problem.partition(": ")[0] for problem in found] == [
        "spec.steps[0].dependsOn[0]",
        "spec.steps[2].dependsOn[0]",
    ]
