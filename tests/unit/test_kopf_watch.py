"""The watches by kopf: started again whatever ends them, and without kopf's own end of the process."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from itertools import islice
from typing import Any

import pytest

from perdure import kopf_watch
from perdure.kube.errors import ApiError


class Lives:
    """Stands for kopf: each life ends with the next of the given errors, the last one never."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.started = 0
        self.cancelled = 0

    async def spawn_tasks(self, **_: Any) -> Collection[asyncio.Task[None]]:
        self.started += 1
        return [asyncio.create_task(self._live()), asyncio.create_task(asyncio.sleep(3600))]

    async def _live(self) -> None:
        if self.errors:
            raise self.errors.pop(0)
        try:
            await asyncio.sleep(3600)
        finally:
            self.cancelled += 1


async def listened(lives: Lives, monkeypatch: pytest.MonkeyPatch, *served: bool | Exception) -> list[str]:
    """Listen until kopf has had a life that does not fail. Returns what happened."""
    answers = list(served)
    happened: list[str] = []
    stop = asyncio.Event()

    async def is_served(kinds: Collection[str]) -> bool:
        answer = answers.pop(0) if answers else True
        happened.append(f"served {answer}")
        if isinstance(answer, Exception):
            raise answer
        return answer

    def on_start() -> None:
        happened.append("started")
        if not lives.errors:
            asyncio.get_running_loop().call_later(0.01, stop.set)

    monkeypatch.setattr(kopf_watch.kopf, "spawn_tasks", lives.spawn_tasks)
    monkeypatch.setattr(kopf_watch, "FIRST_PAUSE", 0.0)
    # A task of this process that is younger than kopf: `kopf.operator` would cancel it.
    async with asyncio.timeout(20):
        listening = asyncio.create_task(
            kopf_watch.listen(
                lambda kind, obj, deleted: None,
                on_gap=lambda: None,
                kinds=["Workflow"],
                namespaces=["team-a"],
                served=is_served,
                stop=stop,
                on_start=on_start,
                ready=asyncio.Event(),
            )
        )
        await asyncio.sleep(0)
        younger = asyncio.create_task(asyncio.sleep(3600))
        await listening
    assert not younger.done()
    younger.cancel()
    return happened


async def test_watches_that_fail_are_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lives = Lives(ValueError("an odd event"), RuntimeError("this seems to be a framework bug"))
    happened = await listened(lives, monkeypatch)
    assert happened == ["served True", "started"] * 3
    assert (lives.started, lives.cancelled) == (3, 1)


async def test_kinds_that_are_not_served_yet_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    away = ApiError(404, "NotFound", "no such group")
    happened = await listened(Lives(), monkeypatch, away, False, True)
    assert happened == [f"served {away}", "served False", "served True", "started"]


def test_kopf_never_gives_up_a_request_and_never_kills_the_process() -> None:
    settings = kopf_watch.operator_settings()
    backoffs = list(islice(iter(settings.networking.error_backoffs), 1000))  # type: ignore[arg-type]
    assert len(backoffs) == 1000 and backoffs == sorted(backoffs) and backoffs[-1] == 30
    assert settings.process.ultimate_exiting_timeout is None


def test_a_page_of_the_largest_objects_fits_into_memory() -> None:
    """An object has up to 1.5 MB, and takes about four times that once it is decoded."""
    size = kopf_watch.operator_settings().watching.chunk_size
    assert size is not None
    assert size * 1.5 * 4 <= 300
