"""A run as users observe it: by kubectl, and by `perdure events`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hack.demo import events as log
from hack.target import Problem

from tests.cluster.installation import DEADLINE, Installation, Object
from tests.cluster.manifests import AGENTS
from tests.cluster.waiting import until

Event = dict[str, Any]
#: The last event of a task. (A skipped step never had one.)
ENDS = frozenset({"task.succeeded", "task.failed", "task.cancelled"})


@dataclass(frozen=True)
class Run:
    """An applied Workflow or AgentTask."""

    perdure: Installation
    namespace: str
    name: str
    uid: str
    kind: str = "Workflow"

    @staticmethod
    def apply(perdure: Installation, namespace: str, manifest: Mapping[str, Any]) -> Run:
        """Apply a manifest, which must be taken."""
        said = perdure.apply(namespace, manifest)
        assert said.code == 0, said.error
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        made = perdure.get(f"{kind.lower()}s.perdure.dev", name, "-n", namespace)
        return Run(perdure, namespace, name, made["metadata"]["uid"], kind)

    @property
    def resource(self) -> str:
        """The name of the run for kubectl."""
        return f"{self.kind.lower()}s.perdure.dev/{self.name}"

    def kubectl(self, *arguments: str, seconds: float = 60) -> str:
        """The output of kubectl, in the run's namespace."""
        return self.perdure.ok(*arguments, "-n", self.namespace, seconds=seconds)

    @property
    def status(self) -> Object:
        """The object's status; {} while there is none."""
        found: Object = self.perdure.get(self.resource, "-n", self.namespace)
        status: Object = found.get("status", {})
        return status

    def condition(self, type_: str) -> Object:
        """A condition by its type; {} if there is none."""
        return next((item for item in self.status.get("conditions", ()) if item["type"] == type_), {})

    def until(self, condition: str = "Complete", *, seconds: float = DEADLINE) -> Object:
        """Wait as people do, by `kubectl wait`. Returns the status."""
        wait = ("wait", f"--for=condition={condition}", self.resource, f"--timeout={seconds:g}s")
        said = self.perdure.kubectl(*wait, "-n", self.namespace, seconds=seconds + 30)
        assert said.code == 0, f"{said.error}{json.dumps(self.status, indent=1)}"
        return self.status

    def tasks(self, step: str | None = None) -> list[Object]:
        """The run's AgentTasks, of one step or all, by index."""
        labels = f"perdure.dev/workflow={self.name}" + (f",perdure.dev/step={step}" if step else "")
        found = self.perdure.items("agenttasks.perdure.dev", "-n", self.namespace, "-l", labels)
        return sorted(found, key=lambda task: int(task["metadata"]["labels"].get("perdure.dev/index", -1)))

    def pods(self, step: str | None = None) -> list[Object]:
        """The run's pods, of one step or all, by name."""
        label = f"perdure.dev/{'workflow' if self.kind == 'Workflow' else 'task'}={self.name}"
        labels = label + (f",perdure.dev/step={step}" if step else "")
        return self.perdure.items("pods", "-n", self.namespace, "-l", labels)

    def until_checkpoint(self, number: int, *, step: str = "count") -> list[Object]:
        """Wait until every task of a step has saved that many. Returns the tasks."""

        def saved() -> list[Object] | None:
            tasks = self.tasks(step)
            numbers = [task.get("status", {}).get("checkpoint", {}).get("sequence", 0) for task in tasks]
            return tasks if numbers and min(numbers) >= number else None

        return until(saved, seconds=DEADLINE, what=f"checkpoint {number} of all tasks of {self.name}") or []

    def open_gates(self, step: str = "count") -> None:
        """Let all agents of a step go on (see `agents/counter.py`)."""
        for pod in self.pods(step):
            self.open_gate(pod["metadata"]["name"])

    def open_gate(self, pod: str) -> None:
        """Let one agent go on."""
        touch = "import pathlib; pathlib.Path('/tmp/open').touch()"
        self.perdure.execute(self.namespace, pod, "python", "-c", touch)

    def events(self) -> list[Event]:
        """The history that `perdure events` prints: gapless, without duplicates, ending where it must."""
        events: list[Event] = []

        def read() -> bool:
            try:
                events[:] = log.history(self.perdure.target, f"{self.namespace}/{self.name}", self.uid)
            except Problem:  # the gateway, in whose pod it runs, has just been killed
                return False
            return bool(events)

        until(read, seconds=DEADLINE, what=f"the events of {self.name}")
        self._check(events)
        return events

    def _check(self, events: list[Event]) -> None:
        assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
        assert [event["id"] for event in events] == [
            f"{self.uid}/{number}" for number in range(1, len(events) + 1)
        ]
        types = [event["type"] for event in events]
        if self.kind == "Workflow":
            assert types[0] == "workflow.created"
            assert all(not type_.startswith("workflow.") for type_ in types[2:-1])
        ended = [event["task"] for event in events if event["type"] in ENDS]
        assert len(ended) == len(set(ended)), f"a task ended twice: {ended}"
        over: set[str] = set()
        for event in events:
            assert event.get("task") not in over, f"after its end: {event}"
            if event["type"] in ENDS:
                over.add(event["task"])

    def published(self, wanted: int) -> list[str]:
        """Ids of the run's events in JetStream, of which there should be `wanted`, as they came."""
        source = (AGENTS / "stream.py").read_text()
        subject = f"perdure.events.{self.namespace}.{self.name}.>"
        found: list[str] = json.loads(self.perdure.python("gateway", source, subject, str(wanted), "20"))
        return found


def of_type(events: list[Event], type_: str) -> list[Event]:
    """Events of one type."""
    return [event for event in events if event["type"] == type_]


def data(event: Mapping[str, Any]) -> Object:
    """The data of an event."""
    said: Object = event.get("data") or {}
    return said
