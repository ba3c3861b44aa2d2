"""Schedules against a real API server. Times are in the past: a missed run is created at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from perdure.api.status import timestamp
from perdure.domain.schedules.schedule import run_name
from tests.integration.operator.conftest import Stage
from tests.support.waiting import until

KIND = "WorkflowSchedule"
#: Seconds for anything to come about, the start of an operator on a busy machine included.
WITHIN = 120.0
RUN = {"steps": [{"name": "only", "agent": {"image": "agent"}}]}


def hours_ago(number: int) -> datetime:
    """A full hour; no test lasts so long that another comes."""
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=number)


def daily_at(time: datetime) -> str:
    return f"0 {time.hour} * * *"


async def looked_at(stage: Stage, name: str, generation: int) -> None:
    async def seen() -> bool:
        return (await stage.status(name, kind=KIND)).get("observedGeneration") == generation

    await until(seen, within=WITHIN)


async def miss(stage: Stage, name: str, time: datetime) -> None:
    """Let the schedule believe that it has not dealt with this time."""
    body = {"status": {"nextScheduleTime": timestamp(time)}}
    await stage.kube.patch_status(KIND, stage.namespace, name, body)


async def until_noted(stage: Stage, name: str, time: datetime) -> dict[str, Any]:
    async def noted() -> dict[str, Any] | None:
        status = await stage.status(name, kind=KIND)
        return status if status.get("lastScheduleTime") == timestamp(time) else None

    found: dict[str, Any] | None = await until(noted, within=WITHIN)
    assert found is not None
    return found


async def test_a_missed_run_is_created_once_though_the_operator_is_killed(stage: Stage) -> None:
    time = hours_ago(2)
    spec = {"schedule": daily_at(time), "successfulHistoryLimit": 1, "workflow": {"spec": RUN}}
    made = await stage.apply("nightly", spec, kind=KIND)
    await looked_at(stage, "nightly", 1)
    await stage.operator.kill()
    await miss(stage, "nightly", time)
    await stage.operator.start()
    name = run_name("nightly", time)
    await until_noted(stage, "nightly", time)
    await stage.until_complete(name, within=WITHIN)

    async def success_noted() -> bool:
        status = await stage.status("nightly", kind=KIND)
        return "lastSuccessfulTime" in status and "active" not in status

    await until(success_noted, within=WITHIN)
    run = await stage.kube.get("Workflow", stage.namespace, name)
    (owner,) = run["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"]) == (made["metadata"]["uid"], True)
    assert len(stage.kubelet.uids) == 1
    assert await stage.condition("nightly", "Ready", kind=KIND) == "True"


async def test_replace_cancels_a_run_and_the_history_limit_deletes_runs(stage: Stage) -> None:
    stage.kubelet.script = lambda pod: None
    first, second = hours_ago(3), hours_ago(2)
    spec = {
        "schedule": daily_at(first),
        "concurrencyPolicy": "Replace",
        "failedHistoryLimit": 0,
        "workflow": {"spec": RUN},
    }
    await stage.apply("newest", spec, kind=KIND)
    await looked_at(stage, "newest", 1)
    await miss(stage, "newest", first)
    status = await until_noted(stage, "newest", first)
    assert [run["name"] for run in status["active"]] == [run_name("newest", first)]
    await stage.kube.patch(KIND, stage.namespace, "newest", {"spec": {"schedule": daily_at(second)}})
    await looked_at(stage, "newest", 2)
    await miss(stage, "newest", second)
    await until_noted(stage, "newest", second)

    async def only_the_newest() -> bool:
        runs, _ = await stage.kube.list("Workflow", namespace=stage.namespace)
        return [run["metadata"]["name"] for run in runs] == [run_name("newest", second)]

    # The first is cancelled, which is an end, and of such runs none is to be kept.
    await until(only_the_newest, within=WITHIN)


async def test_a_schedule_that_cannot_run_says_why(stage: Stage) -> None:
    spec = {
        "schedule": "@daily",
        "workflow": {"spec": {"steps": [{"name": "only", "agent": {"image": "agent"}, "retyr": {}}]}},
    }
    await stage.apply("typo", spec, kind=KIND)
    await looked_at(stage, "typo", 1)
    status = await stage.status("typo", kind=KIND)
    assert await stage.condition("typo", "Ready", kind=KIND) == "False"
    assert "spec.workflow.spec.steps[0].retyr" in status["message"]
    assert "nextScheduleTime" not in status
