"""Pods, tokens and Events on a real API server."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from tests.integration.apiserver import ApiServer

from perdure.kube.client import KubeClient
from perdure.kube.connection import Connection, load_connection
from perdure.kube.pods import PodEnvironment, build_pod
from perdure.kube.recorder import EventRecorder, Regarding
from perdure.kube.tokens import AgentIdentity, InvalidToken, TokenVerifier


async def agent_task(kube: KubeClient, namespace: str) -> dict[str, Any]:
    return await kube.create(
        "AgentTask",
        namespace,
        {
            "apiVersion": "perdure.dev/v1alpha1",
            "kind": "AgentTask",
            "metadata": {"name": "audit-a-x7k2q"},
            "spec": {"agent": {"image": "agents/audit:1"}},
        },
    )


def pod_of(task: dict[str, Any], *, input: Any = None) -> dict[str, Any]:
    metadata = task["metadata"]
    return build_pod(
        task_name=metadata["name"],
        pod_name=f"{metadata['name']}-1",
        namespace=metadata["namespace"],
        owner={
            "apiVersion": task["apiVersion"],
            "kind": task["kind"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
        labels={"perdure.dev/task": metadata["name"], "perdure.dev/attempt": "1"},
        agent={
            "image": "agents/audit:1",
            "command": ["audit"],
            "args": ["--all", "$$(literal)"],
            "env": [{"name": "MODEL", "value": "m"}, {"name": "PERDURE_TASK", "value": "mine"}],
            "resources": {"requests": {"cpu": "100m", "memory": 1048576}, "limits": {"memory": "64Mi"}},
        },
        input=input,
        env=PodEnvironment(gateway_url="http://gateway:8080", workflow="audit", step="a", attempt=1, index=4),
        audience="perdure",
    )


async def test_the_api_server_accepts_pods_without_changes(kube: KubeClient, namespace: str) -> None:
    value = {"path": "a.py", "text": "ü" * 30_000}
    wanted = pod_of(await agent_task(kube, namespace), input=orjson.dumps(value))
    made = await kube.create("Pod", namespace, wanted)
    assert json.loads(made["metadata"]["annotations"]["perdure.dev/input"]) == value
    assert made["metadata"]["ownerReferences"] == wanted["metadata"]["ownerReferences"]
    missing = [path for path in leaves(wanted["spec"]) if path not in set(leaves(made["spec"]))]
    # The server normalises quantities.
    assert missing == [("containers", 0, "resources", "requests", "memory", 1048576)]
    assert [mount["name"] for mount in made["spec"]["containers"][0]["volumeMounts"]] == [
        "perdure-input",
        "perdure-token",
    ]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every scalar in a JSON value, with its path."""
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))]
    if isinstance(value, list):
        return [leaf for number, inner in enumerate(value) for leaf in leaves(inner, (*path, number))]
    return [(*path, value)]


async def token_for(
    kube: KubeClient, namespace: str, pod: dict[str, Any] | None, *, audience: str = "perdure"
) -> str:
    """A token as the kubelet requests it for a pod."""
    spec: dict[str, Any] = {"audiences": [audience], "expirationSeconds": 3600}
    if pod is not None:
        metadata = pod["metadata"]
        spec["boundObjectRef"] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": metadata["name"],
            "uid": metadata["uid"],
        }
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    token: str = (await kube.raw_post(path, request))["status"]["token"]
    return token


async def test_a_pods_token_is_verified_without_the_api_server(kube: KubeClient, namespace: str) -> None:
    pod = await kube.create("Pod", namespace, pod_of(await agent_task(kube, namespace)))
    token = await token_for(kube, namespace, pod)
    verifier = TokenVerifier(kube.raw_get, audience="perdure")
    now = datetime.now(UTC)
    identity = await verifier.verify(token, now=now)
    assert identity == AgentIdentity(
        namespace=namespace,
        pod_name=pod["metadata"]["name"],
        pod_uid=pod["metadata"]["uid"],
        service_account="default",
    )
    asked = dict(kube.requests)
    other = await token_for(kube, namespace, pod)
    assert await verifier.verify(other, now=now) == identity
    assert {
        key: count - asked.get(key, 0) for key, count in kube.requests.items() if count != asked.get(key)
    } == {("raw", "", 201): 1}
    with pytest.raises(InvalidToken, match="expired"):
        await verifier.verify(token, now=now + timedelta(hours=2))


async def test_tokens_of_other_audiences_and_objects_are_refused(kube: KubeClient, namespace: str) -> None:
    pod = await kube.create("Pod", namespace, pod_of(await agent_task(kube, namespace)))
    verifier = TokenVerifier(kube.raw_get, audience="perdure")
    now = datetime.now(UTC)
    with pytest.raises(InvalidToken, match="audience"):
        await verifier.verify(await token_for(kube, namespace, pod, audience="other"), now=now)
    with pytest.raises(InvalidToken, match="not bound to a pod"):
        await verifier.verify(await token_for(kube, namespace, None), now=now)


async def test_a_service_account_may_read_the_keys_without_further_rights(
    apiserver: ApiServer, kube: KubeClient, namespace: str
) -> None:
    # The gateway's own rights, and all that the gateway needs of the API server.
    api_audience = "https://kubernetes.default.svc.cluster.local"
    account = await token_for(kube, namespace, None, audience=api_audience)
    admin = await load_connection(apiserver.kubeconfig)

    async def authorization(refresh: bool) -> str:
        return f"Bearer {account}"

    async def connect() -> Connection:
        return replace(admin, authorization=authorization)

    pod = await kube.create("Pod", namespace, pod_of(await agent_task(kube, namespace)))
    token = await token_for(kube, namespace, pod)
    async with KubeClient(connect) as client:
        verifier = TokenVerifier(client.raw_get, audience="perdure")
        assert (await verifier.verify(token, now=datetime.now(UTC))).pod_uid == pod["metadata"]["uid"]


async def test_events_are_posted_and_counted(kube: KubeClient, namespace: str) -> None:
    about = Regarding.of(await agent_task(kube, namespace))
    now = datetime.now(UTC)
    for minutes in (0, 1, 6):
        recorder_now = now + timedelta(minutes=minutes)
        if minutes == 0:
            recorder = EventRecorder(kube, instance="operator-1")
        recorder.record(
            about, reason="Disrupted", message="pod lost", action="Replace", now=recorder_now, type="Warning"
        )
    recorder.close()
    await recorder.run()
    assert (recorder.posted, recorder.failed) == (2, 0)
    # The query of `kubectl describe`.
    found = await kube.raw_get(
        f"/api/v1/namespaces/{namespace}/events?fieldSelector=involvedObject.uid={about.uid}"
    )
    (event,) = found["items"]
    assert (event["type"], event["reason"], event["message"]) == ("Warning", "Disrupted", "pod lost")
    assert event["series"]["count"] == 3
