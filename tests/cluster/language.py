"""The examples of `examples/language`, and the comparison of an outcome with the expected one.

The comparison is a pure function over objects as kubectl prints them, so that it is tested without a cluster,
and reports all differences at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

Object = dict[str, Any]

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "language"
SUFFIX = ".expected.yaml"
#: Objects that a run can leave, by the plural that kubectl needs.
RESOURCES = (
    "workflows.perdure.dev",
    "agenttasks.perdure.dev",
    "workflowschedules.perdure.dev",
    "pods",
    "jobs.batch",
)
RunKind = Literal["Workflow", "AgentTask", "WorkflowSchedule"]
#: The kinds of which an outcome is stated.
RUNS = ("Workflow", "AgentTask", "WorkflowSchedule")


class _Stated(BaseModel):
    """A part of what is stated; what is left out is not compared."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True)


class Moment(_Stated):
    """When an action is due: all of this holds."""

    #: The phase of the run, or of `step`, of which a container runs then.
    phase: str
    step: str | None = None
    #: Pods of the run that exist, those that are about to end included.
    pods: int | None = None
    #: Checkpoints that the step's task has saved at least.
    checkpoint: int = 0


class Action(_Stated):
    """Something that a person does while the run is live: a patch of its spec."""

    when: Moment
    patch: Object


class Step(_Stated):
    """The expected end of a step."""

    phase: str
    #: Pods that are left.
    pods: int
    reason: str | None = None
    #: Text that the message contains.
    message: str = ""
    #: Phases of its AgentTasks, by index.
    tasks: list[str] | None = None
    #: Outputs of its AgentTasks, by index.
    outputs: list[Any] | None = None
    #: Phases of the child Workflows, by index.
    children: list[str] | None = None
    jobs: int = 0
    #: The sum over all tasks.
    attempts: int | None = None
    retries: int | None = None
    disruptions: int | None = None


class Expected(_Stated):
    """The expected end of a run; of a schedule, its first run."""

    kind: RunKind = "Workflow"
    #: Name of the object; needed if the file has several.
    name: str | None = None
    phase: str
    #: Reason of the condition Failed.
    reason: str | None = None
    message: str = ""
    #: Status by type, except Complete and Failed, which follow from the phase.
    conditions: dict[str, str] = {}
    labels: dict[str, str] = {}
    actions: list[Action] = []
    #: Every step of a Workflow.
    steps: dict[str, Step] = {}
    outputs: dict[str, Any] | None = None
    # --- of an AgentTask
    output: Any = None
    attempts: int | None = None
    pods: int | None = None


@dataclass(frozen=True)
class Example:
    """One manifest and its expected outcome."""

    name: str
    manifests: tuple[Object, ...]
    expected: tuple[Expected, ...]

    @staticmethod
    def load(path: Path) -> Example:
        """Read NAME.yaml and NAME.expected.yaml."""
        stated = yaml.safe_load_all(path.with_suffix(SUFFIX).read_text())
        manifests = tuple(as_kubectl_reads(part) for part in yaml.safe_load_all(path.read_text()))
        return Example(path.stem, manifests, tuple(Expected.model_validate(item) for item in stated))

    @property
    def scheduled(self) -> bool:
        """Whether a schedule is what it is about."""
        return any(expected.kind == "WorkflowSchedule" for expected in self.expected)

    def manifest(self, expected: Expected) -> Object:
        """The manifest that an outcome is of. Raises ValueError unless there is one."""
        found = [
            manifest
            for manifest in self.manifests
            if manifest["kind"] == expected.kind and expected.name in (None, manifest["metadata"]["name"])
        ]
        if len(found) != 1:
            raise ValueError(f"{self.name}: {len(found)} manifests for {expected.kind} {expected.name or ''}")
        return found[0]


