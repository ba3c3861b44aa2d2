"""The rig: cluster, Postgres, NATS and our own processes, booted on this machine, and gone afterwards."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import asyncpg
import orjson
from hack.cluster import Cluster, start_kwok
from hack.cluster.light import free_ports

from perdure.kube.client import KubeClient
from tests.bench import apart
from tests.bench.apart import Product
from tests.bench.cluster import SYSTEM, Api, account_token, fresh_namespace, prepare
from tests.bench.processes import CpuMeter
from tests.bench.service import IN_CLUSTER_PORT, Service, as_in_a_pod, can_play_pod
from tests.integration.nats import NatsServer, running_nats
from tests.integration.postgres import PostgresServer, running_server

#: Seconds for one of our processes to be ready: with a long history it has much to read.
_READY = 600.0
#: Programs that process what was written; the share of a core that they use at rest; seconds of a sample.
_BUSY = ("kube-apiserver", "kube-controller-manager", "kwok", "etcd", "postgres", "operator")
_REST, _SAMPLE = 0.3, 2.0
#: Simulated nodes. Few, so that their heartbeats are no load.
NODES = 10


class Rig:
    """The rig: the arguments of every scenario."""

    def __init__(
        self,
        *,
        directory: Path,
        product: Product,
        cluster: Cluster,
        kube: KubeClient,
        api: Api,
        postgres: PostgresServer,
        nats: NatsServer,
        ledger_url: str,
        as_in_a_pod: bool,
    ) -> None:
        self.directory = directory
        #: The measured product: its code, Python and libraries.
        self.product = product
        self.cluster = cluster
        self.kube = kube
        self.api = api
        self.postgres = postgres
        self.nats = nats
        self.ledger_url = ledger_url
        #: Whether our processes find the API server as in a pod.
        self.as_in_a_pod = as_in_a_pod
        self._services: list[Service] = []

    @asynccontextmanager
    async def namespace(self, scenario: str, *, keep: bool = False) -> AsyncIterator[str]:
        """A fresh namespace for one run of a scenario.

        `keep`: it goes with the cluster, since to delete tens of thousands of objects takes longer than to
        measure with them.
        """
        async with fresh_namespace(self.kube, scenario, keep=keep) as name:
            yield name

    @asynccontextmanager
    async def operator(
        self, *, identity: str = "perdure-operator-0", settings: Mapping[str, str] | None = None
    ) -> AsyncIterator[Service]:
        """A running operator. `settings`: by name without prefix, over the defaults."""
        (port,) = free_ports(1)
        environment = {
            "PERDURE_NATS_URL": self.nats.url,
            "PERDURE_NAMESPACE": SYSTEM,
            # The same after a restart: a container that is restarted in its pod keeps the pod's name.
            "PERDURE_IDENTITY": identity,
            "PERDURE_HEALTH_HOST": "127.0.0.1",
            "PERDURE_HEALTH_PORT": str(port),
            **{f"PERDURE_{name}": value for name, value in (settings or {}).items()},
        }
        async with self._service("operator", environment, port, name=identity) as service:
            yield service

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[tuple[Service, str]]:
        """A running gateway and its URL."""
        (port,) = free_ports(1)
        environment = {"PERDURE_GATEWAY_HOST": "127.0.0.1", "PERDURE_GATEWAY_PORT": str(port)}
        async with self._service("gateway", environment, port, name="perdure-gateway") as service:
            yield service, f"http://127.0.0.1:{port}"

    async def in_place_of_the_operator(self, program: Path) -> tuple[list[str], dict[str, str]]:
        """Command and environment of a program that gets the operator's Python and way to the API server."""
        account = await self._account("perdure-operator")
        # An image's files do not include ours.
        command = [*self.product.command("python"), str(shutil.copy(program, self.directory))]
        if self.as_in_a_pod:
            command = [*as_in_a_pod(self.product, account=account), *command]
        return command, {**self.product.environment, **self._way_to_api(account)}

    async def postgres_version(self) -> str:
        """The version that the server reports."""
        connection = await asyncpg.connect(self.ledger_url)
        try:
            found: str = await connection.fetchval("show server_version")
        finally:
            await connection.close()
        return found

    def pid_of(self, component: str) -> int:
        """The pid of a program of the control plane."""
        pid = self.cluster.supervisor.components()[component]["pid"]
        assert pid, f"{component} does not run"
        return pid

    def meter(self, **more: list[int]) -> CpuMeter:
        """Measures the CPU of every part of the rig, and of `more` by name: pids."""
        return CpuMeter(lambda: {**self._pids(), **more})

    async def at_rest(self) -> bool:
        """Whether all have digested what was written. Takes a while to see."""
        meter = self.meter()
        meter.start()
        await asyncio.sleep(_SAMPLE)
        used = meter.stop()
        return sum(used.get(name, 0.0) for name in _BUSY) / 1000 / _SAMPLE < _REST

    @asynccontextmanager
    async def _service(
        self, role: str, environment: dict[str, str], port: int, *, name: str
    ) -> AsyncIterator[Service]:
        account = await self._account(f"perdure-{role}")
        environment = {
            **environment,
            **self._way_to_api(account),
            "PERDURE_DATABASE_URL": self.ledger_url,
        }
        service = Service(
            role,
            name=name,
            product=self.product,
            directory=self.directory,
            environment=environment,
            account=account if self.as_in_a_pod else None,
            health_port=port,
        )
        await service.start()
        self._services.append(service)
        try:
            await service.ready(within=_READY)
            yield service
        finally:
            self._services.remove(service)
            await service.stop()

    def _way_to_api(self, account: Path) -> dict[str, str]:
        if not self.as_in_a_pod:
            return {"PERDURE_KUBECONFIG": str(account / "kubeconfig")}
        host, _, port = self.cluster.server.removeprefix("https://").partition(":")
        return {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}

    async def _account(self, name: str) -> Path:
        folder = self.directory / name
        folder.mkdir(exist_ok=True)
        (folder / "token").write_text(await account_token(self.kube, name))
        (folder / "namespace").write_text(SYSTEM)
        authority = self.cluster.state_dir / "pki" / "ca.crt"
        (folder / "ca.crt").write_bytes(authority.read_bytes())
        # The API server distinguishes clients by their account, however that was authenticated.
        user = {"token": (folder / "token").read_text()}
        cluster = {"server": self.cluster.server, "certificate-authority": str(folder / "ca.crt")}
        (folder / "kubeconfig").write_bytes(
            orjson.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "bench", "cluster": cluster}],
                    "users": [{"name": name, "user": user}],
                    "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": name}}],
                    "current-context": "bench",
                }
            )
        )
        return folder

    def _pids(self) -> dict[str, list[int]]:
        components = self.cluster.supervisor.components()
        pids = {name: [state["pid"]] for name, state in components.items() if state["pid"]}
        ours: dict[str, list[int]] = {"postgres": [self.postgres.pid], "nats": [self.nats.pid]}
        for service in self._services:
            ours.setdefault(service.role, []).extend(service.pids)
        return {**pids, **ours}


@asynccontextmanager
async def booted() -> AsyncIterator[Rig]:
    """Everything but our own processes. It boots before anything is measured, so it may block."""
    in_a_pod = can_play_pod()
    product = await apart.product(image=in_a_pod and os.geteuid() == 0)
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as name:
        directory = Path(name)
        os.makedirs(directory / "nats")
        port = IN_CLUSTER_PORT if in_a_pod else None
        with (
            start_kwok(directory / "cluster", nodes=NODES, port=port) as cluster,
            contextmanager(running_server)() as postgres,
        ):
            async with (
                running_nats(directory / "nats") as nats,
                KubeClient.from_config(str(cluster.kubeconfig), limit=256) as kube,
                Api(cluster) as api,
            ):
                await prepare(kube)
                yield Rig(
                    directory=directory,
                    product=product,
                    cluster=cluster,
                    kube=kube,
                    api=api,
                    postgres=postgres,
                    nats=nats,
                    ledger_url=await postgres.create_ledger(),
                    as_in_a_pod=in_a_pod,
                )
