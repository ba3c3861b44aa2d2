"""The least rate of a large body: over the last seconds, not in all."""

from __future__ import annotations

import asyncio

import pytest

from perdure.gateway.http.limits import Limits
from perdure.gateway.http.problems import HttpProblem, Problem
from perdure.gateway.http.request_body import Body

#: 1,000 bytes in each tenth of a second; the time of the whole body is not what ends it.
LIMITS = Limits(rate_time=0.1, least_rate=10_000, body_time=600)


def body(*pieces: tuple[float, bytes], then: float | None = None) -> Body:
    """A body whose pieces arrive after their pauses; `then` repeats single bytes with that pause."""
    left = list(pieces)

    async def receive() -> dict[str, object]:
        if not left and then is None:
            return {"type": "http.request", "body": b"", "more_body": False}
        pause, piece = left[0] if left else (then or 0, b"x")
        await asyncio.sleep(pause)
        # A receive that is cancelled takes nothing, as uvicorn's.
        del left[:1]
        return {"type": "http.request", "body": piece, "more_body": True}

    return Body({b"content-length": b"100000"}, receive, limits=LIMITS)  # type: ignore[arg-type]


async def read(found: Body) -> int:
    return sum([len(piece) async for piece in found.pieces(100_000, what="checkpoint")])


async def test_a_client_that_sends_single_bytes_loses_its_place() -> None:
    with pytest.raises(Problem) as caught:
        await read(body((0, b"x" * 50_000), then=0.01))
    assert caught.value.kind is HttpProblem.TOO_SLOW


async def test_a_client_that_stops_loses_its_place() -> None:
    with pytest.raises(Problem) as caught:
        await read(body((0, b"x" * 99_000), (3600, b"x")))
    assert caught.value.kind is HttpProblem.TOO_SLOW


async def test_a_client_at_the_least_rate_keeps_it() -> None:
    assert await read(body(*((0.04, b"x" * 1500) for _ in range(8)))) == 12_000
