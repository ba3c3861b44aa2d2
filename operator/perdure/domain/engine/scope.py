"""What expressions see: the names `inputs`, `steps`, `workflow`, `item` and `index`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import orjson

from perdure.domain.engine.plan import Plan, PlannedStep
from perdure.domain.engine.view import task_keys
from perdure.domain.expressions.cel import ExpressionError, kind_of
from perdure.domain.expressions.evaluation import Evaluation, Names
from perdure.domain.expressions.templating import render
from perdure.domain.payloads import StoredOutput
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import NO_INDEX, RunRecord, StepRecord, TaskKey, TaskRecord


class Records(Protocol):
    """Where steps and tasks are read: a run as it is, or as a decision is about to make it."""

    @property
    def plan(self) -> Plan: ...

    @property
    def run(self) -> RunRecord: ...

    @property
    def failing(self) -> bool: ...

    def step(self, name: str) -> StepRecord | None: ...

    def task(self, key: TaskKey) -> TaskRecord | None: ...


def step_values(records: Records, names: Iterable[str]) -> dict[str, Any]:
    """The value of `steps`, with the named steps only."""
    return {name: _step_value(records, name) for name in names}


def scope(
    records: Records,
    steps: Mapping[str, Any],
    *,
    is_finally: bool = False,
    evaluation: Evaluation | None = None,
) -> Names:
    """The names that every expression of a workflow may use. See `Names` for `evaluation`."""
    run = records.run
    # Main steps see a running run whenever they are evaluated: what is evaluated on the way to a first
    # attempt must not differ when it is evaluated again for a later one.
    workflow: dict[str, Any] = {
        "name": run.name,
        "namespace": run.namespace,
        "uid": run.uid,
        "phase": Phase.RUNNING.value,
    }
    if is_finally:
        workflow["phase"] = phase_to_be(records).value
        workflow["failures"] = [
            {
                "step": name,
                "reason": None if record.reason is None else record.reason.value,
                "message": record.message,
            }
            for name in records.plan.order
            if (record := records.step(name)) is not None and record.phase is Phase.FAILED
        ]
    return Names({"inputs": records.plan.inputs, "steps": steps, "workflow": workflow}, evaluation)


def phase_to_be(records: Records) -> Phase:
    """The phase in which a run ends whose main steps have ended, unless a finally step changes it."""
    if records.run.stop is Reason.CANCELLED:
        return Phase.CANCELLED
    failed = records.run.stop is not None or records.failing
    return Phase.FAILED if failed else Phase.SUCCEEDED


def item_scope(names: Names, items: list[Any] | None, index: int) -> Names:
    """The names of one task: those of its step, and its item if the step has `forEach`."""
    if items is None or index == NO_INDEX:
        return names
    return names.plus(item=items[index], index=index)


def iteration_scope(records: Records, step: str, names: Names, index: int) -> Names:
    """The names of one iteration of a `repeat`: `last` is the output of the one before, null at first."""
    before = records.task(TaskKey(step, index - 1)) if index > 0 else None
    return names.plus(last=_output(before), index=index)


def evaluate_condition(condition: Any, names: Names, path: str) -> bool:
    """The value of a compiled expression that must be true or false.

    Raises ExpressionError and EvaluationPending.
    """
    value = render(condition, names, path)
    if not isinstance(value, bool):
        raise ExpressionError(f"{path}: must give true or false; it gave {kind_of(value)}")
    return value


def evaluate_items(step: PlannedStep, names: Names) -> list[Any]:
    """The items of a step's `forEach`; of a map, `{key, value}` in order of keys.

    Raises ExpressionError and EvaluationPending.
    """
    value = render(step.for_each, names, "forEach")
    if isinstance(value, dict):
        return [{"key": key, "value": value[key]} for key in sorted(value)]
    if isinstance(value, list):
        return value
    raise ExpressionError(f"forEach: must give a list or a map; it gave {kind_of(value)}")


def _step_value(records: Records, name: str) -> dict[str, Any]:
    record = records.step(name)
    if record is None:
        return {"phase": Phase.PENDING.value, "attempts": 0}
    value: dict[str, Any] = {"phase": record.phase.value}
    if record.reason is not None:
        value["reason"] = record.reason.value
    if record.message:
        value["message"] = record.message
    if record.started_at is not None:
        value["startedAt"] = record.started_at
    if record.finished_at is not None:
        value["finishedAt"] = record.finished_at
    step = records.plan.steps[name]
    tasks = [records.task(key) for key in task_keys(step, record)]
    value["attempts"] = sum(task.attempt for task in tasks if task is not None)
    if step.is_for_each:
        # A step that never started has none: an expression that takes them for granted fails.
        if record.phase.terminal and record.started_at is not None:
            value["outputs"] = [_output(task) for task in tasks]
        return value
    task = tasks[-1] if tasks else None
    if task is not None and task.exit_code is not None:
        value["exitCode"] = task.exit_code
    if task is not None and record.phase is Phase.SUCCEEDED:
        value["output"] = _output(task)
    return value


def _output(task: TaskRecord | None) -> Any:
    """The output of a task: its value if that is small, and where the ledger has it if not."""
    if task is None or task.output is None:
        return None
    inline = task.output.inline
    if inline is None:
        return StoredOutput(*task.key, task.output)
    return orjson.loads(inline)
