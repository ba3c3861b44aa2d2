"""One pass over a schedule: what it does to the cluster, and what it writes to the status."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from tests.fakes.apiserver import NAMESPACE
from tests.fakes.clock import START, now, run
from tests.fakes.cluster import Cluster
from tests.fakes.schedules import KIND, edit, schedule

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.cluster_cache.store import Store
from perdure.control.schedules import LONGEST_WAIT, REFUSED_RETRY, ScheduleReconciler
from perdure.domain.schedules.schedule import run_name
from perdure.kube.errors import ApiError
from perdure.steps.schema import MODELS

KEY = RunKey(KIND, NAMESPACE, "often")
SPEC = {"steps": [{"name": "only", "agent": {"image": "agent"}}]}


class ScheduleFixture:
    """A schedule `often`, applied at the start of time, with its store and reconciler."""

    def __init__(self, **fields: Any) -> None:
        self.cluster = Cluster()
        self.calls: list[str] = []
        for verb in ("create", "patch", "patch_status", "delete"):
            self._count(verb)
        self.start()
        self.uid = self.cluster.add(KIND, NAMESPACE, schedule("often", SPEC, **fields))["metadata"]["uid"]

    def _count(self, verb: str) -> None:
        call = getattr(self.cluster, verb)

        async def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(verb)
            return await call(*args, **kwargs)

        setattr(self.cluster, verb, counted)

    def start(self) -> None:
        """Restart the operator."""
        self.store = Store()
        self.woken: list[RunKey] = []
        self.reconciler = ScheduleReconciler(
            store=self.store,
            kube=self.cluster,
            clock=now,
            wake=self.woken.append,
            models=MODELS,
        )
        for kind in ("Workflow", KIND):
            for obj in self.cluster.all(kind):
                self.store.apply(kind, obj)

        def handle(kind: str, obj: Mapping[str, Any], deleted: bool) -> None:
            metadata = obj["metadata"]
            if deleted:
                self.store.remove(kind, metadata["namespace"], metadata["name"], uid=metadata["uid"])
            else:
                self.store.apply(kind, obj)

        self.cluster.watch(handle)

    async def reconcile(self, seconds: float | None = None) -> float | None:
        """One pass, so many seconds after the start of time, after all events have been received."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.1 if seconds is None else seconds - loop.time())
        return await self.reconciler.reconcile(KEY)

    def finish(self, name: str, phase: str = "Succeeded") -> None:
        obj = self.cluster.stored("Workflow", name)
        assert obj is not None
        status = {
            "phase": phase,
            "finishedAt": now().strftime("%Y-%m-%dT%H:%M:%SZ"),
            "conditions": [{"type": "Complete" if phase == "Succeeded" else "Failed", "status": "True"}],
        }
        self.cluster.set_status("Workflow", NAMESPACE, name, obj["metadata"]["uid"], status)

    @property
    def runs(self) -> list[str]:
        return sorted(obj["metadata"]["name"] for obj in self.cluster.all("Workflow"))

    @property
    def status(self) -> dict[str, Any]:
        found = self.cluster.stored(KIND, "often")
        assert found is not None
        status: dict[str, Any] = found.get("status") or {}
        return status

    def condition(self, type: str) -> tuple[str, str]:
        found = next(item for item in self.status["conditions"] if item["type"] == type)
        return found["status"], found["reason"]


def named(minute: int) -> str:
    """The run of a minute after the start of time."""
    return run_name("often", START + timedelta(minutes=minute))


