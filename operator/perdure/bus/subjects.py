"""How an event is named and written outside: its subject in JetStream, and its CloudEvents envelope.

Pure, and the only place that knows either form, so that whoever publishes, follows or streams events agrees.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from perdure.domain.records import Event, RunKind

PREFIX = "perdure.events"
#: What the stream takes in.
ALL = f"{PREFIX}.>"

_PLURALS: dict[RunKind, str] = {"Workflow": "workflows", "AgentTask": "agenttasks"}
_KINDS: dict[str, RunKind] = {plural: kind for kind, plural in _PLURALS.items()}
_API = "/apis/perdure.dev/v1alpha1/namespaces"
#: One word of a subject: no dot, no wildcard, nothing that could end a protocol line.
_WORD = re.compile(r"[A-Za-z0-9_-]+")
_TYPE = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_SOURCE = re.compile(re.escape(_API) + r"/([^/]+)/(workflows|agenttasks)/([^/]+)")


class EventSubject(NamedTuple):
    """What a subject says. `workflow` is the name of the run, whatever its kind."""

    namespace: str
    workflow: str
    type: str


def _word(field: str, value: str) -> str:
    if not _WORD.fullmatch(value):
        raise ValueError(f"{field} {value!r} is no word of a subject: use letters, digits, '-' and '_'")
    return value


def subject(namespace: str, workflow: str, type_: str) -> str:
    """`perdure.events.<namespace>.<workflow>.<type>`; the type keeps its dots. Raises ValueError."""
    if not _TYPE.fullmatch(type_):
        raise ValueError(f"type {type_!r} is no event type: use words of letters and digits joined by dots")
    return f"{run_subjects(namespace, workflow)[:-1]}{type_}"


def run_subjects(namespace: str, workflow: str) -> str:
    """The wildcard for every event of runs of this name. Raises ValueError."""
    return f"{PREFIX}.{_word('namespace', namespace)}.{_word('workflow', workflow)}.>"


def parse_subject(text: str) -> EventSubject:
    """The inverse of `subject`. Raises ValueError for a subject that is not one of ours."""
    words = text.split(".", 4)
    if len(words) < 5 or f"{words[0]}.{words[1]}" != PREFIX:
        raise ValueError(f"{text!r} is not {PREFIX}.<namespace>.<workflow>.<type>")
    parsed = EventSubject(words[2], words[3], words[4])
    subject(*parsed)  # refuses what `subject` would never have made
    return parsed


def attributes(event: Event) -> dict[str, Any]:
    """The event as a CloudEvents 1.0 structure; `time` is still a datetime, in UTC.

    `sequence` is decimal text because CloudEvents integers end at 2^31.
    """
    envelope: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "source": f"{_API}/{event.namespace}/{_PLURALS[event.kind]}/{event.workflow}",
        "type": event.type,
        "time": event.time.astimezone(UTC),
        "datacontenttype": "application/json",
        "sequence": str(event.sequence),
        "workflowuid": event.workflow_uid,
    }
    if event.task is not None:
        envelope["subject"] = event.task
        envelope["task"] = event.task
    if event.attempt is not None:
        envelope["attempt"] = event.attempt
    envelope["data"] = dict(event.data)
    return envelope


def encode(event: Event) -> bytes:
    """The envelope as UTF-8 JSON. The same event always gives the same bytes."""
    return orjson.dumps(attributes(event), option=orjson.OPT_UTC_Z)


def decode(payload: bytes) -> Event:
    """The inverse of `encode`. Raises ValueError for anything that is not one of our envelopes."""
    body = orjson.loads(payload)
    try:
        source = _SOURCE.fullmatch(body["source"])
        if source is None:
            raise ValueError(f"source {body['source']!r} names no run")
        event = Event(
            workflow_uid=body["workflowuid"],
            namespace=source[1],
            workflow=source[3],
            kind=_KINDS[source[2]],
            sequence=int(body["sequence"]),
            type=body["type"],
            time=datetime.fromisoformat(body["time"]),
            data=body.get("data") or {},
            task=body.get("task"),
            attempt=body.get("attempt"),
        )
        if event.id != body["id"]:
            raise ValueError(f"id {body['id']!r} is not {event.id!r}")
    except (KeyError, TypeError) as error:
        raise ValueError(f"the envelope lacks or mistypes an attribute: {error!r}") from error
    return event
