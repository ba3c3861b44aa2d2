"""From an object as it was applied to its spec, or to a list of what is wrong with it.

The API server has refused most mistakes before; but an object may have been stored under another schema,
some limits cannot be written in a schema, and a check without a cluster has no server. So everything that a
manifest shows by itself is checked here, with the path of the field as the author wrote it, and what to do
about it. What needs the graph or an expression is checked where those are known.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from perdure.api import API_VERSION
from perdure.api.agent import Agent, AgentContainer
from perdure.api.agenttask import AgentTaskSpec
from perdure.api.agenttemplate import AgentTemplateSpec
from perdure.api.base import DNS_LABEL_PATTERN, DURATION_PATTERN, OBJECT_NAME_PATTERN, Model, compact_json
from perdure.api.workflow import MAX_INPUT_BYTES, MAX_ITEMS, Step, WorkflowSpec

#: As many problems as a message names; a manifest with more has one cause, repeated.
_SHOWN: Final = 10

#: Levels of lists and maps in a spec. Deeper ones exhaust the stack of one parser or another.
MAX_DEPTH: Final = 100

_FORMS: Final = {
    DNS_LABEL_PATTERN: "is no DNS label: lower-case letters, digits and '-', the first and last no '-'",
    OBJECT_NAME_PATTERN: "is no object name: lower-case letters, digits, '-' and '.'",
    DURATION_PATTERN: "is not a duration; write it like 10s, 5m, 1h30m or 250ms",
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

_Spec = TypeVar("_Spec", bound=Model)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `path` is the field as in the manifest, such as `spec.steps[2].forEach`."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class InvalidManifest(Exception):
    """A manifest that can never run. `problems` has at least one entry, in the order of the manifest."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        text = "; ".join(str(problem) for problem in self.problems[:_SHOWN])
        more = len(self.problems) - _SHOWN
        return f"{text}; and {more} more" if more > 0 else text


def parse_workflow(manifest: Mapping[str, Any]) -> WorkflowSpec:
    """The spec of a Workflow object. Raises InvalidManifest."""
    spec = _parse(manifest, "Workflow", WorkflowSpec, run_name=True)
    _raise_if([*_inputs_problems(spec), *_steps_problems(spec)])
    return spec


def parse_agenttask(manifest: Mapping[str, Any]) -> AgentTaskSpec:
    """The spec of an AgentTask object. Raises InvalidManifest."""
    spec = _parse(manifest, "AgentTask", AgentTaskSpec, run_name=True)
    problems = list(_agent_problems(spec.agent, "spec.agent"))
    if not _names_container(spec.agent):
        problems.append(Problem("spec.agent", "names no container: give image or templateRef"))
    _raise_if(problems)
    return spec


def parse_agenttemplate(manifest: Mapping[str, Any]) -> AgentTemplateSpec:
    """The spec of an AgentTemplate object. Raises InvalidManifest."""
    spec = _parse(manifest, "AgentTemplate", AgentTemplateSpec, run_name=False)
    _raise_if(_agent_problems(spec, "spec"))
    return spec


def _raise_if(problems: Iterator[Problem] | Sequence[Problem]) -> None:
    found = list(problems)
    if found:
        raise InvalidManifest(found)


