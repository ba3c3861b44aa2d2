"""The JSON Schemas of templates' parameters, checked before any value is validated by them.

A schema is a tenant's text that the operator evaluates between the decisions of all others. So a schema is
held to what can be evaluated in bounded time: references stay within the schema, and patterns can be matched
in linear time.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from pydantic_core import SchemaError, SchemaValidator, ValidationError, core_schema

from perdure.api.validation.problems import ManifestProblem

#: The dialect; a schema that names another one means something else.
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

TYPES: Final = ("null", "boolean", "object", "array", "number", "string", "integer")

_ONE: Final = frozenset(
    "items additionalProperties not if then else contains propertyNames unevaluatedItems "
    "unevaluatedProperties contentSchema".split()
)
_LISTS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_MAPS: Final = frozenset({"properties", "patternProperties", "$defs", "dependentSchemas"})
#: Keywords that let a reference leave the schema, or make its target depend on the path to it.
_UNSUPPORTED: Final = frozenset({"$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$vocabulary"})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_types(value: Any) -> bool:
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(name in TYPES for name in names)


_Check = tuple[Callable[[Any], bool], str]
_NUMBER: Final[_Check] = (_is_number, "must be a number")
_COUNT: Final[_Check] = (_is_count, "must be a whole number, 0 or more")
_TRUTH: Final[_Check] = (lambda value: isinstance(value, bool), "must be true or false")
_TEXT: Final[_Check] = (lambda value: isinstance(value, str), "must be text")
_ANY: Final[_Check] = (lambda value: True, "")

#: The check of each keyword's value, except keywords whose values are schemas.
_KEYWORDS: Final[dict[str, _Check]] = {
    "type": (_is_types, f"must be one or more of {', '.join(TYPES)}"),
    "enum": (lambda value: isinstance(value, list) and bool(value), "must be a list of the allowed values"),
    "const": _ANY,
    "default": _ANY,
    "examples": (lambda value: isinstance(value, list), "must be a list"),
    "required": (_is_names, "must be a list of names, next to the properties that it names"),
    "dependentRequired": (
        lambda value: isinstance(value, dict) and all(map(_is_names, value.values())),
        "must be a map of lists of names",
    ),
    "multipleOf": (lambda value: _is_number(value) and value > 0, "must be a number above 0"),
    "$ref": _TEXT,
    "$schema": _TEXT,
    **dict.fromkeys(("maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum"), _NUMBER),
    **dict.fromkeys(("maxLength", "minLength", "maxItems", "minItems", "maxContains", "minContains"), _COUNT),
    **dict.fromkeys(("maxProperties", "minProperties"), _COUNT),
    **dict.fromkeys(("uniqueItems", "deprecated", "readOnly", "writeOnly"), _TRUTH),
    **dict.fromkeys(("title", "description", "$comment", "format", "pattern"), _TEXT),
    **dict.fromkeys(("contentEncoding", "contentMediaType"), _TEXT),
}
_KNOWN: Final = sorted({*_KEYWORDS, *_ONE, *_LISTS, *_MAPS})


@lru_cache(maxsize=1024)
def _matcher(pattern: str) -> SchemaValidator:
    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))


def matches(pattern: str, text: str) -> bool:
    """True if the pattern matches anywhere in the text, found in time linear in both.

    Raises ValueError for a pattern that is invalid, or needs look-around or back-references.
    """
    try:
        _matcher(pattern).validate_python(text)
    except SchemaError as error:
        raise ValueError(str(error)) from None
    except ValidationError:
        return False
    return True


def subschemas(schema: Any, pointer: str = "") -> Iterator[tuple[str, Any]]:
    """The schema and all its subschemas, each with its JSON pointer (`''` for the whole)."""
    yield pointer, schema
    if not isinstance(schema, Mapping):
        return
    for keyword, value in schema.items():
        at = f"{pointer}/{_escaped(str(keyword))}"
        if keyword in _ONE:
            yield from subschemas(value, at)
        elif keyword in _LISTS and isinstance(value, list):
            for number, part in enumerate(value):
                yield from subschemas(part, f"{at}/{number}")
        elif keyword in _MAPS and isinstance(value, Mapping):
            for name, part in value.items():
                yield from subschemas(part, f"{at}/{_escaped(str(name))}")


def field_path(path: str, pointer: str) -> str:
    """The manifest path of the target of a JSON pointer within the value at `path`."""
    for token in pointer.split("/")[1:]:
        name = token.replace("~1", "/").replace("~0", "~")
        if name.isdigit():
            path += f"[{name}]"
        elif re.fullmatch(r"[A-Za-z_$][\w$-]*", name):
            path += f".{name}"
        else:
            path += f'["{name}"]'
    return path


def check_schema(schema: Mapping[str, Any], path: str) -> list[ManifestProblem]:
    """All problems of a schema that describes an object; `path` is that of the schema."""
    parts = dict(subschemas(schema))
    problems = []
    if schema.get("type", "object") != "object":
        problems.append(ManifestProblem(f"{path}.type", "must be object: it describes all inputs together"))
    for pointer, part in parts.items():
        at = field_path(path, pointer)
        if not isinstance(part, bool | Mapping):
            problems.append(ManifestProblem(at, "must be a schema: a map, true or false"))
        elif isinstance(part, Mapping):
            for keyword, value in part.items():
                message = _keyword_problem(str(keyword), value, pointer=pointer, known=parts)
                if message:
                    problems.append(ManifestProblem(f"{at}.{keyword}", message))
    # For these two together the library would match patterns itself, by backtracking.
    keywords = {keyword for part in parts.values() if isinstance(part, Mapping) for keyword in part}
    if {"patternProperties", "unevaluatedProperties"} <= keywords:
        problems.append(ManifestProblem(path, "cannot use both patternProperties and unevaluatedProperties"))
    return problems


def _keyword_problem(keyword: str, value: Any, *, pointer: str, known: Mapping[str, Any]) -> str:
    """The problem of one keyword of the schema at `pointer`; '' if there is none."""
    if keyword == "$schema":
        right = not pointer and isinstance(value, str) and value.rstrip("#") == DIALECT
        return "" if right else f"must be left out, or stand at the top and be {DIALECT}"
    if keyword in _UNSUPPORTED:
        # At the top `$id` only names the schema, and generators of schemas write it.
        is_name = keyword == "$id" and not pointer
        return "" if is_name else "is not supported here; refer to parts by path, such as #/$defs/name"
    if keyword in _LISTS:
        return "" if isinstance(value, list) and value else "must be a list of schemas"
    if keyword in _MAPS:
        if not isinstance(value, Mapping):
            return "must be a map of schemas"
        return _first_bad_pattern(value) if keyword == "patternProperties" else ""
    if keyword in _ONE:
        return ""
    if keyword not in _KEYWORDS:
        # Unknown keywords are allowed and mean nothing; one that is nearly a known one is a mistake.
        close = difflib.get_close_matches(keyword, _KNOWN, n=1, cutoff=0.8)
        return f"unknown keyword; did you mean {close[0]}?" if close else ""
    check, message = _KEYWORDS[keyword]
    if not check(value):
        return message
    if keyword == "pattern":
        return _first_bad_pattern([value])
    if keyword == "$ref":
        target = value.removeprefix("#")
        if not value.startswith("#"):
            return f"{value!r} is outside; refer to a part of this schema, such as #/$defs/name"
        return "" if target in known else f"{value!r} is no part of this schema"
    return ""


def _first_bad_pattern(patterns: Any) -> str:
    for pattern in patterns:
        try:
            matches(pattern, "")
        except ValueError:
            return f"{pattern!r} is not a pattern that can be matched in linear time: no look-around, no \\1"
    return ""


def _escaped(token: str) -> str:
    return token.replace("~", "~0").replace("/", "~1")
