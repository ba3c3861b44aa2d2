"""What is observed of the installation meanwhile: restarts, memory, and code that held an event loop."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from hack.target import NAMESPACE, RELEASE

from tests.cluster.installation import COMPONENTS, Installation, Object

#: CPU seconds of one turn of an event loop that guarantee 11 allows.
HELD = 0.05
#: Processes that are watched: those with an event loop of ours.
WATCHED = ("operator", "gateway")


def restarts(perdure: Installation) -> dict[str, int]:
    """How often each component was started again."""
    return {component: perdure.restarts(component) for component in COMPONENTS}


def watch_loops(perdure: Installation) -> None:
    """Have operator and gateway log the code that holds their event loops; they are replaced for that."""
    perdure.upgrade(
        *(
            setting
            for component in WATCHED
            for setting in (
                f"{component}.extraEnv[0].name=PERDURE_LOOP_WATCH",
                f"{component}.extraEnv[0].value={HELD}",
            )
        )
    )


@dataclass
class Holds:
    """Turns of the event loops that computed for too long, from the logs of both processes."""

    by_component: dict[str, list[Object]] = field(default_factory=dict)

    @staticmethod
    def read(perdure: Installation) -> Holds:
        found: dict[str, list[Object]] = {}
        for component in WATCHED:
            text = perdure.ok(
                "logs", "-n", NAMESPACE, f"deploy/{RELEASE}-{component}", "--tail=-1", seconds=120
            )
            found[component] = [json.loads(line) for line in text.splitlines() if "event loop held" in line]
        return Holds(found)

    def text(self) -> str:
        """The longest ones, with their code."""
        lines = []
        for component, held in self.by_component.items():
            for line in sorted(held, key=lambda line: -line["cpu_ms"])[:12]:
                lines.append(f"{component}: {line['cpu_ms']} ms: {' < '.join(line['code'][:5])}")
        return "\n".join(lines)

    @property
    def longest(self) -> dict[str, int]:
        """CPU milliseconds by component; 0 without any."""
        return {
            component: max((line["cpu_ms"] for line in held), default=0)
            for component, held in self.by_component.items()
        }


def memory(perdure: Installation) -> dict[str, float]:
    """The most memory that each watched container has used, MiB, as its control group counts it."""
    found = {}
    for component in WATCHED:
        (pod,) = perdure.pods(component)
        source = (
            "import pathlib; folder = pathlib.Path('/sys/fs/cgroup');"
            "names = ('memory.peak', 'memory.current', 'memory/memory.max_usage_in_bytes');"
            "print(next(p.read_text() for n in names if (p := folder / n).exists()))"
        )
        text = perdure.execute(NAMESPACE, pod["metadata"]["name"], "python", "-c", source)
        found[component] = int(text) / 2**20
    return found


def limits(perdure: Installation) -> Mapping[str, str]:
    """The memory limit of each watched container, as the chart sets it."""
    return {
        component: perdure.pods(component)[0]["spec"]["containers"][0]["resources"]["limits"]["memory"]
        for component in WATCHED
    }
