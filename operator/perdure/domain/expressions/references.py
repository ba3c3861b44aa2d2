"""Which fields of other steps an expression names, so that no payload is read that the expression ignores."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from perdure.domain.expressions.tokens import tokenize


@lru_cache(maxsize=4096)
def step_fields(source: str) -> Mapping[str, frozenset[str] | None]:
    """The fields that an expression names of each step; None for a step that it uses in another way.

    `steps.a.output.x + steps["b"].phase` gives `{"a": {"output"}, "b": {"phase"}}`. The expression compiles,
    so each use of `steps` has the form of a reference (see `cel`).
    """
    tokens = tokenize(source)
    found: dict[str, frozenset[str] | None] = {}
    for position, token in enumerate(tokens):
        if token.kind != "name" or token.text != "steps":
            continue
        if position and tokens[position - 1].text == ".":
            continue  # a field of that name
        following = tokens[position + 1 : position + 6]
        if len(following) >= 2 and following[0].text == "." and following[1].kind == "name":
            name, rest = following[1].text, following[2:]
        elif len(following) >= 3 and following[0].text == "[" and following[2].text == "]":
            name, rest = following[1].plain_string or "", following[3:]
        else:
            continue
        if len(rest) >= 2 and rest[0].text == "." and rest[1].kind == "name":
            known = found.get(name, frozenset())
            found[name] = None if known is None else known | {rest[1].text}
        else:
            found[name] = None
    return found
