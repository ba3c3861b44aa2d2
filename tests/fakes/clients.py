"""Implementations of the control loop's ports that call the fakes over a faulty network."""

from __future__ import annotations

import asyncio
import builtins
import copy
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypeVar

from perdure.domain.records import (
    AttemptRecord,
    CachedResult,
    ChildClaim,
    Commit,
    Committed,
    LiveEntry,
    LivePage,
    RunRecord,
    RunState,
    RunUpdates,
    Suspect,
    TaskKey,
    Wake,
)
from perdure.kube.errors import ApiError
from perdure.kube.page import Page
from tests.fakes.apiserver import ApiServer
from tests.fakes.ledger import FakeLedger

Result = TypeVar("Result")


def brief_of(obj: Mapping[str, Any]) -> dict[str, Any]:
    """An object's metadata alone, as a PartialObjectMetadata: the answer to a brief request."""
    return {
        "apiVersion": "meta.k8s.io/v1",
        "kind": "PartialObjectMetadata",
        "metadata": copy.deepcopy(obj["metadata"]),
    }


class KubeClient:
    """Implements KubePort over the network."""

    def __init__(self, api: ApiServer, sending: Callable[[str, str, str], None]) -> None:
        """`sending` is called before each write is sent, with verb, kind and name."""
        self._api = api
        self._sending = sending

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        def effect() -> dict[str, Any]:
            self._api.check_allowed("get", kind, namespace)
            return self._api.get(kind, namespace, name)

        return await self._api.call(effect)

    async def find(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        try:
            return await self.get(kind, namespace, name)
        except ApiError as error:
            if error.not_found:
                return None
            raise

    async def list(
        self, kind: str, *, namespace: str | None = None, label_selector: str | None = None
    ) -> tuple[list[dict[str, Any]], str]:
        return await self._allowed(
            "list", kind, namespace, lambda: self._api.listing(kind, namespace, label_selector)
        )

    async def warnings(self, namespace: str, uid: str) -> builtins.list[dict[str, Any]]:
        return await self._sent(lambda: self._api.warnings(namespace, uid))

    async def pages(
        self, kind: str, *, namespace: str | None = None, label_selector: str | None = None
    ) -> AsyncGenerator[Page, None]:
        items, version = await self.list(kind, namespace=namespace, label_selector=label_selector)
        middle = len(items) // 2
        yield Page(items[:middle], version, True)
        if self._api.faults.happens("list expires"):
            items, version = await self.list(kind, namespace=namespace, label_selector=label_selector)
            yield Page(items, version, True)
            return
        await self._sent(lambda: None)  # changes between two pages are in neither
        yield Page(items[middle:], version, False)

    async def create(
        self, kind: str, namespace: str, body: dict[str, Any], *, brief: bool = False
    ) -> dict[str, Any]:
        self._sending("create", kind, body["metadata"]["name"])
        made = await self._allowed("create", kind, namespace, lambda: self._api.create(kind, namespace, body))
        return brief_of(made) if brief else made

    async def replace(self, kind: str, namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        self._sending("replace", kind, name)
        return await self._allowed(
            "replace", kind, namespace, lambda: self._api.replace(kind, namespace, name, body)
        )

    async def patch(self, kind: str, namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        self._sending("patch", kind, name)
        return await self._allowed(
            "patch", kind, namespace, lambda: self._api.patch(kind, namespace, name, body)
        )

    async def patch_status(
        self,
        kind: str,
        namespace: str,
        name: str,
        body: dict[str, Any] | builtins.list[dict[str, Any]],
        *,
        brief: bool = False,
    ) -> dict[str, Any]:
        assert isinstance(body, builtins.list), "statuses are written as JSON patches"
        self._sending("patch_status", kind, name)
        # A status that arrives late would be wrong until the next write, which no guarantee forbids.
        patched = await self._allowed(
            "patch",
            kind,
            namespace,
            lambda: self._api.patch_status(kind, namespace, name, body),
            may_be_late=False,
        )
        return brief_of(patched) if brief else patched

    async def delete(
        self,
        kind: str,
        namespace: str,
        name: str,
        *,
        uid: str | None = None,
        grace_seconds: int | None = None,
    ) -> None:
        self._sending("delete", kind, name)
        await self._allowed("delete", kind, namespace, lambda: self._api.delete(kind, namespace, name, uid))

    async def _allowed(
        self,
        verb: str,
        kind: str,
        namespace: str | None,
        effect: Callable[[], Result],
        *,
        may_be_late: bool = True,
    ) -> Result:
        def checked() -> Result:
            self._api.check_allowed(verb, kind, namespace)
            return effect()

        try:
            return await self._sent(checked, may_be_late=may_be_late)
        except ApiError as error:
            # A real API server answers 410 to lists and watches only, whose version may be too old.
            if error.status == 410 and verb not in ("list", "watch"):
                raise ApiError(503, error.reason, error.message) from None
            raise

    async def _sent(self, effect: Callable[[], Result], *, may_be_late: bool = True) -> Result:
        try:
            return await self._api.call(effect, may_be_late=may_be_late)
        except ApiError as error:
            if error.message == "fault":
                status = self._api.faults.choice([0, 409, 410, 429, 500, 503])
                raise ApiError(status, "Fault", "fault") from None
            raise


class LedgerClient:
    """Implements LedgerPort over the network."""

    def __init__(self, ledger: FakeLedger) -> None:
        self._ledger = ledger

    async def take_epoch(self, holder: str) -> int:
        return await self._ledger.call(self._ledger.take_epoch)

    async def live_index(self) -> list[LiveEntry]:
        return await self._ledger.call(self._ledger.live_index)

    async def load_page(self, uids: Sequence[str]) -> LivePage:
        return await self._ledger.call(lambda: self._ledger.load_page(uids))

    async def load(self, uid: str) -> RunState | None:
        return await self._ledger.call(lambda: self._ledger.load(uid))

    async def outcomes(self, uids: Sequence[str]) -> dict[str, RunRecord]:
        return await self._ledger.call(lambda: self._ledger.outcomes(uids))

    async def commit(self, commit: Commit, *, epoch: int) -> Committed:
        return await self._ledger.call(lambda: self._ledger.commit(commit, epoch=epoch))

    async def fence_commits(self, uid: str, *, epoch: int) -> None:
        await self._ledger.call(lambda: self._ledger.fence_commits(uid, epoch=epoch))

    async def record_pod(self, uid: str, attempt: AttemptRecord, *, pod_uid: str, epoch: int) -> None:
        await self._ledger.call(lambda: self._ledger.record_pod(uid, attempt, pod_uid=pod_uid, epoch=epoch))

    async def claim_child(
        self, parent: RunRecord, attempt: AttemptRecord, *, owner_uid: str | None, most: int
    ) -> ChildClaim:
        return await self._ledger.call(
            lambda: self._ledger.claim_child(parent, attempt, owner_uid=owner_uid, most=most)
        )

    async def updates(self, uid: str, *, since: datetime | None) -> RunUpdates:
        return await self._ledger.call(lambda: self._ledger.updates(uid, since=since))

    async def suspects(self) -> list[Suspect]:
        return await self._ledger.call(lambda: list(self._ledger.suspects.values()))

    async def keep_suspect(self, suspect: Suspect) -> None:
        await self._ledger.call(lambda: self._ledger.suspects.update({suspect.uid: suspect}))

    async def drop_suspect(self, uid: str) -> None:
        await self._ledger.call(lambda: self._ledger.suspects.pop(uid, None))

    async def task_payloads(
        self, uid: str, keys: Sequence[TaskKey], which: Literal["input", "output"]
    ) -> dict[TaskKey, bytes]:
        return await self._ledger.call(lambda: self._ledger.task_payloads(uid, keys, which))

    async def run_outputs(self, uid: str) -> bytes | None:
        return await self._ledger.call(lambda: self._ledger.run_outputs(uid))

    async def expired(self, now: datetime, *, limit: int) -> list[tuple[str, str, str, str]]:
        return await self._ledger.call(lambda: self._ledger.expired(now, limit=limit))

    async def forget(self, uids: Sequence[str], *, epoch: int) -> None:
        await self._ledger.call(lambda: self._ledger.forget(uids, epoch=epoch))

    async def cached(self, namespace: str, keys: Sequence[str], now: datetime) -> dict[str, CachedResult]:
        return await self._ledger.call(lambda: self._ledger.cached(namespace, keys, now))

    async def forget_cache(self, now: datetime, *, limit: int, epoch: int) -> int:
        return await self._ledger.call(lambda: self._ledger.forget_cache(now, limit=limit, epoch=epoch))

    async def wakes(self) -> AsyncGenerator[Wake | None, None]:
        queue: asyncio.Queue[Wake | None] = asyncio.Queue()
        queue.put_nowait(None)
        self._ledger.listeners.append(queue.put_nowait)
        try:
            while True:
                yield await queue.get()
        finally:
            self._ledger.listeners.remove(queue.put_nowait)
