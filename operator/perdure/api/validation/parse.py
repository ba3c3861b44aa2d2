"""Manifests parsed: the spec of an object as it was applied, or the list of its problems.

The API server has refused most mistakes before. But an object may have been stored under another schema, some
limits cannot be written in a schema, and a check without a cluster has no server. So everything that a
manifest shows by itself is checked here, and reported with the path of the field as the author wrote it and
the remedy. What needs the graph or an expression is checked by `perdure.domain.admission`.

For each resource there are two functions. `parse_…` returns a spec that can be run, or raises. `check_…`
raises nothing: the result has all problems, and a spec that is fit for further checks
(perdure.api.validation.checked), so that all faults are reported at once.

Resources that contain steps take the spec models of the step kinds (perdure.api.spec_models).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from perdure.api import API_VERSION
from perdure.api.agenttask import AgentTaskSpec
from perdure.api.agenttemplate import AgentTemplateSpec
from perdure.api.base import DNS_LABEL_PATTERN, Model
from perdure.api.custom_resources import (
    AGENT_TASK,
    AGENT_TEMPLATE,
    WORKFLOW,
    WORKFLOW_SCHEDULE,
    WORKFLOW_TEMPLATE,
    CustomResource,
)
from perdure.api.expression_limits import MAX_DEPTH, MAX_EXPRESSION_TEXT
from perdure.api.graph import MAX_INPUT_BYTES, InlineWorkflowSpec
from perdure.api.raw_spec import Found, Location, Raw, Repair, path_of
from perdure.api.spec_models import SpecModels
from perdure.api.step import MAX_WORKFLOW_DEPTH
from perdure.api.validation.checked import Checked
from perdure.api.validation.cross_field import (
    STEP_LISTS,
    StepNames,
    check_agent,
    check_choice_of_steps,
    check_container,
    check_graph,
    check_size,
)
from perdure.api.validation.problems import FORMS, InvalidManifest, ManifestProblem, quoted
from perdure.api.validation.repair import MAX_FAULTS, FaultBudget, validate
from perdure.api.workflow import WorkflowSpec
from perdure.api.workflowschedule import WorkflowScheduleSpec
from perdure.api.workflowtemplate import MAX_PARAMETERS_BYTES, WorkflowTemplateSpec

__all__ = [
    "MAX_DEPTH",
    "Checked",
    "InvalidManifest",
    "ManifestProblem",
    "check_agenttask",
    "check_agenttemplate",
    "check_inline_workflow",
    "check_workflow",
    "check_workflowschedule",
    "check_workflowtemplate",
    "parse_agenttask",
    "parse_agenttemplate",
    "parse_inline_workflow",
    "parse_workflow",
    "parse_workflowschedule",
    "parse_workflowtemplate",
]

_Spec = TypeVar("_Spec", bound=Model)
#: The cross-field checks of a raw spec.
_CrossField = Callable[[Raw, Found], StepNames]
#: The workflows that a raw spec writes out: the location and the result of each.
_Inside = Callable[[Raw, FaultBudget], Iterator[tuple[Location, Checked[Any]]]]


def parse_workflow(manifest: Mapping[str, Any], models: SpecModels) -> WorkflowSpec:
    """The spec of a Workflow object. Raises InvalidManifest."""
    return check_workflow(manifest, models).require()


def parse_agenttask(manifest: Mapping[str, Any]) -> AgentTaskSpec:
    """The spec of an AgentTask object. Raises InvalidManifest."""
    return check_agenttask(manifest).require()


def parse_agenttemplate(manifest: Mapping[str, Any]) -> AgentTemplateSpec:
    """The spec of an AgentTemplate object. Raises InvalidManifest."""
    return check_agenttemplate(manifest).require()


def parse_workflowtemplate(manifest: Mapping[str, Any], models: SpecModels) -> WorkflowTemplateSpec:
    """The spec of a WorkflowTemplate object. Raises InvalidManifest."""
    return check_workflowtemplate(manifest, models).require()


def parse_workflowschedule(manifest: Mapping[str, Any], models: SpecModels) -> WorkflowScheduleSpec:
    """The spec of a WorkflowSchedule object, whose Workflow is checked too. Raises InvalidManifest."""
    return check_workflowschedule(manifest, models).require()


def parse_inline_workflow(raw: Any, path: str, models: SpecModels) -> InlineWorkflowSpec:
    """The spec that a step writes out; `path` is that of the spec. Raises InvalidManifest."""
    return check_inline_workflow(raw, path, models).require()


def check_workflow(manifest: Mapping[str, Any], models: SpecModels) -> Checked[WorkflowSpec]:
    """All problems that a Workflow object shows by itself, and its spec, repaired if need be."""
    return _check_object(
        manifest, WORKFLOW, lambda raw, root, budget: _check_workflow_spec(raw, root, models, budget)
    )


def check_agenttask(manifest: Mapping[str, Any]) -> Checked[AgentTaskSpec]:
    """The same of an AgentTask object."""

    def cross_field(raw: Raw, found: Found) -> StepNames:
        check_agent(raw.at("agent"), found)
        check_container(raw.at("agent"), found)
        return StepNames()

    return _check_object(
        manifest,
        AGENT_TASK,
        lambda raw, root, budget: _check(raw, root, AgentTaskSpec, cross_field, budget=budget),
    )


def check_agenttemplate(manifest: Mapping[str, Any]) -> Checked[AgentTemplateSpec]:
    """The same of an AgentTemplate object."""

    def cross_field(raw: Raw, found: Found) -> StepNames:
        check_agent(raw, found)
        return StepNames()

    return _check_object(
        manifest,
        AGENT_TEMPLATE,
        lambda raw, root, budget: _check(raw, root, AgentTemplateSpec, cross_field, budget=budget),
    )


def check_workflowtemplate(manifest: Mapping[str, Any], models: SpecModels) -> Checked[WorkflowTemplateSpec]:
    """The same of a WorkflowTemplate object. That its `parameters` are a JSON Schema is not checked here."""

    def cross_field(raw: Raw, found: Found) -> StepNames:
        check_size(raw.at("parameters"), MAX_PARAMETERS_BYTES, found)
        return check_graph(raw, found, root="spec", kinds=models.kinds)

    return _check_object(
        manifest,
        WORKFLOW_TEMPLATE,
        lambda raw, root, budget: _check(
            raw,
            root,
            models.workflow_template,
            cross_field,
            models=models,
            inside=_inner(root, models),
            budget=budget,
        ),
    )


def check_workflowschedule(manifest: Mapping[str, Any], models: SpecModels) -> Checked[WorkflowScheduleSpec]:
    """The same of a WorkflowSchedule object; the Workflow in it is in `inner`, as `spec.workflow.spec`."""

    def inside(raw: Raw, budget: FaultBudget) -> Iterator[tuple[Location, Checked[WorkflowSpec]]]:
        spec = raw.at("workflow", "spec")
        if isinstance(spec.value, dict):
            yield spec.named, _check_workflow_spec(spec.value, path_of(spec.named, "spec"), models, budget)

    return _check_object(
        manifest,
        WORKFLOW_SCHEDULE,
        lambda raw, root, budget: _check(
            raw,
            root,
            WorkflowScheduleSpec,
            lambda *_: StepNames(),
            models=models,
            inside=inside,
            budget=budget,
        ),
    )


def check_inline_workflow(
    raw: Any, path: str, models: SpecModels, *, depth: int = 1, budget: FaultBudget | None = None
) -> Checked[InlineWorkflowSpec]:
    """The same of the spec that a step writes out.

    `path` is that of the spec, such as `spec.steps[2].workflow.spec`; `depth` is the number of workflows
    around it, whose faults come out of the same `budget`.
    """
    if depth > MAX_WORKFLOW_DEPTH:
        message = f"has {depth} workflows around it; at most {MAX_WORKFLOW_DEPTH} are allowed"
        return Checked(spec=None, problems=(ManifestProblem(path, message),), root=path)
    return _check(
        raw,
        path,
        models.inline_workflow,
        lambda whole, found: check_graph(whole, found, root=path, kinds=models.kinds),
        models=models,
        inside=_inner(path, models, depth),
        budget=budget,
    )


def _check_workflow_spec(
    raw: Any, root: str, models: SpecModels, budget: FaultBudget
) -> Checked[WorkflowSpec]:
    def cross_field(whole: Raw, found: Found) -> StepNames:
        check_choice_of_steps(whole, found)
        check_size(whole.at("inputs"), MAX_INPUT_BYTES, found)
        return check_graph(whole, found, root=root, kinds=models.kinds)

    inside = _inner(root, models)
    return _check(raw, root, models.workflow, cross_field, models=models, inside=inside, budget=budget)


def _inner(root: str, models: SpecModels, depth: int = 0) -> _Inside:
    """The workflows that steps write out, in a graph at `root` with `depth` workflows around it."""

    def inside(graph: Raw, budget: FaultBudget) -> Iterator[tuple[Location, Checked[InlineWorkflowSpec]]]:
        for field in STEP_LISTS:
            for step in graph.at(field).items():
                for kind in models.kinds:
                    block = step.at(kind.field)
                    for spec in kind.inner_workflows(block) if block.given else ():
                        if isinstance(spec.value, dict):
                            path = path_of(spec.named, root)
                            checked = check_inline_workflow(
                                spec.value, path, models, depth=depth + 1, budget=budget
                            )
                            yield spec.named, checked

    return inside


def _nothing_inside(_: Raw, __: FaultBudget) -> Iterator[tuple[Location, Checked[Any]]]:
    return iter(())


def _check_object(
    manifest: Mapping[str, Any],
    kind: CustomResource,
    check: Callable[[Any, str, FaultBudget], Checked[_Spec]],
) -> Checked[_Spec]:
    problems = tuple(_envelope_problems(manifest, kind))
    spec = manifest.get("spec")
    text = _expression_text(spec)
    if text > MAX_EXPRESSION_TEXT:
        message = (
            f"has {text:,} characters of text with expressions; at most {MAX_EXPRESSION_TEXT:,} are allowed: "
            "pass long values as inputs, or divide the work between Workflows"
        )
        return Checked(spec=None, problems=(*problems, ManifestProblem("spec", message)), root="spec")
    budget = FaultBudget()
    checked = check(spec, "spec", budget)
    if budget.exceeded:
        # What is left of such a spec is checked no further: it may have as many faults again.
        more = ManifestProblem("spec", f"has more than {MAX_FAULTS} faults; the others name the first ones")
        return replace(checked, spec=None, inner={}, problems=(*problems, *checked.problems, more))
    return replace(checked, problems=(*problems, *checked.problems))


def _expression_text(spec: Any) -> int:
    """Characters of the strings in which `${` is, without the inputs of the manifest, which are data."""
    size, unread = 0, [spec]
    while unread:
        value = unread.pop()
        if isinstance(value, str):
            size += len(value) if "${" in value else 0
        elif isinstance(value, dict):
            unread += [child for key, child in value.items() if value is not spec or key != "inputs"]
        elif isinstance(value, list):
            unread += value
    return size


def _envelope_problems(manifest: Mapping[str, Any], kind: CustomResource) -> Iterator[ManifestProblem]:
    # Items of a List may lack these two, but must not have wrong ones.
    for field, wanted in (("apiVersion", API_VERSION), ("kind", kind.kind)):
        if manifest.get(field, wanted) != wanted:
            yield ManifestProblem(field, f"must be {wanted}")
    metadata = manifest.get("metadata") or {}
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    longest = kind.max_name
    if longest is None or not isinstance(name, str):
        return
    if len(name) > longest or not re.fullmatch(DNS_LABEL_PATTERN, name):
        yield ManifestProblem(
            "metadata.name", f"{quoted(name)} {FORMS[DNS_LABEL_PATTERN]}; at most {longest} characters"
        )


def _check(
    raw: Any,
    root: str,
    model: type[_Spec],
    cross_field: _CrossField,
    *,
    models: SpecModels | None = None,
    inside: _Inside = _nothing_inside,
    budget: FaultBudget | None = None,
) -> Checked[_Spec]:
    """All checks of the spec at `root`."""
    if not isinstance(raw, dict):
        problem = ManifestProblem(root, "is required" if raw is None else "must be a map")
        return Checked(spec=None, problems=(problem,), root=root, names=StepNames(complete=False))
    repair = Repair(raw)
    budget = budget or FaultBudget()
    # Keyed by location and message, because checks of the repaired spec may find the same fault again.
    faults: dict[tuple[Location, str], ManifestProblem] = {}

    def found(at: Location, message: str) -> None:
        if not budget.spend():
            return
        path = path_of(at, root)
        # The whole path of a value that is nested too deeply helps no one.
        faults[at, message] = ManifestProblem(f"{path[:60]}…" if len(at) >= MAX_DEPTH else path, message)

    # First, because pydantic would report these places in its own terms.
    _check_json(repair, raw, (), found)
    spec, misspelt = validate(repair, model, found, models, budget)
    whole = Raw(repair, (), frozenset(misspelt))
    edits = repair.edits
    names = cross_field(whole, found)
    inner = {} if spec is None and budget.exceeded else dict(inside(whole, budget))
    for at, child in inner.items():
        faults |= {(at, str(problem)): problem for problem in child.problems}
    if repair.edits != edits:
        spec, _ = validate(repair, model, found, models, budget)
    places: dict[int, dict[Any, int]] = {}
    ordered = [faults[key] for key in sorted(faults, key=lambda key: _order(raw, key[0], places))]
    return Checked(
        spec=spec,
        # An inner workflow's check repeats what the JSON check of the whole manifest reports at its root.
        problems=tuple(dict.fromkeys(ordered)),
        names=names,
        inner={child.root: child for child in inner.values()},
        root=root,
        repair=repair,
    )


def _order(raw: Any, location: Location, known: dict[int, dict[Any, int]]) -> tuple[int, ...]:
    """The sort key of a location in the manifest; a missing field sorts to the end of its object.

    `known` has the places of the fields of objects, by the ids of these, for other locations in `raw`.
    """
    places = []
    for part in location:
        if isinstance(raw, dict):
            if id(raw) not in known:
                known[id(raw)] = {key: place for place, key in enumerate(raw)}
            places.append(known[id(raw)].get(part, len(raw)))
            raw = raw.get(part)
        elif isinstance(raw, list) and isinstance(part, int) and part < len(raw):
            places.append(part)
            raw = raw[part]
        else:
            break
    return tuple(places)


def _is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8. Files with escapes such as `\\ud800` hold others."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _check_json(repair: Repair, value: Any, at: Location, found: Found) -> None:
    """Report values that JSON or the ledger cannot store. Files on disk, unlike API servers, may hold any."""
    if isinstance(value, str):
        if "\0" in value:
            found(at, "must not hold the character U+0000")
            repair.replaced[at] = value.replace("\0", "")
        elif not _is_unicode(value):
            found(at, "must not hold one half of a surrogate pair: write the character itself")
            repair.replaced[at] = value.encode("utf-8", "replace").decode()
    elif isinstance(value, dict | list):
        if len(at) == MAX_DEPTH:
            found(at, f"is nested deeper than {MAX_DEPTH} levels")
            repair.replaced[at] = None
            return
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(value, dict) and (not isinstance(key, str) or "\0" in key or not _is_unicode(key)):
                found(at, f"{key!r} cannot be the name of a field: names are text, in quotes if need be")
                repair.drop((*at, key))
            else:
                _check_json(repair, child, (*at, key), found)
    elif isinstance(value, float):
        if not math.isfinite(value):
            found(at, f"is {value}, which is not JSON")
            repair.replaced[at] = 0
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            found(at, "has more than 64 bits: write it as text, in quotes")
            repair.replaced[at] = 0
    elif value is not None:
        found(at, f"is a {type(value).__name__}, not JSON: write it as text, in quotes")
        repair.replaced[at] = str(value)
