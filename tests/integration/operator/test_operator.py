"""The operator's process against a real API server, Postgres and NATS."""

from __future__ import annotations

from typing import Any

from perdure.kube.errors import ApiError
from tests.integration.operator.conftest import Stage
from tests.support.waiting import until

AGENT = {"image": "agent"}
STEPS = [
    {"name": "each", "forEach": ["a", "b", "c"], "agent": {**AGENT, "args": ["${item}"]}},
    {"name": "join", "agent": AGENT, "input": {"all": "${steps.each.outputs}"}},
]


def _item_of(pod: dict[str, Any]) -> str:
    return str(pod["spec"]["containers"][0].get("args", ["-"])[0])


async def test_a_workflow_runs_to_its_end(stage: Stage) -> None:
    stage.kubelet.script = lambda pod: (0, f'{{"item": "{_item_of(pod)}"}}')
    made = await stage.apply("audit", {"steps": STEPS, "outputs": {"first": "${steps.each.outputs[0].item}"}})
    status = await stage.until_complete("audit")
    assert status["phase"] == "Succeeded"
    assert status["progress"] == "4/4"
    assert status["outputs"] == {"first": "a"}
    events = await stage.events(made["metadata"]["uid"])
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[0].type == "workflow.created"
    assert events[-1].type == "workflow.succeeded"
    assert status["events"] == len(events)
    tasks, _ = await stage.kube.list("AgentTask", namespace=stage.namespace)
    assert len(tasks) == 4
    join = next(task for task in tasks if task["metadata"]["labels"]["perdure.dev/step"] == "join")
    assert join["spec"]["input"] == {"all": [{"item": "a"}, {"item": "b"}, {"item": "c"}]}

    async def task_shown() -> bool:
        return (await stage.status(join["metadata"]["name"], kind="AgentTask")).get("phase") == "Succeeded"

    await until(task_shown)


async def test_a_killed_operator_loses_and_repeats_nothing(stage: Stage) -> None:
    held = True
    stage.kubelet.script = lambda pod: None if held else (0, "")
    made = await stage.apply("audit", {"steps": STEPS})

    async def all_made() -> bool:
        return len(stage.kubelet.uids) == 3

    await until(all_made, within=60)
    await stage.operator.kill()
    held = False  # the agents finish while no operator runs

    async def all_ended() -> bool:
        pods, _ = await stage.kube.list("Pod", namespace=stage.namespace)
        return all(pod["status"]["phase"] == "Succeeded" for pod in pods)

    await until(all_ended)
    await stage.operator.start()
    await stage.until_complete("audit")
    assert len(stage.kubelet.uids) == 4
    assert all(len(uids) == 1 for uids in stage.kubelet.uids.values()), stage.kubelet.uids
    events = await stage.events(made["metadata"]["uid"])
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert sum(event.type == "task.scheduled" for event in events) == 4
    assert all(event.attempt in (None, 1) for event in events)


async def test_a_deleted_pod_is_a_disruption_and_spends_no_retry(stage: Stage) -> None:
    stage.kubelet.script = lambda pod: None if pod["metadata"]["name"].endswith("-1") else (0, "")
    made = await stage.apply("audit", {"steps": STEPS[:1]})

    async def first_run() -> list[dict[str, Any]]:
        pods, _ = await stage.kube.list("Pod", namespace=stage.namespace)
        return [pod for pod in pods if pod["status"].get("phase") == "Running"]

    running = await until(first_run, within=60)
    name = running[0]["metadata"]["name"]
    stage.kubelet.script = lambda pod: None if pod["metadata"]["name"] == name else (0, "")
    await stage.kube.delete("Pod", stage.namespace, name, grace_seconds=0)
    await stage.until_complete("audit")
    events = await stage.events(made["metadata"]["uid"])
    (disrupted,) = [event for event in events if event.type == "task.disrupted"]
    assert not [event for event in events if event.type == "task.retrying"]
    status = await stage.status(str(disrupted.task), kind="AgentTask")
    assert (status["attempt"], status["disruptions"], status.get("retries", 0)) == (2, 1, 0)


