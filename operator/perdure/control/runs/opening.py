"""Opening a run: from its object, or from the ledger, to a live run in memory; or to a refusal."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from perdure.control.cluster_cache.run_objects import Root
from perdure.control.cluster_cache.store import Store
from perdure.control.live_run import LiveRun
from perdure.control.ports import LedgerPort
from perdure.control.runs.admission import Waits, accept, compile_ahead, refusal
from perdure.control.runs.executor import ActingKind
from perdure.control.runs.live_runs import LiveRuns
from perdure.control.status.kube_events import KubeEvents
from perdure.control.status.status_writer import StatusWriter
from perdure.domain.admission.accept import Refused
from perdure.domain.phases import Reason
from perdure.domain.records import RunState

#: Seconds between passes over a run that waits for a template; an event reports its creation at once.
TEMPLATE_RECHECK = 5.0


class Opener:
    """Loads, admits or refuses runs, and keeps them in `runs`."""

    def __init__(
        self,
        *,
        store: Store,
        ledger: LedgerPort,
        kinds: tuple[ActingKind, ...],
        runs: LiveRuns,
        status_writer: StatusWriter,
        kube_events: KubeEvents,
        clock: Callable[[], datetime],
        template_timeout: float,
    ) -> None:
        """`template_timeout`: seconds that a run waits for a template that does not exist."""
        self._store = store
        self._ledger = ledger
        self._kinds = kinds
        self._runs = runs
        self._status_writer = status_writer
        self._kube_events = kube_events
        self._clock = clock
        self._template_timeout = timedelta(seconds=template_timeout)

    async def open(self, root: Root, *, epoch: int) -> tuple[LiveRun | None, float | None]:
        """Open a run that is not in memory: known to the ledger, new, or not to be accepted (yet).

        Returns the run, or None and the seconds until another attempt. Raises LedgerError.
        """
        # Before the ledger is read: between the check that follows and `keep_new` nothing may be awaited.
        await compile_ahead(root.manifest)
        state = await self._ledger.load(root.uid)
        if root.key in self._runs.by_key:
            # The start has loaded a run meanwhile: this one, or an earlier object of its name, which is to be
            # ended first. Kept under the same key, this run would hide it for the rest of the term.
            return None, 0.0
        if state is not None:
            return self._runs.keep(root.key, state, root), None
        if root.leaving:
            return None, None
        try:
            accepted = accept(root, self._store, self._kinds)
        except Refused as refused:
            return await self._refuse(root, Reason.INVALID_CONFIG, str(refused), epoch=epoch)
        if isinstance(accepted, Waits):
            now = self._clock()
            since = self._runs.wait_for_template(root.key, accepted, now)
            if now - since < self._template_timeout:
                self._status_writer.mark(root.key)
                left = (since + self._template_timeout - now).total_seconds()
                return None, min(TEMPLATE_RECHECK, left)
            return await self._refuse(root, Reason.TEMPLATE_NOT_FOUND, accepted.message, epoch=epoch)
        self._runs.stop_waiting(root.key)
        return self._runs.keep_new(root, accepted), None

    async def read_again(self, live: LiveRun, *, epoch: int) -> LiveRun | None:
        """Replace a stale run by the ledger's; None if the ledger has it no more. Raises LedgerError."""
        if live.agenda.unsettled:
            # Without the fence, a commit of unknown outcome might take effect later, when the run's slots are
            # already another run's.
            await self._ledger.fence_commits(live.uid, epoch=epoch)
            live.agenda.unsettled = False
        state = await self._ledger.load(live.uid)
        if state is not None:
            return self._runs.keep(live.key, state)
        if live.view.run.version > 0:
            self._runs.drop(live)
            return None
        # The first commit did not reach the ledger, and is repeated: of two only one takes effect. Until then
        # the run keeps its slots.
        live.agenda.stale = False
        live.agenda.request_full_pass()
        return live

    async def _refuse(
        self, root: Root, reason: Reason, message: str, *, epoch: int
    ) -> tuple[LiveRun | None, float | None]:
        self._runs.stop_waiting(root.key)
        commit = refusal(root, reason, message, self._clock())
        committed = await self._ledger.commit(commit, epoch=epoch)
        if root.key in self._runs.by_key:
            return None, 0.0
        state = RunState(run=commit.run, steps={}, tasks={}, attempts={})
        live = self._runs.keep(root.key, state, root)
        live.view.apply(commit, committed)
        self._kube_events.announce(live, commit, self._clock())
        return live, None
