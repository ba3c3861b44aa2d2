"""Doing what was decided: an AgentTask and a pod, or a child Workflow, for every open attempt.

What to do follows from the ledger and names are deterministic, so every action can be repeated: one that was
lost in a crash is done by the next pass, and one that was done before is met as AlreadyExists and checked to
be our own.

No refusal of the API server fails a pass: an object that is refused, or whose create is not answered, holds
up its own task alone. The other tasks go on, and the status of the run is written.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

import structlog

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.live_run import CREATIONS, CreateRetry, Creation, LiveRun
from perdure.control.pass_journal import continued
from perdure.control.ports import LedgerPort
from perdure.control.runs.creation import InvalidObject, NameConflict, StillLeaving
from perdure.control.runs.executor import Executors
from perdure.control.runs.pod_warnings import note_created
from perdure.domain.engine.observed import Refusal
from perdure.domain.expressions.cel import ExpressionError
from perdure.domain.phases import Reason
from perdure.domain.records import AttemptRecord, TaskKey
from perdure.kube.errors import ApiError
from perdure.kube.refusals import RefusalKind, refusal_kind

#: Seconds for which a pass waits for the answers to its creates. Later answers get a pass of their own.
PATIENCE = 1.0
#: Time until the first retry of a create, doubled for each further retry, and the longest.
FIRST_RETRY = timedelta(seconds=0.25)
LONGEST_RETRY = timedelta(seconds=15)
#: Objects of one run that were refused before and are created again at once. One success lets the next ones
#: follow; without any, all others wait for `ROUND_PAUSE`: a fan-out of thousands has one quota.
ROUND = 16
ROUND_PAUSE = timedelta(seconds=2)
#: Time after the end of an attempt until objects that a quota refused are created again: the quota controller
#: counts the end first.
QUOTA_PAUSE = timedelta(seconds=0.5)
UNANSWERED = "the API server has not answered the request to create the {noun}: an admission webhook is slow?"

_log = structlog.get_logger(__name__)


class Actuator:
    """Makes and unmakes the objects of runs."""

    def __init__(self, *, ledger: LedgerPort, executors: Executors, wake: Callable[[RunKey], None]) -> None:
        """`wake` has a run reconciled soon, because a create was answered after its pass."""
        self._ledger = ledger
        self._executors = executors
        self._wake = wake
        self._under_way: set[asyncio.Task[str | None]] = set()

    async def close(self) -> None:
        """Cancel the creates that are not answered. Whether they take effect is found by the next relist."""
        under_way = list(self._under_way)
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    async def ensure(self, live: LiveRun, keys: Iterable[TaskKey], *, now: datetime, epoch: int) -> None:
        """See to it that the open attempts of these tasks have their pods, Jobs or child Workflows.

        Objects that were blocked before are created again when their time has come. Refusals are noted in
        `live`, as is when to retry (`Agenda.retry_blocked_at`). Raises LedgerError, and ApiError for a
        deletion that failed.
        """
        for executor in self._executors:
            await executor.prune(live)
        _drop_closed(live)
        objects = live.objects
        retried = _due_retries(live, now)
        wanted = [key for key in sorted({*keys, *retried}) if self._wants_object(live, key, now)]
        for key in wanted:
            objects.creating[key] = self._start(live, key)
        if wanted:
            await asyncio.wait([objects.creating[key].task for key in wanted], timeout=PATIENCE)
        for key in wanted:
            if not objects.creating[key].task.done():
                self._note_slow(live, key)
        if objects.creating:
            answered = [key for key, creation in objects.creating.items() if creation.task.done()]
            await self._settle_all(live, answered, now, epoch)
        live.agenda.retry_blocked_at = _next_round(live, retried, now)

    def note_ended(self, live: LiveRun, now: datetime) -> None:
        """Attempts of the run have ended: what a quota refused may fit soon."""
        for key, retry in live.objects.retries.items():
            if live.objects.blocked.get(key, (None,))[0] is Reason.QUOTA:
                live.objects.retries[key] = retry._replace(at=min(retry.at, now + QUOTA_PAUSE))

    async def stop(self, live: LiveRun, key: TaskKey) -> bool:
        """Ask an attempt that is stopping to leave, within its grace. Raises ApiError.

        Returns whether to observe the run again soon: there is no object whose end an event would report.
        """
        attempt = live.view.attempts.get(key)
        if attempt is None or attempt.closed_at is not None or attempt.stopping is None:
            return False
        return await self._executors.of_attempt(live, key).stop(live, attempt)

    def _wants_object(self, live: LiveRun, key: TaskKey, now: datetime) -> bool:
        attempt = live.view.attempts.get(key)
        retry = live.objects.retries.get(key)
        return (
            attempt is not None
            and attempt.closed_at is None
            and attempt.stopping is None
            and attempt.pod_uid is None
            and key not in live.objects.creating
            and (retry is None or retry.at <= now)
        )

    def _start(self, live: LiveRun, key: TaskKey) -> Creation:
        attempt, task = live.view.attempts[key], live.view.tasks[key]
        executor = self._executors.of_attempt(live, key)

        async def create() -> str | None:
            async with live.objects.creation_slots:
                return await executor.ensure(live, task, attempt)

        was_pending = executor.is_pending(live, attempt)
        created = asyncio.create_task(continued(create()))
        self._under_way.add(created)
        created.add_done_callback(self._under_way.discard)
        return Creation(attempt.number, created, was_pending)

    def _note_slow(self, live: LiveRun, key: TaskKey) -> None:
        """Show that a create is not answered, unless an earlier create of the object was, with a cause."""
        noun = self._executors.of_attempt(live, key).noun(live.view.plan.steps[key.step])
        _block(live, key, (Reason.STARTING, UNANSWERED.format(noun=noun)), keep=True)

        def answered(task: asyncio.Task[str | None]) -> None:
            if not task.cancelled():
                task.exception()  # read by the next pass, unless the attempt is closed by then
                self._wake(live.key)

        live.objects.creating[key].task.add_done_callback(answered)

    async def _settle_all(self, live: LiveRun, keys: Sequence[TaskKey], now: datetime, epoch: int) -> None:
        if len(keys) == 1:
            await self._settle(live, keys[0], now, epoch)
            return
        limit = asyncio.Semaphore(CREATIONS)

        async def settle(key: TaskKey) -> None:
            async with limit:
                await self._settle(live, key, now, epoch)

        # All are tried before the first error is raised, so that one bad task holds up none of the others.
        results = await asyncio.gather(*(continued(settle(key)) for key in keys), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _settle(self, live: LiveRun, key: TaskKey, now: datetime, epoch: int) -> None:
        """Take over the answer to a create."""
        creation = live.objects.creating.pop(key)
        attempt = live.view.attempts[key]
        if creation.task.cancelled():
            return
        try:
            uid = creation.task.result()
        except StillLeaving as error:
            _block(live, key, (error.reason, str(error)))
            _retry(live, attempt, now)
        except NameConflict as error:
            _refuse(live, attempt, Reason.NAME_CONFLICT, str(error))
        except ExpressionError as error:
            # The decision has evaluated the same: this time a limit of time or memory was exceeded.
            _refuse(live, attempt, Reason.EXPRESSION_ERROR, str(error))
        except InvalidObject as error:
            _refuse(live, attempt, Reason.INVALID_CONFIG, str(error))
        except ApiError as error:
            noun = self._executors.of_attempt(live, key).noun(live.view.plan.steps[key.step])
            self._note_refusal(live, attempt, error, noun, now)
        else:
            live.objects.retries.pop(key, None)
            note_created(live, key, now)
            if uid is not None:
                _unblock(live, key)
                await self._ledger.record_pod(live.uid, attempt, pod_uid=uid, epoch=epoch)
                live.view.note_pod(key, uid)
                live.objects.jobs.pop(key, None)
            elif not creation.was_pending:
                _unblock(live, key)

    def _note_refusal(
        self, live: LiveRun, attempt: AttemptRecord, error: ApiError, noun: str, now: datetime
    ) -> None:
        """Distinguish what never heals from what heals in its own time, and is created again until then."""
        kind = refusal_kind(error)
        message = f"the API server refuses the {noun}: {error.message}"
        if kind is RefusalKind.INVALID:
            _refuse(live, attempt, Reason.INVALID_CONFIG, message)
            return
        if kind is RefusalKind.UNAVAILABLE and error.status == 0:
            message = f"the API server does not answer: {error.message}"
        elif kind is RefusalKind.QUOTA:
            message = error.message
        elif kind is RefusalKind.TERMINATING:
            message = (
                f"the namespace {live.key.namespace} is being deleted: nothing is created in it any more"
            )
        if attempt.key not in live.objects.retries:
            _log.info("object refused", run=live.key, object=attempt.pod_name, cause=str(error))
        _block(live, attempt.key, (Reason.QUOTA if kind is RefusalKind.QUOTA else Reason.STARTING, message))
        _retry(live, attempt, now, at_least=error.retry_after)


def _refuse(live: LiveRun, attempt: AttemptRecord, reason: Reason, message: str) -> None:
    _unblock(live, attempt.key)
    live.objects.retries.pop(attempt.key, None)
    live.objects.refusals[attempt.key] = Refusal(attempt=attempt.number, reason=reason, message=message)


def _block(live: LiveRun, key: TaskKey, waiting: tuple[Reason, str], *, keep: bool = False) -> None:
    """Note why an object does not exist, for its task's status; `keep` an earlier cause."""
    before = live.objects.blocked.get(key)
    if before == waiting or (keep and before is not None):
        return
    live.objects.blocked[key] = waiting
    live.published.changed.add(key)