def test_a_run_is_created_at_its_time_and_listed_in_the_status() -> None:
    async def play() -> None:
        metadata = {"labels": {"team": "a", "perdure.dev/schedule": "x"}, "annotations": {"note": "b"}}
        at = ScheduleFixture(workflow={"metadata": metadata, "spec": SPEC})
        delay = await at.reconcile()
        assert delay is not None and 59 < delay < 60
        assert at.runs == []
        assert at.status["nextScheduleTime"] == "2026-01-01T00:01:00Z"
        assert at.condition("Ready") == ("True", "Scheduled")
        assert at.condition("Accepted")[0] == "True"
        assert "lastScheduleTime" not in at.status
        await at.reconcile(61)
        assert at.runs == [named(1)]
        made = at.cluster.stored("Workflow", named(1))
        assert made is not None
        assert made["spec"] == SPEC
        assert made["metadata"]["labels"] == {
            "team": "a",
            "app.kubernetes.io/managed-by": "perdure",
            "perdure.dev/schedule": "often",
        }
        assert made["metadata"]["annotations"] == {
            "note": "b",
            "perdure.dev/scheduled-time": "2026-01-01T00:01:00Z",
        }
        (owner,) = made["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == (KIND, at.uid, True)
        assert at.status["active"] == [{"name": named(1), "uid": made["metadata"]["uid"]}]
        assert at.status["lastScheduleTime"] == "2026-01-01T00:01:00Z"
        assert at.status["nextScheduleTime"] == "2026-01-01T00:02:00Z"
        assert at.status["observedGeneration"] == 1

    run(play())


def test_a_pass_that_changes_nothing_writes_nothing() -> None:
    async def play() -> None:
        at = ScheduleFixture()
        await at.reconcile(61)
        at.calls.clear()
        await at.reconcile()
        at.start()
        await at.reconcile()
        assert at.calls == []

    run(play())


def test_a_pass_follows_at_the_latest_after_the_longest_wait() -> None:
    async def play() -> None:
        at = ScheduleFixture(schedule="@yearly")
        assert await at.reconcile() == LONGEST_WAIT

    run(play())


@pytest.mark.parametrize("before", [True, False])
def test_a_creation_that_failed_is_repeated_under_the_same_name(before: bool) -> None:
    async def play() -> None:
        at = ScheduleFixture()
        await at.reconcile()
        create = at.cluster.create

        async def failing(*args: Any) -> dict[str, Any]:
            if not before:
                await create(*args)
            raise ApiError(0, "", "no answer")

        at.cluster.create = failing  # type: ignore[method-assign]
        with pytest.raises(ApiError):
            await at.reconcile(61)
        assert at.status["nextScheduleTime"] == "2026-01-01T00:01:00Z"
        at.cluster.create = create  # type: ignore[method-assign]
        at.start()
        await at.reconcile(100)
        assert at.runs == [named(1)]
        assert at.status["lastScheduleTime"] == "2026-01-01T00:01:00Z"

    run(play())


def test_a_run_of_an_interrupted_pass_is_adopted() -> None:
    async def play() -> None:
        at = ScheduleFixture()
        await at.reconcile()
        at.cluster.watch(None)
        made = at.cluster.add(
            "Workflow",
            NAMESPACE,
            {
                "metadata": {
                    "name": named(1),
                    "ownerReferences": [
                        {"apiVersion": "perdure.dev/v1alpha1", "kind": KIND, "name": "often", "uid": at.uid,
                         "controller": True}
                    ],
                },
                "spec": SPEC,
            },
        )  # fmt: skip
        await at.reconcile(61)
        assert at.status["active"] == [{"name": named(1), "uid": made["metadata"]["uid"]}]
        assert at.condition("Ready") == ("True", "Scheduled")

    run(play())


def test_a_workflow_of_the_same_name_and_another_owner_is_reported_and_left_alone() -> None:
    async def play() -> None:
        at = ScheduleFixture(schedule="1 * * * *")
        foreign = at.cluster.add("Workflow", NAMESPACE, {"metadata": {"name": named(1)}, "spec": {}})
        await at.reconcile()
        delay = await at.reconcile(61)
        assert delay == REFUSED_RETRY
        assert at.condition("Ready") == ("False", "NameConflict")
        assert at.condition("Stalled") == ("True", "NameConflict")
        assert named(1) in at.status["message"]
        assert at.status["nextScheduleTime"] == "2026-01-01T00:01:00Z", "it is still to be made"
        assert at.cluster.stored("Workflow", named(1))["metadata"]["uid"] == foreign["metadata"]["uid"]  # type: ignore[index]
        at.cluster.remove("Workflow", NAMESPACE, named(1))
        await at.reconcile()
        assert at.condition("Ready") == ("True", "Scheduled")
        assert at.status["active"][0]["name"] == named(1)
        assert "message" not in at.status

    run(play())


def test_a_refused_run_is_reported_and_tried_again() -> None:
    async def play() -> None:
        at = ScheduleFixture(schedule="1 * * * *")
        await at.reconcile()
        create = at.cluster.create

        async def refusing(*args: Any) -> dict[str, Any]:
            raise ApiError(403, "Forbidden", "exceeded quota: few")

        at.cluster.create = refusing  # type: ignore[method-assign]
        assert await at.reconcile(61) == REFUSED_RETRY
        assert at.condition("Ready") == ("False", "Refused")
        assert "exceeded quota" in at.status["message"]
        at.cluster.create = create  # type: ignore[method-assign]
        await at.reconcile()
        assert at.runs == [named(1)]
        assert at.condition("Ready") == ("True", "Scheduled")

    run(play())


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"schedule": "every minute"}, "spec.schedule"),
        ({"timeZone": "Europe/Atlantis"}, "spec.timeZone"),
        ({"workflow": {"spec": {"steps": [{"name": "x", "agnet": {}}]}}}, "spec.workflow.spec.steps[0]"),
    ],
)
def test_a_schedule_that_cannot_run_says_why_and_starts_nothing(fields: dict[str, Any], says: str) -> None:
    async def play() -> None:
        at = ScheduleFixture()
        await at.reconcile(61)
        edit(at.cluster.api, "often", **fields)
        assert await at.reconcile(121) is None
        assert at.runs == [named(1)]
        for type, expected in (("Accepted", "False"), ("Ready", "False"), ("Stalled", "True")):
            assert at.condition(type) == (expected, "InvalidConfig")
        assert says in at.status["message"]
        assert at.status["observedGeneration"] == 2
        assert "nextScheduleTime" not in at.status
        assert at.status["lastScheduleTime"] == "2026-01-01T00:01:00Z"
        assert [one["name"] for one in at.status["active"]] == [named(1)]
        # Once repaired, the schedule continues with the next time.
        edit(at.cluster.api, "often", schedule="* * * * *", timeZone="UTC", workflow={"spec": SPEC})
        await at.reconcile(185)
        assert at.runs == [named(1)]
        await at.reconcile(241)
        assert at.runs == [named(1), named(4)]

    run(play())


