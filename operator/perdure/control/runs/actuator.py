"""Doing what was decided: an AgentTask and a pod, or a child Workflow, for every open attempt.

What to do follows from the ledger and names are deterministic, so every action can be repeated: one that was
lost in a crash is done by the next pass, and one that was done before is met as AlreadyExists and checked to
be our own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import timedelta

from perdure.control.live_run import LiveRun
from perdure.control.ports import LedgerPort
from perdure.control.runs.creation import InvalidObject, NameConflict, StillLeaving
from perdure.control.runs.executor import Executors
from perdure.domain.engine.observed import Refusal
from perdure.domain.phases import Reason
from perdure.domain.records import AttemptRecord, TaskKey
from perdure.kube.errors import ApiError

#: Creations of one run that are under way at once.
CONCURRENCY = 16
#: Time until a creation that was forbidden is tried again.
BLOCKED_RETRY = timedelta(seconds=5)


class Actuator:
    """Makes and unmakes the objects of runs."""

    def __init__(self, *, ledger: LedgerPort, executors: Executors) -> None:
        self._ledger = ledger
        self._executors = executors

    async def ensure(self, live: LiveRun, keys: Iterable[TaskKey], *, epoch: int) -> None:
        """See to it that the open attempts of these tasks have their pods, Jobs or child Workflows.

        Refusals and delays by the API server are noted in `live`; what may heal by itself at once is raised.
        """
        for executor in self._executors:
            await executor.prune(live)
        wanted = [key for key in keys if self._wants_object(live, key)]
        if not wanted:
            return
        if len(wanted) == 1:
            await self._ensure_one(live, wanted[0], epoch)
            return
        limit = asyncio.Semaphore(CONCURRENCY)

        async def ensure_one(key: TaskKey) -> None:
            async with limit:
                await self._ensure_one(live, key, epoch)

        # All are tried before the first error is raised, so that one bad task holds up none of the others.
        results = await asyncio.gather(*(ensure_one(key) for key in wanted), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def stop(self, live: LiveRun, key: TaskKey) -> bool:
        """Ask an attempt that is stopping to leave, within its grace. Raises ApiError.

        Returns whether to observe the run again soon: there is no object whose end an event would report.
        """
        attempt = live.view.attempts.get(key)
        if attempt is None or attempt.closed_at is not None or attempt.stopping is None:
            return False
        return await self._executors.of_attempt(live, key).stop(live, attempt)

    def _wants_object(self, live: LiveRun, key: TaskKey) -> bool:
        attempt = live.view.attempts.get(key)
        return (
            attempt is not None
            and attempt.closed_at is None
            and attempt.stopping is None
            and attempt.pod_uid is None
        )

    async def _ensure_one(self, live: LiveRun, key: TaskKey, epoch: int) -> None:
        attempt, task = live.view.attempts[key], live.view.tasks[key]
        blocked = live.objects.blocked.pop(key, None)
        executor = self._executors.of_attempt(live, key)
        was_pending = executor.is_pending(live, attempt)
        try:
            uid = await executor.ensure(live, task, attempt)
        except StillLeaving as error:
            live.objects.blocked[key] = (Reason.STARTING, str(error))
        except NameConflict as error:
            _refuse(live, attempt, Reason.NAME_CONFLICT, str(error))
        except InvalidObject as error:
            _refuse(live, attempt, Reason.INVALID_CONFIG, str(error))
        except ApiError as error:
            _note_refusal(live, attempt, error, executor.noun(live.view.plan.steps[key.step]))
        else:
            if uid is not None:
                await self._ledger.record_pod(live.uid, attempt, pod_uid=uid, epoch=epoch)
                live.view.note_pod(key, uid)
                live.objects.jobs.pop(key, None)
            elif blocked is not None and was_pending:
                live.objects.blocked[key] = blocked


def _refuse(live: LiveRun, attempt: AttemptRecord, reason: Reason, message: str) -> None:
    live.objects.refusals[attempt.key] = Refusal(attempt=attempt.number, reason=reason, message=message)


def _note_refusal(live: LiveRun, attempt: AttemptRecord, error: ApiError, noun: str) -> None:
    """Distinguish what never heals, what heals in its own time, and what is to be tried again now."""
    key = attempt.key
    refused = f"the API server refuses the {noun}: {error.message}"
    if "being terminated" in error.message:
        raise error
    if error.status == 403 and "quota" in error.message:
        live.objects.blocked[key] = (Reason.QUOTA, error.message)
    elif error.status == 403:
        # Nothing that is forbidden need stay so: a ServiceAccount that is applied after us, a role, a policy.
        # And an API server that has just started forbids what it has not read the roles for.
        live.objects.blocked[key] = (Reason.STARTING, refused)
    elif error.status in (400, 413, 422):
        _refuse(live, attempt, Reason.INVALID_CONFIG, refused)
    else:
        raise error
