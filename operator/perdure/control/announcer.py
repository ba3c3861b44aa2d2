"""Kubernetes Events about runs: the few changes that somebody who types `kubectl describe` looks for."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from perdure.api import API_VERSION
from perdure.control.live import LiveRun
from perdure.domain.records import Commit, EventDraft
from perdure.kube.recorder import EventRecorder, Regarding

#: Event types that are announced: reason, action, and whether they call for attention.
_ANNOUNCED: dict[str, tuple[str, str, Literal["Normal", "Warning"]]] = {
    "workflow.started": ("Started", "Start", "Normal"),
    "workflow.succeeded": ("Succeeded", "Finish", "Normal"),
    "workflow.failed": ("Failed", "Finish", "Warning"),
    "task.retrying": ("Retrying", "Retry", "Warning"),
    "task.disrupted": ("Disrupted", "Replace", "Warning"),
    "task.failed": ("TaskFailed", "Finish", "Warning"),
}


class Announcer:
    """Turns a commit's events into Kubernetes Events about the object that a person applied."""

    def __init__(self, recorder: EventRecorder) -> None:
        self._recorder = recorder

    def announce(self, live: LiveRun, commit: Commit, now: datetime) -> None:
        """Announce what is worth it. Never waits, never fails."""
        regarding: Regarding | None = None
        for event in commit.events:
            if event.type not in _ANNOUNCED:
                continue
            reason, action, type_ = _ANNOUNCED[event.type]
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


def _message(event: EventDraft) -> str:
    parts = [event.type]
    if event.task is not None:
        parts.append(f"{event.task} attempt {event.attempt or 0}")
    parts += [str(event.data[name]) for name in ("reason", "message") if name in event.data]
    return ": ".join(parts)
