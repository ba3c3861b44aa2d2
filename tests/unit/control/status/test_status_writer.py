"""When statuses are written, in which order, and what becomes of those that are refused."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from tests.fakes.clock import now, run

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.status.status_writer import LONGEST_INTERVAL, PATCHES_OF_RUN, StatusWrite, StatusWriter
from perdure.domain.records import AGENT_TASK, WORKFLOW
from perdure.kube.errors import ApiError

RUN = RunKey(WORKFLOW, "team", "audit")


class Server:
    """Takes patches, each for `seconds`; `refuse` may raise for one."""

    def __init__(self) -> None:
        self.seconds = 0.1
        self.refuse: Callable[[str], None] = lambda name: None
        self.patched: list[tuple[float, str]] = []
        self.whole: list[str] = []
        self.uid = "uid"
        self.under_way = self.most = 0

    async def patch_status(
        self, kind: str, namespace: str, name: str, body: list[dict[str, Any]], *, brief: bool
    ) -> dict[str, Any]:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(self.seconds)
        self.under_way -= 1
        self.refuse(name)
        self.patched.append((asyncio.get_running_loop().time(), name))
        if any(change["path"] == "/status" for change in body):
            self.whole.append(name)
        return {"metadata": {"uid": self.uid, "resourceVersion": str(len(self.patched))}}

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        return {"metadata": {"uid": self.uid}}

    def names(self) -> list[str]:
        return [name for _, name in self.patched]


class Source:
    """A run of which some tasks' statuses are not written yet (`dirty`)."""

    def __init__(self, tasks: int, *, phase: str = "Running") -> None:
        self.dirty = {f"t{number:03d}" for number in range(tasks)}
        self.phase = phase
        self.changes = 0
        self.ended: list[float] = []
        self.limit = 10_000

    def statuses(self, key: RunKey, at: datetime, *, patience: timedelta) -> list[StatusWrite]:
        chosen = sorted(self.dirty)[: self.limit]
        self.dirty -= set(chosen)
        self.changes += 1
        writes = [self._write(AGENT_TASK, name, partial(self.dirty.add, name)) for name in chosen]
        return [*writes, self._write(WORKFLOW, "audit", lambda: None)]

    async def complete(self, key: RunKey, writes: Sequence[StatusWrite]) -> None:
        pass

    def written(self, key: RunKey, at: datetime, *, patience: timedelta) -> float | None:
        if not self.dirty:
            self.ended.append(asyncio.get_running_loop().time())
        return 0.0 if self.dirty else None

    def _write(self, kind: str, name: str, missed: Callable[[], None]) -> StatusWrite:
        return StatusWrite(
            kind=kind,
            name=name,
            uid="uid",
            before={"phase": "Pending", "changes": 0},
            after={"phase": self.phase, "changes": self.changes},
            written=lambda: None,
            missed=missed,
        )


def written(source: Source, server: Server, *, seconds: float = 60.0) -> None:
    """Mark the run once, and let so much time pass."""

    async def main() -> None:
        writer = StatusWriter(kube=server, interval=1.0, clock=now)  # type: ignore[arg-type]
        writing = asyncio.create_task(writer.run(source))
        writer.mark(RUN)
        await asyncio.sleep(seconds)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)

    run(main())


def fails(name: str, *, status: int, times: int = 1) -> Callable[[str], None]:
    left = [times]

    def refuse(patched: str) -> None:
        if patched == name and left[0]:
            left[0] -= 1
            raise ApiError(status, "", "no")

    return refuse


def test_while_a_run_goes_on_its_own_status_comes_first() -> None:
    source, server = Source(20), Server()
    written(source, server)
    assert server.names()[0] == "audit"
    assert sorted(server.names()[1:]) == [f"t{number:03d}" for number in range(20)]
    assert len(source.ended) == 1


def test_its_last_status_comes_after_those_of_all_its_tasks() -> None:
    """After its last status the run is not reconciled again, so a task's status would never be written."""
    source, server = Source(400, phase="Succeeded"), Server()
    written(source, server)
    assert len(server.patched) == 401
    assert server.names()[-1] == "audit"


def test_its_last_status_waits_for_a_task_that_is_refused() -> None:
    source, server = Source(3, phase="Failed"), Server()
    server.refuse = fails("t001", status=500, times=2)
    written(source, server)
    assert server.names()[-1] == "audit" and server.names().count("audit") == 1
    assert {"t000", "t001", "t002"} <= set(server.names())


def test_thousands_of_tasks_do_not_keep_its_own_status_waiting() -> None:
    source, server = Source(1000), Server()
    written(source, server)
    assert not source.dirty
    own = [at for at, name in server.patched if name == "audit"]
    assert len(own) > 5
    gaps = [later - earlier for earlier, later in itertools.pairwise(own)]
    assert max(gaps) <= 1.5
    tasks = [name for name in server.names() if name != "audit"]
    assert sorted(tasks) == sorted(set(tasks)), "what was not written was not repeated either"
    assert server.most <= PATCHES_OF_RUN


