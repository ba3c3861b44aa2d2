"""The end of a run in the cluster: its object was deleted, or has the final status already."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from perdure.control.cluster_cache.run_objects import Root
from perdure.control.cluster_cache.store import Store
from perdure.control.live_run import LiveRun
from perdure.control.ports import KubePort, LedgerPort
from perdure.control.runs.cleanup import Cleanup
from perdure.control.runs.executor import ActingKind
from perdure.control.runs.live_runs import EMPTY_SNAPSHOT, LiveRuns
from perdure.control.runs.observer import Observer
from perdure.control.status.conditions import acknowledged
from perdure.control.status.pending import root_status
from perdure.control.status.status_writer import status_patch
from perdure.domain.engine.decide import decide
from perdure.domain.engine.observed import Observed
from perdure.domain.engine.plan import compile_plan
from perdure.domain.engine.view import RunView
from perdure.domain.records import LedgerUnavailable, VersionConflict


class Closer:
    """Ends runs in the ledger that ended in the cluster."""

    def __init__(
        self,
        *,
        store: Store,
        kube: KubePort,
        ledger: LedgerPort,
        kinds: tuple[ActingKind, ...],
        runs: LiveRuns,
        observer: Observer,
        cleanup: Cleanup,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._kube = kube
        self._ledger = ledger
        self._kinds = kinds
        self._runs = runs
        self._observer = observer
        self._cleanup = cleanup
        self._clock = clock

    async def object_exists(self, live: LiveRun) -> bool:
        """Whether the run's object exists: only the API server itself knows that an object was deleted.

        Raises ApiError.
        """
        found = await self._kube.find(live.key.kind, live.key.namespace, live.key.name)
        if found is None:
            return False
        self._store.apply(live.key.kind, found)
        return bool(found["metadata"]["uid"] == live.uid)

    def is_cached(self, live: LiveRun) -> bool:
        """Whether the store has the run's object, and not only another object of the same name."""
        root = self._store.roots.get(live.key)
        return root is not None and root.uid == live.uid

    async def end(self, live: LiveRun, *, epoch: int) -> bool:
        """Commit the end of a run that has no object any more. Returns whether it ended now.

        Raises LedgerError.
        """
        observed = Observed(deleted=True, pods=self._observer.seen(live))
        decision = decide(live.view, observed, self._clock())
        if decision.commit is None or not live.view.run.version:
            return False
        try:
            committed = await self._ledger.commit(decision.commit, epoch=epoch)
        except (VersionConflict, LedgerUnavailable) as error:
            # An agent wrote first, or the commit took effect unnoticed: memory is no basis for the next pass.
            live.agenda.mark_unknown(error)
            raise
        live.view.apply(decision.commit, committed)
        live.objects.index(decision.commit.attempts)
        self._runs.wake_family(live)
        return True

    async def write_again(self, root: Root) -> None:
        """Write the status of a finished run again: another wrote to it, or its object has a new generation.

        Raises ApiError, LedgerError.
        """
        kind, namespace, name = root.key
        there = await self._kube.find(kind, namespace, name)
        if there is None or there["metadata"]["uid"] != root.uid:
            return
        before = there.get("status") or {}
        state = await self._ledger.load(root.uid)
        if state is not None and state.run.phase.terminal:
            plan = compile_plan(state.run.spec or EMPTY_SNAPSHOT, self._kinds)
            live = LiveRun(key=root.key, view=RunView(plan, state), generation=root.generation)
            after = root_status(live, root, self._store, before, self._clock())
        else:
            # The ledger has forgotten the run, or is another one: the run stays as it ended.
            after = acknowledged(before, root.generation)
        self._store.altered.discard(root.key)
        patch = status_patch(root.uid, before, after)
        if not patch:
            return
        version = None
        self._store.begin_write(kind, namespace, name)
        try:
            written = await self._kube.patch_status(kind, namespace, name, patch, brief=True)
            version = int(written["metadata"]["resourceVersion"])
        finally:
            self._store.end_write(kind, namespace, name, version)

    async def decide_pods(self, root: Root) -> None:
        """Delete ended pods of a finished run that its retention does not keep. Raises ApiError, LedgerError.

        A pod's retention, and how its attempt ended, are known while the run is live. The final status does
        not wait for pods: the operator that knew may have stopped before a pod ended, or a pod may be
        observed only then. So the ledger is queried, once for each such pod.
        """
        state = await self._ledger.load(root.uid)
        if state is None or not state.run.phase.terminal or not state.run.spec:
            self._store.decide_pods(root.key)
            return
        view = RunView(compile_plan(state.run.spec, self._kinds), state)
        live = LiveRun(key=root.key, view=view, generation=state.run.generation)
        live.objects.index(state.attempts.values())
        await self._cleanup.tidy(live, self._clock())
        self._cleanup.forget(root.key, live.uid)
