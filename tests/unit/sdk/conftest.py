from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from perdure_agent import Environment, Options, Retries, testing


@pytest.fixture
async def gateway() -> AsyncIterator[testing.Gateway]:
    async with testing.Gateway(
        input={"files": ["a.py"]}, workflow="audit", step="analyse", index=0
    ) as opened:
        yield opened


@pytest.fixture
async def environment(gateway: testing.Gateway) -> AsyncIterator[Environment]:
    """An attempt that talks to the gateway over HTTP, on loopback."""
    async with gateway.serve() as variables:
        yield replace(Environment.read(variables), attempt=2)


@pytest.fixture
def options() -> Options:
    """Patient, with short delays, since time is real over HTTP."""
    return Options(retries=Retries(patience=20, first_delay=0.001, longest_delay=0.01), heartbeat_interval=30)
