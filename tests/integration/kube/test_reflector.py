"""The reflector on a real API server, which is killed meanwhile."""

import asyncio
from collections.abc import Mapping
from typing import Any

from tests.integration.apiserver import ApiServer
from tests.support.waiting import until

from perdure.kube.client import KubeClient
from perdure.kube.reflector import Selection, reflect


def task(name: str, *, labels: dict[str, str]) -> dict[str, Any]:
    return {
        "apiVersion": "perdure.dev/v1alpha1",
        "kind": "AgentTask",
        "metadata": {"name": name, "labels": labels},
        "spec": {"agent": {"image": "agents/audit:1"}},
    }


async def test_objects_are_followed_through_the_death_of_the_api_server(
    apiserver: ApiServer, kube: KubeClient, namespace: str
) -> None:
    there: dict[str, Mapping[str, Any]] = {}
    gone: list[str] = []

    def on_event(obj: Mapping[str, Any], deleted: bool) -> None:
        name = obj["metadata"]["name"]
        if deleted:
            gone.append(name)
            del there[name]
        else:
            there[name] = obj

    async def make(name: str, label: str = "x") -> None:
        await kube.create("AgentTask", namespace, task(name, labels={"team": label}))

    async def seen(*names: str) -> bool:
        return set(there) == set(names)

    await make("first")
    await make("stranger", "y")
    selection = Selection("AgentTask", namespace, "team=x")
    following = asyncio.create_task(reflect(kube, selection, on_event=on_event, on_list=lambda: None))
    await until(lambda: seen("first"))
    await make("second")
    await until(lambda: seen("first", "second"))
    await kube.patch_status("AgentTask", namespace, "second", {"status": {"phase": "Running"}})

    async def patched() -> bool:
        return (there["second"].get("status") or {}).get("phase") == "Running"

    await until(patched)
    await kube.delete("AgentTask", namespace, "first")
    await until(lambda: seen("second"))
    assert gone == ["first"]

    apiserver.cluster.kill("kube-apiserver")
    apiserver.cluster.restart("kube-apiserver")
    await make("third")
    await until(lambda: seen("second", "third"))
    assert not following.done()
    following.cancel()
    await asyncio.wait([following])
