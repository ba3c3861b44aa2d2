"""The reference page of the custom resources, generated from the models.

Every resource with its fields, defaults, bounds, rules and columns, from the same models as the CRDs, so that
the page says what the API server does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, get_args

from pydantic import BaseModel

from perdure.api import API_VERSION
from perdure.api.base import DNS_LABEL_PATTERN, DURATION_PATTERN, EXPRESSION_PATTERN, OBJECT_NAME_PATTERN
from perdure.api.codegen.descriptions import field_descriptions
from perdure.api.custom_resources import CATEGORY, CustomResource

_HEADER: Final = f"""\
<!-- Generated from the models in operator/perdure/api by `make docs`: change those. -->

# Reference

All kinds of `{API_VERSION}`, with every field. How they behave is in [semantics.md](semantics.md); runnable
examples of each construct are in [examples/language](../examples/language); limits are in
[limits.md](limits.md). `kubectl explain workflows.perdure.dev.spec` says the same in a terminal.

Manifests are strict: an unknown field is refused. A *duration* is text such as `10s`, `1h30m` or `250ms`, an
*expression* is CEL between `${{` and `}}`. Fields without *required* may be left out.
"""

#: The names of forms of text.
_FORMS: Final = {
    DURATION_PATTERN: "duration",
    EXPRESSION_PATTERN: "expression",
    DNS_LABEL_PATTERN: "DNS label",
    OBJECT_NAME_PATTERN: "object name",
}


def reference(resources: Sequence[CustomResource]) -> str:
    """The page, as Markdown."""
    parts = [_HEADER]
    shared: dict[str, type[BaseModel]] = {}
    tops = {model for kind in resources for model in (kind.spec, kind.status) if model is not None}
    for kind in resources:
        parts += _kind(kind)
        for model in (kind.spec, kind.status):
            if model is not None:
                shared |= {it.__name__: it for it in _parts(model) if it not in tops}
    parts.append("## Objects\n\nWhat the kinds are made of.\n")
    for name, model in shared.items():
        parts.append(f"### {name}\n\n{_summary(model)}\n")
        parts += _model(model)
    return "\n".join(parts)


def _kind(kind: CustomResource) -> Iterator[str]:
    yield f"## {kind.kind}\n\n{kind.description}\n"
    names = f"`{kind.crd_name}`, short `{kind.short_name}`, category `{CATEGORY}`"
    longest = f"; a name has at most {kind.max_name} characters and no dots" if kind.max_name else ""
    yield f"For kubectl: {names}{longest}.\n"
    yield f"### {kind.kind} spec\n\n{_summary(kind.spec)}\n"
    yield from _model(kind.spec)
    if kind.status is not None:
        yield f"### {kind.kind} status\n\n{_summary(kind.status)}\n"
        yield from _model(kind.status)
    yield f"### {kind.kind} columns\n\nWhat `kubectl get {kind.crd_name}` shows.\n"
    yield _table(
        ("column", "meaning"),
        [
            (column.name, f"{_sentence(column.description)}{' With `-o wide`.' if column.wide else ''}")
            for column in kind.columns
        ],
    )


def _summary(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _model(model: type[BaseModel]) -> Iterator[str]:
    """The fields of a model, and the rules beyond their types."""
    schema = model.model_json_schema(by_alias=True)
    texts = field_descriptions(model)
    required = schema.get("required", ())
    rows = []
    for name, field in model.model_fields.items():
        shown = field.alias or name
        node = schema["properties"][shown]
        must = " *required*" if shown in required else ""
        rows.append((f"`{shown}`", f"{_type(node)}{must}", texts.get(name, "")))
    yield _table(("field", "type", "meaning"), rows)
    places: dict[str, list[str]] = {}
    for rule in schema.get("x-kubernetes-validations", ()):
        places.setdefault(rule["message"], []).append(rule.get("fieldPath", "").lstrip("."))
    if places:
        yield "Also refused:\n"
        yield "".join(f"- {_place(paths)}{message}\n" for message, paths in places.items())


def _place(paths: Sequence[str]) -> str:
    shown = ", ".join(f"`{path}`" for path in paths if path)
    return f"{shown}: " if shown else ""


def _type(node: Mapping[str, Any]) -> str:
    """The type of a schema's node in words, links to objects included."""
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        if name == "JsonValue":
            return "any JSON"
        return f"[{name}](#{name.lower()})"
    if node.get("x-kubernetes-int-or-string"):
        return "number or percentage" if "%" in node.get("pattern", "") else "quantity"
    if "anyOf" in node:
        options = [option for option in node["anyOf"] if option.get("type") != "null"]
        return " or ".join(_type(option) for option in options)
    if "enum" in node:
        return " or ".join(f"`{value}`" for value in node["enum"])
    if "const" in node:
        return f"`{node['const']}`"
    kind = node.get("type")
    if kind == "array":
        items = "text" if node["items"].get("type") == "string" else _type(node["items"])
        return f"list of {items}{_bounds(node, 'minItems', 'maxItems', 'entries')}"
    if kind == "object":
        inner = node.get("additionalProperties")
        of = _type(inner).partition(",")[0] if isinstance(inner, dict) and inner else ""
        return (f"map of {of}" if of else "object") + _bounds(
            node, "minProperties", "maxProperties", "entries"
        )
    if kind == "string":
        if node.get("format") == "date-time":
            return "time"
        return _FORMS.get(node.get("pattern", "")) or f"text{_bounds(node, '', 'maxLength', 'characters')}"
    if kind in ("integer", "number"):
        return f"{kind}{_bounds(node, 'minimum', 'maximum', '')}"
    return {"boolean": "true or false"}.get(str(kind), "any JSON")


def _bounds(node: Mapping[str, Any], least: str, most: str, unit: str) -> str:
    low, high = node.get(least), node.get(most)
    unit = f" {unit}" if unit else ""
    if low is not None and high is not None:
        return f", {low:g} to {high:,g}{unit}" if isinstance(high, float) else f", {low} to {high:,}{unit}"
    if high is not None:
        return f", at most {high:,}{unit}"
    if low is not None:
        return f", at least {low:,}{unit}"
    return ""


def _parts(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The models inside a model, each before those inside it; some more than once."""
    for field in model.model_fields.values():
        for part in _models_in(field.annotation):
            yield part
            yield from _parts(part)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _sentence(text: str) -> str:
    return f"{text}." if text and not text.endswith(".") else text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
