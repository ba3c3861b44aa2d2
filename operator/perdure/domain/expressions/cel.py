"""One CEL expression: compiled once, its references known, evaluated against plain values.

CEL itself comes from a library; here is what a workflow needs around it: which names may be used, which steps
an expression depends on, results as JSON, and errors a person can act on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from perdure.api.expression_limits import MAX_DEPTH, MAX_EXPRESSION
from perdure.domain.expressions import evaluator
from perdure.domain.expressions.compiled import CompiledCache
from perdure.domain.expressions.macros import LIBRARY, MACROS, ORDERING, STANDARD_FUNCTIONS, repeatable
from perdure.domain.expressions.meter import METER, TOO_MUCH_WORK
from perdure.domain.expressions.tokens import Token, closing_bracket, tokenize


class ExpressionError(Exception):
    """An expression that does not compile, or fails, or gives what cannot be used."""


#: Tokens of one expression: names, numbers, strings, operators and brackets. The parser limits how deep an
#: expression is nested, but not how long its chains are (`1+1+…`, `.trim().trim()…`), and the tree of a
#: chain, as deep as the chain is long, is walked recursively: beyond the stack, the process ends. 1,000
#: tokens need less than 1 MiB of stack (measured: tests/unit/domain/expressions/shapes.py), and a thread has
#: 8 MiB by default.
MAX_TOKENS = 1000
#: Tokens, and characters of text, of an expression that may be evaluated in the operator's own thread.
CHEAP_TOKENS = 200
CHEAP_SOURCE = 2000
#: Functions that such an expression may call: none of them is more than linear in its arguments, calls back
#: into Python, or compiles anything.
CHEAP_FUNCTIONS = frozenset(
    "has size string int uint double bool type dyn contains startsWith endsWith".split()
)
#: `math.abs` is called `abs` in a program's references, and `math` a variable.
_LIBRARY_NAMES = frozenset(name.rpartition(".")[2] for name in LIBRARY)
_LIBRARY_SPACES = frozenset(name.partition(".")[0] for name in LIBRARY if "." in name)
_TYPE_NAMES = frozenset("int uint double bool string bytes list map null_type type".split())
_INTEGERS = range(-(2**63), 2**64)


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression. `names` are the root names and `steps` the steps it refers to."""

    source: str
    names: frozenset[str]
    steps: frozenset[str]
    #: The keys of a plain path such as `steps.a.output[0]`, which needs no evaluator.
    path: tuple[str | int, ...] | None
    #: Whether the work is at most linear in the values: no macros, and no functions but CHEAP_FUNCTIONS.
    cheap: bool
    _program: Any
    #: The functions that the program calls in addition to those of the specification.
    _functions: dict[str, Callable[..., Any]]

    def evaluate(self, values: Mapping[str, Any]) -> Any:
        """The result as JSON. Raises ExpressionError.

        `values` may be lazy: only the names that the expression uses are looked up.
        """
        try:
            if self.path is not None:
                return to_json(_walk(values, self.path))
            METER.reset()
            variables: Any = self.narrowed(values)
            if self._functions:
                variables = evaluator.Context(variables, self._functions)
            return to_json(evaluator.execute(self._program, variables))
        except ExpressionError as error:
            text = str(error)
        except KeyError as error:
            text = f"no such key: {error.args[0]!r}"
        except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:
            text = TOO_MUCH_WORK if METER.exceeded else _runtime_message(str(error))
        except MemoryError:
            text = TOO_MUCH_WORK
        raise self._failure(text, values)

    def narrowed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values that the expression sees: its names, and of `steps` those that it refers to."""
        seen = {name: values[name] for name in self.names}
        if "steps" in seen:
            steps = seen["steps"]
            seen["steps"] = {name: steps[name] for name in self.steps if name in steps}
        return seen

    def walk(self, values: Mapping[str, Any]) -> Any:
        """The value at the end of a plain path, as it is there. Raises ExpressionError."""
        assert self.path is not None
        try:
            return _walk(values, self.path)
        except KeyError as error:
            text = f"no such key: {error.args[0]!r}"
        except (LookupError, TypeError) as error:
            text = _runtime_message(str(error))
        raise self._failure(text, values)

    def result(self, value: Any) -> Any:
        """What the expression gives as JSON. Raises ExpressionError."""
        try:
            return to_json(value)
        except ExpressionError as error:
            raise ExpressionError(f"${{{self.source}}}: {error}") from None

    def _failure(self, text: str, values: Mapping[str, Any]) -> ExpressionError:
        return ExpressionError(f"${{{self.source}}}: {text}{self._hint(values)}")

    def _hint(self, values: Mapping[str, Any]) -> str:
        """Names the steps whose output is missing, which is what most failed references come from."""
        if not self.steps:
            return ""
        steps = values["steps"]
        without = [
            f"step {name!r} is {steps[name]['phase']} and has no output"
            for name in sorted(self.steps)
            if name in steps and not steps[name].keys() & {"output", "outputs"}
        ]
        if not without:
            return ""
        return f" ({'; '.join(without)}; guard the reference with has())"


#: The compiled expressions of this process.
COMPILED: CompiledCache[Expression] = CompiledCache()


def compile_expression(source: str) -> Expression:
    """Compile CEL text (without `${` and `}`). Raises ExpressionError naming the place of the fault.

    The text has at most MAX_EXPRESSION characters and MAX_TOKENS tokens. Nothing longer reaches the parser.
    """
    known = COMPILED.get(source)
    return COMPILED.put(source, _compiled(source)) if known is None else known


def _compiled(source: str) -> Expression:
    tokens = _tokens_within_limits(source)
    program = _compile(source, source)
    try:
        references = evaluator.references(program)
    except ValueError as error:
        raise ExpressionError(f"${{{source}}}: {_syntax_message(str(error))}") from None
    functions = frozenset(references["functions"])
    # Operators have names such as `_+_` and `@in`.
    unknown = sorted(
        name
        for name in functions - STANDARD_FUNCTIONS - _LIBRARY_NAMES
        if name.isidentifier() and name.strip("_")
    )
    if unknown:
        raise ExpressionError(f"${{{source}}}: unknown function {unknown[0]!r}")
    bound = _bound_names(tokens)
    if any(name == "steps" for name, _, _ in bound):
        raise ExpressionError(f"${{{source}}}: 'steps' cannot be a variable of a macro; choose another name")
    calls = {name: call for name, call in LIBRARY.items() if name.rpartition(".")[2] in functions}
    in_order = repeatable(source, tokens)
    if in_order != source:
        program = _compile(in_order, source)
        calls |= ORDERING
    return Expression(
        source=source,
        names=_free_names(references["variables"], tokens, bound) - _TYPE_NAMES - _LIBRARY_SPACES,
        steps=_step_references(source, tokens),
        path=_plain_path(tokens),
        cheap=_is_cheap(tokens),
        _program=program,
        _functions=calls,
    )


def _tokens_within_limits(source: str) -> list[Token]:
    """The tokens of an expression. Raises ExpressionError if its text, or their number, exceeds the limit."""
    size = f"{len(source):,} characters, and the limit is {MAX_EXPRESSION:,}"
    if len(source) <= MAX_EXPRESSION:
        tokens = tokenize(source)
        if len(tokens) <= MAX_TOKENS:
            return tokens
        size = (
            f"{len(tokens):,} tokens (names, literals, operators, brackets), and the limit is {MAX_TOKENS:,}"
        )
    raise ExpressionError(
        f"${{{shortened(source)}}}: the expression has {size}; "
        "split it, for example between the outputs of several steps, or pass what is long as an input"
    )


def shortened(text: str) -> str:
    """The beginning of a text, for a message that names a text of any length."""
    return text if len(text) <= 60 else f"{text[:59]}…"


def _compile(text: str, source: str) -> Any:
    try:
        return evaluator.compile(text)
    except ValueError as error:
        # What we made of a source that compiles can only fail for its depth.
        cause = _syntax_message(str(error)) if text == source else "nested too deeply"
        raise ExpressionError(f"${{{source}}}: {cause}") from None


def to_json(value: Any, depth: int = 0) -> Any:
    """A CEL result as JSON: timestamps in RFC 3339, durations as seconds (`90s`), map keys sorted.

    The evaluator gives maps in no particular order; sorting makes a decision repeatable. Raises
    ExpressionError for what JSON, or the ledger that keeps it, cannot hold.
    """
    if isinstance(value, str):
        if "\0" in value:
            raise ExpressionError("the result has the character U+0000, which cannot be kept")
        return value
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if value not in _INTEGERS:
            raise ExpressionError(f"the result is {value}, which has more than 64 bits")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ExpressionError(f"the result is {value}, which JSON cannot hold")
        return value
    if isinstance(value, (Mapping, list, tuple)):
        if depth == MAX_DEPTH:
            raise ExpressionError(f"the result is nested deeper than {MAX_DEPTH} levels")
        if not isinstance(value, Mapping):
            return [to_json(item, depth + 1) for item in value]
        if not all(isinstance(key, str) and "\0" not in key for key in value):
            raise ExpressionError("the keys of a map must be strings, without the character U+0000")
        return {key: to_json(value[key], depth + 1) for key in sorted(value)}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return f"{value.total_seconds():.9f}".rstrip("0").rstrip(".") + "s"
    raise ExpressionError(f"the result is of type {type(value).__name__}, which JSON cannot hold")


def _syntax_message(text: str) -> str:
    """The first complaint of the parser, without its echo of the source."""
    match = re.search(r"ERROR: <input>:(\d+):(\d+): (.*)", text)
    if match is None:
        return text.split("\n")[0]
    line, character, complaint = match.groups()
    place = f"character {character}" if line == "1" else f"line {line}, character {character}"
    return f"{complaint.split(' expecting ')[0]} at {place}"


def _runtime_message(text: str) -> str:
    """The evaluator's complaint without what only its own authors can use."""
    line = text.split("\n")[0]
    if match := re.match(
        r"Function '([\w.]+)' error: Python function call failed: \w+: (.*?)\.? Check ", line
    ):
        name, complaint = match.groups()
        return f"{name}(): {complaint.removeprefix(f'{name}: ')}"
    match = re.match(r"Undefined variable or function: '(\w+)'", line)
    if match and (match.group(1) in STANDARD_FUNCTIONS or match.group(1) in _LIBRARY_NAMES):
        return f"{match.group(1)}() is not for arguments like these"
    return line


