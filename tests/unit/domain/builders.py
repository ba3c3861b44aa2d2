"""Runs from manifests, by the same way as in the operator: parsed, accepted, compiled."""

from typing import Any

from tests.unit.domain.clock import START

from perdure.api.parse import parse_agenttask, parse_agenttemplate, parse_workflow
from perdure.domain.accept import accept_task, accept_workflow
from perdure.domain.names import shard_of
from perdure.domain.phases import Phase
from perdure.domain.plan import compile_plan
from perdure.domain.records import AGENT_TASK, RunKind, RunRecord, RunState
from perdure.domain.view import RunView

UID = "0b5f1c9e-7f55-4d8e-9a3d-2f1f6f4f7a10"
IMAGE = {"image": "agents/audit:1"}


def snapshot(spec: dict[str, Any], templates: dict[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    """The snapshot of a Workflow's spec. Raises Refused and TemplateMissing."""
    parsed = parse_workflow({"metadata": {"name": "audit"}, "spec": spec})
    known = {
        name: parse_agenttemplate({"metadata": {"name": name}, "spec": template})
        for name, template in (templates or {}).items()
    }
    return accept_workflow(parsed, known)


def workflow(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A spec in which every step has an image."""
    return {"defaults": {"agent": IMAGE}, "steps": list(steps), **fields}


def view_of_workflow(*steps: dict[str, Any], name: str = "audit", **fields: Any) -> RunView:
    """A run that was accepted and not yet committed."""
    return _view(snapshot(workflow(*steps, **fields)), "Workflow", name)


def view_of_task(name: str = "alone", **fields: Any) -> RunView:
    """The run of a standalone AgentTask."""
    spec = parse_agenttask({"metadata": {"name": name}, "spec": {"agent": IMAGE, **fields}})
    return _view(accept_task(spec, {}), AGENT_TASK, name)


def _view(spec: dict[str, Any], kind: RunKind, name: str) -> RunView:
    run = RunRecord(
        uid=UID,
        kind=kind,
        namespace="team",
        name=name,
        generation=1,
        shard=shard_of(UID),
        phase=Phase.PENDING,
        spec=spec,
        created_at=START,
    )
    return RunView(compile_plan(spec), RunState(run=run, steps={}, tasks={}, attempts={}))
