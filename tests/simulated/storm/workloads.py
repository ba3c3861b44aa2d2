"""The workloads, each with its outputs in a world without faults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from perdure.domain.records import TaskKey
from tests.fakes.agents import output_of

Spec = dict[str, Any]

AGENT: Final[Spec] = {"image": "agent", "result": "Required"}
JOB: Final[Spec] = {**AGENT, "executor": "Job"}
#: Limits that no storm reaches.
PATIENT: Final[Spec] = {
    "retry": {"limit": 1000, "backoff": {"initial": "500ms", "max": "4s"}},
    "disruptions": {"limit": 1000},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A run to apply."""

    kind: str = "Workflow"
    spec: Spec
    #: Its outputs, or a task's; None if it may also fail by the rules. A function is given the output of each
    #: echo task, which depends on the signals that were sent.
    outputs: Any | Callable[[Mapping[TaskKey, Any]], Any] = None
    #: The name of the signal that each echo task waits for.
    signals: Mapping[TaskKey, str] = field(default_factory=dict)


def _workflow(
    steps: list[Spec],
    outputs: Spec,
    expected: Any,
    *,
    signals: Mapping[TaskKey, str] | None = None,
    **fields: Any,
) -> Workload:
    spec = {"defaults": PATIENT, "steps": steps, "outputs": outputs, **fields}
    return Workload(spec=spec, outputs=expected, signals=signals or {})


def _of(*steps: str) -> Spec:
    return {step: output_of(step, None) for step in steps}


def _each(step: str, number: int) -> list[Spec]:
    return [output_of(step, str(index)) for index in range(number)]


CHAIN: Final = _workflow(
    [
        {"name": "a", "agent": AGENT},
        {"name": "b", "agent": AGENT, "input": "${steps.a.output}"},
        {"name": "c", "agent": AGENT, "dependsOn": ["b"]},
    ],
    {name: f"${{steps.{name}.output}}" for name in ("a", "b", "c")},
    _of("a", "b", "c"),
    retention={"checkpointsPerTask": 1},
)
FAN: Final = _workflow(
    [
        {"name": "each", "forEach": [1, 2, 3, 4], "agent": AGENT},
        {"name": "join", "agent": AGENT, "input": "${steps.each.outputs}"},
    ],
    {"each": "${steps.each.outputs}", "join": "${steps.join.output}"},
    {"each": _each("each", 4), **_of("join")},
    parallelism=2,
    retention={"checkpointsPerTask": 1},
)
JOBS: Final = _workflow(
    [
        {"name": "a", "agent": JOB},
        {"name": "each", "forEach": [1, 2], "agent": JOB, "dependsOn": ["a"]},
    ],
    {"a": "${steps.a.output}", "each": "${steps.each.outputs}"},
    {**_of("a"), "each": _each("each", 2)},
)
TIMERS: Final = _workflow(
    [
        {"name": "nap", "wait": {"duration": "25s"}},
        {"name": "a", "agent": AGENT, "timeout": "45s", "pendingTimeout": "90s"},
        {"name": "b", "agent": AGENT, "timeout": "60s", "idleTimeout": "25s", "dependsOn": ["nap"]},
    ],
    {name: f"${{steps.{name}.output}}" for name in ("a", "b")},
    _of("a", "b"),
)
FAMILY: Final = _workflow(
    [
        {
            "name": "sub",
            "retry": {"limit": 50},
            "workflow": {
                "spec": {
                    "defaults": PATIENT,
                    "steps": [
                        {"name": "x", "agent": AGENT},
                        {"name": "y", "agent": AGENT, "dependsOn": ["x"]},
                    ],
                    "outputs": {"x": "${steps.x.output}", "y": "${steps.y.output}"},
                }
            },
        },
        {"name": "a", "agent": AGENT, "input": "${steps.sub.output}"},
    ],
    {"sub": "${steps.sub.output}", "a": "${steps.a.output}"},
    {"sub": _of("x", "y"), **_of("a")},
)
LOOP: Final = _workflow(
    [{"name": "r", "agent": AGENT, "repeat": {"until": "${index == 1}", "maxIterations": 3}}],
    {"r": "${steps.r.output}"},
    {"r": output_of("r", "1")},
    **{"finally": [{"name": "last", "agent": AGENT}]},
)
ALONE: Final = Workload(kind="AgentTask", spec={"agent": AGENT, **PATIENT}, outputs=output_of("", None))
#: These may fail: their limits are low, or their time is short.
STRICT: Final = Workload(
    spec={
        "defaults": {"retry": {"limit": 1}, "disruptions": {"limit": 1}},
        "failurePolicy": "CancelRunning",
        "steps": [
            {"name": "a", "agent": {"image": "agent"}},
            {"name": "each", "forEach": [1, 2], "agent": {"image": "agent"}},
        ],
        "finally": [{"name": "last", "agent": {"image": "agent"}}],
    }
)
SHORT: Final = Workload(
    spec={
        "timeout": "40s",
        "defaults": PATIENT,
        "steps": [{"name": "a", "agent": AGENT}, {"name": "b", "agent": JOB, "dependsOn": ["a"]}],
        "retention": {"ttlAfterFinished": "60s", "pods": "Never"},
    }
)
CACHED: Final = _workflow(
    [
        {"name": "a", "agent": AGENT, "cache": {"key": "the one", "ttl": "1h"}},
        {"name": "b", "agent": AGENT, "dependsOn": ["a"]},
    ],
    {"a": "${steps.a.output}", "b": "${steps.b.output}"},
    _of("a", "b"),
    retention={"pods": "OnFailure"},
)

