"""Objects of one namespace that ended the operator once, against the whole control loop.

Each test applies one of them, takes a run of another namespace to its end next to it, and starts the operator
again, which then has the hostile object in its first list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from perdure.api import API_VERSION
from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.runs.live_runs import LiveRuns
from perdure.control.runs.reconciler import Reconciler
from perdure.domain.expressions import cel
from perdure.domain.names import LABEL_ATTEMPT, LABEL_MANAGED_BY, LABEL_TASK, MANAGED_BY
from perdure.domain.phases import Phase
from tests.fakes.clock import run
from tests.fakes.world import World, eventually

AGENT = {"image": "agent"}
CHAIN = {
    "steps": [
        {"name": "first", "agent": AGENT},
        {"name": "second", "agent": AGENT, "input": "${steps.first.output}"},
    ]
}
THEIRS = "team-b"


def apply_theirs(at: World, kind: str, spec: dict[str, Any], **metadata: Any) -> str:
    """Apply an object in the other namespace. Returns its uid."""
    body = {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {"name": "hostile", **metadata},
        "spec": spec,
    }
    return str(at.api.create(kind, THEIRS, body)["metadata"]["uid"])


async def survives(at: World, *, meanwhile: Callable[[], bool]) -> None:
    """A run of another namespace succeeds in this life of the operator, and one more in the next."""
    for name in ("one", "two"):
        if at.operator is None:
            at.start_operator()
        uid = at.apply(name, CHAIN)
        (ended,) = await at.until_ended([uid])
        assert ended.phase is Phase.SUCCEEDED
        await eventually(meanwhile)
        assert at.operator is not None and at.operator.alive
        await at.kill_operator()
    at.check([uid])
    await at.close()


def refused(at: World, path: str, text: str, kind: str = "Workflow") -> Callable[[], bool]:
    """Whether the hostile object's status says that it is not accepted, with the path and the text."""

    def is_refused() -> bool:
        found = at.find(kind, "hostile", THEIRS)
        assert found is not None
        for condition in (found.get("status") or {}).get("conditions") or ():
            if condition["type"] == "Accepted" and condition["status"] == "False":
                message = str(condition["message"])
                return path in message and text in message
        return False

    return is_refused


TERMS = "1" + "+1" * 15_000
EXPRESSIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"agent": AGENT, "input": {"x": f"${{{TERMS}}}"}}, "spec.steps[0].input.x", "limit of 8,192 characters"),
    (
        {"agent": {**AGENT, "args": [f"${{{TERMS}}}"]}},
        "spec.steps[0].agent.args[0]",
        "limit of 8,192 characters",
    ),
    ({"agent": AGENT, "when": f"${{{TERMS[:4001]} > 0}}"}, "spec.steps[0].when", "4,003 tokens"),
    ({"agent": AGENT, "forEach": "${[1]" + ".map(x,x)" * 4250 + "}"}, "spec.steps[0].forEach", "characters"),
]


@pytest.mark.parametrize(("step", "path", "text"), EXPRESSIONS)
def test_an_expression_beyond_the_limits_is_refused(step: dict[str, Any], path: str, text: str) -> None:
    async def scenario() -> None:
        at = World(1)
        apply_theirs(at, "Workflow", {"steps": [{"name": "a", **step}]})
        await survives(at, meanwhile=refused(at, path, text))

    run(scenario())


#: A syntax error beyond column 65,535: the parser panics when it formats the message.
PANIC = f"size('{'a' * 70_000}') + ("


def test_a_panic_of_the_parser_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    # The limit of an expression's size keeps this panic away; others may be found.
    monkeypatch.setattr(cel, "MAX_EXPRESSION", 10**6)

    async def scenario() -> None:
        at = World(2)
        apply_theirs(at, "Workflow", {"steps": [{"name": "a", "agent": AGENT, "input": f"${{{PANIC}}}"}]})
        await survives(at, meanwhile=refused(at, "spec.steps[0].input", ""))

    run(scenario())


class Panic(BaseException):
    """What a native library may raise, anywhere."""


def test_a_pass_that_panics_is_repeated_later_and_ends_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[float] = []
    reconcile = Reconciler.reconcile

    async def panics(self: Reconciler, key: RunKey) -> float | None:
        if key.namespace != THEIRS:
            return await reconcile(self, key)
        passes.append(asyncio.get_running_loop().time())
        raise Panic("a fault of a native library")

    monkeypatch.setattr(Reconciler, "reconcile", panics)

    async def scenario() -> None:
        at = World(3)
        apply_theirs(at, "Workflow", CHAIN)
        await survives(at, meanwhile=lambda: len(passes) > 4)
        pauses = [later - earlier for earlier, later in pairwise(passes[:5])]
        assert pauses == sorted(pauses) and pauses[-1] > pauses[0], "each failure waits longer than the last"

    run(scenario())


