"""Manifests checked without a cluster: every problem that the API server and the operator would report.

Templates in the given files are used. A template that is in none of them is a note, not a fault, because it
may exist in the cluster.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from perdure.api import API_VERSION, GROUP
from perdure.api.agent import AgentContainer
from perdure.api.custom_resources import (
    AGENT_TASK,
    AGENT_TEMPLATE,
    KINDS,
    WORKFLOW,
    WORKFLOW_SCHEDULE,
    WORKFLOW_TEMPLATE,
)
from perdure.api.spec_models import SpecModels
from perdure.api.validation.checked import Checked
from perdure.api.validation.parse import (
    check_agenttask,
    check_agenttemplate,
    check_workflow,
    check_workflowschedule,
    check_workflowtemplate,
)
from perdure.api.validation.problems import ManifestProblem
from perdure.api.workflowtemplate import WorkflowTemplateSpec
from perdure.cli.documents import Document, Place, Slip, read_documents
from perdure.domain.admission.accept import (
    AdmissionResult,
    check_agent_task,
    check_agent_template,
    check_workflow_spec,
    check_workflow_template,
)
from perdure.domain.admission.context import Admission
from perdure.domain.admission.templates import ParsedTemplates

_Parser = Callable[[Mapping[str, Any]], Checked[Any]]
_NOTHING: Final[Checked[Any]] = Checked(spec=None, problems=())
_FIELDS: Final = ("apiVersion", "kind", "metadata", "spec", "status")
#: The note for a null.
_DROPPED: Final = (
    "is null, which `kubectl apply` drops; apply the manifest with --server-side, or leave the field out"
)
_OF_TEMPLATE: Final = re.compile(r"(AgentTemplate|WorkflowTemplate) (\S+): (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A message about one place in a file. A note is no fault."""

    file: str
    line: int
    #: Of the object; '' where there is none.
    kind: str = ""
    name: str = ""
    #: Of the field; '' if it is the whole text or object.
    path: str = ""
    message: str
    note: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Object:
    """One object of our API group, as far as it could be read."""

    file: str
    place: Place
    kind: str
    name: str
    namespace: str | None
    manifest: Mapping[str, Any]
    checked: Checked[Any]

    def finding(self, problem: ManifestProblem, *, note: bool = False) -> Finding:
        return Finding(
            file=self.file,
            line=self.place.line_of(problem.path),
            kind=self.kind,
            name=self.name,
            path=problem.path,
            message=problem.message,
            note=note,
        )


@dataclass(slots=True)
class Checkup:
    """The findings in some files."""

    objects: list[Object] = field(default_factory=list)
    #: By file as they were given, by line in each.
    findings: list[Finding] = field(default_factory=list)
    #: Documents of other API groups, which are not checked.
    skipped: int = 0

    @property
    def faults(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.note]


def check_files(files: Sequence[tuple[str, str]], models: SpecModels, *, strict: bool = False) -> Checkup:
    """Check the texts of some files, each given with its name. `strict` makes faults of notes."""
    parsers = _parsers(models)
    checkup = Checkup()
    found: dict[Finding, None] = {}
    for file, text in files:
        for part in read_documents(text):
            if isinstance(part, Slip):
                found[Finding(file=file, line=part.line, path=part.path, message=part.message)] = None
            else:
                found |= dict.fromkeys(_add_object(checkup, file, part, parsers))
    catalogue = _Catalogue(checkup.objects, models)
    for entry in checkup.objects:
        found |= dict.fromkeys(catalogue.check(entry))
    order = {file: number for number, (file, _) in enumerate(files)}
    findings = sorted(found, key=lambda finding: (order[finding.file], finding.line))
    checkup.findings = [replace(finding, note=False) for finding in findings] if strict else findings
    return checkup


def _parsers(models: SpecModels) -> dict[str, _Parser]:
    """The parser of each resource, by its kind."""
    return {
        WORKFLOW.kind: partial(check_workflow, models=models),
        AGENT_TASK.kind: check_agenttask,
        AGENT_TEMPLATE.kind: check_agenttemplate,
        WORKFLOW_TEMPLATE.kind: partial(check_workflowtemplate, models=models),
        WORKFLOW_SCHEDULE.kind: partial(check_workflowschedule, models=models),
    }


