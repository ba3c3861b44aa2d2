"""Problems of a manifest in its author's words: the path of the field, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from perdure.api.base import (
    DNS_LABEL_PATTERN,
    DURATION_PATTERN,
    EXPRESSION_PATTERN,
    OBJECT_NAME_PATTERN,
    TIME_PATTERN,
)
from perdure.api.graph import Graph, InlineWorkflowSpec
from perdure.api.policies import Retry
from perdure.api.raw_spec import Location
from perdure.api.step import Repeat, Step
from perdure.api.workflowtemplate import WorkflowTemplateSpec

#: Problems that a message names. A manifest with more usually repeats one mistake.
_SHOWN: Final = 10
#: Similarity (difflib) from which an unknown name is taken for the known one, not only suggested.
_SURELY_MEANT: Final = 0.75

FORMS: Final = {
    DNS_LABEL_PATTERN: "is no DNS label: lower-case letters, digits and '-', the first and last no '-'",
    OBJECT_NAME_PATTERN: "is no object name: lower-case letters, digits, '-' and '.'",
    DURATION_PATTERN: "is not a duration; write it like 10s, 5m, 1h30m or 250ms",
    TIME_PATTERN: "is not a time with a zone; write it like 2026-11-21T08:00:00Z",
    EXPRESSION_PATTERN: "is not one expression; write it like ${steps.a.output > 1}",
}

_TYPES: Final = {
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be a map",
    "model_type": "must be a map",
    "model_attributes_type": "must be a map",
    "missing": "is required",
}

#: Fields that people put where they do not belong, and where they do. Those of a step follow from its kinds.
_MISPLACED: Final[dict[tuple[type[BaseModel], str], str]] = {
    (InlineWorkflowSpec, "inputs"): "unknown field; it belongs next to spec, in workflow.inputs",
    (InlineWorkflowSpec, "parameters"): "unknown field; only a WorkflowTemplate has it",
    (InlineWorkflowSpec, "templateRef"): "unknown field; it belongs in workflow, instead of spec",
    (InlineWorkflowSpec, "desiredState"): "unknown field; that of the workflow around it holds",
    (Retry, "when"): "unknown field; it is called on",
    (WorkflowTemplateSpec, "inputs"): "unknown field; the inputs of a template are described in parameters",
    (WorkflowTemplateSpec, "templateRef"): "unknown field; a workflow step takes it",
}


@dataclass(frozen=True, slots=True)
class ManifestProblem:
    """A problem of one field. `path` is the field as in the manifest, such as `spec.steps[2].forEach`."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class InvalidManifest(Exception):
    """A manifest that can never run. `problems` has at least one entry, in the order of the manifest."""

    def __init__(self, problems: Sequence[ManifestProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        text = "; ".join(str(problem) for problem in self.problems[:_SHOWN])
        more = len(self.problems) - _SHOWN
        return f"{text}; and {more} more" if more > 0 else text


def message_of(details: ErrorDetails, model: type[BaseModel]) -> str:
    """The message of one pydantic error in `model`, for people who do not know pydantic."""
    kind, context = details["type"], details.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_field(str(details["loc"][-1]), model_at(model, details["loc"][:-1]))
    if kind in _TYPES:
        return _TYPES[kind]
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"is {quoted(details['input'])}; it must be {context['expected'].replace(chr(39), '')}"
    if kind == "string_pattern_mismatch":
        form = FORMS.get(context["pattern"], f"must match {context['pattern']}")
        return f"{quoted(details['input'])} {form}"
    if kind == "string_too_long":
        return f"has {len(details['input'])} characters; at most {context['max_length']} are allowed"
    if kind == "string_too_short":
        return "must not be empty"
    if kind == "too_long":
        return f"has {len(details['input'])} entries; at most {context['max_length']} are allowed"
    if kind == "too_short":
        return f"must have at least {context['min_length']} entry"
    if kind == "greater_than_equal":
        return f"is {details['input']}; it must be at least {context['ge']:g}"
    if kind == "less_than_equal":
        return f"is {details['input']}; it must be at most {context['le']:g}"
    return details["msg"]


def quoted(value: object) -> str:
    """A value in a message: in quotes, and short."""
    text = str(value)
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def _unknown_field(name: str, model: type[BaseModel] | None) -> str:
    if (place := _right_place(name, model)) is not None:
        return place
    close = _closest(name, model, 0.6)
    if close:
        return f"unknown field; did you mean {close}?"
    known = field_names(model)
    return f"unknown field; known are {', '.join(known)}" if known else "unknown field"


def surely_meant(name: str, model: type[BaseModel] | None) -> str | None:
    """The known field that an unknown one stands for; None if that is in doubt."""
    if model is None or _right_place(name, model) is not None:
        return None
    return _closest(name, model, _SURELY_MEANT)


def is_misplaced(location: Location, model: type[BaseModel]) -> bool:
    """True if an unknown field at `location` inside `model` is a known one of what lies around it."""
    owner = model_at(model, location[:-1])
    return owner is not None and issubclass(owner, Graph) and _listed(str(location[-1]), owner) is not None


def _right_place(name: str, model: type[BaseModel] | None) -> str | None:
    """What to say of an unknown field that is known elsewhere; None if it is not."""
    if model is None:
        return None
    if (listed := _listed(name, model)) is not None or not issubclass(model, Step):
        return listed
    for kind in model.KINDS:
        if name in kind.misplaced:
            return f"unknown field; {kind.misplaced[name]}"
    blocks: list[tuple[str, type[BaseModel]]] = [("repeat", Repeat)]
    blocks += [(kind.field, kind.block) for kind in model.KINDS]
    places = [f"in {field}" for field, block in blocks if name in field_names(block)]
    return f"unknown field; it belongs {' or '.join(places)}" if places else None


def _listed(name: str, model: type[BaseModel]) -> str | None:
    return next((_MISPLACED[base, name] for base in model.__mro__ if (base, name) in _MISPLACED), None)


def _closest(name: str, model: type[BaseModel] | None, cutoff: float) -> str | None:
    folded = {_folded(field): field for field in field_names(model)}
    close = difflib.get_close_matches(_folded(name), folded, n=1, cutoff=cutoff)
    return folded[close[0]] if close else None


def _folded(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def field_names(model: type[BaseModel] | None) -> list[str]:
    """The fields of a model as they are called in manifests."""
    return list(_models_in(model)) if model else []


@lru_cache(maxsize=256)
def _models_in(model: type[BaseModel]) -> Mapping[str, type[BaseModel] | None]:
    """The model of each field, as the field is called in manifests; None for a field without one."""
    return {field.alias or key: _model_in(field.annotation) for key, field in model.model_fields.items()}


def model_at(model: type[BaseModel] | None, location: Location) -> type[BaseModel] | None:
    """The model of the object at a location inside `model`; None if there is none."""
    for part in location:
        if isinstance(part, int) or model is None:
            continue
        model = _models_in(model).get(part)
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