def _parse(manifest: Mapping[str, Any], kind: str, model: type[_Spec], *, run_name: bool) -> _Spec:
    problems = list(_envelope_problems(manifest, kind, run_name=run_name))
    raw = manifest.get("spec")
    if not isinstance(raw, dict):
        message = "is required" if raw is None else "must be a map"
        raise InvalidManifest([*problems, Problem("spec", message)])
    # First, because the model would name the place in its own terms.
    problems += _json_problems(raw, "spec")
    _raise_if(problems)
    try:
        # Only the names of the manifest: `depends_on` is a mistake there, though the model knows it.
        return model.model_validate(raw, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        found = [_problem(details, model) for details in error.errors(include_url=False)]
        raise InvalidManifest(found) from None


def _envelope_problems(manifest: Mapping[str, Any], kind: str, *, run_name: bool) -> Iterator[Problem]:
    # Items of a list may come without these two; wrong ones are another matter.
    for field, wanted in (("apiVersion", API_VERSION), ("kind", kind)):
        if manifest.get(field, wanted) != wanted:
            yield Problem(field, f"must be {wanted}")
    metadata = manifest.get("metadata") or {}
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if run_name and isinstance(name, str) and (len(name) > 63 or not re.fullmatch(DNS_LABEL_PATTERN, name)):
        yield Problem(
            "metadata.name",
            f"{_quoted(name)} {_FORMS[DNS_LABEL_PATTERN]}; at most 63 characters",
        )


# --- what pydantic found, in the author's words


def _problem(details: ErrorDetails, model: type[BaseModel]) -> Problem:
    return Problem(_path(details["loc"]), _message(details, model))


def _path(location: Sequence[int | str]) -> str:
    path = "spec"
    for part in location:
        path = _child(path, part)
    return path


def _child(path: str, part: int | str) -> str:
    """The path of an entry, by index or key, of what is at `path`."""
    if isinstance(part, int):
        return f"{path}[{part}]"
    return f"{path}.{part}" if re.fullmatch(r"[A-Za-z_][\w-]*", part) else f'{path}["{part}"]'


def _message(details: ErrorDetails, model: type[BaseModel]) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_field(str(details["loc"][-1]), _model_at(model, details["loc"][:-1]))
    if kind in _TYPES:
        return _TYPES[kind]
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_pattern_mismatch":
        form = _FORMS.get(context["pattern"], f"must match {context['pattern']}")
        return f"{_quoted(details['input'])} {form}"
    if kind == "string_too_long":
        return f"has {len(details['input'])} characters; at most {context['max_length']} are allowed"
    if kind == "string_too_short":
        return "must not be empty"
    if kind == "too_long":
        return f"has {len(details['input'])} entries; at most {context['max_length']} are allowed"
    if kind == "too_short":
        return f"must have at least {context['min_length']} entry"
    if kind == "greater_than_equal":
        return f"is {details['input']}; it must be at least {context['ge']}"
    if kind == "less_than_equal":
        return f"is {details['input']}; it must be at most {context['le']}"
    return details["msg"]


def _quoted(value: object) -> str:
    text = str(value)
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def _unknown_field(name: str, model: type[BaseModel] | None) -> str:
    known = [field.alias or key for key, field in model.model_fields.items()] if model else []
    folded = {_folded(field): field for field in known}
    close = difflib.get_close_matches(_folded(name), folded, n=1)
    if close:
        return f"unknown field; did you mean {folded[close[0]]}?"
    return f"unknown field; known are {', '.join(known)}" if known else "unknown field"


def _folded(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def _model_at(model: type[BaseModel] | None, location: Sequence[int | str]) -> type[BaseModel] | None:
    """The model of the object at a location inside `model`; None if there is none."""
    for part in location:
        if isinstance(part, int) or model is None:
            continue
        fields = {field.alias or key: field for key, field in model.model_fields.items()}
        model = _model_in(fields[part].annotation) if part in fields else None
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


# --- what a type cannot say


def _json_problems(value: Any, path: str, depth: int = 0) -> Iterator[Problem]:
    """What JSON or the ledger cannot store. A server refuses most of it; a file on disk may hold anything."""
    if isinstance(value, str):
        if "\0" in value:
            yield Problem(path, "must not hold the character U+0000")
    elif isinstance(value, dict | list):
        if depth == MAX_DEPTH:
            yield Problem(f"{path[:60]}…", f"is nested deeper than {MAX_DEPTH} levels")
            return
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for key, child in entries:
            if isinstance(value, dict) and (not isinstance(key, str) or "\0" in key):
                yield Problem(
                    path, f"{key!r} cannot be the name of a field: names are text, in quotes if need be"
                )
            else:
                yield from _json_problems(child, _child(path, key), depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            yield Problem(path, f"is {value}, which is not JSON")
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            yield Problem(path, "has more than 64 bits: write it as text, in quotes")
    elif value is not None:
        yield Problem(path, f"is a {type(value).__name__}, not JSON: write it as text, in quotes")


def _inputs_problems(spec: WorkflowSpec) -> Iterator[Problem]:
    size = len(compact_json(spec.inputs))
    if size > MAX_INPUT_BYTES:
        yield Problem(
            "spec.inputs",
            f"has {size} bytes as compact JSON; at most {MAX_INPUT_BYTES} are allowed: put large data where "
            "agents can fetch it, and its address here",
        )


def _steps_problems(spec: WorkflowSpec) -> Iterator[Problem]:
    if spec.defaults.agent is not None:
        yield from _agent_problems(spec.defaults.agent, "spec.defaults.agent")
    has_default = _names_container(spec.defaults.agent)
    first: dict[str, int] = {}
    for number, step in enumerate(spec.steps):
        path = f"spec.steps[{number}]"
        if step.name in first:
            yield Problem(
                f"{path}.name",
                f"{step.name!r} is the name of spec.steps[{first[step.name]}] already: give each its own",
            )
        first.setdefault(step.name, number)
        yield from _dependency_problems(step, path)
        yield from _for_each_problems(step.for_each, f"{path}.forEach")
        if step.agent is not None:
            yield from _agent_problems(step.agent, f"{path}.agent")
        if not has_default and not _names_container(step.agent):
            yield Problem(
                f"{path}.agent",
                "names no container: give image or templateRef, here or in spec.defaults.agent",
            )


def _dependency_problems(step: Step, path: str) -> Iterator[Problem]:
    seen: set[str] = set()
    for number, name in enumerate(step.depends_on):
        where = f"{path}.dependsOn[{number}]"
        if name == step.name:
            yield Problem(where, "a step cannot depend on itself: remove its name")
        elif name in seen:
            yield Problem(where, f"{name!r} is listed twice: remove one")
        seen.add(name)


def _for_each_problems(items: Any, path: str) -> Iterator[Problem]:
    if isinstance(items, list | dict):
        if len(items) > MAX_ITEMS:
            yield Problem(
                path,
                f"has {len(items)} items; at most {MAX_ITEMS} are allowed: give each item more to do, or make"
                " several Workflows",
            )
    elif isinstance(items, str):
        if "${" not in items:
            yield Problem(path, "must be a list, a map, or one expression such as ${inputs.files}")
    elif items is not None:
        yield Problem(path, "must be a list, a map, or one expression such as ${inputs.files}")


def _names_container(agent: Agent | None) -> bool:
    return agent is not None and (agent.image is not None or agent.template_ref is not None)


def _agent_problems(agent: AgentContainer, path: str) -> Iterator[Problem]:
    seen: set[str] = set()
    for number, variable in enumerate(agent.env or ()):
        if variable.name in seen:
            yield Problem(f"{path}.env[{number}].name", f"{variable.name!r} is set twice: remove one")
        seen.add(variable.name)