WORKLOADS: Final = (CHAIN, FAN, JOBS, TIMERS, TIMERS, FAMILY, LOOP, ALONE, ALONE, STRICT, SHORT, CACHED)

_EACH: Final = [TaskKey("each", index) for index in range(4)]

#: An echo between two agents.
ECHO_CHAIN: Final = _workflow(
    [
        {"name": "a", "agent": AGENT},
        {"name": "e", "echo": {"signal": "go"}, "dependsOn": ["a"]},
        {"name": "b", "agent": AGENT, "input": "${steps.e.output}"},
    ],
    {name: f"${{steps.{name}.output}}" for name in ("a", "e", "b")},
    lambda echoed: {**_of("a", "b"), "e": echoed[TaskKey("e")]},
    signals={TaskKey("e"): "go"},
)
#: Echoes that wait at the same time, each for a name of its own, and one of them at the end.
ECHO_FAN: Final = _workflow(
    [
        {"name": "each", "forEach": [1, 2, 3, 4], "echo": {"signal": "go-${index}"}},
        {"name": "join", "agent": AGENT, "input": "${steps.each.outputs}"},
    ],
    {"each": "${steps.each.outputs}", "join": "${steps.join.output}"},
    lambda echoed: {"each": [echoed[key] for key in _EACH], **_of("join")},
    parallelism=2,
    signals={**{key: f"go-{key.index}" for key in _EACH}, TaskKey("last"): "go"},
    **{"finally": [{"name": "last", "echo": {"signal": "go"}}]},
)
#: Echoes next to an agent, which may time out.
ECHO_TIMERS: Final = Workload(
    spec={
        "defaults": PATIENT,
        "steps": [
            {"name": "nap", "wait": {"duration": "10s"}},
            {"name": "a", "agent": AGENT},
            {"name": "e", "echo": {"signal": "go"}, "timeout": "25s", "dependsOn": ["nap"]},
            {"name": "each", "forEach": [1, 2, 3, 4], "echo": {"signal": "go"}, "timeout": "60s"},
        ],
    },
    signals={TaskKey("e"): "go", **dict.fromkeys(_EACH, "go")},
)
#: An echo whose result another task and other runs may use.
ECHO_CACHED: Final = _workflow(
    [
        {"name": "e", "echo": {"signal": "go"}, "cache": {"key": "the echo", "ttl": "1h"}},
        {"name": "a", "agent": AGENT, "dependsOn": ["e"]},
        {
            "name": "f",
            "echo": {"signal": "go"},
            "cache": {"key": "the echo", "ttl": "1h"},
            "dependsOn": ["a"],
        },
    ],
    {name: f"${{steps.{name}.output}}" for name in ("e", "a", "f")},
    # Another run may have cached its own result since `e` ended.
    lambda echoed: {**_of("a"), "e": echoed[TaskKey("e")], "f": echoed[TaskKey("f")]},
    signals={TaskKey("e"): "go", TaskKey("f"): "go"},
)

ECHOES: Final = (ECHO_CHAIN, ECHO_FAN, ECHO_TIMERS, ECHO_CACHED)