def test_a_source_that_gives_a_part_at_a_time_is_asked_for_the_rest() -> None:
    source, server = Source(30), Server()
    source.limit = 10
    written(source, server)
    assert len(set(server.names())) == 31
    assert source.changes == 3


@pytest.mark.parametrize("own", [0, 1])
def test_a_source_that_keeps_the_rest_is_left_in_peace(own: int) -> None:
    class Holding(Source):
        def statuses(self, key: RunKey, at: datetime, *, patience: timedelta) -> list[StatusWrite]:
            self.changes += 1
            return [self._write(WORKFLOW, "audit", lambda: None)] * own

    source, server = Holding(3), Server()
    written(source, server)
    assert source.changes == 1 and len(server.patched) == own


def test_a_source_that_has_more_later_is_asked_then() -> None:
    """But not before it is time to write about the run again."""

    class Later(Source):
        def statuses(self, key: RunKey, at: datetime, *, patience: timedelta) -> list[StatusWrite]:
            asked.append(asyncio.get_running_loop().time())
            assert patience == timedelta(seconds=1.0)
            return super().statuses(key, at, patience=patience)

        def written(self, key: RunKey, at: datetime, *, patience: timedelta) -> float | None:
            return waits.pop(0) if waits else None

    asked: list[float] = []
    waits = [3.0, 0.2]
    source, server = Later(0), Server()
    server.seconds = 0.0
    written(source, server)
    assert [later - earlier for earlier, later in itertools.pairwise(asked)] == pytest.approx([3.0, 1.0])


@pytest.mark.parametrize(
    ("runs", "seconds", "interval"),
    [
        (1, 0.5, 1.0),
        (100, 0.005, 1.0),
        (1000, 0.005, 5.0),
        (100, 0.05, 5.0),
        (1000, 0.05, LONGEST_INTERVAL),
    ],
)
def test_many_runs_or_a_slow_server_lengthen_the_batches(runs: int, seconds: float, interval: float) -> None:
    """Each status has all changes since the last, and about one patch is under way at a time."""

    async def scenario() -> None:
        server, source = Server(), Source(0)
        server.seconds = seconds
        writer = StatusWriter(kube=server, interval=1.0, clock=now)  # type: ignore[arg-type]
        working = asyncio.create_task(writer.run(source))
        keys = [RunKey(WORKFLOW, "team", f"run-{number}") for number in range(runs)]

        async def changing(span: float) -> None:
            """Every run changes all the time."""
            for _ in range(round(span / 0.1)):
                for key in keys:
                    writer.mark(key)
                await asyncio.sleep(0.1)

        await changing(20.0)
        server.patched.clear()
        await changing(50.0)
        assert len(server.patched) == pytest.approx(runs * 50 / interval, rel=0.15)
        working.cancel()

    run(scenario())


def test_another_phase_does_not_wait() -> None:
    async def scenario() -> None:
        server, source = Server(), Source(0)
        server.seconds = 0.0
        writer = StatusWriter(kube=server, interval=5.0, clock=now)  # type: ignore[arg-type]
        working = asyncio.create_task(writer.run(source))
        writer.mark(RUN)
        await asyncio.sleep(0.5)
        writer.mark(RUN)
        await asyncio.sleep(0.5)
        assert len(server.patched) == 1
        writer.mark(RUN, urgent=True)
        await asyncio.sleep(0.1)
        assert len(server.patched) == 2
        working.cancel()

    run(scenario())


def test_what_is_refused_is_computed_and_written_again() -> None:
    source, server = Source(5), Server()
    server.refuse = fails("t002", status=500)
    written(source, server)
    assert set(server.names()) == {"audit", "t000", "t001", "t002", "t003", "t004"}
    assert source.changes == 2 and not source.dirty


def test_when_its_own_is_refused_nothing_is_lost() -> None:
    source, server = Source(5), Server()
    server.refuse = fails("audit", status=503)
    written(source, server)
    assert set(server.names()) == {"audit", "t000", "t001", "t002", "t003", "t004"}


def test_a_deleted_object_needs_no_status() -> None:
    source, server = Source(2), Server()
    server.refuse = fails("t000", status=404)
    written(source, server)
    assert "t000" not in server.names()
    assert source.changes == 1 and len(source.ended) == 1


def test_a_status_that_is_another_than_we_thought_is_written_whole() -> None:
    source, server = Source(1), Server()
    server.refuse = fails("t000", status=422)
    written(source, server)
    assert server.whole == ["t000"]


def test_a_later_object_of_the_same_name_gets_no_status() -> None:
    source, server = Source(1), Server()
    server.uid = "another"
    server.refuse = fails("t000", status=422)
    written(source, server)
    assert "t000" not in server.names() and not source.dirty
