"""Two operators, of which one leads: killed, frozen and stopped, with real servers around them."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from perdure.api import API_VERSION
from perdure.kube.client import KubeClient
from perdure.ledger import Ledger
from tests.integration.apiserver import ApiServer
from tests.integration.nats import NatsServer
from tests.integration.operator.process import Kubelet, OperatorProcess
from tests.support.waiting import until

#: The Lease of which the budget for a failover speaks.
LEASE = {"LEASE_DURATION": "4", "LEASE_RENEW_DEADLINE": "3", "LEASE_RETRY": "0.5"}
#: A Lease whose end no test waits for.
LONG_LEASE = {"LEASE_DURATION": "600", "LEASE_RENEW_DEADLINE": "500", "LEASE_RETRY": "0.5"}
#: How often the leader is killed.
FAILOVERS = int(os.environ.get("FAILOVERS", "2"))
AGENT = {"image": "agent"}
WITHIN = 120.0


@dataclass(slots=True)
class Pair:
    """Two operators of one cluster and one ledger."""

    kube: KubeClient
    namespace: str
    kubelet: Kubelet
    ledger: Ledger
    operators: dict[str, OperatorProcess]

    async def start(self) -> None:
        for operator in self.operators.values():
            await operator.start()
        for operator in self.operators.values():
            await operator.ready(within=WITHIN)
        await until(self.working, within=WITHIN)

    async def holder(self) -> str:
        """The holder of the Lease; '' without a holder."""
        leases, _ = await self.kube.list("Lease", namespace=self.namespace)
        return next((str(lease["spec"].get("holderIdentity") or "") for lease in leases), "")

    async def working(self) -> bool:
        holder = await self.holder()
        return holder in self.operators and '"working"' in self.operators[holder].log().replace("'", '"')

    async def roles(self) -> tuple[OperatorProcess, OperatorProcess]:
        """The leader and the standby."""
        leader = await until(self.holder, within=WITHIN)
        (other,) = self.operators.keys() - {leader}
        return self.operators[leader], self.operators[other]

    async def apply(self, name: str, steps: list[dict[str, Any]]) -> str:
        """Returns the uid."""
        body = {"apiVersion": API_VERSION, "kind": "Workflow", "metadata": {"name": name}}
        made = await self.kube.create("Workflow", self.namespace, body | {"spec": {"steps": steps}})
        return str(made["metadata"]["uid"])

    async def phase(self, name: str) -> str:
        found = await self.kube.get("Workflow", self.namespace, name)
        return str((found.get("status") or {}).get("phase", ""))

    async def until_succeeded(self, name: str) -> None:
        async def succeeded() -> bool:
            return await self.phase(name) == "Succeeded"

        try:
            await until(succeeded, within=WITHIN)
        except TimeoutError:
            logs = "\n".join(operator.log()[-3000:] for operator in self.operators.values())
            raise AssertionError(f"{name} is {await self.phase(name)}\n{logs}") from None

    async def pods(self, step: str) -> list[dict[str, Any]]:
        label = f"perdure.dev/step={step}"
        pods, _ = await self.kube.list("Pod", namespace=self.namespace, label_selector=label)
        return pods

    async def until_pods(self, step: str, count: int) -> None:
        async def there() -> bool:
            return len(await self.pods(step)) >= count

        await until(there, within=WITHIN)

    async def versions(self) -> dict[str, str]:
        """Every object of the namespace that an operator could change, with its resourceVersion."""
        found = {}
        for kind in ("Workflow", "AgentTask", "Pod"):
            for item in (await self.kube.list(kind, namespace=self.namespace))[0]:
                found[f"{kind}/{item['metadata']['name']}"] = item["metadata"]["resourceVersion"]
        return found

    async def check_history(self, uid: str, *, tasks: int) -> None:
        """Every task was scheduled and succeeded once, at its first attempt, and no number is missing."""
        events = await self.ledger.events(uid)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        for type in ("task.scheduled", "task.succeeded"):
            found = [event.task for event in events if event.type == type]
            assert len(found) == len(set(found)) == tasks, (type, found)
        assert all(event.attempt in (None, 1) for event in events)
        assert all(len(uids) == 1 for uids in self.kubelet.uids.values()), self.kubelet.uids


@pytest.fixture
def pair_of(
    apiserver: ApiServer,
    kube: KubeClient,
    namespace: str,
    ledger_url: str,
    nats_server: NatsServer,
    tmp_path: Path,
) -> Any:
    @asynccontextmanager
    async def make(settings: dict[str, str]) -> AsyncIterator[Pair]:
        operators = {
            identity: OperatorProcess(
                kubeconfig=apiserver.kubeconfig,
                database_url=ledger_url,
                nats_url=nats_server.url,
                namespace=namespace,
                directory=tmp_path,
                identity=identity,
                settings=settings,
            )
            for identity in ("one", "two")
        }
        kubelet = Kubelet(kube, namespace, lambda pod: (0, ""))
        async with Ledger(ledger_url, pool_size=2) as ledger:
            node = asyncio.create_task(kubelet.run())
            pair = Pair(kube, namespace, kubelet, ledger, operators)
            try:
                await pair.start()
                yield pair
            finally:
                node.cancel()
                for operator in operators.values():
                    await operator.kill()
                (result,) = await asyncio.gather(node, return_exceptions=True)
                if isinstance(result, Exception):
                    raise result

    return make


async def test_the_standby_leads_when_the_leader_is_killed(pair_of: Any, record_property: Any) -> None:
    """The printed times compare with the budget: p50 of 5 s with a Lease of 4 s."""
    taken = []
    async with pair_of(LEASE) as pair:
        for number in range(FAILOVERS):
            name, held = f"chain-{number}", f"held-{number}"
            pair.kubelet.script = lambda pod: (
                None if pod["metadata"]["labels"]["perdure.dev/step"].startswith("held") else (0, "")
            )
            steps = [{"name": held, "agent": AGENT}, {"name": f"next-{number}", "agent": AGENT}]
            steps[1]["dependsOn"] = [held]
            uid = await pair.apply(name, steps)
            await pair.until_pods(held, 1)
            leader, other = await pair.roles()
            await leader.kill()
            killed = time.monotonic()
            pair.kubelet.script = lambda pod: (0, "")
            await pair.until_pods(f"next-{number}", 1)
            taken.append(time.monotonic() - killed)
            await pair.until_succeeded(name)
            await pair.check_history(uid, tasks=2)
            assert await pair.holder() == other.identity
            await leader.start()
            await leader.ready(within=WITHIN)
    record_property("failover_p50", statistics.median(taken))
    print(f"failover: p50 {statistics.median(taken):.2f} s, max {max(taken):.2f} s of {len(taken)}")


async def test_a_frozen_leader_writes_nothing_when_it_thaws(pair_of: Any) -> None:
    count = 30
    async with pair_of(LEASE) as pair:
        pair.kubelet.script = lambda pod: None
        steps = [
            {"name": "each", "forEach": list(range(count)), "agent": AGENT},
            {"name": "join", "dependsOn": ["each"], "agent": AGENT},
        ]
        uid = await pair.apply("wide", steps)
        # In the middle of making them all.
        await pair.until_pods("each", 3)
        frozen, other = await pair.roles()
        frozen.freeze()
        try:
            pair.kubelet.script = lambda pod: (0, "")
            await pair.until_succeeded("wide")
            assert await pair.holder() == other.identity

            async def at_rest() -> dict[str, str] | None:
                before = await pair.versions()
                await asyncio.sleep(1)
                return before if before == await pair.versions() else None

            before = await until(at_rest, within=WITHIN)
            events = await pair.ledger.events(uid)
        finally:
            frozen.thaw()

        async def knows() -> bool:
            return "no longer leading" in frozen.log()

        await until(knows, within=WITHIN)
        assert await pair.versions() == before
        assert await pair.ledger.events(uid) == events
        assert await pair.holder() == other.identity
        await pair.check_history(uid, tasks=count + 1)
        # The thawed replica follows again.
        await other.kill()
        again = await pair.apply("again", [{"name": "only", "agent": AGENT}])
        await pair.until_succeeded("again")
        assert await pair.holder() == frozen.identity
        await pair.check_history(again, tasks=1)


async def test_a_leader_that_is_stopped_releases_the_lease(pair_of: Any) -> None:
    async with pair_of(LONG_LEASE) as pair:
        leader, other = await pair.roles()
        assert await leader.stop() == 0
        uid = await pair.apply("after", [{"name": "only", "agent": AGENT}])
        # Ten minutes before the Lease would have ended.
        await pair.until_succeeded("after")
        assert await pair.holder() == other.identity
        await pair.check_history(uid, tasks=1)
