"""The sum of what a run keeps: inputs and cached results beyond it fail their tasks, and no others."""

from __future__ import annotations

import pytest
from tests.unit.domain.builders import view_of_workflow
from tests.unit.domain.cases import A, B, begun, gave, step
from tests.unit.domain.runs import Run

from perdure.domain.engine import tasks
from perdure.domain.payloads import payload_of
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import CachedResult, TaskKey

#: `"x"`: three bytes of JSON.
TEXT = "x"


def limit(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(tasks, "MAX_RUN_PAYLOAD_BYTES", size)


@pytest.mark.parametrize(("size", "failed"), [(9, []), (8, [2]), (5, [1, 2])])
def test_inputs_of_one_decision_count_together(
    monkeypatch: pytest.MonkeyPatch, size: int, failed: list[int]
) -> None:
    limit(monkeypatch, size)
    fan = {"name": "a", "forEach": [0, 1, 2], "input": TEXT, "maxFailures": 3}
    run = Run(view_of_workflow(fan, parallelism=10))
    run.settle()
    ended = {key.index: task for key, task in run.tasks.items() if task.phase is Phase.FAILED}
    assert sorted(ended) == failed
    for task in ended.values():
        assert task.reason is Reason.EXPRESSION_ERROR
        assert "the limit of all its inputs and outputs is" in task.message
        assert task.input is None


@pytest.mark.parametrize(("size", "goes_on"), [(9, True), (8, False)])
def test_outputs_count_with_the_inputs(monkeypatch: pytest.MonkeyPatch, size: int, goes_on: bool) -> None:
    limit(monkeypatch, size)
    run = begun(step("a", input=TEXT), step("b", input=TEXT, dependsOn=["a"]))
    run.reported(A, gave(TEXT))
    assert run.tasks[A].phase is Phase.SUCCEEDED
    assert run.open == ([B] if goes_on else [])
    assert (run.tasks[B].reason is Reason.EXPRESSION_ERROR) is not goes_on


def test_an_acknowledged_result_is_taken_over_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    limit(monkeypatch, 4)
    run = begun(step("a"), step("b", dependsOn=["a"]))
    run.reported(A, gave("longer than that"))
    assert (run.tasks[A].phase, run.tasks[A].output) == (Phase.SUCCEEDED, "longer than that")
    assert run.tasks[B].reason is Reason.EXPRESSION_ERROR


@pytest.mark.parametrize(("size", "hits"), [(15, 3), (14, 2)])
def test_cached_results_count_for_each_task(monkeypatch: pytest.MonkeyPatch, size: int, hits: int) -> None:
    # Without an `input` a task has `{}`: two bytes, next to the three of the result.
    limit(monkeypatch, size)
    fan = {"name": "a", "forEach": [0, 1, 2], "cache": {"key": "same"}, "maxFailures": 3}
    run = Run(view_of_workflow(fan, parallelism=10))
    (cache_key,) = set(_asked(run))
    run.cache[cache_key] = CachedResult(output=payload_of(TEXT), workflow="earlier", task="earlier-a")
    run.settle()
    phases = [run.tasks[TaskKey("a", index)].phase for index in range(3)]
    assert phases == [Phase.SUCCEEDED] * hits + [Phase.FAILED] * (3 - hits)


def _asked(run: Run) -> list[str]:
    while True:
        questions = run.decide().questions
        if questions:
            return list(questions.values())
