"""The operator's part of the ledger: decisions are written and states read, fenced by an epoch."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import Any, Final, Literal

from perdure.domain.names import shard_of
from perdure.domain.records import (
    AttemptRecord,
    CachedResult,
    ChildClaim,
    Commit,
    Committed,
    Deposed,
    LedgerUnavailable,
    LiveEntry,
    LivePage,
    RunRecord,
    RunState,
    RunUpdates,
    Suspect,
    TaskKey,
    VersionConflict,
    Wake,
)
from perdure.ledger import rows
from perdure.ledger.base import Side
from perdure.ledger.listener import listen
from perdure.ledger.queries import SQL

#: Unread reports that one statement returns, without their large outputs.
REPORTS_PAGE: Final = 100


class OperatorSide(Side):
    """Implements `perdure.control.ports.LedgerPort`."""

    async def take_epoch(self, holder: str) -> int:
        """Become the writer of all shards: returns a new, higher epoch, and fences all older ones.

        Waits for running statements of older epochs; later ones raise Deposed. After `LOCK_TIMEOUT` raises
        LedgerUnavailable; a session of an older leader that is silent in the middle of a batch is ended by
        then, so that a later call succeeds.
        """
        row = await self.database.fetchrow(SQL["take_epoch"], holder)
        epoch: int = row["epoch"]
        return epoch

    async def live_index(self) -> list[LiveEntry]:
        """Every run that has not ended, without its state; oldest first."""
        return [rows.live_entry(row) for row in await self.database.fetch(SQL["live_index"])]

    async def load_page(self, uids: Sequence[str]) -> LivePage:
        """The live ones of these runs, read at one moment.

        A run that cannot be read is set aside, and keeps none of the others back.
        """
        try:
            return LivePage(states=tuple(await self._load(uids)), unreadable={})
        except LedgerUnavailable:
            raise
        except Exception as error:
            if len(uids) == 1:
                return LivePage(states=(), unreadable={uids[0]: error})
        # Which of the runs is at fault, the error does not say.
        pages = [await self.load_page([uid]) for uid in uids]
        return LivePage(
            states=tuple(state for page in pages for state in page.states),
            unreadable={uid: error for page in pages for uid, error in page.unreadable.items()},
        )

    async def _load(self, uids: Sequence[str]) -> list[RunState]:
        async with self.database.snapshot() as connection:
            states = await _states(connection, await connection.fetch(SQL["runs_by_uid"], list(uids)))
        return [state for state in states if not state.run.phase.terminal]

    async def load(self, uid: str) -> RunState | None:
        """One run with its steps, tasks and newest attempts, live or ended; None if the ledger has none."""
        async with self.database.snapshot() as connection:
            states = await _states(connection, await connection.fetch(SQL["runs_by_uid"], [uid]))
        return states[0] if states else None

    async def outcomes(self, uids: Sequence[str]) -> dict[str, RunRecord]:
        """The runs of these uids, with {} as their spec; unknown ones are left out."""
        found = await self.database.fetch(SQL["outcomes"], list(uids))
        return {str(row["uid"]): rows.run_record(row) for row in found}

    async def commit(self, commit: Commit, *, epoch: int) -> Committed:
        """Write a decision with its events in one transaction.

        Raises Deposed if `epoch` is not the newest, VersionConflict if the run's version differs.
        """
        run = commit.run
        statement = SQL["commit_extras" if rows.has_extras(commit) else "commit"]
        row = await self.writer.submit(
            statement, rows.commit_arguments(commit, epoch), order=(run.shard, run.uid)
        )
        if not row["fenced"]:
            raise Deposed(f"epoch {epoch} of shard {run.shard} is over")
        if row["version"] is None:
            raise VersionConflict(f"run {run.uid} is no longer at version {run.version}")
        if commit.events:
            self.outbox_written.set()
        return Committed(version=row["version"], last_sequence=row["last_sequence"])

    async def fence_commits(self, uid: str, *, epoch: int) -> None:
        """Fence commits of a run whose outcome is unknown: a state that is loaded afterwards is final.

        A commit that creates the run is not fenced. Raises Deposed.
        """
        row = await self.database.fetchrow(SQL["fence_commits"], uid, shard_of(uid), epoch)
        if not row["fenced"]:
            raise Deposed(f"epoch {epoch} is over")

    async def record_pod(self, uid: str, attempt: AttemptRecord, *, pod_uid: str, epoch: int) -> None:
        """Record the uid of an open attempt's pod, which admits the pod at the gateway.

        Idempotent. Does not change the run's version. Raises Deposed, and VersionConflict if there is no such
        open attempt.
        """
        shard = shard_of(uid)
        key = attempt.key
        row = await self.writer.submit(
            SQL["record_pod"],
            (uid, shard, epoch, key.step, key.index, attempt.number, pod_uid),
            order=(shard, uid),
        )
        if not row["fenced"]:
            raise Deposed(f"epoch {epoch} of shard {shard} is over")
        if not row["noted"]:
            raise VersionConflict(
                f"run {uid} has no open attempt {attempt.number} of {key.step}[{key.index}]"
            )

    async def claim_child(
        self,
        parent: RunRecord,
        attempt: AttemptRecord,
        *,
        owner_uid: str | None,
        most: int,
    ) -> ChildClaim:
        """Count the child of an open attempt among the descendants of its root run, once for each attempt.

        `owner_uid`: the object that owns the parent, as the cluster says. Raises VersionConflict if there is
        no such open attempt.
        """
        key = attempt.key
        row = await self.database.fetchrow(
            SQL["claim_child"],
            parent.uid,
            key.step,
            key.index,
            attempt.number,
            most,
            owner_uid,
            parent.name,
            parent.namespace,
        )
        if not row["open"]:
            raise VersionConflict(
                f"run {parent.uid} has no open attempt {attempt.number} of {key.step}[{key.index}]"
            )
        return ChildClaim(granted=row["granted"], depth=row["depth"])

    async def updates(self, uid: str, *, since: datetime | None) -> RunUpdates:
        """Unread reports, and vitals changed after `since` (all if None).

        Version 0 and nothing else if the ledger does not know the run.
        """
        row = await self.database.fetchrow(SQL["updates"], uid, since, REPORTS_PAGE)
        found = [] if row is None else [*(row["reports"] or ())]
        full = len(found) == REPORTS_PAGE
        # A report that comes between two pages raises the version: a commit that did not see it is refused.
        while full:
            step, index, *_ = found[-1]
            page = await self.database.fetch(SQL["more_reports"], uid, step, index, REPORTS_PAGE)
            found += page
            full = len(page) == REPORTS_PAGE
        return rows.run_updates(row, found)

    async def task_payloads(
        self, uid: str, keys: Sequence[TaskKey], which: Literal["input", "output"]
    ) -> dict[TaskKey, bytes]:
        """Bodies of payloads of a run's tasks, by task; those that the ledger does not have are left out."""
        steps, indexes = [key.step for key in keys], [key.index for key in keys]
        found = await self.database.fetch(SQL["task_payloads"], uid, steps, indexes, which)
        return {TaskKey(row["step"], row["index"]): row["body"] for row in found if row["body"] is not None}

    async def run_outputs(self, uid: str) -> bytes | None:
        """The body of a run's outputs; None if there are none."""
        row = await self.database.fetchrow(SQL["run_outputs"], uid)
        body: bytes | None = None if row is None else row["body"]
        return body

    async def suspects(self) -> list[Suspect]:
        """Every run or schedule during whose passes processes died."""
        found = await self.database.fetch(SQL["suspects"])
        return [Suspect(**dict(row)) for row in found]

    async def keep_suspect(self, suspect: Suspect) -> None:
        """Write a suspect, in place of what the ledger had of the same uid."""
        await self.database.fetchrow(
            SQL["keep_suspect"],
            suspect.uid,
            suspect.kind,
            suspect.namespace,
            suspect.name,
            suspect.fingerprint,
            suspect.deaths,
            suspect.life,
        )

    async def drop_suspect(self, uid: str) -> None:
        """Forget a suspect."""
        await self.database.fetchrow(SQL["drop_suspect"], uid)

    async def expired(self, now: datetime, *, limit: int) -> list[tuple[str, str, str, str]]:
        """Ended runs past their retention: (uid, kind, namespace, name), oldest first."""
        found = await self.database.fetch(SQL["expired"], now, limit)
        return [(str(row["uid"]), row["kind"], row["namespace"], row["name"]) for row in found]

    async def forget(self, uids: Sequence[str], *, epoch: int) -> None:
        """Delete ended runs with all their history; live and unknown ones are ignored.

        Their events that are still in the outbox are published. Raises Deposed, and then deletes nothing.
        """
        row = await self.database.fetchrow(SQL["forget"], list(uids), epoch)
        if not row["fenced"]:
            raise Deposed(f"epoch {epoch} is over")

    async def cached(self, namespace: str, keys: Sequence[str], now: datetime) -> dict[str, CachedResult]:
        """Cached results of the namespace under these keys, by key, unless they have expired."""
        found = await self.database.fetch(SQL["cached"], namespace, list(keys), now)
        return {row["key"]: rows.cached_result(row) for row in found}

    async def forget_cache(self, now: datetime, *, limit: int, epoch: int) -> int:
        """Delete expired cached results, oldest first; returns how many. Raises Deposed."""
        row = await self.database.fetchrow(SQL["forget_cache"], now, limit, epoch)
        if not row["fenced"]:
            raise Deposed(f"epoch {epoch} is over")
        gone: int = row["gone"]
        return gone

    def wakes(self) -> AsyncGenerator[Wake | None, None]:
        """Runs about which reports, signals or signs of life were written; None after a gap."""
        return listen(self.database.connect, self.outbox_written)


async def _states(connection: Any, runs: list[Any]) -> list[RunState]:
    uids = [row["uid"] for row in runs]
    if not uids:
        return []
    return rows.run_states(
        runs,
        await connection.fetch(SQL["steps_of"], uids),
        await connection.fetch(SQL["tasks_of"], uids),
        await connection.fetch(SQL["newest_attempts_of"], uids),
    )
