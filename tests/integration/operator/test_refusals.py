"""Refusals of a real API server: each holds up its own task alone, is named, and heals."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest

from perdure.kube.errors import ApiError
from tests.cluster.causes import policy, webhook
from tests.integration.operator.conftest import Stage
from tests.support.waiting import until

AGENT = {"image": "agent"}
_ADMISSION = "/apis/admissionregistration.k8s.io/v1"
_PLURALS = {
    "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
    "MutatingWebhookConfiguration": "mutatingwebhookconfigurations",
}
#: What each step's task says.
NAMED = {
    "account": 'error looking up service account {namespace}/later: serviceaccount "later" not found',
    "class": "no PriorityClass with name {suffix} was found",
    "invalid": "ValidatingAdmissionPolicy 'refused-invalid-{suffix}' with binding",
    "forbidden": "ValidatingAdmissionPolicy 'refused-forbidden-{suffix}' with binding",
    "webhook": 'failed calling webhook "causes.example.com"',
}


class Admission:
    """Policies and webhooks for the runs of one test."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._made: list[str] = []

    async def add(self, *objects: dict[str, Any]) -> None:
        for item in objects:
            path = f"{_ADMISSION}/{_PLURALS[item['kind']]}"
            await self._stage.kube.raw_post(path, item)
            self._made.append(f"{path}/{item['metadata']['name']}")

    async def remove(self) -> None:
        made, self._made = self._made, []
        for path in reversed(made):
            try:
                await self._stage.kube._call("raw", "", "DELETE", path)
            except ApiError as error:
                if not error.not_found:
                    raise


@pytest.fixture
async def admission(stage: Stage) -> AsyncIterator[Admission]:
    made = Admission(stage)
    yield made
    await made.remove()


def _for_step(objects: list[dict[str, Any]], step: str) -> list[dict[str, Any]]:
    for item in objects:
        constraints = item.get("spec", {}).get("matchConstraints")
        if constraints:
            constraints["objectSelector"]["matchLabels"]["perdure.dev/step"] = step
    return objects


async def _task_of(stage: Stage, run: str, step: str) -> dict[str, Any]:
    selector = f"perdure.dev/workflow={run},perdure.dev/step={step}"
    tasks, _ = await stage.kube.list("AgentTask", namespace=stage.namespace, label_selector=selector)
    return tasks[0] if tasks else {}


async def _until_failed(stage: Stage, run: str) -> dict[str, Any]:
    """The condition Failed of a run, once it is true."""

    async def failed() -> bool:
        return await stage.condition(run, "Failed") == "True"

    await until(failed, within=60)
    conditions = (await stage.status(run))["conditions"]
    found: dict[str, Any] = next(item for item in conditions if item["type"] == "Failed")
    return found


async def test_each_refusal_holds_up_its_task_alone(stage: Stage, admission: Admission) -> None:
    suffix = secrets.token_hex(3)
    run = f"refused-{suffix}"
    hook = webhook(run, run, step="webhook")
    await admission.add(
        *_for_step(policy(f"refused-invalid-{suffix}", run, "Invalid"), "invalid"),
        *_for_step(policy(f"refused-forbidden-{suffix}", run, "Forbidden"), "forbidden"),
        hook,
    )
    stage.kubelet.script = lambda pod: (0, "")

    async def in_force() -> bool:
        """The API server reads policies by and by: each denies a pod like the step's."""
        for step in ("invalid", "forbidden", "webhook"):
            labels = {"perdure.dev/workflow": run, "perdure.dev/step": step}
            body = {"metadata": {"generateName": "probe-", "labels": labels}}
            body["spec"] = {"containers": [{"name": "agent", "image": "x"}]}
            try:
                await stage.kube.raw_post(f"/api/v1/namespaces/{stage.namespace}/pods?dryRun=All", body)
            except ApiError:
                continue
            return False
        return True

    await until(in_force, within=60)
    steps = [
        {"name": "fine", "agent": AGENT},
        {"name": "after", "agent": AGENT, "dependsOn": ["fine"]},
        {"name": "account", "agent": {**AGENT, "serviceAccountName": "later"}},
        {"name": "class", "agent": {**AGENT, "podTemplate": {"spec": {"priorityClassName": suffix}}}},
        {"name": "invalid", "agent": AGENT},
        {"name": "forbidden", "agent": AGENT},
        {"name": "webhook", "agent": AGENT},
    ]
    await stage.apply(run, {"steps": steps})

    async def named() -> bool:
        said = {item["name"]: item for item in (await stage.status(run)).get("steps", ())}
        if said.get("after", {}).get("phase") != "Succeeded":
            return False
        for step, text in NAMED.items():
            status = (await _task_of(stage, run, step)).get("status", {})
            wanted = text.format(namespace=stage.namespace, suffix=suffix)
            if status.get("reason") != "Starting" or wanted not in status.get("message", ""):
                return False
        return True

    await until(named, within=60)
    await admission.remove()
    account = {"metadata": {"name": "later"}}
    await stage.kube.raw_post(f"/api/v1/namespaces/{stage.namespace}/serviceaccounts", account)
    classes = "/apis/scheduling.k8s.io/v1/priorityclasses"
    await stage.kube.raw_post(classes, {"metadata": {"name": suffix}, "value": 1})
    try:
        status = await stage.until_complete(run, within=90)
    finally:
        await stage.kube._call("raw", "", "DELETE", f"{classes}/{suffix}")
    assert (status["phase"], status["attempts"]) == ("Succeeded", len(steps))


