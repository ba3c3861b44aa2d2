"""One pass over one run: observe, decide, commit, act, project.

Commit comes before act, so that a crash between them leaves a decision to be carried out, never an action
without one. A pass that fails anywhere is repeated, looking at everything; after a write whose outcome is
unknown the run is read anew from the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog

from perdure.control.acceptance import Waits, accept, refusal
from perdure.control.actor import HELD_UP_RETRY, Actor
from perdure.control.announcer import Announcer
from perdure.control.keys import RunKey
from perdure.control.live import LiveRun
from perdure.control.observer import Observer
from perdure.control.ports import KubePort, LedgerPort
from perdure.control.projection import refused_status, task_status, workflow_status
from perdure.control.projector import Projector, StatusWrite
from perdure.control.store import POD, Root, Store
from perdure.domain.accept import Refused
from perdure.domain.decide import decide
from perdure.domain.observed import Observed
from perdure.domain.phases import Phase, Reason
from perdure.domain.plan import compile_plan
from perdure.domain.records import (
    AGENT_TASK,
    NO_INDEX,
    WORKFLOW,
    Commit,
    Committed,
    LedgerError,
    LedgerUnavailable,
    RunState,
    TaskKey,
    VersionConflict,
)
from perdure.domain.view import RunView
from perdure.kube.errors import ApiError

#: How long an agent may take to leave after its result was committed before its pod is deleted.
LINGER = timedelta(seconds=30)
#: Seconds between looks at a run that waits for a template; its arrival is noticed at once.
TEMPLATE_LOOK = 5.0
STANDALONE = TaskKey("", NO_INDEX)

_log = structlog.get_logger(__name__)


class Reconciler:
    """Keeps the live runs and takes them forward. Used by one leader at a time, under its epoch."""

    def __init__(
        self,
        *,
        store: Store,
        kube: KubePort,
        ledger: LedgerPort,
        actor: Actor,
        announcer: Announcer,
        clock: Callable[[], datetime],
        status_interval: float,
        template_timeout: float,
    ) -> None:
        self._store = store
        self._kube = kube
        self._ledger = ledger
        self._observer = Observer(store=store, kube=kube, ledger=ledger)
        self._actor = actor
        self._announcer = announcer
        self._clock = clock
        self._template_timeout = timedelta(seconds=template_timeout)
        self.projector = Projector(kube=kube, source=self, interval=status_interval, clock=clock)
        self.epoch = 0
        self.live: dict[str, LiveRun] = {}
        self._by_key: dict[RunKey, str] = {}
        #: Runs that wait for templates: since when, and what to say meanwhile.
        self._waiting: dict[RunKey, tuple[datetime, Waits]] = {}
        #: Finished runs whose pods are still leaving, and since when.
        self._ended: dict[RunKey, datetime] = {}
        #: Runs that could not be taken forward because the ledger is away, and are to say so.
        self.unavailable: set[RunKey] = set()

    def restore(self, states: list[RunState]) -> list[RunKey]:
        """Take over the live runs of the ledger, forgetting all that was known before."""
        self.live.clear()
        self._by_key.clear()
        self._waiting.clear()
        for state in states:
            run = state.run
            self._keep(RunKey(run.kind, run.namespace, run.name), state)
        return list(self._by_key)

    def note_wake(self, uid: str | None) -> list[RunKey]:
        """Agents wrote about a run (about any, if None). Returns the runs to look at."""
        woken = list(self.live.values()) if uid is None else [self.live[uid]] if uid in self.live else []
        for live in woken:
            live.ask_ledger = True
        keys = [live.key for live in woken]
        # None also comes when the ledger is back: those that waited for it need not wait any longer.
        return keys if uid is not None else [*keys, *self.unavailable]

    def note_template(self, namespace: str, name: str) -> list[RunKey]:
        """A template has come. Returns the runs that wait for it."""
        return [key for key, (_, waits) in self._waiting.items() if (namespace, name) in waits.templates]

    def look_at_all(self) -> list[RunKey]:
        """After a gap in what was seen: everything may have changed. Returns all live runs."""
        for live in self.live.values():
            live.look_at_all = live.ask_ledger = True
        return list(self._by_key)

    async def reconcile(self, key: RunKey) -> float | None:
        """Take a run as far as it goes. Returns the seconds after which to look again, None for never.

        Raises ApiError and LedgerError for the caller to repeat it later.
        """
        root = self._store.roots.get(key)
        live = self.live.get(self._by_key.get(key, ""))
        if live is not None and (root is None or root.uid != live.uid):
            await self._reconcile_deleted(live, root)
            live = None
        if root is None:
            self._waiting.pop(key, None)
            self._ended.pop(key, None)
            return None
        if root.finished:
            if live is not None:
                self._drop(live)
            return await self._after_end(key)
        if live is None:
            live, delay = await self._open(root)
            if live is None:
                return delay
        try:
            delay = await self._advance(live)
        except (VersionConflict, LedgerUnavailable):
            # What the ledger has is not what is here, or is not known: read it again.
            self._by_key.pop(key, None)
            self.live.pop(live.uid, None)
            raise
        except (ApiError, LedgerError):
            live.look_at_all = live.ask_ledger = True
            raise
        self.unavailable.discard(key)
        self.projector.mark(key, urgent=live.view.run.phase.terminal)
        return delay

    def note_unavailable(self, key: RunKey) -> None:
        """The ledger is away: say so in the run's status."""
        if key not in self.unavailable and key in self._store.roots:
            self.unavailable.add(key)
            self.projector.mark(key)

    # --- the pass

    async def _advance(self, live: LiveRun) -> float | None:
        view = live.view
        if view.run.phase.terminal:
            return None
        acting = set(view.live) if live.look_at_all else set()
        requeue_at: datetime | None = None
        observed = await self._observer.observe(live)
        while True:
            now = self._clock()
            decision = decide(view, observed, now)
            requeue_at = decision.requeue_at
            if decision.commit is not None:
                committed = await self._ledger.commit(decision.commit, epoch=self.epoch)
                self._take_over(live, decision.commit, committed)
                acting.update(task.key for task in decision.commit.tasks)
            acting.update(observed.pods)
            if live.ask_again_at is not None and live.ask_again_at <= now:
                acting.update(view.live & live.held_up.keys())
            await self._actor.ensure(live, sorted(acting), epoch=self.epoch)
            acting.clear()
            live.ask_again_at = now + HELD_UP_RETRY if live.held_up else None
            if live.refusals:
                # The API server's refusal of a pod is an observation like any other.
                observed = await self._observer.observe(live)
            elif decision.more:
                observed = Observed()
            else:
                break
        delays = [] if requeue_at is None else [(requeue_at - self._clock()).total_seconds()]
        if live.ask_again_at is not None:
            delays.append((live.ask_again_at - self._clock()).total_seconds())
        linger = await self._stop_lingering(live)
        if linger is not None:
            delays.append(linger)
        return max(0.0, min(delays)) if delays else None

    def _take_over(self, live: LiveRun, commit: Commit, committed: Committed) -> None:
        live.view.apply(commit, committed)
        live.learn_pods(commit.attempts)
        live.lingering.update(
            attempt.pod_name for attempt in commit.attempts if attempt.closed_at is not None
        )
        live.unshown.update(task.key for task in commit.tasks)
        self._announcer.announce(live, commit, self._clock())

    async def _stop_lingering(self, live: LiveRun) -> float | None:
        """Delete pods that outlive their closed attempts. Returns the seconds until the next is due."""
        now = self._clock()
        next_due: float | None = None
        pods = self._store.of(live.key).pods
        for name in sorted(live.lingering):
            pod, key = pods.get(name), live.pod_names.get(name)
            attempt = None if key is None else live.view.attempts[key]
            current = attempt is not None and attempt.pod_name == name
            open_ = current and attempt is not None and attempt.closed_at is None
            if pod is None or pod.ended or pod.deletion is not None or attempt is None or open_:
                live.lingering.discard(name)
                continue
            # An agent whose result was taken leaves by itself; a superseded one has nothing left to do.
            leaves = current and attempt.outcome is Phase.SUCCEEDED
            grace = LINGER if leaves else timedelta(0)
            due = ((attempt.closed_at or now) + grace - now).total_seconds()
            if due <= 0:
                await self._actor.delete_pod(live, name, pod.uid)
            else:
                next_due = due if next_due is None else min(next_due, due)
        return next_due

    async def _after_end(self, key: RunKey) -> float | None:
        """Delete pods that outlive their finished run by too much, and let go of the rest."""
        pods = self._store.of(key).pods.values()
        alive = [pod for pod in pods if not pod.ended and pod.deletion is None]
        if not alive:
            self._ended.pop(key, None)
            self._store.release(key)
            return None
        now = self._clock()
        left = (self._ended.setdefault(key, now) + LINGER - now).total_seconds()
        if left > 0:
            return left
        for pod in alive:
            await self._kube.delete(POD, key.namespace, pod.name, uid=pod.uid)
        return None

    # --- opening and closing

    async def _open(self, root: Root) -> tuple[LiveRun | None, float | None]:
        """A run that is not in memory: known to the ledger, new, or not to be accepted (yet)."""
        state = await self._ledger.load(root.uid)
        if state is not None:
            return self._keep(root.key, state, root), None
        try:
            accepted = accept(root, self._store)
        except Refused as refused:
            return await self._refuse(root, Reason.INVALID_CONFIG, str(refused)), None
        if isinstance(accepted, Waits):
            now = self._clock()
            since, _ = self._waiting.setdefault(root.key, (now, accepted))
            self._waiting[root.key] = (since, accepted)
            if now - since < self._template_timeout:
                self.projector.mark(root.key)
                left = (since + self._template_timeout - now).total_seconds()
                return None, min(TEMPLATE_LOOK, left)
            return await self._refuse(root, Reason.TEMPLATE_NOT_FOUND, accepted.message), None
        self._waiting.pop(root.key, None)
        live = LiveRun(key=root.key, view=accepted, generation=root.generation, ask_ledger=False)
        self.live[root.uid] = live
        self._by_key[root.key] = root.uid
        self._remember_status(live, root)
        return live, None

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
        live = LiveRun(key=key, view=RunView(compile_plan(snapshot), state), generation=state.run.generation)
        live.learn_pods(state.attempts.values())
        objects = self._store.of(key).tasks
        live.unshown.update(
            task.key
            for task in state.tasks.values()
            if task.name not in objects or objects[task.name].shown_phase != task.phase.value
        )
        self.live[live.uid] = live
        self._by_key[key] = live.uid
        root = root or self._store.roots.get(key)
        if root is not None and root.uid == live.uid:
            self._remember_status(live, root)
        return live

    def _remember_status(self, live: LiveRun, root: Root) -> None:
        if root.status:
            live.shown[root.key.kind, root.key.name] = dict(root.status)

    async def _reconcile_deleted(self, live: LiveRun, root: Root | None) -> None:
        """Cancel a run whose object is no more, once the API server itself has said so."""
        if not live.view.run.phase.terminal:
            if root is None:
                try:
                    there = await self._kube.get(live.key.kind, live.key.namespace, live.key.name)
                except ApiError as error:
                    if not error.not_found:
                        raise
                else:
                    self._store.apply(live.key.kind, there)
                    if there["metadata"]["uid"] == live.uid:
                        return
            decision = decide(live.view, Observed(deleted=True), self._clock())
            if decision.commit is not None and live.view.run.version:
                await self._ledger.commit(decision.commit, epoch=self.epoch)
        self._drop(live)

    def _drop(self, live: LiveRun) -> None:
        self.live.pop(live.uid, None)
        if self._by_key.get(live.key) == live.uid:
            del self._by_key[live.key]
        self.projector.forget(live.key)

    # --- statuses (see projector.StatusSource)

    def statuses(self, key: RunKey, now: datetime) -> list[StatusWrite]:
        """What is to be written about a run: its own status, and those of its tasks that changed."""
        root = self._store.roots.get(key)
        if root is None or root.finished:
            return []
        live = self.live.get(root.uid)
        if live is None:
            return self._statuses_of_waiting(root, now)
        writes = []
        pods = self._store.of(key).pods
        if live.key.kind == WORKFLOW:
            # Marks are taken off before the writes, not after: what changes meanwhile is marked anew.
            unshown, live.unshown = live.unshown, set()
            for task_key in sorted(unshown):
                write = self._task_write(live, task_key, now)
                if write is not None:
                    writes.append(write)
        writes.append(self._root_write(live, root, pods, now))
        return writes

    def written(self, key: RunKey) -> None:
        """The statuses are written. After a run's last one, nothing of it needs to be kept."""
        live = self.live.get(self._by_key.get(key, ""))
        if live is not None and live.view.run.phase.terminal and not live.unshown:
            root = self._store.roots.get(key)
            shown = live.shown.get((key.kind, key.name), {})
            if root is None or shown.get("phase") == live.view.run.phase.value:
                self._drop(live)

    def _root_write(self, live: LiveRun, root: Root, pods: Mapping[str, Any], now: datetime) -> StatusWrite:
        before = live.shown.get((root.key.kind, root.key.name), {})
        run = live.view.run
        if not run.spec and run.phase.terminal:
            after = refused_status(
                root.generation, run.reason or Reason.INVALID_CONFIG, run.message, before, now, final=True
            )
        elif root.key.kind == WORKFLOW:
            after = workflow_status(live, pods, before, now)
        elif STANDALONE in live.view.tasks:
            attempt = live.view.attempts.get(STANDALONE)
            pod = None if attempt is None else pods.get(attempt.pod_name)
            after = task_status(live, STANDALONE, pod, before, now)
        else:
            after = dict(before)
        if root.key.kind == AGENT_TASK:
            live.unshown.discard(STANDALONE)
        return StatusWrite(
            kind=root.key.kind,
            name=root.key.name,
            uid=root.uid,
            before=before,
            after=after,
            written=partial(live.shown.__setitem__, (root.key.kind, root.key.name), after),
            missed=lambda: None,
        )

    def _task_write(self, live: LiveRun, key: TaskKey, now: datetime) -> StatusWrite | None:
        task = live.view.tasks.get(key)
        children = self._store.of(live.key)
        if task is None or task.name not in children.tasks:
            return None  # it has no object: it failed before it could start
        before = live.shown.get((AGENT_TASK, task.name), {})
        attempt = live.view.attempts.get(key)
        pod = None if attempt is None else children.pods.get(attempt.pod_name)
        after = task_status(live, key, pod, before, now)
        return StatusWrite(
            kind=AGENT_TASK,
            name=task.name,
            uid=children.tasks[task.name].uid,
            before=before,
            after=after,
            written=partial(live.shown.__setitem__, (AGENT_TASK, task.name), after),
            missed=partial(live.unshown.add, key),
        )

    def _statuses_of_waiting(self, root: Root, now: datetime) -> list[StatusWrite]:
        """The status of a run that waits for a template or for the ledger and is not in memory."""
        before = root.status or {}
        if root.key in self.unavailable:
            message = "the ledger (Postgres) cannot be reached; nothing new starts, running agents go on"
            after = {
                **before,
                **refused_status(
                    root.generation, Reason.LEDGER_UNAVAILABLE, message, before, now, final=False
                ),
            }
            after["phase"] = before.get("phase", Phase.PENDING.value)
        elif root.key in self._waiting:
            _, waits = self._waiting[root.key]
            after = refused_status(
                root.generation, Reason.TEMPLATE_NOT_FOUND, waits.message, before, now, final=False
            )
        else:
            return []
        return [
            StatusWrite(
                kind=root.key.kind,
                name=root.key.name,
                uid=root.uid,
                before=before,
                after=after,
                written=lambda: None,
                missed=lambda: None,
            )
        ]


#: A refused run has no plan.
_EMPTY_SNAPSHOT: dict[str, Any] = {
    "inputs": {},
    "parallelism": None,
    "retention": {"ttlAfterFinished": "168h"},
    "steps": [],
    "outputs": {},
}
