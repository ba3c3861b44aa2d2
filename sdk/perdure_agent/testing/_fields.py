"""Fields of agents' requests, checked so that an error names the field and the remedy.

All functions raise Problem: invalid-field, and invalid-json for bodies.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final
from urllib.parse import parse_qs, unquote_to_bytes

from perdure_agent.testing._problems import Problem

#: Levels of lists and maps in an output.
MAX_DEPTH: Final = 100
#: The largest number that the ledger counts to.
_LARGEST: Final = 2**63 - 1
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_NUMBER: Final = re.compile(r"[0-9]{1,80}", re.ASCII)


def parse_query(query: str) -> dict[str, list[str]]:
    """Raises ValueError if the query is not UTF-8."""
    return parse_qs(query.encode().decode("ascii"), errors="strict", max_num_fields=16) if query else {}


def label(header: str, query: str, *, limit: int) -> str | None:
    """A checkpoint's label, from `?label=` or else from the header, percent-encoded; None without one."""
    remedy = f"use at most {limit} characters of UTF-8 without control characters"
    try:
        given = parse_query(query).get("label")
        text = given[0] if given else unquote_to_bytes(header.encode("latin-1")).decode()
    except ValueError:
        raise Problem("invalid-field", f"label: not valid UTF-8; {remedy}") from None
    if len(text) > limit or _CONTROL.search(text):
        raise Problem("invalid-field", f"label: too long, or with control characters; {remedy}")
    return text or None


def number(query: str, name: str, *, most: int | None) -> int | None:
    given = parse_query(query).get(name)
    if not given:
        return None
    if not _NUMBER.fullmatch(given[0]) or int(given[0]) < 1 or (most is not None and int(given[0]) > most):
        up_to = "" if most is None else f" to {most}"
        raise Problem("invalid-field", f"{name}: use a whole number from 1{up_to}, or leave it out")
    return int(given[0])


def content_type(header: str | None) -> str:
    text = (header or "").strip()
    if len(text) > 255 or not text.isascii() or _CONTROL.search(text):
        raise Problem(
            "invalid-field",
            "Content-Type: use at most 255 printable ASCII characters, such as application/json",
        )
    return text or "application/octet-stream"


def recoverable(header: str | None) -> bool:
    text = (header or "true").strip().lower()
    if text not in ("true", "false"):
        raise Problem("invalid-field", "Perdure-Recoverable: send true or false, or leave it out")
    return text == "true"


def order(header: str | None) -> int | None:
    if header is None:
        return None
    if not _NUMBER.fullmatch(header) or not 1 <= int(header) <= _LARGEST:
        raise Problem(
            "invalid-field",
            "Perdure-Order: send a whole number from 1 to 2^63 - 1 that rises with each checkpoint of the "
            "attempt, the same one when a call is repeated; or leave it out",
        )
    return int(header)


def checksum(header: str | None) -> str | None:
    if header is not None and not re.fullmatch(r"[0-9A-Fa-f]{64}", header):
        raise Problem(
            "invalid-field",
            "Perdure-Sha256: send the body's SHA-256 as 64 hexadecimal digits, or leave it out",
        )
    return None if header is None else header.lower()


def parse(content: bytes, *, example: str) -> Any:
    def constant(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    try:
        return json.loads(content.decode(), parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise Problem("invalid-json", f"body: {error}; send {example}") from None


def parse_object(content: bytes, known: set[str], *, example: str) -> dict[str, Any]:
    body = parse(content, example=example)
    if not isinstance(body, dict):
        raise Problem("invalid-field", f"body: must be an object; send {example}")
    for name in body:
        if name not in known:
            raise Problem("invalid-field", f"{name}: no such field; send {example}")
    return body


def check_text(value: Any, name: str, *, example: str) -> None:
    if value is not None and not isinstance(value, str):
        raise Problem("invalid-field", f"{name}: must be a text; send {example}")


def fit(text: str, limit: int) -> str:
    return text[:limit].replace("\x00", "\ufffd")


def inspect(value: Any) -> tuple[int, bool]:
    """Levels of lists and maps, and whether a string holds U+0000; counted without recursion."""
    deepest, has_nul = 0, False
    waiting = [(value, 1)]
    while waiting:
        found, level = waiting.pop()
        if isinstance(found, str):
            has_nul = has_nul or "\x00" in found
        elif isinstance(found, dict | list):
            deepest = max(deepest, level)
            waiting.extend(
                (child, level + 1) for child in (found.values() if isinstance(found, dict) else found)
            )
            if isinstance(found, dict):
                has_nul = has_nul or any("\x00" in key for key in found)
    return deepest, has_nul
