"""The base of all resource models, so that every field behaves alike.

Manifests are camelCase and strict: an unknown field is an error, never silently dropped. Field descriptions
are the `#:` comments and docstrings of the models; `api/codegen` carries them into `kubectl explain`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Final

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, PlainValidator, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from perdure.api.expression_limits import MAX_COUNT as MAX_COUNT
from perdure.api.expression_limits import MAX_EXPRESSION as MAX_EXPRESSION

_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
#: RFC 3339 with a zone.
TIME_PATTERN: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})$"
)
#: Ten years. Longer durations overflow dates sooner or later, and are a mistake.
_MAX_DURATION_HOURS: Final = 87600

_QUANTITY = re.compile(
    r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+))?"
)

#: The form of a string that is one expression. Its syntax is checked when the expression is compiled.
EXPRESSION_PATTERN: Final = r"^\s*\$\{[\s\S]*\}\s*$"
_PERCENTAGE: Final = r"^(100|[1-9]?[0-9])%$"

Json = JsonValue
JsonObject = dict[str, Any]


@lru_cache(maxsize=1024)
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


def parse_time(text: str) -> datetime:
    """The aware time in RFC 3339 text such as `2026-11-21T08:00:00Z`. Raises ValueError, naming that form."""
    try:
        if re.fullmatch(TIME_PATTERN, text, re.ASCII):
            return datetime.fromisoformat(text)
    except ValueError:
        pass  # A day or an hour that does not exist.
    raise ValueError(f"{text!r} is not a time with a zone; write it like 2026-11-21T08:00:00Z")


def compact_json(value: Any) -> bytes:
    """`value` as compact UTF-8 JSON, the form whose size all limits mean.

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
    """A CEL rule for a part that cannot change, checked at creation only.

    Rules run on every write, status patches included; those over all steps doubled the cost of a patch.
    """
    return rule(f"oldSelf.hasValue() || ({expression})", message, path=path) | {"optionalOldSelf": True}


def rules_of_control(fields: Iterable[str], kind: str) -> list[JsonObject]:
    """The rules for the root of an object in whose spec only `desiredState` can change.

    `fields` are the other fields that rules can see. Rules see no free-form fields, but a comparison of the
    whole spec does. So only a write that changes such a field and `desiredState` at once is left to the
    ValidatingAdmissionPolicy.
    """
    unchanged = " && ".join(
        f"has(self.spec.{it}) == has(oldSelf.spec.{it})"
        f" && (!has(self.spec.{it}) || self.spec.{it} == oldSelf.spec.{it})"
        for it in fields
    )
    here, before = "self.spec.desiredState", "oldSelf.spec.desiredState"
    return [
        rule(
            # Comparing a spec takes longer than the rest of a status write, which cannot change the spec. A
            # status write is known by its status: no other write changes the status.
            "has(self.status) != has(oldSelf.status) || (has(self.status) && self.status != oldSelf.status)"
            f" || (has({here}) == has({before}) && (!has({here}) || {here} == {before})"
            f" ? self.spec == oldSelf.spec : ({unchanged}))",
            "nothing but desiredState can be changed once it is applied: apply it under a new name, or delete"
            f" this {kind} and apply it again",
            path=".spec",
        ),
        rule(
            "!has(oldSelf.spec.desiredState) || oldSelf.spec.desiredState != 'Cancelled'"
            " || (has(self.spec.desiredState) && self.spec.desiredState == 'Cancelled')",
            f"Cancelled is final: apply the {kind} under a new name to run it again",
            path=".spec.desiredState",
        ),
    ]


def rules(*made: JsonObject) -> JsonObject:
    """The schema extra that holds CEL rules."""
    return {"x-kubernetes-validations": list(made)}


def list_map(key: str) -> JsonObject:
    """The schema extra of a list of objects that have a unique `key`, so that appliers merge by it."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


#: The schema extra of an object that is applied as a whole. No applier needs to own a part of what cannot
#: change, and the bookkeeping of parts (managedFields) is larger than the object, and most of a patch's cost.
APPLIED_WHOLE: Final[JsonObject] = {"x-kubernetes-map-type": "atomic"}

#: The schema extra of a list that is applied as a whole.
LIST_WHOLE: Final[JsonObject] = {"x-kubernetes-list-type": "atomic"}

#: The schema extra of a list without duplicates.
LIST_SET: Final[JsonObject] = {"x-kubernetes-list-type": "set"}


def _checked_duration(text: str) -> str:
    parse_duration(text)
    return text


def _checked_time(text: str) -> str:
    parse_time(text)
    return text


def _checked_timeout(text: str) -> str:
    if parse_duration(text) == 0:
        raise ValueError("must be longer than 0s: leave it out for no limit")
    return text


def _checked_quantity(value: object) -> str | int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and len(value) <= 64 and _QUANTITY.fullmatch(value):
        return value
    hint = f', such as "{value}"' if isinstance(value, float) else ""
    raise ValueError(f"must be a whole number, or a quantity in quotes{hint or ', such as 500m, 1.5 or 2Gi'}")


def _checked_expression(text: str) -> str:
    return text.strip()


def _checked_percentage(value: object) -> str | int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT:
        return value
    if isinstance(value, str) and re.fullmatch(_PERCENTAGE, value):
        return value
    raise ValueError(f"must be a whole number from 0 to {MAX_COUNT}, or a percentage such as 20%")


#: A Go-style duration: `10s`, `1h30m`, `250ms`.
Duration = Annotated[
    str,
    Field(pattern=DURATION_PATTERN, max_length=32),
    AfterValidator(_checked_duration),
]

#: A duration above zero: a limit of 0 would end everything at once.
Timeout = Annotated[Duration, AfterValidator(_checked_timeout)]

#: A time with a zone as RFC 3339 writes it: `2026-11-21T08:00:00Z`. Read it with `parse_time`.
Time = Annotated[str, Field(pattern=TIME_PATTERN, max_length=40), AfterValidator(_checked_time)]

#: One `${}` expression and nothing else but space, which is stripped.
Expression = Annotated[
    str,
    Field(pattern=EXPRESSION_PATTERN, max_length=MAX_EXPRESSION),
    AfterValidator(_checked_expression),
]

#: A share of the items of a `forEach`: a number of them, or a percentage such as `20%`.
Share = Annotated[
    str | int,
    PlainValidator(_checked_percentage),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": _PERCENTAGE,
            "minimum": 0,
            "maximum": MAX_COUNT,
            "maxLength": 4,
            "x-kubernetes-int-or-string": True,
        }
    ),
]

#: Any JSON by name, applied as a whole.
JsonMap = Annotated[
    dict[str, Json], WithJsonSchema({"type": "object", "additionalProperties": True} | APPLIED_WHOLE)
]

#: Any JSON object; the schema says nothing of its fields.
FreeObject = Annotated[
    dict[str, Any], WithJsonSchema({"type": "object", "additionalProperties": True} | APPLIED_WHOLE)
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


def is_free_form(field: FieldInfo) -> bool:
    """True for a field of any JSON, which has no type in the CRD, so that CEL rules cannot see it."""
    return field.annotation in (Json, dict[str, Json], dict[str, Any])


class Model(BaseModel):
    """Base of every spec and status model: camelCase outside, snake_case inside, frozen, strict."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
    )

    @classmethod
    def fields(cls) -> dict[str, FieldInfo]:
        """The fields by their names in manifests, in order."""
        return {info.alias or name: info for name, info in cls.model_fields.items()}

    def manifest(self) -> JsonObject:
        """The model as it stands in a manifest: camelCase, unset fields left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)
