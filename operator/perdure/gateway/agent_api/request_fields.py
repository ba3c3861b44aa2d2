"""Fields of the agents' requests, each checked by itself, so that an error names the field and the remedy."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import parse_qs, quote, unquote_to_bytes

import orjson
from pydantic import BaseModel, ConfigDict, Field

from perdure.api.validation.parse import MAX_DEPTH
from perdure.domain.payloads import Payload, payload_of_body
from perdure.gateway.agent_api.limits import AgentLimits
from perdure.gateway.http.compact_json import (
    SLICE,
    CompactJson,
    InvalidJson,
    LongInteger,
    NulCharacter,
    TooDeep,
    TooLong,
)
from perdure.gateway.http.problems import HttpProblem, Problem

BINARY = "application/octet-stream"

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SHA256 = re.compile(rb"[0-9A-Fa-f]{64}")
#: Python limits the digits of a conversion; numbers of 80 digits are far below that limit.
_NUMBER = re.compile(rb"[0-9]{1,80}")
#: The largest `bigint` of Postgres, in which the ledger counts.
LARGEST = 2**63 - 1
#: Bytes of a result that may be parsed in one callback of the event loop: its objects take 24 times as much.
SMALL_RESULT: Final = 16 * 1024
#: The start of a result's compact body.
_OUTPUT = b'{"output":'
#: Characters that are not encoded in a label header: printable ASCII but the percent sign.
_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ProgressBody(_Body):
    """`POST progress`."""

    percent: Annotated[float, Field(ge=0, le=100)] | None = None
    message: str | None = None


class FailureBody(_Body):
    """`POST failure`."""

    message: str
    retryable: bool = False


async def read_small_output(content: bytes, *, limits: AgentLimits) -> Payload | None:
    """The `output` of a result of at most `SMALL_RESULT` bytes.

    For a result that is compact already it takes half the time of `read_output`, and raises as that does.
    """
    if _is_compact(content, limits):
        return payload_of_body(content[len(_OUTPUT) : -1])

    async def pieces() -> AsyncIterator[bytes]:
        yield content

    # Finds the fault, or makes the output compact.
    return await read_output(pieces(), limits=limits)


def _is_compact(content: bytes, limits: AgentLimits) -> bool:
    """True if a result is certainly valid and compact, and its output within all limits."""
    if (
        not content.startswith(_OUTPUT)
        or len(content) > limits.output + len(_OUTPUT) + 1
        # An escape may be needless, or stand for U+0000.
        or b"\\" in content
        # So few brackets cannot be nested too deeply.
        or content.count(b"[") + content.count(b"{") > MAX_DEPTH
    ):
        return False
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        return False
    # orjson writes a number with other digits, and a name once that was there twice.
    return len(value) == 1 and orjson.dumps(value) == content


async def read_output(pieces: AsyncIterable[bytes], *, limits: AgentLimits) -> Payload | None:
    """The `output` of a result as compact JSON with the digits that were sent, read while the body arrives.

    Nothing more is read once the output is larger than allowed. Raises Problem (invalid-json, invalid-field,
    too-large), and what `pieces` raises.
    """
    example = '{"output": any JSON value}'
    document = CompactJson(limit=limits.output + len(_OUTPUT) + 1, depth=MAX_DEPTH + 1)
    try:
        async for piece in pieces:
            for start in range(0, len(piece), SLICE):
                document.feed(piece[start : start + SLICE])
                if len(piece) > SLICE:
                    await asyncio.sleep(0)
        content = document.finish()
    except InvalidJson as error:
        raise Problem(HttpProblem.INVALID_JSON, f"body: {error}; send {example}") from None
    except TooDeep:
        raise Problem(
            HttpProblem.INVALID_FIELD, f"output: nested too deeply; at most {MAX_DEPTH} levels can be kept"
        ) from None
    except NulCharacter:
        raise Problem(
            HttpProblem.INVALID_FIELD,
            "output: a string in it holds the character U+0000, which cannot be kept; remove it",
        ) from None
    except LongInteger as error:
        raise Problem(
            HttpProblem.INVALID_FIELD,
            f"output: the whole number {error} has more than 64 bits, so that its digits cannot be kept; "
            "send it as a string",
        ) from None
    except TooLong as error:
        size = error.size - len(_OUTPUT) - 1
        raise Problem(
            HttpProblem.TOO_LARGE,
            f"output: {size} bytes of compact JSON, at most {limits.output} can be kept; "
            "keep what is large elsewhere and return a reference to it",
            members={"limit": limits.output},
        ) from None
    if document.several or not content.startswith(_OUTPUT) or content[-1:] != b"}":
        raise Problem(
            HttpProblem.INVALID_FIELD,
            f"output: the body must be an object with this one field; send {example}",
        )
    return payload_of_body(bytes(content[len(_OUTPUT) : -1]))


def message(text: str, limit: int) -> str:
    """The part of a message that is stored: `limit` characters, without U+0000, which Postgres refuses."""
    return text[:limit].replace("\x00", "\ufffd")


def label(header: bytes | None, query: bytes, *, limit: int) -> str | None:
    """A checkpoint's label, from `?label=` or else from the header. None without a label, or if empty.

    The header is UTF-8, percent-encoded apart from printable ASCII. Raises Problem(invalid-field).
    """
    remedy = f"use at most {limit} characters of UTF-8 without control characters"
    try:
        given = _query(query).get("label")
        text = given[0] if given else unquote_to_bytes(header or b"").decode()
    except ValueError:
        raise Problem(HttpProblem.INVALID_FIELD, f"label: not valid UTF-8; {remedy}") from None
    if len(text) > limit or _CONTROL.search(text):
        raise Problem(HttpProblem.INVALID_FIELD, f"label: too long, or with control characters; {remedy}")
    return text or None


def checksum(header: bytes | None) -> bytes | None:
    """The checksum in `Perdure-Sha256`; None without the header. Raises Problem(invalid-field)."""
    if header is None:
        return None
    if not _SHA256.fullmatch(header):
        raise Problem(
            HttpProblem.INVALID_FIELD,
            "Perdure-Sha256: send the body's SHA-256 as 64 hexadecimal digits, or leave it out",
        )
    return bytes.fromhex(header.decode())


def order(header: bytes | None) -> int | None:
    """The number in `Perdure-Order`; None without the header. Raises Problem(invalid-field)."""
    if header is None:
        return None
    if not _NUMBER.fullmatch(header) or not 1 <= int(header) <= LARGEST:
        raise Problem(
            HttpProblem.INVALID_FIELD,
            "Perdure-Order: send a whole number from 1 to 2^63 - 1 that rises with each checkpoint of the "
            "attempt, the same one when a call is repeated; or leave it out",
        )
    return int(header)


def recoverable(header: bytes | None) -> bool:
    """The flag in `Perdure-Recoverable`; true without the header. Raises Problem(invalid-field)."""
    match (header or b"true").strip().lower():
        case b"true":
            return True
        case b"false":
            return False
    raise Problem(HttpProblem.INVALID_FIELD, "Perdure-Recoverable: send true or false, or leave it out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The checkpoints that a list contains."""

    label: str | None
    #: Only sequence numbers below this.
    before: int | None
    limit: int


