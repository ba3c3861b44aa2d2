"""A ledger on a fresh database."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from perdure.ledger import Ledger


@pytest.fixture
async def ledger(ledger_url: str) -> AsyncIterator[Ledger]:
    async with Ledger(ledger_url) as opened:
        yield opened


@pytest.fixture
async def epoch(ledger: Ledger) -> int:
    return await ledger.take_epoch("operator-a")
