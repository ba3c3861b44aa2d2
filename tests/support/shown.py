"""Records with values in place of their payloads, as tests compare them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from perdure.domain.payloads import Payload, value_of


def shown(record: Any, bodies: Mapping[str, bytes] | None = None) -> Any:
    """The record with the values of its payloads. `bodies`, by digest, are those that records do not hold."""
    names = [name for name in ("input", "output", "outputs") if hasattr(record, name)]
    return replace(record, **{name: _value(getattr(record, name), bodies or {}) for name in names})


def _value(payload: Payload | None, bodies: Mapping[str, bytes]) -> Any:
    if payload is not None and payload.body is None:
        payload = replace(payload, body=bodies[payload.digest])
    return value_of(payload)
