"""A real API server for integration tests: etcd, kube-apiserver and controller manager, without nodes.

`conftest.py` in this folder provides the fixtures to all integration tests:

- `apiserver`: the server of this test run, with our resource definitions; booted when first asked for.
- `kube`: a client of it with all rights.
- `namespace`: the name of a fresh namespace in which pods can be created.

Pods stay Pending there: a test that needs one to run writes its status, as a kubelet would.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from hack.cluster import Cluster, start_light

from perdure.kube.client import KubeClient
from perdure.kube.errors import ApiError
from tests.support.waiting import until

CRDS = Path(__file__).resolve().parents[2] / "crds"
#: Seconds for anything that the server does by and by.
DEADLINE = 30.0

_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@dataclass(frozen=True, slots=True)
class ApiServer:
    """The server of this test run. `cluster` can kill and restart its parts."""

    kubeconfig: str
    cluster: Cluster


@pytest.fixture(scope="session")
def apiserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """The server, shared by all tests of the run: a test that kills a component starts it again."""
    with start_light(tmp_path_factory.mktemp("apiserver")) as cluster:
        _define_resources(cluster)
        yield ApiServer(str(cluster.kubeconfig), cluster)


@pytest.fixture
async def kube(apiserver: ApiServer) -> AsyncIterator[KubeClient]:
    """A client with all rights."""
    async with KubeClient.from_config(apiserver.kubeconfig) as client:
        yield client


@pytest.fixture
async def namespace(kube: KubeClient) -> AsyncIterator[str]:
    """A fresh namespace."""
    name = f"test-{secrets.token_hex(4)}"
    await kube.create("Namespace", "", {"metadata": {"name": name}})
    # No pod is admitted before the controller manager has made its ServiceAccount.
    await until(lambda: _exists(kube, f"/api/v1/namespaces/{name}/serviceaccounts/default"))
    yield name
    await kube.delete("Namespace", "", name)


async def _exists(kube: KubeClient, path: str) -> bool:
    try:
        await kube.raw_get(path)
    except ApiError as error:
        if error.not_found:
            return False
        raise
    return True


def _define_resources(cluster: Cluster) -> None:
    api = cluster.api()
    for file in sorted(CRDS.glob("*.yaml")):
        definition = yaml.safe_load(file.read_text())
        api.create(_DEFINITIONS, definition)
        spec = definition["spec"]
        served = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
        deadline = time.monotonic() + DEADLINE
        while api.get(served) is None:
            if time.monotonic() > deadline:
                state = api.get(f"{_DEFINITIONS}/{definition['metadata']['name']}")
                raise RuntimeError(f"{file.name} is not served: {state and state.get('status')}")
            time.sleep(0.02)
