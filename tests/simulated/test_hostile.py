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
from perdure.control.runs.reconciler import Reconciler
from perdure.domain.expressions import cel
from perdure.domain.phases import Phase
from tests.simulated.clock import run
from tests.simulated.world import World, settled, world

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
    return str(at.cluster.add(kind, THEIRS, body)["metadata"]["uid"])


async def survives(at: World, *, meanwhile: Callable[[], bool]) -> None:
    """A run of another namespace succeeds in this life of the operator, and one more in the next."""
    for name in ("one", "two"):
        if at.operator is None:
            at.start_operator()
        uid = at.apply(name, CHAIN)
        (ended,) = await at.until_ended([uid])
        assert ended.phase is Phase.SUCCEEDED
        await settled(meanwhile)
        assert at.operator is not None and not at.operator.task.done()
        await at.kill_operator()
    at.check([uid])
    await at.close()


def refused(at: World, path: str, text: str, kind: str = "Workflow") -> Callable[[], bool]:
    """Whether the hostile object's status says that it is not accepted, with the path and the text."""

    def is_refused() -> bool:
        found = at.cluster.find(kind, "hostile", THEIRS)
        assert found is not None
        for condition in (found.get("status") or {}).get("conditions") or ():
            if condition["type"] == "Accepted" and condition["status"] == "False":
                message = str(condition["message"])
                return path in message and text in message
        return False

    return is_refused


TERMS = "1" + "+1" * 15_000
EXPRESSIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"agent": AGENT, "input": {"x": f"${{{TERMS}}}"}}, "spec.steps[0].input.x", "30,001 characters"),
    ({"agent": {**AGENT, "args": [f"${{{TERMS}}}"]}}, "spec.steps[0].agent.args[0]", "30,001 characters"),
    ({"agent": AGENT, "when": f"${{{TERMS[:4001]} > 0}}"}, "spec.steps[0].when", "4,003 tokens"),
    ({"agent": AGENT, "forEach": "${[1]" + ".map(x,x)" * 4250 + "}"}, "spec.steps[0].forEach", "characters"),
]


@pytest.mark.parametrize(("step", "path", "text"), EXPRESSIONS)
def test_an_expression_beyond_the_limits_is_refused(step: dict[str, Any], path: str, text: str) -> None:
    async def scenario() -> None:
        at = world(1)
        apply_theirs(at, "Workflow", {"steps": [{"name": "a", **step}]})
        await survives(at, meanwhile=refused(at, path, text))

    run(scenario())


#: A syntax error beyond column 65,535: the parser panics when it formats the message.
PANIC = f"size('{'a' * 70_000}') + ("


def test_a_panic_of_the_parser_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    # The limit of an expression's size keeps this panic away; others may be found.
    monkeypatch.setattr(cel, "MAX_EXPRESSION", 10**6)

    async def scenario() -> None:
        at = world(2)
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
        at = world(3)
        apply_theirs(at, "Workflow", CHAIN)
        await survives(at, meanwhile=lambda: len(passes) > 4)
        pauses = [later - earlier for earlier, later in pairwise(passes[:5])]
        assert pauses == sorted(pauses) and pauses[-1] > pauses[0], "each failure waits longer than the last"

    run(scenario())