NEVER = [
    ("unknown name", {"agent": {"image": "a"}, "input": "${steps.other.output}"}, "steps[0].input"),
    ("syntax", {"agent": {"image": "a"}, "when": "${1 +}"}, "steps[0].when"),
    ("no image", {"agent": {"args": ["a"]}}, "steps[0].agent"),
    ("dependency on itself", {"agent": {"image": "a"}, "dependsOn": ["only"]}, "steps[0].dependsOn"),
    ("items of no list", {"agent": {"image": "a"}, "forEach": "text"}, "steps[0].forEach"),
]


@pytest.mark.parametrize(("step", "says"), [pytest.param(*case[1:], id=case[0]) for case in NEVER])
def test_a_schedule_whose_runs_could_never_start_is_not_ready_when_applied(
    step: dict[str, Any], says: str
) -> None:
    """37: at once, with the cause, not at its first time."""

    async def play() -> None:
        at = ScheduleFixture(workflow={"spec": {"steps": [{"name": "only", **step}]}})
        await at.reconcile()
        for type, expected in (("Accepted", "False"), ("Ready", "False"), ("Stalled", "True")):
            assert at.condition(type) == (expected, "InvalidConfig")
        assert f"spec.workflow.spec.{says}" in at.status["message"]
        await at.reconcile(61)
        assert at.runs == []
        edit(at.cluster.api, "often", workflow={"spec": SPEC})
        await at.reconcile(62)
        assert at.condition("Ready") == ("True", "Scheduled")
        await at.reconcile(121)
        assert at.runs == [named(2)]

    run(play())


