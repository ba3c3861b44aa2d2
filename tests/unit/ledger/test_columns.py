"""The columns of records: the fields of their dataclasses, in both directions, and in every statement."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import pytest

from perdure.domain.payloads import payload_of
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import (
    AttemptRecord,
    Event,
    Report,
    RunRecord,
    Signal,
    StepRecord,
    TaskKey,
    TaskRecord,
    Vitals,
)
from perdure.ledger.columns import Columns
from perdure.ledger.parameters import dumps
from perdure.ledger.queries import SQL
from perdure.ledger.types import CheckpointInfo

AT = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
REPORT = Report(outcome="Failed", output=payload_of([1]), message="no\0", retryable=False, at=AT)
ATTEMPT = AttemptRecord(
    key=TaskKey("work", 3),
    number=2,
    pod_name="p",
    created_at=AT,
    outcome=Phase.FAILED,
    reason=Reason.EXIT_CODE,
    report=REPORT,
)
#: What only the ledger keeps of a run: parameters of their own, or counted by the statement.
COUNTED = {"uid", "shard", "version", "last_sequence"}


def test_a_record_read_from_what_was_written_is_the_same() -> None:
    columns = Columns(AttemptRecord)
    written = orjson.loads(dumps(columns.values(ATTEMPT)))
    assert written["step"] == "work"
    assert written["index"] == 3
    assert written["report"] == {
        "outcome": "Failed",
        "output": [1],
        "output_size": 3,
        "output_digest": hashlib.sha256(b"[1]").hexdigest(),
        "message": "no\ufffd",
        "retryable": False,
        "at": "2026-03-01T12:00:00.123456+00:00",
    }
    written["report"]["output"] = "[1]"  # statements return bodies as text or bytes
    assert columns.read(written) == replace(ATTEMPT, report=replace(REPORT, message="no\ufffd"))


def test_absent_values_stay_absent() -> None:
    bare = AttemptRecord(key=TaskKey("work"), number=1, pod_name="p", created_at=AT)
    columns = Columns(AttemptRecord)
    assert columns.read(columns.values(bare)) == bare


def test_values_of_the_driver_become_those_of_the_record() -> None:
    uid = UUID("8c2f6c1e-5d0b-4e5e-9a51-0a5d9f3b7c11")
    row: dict[str, Any] = dict.fromkeys(Columns(Event).names)
    row |= {"workflow_uid": uid, "time": AT, "sequence": 1, "data": {}}
    event = Columns(Event).read(row)
    assert (event.workflow_uid, event.time, event.attempt) == (str(uid), AT, None)
    info = dict.fromkeys(Columns(CheckpointInfo).names) | {"sha256": b"\x01\xff"}
    assert Columns(CheckpointInfo).read(info).sha256 == "01ff"


def test_an_array_has_the_columns_in_the_order_of_the_fields() -> None:
    signal = Columns(Signal).read_list(["1", "work", -1, "answer", {"a": 1}, "ada", AT.isoformat()])
    assert signal == Signal(id="1", key=TaskKey("work"), name="answer", payload={"a": 1}, sender="ada", at=AT)
    with pytest.raises(ValueError):
        Columns(Signal).read_list(["1", "work"])


@pytest.mark.parametrize(
    ("record", "statement"),
    [
        (RunRecord, "runs_by_uid"),
        (StepRecord, "steps_of"),
        (TaskRecord, "tasks_of"),
        (AttemptRecord, "newest_attempts_of"),
        (Event, "events"),
        (CheckpointInfo, "checkpoints"),
    ],
)
def test_every_field_is_read(record: type[Any], statement: str) -> None:
    assert set(Columns(record).names) <= set(re.findall(r"\w+", SQL[statement]))


@pytest.mark.parametrize("record", [RunRecord, StepRecord, TaskRecord, AttemptRecord])
def test_every_field_is_written(record: type[Any]) -> None:
    """A column is in three lists of `commit`: taken out of the JSON, inserted, and selected from it."""
    words = re.findall(r"\w+", SQL["commit"])
    for name in set(Columns(record).names) - COUNTED - {"report"}:
        assert words.count(name) >= 3, name


@pytest.mark.parametrize(("record", "alias"), [(Signal, "s"), (Vitals, None)])
def test_arrays_of_updates_have_as_many_values(record: type[Any], alias: str | None) -> None:
    arrays = re.findall(r"json_build_array\(\s*(.*?)\s*\)", SQL["updates"], re.DOTALL)
    lengths = [len(array.split(",")) for array in arrays]
    assert len(Columns(record).names) in lengths
    if alias is not None:
        assert ", ".join(f"{alias}.{name}" for name in Columns(record).names) in arrays
