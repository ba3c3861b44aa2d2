"""A ledger from a backup: into an empty cluster, and back under the cluster that it was taken from.

docs/how-to/operations.md says what becomes of each run; these are its sentences.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from perdure.domain.phases import Phase, Reason
from perdure.domain.records import Event
from perdure.ledger import Ledger, migrate
from tests.integration.apiserver import ApiServer
from tests.integration.nats import NatsServer
from tests.integration.operator.conftest import Stage
from tests.integration.operator.process import OperatorProcess
from tests.integration.postgres import PostgresServer
from tests.support.waiting import until

WITHIN = 120.0
AGENT = {"image": "agent"}
CHAIN = {
    "steps": [{"name": "first", "agent": AGENT}, {"name": "second", "agent": AGENT, "dependsOn": ["first"]}]
}

#: Stops the operator and starts another on a ledger restored from a backup. Returns the ledger's URL.
Restart = Callable[[bytes], Awaitable[str]]


@pytest.fixture
async def restored(
    stage: Stage,
    apiserver: ApiServer,
    nats_server: NatsServer,
    postgres_server: PostgresServer,
    tmp_path: Path,
) -> AsyncIterator[Restart]:
    started: list[tuple[OperatorProcess, str]] = []

    async def restart(dump: bytes) -> str:
        await stage.operator.kill()
        url = await postgres_server.restore(dump)
        assert await migrate(url) == [], "the backup has its schema, and the note which one"
        operator = OperatorProcess(
            kubeconfig=apiserver.kubeconfig,
            database_url=url,
            nats_url=nats_server.url,
            namespace=stage.namespace,
            directory=tmp_path,
            identity="restored",
        )
        started.append((operator, url))
        await operator.start()
        return url

    yield restart
    for operator, url in started:
        await operator.kill()
        await postgres_server.drop_database(url)


async def until_running(stage: Stage, *names: str) -> None:
    """Wait until these runs' first agents run."""

    async def all_run() -> bool:
        label = "perdure.dev/step=first"
        pods, _ = await stage.kube.list("Pod", namespace=stage.namespace, label_selector=label)
        running = {
            pod["metadata"]["labels"]["perdure.dev/workflow"]
            for pod in pods
            if pod["status"].get("phase") == "Running"
        }
        return set(names) <= running

    await until(all_run, within=WITHIN)


async def ended(ledger: Ledger, uid: str) -> tuple[Phase, Reason | None, list[Event]]:
    """How a run ended, and its history, which is whole."""

    async def terminal() -> bool:
        state = await ledger.load(uid)
        return state is not None and state.run.phase.terminal

    await until(terminal, within=WITHIN)
    state = await ledger.load(uid)
    assert state is not None
    events = await ledger.events(uid)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    return state.run.phase, state.run.reason, events


async def test_a_backup_is_restored_into_an_empty_cluster(
    stage: Stage, restored: Restart, ledger_url: str, postgres_server: PostgresServer
) -> None:
    uids = {}
    for name in ("over", "going", "forgotten"):
        stage.kubelet.script = lambda pod: (0, "") if "over" in pod["metadata"]["name"] else None
        uids[name] = (await stage.apply(name, CHAIN))["metadata"]["uid"]
    await stage.until_complete("over", within=WITHIN)
    await until_running(stage, "going", "forgotten")
    dump = await postgres_server.dump(ledger_url)
    history = await stage.events(uids["over"])

    # The cluster is lost with all its objects; the manifests in Git are applied to its successor.
    await stage.operator.kill()
    for name in uids:
        await stage.kube.delete("Workflow", stage.namespace, name)

    async def empty() -> bool:
        kinds = ("Workflow", "AgentTask", "Pod")
        return not any([(await stage.kube.list(kind, namespace=stage.namespace))[0] for kind in kinds])

    for pod in (await stage.kube.list("Pod", namespace=stage.namespace))[0]:
        await stage.kube.delete("Pod", stage.namespace, pod["metadata"]["name"], grace_seconds=0)
    await until(empty, within=WITHIN)
    stage.kubelet.script = lambda pod: (0, "")
    again = (await stage.apply("going", CHAIN))["metadata"]["uid"]
    url = await restored(dump)

    await stage.until_complete("going", within=WITHIN)
    async with Ledger(url, pool_size=2) as ledger:
        for name in ("going", "forgotten"):
            phase, reason, events = await ended(ledger, uids[name])
            assert (phase, reason) == (Phase.CANCELLED, Reason.DELETED), name
            assert [event.type for event in events][-2:] == ["task.cancelled", "workflow.cancelled"]
        phase, _, events = await ended(ledger, uids["over"])
        assert phase is Phase.SUCCEEDED
        assert events == history
        phase, _, events = await ended(ledger, again)
        assert phase is Phase.SUCCEEDED
        assert all(event.attempt in (None, 1) for event in events)


async def test_a_backup_is_restored_under_its_own_cluster(
    stage: Stage, restored: Restart, ledger_url: str, postgres_server: PostgresServer
) -> None:
    stage.kubelet.script = lambda pod: None
    uids = {name: (await stage.apply(name, CHAIN))["metadata"]["uid"] for name in ("going", "over")}
    await until_running(stage, *uids)
    dump = await postgres_server.dump(ledger_url)
    # After the backup one run ends, and another run starts its second step.
    stage.kubelet.script = lambda pod: (
        None
        if pod["metadata"]["labels"]["perdure.dev/step"] == "second" and _is_of(pod, "going")
        else (0, "")
    )
    await stage.until_complete("over", within=WITHIN)

    async def second() -> bool:
        return any("going-second" in name for name in stage.kubelet.uids)

    await until(second, within=WITHIN)
    before = await stage.status("over")
    url = await restored(dump)

    async with Ledger(url, pool_size=2) as ledger:
        phase, reason, _ = await ended(ledger, uids["over"])
        assert (phase, reason) == (Phase.CANCELLED, Reason.DELETED)
        assert await stage.status("over") == before
        stage.kubelet.script = lambda pod: (0, "")
        await stage.until_complete("going", within=WITHIN)
        phase, _, events = await ended(ledger, uids["going"])
        assert phase is Phase.SUCCEEDED
        # The second pod of the task was created before the backup was restored.
        assert all(event.attempt in (None, 1) for event in events)
    assert all(len(found) == 1 for found in stage.kubelet.uids.values()), stage.kubelet.uids


def _is_of(pod: dict[str, Any], name: str) -> bool:
    return bool(pod["metadata"]["labels"]["perdure.dev/workflow"] == name)