async def test_a_quota_is_named_and_waited_for(stage: Stage) -> None:
    quotas = f"/api/v1/namespaces/{stage.namespace}/resourcequotas"
    await stage.kube.raw_post(quotas, {"metadata": {"name": "few"}, "spec": {"hard": {"pods": "0"}}})

    async def counted() -> bool:
        found = await stage.kube.raw_get(f"{quotas}/few")
        return bool(found.get("status", {}).get("hard"))

    await until(counted, within=60)
    stage.kubelet.script = lambda pod: (0, "")
    await stage.apply("limited", {"steps": [{"name": "a", "agent": AGENT}]})

    async def named() -> bool:
        status = (await _task_of(stage, "limited", "a")).get("status", {})
        return status.get("reason") == "Quota" and "exceeded quota: few" in status.get("message", "")

    await until(named, within=60)
    await stage.kube._call("raw", "", "DELETE", f"{quotas}/few")
    assert (await stage.until_complete("limited"))["attempts"] == 1


#: Agents of which no pod can ever be created: the reason, and parts of the message.
FAULTY: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "argument": (
        {"args": ["${inputs.block + inputs.block}"]},
        "ExpressionError",
        ["agent.args[0]: 120000 bytes; the limit of one argument or variable is 98304"],
    ),
    "arguments": (
        {"args": ["${inputs.block}"] * 10},
        "ExpressionError",
        ["have 600000 bytes; the limit of all together is 524288"],
    ),
    "mount": (
        {
            "podTemplate": {
                "spec": {
                    "containers": [{"name": "agent", "volumeMounts": [{"name": "none", "mountPath": "/x"}]}]
                }
            }
        },
        "InvalidConfig",
        ["volumeMounts", 'Not found: "none"'],
    ),
    "type": (
        {"podTemplate": {"spec": {"hostNetwork": "yes"}}},
        "InvalidConfig",
        ["the API server refuses the pod: ", "hostNetwork"],
    ),
    "field": (
        {"podTemplate": {"spec": {"nodeSelectr": {}}}},
        "InvalidConfig",
        ["unknown field", "nodeSelectr"],
    ),
}


async def test_what_can_never_be_created_fails(stage: Stage) -> None:
    for name, (agent, _, _) in FAULTY.items():
        spec = {"inputs": {"block": "x" * 60_000}, "steps": [{"name": "a", "agent": {**AGENT, **agent}}]}
        await stage.apply(name, spec)
    for name, (_, reason, texts) in FAULTY.items():
        failed = await _until_failed(stage, name)
        assert failed["reason"] == reason
        assert all(text in failed["message"] for text in texts), failed
    assert not stage.kubelet.uids


async def test_long_computed_arguments_are_accepted(stage: Stage) -> None:
    """The pod has them whole, its AgentTask as much as its schema allows."""
    stage.kubelet.script = lambda pod: (0, "")
    block = "x" * 45_000
    agent = {**AGENT, "args": ["${inputs.block}"], "env": [{"name": "LONG", "value": "${inputs.block}"}]}
    await stage.apply("long", {"inputs": {"block": block}, "steps": [{"name": "a", "agent": agent}]})
    await stage.until_complete("long")
    (pod,), _ = await stage.kube.list("Pod", namespace=stage.namespace)
    assert pod["spec"]["containers"][0]["args"] == [block]
    task = await _task_of(stage, "long", "a")
    assert len(task["spec"]["agent"]["args"][0]) < 2048


async def test_a_missing_secret_is_named_from_the_pods_events(stage: Stage) -> None:
    stage.kubelet.away = True
    text = 'MountVolume.SetUp failed for volume "creds" : secret "feed-credentials" not found'
    await stage.apply("unmounted", {"steps": [{"name": "a", "agent": AGENT, "pendingTimeout": "15s"}]})

    async def made() -> list[dict[str, Any]]:
        return (await stage.kube.list("Pod", namespace=stage.namespace))[0]

    (pod,) = await until(made, within=60)
    event = {
        "metadata": {"name": "mount"},
        "type": "Warning",
        "reason": "FailedMount",
        "message": text,
        "lastTimestamp": "2026-01-01T00:00:00Z",
        "involvedObject": {"kind": "Pod", "namespace": stage.namespace, "uid": pod["metadata"]["uid"]},
    }
    await stage.kube.raw_post(f"/api/v1/namespaces/{stage.namespace}/events", event)

    async def named() -> bool:
        return text in (await stage.status("unmounted")).get("message", "")

    await until(named, within=60)

    failed = await _until_failed(stage, "unmounted")
    assert failed["reason"] == "PendingTimeout"
    assert f"FailedMount: {text}" in failed["message"]


async def test_a_scheduling_gate_is_named(stage: Stage) -> None:
    stage.kubelet.away = True
    template = {"spec": {"schedulingGates": [{"name": "example.com/approved"}]}}
    await stage.apply("gated", {"steps": [{"name": "a", "agent": {**AGENT, "podTemplate": template}}]})

    async def named() -> bool:
        message = (await _task_of(stage, "gated", "a")).get("status", {}).get("message", "")
        return "SchedulingGated" in message and "(example.com/approved)" in message

    await until(named, within=60)
