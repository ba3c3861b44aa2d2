"""The connection to NATS against a server that says little: what a real one does not do on demand."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator

import pytest

from perdure.bus.connection import Bus
from perdure.bus.errors import BusUnavailable

INFO = {"server_id": "stub", "version": "2.12.0", "headers": True, "max_payload": 1 << 20}


class Stub:
    """Greets and answers pings, nothing else; so many connections as `curt` it closes without a greeting."""

    def __init__(self) -> None:
        self.curt = 0
        self.hung_up = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self.curt:
                self.curt -= 1
                self.hung_up += 1
                return
            writer.write(f"INFO {json.dumps(INFO)}\r\n".encode())
            while line := await reader.readline():
                if line == b"PING\r\n":
                    writer.write(b"PONG\r\n")
        except ConnectionError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.close()


@pytest.fixture
async def stub(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Stub, str]]:
    monkeypatch.setattr("perdure.bus.connection.RECONNECT_WAIT", 0.01)
    stub = Stub()
    server = await asyncio.start_server(stub.serve, "127.0.0.1", 0)
    async with server:
        yield stub, f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_server_that_dies_before_its_greeting_leaves_no_open_socket(stub: tuple[Stub, str]) -> None:
    """The warning about a socket that is left open fails a test."""
    server, url = stub
    async with asyncio.timeout(20), Bus(url, name="test") as bus:
        await bus.connect(timeout=10)
        server.curt = 3
        server.hang_up()
        with pytest.raises(BusUnavailable, match="lost"):
            await bus.unless_lost(asyncio.Event().wait())
        await bus.connect(timeout=10)
        assert bus.generation == 2
    assert server.hung_up == 3
    gc.collect()


async def test_what_was_under_way_when_the_connection_was_lost_leaves_no_error_behind(
    stub: tuple[Stub, str],
) -> None:
    server, url = stub
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["message"]))
    async with asyncio.timeout(20), Bus(url, name="test") as bus:
        await bus.connect(timeout=10)
        never = asyncio.Event()
        work = asyncio.gather(never.wait(), never.wait(), return_exceptions=True)
        server.hang_up()
        with pytest.raises(BusUnavailable, match="lost"):
            await bus.unless_lost(work)
    del work
    gc.collect()
    assert reported == []
