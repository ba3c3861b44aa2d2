"""Manifests checked without a cluster: all that the API server and the operator would say of them.

Templates in the given files are used; of others nothing is known but that they are not there, which is worth
a note and no fault.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    Examination,
    Verdict,
    examine_agent_template,
    examine_task,
    examine_workflow,
    examine_workflow_template,
)

_PARSERS: Final[dict[str, Callable[[Mapping[str, Any]], Checked[Any]]]] = {
    WORKFLOW.kind: check_workflow,
    AGENT_TASK.kind: check_agenttask,
    AGENT_TEMPLATE.kind: check_agenttemplate,
    WORKFLOW_TEMPLATE.kind: check_workflowtemplate,
    WORKFLOW_SCHEDULE.kind: check_workflowschedule,
}
_NOTHING: Final[Checked[Any]] = Checked(spec=None, problems=())
_FIELDS: Final = ("apiVersion", "kind", "metadata", "spec", "status")
_OF_TEMPLATE: Final = re.compile(r"(AgentTemplate|WorkflowTemplate) (\S+): (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is to be said of one place. A note is no fault."""

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
    """One of our objects, as far as it could be understood."""

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
    """What was found in some files."""

    objects: list[Object] = field(default_factory=list)
    #: By file as they were given, by line in each.
    findings: list[Finding] = field(default_factory=list)
    #: Documents of other kinds, which are not ours to judge.
    skipped: int = 0

    @property
    def faults(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.note]


def check_files(files: Sequence[tuple[str, str]], *, strict: bool = False) -> Checkup:
    """Check the texts of some files, each given with its name. `strict` makes faults of notes."""
    checkup = Checkup()
    found: dict[Finding, None] = {}
    for file, text in files:
        for part in read_documents(text):
            if isinstance(part, Slip):
                found[Finding(file=file, line=part.line, path=part.path, message=part.message)] = None
            else:
                found |= dict.fromkeys(_take_in(checkup, file, part))
    catalogue = _Catalogue(checkup.objects)
    for entry in checkup.objects:
        found |= dict.fromkeys(catalogue.examine(entry))
    order = {file: number for number, (file, _) in enumerate(files)}
    findings = sorted(found, key=lambda finding: (order[finding.file], finding.line))
    checkup.findings = [replace(finding, note=False) for finding in findings] if strict else findings
    return checkup


def _take_in(checkup: Checkup, file: str, document: Document) -> Iterator[Finding]:
    """Add a document's object, if it is one of ours. What is wrong with its text and its frame."""
    manifest, place = document.value, document.place
    version = manifest.get("apiVersion") if isinstance(manifest, dict) else None
    if not isinstance(version, str) or version.partition("/")[0] != GROUP:
        checkup.skipped += manifest is not None
        return
    kind, metadata = str(manifest.get("kind", "")), manifest.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    name = str(metadata.get("name") or metadata.get("generateName") or "")
    namespace = metadata.get("namespace")
    parse = _PARSERS.get(kind)
    checked: Checked[Any] = _NOTHING if parse is None else parse(manifest)
    entry = Object(
        file, place, kind, name, namespace if isinstance(namespace, str) else None, manifest, checked
    )
    checkup.objects.append(entry)
    told = {problem.path for problem in checked.problems}
    for slip in document.slips:
        if slip.of_name and slip.path in told:
            continue  # with a better remedy
        yield replace(entry.finding(ManifestProblem(slip.path, slip.message)), line=slip.line)
    for problem in _frame_problems(manifest, kind, name):
        yield entry.finding(problem)


def _frame_problems(manifest: Mapping[str, Any], kind: str, name: str) -> Iterator[ManifestProblem]:
    """What is wrong around the spec."""
    known = [it.kind for it in KINDS]
    if kind not in known:
        close = difflib.get_close_matches(kind, known, n=1)
        told = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
        yield ManifestProblem("kind", f"{API_VERSION} has no kind {kind!r}; {told}")
        return
    for field_name in manifest:
        if field_name not in _FIELDS:
            close = difflib.get_close_matches(field_name, _FIELDS, n=1)
            yield ManifestProblem(
                field_name,
                f"unknown field; did you mean {close[0]}?" if close else f"unknown field beside {_FIELDS[3]}",
            )
    if not name:
        yield ManifestProblem("metadata.name", "is required")


class _Catalogue:
    """The templates of the given files, and what is found with their help."""

    def __init__(self, objects: Sequence[Object]) -> None:
        self._templates = [
            entry for entry in objects if entry.kind in (AGENT_TEMPLATE.kind, WORKFLOW_TEMPLATE.kind)
        ]

    def examine(self, entry: Object) -> Iterator[Finding]:
        """All that is to be said of an object beyond its frame."""
        verdict = self._verdict(entry)
        for problem in (*entry.checked.problems, *verdict.problems):
            yield self._finding(entry, problem)
        for problem in verdict.missing:
            if _OF_TEMPLATE.fullmatch(problem.path) is None:
                yield entry.finding(problem, note=True)

    def _verdict(self, entry: Object) -> Verdict:
        examination = Examination(
            templates=self._agents(entry.namespace),
            workflow_templates=self._workflows(entry.namespace),
            children=True,
            absence="there is no {kind} {name!r} in the given files",
        )
        checked = entry.checked
        if entry.kind == WORKFLOW.kind:
            return examine_workflow(checked, examination)
        if entry.kind == AGENT_TASK.kind:
            return examine_task(checked, examination)
        if entry.kind == AGENT_TEMPLATE.kind:
            return examine_agent_template(checked, examination)
        if entry.kind == WORKFLOW_TEMPLATE.kind:
            return examine_workflow_template(checked, examination)
        for inner in checked.inner.values():
            return examine_workflow(inner, examination)
        return Verdict(snapshot={}, problems=(), missing=())

    def _finding(self, entry: Object, problem: ManifestProblem) -> Finding:
        """A problem where it stands, which may be in a template that the object uses."""
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
        """AgentTemplates by name; in the place of a faulty one, one that nothing more can be said of."""
        found = {}
        for entry in self._of(AGENT_TEMPLATE.kind, namespace):
            spec: AgentContainer | None = entry.checked.spec
            if spec is None or not entry.checked.sound:
                spec = AgentContainer(image="unknown")
            found[entry.name] = spec
        return found

    def _workflows(self, namespace: str | None) -> dict[str, WorkflowTemplateSpec]:
        found = {}
        for entry in self._of(WORKFLOW_TEMPLATE.kind, namespace):
            spec: WorkflowTemplateSpec | None = entry.checked.spec
            if spec is None or not entry.checked.sound:
                steps = [{"name": "unknown", "wait": {"duration": "0s"}}]
                spec = WorkflowTemplateSpec.model_validate({"steps": steps})
            found[entry.name] = spec
        return found