def _add_object(
    checkup: Checkup, file: str, document: Document, parsers: Mapping[str, _Parser]
) -> Iterator[Finding]:
    """Add a document's object, if it is of our API group. Yields the problems of its text and its frame."""
    manifest, place = document.value, document.place
    version = manifest.get("apiVersion") if isinstance(manifest, dict) else None
    if not isinstance(version, str) or version.partition("/")[0] != GROUP:
        checkup.skipped += manifest is not None
        return
    kind, metadata = str(manifest.get("kind", "")), manifest.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    name = str(metadata.get("name") or metadata.get("generateName") or "")
    namespace = metadata.get("namespace")
    parse = parsers.get(kind)
    checked: Checked[Any] = _NOTHING if parse is None else parse(manifest)
    entry = Object(
        file, place, kind, name, namespace if isinstance(namespace, str) else None, manifest, checked
    )
    checkup.objects.append(entry)
    reported = {problem.path for problem in checked.problems}
    for slip in document.slips:
        if slip.of_name and slip.path in reported:
            continue  # The other report has a better remedy.
        yield replace(entry.finding(ManifestProblem(slip.path, slip.message)), line=slip.line)
    for problem in _frame_problems(manifest, kind, name):
        yield entry.finding(problem)
    for path in _nulls(manifest.get("spec"), "spec"):
        yield entry.finding(ManifestProblem(path, _DROPPED), note=True)


def _nulls(value: Any, path: str) -> Iterator[str]:
    """The places of fields that are null; a null in a list is kept."""
    if isinstance(value, dict):
        for key, item in value.items():
            if item is None:
                yield f"{path}.{key}"
            yield from _nulls(item, f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _nulls(item, f"{path}[{index}]")


def _frame_problems(manifest: Mapping[str, Any], kind: str, name: str) -> Iterator[ManifestProblem]:
    """The problems around the spec."""
    known = [it.kind for it in KINDS]
    if kind not in known:
        close = difflib.get_close_matches(kind, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
        yield ManifestProblem("kind", f"{API_VERSION} has no kind {kind!r}; {hint}")
        return
    for field_name in manifest:
        if field_name not in _FIELDS:
            close = difflib.get_close_matches(field_name, _FIELDS, n=1)
            yield ManifestProblem(
                field_name,
                f"unknown field; did you mean {close[0]}?" if close else "unknown field next to spec",
            )
    if not name:
        yield ManifestProblem("metadata.name", "is required")


class _Catalogue:
    """The templates of the given files, and the checks that need them."""

    def __init__(self, objects: Sequence[Object], models: SpecModels) -> None:
        self._models = models
        self._templates = [
            entry for entry in objects if entry.kind in (AGENT_TEMPLATE.kind, WORKFLOW_TEMPLATE.kind)
        ]

    def check(self, entry: Object) -> Iterator[Finding]:
        """The findings of an object beyond its frame."""
        result = self._admit(entry)
        for problem in (*entry.checked.problems, *result.problems):
            yield self._finding(entry, problem)
        for problem in result.missing:
            if _OF_TEMPLATE.fullmatch(problem.path) is None:
                yield entry.finding(problem, note=True)

    def _admit(self, entry: Object) -> AdmissionResult:
        admission = Admission(
            models=self._models,
            templates=ParsedTemplates(self._agents(entry.namespace), self._workflows(entry.namespace)),
            children=True,
            absence="there is no {kind} {name!r} in the given files",
        )
        checked = entry.checked
        if entry.kind == WORKFLOW.kind:
            return check_workflow_spec(checked, admission)
        if entry.kind == AGENT_TASK.kind:
            return check_agent_task(checked, admission)
        if entry.kind == AGENT_TEMPLATE.kind:
            return check_agent_template(checked, admission)
        if entry.kind == WORKFLOW_TEMPLATE.kind:
            return check_workflow_template(checked, admission)
        for inner in checked.inner.values():
            return check_workflow_spec(inner, admission)
        return AdmissionResult(snapshot={}, problems=(), missing=())

    def _finding(self, entry: Object, problem: ManifestProblem) -> Finding:
        """A problem at its place, which may be in a template that the object uses."""
        match = _OF_TEMPLATE.fullmatch(problem.path)
        if match is None:
            return entry.finding(problem)
        kind, name, path = match.groups()
        template = next(it for it in self._of(kind, entry.namespace) if it.name == name)
        return template.finding(ManifestProblem(path, problem.message))

    def _of(self, kind: str, namespace: str | None) -> Iterator[Object]:
        for entry in self._templates:
            if entry.kind == kind and (None in (namespace, entry.namespace) or namespace == entry.namespace):
                yield entry

    def _agents(self, namespace: str | None) -> dict[str, AgentContainer]:
        """AgentTemplates by name; a faulty one is replaced by one with which nothing else is wrong."""
        found = {}
        for entry in self._of(AGENT_TEMPLATE.kind, namespace):
            spec: AgentContainer | None = entry.checked.spec
            if spec is None or not entry.checked.valid:
                spec = AgentContainer(image="unknown")
            found[entry.name] = spec
        return found

    def _workflows(self, namespace: str | None) -> dict[str, WorkflowTemplateSpec]:
        found = {}
        for entry in self._of(WORKFLOW_TEMPLATE.kind, namespace):
            spec: WorkflowTemplateSpec | None = entry.checked.spec
            if spec is None or not entry.checked.valid:
                spec = self._models.workflow_template.model_validate({"steps": [self._models.stand_in_step]})
            found[entry.name] = spec
        return found
