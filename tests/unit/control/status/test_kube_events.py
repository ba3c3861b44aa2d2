"""The changes that `kubectl describe` lists as Events."""

import re
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
    assert message.startswith("The run has failed: Timeout: ")


def test_a_failure_says_what_and_why() -> None:
    live = Live({"name": "a"})
    live.reported(A, FATAL)
    text = "Attempt 1 of step a has failed, and no other follows: AgentFailure: no hope"
    assert announced(live)[1] == ("Warning", "TaskFailed", text)
    text = "The run has failed: AgentFailure: step 'a' failed: no hope"
    assert announced(live)[2] == ("Warning", "Failed", text)


def test_messages_are_sentences_and_reasons_are_words() -> None:
    live = Live({"name": "a", "forEach": [1, 2], "retry": {"limit": 1, "backoff": {"initial": "1s"}}})
    live.exited(TaskKey("a", 1), code=3)
    live.settle(Observed(gone=frozenset({TaskKey("a", 0)})))
    live.settle(Observed(desired="Paused"))
    live.settle(Observed(), now=at(10))
    live.settle(Observed(desired="Cancelled"))
    said = announced(live)
    messages = [message for _, _, message in said]
    assert messages[0] == "The run has started its first step"
    assert messages[1].startswith(
        "Attempt 1 of step a[1] has failed, and retry 1 of 1 starts at 2024-05-01T12:00:"
    )
    assert messages[1].endswith("Z: ExitCode: exit code 3")
    assert (
        messages[2]
        == "Attempt 1 of step a[0] was lost to a disruption: Disrupted: the pod was deleted from outside"
    )
    assert messages[3] == "The run is paused: nothing starts, and running agents are asked to leave"
    assert messages[4].startswith("The run goes on after a pause of ")
    assert messages[-1].startswith("The run was cancelled: Cancelled")
    for _, reason, message in said:
        assert re.fullmatch("([A-Z][a-z]+)+", reason)
        assert not re.match(r"(workflow|task)\.", message)


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
