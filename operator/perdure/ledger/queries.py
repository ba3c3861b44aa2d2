"""Loads `queries.sql`: all statements in one file that a database person can read and explain."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import Final

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_PART = re.compile(r"^ *-- with (\w+)\n(.*?)^ *-- end\n", re.MULTILINE | re.DOTALL)


def parse(text: str) -> Mapping[str, str]:
    """Statements by name. What stands before the first `-- name:` line is commentary.

    Lines from `-- with x` to `-- end` are no part of the statement `name`, only of one called `name_x`.
    Raises ValueError if a name comes twice.
    """
    parts = _NAME.split(text)[1:]
    found: dict[str, str] = {}
    for name, body in zip(parts[0::2], parts[1::2], strict=True):
        variants = {name: _PART.sub("", body)}
        for word in {match[1] for match in _PART.finditer(body)}:
            variants[f"{name}_{word}"] = _PART.sub(lambda part, word=word: part[2] * (part[1] == word), body)
        if found.keys() & variants.keys():
            raise ValueError("queries.sql: a name comes twice")
        found |= {variant: text.strip() for variant, text in variants.items()}
    return MappingProxyType(found)


SQL: Final = parse(files("perdure.ledger").joinpath("queries.sql").read_text(encoding="utf-8"))
