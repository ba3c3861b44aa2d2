"""The pool of evaluation children: a port of the control loop, and the tasks that serve it.

Children are started when there is work, and one stays. A request at which a child dies, or which exceeds a
limit, is answered by an error (`too much work`) and the child is replaced. Where another request of the same
batch may be the cause, the request is first tried once more by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence

import orjson
import structlog

from perdure.control.evaluation.limits import MAX_EVALUATIONS
from perdure.control.evaluation.queue import Job, Turns, give_back
from perdure.control.evaluation.wire import ERROR, OVERRUN, VALUE
from perdure.control.evaluation.worker import Child, ChildDied
from perdure.domain.expressions.cel import shortened
from perdure.domain.expressions.evaluation import Answer, EvaluationRequest
from perdure.domain.expressions.meter import TOO_MUCH_WORK
from perdure.logs import mask_text

#: Children at most. Two, so that one namespace's work does not stand in the way of the others'.
CHILDREN = 2
#: Seconds without work after which a child ends that is not the only one.
IDLE_SECONDS = 30.0
#: Seconds without work after which the first child is started. The start of the operator is over by then.
WARM_SECONDS = 5.0
#: Seconds after which a task that waits for work checks for it by itself.
BACKSTOP_SECONDS = 10.0
#: Seconds between two tries to start a child.
RESTART_SECONDS = 1.0
#: Bytes of answers that are kept: the objects of a task ask again for what its decision has asked.
KEPT_BYTES = 4 * 1024 * 1024
#: Bytes of answers that one call returns; what is missing is asked for again.
MAX_ANSWER_BYTES = 16 * 1024 * 1024

_log = structlog.get_logger(__name__)


class EvaluationPool:
    """Evaluates in children; see `control.ports.EvaluatorPort`."""

    def __init__(self, *, children: int = CHILDREN) -> None:
        self._children = children
        self._turns = Turns()
        self._work = asyncio.Condition()
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._kept_bytes = 0
        #: Children by the task that serves them, and children that have died.
        self.alive: dict[int, Child] = {}
        self.deaths = 0

    async def evaluate(self, namespace: str, requests: Sequence[EvaluationRequest]) -> Mapping[str, Answer]:
        """See `EvaluatorPort`. Waits for the namespace's turn."""
        answers = {request.key: self._kept[request.key] for request in requests if request.key in self._kept}
        missing = [request for request in requests if request.key not in answers]
        if missing:
            job = Job(deque(missing), answers, asyncio.get_running_loop().create_future())
            self._turns.add(namespace, job)
            try:
                async with self._work:
                    self._work.notify()
                await job.done
            finally:
                self._turns.remove(namespace, job)
        found = {}
        for key, message in answers.items():
            found[key] = _answer(message)
            # Parsing what many evaluations gave takes longer together than one turn of the loop may.
            await asyncio.sleep(0)
        return found

    async def run(self) -> None:
        """Serve until cancelled; then no child is left."""
        if sys.version_info < (3, 12):
            # The default there waits for each child in a thread.
            watcher = asyncio.PidfdChildWatcher()
            watcher.attach_loop(asyncio.get_running_loop())
            asyncio.get_event_loop_policy().set_child_watcher(watcher)
        async with asyncio.TaskGroup() as group:
            for number in range(self._children):
                group.create_task(self._serve(number))

    # --- the work of one child

    async def _serve(self, number: int) -> None:
        child: Child | None = None
        try:
            served = 0
            while True:
                turn = await self._next_turn(_within(number, child))
                if turn is None:
                    # Nothing to do: the first child is started ahead of its first work, any other ends.
                    if child is None:
                        child = await self._start(number)
                    else:
                        await self._close(number, child)
                        child = None
                    continue
                namespace, job, requests = turn
                try:
                    if child is None:
                        child = await self._start(number)
                        served = 0
                    alive = await self._take_turn(child, namespace, job, requests)
                except Exception as error:
                    # A defect of ours fails the pass that asked, and no process.
                    _log.exception("evaluations failed", namespace=namespace)
                    job.pending.clear()
                    if not job.done.done():
                        job.done.set_exception(error)
                    self._turns.end(namespace, 0, 0.0, _now(), overran=True)
                    alive = False
                served += len(requests)
                if child is not None and (not alive or served > MAX_EVALUATIONS):
                    await self._close(number, child)
                    child = None
        finally:
            if child is not None:
                await self._close(number, child)

    async def _start(self, number: int) -> Child:
        while True:
            try:
                child = await Child.start()
            except (OSError, ChildDied) as error:
                _log.error("evaluation child does not start", error=str(error))
                await asyncio.sleep(RESTART_SECONDS)
            else:
                self.alive[number] = child
                return child

    async def _close(self, number: int, child: Child) -> None:
        await child.close()
        self.alive.pop(number, None)

    async def _next_turn(self, within: float) -> tuple[str, Job, list[EvaluationRequest]] | None:
        """The next requests; None after so many seconds without any."""
        until = _now() + within
        async with self._work:
            while True:
                now = _now()
                turn = self._turns.take(now)
                if turn is not None:
                    return turn
                if now >= until:
                    return None
                next_at = self._turns.next_at()
                wait = until - now if next_at is None or next_at <= now else min(until, next_at) - now
                # A wake-up that went to another task delays work by no more than this.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(wait, BACKSTOP_SECONDS)):
                        await self._work.wait()

    async def _take_turn(
        self, child: Child, namespace: str, job: Job, requests: list[EvaluationRequest]
    ) -> bool:
        """Have requests evaluated, and answer those that were. False if the child has died."""
        began = _now()
        answered = 0
        died: ChildDied | None = None
        try:
            async for message in child.answers(requests):
                if message[:1] == OVERRUN:
                    raise ChildDied("it ran out of memory", overran=False)
                self._keep(job, requests[answered].key, message)
                answered += 1
        except ChildDied as error:
            died = error
            guilty, rest = requests[answered], requests[answered + 1 :]
            self.deaths += 1
            _log.info(
                "evaluation child died",
                namespace=namespace,
                expression=shortened(guilty.source),
                cause=str(error),
                stderr=mask_text(child.last_words()),
            )
            give_back(job, rest)
            if error.overran or len(requests) == 1:
                text = f"${{{shortened(guilty.source)}}}: {TOO_MUCH_WORK}"
                self._keep(job, guilty.key, ERROR + text.encode())
            else:
                job.suspects.add(guilty.key)
                give_back(job, [guilty])
        seconds = _now() - began
        self._turns.end(namespace, answered, seconds, _now(), overran=died is not None)
        size = sum(map(len, job.answers.values()))
        if (not job.pending or size > MAX_ANSWER_BYTES) and not job.done.done():
            job.done.set_result(None)
        async with self._work:
            self._work.notify_all()
        return died is None

    def _keep(self, job: Job, key: str, message: bytes) -> None:
        job.answers[key] = message
        if key not in self._kept and len(message) <= KEPT_BYTES // 4:
            self._kept[key] = message
            self._kept_bytes += len(message)
            while self._kept_bytes > KEPT_BYTES:
                _, dropped = self._kept.popitem(last=False)
                self._kept_bytes -= len(dropped)


def _within(number: int, child: Child | None) -> float:
    """For how many seconds the task of a child waits for work before it starts or ends the child."""
    if child is None:
        return WARM_SECONDS if number == 0 else math.inf
    return math.inf if number == 0 else IDLE_SECONDS


def _answer(message: bytes) -> Answer:
    body = memoryview(message)[1:]
    if message[:1] == VALUE:
        return Answer(orjson.loads(body))
    return Answer(error=str(body, "utf-8", "replace"))


def _now() -> float:
    return asyncio.get_running_loop().time()
