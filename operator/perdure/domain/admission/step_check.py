"""One step of a manifest: its expressions checked, and what the run needs to know of the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from perdure.api.agenttask import AgentTaskSpec
from perdure.api.base import JsonObject, Model, parse_duration
from perdure.api.policies import Backoff, Disruptions, Retry
from perdure.api.step import MAX_ITEMS, Defaults, Step
from perdure.domain.admission.context import CheckedStep, GraphContext, StepContext
from perdure.domain.admission.expression_check import Findings, Scope, check_single, check_text, check_value
from perdure.domain.admission.step_kind import kind_of_step

_PER_STEP = "this is decided once for the whole step; choose among its items with filter() in forEach"
_ITEMS = "a list, a map, or one ${} expression that gives one"
_RETRY, _BACKOFF, _DISRUPTIONS = Retry(), Backoff(), Disruptions()
_TIMEOUTS = (("timeout", "timeout"), ("pendingTimeout", "pending_timeout"), ("idleTimeout", "idle_timeout"))


def check_step(step: Step, graph: GraphContext, at: tuple[str, int], scope: Scope) -> CheckedStep:
    """Check one step. `scope` is what all steps of its list may use.

    If an unknown field of the step was dropped, names that seem to be unknown may be known.
    """
    path, kind, findings = f"{graph.path}.{at[0]}[{at[1]}]", kind_of_step(step), graph.admission.findings
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
    if graph.lost(*at):
        own = own.plus("item", "index", "last")
    if step.repeat is not None:
        needed |= check_single(step.repeat.until, f"{path}.repeat.until", own, findings)
        snapshot["repeat"] = {"until": step.repeat.until, "maxIterations": step.repeat.max_iterations}
    if step.parallelism is not None:
        snapshot["parallelism"] = step.parallelism
    if step.max_failures is not None:
        snapshot["maxFailures"] = step.max_failures
    context = StepContext(graph=graph, at=at, path=path, scope=own)
    block = kind.check(step, getattr(step, kind.field), context)
    snapshot |= block.snapshot
    needed |= block.needed
    snapshot |= effort(step, context.defaults, kind.takes)
    if "on" in snapshot.get("retry", ()):
        mine = step.retry is not None and step.retry.condition is not None
        where = f"{path if mine else context.defaults_path}.retry.on"
        needed |= check_single(snapshot["retry"]["on"], where, own.plus("attempt"), findings)
    if step.cache is not None and kind.takes("cache"):
        needed |= check_text(step.cache.key, f"{path}.cache.key", own, findings)
        snapshot["cache"] = {"key": step.cache.key, "ttl": step.cache.ttl}
    return checked


def effort(own: Step | AgentTaskSpec, defaults: Defaults, takes: Callable[[str], bool]) -> JsonObject:
    """Retries, disruptions and timeouts of a step or an AgentTask, with missing fields from the defaults.

    `takes` says of each field whether the step's kind takes it.
    """
    made: JsonObject = {}
    if takes("retry"):
        made["retry"] = _retry([it.retry for it in (own, defaults) if it.retry is not None])
    if takes("disruptions"):
        made["disruptions"] = {"limit": (own.disruptions or defaults.disruptions or _DISRUPTIONS).limit}
    for name, attribute in _TIMEOUTS:
        duration = getattr(own, attribute) or getattr(defaults, attribute)
        if duration is not None and takes(name):
            made[name] = duration
    return made


def _retry(layers: Sequence[Retry]) -> JsonObject:
    """The first layer's fields, missing ones from the next; then the defaults of the API."""
    backoffs = [retry.backoff for retry in layers if "backoff" in retry.model_fields_set]
    backoff = {name: _first(backoffs, name, _BACKOFF) for name in ("initial", "factor", "max", "jitter")}
    if not any("max" in layer.model_fields_set for layer in backoffs):
        backoff["max"] = max(backoff["max"], backoff["initial"], key=parse_duration)
    made: JsonObject = {"limit": _first(layers, "limit", _RETRY), "backoff": backoff}
    on = next((retry.condition for retry in layers if retry.condition is not None), None)
    if on is not None:
        made["on"] = on
    return made


def _first(layers: Sequence[Model], name: str, last: Model) -> Any:
    """A field of the first layer that says it; else the default."""
    return next(
        getattr(layer, name) for layer in (*layers, last) if name in layer.model_fields_set or layer is last
    )


def _check_for_each(items: Any, path: str, scope: Scope, findings: Findings) -> dict[str, str]:
    if isinstance(items, str):
        return check_single(items, path, scope, findings, wanted=_ITEMS)
    if not isinstance(items, list | dict):
        findings.add(path, f"must be {_ITEMS}")
    elif len(items) > MAX_ITEMS:
        message = f"has {len(items)} items; at most {MAX_ITEMS} are allowed: use fewer, larger ones"
        findings.add(path, message)
    return check_value(items, path, scope, findings)
