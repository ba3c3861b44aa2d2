"""The client against a real API server."""

import asyncio
import base64
import json
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from tests.integration.apiserver import ApiServer
from tests.integration.kube.credentials import kubeconfig_with_certificate

from perdure.control.runs.pod_warnings import newest_warning
from perdure.kube import client as module
from perdure.kube.client import KubeClient
from perdure.kube.connection import load_connection
from perdure.kube.errors import ApiError


def lease(name: str = "it", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "labels": {"perdure.dev/test": "yes"}},
        "spec": {"holderIdentity": "me"} | spec,
    }


def workflow(name: str = "audit") -> dict[str, Any]:
    return {
        "apiVersion": "perdure.dev/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": name},
        "spec": {"steps": [{"name": "a", "agent": {"image": "agents/a:1"}}]},
    }


async def test_an_object_is_created_changed_and_deleted(kube: KubeClient, namespace: str) -> None:
    created = await kube.create("Lease", namespace, lease(leaseDurationSeconds=15))
    assert created["metadata"]["uid"]
    assert await kube.get("Lease", namespace, "it") == created
    created["spec"]["holderIdentity"] = "you"
    replaced = await kube.replace("Lease", namespace, "it", created)
    assert replaced["spec"]["holderIdentity"] == "you"
    patched = await kube.patch("Lease", namespace, "it", {"spec": {"leaseDurationSeconds": None}})
    assert patched["spec"] == {"holderIdentity": "you"}
    await kube.delete("Lease", namespace, "it")
    with pytest.raises(ApiError, match=r'leases\.coordination\.k8s\.io "it" not found') as caught:
        await kube.get("Lease", namespace, "it")
    assert caught.value.not_found
    assert caught.value.reason == "NotFound"
    assert kube.requests[("get", "Lease", 404)] == 1


async def test_the_second_of_two_writers_conflicts(kube: KubeClient, namespace: str) -> None:
    seen = await kube.create("Lease", namespace, lease())
    await kube.patch("Lease", namespace, "it", {"spec": {"holderIdentity": "faster"}})
    with pytest.raises(ApiError) as caught:
        await kube.replace("Lease", namespace, "it", seen)
    assert caught.value.conflict
    assert caught.value.reason == "Conflict"
    with pytest.raises(ApiError) as caught:
        await kube.create("Lease", namespace, lease())
    assert caught.value.conflict
    assert caught.value.reason == "AlreadyExists"
    assert kube.requests[("replace", "Lease", 409)] == kube.requests[("create", "Lease", 409)] == 1


async def test_status_is_a_subresource(kube: KubeClient, namespace: str) -> None:
    await kube.create("Workflow", namespace, workflow())
    body = {"status": {"phase": "Running", "message": "begun"}, "spec": {"parallelism": 3}}
    patched = await kube.patch_status("Workflow", namespace, "audit", body)
    assert patched["status"] == {"phase": "Running", "message": "begun"}
    assert "parallelism" not in patched["spec"]
    assert patched["metadata"]["generation"] == 1
    patched = await kube.patch_status("Workflow", namespace, "audit", {"status": {"message": None}})
    assert patched["status"] == {"phase": "Running"}


@pytest.mark.parametrize("brief", [False, True])
async def test_a_brief_answer_has_the_metadata_only(kube: KubeClient, namespace: str, brief: bool) -> None:
    created = await kube.create("Workflow", namespace, workflow(), brief=brief)
    patch = [{"op": "add", "path": "/status", "value": {"phase": "Running"}}]
    patched = await kube.patch_status("Workflow", namespace, "audit", patch, brief=brief)
    there = await kube.get("Workflow", namespace, "audit")
    assert there["status"] == {"phase": "Running"}
    assert created["metadata"]["uid"] == there["metadata"]["uid"]
    assert patched["metadata"] == there["metadata"]
    assert ("spec" in created, "status" in patched) == (not brief, not brief)
    with pytest.raises(ApiError) as caught:
        await kube.create("Workflow", namespace, workflow(), brief=brief)
    assert caught.value.conflict
    assert caught.value.reason == "AlreadyExists"


