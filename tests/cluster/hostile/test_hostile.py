"""A hostile tenant: no process of ours ends, the other tenant's chains go on, each object gets an answer.

`HOSTILE_SECONDS` is its time (CI has time for a minute, `make test-hostile` for ten), `HOSTILE_SEED` which
objects and attacks.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from collections import Counter
from random import Random

import aiohttp
import pytest

from tests.cluster.hostile import observation
from tests.cluster.hostile.chains import Chains
from tests.cluster.hostile.objects import objects
from tests.cluster.hostile.tenant import Object, Tenant
from tests.cluster.installation import Installation
from tests.cluster.manifests import AGENTS, API_VERSION, IMAGE

SECONDS = float(os.environ.get("HOSTILE_SECONDS", "60"))
SEED = int(os.environ.get("HOSTILE_SEED", str(int(time.time()) // 86400)))
#: Seconds between two hostile objects: all share two cores with the API server, which is not ours to defend.
PACE = 0.4
#: Seconds within which every hostile object must have been answered after the attack.
ANSWERED_WITHIN = 120.0
_ENDED = frozenset({"Succeeded", "Failed", "Cancelled"})
_GATEWAY = ("perdure-gateway.perdure-system.svc", "8080")
_ATTACKER = AGENTS.parent / "hostile" / "agents" / "attacker.py"

#: What a platform team gives a tenant: pods are bounded, or the tenant could take the nodes without us.
_QUOTA: Object = {
    "apiVersion": "v1",
    "kind": "ResourceQuota",
    "metadata": {"name": "pods"},
    "spec": {"hard": {"pods": "6"}},
}


def _outside(seed: int) -> Object:
    """A pod without a token of ours that attacks the gateway."""
    container = {
        "name": "attacker",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", _ATTACKER.read_text(), *_GATEWAY, str(seed), str(SECONDS)],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"outside-{seed}"},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }


def _inside() -> Object:
    """Agents that attack the gateway with tokens of their own, one after the other."""
    agent = {
        "image": IMAGE,
        "command": ["python", "-c", _ATTACKER.read_text()],
        "args": [*_GATEWAY, "${index}", "45"],
    }
    step = {
        "name": "inside",
        "agent": agent,
        "forEach": "${lists.range(20)}",
        "parallelism": 2,
        "retry": {"limit": 20},
        "continueOnFailure": True,
    }
    return {
        "apiVersion": API_VERSION,
        "kind": "Workflow",
        "metadata": {"name": "inside"},
        "spec": {"steps": [step]},
    }


@pytest.fixture(scope="module")
def watched(perdure: Installation) -> Installation:
    """The installation, whose processes report code that holds their event loops."""
    observation.watch_loops(perdure)
    return perdure


def test_a_hostile_tenant_stops_no_other(watched: Installation) -> None:
    perdure = watched
    hostile, other = Tenant.of(perdure, "hostile"), Tenant.of(perdure, "other")
    assert perdure.apply(hostile.namespace, _QUOTA).code == 0
    before = observation.restarts(perdure)
    report = asyncio.run(_attack(perdure, hostile, other))
    holds = observation.Holds.read(perdure)
    memory = observation.memory(perdure)
    report |= {
        "seed": SEED,
        "seconds": SECONDS,
        "longestTurnOfTheLoopCpuMs": holds.longest,
        "memoryPeakMiB": {name: round(value) for name, value in memory.items()},
        "memoryLimit": observation.limits(perdure),
    }
    print("\n" + json.dumps(report, indent=1))
    assert observation.restarts(perdure) == before, "a process of ours was restarted"
    assert not report["unanswered"], report["unanswered"]
    assert max(holds.longest.values()) <= observation.HELD * 1000, holds.text()
    # Ten minutes of hostile objects would slow down every test that follows.
    perdure.ok("delete", "namespace", hostile.namespace, other.namespace, "--wait=false")


async def _attack(perdure: Installation, hostile: Tenant, other: Tenant) -> Object:
    chains = Chains(other)
    async with other.session() as client:
        undisturbed = [await chains.run(client) for _ in range(2)]
    perdure.ok("apply", "-n", hostile.namespace, "-f", "-", stdin=json.dumps(_outside(SEED)))
    perdure.ok("apply", "-n", hostile.namespace, "-f", "-", stdin=json.dumps(_inside()))
    refused: Counter[str] = Counter()
    applied: dict[str, str] = {}
    end = time.monotonic() + SECONDS
    disturbed: list[float] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(_apply(hostile, applied, refused, end))
        group.create_task(_meddle(hostile, end))
        group.create_task(_go_on(chains, disturbed, end))
    async with hostile.session() as client:
        answers = await _answers(hostile, client)
    unanswered = {name: text for name, text in answers.items() if text.startswith("!")}
    return {
        "applied": dict(sorted(Counter(applied.values()).items())),
        "refused": dict(sorted(refused.items())),
        "answers": dict(Counter(answers.values()).most_common()),
        "unanswered": unanswered,
        "chains": {
            "undisturbed": [round(value, 1) for value in undisturbed],
            "disturbed": [round(value, 1) for value in disturbed],
            "ratio": round(statistics.median(disturbed) / statistics.median(undisturbed), 2),
        },
    }


async def _go_on(chains: Chains, seconds: list[float], end: float) -> None:
    """Run chains until the end; one at least."""
    async with chains.tenant.session() as client:
        while not seconds or time.monotonic() < end:
            seconds.append(await chains.run(client))


async def _apply(tenant: Tenant, applied: dict[str, str], refused: Counter[str], end: float) -> None:
    """Apply hostile objects until the end."""
    async with tenant.session() as client:
        for sort, manifest in objects(Random(SEED)):
            if time.monotonic() > end:
                return
            try:
                status, _ = await tenant.create(client, manifest)
            except (aiohttp.ClientError, TimeoutError):
                status = 0
            if status == 201:
                applied[manifest["metadata"]["name"]] = sort
            else:
                refused[f"{sort} {status}"] += 1
            await asyncio.sleep(PACE)


async def _meddle(tenant: Tenant, end: float) -> None:
    """Change what is there: labels, annotations, owners, finalizers, desired states; and delete some."""
    chance = Random(SEED + 1)
    async with tenant.session() as client:
        while time.monotonic() < end:
            kind = chance.choice(["Workflow", "AgentTask"])
            params = {"limit": "10"}
            async with client.get(tenant.path(kind), params=params) as answer:
                found = (await answer.json()).get("items", ())
            for item in chance.sample(found, min(3, len(found))):
                metadata = chance.choice(
                    [
                        {"annotations": {"perdure.dev/depth": "9" * 5_000}},
                        {"annotations": {"perdure.dev/retention": "\u202e", "x": "y" * 50_000}},
                        {"labels": {"perdure.dev/workflow": "other", "perdure.dev/shard": None}},
                        {"labels": {"app.kubernetes.io/managed-by": "me"}},
                        {"ownerReferences": None},
                        {},
                    ]
                )
                patch: Object = {"metadata": metadata}
                if chance.random() < 0.4:
                    patch["spec"] = {"desiredState": chance.choice(["Paused", "Running", "Cancelled"])}
                path = tenant.path(kind, item["metadata"]["name"])
                if chance.random() < 0.1:
                    await tenant.delete(client, path)
                else:
                    await tenant.patch(client, path, patch)
            await asyncio.sleep(1.0)


async def _answers(tenant: Tenant, client: aiohttp.ClientSession) -> dict[str, str]:
    """What became of each hostile object, by name; an answer that begins with `!` is none."""
    deadline = time.monotonic() + ANSWERED_WITHIN
    while True:
        answers = {}
        for kind in ("Workflow", "AgentTask", "WorkflowSchedule"):
            for item in await tenant.list(client, tenant.path(kind)):
                answers[f"{kind}/{item['metadata']['name']}"] = _answer(item)
        if time.monotonic() > deadline or not any(text.startswith("!") for text in answers.values()):
            return answers
        await asyncio.sleep(5.0)


def _answer(item: Object) -> str:
    status = item.get("status", {})
    reasons = [
        condition["reason"]
        for condition in status.get("conditions", ())
        if condition.get("reason") and condition["status"] in ("True", "False", "Unknown")
    ]
    phase = status.get("phase", "")
    if phase in _ENDED or item["kind"] == "WorkflowSchedule":
        return f"{phase or 'Ready'} {reasons[-1]}" if reasons else "! ended without a reason"
    return f"{phase} {reasons[-1]}" if phase and reasons else f"! {phase or 'no status'}: {status}"
