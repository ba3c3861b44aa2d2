"""Recorder of Kubernetes Events about Perdure's objects, for `kubectl describe`.

Events are best effort: each one costs the API server as much as a step's own writes, and the API server
deletes events after an hour. So events are rate limited, repeats are aggregated into a series, and no caller
waits for an event or fails because of one. The durable history is in the ledger. The model is client-go's
`tools/events`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol, TypeVar

import structlog

from perdure.kube.errors import ApiError

CONTROLLER = "perdure.dev/operator"

#: A repeat within this time after its predecessor belongs to the same series.
SAME_EVENT = timedelta(minutes=10)
#: Least time between two writes of a series' count.
COUNT_INTERVAL = timedelta(minutes=5)
#: Token bucket of one object: posts at once, and seconds for each further post.
OBJECT_BURST = 25
OBJECT_SECONDS = 300.0
#: Token bucket of all objects of a namespace: four namespaces that post all they may leave room for others.
NAMESPACE_BURST = 50
NAMESPACE_SECONDS = 1.0
#: Token bucket of all objects together.
GLOBAL_BURST = 250
GLOBAL_SECONDS = 0.2
#: Length of the queues of posts, of one namespace and in all; further posts are dropped.
NAMESPACE_QUEUE = 250
QUEUE_LENGTH = 1000
#: Sizes of the LRU caches of objects and of series.
REMEMBERED = 4096
#: Seconds for the queued posts after `close`.
DRAIN_SECONDS = 2.0

_NOTE_BYTES = 1024

Key = TypeVar("Key")
Value = TypeVar("Value")

_log = structlog.get_logger(__name__)


class EventApi(Protocol):
    """The two verbs of KubeClient that the recorder needs."""

    async def create(
        self, kind: str, namespace: str, body: dict[str, Any], *, brief: bool = False
    ) -> dict[str, Any]: ...

    async def patch(self, kind: str, namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Regarding:
    """The object that an event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Regarding:
        """The reference to an object of the API server."""
        metadata = body["metadata"]
        return cls(
            api_version=body["apiVersion"],
            kind=body["kind"],
            namespace=metadata["namespace"],
            name=metadata["name"],
            uid=metadata["uid"],
        )


@dataclass(slots=True)
class _Series:
    """One event and its repeats."""

    name: str
    body: dict[str, Any]
    last_seen: datetime
    written_at: datetime
    count: int = 1
    #: False until the API server has the event, and again after the API server has expired the event.
    posted: bool = False


