"""The changes that `kubectl describe` lists as Events."""

from datetime import datetime
from typing import Any

from tests.unit.control.lives import Live
from tests.unit.domain.clock import at
from tests.unit.domain.runs import FATAL, SUCCESS

from perdure.control.status.kube_events import KubeEvents
from perdure.domain.engine.observed import Observed
from perdure.domain.records import Commit, TaskKey
from perdure.kube.recorder import Regarding

A = TaskKey("a")


class Recorder:
    """Remembers what was recorded."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str]] = []
        self.regarding: set[tuple[str, str]] = set()

    def record(
        self, regarding: Regarding, *, reason: str, message: str, action: str, now: datetime, type: str
    ) -> None:
        self.regarding.add((regarding.kind, regarding.name))
        self.seen.append((type, reason, message))


def announced(live: Live) -> list[tuple[str, str, str]]:
    """The Events of a run, from its first on, each as (type, reason, message)."""
    recorder = Recorder()
    commit = Commit(run=live.run, events=tuple(live.events))
    KubeEvents(recorder).announce(live.live, commit, live.now)  # type: ignore[arg-type]
    assert recorder.regarding == {(live.run.kind, live.run.name)}
    return recorder.seen


def reasons(live: Live) -> list[str]:
    return [reason for _, reason, _ in announced(live)]


def test_a_run_that_succeeds() -> None:
    live = Live({"name": "a"})
    live.reported(A, SUCCESS)
    assert reasons(live) == ["Started", "Succeeded"]


def test_a_pause_and_a_cancel() -> None:
    live = Live({"name": "a"})
    live.settle(Observed(desired="Paused"))
    live.settle(Observed())
    live.settle(Observed(desired="Cancelled"))
    assert reasons(live) == ["Started", "Paused", "Resumed", "Cancelled"]
    assert announced(live)[-1][0] == "Warning"


def test_a_timeout_is_called_by_its_name() -> None:
    live = Live({"name": "a"}, timeout="1m")
    live.settle(now=at(61))
    kind, reason, message = announced(live)[-1]
    assert (kind, reason) == ("Warning", "Timeout")
    assert message.startswith("workflow.failed: Timeout: ")


def test_a_failure_says_what_and_why() -> None:
    live = Live({"name": "a"})
    live.reported(A, FATAL)
    task = ("Warning", "TaskFailed", f"task.failed: {live.tasks[A].name} attempt 1: AgentFailure: no hope")
    assert announced(live)[1] == task


def test_tasks_of_a_run_end_quietly_and_one_by_itself_does_not() -> None:
    fields: dict[str, Any] = {"name": "alone"}
    live = Live(**fields)
    live.reported(TaskKey(""), SUCCESS)
    assert reasons(live) == ["Succeeded"]
    live = Live(**fields)
    live.settle(Observed(desired="Cancelled"))
    assert reasons(live) == ["Cancelled"]
    live = Live({"name": "a"})
    live.settle(Observed(desired="Cancelled"))
    assert reasons(live) == ["Started", "Cancelled"]
