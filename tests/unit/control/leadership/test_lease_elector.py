"""Leader election on virtual time: who leads when, and who may still write."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import pytest
from tests.fakes.clock import now
from tests.fakes.clock import run as on_virtual_time
from tests.support.waiting import until

from perdure.control.leadership.fenced_kube import FencedKube
from perdure.control.leadership.lease_elector import JITTER, Elector
from perdure.domain.records import Deposed
from perdure.kube.errors import ApiError

DURATION, DEADLINE, RETRY = 4.0, 3.0, 0.5


class Leases:
    """The API server as far as one Lease needs it. `answer` decides what becomes of a request."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0

    @property
    def holder(self) -> str:
        return "" if self.lease is None else self.lease["spec"]["holderIdentity"]

    def store(self, body: dict[str, Any]) -> dict[str, Any]:
        self.version += 1
        self.lease = copy.deepcopy(body)
        self.lease["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(self.lease)


class Client:
    """One replica's way to the API server."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self.away = False
        self.hangs = False
        #: Seconds from the moment at which a write takes effect until its answer arrives.
        self.answer_delay = 0.0
        self.writes: list[tuple[str, str]] = []

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        await self._reach()
        if self._leases.lease is None:
            raise ApiError(404, "NotFound", name)
        return copy.deepcopy(self._leases.lease)

    async def create(
        self, kind: str, namespace: str, body: dict[str, Any], *, brief: bool = False
    ) -> dict[str, Any]:
        await self._reach()
        if kind != "Lease":
            self.writes.append(("create", kind))
            return body
        if self._leases.lease is not None:
            raise ApiError(409, "AlreadyExists", body["metadata"]["name"])
        return self._leases.store(body)

    async def replace(self, kind: str, namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        await self._reach()
        there = self._leases.lease
        if there is None or there["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", name)
        stored = self._leases.store(body)
        await asyncio.sleep(self.answer_delay)
        return stored

    async def _reach(self) -> None:
        await asyncio.sleep(0.001)
        if self.hangs:
            await asyncio.sleep(10**6)
        if self.away:
            raise ApiError(0, "", "connection refused")


class Left(BaseException):
    """The process is gone."""


def leave() -> NoReturn:
    raise Left


class Replica:
    """An operator: notes from when to when it led."""

    def __init__(self, name: str, leases: Leases, *, stubborn: bool = False) -> None:
        self.client = Client(leases)
        self.elector = Elector(
            kube=self.client,  # type: ignore[arg-type] # what an elector needs of it
            namespace="perdure-system",
            name="lease",
            identity=name,
            duration=DURATION,
            renew_deadline=DEADLINE,
            retry=RETRY,
            clock=now,
            elapsed=lambda: self.skew + asyncio.get_running_loop().time(),
            leave=leave,
            on_not_elected=self._note_following,
        )
        #: How often `on_not_elected` was called.
        self.followed = 0
        #: What this replica's clock is ahead by; only differences on one clock may count.
        self.skew = 0.0
        self.guarded = FencedKube(self.client, self.elector.lease_held)  # type: ignore[arg-type]
        self.stop = asyncio.Event()
        self.led: list[tuple[float, float]] = []
        self.fails: Exception | None = None
        self.ends = asyncio.Event()
        self._stubborn = stubborn
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.task = asyncio.create_task(self.elector.run(self._lead, self.stop))

    def _note_following(self) -> None:
        self.followed += 1

    async def _lead(self) -> None:
        began = time()
        try:
            if self.fails is not None:
                raise self.fails
            await self.ends.wait()
        except asyncio.CancelledError:
            if self._stubborn:
                await asyncio.sleep(10**6)
            raise
        finally:
            self.led.append((began, time()))


Result = TypeVar("Result")


def run(scenario: Callable[[], Awaitable[Result]]) -> Result:
    """Play a scenario, and let what is left of its tasks end."""

    async def whole() -> Result:
        try:
            return await scenario()
        finally:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left, timeout=60)

    return on_virtual_time(whole())


def time() -> float:
    return asyncio.get_running_loop().time()


async def seconds_until(condition: Callable[[], bool], *, within: float = 60.0) -> float:
    """Wait in virtual time. Returns how long it took."""
    began = time()
    await until(condition, within=within)
    return time() - began


def test_times_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="lease_retry < lease_renew_deadline < lease_duration"):
        Elector(
            kube=Client(Leases()),  # type: ignore[arg-type]
            namespace="n",
            name="l",
            identity="a",
            duration=3,
            renew_deadline=3,
            retry=1,
            clock=now,
        )


def test_one_of_two_leads_and_the_lease_names_it() -> None:
    async def scenario() -> None:
        leases = Leases()
        first, second = Replica("a", leases), Replica("b", leases)
        second.skew = 5000.0
        first.start()
        await seconds_until(lambda: first.elector.leading)
        second.start()
        await asyncio.sleep(60)
        assert (first.elector.leading, second.elector.leading) == (True, False)
        assert leases.lease is not None
        spec = leases.lease["spec"]
        assert (spec["holderIdentity"], spec["leaseDurationSeconds"], spec["leaseTransitions"]) == ("a", 4, 1)

    run(scenario)


def test_the_lease_is_given_back_at_once() -> None:
    async def scenario() -> None:
        leases = Leases()
        first, second = Replica("a", leases), Replica("b", leases)
        first.start()
        await seconds_until(lambda: first.elector.leading)
        second.start()
        await asyncio.sleep(10)
        first.stop.set()
        assert await seconds_until(lambda: leases.holder == "") < 0.1
        assert await seconds_until(lambda: second.elector.leading) <= RETRY * (1 + JITTER) + 0.1
        assert first.task is not None
        await first.task
        assert leases.lease is not None
        assert leases.lease["spec"]["leaseTransitions"] == 2

    run(scenario)


def test_a_renewal_on_its_way_does_not_keep_the_lease_from_being_given_back() -> None:
    async def scenario() -> None:
        leases = Leases()
        first = Replica("a", leases)
        first.start()
        await seconds_until(lambda: first.elector.leading)
        first.client.answer_delay = 0.2
        version = leases.version
        # Stopped between the renewal's effect and its answer.
        await seconds_until(lambda: leases.version > version)
        first.stop.set()
        assert first.task is not None
        await first.task
        assert leases.holder == ""

    run(scenario)


@pytest.mark.parametrize("fault", ["away", "hangs"])
def test_one_that_cannot_renew_stops_before_another_can_lead(fault: str) -> None:
    async def scenario() -> None:
        leases = Leases()
        first, second = Replica("a", leases), Replica("b", leases)
        first.start()
        await seconds_until(lambda: first.elector.leading)
        second.start()
        await asyncio.sleep(10.3)
        setattr(first.client, fault, True)
        lost = time()
        await seconds_until(lambda: second.elector.leading)
        assert not first.elector.leading
        ((_, stopped),) = first.led
        assert stopped <= lost + DEADLINE
        began = time()
        assert stopped < began
        assert began - lost <= DURATION + RETRY * (1 + JITTER)
        setattr(first.client, fault, False)
        await asyncio.sleep(10)
        assert len(first.led) == 1

    run(scenario)


def test_a_slow_answer_does_not_prolong_the_lease() -> None:
    """Others count from the moment at which a renewal took effect, so we count from before it."""

    async def scenario() -> None:
        leases = Leases()
        first = Replica("a", leases)
        first.start()
        await seconds_until(lambda: first.elector.leading)
        first.client.answer_delay = 1.4
        version = leases.version
        await seconds_until(lambda: leases.version > version)
        first.client.away = True
        renewed = time()
        await seconds_until(lambda: not first.elector.lease_held())
        assert time() <= renewed + DEADLINE + 0.02

    run(scenario)


def test_a_thawed_leader_writes_nothing() -> None:
    async def scenario() -> None:
        leases = Leases()
        first, second = Replica("a", leases), Replica("b", leases)
        first.start()
        await seconds_until(lambda: first.elector.leading)
        await first.guarded.create("Pod", "team", {})
        second.start()
        await asyncio.sleep(5)
        # Frozen: its clock goes on, and nothing else of it.
        first.skew += 60
        with pytest.raises(Deposed):
            await first.guarded.create("Pod", "team", {})
        for verb, arguments in (
            ("replace", ("Pod", "team", "x", {})),
            ("patch", ("Pod", "team", "x", {})),
            ("patch_status", ("Pod", "team", "x", {})),
            ("delete", ("Pod", "team", "x")),
        ):
            with pytest.raises(Deposed):
                await getattr(first.guarded, verb)(*arguments)
        assert first.client.writes == [("create", "Pod")]
        await first.guarded.get("Lease", "team", "lease")
        # It notices by itself, and its workers end.
        assert await seconds_until(lambda: len(first.led) == 1) <= RETRY + 0.1

    run(scenario)


def test_a_follower_writes_nothing() -> None:
    async def scenario() -> None:
        replica = Replica("a", Leases())
        with pytest.raises(Deposed):
            await replica.guarded.create("Pod", "team", {})
        assert replica.client.writes == []

    run(scenario)


def test_on_not_elected_is_called_for_a_follower_at_once_and_never_for_a_leader() -> None:
    async def scenario() -> None:
        leases = Leases()
        first, second, third = Replica("a", leases), Replica("b", leases), Replica("c", leases)
        third.client.away = True
        first.start()
        await seconds_until(lambda: first.elector.leading)
        second.start()
        third.start()
        assert await seconds_until(lambda: bool(second.followed and third.followed)) < 0.1
        assert first.followed == 0

    run(scenario)


@pytest.mark.parametrize("cause", ["stop", "lost"])
def test_workers_that_do_not_stop_end_the_process(cause: str) -> None:
    async def scenario() -> float:
        replica = Replica("a", Leases(), stubborn=True)
        replica.start()
        await seconds_until(lambda: replica.elector.leading)
        began = time()
        if cause == "stop":
            replica.stop.set()
        else:
            replica.client.away = True
        assert replica.task is not None
        await asyncio.wait((replica.task,))
        assert isinstance(replica.task.exception(), Left)
        return time() - began

    seconds = run(scenario)
    assert seconds <= (DURATION - DEADLINE if cause == "stop" else DURATION) + 0.01


def test_what_workers_raise_is_raised() -> None:
    async def scenario() -> None:
        leases = Leases()
        replica = Replica("a", leases)
        replica.fails = RuntimeError("a fault of ours")
        replica.start()
        assert replica.task is not None
        with pytest.raises(RuntimeError, match="a fault of ours"):
            await replica.task
        assert leases.holder == ""

    run(scenario)


def test_a_leader_that_was_fenced_gives_way() -> None:
    """`lead` returns when the ledger says that another has taken the epoch."""

    async def scenario() -> None:
        leases = Leases()
        first, second = Replica("a", leases), Replica("b", leases)
        first.start()
        await seconds_until(lambda: first.elector.leading)
        second.start()
        await asyncio.sleep(5)
        first.ends.set()
        assert await seconds_until(lambda: leases.holder == "") < 0.1
        first.ends.clear()
        assert await seconds_until(lambda: leases.holder != "") <= RETRY * (1 + JITTER) + 0.1

    run(scenario)
