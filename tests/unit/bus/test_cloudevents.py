"""The envelope of an event, which subscribers outside rely on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.bus.cloudevents import decode, encode
from perdure.domain.records import Event

UID = "6a1f0a3e-8b1e-4a51-9a39-1d6d3c1f2b10"

names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
types = st.from_regex(r"[a-z]{1,9}(\.[a-z]{1,9}){1,3}", fullmatch=True)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=10),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=8,
)
events = st.builds(
    Event,
    workflow_uid=st.uuids().map(str),
    namespace=names,
    workflow=names,
    kind=st.sampled_from(["Workflow", "AgentTask"]),
    sequence=st.integers(1, 2**63 - 1),
    type=types,
    time=st.datetimes(
        timezones=st.just(UTC),
        min_value=datetime(1970, 1, 1),  # noqa: DTZ001 - bounds are naive
    ),
    data=st.dictionaries(st.text(max_size=5), json_values, max_size=4),
    task=st.none() | names,
    attempt=st.none() | st.integers(1, 2**31 - 1),
)


def checkpointed() -> Event:
    return Event(
        workflow_uid=UID,
        namespace="team-a",
        workflow="audit",
        kind="Workflow",
        sequence=12,
        type="task.checkpointed",
        time=datetime(2026, 3, 1, 13, 0, 0, 5, tzinfo=timezone(timedelta(hours=1))),
        data={"sequence": 3, "label": "a.py", "size": 1024},
        task="audit-analyse-0-k3x9a",
        attempt=2,
    )


def test_the_envelope_is_cloudevents_as_promised() -> None:
    assert orjson.loads(encode(checkpointed())) == {
        "specversion": "1.0",
        "id": f"{UID}/12",
        "source": "/apis/perdure.dev/v1alpha1/namespaces/team-a/workflows/audit",
        "type": "task.checkpointed",
        "subject": "audit-analyse-0-k3x9a",
        "time": "2026-03-01T12:00:00.000005Z",
        "datacontenttype": "application/json",
        "sequence": "12",
        "workflowuid": UID,
        "task": "audit-analyse-0-k3x9a",
        "attempt": 2,
        "data": {"sequence": 3, "label": "a.py", "size": 1024},
    }


def test_what_an_event_is_not_about_is_left_out() -> None:
    event = Event(
        workflow_uid=UID,
        namespace="team-a",
        workflow="one",
        kind="AgentTask",
        sequence=1,
        type="task.scheduled",
        time=datetime(2026, 3, 1, tzinfo=UTC),
        data={},
    )
    body = orjson.loads(encode(event))
    assert body["source"].endswith("/namespaces/team-a/agenttasks/one")
    assert not {"subject", "task", "attempt"} & set(body)


@given(events)
def test_an_envelope_reads_back_as_the_event(event: Event) -> None:
    assert decode(encode(event)) == event


@pytest.mark.parametrize(
    "change",
    [
        {"id": "other/12"},
        {"source": "/elsewhere"},
        {"source": None},
        {"sequence": "twelve"},
        {"time": "yesterday"},
        {"type": None},
        {"workflowuid": "someone-else"},
    ],
    ids=str,
)
def test_foreign_envelopes_are_refused(change: dict[str, object]) -> None:
    body = orjson.loads(encode(checkpointed())) | change
    body = {name: value for name, value in body.items() if value is not None}
    with pytest.raises(ValueError):
        decode(orjson.dumps(body))


@pytest.mark.parametrize("payload", [b"", b"[]", b"1", b"not json", b"{}"])
def test_what_is_no_envelope_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError):
        decode(payload)
