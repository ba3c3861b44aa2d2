"""Values validated by a JSON Schema (Draft 2020-12), with messages for the authors of the values.

The library `jsonschema` validates. The work is counted here, because a tenant can write a schema that takes
for ever, and keywords whose cost depends on more than their length are replaced.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import cache
from itertools import islice
from typing import Any, Final

import orjson

from perdure.api.validation.problems import ManifestProblem
from perdure.domain.admission.json_schema import field_path, matches

#: Problems of one value that are reported; more usually have the same cause.
_REPORTED: Final = 20
#: Work for one value, in evaluations of a keyword: well below a second.
_WORK: Final = 100_000

_KINDS: Final = {
    "null": "null",
    "boolean": "true or false",
    "object": "a map",
    "array": "a list",
    "number": "a number",
    "string": "text",
    "integer": "a whole number",
}

_left: ContextVar[int] = ContextVar("left")


class _TooMuch(Exception):
    """The work allowed for one value is used up."""


def validate_value(
    root: Mapping[str, Any],
    value: Any,
    path: str,
    *,
    part: Any = None,
    unknown: Sequence[tuple[str | int, ...]] = (),
) -> list[ManifestProblem]:
    """The problems of the value at `path`, by a schema in which `check_schema` finds none.

    `part` is the subschema of `root` that counts, if not the whole. `unknown` are places in the value that
    are not known yet: neither they nor the containers around them are validated.
    """
    # With `$schema` at the top the library would use its own keywords instead of those below.
    root = {keyword: content for keyword, content in root.items() if keyword not in ("$schema", "$id")}
    validator = _validator()(root)
    if part is not None:
        validator = validator.evolve(schema=part)
    token = _left.set(_WORK)
    try:
        problems = []
        for error in islice(validator.iter_errors(value), 100 * _REPORTED):
            place = tuple(error.absolute_path)
            if not any(other[: len(place)] == place for other in unknown):
                problems.append(ManifestProblem(_at(path, place), _message(error)))
        return list(dict.fromkeys(problems))[:_REPORTED]
    except (_TooMuch, RecursionError):
        remedy = "simplify the parameters' schema, or the inputs"
        return [ManifestProblem(path, f"is too much work to check: {remedy}")]
    finally:
        _left.reset(token)


@cache
def _validator() -> Any:
    # Imported when the first template has parameters: the import takes longer than a quick command.
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend
    from referencing import Registry

    keywords = dict(Draft202012Validator.VALIDATORS) | {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
        "required": _required,
        "uniqueItems": _unique_items,
    }
    made: Any = extend(  # type: ignore[no-untyped-call] # the library leaves it untyped
        Draft202012Validator, {keyword: _counted(keyword, check) for keyword, check in keywords.items()}
    )
    # The registry is empty, so no reference is ever fetched.
    return lambda schema: made(schema, registry=Registry())


def _spend(work: int) -> None:
    left = _left.get() - work
    if left < 0:
        raise _TooMuch
    _left.set(left)


_Errors = Iterator[Any]
_Keyword = Callable[[Any, Any, Any, Any], Any]


#: Keywords that apply further schemas to the same value: expensive, and the parts of endless schemas.
_LEADING: Final = frozenset("$ref allOf anyOf oneOf not if dependentSchemas".split())


def _counted(name: str, check: _Keyword) -> _Keyword:
    cost = 12 if name in _LEADING else 1

    def counted(validator: Any, keyword: Any, value: Any, schema: Any) -> _Errors:
        # A keyword goes through its own list or map, or through that of the value.
        size = len(keyword) if isinstance(keyword, list | dict) else 0
        length = len(value) if isinstance(value, list | dict) else 0
        _spend(cost + (size + length) // 8)
        for error in check(validator, keyword, value, schema) or ():
            # The library quotes values at length, and keeps every error of every alternative.
            _spend(len(error.message) // 64)
            error.message = error.message[:200]
            yield error

    return counted


def _error(message: str, *path: str | int) -> Any:
    from jsonschema import ValidationError

    return ValidationError(message, path=path)


def _pattern(validator: Any, pattern: str, value: Any, schema: Any) -> _Errors:
    if isinstance(value, str):
        _spend(len(pattern) * len(value) // 10_000)
        if not matches(pattern, value):
            yield _error(f"does not match {pattern}")


def _pattern_properties(validator: Any, patterns: Any, value: Any, schema: Any) -> _Errors:
    if isinstance(value, dict):
        for pattern, part in patterns.items():
            for name, content in value.items():
                _spend(1 + len(pattern) * len(name) // 10_000)
                if matches(pattern, name):
                    yield from validator.descend(content, part, path=name, schema_path=pattern)


def _additional_properties(validator: Any, rest: Any, value: Any, schema: Any) -> _Errors:
    if not isinstance(value, dict):
        return
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, content in value.items():
        _spend(sum(1 + len(pattern) * len(name) // 10_000 for pattern in patterns))
        if name in known or any(matches(pattern, name) for pattern in patterns):
            continue
        if rest is False:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"known are {', '.join(list(known)[:_REPORTED])}" if known else "none are known"
            yield _error(f"is unknown; did you mean {close[0]}?" if close else f"is unknown; {hint}", name)
        else:
            yield from validator.descend(content, rest, path=name)


def _required(validator: Any, names: Sequence[str], value: Any, schema: Any) -> _Errors:
    if isinstance(value, dict):
        for name in names:
            if name not in value:
                yield _error("", name)


def _unique_items(validator: Any, unique: bool, value: Any, schema: Any) -> _Errors:
    if not unique or not isinstance(value, list):
        return
    first: dict[bytes, int] = {}
    for number, item in enumerate(value):
        text = orjson.dumps(_without_whole_floats(item), option=orjson.OPT_SORT_KEYS)
        _spend(1 + len(text) // 64)
        if text in first:
            yield _error(f"is the same as item {first[text]}: remove one", number)
        first.setdefault(text, number)


def _without_whole_floats(value: Any) -> Any:
    """The value with whole floats as integers, because 1.0 equals 1 in JSON Schema."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_without_whole_floats(item) for item in value]
    if isinstance(value, dict):
        return {name: _without_whole_floats(item) for name, item in value.items()}
    return value


