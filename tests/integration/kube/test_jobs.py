"""Jobs and pods of templates on a real API server with its Job controller."""

from typing import Any

import pytest
from tests.integration.kube.test_agents import agent_task, leaves
from tests.support.waiting import until

from perdure.domain.engine.pod_facts import PodFacts, read_pod
from perdure.kube.client import KubeClient
from perdure.kube.errors import ApiError
from perdure.kube.jobs import build_job
from perdure.kube.pods import PodEnvironment, build_pod

LABELS = {"perdure.dev/task": "audit-a-x7k2q", "perdure.dev/attempt": "1"}
#: A template with the usual additions: sidecars, volumes, scheduling, security.
TEMPLATE: dict[str, Any] = {
    "metadata": {"labels": {"team": "a"}, "annotations": {"example.com/note": "x"}},
    "spec": {
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "terminationGracePeriodSeconds": 5,
        "securityContext": {"runAsUser": 1000},
        "initContainers": [{"name": "fetch", "image": "fetch:1"}],
        "containers": [
            {"name": "proxy", "image": "proxy:1", "ports": [{"containerPort": 80}]},
            {
                "name": "agent",
                "workingDir": "/work",
                "env": [{"name": "A", "value": "1"}],
                "volumeMounts": [{"name": "scratch", "mountPath": "/work"}],
                "securityContext": {"runAsNonRoot": True},
            },
        ],
        "volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}}],
    },
}


def pod_of(task: dict[str, Any]) -> dict[str, Any]:
    metadata = task["metadata"]
    return build_pod(
        task_name=metadata["name"],
        pod_name=f"{metadata['name']}-1",
        namespace=metadata["namespace"],
        owner={field: task[field] for field in ("apiVersion", "kind")}
        | {field: metadata[field] for field in ("name", "uid")},
        labels=LABELS,
        agent={"image": "agents/audit:1", "model": "m", "podTemplate": TEMPLATE},
        input=b'{"n":1}',
        env=PodEnvironment(
            gateway_url="http://gateway:8080",
            workflow="audit",
            step="a",
            attempt=1,
            last_failure={"attempt": 1, "reason": "ExitCode", "message": "$(HOME)", "exitCode": 1},
        ),
        audience="perdure",
    )


async def pods(kube: KubeClient, namespace: str) -> list[PodFacts]:
    selector = ",".join(f"{name}={value}" for name, value in LABELS.items())
    found, _ = await kube.list("Pod", namespace=namespace, label_selector=selector)
    return [read_pod(pod) for pod in found]


async def test_the_api_server_accepts_pods_of_templates_without_changes(
    kube: KubeClient, namespace: str
) -> None:
    wanted = pod_of(await agent_task(kube, namespace))
    made = await kube.create("Pod", namespace, wanted)
    assert set(leaves(wanted["spec"])) <= set(leaves(made["spec"]))
    assert set(leaves(wanted["metadata"])) <= set(leaves(made["metadata"]))


@pytest.mark.parametrize("kind", ["Pod", "Job"])
async def test_a_misspelt_field_is_refused_and_not_dropped(
    kube: KubeClient, namespace: str, kind: str
) -> None:
    wanted = pod_of(await agent_task(kube, namespace))
    wanted["spec"]["tolerationz"] = []
    with pytest.raises(ApiError) as refused:
        await kube.create(kind, namespace, wanted if kind == "Pod" else build_job(wanted))
    assert refused.value.status == 400
    assert "tolerationz" in refused.value.message


async def test_a_job_creates_one_pod_with_its_name_as_prefix(kube: KubeClient, namespace: str) -> None:
    wanted = build_job(pod_of(await agent_task(kube, namespace)))
    made = await kube.create("Job", namespace, wanted)
    assert set(leaves(wanted["spec"])) <= set(leaves(made["spec"]))

    async def has_pod() -> bool:
        return bool(await pods(kube, namespace))

    await until(has_pod)
    (facts,) = await pods(kube, namespace)
    assert (facts.name, facts.owner_uid) == (made["metadata"]["name"], made["metadata"]["uid"])
    assert (facts.of_job, facts.attempt, facts.task) == (True, 1, "audit-a-x7k2q")
    assert facts.pod_name.startswith(f"{facts.name}-")


async def test_a_job_whose_pod_was_deleted_fails_without_a_second_pod(
    kube: KubeClient, namespace: str
) -> None:
    made = await kube.create("Job", namespace, build_job(pod_of(await agent_task(kube, namespace))))
    name = made["metadata"]["name"]

    async def has_pod() -> bool:
        return bool(await pods(kube, namespace))

    await until(has_pod)
    (first,) = await pods(kube, namespace)
    # The cluster has no kubelet: the test writes the kubelet's status.
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    await kube.patch_status("Pod", namespace, first.pod_name, {"status": ready})

    async def is_counted() -> bool:
        # A pod that is deleted before the controller has observed it keeps the Job waiting for minutes.
        job = await kube.get("Job", namespace, name)
        return bool((job.get("status") or {}).get("ready"))

    await until(is_counted)
    await kube.delete("Pod", namespace, first.pod_name, grace_seconds=0)
    await kube.patch_status("Pod", namespace, first.pod_name, {"status": {"phase": "Failed"}})

    async def has_failed() -> bool:
        job = await kube.get("Job", namespace, name)
        conditions = (job.get("status") or {}).get("conditions") or ()
        return any(item["type"] == "Failed" and item["status"] == "True" for item in conditions)

    # After conflicts the controller backs off exponentially, up to a minute.
    await until(has_failed, within=150)
    assert [seen.uid for seen in await pods(kube, namespace)] in ([], [first.uid])


async def test_the_deletion_of_a_job_deletes_its_pod(kube: KubeClient, namespace: str) -> None:
    made = await kube.create("Job", namespace, build_job(pod_of(await agent_task(kube, namespace))))

    async def has_pod() -> bool:
        return bool(await pods(kube, namespace))

    await until(has_pod)
    await kube.delete("Job", namespace, made["metadata"]["name"], uid=made["metadata"]["uid"])

    async def has_none() -> bool:
        return not await pods(kube, namespace)

    await until(has_none)
