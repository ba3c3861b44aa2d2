"""What the control loop needs from the world, as protocols.

The real ones are `perdure.ledger` and `perdure.kube`; the simulated tier has in-memory ones that inject
faults.
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol

from perdure.domain.expressions.evaluation import Answer, EvaluationRequest
from perdure.domain.records import (
    AttemptRecord,
    CachedResult,
    ChildClaim,
    Commit,
    Committed,
    LiveEntry,
    LivePage,
    RunRecord,
    RunState,
    RunUpdates,
    Suspect,
    TaskKey,
    Wake,
)
from perdure.kube.page import Page


class LedgerPort(Protocol):
    """The operator's side of the ledger. Every method may raise LedgerUnavailable."""

    async def take_epoch(self, holder: str) -> int:
        """Become the writer of all shards: returns a new, higher epoch, and fences all older ones."""
        ...

    async def live_index(self) -> list[LiveEntry]:
        """Every run that has not finished, without its state; oldest first."""
        ...

    async def load_page(self, uids: Sequence[str]) -> LivePage:
        """The live ones of these runs; one that cannot be read is set aside."""
        ...

    async def load(self, uid: str) -> RunState | None:
        """One run whole, finished or not; None if the ledger has never seen it."""
        ...

    async def outcomes(self, uids: Sequence[str]) -> dict[str, RunRecord]:
        """How runs stand, by uid; those that the ledger has never seen are left out. Their spec is {}."""
        ...

    async def commit(self, commit: Commit, *, epoch: int) -> Committed:
        """Write a decision with its events in one transaction.

        Raises Deposed if `epoch` is not the newest, VersionConflict if the run's version differs.
        """
        ...

    async def fence_commits(self, uid: str, *, epoch: int) -> None:
        """Let no commit of a run that is still on its way take effect."""
        ...

    async def record_pod(self, uid: str, attempt: AttemptRecord, *, pod_uid: str, epoch: int) -> None:
        """Note the uid of the pod made for an open attempt, which lets the pod in at the gateway."""
        ...

    async def claim_child(
        self,
        parent: RunRecord,
        attempt: AttemptRecord,
        *,
        owner_uid: str | None,
        most: int,
    ) -> ChildClaim:
        """Count the child of an open attempt among the descendants of its root run, once for each attempt.

        `owner_uid`: the object that owns the parent, as the cluster says. `most`: descendants of one root.
        Raises VersionConflict if there is no such open attempt.
        """
        ...

    async def updates(self, uid: str, *, since: datetime | None) -> RunUpdates:
        """Unread reports and signals, and vitals changed after `since` (all if None)."""
        ...

    async def suspects(self) -> list[Suspect]:
        """Every run or schedule during whose passes processes died."""
        ...

    async def keep_suspect(self, suspect: Suspect) -> None:
        """Write a suspect, in place of what the ledger had of the same uid."""
        ...

    async def drop_suspect(self, uid: str) -> None:
        """Forget a suspect."""
        ...

    async def task_payloads(
        self, uid: str, keys: Sequence[TaskKey], which: Literal["input", "output"]
    ) -> dict[TaskKey, bytes]:
        """Bodies of payloads of a run's tasks, by task; those that the ledger does not have are left out."""
        ...

    async def run_outputs(self, uid: str) -> bytes | None:
        """The body of a run's outputs; None if there are none."""
        ...

    async def expired(self, now: datetime, *, limit: int) -> list[tuple[str, str, str, str]]:
        """Finished runs past their retention: (uid, kind, namespace, name), oldest first."""
        ...

    async def forget(self, uids: Sequence[str], *, epoch: int) -> None:
        """Delete finished runs with all their history."""
        ...

    async def cached(self, namespace: str, keys: Sequence[str], now: datetime) -> dict[str, CachedResult]:
        """Results that tasks of the namespace left under these keys, by key, if they still hold."""
        ...

    async def forget_cache(self, now: datetime, *, limit: int, epoch: int) -> int:
        """Delete cached results that hold no longer, oldest first; returns how many. Raises Deposed."""
        ...

    def wakes(self) -> AsyncGenerator[Wake | None, None]:
        """Runs about which reports, signals or signs of life were written; None after a gap."""
        ...


class EvaluatorPort(Protocol):
    """Where expressions are evaluated that are too dear for a decision."""

    async def evaluate(self, namespace: str, requests: Sequence[EvaluationRequest]) -> Mapping[str, Answer]:
        """Answers by key, to at least one of the requests; the others are to be asked for again.

        `namespace` is whose turn it takes. An evaluation that exceeds its limits is answered by an error.
        """
        ...


class KubePort(Protocol):
    """The verbs. Bodies are plain JSON objects; failures are `perdure.kube.errors.ApiError`."""

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]: ...

    async def find(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        """As `get`; None if the API server itself says that there is no such object."""
        ...

    async def list(
        self, kind: str, *, namespace: str | None = None, label_selector: str | None = None
    ) -> tuple[list[dict[str, Any]], str]:
        """All objects (paged inside), and the list's resourceVersion."""
        ...

    async def warnings(self, namespace: str, uid: str) -> builtins.list[dict[str, Any]]:
        """Events of type Warning about the object with this uid, of a bounded number."""
        ...

    def pages(
        self, kind: str, *, namespace: str | None = None, label_selector: str | None = None
    ) -> AsyncGenerator[Page, None]:
        """The same a page at a time, for lists that are too large to be held at once."""
        ...

    async def create(
        self, kind: str, namespace: str, body: dict[str, Any], *, brief: bool = False
    ) -> dict[str, Any]:
        """The object as created; of a `brief` answer only its metadata."""
        ...

    async def replace(self, kind: str, namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]: ...

    async def patch(self, kind: str, namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]: ...

    async def patch_status(
        self,
        kind: str,
        namespace: str,
        name: str,
        body: dict[str, Any] | builtins.list[dict[str, Any]],
        *,
        brief: bool = False,
    ) -> dict[str, Any]:
        """A merge patch, or a JSON patch (RFC 6902) if `body` is a list. `brief`: see `create`."""
        ...

    async def delete(
        self,
        kind: str,
        namespace: str,
        name: str,
        *,
        uid: str | None = None,
        grace_seconds: int | None = None,
    ) -> None:
        """Delete in the background; a missing object, or one of another uid, is no error."""
        ...
