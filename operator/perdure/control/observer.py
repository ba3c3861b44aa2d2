"""Looking before deciding: what changed in the cluster, and what agents wrote, since the last pass.

A watch event may be late, repeated or lost, so nothing final is concluded from the store alone: a pod that
is missing there is asked for, and before an end is taken note of, the ledger is asked for a report.
"""

from __future__ import annotations

from perdure.control.live import LiveRun
from perdure.control.ports import KubePort, LedgerPort
from perdure.control.store import POD, Store
from perdure.domain.facts import PodFacts
from perdure.domain.observed import Observed, Refusal
from perdure.domain.records import AttemptRecord, Report, TaskKey, VersionConflict
from perdure.kube.errors import ApiError


class Observer:
    """Makes the `Observed` of a decision."""

    def __init__(self, *, store: Store, kube: KubePort, ledger: LedgerPort) -> None:
        self._store = store
        self._kube = kube
        self._ledger = ledger

    async def observe(self, live: LiveRun) -> Observed:
        """What is new about a run. Raises ApiError, LedgerError; then everything is looked at next time."""
        children = self._store.of(live.key)
        changed, children.changed = children.changed, set()
        live.lingering |= children.pods.keys() if live.look_at_all else changed
        pods: dict[TaskKey, PodFacts] = {}
        gone: set[TaskKey] = set()
        for key in self._tasks_to_look_at(live, changed):
            live.leaving.discard(key)
            attempt = live.view.attempts.get(key)
            if attempt is None or attempt.closed_at is not None:
                continue
            pod = children.pods.get(attempt.pod_name)
            if pod is None and attempt.pod_uid is not None:
                pod = await self._ask_for_pod(live, attempt)
            if pod is None or (attempt.pod_uid is not None and pod.uid != attempt.pod_uid):
                if attempt.pod_uid is not None:
                    gone.add(key)
            else:
                pods[key] = pod
                if pod.deletion is not None:
                    live.leaving.add(key)
        live.look_at_all = False
        refusals, live.refusals = live.refusals, {}
        reports = await self._reports(live, pods, gone, refusals)
        return Observed(pods=pods, gone=frozenset(gone), reports=reports, refusals=refusals)

    def _tasks_to_look_at(self, live: LiveRun, changed: set[str]) -> list[TaskKey]:
        if live.look_at_all:
            return sorted(live.view.live)
        keys = {live.pod_names[name] for name in changed if name in live.pod_names}
        return sorted((keys | live.leaving) & live.view.live)

    async def _ask_for_pod(self, live: LiveRun, attempt: AttemptRecord) -> PodFacts | None:
        """The pod as the API server has it now, for the store may be behind; None if it is no more."""
        try:
            pod = await self._kube.get(POD, live.key.namespace, attempt.pod_name)
        except ApiError as error:
            if error.not_found:
                return None
            raise
        self._store.apply(POD, pod)
        return self._store.of(live.key).pods.get(attempt.pod_name)

    async def _reports(
        self,
        live: LiveRun,
        pods: dict[TaskKey, PodFacts],
        gone: set[TaskKey],
        refusals: dict[TaskKey, Refusal],
    ) -> dict[TaskKey, tuple[int, Report]]:
        """Reports of open attempts, if any may have come or an end is about to be taken note of."""
        ending = gone or refusals or any(pod.ended or pod.deletion is not None for pod in pods.values())
        if live.view.run.version == 0 or not (live.ask_ledger or ending):
            return {}
        # Before the call, not after: a wake that comes during it may be about what it no longer saw.
        live.ask_ledger = False
        news = await self._ledger.news(live.uid, since=live.vitals_since)
        for vitals in news.vitals:
            live.vitals[vitals.key] = vitals
            live.unshown.add(vitals.key)
            if live.vitals_since is None or vitals.changed_at > live.vitals_since:
                live.vitals_since = vitals.changed_at
        if news.version < live.view.run.version:
            raise VersionConflict(f"the ledger has an older version of run {live.uid} than we have seen")
        # Beside a leader's commits, which the epoch fences, only reports raise it, and here are all that are
        # unread. Without this, every report would cost a refused commit and the whole run read again.
        live.view.note_version(news.version)
        return news.reports
