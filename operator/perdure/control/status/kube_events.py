"""Kubernetes Events about runs: the few changes that people look up with `kubectl describe`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from perdure.api import API_VERSION
from perdure.control.cluster_cache.run_key import RunKey
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
                regarding = _regarding(live.key, live.uid)
            self._recorder.record(
                regarding, reason=reason, message=_sentence(event), action=action, now=now, type=type_
            )

    def warn(self, key: RunKey, uid: str, reason: Reason, message: str, now: datetime) -> None:
        """Record a warning about a run that no commit is about. Never waits, raises nothing."""
        self._recorder.record(
            _regarding(key, uid),
            reason=reason.value,
            message=message,
            action="Reconcile",
            now=now,
            type="Warning",
        )


def _regarding(key: RunKey, uid: str) -> Regarding:
    return Regarding(api_version=API_VERSION, kind=key.kind, namespace=key.namespace, name=key.name, uid=uid)


def _sentence(event: PendingEvent) -> str:
    """What happened, as a sentence for `kubectl describe`."""
    data = event.data
    what = _what(event)
    attempt = f"Attempt {event.attempt or 0}" if what is None else f"Attempt {event.attempt or 0} of {what}"
    cause = _cause(data)
    match event.type:
        case EventType.WORKFLOW_STARTED:
            return "The run has started its first step"
        case EventType.WORKFLOW_PAUSED:
            return "The run is paused: nothing starts, and running agents are asked to leave"
        case EventType.WORKFLOW_RESUMED:
            return f"The run goes on after a pause of {data.get('pausedSeconds', 0):g} seconds"
        case EventType.WORKFLOW_SUCCEEDED:
            return f"The run has succeeded{cause}"
        case EventType.WORKFLOW_FAILED:
            return f"The run has failed{cause}"
        case EventType.WORKFLOW_CANCELLED:
            return f"The run was cancelled{cause}"
        case EventType.TASK_RETRYING:
            budget = f"retry {data.get('retry')} of {data.get('limit')}"
            at = f" starts at {data['retryAt'][:19]}Z" if data.get("retryAt") else " follows"
            return f"{attempt} has failed, and {budget}{at}{cause}"
        case EventType.TASK_DISRUPTED:
            return f"{attempt} was lost to a disruption{cause}"
        case EventType.TASK_SUCCEEDED:
            return f"{attempt} has succeeded{cause}"
        case EventType.TASK_CANCELLED:
            return f"{attempt} was cancelled{cause}"
        case _:
            return f"{attempt} has failed, and no other follows{cause}"


def _what(event: PendingEvent) -> str | None:
    """The task that an event is about, as its step; None for a task by itself."""
    step = event.data.get("step")
    if not step:
        return None
    index = event.data.get("index")
    return f"step {step}" if index is None else f"step {step}[{index}]"


def _cause(data: Mapping[str, object]) -> str:
    reason, message = data.get("reason"), data.get("message")
    if reason and message:
        return f": {reason}: {message}"
    return f": {reason or message}" if reason or message else ""
