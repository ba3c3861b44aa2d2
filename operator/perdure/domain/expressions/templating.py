"""Values with `${}` in them: found in manifests, compiled once, filled in when a task starts.

A string that is one expression keeps the expression's type; otherwise results are put into the text. `$${`
stands for `${`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from perdure.api.expression_limits import MAX_EXPRESSION
from perdure.domain.expressions.cel import Expression, ExpressionError, compile_expression, shortened
from perdure.domain.expressions.evaluation import EvaluationPending, Names
from perdure.domain.expressions.tokens import end_of_expression

_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True, slots=True)
class Text:
    """A string of literal parts and expressions."""

    parts: tuple[str | Expression, ...]

    @property
    def whole(self) -> Expression | None:
        """The expression, if the string is nothing else."""
        if len(self.parts) == 1 and isinstance(self.parts[0], Expression):
            return self.parts[0]
        return None


def parse_text(text: str) -> Text:
    """Split a string into literal parts and compiled expressions. Raises ExpressionError."""
    parts: list[str | Expression] = []
    literal = ""
    position = 0
    while position < len(text):
        if text.startswith("$${", position):
            literal += "${"
            position += 3
        elif text.startswith("${", position):
            end = end_of_expression(text, position + 2)
            if end is None and len(text) - position > MAX_EXPRESSION:
                raise ExpressionError(
                    f"{shortened(text[position:])!r}: the expression has more than the limit of"
                    f" {MAX_EXPRESSION:,} characters, or '${{' is without '}}'; split it, or write $${{ for a"
                    " literal ${"
                )
            if end is None:
                raise ExpressionError(
                    f"{shortened(text[position:])!r}: '${{' without '}}'; write $${{ for a literal ${{"
                )
            if literal:
                parts.append(literal)
                literal = ""
            parts.append(compile_expression(text[position + 2 : end].strip()))
            position = end + 1
        else:
            literal += text[position]
            position += 1
    if literal:
        parts.append(literal)
    return Text(tuple(parts))


def has_expression(text: str) -> bool:
    """True if the string holds `${`, escaped or not."""
    return "${" in text


def compile_value(value: Any) -> Any:
    """JSON with every string that holds `${` replaced by a Text. Raises ExpressionError."""
    if isinstance(value, str):
        return parse_text(value) if has_expression(value) else value
    if isinstance(value, Mapping):
        return {key: compile_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [compile_value(item) for item in value]
    return value


def walk_strings(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every string in JSON with its manifest path, such as `spec.steps[0].input.files[2]`."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from walk_strings(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from walk_strings(item, f"{path}[{index}]")


def render(value: Any, values: Mapping[str, Any], path: str) -> Any:
    """A compiled value with its expressions evaluated.

    Raises ExpressionError, naming the place in the value, whose own place is `path`; and EvaluationPending,
    once all expressions that have to wait have been asked for.
    """
    if isinstance(value, Text):
        try:
            if value.whole is not None:
                return evaluate(value.whole, values)
            return "".join(map(as_text, _results(value, values)))
        except ExpressionError as error:
            raise ExpressionError(f"{path}: {error}") from None
    if isinstance(value, dict):
        keys = list(value)
        parts = in_turn(lambda key: render(value[key], values, f"{path}.{key}"), keys)
        return dict(zip(keys, parts, strict=True))
    if isinstance(value, list):
        return in_turn(lambda index: render(value[index], values, f"{path}[{index}]"), range(len(value)))
    return value


def evaluate(expression: Expression, values: Mapping[str, Any]) -> Any:
    """What an expression gives. Raises ExpressionError, and EvaluationPending if `values` are `Names`."""
    return values.evaluate(expression) if isinstance(values, Names) else expression.evaluate(values)


def in_turn(call: Callable[[_T], _R], arguments: Iterable[_T]) -> list[_R]:
    """The results of all calls. The first error is raised, as if nothing had to wait.

    If one of the calls has to wait, so does the whole; the calls after it only ask for what they need.
    """
    results: list[_R] = []
    pending = False
    for argument in arguments:
        try:
            results.append(call(argument))
        except EvaluationPending:
            pending = True
        except ExpressionError:
            if not pending:
                raise
    if pending:
        raise EvaluationPending
    return results


def _results(text: Text, values: Mapping[str, Any]) -> list[Any]:
    """The parts of a text, evaluated."""
    return in_turn(lambda part: part if isinstance(part, str) else evaluate(part, values), text.parts)


def render_argument(value: str | Text, values: Mapping[str, Any], path: str) -> str:
    """An argument or environment value: always text, in which the kubelet expands only what was written.

    The kubelet reads `$$` as `$` and expands `$(NAME)`; what an expression gave is doubled, so that it
    arrives exactly as computed. Raises ExpressionError, naming `path`, and EvaluationPending.
    """
    if isinstance(value, str):
        return value
    text = ""
    try:
        for position, (part, result) in enumerate(zip(value.parts, _results(value, values), strict=True)):
            if not isinstance(part, str):
                text += as_text(result).replace("$", "$$")
            elif position + 1 < len(value.parts):
                text += _closed(part)
            else:
                text += part
    except ExpressionError as error:
        raise ExpressionError(f"{path}: {error}") from None
    return text


def _closed(literal: str) -> str:
    """A literal as it means the same to the kubelet whatever follows it.

    A `$(` without its `)` would otherwise make a variable's name of what an expression gives, or hide from
    the kubelet that it was doubled: think of the shell's `$(wc -l ${item})`.
    """
    text = ""
    position = 0
    while (dollar := literal.find("$", position)) >= 0:
        text += literal[position:dollar]
        rest = literal[dollar : dollar + 2]
        if rest == "$(" and (end := literal.find(")", dollar)) >= 0:
            text += literal[dollar : end + 1]
            position = end + 1
        elif rest in ("$(", "$"):
            text += "$$"
            position = dollar + 1
        else:  # `$$`, or a `$` that means nothing
            text += rest
            position = dollar + 2
    return text + literal[position:]


def as_text(value: Any) -> str:
    """A result inside text: strings as they are, everything else as compact JSON."""
    return value if isinstance(value, str) else compact(value).decode()


def compact(value: Any) -> bytes:
    """Compact UTF-8 JSON, the form in which sizes are counted."""
    return orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_SUBCLASS | orjson.OPT_NON_STR_KEYS)
