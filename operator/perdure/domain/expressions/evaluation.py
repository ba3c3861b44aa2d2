"""Evaluation of what people wrote: at once where it is cheap, as a request where it is not.

A decision is synchronous and shares its thread with all other runs, so it evaluates only what is cheap by
construction: expressions without macros and with a few functions, over values that are small. Everything else
becomes a request. The decision leaves the step or task as it is, the pass has the requests answered where an
evaluation can be killed (`control/evaluation`), and decides again with the answers.

A request is identified by its content: the text of the expression and the digests of the values that the
expression sees. So an answer can never be applied to other values than those that it was computed from, and a
decision with answers is the decision that would have been made, had everything been evaluated in place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from perdure.domain.expressions.cel import Expression, ExpressionError

#: Values of an expression, or of a plain path, that are evaluated in place: scalars, list items, map entries.
#: A plain path is copied and no more, in some 0.1 µs a value.
CHEAP_VALUES = 200
CHEAP_PATH_VALUES = 2000
#: Characters of all strings that an expression sees which is evaluated in place. The evaluator converts each
#: value before it begins, and every operator is at most linear in its operands.
CHEAP_CHARACTERS = 4096
#: Compact JSON of all that one expression sees, if it is evaluated elsewhere.
MAX_SEEN_BYTES = 32 * 1024 * 1024
#: Fields of a step's value that are times.
_TIMES = frozenset({"startedAt", "finishedAt"})


class EvaluationPending(Exception):
    """What is evaluated depends on requests that have no answer yet."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an evaluation gave: a JSON value, or why there is none."""

    value: Any = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class EncodedValue:
    """A value as compact JSON. Times are in RFC 3339."""

    body: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """An expression that is to be evaluated elsewhere, and all that it sees.

    `values` has the names in order: `("inputs",)`, `("steps", "a")`.
    """

    key: str
    source: str
    values: tuple[tuple[tuple[str, ...], EncodedValue], ...]


class Evaluation:
    """The answers that are there, and the requests for those that are not. Belongs to one decision."""

    def __init__(self, answers: Mapping[str, Answer] | None = None) -> None:
        self._answers: Mapping[str, Answer] = answers or {}
        self.requests: dict[str, EvaluationRequest] = {}
        #: Keys of the answers that were used.
        self.used: set[str] = set()
        # With the value itself, whose id is another's once the value is gone.
        self._encoded: dict[int, tuple[Any, EncodedValue]] = {}

    def evaluate(self, expression: Expression, values: Mapping[str, Any]) -> Any:
        """What an expression gives. Raises ExpressionError, and EvaluationPending after asking for it."""
        if expression.path is not None:
            found = expression.walk(values)
            if _is_within(found, CHEAP_PATH_VALUES, None):
                return expression.result(found)
        elif expression.cheap:
            seen = expression.narrowed(values)
            if _is_within(seen, CHEAP_VALUES, CHEAP_CHARACTERS):
                return expression.evaluate(values)
        request = self._request(expression, values)
        answer = self._answers.get(request.key)
        if answer is None:
            self.requests[request.key] = request
            raise EvaluationPending
        self.used.add(request.key)
        if answer.error is not None:
            raise ExpressionError(answer.error)
        return answer.value

    def _request(self, expression: Expression, values: Mapping[str, Any]) -> EvaluationRequest:
        seen = expression.narrowed(values)
        steps = seen.pop("steps", None)
        parts: list[tuple[tuple[str, ...], EncodedValue]] = [
            ((name,), self._encode(expression, seen[name])) for name in sorted(seen)
        ]
        if steps is not None:
            parts += [(("steps", name), self._encode(expression, steps[name])) for name in sorted(steps)]
        size = sum(len(encoded.body) for _, encoded in parts)
        if size > MAX_SEEN_BYTES:
            raise ExpressionError(
                f"${{{expression.source}}}: it sees {size} bytes of JSON; the limit is {MAX_SEEN_BYTES}; "
                "let steps give less, or refer to fewer of them"
            )
        digest = hashlib.sha256(f"{expression.source}\0".encode())
        for name, encoded in parts:
            digest.update(f"{'/'.join(name)}\0".encode())
            digest.update(encoded.digest)
        return EvaluationRequest(digest.hexdigest(), expression.source, tuple(parts))

    def _encode(self, expression: Expression, value: Any) -> EncodedValue:
        """The value as JSON. Many expressions of a decision see the same values, which are encoded once."""
        known = self._encoded.get(id(value))
        if known is not None and known[0] is value:
            return known[1]
        try:
            body = orjson.dumps(value)
        except TypeError as error:
            raise ExpressionError(f"${{{expression.source}}}: a value cannot be used: {error}") from None
        encoded = EncodedValue(body, hashlib.sha256(body).digest())
        self._encoded[id(value)] = (value, encoded)
        return encoded


class Names(Mapping[str, Any]):
    """The values that expressions see, by name, and how expressions over them are evaluated."""

    __slots__ = ("_values", "evaluation")

    def __init__(self, values: Mapping[str, Any], evaluation: Evaluation | None = None) -> None:
        """Without an `evaluation`, everything is evaluated in place, however long it takes."""
        self._values = values
        self.evaluation = evaluation

    def plus(self, **values: Any) -> Names:
        """The same names and some more."""
        return Names({**self._values, **values}, self.evaluation)

    def evaluate(self, expression: Expression) -> Any:
        """What an expression gives. Raises ExpressionError and EvaluationPending."""
        if self.evaluation is None:
            return expression.evaluate(self._values)
        return self.evaluation.evaluate(expression, self._values)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _is_within(value: Any, values: int, characters: int | None) -> bool:
    """Whether a value has at most so many parts and characters; found without reading more than those."""
    left = values
    unread = [value]
    while unread:
        value = unread.pop()
        left -= 1
        if isinstance(value, str):
            if characters is not None:
                characters -= len(value)
                if characters < 0:
                    return False
        elif isinstance(value, (Mapping, list, tuple)):
            if len(value) > left:
                return False
            if not isinstance(value, Mapping):
                unread += value
                continue
            if characters is not None:
                characters -= sum(map(len, value))
            unread += value.values()
        if left < 0 or (characters is not None and characters < 0):
            return False
    return True


def answer(request: EvaluationRequest, expression: Expression) -> Answer:
    """The answer to a request, evaluated here. `expression` is that of the request."""
    values: dict[str, Any] = {}
    for name, encoded in request.values:
        value = orjson.loads(encoded.body)
        if len(name) == 1:
            values[name[0]] = value
        else:
            values.setdefault(name[0], {})[name[1]] = step_value(value)
    if "steps" in expression.names:
        values.setdefault("steps", {})
    try:
        return Answer(expression.evaluate(values))
    except ExpressionError as error:
        return Answer(error=str(error))


def step_value(step: dict[str, Any]) -> dict[str, Any]:
    """The value of a step that was JSON: its times are times again."""
    return {name: datetime.fromisoformat(value) if name in _TIMES else value for name, value in step.items()}
