"""The control loop: every part that reconciles runs, assembled in one place.

The operator process and the simulation construct the same `ControlLoop`; they differ in the API server, the
ledger and the clock that they hand in. Events, gaps of the watches and leadership enter here, so a simulated
fault exercises the code that handles it in production.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, NoReturn

from perdure.aio import call
from perdure.api.spec_models import spec_models
from perdure.control.cluster_cache.store import Store
from perdure.control.event_handler import EventHandler
from perdure.control.leadership.fenced_kube import FencedKube
from perdure.control.leadership.leader import Leader
from perdure.control.leadership.lease_elector import Elector, elapsed_seconds, leave_at_once
from perdure.control.ledger_wait import waiting_ledger
from perdure.control.pass_journal import PassJournal
from perdure.control.passed_over import PassedOver
from perdure.control.ports import EvaluatorPort, KubePort, LedgerPort
from perdure.control.queue.slots import Slots
from perdure.control.queue.workqueue import WorkQueue
from perdure.control.runs.cleanup import Cleanup
from perdure.control.runs.executor import ActingKind, ExecutorContext, Executors
from perdure.control.runs.live_runs import LiveRuns
from perdure.control.runs.payloads import PayloadReader, RunEvaluator
from perdure.control.runs.quarantine import Quarantine
from perdure.control.runs.reconciler import Reconciler
from perdure.control.runs.status_source import RunStatusSource
from perdure.control.schedules import ScheduleReconciler
from perdure.control.status.kube_events import KubeEvents
from perdure.control.status.status_writer import StatusWriter
from perdure.kube.recorder import EventRecorder
from perdure.kube.reflector import Selection

#: Seconds from the last gap of a watch to the full relist that follows it. Watches lose their connections
#: together and take a moment to list: one relist serves all of them.
GAP_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseOptions:
    """The Lease by which replicas elect a leader. Durations are seconds; see `Elector`."""

    namespace: str
    name: str
    duration: float
    renew_deadline: float
    retry: float


def _no_authority() -> str | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopOptions:
    """What an administrator configures of the control loop. Intervals are seconds."""

    #: Holder of the Lease and of the epoch, unique among replicas.
    identity: str
    #: URL and token audience that agents use to reach the gateway.
    gateway_url: str
    audience: str
    #: The PEM certificates that sign the gateway's, as agents get them now; None if they need none.
    gateway_ca: Callable[[], str | None] = _no_authority
    #: Namespaces whose runs are reconciled; all if empty.
    namespaces: tuple[str, ...] = ()
    workers: int
    #: Attempts of agents that may be open at once, in all and in any one namespace; 0 or None for no limit.
    max_running_tasks: int | None = None
    max_running_tasks_per_namespace: int | None = None
    relist_interval: float
    status_interval: float
    #: How long a run waits for a template that does not exist.
    template_timeout: float
    #: None to lead without an election: then only the epoch in the ledger keeps two leaders apart.
    lease: LeaseOptions | None


class ControlLoop:
    """Follows the cluster always, and reconciles it while elected."""

    def __init__(
        self,
        kube: KubePort,
        ledger: LedgerPort,
        clock: Callable[[], datetime],
        options: LoopOptions,
        *,
        kinds: tuple[ActingKind, ...],
        evaluator: EvaluatorPort,
        recorder: EventRecorder,
        journal: PassJournal | None = None,
        while_leading: Callable[[], Awaitable[None]] | None = None,
        elapsed: Callable[[], float] = elapsed_seconds,
        leave: Callable[[], NoReturn] = leave_at_once,
    ) -> None:
        """`clock` is the wall clock; `elapsed` and `leave` are for the `Elector`; `kinds` is the registry.

        `evaluator` evaluates what is too dear for a decision; its owner starts and closes it.

        `while_leading` runs for as long as this process leads, and is cancelled at the end: the relay.
        `recorder` posts Kubernetes Events; its owner runs and closes it. `journal` says which pass killed the
        last process; without, deaths are not counted.
        """
        #: Set once the leader has listed the cluster, and once it has also reconciled every run. Both are set
        #: too when waiting for that is pointless: another process leads, or this one cannot start.
        self.seen = asyncio.Event()
        self.settled = asyncio.Event()
        self._while_leading = while_leading
        #: What the loops over foreign objects could not handle, for the readiness probe.
        self.passed_over = PassedOver()
        self._store = Store()
        self._queue = WorkQueue(shared=options.workers)
        self._gap_timer: asyncio.TimerHandle | None = None
        self._elector: Elector | None = None
        fenced = kube
        if options.lease is not None:
            self._elector = Elector(
                kube=kube,
                namespace=options.lease.namespace,
                name=options.lease.name,
                identity=options.identity,
                duration=options.lease.duration,
                renew_deadline=options.lease.renew_deadline,
                retry=options.lease.retry,
                clock=clock,
                elapsed=elapsed,
                leave=leave,
                on_not_elected=self.stop_waiting,
            )
            fenced = FencedKube(kube, self._elector.lease_held)
        ledger, ledger_wait = waiting_ledger(ledger)
        payloads = PayloadReader(ledger)
        run_evaluator = RunEvaluator(evaluator, payloads)
        executors = Executors(
            kinds,
            ExecutorContext(
                store=self._store,
                kube=fenced,
                ledger=ledger,
                evaluator=run_evaluator,
                payloads=payloads,
                clock=clock,
                gateway_url=options.gateway_url,
                gateway_ca=options.gateway_ca,
                audience=options.audience,
            ),
        )
        slots = Slots(options.max_running_tasks, options.max_running_tasks_per_namespace)
        cleanup = Cleanup(store=self._store, kube=fenced, executors=executors)
        self.status_writer = StatusWriter(
            kube=fenced,
            interval=options.status_interval,
            clock=clock,
            passed_over=self.passed_over,
            journal=self._store,
        )
        kube_events = KubeEvents(recorder)
        self._quarantine = Quarantine(
            journal=journal or PassJournal(),
            store=self._store,
            ledger=ledger,
            kube_events=kube_events,
            mark_status=self.status_writer.mark,
            clock=clock,
            passed_over=self.passed_over,
        )
        runs = LiveRuns(
            store=self._store,
            kinds=kinds,
            slots=slots,
            cleanup=cleanup,
            status_writer=self.status_writer,
            clock=clock,
            wake=self._queue.add,
            passed_over=self.passed_over,
            kube_events=kube_events,
            quarantine=self._quarantine,
        )
        statuses = RunStatusSource(
            store=self._store, runs=runs, cleanup=cleanup, quarantine=self._quarantine, payloads=payloads
        )
        self.reconciler = Reconciler(
            store=self._store,
            kube=fenced,
            ledger=ledger,
            executors=executors,
            evaluator=run_evaluator,
            payloads=payloads,
            kube_events=kube_events,
            clock=clock,
            template_timeout=options.template_timeout,
            slots=slots,
            runs=runs,
            cleanup=cleanup,
            status_writer=self.status_writer,
            wake=self._queue.add,
        )
        self._leader = Leader(
            store=self._store,
            queue=self._queue,
            kube=fenced,
            ledger=ledger,
            runs=runs,
            reconciler=self.reconciler,
            cleanup=cleanup,
            schedules=ScheduleReconciler(
                store=self._store,
                kube=fenced,
                clock=clock,
                wake=self._queue.add,
                models=spec_models(kinds),
            ),
            write_statuses=partial(self.status_writer.run, statuses),
            identity=options.identity,
            namespaces=options.namespaces,
            workers=options.workers,
            relist_interval=options.relist_interval,
            clock=clock,
            while_leading=self._settle_and_accompany,
            on_cannot_start=self.stop_waiting,
            passed_over=self.passed_over,
            quarantine=self._quarantine,
        )
        ledger_wait.on_slow = self._leader.note_slow_ledger
        self._handler = EventHandler(
            store=self._store,
            queue=self._queue,
            is_reconciling=self._leader.is_reconciling,
            note_template=runs.note_template,
            shown_in=self.status_writer.shown_in,
            passed_over=self.passed_over,
        )

    # --- what the watches report

    def handle_event(self, kind: str, obj: Mapping[str, Any], deleted: bool) -> None:
        """An object was created, changed or deleted. Never waits, and never raises."""
        self._handler(kind, obj, deleted)

    def handle_gap(self) -> None:
        """A watch listed instead of resuming: deletions in between have no event.

        The full relist `GAP_SECONDS` after the last gap finds them. A process that does not lead needs none:
        it relists everything when it is elected.
        """
        if not self.reconciling:
            return
        if self._gap_timer is not None:
            self._gap_timer.cancel()
        self._gap_timer = asyncio.get_running_loop().call_later(GAP_SECONDS, self._leader.relist_soon)

    def is_own_create(self, version: str) -> bool:
        """Whether the ADDED event of this resourceVersion answers a create of this process; true once."""
        return self._store.is_own_create(version)

    # --- leadership

    @property
    def reconciling(self) -> bool:
        """True while this process leads and has listed cluster and ledger."""
        return self._leader.is_reconciling()

    @property
    def listed(self) -> Mapping[Selection, str]:
        """resourceVersions of the leader's first lists, from which watches may continue; empty before."""
        return self._leader.listed

    async def lead(self, stop: asyncio.Event) -> None:
        """Reconcile whenever elected, until `stop` is set. Without a Lease: once, at once.

        Raises what a part of the loop raises that is not retried.
        """
        if self._elector is None:
            await self._leader.lead()
        else:
            await self._elector.run(self._leader.lead, stop)

    @property
    def left_out(self) -> Mapping[str, str]:
        """Namespaces that the leader cannot read, with the API server's words."""
        return self._leader.left_out

    def findings(self) -> list[str]:
        """What an administrator should know though the process is well, a line each."""
        left_out = [f"namespace {name} is left out: {why}" for name, why in sorted(self.left_out.items())]
        unreadable = len(self._store.unreadable)
        objects = [f"{unreadable} objects cannot be read"] if unreadable else []
        return [*left_out, *objects, *self._quarantine.findings(), *self.passed_over.summary()]

    def stop_waiting(self) -> None:
        """Release everything that waits for `seen` and `settled`."""
        self.seen.set()
        self.settled.set()

    async def _settle_and_accompany(self) -> None:
        self.seen.set()
        async with asyncio.TaskGroup() as group:
            if self._while_leading is not None:
                group.create_task(call(self._while_leading))
            await self._leader.loaded.wait()
            await self._queue.idle()
            self.settled.set()
