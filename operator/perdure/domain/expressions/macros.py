"""Going through lists and maps in expressions: repeatable, and fit for long lists.

The evaluator goes through a map in an order that changes from one evaluation to the next; a decision may not
depend on that. And it copies the result of `map` and `filter` once for each element, which takes the better
part of a minute for ten thousand. So the range of every macro is put in order first, and cut into pieces
where the macro makes a list:

    range.exists(x, …)  becomes  range.perdureInOrder().exists(x, …)
    range.map(x, …)     becomes  range.perdurePieces().map(perdurePiece, perdurePiece.map(x, …))
                                      .perdureJoined()
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from itertools import pairwise
from typing import Any

from perdure.api.expression_limits import MAX_COUNT
from perdure.domain.expressions.evaluator import STDLIB_FUNCTIONS
from perdure.domain.expressions.meter import METER
from perdure.domain.expressions.tokens import Token, closing_bracket

MACROS = frozenset({"map", "filter", "all", "exists", "exists_one", "existsOne"})
_LIST_MACROS = frozenset({"map", "filter"})
#: About the square root of the longest list: the cost is that of the pieces plus that of their number.
_PIECE = 100

#: A duration as CEL and Go write it (https://pkg.go.dev/time#ParseDuration).
_DURATION = re.compile(r"[+-]?(0|((\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h))+)", re.ASCII)
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)", re.ASCII)
_SECONDS = {
    "ns": Decimal("1e-9"),
    "us": Decimal("1e-6"),
    "µs": Decimal("1e-6"),
    "ms": Decimal("1e-3"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
}
#: Nanoseconds in 64 bits.
_LONGEST_DURATION = Decimal(2**63 - 1).scaleb(-9)

#: Functions of the CEL specification that the evaluator has itself; operators are named `_+_` and the like.
STANDARD_FUNCTIONS = frozenset(
    "size contains startsWith endsWith matches string int uint double bytes dyn type duration timestamp "
    "getFullYear getMonth getDate getDayOfMonth getDayOfWeek getDayOfYear getHours getMinutes getSeconds "
    "getMilliseconds value hasValue orValue or".split()
)


def repeatable(source: str, tokens: list[Token]) -> str:
    """The source with the range of every macro put in order, and the text of every duration checked.

    It is the same text if it has neither.
    """
    # (place, 0 for what closes a macro before 1 for what opens the next one there, text)
    edits: list[tuple[int, int, str]] = []
    for position, (dot, name, bracket) in enumerate(zip(tokens, tokens[1:], tokens[2:], strict=False)):
        if dot.text != "." or name.text not in MACROS or bracket.text != "(":
            continue
        closing = closing_bracket(tokens, position + 2)
        if closing is None or name.text not in _LIST_MACROS:
            edits.append((dot.start, 1, ".perdureInOrder()"))
            continue
        edits.append((dot.start, 1, ".perdurePieces().map(perdurePiece, perdurePiece"))
        edits.append((tokens[closing].end, 0, ").perdureJoined()"))
    for position, (name, bracket) in enumerate(pairwise(tokens)):
        if name.text != "duration" or bracket.text != "(" or (position and tokens[position - 1].text == "."):
            continue
        closing = closing_bracket(tokens, position + 1)
        if closing is not None:
            edits.append((bracket.end, 1, "perdureDuration("))
            edits.append((tokens[closing].start, 0, ")"))
    parts = []
    done = 0
    for place, _, text in sorted(edits):
        parts += [source[done:place], text]
        done = place
    return "".join([*parts, source[done:]])


def _range_in_order(value: Any) -> Any:
    """The range of a macro, whose elements are counted."""
    if isinstance(value, (Mapping, list)):
        METER.spend(len(value) + 1)
    return _in_order(value)


def _in_order(value: Any) -> Any:
    """A map's keys in order; anything else as it is."""
    return sorted(value, key=_key_order) if isinstance(value, Mapping) else value


def _pieces(value: Any) -> Any:
    value = _range_in_order(value)
    if not isinstance(value, list):
        return value  # the macro itself then says that it cannot go through it
    return [value[start : start + _PIECE] for start in range(0, len(value), _PIECE)]


def _joined(pieces: list[list[Any]]) -> list[Any]:
    return [item for piece in pieces for item in piece]


def _key_order(key: Any) -> tuple[str, Any]:
    return type(key).__name__, key


def _with_maps_in_order(call: Callable[..., Any]) -> Callable[..., Any]:
    """The function, given maps whose order does not change from call to call."""

    def call_in_order(*arguments: Any) -> Any:
        METER.spend(1 + sum(len(it) for it in arguments if isinstance(it, (Mapping, list))))
        return call(
            *(
                {key: argument[key] for key in _in_order(argument)}
                if isinstance(argument, Mapping)
                else argument
                for argument in arguments
            )
        )

    return call_in_order


def _checked_duration(text: Any) -> Any:
    """The text of a duration. Raises ValueError for one that the evaluator cannot hold.

    The evaluator reads a longer one as the longest it has, without an error.
    """
    if not isinstance(text, str):
        return text
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text[:60]!r} is not a duration; write it like 10s, 1h30m or 250ms")
    seconds = sum(Decimal(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(text))
    if seconds > _LONGEST_DURATION:
        raise ValueError(f"{text[:60]!r} is longer than any duration: about 292 years")
    return text


def _range(number: int) -> list[int]:
    if number > MAX_COUNT:
        raise ValueError(f"{number} numbers; the limit is {MAX_COUNT}")
    METER.spend(max(0, number))
    return list(range(number))


def _replace(text: str, old: str, new: str, limit: int = -1) -> str:
    """`replace`, whose result is counted before it is made."""
    number = text.count(old) if limit < 0 else min(limit, text.count(old))
    METER.spend(1, max(len(text), len(text) + number * (len(new) - len(old))))
    return str(STDLIB_FUNCTIONS["replace"](text, old, new, limit))


def _join(items: Any, separator: str = "") -> str:
    """`join`, whose result is counted before it is made."""
    items = _in_order(items)
    METER.spend(len(items), sum(len(it) + len(separator) for it in items if isinstance(it, str)))
    return str(STDLIB_FUNCTIONS["join"](items, separator))


#: The evaluator's extensions (strings, lists, math, …) that replace nothing of the specification.
LIBRARY: dict[str, Callable[..., Any]] = {
    name: _with_maps_in_order(call)
    for name, call in STDLIB_FUNCTIONS.items()
    if name not in STANDARD_FUNCTIONS
} | {"lists.range": _range, "replace": _replace, "join": _join}
#: The functions that `repeatable` inserts into a program; an author's expression may not call them.
ORDERING: dict[str, Callable[..., Any]] = {
    "perdureInOrder": _range_in_order,
    "perdurePieces": _pieces,
    "perdureJoined": _joined,
    "perdureDuration": _checked_duration,
}