#: A name, and the positions of the first and last token where it means a macro's variable.
_Bound = tuple[str, int, int]


def _bound_names(tokens: list[Token]) -> list[_Bound]:
    """Names that macros bind: the `x` of `list.map(x, …)`."""
    bound: list[_Bound] = []
    for position in range(len(tokens) - 4):
        dot, macro, bracket, name, comma = tokens[position : position + 5]
        if dot.text != "." or macro.text not in MACROS or bracket.text != "(":
            continue
        if name.kind == "name" and comma.text == ",":
            closing = closing_bracket(tokens, position + 2)
            bound.append((name.text, position + 3, len(tokens) if closing is None else closing))
    return bound


def _free_names(variables: list[str], tokens: list[Token], bound: list[_Bound]) -> frozenset[str]:
    """Those variables that stand somewhere without meaning a macro's variable there."""
    free: set[str] = set()
    places: dict[str, list[tuple[int, int]]] = {name: [] for name in variables}
    for name, first, last in bound:
        if name in places:
            places[name].append((first, last))
    # The places of a name begin in order: those that were closed before a position are not read again.
    open_until = dict.fromkeys(places, 0)
    read = dict.fromkeys(places, 0)
    for position, token in enumerate(tokens):
        if token.kind != "name" or token.text not in places:
            continue
        own = places[token.text]
        while read[token.text] < len(own) and own[read[token.text]][0] <= position:
            open_until[token.text] = max(open_until[token.text], own[read[token.text]][1])
            read[token.text] += 1
        if position and tokens[position - 1].text == ".":
            continue  # a field of that name
        if position >= open_until[token.text]:
            free.add(token.text)
    return frozenset(free)


