"""Leader election by a Lease: of all replicas, one runs the workers.

The Lease only saves double work. What keeps a deposed leader from doing harm is the epoch in the ledger;
this is why losing the Lease may be noticed a moment late. Expiry is judged by our own monotonic clock since
we last saw the Lease change, never by comparing clocks of two machines. The algorithm is that of client-go's
`leaderelection` package.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import structlog

from perdure.control.ports import KubePort
from perdure.kube.errors import ApiError

LEASE = "Lease"

_log = structlog.get_logger(__name__)


class Elector:
    """Takes and renews one Lease. Durations are seconds."""

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
    ) -> None:
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
        self._seen: tuple[str, str] | None = None
        self._seen_at = 0.0
        self.leading = False

    async def run(self, lead: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
        """Whenever we hold the Lease, run `lead` until it ends or the Lease is lost; until `stop` is set."""
        while not stop.is_set():
            if not await self._try_to_take():
                await _wait(stop, self._retry)
                continue
            _log.info("leading", identity=self._identity)
            self.leading = True
            try:
                await self._lead(lead, stop)
            finally:
                self.leading = False
                await self._release()
            _log.info("no longer leading", identity=self._identity)

    async def _lead(self, lead: Callable[[], Awaitable[None]], stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            work = group.create_task(_awaited(lead()))
            renewal = group.create_task(self._renew_until_lost())
            stopping = group.create_task(_stopped(stop))
            await asyncio.wait((work, renewal, stopping), return_when=asyncio.FIRST_COMPLETED)
            for task in (work, renewal, stopping):
                task.cancel()

    async def _renew_until_lost(self) -> None:
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        while loop.time() - renewed < self._renew_deadline:
            await asyncio.sleep(self._retry)
            if await self._try_to_take():
                renewed = loop.time()
            elif self._seen is not None and self._seen[0] != self._identity:
                _log.warning("the lease was taken by another", holder=self._seen[0])
                return
        _log.warning("the lease could not be renewed in time")

    async def _try_to_take(self) -> bool:
        """True if the Lease is ours after this, taken or renewed."""
        try:
            async with asyncio.timeout(self._renew_deadline / 2):
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
            self._note_seen(self._identity, "")
            return True
        spec: dict[str, Any] = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        self._note_seen(holder, lease["metadata"]["resourceVersion"])
        if holder and holder != self._identity and not self._expired(spec):
            return False
        # The resourceVersion in the body makes the API server refuse all but one of several takers.
        await self._kube.replace(LEASE, self._namespace, self._name, self._body(spec, lease))
        self._seen = (self._identity, "")
        return True

    def _note_seen(self, holder: str, version: str) -> None:
        if self._seen != (holder, version):
            self._seen = (holder, version)
            self._seen_at = asyncio.get_running_loop().time()

    def _expired(self, spec: dict[str, Any]) -> bool:
        duration = float(spec.get("leaseDurationSeconds") or self._duration)
        return asyncio.get_running_loop().time() - self._seen_at >= duration

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
                "leaseDurationSeconds": max(1, round(self._duration)),
                "acquireTime": spec.get("acquireTime", now) if ours else now,
                "renewTime": now,
                "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (0 if ours else 1),
            },
        }

    async def _release(self) -> None:
        """Let go of the Lease if it is ours, so that another need not wait for its end."""
        try:
            async with asyncio.timeout(2):
                lease = await self._kube.get(LEASE, self._namespace, self._name)
                if (lease.get("spec") or {}).get("holderIdentity") == self._identity:
                    lease["spec"]["holderIdentity"] = ""
                    lease["spec"]["leaseDurationSeconds"] = 1
                    await self._kube.replace(LEASE, self._namespace, self._name, lease)
        except (ApiError, TimeoutError) as error:
            _log.warning("lease not released; it will expire", error=str(error) or "timed out")


async def _awaited(work: Awaitable[None]) -> None:
    await work


async def _stopped(stop: asyncio.Event) -> None:
    await stop.wait()


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass
