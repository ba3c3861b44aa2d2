"""Quarantine: a run whose passes killed the process is set aside, so that all others go on.

The journal names the pass that computed when a process died. The ledger counts these deaths for each run: a
later process may run on another node. After the second death in a row the run is set aside until people
change its object. One pass that succeeds ends the suspicion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import structlog

from perdure.control.cluster_cache.run_key import SCHEDULE, RunKey
from perdure.control.cluster_cache.run_objects import fingerprint_of
from perdure.control.cluster_cache.store import Store
from perdure.control.pass_journal import PassJournal, Subject
from perdure.control.passed_over import PassedOver
from perdure.control.ports import LedgerPort
from perdure.control.status.kube_events import KubeEvents
from perdure.domain.phases import Reason
from perdure.domain.records import Suspect

#: Deaths of the process in a row, during passes over one run, after which the run is set aside.
MAX_DEATHS = 2
#: The annotation by which people ask for another try, whatever its value: each change of it counts.
ANNOTATION = "perdure.dev/reconcile"

MESSAGE = (
    "set aside: the operator's process died twice during a pass over this run. Agents that run continue."
    f" Change the object, or its annotation {ANNOTATION}, to have it reconciled again"
)

_log = structlog.get_logger(__name__)


class Quarantine:
    """Runs under suspicion, and those that are set aside. Used by one leader at a time."""

    def __init__(
        self,
        *,
        journal: PassJournal,
        store: Store,
        ledger: LedgerPort,
        kube_events: KubeEvents,
        mark_status: Callable[[RunKey], None],
        clock: Callable[[], datetime],
        passed_over: PassedOver,
    ) -> None:
        """`mark_status` has the status of a run written."""
        self.journal = journal
        self._store = store
        self._ledger = ledger
        self._kube_events = kube_events
        self._mark_status = mark_status
        self._clock = clock
        self._passed_over = passed_over
        self._suspects: dict[str, Suspect] = {}

    async def begin(self) -> None:
        """Count the death of the last process, if it died during a pass, and read the suspects.

        To be called before any pass. Raises LedgerError.
        """
        self._suspects = {suspect.uid: suspect for suspect in await self._ledger.suspects()}
        left = self.journal.left
        if left is not None:
            subject, known = left.subject, self._suspects.get(left.subject.uid)
            # The process may have died again between the count and the next line.
            if known is None or known.life != left.life:
                suspect = Suspect(
                    uid=subject.uid,
                    kind=subject.kind,
                    namespace=subject.namespace,
                    name=subject.name,
                    fingerprint=subject.fingerprint,
                    deaths=1 + (0 if known is None else known.deaths),
                    life=left.life,
                )
                await self._keep(suspect)
                _log.error(
                    "the last process died during a pass over this run",
                    run=RunKey(*subject[:3]),
                    deaths=suspect.deaths,
                    set_aside=suspect.deaths >= MAX_DEATHS,
                )
                if suspect.deaths >= MAX_DEATHS:
                    self._passed_over.counts["quarantine"] += 1
                    key, now = RunKey(*subject[:3]), self._clock()
                    self._kube_events.warn(key, subject.uid, Reason.QUARANTINED, MESSAGE, now)
            self.journal.left = None

    async def holds(self, key: RunKey) -> bool:
        """Whether a run is set aside. Raises LedgerError.

        A run whose object has changed since is reconciled again. One more death sets the run aside again.
        """
        suspect = self._suspect(key)
        if suspect is None or suspect.deaths < MAX_DEATHS:
            return False
        subject = self.subject(key)
        fingerprint = "" if subject is None else subject.fingerprint
        if fingerprint == suspect.fingerprint:
            self._mark_status(key)
            return True
        await self._keep(replace(suspect, deaths=MAX_DEATHS - 1, fingerprint=fingerprint))
        _log.info("run is reconciled again after quarantine", run=key)
        return False

    async def note_succeeded(self, key: RunKey) -> None:
        """A pass over a run has succeeded: the run is no suspect any more. Raises LedgerError."""
        suspect = self._suspect(key)
        if suspect is not None:
            await self._ledger.drop_suspect(suspect.uid)
            del self._suspects[suspect.uid]

    def is_set_aside(self, key: RunKey) -> bool:
        """Whether a run is set aside, as far as is known."""
        suspect = self._suspect(key)
        return suspect is not None and suspect.deaths >= MAX_DEATHS

    def subject(self, key: RunKey) -> Subject | None:
        """What the journal says of a pass over a run or schedule; None if the store has no object."""
        if key.kind == SCHEDULE:
            schedule = self._store.schedules.get(key)
            if schedule is None:
                return None
            metadata: Any = schedule["metadata"]
            return Subject(*key, metadata["uid"], fingerprint_of(metadata))
        root = self._store.roots.get(key)
        return None if root is None else Subject(*key, root.uid, root.fingerprint)

    def findings(self) -> list[str]:
        """A line for each run that is set aside."""
        return [
            f"{suspect.kind} {suspect.namespace}/{suspect.name} is quarantined"
            for suspect in self._suspects.values()
            if suspect.deaths >= MAX_DEATHS
        ]

    def _suspect(self, key: RunKey) -> Suspect | None:
        if not self._suspects:
            return None
        subject = self.subject(key)
        if subject is not None:
            return self._suspects.get(subject.uid)
        # The object was deleted: the run may still have to end in the ledger.
        places = ((it.kind, it.namespace, it.name) for it in self._suspects.values())
        found = [it for it, place in zip(self._suspects.values(), places, strict=True) if place == key]
        return found[0] if found else None

    async def _keep(self, suspect: Suspect) -> None:
        await self._ledger.keep_suspect(suspect)
        self._suspects[suspect.uid] = suspect