# --- in words


def _at(path: str, place: Sequence[str | int]) -> str:
    return field_path(path, "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in place))


def _message(error: Any) -> str:
    keyword, wanted, value = error.validator, error.validator_value, error.instance
    if keyword == "required":
        return _asked_for(error)
    if keyword in ("additionalProperties", "pattern", "uniqueItems") and wanted is not None:
        return f"{_shown(value)} {error.message}" if keyword == "pattern" else str(error.message)
    if keyword == "type":
        kinds = [wanted] if isinstance(wanted, str) else wanted
        return f"must be {' or '.join(_KINDS[kind] for kind in kinds)}; it is {_kind(value)}"
    if keyword == "enum":
        return _none_of(value, wanted)
    if keyword in ("anyOf", "oneOf"):
        return _no_alternative(error)
    if keyword is None or keyword == "not":
        return "is not allowed here"
    said = _BOUNDS.get(keyword)
    return said.format(_shown(wanted), _shown(value)) if said else f"breaks {keyword}: {_shown(wanted)}"


_BOUNDS: Final = {
    "const": "must be {0}; it is {1}",
    "minimum": "must be at least {0}; it is {1}",
    "maximum": "must be at most {0}; it is {1}",
    "exclusiveMinimum": "must be more than {0}; it is {1}",
    "exclusiveMaximum": "must be less than {0}; it is {1}",
    "multipleOf": "must be a multiple of {0}; it is {1}",
    "minLength": "must have at least {0} characters; it is {1}",
    "maxLength": "must have at most {0} characters; it is {1}",
    "minItems": "must have at least {0} items",
    "maxItems": "must have at most {0} items",
    "minProperties": "must have at least {0} entries",
    "maxProperties": "must have at most {0} entries",
    "contains": "must have an item that fits {0}",
}


def _asked_for(error: Any) -> str:
    name = error.path[-1]
    asked = error.schema.get("properties", {}).get(name)
    asked = asked if isinstance(asked, Mapping) else {}
    kind = asked.get("type")
    wanted = asked.get("description") or asked.get("title")
    if not wanted and isinstance(kind, str):
        wanted = f"give {_KINDS[kind]}"
    return f"is required: {_cut(str(wanted), 120)}" if wanted else "is required"


def _none_of(value: Any, allowed: Sequence[Any]) -> str:
    texts = [text for text in allowed if isinstance(text, str)]
    close = difflib.get_close_matches(value, texts, n=1) if isinstance(value, str) else []
    shown = ", ".join(_shown(each) for each in allowed[:_REPORTED])
    if len(allowed) > _REPORTED:
        shown += ", …"
    return f"must be one of {shown}; it is {_shown(value)}" + (
        f"; did you mean {_shown(close[0])}?" if close else ""
    )


def _no_alternative(error: Any) -> str:
    if not error.context:
        return "fits more than one of the alternatives; exactly one is wanted"
    # The alternative that fits deepest is most likely the intended one.
    nearest = max(error.context, key=lambda error: len(error.relative_path))
    within = _at("", tuple(nearest.relative_path)).lstrip(".")
    cause = f"{within}: {_message(nearest)}" if within else _message(nearest)
    return f"fits none of {len(error.validator_value)} alternatives; the nearest: {cause}"


def _kind(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return _shown(value)
    if isinstance(value, dict | list):
        return _KINDS["object" if isinstance(value, dict) else "array"]
    return f"text {_shown(value)}" if isinstance(value, str) else _shown(value)


def _shown(value: Any) -> str:
    return _cut(orjson.dumps(value).decode(), 60)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
