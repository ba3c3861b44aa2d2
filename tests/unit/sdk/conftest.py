from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.sdk.misbehaving import MisbehavingGateway, running

from perdure_agent import Environment, Options, Retries


@pytest.fixture
async def gateway() -> AsyncIterator[MisbehavingGateway]:
    double = MisbehavingGateway()
    async with running(double):
        yield double


@pytest.fixture
def environment(gateway: MisbehavingGateway, tmp_path: Path) -> Environment:
    token = tmp_path / "token"
    token.write_text("first\n")
    given = tmp_path / "input.json"
    given.write_text('{"files": ["a.py"]}')
    return Environment(
        gateway_url=gateway.url,
        task="audit-analyse-0-abcde",
        step="analyse",
        attempt=2,
        input_file=given,
        token_file=token,
        termination_log=tmp_path / "termination-log",
    )


@pytest.fixture
def options() -> Options:
    """Patient, but quick about it."""
    return Options(retries=Retries(patience=20, first_delay=0.001, longest_delay=0.01), heartbeat_interval=30)