@pytest.mark.parametrize("kind", ["AgentTemplate", "WorkflowTemplate"])
def test_a_schedule_is_not_ready_while_a_template_is_faulty(kind: str) -> None:
    """37: a template that is missing may come, one with a fault keeps every run from starting."""

    async def play() -> None:
        agents = kind == "AgentTemplate"
        spec = (
            {"steps": [{"name": "only", "agent": {"templateRef": "t"}}]} if agents else {"templateRef": "t"}
        )
        at = ScheduleFixture(workflow={"spec": spec})
        await at.reconcile()
        assert at.condition("Ready") == ("True", "Scheduled")
        good: dict[str, Any] = {"image": "agent"} if agents else SPEC
        bad: dict[str, Any] = {"image": "agent", "args": ["${1 +}"]} if agents else {"steps": []}

        def apply(template: dict[str, Any], version: int) -> None:
            metadata = {"name": "t", "namespace": NAMESPACE, "uid": "t", "resourceVersion": str(version)}
            at.store.apply(kind, {"metadata": metadata, "spec": template})

        apply(bad, 1)
        assert await at.reconcile() == REFUSED_RETRY
        assert at.condition("Ready") == ("False", "InvalidConfig")
        assert at.status["message"].startswith(f"{kind} t: spec.")
        apply(good, 2)
        await at.reconcile()
        assert at.condition("Ready") == ("True", "Scheduled")

    run(play())


def test_a_suspended_schedule_says_so() -> None:
    async def play() -> None:
        at = ScheduleFixture(suspend=True)
        assert await at.reconcile(61) is None
        assert at.runs == []
        assert at.condition("Ready") == ("True", "Suspended")
        assert "nextScheduleTime" not in at.status
        edit(at.cluster.api, "often", suspend=False)
        await at.reconcile(125)
        assert at.runs == [], "what came while it was suspended is left out"
        assert at.status["nextScheduleTime"] == "2026-01-01T00:03:00Z"

    run(play())


def test_replace_cancels_the_live_run_and_no_new_one_of_its_name() -> None:
    async def play() -> None:
        at = ScheduleFixture(concurrencyPolicy="Replace")
        await at.reconcile(61)
        await at.reconcile(121)
        assert at.runs == [named(1), named(2)]
        assert at.cluster.stored("Workflow", named(1))["spec"]["desiredState"] == "Cancelled"  # type: ignore[index]
        assert "desiredState" not in at.cluster.stored("Workflow", named(2))["spec"]  # type: ignore[index]
        # The second run is deleted and one of its name created; the events are not delivered.
        at.cluster.watch(None)
        at.cluster.remove("Workflow", NAMESPACE, named(2))
        at.cluster.add("Workflow", NAMESPACE, {"metadata": {"name": named(2)}, "spec": {}})
        at.cluster.remove("Workflow", NAMESPACE, named(1))
        await at.reconcile(181)
        assert at.cluster.stored("Workflow", named(2))["spec"] == {}  # type: ignore[index]
        assert named(3) in at.runs

    run(play())


def test_forbid_leaves_a_run_out_and_says_so_until_the_next() -> None:
    async def play() -> None:
        at = ScheduleFixture(concurrencyPolicy="Forbid")
        await at.reconcile(61)
        await at.reconcile(121)
        assert at.runs == [named(1)]
        assert "Forbid" in at.status["message"] and named(1) in at.status["message"]
        assert at.condition("Ready") == ("True", "Scheduled")
        assert at.status["lastScheduleTime"] == "2026-01-01T00:01:00Z"
        at.finish(named(1))
        await at.reconcile(150)
        assert "Forbid" in at.status["message"]
        await at.reconcile(181)
        assert at.runs == [named(1), named(3)]
        assert "message" not in at.status

    run(play())


def test_a_created_run_is_known_before_its_event_arrives() -> None:
    async def play() -> None:
        at = ScheduleFixture(concurrencyPolicy="Forbid")
        await at.reconcile()
        at.cluster.watch(None)
        await at.reconcile(61)
        assert at.woken == [RunKey("Workflow", NAMESPACE, named(1))], "its event will carry nothing new"
        await at.reconcile(121)
        assert at.runs == [named(1)]

    run(play())


def test_a_workflow_with_the_name_of_a_deleted_run_stays() -> None:
    async def play() -> None:
        at = ScheduleFixture(successfulHistoryLimit=0, schedule="1 * * * *")
        await at.reconcile(61)
        at.finish(named(1))
        await asyncio.sleep(0.1)
        at.cluster.watch(None)
        at.cluster.remove("Workflow", NAMESPACE, named(1))
        at.cluster.add("Workflow", NAMESPACE, {"metadata": {"name": named(1)}, "spec": {}})
        await at.reconcile()
        assert at.calls.count("delete") == 1
        assert at.runs == [named(1)]

    run(play())


