"""Payloads: JSON that people and agents own, known here by size and digest.

Inputs, outputs and results may be as large as a MiB each, a run has thousands of them, and parsed JSON takes
up to 25 times the bytes of its text. So records hold payloads, whose bodies stay in the ledger: only small
bodies are kept in memory, and a large one is read where an expression, a pod or a status needs it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple

import orjson

#: Bytes of compact JSON up to which a body is kept in memory with its record.
INLINE_BYTES: Final = 1024
#: Bytes of inputs and outputs that a live run may keep in the ledger. 10,000 tasks with 1 MiB each would be
#: ten times as much.
MAX_RUN_PAYLOAD_BYTES: Final = 1024 * 1024 * 1024

_OPTIONS: Final = orjson.OPT_NON_STR_KEYS


class Source(NamedTuple):
    """Where the ledger has the body of a payload that is to be copied to another row.

    `report`: the report of the task's attempt of this number; `run`: the outputs of the run of this uid;
    `cache`: the cached result of the namespace under this key.
    """

    kind: Literal["report", "run", "cache"]
    ref: str


@dataclass(frozen=True, slots=True)
class Payload:
    """A JSON value other than null: its compact UTF-8 JSON, or only what is known of that.

    Equal payloads have the same bytes. None stands for null.
    """

    size: int
    #: Hexadecimal SHA-256 of the bytes.
    digest: str
    #: The bytes, if they are in memory.
    body: bytes | None = field(default=None, repr=False, compare=False)
    #: Of a payload without a body that no row of its own has yet: where to copy the body from.
    source: Source | None = field(default=None, repr=False, compare=False)

    @property
    def inline(self) -> bytes | None:
        """The bytes of a small payload; None for a large one, also while its body is in memory.

        What is decided depends on this alone, so a decision is the same before and after its body is dropped.
        """
        return self.body if self.size <= INLINE_BYTES else None

    @property
    def value(self) -> Any:
        """The value of a payload whose body is in memory. Raises ValueError without one."""
        if self.body is None:
            raise ValueError(f"a payload of {self.size} bytes is not in memory")
        return orjson.loads(self.body)

    def settled(self) -> Payload:
        """The payload as records keep it once the ledger has it: without a large body."""
        if self.source is None and (self.body is None or self.size <= INLINE_BYTES):
            return self
        return replace(self, body=self.inline, source=None)

    def at(self, source: Source) -> Payload:
        """The payload to be copied from there, unless it is small."""
        return self if self.inline is not None else replace(self, body=None, source=source)


@dataclass(frozen=True, slots=True)
class StoredOutput:
    """The output of a task whose body is not in memory, in place of its value among what expressions see."""

    step: str
    index: int
    payload: Payload


def payload_of(value: Any) -> Payload | None:
    """The payload of a value; None for null. Raises TypeError for what is not JSON."""
    return None if value is None else payload_of_body(encode(value))


def payload_of_body(body: bytes) -> Payload | None:
    """The payload of compact UTF-8 JSON."""
    if body == b"null":
        return None
    return Payload(len(body), hashlib.sha256(body).hexdigest(), body)


def value_of(payload: Payload | None) -> Any:
    """The value of a payload whose body is in memory; None for null."""
    return None if payload is None else payload.value


def encode(value: Any) -> bytes:
    """JSON that Postgres can hold. Datetimes must be aware.

    Postgres cannot hold U+0000, and UTF-8 has no surrogates; agents' output may carry either. Both become
    U+FFFD, because a value that can never be written would stop its run for good.
    """
    try:
        encoded = orjson.dumps(value, _plain, _OPTIONS)
    except TypeError:
        # orjson raises TypeError for a surrogate; if the cause is another, the second call raises it again.
        return orjson.dumps(_clean(value), _plain, _OPTIONS)
    if b"\\u0000" in encoded:
        return orjson.dumps(_clean(value), _plain, _OPTIONS)
    return encoded


def clean_text(value: str) -> str:
    """The same replacement for a text parameter."""
    if "\0" in value:
        value = value.replace("\0", "\ufffd")
    try:
        value.encode()
    except UnicodeEncodeError:
        value = "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in value)
    return value


def _plain(value: Any) -> Any:
    # Mappings that are no dicts, such as a frozen spec.
    if hasattr(value, "items"):
        return dict(value.items())
    raise TypeError(f"not JSON: {type(value).__name__}")


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(str(value))
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    if hasattr(value, "items"):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return value
