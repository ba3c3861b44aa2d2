"""How a task is created: prepared by the kind of its step, its result looked up in the cache, started."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from perdure.domain.engine.changeset import ChangeSet
from perdure.domain.engine.outcome import shorten
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.engine.task_end import end_task
from perdure.domain.engine.task_scope import TaskScope
from perdure.domain.expressions.cel import ExpressionError
from perdure.domain.expressions.evaluation import EvaluationPending
from perdure.domain.expressions.templating import compact, render
from perdure.domain.names import task_name
from perdure.domain.payloads import MAX_RUN_PAYLOAD_BYTES, Payload
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import AGENT_TASK, TaskKey, TaskRecord

#: Compact JSON of one task's input, and of a child workflow's spec with its inputs.
MAX_TASK_INPUT_BYTES = 1024 * 1024


def create_task(changes: ChangeSet, step: PlannedStep, index: int) -> bool:
    """Create a task. False if something has to be asked first: nothing is created.

    That is what its expressions give, and whether there is a cached result. Tasks of a step are created in
    order, so none is created while an earlier one waits for its answer; what can be asked for it is asked at
    the same time.
    """
    run = changes.run
    key = TaskKey(step.name, index)
    name = run.name if run.kind == AGENT_TASK else task_name(run.name, run.uid, key)
    task = TaskRecord(key=key, name=name, phase=Phase.PENDING)
    try:
        scope = TaskScope(changes, step, index, changes.evaluation)
        prepared = step.kind.prepare(changes, step, task, scope)
        check_sum(changes.payload_bytes, prepared.input, "input")
        if step.cache is not None:
            prepared = replace(prepared, cache_key=_cache_key(step.cache.key, scope))
    except EvaluationPending:
        changes.postpone(key)
        return False
    except ExpressionError as error:
        if changes.asked(step.name):
            return False
        end_task(changes, task, Phase.FAILED, Reason.EXPRESSION_ERROR, shorten(str(error)))
        return True
    # Only now: a task that fails for one of its expressions is recorded without what the others gave.
    task = prepared
    if task.cache_key is None:
        if changes.asked(step.name):
            changes.postpone(key)
            return False
        step.kind.start(changes, step, task)
        return True
    if key not in changes.observed.cached or changes.asked(step.name):
        changes.ask(key, task.cache_key)
        return False
    found = changes.observed.cached[key]
    if found is None:
        step.kind.start(changes, step, task)
        return True
    try:
        # The result becomes the task's own: a thousand tasks with the same key keep it a thousand times.
        check_sum(changes.payload_bytes + _size(task.input), found.output, "cache")
    except ExpressionError as error:
        end_task(changes, task, Phase.FAILED, Reason.EXPRESSION_ERROR, shorten(str(error)))
        return True
    message = f"the result of task {found.task} of {found.workflow}"
    end_task(changes, replace(task, output=found.output), Phase.SUCCEEDED, Reason.CACHED, message)
    return True


def check_size(size: int, path: str) -> None:
    """Raise ExpressionError if so many bytes are too many for a task's input; `path` is their place."""
    if size > MAX_TASK_INPUT_BYTES:
        raise ExpressionError(f"{path}: {size} bytes of JSON; the limit is {MAX_TASK_INPUT_BYTES}")


def check_sum(kept: int, payload: Payload | None, path: str) -> None:
    """Raise ExpressionError if a payload is too much for a run with `kept` bytes; `path` is its place."""
    size = _size(payload)
    if size and kept + size > MAX_RUN_PAYLOAD_BYTES:
        raise ExpressionError(
            f"{path}: {size} bytes of JSON, and the run keeps {kept} already; the limit of all its inputs "
            f"and outputs is {MAX_RUN_PAYLOAD_BYTES}; keep large data elsewhere and pass references"
        )


def _size(payload: Payload | None) -> int:
    return 0 if payload is None else payload.size


def _cache_key(key: Any, scope: TaskScope) -> str:
    return hashlib.sha256(compact(render(key, scope.names, "cache.key"))).hexdigest()
