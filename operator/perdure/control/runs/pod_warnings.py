"""Warning Events about pods that do not start, where the pods themselves do not say why.

Only Events say that a volume cannot be mounted, that a sandbox cannot be created, or that the pods of a Job
are refused. They are read for attempts whose agent has not started some seconds after the last change of its
object, and whose object is silent: never for others, at a bounded rate for each namespace, and at longer and
longer intervals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog

from perdure.control.cluster_cache.store import POD, Store
from perdure.control.live_run import LiveRun
from perdure.control.ports import KubePort
from perdure.domain.engine.outcome import shorten
from perdure.domain.engine.pod_facts import PodFacts
from perdure.domain.engine.pod_waiting import is_silent
from perdure.domain.records import AttemptRecord, TaskKey
from perdure.kube.errors import ApiError

#: Time from the last change of an object until Events are read about it, doubled for each further read, and
#: the longest time between two reads.
SILENCE = timedelta(seconds=3)
LONGEST_INTERVAL = timedelta(minutes=1)
#: Reads of one pass, and seconds for them: a slow API server holds up no pass for longer.
READS = 8
READ_SECONDS = 1.0
#: Token bucket of one namespace: reads at once, and the time for each further read.
BURST = 20
REFILL = timedelta(seconds=0.5)
#: Namespaces whose buckets are kept; a bucket that is dropped is full again.
MAX_BUCKETS = 1024
#: Characters of an Event's text that are kept.
MAX_TEXT = 512

_log = structlog.get_logger(__name__)


class PodWarnings:
    """Reads warning Events, for statuses and for the message of a PendingTimeout."""

    def __init__(self, *, store: Store, kube: KubePort) -> None:
        self._store = store
        self._kube = kube
        #: Reads left, and since when, by namespace.
        self._buckets: dict[str, tuple[float, datetime]] = {}

    async def refresh(self, live: LiveRun, now: datetime) -> datetime | None:
        """Read the Events that are due, into `live`. Returns when further ones are; None for never.

        Without Events a status says less, so a read that fails is only repeated later.
        """
        objects = live.objects
        if not objects.silent_found:
            objects.silent_found = True
            for attempt in map(live.view.attempts.__getitem__, live.view.open):
                if attempt.started_at is None and _has_pods(live, attempt.key):
                    objects.silent.put(attempt.key, max(now, attempt.created_at + SILENCE))
        asked: list[tuple[AttemptRecord, str]] = []
        until: datetime | None = None
        while until is None and (key := objects.silent.first()) is not None:
            attempt = live.view.attempts[key]
            if attempt.closed_at is not None or attempt.started_at is not None:
                _forget(live, key)
            elif (due := objects.silent.ranks[key]) > now:
                until = due
            elif (uid := self._silent_object(live, attempt)) is None:
                # The next change of the pod puts it here again.
                _forget(live, key)
            elif len(asked) < READS and self._take(live.key.namespace, now):
                asked.append((attempt, uid))
                number, reads = objects.reads.get(key, (0, 0))
                reads = reads + 1 if number == attempt.number else 1
                objects.reads[key] = attempt.number, reads
                objects.silent.put(key, now + _interval(reads))
            else:
                until = now + REFILL
        if asked:
            await self._read(live, asked)
        return until

    def note_pods(self, live: LiveRun, pods: Mapping[TaskKey, PodFacts], now: datetime) -> None:
        """Pods have changed: those that are silent now have their Events read if they stay so."""
        for key, pod in pods.items():
            attempt = live.view.attempts.get(key)
            if attempt is None or attempt.closed_at is not None or attempt.started_at is not None:
                continue
            if is_silent(pod):
                if key not in live.objects.silent:
                    live.objects.silent.put(key, now + SILENCE)
            elif live.objects.warnings.pop(key, None) is not None:
                live.published.changed.add(key)

    def _silent_object(self, live: LiveRun, attempt: AttemptRecord) -> str | None:
        """Uid of the pod, or of the Job without one, whose Events may say more; None if its status does."""
        pod = self._store.of(live.key).pods.get(attempt.pod_name)
        if pod is not None and pod.attempt == attempt.number:
            return pod.uid if is_silent(pod) else None
        job = live.objects.jobs.get(attempt.key)
        if job is not None and job.attempt == attempt.number:
            return job.uid
        return attempt.pod_uid

    async def _read(self, live: LiveRun, asked: Sequence[tuple[AttemptRecord, str]]) -> None:
        async def read(attempt: AttemptRecord, uid: str) -> None:
            try:
                await self._read_pod(live, attempt)
                events = await self._kube.warnings(live.key.namespace, uid)
            except ApiError as error:
                _log.debug("events not read", namespace=live.key.namespace, error=str(error))
                return
            text = newest_warning(events)
            if text is not None and live.objects.warnings.get(attempt.key) != (attempt.number, text):
                live.objects.warnings[attempt.key] = attempt.number, text
                live.published.changed.add(attempt.key)

        try:
            async with asyncio.timeout(READ_SECONDS), asyncio.TaskGroup() as group:
                for attempt, uid in asked:
                    group.create_task(read(attempt, uid))
        except TimeoutError:
            _log.debug("events not read in time", namespace=live.key.namespace)

    async def _read_pod(self, live: LiveRun, attempt: AttemptRecord) -> None:
        """Read a pod that has not changed since its creation, whose answer had the metadata alone.

        A scheduling gate is in the pod from its first moment on, and nothing changes while the gate holds.
        Raises ApiError.
        """
        known = self._store.of(live.key).pods.get(attempt.pod_name)
        if live.objects.reads.get(attempt.key) != (attempt.number, 1) or known is None or known.of_job:
            return
        pod = await self._kube.find(POD, live.key.namespace, attempt.pod_name)
        if pod is not None:
            self._store.apply_whole(POD, pod)
            live.published.changed.add(attempt.key)

    def _take(self, namespace: str, now: datetime) -> bool:
        left, since = self._buckets.pop(namespace, (float(BURST), now))
        left = min(float(BURST), left + max(timedelta(), now - since) / REFILL)
        taken = left >= 1
        self._buckets[namespace] = (left - 1 if taken else left, now)
        if len(self._buckets) > MAX_BUCKETS:
            del self._buckets[next(iter(self._buckets))]
        return taken


def note_created(live: LiveRun, key: TaskKey, now: datetime) -> None:
    """The object of an attempt exists: Events are read about it if its agent does not start."""
    if _has_pods(live, key):
        live.objects.silent.put(key, now + SILENCE)


def newest_warning(events: Iterable[Mapping[str, Any]]) -> str | None:
    """Reason and text of the newest of some Events; None if there are none."""
    newest = max(events, key=_last_seen, default=None)
    if newest is None:
        return None
    note = " ".join(str(newest.get("note") or newest.get("message") or "").split())
    return shorten(f"{newest.get('reason') or ''}: {note}".strip(": "), MAX_TEXT)


def _last_seen(event: Mapping[str, Any]) -> str:
    """When an Event was last seen, as text that sorts by time to the second.

    Which of the fields is set depends on the recorder: a series, the fields of the older core/v1 API, or
    `eventTime`.
    """
    times = (
        (event.get("series") or {}).get("lastObservedTime"),
        event.get("deprecatedLastTimestamp") or event.get("lastTimestamp"),
        event.get("eventTime"),
        (event.get("metadata") or {}).get("creationTimestamp"),
    )
    return max(str(time)[:19] for time in (*times, "") if time is not None)


def _has_pods(live: LiveRun, key: TaskKey) -> bool:
    return live.view.plan.steps[key.step].kind.counts.slot


def _forget(live: LiveRun, key: TaskKey) -> None:
    live.objects.silent.drop(key)
    live.objects.reads.pop(key, None)
    if live.objects.warnings.pop(key, None) is not None:
        live.published.changed.add(key)


def _interval(reads: int) -> timedelta:
    """Time after the last of `reads` reads until the next."""
    return min(SILENCE * (1 << min(reads - 1, 10)), LONGEST_INTERVAL)