DEEP = {"perdure.dev/depth": "9" * 4301}


@pytest.mark.parametrize("kind", ["Workflow", "AgentTask"])
def test_an_annotation_of_4301_digits_is_a_depth_beyond_the_limit(kind: str) -> None:
    spec = CHAIN if kind == "Workflow" else {"agent": AGENT}

    async def scenario() -> None:
        at = World(4)
        at.start_operator()
        apply_theirs(at, kind, spec, annotations=DEEP)
        await survives(at, meanwhile=refused(at, "metadata.annotations", "at most 8 are allowed", kind))

    run(scenario())


def test_a_schedule_whose_runs_have_such_an_annotation() -> None:
    spec = {"schedule": "* * * * *", "workflow": {"metadata": {"annotations": DEEP}, "spec": CHAIN}}

    async def scenario() -> None:
        at = World(5)
        at.start_operator()
        apply_theirs(at, "WorkflowSchedule", spec)
        await survives(at, meanwhile=lambda: any(is_refused(made) for made in at.api.all("Workflow")))

    def is_refused(made: dict[str, Any]) -> bool:
        return bool(
            made["metadata"]["namespace"] == THEIRS and made.get("status", {}).get("phase") == "Failed"
        )

    run(scenario())


#: Objects that no reader foresees: the API server would refuse some of them, another version of it may not.
ODD: list[tuple[str, dict[str, Any]]] = [
    ("Workflow", {"spec": ["no map"]}),
    ("Workflow", {"status": {"phase": ["no text"]}}),
    ("AgentTask", {"status": ["no map"]}),
    ("WorkflowSchedule", {"spec": ["no map"]}),
    ("AgentTemplate", {"spec": ["no map"]}),
    ("Pod", {"status": {"containerStatuses": 7}}),
    (
        "Pod",
        {"status": {"containerStatuses": [{"name": "agent", "state": {"running": {"startedAt": "soon"}}}]}},
    ),
]


@pytest.mark.parametrize(("kind", "fields"), ODD)
def test_an_object_that_cannot_be_read_is_passed_over(kind: str, fields: dict[str, Any]) -> None:
    labels = {LABEL_MANAGED_BY: MANAGED_BY, LABEL_TASK: "hostile", LABEL_ATTEMPT: "1"}

    async def scenario() -> None:
        at = World(6)
        at.start_operator()
        body = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "hostile", "labels": labels}}
        at.api.create(kind, THEIRS, {**body, **fields})
        await survives(at, meanwhile=lambda: True)

    run(scenario())


def test_a_run_that_cannot_be_restored_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = LiveRuns.keep

    def refuses(self: LiveRuns, key: RunKey, *state: Any) -> Any:
        if key.namespace == THEIRS:
            raise ValueError("a row of another version")
        return keep(self, key, *state)

    async def scenario() -> None:
        at = World(7)
        at.start_operator()
        uid = apply_theirs(at, "Workflow", {"steps": [{"name": "a", "wait": {"duration": "1h"}}]})
        await eventually(lambda: uid in at.ledger.rows)
        await at.kill_operator()
        monkeypatch.setattr(LiveRuns, "keep", refuses)
        await survives(at, meanwhile=lambda: not at.record(uid).phase.terminal)

    run(scenario())


def test_a_live_run_whose_object_cannot_be_read_any_more_goes_on_when_it_can() -> None:
    async def scenario() -> None:
        at = World(8)
        at.start_operator()
        uid = apply_theirs(at, "Workflow", {"steps": [{"name": "a", "wait": {"duration": "5m"}}]})
        await eventually(lambda: uid in at.ledger.rows)
        await at.kill_operator()
        obj = at.find("Workflow", "hostile", THEIRS)
        assert obj is not None
        created = obj["metadata"].pop("creationTimestamp")
        operator = at.start_operator()
        get, asked = operator.kube.get, []

        async def counted(kind: str, namespace: str, name: str) -> dict[str, Any]:
            asked.append(name)
            return await get(kind, namespace, name)

        operator.kube.get = counted  # type: ignore[method-assign]
        await asyncio.sleep(100)
        assert 1 <= asked.count("hostile") <= 10, "asked now and then, not all the time"
        assert not at.record(uid).phase.terminal
        obj["metadata"]["creationTimestamp"] = created
        assert at.api.change(obj, "Workflow")
        (ended,) = await at.until_ended([uid])
        assert ended.phase is Phase.SUCCEEDED
        await at.close()

    run(scenario())
