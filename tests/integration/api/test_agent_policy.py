"""The chart's `policy.rules` on a real API server: which agents' pods a namespace may have."""

from __future__ import annotations

import asyncio
import copy
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.integration.api.objects import schedule, step, task, template, workflow, workflow_template
from tests.integration.apiserver import ApiServer
from tests.support.waiting import until

from perdure.kube.client import KubeClient

ROOT = Path(__file__).parents[3]
OPERATOR = "system:serviceaccount:perdure-system:perdure-operator"
OURS = "registry.example.com/team-a/"
GOOD = {"image": f"{OURS}agent:1", "serviceAccountName": "agents"}
#: Agent blocks that the rule refuses, each with a part of the message.
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "image-elsewhere": ({"image": "docker.io/library/busybox:1"}, "agent.image: rule"),
    "image-short": ({"image": "busybox"}, "does not allow busybox"),
    "image-neighbour": ({"image": "registry.example.com/team-abc/agent:1"}, "agent.image: rule"),
    "image-upper": ({"image": "Registry.example.com/team-a/agent"}, "agent.image: rule"),
    "image-computed": ({"image": "${inputs.image}"}, "does not allow ${inputs.image}"),
    "account": ({**GOOD, "serviceAccountName": "admin"}, "agent.serviceAccountName: rule"),
    "pod-template": ({**GOOD, "podTemplate": {"spec": {"hostPID": True}}}, "agent.podTemplate: rule"),
    "pod-template-labels": ({**GOOD, "podTemplate": {"metadata": {"labels": {"a": "b"}}}}, "allows none"),
}


def agent_step(agent: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return step(agent=agent, **fields)


def nested(agent: dict[str, Any]) -> dict[str, Any]:
    return {"name": "sub", "workflow": {"spec": {"steps": [agent_step(agent)]}}}


#: Manifests with an agent block in each place that has one.
PLACES = {
    "task": lambda agent: task(agent=agent),
    "template": lambda agent: template(**agent),
    "step": lambda agent: workflow(agent_step(GOOD), agent_step(agent, name="b") | {"name": "b"}),
    "finally": lambda agent: workflow(agent_step(GOOD), last=[agent_step(agent) | {"name": "z"}]),
    "defaults": lambda agent: workflow({"name": "a", "agent": {}}, defaults={"agent": agent}),
    "child": lambda agent: workflow(agent_step(GOOD), nested(agent)),
    "workflow-template": lambda agent: workflow_template(agent_step(agent)),
    "child-of-template": lambda agent: workflow_template(nested(agent)),
    "schedule": lambda agent: schedule(workflow={"spec": {"steps": [agent_step(agent)]}}),
    "child-of-schedule": lambda agent: schedule(workflow={"spec": {"steps": [nested(agent)]}}),
}


def pod(**spec: Any) -> dict[str, Any]:
    containers = [{"name": "agent", "image": GOOD["image"]}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "agent-"},
        "spec": {"serviceAccountName": "agents", "containers": containers, "restartPolicy": "Never", **spec},
    }


def job(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"generateName": "agent-"},
        "spec": {"template": {"spec": pod(**spec)["spec"]}},
    }


SIDECAR = {"name": "sidecar", "image": "docker.io/library/busybox:1"}
AGENT = pod()["spec"]["containers"][0]
BAD_PODS: dict[str, tuple[dict[str, Any], str]] = {
    "image": ({"containers": [SIDECAR]}, "does not allow: docker.io/library/busybox:1"),
    "sidecar": ({"containers": [AGENT, SIDECAR]}, "does not allow: docker.io"),
    "init": ({"initContainers": [SIDECAR]}, "does not allow: docker.io"),
    "image-volume": (
        {"volumes": [{"name": "v", "image": {"reference": "docker.io/library/data:1"}}]},
        "does not allow: docker.io/library/data:1",
    ),
    "account": ({"serviceAccountName": "admin"}, "would run as ServiceAccount admin"),
    "account-by-its-old-name": (
        {"serviceAccountName": None, "serviceAccount": "admin"},
        "would run as ServiceAccount admin",
    ),
    "no-account": ({"serviceAccountName": None}, "would run as ServiceAccount default"),
    "host-path": ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "allows no podTemplate"),
    "host-pid": ({"hostPID": True}, "allows no podTemplate"),
    "host-network": ({"hostNetwork": True}, "allows no podTemplate"),
    "node-name": ({"nodeName": "node-1"}, "allows no podTemplate"),
    "privileged": (
        {"containers": [{**AGENT, "securityContext": {"privileged": True}}]},
        "allows no podTemplate",
    ),
}


