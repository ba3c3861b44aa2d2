"""The answers of the operator to the kubelet's probes."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from hack.cluster.light import free_ports

from perdure.health import MAX_FINDINGS, Health, serve_health


@asynccontextmanager
async def served(health: Health) -> AsyncIterator[str]:
    (port,), stop = free_ports(1), asyncio.Event()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(serve_health("127.0.0.1", port, health, stop=stop))
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
    health = Health(alive=lambda: None, ready=lambda: faults[-1] if faults else None)
    async with served(health) as url:
        assert await asked(f"{url}/readyz") == (200, "ok")
        faults.append("the watches have not started")
        assert await asked(f"{url}/readyz") == (503, "the watches have not started")
        assert await asked(f"{url}/healthz") == (200, "ok")
        assert (await asked(f"{url}/metrics"))[0] == 404


async def test_a_port_that_is_taken_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        health = Health(alive=lambda: None, ready=lambda: None)
        with pytest.raises(OSError, match="address already in use"):
            await serve_health("127.0.0.1", taken.getsockname()[1], health, stop=asyncio.Event())


async def test_probes_under_way_do_not_delay_the_shutdown() -> None:
    """A connection that is kept alive is closed."""
    async with served(Health(alive=lambda: None, ready=lambda: None)) as url:
        session = aiohttp.ClientSession()
        async with session.get(f"{url}/healthz") as answer:
            await answer.read()
    await session.close()


async def test_a_process_that_is_ready_says_what_it_passes_over() -> None:
    found = [f"namespace team-{number} is left out" for number in range(MAX_FINDINGS)]
    health = Health(alive=lambda: None, ready=lambda: None, findings=lambda: found)
    async with served(health) as url:
        assert await asked(f"{url}/readyz") == (200, "\n".join(["ok", *found]))
        found.append("one more")
        assert await asked(f"{url}/readyz") == (200, "\n".join(["ok", *found[:MAX_FINDINGS]]))
        assert await asked(f"{url}/healthz") == (200, "ok")
