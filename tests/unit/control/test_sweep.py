"""The full look at the cluster, and what happens while its lists are on their way."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, cast

import pytest
from tests.unit.control.objects import AUDIT, filled, pod, task, workflow

from perdure.control.ports import KubePort, Page
from perdure.control.store import POD, Store
from perdure.control.sweep import sweep
from perdure.domain.records import AGENT_TASK, WORKFLOW


class Lists:
    """An API server whose lists are as of `version`; `meanwhile` happens while that of pods is on its way."""

    def __init__(self, version: int, objects: dict[str, list[dict[str, Any]]]) -> None:
        self.version = version
        self.objects = objects
        self.meanwhile: Callable[[], object] = lambda: None

    async def pages(
        self, kind: str, *, namespace: str | None = None, label_selector: str | None = None
    ) -> AsyncGenerator[Page, None]:
        if kind == POD:
            self.meanwhile()
        yield Page(items=self.objects.get(kind, []), version=str(self.version), first=True)


def look(store: Store, lists: Lists) -> None:
    asyncio.run(sweep(cast(KubePort, lists), store, []))


def test_what_is_not_listed_is_taken_out() -> None:
    store = filled()
    look(store, Lists(9, {WORKFLOW: [workflow(1)], AGENT_TASK: [task("audit-a", 2)]}))
    assert store.of(AUDIT).pods == {}
    assert store.apply(POD, pod("audit-a-1", 8)) is None, "late news of what is gone"


def test_what_is_newer_than_the_list_stays() -> None:
    store = filled()
    look(store, Lists(2, {WORKFLOW: [workflow(1)], AGENT_TASK: [task("audit-a", 2)]}))
    assert set(store.of(AUDIT).pods) == {"audit-a-1"}


@pytest.mark.parametrize("version", [10, 12])
def test_what_was_made_anew_while_the_list_was_on_its_way_stays(version: int) -> None:
    """The list tells that the first of its name is gone, and nothing of the second."""
    store = filled()
    lists = Lists(9, {WORKFLOW: [workflow(1)], AGENT_TASK: [task("audit-a", 2)]})
    lists.meanwhile = lambda: store.apply(POD, pod("audit-a-1", version, uid="uid-second"))
    look(store, lists)
    assert store.of(AUDIT).pods["audit-a-1"].uid == "uid-second"
    assert store.apply(POD, pod("audit-a-1", 20, uid="uid-second", phase="Failed")) == AUDIT
