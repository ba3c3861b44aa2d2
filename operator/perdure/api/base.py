"""What all resource models share, so that every field behaves alike.

Manifests are camelCase and strict: an unknown field is an error, never silently dropped. Field descriptions
are the `#:` comments and docstrings of the models; `perdure.api.crds` carries them into `kubectl explain`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, PlainValidator, WithJsonSchema
from pydantic.alias_generators import to_camel

_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
#: Ten years. Longer ones overflow dates sooner or later, and nobody means them.
_MAX_DURATION_HOURS: Final = 87600

_QUANTITY = re.compile(
    r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+))?"
)


Json = JsonValue
JsonObject = dict[str, Any]


def parse_duration(text: str) -> float:
    """Seconds in a duration written like `1h30m`, `10s` or `250ms`.

    Raises ValueError, naming the accepted form, for anything else and for more than ten years.
    """
    if not re.fullmatch(DURATION_PATTERN, text, re.ASCII):
        raise ValueError(f"{text!r} is not a duration; write it like 10s, 5m, 1h30m or 250ms")
    seconds = sum(float(amount) * _UNIT_SECONDS[unit] for amount, unit in _DURATION_PART.findall(text))
    if seconds > _MAX_DURATION_HOURS * 3600:
        raise ValueError(f"{text!r} is longer than {_MAX_DURATION_HOURS}h (ten years)")
    return seconds


def compact_json(value: Any) -> bytes:
    """`value` as compact UTF-8 JSON: the form in which all size limits count.

    Raises ValueError for what cannot be JSON, or nests deeper than 254 levels.
    """
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError as error:
        raise ValueError(str(error)) from None


def rule(expression: str, message: str, *, path: str = "") -> JsonObject:
    """A CEL rule of the schema that it stands in. `path` (`.field`) is where the error is shown."""
    made: JsonObject = {"rule": expression, "message": message}
    if path:
        made["fieldPath"] = path
    return made


def rule_on_create(expression: str, message: str, *, path: str = "") -> JsonObject:
    """A CEL rule for a part that cannot change, checked once.

    Rules run on every write, a status patch included, and those over all steps made it twice as dear.
    """
    return rule(f"oldSelf.hasValue() || ({expression})", message, path=path) | {"optionalOldSelf": True}


def rules(*made: JsonObject) -> JsonObject:
    """The schema extra that holds CEL rules."""
    return {"x-kubernetes-validations": list(made)}


def list_map(key: str) -> JsonObject:
    """The schema extra of a list of objects that have a unique `key`, so that appliers merge by it."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


#: The schema extra of an object that is applied as a whole. Of what cannot change nobody need own a part, and
#: the bookkeeping of parts (managedFields) was larger than the spec itself, and most of the cost of a patch.
APPLIED_WHOLE: Final[JsonObject] = {"x-kubernetes-map-type": "atomic"}

#: The schema extra of a list without duplicates.
LIST_SET: Final[JsonObject] = {"x-kubernetes-list-type": "set"}


def _checked_duration(text: str) -> str:
    parse_duration(text)
    return text


def _checked_quantity(value: object) -> str | int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value) <= 64 and _QUANTITY.fullmatch(value):
        return value
    hint = f', such as "{value}"' if isinstance(value, float) else ""
    raise ValueError(f"must be a whole number, or a quantity in quotes{hint or ', such as 500m, 1.5 or 2Gi'}")


#: A Go-style duration: `10s`, `1h30m`, `250ms`.
Duration = Annotated[
    str,
    Field(pattern=DURATION_PATTERN, max_length=32),
    AfterValidator(_checked_duration),
]

#: A resource quantity as in a pod: a whole number, or text such as `500m` or `2Gi`.
Quantity = Annotated[
    str | int,
    PlainValidator(_checked_quantity),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": f"^{_QUANTITY.pattern}$",
            "maxLength": 64,
            "x-kubernetes-int-or-string": True,
        }
    ),
]

DNS_LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
OBJECT_NAME_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"

#: A DNS label, the form of step names and most object names.
DnsLabel = Annotated[str, Field(pattern=DNS_LABEL_PATTERN, min_length=1, max_length=63)]

#: The name of another object in the same namespace.
ObjectName = Annotated[str, Field(pattern=OBJECT_NAME_PATTERN, min_length=1, max_length=253)]


class Model(BaseModel):
    """Base of every spec and status model: camelCase outside, snake_case inside, frozen, strict."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
    )

    def manifest(self) -> JsonObject:
        """The model as it stands in a manifest: camelCase, unset fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)
