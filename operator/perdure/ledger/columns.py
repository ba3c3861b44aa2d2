"""The columns of a record, derived from the fields of its dataclass, for both directions.

A column has the name of its field; only a task's key takes two columns, `step` and `index`, and a payload
three: `x` for its body, if that is read or written, `x_size` and `x_digest`. So a new field is a column in a
migration and in queries.sql, and nothing here.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

import orjson

from perdure.domain.payloads import Payload
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import Report, TaskKey

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")


class Columns(Generic[Record]):
    """Reads rows as records of one class, and takes records apart. Made once: it inspects the class."""

    def __init__(self, record: type[Record]) -> None:
        self._record = record
        hints = get_type_hints(record)
        names = [field.name for field in fields(record)]
        self._names = tuple(name for name in names if name != "key")
        # One call for all fields: commits and loads take every record apart or together.
        self._items: Callable[[Any], Sequence[Any]] = itemgetter(*self._names)
        self._attributes: Callable[[Any], Sequence[Any]] = attrgetter(*self._names)
        self._keyed = "key" in names
        self._payloads = tuple(name for name in self._names if _of(hints[name]) is Payload)
        self._read = tuple(
            (name, convert) for name in self._names if (convert := _reader(name, hints[name])) is not None
        )
        self._nested = tuple(name for name in self._names if _of(hints[name]) is Report)
        #: All columns, in the order of the fields.
        self.names = tuple(column for name in names for column in self._columns_of(name))

    def _columns_of(self, name: str) -> tuple[str, ...]:
        if name == "key":
            return "step", "index"
        return (name, f"{name}_size", f"{name}_digest") if name in self._payloads else (name,)

    def read(self, row: Mapping[str, Any]) -> Record:
        """The record of a row, or of a JSON object with the same names. Raises ValueError, KeyError."""
        values = dict(zip(self._names, self._items(row), strict=True))
        for name, convert in self._read:
            if values[name] is not None:
                values[name] = convert(values[name])
        for name in self._payloads:
            values[name] = _payload(values[name], row[f"{name}_size"], row[f"{name}_digest"])
        if self._keyed:
            values["key"] = TaskKey(row["step"], row["index"])
        return self._record(**values)

    def read_list(self, values: Sequence[Any]) -> Record:
        """The record of a JSON array that has the columns in the order of `names`."""
        return self.read(dict(zip(self.names, values, strict=True)))

    def values(self, record: Record) -> dict[str, Any]:
        """The record as a JSON object, for `dumps`. What is no column of the statement is passed over."""
        values = dict(zip(self._names, self._attributes(record), strict=True))
        if self._keyed:
            key: TaskKey = record.key  # type: ignore[attr-defined] # not known of the bound
            values["step"], values["index"] = key
        for name in self._nested:
            if values[name] is not None:
                values[name] = REPORT.values(values[name])
        for name in self._payloads:
            payload: Payload | None = values[name]
            body = None if payload is None else payload.body
            values[name] = None if body is None else orjson.Fragment(body)
            values[f"{name}_size"] = None if payload is None else payload.size
            values[f"{name}_digest"] = None if payload is None else payload.digest
            if payload is not None and payload.source is not None:
                values[f"{name}_from"], values[f"{name}_ref"] = payload.source
        return values


def _of(hint: Any) -> Any:
    """The type that is not None, of `X | None`."""
    if get_origin(hint) in (types.UnionType, Union):
        (hint,) = (part for part in get_args(hint) if part is not types.NoneType)
    return hint


def _reader(name: str, hint: Any) -> Callable[[Any], Any] | None:
    return _BY_NAME.get(name) or _BY_TYPE.get(_of(hint))


def _payload(body: bytes | str | None, size: int | None, digest: str) -> Payload | None:
    if size is None:
        return None
    return Payload(size, digest, body.encode() if isinstance(body, str) else body)


def _time(value: Any) -> datetime:
    """A datetime from the driver, or text from JSON."""
    if isinstance(value, str):
        return datetime.fromisoformat(value).astimezone(UTC)
    time: datetime = value
    return time


def _report(value: Mapping[str, Any]) -> Report:
    return REPORT.read(value)


#: Columns whose values the driver gives as something else than the field's type: uuid, and bytea.
_BY_NAME: Final[Mapping[str, Callable[[Any], Any]]] = {
    "uid": str,
    "workflow_uid": str,
    "sha256": bytes.hex,
}
_BY_TYPE: Final[Mapping[Any, Callable[[Any], Any]]] = {
    Phase: Phase,
    Reason: Reason.kept,
    datetime: _time,
    Report: _report,
}

REPORT: Final[Columns[Report]] = Columns(Report)
