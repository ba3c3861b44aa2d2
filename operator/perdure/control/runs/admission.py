"""From a manifest to a run: parsed, its templates filled in, compiled; or refused with every fault named."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from perdure.api.base import JsonObject, parse_duration
from perdure.api.custom_resources import AGENT_TEMPLATE
from perdure.api.expression_limits import MAX_EXPRESSION, MAX_EXPRESSION_TEXT
from perdure.api.policies import Retention
from perdure.api.spec_models import spec_models
from perdure.api.step import MAX_WORKFLOW_DEPTH
from perdure.api.validation.problems import ManifestProblem
from perdure.control.cluster_cache.run_objects import Root
from perdure.control.cluster_cache.store import Store
from perdure.control.runs.executor import ActingKind
from perdure.domain.admission.accept import Refused, TemplateMissing, admit
from perdure.domain.admission.templates import StoredTemplates
from perdure.domain.engine.outcome import shorten
from perdure.domain.engine.plan import compile_plan
from perdure.domain.engine.view import RunView
from perdure.domain.events import EventType
from perdure.domain.expressions.cel import ExpressionError
from perdure.domain.expressions.templating import has_expression, parse_text
from perdure.domain.names import shard_of
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import AGENT_TASK, WORKFLOW, Commit, PendingEvent, RunRecord, RunState

#: Characters of expressions after whose compilation other tasks have a turn: about 20 ms of work.
SLICE = 2000
_DEFAULT_RETENTION = timedelta(seconds=parse_duration(Retention().ttl_after_finished))


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """A run that cannot start before templates exist."""

    #: Namespaces and names of the AgentTemplates that are missing, as far as is known: those that a
    #: WorkflowTemplate needs are known once it is there.
    templates: frozenset[tuple[str, str]]
    message: str


async def compile_ahead(manifest: Mapping[str, Any] | None) -> None:
    """Compile the expressions of a manifest into the cache of compiled ones, a slice at a time.

    Acceptance is one turn of the event loop, and would take a second of it for as many expressions as a
    manifest may have.
    """
    done, unread = 0, [manifest.get("spec") if manifest is not None else None]
    while unread:
        value = unread.pop()
        if isinstance(value, str) and has_expression(value):
            turn = done // SLICE
            done += min(len(value), MAX_EXPRESSION)
            # What is wrong is said by the acceptance. More than a manifest may have is not compiled at all.
            with suppress(ExpressionError):
                parse_text(value)
            if done > MAX_EXPRESSION_TEXT:
                return
            if done // SLICE > turn:
                await asyncio.sleep(0)
        elif isinstance(value, Mapping):
            unread += value.values()
        elif isinstance(value, list):
            unread += value


def accept(root: Root, store: Store, kinds: tuple[ActingKind, ...]) -> RunView | Waits:
    """A run ready for its first decision. Raises Refused."""
    assert root.manifest is not None, "a finished run is not accepted again"
    if root.depth > MAX_WORKFLOW_DEPTH:
        raise Refused((_too_deep(root),))
    namespace, models = root.key.namespace, spec_models(kinds)

    def find(kind: str, name: str) -> Mapping[str, Any] | None:
        stored = store.templates if kind == AGENT_TEMPLATE.kind else store.workflow_templates
        return stored.get((namespace, name))

    templates = StoredTemplates(find, models)
    result = admit(root.key.kind, dict(root.manifest), models=models, templates=templates)
    try:
        snapshot = result.accepted()
    except TemplateMissing as error:
        missing = {(namespace, it.name) for it in result.missing if it.kind == AGENT_TEMPLATE.kind}
        return Waits(templates=frozenset(missing), message=str(error))
    run = _record(root, snapshot)
    return RunView(compile_plan(snapshot, kinds), RunState(run=run, steps={}, tasks={}, attempts={}))


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