def listing(query: bytes, *, limits: AgentLimits) -> Listing:
    """From `?label=`, `?before=` and `?limit=`. Raises Problem(invalid-field)."""

    def number(name: str, *, most: int | None) -> int | None:
        given = values.get(name)
        if not given:
            return None
        text = given[0].encode()
        if not _NUMBER.fullmatch(text) or int(text) < 1 or (most is not None and int(text) > most):
            up_to = "" if most is None else f" to {most}"
            raise Problem(
                HttpProblem.INVALID_FIELD, f"{name}: use a whole number from 1{up_to}, or leave it out"
            )
        return int(text)

    wanted = label(None, query, limit=limits.label)
    # `label` has refused a query that is not UTF-8.
    values = _query(query)
    return Listing(
        label=wanted,
        before=number("before", most=None),
        limit=number("limit", most=limits.listed) or limits.listed_by_default,
    )


def _query(query: bytes) -> dict[str, list[str]]:
    """The fields of a query string. Raises ValueError for anything but ASCII that encodes UTF-8."""
    return parse_qs(query.decode("ascii"), errors="strict", max_num_fields=16) if query else {}


def label_header(text: str) -> str:
    """The label as the value of a header: the inverse of `label`."""
    return quote(text, safe=_PLAIN)


def content_type(header: bytes | None) -> str:
    """The checkpoint's media type; that of bytes without the header. Raises Problem(invalid-field)."""
    text = (header or b"").decode("latin-1").strip()
    if len(text) > 255 or not text.isascii() or _CONTROL.search(text):
        raise Problem(
            HttpProblem.INVALID_FIELD,
            "Content-Type: use at most 255 printable ASCII characters, such as application/json",
        )
    return text or BINARY
