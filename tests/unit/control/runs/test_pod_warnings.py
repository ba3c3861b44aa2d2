"""Warning Events about pods that do not start: for which they are read, how often, and what is kept."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.unit.control.loop_fixture import NAMESPACE, A, ControlLoopFixture, played

from perdure.control.runs.pod_warnings import (
    BURST,
    LONGEST_INTERVAL,
    MAX_TEXT,
    READ_SECONDS,
    READS,
    REFILL,
    SILENCE,
    PodWarnings,
    newest_warning,
)
from perdure.control.status.compute import task_status
from perdure.domain.engine.deadlines import overdue_outcome
from perdure.domain.records import TaskKey
from perdure.kube.errors import ApiError

CREATING = {"waiting": {"reason": "ContainerCreating"}}
SECRET = 'MountVolume.SetUp failed for volume "creds" : secret "feed-credentials" not found'


class Stage(ControlLoopFixture):
    """A run whose pods do not start, and the Events about them."""

    def __init__(self, *steps: dict[str, Any], **fields: Any) -> None:
        super().__init__(*(steps or ({"name": "a", "pendingTimeout": "10s"},)), **fields)
        self.reads: list[str] = []
        self.error: ApiError | None = None
        self.seconds = 0.0
        self.warnings = PodWarnings(store=self.store, kube=self.cluster)
        actual = self.cluster.warnings

        async def recorded(namespace: str, uid: str) -> list[dict[str, Any]]:
            self.reads.append(uid)
            await asyncio.sleep(self.seconds)
            if self.error is not None:
                raise self.error
            return await actual(namespace, uid)

        self.cluster.warnings = recorded  # type: ignore[method-assign]

    async def wait_for_pods(self) -> None:
        await self.ensure()
        await asyncio.sleep(1)
        for pod in self.names("Pod"):
            self.set_pod(pod, CREATING, "Pending")
        await asyncio.sleep(1)

    def warn(self, uid: str, reason: str = "FailedMount", note: str = SECRET, **fields: Any) -> None:
        self.cluster.add(
            "Event",
            NAMESPACE,
            {
                "metadata": {"name": f"e{len(self.cluster.all('Event'))}"},
                "type": "Warning",
                "regarding": {"uid": uid},
                "reason": reason,
                "note": note,
                "eventTime": "2024-05-01T12:00:00.000000Z",
                **fields,
            },
        )

    async def refresh(self, seconds: float) -> datetime | None:
        return await self.warnings.refresh(self.live, self.history.now + timedelta(seconds=seconds))

    @property
    def pod_uid(self) -> str:
        return str(self.only("Pod")["metadata"]["uid"])


def test_a_silent_pods_event_is_its_cause() -> None:
    async def scenario() -> None:
        stage = Stage()
        await stage.wait_for_pods()
        stage.warn(stage.pod_uid)
        assert await stage.refresh(2.9) == stage.history.now + SILENCE
        assert stage.reads == []
        await stage.refresh(3)
        text = f"FailedMount: {SECRET}"
        assert (stage.reads, stage.live.objects.warnings) == ([stage.pod_uid], {A: (1, text)})
        assert stage.live.published.changed == {A}
        pod = stage.store.of(stage.live.key).pods[stage.attempt().pod_name]
        status = task_status(stage.live, A, pod, {}, stage.history.now)
        assert (status["reason"], status["message"]) == ("Starting", text)
        observed = await stage.observe()
        step = stage.live.view.plan.steps["a"]
        later = stage.history.now + timedelta(minutes=1)
        outcome = overdue_outcome(step, stage.attempt(), pod, observed, later)
        assert outcome is not None
        assert outcome.message == f"did not start within 10s: Starting: {text}"

    played(scenario())


@pytest.mark.parametrize(
    "state",
    [
        {"waiting": {"reason": "ErrImagePull", "message": "no such image"}},
        {"waiting": {"reason": "CreateContainerConfigError", "message": 'configmap "c" not found'}},
        {"running": {"startedAt": "2024-05-01T12:00:00Z"}},
    ],
)
def test_a_pod_that_says_why_has_no_events_read(state: Mapping[str, Any]) -> None:
    async def scenario() -> None:
        stage = Stage()
        await stage.wait_for_pods()
        stage.set_pod(stage.only("Pod")["metadata"]["name"], dict(state), "Pending")
        await asyncio.sleep(1)
        assert await stage.refresh(60) is None
        assert stage.reads == []

    played(scenario())


def test_events_are_read_at_longer_and_longer_intervals() -> None:
    async def scenario() -> None:
        stage = Stage()
        await stage.wait_for_pods()
        at = 3.0
        intervals = []
        for _ in range(8):
            due = await stage.refresh(at)
            assert due is not None
            intervals.append((due - stage.history.now).total_seconds() - at)
            at += intervals[-1]
        assert intervals == [3, 6, 12, 24, 48, 60, 60, 60]
        assert intervals[-1] == LONGEST_INTERVAL.total_seconds()
        assert len(stage.reads) == 8
        assert stage.live.objects.warnings == {}

    played(scenario())


def test_a_cause_is_dropped_when_the_pod_says_another() -> None:
    async def scenario() -> None:
        stage = Stage()
        await stage.wait_for_pods()
        stage.warn(stage.pod_uid)
        await stage.refresh(3)
        stage.set_pod(
            stage.only("Pod")["metadata"]["name"], {"waiting": {"reason": "ErrImagePull"}}, "Pending"
        )
        await asyncio.sleep(1)
        stage.live.agenda.full_pass = True
        observed = await stage.observe()
        stage.warnings.note_pods(stage.live, observed.pods, stage.history.now)
        assert stage.live.objects.warnings == {}

    played(scenario())


def test_a_pod_that_falls_silent_later_has_its_events_read() -> None:
    async def scenario() -> None:
        stage = Stage()
        await stage.wait_for_pods()
        name = stage.only("Pod")["metadata"]["name"]
        stage.set_pod(name, {"waiting": {"reason": "ErrImagePull"}}, "Pending")
        await asyncio.sleep(1)
        assert await stage.refresh(30) is None
        stage.set_pod(name, CREATING, "Pending")
        await asyncio.sleep(1)
        stage.live.agenda.full_pass = True
        observed = await stage.observe()
        now = stage.history.now + timedelta(seconds=40)
        stage.warnings.note_pods(stage.live, observed.pods, now)
        assert await stage.warnings.refresh(stage.live, now) == now + SILENCE
        await stage.warnings.refresh(stage.live, now + SILENCE)
        assert len(stage.reads) == 1

    played(scenario())


def test_the_reads_of_a_namespace_are_bounded() -> None:
    async def scenario() -> None:
        stage = Stage({"name": "a", "agent": {"image": "i"}, "forEach": list(range(60))})
        await stage.wait_for_pods()
        first = await stage.refresh(3)
        assert len(stage.reads) == READS
        assert first == stage.history.now + timedelta(seconds=3) + REFILL
        for _ in range(10):
            await stage.refresh(3)
        assert len(stage.reads) == BURST
        await stage.refresh(3 + REFILL.total_seconds() * 4)
        assert len(stage.reads) == BURST + 4
        assert len(set(stage.reads)) == len(stage.reads), "each has its turn"

    played(scenario())


def test_a_read_that_fails_or_hangs_holds_up_nothing() -> None:
    async def scenario() -> None:
        stage = Stage()
        await stage.wait_for_pods()
        stage.error = ApiError(403, "Forbidden", "no role")
        assert await stage.refresh(3) == stage.history.now + timedelta(seconds=6)
        stage.error, stage.seconds = None, 60.0
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await stage.refresh(6)
        assert loop.time() - begun <= READ_SECONDS + 0.1
        assert (len(stage.reads), stage.live.objects.warnings) == (2, {})

    played(scenario())


def test_a_gate_that_a_pod_has_from_its_creation_on_is_named() -> None:
    """The answer to the create has the metadata alone, and no event follows while the gate holds."""

    async def scenario() -> None:
        stage = Stage()
        stage.receives_events = False
        await stage.ensure()
        pod = stage.cluster.stored("Pod", stage.attempt().pod_name, NAMESPACE)
        assert pod is not None
        gate = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "held"}
        # The version is that of the create: a webhook may have gated the pod before.
        pod["status"] = {"phase": "Pending", "conditions": [gate]}
        await stage.refresh(3)
        facts = stage.store.of(stage.live.key).pods[stage.attempt().pod_name]
        status = task_status(stage.live, A, facts, {}, stage.history.now)
        assert status["message"] == "SchedulingGated: held"
        assert A in stage.live.published.changed
        assert await stage.refresh(60) is None

    played(scenario())


def test_a_job_without_a_pod_has_its_own_events_read() -> None:
    async def scenario() -> None:
        stage = Stage({"name": "a", "agent": {"image": "i", "executor": "Job"}})
        stage.cluster.jobs_get_pods = False
        await stage.ensure()
        job = stage.only("Job")["metadata"]
        stage.warn(job["uid"], "FailedCreate", "exceeded quota: few")
        await stage.refresh(3)
        assert stage.reads == [job["uid"]]
        status = task_status(stage.live, A, None, {}, stage.history.now)
        assert status["message"] == "FailedCreate: exceeded quota: few"

    played(scenario())


def test_open_attempts_are_found_after_a_restart() -> None:
    async def scenario() -> None:
        stage = Stage()
        await stage.wait_for_pods()
        stage.restart()
        stage.warnings = PodWarnings(store=stage.store, kube=stage.cluster)
        await stage.refresh(3)
        assert stage.reads == [stage.pod_uid]

    played(scenario())


def test_the_next_attempt_begins_without_the_cause_of_the_last() -> None:
    async def scenario() -> None:
        stage = Stage()
        await stage.wait_for_pods()
        stage.warn(stage.pod_uid)
        await stage.refresh(3)
        attempt = replace(stage.attempt(), number=2, pod_uid=None)
        observed = await stage.observe()
        assert observed.warning(A, attempt.number) is None
        stage.live.view.attempts[A] = replace(stage.attempt(), closed_at=stage.history.now)
        assert await stage.refresh(4) is None
        assert (stage.live.objects.warnings, stage.live.objects.reads) == ({}, {})

    played(scenario())


@pytest.mark.parametrize(
    ("events", "wanted"),
    [
        ([], None),
        ([{"reason": "A", "note": "b\n  c"}], "A: b c"),
        ([{"message": "core"}], "core"),
        (
            [
                {"reason": "Old", "eventTime": "2024-05-01T12:00:00.5Z"},
                {
                    "reason": "New",
                    "eventTime": "2024-05-01T11:00:00.5Z",
                    "series": {"lastObservedTime": "2024-05-01T12:00:09.1Z"},
                },
                {"reason": "Older", "deprecatedLastTimestamp": "2024-05-01T11:59:00Z", "eventTime": None},
            ],
            "New",
        ),
        (
            [
                {"reason": "Legacy", "eventTime": None, "deprecatedLastTimestamp": "2024-05-01T12:01:00Z"},
                {"reason": "Other", "metadata": {"creationTimestamp": "2024-05-01T12:00:00Z"}},
            ],
            "Legacy",
        ),
    ],
)
def test_the_newest_event_counts(events: list[dict[str, Any]], wanted: str | None) -> None:
    assert newest_warning(events) == wanted


@pytest.mark.parametrize("beyond", [0, 1])
def test_the_text_of_an_event_is_bounded(beyond: int) -> None:
    text = newest_warning([{"reason": "R", "note": "x" * (MAX_TEXT - 3 + beyond)}])
    assert text is not None
    assert (len(text), text.endswith("…")) == (MAX_TEXT, bool(beyond))


def test_child_workflows_have_no_events_read() -> None:
    async def scenario() -> None:
        stage = Stage({"name": "a", "workflow": {"templateRef": "audits"}})
        await stage.ensure()
        assert await stage.refresh(60) is None
        assert TaskKey("a") in stage.live.view.open
        assert stage.reads == []

    played(scenario())
