"""One CEL expression: compiled once, its references known, evaluated against plain values.

CEL itself comes from a library; here is what a workflow needs around it: which names may be used, which steps
an expression depends on, results as JSON, and errors a person can act on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import cel
from cel.stdlib import STDLIB_FUNCTIONS


class ExpressionError(Exception):
    """An expression that does not compile, or fails, or gives what cannot be used."""


#: Functions of the CEL specification that the evaluator has; operators are named `_+_` and the like.
_STANDARD_FUNCTIONS = frozenset(
    "size contains startsWith endsWith matches string int uint double bytes dyn type duration timestamp "
    "getFullYear getMonth getDate getDayOfMonth getDayOfWeek getDayOfYear getHours getMinutes getSeconds "
    "getMilliseconds optional.of optional.none value hasValue orValue or".split()
)
#: The evaluator's extensions (strings, lists, math, …) that replace nothing of the specification.
_LIBRARY = {name: call for name, call in STDLIB_FUNCTIONS.items() if name not in _STANDARD_FUNCTIONS}
#: `math.abs` is called `abs` in a program's references, and `math` a variable.
_LIBRARY_NAMES = frozenset(name.rpartition(".")[2] for name in _LIBRARY)
_LIBRARY_SPACES = frozenset(name.partition(".")[0] for name in _LIBRARY if "." in name)
_TYPE_NAMES = frozenset("int uint double bool string bytes list map null_type type".split())
_MACROS = frozenset("map filter exists all exists_one existsOne transformList transformMap".split())

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


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of CEL text. Only as much is told apart as references need."""

    kind: str
    text: str
    end: int


def tokenize(source: str, start: int = 0) -> list[Token]:
    """Tokens from `start` on, without white space and comments."""
    return [
        Token(match.lastgroup or "", match.group(), match.end())
        for match in _TOKEN.finditer(source, start)
        if match.lastgroup != "space"
    ]


def end_of_expression(source: str, start: int) -> int | None:
    """Index of the `}` that closes an expression whose text begins at `start`; None if none does."""
    depth = 0
    for match in _TOKEN.finditer(source, start):
        if match.lastgroup != "punctuation":
            continue
        if match.group() == "{":
            depth += 1
        elif match.group() == "}":
            if depth == 0:
                return match.start()
            depth -= 1
    return None


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled expression. `names` are the root names and `steps` the steps it refers to."""

    source: str
    names: frozenset[str]
    steps: frozenset[str]
    #: The keys of a plain path such as `steps.a.output[0]`, which needs no evaluator.
    path: tuple[str | int, ...] | None
    _program: Any
    _needs_library: bool

    def evaluate(self, values: Mapping[str, Any]) -> Any:
        """The result as JSON. Raises ExpressionError.

        `values` may be lazy: only the names that the expression uses are looked up.
        """
        try:
            if self.path is not None:
                return to_json(_walk(values, self.path))
            variables = {name: values[name] for name in self.names}
            if self._needs_library:
                return to_json(self._program.execute(cel.Context(variables, _LIBRARY)))
            return to_json(self._program.execute(variables))
        except ExpressionError as error:
            raise ExpressionError(f"${{{self.source}}}: {error}{self._hint(values)}") from None
        except KeyError as error:
            raise ExpressionError(
                f"${{{self.source}}}: no such key: {error.args[0]!r}{self._hint(values)}"
            ) from None
        except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:
            text = str(error).split("\n")[0]
            raise ExpressionError(f"${{{self.source}}}: {text}{self._hint(values)}") from None

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


@lru_cache(maxsize=4096)
def compile_expression(source: str) -> Expression:
    """Compile CEL text (without `${` and `}`). Raises ExpressionError naming the place of the fault."""
    try:
        program = cel.compile(source)
    except ValueError as error:
        raise ExpressionError(f"${{{source}}}: {_syntax_message(str(error))}") from None
    references = program.references()
    unknown = [
        name
        for name in references["functions"]
        if (name[0].isalpha() and name not in _STANDARD_FUNCTIONS and name not in _LIBRARY_NAMES)
    ]
    if unknown:
        raise ExpressionError(f"${{{source}}}: unknown function {unknown[0]!r}")
    tokens = tokenize(source)
    bound = _bound_names(tokens)
    if "steps" in bound:
        raise ExpressionError(f"${{{source}}}: 'steps' cannot be a variable of a macro; choose another name")
    return Expression(
        source=source,
        names=frozenset(references["variables"]) - bound - _TYPE_NAMES - _LIBRARY_SPACES,
        steps=_step_references(source, tokens),
        path=_plain_path(tokens),
        _program=program,
        _needs_library=any(name in _LIBRARY_NAMES for name in references["functions"]),
    )


def to_json(value: Any) -> Any:
    """A CEL result as JSON: timestamps in RFC 3339, durations as seconds (`90s`), map keys sorted.

    The evaluator gives maps in no particular order; sorting makes a decision repeatable. Raises
    ExpressionError for what JSON cannot say.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ExpressionError(f"the result is {value}, which JSON cannot hold")
        return value
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ExpressionError("the keys of a map must be strings")
        return {key: to_json(value[key]) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return f"{value.total_seconds():.9f}".rstrip("0").rstrip(".") + "s"
    raise ExpressionError(f"the result is of type {type(value).__name__}, which JSON cannot hold")


def _syntax_message(text: str) -> str:
    """The first complaint of the parser, without its echo of the source."""
    match = re.search(r"ERROR: <input>:\d+:(\d+): (.*)", text)
    if match is None:
        return text.split("\n")[0]
    return f"{match.group(2).split(' expecting ')[0]} at character {match.group(1)}"


def _bound_names(tokens: list[Token]) -> frozenset[str]:
    """Names that macros bind: the `x` of `list.map(x, …)`, and both of two."""
    bound: set[str] = set()
    for position, token in enumerate(tokens[:-3]):
        if token.text != "." or tokens[position + 1].text not in _MACROS or tokens[position + 2].text != "(":
            continue
        name, after = tokens[position + 3], tokens[position + 4 : position + 5]
        if name.kind == "name" and after and after[0].text == ",":
            bound.add(name.text)
            rest = tokens[position + 5 : position + 7]
            two_variables = tokens[position + 1].text.startswith("transform")
            if two_variables and len(rest) == 2 and rest[0].kind == "name" and rest[1].text == ",":
                bound.add(rest[0].text)
    return frozenset(bound)


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
            and following[1].kind == "string"
            and following[2].text == "]"
        ):
            steps.add(following[1].text[1:-1])
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
            if rest[1].kind == "string" and rest[1].text[0] in "\"'" and "\\" not in rest[1].text:
                path.append(rest[1].text[1:-1])
            elif rest[1].kind == "number" and rest[1].text.isdigit():
                path.append(int(rest[1].text))
            else:
                return None
            position += 3
        else:
            return None
    return tuple(path)


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
            raise TypeError(f"{_kind(value)} has no element {key!r}")
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "a map"
    if isinstance(value, (list, tuple)):
        return "a list"
    return f"the {type(value).__name__} {value!r}"
