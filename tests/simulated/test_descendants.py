"""Templates that call themselves: the number of Workflows is bounded, and other namespaces go on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.domain.phases import Phase
from perdure.steps.workflow import executor
from tests.fakes.apiserver import NAMESPACE
from tests.fakes.clock import run
from tests.fakes.world import World
from tests.simulated.test_hostile import CHAIN, THEIRS


def calling_itself(width: int) -> dict[str, Any]:
    step = {"name": "s", "forEach": f"${{lists.range({width})}}", "workflow": {"templateRef": "loop"}}
    return {"steps": [step]}


def children(at: World) -> list[dict[str, Any]]:
    return [it for it in at.api.all("Workflow") if it["metadata"].get("ownerReferences")]


def test_a_template_that_calls_itself_comes_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "MAX_DESCENDANTS", 60)

    async def scenario() -> None:
        at = World(1)
        made: set[str] = set()
        note = at.api.on_made

        def noted(kind: str, obj: dict[str, Any]) -> None:
            if kind == "Workflow" and obj["metadata"].get("ownerReferences"):
                made.add(obj["metadata"]["uid"])
            note(kind, obj)

        at.api.on_made = noted
        at.start_operator()
        at.apply("loop", calling_itself(10_000), kind="WorkflowTemplate", namespace=THEIRS)
        uid = at.apply("hostile", {"templateRef": "loop"}, namespace=THEIRS)
        await asyncio.sleep(5)
        (ours,) = await at.until_ended([at.apply("ours", CHAIN, namespace=NAMESPACE)], seconds=120)
        assert ours.phase is Phase.SUCCEEDED
        (ended,) = await at.until_ended([uid], seconds=1800)
        assert ended.phase is Phase.FAILED
        assert len(made) == 60, "the limit is reached, and not exceeded"
        messages = " ".join(
            str(task.message) for rows in at.ledger.rows.values() for task in rows.tasks.values()
        )
        assert "have created 60 Workflows, and no more are allowed" in messages
        await at.close()

    run(scenario())


@pytest.mark.parametrize(("width", "phase"), [(12, Phase.SUCCEEDED), (13, Phase.FAILED)])
def test_the_limit_of_descendants_at_its_edge(
    width: int, phase: Phase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "MAX_DESCENDANTS", 12)

    async def scenario() -> None:
        at = World(2)
        at.start_operator()
        child = {"spec": {"steps": [{"name": "w", "wait": {"duration": "1s"}}]}}
        step = {"name": "s", "forEach": f"${{lists.range({width})}}", "workflow": child}
        (ended,) = await at.until_ended([at.apply("audit", {"steps": [step]})])
        assert ended.phase is phase
        assert len(children(at)) == 12
        await at.close()

    run(scenario())


def test_a_child_without_its_annotation_and_owner_stays_as_deep_as_it_is() -> None:
    async def scenario() -> None:
        at = World(3)
        at.start_operator()
        at.apply("loop", calling_itself(1), kind="WorkflowTemplate")

        def strip(kind: str, obj: dict[str, Any]) -> None:
            if kind == "Workflow":
                loop = asyncio.get_running_loop()
                loop.call_later(0.5, edit, obj["metadata"]["name"])

        def edit(name: str) -> None:
            found = at.find("Workflow", name)
            if found is not None:
                metadata = {**found["metadata"], "annotations": {}, "ownerReferences": []}
                at.api.change(found, "Workflow", metadata=metadata)

        note = at.api.on_made
        at.api.on_made = lambda kind, obj: (note(kind, obj), strip(kind, obj))[0]
        at.apply("hostile", {"templateRef": "loop"})
        await asyncio.sleep(600)
        made = [it for it in at.api.all("Workflow") if it["metadata"]["name"].startswith("hostile-")]
        assert len(made) <= 8, "eight levels below the first"
        assert any(
            "at depth 9" in task.message for rows in at.ledger.rows.values() for task in rows.tasks.values()
        )
        await at.close()

    run(scenario())


def test_children_are_bounded_by_default_and_have_the_priority_of_the_parent() -> None:
    async def scenario() -> None:
        at = World(4)
        at.start_operator()
        child = {"spec": {"steps": [{"name": "w", "wait": {"duration": "1h"}}]}}
        step = {"name": "s", "forEach": "${lists.range(150)}", "workflow": child}
        at.apply("audit", {"priority": 7, "steps": [step]})
        await asyncio.sleep(60)
        assert len(children(at)) == 100
        assert {it["spec"]["priority"] for it in children(at)} == {7}
        await at.close()

    run(scenario())
