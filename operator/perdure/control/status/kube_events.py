"""Kubernetes Events about runs: the few changes that somebody who types `kubectl describe` looks for."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from perdure.api import API_VERSION
from perdure.control.live_run import LiveRun
from perdure.domain.phases import Reason
from perdure.domain.records import AGENT_TASK, Commit, PendingEvent
from perdure.kube.recorder import EventRecorder, Regarding

Announcement = tuple[str, str, Literal["Normal", "Warning"]]

#: Event types that are announced: reason, action, and whether they call for attention.
_ANNOUNCED: dict[str, Announcement] = {
    "workflow.started": ("Started", "Start", "Normal"),
    "workflow.paused": ("Paused", "Pause", "Normal"),
    "workflow.resumed": ("Resumed", "Resume", "Normal"),
    "workflow.succeeded": ("Succeeded", "Finish", "Normal"),
    "workflow.failed": ("Failed", "Finish", "Warning"),
    "workflow.cancelled": ("Cancelled", "Finish", "Warning"),
    "task.retrying": ("Retrying", "Retry", "Warning"),
    "task.disrupted": ("Disrupted", "Replace", "Warning"),
    "task.failed": ("TaskFailed", "Finish", "Warning"),
}
#: Of an AgentTask that stands alone, these are the run's own; in a Workflow there may be thousands of them.
_ANNOUNCED_ALONE: dict[str, Announcement] = {
    "task.succeeded": ("Succeeded", "Finish", "Normal"),
    "task.cancelled": ("Cancelled", "Finish", "Warning"),
}
#: Ends that have an announcement of their own, by the event's type and reason.
_TIMEOUTS = {("workflow.failed", Reason.TIMEOUT.value): "Timeout"}


class KubeEvents:
    """Turns a commit's events into Kubernetes Events about the object that a person applied."""

    def __init__(self, recorder: EventRecorder) -> None:
        self._recorder = recorder

    def announce(self, live: LiveRun, commit: Commit, now: datetime) -> None:
        """Announce what is worth it. Never waits, never fails."""
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
    parts = [event.type]
    if event.task is not None:
        parts.append(f"{event.task} attempt {event.attempt or 0}")
    parts += [str(event.data[name]) for name in ("reason", "message") if name in event.data]
    return ": ".join(parts)
