"""Kubernetes Events about runs: the few changes that people look up with `kubectl describe`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from perdure.api import API_VERSION
from perdure.control.live_run import LiveRun
from perdure.domain.events import EventType
from perdure.domain.phases import Reason
from perdure.domain.records import AGENT_TASK, Commit, PendingEvent
from perdure.kube.recorder import EventRecorder, Regarding

Announcement = tuple[str, str, Literal["Normal", "Warning"]]

#: Event types that become Kubernetes Events: reason, action and type.
_ANNOUNCED: dict[EventType, Announcement] = {
    EventType.WORKFLOW_STARTED: ("Started", "Start", "Normal"),
    EventType.WORKFLOW_PAUSED: ("Paused", "Pause", "Normal"),
    EventType.WORKFLOW_RESUMED: ("Resumed", "Resume", "Normal"),
    EventType.WORKFLOW_SUCCEEDED: ("Succeeded", "Finish", "Normal"),
    EventType.WORKFLOW_FAILED: ("Failed", "Finish", "Warning"),
    EventType.WORKFLOW_CANCELLED: ("Cancelled", "Finish", "Warning"),
    EventType.TASK_RETRYING: ("Retrying", "Retry", "Warning"),
    EventType.TASK_DISRUPTED: ("Disrupted", "Replace", "Warning"),
    EventType.TASK_FAILED: ("TaskFailed", "Finish", "Warning"),
}
#: Further event types of a standalone AgentTask, where they are about the run itself. A Workflow may have
#: thousands of them, among which its own Events could not be found.
_ANNOUNCED_ALONE: dict[EventType, Announcement] = {
    EventType.TASK_SUCCEEDED: ("Succeeded", "Finish", "Normal"),
    EventType.TASK_CANCELLED: ("Cancelled", "Finish", "Warning"),
}
#: Ends that have an announcement of their own, by the event's type and reason.
_TIMEOUTS = {(EventType.WORKFLOW_FAILED, Reason.TIMEOUT.value): "Timeout"}


class KubeEvents:
    """Turns a commit's events into Kubernetes Events about the object that a person applied."""

    def __init__(self, recorder: EventRecorder) -> None:
        self._recorder = recorder

    def announce(self, live: LiveRun, commit: Commit, now: datetime) -> None:
        """Record the Kubernetes Events of a commit. Never waits, raises nothing."""
        regarding: Regarding | None = None
        for event in commit.events:
            announcement = _ANNOUNCED.get(event.type)
            if announcement is None and live.key.kind == AGENT_TASK:
                announcement = _ANNOUNCED_ALONE.get(event.type)
            if announcement is None:
                continue
            reason, action, type_ = announcement
            reason = _TIMEOUTS.get((event.type, str(event.data.get("reason"))), reason)
            if regarding is None:
                regarding = Regarding(
                    api_version=API_VERSION,
                    kind=live.key.kind,
                    namespace=live.key.namespace,
                    name=live.key.name,
                    uid=live.uid,
                )
            self._recorder.record(
                regarding, reason=reason, message=_message(event), action=action, now=now, type=type_
            )


def _message(event: PendingEvent) -> str:
    parts: list[str] = [event.type]
    if event.task is not None:
        parts.append(f"{event.task} attempt {event.attempt or 0}")
    parts += [str(event.data[name]) for name in ("reason", "message") if name in event.data]
    return ": ".join(parts)
