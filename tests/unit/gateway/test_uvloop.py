"""The gateway's connections under uvloop, which the product runs on and pytest does not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop
from tests.unit.gateway.test_connection_limits import (
    DEFAULT,
    GET,
    Server,
    closed,
    running,
    status,
    with_headers,
)

from perdure.gateway.http.limits import MIB


def under_uvloop(play: Callable[[Server], Awaitable[None]]) -> None:
    async def main() -> None:
        async with running(DEFAULT) as server, asyncio.timeout(30):
            await play(server)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_probes_and_requests_are_answered() -> None:
    async def play(server: Server) -> None:
        assert await server.health() == 200
        reader, writer = await server.connect()
        for _ in range(3):
            writer.write(GET)
            head = await reader.readuntil(b"\r\n\r\n")
            assert status(head) == 200
            assert await reader.readexactly(5) == b"hello"

    under_uvloop(play)


@pytest.mark.parametrize("size", [1, 64 * 1024, 64 * 1024 + 1, 3 * MIB])
def test_a_body_arrives_whole(size: int) -> None:
    async def play(server: Server) -> None:
        head = f"POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n"
        reader, writer = await server.connect()
        writer.write(head.encode() + b"x" * size)
        answer = await closed(reader)
        assert (status(answer), answer.rpartition(b"\r\n\r\n")[2]) == (200, str(size).encode())

    under_uvloop(play)


def test_the_limits_of_a_head_hold() -> None:
    async def play(server: Server) -> None:
        assert status(await server.exchange(with_headers(DEFAULT.head))) == 200
        assert status(await server.exchange(with_headers(DEFAULT.head + 1))) == 431
        assert status(await server.exchange(b"GET /" + b"a" * MIB)) == 414
        # Refused, and the rest is dropped.
        assert status(await server.exchange(b"nonsense\r\n\r\n" + b"x" * MIB)) == 400

    under_uvloop(play)
