"""Wiring: what the two processes are made of.

Everything that lives as long as a process is made here, in the order in which it is needed and taken apart
in the reverse. No other module knows more than its own neighbours.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import structlog

from perdure.import_guards import without_authorities

with without_authorities():
    import aiohttp  # noqa: F401 - before others import it

from perdure.aio import wait_for_event
from perdure.control.cluster_cache.relist import selected
from perdure.control.cluster_cache.store import KINDS, POD, Store
from perdure.control.event_handler import EventHandler
from perdure.control.leadership.fenced_kube import FencedKube
from perdure.control.leadership.leader import Leader
from perdure.control.leadership.lease_elector import Elector
from perdure.control.queue.slots import Slots
from perdure.control.queue.workqueue import WorkQueue
from perdure.control.runs.actuator import Actuator
from perdure.control.runs.reconciler import Reconciler
from perdure.control.schedules import ScheduleReconciler
from perdure.control.status.kube_events import KubeEvents
from perdure.domain.records import AGENT_TASK
from perdure.kube.client import KubeClient
from perdure.kube.recorder import EventRecorder
from perdure.kube.reflector import Selection, reflect
from perdure.ledger import Ledger
from perdure.settings import Settings

if TYPE_CHECKING:
    from perdure.bus.connection import Bus
    from perdure.bus.relay import Relay

#: Seconds that a stopping operator may take, within its pod's grace of 30.
SHUTDOWN_SECONDS = 20.0
#: Seconds after a watch had to start anew until everything is looked at: it lists for a moment.
GAP_SECONDS = 5.0
#: Seconds that everything else waits at the start for the leader to have looked at every run: probes, events
#: and the watches. kopf alone, its import included, takes longer than all the first decisions together.
SETTLE_WITHIN = 2.0
#: Seconds that the watches wait for its look at the cluster, which a long history makes longer: they read as
#: much, and what they tell is of use only after it.
WATCH_WITHIN = 60.0

#: What runs make, and most events are about. Jobs are not followed: their pods tell all there is to know.
FOLLOWED = (POD, AGENT_TASK)

_STOPPING = (signal.SIGTERM, signal.SIGINT)

_log = structlog.get_logger(__name__)


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


async def run_gateway(settings: Settings) -> None:
    """The gateway process, until SIGTERM."""
    # A quarter of the time in which an operator starts, and it needs neither.
    from perdure.gateway.server import serve
    from perdure.kube.tokens import TokenVerifier

    with _Signals() as signals:
        ledger = Ledger(settings.database_url.get_secret_value(), pool_size=settings.database_pool_size)
        kube = KubeClient.from_config(settings.kubeconfig)
        async with kube, ledger:
            verifier = TokenVerifier(kube.raw_get, audience=settings.token_audience)
            await serve(settings, ledger=ledger, verifier=verifier, stop=signals.stop)


async def run_operator(settings: Settings) -> None:
    """The operator process, until SIGTERM, or until a watch or a part of it fails for good."""
    # What was imported stays: no collection need look at it again.
    gc.freeze()
    if settings.kubeconfig:
        os.environ["KUBECONFIG"] = settings.kubeconfig  # where kopf looks for it
    async with AsyncExitStack() as stack:
        signals = stack.enter_context(_Signals())
        kube = await stack.enter_async_context(KubeClient.from_config(settings.kubeconfig))
        ledger = await stack.enter_async_context(
            Ledger(settings.database_url.get_secret_value(), pool_size=settings.database_pool_size)
        )
        operator = _Operator(settings, kube=kube, ledger=ledger, stack=stack)
        await operator.run(signals)


class _Operator:
    """The parts of the operator process and how they hear of each other."""

    def __init__(
        self, settings: Settings, *, kube: KubeClient, ledger: Ledger, stack: AsyncExitStack
    ) -> None:
        """`stack` closes at the end what is opened later than kube and ledger."""
        self._settings = settings
        self._kube = kube
        self._ledger = ledger
        self._stack = stack
        self._relay: Relay | None = None
        self._can_relay = asyncio.Event()
        self._store = Store()
        self._queue = WorkQueue()
        self._listening = asyncio.Event()
        #: Set once the leader has seen the cluster, and once it has also looked at every run; both as well
        #: when that is not to be waited for.
        self._seen = asyncio.Event()
        self._settled = asyncio.Event()
        #: What is followed without kopf and has not been listed yet.
        self._unlisted = set(selected(FOLLOWED, settings.watch_namespaces))
        self._elector = Elector(
            kube=kube,
            namespace=settings.namespace,
            name=settings.lease_name,
            identity=settings.identity,
            duration=settings.lease_duration,
            renew_deadline=settings.lease_renew_deadline,
            retry=settings.lease_retry,
            clock=utc_now,
            follow=self._wait_no_more,
        )
        guarded = FencedKube(kube, self._elector.lease_held)
        self._recorder = EventRecorder(kube, instance=settings.identity, enabled=settings.kubernetes_events)
        self._reconciler = Reconciler(
            store=self._store,
            kube=guarded,
            ledger=ledger,
            actor=Actuator(
                store=self._store,
                kube=guarded,
                ledger=ledger,
                gateway_url=settings.gateway_url,
                audience=settings.token_audience,
            ),
            announcer=KubeEvents(self._recorder),
            clock=utc_now,
            status_interval=settings.status_interval,
            template_timeout=settings.template_timeout,
            slots=Slots(settings.max_running_tasks, settings.max_running_tasks_per_namespace),
            wake=self._queue.add,
        )
        self._leader = Leader(
            store=self._store,
            queue=self._queue,
            kube=guarded,
            ledger=ledger,
            reconciler=self._reconciler,
            scheduler=ScheduleReconciler(
                store=self._store, kube=guarded, clock=utc_now, wake=self._queue.add
            ),
            identity=settings.identity,
            namespaces=settings.watch_namespaces,
            workers=settings.workers,
            sweep_interval=settings.sweep_interval,
            clock=utc_now,
            beside=self._beside_leading,
            held_up=self._wait_no_more,
        )
        self._heard = EventHandler(
            store=self._store,
            queue=self._queue,
            working=lambda: self._leader.working,
            note_template=self._reconciler.note_template,
            shown_in=self._reconciler.projector.shown_in,
        )
        self._gap_timer: asyncio.TimerHandle | None = None

    async def run(self, signals: _Signals) -> None:
        """Lead when elected, listen always."""
        stop = signals.stop
        ending = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._recorder.run())
            leading = group.create_task(self._elector.run(self._leader.lead, stop))
            stopping = group.create_task(_until(stop))
            stopping.add_done_callback(lambda _: self._wait_no_more())
            with _nothing_collected():
                bus = await self._first_look(group, ending)
            from perdure.kopf_watch import listen

            ears = group.create_task(
                listen(
                    self._heard,
                    gap=self._note_gap,
                    kinds=[kind for kind in KINDS if kind not in FOLLOWED],
                    namespaces=self._settings.watch_namespaces,
                    stop=ending,
                    ready=self._listening,
                )
            )
            # What the leader has listed need not be listed again.
            listed = self._leader.listed
            followed, self._unlisted = self._unlisted, self._unlisted - listed.keys()
            followers = [
                group.create_task(
                    reflect(
                        self._kube,
                        selection,
                        heard=partial(self._heard, selection.kind),
                        listed=partial(self._note_list, selection),
                        is_ours=self._store.is_own_create,
                        version=listed.get(selection, ""),
                    )
                )
                for selection in sorted(followed, key=str)
            ]
            await _first((ears, group.create_task(_until(self._listening))))
            # kopf takes the signals when it starts, and would end itself, and our workers with it, at once.
            signals.take()
            # What was deleted between the leader's look and the first list is missing from both.
            self._note_gap()
            await _first((ears, stopping))
            stop.set()
            try:
                async with asyncio.timeout(SHUTDOWN_SECONDS):
                    await leading
            except TimeoutError:
                # Workers that do not stop must not outlive the Lease.
                _log.error("workers did not stop in time; leaving at once")
                os._exit(1)
            # kopf waits five seconds for all tasks that are younger than itself: leave it none.
            self._recorder.close()
            for follower in followers:
                follower.cancel()
            await asyncio.wait(followers)
            await bus.close()
            ending.set()

    async def _first_look(self, group: asyncio.TaskGroup, ending: asyncio.Event) -> Bus:
        """Wait until the leader has seen the cluster, and begin meanwhile what needs no watches.

        The relay's connection to NATS, made or still being made.
        """
        await wait_for_event(self._settled, SETTLE_WITHIN)
        from perdure.bus.connection import Bus
        from perdure.bus.relay import Relay
        from perdure.bus.stream import StreamLimits
        from perdure.health import Health, serve_health

        def listens() -> bool:
            return self._listening.is_set() and not self._unlisted

        health = Health(
            alive=lambda: None,
            ready=lambda: None if listens() else "the watches have not started",
        )
        group.create_task(
            serve_health(self._settings.health_host, self._settings.health_port, health, stop=ending)
        )
        name = f"perdure-operator/{self._settings.identity}"
        bus = await self._stack.enter_async_context(
            Bus(self._settings.nats_url.get_secret_value(), name=name)
        )
        self._relay = Relay(self._ledger, bus, limits=StreamLimits.of(self._settings))
        self._can_relay.set()
        if not self._seen.is_set():
            await wait_for_event(self._seen, WATCH_WITHIN)
            await wait_for_event(self._settled, SETTLE_WITHIN)
        return bus

    def _note_list(self, selection: Selection) -> None:
        self._unlisted.discard(selection)
        self._note_gap()

    def _note_gap(self) -> None:
        """A list instead of events: deletions may be missing, so look at everything once it is over."""
        if not self._leader.working:
            return
        if self._gap_timer is not None:
            self._gap_timer.cancel()
        self._gap_timer = asyncio.get_running_loop().call_later(GAP_SECONDS, self._leader.relist_soon)

    def _wait_no_more(self) -> None:
        """There is no first look of ours to wait for."""
        self._seen.set()
        self._settled.set()

    async def _beside_leading(self) -> None:
        self._seen.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publish())
            await self._queue.idle()
            self._settled.set()

    async def _publish(self) -> None:
        await self._can_relay.wait()
        assert self._relay is not None
        # It ends by cancellation, together with everything else that the leader runs.
        await self._relay.run(stop=asyncio.Event(), wake=self._ledger.outbox_written)


class _Signals:
    """SIGTERM and SIGINT set `stop`."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()

    def __enter__(self) -> _Signals:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        for number in _STOPPING:
            asyncio.get_running_loop().remove_signal_handler(number)

    def take(self) -> None:
        """Have the signals delivered to us, whoever took them meanwhile."""
        for number in _STOPPING:
            asyncio.get_running_loop().add_signal_handler(number, self._note, number)

    def _note(self, number: signal.Signals) -> None:
        _log.info("stopping", signal=number.name)
        self.stop.set()


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """What is listed at the start has no cycles, and to look for some takes as long as to decode it."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def _until(event: asyncio.Event) -> None:
    await event.wait()


async def _first(tasks: tuple[asyncio.Task[None], ...]) -> None:
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
