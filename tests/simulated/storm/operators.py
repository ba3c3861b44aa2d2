"""Operator processes: the real control loop over wires that fail, with and without a Lease."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final, NoReturn, TypeVar

from perdure.control.loop import ControlLoop, LeaseOptions, LoopOptions
from perdure.domain.records import (
    AttemptRecord,
    CachedResult,
    Commit,
    Committed,
    LedgerUnavailable,
    RunRecord,
    RunState,
    RunUpdates,
    Wake,
)
from perdure.kube.errors import ApiError
from perdure.kube.page import Page
from perdure.kube.recorder import EventRecorder
from tests.simulated.brief import brief_of
from tests.simulated.clock import Process, now
from tests.simulated.storm.apiserver import NAMESPACE, ApiServer, Watch
from tests.simulated.storm.database import Database
from tests.simulated.storm.guarantees import Guarantees
from tests.simulated.storm.weather import Weather

Result = TypeVar("Result")

LEASE: Final = "perdure-operator"
#: Durations longer than the defaults: fewer requests, and the same algorithm.
LEASE_OPTIONS: Final = LeaseOptions(
    namespace=NAMESPACE, name=LEASE, duration=16.0, renew_deadline=12.0, retry=4.0
)
#: Seconds between looks at the outbox.
RELAY_POLL: Final = 3.0


def options(name: str, *, lease: LeaseOptions | None, limit: int | None) -> LoopOptions:
    """How a simulated operator is configured."""
    return LoopOptions(
        identity=name,
        gateway_url="http://gateway",
        audience="perdure",
        workers=3,
        max_running_tasks=limit,
        relist_interval=40.0,
        status_interval=1.0,
        template_timeout=60.0,
        lease=lease,
    )


class KubeClient:
    """Implements KubePort over a wire."""

    def __init__(self, api: ApiServer, sending: Callable[[str, str, str], None]) -> None:
        """`sending` is told of each write before it is sent: verb, kind and name."""
        self._api = api
        self._sending = sending

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        return await self._api.call(lambda: self._api.get(kind, namespace, name))

    async def list(
        self, kind: str, *, namespace: str | None = None, label_selector: str | None = None
    ) -> tuple[list[dict[str, Any]], str]:
        return await self._sent(lambda: self._api.listing(kind, namespace, label_selector))

    async def pages(
        self, kind: str, *, namespace: str | None = None, label_selector: str | None = None
    ) -> AsyncGenerator[Page, None]:
        items, version = await self.list(kind, namespace=namespace, label_selector=label_selector)
        middle = len(items) // 2
        yield Page(items[:middle], version, True)
        if self._api.weather.happens("list expires"):
            items, version = await self.list(kind, namespace=namespace, label_selector=label_selector)
            yield Page(items, version, True)
            return
        await self._sent(lambda: None)  # what happens between two pages is in none of them
        yield Page(items[middle:], version, False)

    async def create(
        self, kind: str, namespace: str, body: dict[str, Any], *, brief: bool = False
    ) -> dict[str, Any]:
        self._sending("create", kind, body["metadata"]["name"])
        made = await self._sent(lambda: self._api.create(kind, namespace, body))
        return brief_of(made) if brief else made

    async def replace(self, kind: str, namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        self._sending("replace", kind, name)
        return await self._sent(lambda: self._api.replace(kind, namespace, name, body))

    async def patch(self, kind: str, namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError("nothing that is simulated here patches objects")

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
        # A status that comes late is wrong until the next one is written; nothing is ever read back from it.
        patched = await self._sent(
            lambda: self._api.patch_status(kind, namespace, name, body), may_be_late=False
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
        await self._sent(lambda: self._api.delete(kind, namespace, name, uid))

    async def _sent(self, effect: Callable[[], Result], *, may_be_late: bool = True) -> Result:
        try:
            return await self._api.call(effect, may_be_late=may_be_late)
        except ApiError as error:
            if error.message == "fault":
                status = self._api.weather.choice([0, 409, 410, 429, 500, 503])
                raise ApiError(status, "Fault", "fault") from None
            raise


class LedgerClient:
    """Implements LedgerPort over a wire."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take_epoch(self, holder: str) -> int:
        return await self._database.call(self._database.take_epoch)

    async def load_live(self) -> list[RunState]:
        return await self._database.call(self._database.load_live)

    async def load(self, uid: str) -> RunState | None:
        return await self._database.call(lambda: self._database.load(uid))

    async def outcomes(self, uids: Sequence[str]) -> dict[str, RunRecord]:
        return await self._database.call(lambda: self._database.outcomes(uids))

    async def commit(self, commit: Commit, *, epoch: int) -> Committed:
        return await self._database.call(lambda: self._database.commit(commit, epoch=epoch))

    async def fence_commits(self, uid: str, *, epoch: int) -> None:
        await self._database.call(lambda: self._database.fence_commits(uid, epoch=epoch))

    async def record_pod(self, uid: str, attempt: AttemptRecord, *, pod_uid: str, epoch: int) -> None:
        await self._database.call(
            lambda: self._database.record_pod(uid, attempt, pod_uid=pod_uid, epoch=epoch)
        )

    async def updates(self, uid: str, *, since: datetime | None) -> RunUpdates:
        return await self._database.call(lambda: self._database.updates(uid, since=since))

    async def expired(self, now: datetime, *, limit: int) -> list[tuple[str, str, str, str]]:
        return await self._database.call(lambda: self._database.expired(now, limit=limit))

    async def forget(self, uids: Sequence[str], *, epoch: int) -> None:
        await self._database.call(lambda: self._database.forget(uids, epoch=epoch))

    async def cached(self, namespace: str, keys: Sequence[str], now: datetime) -> dict[str, CachedResult]:
        return await self._database.call(lambda: self._database.cached(namespace, keys, now))

    async def forget_cache(self, now: datetime, *, limit: int, epoch: int) -> int:
        return await self._database.call(lambda: self._database.forget_cache(now, limit=limit, epoch=epoch))

    async def wakes(self) -> AsyncGenerator[Wake | None, None]:
        queue: asyncio.Queue[Wake | None] = asyncio.Queue()
        queue.put_nowait(None)
        self._database.listeners.append(queue.put_nowait)
        try:
            while True:
                yield await queue.get()
        finally:
            self._database.listeners.remove(queue.put_nowait)