def as_kubectl_reads(value: Any) -> Any:
    """A parsed YAML document with names as text: a bare `on` is read as true, and becomes `true` in JSON."""
    if isinstance(value, dict):
        return {
            str(key).lower() if isinstance(key, bool) else key: as_kubectl_reads(part)
            for key, part in value.items()
        }
    return [as_kubectl_reads(part) for part in value] if isinstance(value, list) else value


def examples() -> list[Example]:
    """All examples, by name; schedules last, since they keep one waiting for a minute."""
    paths = sorted(path for path in FOLDER.glob("*.yaml") if not path.name.endswith(SUFFIX))
    return sorted(map(Example.load, paths), key=lambda example: example.scheduled)


@dataclass(frozen=True)
class Namespace:
    """All objects of interest in a namespace, as `kubectl get … -o json` gives them."""

    objects: tuple[Object, ...]

    def run(self, kind: str, name: str) -> Object | None:
        """The run; of a schedule the first that it made; None if there is none."""
        if kind == "WorkflowSchedule":
            made = [item for item in self._of("Workflow") if _made_by(item, name)]
            return min(made, key=lambda item: item["metadata"]["name"], default=None)
        return next((item for item in self._of(kind) if item["metadata"]["name"] == name), None)

    def of_step(self, kind: str, run: str, step: str) -> list[Object]:
        """Objects of one kind that belong to a step, by index and name."""
        labels = {"perdure.dev/workflow": run, "perdure.dev/step": step}
        return sorted(self._labelled(kind, labels), key=_place)

    def pods(self, run: Object) -> list[Object]:
        """All pods of a run, its children's not included."""
        label = "perdure.dev/task" if run["kind"] == "AgentTask" else "perdure.dev/workflow"
        return self._labelled("Pod", {label: run["metadata"]["name"]})

    def _of(self, kind: str) -> Iterator[Object]:
        return (item for item in self.objects if item["kind"] == kind)

    def _labelled(self, kind: str, labels: Mapping[str, str]) -> list[Object]:
        found = ((item, item["metadata"].get("labels", {})) for item in self._of(kind))
        return [item for item, has in found if labels.items() <= has.items()]


def due(moment: Moment, name: str, kind: str, seen: Namespace) -> bool:
    """Whether the time for an action has come."""
    run = seen.run(kind, name)
    if run is None:
        return False
    pods = seen.pods(run)
    if moment.pods is not None and len(pods) != moment.pods:
        return False
    if moment.step is None:
        return bool(_status(run).get("phase") == moment.phase)
    own = run["metadata"]["name"]
    steps = {step["name"]: step["phase"] for step in _status(run).get("steps", ())}
    running = [pod for pod in seen.of_step("Pod", own, moment.step) if pod["status"]["phase"] == "Running"]
    checkpoints = [
        _status(task).get("checkpoint", {}).get("sequence", 0)
        for task in seen.of_step("AgentTask", own, moment.step)
    ]
    return (
        steps.get(moment.step) == moment.phase
        and bool(running)
        and max(checkpoints, default=0) >= moment.checkpoint
    )


def differences(expected: Expected, name: str, seen: Namespace) -> list[str]:
    """The differences from the expected outcome, in words; [] if there are none."""
    run = seen.run(expected.kind, name)
    if run is None:
        return [f"there is no run of {expected.kind} {name}"]
    return [*_differing_run(expected, run, seen), *_differing_steps(expected, run, seen)]


