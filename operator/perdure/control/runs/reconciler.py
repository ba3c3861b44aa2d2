"""One pass over one run: observe, decide, commit, act, project.

Commit comes before act, so that a crash between them leaves a decision to be carried out, never an action
without one. A pass that fails anywhere is repeated as a full pass; after a write whose outcome is unknown
the run is read again from the ledger.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.cluster_cache.store import Root, Store
from perdure.control.live_run import Agenda, LiveRun
from perdure.control.ports import KubePort, LedgerPort
from perdure.control.queue.slots import Slots
from perdure.control.runs.actuator import BLOCKED_RETRY, Actuator
from perdure.control.runs.admission import Waits, accept, refusal
from perdure.control.runs.cleanup import Cleanup
from perdure.control.runs.desired_state import desired_state
from perdure.control.runs.executor import Executors
from perdure.control.runs.observer import Observer
from perdure.control.status.backfill import find_unreported, status_differs
from perdure.control.status.kube_events import KubeEvents
from perdure.control.status.pending import (
    more_is_due_in,
    write_of_unavailable,
    write_of_waiting,
    writes_of_live,
)
from perdure.control.status.status_writer import StatusWrite, StatusWriter
from perdure.domain.admission.accept import Refused
from perdure.domain.engine.decide import Decision, decide
from perdure.domain.engine.observed import Observed
from perdure.domain.engine.plan import compile_plan
from perdure.domain.engine.view import RunView
from perdure.domain.phases import Reason
from perdure.domain.records import (
    CachedResult,
    Commit,
    Committed,
    LedgerError,
    LedgerUnavailable,
    RunState,
    TaskKey,
    VersionConflict,
    Wake,
)
from perdure.kube.errors import ApiError

#: Seconds until the API server is asked whether what was made for an attempt that is to leave is gone.
STOPPED_RECHECK = 0.1
#: Seconds until the API server is asked again for the object of a live run that could not be read.
UNREADABLE_RECHECK = 30.0
#: Seconds between passes over a run that waits for a template; its creation is noticed at once.
TEMPLATE_RECHECK = 5.0

_log = structlog.get_logger(__name__)


class Reconciler:
    """Keeps the live runs and takes them forward. Used by one leader at a time, under its epoch."""

    def __init__(
        self,
        *,
        store: Store,
        kube: KubePort,
        ledger: LedgerPort,
        executors: Executors,
        announcer: KubeEvents,
        clock: Callable[[], datetime],
        status_interval: float,
        template_timeout: float,
        slots: Slots,
        wake: Callable[[RunKey], None],
    ) -> None:
        """`wake` has a run reconciled soon, because of what happened to another."""
        self._store = store
        self._kube = kube
        self._ledger = ledger
        self._observer = Observer(store=store, ledger=ledger, executors=executors)
        self._executors = executors
        self._actor = Actuator(ledger=ledger, executors=executors)
        self._cleanup = Cleanup(store=store, kube=kube, executors=executors)
        self._announcer = announcer
        self._clock = clock
        self._template_timeout = timedelta(seconds=template_timeout)
        self.status_writer = StatusWriter(kube=kube, source=self, interval=status_interval, clock=clock)
        self._slots = slots
        self._wake = wake
        self.epoch = 0
        self.live: dict[str, LiveRun] = {}
        self._live_of: dict[RunKey, LiveRun] = {}
        #: Runs that wait for templates: since when, and what to say meanwhile.
        self._waiting: dict[RunKey, tuple[datetime, Waits]] = {}
        #: Runs that could not be taken forward because the ledger is away, and are to say so.
        self.unavailable: set[RunKey] = set()

    def forget(self) -> None:
        """Know of no run any more, and write about none: another leader may have taken them forward."""
        self.status_writer.close()
        self.live.clear()
        self._live_of.clear()
        self._waiting.clear()
        self._slots.clear()
        self.unavailable.clear()

    @property
    def leaving(self) -> list[RunKey]:
        """Runs that have ended, and of which something was still to be deleted."""
        return self._cleanup.pending_runs

    def restore(self, states: list[RunState]) -> list[RunKey]:
        """Take over the live runs of the ledger.

        A run that cannot be taken over is logged and left out: its own passes try again, and the other runs
        begin.
        """
        for state in states:
            key = RunKey(state.run.kind, state.run.namespace, state.run.name)
            try:
                self._keep(key, state)
            except Exception:
                _log.exception("run cannot be restored, and is left out at the start", run=key)
        return list(self._live_of)

    def note_wake(self, wake: Wake | None) -> list[RunKey]:
        """Agents wrote about a run (about any, if None). Returns the runs to reconcile."""
        if wake is None:
            woken = list(self.live.values())
        else:
            woken = [self.live[wake.uid]] if wake.uid in self.live else []
        for live in woken:
            live.agenda.ask_ledger = True
        keys = [live.key for live in woken]
        # None also comes when the ledger is back: those that waited for it need not wait any longer.
        return keys if wake is not None else [*keys, *self.unavailable]

    def note_template(self, namespace: str, name: str) -> list[RunKey]:
        """An AgentTemplate or WorkflowTemplate has come. Returns the runs that wait for one of that name."""
        return [key for key, (_, waits) in self._waiting.items() if (namespace, name) in waits.templates]

    def request_full_pass(self) -> list[RunKey]:
        """After a gap in what was seen: everything may have changed. Returns all live runs."""
        for live in self.live.values():
            live.agenda.request_full_pass()
            objects = self._store.of(live.key).tasks
            # The object of a task may have been unknown here when there was something to write about it.
            live.published.mark_dirty(status_differs(live.view.tasks.values(), objects), self._clock())
        return list(self._live_of)

    async def reconcile(self, key: RunKey) -> float | None:
        """Take a run as far as it goes. Returns the seconds until the next pass, None for never.

        Raises ApiError and LedgerError for the caller to repeat it later.
        """
        root = self._store.roots.get(key)
        live = self._live_of.get(key)
        if live is not None and live.agenda.stale:
            live = await self._read_again(live)
        if live is not None and (root is None or root.uid != live.uid):
            if not live.view.run.phase.terminal:
                if await self._is_there(live):
                    # The store has an earlier object of the same name, or nothing yet.
                    if self._knows(live):
                        return 0.0
                    return UNREADABLE_RECHECK if self._store.is_unreadable(key, live.uid) else STOPPED_RECHECK
                await self._end_deleted(live)
            self._drop(live)
            live = None
        if root is None:
            self._waiting.pop(key, None)
            self._cleanup.forget(key)
            return None
        if root.finished:
            if live is not None:
                if not live.view.run.phase.terminal:
                    # A ledger that was restored is older than the cluster. What has ended stays ended.
                    _log.warning("ended in the cluster, live in the ledger: ended there, too", run=key)
                    await self._end_deleted(live)
                self._drop(live)
            if self._store.has_undecided_pods(key):
                await self._decide_pods(root)
            return await self._cleanup.clean_finished(key, self._clock())
        if live is None:
            live, delay = await self._open(root)
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
        self.unavailable.discard(key)
        shown = live.published.written_status.get((key.kind, key.name), {}).get("phase")
        self.status_writer.mark(key, urgent=shown != live.view.run.phase.value)
        return delay

    def note_unavailable(self, key: RunKey) -> None:
        """The ledger is away: say so in the run's status."""
        if key not in self.unavailable and key in self._store.roots:
            self.unavailable.add(key)
            self.status_writer.mark(key)

    # --- the pass

    async def _advance(self, live: LiveRun, root: Root) -> float | None:
        if live.view.run.phase.terminal:
            return await self._cleanup.tidy(live, self._clock())
        try:
            requeue_at, wants = await self._decide_and_act(live, root)
        except LedgerUnavailable:
            # Whether what was to be committed took effect is not known: then its attempts are open.
            most = live.view.slots + self._slots.reserved(live.uid)
            self._wake_all(self._slots.settle(live.uid, most, 0))
            raise
        except BaseException:
            # A pass that failed wants nothing: what it cannot take now must not be kept from others.
            self._wake_all(self._slots.settle(live.uid, live.view.slots, 0))
            raise
        self._wake_all(self._slots.settle(live.uid, live.view.slots, wants))
        delays = [] if requeue_at is None else [(requeue_at - self._clock()).total_seconds()]
        for key in sorted(live.objects.stopping):
            if await self._actor.stop(live, key):
                delays.append(STOPPED_RECHECK)
        if live.agenda.retry_blocked_at is not None:
            delays.append((live.agenda.retry_blocked_at - self._clock()).total_seconds())
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
        while True:
            now = self._clock()
            observed = replace(
                observed,
                desired=desired_state(root, self._store.roots, self._live_of),
                slots=self._slots.grant(live.uid, run.namespace, view.plan.priority, run.created_at),
                signals=live.updates.signals,
            )
            decision = decide(view, observed, now)
            if decision.commit is not None:
                committed = await self._ledger.commit(decision.commit, epoch=self.epoch)
                self._take_over(live, decision.commit, committed)
                acting.update(task.key for task in decision.commit.tasks)
            acting.update(observed.pods)
            if live.agenda.retry_blocked_at is not None and live.agenda.retry_blocked_at <= now:
                acting.update(view.live & live.objects.blocked.keys())
            await self._actor.ensure(live, sorted(acting), epoch=self.epoch)
            acting.clear()
            live.agenda.retry_blocked_at = now + BLOCKED_RETRY if live.objects.blocked else None
            if live.objects.refusals:
                # The API server's refusal of a pod is an observation like any other.
                observed = await self._observer.observe(live, now)
            elif decision.questions:
                observed = replace(
                    observed.without_changes(), cached=await self._answers(live, decision, now)
                )
            else:
                # What is left to start of a large fan-out has its own pass: what happens meanwhile is seen.
                live.agenda.unmet_slots = decision.wants
                return (self._clock() if decision.more else decision.requeue_at), decision.wants

    async def _answers(
        self, live: LiveRun, decision: Decision, now: datetime
    ) -> dict[TaskKey, CachedResult | None]:
        """Whether there are results under the cache keys that a decision asks for."""
        keys = sorted(set(decision.questions.values()))
        found = await self._ledger.cached(live.key.namespace, keys, now)
        return {key: found.get(cache_key) for key, cache_key in decision.questions.items()}

    def _take_over(self, live: LiveRun, commit: Commit, committed: Committed) -> None:
        before = live.view.run.phase
        live.view.apply(commit, committed)
        live.updates.drop_consumed(commit.consumed)
        live.objects.index(commit.attempts)
        self._slots.hold(live.uid, live.key.namespace, live.view.slots)
        closed = [attempt for attempt in commit.attempts if attempt.closed_at is not None]
        live.objects.cleanup_candidates.update(attempt.pod_name for attempt in closed)
        live.published.mark_dirty((task.key for task in commit.tasks), self._clock())
        self._announcer.announce(live, commit, self._clock())
        for attempt in closed:
            follower = self._executors.of_attempt(live, attempt.key).follower(live, attempt)
            if follower is not None:
                self._wake(follower)
        if before is not commit.run.phase:
            self._wake_family(live)

    def _wake_family(self, live: LiveRun) -> None:
        """A run's phase has changed: its parent waits for that, and its children follow it."""
        if live.owner is not None:
            parent = self._live_of.get(live.owner)
            if parent is not None:
                parent.agenda.ask_children = True
            self._wake(live.owner)
        for child in self._store.owned_by(live.uid):
            if not child.finished:
                self._wake(child.key)

    def _wake_all(self, uids: list[str]) -> None:
        for uid in uids:
            live = self.live.get(uid)
            if live is not None:
                self._wake(live.key)
            else:
                # It was let go of meanwhile, and asks again when it is back.
                self._wake_all(self._slots.forget(uid))

    # --- opening and closing

    async def _open(self, root: Root) -> tuple[LiveRun | None, float | None]:
        """A run that is not in memory: known to the ledger, new, or not to be accepted (yet)."""
        state = await self._ledger.load(root.uid)
        if state is not None:
            return self._keep(root.key, state, root), None
        try:
            accepted = accept(root, self._store, self._executors.kinds)
        except Refused as refused:
            return await self._refuse(root, Reason.INVALID_CONFIG, str(refused)), None
        if isinstance(accepted, Waits):
            now = self._clock()
            since, _ = self._waiting.setdefault(root.key, (now, accepted))
            self._waiting[root.key] = (since, accepted)
            if now - since < self._template_timeout:
                self.status_writer.mark(root.key)
                left = (since + self._template_timeout - now).total_seconds()
                return None, min(TEMPLATE_RECHECK, left)
            return await self._refuse(root, Reason.TEMPLATE_NOT_FOUND, accepted.message), None
        self._waiting.pop(root.key, None)
        live = LiveRun(
            key=root.key, view=accepted, generation=root.generation, agenda=Agenda(ask_ledger=False)
        )
        self.live[root.uid] = live
        self._live_of[root.key] = live
        self._remember_root(live, root)
        return live, None

    async def _read_again(self, live: LiveRun) -> LiveRun | None:
        """A run as the ledger has it; None if it is there no more."""
        if live.agenda.unsettled:
            # Else what is not committed now might be later, and its slots be another run's by then.
            await self._ledger.fence_commits(live.uid, epoch=self.epoch)
            live.agenda.unsettled = False
        state = await self._ledger.load(live.uid)
        if state is not None:
            return self._keep(live.key, state)
        if live.view.run.version > 0:
            self._drop(live)
            return None
        # It has not come to be there, and its first commit is repeated: of two only one takes effect. Until
        # then it keeps its slots.
        live.agenda.stale = False
        live.agenda.request_full_pass()
        return live

    async def _refuse(self, root: Root, reason: Reason, message: str) -> LiveRun:
        self._waiting.pop(root.key, None)
        commit = refusal(root, reason, message, self._clock())
        committed = await self._ledger.commit(commit, epoch=self.epoch)
        state = RunState(run=commit.run, steps={}, tasks={}, attempts={})
        live = self._keep(root.key, state, root)
        live.view.apply(commit, committed)
        self._announcer.announce(live, commit, self._clock())
        return live

    def _keep(self, key: RunKey, state: RunState, root: Root | None = None) -> LiveRun:
        snapshot = state.run.spec or _EMPTY_SNAPSHOT
        live = LiveRun(
            key=key,
            view=RunView(compile_plan(snapshot, self._executors.kinds), state),
            generation=state.run.generation,
        )
        live.objects.index(state.attempts.values())
        objects = self._store.of(key).tasks
        live.published.mark_dirty(
            (
                task.key
                for task in state.tasks.values()
                if task.name not in objects or objects[task.name].shown_phase != task.phase.value
            ),
            self._clock(),
        )
        self.live[live.uid] = live
        self._live_of[key] = live
        self._slots.hold(live.uid, key.namespace, live.view.slots)
        root = root or self._store.roots.get(key)
        if root is not None and root.uid == live.uid:
            self._remember_root(live, root)
        return live

    async def _decide_pods(self, root: Root) -> None:
        """Delete ended pods of a finished run that its retention does not keep. Raises ApiError, LedgerError.

        A pod's retention, and how its attempt ended, are known while the run is live. The final status does
        not wait for pods: the operator that knew may have stopped before a pod ended, or a pod may be
        observed only then. So the ledger is asked, once for each such pod.
        """
        state = await self._ledger.load(root.uid)
        if state is None or not state.run.phase.terminal or not state.run.spec:
            self._store.decide_pods(root.key)
            return
        view = RunView(compile_plan(state.run.spec, self._executors.kinds), state)
        live = LiveRun(key=root.key, view=view, generation=state.run.generation)
        live.objects.index(state.attempts.values())
        await self._cleanup.tidy(live, self._clock())
        self._cleanup.forget(root.key, live.uid)

    def _remember_root(self, live: LiveRun, root: Root) -> None:
        live.owner = root.owner
        if root.status:
            live.published.written_status[root.key.kind, root.key.name] = dict(root.status)

    async def _is_there(self, live: LiveRun) -> bool:
        """Whether the run's object exists: the API server itself has to say that it was deleted."""
        there = await self._kube.find(live.key.kind, live.key.namespace, live.key.name)
        if there is None:
            return False
        self._store.apply(live.key.kind, there)
        return bool(there["metadata"]["uid"] == live.uid)

    def _knows(self, live: LiveRun) -> bool:
        root = self._store.roots.get(live.key)
        return root is not None and root.uid == live.uid

    async def _end_deleted(self, live: LiveRun) -> None:
        observed = Observed(deleted=True, pods=self._observer.seen(live))
        decision = decide(live.view, observed, self._clock())
        if decision.commit is None or not live.view.run.version:
            return
        try:
            await self._ledger.commit(decision.commit, epoch=self.epoch)
        except (VersionConflict, LedgerUnavailable) as error:
            # An agent was faster, or it may have been written: the next pass must not go by what we know.
            live.agenda.mark_unknown(error)
            raise
        self._wake_family(live)

    def _drop(self, live: LiveRun) -> None:
        self.live.pop(live.uid, None)
        if self._live_of.get(live.key) is live:
            del self._live_of[live.key]
        self._cleanup.forget(live.key, live.uid)
        self._wake_all(self._slots.forget(live.uid))
        self.status_writer.forget(live.key)

    # --- statuses (see status_writer.StatusSource)

    def statuses(self, key: RunKey, now: datetime, *, patience: timedelta) -> list[StatusWrite]:
        """What is to be written about a run: its own status, and those of its tasks that changed."""
        root = self._store.roots.get(key)
        if root is None or root.finished:
            return []
        live = self.live.get(root.uid)
        if key in self.unavailable and (live is None or live.agenda.stale):
            return [write_of_unavailable(root, now)]
        over = live is not None and live.view.run.phase.terminal
        if live is not None and over and (not live.published.backfilled or self._cleanup.behind(live)):
            return []  # once its end is written the run is not reconciled again
        if live is not None:
            return writes_of_live(live, root, self._store, now, patience=patience)
        if key in self._waiting:
            return [write_of_waiting(root, self._waiting[key][1].message, now)]
        return []

    def written(self, key: RunKey, now: datetime, *, patience: timedelta) -> float | None:
        """The statuses are written. After a run's last one, nothing of it needs to be kept."""
        live = self._live_of.get(key)
        if live is not None and live.view.run.phase.terminal and not live.published.dirty:
            root = self._store.roots.get(key)
            shown = live.published.written_status.get((key.kind, key.name), {})
            if root is None or shown.get("phase") == live.view.run.phase.value:
                self._drop(live)
        if live is None or self._cleanup.behind(live):
            return None
        return more_is_due_in(live, now, patience=patience)


#: A refused run has no plan.
_EMPTY_SNAPSHOT: dict[str, Any] = {
    "inputs": {},
    "parallelism": None,
    "retention": {"ttlAfterFinished": "168h"},
    "steps": [],
    "outputs": {},
}