def test_a_run_that_ended_before_the_status_listed_it_counts_as_a_success() -> None:
    async def play() -> None:
        at = ScheduleFixture()
        await at.reconcile()
        patch_status = at.cluster.patch_status

        async def failing(*args: Any) -> dict[str, Any]:
            raise ApiError(0, "", "no answer")

        at.cluster.patch_status = failing  # type: ignore[method-assign]
        with pytest.raises(ApiError):
            await at.reconcile(61)
        at.cluster.patch_status = patch_status  # type: ignore[method-assign]
        at.finish(named(1))
        at.start()
        await at.reconcile(70)
        assert at.status["lastSuccessfulTime"] == "2026-01-01T00:01:01Z"
        assert at.status["lastScheduleTime"] == "2026-01-01T00:01:00Z"
        assert at.runs == [named(1)]

    run(play())


def test_finished_runs_are_kept_as_long_as_history_allows() -> None:
    async def play() -> None:
        at = ScheduleFixture(successfulHistoryLimit=1, failedHistoryLimit=0)
        for minute in range(1, 5):
            await at.reconcile(60 * minute + 1)
            at.finish(named(minute), "Failed" if minute == 3 else "Succeeded")
            await at.reconcile()
        assert at.runs == [named(4)]
        assert at.status["lastSuccessfulTime"] == "2026-01-01T00:04:01Z"
        assert "active" not in at.status

    run(play())


def test_a_finished_and_deleted_run_is_not_created_again() -> None:
    async def play() -> None:
        at = ScheduleFixture(successfulHistoryLimit=0)
        await at.reconcile(61)
        at.finish(named(1))
        await at.reconcile()
        assert at.runs == []
        at.start()
        await at.reconcile()
        assert at.runs == []
        assert at.calls.count("create") == 1

    run(play())


def test_a_success_between_two_lives_is_noticed() -> None:
    async def play() -> None:
        at = ScheduleFixture()
        await at.reconcile(61)
        at.cluster.watch(None)
        at.finish(named(1))
        at.start()
        await at.reconcile(70)
        assert at.status["lastSuccessfulTime"] == "2026-01-01T00:01:01Z"

    run(play())


def test_a_leader_that_was_deposed_does_not_turn_the_memory_back() -> None:
    async def play() -> None:
        at = ScheduleFixture(successfulHistoryLimit=0)
        await at.reconcile()
        deposed, patch_status = at.reconciler, at.cluster.patch_status

        async def slow(*args: Any) -> dict[str, Any]:
            # While it hangs, another leader goes on.
            at.cluster.patch_status = patch_status  # type: ignore[method-assign]
            at.start()
            await at.reconcile(121)
            return await patch_status(*args)

        at.cluster.patch_status = slow  # type: ignore[method-assign]
        await asyncio.sleep(60 - asyncio.get_running_loop().time())
        with pytest.raises(ApiError):
            await deposed.reconcile(KEY)
        assert at.status["lastScheduleTime"] == "2026-01-01T00:02:00Z"

    run(play())


def test_a_schedule_that_is_being_deleted_makes_nothing() -> None:
    async def play() -> None:
        at = ScheduleFixture()
        await at.reconcile()
        obj = dict(at.store.schedules[KEY])
        obj["metadata"] = {**obj["metadata"], "deletionTimestamp": "2026-01-01T00:00:30Z"}
        at.store.schedules[KEY] = obj
        assert await at.reconcile(61) is None
        assert at.runs == []
        del at.store.schedules[KEY]
        assert await at.reconcile() is None

    run(play())


def test_a_schedule_deleted_in_the_middle_of_a_pass_is_no_error() -> None:
    async def play() -> None:
        at = ScheduleFixture()
        await asyncio.sleep(1)
        at.cluster.watch(None)
        at.cluster.remove(KIND, NAMESPACE, "often")
        assert await at.reconcile(61) is not None

    run(play())
