"""CEL as text: just enough of its grammar to find where an expression ends and what it refers to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from perdure.api.expression_limits import MAX_EXPRESSION

#: White space around an expression, in characters, that is not counted among its own.
SPACE = 1000
_TOKEN = re.compile(
    r"""
    (?P<space>\s+|//[^\n]*)
  | (?P<opening>[rRbB]{0,2}(?P<quote>\"\"\"|'''|"|'))
  | (?P<number>\d[\w.]*)
  | (?P<name>[A-Za-z_]\w*)
  | (?P<punctuation>.)
    """,
    re.VERBOSE | re.DOTALL,
)
#: What a string holds, by its quote, up to the closing quote or to where there can be none. Possessive, so
#: that no character is read twice.
_BODIES = {
    '"""': re.compile(r'(?:[^"\\]++|\\.|"(?!""))*+', re.DOTALL),
    "'''": re.compile(r"(?:[^'\\]++|\\.|'(?!''))*+", re.DOTALL),
    '"': re.compile(r'(?:[^"\\\n]++|\\.)*+', re.DOTALL),
    "'": re.compile(r"(?:[^'\\\n]++|\\.)*+", re.DOTALL),
}
_NAME = re.compile(r"[A-Za-z_]\w*")
_OPENING, _CLOSING = "([{", ")]}"


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of CEL text from `start` to `end`. The kinds are only those that references need."""

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
    """Index of the `}` that closes an expression whose text begins at `start`; None if none does.

    Of more than MAX_EXPRESSION characters no end is searched: what follows an expression that is refused is
    not needed, and a string may have a megabyte.
    """
    depth = 0
    for token in _tokens(source, start):
        if token.start - start > MAX_EXPRESSION + SPACE:
            return None
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
    """Tokens from `start` on, in time that grows with the text and no faster."""
    # By quote, up to where the text is known to close no string. A string that opens before that place opens
    # at a quote which the failed string escaped: the same characters follow, and the string fails there as
    # well. Reading them again for each such quote would take the square of their number.
    open_until: dict[str, int] = {}
    position = start
    while match := _TOKEN.match(source, position):
        kind, end = match.lastgroup or "", match.end()
        if match["opening"] is not None:
            quote = match["quote"]
            closed = _end_of_string(source, end, quote, open_until)
            if closed is None and len(quote) == 3:
                # Without its end, a triple quote is an empty string and one quote more.
                closed = end - 1
            if closed is not None:
                kind, end = "string", closed
            elif len(match["opening"]) > len(quote):
                # What could be the prefix of a string is a name, or its beginning.
                name = _NAME.match(source, position)
                assert name is not None
                kind, end = "name", name.end()
            else:
                kind = "punctuation"
        if kind != "space":
            yield Token(kind, source[position:end], position, end)
        position = end


def _end_of_string(source: str, start: int, quote: str, open_until: dict[str, int]) -> int | None:
    """Where the string ends whose text begins at `start`; None, noted in `open_until`, if it does not end."""
    if start < open_until.get(quote, 0):
        return None
    body = _BODIES[quote].match(source, start)
    assert body is not None
    if source.startswith(quote, body.end()):
        return body.end() + len(quote)
    open_until[quote] = body.end()
    return None
