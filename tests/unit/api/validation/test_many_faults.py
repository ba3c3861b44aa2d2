"""Manifests with very many faults: the first are reported, and the work is linear in the manifest."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.support.manifests import accept, check_workflow

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


def test_a_repair_knows_what_it_has_left_out_and_where() -> None:
    repair = Repair({"a": [{"b": 1, "c": 2}]})
    repair.drop(("a", 0, "b"))
    assert repair.dropped_in(("a", 0)) == {"b"}
    assert not repair.dropped_in(("a",))
    assert repair.is_parted(("a",))
    assert repair.is_parted(())
    assert not repair.is_parted(("a", 0, "c"))
    assert repair.repaired() == {"a": [{"c": 2}]}
