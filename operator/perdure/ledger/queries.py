"""The statements of `queries.sql`: one file that a database administrator can read and explain."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import Final

_NAME = re.compile(r"^-- (name|fragment): ([\w ]+)\n", re.MULTILINE)
#: What a fragment says about itself.
_LEADING_COMMENT = re.compile(r"\A(--.*\n)+")
_PART = re.compile(r"^ *-- with (\w+)\n(.*?)^ *-- end\n", re.MULTILINE | re.DOTALL)


def parse(text: str) -> Mapping[str, str]:
    """Statements by name. The text before the first `-- name:` or `-- fragment:` line is commentary.

    Lines from `-- with x` to `-- end` are no part of the statement `name`, only of the variant `name_x`. A
    comment that is a fragment's name stands for its lines. Raises ValueError if a name comes twice.
    """
    parts = _NAME.split(text)[1:]
    found: dict[str, str] = {}
    fragments: dict[str, str] = {}
    for sort, name, body in zip(parts[0::3], parts[1::3], parts[2::3], strict=True):
        if sort == "fragment":
            fragments[name] = _LEADING_COMMENT.sub("", body).strip()
            continue
        for fragment, lines in fragments.items():
            body = re.sub(
                rf"^( *)-- {fragment}$",
                lambda match, lines=lines: textwrap.indent(lines, match[1]),
                body,
                flags=re.MULTILINE,
            )
        variants = {name: _PART.sub("", body)}
        for word in {match[1] for match in _PART.finditer(body)}:
            variants[f"{name}_{word}"] = _PART.sub(lambda part, word=word: part[2] * (part[1] == word), body)
        if found.keys() & variants.keys():
            raise ValueError("queries.sql: a name comes twice")
        found |= {variant: text.strip() for variant, text in variants.items()}
    return MappingProxyType(found)


SQL: Final = parse(files("perdure.ledger").joinpath("queries.sql").read_text(encoding="utf-8"))