class Requests:
    """Requests to the API server in one namespace, as an administrator or as the operator."""

    def __init__(self, apiserver: ApiServer, namespace: str) -> None:
        self._cluster = apiserver.cluster
        self.namespace = namespace

    async def send(
        self, method: str, body: dict[str, Any], *, operator: bool = False, dry_run: bool = True
    ) -> tuple[int, dict[str, Any]]:
        """Status and answer. The namespace is that of the object, or else the tests'."""
        api = self._cluster.api()
        if operator:
            api._headers["Impersonate-User"] = OPERATOR
        query = "?dryRun=All" if dry_run else ""
        path = f"{self._path(body)}{'' if method == 'POST' else '/' + body['metadata']['name']}{query}"
        status, answer = await asyncio.to_thread(
            api.request, method, path, None if method == "DELETE" else body, 30
        )
        return status, json.loads(answer)

    async def refusal(self, body: dict[str, Any], *, operator: bool = False) -> str:
        """Why the object cannot be created; '' if it can."""
        status, answer = await self.send("POST", body, operator=operator)
        return "" if status < 300 else str(answer["message"])

    async def create(self, body: dict[str, Any]) -> dict[str, Any]:
        """Create an object, or find it. Returns what is there."""
        status, answer = await self.send("POST", body, dry_run=False)
        assert status in (200, 201, 409), answer
        return answer

    async def delete(self, body: dict[str, Any]) -> None:
        status, answer = await self.send("DELETE", body, dry_run=False)
        assert status in (200, 202, 404), answer

    def _path(self, body: dict[str, Any]) -> str:
        group, kind = body["apiVersion"], body["kind"]
        plural = kind.lower().removesuffix("y") + ("ies" if kind.endswith("y") else "s")
        base = f"/api/{group}" if "/" not in group else f"/apis/{group}"
        if kind in CLUSTER_WIDE:
            return f"{base}/{plural}"
        return f"{base}/namespaces/{body['metadata'].get('namespace', self.namespace)}/{plural}"


CLUSTER_WIDE = {
    "Namespace",
    "ClusterRoleBinding",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}


def rendered(namespace: str, **rule: Any) -> list[dict[str, Any]]:
    """The chart's policies, in force in one namespace."""
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    values = {"policy": {"rules": [{"name": namespace, "namespaceSelector": selector, **rule}]}}
    path = subprocess.run(
        [sys.executable, str(ROOT / "hack/cluster"), "path", "helm"],
        capture_output=True,
        text=True,
        timeout=3600,
        check=True,
    )
    done = subprocess.run(
        [
            path.stdout.strip(),
            *("template", "perdure", str(ROOT / "charts/perdure"), "--namespace", "perdure-system"),
            *("--set", "evaluation.enabled=true", "--show-only", "templates/policy.yaml", "--values", "-"),
        ],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [item for item in yaml.safe_load_all(done.stdout) if item]


@pytest.fixture
async def requests(apiserver: ApiServer, namespace: str) -> AsyncIterator[Requests]:
    """With a rule for this namespace in force, and an operator's account that may do everything."""
    requests = Requests(apiserver, namespace)
    group = "rbac.authorization.k8s.io"
    items = [
        {
            "apiVersion": f"{group}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "test-operator"},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"apiGroup": group, "kind": "User", "name": OPERATOR}],
        },
        *rendered(
            namespace, serviceAccounts=["agents", "other"], images=[OURS, "ghcr.io/x/y:"], podTemplate="Deny"
        ),
    ]
    await requests.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "perdure-system"}})
    for item in items:
        await requests.create(item)
    for account in ("agents", "other", "admin"):
        await requests.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}})
    wrong = BAD["account"][0]
    for tried, operator in (
        (task(agent=wrong), False),
        (PLACES["step"](wrong), False),
        (pod(hostPID=True), True),
    ):

        async def acts(tried: Any = tried, operator: bool = operator) -> bool:
            return "ValidatingAdmissionPolicy" in await requests.refusal(tried, operator=operator)

        await until(acts)
    yield requests
    for item in items:
        await requests.delete(item)


