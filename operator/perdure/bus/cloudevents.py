"""The CloudEvents envelope of an event: what publishers write, and followers and streams read.

Pure, and the only place that knows the envelope. Specification: CloudEvents 1.0, JSON event format.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from perdure.domain.records import Event, RunKind

_PLURALS: Final[dict[RunKind, str]] = {"Workflow": "workflows", "AgentTask": "agenttasks"}
_KINDS: Final[dict[str, RunKind]] = {plural: kind for kind, plural in _PLURALS.items()}
_API: Final = "/apis/perdure.dev/v1alpha1/namespaces"
_SOURCE: Final = re.compile(re.escape(_API) + r"/([^/]+)/(workflows|agenttasks)/([^/]+)")


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