async def test_a_failing_agent_fails_the_run_and_later_steps_do_not_start(stage: Stage) -> None:
    stage.kubelet.script = lambda pod: (2, "no such file") if _item_of(pod) == "b" else (0, "")
    await stage.apply("audit", {"steps": STEPS})

    async def failed() -> bool:
        return await stage.condition("audit", "Failed") == "True"

    await until(failed, within=60)
    status = await stage.status("audit")
    assert "exit code 2: no such file" in status["message"]
    steps = {step["name"]: step for step in status["steps"]}
    assert steps["each"]["phase"] == "Failed"
    assert (steps["join"]["phase"], steps["join"]["reason"]) == ("Skipped", "DependencyNotMet")
    assert await stage.condition("audit", "Complete") == "False"


async def test_a_refused_workflow_has_the_cause_and_starts_no_pod(stage: Stage) -> None:
    steps = [
        {"name": "a", "agent": AGENT, "input": "${steps.b.output}"},
        {"name": "b", "agent": AGENT, "input": "${steps.a.output} ${inputs.x +}"},
        {"name": "c", "agent": AGENT, "input": "${steps.nowhere.output}"},
    ]
    await stage.apply("wrong", {"steps": steps})

    async def refused() -> bool:
        return await stage.condition("wrong", "Accepted") == "False"

    await until(refused, within=60)
    message = (await stage.status("wrong"))["message"]
    assert "spec.steps[1].input" in message
    assert "spec.steps[2].input" in message
    assert "nowhere" in message
    pods, _ = await stage.kube.list("Pod", namespace=stage.namespace)
    assert not pods


async def test_inputs_over_the_limit_are_refused(stage: Stage) -> None:
    await stage.apply("large", {"inputs": {"text": "x" * 66_000}, "steps": STEPS[:1]})

    async def refused() -> bool:
        return await stage.condition("large", "Accepted") == "False"

    await until(refused, within=60)
    assert "spec.inputs" in (await stage.status("large"))["message"]


async def test_a_foreign_pod_of_the_same_name_is_never_adopted(stage: Stage) -> None:
    body = {
        "metadata": {"name": "alone-1"},
        "spec": {"containers": [{"name": "agent", "image": "other"}]},
    }
    await stage.kube.create("Pod", stage.namespace, body)
    await stage.apply("alone", {"agent": AGENT}, kind="AgentTask")

    async def failed() -> bool:
        return await stage.condition("alone", "Failed", kind="AgentTask") == "True"

    await until(failed, within=60)
    assert (await stage.status("alone", kind="AgentTask"))["reason"] == "NameConflict"


async def test_a_pod_that_the_api_server_refuses_fails_its_task(stage: Stage) -> None:
    agent = {"image": "agent", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}
    await stage.apply("wrong", {"agent": agent}, kind="AgentTask")

    async def failed() -> bool:
        return await stage.condition("wrong", "Failed", kind="AgentTask") == "True"

    await until(failed, within=60)
    status = await stage.status("wrong", kind="AgentTask")
    assert status["reason"] == "InvalidConfig"
    assert "requests" in status["message"]


async def test_a_quota_is_waited_for_and_named(stage: Stage) -> None:
    path = f"/api/v1/namespaces/{stage.namespace}/resourcequotas"
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    await stage.kube.raw_post(path, {"apiVersion": "v1", "kind": "ResourceQuota", **quota})
    try:
        await until(lambda: _quota_is_counted(stage, path), within=30)
        await stage.apply("wait", {"agent": AGENT}, kind="AgentTask")

        async def waits() -> bool:
            return (await stage.status("wait", kind="AgentTask")).get("reason") == "Quota"

        await until(waits, within=60)
    except ApiError as error:  # pragma: no cover - a clearer failure than the bare status
        raise AssertionError(str(error)) from error


async def _quota_is_counted(stage: Stage, path: str) -> bool:
    quota = await stage.kube.raw_get(f"{path}/none")
    return (quota.get("status") or {}).get("hard") is not None


async def test_a_stopping_operator_releases_the_lease(stage: Stage) -> None:
    async def working() -> bool:
        return "working" in stage.operator.log()

    await until(working, within=60)
    assert await stage.operator.stop() == 0
    lease = await stage.kube.get("Lease", stage.namespace, "perdure-operator")
    assert lease["spec"]["holderIdentity"] == "", (
        "the lease is given back, so that no successor waits for its end"
    )
