"""Streamed responses against a server that is simulated: back-pressure, deadlines, stop, and their ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from perdure.gateway.http.limits import Limits
from perdure.gateway.http.streaming import EventStream, Stream, StreamedResponse, Transfer, event

PATIENT = Limits()
END = {"type": "http.response.body", "body": b""}


@dataclass
class Connection:
    """The server's side of one request. The client accepts messages while `accepting` is set."""

    #: Messages after which the client stops to accept.
    patience: int | None = None
    sent: list[dict[str, Any]] = field(default_factory=list)
    accepting: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    #: Sends that the client has not accepted yet.
    blocked: int = 0

    def __post_init__(self) -> None:
        self.accepting.set()

    async def send(self, message: Any) -> None:
        self.blocked += 1
        await self.notify()
        await self.accepting.wait()
        self.blocked -= 1
        self.sent.append(dict(message))
        if len(self.sent) == self.patience:
            self.accepting.clear()
        await self.notify()

    async def receive(self) -> Any:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(condition)

    async def stream(self, response: StreamedResponse, limits: Limits = PATIENT, method: str = "GET") -> None:
        scope = {"type": "http", "method": method}
        async with asyncio.timeout(10) as guard:
            try:
                await response.stream(scope, self.receive, self.send, limits=limits, stop=self.stop)
            finally:
                # The guard's own TimeoutError must not pass for the response's.
                assert not guard.expired(), "the response does not end"

    @property
    def body(self) -> list[bytes]:
        return [message["body"] for message in self.sent if message.get("more_body")]


@dataclass
class Producer:
    """`count` chunks, then silence or the end."""

    count: int
    silent: bool = True
    taken: int = 0
    closed: bool = False

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            for number in range(self.count):
                self.taken = number + 1
                yield b"%d" % number
            if self.silent:
                await asyncio.Event().wait()
        finally:
            self.closed = True


def plain(producer: Producer) -> Stream:
    return Stream(producer.chunks, media_type="text/plain")


async def test_a_stream_ends_with_its_producer() -> None:
    connection, producer = Connection(), Producer(3, silent=False)
    await connection.stream(plain(producer))
    assert connection.body == [b"0", b"1", b"2"]
    assert connection.sent[-1] == END
    assert producer.closed


async def test_a_producer_is_no_faster_than_its_client() -> None:
    connection, producer = Connection(), Producer(1000, silent=False)
    async with asyncio.TaskGroup() as group:
        group.create_task(connection.stream(plain(producer)))
        await connection.until(lambda: producer.taken == 10)
        connection.accepting.clear()
        await connection.until(lambda: connection.blocked == 1)
        taken = producer.taken
        for _ in range(100):
            await asyncio.sleep(0)
        assert producer.taken == taken < 1000
        connection.accepting.set()
    assert len(connection.body) == 1000


async def test_a_client_that_does_not_read_is_given_up() -> None:
    connection, producer = Connection(patience=2), Producer(5)
    with pytest.raises(TimeoutError):
        await connection.stream(plain(producer), Limits(body_time=0.01))
    assert connection.body == [b"0"]
    assert producer.taken == 2
    assert END not in connection.sent
    assert producer.closed


@pytest.mark.parametrize(
    ("accepted", "method"), [(0, "GET"), (1, "GET"), (2, "GET"), (0, "HEAD"), (1, "HEAD")]
)
async def test_a_client_that_does_not_read_the_start_or_the_end_is_given_up(
    accepted: int, method: str
) -> None:
    """The server may hold back any message until the client has read what was sent before."""
    connection, producer = Connection(patience=accepted), Producer(1, silent=False)
    if not accepted:
        connection.accepting.clear()
    with pytest.raises(TimeoutError):
        await connection.stream(plain(producer), Limits(body_time=0.01), method)
    assert len(connection.sent) == accepted
    assert producer.closed == (producer.taken == 1)


async def test_a_client_that_leaves_closes_the_producer() -> None:
    connection, producer = Connection(), Producer(1)
    async with asyncio.TaskGroup() as group:
        group.create_task(connection.stream(plain(producer)))
        await connection.until(lambda: connection.body == [b"0"])
        connection.gone.set()
    assert producer.closed
    assert END not in connection.sent


@pytest.mark.parametrize("count", [1, 10**9], ids=["silent", "busy"])
async def test_a_stop_ends_a_stream_after_a_whole_chunk(count: int) -> None:
    connection, producer = Connection(), Producer(count)
    async with asyncio.TaskGroup() as group:
        group.create_task(connection.stream(plain(producer)))
        await connection.until(lambda: len(connection.body) >= 1)
        connection.stop.set()
    assert connection.sent[-1] == END
    assert connection.body == [b"%d" % number for number in range(producer.taken)]
    assert producer.closed


@pytest.mark.parametrize("count", [0, 10**9], ids=["silent", "busy"])
async def test_a_stream_ends_in_order_at_its_deadline(count: int) -> None:
    connection, producer = Connection(), Producer(count)
    await connection.stream(plain(producer), Limits(stream_time=0.02))
    assert connection.sent[-1] == END
    assert producer.closed


async def test_a_silent_event_stream_is_kept_alive_with_comments() -> None:
    connection, producer = Connection(), Producer(0)
    async with asyncio.TaskGroup() as group:
        group.create_task(connection.stream(EventStream(producer.chunks), Limits(stream_idle=0.01)))
        await connection.until(lambda: connection.body == [b":\n\n"] * 2)
        connection.gone.set()
    assert producer.closed


async def test_an_error_of_the_producer_leaves_the_body_without_its_end() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"first"
        raise ValueError("broken")

    connection = Connection()
    with pytest.raises(ValueError, match="broken"):
        await connection.stream(Stream(chunks, media_type="text/plain"))
    assert connection.body == [b"first"]
    assert END not in connection.sent


async def test_a_cancelled_request_closes_the_producer() -> None:
    connection, producer = Connection(), Producer(1)
    request = asyncio.create_task(connection.stream(plain(producer)))
    await connection.until(lambda: connection.body == [b"0"])
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert producer.closed


async def test_head_starts_no_producer() -> None:
    connection, producer = Connection(), Producer(1)
    await connection.stream(plain(producer), method="HEAD")
    assert [message["type"] for message in connection.sent] == ["http.response.start", "http.response.body"]
    assert producer.taken == 0


async def test_a_transfer_outlasts_a_stop() -> None:
    connection, producer = Connection(), Producer(3, silent=False)
    connection.stop.set()
    await connection.stream(Transfer(producer.chunks, size=3, headers={}))
    assert connection.body == [b"0", b"1", b"2"]
    assert connection.sent[-1] == END


def test_an_event_has_its_fields_in_order() -> None:
    assert event({"a": "x\ny"}) == b'data: {"a":"x\\ny"}\n\n'
    assert event([1], name="n", number="7") == b"id: 7\nevent: n\ndata: [1]\n\n"
