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
from perdure.domain.expressions.references import step_fields
from perdure.domain.payloads import StoredOutput

#: Values of an expression, or of a plain path, that are evaluated in place: scalars, list items, map entries.
#: A plain path is copied and no more, in some 0.1 µs a value.
CHEAP_VALUES = 200
CHEAP_PATH_VALUES = 2000
#: Characters of all strings that an expression sees which is evaluated in place. The evaluator converts each
#: value before it begins, and every operator is at most linear in its operands.
CHEAP_CHARACTERS = 4096
#: Compact JSON of all that one expression sees, if it is evaluated elsewhere.
MAX_SEEN_BYTES = 32 * 1024 * 1024
#: Types of values that need not be measured at the end of a plain path.
_SCALARS = frozenset({str, int, float, bool})
#: Fields of a step's value that are times.
_TIMES = frozenset({"startedAt", "finishedAt"})
#: Fields of a step's value that payloads are in.
_OUTPUTS = frozenset({"output", "outputs"})


class EvaluationPending(Exception):
    """What is evaluated depends on requests that have no answer yet."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an evaluation gave: a JSON value, or why there is none."""

    value: Any = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class EncodedValue:
    """A value as compact JSON. Times are in RFC 3339.

    The JSON is in parts: bytes, and between them outputs that only the ledger has. `control/runs/payloads`
    reads these before the evaluation: an evaluator gets values whose parts are one piece.
    """

    parts: tuple[bytes | StoredOutput, ...]
    digest: bytes

    @property
    def body(self) -> bytes:
        """The JSON of a value that is whole."""
        (body,) = self.parts
        assert isinstance(body, bytes)
        return body

    @property
    def size(self) -> int:
        """Bytes of the whole JSON, that in the ledger included."""
        return sum(part.payload.size if isinstance(part, StoredOutput) else len(part) for part in self.parts)

    @property
    def stored(self) -> list[StoredOutput]:
        """What is to be read from the ledger first."""
        return [part for part in self.parts if isinstance(part, StoredOutput)]


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
        self._without_outputs: dict[int, tuple[Any, Any]] = {}

    def evaluate(self, expression: Expression, values: Mapping[str, Any]) -> Any:
        """What an expression gives. Raises ExpressionError, and EvaluationPending after asking for it."""
        if expression.path is not None:
            at_end: Any = values
            for key in expression.path:
                # What is missing, stored or no map has its own way, and its message, below.
                at_end = at_end.get(key) if at_end.__class__ is dict else None
            if at_end is not None and at_end.__class__ in _SCALARS:
                return expression.result(at_end)
            if not _is_stored(values, expression.path):
                found = expression.walk(values)
                if _is_within(found, CHEAP_PATH_VALUES, None):
                    return expression.result(found)
        elif expression.cheap:
            seen = self._seen(expression, values)
            if _is_within(seen, CHEAP_VALUES, CHEAP_CHARACTERS):
                return expression.evaluate({**values, **seen})
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
        seen = self._seen(expression, values)
        steps = seen.pop("steps", None)
        parts: list[tuple[tuple[str, ...], EncodedValue]] = [
            ((name,), self._encode(expression, seen[name])) for name in sorted(seen)
        ]
        if steps is not None:
            parts += [(("steps", name), self._encode(expression, steps[name])) for name in sorted(steps)]
        size = sum(encoded.size for _, encoded in parts)
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

    def _seen(self, expression: Expression, values: Mapping[str, Any]) -> dict[str, Any]:
        """What an expression sees: of steps whose outputs only the ledger has, those fields that it names."""
        seen = expression.narrowed(values)
        steps = seen.get("steps")
        if steps:
            fields = step_fields(expression.source)
            seen["steps"] = {name: self._narrowed(step, fields.get(name)) for name, step in steps.items()}
        return seen

    def _narrowed(self, step: Mapping[str, Any], fields: frozenset[str] | None) -> Mapping[str, Any]:
        """The value of a step, without outputs in the ledger that the expression does not name."""
        if fields is None or fields & _OUTPUTS or not _OUTPUTS & step.keys():
            return step
        known = self._without_outputs.get(id(step))
        if known is None or known[0] is not step:
            # One value for all expressions, so that its encoding is shared.
            # The field stays: that a step has an output is part of what messages say.
            without = {name: None if _holds_stored(value) else value for name, value in step.items()}
            known = self._without_outputs[id(step)] = (step, without)
        narrowed: Mapping[str, Any] = known[1]
        return narrowed

    def _encode(self, expression: Expression, value: Any) -> EncodedValue:
        """The value as JSON. Many expressions of a decision see the same values, which are encoded once."""
        known = self._encoded.get(id(value))
        if known is not None and known[0] is value:
            return known[1]
        try:
            encoded = _encoded(value)
        except TypeError as error:
            raise ExpressionError(f"${{{expression.source}}}: a value cannot be used: {error}") from None
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


def _encoded(value: Any) -> EncodedValue:
    """A value as JSON, in parts if the ledger has some of it. Raises TypeError.

    Outputs are themselves a value, the field `output` of a step, or items of its field `outputs`.
    """
    parts: list[bytes | StoredOutput] = []
    if isinstance(value, StoredOutput):
        parts = [value]
    elif not isinstance(value, Mapping) or not any(map(_holds_stored, value.values())):
        parts = [orjson.dumps(value)]
    else:
        plain = {name: item for name, item in value.items() if not _holds_stored(item)}
        text = orjson.dumps(plain)[:-1]
        for name in value.keys() - plain.keys():
            text += (b"" if text == b"{" else b",") + orjson.dumps(name) + b":"
            items = value[name]
            if isinstance(items, StoredOutput):
                parts += [text, items]
                text = b""
                continue
            text += b"["
            for position, item in enumerate(items):
                text += b"," if position else b""
                if isinstance(item, StoredOutput):
                    parts += [text, item]
                    text = b""
                else:
                    text += orjson.dumps(item)
            text += b"]"
        parts.append(text + b"}")
    digest = hashlib.sha256()
    for part in parts:
        # No JSON has the byte 0.
        digest.update(part if isinstance(part, bytes) else b"\0" + part.payload.digest.encode() + b"\0")
    return EncodedValue(tuple(parts), digest.digest())


def _holds_stored(value: Any) -> bool:
    """Whether an output, or a list of outputs, is in the ledger only, at least in part."""
    if isinstance(value, list):
        return any(isinstance(item, StoredOutput) for item in value)
    return isinstance(value, StoredOutput)


def _is_stored(values: Any, path: tuple[str | int, ...]) -> bool:
    """Whether what is at the end of a plain path is in the ledger only, at least in part."""
    for key in path:
        if isinstance(values, StoredOutput):
            return True
        try:
            values = values[key]
        except (LookupError, TypeError):
            return False
    if isinstance(values, Mapping):
        return any(map(_holds_stored, values.values()))
    return _holds_stored(values)


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
        elif isinstance(value, StoredOutput):
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
