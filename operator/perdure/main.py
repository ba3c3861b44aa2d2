"""The two processes, operator and gateway: their connections, signals, probes and shutdown.

Everything that lives as long as a process is opened here in the order of need, and closed in the reverse
order. The reconcilers are assembled in `control/loop.py`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from perdure.import_guards import without_authorities

with without_authorities():
    import aiohttp  # noqa: F401 - before others import it

from perdure.aio import wait_for_event
from perdure.api import API_VERSION
from perdure.control.cluster_cache.relist import selected
from perdure.control.cluster_cache.store import KINDS, POD
from perdure.control.evaluation.pool import EvaluationPool
from perdure.control.loop import ControlLoop, LeaseOptions, LoopOptions
from perdure.control.pass_journal import PassJournal
from perdure.domain.records import AGENT_TASK
from perdure.kube.authority_file import AuthorityFile
from perdure.kube.client import KubeClient
from perdure.kube.errors import ApiError
from perdure.kube.recorder import EventRecorder
from perdure.kube.reflector import Selection, reflect
from perdure.ledger import Ledger, watch_start
from perdure.loop_watch import watch_loop
from perdure.settings import Settings
from perdure.steps import KINDS as STEP_KINDS

if TYPE_CHECKING:
    from perdure.bus.connection import Bus
    from perdure.bus.relay import Relay

#: Seconds that a stopping operator may take, within its pod's grace of 30.
SHUTDOWN_SECONDS = 20.0
#: Seconds for which probes, relay and watches wait at the start until the leader has reconciled every run.
#: Importing and starting kopf takes longer than all first decisions together, and would delay them.
SETTLE_WITHIN = 2.0
#: Seconds for which the watches wait for the leader's first full relist, which a long history makes longer.
#: The watches read as much as the relist does, and their events are of use only after it.
WATCH_WITHIN = 60.0

#: Kinds that runs create by the thousand, followed by reflectors of our own. Jobs are not followed: their
#: pods carry all that is needed of them.
FOLLOWED = (POD, AGENT_TASK)

_STOPPING = (signal.SIGTERM, signal.SIGINT)

_log = structlog.get_logger(__name__)


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


async def run_gateway(settings: Settings) -> None:
    """The gateway process, until SIGTERM."""
    # Imported here: these imports are a quarter of the start-up time of an operator, which needs neither.
    from perdure.gateway.server import serve
    from perdure.kube.tokens import TokenVerifier

    # Imported modules are never freed: without this every full collection would traverse them.
    gc.freeze()
    with _Signals() as signals:
        ledger = Ledger(settings.database_url.get_secret_value(), pool_size=settings.database_pool_size)
        kube = KubeClient.from_config(settings.kubeconfig)
        async with kube, ledger, _checked_database(settings, signals.stop):
            verifier = TokenVerifier(kube.raw_get, audience=settings.token_audience)
            async with _watched_loop(settings):
                await serve(settings, ledger=ledger, verifier=verifier, stop=signals.stop)


async def run_operator(settings: Settings) -> None:
    """The operator process, until SIGTERM. Raises what a watch or another part of it fails with for good."""
    # Imported modules are never freed: without this every full collection would traverse them.
    gc.freeze()
    if settings.kubeconfig:
        os.environ["KUBECONFIG"] = settings.kubeconfig  # which kopf reads
    async with AsyncExitStack() as stack:
        signals = stack.enter_context(_Signals())
        kube = await stack.enter_async_context(KubeClient.from_config(settings.kubeconfig))
        ledger = await stack.enter_async_context(
            Ledger(settings.database_url.get_secret_value(), pool_size=settings.database_pool_size)
        )
        await stack.enter_async_context(_checked_database(settings, signals.stop))
        operator = _Operator(settings, kube=kube, ledger=ledger, stack=stack)
        await operator.run(signals)


class _Operator:
    """The operator process: the control loop, its watches, the relay and the probes."""

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
        self._watching = asyncio.Event()
        #: Selections that are followed without kopf and have not been listed yet.
        self._unlisted = set(selected(FOLLOWED, settings.watch_namespaces))
        #: Selections in namespaces that may not be read.
        self._refused: set[Selection] = set()
        self._recorder = EventRecorder(kube, instance=settings.identity, enabled=settings.kubernetes_events)
        self._evaluations = EvaluationPool()
        self._loop = ControlLoop(
            kube,
            ledger,
            utc_now,
            _loop_options(settings),
            kinds=STEP_KINDS,
            evaluator=self._evaluations,
            recorder=self._recorder,
            journal=PassJournal.open(Path(settings.state_dir) / f"perdure-{settings.identity}.pass"),
            while_leading=self._publish,
        )

    async def run(self, signals: _Signals) -> None:
        """Lead when elected, watch always."""
        stop = signals.stop
        ending = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._recorder.run())
            evaluating = group.create_task(self._evaluations.run())
            leading = group.create_task(self._loop.lead(stop))
            stopping = group.create_task(_until(stop))
            stopping.add_done_callback(lambda _: self._loop.stop_waiting())
            with _nothing_collected():
                bus = await self._start_rest(group, ending)
            from perdure.kopf_watch import listen

            watching = group.create_task(
                listen(
                    self._loop.handle_event,
                    on_gap=self._loop.handle_gap,
                    kinds=[kind for kind in KINDS if kind not in FOLLOWED],
                    namespaces=self._settings.watch_namespaces,
                    served=self._served,
                    stop=ending,
                    on_start=signals.take,
                    ready=self._watching,
                )
            )
            # Watches continue from the lists of the leader: listing again would read the whole cluster twice.
            listed = self._loop.listed
            followed, self._unlisted = self._unlisted, self._unlisted - listed.keys()
            followers = [
                group.create_task(
                    reflect(
                        self._kube,
                        selection,
                        on_event=partial(self._loop.handle_event, selection.kind),
                        on_list=partial(self._note_list, selection),
                        is_ours=self._loop.is_own_create,
                        on_refused=partial(self._note_refused, selection),
                        version=listed.get(selection, ""),
                    )
                )
                for selection in sorted(followed, key=str)
            ]
            await _first((watching, group.create_task(_until(self._watching))))
            # An object deleted between the leader's relist and the first list of a watch is in neither.
            self._loop.handle_gap()
            # Start-up imports and lists a whole cluster: the watch begins when that is over.
            async with _watched_loop(self._settings):
                await _first((watching, stopping))
            stop.set()
            try:
                async with asyncio.timeout(SHUTDOWN_SECONDS):
                    await leading
            except TimeoutError:
                # Workers that do not stop must not go on writing after the Lease has ended.
                _log.error("workers did not stop in time; leaving at once")
                os._exit(1)
            self._recorder.close()
            evaluating.cancel()
            await asyncio.wait([evaluating])
            for follower in followers:
                follower.cancel()
            await asyncio.wait(followers)
            await bus.close()
            ending.set()

    async def _start_rest(self, group: asyncio.TaskGroup, ending: asyncio.Event) -> Bus:
        """Start probes and relay once the leader has settled, then wait until it has seen the cluster.

        Returns the relay's connection to NATS, established or still being established.
        """
        await wait_for_event(self._loop.settled, SETTLE_WITHIN)
        from perdure.bus.connection import Bus
        from perdure.bus.relay import Relay
        from perdure.bus.stream import StreamLimits
        from perdure.health import Health, serve_health

        def watches_started() -> bool:
            return self._watching.is_set() and not (self._unlisted - self._refused)

        health = Health(
            alive=lambda: None,
            ready=lambda: None if watches_started() else "the watches have not started",
            findings=self._loop.findings,
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
        if not self._loop.seen.is_set():
            await wait_for_event(self._loop.seen, WATCH_WITHIN)
            await wait_for_event(self._loop.settled, SETTLE_WITHIN)
        return bus

    async def _served(self, kinds: Collection[str]) -> bool:
        """Whether the API server serves these kinds of Perdure. Raises ApiError."""
        found = await self._kube.raw_get(f"/apis/{API_VERSION}")
        return set(kinds) <= {resource.get("kind") for resource in found.get("resources") or ()}

    def _note_refused(self, selection: Selection, _: ApiError) -> None:
        # A namespace that may not be read must not keep the operator from being ready for all others.
        if selection.namespace is not None:
            self._refused.add(selection)

    def _note_list(self, selection: Selection) -> None:
        self._refused.discard(selection)
        self._unlisted.discard(selection)
        self._loop.handle_gap()

    async def _publish(self) -> None:
        await self._can_relay.wait()
        assert self._relay is not None
        # The relay ends by cancellation, together with everything else that the leader runs.
        await self._relay.run(stop=asyncio.Event(), wake=self._ledger.outbox_written)


def _no_authority() -> str | None:
    return None


def _loop_options(settings: Settings) -> LoopOptions:
    authority = settings.gateway_ca_file
    return LoopOptions(
        identity=settings.identity,
        gateway_url=settings.gateway_url,
        gateway_ca=_no_authority if authority is None else AuthorityFile(authority).read,
        audience=settings.token_audience,
        namespaces=settings.watch_namespaces,
        workers=settings.workers,
        max_running_tasks=settings.max_running_tasks,
        max_running_tasks_per_namespace=settings.max_running_tasks_per_namespace,
        relist_interval=settings.sweep_interval,
        status_interval=settings.status_interval,
        template_timeout=settings.template_timeout,
        lease=LeaseOptions(
            namespace=settings.namespace,
            name=settings.lease_name,
            duration=settings.lease_duration,
            renew_deadline=settings.lease_renew_deadline,
            retry=settings.lease_retry,
        ),
    )


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
        """Install our handlers again after another library has replaced them."""
        for number in _STOPPING:
            asyncio.get_running_loop().add_signal_handler(number, self._note, number)

    def _note(self, number: signal.Signals) -> None:
        _log.info("stopping", signal=number.name)
        self.stop.set()


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """No garbage collection during the first relist: the decoded objects have no cycles.

    Collections would take as long as decoding the lists does.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@asynccontextmanager
async def _watched_loop(settings: Settings) -> AsyncIterator[None]:
    """The watch over the event loop, where the settings ask for it."""
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(watch_loop(settings.loop_watch)) if settings.loop_watch else None
        try:
            yield
        finally:
            if watch is not None:
                watch.cancel()


@asynccontextmanager
async def _checked_database(settings: Settings, stop: asyncio.Event) -> AsyncIterator[None]:
    """The check of what Postgres must be, next to the work.

    A server that is refused sets `stop`; DatabaseRefused is raised once the work has ended.
    """
    checking = asyncio.create_task(
        watch_start(
            settings.database_url.get_secret_value(),
            enforce=settings.database_checks == "enforce",
            on_refused=stop.set,
        )
    )
    try:
        yield
    finally:
        checking.cancel()
        await asyncio.wait([checking])
    if not checking.cancelled():
        checking.result()


async def _until(event: asyncio.Event) -> None:
    await event.wait()


async def _first(tasks: tuple[asyncio.Task[None], ...]) -> None:
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
