"""From a manifest to a run: parsed, its templates filled in, compiled; or refused with every fault named."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from perdure.api.agent import AgentContainer
from perdure.api.base import JsonObject, parse_duration
from perdure.api.policies import Retention
from perdure.api.step import MAX_WORKFLOW_DEPTH
from perdure.api.validation.parse import (
    check_agenttask,
    check_workflow,
    parse_agenttemplate,
    parse_workflowtemplate,
)
from perdure.api.validation.problems import InvalidManifest, ManifestProblem
from perdure.api.workflowtemplate import WorkflowTemplateSpec
from perdure.control.cluster_cache.store import Root, Store
from perdure.domain.admission.accept import (
    Refused,
    TemplateMissing,
    examine_task,
    examine_workflow,
    template_names,
)
from perdure.domain.admission.graph_check import Examination
from perdure.domain.engine.outcome import shorten
from perdure.domain.engine.plan import compile_plan
from perdure.domain.engine.view import RunView
from perdure.domain.events import EventType
from perdure.domain.names import shard_of
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import AGENT_TASK, WORKFLOW, Commit, PendingEvent, RunRecord, RunState

_DEFAULT_RETENTION = timedelta(seconds=parse_duration(Retention().ttl_after_finished))


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """A run that cannot start before templates exist."""

    #: Namespaces and names of the AgentTemplates that are missing, as far as is known: those that a
    #: WorkflowTemplate needs are known once it is there.
    templates: frozenset[tuple[str, str]]
    message: str


def accept(root: Root, store: Store) -> RunView | Waits:
    """A run ready for its first decision. Raises Refused."""
    assert root.manifest is not None, "a finished run is not accepted again"
    if root.depth > MAX_WORKFLOW_DEPTH:
        raise Refused((_too_deep(root),))
    namespace = root.key.namespace
    manifest = dict(root.manifest)
    found: list[ManifestProblem] = []
    needed: frozenset[str] = frozenset()
    if root.key.kind == WORKFLOW:
        workflow = check_workflow(manifest)
        graphs: dict[str, WorkflowTemplateSpec] = {}
        if workflow.spec is not None:
            name = workflow.spec.template_ref
            graphs = _workflow_template(store, namespace, name, found)
            needed = template_names(workflow.spec, graphs.get(name or ""))
        verdict = examine_workflow(workflow, _examination(store, namespace, needed, graphs, found))
    else:
        task = check_agenttask(manifest)
        if task.spec is not None:
            needed = template_names(task.spec)
        verdict = examine_task(task, _examination(store, namespace, needed, {}, found))
    if found:
        raise Refused((*verdict.problems, *found))
    try:
        snapshot = verdict.accepted()
    except TemplateMissing as error:
        templates = {(namespace, name) for name in needed} - store.templates.keys()
        return Waits(templates=frozenset(templates), message=str(error))
    run = _record(root, snapshot)
    return RunView(compile_plan(snapshot), RunState(run=run, steps={}, tasks={}, attempts={}))


def _too_deep(root: Root) -> ManifestProblem:
    return ManifestProblem(
        "metadata.annotations",
        f"this is the child of {root.depth} Workflows above each other; at most {MAX_WORKFLOW_DEPTH} are"
        " allowed: let a Workflow that starts itself come to an end, or let steps do more by themselves",
    )


def refusal(root: Root, reason: Reason, message: str, now: datetime) -> Commit:
    """The history of a run that was refused: it was created, and it failed."""
    run = replace(
        _record(root, {}),
        phase=Phase.FAILED,
        reason=reason,
        message=shorten(message),
        finished_at=now,
        expires_at=now + _DEFAULT_RETENTION,
    )
    failed = EventType.WORKFLOW_FAILED if run.kind == WORKFLOW else EventType.TASK_FAILED
    facts = {"reason": reason, "message": run.message}
    task = run.name if run.kind == AGENT_TASK else None
    events = [PendingEvent(type=failed, time=now, data=facts, task=task)]
    if run.kind == WORKFLOW:
        events.insert(
            0, PendingEvent(type=EventType.WORKFLOW_CREATED, time=now, data={"generation": root.generation})
        )
    return Commit(run=run, events=tuple(events))


def _examination(
    store: Store,
    namespace: str,
    names: Collection[str],
    workflow_templates: Mapping[str, WorkflowTemplateSpec],
    found: list[ManifestProblem],
) -> Examination:
    """What is known beside the manifest. What is wrong with templates is added to `found`."""
    templates: dict[str, AgentContainer] = {}
    for name in sorted(names):
        manifest = store.templates.get((namespace, name))
        if manifest is None:
            continue
        try:
            templates[name] = parse_agenttemplate({"metadata": {"name": name}, "spec": dict(manifest)})
        except InvalidManifest as error:
            found += _within(f"AgentTemplate {name}", error)
            # In its place one with which nothing else is wrong.
            templates[name] = AgentContainer(image=name)
    return Examination(templates=templates, workflow_templates=workflow_templates)


def _workflow_template(
    store: Store, namespace: str, name: str | None, found: list[ManifestProblem]
) -> dict[str, WorkflowTemplateSpec]:
    """The WorkflowTemplate by its name, if it is there. What is wrong with it is added to `found`."""
    manifest = None if name is None else store.workflow_templates.get((namespace, name))
    if name is None or manifest is None:
        return {}
    try:
        return {name: parse_workflowtemplate({"metadata": {"name": name}, "spec": dict(manifest)})}
    except InvalidManifest as error:
        found += _within(f"WorkflowTemplate {name}", error)
        return {}


def _within(what: str, error: InvalidManifest) -> Iterator[ManifestProblem]:
    for problem in error.problems:
        yield ManifestProblem(f"{what}: {problem.path}", problem.message)


def _record(root: Root, snapshot: JsonObject) -> RunRecord:
    return RunRecord(
        uid=root.uid,
        kind="AgentTask" if root.key.kind == AGENT_TASK else "Workflow",
        namespace=root.key.namespace,
        name=root.key.name,
        generation=root.generation,
        shard=shard_of(root.uid),
        phase=Phase.PENDING,
        spec=snapshot,
        created_at=root.created_at,
    )
