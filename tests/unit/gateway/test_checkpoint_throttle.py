"""Checkpoint events in a loop of saves: the first at once, the newest at the end, and few in between."""

from __future__ import annotations

from tests.support.waiting import until
from tests.unit.gateway.conftest import RunningGateway
from tests.unit.gateway.memory import session

from perdure.domain.records import LedgerUnavailable, TaskKey


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
    for number in range(1, 4):
        await save(gateway)
        await until(lambda number=number: gateway.ledger.announced == list(range(1, number + 1)))
        # Two windows: `SMALL_AGENT.checkpoint_interval` is 0.05 s.
        await gateway.pause(0.12)


async def test_attempts_do_not_share_a_window(gateway: RunningGateway) -> None:
    gateway.ledger.sessions["pod-2"] = session("pod-2", key=TaskKey("analyse", 1))
    await save(gateway)
    await save(gateway, token="good-pod-2")
    assert gateway.ledger.announced == [1, 2]


async def test_an_event_that_the_ledger_could_not_take_is_written_later(gateway: RunningGateway) -> None:
    await save(gateway)
    await save(gateway)
    gateway.ledger.error = LedgerUnavailable("away")
    await gateway.pause(0.12)
    gateway.ledger.error = None
    await until(lambda: gateway.ledger.announced == [1, 2])


async def test_a_stop_writes_the_event_that_is_owed(gateway: RunningGateway) -> None:
    for _ in range(3):
        await save(gateway)
    gateway.stop.set()
    await until(lambda: gateway.ledger.announced[-1] == 3)
