"""One pass over one run: observe, decide, commit, act; then its statuses are due.

Commit comes before act, so that a crash between them leaves a decision to be carried out, never an action
without one. A pass that fails anywhere is repeated as a full pass; after a write whose outcome is unknown
the run is read again from the ledger.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

import structlog

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.cluster_cache.run_objects import Root, is_behind
from perdure.control.cluster_cache.store import Store
from perdure.control.live_run import LiveRun
from perdure.control.ports import KubePort, LedgerPort
from perdure.control.queue.slots import Slots
from perdure.control.runs.actuator import Actuator
from perdure.control.runs.cleanup import Cleanup
from perdure.control.runs.closing import Closer
from perdure.control.runs.desired_state import desired_state
from perdure.control.runs.evaluations import PassEvaluations
from perdure.control.runs.executor import Executors
from perdure.control.runs.live_runs import LiveRuns
from perdure.control.runs.observer import Observer
from perdure.control.runs.opening import Opener
from perdure.control.runs.payloads import PayloadReader, RunEvaluator
from perdure.control.runs.pod_warnings import PodWarnings
from perdure.control.status.backfill import find_unreported
from perdure.control.status.kube_events import KubeEvents
from perdure.control.status.status_writer import StatusWriter
from perdure.control.status.unheard import note_unheard
from perdure.domain.engine.decide import Decision, decide
from perdure.domain.engine.observed import Observed
from perdure.domain.records import (
    CachedResult,
    Commit,
    Committed,
    LedgerError,
    LedgerUnavailable,
    TaskKey,
    VersionConflict,
)
from perdure.kube.errors import ApiError

#: Seconds until the API server is asked whether the objects of an attempt that is stopping are deleted.
STOPPED_RECHECK = 0.1
#: Seconds until the API server is asked again for the object of a live run that could not be read.
UNREADABLE_RECHECK = 30.0

_log = structlog.get_logger(__name__)


class Reconciler:
    """Takes runs forward, one pass at a time. Used by one leader at a time, under its epoch."""

    def __init__(
        self,
        *,
        store: Store,
        kube: KubePort,
        ledger: LedgerPort,
        executors: Executors,
        evaluator: RunEvaluator,
        payloads: PayloadReader,
        kube_events: KubeEvents,
        clock: Callable[[], datetime],
        template_timeout: float,
        slots: Slots,
        runs: LiveRuns,
        cleanup: Cleanup,
        status_writer: StatusWriter,
        wake: Callable[[RunKey], None],
    ) -> None:
        """`wake` has a run reconciled soon, because of a change to another run."""
        kinds = executors.kinds
        self._store = store
        self._kube = kube
        self._ledger = ledger
        self._observer = Observer(store=store, ledger=ledger, executors=executors)
        self._executors = executors
        self._actuator = Actuator(ledger=ledger, executors=executors, wake=wake)
        self._warnings = PodWarnings(store=store, kube=kube)
        self._payloads = payloads
        self._evaluations = PassEvaluations(evaluator, wake)
        self._cleanup = cleanup
        self._kube_events = kube_events
        self._clock = clock
        self._status_writer = status_writer
        self._slots = slots
        self._runs = runs
        self._wake = wake
        self._opener = Opener(
            store=store,
            ledger=ledger,
            kinds=kinds,
            runs=runs,
            status_writer=status_writer,
            kube_events=kube_events,
            clock=clock,
            template_timeout=template_timeout,
        )
        self._closer = Closer(
            store=store,
            kube=kube,
            ledger=ledger,
            kinds=kinds,
            runs=runs,
            observer=self._observer,
            cleanup=cleanup,
            clock=clock,
        )
        self.epoch = 0

    async def close(self) -> None:
        """Cancel what is under way outside of passes, at the end of leadership."""
        await self._actuator.close()
        await self._evaluations.close()

    async def reconcile(self, key: RunKey) -> float | None:
        """Take a run as far as it goes. Returns the seconds until the next pass, None for never.

        Raises ApiError and LedgerError for the caller to repeat it later.
        """
        root = self._store.roots.get(key)
        live = self._runs.by_key.get(key)
        if live is not None and live.agenda.stale:
            live = await self._opener.read_again(live, epoch=self.epoch)
        if live is not None and (root is None or root.uid != live.uid):
            if not live.view.run.phase.terminal:
                if await self._closer.object_exists(live):
                    # The store has an earlier object of the same name, or nothing yet.
                    if self._closer.is_cached(live):
                        return 0.0
                    unreadable = self._store.unreadable.has(key, live.uid)
                    return UNREADABLE_RECHECK if unreadable else STOPPED_RECHECK
                if await self._closer.end(live, epoch=self.epoch):
                    # What a run has created is stopped at once, also where no garbage collector comes for it.
                    await self._cleanup.tidy(live, self._clock())
            self._runs.drop(live)
            live = None
        orphans_due = await self._cleanup.stop_orphans(key, live) if self._store.has_orphans(key) else None
        if root is None:
            self._runs.stop_waiting(key)
            await self._cleanup.clean_deleted(key)
            return orphans_due
        if root.finished:
            if live is not None:
                if not live.view.run.phase.terminal:
                    # A ledger that was restored is older than the cluster. What has ended stays ended.
                    _log.warning("ended in the cluster, live in the ledger: ended there, too", run=key)
                    await self._closer.end(live, epoch=self.epoch)
                self._runs.drop(live)
            if is_behind(root) or key in self._store.altered:
                await self._closer.write_again(root)
            if self._store.has_undecided_pods(key):
                await self._closer.decide_pods(root)
            return await self._cleanup.clean_finished(key, self._clock())
        if live is None:
            live, delay = await self._opener.open(root, epoch=self.epoch)
            if live is None:
                return delay
        live.generation = root.generation
        try:
            delay = await self._advance(live, root)
            if live.view.run.phase.terminal:
                await find_unreported(live, store=self._store, kube=self._kube, now=self._clock())
        except (VersionConflict, LedgerUnavailable) as error:
            live.agenda.mark_unknown(error)
            raise
        except (ApiError, LedgerError):
            live.agenda.request_full_pass()
            raise
        except BaseException:
            # A defect may have left the view half changed, or a commit with an unknown outcome.
            live.agenda.stale = live.agenda.unsettled = True
            raise
        self._runs.note_available(key)
        live.published.mark_dirty(live.published.changed, self._clock())
        live.published.changed.clear()
        written = live.published.written_status.get((key.kind, key.name), {}).get("phase")
        self._status_writer.mark(key, urgent=written != live.view.run.phase.value)
        return delay

    async def _advance(self, live: LiveRun, root: Root) -> float | None:
        if live.view.run.phase.terminal:
            return await self._cleanup.tidy(live, self._clock())
        try:
            requeue_at, wants = await self._decide_and_act(live, root)
        except LedgerUnavailable:
            # Whether what was to be committed took effect is not known: then its attempts are open.
            most = live.view.slots + self._slots.reserved(live.uid)
            self._runs.wake(self._slots.settle(live.uid, most, 0))
            raise
        except BaseException:
            # A pass that failed wants nothing: what it cannot take now must not be kept from others.
            self._runs.wake(self._slots.settle(live.uid, live.view.slots, 0))
            raise
        self._runs.wake(self._slots.settle(live.uid, live.view.slots, wants))
        delays = [] if requeue_at is None else [(requeue_at - self._clock()).total_seconds()]
        for key in sorted(live.objects.stopping):
            if await self._actuator.stop(live, key):
                delays.append(STOPPED_RECHECK)
        warnings_due = await self._warnings.refresh(live, self._clock())
        unheard_due = note_unheard(live, self._clock())
        if unheard_due is not None:
            delays.append((unheard_due - self._clock()).total_seconds())
        if warnings_due is not None:
            delays.append((warnings_due - self._clock()).total_seconds())
        if live.agenda.retry_blocked_at is not None:
            delays.append((live.agenda.retry_blocked_at - self._clock()).total_seconds())
        if live.objects.recheck:
            delays.append((min(live.objects.recheck.values()) - self._clock()).total_seconds())
        tidy_again = await self._cleanup.tidy(live, self._clock())
        if tidy_again is not None:
            delays.append(tidy_again)
        return max(0.0, min(delays)) if delays else None

    async def _decide_and_act(self, live: LiveRun, root: Root) -> tuple[datetime | None, int]:
        """Decide until there is nothing more to do now. Returns when time alone changes something, and how
        many attempts wait for slots."""
        view, run = live.view, live.view.run
        acting = set(view.live) if live.agenda.full_pass else set()
        children = self._store.of(live.key)
        live.agenda.ask_children |= children.children_changed
        children.children_changed = False
        observed = await self._observer.observe(live, self._clock())
        self._note_waiting(live, observed)
        while True:
            now = self._clock()
            observed = replace(
                observed,
                desired=desired_state(root, self._store.roots, self._runs.by_key),
                slots=self._slots.grant(live.uid, run.namespace, view.plan.settings.priority, run.created_at),
                signals=live.updates.signals,
                answers=live.evaluations.answers,
                deleted=root.leaving,
            )
            decision = decide(view, observed, now)
            if decision.commit is not None:
                committed = await self._ledger.commit(decision.commit, epoch=self.epoch)
                self._take_over(live, decision.commit, committed)
                acting.update(task.key for task in decision.commit.tasks)
            if not decision.held:
                acting.update(observed.pods)
            await self._actuator.ensure(live, sorted(acting), now=now, epoch=self.epoch)
            acting.clear()
            if not await self._evaluations.answer(live, decision):
                return (now if decision.more else decision.requeue_at), decision.wants
            if decision.held:
                continue
            if live.objects.refusals or live.objects.adopted:
                # The API server's refusal of a pod is an observation like any other. So is a pod that an
                # earlier creation left behind: no event may ever follow.
                observed = await self._observer.observe(live, now)
            elif decision.questions or decision.requests:
                cached = await self._answers(live, decision, now) if decision.questions else {}
                observed = replace(observed.without_changes(), cached=cached)
            else:
                # What is left to start of a large fan-out has its own pass: what happens meanwhile is seen.
                live.agenda.unmet_slots = decision.wants
                return (self._clock() if decision.more else decision.requeue_at), decision.wants

    def _note_waiting(self, live: LiveRun, observed: Observed) -> None:
        """A pod that has changed may say why its agent waits: its task's status follows."""
        self._warnings.note_pods(live, observed.pods, self._clock())
        for key in observed.pods:
            if live.view.attempts[key].started_at is None:
                live.published.changed.add(key)

    async def _answers(
        self, live: LiveRun, decision: Decision, now: datetime
    ) -> dict[TaskKey, CachedResult | None]:
        """Whether there are results under the cache keys that a decision asks for."""
        keys = sorted(set(decision.questions.values()))
        found = await self._ledger.cached(live.key.namespace, keys, now)
        return {key: found.get(cache_key) for key, cache_key in decision.questions.items()}

    def _take_over(self, live: LiveRun, commit: Commit, committed: Committed) -> None:
        before = live.view.run.phase
        self._payloads.keep(commit)
        live.view.apply(commit, committed)
        live.updates.drop_consumed(commit.consumed)
        live.objects.index(commit.attempts)
        self._slots.hold(live.uid, live.key.namespace, live.view.slots)
        closed = [attempt for attempt in commit.attempts if attempt.closed_at is not None]
        live.objects.cleanup_candidates.update(attempt.pod_name for attempt in closed)
        live.published.mark_dirty((task.key for task in commit.tasks), self._clock())
        self._kube_events.announce(live, commit, self._clock())
        if closed:
            self._actuator.note_ended(live, self._clock())
        for attempt in closed:
            follower = self._executors.of_attempt(live, attempt.key).follower(live, attempt)
            if follower is not None:
                self._wake(follower)
        if commit.run.phase.terminal:
            # From now on a final status of the run's object is our own.
            self._store.working.discard(live.uid)
        if before is not commit.run.phase:
            self._runs.wake_family(live)