class _Bucket:
    """A token bucket."""

    __slots__ = ("_at", "_burst", "_seconds", "_tokens")

    def __init__(self, burst: int, seconds: float, now: datetime) -> None:
        self._burst = burst
        self._seconds = seconds
        self._tokens = float(burst)
        self._at = now

    def take(self, now: datetime) -> bool:
        gained = max(0.0, (now - self._at).total_seconds()) / self._seconds
        self._tokens = min(float(self._burst), self._tokens + gained)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class EventRecorder:
    """Recorder that queues events, and posts them one after the other in `run`.

    `instance` names the posting process (the pod's name). `posted`, `dropped` and `failed` count requests,
    events that exceeded a limit, and requests that the API server refused.
    """

    def __init__(self, api: EventApi, *, instance: str, enabled: bool = True) -> None:
        self._api = api
        self._instance = instance[:128]
        self._enabled = enabled
        self._series: OrderedDict[tuple[str, ...], _Series] = OrderedDict()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._all: _Bucket | None = None
        self._by_namespace: OrderedDict[str, _Bucket] = OrderedDict()
        #: Series to be posted, by namespace; the namespace whose turn is next comes first.
        self._waiting: OrderedDict[str, deque[_Series]] = OrderedDict()
        self._arrived = asyncio.Event()
        self._closing = False
        self._limit: asyncio.Timeout | None = None
        self.posted = 0
        self.dropped = 0
        self.failed = 0

    def record(
        self,
        regarding: Regarding,
        *,
        reason: str,
        message: str,
        action: str,
        now: datetime,
        type: Literal["Normal", "Warning"] = "Normal",
    ) -> None:
        """Queue an event, within the limits. Never blocks, never raises.

        `reason` and `action` are UpperCamelCase words: the cause, and the controller's response. `message` is
        cut to 1,024 bytes. `now` has a time zone.
        """
        if not self._enabled or self._closing:
            return
        note = message.encode()[:_NOTE_BYTES].decode("utf-8", "ignore")
        key = (regarding.uid, type, reason, note)
        series = self._series.get(key)
        if series is not None and now - series.last_seen < SAME_EVENT:
            self._repeat(key, series, regarding.uid, now)
            return
        if not self._allowed(regarding.namespace, regarding.uid, now):
            return
        name = _event_name(regarding, key, now)
        body = self._body(name, regarding, note, now)
        body |= {"reason": reason[:128], "type": type, "action": action[:128]}
        series = _Series(name=name, body=body, last_seen=now, written_at=now)
        _put(self._series, key, series)
        self._enqueue(series)

    async def run(self) -> None:
        """Post queued events until `close` is called, then the rest of the queue, for two seconds at most."""
        try:
            async with asyncio.timeout(DRAIN_SECONDS if self._closing else None) as self._limit:
                while True:
                    while self._waiting:
                        await self._post(self._next())
                    if self._closing:
                        return
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            self.dropped += self._queued()
            self._waiting.clear()
        finally:
            self._limit = None

    def close(self) -> None:
        """Refuse further events and end `run`. To be called in the event loop of `run`."""
        if self._closing:
            return
        self._closing = True
        self._arrived.set()
        if self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time() + DRAIN_SECONDS)

    # --- underneath

    def _repeat(self, key: tuple[str, ...], series: _Series, uid: str, now: datetime) -> None:
        self._series.move_to_end(key)
        series.count += 1
        series.last_seen = now
        namespace = str(series.body["metadata"]["namespace"])
        if now - series.written_at >= COUNT_INTERVAL and self._allowed(namespace, uid, now):
            series.written_at = now
            self._enqueue(series)

    def _allowed(self, namespace: str, uid: str, now: datetime) -> bool:
        bucket = self._buckets.get(uid) or _Bucket(OBJECT_BURST, OBJECT_SECONDS, now)
        _put(self._buckets, uid, bucket)
        shared = self._by_namespace.get(namespace) or _Bucket(NAMESPACE_BURST, NAMESPACE_SECONDS, now)
        _put(self._by_namespace, namespace, shared)
        if self._all is None:
            self._all = _Bucket(GLOBAL_BURST, GLOBAL_SECONDS, now)
        allowed = (
            self._queued() < QUEUE_LENGTH
            and len(self._waiting.get(namespace, ())) < NAMESPACE_QUEUE
            and bucket.take(now)
            and shared.take(now)
            and self._all.take(now)
        )
        if not allowed:
            self.dropped += 1
        return allowed

    def _queued(self) -> int:
        return sum(map(len, self._waiting.values()))

    def _next(self) -> _Series:
        """The oldest series of the namespace whose turn it is."""
        namespace, queue = self._waiting.popitem(last=False)
        series = queue.popleft()
        if queue:
            self._waiting[namespace] = queue
        return series

    def _enqueue(self, series: _Series) -> None:
        self._waiting.setdefault(series.body["metadata"]["namespace"], deque()).append(series)
        self._arrived.set()

    def _body(self, name: str, regarding: Regarding, note: str, now: datetime) -> dict[str, Any]:
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": regarding.namespace},
            "eventTime": _micro_time(now),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "regarding": {
                "apiVersion": regarding.api_version,
                "kind": regarding.kind,
                "namespace": regarding.namespace,
                "name": regarding.name,
                "uid": regarding.uid,
            },
            "note": note,
        }

    async def _post(self, series: _Series) -> None:
        namespace = series.body["metadata"]["namespace"]
        try:
            if series.posted:
                try:
                    await self._api.patch("Event", namespace, series.name, {"series": _count(series)})
                except ApiError as error:
                    if not error.not_found:
                        raise
                    # The API server expires events after an hour, series or not. The event is created again.
                    series.posted = False
            if not series.posted:
                body = series.body if series.count == 1 else {**series.body, "series": _count(series)}
                await self._create(namespace, body)
                series.posted = True
        except ApiError as error:
            self.failed += 1
            _log.debug("event not posted", reason=series.body["reason"], error=str(error))
        except Exception:
            # An exception here would end the operator process, whose task group runs the recorder.
            self.failed += 1
            _log.exception("event not posted", reason=series.body["reason"])
        else:
            self.posted += 1

    async def _create(self, namespace: str, body: dict[str, Any]) -> None:
        try:
            await self._api.create("Event", namespace, body, brief=True)
        except ApiError as error:
            # The name contains the time to the microsecond: a conflict means that the first try took effect
            # and that its answer was lost.
            if not error.conflict:
                raise


def _count(series: _Series) -> dict[str, Any]:
    return {"count": series.count, "lastObservedTime": _micro_time(series.last_seen)}


def _event_name(regarding: Regarding, key: tuple[str, ...], now: datetime) -> str:
    distinct = "\0".join((*key, now.isoformat()))
    return f"{regarding.name[:200]}.{hashlib.sha256(distinct.encode()).hexdigest()[:16]}"


def _micro_time(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _put(entries: OrderedDict[Key, Value], key: Key, value: Value) -> None:
    entries[key] = value
    entries.move_to_end(key)
    if len(entries) > REMEMBERED:
        entries.popitem(last=False)
