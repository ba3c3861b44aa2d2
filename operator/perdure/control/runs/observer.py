"""The observation before a decision: what changed in the cluster, and what agents wrote, since the last pass.

A watch event may be late, repeated or lost, so nothing final is concluded from the store alone: a pod that
is missing there is asked for, and a pod whose time is over is read again. The ledger is asked for reports
when a wake says that there are some. A report that was written a moment before the end of its pod was seen,
and whose wake has not arrived, has raised the run's version: the end cannot be committed without the report.
The end of a child Workflow is taken from the ledger, never from its status.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from perdure.control.cluster_cache.store import Store
from perdure.control.live_run import LiveRun
from perdure.control.ports import LedgerPort
from perdure.control.runs.executor import Executors, Findings
from perdure.domain.engine.deadlines import last_sign
from perdure.domain.engine.observed import Observed
from perdure.domain.engine.pod_facts import PodFacts
from perdure.domain.records import AttemptRecord, Report, TaskKey, VersionConflict

#: Attempts for whose objects one pass asks the API server because no watch reports them. Each run has its own
#: passes, so that many pods with changed labels slow down their own run only.
RECHECKS = 32
#: An attempt whose time is over this much later is observed now: that costs less than a second pass.
SOON = timedelta(seconds=1)

Signs = dict[TaskKey, tuple[int, datetime]]


class Observer:
    """Makes the `Observed` of a decision."""

    def __init__(self, *, store: Store, ledger: LedgerPort, executors: Executors) -> None:
        self._store = store
        self._ledger = ledger
        self._executors = executors

    async def observe(self, live: LiveRun, now: datetime) -> Observed:
        """What is new about a run. Raises ApiError, LedgerError; then everything is observed next time."""
        objects = self._store.of(live.key)
        changed, objects.changed = objects.changed, set()
        live.objects.cleanup_candidates |= objects.pods.keys() if live.agenda.full_pass else changed
        overdue = _overdue(live, now)
        findings = Findings()
        asked = overdue | _to_recheck(live, now)
        attempts = self._to_observe(live, changed, asked)
        for executor, own in self._executors.grouped(live, attempts):
            await executor.find(live, own, now, overdue=asked, findings=findings)
        live.agenda.full_pass = False
        refusals, live.objects.refusals = live.objects.refusals, {}
        reports = await self._reports(live, now, overdue=bool(overdue), since=_since(live, overdue))
        return Observed(
            observed_at=now,
            pods=findings.pods,
            gone=frozenset(findings.gone),
            reports=reports,
            signals=live.updates.signals,
            refusals=refusals,
            children=findings.children,
            signs=_signs(live),
            blocked=dict(live.objects.blocked),
            warnings=dict(live.objects.warnings),
        )

    def seen(self, live: LiveRun) -> dict[TaskKey, PodFacts]:
        """The pods of a run's open attempts, as far as they are known without asking."""
        pods = self._store.of(live.key).pods
        names = ((key, live.view.attempts[key].pod_name) for key in live.view.open)
        return {key: pods[name] for key, name in names if name in pods}

    def _to_observe(self, live: LiveRun, changed: set[str], overdue: set[TaskKey]) -> list[AttemptRecord]:
        """Open attempts of which something may be new, by task."""
        keys = live.view.open
        if not live.agenda.full_pass:
            named = {live.objects.pod_names[name] for name in changed if name in live.objects.pod_names}
            keys = (named | live.objects.terminating | live.objects.adopted | overdue) & live.view.open
        live.objects.terminating.clear()
        live.objects.adopted.clear()
        return [live.view.attempts[key] for key in sorted(keys)]

    async def _reports(
        self, live: LiveRun, observed_at: datetime, *, overdue: bool, since: datetime | None
    ) -> Mapping[TaskKey, tuple[int, Report]]:
        """Reports of open attempts, if any may have come or time is about to end one.

        Signs of life come along if they are newer than `since` (all, if it is None). They do not raise the
        version, so whom time is to end is always asked about.
        """
        if live.view.run.version == 0 or not (live.agenda.ask_ledger or overdue):
            return {}
        # Before the call, not after: a wake that comes during it may be about what it no longer saw.
        live.agenda.ask_ledger = False
        updates = await self._ledger.updates(live.uid, since=since)
        for vitals in updates.vitals:
            live.updates.vitals[vitals.key] = vitals
            live.published.mark_dirty([vitals.key], observed_at)
            if live.updates.vitals_since is None or vitals.changed_at > live.updates.vitals_since:
                live.updates.vitals_since = vitals.changed_at
        if updates.version < live.view.run.version:
            raise VersionConflict(f"the ledger has an older version of run {live.uid} than we have seen")
        # Besides a leader's commits, which the epoch fences, only reports and signals raise the version, and
        # the updates have all unread ones. Without this, each would cost a refused commit and a reload.
        live.view.note_version(updates.version)
        live.updates.signals = dict(updates.signals)
        return updates.reports


def _overdue(live: LiveRun, now: datetime) -> set[TaskKey]:
    """Tasks whose attempt time alone is about to end, as far as we know."""
    view = live.view
    if view.run.paused_at is not None:
        return set()
    due = set(view.deadlines.due(now + SOON))
    known = Observed(signs=_signs(live)) if view.idle else Observed()
    for key in view.idle:
        limit = view.plan.steps[key.step].idle_timeout
        if limit is not None and last_sign(view.attempts[key], known) + limit <= now + SOON:
            due.add(key)
    return due


def _to_recheck(live: LiveRun, now: datetime) -> set[TaskKey]:
    """Attempts to ask the API server for, because no watch reports their objects; those due first, first."""
    recheck = live.objects.recheck
    for key in [key for key in recheck if key not in live.view.open]:
        del recheck[key]
    due = sorted((at, key) for key, at in recheck.items() if at <= now)
    return {key for _, key in due[:RECHECKS]}


def _since(live: LiveRun, overdue: set[TaskKey]) -> datetime | None:
    """How far back to ask for signs of life.

    Writes are not committed in the order of their times, and the clocks of two gateways differ: a sign may be
    older than the newest we know and still unknown. No agent is taken for silent because of that.
    """
    if live.updates.vitals_since is None or not (silent := overdue & live.view.idle):
        return live.updates.vitals_since
    known = Observed(signs=_signs(live))
    return min(live.updates.vitals_since, *(last_sign(live.view.attempts[key], known) for key in silent))


def _signs(live: LiveRun) -> Signs:
    """The newest signs of life of attempts that need to give some."""
    found: Signs = {}
    for key in live.view.idle:
        vitals = live.updates.vitals.get(key)
        if vitals is not None:
            found[key] = (vitals.attempt, vitals.changed_at)
    return found
