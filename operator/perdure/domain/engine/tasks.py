"""How a task comes to be, by the kind of its step: its input filled in, its result looked up, started."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from perdure.api.base import parse_duration
from perdure.domain.engine.attempts import end_task, start_attempt
from perdure.domain.engine.changeset import ChangeSet
from perdure.domain.engine.outcome import shorten
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.engine.scope import render_agent, render_workflow
from perdure.domain.engine.task_scope import names_of_task
from perdure.domain.events import EventType
from perdure.domain.expressions.cel import ExpressionError
from perdure.domain.expressions.templating import compact, render
from perdure.domain.names import task_name
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import AGENT_TASK, TaskKey, TaskRecord

#: Compact JSON of one task's input, and of a child workflow's spec with its inputs.
MAX_TASK_INPUT_BYTES = 1024 * 1024


def create_task(changes: ChangeSet, step: PlannedStep, index: int) -> bool:
    """Make a task. False if it has to wait for an answer about a cached result: then it is not made yet.

    Tasks of a step are made in order, so none is made while one before it waits for its answer; what can be
    asked for it is asked at the same time.
    """
    run = changes.run
    key = TaskKey(step.name, index)
    name = run.name if run.kind == AGENT_TASK else task_name(run.name, run.uid, key)
    task = TaskRecord(key=key, name=name, phase=Phase.PENDING)
    try:
        names = names_of_task(changes, step, index)
        if step.kind == "wait":
            _start_wait(changes, step, task, names)
            return True
        task = _with_input(step, task, names)
    except ExpressionError as error:
        if changes.asked(step.name):
            return False
        end_task(changes, task, Phase.FAILED, Reason.EXPRESSION_ERROR, shorten(str(error)))
        return True
    if task.cache_key is None:
        start_attempt(changes, task)
        return True
    if key not in changes.observed.cached or changes.asked(step.name):
        changes.ask(key, task.cache_key)
        return False
    found = changes.observed.cached[key]
    if found is None:
        start_attempt(changes, task)
        return True
    message = f"the result of task {found.task} of {found.workflow}"
    end_task(changes, replace(task, output=found.output), Phase.SUCCEEDED, Reason.CACHED, message)
    return True


def _with_input(step: PlannedStep, task: TaskRecord, names: Mapping[str, Any]) -> TaskRecord:
    """The task with what its expressions give. Raises ExpressionError, before a pod is asked for."""
    if step.kind == "workflow":
        _check_size(render_workflow(step, names), "workflow")
    else:
        task = replace(task, input=render(step.input, names, "input"))
        _check_size(task.input, "input")
        render_agent(step, names)
    return task if step.cache is None else replace(task, cache_key=_cache_key(step, names))


def _check_size(value: Any, path: str) -> None:
    size = len(compact(value))
    if size > MAX_TASK_INPUT_BYTES:
        raise ExpressionError(f"{path}: {size} bytes of JSON; the limit is {MAX_TASK_INPUT_BYTES}")


def _cache_key(step: PlannedStep, names: Mapping[str, Any]) -> str:
    assert step.cache is not None
    return hashlib.sha256(compact(render(step.cache.key, names, "cache.key"))).hexdigest()


def _start_wait(changes: ChangeSet, step: PlannedStep, task: TaskRecord, names: Mapping[str, Any]) -> None:
    until = _end_of_wait(changes, step, names)
    task = replace(task, started_at=changes.now)
    if until <= changes.now:
        changes.put_task(replace(task, phase=Phase.RUNNING))
        end_task(changes, task, Phase.SUCCEEDED)
        return
    changes.put_task(replace(task, phase=Phase.RUNNING, reason=Reason.WAITING, retry_at=until))
    changes.event(EventType.TASK_STARTED, task=task, until=until.isoformat())


def _end_of_wait(changes: ChangeSet, step: PlannedStep, names: Mapping[str, Any]) -> datetime:
    """When a wait that starts now is over. Raises ExpressionError."""
    if "duration" in step.wait:
        value = render(step.wait["duration"], names, "wait.duration")
        try:
            return changes.now + timedelta(seconds=parse_duration(value))
        except (ValueError, TypeError):
            raise ExpressionError(
                f"wait.duration: {value!r} is not a duration; give one like 10s or 1h30m"
            ) from None
    value = render(step.wait["until"], names, "wait.until")
    try:
        until = datetime.fromisoformat(value)
        if until.tzinfo is not None:
            return until.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        pass
    raise ExpressionError(f"wait.until: {value!r} is not a time; give one like 2030-01-31T08:00:00Z")
