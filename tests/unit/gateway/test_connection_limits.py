"""Attacks on connections before authentication: each one ends, and health is answered meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import orjson
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from tests.support.loop_watch import watch_loop
from tests.support.waiting import until

from perdure.gateway.http.limits import KIB, MIB, Limits
from perdure.gateway.http.server import open_listener, serve_app

#: Short times, so that a test waits for each of them.
QUICK = Limits(head_time=0.3, keep_alive=0.4, write_time=0.3, drain=1)
#: Sizes and counts as in the product, and times that no test waits for.
DEFAULT = Limits(drain=1)
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Server:
    """A server on loopback, and raw connections to it."""

    def __init__(self, port: int) -> None:
        self.port = port
        #: Requests that wait for this event before they are answered.
        self.gate = asyncio.Event()
        self.entered = 0
        self._opened: list[asyncio.StreamWriter] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._opened.append(writer)
        return reader, writer

    async def exchange(self, *pieces: bytes) -> bytes:
        """All that the server answers to these bytes until it closes the connection."""
        reader, writer = await self.connect()
        # Read from the start: a reset that follows the answer would make the stream forget it.
        answer = asyncio.create_task(closed(reader))
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
        return await answer

    async def health(self) -> int:
        """Status of a probe on a connection of its own."""
        reader, writer = await self.connect()
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = await closed(reader)
        return int(answer.split(b" ", 2)[1])

    def close(self) -> None:
        for writer in self._opened:
            writer.transport.abort()


async def closed(reader: asyncio.StreamReader) -> bytes:
    """The rest of a connection that the server ends, in order or by a reset."""
    read = b""
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(64 * KIB):
                read += piece
    return read


@asynccontextmanager
async def running(limits: Limits) -> AsyncIterator[Server]:
    listener = open_listener("127.0.0.1", 0)
    server = Server(listener.getsockname()[1])
    stop = asyncio.Event()

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def root(_: Request) -> Response:
        return PlainTextResponse("hello")

    async def gated(request: Request) -> Response:
        server.entered += 1
        await server.gate.wait()
        return PlainTextResponse("done")

    async def large(_: Request) -> Response:
        return PlainTextResponse(b"x" * 32 * MIB)

    async def echo(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    app = Starlette(
        routes=[
            Route("/healthz", health),
            Route("/", root, methods=["GET", "POST"]),
            Route("/gated", gated),
            Route("/large", large),
            Route("/echo", echo, methods=["POST"]),
        ]
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(serve_app(app, listener, stop=stop, limits=limits))
        try:
            yield server
        finally:
            server.close()
            stop.set()


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def kind(answer: bytes) -> str:
    document = orjson.loads(answer.partition(b"\r\n\r\n")[2])
    return str(document["type"].rpartition("/")[2])


# --- sizes of heads


def with_headers(size: int) -> bytes:
    """A request whose head counts `size` bytes: see `Limits.head`."""
    url, name = b"/", b"X-Padding"
    fixed = len(url) + len(b"Host") + 1 + 4 + len(name) + 4 + len(b"Connection") + len(b"close") + 4
    value = b"a" * (size - fixed)
    return b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + name + b": " + value + b"\r\n\r\n"


async def test_a_head_of_exactly_the_limit_passes_and_one_byte_more_is_refused() -> None:
    async with running(DEFAULT) as server:
        assert status(await server.exchange(with_headers(DEFAULT.head))) == 200
        answer = await server.exchange(with_headers(DEFAULT.head + 1))
        assert (status(answer), kind(answer)) == (431, "head-too-large")


async def test_a_url_of_exactly_the_limit_passes_and_one_byte_more_is_refused() -> None:
    async with running(DEFAULT) as server:
        for extra, expected in ((0, 200), (1, 414)):
            url = b"/?" + b"q" * (DEFAULT.url - 2 + extra)
            request = b"GET " + url + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            assert status(await server.exchange(request)) == expected


async def test_exactly_as_many_headers_as_the_limit_pass_and_one_more_is_refused() -> None:
    async with running(DEFAULT) as server:
        for extra, expected in ((0, 200), (1, 431)):
            lines = b"".join(b"a%d: b\r\n" % number for number in range(DEFAULT.headers - 1 + extra))
            request = b"GET / HTTP/1.1\r\nConnection: close\r\n" + lines + b"\r\n"
            assert status(await server.exchange(request)) == expected


@pytest.mark.parametrize(
    ("first", "endless", "expected"),
    [
        pytest.param(b"GET / HTTP/1.1\r\n", b"a1: b\r\n" * 1000, 431, id="headers"),
        pytest.param(b"GET / HTTP/1.1\r\na: ", b"b" * 8000, 431, id="one header"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"b" * 8000, 431, id="one name of a header"),
        pytest.param(b"GET /", b"b" * 8000, 414, id="url"),
        pytest.param(b"", b"\r\n" * 4000, 431, id="empty lines"),
        pytest.param(
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n" * 900, 0, id="trailers"
        ),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0" * 9000, 400, id="http2"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", b"\0" * 9000, 400, id="tls"),
    ],
)
async def test_bytes_without_end_are_cut_off(first: bytes, endless: bytes, expected: int) -> None:
    async with running(replace(QUICK, head_time=1.0)) as server:
        server.gate.set()
        before = _memory()
        with watch_loop() as watch:
            answer = await server.exchange(first, *[endless] * 3000)
            assert await server.health() == 200
        watch.check()
        if expected:
            assert status(answer) == expected
        assert _memory() - before < 20 * MIB


async def test_a_header_that_comes_byte_by_byte_is_parsed_in_linear_time() -> None:
    async with running(DEFAULT) as server:
        reader, writer = await server.connect()
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with watch_loop() as watch:
            writer.write(b"GET / HTTP/1.1\r\na: ")
            with contextlib.suppress(ConnectionError):
                for _ in range(DEFAULT.head):
                    writer.write(b"b")
                    await asyncio.sleep(0)
                writer.write(b"b" * KIB)
            answer = await closed(reader)
        watch.check()
        assert status(answer) == 431


# --- slow clients


async def test_a_connection_that_sends_nothing_is_closed() -> None:
    async with running(QUICK) as server:
        assert await server.exchange() == b""


@pytest.mark.parametrize("begun", [b"G", b"GET / HTTP/1.1\r\nHost", b"GET / HTTP/1.1\r\nHost: a\r\n"])
async def test_a_head_that_is_not_whole_in_time_is_refused(begun: bytes) -> None:
    async with running(QUICK) as server:
        answer = await server.exchange(begun)
        assert (status(answer), kind(answer)) == (408, "head-too-slow")


async def test_single_bytes_do_not_extend_the_time_of_a_head() -> None:
    async with running(QUICK) as server:
        reader, writer = await server.connect()
        ended = asyncio.create_task(closed(reader))
        with contextlib.suppress(ConnectionError):
            while not ended.done():
                writer.write(b"\r\n")
                await asyncio.sleep(0.02)
        assert await ended == b""


async def test_the_second_head_of_a_connection_has_the_same_time() -> None:
    async with running(QUICK) as server:
        answer = await server.exchange(GET, b"GET / HTT")
        first, _, second = answer.partition(b"hello")
        assert (status(first), status(second)) == (200, 408)


async def test_an_idle_connection_is_closed_after_its_time_and_not_before() -> None:
    async with running(replace(QUICK, head_time=0.1, keep_alive=0.5)) as server:
        reader, writer = await server.connect()
        for _ in range(2):
            writer.write(GET)
            assert b"200 OK" in await reader.readuntil(b"hello")
            # Longer than a head may take, which does not count between requests.
            await asyncio.sleep(0.2)
        assert await closed(reader) == b""


async def test_a_body_that_an_answered_request_still_owes_ends_the_connection() -> None:
    async with running(DEFAULT) as server:
        reader, writer = await server.connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf")
        answer = await closed(reader)
        assert answer.endswith(b"hello")


# --- clients that do not read


async def test_a_client_that_reads_nothing_is_cut_off() -> None:
    async with running(QUICK) as server:
        reader, writer = await server.connect()
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: _established(server.port) == 0)


async def test_a_pipelining_client_that_reads_nothing_takes_no_memory() -> None:
    async with running(DEFAULT) as server:
        before = _memory()
        opened = []
        with watch_loop() as watch:
            for _ in range(20):
                reader, writer = await server.connect()
                reader._transport.pause_reading()  # type: ignore[attr-defined]
                writer.write(GET * 10_000)
                opened.append(writer)
            for _ in range(20):
                await asyncio.sleep(0.02)
                assert await server.health() == 200
        watch.check()
        # The clients of the test hold 10,000 requests each in buffers of their own.
        assert _memory() - before < 20 * len(GET) * 10_000 + 20 * MIB


# --- pipelining


async def test_two_requests_at_once_are_both_answered() -> None:
    async with running(DEFAULT) as server:
        server.gate.set()
        two = b"GET /gated HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        answer = await server.exchange(two)
        assert (answer.count(b"HTTP/1.1 200"), answer[-5:]) == (2, b"hello")


async def test_a_flood_of_pipelined_requests_gets_two_answers_and_the_end() -> None:
    async with running(DEFAULT) as server:
        reader, writer = await server.connect()
        writer.write(b"GET /gated HTTP/1.1\r\nHost: a\r\n\r\n" * 10_000)
        await until(lambda: server.entered)
        assert await server.health() == 200
        assert server.entered == 1
        server.gate.set()
        answer = await closed(reader)
        assert answer.count(b"HTTP/1.1 200") == 2
        assert server.entered == 2


async def test_a_request_with_an_upgrade_is_answered_and_ends_the_connection() -> None:
    async with running(DEFAULT) as server:
        upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        answer = await server.exchange(upgrade + GET * 1000)
        assert (status(answer), answer.count(b"HTTP/1.1")) == (200, 1)


async def test_a_body_in_chunks_of_one_byte_holds_no_callback() -> None:
    async with running(DEFAULT) as server:
        head = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        with watch_loop() as watch:
            answer = await server.exchange(head, *[b"1\r\nx\r\n" * 50_000] * 4, b"0\r\n\r\n")
        watch.check()
        assert answer.endswith(b"200000")


async def test_broken_chunks_end_the_request_with_400() -> None:
    async with running(DEFAULT) as server:
        head = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        answer = await server.exchange(head, b"zz\r\n")
        assert (status(answer), kind(answer)) == (400, "invalid-request")


# --- the number of connections


async def test_as_many_connections_as_the_limit_are_served_and_one_more_gets_health_only() -> None:
    async with running(replace(DEFAULT, connections=3, reserve=2)) as server:
        held = [await server.connect() for _ in range(3)]
        for reader, writer in held:
            writer.write(GET)
            await reader.readuntil(b"hello")
        answer = await server.exchange(GET)
        assert (status(answer), kind(answer)) == (503, "too-many-connections")
        assert b"retry-after: 1" in answer.lower()
        assert await server.health() == 200
        # A connection that ends makes room for another.
        held[0][1].close()
        await closed(held[0][0])
        last = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

        async def served() -> bool:
            return status(await server.exchange(last)) == 200

        await until(served)


async def test_one_address_has_a_share_of_the_connections() -> None:
    async with running(replace(DEFAULT, connections=100, connections_per_address=2)) as server:
        held = [await server.connect() for _ in range(2)]
        for reader, writer in held:
            writer.write(GET)
            await reader.readuntil(b"hello")
        assert status(await server.exchange(GET)) == 503
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, local_addr=("127.0.0.2", 0))
        writer.write(GET)
        assert b"200 OK" in await reader.readuntil(b"hello")
        writer.close()


async def test_probes_are_answered_while_silent_connections_flood_the_reserve() -> None:
    async with running(replace(DEFAULT, connections=4, reserve=4)) as server:
        for _ in range(10):
            for _ in range(20):
                await server.connect()
            assert await server.health() == 200


async def test_a_connection_of_the_reserve_is_closed_soon() -> None:
    async with running(replace(DEFAULT, connections=0)) as server:
        assert await server.exchange() == b""


async def test_accepted_sockets_notice_peers_that_vanish() -> None:
    with open_listener("127.0.0.1", 0) as listener:
        client = socket.create_connection(listener.getsockname())
        listener.setblocking(True)
        accepted, _ = listener.accept()
        with client, accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 60
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000


async def test_what_clients_do_wrong_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with running(QUICK) as server:
        for request in (b"\0\0\0\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"G", with_headers(40 * KIB)):
            await server.exchange(request)
    assert not [
        record for record in caplog.records if record.name.startswith("uvicorn") and record.levelno > 20
    ]


def _memory() -> int:
    """Resident bytes of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _established(port: int) -> int:
    """Connections that the server's side of `port` holds."""
    with open("/proc/net/tcp") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    return sum(1 for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01")
