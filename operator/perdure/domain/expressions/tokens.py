"""CEL as text: just enough of its grammar to find where an expression ends and what it refers to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
    (?P<space>\s+|//[^\n]*)
  | (?P<string>[rRbB]{0,2}(?:\"\"\"(?:[^\\]|\\.)*?\"\"\"|'''(?:[^\\]|\\.)*?'''
        |"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'))
  | (?P<number>\d[\w.]*)
  | (?P<name>[A-Za-z_]\w*)
  | (?P<punctuation>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_OPENING, _CLOSING = "([{", ")]}"


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of CEL text from `start` to `end`. Only as much is told apart as references need."""

    kind: str
    text: str
    start: int
    end: int

    @property
    def plain_string(self) -> str | None:
        """What a string says, if it is written without prefix, escapes or triple quotes."""
        if self.kind != "string" or "\\" in self.text or self.text[0] not in "\"'":
            return None
        if self.text[:3] in ('"""', "'''"):
            return None
        return self.text[1:-1]


def tokenize(source: str) -> list[Token]:
    """All tokens, without white space and comments."""
    return list(_tokens(source, 0))


def end_of_expression(source: str, start: int) -> int | None:
    """Index of the `}` that closes an expression whose text begins at `start`; None if none does."""
    depth = 0
    for token in _tokens(source, start):
        if token.kind != "punctuation":
            continue
        if token.text == "{":
            depth += 1
        elif token.text == "}":
            if depth == 0:
                return token.start
            depth -= 1
    return None


def closing_bracket(tokens: list[Token], opening: int) -> int | None:
    """Position of the token that closes the bracket at position `opening`; None if none does."""
    depth = 0
    for position in range(opening, len(tokens)):
        token = tokens[position]
        if token.kind == "punctuation" and token.text in _OPENING:
            depth += 1
        elif token.kind == "punctuation" and token.text in _CLOSING:
            depth -= 1
            if depth == 0:
                return position
    return None


def _tokens(source: str, start: int) -> Iterator[Token]:
    for match in _TOKEN.finditer(source, start):
        if match.lastgroup != "space":
            yield Token(match.lastgroup or "", match.group(), match.start(), match.end())
