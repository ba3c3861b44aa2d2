"""What expressions see: the names `inputs`, `steps`, `workflow`, `item` and `index`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from perdure.domain.cel import ExpressionError, kind_of
from perdure.domain.phases import Phase
from perdure.domain.plan import Plan, PlannedStep
from perdure.domain.records import NO_INDEX, RunRecord, StepRecord, TaskKey, TaskRecord
from perdure.domain.templating import Text, render, render_argument


class Records(Protocol):
    """Where steps and tasks are read: a run as it is, or as a decision is about to make it."""

    @property
    def plan(self) -> Plan: ...

    @property
    def run(self) -> RunRecord: ...

    def step(self, name: str) -> StepRecord | None: ...

    def task(self, key: TaskKey) -> TaskRecord | None: ...


def step_values(records: Records, names: tuple[str, ...]) -> dict[str, Any]:
    """The value of `steps`, with the named steps only."""
    return {name: _step_value(records, name) for name in names}


def scope(records: Records, steps: Mapping[str, Any]) -> dict[str, Any]:
    """The names that every expression of a workflow may use."""
    run = records.run
    # What is evaluated on the way to the first task must not differ when it is evaluated again later.
    phase = Phase.RUNNING if run.phase is Phase.PENDING else run.phase
    return {
        "inputs": records.plan.inputs,
        "steps": steps,
        "workflow": {
            "name": run.name,
            "namespace": run.namespace,
            "uid": run.uid,
            "phase": phase.value,
        },
    }


def item_scope(names: Mapping[str, Any], items: list[Any] | None, index: int) -> Mapping[str, Any]:
    """The names of one task: those of its step, and its item if the step has `forEach`."""
    if items is None or index == NO_INDEX:
        return names
    return {**names, "item": items[index], "index": index}


def evaluate_items(step: PlannedStep, names: Mapping[str, Any]) -> list[Any]:
    """The items of a step's `forEach`; of a map, `{key, value}` in order of keys. Raises ExpressionError."""
    value = render(step.for_each, names, "forEach")
    if isinstance(value, dict):
        return [{"key": key, "value": value[key]} for key in sorted(value)]
    if isinstance(value, list):
        return value
    raise ExpressionError(f"forEach: must give a list or a map; it gave {kind_of(value)}")


def render_agent(step: PlannedStep, names: Mapping[str, Any]) -> dict[str, Any]:
    """The agent block with its expressions filled in, ready for a pod. Raises ExpressionError."""
    agent = dict(step.agent)
    for field in ("command", "args"):
        if field in agent:
            agent[field] = [
                render_argument(value, names, f"agent.{field}[{position}]")
                for position, value in enumerate(agent[field])
            ]
    if "env" in agent:
        agent["env"] = [
            {**variable, "value": render_argument(variable["value"], names, f"agent.env.{variable['name']}")}
            if isinstance(variable.get("value"), (str, Text))
            else variable
            for variable in agent["env"]
        ]
    return agent


def _step_value(records: Records, name: str) -> dict[str, Any]:
    record = records.step(name)
    if record is None:
        return {"phase": Phase.PENDING.value, "attempts": 0}
    value: dict[str, Any] = {"phase": record.phase.value}
    if record.started_at is not None:
        value["startedAt"] = record.started_at
    if record.finished_at is not None:
        value["finishedAt"] = record.finished_at
    if record.for_each:
        tasks = [records.task(TaskKey(name, index)) for index in range(record.total)]
        value["attempts"] = sum(task.attempt for task in tasks if task is not None)
        if record.phase.terminal:
            value["outputs"] = [task.output if task is not None else None for task in tasks]
        return value
    task = records.task(TaskKey(name))
    value["attempts"] = 0 if task is None else task.attempt
    if task is not None and task.exit_code is not None:
        value["exitCode"] = task.exit_code
    if task is not None and task.phase is Phase.SUCCEEDED:
        value["output"] = task.output
    return value
