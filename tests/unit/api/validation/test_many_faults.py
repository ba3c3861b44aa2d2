"""Manifests with very many faults: the first are reported, and the work is linear in the manifest."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.support.manifests import accept, check_workflow

from perdure.api.expression_limits import MAX_EXPRESSION_TEXT
from perdure.api.raw_spec import Repair
from perdure.api.validation.repair import MAX_FAULTS
from perdure.domain.admission.accept import Refused

AGENT = {"image": "busybox"}


def workflow(**spec: Any) -> dict[str, Any]:
    return {"kind": "Workflow", "metadata": {"name": "run"}, "spec": {"steps": [STEP], **spec}}


STEP = {"name": "s", "agent": AGENT}


def test_as_many_faults_as_the_limit_are_all_reported_and_one_more_is_said_to_be_there() -> None:
    unknown = {f"unknown{number}": number for number in range(MAX_FAULTS)}
    exactly = check_workflow(workflow(**unknown))
    assert [problem.path for problem in exactly.problems] == [f"spec.{name}" for name in unknown]
    assert exactly.spec is not None
    beyond = check_workflow(workflow(**unknown, onemore=1))
    assert len(beyond.problems) == MAX_FAULTS + 1
    assert "more than 100 faults" in str(beyond.problems[-1])
    assert beyond.spec is None


def test_faults_of_workflows_inside_count_together() -> None:
    inner = {"steps": [STEP], **{f"unknown{number}": 0 for number in range(60)}}
    steps = [{"name": f"s{number}", "workflow": {"spec": inner}} for number in range(3)]
    checked = check_workflow({"kind": "Workflow", "metadata": {"name": "run"}, "spec": {"steps": steps}})
    assert len(checked.problems) == MAX_FAULTS + 1
    assert checked.spec is None


HUGE: list[Any] = [
    pytest.param({"steps": [STEP], **{f"unknown{number}": number for number in range(30_000)}}, id="fields"),
    pytest.param({"steps": [{**STEP, f"x{number}": 1} for number in range(10_000)]}, id="steps"),
    pytest.param({"steps": [{"name": "", "agent": {}} for _ in range(10_000)]}, id="empty steps"),
    pytest.param({"steps": [STEP], "inputs": {"n": [2**70] * 100_000}}, id="numbers"),
    pytest.param({"steps": [{**STEP, "dependsOn": ["S"] * 100_000}]}, id="dependencies"),
]


@pytest.mark.parametrize("inside", [False, True], ids=["top", "inside"])
@pytest.mark.parametrize("spec", HUGE)
def test_ten_thousands_of_faults_are_refused_by_little_work(spec: dict[str, Any], inside: bool) -> None:
    """Work that grew with the square of the faults took minutes for these; CPU time, on any machine."""
    if inside:
        spec = {"steps": [{"name": "s", "workflow": {"spec": spec}}]}
    began = time.thread_time()
    with pytest.raises(Refused):
        accept("Workflow", spec)
    assert time.thread_time() - began < 5


def test_as_much_text_with_expressions_as_the_limit_is_accepted_and_more_is_refused() -> None:
    unit = "${" + "1+" * 4093 + "1}"
    number, rest = divmod(MAX_EXPRESSION_TEXT, len(unit))
    texts = [unit] * number + ["${1}".ljust(rest)]
    data = {"steps": [STEP], "inputs": {"x": "${x}" * 1000}}
    assert not check_workflow(workflow(outputs={"o": texts}, **data)).problems
    (problem,) = check_workflow(workflow(outputs={"o": [*texts, "${1}"]}, **data)).problems
    assert problem.path == "spec"
    assert "131,076 characters of text with expressions; at most 131,072 are allowed" in problem.message


def test_ten_thousands_of_expressions_are_refused_by_little_work() -> None:
    """To compile them took eleven seconds of the event loop, and 150 MB."""
    long = ["${" + "+".join(str(number * 1000 + one) for one in range(490)) + "}" for number in range(400)]
    short = [f"${{1+{number}}}" for number in range(100_000)]
    for texts in (long, short):
        began = time.thread_time()
        with pytest.raises(Refused, match="characters of text with expressions"):
            accept("Workflow", {"steps": [{**STEP, "input": {"x": texts}}]})
        assert time.thread_time() - began < 1


def test_a_repair_knows_what_it_has_left_out_and_where() -> None:
    repair = Repair({"a": [{"b": 1, "c": 2}]})
    repair.drop(("a", 0, "b"))
    assert repair.dropped_in(("a", 0)) == {"b"}
    assert not repair.dropped_in(("a",))
    assert repair.is_parted(("a",))
    assert repair.is_parted(())
    assert not repair.is_parted(("a", 0, "c"))
    assert repair.repaired() == {"a": [{"c": 2}]}


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\ude00\ud83d"])
def test_half_a_surrogate_pair_is_refused_wherever_it_is(text: str) -> None:
    for field in ({"x": text}, {"x": [text]}, {text: 1}):
        with pytest.raises(Refused, match=r"surrogate pair|cannot be the name"):
            accept("Workflow", {"steps": [{**STEP, "input": field}]})
    accept("Workflow", {"steps": [{**STEP, "input": {"x": "\U0001f4a3", "\u202e": "\ufffe"}}]})