def _differing_run(expected: Expected, run: Object, seen: Namespace) -> Iterator[str]:
    status = _status(run)
    yield from _unlike("phase", expected.phase, status.get("phase"))
    conditions = {item["type"]: item for item in status.get("conditions", ())}
    succeeded = expected.phase == "Succeeded"
    wanted = {"Complete": str(succeeded), "Failed": str(not succeeded)} | expected.conditions
    for type_, value in wanted.items():
        yield from _unlike(f"condition {type_}", value, conditions.get(type_, {}).get("status"))
    if expected.reason is not None:
        yield from _unlike("reason", expected.reason, conditions.get("Failed", {}).get("reason"))
    if expected.message not in status.get("message", ""):
        yield f"message: {expected.message!r} is not in {status.get('message', '')!r}"
    labels = run["metadata"].get("labels", {})
    if not expected.labels.items() <= labels.items():
        yield f"labels: {expected.labels} are not among {labels}"
    if expected.outputs is not None:
        yield from _unlike("outputs", expected.outputs, status.get("outputs"))
    elif not succeeded and "outputs" in status:
        yield f"outputs: there are some, though it has not succeeded: {status['outputs']}"
    if expected.kind == "WorkflowSchedule":
        yield from _misnamed(run)
    if expected.kind == "AgentTask":
        yield from _unlike("output", expected.output, status.get("output"))
        yield from _unlike("pods", expected.pods, len(seen.pods(run)))
        yield from _unlike("attempts", expected.attempts, status.get("attempt"))


def _misnamed(run: Object) -> Iterator[str]:
    """A schedule's run has the minute in its name for which it was made, which is not after its making."""
    minutes = int(run["metadata"]["name"].rpartition("-")[2])
    made = run["metadata"]["creationTimestamp"]
    late = datetime.fromisoformat(made).timestamp() - 60 * minutes
    if not 0 <= late < 60:
        yield f"name: {run['metadata']['name']} was made {late:g} s after its minute began"


def _differing_steps(expected: Expected, run: Object, seen: Namespace) -> Iterator[str]:
    shown = {step["name"]: step for step in _status(run).get("steps", ())}
    if expected.kind != "AgentTask":
        yield from _unlike("steps", sorted(expected.steps), sorted(shown))
    for name, step in expected.steps.items():
        for text in _differing_step(step, name, shown.get(name, {}), run["metadata"]["name"], seen):
            yield f"step {name}: {text}"


def _differing_step(step: Step, name: str, shown: Object, run: str, seen: Namespace) -> Iterator[str]:
    yield from _unlike("phase", step.phase, shown.get("phase"))
    if step.reason is not None:
        yield from _unlike("reason", step.reason, shown.get("reason"))
    if step.message not in shown.get("message", ""):
        yield f"message: {step.message!r} is not in {shown.get('message', '')!r}"
    yield from _unlike("pods", step.pods, len(seen.of_step("Pod", run, name)))
    yield from _unlike("jobs", step.jobs, len(seen.of_step("Job", run, name)))
    tasks = [_status(task) for task in seen.of_step("AgentTask", run, name)]
    if step.tasks is not None:
        yield from _unlike("tasks", step.tasks, [task.get("phase") for task in tasks])
    if step.outputs is not None:
        yield from _unlike("outputs of tasks", step.outputs, [task.get("output") for task in tasks])
    for field, wanted in (
        ("attempt", step.attempts),
        ("retries", step.retries),
        ("disruptions", step.disruptions),
    ):
        if wanted is not None:
            yield from _unlike(field, wanted, sum(task.get(field, 0) for task in tasks))
    if step.children is not None:
        children = [_status(child).get("phase") for child in seen.of_step("Workflow", run, name)]
        yield from _unlike("children", step.children, children)


def _unlike(what: str, wanted: Any, found: Any) -> Sequence[str]:
    return () if wanted == found else (f"{what}: {wanted!r} was expected, it is {found!r}",)


def _status(item: Mapping[str, Any]) -> Object:
    status: Object = item.get("status", {})
    return status


def _made_by(item: Mapping[str, Any], schedule: str) -> bool:
    owners = item["metadata"].get("ownerReferences", ())
    return bool(re.fullmatch(rf"{re.escape(schedule)}-\d+", item["metadata"]["name"])) and any(
        owner["kind"] == "WorkflowSchedule" and owner["name"] == schedule and owner.get("controller")
        for owner in owners
    )


def _place(item: Mapping[str, Any]) -> tuple[int, str]:
    metadata = item["metadata"]
    return int(metadata.get("labels", {}).get("perdure.dev/index", -1)), metadata["name"]
