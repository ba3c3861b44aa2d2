"""Structural schemas, as Kubernetes requires them, from pydantic models.

A structural schema is a small dialect: no references, no unions, one type per node. A model that says more
than that dialect can is an error here, not a schema that means something else.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from perdure.api.codegen.descriptions import field_descriptions

Schema = dict[str, Any]

_ANY_JSON: Schema = {"nullable": True, "x-kubernetes-preserve-unknown-fields": True}
_RULES = "x-kubernetes-validations"
_BOUNDS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "pattern")

#: The keywords of a node, in the order in which they are written.
_KEYWORDS = (
    "description",
    "type",
    "format",
    "enum",
    "minimum",
    "maximum",
    *_BOUNDS,
    "nullable",
    "required",
    "x-kubernetes-int-or-string",
    "anyOf",
    "x-kubernetes-map-type",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-preserve-unknown-fields",
    _RULES,
    "items",
    "additionalProperties",
    "properties",
)
#: Keywords of pydantic that a structural schema does not have. Defaults are in the descriptions, because a
#: default that the server fills in would be stored with every object and could never change.
_DROPPED = frozenset({"title", "default"})


class UnsupportedSchema(Exception):
    """A model that a structural schema cannot express."""


class _Described(GenerateJsonSchema):
    """pydantic's generator, plus the fields' comments."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = super().model_schema(schema)
        cls: type[BaseModel] = schema["cls"]
        for name, text in field_descriptions(cls).items():
            made["properties"][cls.model_fields[name].alias or name]["description"] = text
        return made


def spec_schema(model: type[BaseModel]) -> Schema:
    """The model as a structural schema: bounded and strict."""
    whole = model.model_json_schema(by_alias=True, schema_generator=_Described)
    return _structural(whole, whole.get("$defs", {}), model.__name__)


def status_schema(model: type[BaseModel]) -> Schema:
    """The model as types and descriptions without bounds, keeping unknown fields.

    An operator that is newer than the installed schema must be able to write its status. The operator is the
    only writer, hence atomic: bookkeeping of field owners would make each object a kilobyte larger and each
    write a quarter more expensive.
    """
    schema = {**_loosened(spec_schema(model)), "x-kubernetes-map-type": "atomic"}
    return _ordered(schema, model.__name__)


def _structural(node: Schema, definitions: dict[str, Schema], path: str) -> Schema:
    node = {key: value for key, value in node.items() if key not in _DROPPED and key != "$defs"}
    if "$ref" in node:
        target = definitions[node.pop("$ref").rpartition("/")[2]]
        return _structural({**target, **node}, definitions, path)
    if "anyOf" in node and "x-kubernetes-int-or-string" not in node:
        others = [option for option in node.pop("anyOf") if option.get("type") != "null"]
        if len(others) != 1:
            raise UnsupportedSchema(f"{path}: a union of {len(others)} types")
        return _structural({**others[0], **node}, definitions, path)
    if not node.keys() - {"description"}:
        return _ordered({**node, **_ANY_JSON}, path)
    if "items" in node:
        node["items"] = _structural(node["items"], definitions, f"{path}[]")
    if "properties" in node:
        node["properties"] = {
            name: _structural(child, definitions, f"{path}.{name}")
            for name, child in node["properties"].items()
        }
    # Kubernetes refuses unknown fields by default, and has no keyword for that.
    if node.get("additionalProperties") is False:
        del node["additionalProperties"]
    elif node.get("additionalProperties") is True:
        node["additionalProperties"] = dict(_ANY_JSON)
    elif "additionalProperties" in node:
        node["additionalProperties"] = _structural(node["additionalProperties"], definitions, f"{path}.*")
    return _ordered(node, path)


def _ordered(node: Schema, path: str) -> Schema:
    strange = node.keys() - set(_KEYWORDS)
    if strange:
        raise UnsupportedSchema(f"{path}: {', '.join(sorted(strange))}")
    ordered = {key: node[key] for key in _KEYWORDS if key in node}
    if _RULES in ordered:
        ordered[_RULES] = [dict(sorted(rule.items(), reverse=True)) for rule in ordered[_RULES]]
    return ordered


def _loosened(node: Schema, required: tuple[str, ...] = ()) -> Schema:
    loose = {key: value for key, value in node.items() if key not in (*_BOUNDS, "enum", "required")}
    if "items" in loose:
        # A list merged by key needs the key; that is the one thing that stays required.
        loose["items"] = _loosened(loose["items"], tuple(loose.get("x-kubernetes-list-map-keys", ())))
    if "properties" in loose:
        loose["properties"] = {name: _loosened(child) for name, child in loose["properties"].items()}
        loose["x-kubernetes-preserve-unknown-fields"] = True
    if required:
        loose["required"] = list(required)
    return _ordered(loose, "status")
