"""What the watcher makes of the events that it gets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.bench.chains import Chains
from tests.bench.cluster import Api

WITHIN = 10.0


class ScriptedApi:
    """An API server that sends the same events to each watch, in pieces that end anywhere."""

    def __init__(self, pods: list[dict[str, Any]], runs: list[dict[str, Any]]) -> None:
        self._stories = {"/pods?": pods, "/workflows?": runs}

    async def get(self, path: str) -> Any:
        return {"metadata": {"resourceVersion": "0"}}

    @asynccontextmanager
    async def stream(self, path: str) -> AsyncIterator[Any]:
        (events,) = (events for part, events in self._stories.items() if part in path)
        text = b"".join(json.dumps(event).encode() + b"\n" for event in events)

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(text), 100):
                yield text[start : start + 100]
            await asyncio.Event().wait()

        yield SimpleNamespace(content=SimpleNamespace(iter_any=pieces))


def pod(uid: str, step: str, phase: str, *, run: str = "a", kind: str = "MODIFIED") -> dict[str, Any]:
    labels = {"perdure.dev/workflow": run, "perdure.dev/step": step, "perdure.dev/attempt": "1"}
    metadata = {"name": f"{run}-{step}", "uid": uid, "labels": labels, "resourceVersion": "1"}
    return {"type": kind, "object": {"metadata": metadata, "status": {"phase": phase}}}


def workflow(name: str, phase: str, **status: Any) -> dict[str, Any]:
    metadata = {"name": name, "resourceVersion": "1"}
    return {"type": "MODIFIED", "object": {"metadata": metadata, "status": {"phase": phase, **status}}}


CHAIN = [
    pod("1", "s01", "Pending", kind="ADDED"),
    pod("1", "s01", "Running"),
    pod("1", "s01", "Succeeded"),
    pod("2", "s02", "Pending", kind="ADDED"),
    pod("2", "s02", "Succeeded"),
]


@asynccontextmanager
async def seen_of(pods: list[dict[str, Any]], runs: list[dict[str, Any]]) -> AsyncIterator[Chains]:
    async with Chains(cast(Api, ScriptedApi(pods, runs)), "default") as seen:
        uids = {event["object"]["metadata"]["uid"] for event in pods}
        names = {event["object"]["metadata"]["name"] for event in runs}
        assert await seen.pods_created(len(uids), within=WITHIN)
        assert await seen.workflows.until(lambda: seen.runs.keys() == names, within=WITHIN)
        yield seen


async def test_a_correct_chain_has_no_faults_and_a_gap_for_each_hop() -> None:
    async with seen_of(CHAIN, [workflow("a", "Running"), workflow("a", "Succeeded")]) as seen:
        assert await seen.all_ended(1, within=WITHIN)
        assert await seen.pods_ended(2, within=WITHIN)
        assert seen.faults(["a"], steps=2) == []
        (gap,) = seen.gaps()
        assert gap == seen.gaps_of("a")[0] >= 0
        assert [found.step for found in seen.of("a")] == ["s01", "s02"]
        assert set(seen.runs["a"].phases) == {"Running", "Succeeded"}


async def test_the_largest_status_is_remembered() -> None:
    runs = [workflow("a", "Running", message="x" * 500), workflow("a", "Succeeded")]
    async with seen_of([], runs) as seen:
        assert await seen.all_ended(1, within=WITHIN)
        assert 500 < seen.runs["a"].status_bytes < 600


@pytest.mark.parametrize(
    ("pods", "runs", "fault"),
    [
        (CHAIN, [workflow("a", "Failed")], "a did not succeed: Failed"),
        (CHAIN, [], "a did not succeed: never seen"),
        (CHAIN[:3], [workflow("a", "Succeeded")], "a: 1 of 2 steps had no pod"),
        (
            [*CHAIN, pod("3", "s02", "Pending", kind="ADDED")],
            [workflow("a", "Succeeded")],
            "a: step s02 had 2 pods",
        ),
    ],
)
async def test_a_run_with_a_wrong_outcome_is_reported(
    pods: list[dict[str, Any]], runs: list[dict[str, Any]], fault: str
) -> None:
    async with seen_of(pods, runs) as seen:
        assert seen.faults(["a"], steps=2) == [fault]


async def test_a_deleted_pod_is_still_counted() -> None:
    async with seen_of([*CHAIN, pod("2", "s02", "Succeeded", kind="DELETED")], []) as seen:
        assert await seen.watch.until(lambda: seen.pods["2"].gone is not None, within=WITHIN)
        assert seen.pods["2"].leaving == seen.pods["2"].gone
        assert seen.pods["1"].gone is None
        assert len(seen.pods) == 2


async def test_a_pod_without_an_owner_is_not_counted() -> None:
    stranger = pod("9", "s01", "Running", kind="ADDED")
    stranger["object"]["metadata"]["labels"] = {"app": "other"}
    async with Chains(cast(Api, ScriptedApi([stranger, *CHAIN], [])), "default") as seen:
        assert await seen.pods_ended(2, within=WITHIN)
        assert seen.pods.keys() == {"1", "2"}
