"""Runs from manifests, by the same way as in the operator: parsed, accepted, compiled; or from snapshots that
are put together here, so that the core is tested by what it is given, and fast."""

from collections.abc import Iterator
from typing import Any

from tests.support.echo import WITH_ECHO
from tests.support.manifests import accept, parse_agenttemplate
from tests.unit.domain.clock import START

from perdure.domain.engine.plan import compile_plan
from perdure.domain.engine.view import RunView
from perdure.domain.expressions.templating import Text, compile_value
from perdure.domain.names import shard_of
from perdure.domain.phases import Phase
from perdure.domain.records import AGENT_TASK, RunKind, RunRecord, RunState

UID = "0b5f1c9e-7f55-4d8e-9a3d-2f1f6f4f7a10"
IMAGE = {"image": "agents/audit:1"}


def snapshot(spec: dict[str, Any], templates: dict[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    """The snapshot of a Workflow's spec. Raises Refused and TemplateMissing."""
    known = {
        name: parse_agenttemplate({"metadata": {"name": name}, "spec": template})
        for name, template in (templates or {}).items()
    }
    return accept("Workflow", spec, known)


def workflow(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A spec in which every step has an image."""
    return {"defaults": {"agent": IMAGE}, "steps": list(steps), **fields}


def view_of_workflow(*steps: dict[str, Any], name: str = "audit", **fields: Any) -> RunView:
    """A run that was accepted and not yet committed."""
    return _view(snapshot(workflow(*steps, **fields)), "Workflow", name)


def view_of_task(name: str = "alone", **fields: Any) -> RunView:
    """The run of a standalone AgentTask."""
    return _view(accept(AGENT_TASK, {"agent": IMAGE, **fields}), AGENT_TASK, name)


#: Where a step may have expressions.
FIELDS = ("when", "forEach", "repeat", "retry", "cache", "input", "agent", "wait", "echo")


def planned(
    *steps: dict[str, Any], finally_: tuple[dict[str, Any], ...] = (), **fields: Any
) -> dict[str, Any]:
    """A snapshot as acceptance makes it of these steps, unchecked."""
    main = {step["name"] for step in steps}
    last = {step["name"] for step in finally_}
    return {
        "inputs": {},
        "parallelism": None,
        "retention": {"ttlAfterFinished": "168h"},
        "steps": [_planned_step(step, waits_for=main) for step in steps],
        "finally": [_planned_step(step, waits_for=last) for step in finally_],
        "outputs": {},
        **fields,
    }


def _planned_step(step: dict[str, Any], *, waits_for: set[str]) -> dict[str, Any]:
    inputs = step.get("workflow", {}).get("inputs")
    values = compile_value([*(step.get(field) for field in FIELDS), inputs])
    sees = {*step.get("dependsOn", ()), *_references(values)} - {step["name"]}
    kind = {} if any(known.field in step for known in WITH_ECHO) else {"agent": IMAGE}
    return {**kind, **step, "dependsOn": sorted(sees & waits_for), "sees": sorted(sees)}


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Text):
        for part in value.parts:
            if not isinstance(part, str):
                yield from part.steps
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _references(item)


def view_of_plan(*steps: dict[str, Any], name: str = "audit", **fields: Any) -> RunView:
    """A run of a snapshot as it is put together here, and not yet committed."""
    return _view(planned(*steps, **fields), "Workflow", name)


def view_of_lone_plan(**step: Any) -> RunView:
    """The run of a standalone AgentTask, likewise."""
    return _view(planned({"name": "", **step}), AGENT_TASK, "alone")


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
    return RunView(compile_plan(spec, WITH_ECHO), RunState(run=run, steps={}, tasks={}, attempts={}))
