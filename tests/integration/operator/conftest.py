"""The operator against real servers, each test with its own namespace, ledger and stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from perdure.api import API_VERSION
from perdure.domain.records import Event
from perdure.kube.client import KubeClient
from perdure.ledger import Ledger
from tests.integration.apiserver import ApiServer
from tests.integration.nats import NatsServer
from tests.integration.operator.process import Kubelet, OperatorProcess
from tests.support.waiting import until


@dataclass(slots=True)
class Stage:
    """Everything a test of the operator needs."""

    kube: KubeClient
    namespace: str
    operator: OperatorProcess
    kubelet: Kubelet
    ledger: Ledger

    async def apply(self, name: str, spec: dict[str, Any], *, kind: str = "Workflow") -> dict[str, Any]:
        body = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}
        return await self.kube.create(kind, self.namespace, body)

    async def status(self, name: str, *, kind: str = "Workflow") -> dict[str, Any]:
        found = await self.kube.get(kind, self.namespace, name)
        status: dict[str, Any] = found.get("status") or {}
        return status

    async def condition(self, name: str, type: str, *, kind: str = "Workflow") -> str | None:
        conditions = (await self.status(name, kind=kind)).get("conditions") or ()
        return next((item["status"] for item in conditions if item["type"] == type), None)

    async def until_complete(
        self, name: str, *, kind: str = "Workflow", within: float = 60.0
    ) -> dict[str, Any]:
        """Wait for the condition that `kubectl wait` waits for. Returns the status."""

        async def complete() -> bool:
            return await self.condition(name, "Complete", kind=kind) == "True"

        try:
            await until(complete, within=within)
        except TimeoutError:
            status = await self.status(name, kind=kind)
            raise AssertionError(f"{name} is not complete: {status}\n{self.operator.log()[-4000:]}") from None
        return await self.status(name, kind=kind)

    async def events(self, uid: str) -> list[Event]:
        return await self.ledger.events(uid)


@pytest.fixture
async def stage(
    apiserver: ApiServer,
    kube: KubeClient,
    namespace: str,
    ledger_url: str,
    nats_server: NatsServer,
    tmp_path: Path,
) -> AsyncIterator[Stage]:
    """A running operator, and a kubelet on which every agent succeeds at once."""
    operator = OperatorProcess(
        kubeconfig=apiserver.kubeconfig,
        database_url=ledger_url,
        nats_url=nats_server.url,
        namespace=namespace,
        directory=tmp_path,
    )
    kubelet = Kubelet(kube, namespace, lambda pod: (0, ""))
    async with Ledger(ledger_url, pool_size=2) as ledger:
        await operator.start()
        node = asyncio.create_task(kubelet.run())
        try:
            yield Stage(kube=kube, namespace=namespace, operator=operator, kubelet=kubelet, ledger=ledger)
        finally:
            node.cancel()
            await operator.kill()
            (result,) = await asyncio.gather(node, return_exceptions=True)
            if isinstance(result, Exception):
                raise result
