"""The answers of the operator to the kubelet's probes."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
import uvloop
from hack.cluster.light import free_ports

from perdure import health
from perdure.health import MAX_FINDINGS, MAX_REQUEST, Health, serve_health


@asynccontextmanager
async def served(probes: Health) -> AsyncIterator[str]:
    (port,), stop = free_ports(1), asyncio.Event()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(serve_health("127.0.0.1", port, probes, stop=stop))
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                break
            except OSError:
                await asyncio.sleep(0.01)
        writer.close()
        yield f"http://127.0.0.1:{port}"
        stop.set()


async def asked(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


async def test_each_probe_has_its_own_answer() -> None:
    faults: list[str] = []
    probes = Health(alive=lambda: None, ready=lambda: faults[-1] if faults else None)
    async with served(probes) as url:
        assert await asked(f"{url}/readyz") == (200, "ok")
        faults.append("the watches have not started")
        assert await asked(f"{url}/readyz") == (503, "the watches have not started")
        assert await asked(f"{url}/healthz") == (200, "ok")
        assert (await asked(f"{url}/metrics"))[0] == 404


def test_probes_are_answered_under_uvloop() -> None:
    """The product runs on uvloop, whose transports are of no class of asyncio's."""

    async def play() -> None:
        async with served(Health(alive=lambda: None, ready=lambda: None)) as url:
            assert await asked(f"{url}/readyz") == (200, "ok")
            assert await asked(f"{url}/healthz") == (200, "ok")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play())


async def test_a_port_that_is_taken_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        probes = Health(alive=lambda: None, ready=lambda: None)
        with pytest.raises(OSError, match="address already in use"):
            await serve_health("127.0.0.1", taken.getsockname()[1], probes, stop=asyncio.Event())


async def test_probes_under_way_do_not_delay_the_shutdown() -> None:
    """A connection that is kept alive is closed."""
    async with served(Health(alive=lambda: None, ready=lambda: None)) as url:
        session = aiohttp.ClientSession()
        async with session.get(f"{url}/healthz") as answer:
            await answer.read()
    await session.close()


async def test_a_process_that_is_ready_says_what_it_passes_over() -> None:
    found = [f"namespace team-{number} is left out" for number in range(MAX_FINDINGS)]
    probes = Health(alive=lambda: None, ready=lambda: None, findings=lambda: found)
    async with served(probes) as url:
        assert await asked(f"{url}/readyz") == (200, "\n".join(["ok", *found]))
        found.append("one more")
        assert await asked(f"{url}/readyz") == (200, "\n".join(["ok", *found[:MAX_FINDINGS]]))
        assert await asked(f"{url}/healthz") == (200, "ok")


WELL = Health(alive=lambda: None, ready=lambda: None)


async def sent(url: str, request: bytes) -> bytes:
    """All that the server sends until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    writer.write(request)
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def test_a_request_of_the_limit_is_answered_and_a_longer_one_refused() -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: operator\r\nX: "
    filler = b"x" * (MAX_REQUEST - len(head) - 4)
    async with served(WELL) as url:
        assert (await sent(url, head + filler + b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert (await sent(url, head + filler + b"x\r\n\r\n")).startswith(b"HTTP/1.1 431 ")
        # Also without an end.
        assert (await sent(url, head + b"x" * MAX_REQUEST)).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /healthz HTTP/1.1\r\n\r\n", b"405"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
        (b"GET /healthz\r\n\r\n", b"400"),
        (b"GET /healthz?verbose HTTP/1.0\r\n\r\n", b"200"),
        # Only the first of pipelined requests is answered.
        (b"GET /healthz HTTP/1.1\r\n\r\nGET /other HTTP/1.1\r\n\r\n", b"200"),
    ],
)
async def test_one_answer_for_each_connection(request_: bytes, status: bytes) -> None:
    async with served(WELL) as url:
        answer = await sent(url, request_)
        assert answer.split(b" ")[1] == status
        assert answer.count(b"HTTP/1.1 ") == 1


async def test_a_head_request_gets_no_body() -> None:
    async with served(WELL) as url:
        answer = await sent(url, b"HEAD /healthz HTTP/1.1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\n")


async def test_a_connection_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CONNECTION_TIME", 0.05)
    async with served(WELL) as url:
        assert await sent(url, b"") == b""
        assert await sent(url, b"GET /healthz HTTP/1.1\r\nHost:") == b""


async def test_as_many_connections_as_allowed_stay_and_one_more_displaces_the_oldest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "MAX_CONNECTIONS", 3)
    async with served(WELL) as url:
        port = int(url.rpartition(":")[2])
        # The connection by which the start was noticed has ended once a request is answered.
        await asked(f"{url}/healthz")
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        ends = [asyncio.ensure_future(reader.read()) for reader, _ in idle]
        last = idle[-1][1]
        # Answered, so all three are known to the server, and none has displaced another.
        last.write(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert (await ends[2]).startswith(b"HTTP/1.1 200 ")
        assert not ends[0].done() and not ends[1].done()
        # The kubelet is served, and the third idle connection after that displaces the first one.
        assert await asked(f"{url}/readyz") == (200, "ok")
        idle += [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        (first,) = await asyncio.gather(ends[0], return_exceptions=True)
        assert first == b"" or isinstance(first, ConnectionResetError)
        assert not ends[1].done()
        for _, writer in idle:
            writer.close()
        await asyncio.gather(*ends, return_exceptions=True)
