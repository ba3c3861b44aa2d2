"""Agents without containers: simulated pods run nothing, so we write in their name, with tokens of theirs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from perdure.ledger import AgentSession, Ledger
from perdure_agent import Environment
from tests.bench import simulation
from tests.bench.chains import Chains, PodSeen
from tests.bench.load import apply_all, patience, workflow
from tests.bench.rig import Rig
from tests.support.waiting import until

#: Seconds for the operator to note which pod an attempt is, after it made the pod.
_NOTED = 30.0


def held(name: str, *, tasks: int, kept: int | None = None) -> dict[str, Any]:
    """A Workflow of tasks whose pods run until they are deleted. `kept`: checkpoints kept of each."""
    agent = {"podTemplate": simulation.template("hang")}
    made = workflow(name, [{"name": "hold", "forEach": list(range(tasks)), "agent": agent}])
    if kept is not None:
        made["spec"]["retention"] = {"checkpointsPerTask": kept}
    return made


async def start_held(
    rig: Rig, namespace: str, seen: Chains, *, runs: int, tasks: int, kept: int | None = None
) -> dict[str, PodSeen]:
    """Apply such Workflows; returns their pods by uid once all run. Raises TimeoutError."""
    names = [f"held-{number:04d}" for number in range(runs)]
    await apply_all(rig.kube, namespace, [held(name, tasks=tasks, kept=kept) for name in names])
    count = runs * tasks

    def all_run() -> bool:
        return sum(pod.running is not None for pod in seen.pods.values()) >= count

    if not await seen.watch.until(all_run, within=patience(count)):
        raise TimeoutError(f"{len(seen.pods)} of {count} pods were made, and not all run")
    return dict(seen.pods)


async def session_of(ledger: Ledger, namespace: str, uid: str) -> AgentSession:
    """The open attempt of the pod, as the gateway finds it. Raises TimeoutError."""
    return await until(lambda: ledger.attempt_for_pod(namespace, uid), within=_NOTED)


async def save_to_ledger(ledger: Ledger, session: AgentSession, data: bytes) -> int:
    """A checkpoint without SDK and gateway; returns its number once it is durable."""
    return await ledger.write_checkpoint(
        session, data, content_type="application/octet-stream", now=datetime.now(UTC)
    )


async def environment_of(rig: Rig, url: str, namespace: str, *, uid: str, pod: PodSeen) -> Environment:
    """The environment of the agent in the pod."""
    request: dict[str, Any] = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "audiences": ["perdure"],
            "expirationSeconds": 3600,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": uid},
        },
    }
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token"
    folder = rig.directory / "agents" / pod.name
    folder.mkdir(parents=True)
    (folder / "token").write_text((await rig.kube.raw_post(path, request))["status"]["token"])
    (folder / "input.json").write_text("{}")
    return Environment(
        gateway_url=url,
        namespace=namespace,
        workflow=pod.workflow,
        task=pod.name.rpartition("-")[0],
        step=pod.step,
        attempt=pod.attempt,
        token_file=folder / "token",
        input_file=folder / "input.json",
        termination_log=folder / "termination-log",
    )
