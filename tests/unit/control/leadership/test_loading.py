"""The load of live runs at the start of a term: pages, slots, runs that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tests.fakes.clock import run as on_virtual_time
from tests.unit.control.lives import Live

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.cluster_cache.store import Store
from perdure.control.leadership import loading
from perdure.control.leadership.loading import PAGE_BYTES, PAGE_RETRY, PAGE_RUNS, Loader, pages
from perdure.control.passed_over import PassedOver
from perdure.domain.records import Deposed, LedgerUnavailable, LiveEntry, LivePage, RunState


def entry(name: str, *, size: int = 1, open: int = 0) -> LiveEntry:
    return LiveEntry(uid=f"uid-{name}", kind="Workflow", namespace="team", name=name, open=open, size=size)


def key(name: str) -> RunKey:
    return RunKey("Workflow", "team", name)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([PAGE_BYTES], [1]),
        ([PAGE_BYTES + 1], [1]),
        ([1, PAGE_BYTES - 1], [2]),
        ([1, PAGE_BYTES], [1, 1]),
        ([1, 10 * PAGE_BYTES, 1, 1], [1, 1, 2]),
        ([1] * PAGE_RUNS, [PAGE_RUNS]),
        ([1] * (PAGE_RUNS + 1), [PAGE_RUNS, 1]),
    ],
)
def test_a_page_is_bounded_in_runs_and_bytes(sizes: list[int], expected: list[int]) -> None:
    index = [entry(str(number), size=size) for number, size in enumerate(sizes)]
    found = list(pages(index))
    assert [len(page) for page in found] == expected
    assert [one for page in found for one in page] == index


class Stage:
    """A loader with the index of a ledger; `answers` are what `load_page` does, one after the other."""

    def __init__(self, *names: str) -> None:
        self.index = [entry(name) for name in names]
        self.answers: list[LivePage | Exception] = []
        self.asked: list[list[str]] = []
        self.restored: list[RunState] = []
        self.expected: list[LiveEntry] = []
        self.queue: list[RunKey] = []
        self.by_key: dict[RunKey, Any] = {}
        self.passed_over = PassedOver()
        store = Store()
        self.loader = Loader(
            store=store,
            ledger=self,  # type: ignore[arg-type] # only what a loader calls
            runs=self,  # type: ignore[arg-type]
            enqueue=self.queue.append,
            passed_over=self.passed_over,
        )

    async def live_index(self) -> list[LiveEntry]:
        return self.index

    async def load_page(self, uids: Sequence[str]) -> LivePage:
        self.asked.append(list(uids))
        answer = self.answers.pop(0) if self.answers else LivePage(states=(), unreadable={})
        if isinstance(answer, Exception):
            raise answer
        return answer

    def expect(self, index: Sequence[LiveEntry]) -> None:
        self.expected += index

    def restore(self, states: Sequence[RunState]) -> None:
        self.restored += states


def test_the_first_page_is_enqueued_before_the_next_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "PAGE_RUNS", 1)

    async def main() -> None:
        stage = Stage("a", "b")
        state = RunState(run=Live().run, steps={}, tasks={}, attempts={})
        assert await stage.loader.begin() == {key("a"), key("b")}
        assert stage.expected == stage.index, "slots are held before the first decision"
        assert stage.queue == []
        stage.answers = [LivePage(states=(state,), unreadable={}), Deposed("over")]
        with pytest.raises(Deposed):
            await stage.loader.load()
        assert stage.queue == [key("a")]
        assert stage.restored == [state]

    on_virtual_time(main())


def test_a_ledger_that_is_away_is_asked_again() -> None:
    async def main() -> None:
        stage = Stage("a")
        await stage.loader.begin()
        stage.answers = [LedgerUnavailable("away"), LedgerUnavailable("away")]
        await stage.loader.load()
        assert stage.asked == [["uid-a"]] * 3
        assert stage.queue == [key("a")]

    on_virtual_time(main())
    assert PAGE_RETRY > 0


def test_a_run_that_cannot_be_read_is_left_to_its_own_passes() -> None:
    async def main() -> None:
        stage = Stage("a", "b")
        await stage.loader.begin()
        stage.answers = [LivePage(states=(), unreadable={"uid-a": ValueError("no such phase")})]
        await stage.loader.load()
        assert stage.queue == [key("a"), key("b")]
        assert stage.passed_over.counts == {"load": 1}

    on_virtual_time(main())