async def test_a_refusal_by_the_schema_has_its_cause(kube: KubeClient, namespace: str) -> None:
    bad = workflow()
    bad["spec"]["steps"] = []
    with pytest.raises(ApiError, match=r"spec\.steps") as caught:
        await kube.create("Workflow", namespace, bad)
    assert caught.value.status == 422
    assert caught.value.reason == "Invalid"


async def test_a_list_has_the_objects_of_all_pages(
    kube: KubeClient, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 1203
    unlabelled = lease("unlabelled")
    del unlabelled["metadata"]["labels"]
    await kube.create("Lease", namespace, unlabelled)
    await asyncio.gather(*(kube.create("Lease", namespace, lease(f"l-{n}")) for n in range(count)))
    items, version = await kube.list("Lease", namespace=namespace, label_selector="perdure.dev/test=yes")
    assert {item["metadata"]["name"] for item in items} == {f"l-{n}" for n in range(count)}
    assert len(items) == count
    assert all((item["kind"], item["apiVersion"]) == ("Lease", "coordination.k8s.io/v1") for item in items)
    assert int(version) >= max(int(item["metadata"]["resourceVersion"]) for item in items)
    assert kube.requests[("list", "Lease", 200)] == 3
    everywhere, _ = await kube.list("Lease", label_selector="perdure.dev/test=yes")
    assert len(everywhere) >= count


async def test_a_list_restarts_after_a_compaction(
    apiserver: ApiServer, kube: KubeClient, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE_SIZE", 2)
    for number in range(5):
        await kube.create("Lease", namespace, lease(f"l-{number}"))
    await compact(apiserver)
    call = kube._call
    seen: list[str] = []

    async def aged(verb: str, kind: str, method: str, path: str, body: Any = None) -> Any:
        """Replaces the first continuation by that of a list from before the compaction."""
        seen.append(path)
        answer = await call(verb, kind, method, path, body)
        if len(seen) == 1:
            token = json.loads(base64.urlsafe_b64decode(answer["metadata"]["continue"] + "=="))
            old = json.dumps(token | {"rv": 2}).encode()
            answer["metadata"]["continue"] = base64.urlsafe_b64encode(old).rstrip(b"=").decode()
        return answer

    monkeypatch.setattr(kube, "_call", aged)
    items, _ = await kube.list("Lease", namespace=namespace)
    assert [item["metadata"]["name"] for item in items] == [f"l-{number}" for number in range(5)]
    assert kube.requests[("list", "Lease", 410)] == 1
    assert len(seen) == 3


async def compact(apiserver: ApiServer) -> None:
    etcd = f"http://127.0.0.1:{apiserver.cluster.facts['ports']['etcd']}/v3"
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        async with session.post(f"{etcd}/maintenance/status", json={}) as response:
            revision = (await response.json())["header"]["revision"]
        async with session.post(
            f"{etcd}/kv/compaction", json={"revision": revision, "physical": True}
        ) as response:
            await response.read()


async def test_a_deletion_spares_another_object_of_the_same_name(kube: KubeClient, namespace: str) -> None:
    old = await kube.create("Lease", namespace, lease())
    await kube.delete("Lease", namespace, "it", uid=old["metadata"]["uid"])
    new = await kube.create("Lease", namespace, lease())
    await kube.delete("Lease", namespace, "it", uid=old["metadata"]["uid"])
    assert kube.requests[("delete", "Lease", 409)] == 1
    assert await kube.get("Lease", namespace, "it") == new
    await kube.delete("Lease", namespace, "it", uid=new["metadata"]["uid"])
    await kube.delete("Lease", namespace, "it", uid=new["metadata"]["uid"])
    await kube.delete("Lease", namespace, "never-there")


async def test_a_missing_object_is_not_found(kube: KubeClient, namespace: str) -> None:
    absent = workflow("none")
    absent["metadata"]["resourceVersion"] = "1"
    for call in (
        lambda: kube.get("Pod", namespace, "none"),
        lambda: kube.patch("AgentTask", namespace, "none", {"metadata": {"labels": {"a": "b"}}}),
        lambda: kube.patch_status("AgentTask", namespace, "none", {"status": {}}),
        lambda: kube.replace("Workflow", namespace, "none", absent),
        lambda: kube.raw_get("/no/such/path"),
        lambda: kube.create("Lease", "no-such-namespace", lease()),
    ):
        with pytest.raises(ApiError) as caught:
            await call()
        assert caught.value.not_found
        assert not caught.value.transient
    assert (await kube.list("Pod", namespace="no-such-namespace"))[0] == []


async def test_raw_documents_are_read_by_path(kube: KubeClient) -> None:
    assert (await kube.raw_get("/version"))["major"] == "1"
    assert (await kube.raw_get("/openid/v1/jwks"))["keys"]


async def test_a_client_certificate_authenticates(apiserver: ApiServer, tmp_path: Any) -> None:
    path = kubeconfig_with_certificate(apiserver, tmp_path, user="eve", groups=["system:masters"])
    async with KubeClient.from_config(path) as client:
        assert (await client.get("Namespace", "", "default"))["metadata"]["name"] == "default"


async def test_a_verb_without_a_role_is_forbidden(
    apiserver: ApiServer, namespace: str, tmp_path: Any
) -> None:
    path = kubeconfig_with_certificate(apiserver, tmp_path, user="eve", groups=["nobodies"])
    async with KubeClient.from_config(path) as client:
        with pytest.raises(ApiError, match='User "eve" cannot list') as caught:
            await client.list("Pod", namespace=namespace)
    assert caught.value.status == 403
    assert caught.value.reason == "Forbidden"
    assert not caught.value.transient


async def test_a_certificate_of_another_authority_is_refused(apiserver: ApiServer) -> None:
    good = await load_connection(apiserver.kubeconfig)

    async def connect() -> Any:
        return replace(good, tls=None)  # Only the machine's authorities are trusted.

    async with KubeClient(connect) as client:
        with pytest.raises(ApiError, match="certificate") as caught:
            await client.raw_get("/version")
    assert caught.value.status == 0


async def test_calls_survive_a_restart_of_the_server(apiserver: ApiServer, kube: KubeClient) -> None:
    await asyncio.gather(*(kube.raw_get("/version") for _ in range(20)))
    apiserver.cluster.kill("kube-apiserver")
    try:
        with pytest.raises(ApiError) as caught:
            await kube.get("Namespace", "", "default")
        assert caught.value.status == 0
        assert caught.value.transient
    finally:
        apiserver.cluster.restart("kube-apiserver")
    found = await asyncio.gather(*(kube.get("Namespace", "", "default") for _ in range(20)))
    assert len(found) == 20


async def test_only_warnings_about_the_object_are_read(kube: KubeClient, namespace: str) -> None:
    async def record(name: str, uid: str, type_: str) -> None:
        body = {
            "apiVersion": "events.k8s.io/v1",
            "metadata": {"name": name},
            "type": type_,
            "reason": "FailedMount",
            "note": f"note of {name}",
            "action": "Mount",
            "eventTime": "2026-01-01T00:00:00.000000Z",
            "reportingController": "perdure.dev/test",
            "reportingInstance": "test",
            "regarding": {"kind": "Pod", "namespace": namespace, "name": "p", "uid": uid},
        }
        await kube.create("Event", namespace, body)

    await record("wanted", "uid-1", "Warning")
    await record("normal", "uid-1", "Normal")
    await record("other", "uid-2", "Warning")
    # As kubelets write them: the core API, without `eventTime`.
    core = {
        "metadata": {"name": "core"},
        "type": "Warning",
        "reason": "FailedMount",
        "message": "note of core",
        "lastTimestamp": "2026-01-01T00:00:09Z",
        "involvedObject": {"kind": "Pod", "namespace": namespace, "name": "p", "uid": "uid-1"},
    }
    await kube.raw_post(f"/api/v1/namespaces/{namespace}/events", core)
    found = await kube.warnings(namespace, "uid-1")
    assert {event["metadata"]["name"] for event in found} == {"wanted", "core"}
    assert newest_warning(found) == "FailedMount: note of core"
