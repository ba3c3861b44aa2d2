"""The cluster side of the rig: our definitions, the operator's account, raw access for measuring."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson
import yaml
from hack.cluster import Cluster

from perdure.kube.client import KubeClient
from perdure.kube.errors import ApiError
from tests.bench.counts import OPERATOR_FLOW, Counts, parse

SYSTEM = "perdure-system"
CRDS = Path(__file__).resolve().parents[2] / "crds"
#: Seconds for anything that the API server does by and by.
DEADLINE = 60.0


class Api:
    """The API server as the watcher and the calibration reach it: no retries, nothing between."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        tls = ssl.create_default_context(cafile=str(self._cluster.state_dir / "pki" / "ca.crt"))
        self._session = aiohttp.ClientSession(
            base_url=self._cluster.server,
            connector=aiohttp.TCPConnector(limit=0, ssl=tls),
            headers={"Authorization": f"Bearer {self._token()}", "User-Agent": "perdure-bench"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
            read_bufsize=2**20,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    @asynccontextmanager
    async def stream(self, path: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response whose body goes on."""
        assert self._session is not None
        async with self._session.get(path) as response:
            response.raise_for_status()
            yield response

    async def get(self, path: str) -> Any:
        """A JSON document."""
        async with self.stream(path) as response:
            return orjson.loads(await response.read())

    async def send(self, method: str, path: str, body: bytes, *, kind: str = "application/json") -> None:
        """Send a request; raises aiohttp.ClientResponseError if it is refused."""
        assert self._session is not None
        async with self._session.request(method, path, data=body, headers={"Content-Type": kind}) as response:
            await response.read()
            response.raise_for_status()

    async def counts(self) -> Counts:
        """Requests until now."""
        return parse(await self.metrics())

    async def metrics(self) -> str:
        """The API server's own, as text."""
        async with self.stream("/metrics") as response:
            return await response.text()

    def _token(self) -> str:
        return next(
            line.partition(",")[0]
            for line in (self._cluster.state_dir / "pki" / "tokens.csv").read_text().splitlines()
            if "kubernetes-admin" in line
        )


async def prepare(kube: KubeClient) -> None:
    """Our resource definitions, and the namespace with the accounts of operator and gateway."""
    for file in sorted(CRDS.glob("*.yaml")):
        definition = yaml.safe_load(file.read_text())
        await kube.raw_post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
        spec = definition["spec"]
        await _until_there(
            kube, f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
        )
    await kube.create("Namespace", "", {"metadata": {"name": SYSTEM}})
    for account in ("perdure-operator", "perdure-gateway"):
        await kube.raw_post(
            f"/api/v1/namespaces/{SYSTEM}/serviceaccounts",
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}},
        )
    subject = {"kind": "ServiceAccount", "name": "perdure-operator", "namespace": SYSTEM}
    await kube.raw_post(
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "perdure-operator"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": "cluster-admin",
            },
            "subjects": [subject],
        },
    )
    await kube.raw_post("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas", _flow())


async def account_token(kube: KubeClient, account: str) -> str:
    """A token of one of our accounts, for as long as a benchmark may take."""
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": 12 * 3600},
    }
    path = f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/{account}/token"
    token: str = (await kube.raw_post(path, request))["status"]["token"]
    return token


@asynccontextmanager
async def fresh_namespace(kube: KubeClient, name: str, *, keep: bool = False) -> AsyncIterator[str]:
    """A namespace in which pods can be created; gone with all that is in it when this is left."""
    name = f"bench-{name.lower()}-{secrets.token_hex(2)}"
    await kube.create("Namespace", "", {"metadata": {"name": name}})
    await _until_there(kube, f"/api/v1/namespaces/{name}/serviceaccounts/default")
    try:
        yield name
    finally:
        if not keep:
            # The next run must not pay for the removal of this one's pods.
            await kube.delete("Namespace", "", name)
            await _until_gone(kube, f"/api/v1/namespaces/{name}")


def _flow() -> dict[str, Any]:
    """The level that ServiceAccounts have anyway, under a name of its own to be counted by."""
    everything = {
        "subjects": [
            {"kind": "ServiceAccount", "serviceAccount": {"name": "perdure-operator", "namespace": SYSTEM}}
        ],
        "resourceRules": [
            {
                "verbs": ["*"],
                "apiGroups": ["*"],
                "resources": ["*"],
                "clusterScope": True,
                "namespaces": ["*"],
            }
        ],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    }
    return {
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "kind": "FlowSchema",
        "metadata": {"name": OPERATOR_FLOW},
        "spec": {
            "priorityLevelConfiguration": {"name": "workload-low"},
            "matchingPrecedence": 1000,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [everything],
        },
    }


async def _until_there(kube: KubeClient, path: str) -> None:
    async with asyncio.timeout(DEADLINE):
        while not await _exists(kube, path):  # noqa: ASYNC110 - what is waited for happens elsewhere
            await asyncio.sleep(0.05)


async def _until_gone(kube: KubeClient, path: str) -> None:
    async with asyncio.timeout(5 * DEADLINE):
        while await _exists(kube, path):  # noqa: ASYNC110 - what is waited for happens elsewhere
            await asyncio.sleep(0.2)


async def _exists(kube: KubeClient, path: str) -> bool:
    try:
        await kube.raw_get(path)
    except ApiError as error:
        if error.not_found:
            return False
        raise
    return True
