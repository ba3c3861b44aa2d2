"""A run's inputs by its template's parameters: defaults filled in, and validated before the run starts.

Schema and inputs are both a tenant's, and their validation must not delay other runs. A schema can be written
that takes for ever, so the work is counted and given up beyond a limit (see `json_schema_values`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Final

from perdure.api.base import JsonObject, compact_json
from perdure.api.validation.problems import ManifestProblem
from perdure.api.workflow import MAX_INPUT_BYTES
from perdure.domain.admission.json_schema import check_schema, field_path, subschemas
from perdure.domain.admission.json_schema_values import validate_value
from perdure.domain.expressions.templating import has_expression

#: Levels to which schemas are followed in search of defaults, and places visited in all.
_DEPTH: Final = 100
_PLACES: Final = 100_000


class _Endless(Exception):
    """Defaults that contain themselves, or are too large together."""


def check_parameters(schema: Mapping[str, Any], path: str = "spec.parameters") -> list[ManifestProblem]:
    """All problems of the parameters of a template, which are at `path`."""
    problems = check_schema(schema, path)
    if problems:
        return problems
    for pointer, part in subschemas(schema):
        if isinstance(part, Mapping) and "default" in part:
            place = f"{field_path(path, pointer)}.default"
            # Fields that a default leaves out may have defaults of their own.
            value, faults = _filled(schema, part, part["default"], place)
            problems += faults or validate_value(schema, value, place, part=part)
    return problems


def fill_inputs(
    schema: Mapping[str, Any], inputs: Mapping[str, Any], path: str = "spec.inputs"
) -> tuple[JsonObject, list[ManifestProblem]]:
    """Inputs with missing fields filled in from defaults, and their problems.

    The schema is one in which `check_parameters` finds no problem. `inputs` is not changed.
    """
    filled, problems = _filled(schema, schema, dict(inputs), path)
    size = 0 if problems else len(compact_json(filled))
    if size > MAX_INPUT_BYTES:
        message = (
            f"with defaults filled in it has {size} bytes of JSON; at most {MAX_INPUT_BYTES} are allowed"
        )
        problems = [ManifestProblem(path, message)]
    return filled, problems or validate_value(schema, filled, path)


def check_literals(schema: Mapping[str, Any], inputs: Mapping[str, Any], path: str) -> list[ManifestProblem]:
    """The problems of inputs that no value of their expressions can remedy."""
    filled, problems = _filled(schema, schema, dict(inputs), path)
    return problems or validate_value(schema, filled, path, unknown=tuple(_expressions(inputs)))


def _filled(root: Mapping[str, Any], schema: Any, value: Any, path: str) -> tuple[Any, list[ManifestProblem]]:
    filling = _Filling({f"#{pointer}": part for pointer, part in subschemas(root)})
    try:
        return filling.fill(schema, copy.deepcopy(value), 0), []
    except (_Endless, RecursionError):
        message = (
            "the defaults of its parameters fill themselves in without end, or are larger together than"
            f" {MAX_INPUT_BYTES} bytes: give fewer of them"
        )
        return value, [ManifestProblem(path, message)]


class _Filling:
    """Defaults as Kubernetes fills them in: for fields that are missing in a map that exists."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self._parts = parts
        self._places = _PLACES
        self._bytes = MAX_INPUT_BYTES

    def fill(self, schema: Any, value: Any, depth: int) -> Any:
        """`value`, changed in place, with the defaults that `schema` gives for it."""
        if not isinstance(schema, Mapping):
            return value
        self._places -= 1
        if depth > _DEPTH or self._places < 0:
            raise _Endless
        for part in (self._parts.get(schema.get("$ref", "")), *schema.get("allOf", ())):
            value = self.fill(part, value, depth + 1)
        if isinstance(value, list) and "items" in schema:
            for number in range(len(schema.get("prefixItems", ())), len(value)):
                value[number] = self.fill(schema["items"], value[number], depth + 1)
        elif isinstance(value, dict):
            self._fill_map(schema, value, depth)
        return value

    def _fill_map(self, schema: Mapping[str, Any], value: dict[str, Any], depth: int) -> None:
        properties = schema.get("properties", {})
        for name, part in properties.items():
            if name not in value:
                found = self._default(part)
                if not found:
                    continue
                value[name] = found[0]
            value[name] = self.fill(part, value[name], depth + 1)
        if isinstance(rest := schema.get("additionalProperties"), Mapping):
            for name in value.keys() - properties.keys():
                value[name] = self.fill(rest, value[name], depth + 1)

    def _default(self, schema: Any) -> tuple[Any, ...]:
        """The default of a schema or of the one it refers to, as a tuple of one; () if there is none."""
        for _ in range(_DEPTH):
            if not isinstance(schema, Mapping):
                return ()
            if "default" in schema:
                self._bytes -= len(compact_json(schema["default"]))
                if self._bytes < 0:
                    raise _Endless
                return (copy.deepcopy(schema["default"]),)
            schema = self._parts.get(schema.get("$ref", ""))
        return ()


def _expressions(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The locations of expressions in inputs."""
    if isinstance(value, str):
        if has_expression(value):
            yield path
    elif isinstance(value, Mapping):
        for name, part in value.items():
            yield from _expressions(part, (*path, name))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _expressions(part, (*path, number))
