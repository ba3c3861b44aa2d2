"""Short forms in which cases of decisions are written."""

from typing import Any

from tests.unit.domain.builders import view_of_lone_plan, view_of_plan
from tests.unit.domain.clock import START
from tests.unit.domain.runs import Run

from perdure.domain.payloads import payload_of
from perdure.domain.phases import Phase
from perdure.domain.records import DesiredState, Report, TaskKey

A, B, C, D, E, F = (TaskKey(name) for name in "abcdef")
ALONE = TaskKey("")
#: Expressions that are no condition, and what is said of them.
BAD_CONDITIONS = [
    ("${3}", "must give true or false; it gave the int 3"),
    ("${'true'}", "must give true or false; it gave the str 'true'"),
    ("${null}", "must give true or false; it gave null"),
    ("${inputs.gone}", "${inputs.gone}: no such key: 'gone'"),
]


def step(name: str, *needed: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "dependsOn": list(needed), **fields}


def begun(
    *steps: dict[str, Any], desired: DesiredState = "Running", limit: int | None = None, **fields: Any
) -> Run:
    """A run of these steps that has settled for the first time."""
    run = Run(view_of_plan(*steps, **fields))
    run.notes_pods = True
    run.limit = limit
    run.want(desired)
    return run


def begun_alone(*, desired: DesiredState = "Running", **fields: Any) -> Run:
    """The run of a standalone AgentTask, likewise."""
    run = Run(view_of_lone_plan(**fields))
    run.notes_pods = True
    run.want(desired)
    return run


def gave(output: Any) -> Report:
    return Report(outcome="Succeeded", output=payload_of(output), at=START)


def failed(message: str = "no hope") -> Report:
    return Report(outcome="Failed", message=message, retryable=False, at=START)


def reasons(run: Run) -> dict[str, str | None]:
    """Why steps are in their phases."""
    return {
        name: None if record.reason is None else record.reason.value for name, record in run.steps.items()
    }


def end_of(run: Run) -> tuple[str, str | None]:
    """Phase and reason of a run that has ended."""
    assert run.phase.terminal, run.phases()
    return run.phase.value, None if run.run.reason is None else run.run.reason.value


def phases_of(run: Run, name: str) -> list[str]:
    """The phases of a step's tasks, in order."""
    return [task.phase.value for key, task in sorted(run.tasks.items()) if key.step == name]


SUCCEEDED, FAILED, CANCELLED, SKIPPED = (
    phase.value for phase in (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED, Phase.SKIPPED)
)