async def test_each_place_of_an_agent_is_checked(requests: Requests) -> None:
    for place, made in PLACES.items():
        for agent in (GOOD, {**GOOD, "image": "ghcr.io/x/y:1"}, {**GOOD, "serviceAccountName": "other"}):
            assert await requests.refusal(made(copy.deepcopy(agent))) == "", place
        for name, (agent, text) in BAD.items():
            refusal = await requests.refusal(made(copy.deepcopy(agent)))
            assert text in refusal, (place, name, refusal)
            assert "ValidatingAdmissionPolicy" in refusal, (place, name, refusal)


async def test_what_has_no_agent_or_no_form_is_left_to_others(requests: Requests) -> None:
    for good in (
        {**workflow(), "spec": {"templateRef": "t"}},
        workflow({"name": "a", "wait": {"duration": "1s"}}),
        workflow({"name": "a", "workflow": {"templateRef": "t"}}),
        workflow({"name": "a", "agent": {"templateRef": "t"}}),
        schedule(),
        # The operator says what is wrong with it.
        schedule(workflow={"spec": {"steps": "many"}}),
        schedule(workflow={"spec": {"steps": [{"agent": 5}]}}),
        workflow(*[step(f"s{number}", agent=GOOD) for number in range(500)]),
    ):
        assert await requests.refusal(good) == ""


async def test_an_update_cannot_bring_in_what_a_create_cannot(requests: Requests) -> None:
    for place in ("template", "workflow-template", "schedule", "child-of-schedule"):
        before = await requests.create({**PLACES[place](GOOD), "metadata": {"name": place}})
        for agent, text in BAD.values():
            after = {**PLACES[place](copy.deepcopy(agent)), "metadata": before["metadata"]}
            status, answer = await requests.send("PUT", after)
            assert status >= 400, place
            assert text in answer["message"], (place, answer)


@pytest.mark.parametrize("made", [pod, job], ids=["pod", "job"])
async def test_pods_of_the_operator_s_account_are_checked_as_computed(requests: Requests, made: Any) -> None:
    assert await requests.refusal(made(), operator=True) == ""
    for name, (spec, text) in BAD_PODS.items():
        assert text in await requests.refusal(made(**spec), operator=True), name
        # A person's own pods are for other policies.
        assert "ValidatingAdmissionPolicy" not in await requests.refusal(made(**spec)), name


async def test_the_policies_compile_without_warnings(requests: Requests, kube: KubeClient) -> None:
    items = rendered(requests.namespace, serviceAccounts=["agents"], images=[OURS], podTemplate="Deny")
    names = [item["metadata"]["name"] for item in items if item["kind"] == "ValidatingAdmissionPolicy"]
    assert len(names) == 3
    for name in names:
        path = f"/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{name}"
        found: dict[str, Any] = {}

        async def checked(path: str = path, found: dict[str, Any] = found) -> bool:
            found.update(await kube.raw_get(path))
            return "typeChecking" in found.get("status", {})

        await until(checked)
        assert found["status"]["typeChecking"] == {}, name
