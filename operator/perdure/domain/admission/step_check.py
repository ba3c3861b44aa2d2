"""One step of a manifest: its expressions checked, and what the run is to know of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from perdure.api.agenttask import AgentTaskSpec
from perdure.api.base import JsonObject, Model
from perdure.api.policies import Backoff, Disruptions, Retry
from perdure.api.step import MAX_ITEMS, ChildWorkflow, Defaults, Step, Wait
from perdure.domain.admission.agent_layers import ResolvedAgent, check_agent
from perdure.domain.admission.expression_check import Findings, Scope, check_single, check_text, check_value
from perdure.domain.expressions.templating import has_expression

_PER_STEP = "this is decided once for the whole step; choose among its items with filter() in forEach"
_ITEMS = "a list, a map, or one ${} expression that gives one"
_RETRY, _BACKOFF, _DISRUPTIONS = Retry(), Backoff(), Disruptions()
_TIMEOUTS = ("timeout", "pendingTimeout", "idleTimeout")


@dataclass(slots=True)
class CheckedStep:
    """A step as the run needs it, and the steps that it refers to, each with the field that does."""

    snapshot: JsonObject
    needed: dict[str, str] = field(default_factory=dict)


def check_step(
    step: Step,
    agent: ResolvedAgent | None,
    *,
    defaults: Defaults,
    path: str,
    defaults_path: str,
    scope: Scope,
    findings: Findings,
    uncertain: bool = False,
) -> CheckedStep:
    """Check one step, whose agent is resolved if it has one. `scope` is what all steps beside it may use.

    With `uncertain` a field of it was lost, so that a name which seems to be unknown may be known.
    """
    checked = CheckedStep({"name": step.name, "continueOnFailure": step.continue_on_failure})
    snapshot, needed = checked.snapshot, checked.needed
    scope = replace(scope, step=step.name, place=path)
    whole = scope if step.for_each is None else replace(scope, later=_PER_STEP)
    if step.when is not None:
        needed |= check_single(step.when, f"{path}.when", whole, findings)
        snapshot["when"] = step.when
    own = scope
    if step.for_each is not None:
        needed |= _check_for_each(step.for_each, f"{path}.forEach", scope, findings)
        own = scope.plus("item", "index")
        snapshot["forEach"] = step.for_each
    if step.repeat is not None:
        own = own.plus("last", "index")
    if uncertain:
        own = own.plus("item", "index", "last")
    if step.repeat is not None:
        needed |= check_single(step.repeat.until, f"{path}.repeat.until", own, findings)
        snapshot["repeat"] = {"until": step.repeat.until, "maxIterations": step.repeat.max_iterations}
    if step.parallelism is not None:
        snapshot["parallelism"] = step.parallelism
    if step.max_failures is not None:
        snapshot["maxFailures"] = step.max_failures
    if step.wait is not None:
        snapshot["wait"] = step.wait.manifest()
        needed |= _check_wait(step.wait, f"{path}.wait", own, findings)
        return checked
    if step.workflow is not None:
        snapshot["workflow"] = _child(step.workflow)
        needed |= check_value(step.workflow.inputs, f"{path}.workflow.inputs", own, findings)
    elif agent is not None:
        snapshot["agent"] = agent.block
        snapshot["input"] = {} if step.input is None else step.input
        needed |= check_value(step.input, f"{path}.input", own, findings)
        needed |= check_agent(agent, own, findings)
    snapshot |= effort(step, defaults, _TIMEOUTS[:1] if step.workflow is not None else _TIMEOUTS)
    if "on" in snapshot["retry"]:
        mine = step.retry is not None and step.retry.condition is not None
        where = f"{path if mine else defaults_path}.retry.on"
        needed |= check_single(snapshot["retry"]["on"], where, own.plus("attempt"), findings)
    if step.cache is not None:
        needed |= check_text(step.cache.key, f"{path}.cache.key", own, findings)
        snapshot["cache"] = {"key": step.cache.key, "ttl": step.cache.ttl}
    return checked


def effort(
    own: Step | AgentTaskSpec, defaults: Defaults, timeouts: tuple[str, ...] = _TIMEOUTS
) -> JsonObject:
    """Retries, disruptions and timeouts of a step or an AgentTask, with what it leaves out filled in."""
    layers = [retry for retry in (own.retry, defaults.retry) if retry is not None]
    backoffs = [retry.backoff for retry in layers if "backoff" in retry.model_fields_set]
    retry: JsonObject = {
        "limit": _first(layers, "limit", _RETRY),
        "backoff": {
            name: _first(backoffs, name, _BACKOFF) for name in ("initial", "factor", "max", "jitter")
        },
    }
    on = next((retry.condition for retry in layers if retry.condition is not None), None)
    if on is not None:
        retry["on"] = on
    disruptions = own.disruptions or defaults.disruptions or _DISRUPTIONS
    made: JsonObject = {"retry": retry, "disruptions": {"limit": disruptions.limit}}
    for name, field_name in (
        ("timeout", "timeout"),
        ("pendingTimeout", "pending_timeout"),
        ("idleTimeout", "idle_timeout"),
    ):
        duration = getattr(own, field_name) or getattr(defaults, field_name)
        if name in timeouts and duration is not None:
            made[name] = duration
    return made


def _first(layers: Sequence[Model], name: str, last: Model) -> Any:
    """A field of the first layer that says it; else the default."""
    return next(
        getattr(layer, name) for layer in (*layers, last) if name in layer.model_fields_set or layer is last
    )


def _child(workflow: ChildWorkflow) -> JsonObject:
    what = {"spec": workflow.spec} if workflow.spec is not None else {"templateRef": workflow.template_ref}
    return {**what, "inputs": dict(workflow.inputs)}


def _check_wait(wait: Wait, path: str, scope: Scope, findings: Findings) -> dict[str, str]:
    needed: dict[str, str] = {}
    for name, text in (("duration", wait.duration), ("until", wait.until)):
        if text is not None and has_expression(text):
            needed |= check_single(text, f"{path}.{name}", scope, findings)
    return needed


def _check_for_each(items: Any, path: str, scope: Scope, findings: Findings) -> dict[str, str]:
    if isinstance(items, str):
        return check_single(items, path, scope, findings, wanted=_ITEMS)
    if not isinstance(items, list | dict):
        findings.add(path, f"must be {_ITEMS}")
    elif len(items) > MAX_ITEMS:
        message = f"has {len(items)} items; at most {MAX_ITEMS} are allowed: use fewer, larger ones"
        findings.add(path, message)
    return check_value(items, path, scope, findings)
