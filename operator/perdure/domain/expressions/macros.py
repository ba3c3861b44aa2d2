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

from collections.abc import Callable, Mapping
from typing import Any

from perdure.api.workflow import MAX_ITEMS
from perdure.domain.expressions.evaluator import STDLIB_FUNCTIONS
from perdure.domain.expressions.tokens import Token, closing_bracket

MACROS = frozenset({"map", "filter", "all", "exists", "exists_one", "existsOne"})
_LIST_MACROS = frozenset({"map", "filter"})
#: About the square root of the longest list: the cost is that of the pieces plus that of their number.
_PIECE = 100

#: Functions of the CEL specification that the evaluator has itself; operators are named `_+_` and the like.
STANDARD_FUNCTIONS = frozenset(
    "size contains startsWith endsWith matches string int uint double bytes dyn type duration timestamp "
    "getFullYear getMonth getDate getDayOfMonth getDayOfWeek getDayOfYear getHours getMinutes getSeconds "
    "getMilliseconds value hasValue orValue or".split()
)


def repeatable(source: str, tokens: list[Token]) -> str:
    """The source with the range of every macro put in order; the same text if it has none."""
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
    parts = []
    done = 0
    for place, _, text in sorted(edits):
        parts += [source[done:place], text]
        done = place
    return "".join([*parts, source[done:]])


def _in_order(value: Any) -> Any:
    """A map's keys in order; anything else as it is."""
    return sorted(value, key=_key_order) if isinstance(value, Mapping) else value


def _pieces(value: Any) -> Any:
    value = _in_order(value)
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
        return call(
            *(
                {key: argument[key] for key in _in_order(argument)}
                if isinstance(argument, Mapping)
                else argument
                for argument in arguments
            )
        )

    return call_in_order


def _range(number: int) -> list[int]:
    if number > MAX_ITEMS:
        raise ValueError(f"{number} numbers; the limit is {MAX_ITEMS}")
    return list(range(number))


#: The evaluator's extensions (strings, lists, math, …) that replace nothing of the specification.
LIBRARY: dict[str, Callable[..., Any]] = {
    name: _with_maps_in_order(call)
    for name, call in STDLIB_FUNCTIONS.items()
    if name not in STANDARD_FUNCTIONS
} | {"lists.range": _range}
#: The functions that `repeatable` inserts into a program; an author's expression may not call them.
ORDERING: dict[str, Callable[..., Any]] = {
    "perdureInOrder": _in_order,
    "perdurePieces": _pieces,
    "perdureJoined": _joined,
}
