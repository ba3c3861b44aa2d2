"""The worst expressions that the limits allow, on a thread whose stack has a known size.

A program of its own, since a stack that is too small ends the process:
`python -m tests.unit.domain.expressions.shapes BYTES`, 0 for the default of a thread. At a limit of 1,000
tokens, chains survive on 512 KiB and not on 256 KiB; brackets as deep as the parser allows (96) survive on 1
MiB and not on 768 KiB.
"""

import sys
import threading
from collections.abc import Iterator
from typing import Any

from perdure.domain.expressions.cel import MAX_TOKENS, ExpressionError, compile_expression
from perdure.domain.expressions.tokens import tokenize

#: What a chain begins with, and what is repeated.
CHAINS = [
    *(("1", f"{operator}1") for operator in ("+", "-", "*", "==", "<=")),
    ("1", " in [1]"),
    ("true", "&&true"),
    ("false", "||false"),
    ("'a'", "+'a'"),
    ("' a '", ".trim()"),
    ("[1]", ".map(x,x)"),
    ("{'a':1}", ".map(x,x)"),
    ("[1]", ".filter(x,true)"),
    ("[1]", ".map(x,[x].exists(y,true))"),
    ("(inputs.x)", "[0]"),
    ("(inputs.a)", ".a"),
    ("inputs.x", "[0]"),
    ("inputs", ".a"),
    ("true", "?true:true"),
]
#: An opening bracket, what is inside, and the closing bracket.
BRACKETS = [
    ("(", "1", ")"),
    ("[", "1", "]"),
    ("{'a':", "1", "}"),
    ("string(", "'a'", ")"),
    ("[0][", "0", "]"),
    ("[1].map(x,", "1", ")"),
    ("[1].exists(x,", "true", ")"),
    ("(true?", "1", ":2)"),
    ("(1+", "1", ")"),
    ("' a '.trim().replace('x',", "'y'", ")"),
]
#: The parser gives up at a depth of 96; a bracket counts once, or twice, or three times.
DEPTHS = (MAX_TOKENS // 2 - 1, 96, 95, 94, 90, 48, 47, 46, 32, 31, 30)


def chain(head: str, piece: str, most: int = MAX_TOKENS) -> str:
    first = len(tokenize(head))
    return head + piece * ((most - first) // (len(tokenize(head + piece)) - first))


def shapes() -> Iterator[str]:
    for head, piece in CHAINS:
        yield chain(head, piece)
        # A chain at the bottom of the deepest brackets.
        for depth in (95, 94, 90):
            yield "(" * depth + chain(head, piece, MAX_TOKENS - 2 * depth) + ")" * depth
    for opening, middle, closing in BRACKETS:
        for depth in DEPTHS:
            text = opening * depth + middle + closing * depth
            if len(tokenize(text)) <= MAX_TOKENS:
                yield text
    for sign, operand in (("!", "true"), ("-", "1")):
        yield sign * (MAX_TOKENS - 1) + operand
    for opening, closing in ("[]", ("size([", "])")):
        yield chain(f"{opening}1", ",1", MAX_TOKENS - 3) + closing
    yield "true?1:" * ((MAX_TOKENS - 1) // 4) + "1"


def try_all(results: list[str]) -> None:
    lists: list[Any] = []
    maps: dict[str, Any] = {}
    for _ in range(90):
        lists, maps = [lists], {"a": maps}
    values = {"inputs": {"x": lists, "a": maps["a"]}}
    for text in shapes():
        try:
            compile_expression(text).evaluate(values)
            results.append("value")
        except ExpressionError:
            results.append("refused")


if __name__ == "__main__":
    if size := int(sys.argv[1]):
        threading.stack_size(size)
    results: list[str] = []
    thread = threading.Thread(target=try_all, args=(results,))
    thread.start()
    thread.join()
    print(f"{len(results)} shapes, {results.count('value')} with a value")
    if len(results) != len(list(shapes())) or results.count("value") < 80:
        sys.exit("shapes are missing")
