"""Kubernetes Events: limited, deduplicated, and never blocking their callers."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.support.waiting import until

from perdure.kube import recorder as module
from perdure.kube.errors import ApiError
from perdure.kube.recorder import EventRecorder, Regarding

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)


class Api:
    """API that keeps posts, and fails as scripted."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.failure: Exception | None = None
        self.block: asyncio.Event | None = None

    async def create(
        self, kind: str, namespace: str, body: dict[str, Any], *, brief: bool = False
    ) -> dict[str, Any]:
        assert (kind, namespace) == ("Event", body["metadata"]["namespace"])
        await self._called("create")
        name = body["metadata"]["name"]
        if name in self.events:
            raise ApiError(409, "AlreadyExists", name)
        self.events[name] = body
        return body

    async def patch(self, kind: str, namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        await self._called("patch")
        if name not in self.events:
            raise ApiError(404, "NotFound", name)
        self.events[name] = self.events[name] | body
        return self.events[name]

    async def _called(self, verb: str) -> None:
        self.calls.append(verb)
        if self.block is not None:
            await self.block.wait()
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def recorder(api: Api) -> EventRecorder:
    return EventRecorder(api, instance="operator-1")


def regarding(number: int = 0) -> Regarding:
    return Regarding.of(
        {
            "apiVersion": "perdure.dev/v1alpha1",
            "kind": "Workflow",
            "metadata": {"namespace": "team", "name": f"audit-{number}", "uid": f"uid-{number}"},
        }
    )


def record(to: EventRecorder, message: str = "it began", *, number: int = 0, after: float = 0) -> None:
    to.record(
        regarding(number),
        reason="Started",
        message=message,
        action="Start",
        now=NOW + timedelta(seconds=after),
    )


async def drain(recorder: EventRecorder) -> None:
    recorder.close()
    async with asyncio.timeout(5):
        await recorder.run()


async def test_an_event_has_the_fields_that_kubectl_shows(api: Api, recorder: EventRecorder) -> None:
    record(recorder)
    await drain(recorder)
    (event,) = api.events.values()
    assert event["metadata"]["namespace"] == "team"
    assert event["metadata"]["name"].startswith("audit-0.")
    assert event["regarding"] == {
        "apiVersion": "perdure.dev/v1alpha1",
        "kind": "Workflow",
        "namespace": "team",
        "name": "audit-0",
        "uid": "uid-0",
    }
    assert (event["type"], event["reason"], event["note"], event["action"]) == (
        "Normal",
        "Started",
        "it began",
        "Start",
    )
    assert event["eventTime"] == "2030-01-01T12:00:00.000000Z"
    assert (event["reportingController"], event["reportingInstance"]) == (
        "perdure.dev/operator",
        "operator-1",
    )
    assert "series" not in event


async def test_repeats_are_counted_and_the_count_is_written_seldom(api: Api, recorder: EventRecorder) -> None:
    for after in range(0, 700, 10):
        record(recorder, after=after)
    await drain(recorder)
    assert api.calls == ["create", "patch", "patch"]
    (event,) = api.events.values()
    assert event["series"]["count"] >= 61


async def test_a_repeat_after_a_long_silence_is_a_new_event(api: Api, recorder: EventRecorder) -> None:
    record(recorder)
    record(recorder, after=601)
    await drain(recorder)
    assert api.calls == ["create", "create"]


async def test_other_messages_and_other_objects_are_other_events(api: Api, recorder: EventRecorder) -> None:
    record(recorder, "one")
    record(recorder, "two")
    record(recorder, "two", number=1)
    await drain(recorder)
    assert len(api.events) == 3


async def test_one_object_cannot_exhaust_the_common_limit(api: Api, recorder: EventRecorder) -> None:
    for number in range(40):
        record(recorder, f"message {number}")
    record(recorder, number=1)
    record(recorder, "later", after=301)
    await drain(recorder)
    about = [event["regarding"]["name"] for event in api.events.values()]
    assert about.count("audit-0") == module.OBJECT_BURST + 1
    assert about.count("audit-1") == 1
    assert recorder.dropped == 15


async def test_objects_of_a_namespace_have_a_limit_that_leaves_room_for_others(
    api: Api, recorder: EventRecorder
) -> None:
    for number in range(150):
        record(recorder, number=number)
    quiet = Regarding(
        api_version="perdure.dev/v1alpha1", kind="Workflow", namespace="quiet", name="audit", uid="uid-quiet"
    )
    recorder.record(quiet, reason="Started", message="started", action="Start", now=NOW)
    await drain(recorder)
    assert len(api.events) == module.NAMESPACE_BURST + 1
    assert recorder.dropped == 150 - module.NAMESPACE_BURST
    posted = [event["metadata"]["namespace"] for event in api.events.values()]
    assert posted.index("quiet") <= 1, "namespaces take turns"


async def test_all_namespaces_together_have_a_limit(api: Api, recorder: EventRecorder) -> None:
    for number in range(module.GLOBAL_BURST + 1):
        about = Regarding(
            api_version="perdure.dev/v1alpha1",
            kind="Workflow",
            namespace=f"team-{number}",
            name="audit",
            uid=f"uid-{number}",
        )
        recorder.record(about, reason="Started", message="started", action="Start", now=NOW)
    await drain(recorder)
    assert (len(api.events), recorder.dropped) == (module.GLOBAL_BURST, 1)


async def test_a_record_never_waits_for_the_server(
    api: Api, recorder: EventRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUEUE_LENGTH", 3)
    api.block = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(recorder.run())
        for number in range(10):
            record(recorder, number=number)
        assert recorder.dropped == 7
        api.block.set()
        recorder.close()
    assert len(api.events) == 3


async def test_a_close_does_not_wait_for_a_server_that_does_not_answer(
    api: Api, recorder: EventRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DRAIN_SECONDS", 0.01)
    api.block = asyncio.Event()
    record(recorder)
    record(recorder, "two")
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(recorder.run())
        await until(lambda: bool(api.calls), poll=0)
        recorder.close()
    assert recorder.dropped == 1
    assert api.events == {}


@pytest.mark.parametrize("failure", [ApiError(403, "Forbidden", "no"), RuntimeError("a bug")])
async def test_a_failed_post_ends_neither_the_task_nor_later_posts(
    api: Api, recorder: EventRecorder, failure: Exception
) -> None:
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(recorder.run())
        api.failure = failure
        record(recorder)
        await until(lambda: recorder.failed > 0, poll=0)
        api.failure = None
        record(recorder, "two")
        recorder.close()
    assert [event["note"] for event in api.events.values()] == ["two"]


async def test_a_count_of_an_event_that_was_never_posted_posts_it(api: Api, recorder: EventRecorder) -> None:
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(recorder.run())
        api.failure = ApiError(503, "", "away")
        record(recorder)
        await until(lambda: recorder.failed > 0, poll=0)
        api.failure = None
        record(recorder, after=300)
        recorder.close()
    (event,) = api.events.values()
    assert event["series"]["count"] == 2


async def test_an_event_that_the_server_expired_is_created_again(api: Api, recorder: EventRecorder) -> None:
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(recorder.run())
        record(recorder)
        await until(lambda: bool(api.events), poll=0)
        api.events.clear()
        record(recorder, after=300)
        recorder.close()
    assert api.calls == ["create", "patch", "create"]
    assert len(api.events) == 1


async def test_a_conflict_after_a_lost_answer_is_no_failure(api: Api, recorder: EventRecorder) -> None:
    api.failure = ApiError(409, "AlreadyExists", "it arrived the first time")
    record(recorder)
    await drain(recorder)
    assert (recorder.posted, recorder.failed) == (1, 0)


async def test_long_messages_are_cut_at_a_character(api: Api, recorder: EventRecorder) -> None:
    record(recorder, "ü" * 1000)
    await drain(recorder)
    (event,) = api.events.values()
    assert event["note"] == "ü" * 512


async def test_a_disabled_recorder_posts_nothing(api: Api) -> None:
    recorder = EventRecorder(api, instance="operator-1", enabled=False)
    record(recorder)
    await drain(recorder)
    assert api.calls == []


async def test_a_recorder_can_be_cancelled(api: Api, recorder: EventRecorder) -> None:
    task = asyncio.create_task(recorder.run())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    recorder.close()
    recorder.close()


async def test_the_caches_are_bounded(recorder: EventRecorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 10)
    for number in range(50):
        record(recorder, number=number)
    assert len(recorder._series) == len(recorder._buckets) == 10
