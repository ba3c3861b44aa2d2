"""Leader election by a Lease: of all replicas, one runs the workers.

The epoch in the ledger is what keeps a deposed leader from harming a run. The Lease saves double work, and
keeps a deposed leader from acting on the cluster, which knows no epochs: `lease_held` becomes false before
another process can have taken the Lease. Expiry is measured by the local clock from the last observed change
of the Lease, never by comparing the clocks of two machines; the algorithm is that of client-go's
`leaderelection` package.

Workers that do not stop in time would write at the same time as their successors, so the process exits.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, NoReturn

import structlog

from perdure.aio import call, wait_for_event
from perdure.control.ports import KubePort
from perdure.kube.errors import ApiError

LEASE = "Lease"
#: Seconds that releasing the Lease may take.
RELEASE_SECONDS = 2.0
#: Share of the retry interval by which followers wait longer at random, so that they do not ask together.
JITTER = 0.2

_log = structlog.get_logger(__name__)


def elapsed_seconds() -> float:
    """A monotonic clock in seconds that includes suspend of the machine, where the platform has one."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def leave_at_once() -> NoReturn:
    """Exit without cleaning up: a clean-up would wait for the workers that do not stop."""
    os._exit(1)


class Elector:
    """The candidate that takes and renews one Lease. Durations are seconds."""

    def __init__(
        self,
        *,
        kube: KubePort,
        namespace: str,
        name: str,
        identity: str,
        duration: float,
        renew_deadline: float,
        retry: float,
        clock: Callable[[], datetime],
        elapsed: Callable[[], float] = elapsed_seconds,
        leave: Callable[[], NoReturn] = leave_at_once,
        on_not_elected: Callable[[], None] = lambda: None,
    ) -> None:
        """`clock` is the wall clock, written to the Lease for people; `elapsed` counts seconds, and decides.

        Workers have the time between `renew_deadline` and `duration` to stop; then `leave` is called.
        `on_not_elected` is called after each attempt that did not take the Lease.
        """
        if not retry < renew_deadline < duration:
            raise ValueError("lease_retry < lease_renew_deadline < lease_duration must hold")
        self._kube = kube
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._duration = duration
        self._renew_deadline = renew_deadline
        self._retry = retry
        self._clock = clock
        self._elapsed = elapsed
        self._leave = leave
        self._on_not_elected = on_not_elected
        #: Holder and resourceVersion of the Lease as last observed, since when, and its duration.
        self._seen: tuple[str, str] | None = None
        self._seen_at = 0.0
        self._seen_duration = duration
        #: When the last successful take or renewal was sent; None while this process does not lead.
        self._renewed: float | None = None

    @property
    def leading(self) -> bool:
        """True from taking the Lease until the workers have stopped or the Lease is lost."""
        return self._renewed is not None

    def lease_held(self) -> bool:
        """True while this process certainly holds the Lease, with time left for a request in flight."""
        return self._renewed is not None and self._elapsed() < self._renewed + self._renew_deadline

    async def run(self, lead: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
        """Run `lead` whenever this process holds the Lease, again and again until `stop` is set.

        Raises what `lead` raises.
        """
        while not stop.is_set():
            asked = self._elapsed()
            if await self._try_to_take(self._renew_deadline / 2):
                self._renewed = asked
                _log.info("leading", identity=self._identity)
                try:
                    await self._lead(lead, stop)
                finally:
                    await self._release()
                _log.info("no longer leading", identity=self._identity)
            else:
                self._on_not_elected()
            await wait_for_event(stop, self._pause())

    def _pause(self) -> float:
        """Seconds until a follower tries again: the retry interval, or less if the Lease expires earlier."""
        pause = self._retry * random.uniform(1, 1 + JITTER)
        left = self._seen_at + self._seen_duration - self._elapsed()
        return min(pause, left) if self._held_by_another() and left > 0 else pause

    async def _lead(self, lead: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
        work = asyncio.create_task(call(lead))
        renewal = asyncio.create_task(self._renew_until_lost())
        stopping = asyncio.create_task(_stopped(stop))
        try:
            await asyncio.wait((work, renewal, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._renewed = None
            for task in (work, renewal, stopping):
                task.cancel()
            seconds = self._duration - self._renew_deadline
            _, running = await asyncio.wait((work, renewal, stopping), timeout=seconds)
            if running:
                _log.error("workers did not stop in time; leaving at once", seconds=seconds)
                self._leave()
        for task in (work, renewal):
            if not task.cancelled():
                task.result()

    async def _renew_until_lost(self) -> None:
        while self._renewed is not None:
            left = self._renewed + self._renew_deadline - self._elapsed()
            if left <= 0:
                _log.warning("the lease could not be renewed in time", deadline=self._renew_deadline)
                return
            await asyncio.sleep(min(self._retry, left))
            asked = self._elapsed()
            left = self._renewed + self._renew_deadline - asked
            if left > 0 and await self._try_to_take(min(self._renew_deadline / 2, left)):
                self._renewed = asked
            elif self._held_by_another():
                _log.warning("the lease was taken by another", holder=self._seen and self._seen[0])
                return

    async def _try_to_take(self, seconds: float) -> bool:
        """Take or renew the Lease. Returns whether this process holds it."""
        try:
            async with asyncio.timeout(seconds):
                return await self._take()
        except (ApiError, TimeoutError) as error:
            if not (isinstance(error, ApiError) and error.conflict):
                _log.warning("lease not reached", error=str(error) or "timed out")
            return False

    async def _take(self) -> bool:
        try:
            lease = await self._kube.get(LEASE, self._namespace, self._name)
        except ApiError as error:
            if not error.not_found:
                raise
            await self._kube.create(LEASE, self._namespace, self._body({}, None))
            self._note_seen(self._identity, "", self._duration)
            return True
        spec: dict[str, Any] = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        duration = float(spec.get("leaseDurationSeconds") or self._duration)
        self._note_seen(holder, lease["metadata"]["resourceVersion"], duration)
        if self._held_by_another() and self._elapsed() < self._seen_at + self._seen_duration:
            return False
        # The resourceVersion in the body makes the API server refuse all but one of several takers.
        await self._kube.replace(LEASE, self._namespace, self._name, self._body(spec, lease))
        self._seen = (self._identity, "")
        return True

    def _note_seen(self, holder: str, version: str, duration: float) -> None:
        self._seen_duration = duration
        if self._seen != (holder, version):
            self._seen = (holder, version)
            self._seen_at = self._elapsed()

    def _held_by_another(self) -> bool:
        return self._seen is not None and self._seen[0] not in ("", self._identity)

    def _body(self, spec: dict[str, Any], lease: dict[str, Any] | None) -> dict[str, Any]:
        now = self._clock().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        ours = spec.get("holderIdentity") == self._identity
        metadata = {"name": self._name, "namespace": self._namespace} if lease is None else lease["metadata"]
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": self._identity,
                # The field takes whole seconds. Rounding down would let others take the Lease too early.
                "leaseDurationSeconds": math.ceil(self._duration),
                "acquireTime": spec.get("acquireTime", now) if ours else now,
                "renewTime": now,
                "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (0 if ours else 1),
            },
        }

    async def _release(self) -> None:
        """Release the Lease if this process holds it, so that a successor need not wait for its expiry."""
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                while not await self._try_to_release():
                    pass
        except (ApiError, TimeoutError) as error:
            _log.warning("lease not released; it will expire", error=str(error) or "timed out")

    async def _try_to_release(self) -> bool:
        """False after a conflict: a renewal of this process may still have been in flight."""
        lease = await self._kube.get(LEASE, self._namespace, self._name)
        if (lease.get("spec") or {}).get("holderIdentity") != self._identity:
            return True
        lease["spec"]["holderIdentity"] = ""
        lease["spec"]["leaseDurationSeconds"] = 1
        try:
            await self._kube.replace(LEASE, self._namespace, self._name, lease)
        except ApiError as error:
            if not error.conflict:
                raise
            return False
        return True


async def _stopped(stop: asyncio.Event) -> None:
    await stop.wait()
