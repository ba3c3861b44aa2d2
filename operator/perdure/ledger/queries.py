"""Loads `queries.sql`: all statements in one file that a database person can read and explain."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import Final

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def parse(text: str) -> Mapping[str, str]:
    """Statements by name. What stands before the first `-- name:` line is commentary.

    Raises ValueError if a name comes twice.
    """
    parts = _NAME.split(text)[1:]
    names = parts[0::2]
    if len(set(names)) != len(names):
        raise ValueError("queries.sql: a name comes twice")
    return MappingProxyType(dict(zip(names, (body.strip() for body in parts[1::2]), strict=True)))


SQL: Final = parse(files("perdure.ledger").joinpath("queries.sql").read_text(encoding="utf-8"))