def _unblock(live: LiveRun, key: TaskKey) -> None:
    if live.objects.blocked.pop(key, None) is not None:
        live.published.changed.add(key)


def _retry(live: LiveRun, attempt: AttemptRecord, now: datetime, *, at_least: float | None = None) -> None:
    """Note when the object of an attempt is created again: exponential in the tries so far, with jitter.

    The jitter follows from the object's name and the number of the try, so that a decision can be replayed,
    and the objects of many runs that one cause refuses do not return together.
    """
    before = live.objects.retries.get(attempt.key)
    tries = 1 if before is None else before.tries + 1
    delay = min(FIRST_RETRY * 2 ** min(tries - 1, 10), LONGEST_RETRY)
    fraction = zlib.crc32(f"{attempt.pod_name}/{tries}".encode()) / 2**32
    delay = max(delay * (0.5 + fraction / 2), timedelta(seconds=min(at_least or 0.0, 60.0)))
    live.objects.retries[attempt.key] = CreateRetry(attempt.number, tries, now + delay)


def _drop_closed(live: LiveRun) -> None:
    """Forget blocked objects and creates of attempts that are not open any more."""
    objects = live.objects
    for key in [
        key for key, creation in objects.creating.items() if not _is_open(live, key, creation.attempt)
    ]:
        objects.creating.pop(key).task.cancel()
    for key in [key for key, retry in objects.retries.items() if not _is_open(live, key, retry.attempt)]:
        del objects.retries[key]
        objects.blocked.pop(key, None)
    for key in [key for key in objects.blocked if key not in live.view.open]:
        del objects.blocked[key]


def _is_open(live: LiveRun, key: TaskKey, number: int) -> bool:
    attempt = live.view.attempts.get(key)
    return attempt is not None and attempt.number == number and attempt.closed_at is None


def _due_retries(live: LiveRun, now: datetime) -> list[TaskKey]:
    """The blocked objects to create again now, those that wait longest first."""
    due = [(retry.at, key) for key, retry in live.objects.retries.items() if retry.at <= now]
    return [key for _, key in sorted(due)[:ROUND]]


def _next_round(live: LiveRun, retried: Sequence[TaskKey], now: datetime) -> datetime | None:
    """When blocked objects are created again; None if none is blocked."""
    retries = live.objects.retries
    if not retries:
        return None
    earliest = min(retry.at for retry in retries.values())
    if earliest > now:
        return earliest
    # More are due than one round creates. They follow at once only if the cause is gone for some of it.
    healed = any(key not in retries and key not in live.objects.creating for key in retried)
    return now if healed else now + ROUND_PAUSE