class Operator:
    """One life of an operator process."""

    def __init__(
        self,
        name: str,
        *,
        api: ApiServer,
        database: Database,
        weather: Weather,
        guarantees: Guarantees,
        leases: bool,
        limit: int | None,
    ) -> None:
        self.name = name
        self.process = Process(name)
        self._api = api
        self._database = database
        self._guarantees = guarantees
        self._leases = leases
        relay = Relay(database, guarantees)
        self.loop = ControlLoop(
            KubeClient(api, self._sending),
            LedgerClient(database),
            now,
            options(name, lease=LEASE_OPTIONS if leases else None, limit=limit),
            recorder=EventRecorder(KubeClient(api, self._sending), instance=name, enabled=False),
            while_leading=relay.run,
            elapsed=asyncio.get_running_loop().time,
            leave=self._leave,
        )
        self.watch = Watch(api, self.process, self._hear, self.loop.handle_gap)
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._api.watches.append(self.watch)
        self.watch.mend()
        self.task = self.process.start(self.loop.lead(asyncio.Event()))

    def kill(self) -> None:
        """SIGKILL."""
        self.process.stop()
        if self.watch in self._api.watches:
            self._api.watches.remove(self.watch)

    @property
    def alive(self) -> bool:
        """Whether there is still something to be killed."""
        return self.task is not None and not self.task.done()

    def _leave(self) -> NoReturn:
        self.kill()
        raise asyncio.CancelledError

    # --- what it hears

    def _hear(self, kind: str, obj: Mapping[str, Any], deleted: bool) -> None:
        if kind not in ("Job", "Lease"):
            self.loop.handle_event(kind, obj, deleted)

    # --- what is looked at

    def _sending(self, verb: str, kind: str, name: str) -> None:
        if not self._leases or kind == "Lease":
            return
        lease = self._api.objects.get(("Lease", NAMESPACE, LEASE))
        holder = "" if lease is None else lease["spec"].get("holderIdentity")
        self._guarantees.demand(
            holder == self.name, f"{self.name} is deposed by {holder!r}, and sends {verb} {kind} {name}"
        )


class Relay:
    """Publishes what is in the outbox; the stream takes each event once, and in order."""

    def __init__(self, database: Database, guarantees: Guarantees) -> None:
        self._database = database
        self._guarantees = guarantees

    async def run(self) -> None:
        database = self._database
        while True:
            try:
                rows = await database.call(database.outbox_batch)
                for uid, sequence in rows:
                    self._guarantees.event_published(uid, sequence)
                if rows:
                    await database.call(partial(database.outbox_done, rows))
                    continue
            except LedgerUnavailable:
                pass
            await asyncio.sleep(RELAY_POLL)