def _step_references(source: str, tokens: list[Token]) -> frozenset[str]:
    steps: set[str] = set()
    for position, token in enumerate(tokens):
        if token.kind != "name" or token.text != "steps":
            continue
        if position and tokens[position - 1].text == ".":
            continue  # a field of that name
        following = tokens[position + 1 : position + 4]
        if len(following) >= 2 and following[0].text == "." and following[1].kind == "name":
            steps.add(following[1].text)
        elif (
            len(following) == 3
            and following[0].text == "["
            and (name := following[1].plain_string) is not None
            and following[2].text == "]"
        ):
            steps.add(name)
        elif len(following) >= 1 and following[0].text == ":":
            continue  # a key of a map literal is a string in CEL; a bare name here fails in the evaluator
        else:
            raise ExpressionError(
                f'${{{source}}}: write steps.name or steps["name"], so that the dependency is known'
            )
    return frozenset(steps)


def _plain_path(tokens: list[Token]) -> tuple[str | int, ...] | None:
    if not tokens or tokens[0].kind != "name" or tokens[0].text in ("true", "false", "null"):
        return None
    path: list[str | int] = [tokens[0].text]
    position = 1
    while position < len(tokens):
        rest = tokens[position : position + 3]
        if len(rest) >= 2 and rest[0].text == "." and rest[1].kind == "name":
            path.append(rest[1].text)
            position += 2
        elif len(rest) == 3 and rest[0].text == "[" and rest[2].text == "]":
            if (text := rest[1].plain_string) is not None:
                path.append(text)
            elif rest[1].kind == "number" and rest[1].text.isdigit():
                path.append(int(rest[1].text))
            else:
                return None
            position += 3
        else:
            return None
    return tuple(path)


def _is_cheap(tokens: list[Token]) -> bool:
    """Whether the work of an expression is bounded by its text and its values."""
    if len(tokens) > CHEAP_TOKENS or sum(len(token.text) for token in tokens) > CHEAP_SOURCE:
        return False
    return all(
        name.text in CHEAP_FUNCTIONS
        for name, bracket in pairwise(tokens)
        if bracket.text == "(" and name.kind == "name"
    )


def _walk(values: Mapping[str, Any], path: tuple[str | int, ...]) -> Any:
    value: Any = values[str(path[0])]
    for key in path[1:]:
        if isinstance(value, Mapping):
            if key not in value:
                raise KeyError(key)
            value = value[key]
        elif isinstance(value, (list, tuple)) and isinstance(key, int):
            if key >= len(value):
                raise IndexError(f"index out of bounds: {key}")
            value = value[key]
        else:
            raise TypeError(f"{kind_of(value)} has no element {key!r}")
    return value


def kind_of(value: Any) -> str:
    """What a value is, in a message."""
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "a map"
    if isinstance(value, (list, tuple)):
        return "a list"
    return f"the {type(value).__name__} {value!r}"
