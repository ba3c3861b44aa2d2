"""The full relist of the cluster, and changes that happen during its lists."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, cast

import pytest
from tests.unit.control.objects import AUDIT, filled, pod, task, workflow

from perdure.control.cluster_cache.relist import SELECTORS, relist
from perdure.control.cluster_cache.store import KINDS, POD, Store
from perdure.control.ports import KubePort, Page
from perdure.domain.records import AGENT_TASK, WORKFLOW
from perdure.kube.errors import ApiError
from perdure.kube.reflector import Selection


class Lists:
    """An API server whose lists are as of `version`; `meanwhile` is called during the list of pods."""

    def __init__(self, version: int, objects: dict[str, list[dict[str, Any]]]) -> None:
        self.version = version
        self.objects = objects
        self.meanwhile: Callable[[], object] = lambda: None
        #: Starts and ends of lists, in order.
        self.log: list[str] = []
        #: The kind whose list fails.
        self.refused = ""

    async def pages(
        self, kind: str, *, namespace: str | None = None, label_selector: str | None = None
    ) -> AsyncGenerator[Page, None]:
        self.log.append(f"{kind} asked")
        await asyncio.sleep(0)
        if kind == self.refused:
            raise ApiError(500, "InternalError", "not now")
        if kind == POD:
            self.meanwhile()
        yield Page(items=self.objects.get(kind, []), version=str(self.version), first=True)
        self.log.append(f"{kind} read")


def relisted(store: Store, lists: Lists, namespaces: Sequence[str] = ()) -> dict[Selection, str]:
    return asyncio.run(relist(cast(KubePort, lists), store, namespaces)).versions


def test_an_object_that_the_list_lacks_is_removed() -> None:
    store = filled()
    relisted(store, Lists(9, {WORKFLOW: [workflow(1)], AGENT_TASK: [task("audit-a", 2)]}))
    assert store.of(AUDIT).pods == {}
    assert store.apply(POD, pod("audit-a-1", 8)) is None, "a late event of a deleted pod"


def test_an_object_newer_than_the_list_stays() -> None:
    store = filled()
    relisted(store, Lists(2, {WORKFLOW: [workflow(1)], AGENT_TASK: [task("audit-a", 2)]}))
    assert set(store.of(AUDIT).pods) == {"audit-a-1"}


@pytest.mark.parametrize("version", [10, 12])
def test_an_object_created_again_during_the_list_stays(version: int) -> None:
    """The list shows that the first object was deleted, and cannot have the second of its name."""
    store = filled()
    lists = Lists(9, {WORKFLOW: [workflow(1)], AGENT_TASK: [task("audit-a", 2)]})
    lists.meanwhile = lambda: store.apply(POD, pod("audit-a-1", version, uid="uid-second"))
    relisted(store, lists)
    assert store.of(AUDIT).pods["audit-a-1"].uid == "uid-second"
    assert store.apply(POD, pod("audit-a-1", 20, uid="uid-second", phase="Failed")) == AUDIT


def test_relist_returns_the_version_from_which_each_list_can_be_watched() -> None:
    assert relisted(filled(), Lists(9, {})) == {
        Selection(kind, None, SELECTORS.get(kind)): "9" for kind in KINDS
    }
    assert set(relisted(filled(), Lists(9, {}), ["a", "b"])) == {
        Selection(kind, namespace, SELECTORS.get(kind)) for kind in KINDS for namespace in ("a", "b")
    }


def test_objects_of_runs_are_listed_concurrently_after_the_runs() -> None:
    lists = Lists(9, {})
    relisted(filled(), lists)
    assert lists.log[:2] == ["Workflow asked", "Workflow read"]
    assert [what.endswith("asked") for what in lists.log[2:]] == [True] * 5 + [False] * 5


def test_a_list_that_fails_leaves_no_other_under_way() -> None:
    lists = Lists(9, {})
    lists.refused = AGENT_TASK
    with pytest.raises(ApiError, match="not now"):
        relisted(filled(), lists)
    assert "Pod read" in lists.log


def test_an_object_that_cannot_be_read_is_left_out_and_the_others_are_stored() -> None:
    store = Store()
    odd: list[Any] = ["no object", {}, {"metadata": None}, {**pod("odd-1", 3), "status": ["no map"]}]
    relisted(store, Lists(9, {WORKFLOW: [workflow(1)], POD: [*odd, pod("audit-a-1", 4)]}))
    assert set(store.of(AUDIT).pods) == {"audit-a-1"}


def test_a_known_object_that_cannot_be_read_any_more_is_not_taken_for_deleted() -> None:
    store = filled()
    odd = {**pod("audit-a-1", 8), "status": ["no map"]}
    relisted(store, Lists(9, {WORKFLOW: [workflow(1)], AGENT_TASK: [task("audit-a", 2)], POD: [odd]}))
    assert set(store.of(AUDIT).pods) == {"audit-a-1"}
