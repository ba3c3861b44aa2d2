"""From a manifest to a run: parsed, its templates filled in, compiled; or refused with every fault named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from perdure.api.agent import AgentContainer, Retention
from perdure.api.base import JsonObject, parse_duration
from perdure.api.parse import InvalidManifest, parse_agenttask, parse_agenttemplate, parse_workflow
from perdure.control.store import Root, Store
from perdure.domain.accept import (
    Problem,
    Refused,
    TemplateMissing,
    accept_task,
    accept_workflow,
    template_names,
)
from perdure.domain.names import shard_of
from perdure.domain.outcome import shorten
from perdure.domain.phases import Phase, Reason
from perdure.domain.plan import compile_plan
from perdure.domain.records import AGENT_TASK, WORKFLOW, Commit, EventDraft, RunRecord, RunState
from perdure.domain.view import RunView

_DEFAULT_RETENTION = timedelta(seconds=parse_duration(Retention().ttl_after_finished))


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """A run that cannot start before templates exist."""

    templates: frozenset[tuple[str, str]]
    message: str


def accept(root: Root, store: Store) -> RunView | Waits:
    """A run ready for its first decision. Raises Refused."""
    assert root.manifest is not None, "a finished run is not accepted again"
    namespace = root.key.namespace
    try:
        spec = (
            parse_workflow(dict(root.manifest))
            if root.key.kind == WORKFLOW
            else parse_agenttask(dict(root.manifest))
        )
        needed = template_names(spec)
        templates = _templates(store, namespace, needed)
    except InvalidManifest as error:
        raise Refused(tuple(Problem(fault.path, fault.message) for fault in error.problems)) from None
    try:
        if root.key.kind == WORKFLOW:
            snapshot = accept_workflow(spec, templates)  # type: ignore[arg-type] # told apart by kind above
        else:
            snapshot = accept_task(spec, templates)  # type: ignore[arg-type]
    except TemplateMissing as error:
        missing = frozenset((namespace, name) for name in needed if name not in templates)
        return Waits(templates=missing, message=str(error))
    run = _record(root, snapshot)
    return RunView(compile_plan(snapshot), RunState(run=run, steps={}, tasks={}, attempts={}))


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
    kind = "workflow" if run.kind == WORKFLOW else "task"
    facts = {"reason": reason, "message": run.message}
    task = run.name if run.kind == AGENT_TASK else None
    events = [EventDraft(type=f"{kind}.failed", time=now, data=facts, task=task)]
    if run.kind == WORKFLOW:
        events.insert(0, EventDraft(type="workflow.created", time=now, data={"generation": root.generation}))
    return Commit(run=run, events=tuple(events))


def _templates(store: Store, namespace: str, names: frozenset[str]) -> dict[str, AgentContainer]:
    templates: dict[str, AgentContainer] = {}
    for name in sorted(names):
        manifest: Mapping[str, Any] | None = store.templates.get((namespace, name))
        if manifest is None:
            continue
        try:
            templates[name] = parse_agenttemplate({"metadata": {"name": name}, "spec": manifest})
        except InvalidManifest as error:
            raise Refused(
                tuple(
                    Problem(f"AgentTemplate {name}: {fault.path}", fault.message) for fault in error.problems
                )
            ) from None
    return templates


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
