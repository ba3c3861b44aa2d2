"""The chains of the other tenant: ten steps, one after the other, all the time."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import aiohttp

from tests.cluster.hostile.tenant import Tenant
from tests.cluster.manifests import API_VERSION, IMAGE, Object

STEPS = 10
#: Seconds for one chain, whatever happens: an undisturbed one takes some twenty.
DEADLINE = 400.0
_ENDED = frozenset({"Succeeded", "Failed", "Cancelled"})
_PROGRAM = "import os; open('/dev/termination-log', 'w').write(os.environ['NUMBER'])"


def chain(name: str) -> Object:
    """Ten agents, each of which is given the number that the one before it has returned."""
    steps = []
    for number in range(STEPS):
        before = f"${{steps.s{number - 1}.output + 1}}" if number else "0"
        agent = {
            "image": IMAGE,
            "command": ["python", "-S", "-c", _PROGRAM],
            "env": [{"name": "NUMBER", "value": before}],
        }
        steps.append(
            {"name": f"s{number}", "agent": agent, "dependsOn": [f"s{number - 1}"] if number else []}
        )
    last = f"${{steps.s{STEPS - 1}.output}}"
    return {
        "apiVersion": API_VERSION,
        "kind": "Workflow",
        "metadata": {"name": name},
        "spec": {"steps": steps, "outputs": {"last": last}},
    }


@dataclass
class Chains:
    """Chains that were run, with the seconds that each has taken."""

    tenant: Tenant
    seconds: list[float] = field(default_factory=list)
    _count: int = 0

    async def run(self, client: aiohttp.ClientSession) -> float:
        """Run one chain to its end, which must be a success. Returns its seconds."""
        self._count += 1
        name = f"chain-{self._count}"
        started = time.monotonic()
        status, text = await self.tenant.create(client, chain(name))
        assert status == 201, text
        while True:
            found = await self.tenant.get(client, self.tenant.path("Workflow", name)) or {}
            reached = found.get("status", {})
            if reached.get("phase") in _ENDED:
                break
            assert time.monotonic() < started + DEADLINE, f"{name} has not ended: {reached}"
            await asyncio.sleep(0.25)
        assert reached["phase"] == "Succeeded", reached
        assert reached["outputs"] == {"last": STEPS - 1}, reached
        taken = time.monotonic() - started
        self.seconds.append(taken)
        return taken
