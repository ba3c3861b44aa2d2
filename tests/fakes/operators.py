"""Operator processes: the product's control loop over a faulty network, with and without a Lease."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, NoReturn

from perdure.control.evaluation.in_process import InProcessEvaluator
from perdure.control.loop import ControlLoop, LeaseOptions, LoopOptions
from perdure.control.pass_journal import PassJournal
from perdure.control.ports import EvaluatorPort
from perdure.control.runs.executor import ActingKind
from perdure.domain.records import LedgerUnavailable
from perdure.kube.recorder import EventRecorder
from tests.fakes.apiserver import NAMESPACE, ApiServer, Watch
from tests.fakes.clients import KubeClient, LedgerClient
from tests.fakes.clock import Process, now
from tests.fakes.guarantees import Guarantees
from tests.fakes.ledger import FakeLedger

LEASE: Final = "perdure-operator"
#: Durations longer than the defaults: fewer requests, and the same algorithm.
LEASE_OPTIONS: Final = LeaseOptions(
    namespace=NAMESPACE, name=LEASE, duration=16.0, renew_deadline=12.0, retry=4.0
)
#: Seconds between polls of the outbox.
RELAY_POLL: Final = 3.0


def options(
    name: str,
    *,
    lease: LeaseOptions | None,
    limit: int | None = None,
    namespaces: tuple[str, ...] = (),
) -> LoopOptions:
    """How a simulated operator is configured."""
    return LoopOptions(
        namespaces=namespaces,
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


class Operator:
    """One life of an operator process."""

    def __init__(
        self,
        name: str,
        *,
        api: ApiServer,
        ledger: FakeLedger,
        guarantees: Guarantees,
        leases: bool,
        limit: int | None,
        kinds: tuple[ActingKind, ...],
        namespaces: tuple[str, ...] = (),
        journal: bytearray | None = None,
        evaluator: EvaluatorPort | None = None,
    ) -> None:
        self.name = name
        self.process = Process(name)
        self._api = api
        self._guarantees = guarantees
        self._leases = leases
        relay = Relay(ledger, guarantees)
        self.kube = KubeClient(api, self._sending)
        self.ledger = LedgerClient(ledger)
        self.loop = ControlLoop(
            self.kube,
            self.ledger,
            now,
            options(name, lease=LEASE_OPTIONS if leases else None, limit=limit, namespaces=namespaces),
            kinds=kinds,
            evaluator=evaluator or InProcessEvaluator(),
            recorder=EventRecorder(self.kube, instance=name, enabled=False),
            journal=PassJournal(journal),
            while_leading=relay.run,
            elapsed=asyncio.get_running_loop().time,
            leave=self._leave,
        )
        self.watch = Watch(api, self.process.context, self._handle, self.loop.handle_gap)
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._api.watches.append(self.watch)
        self.watch.relist()
        self.lead()

    def lead(self) -> None:
        """Run the control loop; again, if it has been cancelled."""
        self.task = self.process.start(self.loop.lead(asyncio.Event()))

    def kill(self) -> None:
        """SIGKILL."""
        self.process.stop()
        if self.watch in self._api.watches:
            self._api.watches.remove(self.watch)

    def raise_failure(self) -> None:
        """Raise what the control loop has ended with, if it has failed."""
        if self.task is not None and self.task.done() and not self.task.cancelled():
            self.task.result()

    @property
    def alive(self) -> bool:
        """Whether the control loop has not ended."""
        return self.task is not None and not self.task.done()

    def _leave(self) -> NoReturn:
        self.kill()
        raise asyncio.CancelledError

    # --- what the watches report

    def _handle(self, kind: str, obj: Mapping[str, Any], deleted: bool) -> None:
        if kind not in ("Job", "Lease"):
            self.loop.handle_event(kind, obj, deleted)

    # --- what is checked

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

    def __init__(self, ledger: FakeLedger, guarantees: Guarantees) -> None:
        self._ledger = ledger
        self._guarantees = guarantees

    async def run(self) -> None:
        ledger = self._ledger
        while True:
            try:
                rows = await ledger.call(ledger.outbox_batch)
                for uid, sequence in rows:
                    self._guarantees.event_published(uid, sequence)
                if rows:
                    await ledger.call(partial(ledger.outbox_done, rows))
                    continue
            except LedgerUnavailable:
                pass
            await asyncio.sleep(RELAY_POLL)
