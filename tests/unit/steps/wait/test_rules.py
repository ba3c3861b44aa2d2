"""The decisions of `wait` steps: when a wait ends, and what it does not take (5, 21)."""

from typing import Any

import pytest
from tests.unit.domain.cases import A, B, begun, end_of, failed, phases_of, step
from tests.unit.domain.clock import START, at
from tests.unit.domain.runs import SUCCESS

from perdure.domain.phases import Phase, Reason


@pytest.mark.parametrize(
    ("wait", "until"),
    [
        ({"duration": "10s"}, at(10)),
        ({"duration": "1h30m"}, at(5400)),
        ({"duration": "250ms"}, at(0.25)),
        ({"duration": "${inputs.text}"}, at(60)),
        ({"duration": "${duration('90s')}"}, at(90)),
        ({"duration": "${duration('1m') + duration('500ms')}"}, at(60.5)),
        ({"duration": "${string(inputs.n) + 's'}"}, at(5)),
        ({"until": "2024-05-01T12:00:30Z"}, at(30)),
        ({"until": "2024-05-01T14:00:30+02:00"}, at(30)),
        ({"until": "2024-05-01T12:00:30.5Z"}, at(30.5)),
        ({"until": "${timestamp('2024-05-01T12:00:30Z')}"}, at(30)),
        ({"until": "${inputs.moment}"}, at(30)),
        ({"until": "${steps.b.finishedAt + duration('1m')}"}, at(60)),
    ],
)
def test_a_wait_ends_at_its_moment(wait: dict[str, str], until: Any) -> None:
    """5, 19."""
    run = begun(
        step("a", wait=wait), step("b"), inputs={"text": "1m", "n": 5, "moment": "2024-05-01T12:00:30Z"}
    )
    run.reported(B, SUCCESS)
    task = run.tasks[A]
    assert (task.phase, task.reason, task.retry_at) == (Phase.RUNNING, Reason.WAITING, until)
    assert (task.started_at, task.attempt, run.steps["a"].started_at) == (START, 0, START)
    assert run.requeue_at == until
    run.settle(now=until)
    assert end_of(run) == ("Succeeded", None)
    assert [key for key, _ in run.attempts] == [B], "no object is made for it"
    own = [(event.type, event.task) for event in run.events if event.task == task.name]
    assert own == [("task.started", task.name), ("task.succeeded", task.name)]


@pytest.mark.parametrize(
    "wait",
    [{"duration": "0s"}, {"until": "2024-05-01T12:00:00Z"}, {"until": "1999-01-01T00:00:00Z"}],
)
def test_a_wait_that_is_over_takes_no_time(wait: dict[str, str]) -> None:
    run = begun(step("a", wait=wait), step("b", "a"))
    assert run.phases() == {"a": "Succeeded", "b": "Running"}
    assert run.open == [B]


@pytest.mark.parametrize(
    ("wait", "message"),
    [
        ({"duration": "${inputs.gone}"}, "wait.duration: ${inputs.gone}: no such key: 'gone'"),
        ({"duration": "${5}"}, "wait.duration: 5 is not a duration; give one like 10s or 1h30m"),
        ({"duration": "${null}"}, "wait.duration: None is not a duration"),
        ({"duration": "soon"}, "wait.duration: 'soon' is not a duration"),
        ({"duration": "${duration('-5s')}"}, "wait.duration: '-5s' is not a duration"),
        ({"duration": "1000000h"}, "wait.duration: '1000000h' is not a duration"),
        ({"until": "${5}"}, "wait.until: 5 is not a time; give one like 2030-01-31T08:00:00Z"),
        ({"until": "tomorrow"}, "wait.until: 'tomorrow' is not a time"),
        ({"until": "2030-01-31T08:00:00"}, "is not a time"),  # a time without a zone is ambiguous
        ({"until": "9999-12-31T23:59:59-12:00"}, "is not a time"),  # later than the last representable time
    ],
)
def test_a_wait_for_what_is_no_time_fails(wait: dict[str, str], message: str) -> None:
    run = begun(step("a", wait=wait))
    assert end_of(run) == ("Failed", "ExpressionError")
    assert message in run.tasks[A].message


def test_waits_of_a_fan() -> None:
    run = begun(
        step("a", forEach=["5s", "${inputs.bad}", "9s"], wait={"duration": "${item}"}), inputs={"bad": 3}
    )
    assert phases_of(run, "a") == ["Running", "Failed"], "after a failure nothing is queued"
    run = begun(step("a", forEach=["5s", "9s"], wait={"duration": "${item}"}))
    assert run.requeue_at == at(5)
    run.settle(now=at(5))
    assert phases_of(run, "a") == ["Succeeded", "Running"]
    run.settle(now=at(9))
    assert end_of(run) == ("Succeeded", None)


def test_a_wait_takes_no_place_in_the_runs_parallelism_and_no_slot() -> None:
    """21."""
    run = begun(step("a", wait={"duration": "10s"}), step("b"), parallelism=1, limit=0)
    assert run.phases()["a"] == "Running"
    assert run.wants == 1, "the other one"


def test_a_wait_goes_on_while_the_run_fails() -> None:
    """10: it runs."""
    run = begun(step("a", wait={"duration": "10s"}), step("b"))
    run.reported(B, failed())
    assert run.phases() == {"a": "Running", "b": "Failed"}
    run.settle(now=at(10))
    assert end_of(run) == ("Failed", "AgentFailure")
