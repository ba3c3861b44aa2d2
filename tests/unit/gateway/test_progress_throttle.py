"""Throttle of progress events, which never loses the newest report."""

from __future__ import annotations

from tests.unit.gateway.conftest import RunningGateway

from perdure.domain.records import LedgerUnavailable


async def test_the_first_report_is_an_event_at_once_and_the_newest_follows(gateway: RunningGateway) -> None:
    for percent in range(1, 21):
        reply = await gateway.call("POST", "/progress", json={"percent": percent})
        assert reply.status == 202
    assert gateway.ledger.progressed[0] == (1, None)
    await gateway.ledger.until(lambda: gateway.ledger.progressed[-1][0] == 20)
    assert len(gateway.ledger.progressed) < 20
    # Reports without an event of their own were heartbeats.
    assert gateway.ledger.heartbeats > 0


async def test_held_reports_are_merged(gateway: RunningGateway) -> None:
    await gateway.call("POST", "/progress", json={"percent": 1})
    await gateway.call("POST", "/progress", json={"percent": 2, "message": "two"})
    await gateway.call("POST", "/progress", json={"percent": 3})
    await gateway.ledger.until(lambda: gateway.ledger.progressed[-1][0] == 3)
    assert gateway.ledger.progressed[-1] in [(3, "two"), (3, None)]
    assert "two" in [message for _, message in gateway.ledger.progressed]


async def test_a_held_report_of_a_superseded_attempt_is_answered_409(gateway: RunningGateway) -> None:
    await gateway.call("POST", "/progress", json={"percent": 1})
    gateway.ledger.close()
    reply = await gateway.call("POST", "/progress", json={"percent": 2})
    assert reply.kind == "superseded"
    assert gateway.ledger.progressed == [(1, None)]


async def test_a_stop_writes_held_reports(gateway: RunningGateway) -> None:
    await gateway.call("POST", "/progress", json={"percent": 1})
    await gateway.call("POST", "/progress", json={"percent": 2})
    gateway.stop.set()
    await gateway.ledger.until(lambda: len(gateway.ledger.progressed) == 2)
    assert gateway.ledger.progressed == [(1, None), (2, None)]


async def test_a_held_report_survives_an_unavailable_ledger(gateway: RunningGateway) -> None:
    await gateway.call("POST", "/progress", json={"percent": 1})
    await gateway.call("POST", "/progress", json={"percent": 2})
    gateway.ledger.error = LedgerUnavailable("away")
    assert (await gateway.call("POST", "/progress", json={"percent": 3})).kind == "ledger-unavailable"
    gateway.ledger.error = None
    await gateway.ledger.until(lambda: gateway.ledger.progressed[-1][0] == 3)
