"""The registry of live runs: the runs in memory, those that wait for a template, and those without a ledger.

A run is in memory from its admission until its final status is written. The ledger has all that is needed to
load the run again, so a run may be dropped at any time, and a new term of leadership starts with none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.cluster_cache.run_objects import Root
from perdure.control.cluster_cache.store import Store
from perdure.control.live_run import Agenda, LiveRun
from perdure.control.passed_over import PassedOver
from perdure.control.queue.slots import Slots
from perdure.control.runs.admission import Waits
from perdure.control.runs.cleanup import Cleanup
from perdure.control.runs.executor import ActingKind
from perdure.control.runs.quarantine import Quarantine
from perdure.control.status.backfill import status_differs
from perdure.control.status.kube_events import KubeEvents
from perdure.control.status.status_writer import StatusWriter
from perdure.domain.engine.outcome import shorten
from perdure.domain.engine.plan import compile_plan
from perdure.domain.engine.view import RunView
from perdure.domain.phases import Reason
from perdure.domain.records import LiveEntry, RunState, Wake

#: Characters of the cause of a failure in a status.
MAX_CAUSE = 500
#: Runs a second whose statuses begin to say that the ledger is unavailable.
UNAVAILABLE_RATE = 250
#: A refused run has no plan.
EMPTY_SNAPSHOT: dict[str, Any] = {
    "inputs": {},
    "parallelism": None,
    "retention": {"ttlAfterFinished": "168h"},
    "steps": [],
    "outputs": {},
}


class LiveRuns:
    """The runs of the present leader. Used under one epoch, and cleared at its end."""

    def __init__(
        self,
        *,
        store: Store,
        kinds: tuple[ActingKind, ...],
        slots: Slots,
        cleanup: Cleanup,
        status_writer: StatusWriter,
        clock: Callable[[], datetime],
        wake: Callable[[RunKey], None],
        passed_over: PassedOver | None = None,
        kube_events: KubeEvents | None = None,
        quarantine: Quarantine | None = None,
    ) -> None:
        """`wake` has a run reconciled soon, because of a change to another run."""
        self._passed_over = passed_over or PassedOver()
        self._kube_events = kube_events
        self._quarantine = quarantine
        self._store = store
        self._kinds = kinds
        self._slots = slots
        self._cleanup = cleanup
        self._status_writer = status_writer
        self._clock = clock
        self._wake = wake
        self.by_uid: dict[str, LiveRun] = {}
        self.by_key: dict[RunKey, LiveRun] = {}
        #: Runs that the ledger has, by uid, and that were not in memory since the start of the term.
        self._expected: set[str] = set()
        #: Runs that wait for templates: since when, and the message for their statuses.
        self._waiting: dict[RunKey, tuple[datetime, Waits]] = {}
        #: Runs whose passes fail because the ledger is unavailable, and whose statuses say so.
        self._unavailable: set[RunKey] = set()
        #: Runs whose passes fail, and the cause for their statuses.
        self._failing: dict[RunKey, str] = {}

    # --- runs in memory

    def expect(self, index: Iterable[LiveEntry]) -> None:
        """Note the live runs of the ledger, which are restored later: their slots are held from now on.

        The index counts the attempts of children as well, which take no slot. Until its run is restored, a
        slot too many is held, and never one too few.
        """
        for entry in index:
            self._expected.add(entry.uid)
            self._slots.hold(entry.uid, entry.namespace, entry.open)

    def restore(self, states: Iterable[RunState]) -> None:
        """Keep live runs that the ledger has, at the start of a term.

        A run whose own pass came first is newer in memory, or has ended already, and stays as it is. A run
        that cannot be restored is logged and left out: its own passes try again, and the other runs begin.
        """
        for state in states:
            if state.run.uid not in self._expected:
                continue
            key = RunKey(state.run.kind, state.run.namespace, state.run.name)
            if self._quarantine is not None and self._quarantine.is_set_aside(key):
                continue
            with self._passed_over.guard("restore", key), self._marked(key):
                self.keep(key, state)

    def _marked(self, key: RunKey) -> AbstractContextManager[None]:
        """To compile a plan may kill the process, as a pass may."""
        subject = None if self._quarantine is None else self._quarantine.subject(key)
        if self._quarantine is None or subject is None:
            return nullcontext()
        return self._quarantine.journal.marked(subject)

    def keep(self, key: RunKey, state: RunState, root: Root | None = None) -> LiveRun:
        """Keep a run as the ledger has it, in place of what memory had of the run."""
        snapshot = state.run.spec or EMPTY_SNAPSHOT
        live = LiveRun(
            key=key,
            view=RunView(compile_plan(snapshot, self._kinds), state),
            generation=state.run.generation,
        )
        live.objects.index(state.attempts.values())
        live.objects.unsure = {
            attempt.key: attempt.number
            for attempt in state.attempts.values()
            if attempt.closed_at is None and attempt.pod_uid is None
        }
        if (last := self.by_uid.get(live.uid)) is not None:
            # Shared, not copied: a write may be under way, and the watch may lag behind the last one.
            live.published.written_status = last.published.written_status
        objects = self._store.of(key).tasks
        live.published.mark_dirty(
            (
                task.key
                for task in state.tasks.values()
                if task.name not in objects or objects[task.name].shown_phase != task.phase.value
            ),
            self._clock(),
        )
        self._expected.discard(live.uid)
        self.by_uid[live.uid] = live
        self.by_key[key] = live
        self._slots.hold(live.uid, key.namespace, live.view.slots)
        root = root or self._store.roots.get(key)
        if root is not None and root.uid == live.uid:
            _note_root(live, root)
        # The object of a run that is live in a restored ledger may have ended: that is known only now, for no
        # status written from now on ends the run.
        if not state.run.phase.terminal and (root is None or root.uid != live.uid or not root.finished):
            self._store.working.add(live.uid)
        return live

    def keep_new(self, root: Root, view: RunView) -> LiveRun:
        """Keep a run that was just admitted: the ledger has nothing of the run before its first commit."""
        live = LiveRun(key=root.key, view=view, generation=root.generation, agenda=Agenda(ask_ledger=False))
        self.by_uid[root.uid] = live
        self.by_key[root.key] = live
        self._store.working.add(live.uid)
        _note_root(live, root)
        return live

    def drop(self, live: LiveRun) -> None:
        """Forget a run. The slots that it held go to others."""
        self.by_uid.pop(live.uid, None)
        self._store.working.discard(live.uid)
        if self.by_key.get(live.key) is live:
            del self.by_key[live.key]
        self._failing.pop(live.key, None)
        self._cleanup.forget(live.key, live.uid)
        self.wake(self._slots.forget(live.uid))
        self._status_writer.forget(live.key)

    def clear(self) -> None:
        """Forget every run, and write no status any more: another leader may have changed the runs since."""
        self._status_writer.close()
        self.by_uid.clear()
        self._store.working.clear()
        self.by_key.clear()
        self._expected.clear()
        self._waiting.clear()
        self._slots.clear()
        self._unavailable.clear()
        self._failing.clear()

    # --- runs that wait

    def wait_for_template(self, key: RunKey, waits: Waits, now: datetime) -> datetime:
        """Note the templates that a run waits for. Returns since when the run has waited."""
        since, _ = self._waiting.get(key, (now, waits))
        self._waiting[key] = (since, waits)
        return since

    def stop_waiting(self, key: RunKey) -> None:
        """The run was admitted, was refused, or was deleted."""
        self._waiting.pop(key, None)

    def waiting_message(self, key: RunKey) -> str | None:
        """Which templates a run waits for, in words; None if the run waits for none."""
        return self._waiting[key][1].message if key in self._waiting else None

    def note_template(self, namespace: str, name: str) -> list[RunKey]:
        """An AgentTemplate or WorkflowTemplate was created. Returns the runs that wait for the template."""
        return [key for key, (_, waits) in self._waiting.items() if (namespace, name) in waits.templates]

    def note_unavailable(self, key: RunKey) -> None:
        """The ledger is unavailable: the run's status is to say so."""
        if key not in self._unavailable and key in self._store.roots:
            # A thousand runs notice it in the same second, and must not patch the API server together.
            self._status_writer.mark(key, after=len(self._unavailable) / UNAVAILABLE_RATE)
            self._unavailable.add(key)

    def note_available(self, key: RunKey) -> None:
        """A pass over the run has succeeded."""
        self._unavailable.discard(key)

    def is_unavailable(self, key: RunKey) -> bool:
        """Whether the last pass over a run failed because the ledger was unavailable."""
        return key in self._unavailable

    def note_failing(self, key: RunKey, cause: str, *, report: bool = False) -> None:
        """Passes over a run fail: its status is to say so, and with `report` a Kubernetes Event as well."""
        root = self._store.roots.get(key)
        if root is None:
            return
        message = f"{shorten(cause, MAX_CAUSE)}; the operator tries again, the log has more"
        if self._failing.get(key) != message:
            self._failing[key] = message
            self._status_writer.mark(key)
        if report and self._kube_events is not None:
            self._kube_events.warn(key, root.uid, Reason.RECONCILE_ERROR, message, self._clock())

    def note_succeeded(self, key: RunKey) -> None:
        """A pass has succeeded: the status of a run that failed is written again."""
        failed = self._failing.pop(key, None) is not None
        if failed or key in self._unavailable:
            self._unavailable.discard(key)
            self._status_writer.mark(key)

    def failing_message(self, key: RunKey) -> str | None:
        """Why passes over a run fail, in words; None if they do not."""
        return self._failing.get(key)

    # --- which runs to reconcile

    def note_wake(self, wake: Wake | None) -> list[RunKey]:
        """Agents wrote to a run (to any run, if None). Returns the runs to reconcile."""
        if wake is None:
            woken = list(self.by_uid.values())
        else:
            woken = [self.by_uid[wake.uid]] if wake.uid in self.by_uid else []
        for live in woken:
            live.agenda.ask_ledger = True
        keys = [live.key for live in woken]
        # None also arrives when the ledger is back: runs that waited for the ledger need not wait any longer.
        return keys if wake is not None else [*keys, *self._unavailable]

    def request_full_pass(self, live: LiveRun) -> None:
        """Events may have been missed, so the next pass over a run observes everything."""
        live.agenda.request_full_pass()
        objects = self._store.of(live.key).tasks
        # The object of a task may have been unknown when the task's status was to be written.
        live.published.mark_dirty(status_differs(live.view.tasks.values(), objects), self._clock())

    def wake_family(self, live: LiveRun) -> None:
        """A run's phase has changed: the parent waits for that, and the children follow it."""
        if live.owner is not None:
            parent = self.by_key.get(live.owner)
            if parent is not None:
                parent.agenda.ask_children = True
            self._wake(live.owner)
        for child in self._store.owned_by(live.uid):
            if not child.finished:
                self._wake(child.key)

    def wake(self, uids: list[str]) -> None:
        """Have runs reconciled that slots were reserved for."""
        for uid in uids:
            live = self.by_uid.get(uid)
            if live is not None:
                self._wake(live.key)
            else:
                # The run was dropped meanwhile, and asks for slots again once the run is back in memory.
                self.wake(self._slots.forget(uid))


def _note_root(live: LiveRun, root: Root) -> None:
    live.owner = root.owner
    if root.status:
        live.published.written_status.setdefault((root.key.kind, root.key.name), dict(root.status))
