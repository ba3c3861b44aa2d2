"""Checkpoint events in a loop of saves: the first at once, the newest at the end, and few in between."""

from __future__ import annotations

from datetime import UTC, datetime

from tests.support.waiting import until
from tests.unit.gateway.conftest import RunningGateway
from tests.unit.gateway.memory import MemoryLedger, session

from perdure.domain.records import LedgerUnavailable, TaskKey
from perdure.gateway.agent_api.checkpoint_throttle import CheckpointThrottle

NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def save(gateway: RunningGateway, token: str = "good-pod-1") -> None:
    assert (await gateway.call("PUT", "/checkpoints", data=b"x", token=token)).status == 201


async def test_a_loop_of_checkpoints_has_few_events_and_one_for_the_newest(gateway: RunningGateway) -> None:
    for _ in range(40):
        await save(gateway)
    await until(lambda: gateway.ledger.announced[-1] == 40)
    assert gateway.ledger.announced[0] == 1
    assert len(gateway.ledger.announced) < 40
    assert gateway.ledger.sequence == 40


async def test_checkpoints_with_time_between_them_have_an_event_each(gateway: RunningGateway) -> None:
    for number in range(1, 6):
        await save(gateway)
        await until(lambda number=number: gateway.ledger.announced == list(range(1, number + 1)))
        # Two tokens: `SMALL_AGENT.checkpoint_interval` is 0.05 s.
        await gateway.pause(0.12)


async def test_attempts_do_not_share_a_bucket(gateway: RunningGateway) -> None:
    gateway.ledger.sessions["pod-2"] = session("pod-2", key=TaskKey("analyse", 1))
    await save(gateway)
    await save(gateway, token="good-pod-2")
    assert gateway.ledger.announced == [1, 2]


async def test_an_event_that_the_ledger_could_not_take_is_written_later(gateway: RunningGateway) -> None:
    gateway.ledger.announced.clear()
    for _ in range(20):
        await save(gateway)
    gateway.ledger.error = LedgerUnavailable("away")
    before = len(gateway.ledger.announced)
    await gateway.pause(0.12)
    assert len(gateway.ledger.announced) == before
    gateway.ledger.error = None
    await until(lambda: gateway.ledger.announced[-1] == 20)


async def test_a_burst_has_an_event_each_and_one_more_waits() -> None:
    ledger = MemoryLedger()
    throttle = CheckpointThrottle(ledger, clock=lambda: NOW, interval=0.2, burst=3)
    async with throttle:
        own = session()
        assert [throttle.announces(own) for _ in range(4)] == [True, True, True, False]
        throttle.owe(own)
        assert not throttle.announces(own)
        ledger.sequence = 7
        await until(lambda: ledger.announced == [7])
        # The token of that event is the only one that came back.
        assert not throttle.announces(own)


async def test_a_stop_writes_the_event_that_is_owed(gateway: RunningGateway) -> None:
    for _ in range(3):
        await save(gateway)
    gateway.stop.set()
    await until(lambda: gateway.ledger.announced[-1] == 3)
