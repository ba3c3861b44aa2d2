"""The order in which evaluations have their turn: namespaces in turns, each for about a tenth of a second.

A namespace has at most one child at a time, and one whose evaluations keep overrunning is slowed, so that it
delays no other. How many evaluations fit into a turn is learnt from how long those before have taken.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from perdure.control.evaluation.wire import MAX_MESSAGE_BYTES
from perdure.domain.expressions.evaluation import EvaluationRequest

#: Seconds that the evaluations of one turn should take.
TURN_SECONDS = 0.1
#: Evaluations of a first turn, and of any.
FIRST_TURN = 4
MAX_TURN = 256
#: Seconds for which a namespace waits after an overrun, doubled by each further one, and the longest.
FIRST_PENALTY = 0.25
LONGEST_PENALTY = 30.0


@dataclass(slots=True)
class Job:
    """The requests of one pass, and what has been answered of them."""

    pending: deque[EvaluationRequest]
    #: Answers as messages of the child, by key.
    answers: dict[str, bytes]
    done: asyncio.Future[None]
    #: Keys of requests that are tried once more, by themselves: a child died, and another may be the cause.
    suspects: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Lane:
    """The jobs of one namespace."""

    jobs: deque[Job] = field(default_factory=deque)
    busy: bool = False
    turn: float = FIRST_TURN
    overruns: int = 0
    not_before: float = 0.0


class Turns:
    """Jobs by namespace. Times are seconds of any one clock."""

    def __init__(self) -> None:
        self._lanes: OrderedDict[str, Lane] = OrderedDict()

    def add(self, namespace: str, job: Job) -> None:
        """Add a job to those of its namespace."""
        self._lanes.setdefault(namespace, Lane()).jobs.append(job)

    def remove(self, namespace: str, job: Job) -> None:
        """Forget a job that no pass waits for; what is being evaluated of it ends by itself."""
        lane = self._lanes.get(namespace)
        if lane is not None and job in lane.jobs:
            lane.jobs.remove(job)

    def take(self, now: float) -> tuple[str, Job, list[EvaluationRequest]] | None:
        """The requests of the next turn; None if nothing may be evaluated now. `end` ends the turn."""
        for namespace, lane in self._lanes.items():
            if lane.busy or lane.not_before > now or not lane.jobs:
                continue
            lane.busy = True
            self._lanes.move_to_end(namespace)
            job = lane.jobs[0]
            # The passes of one namespace have their turns, too.
            lane.jobs.rotate(-1)
            return namespace, job, _requests(job, int(lane.turn))
        return None

    def next_at(self) -> float | None:
        """When the first slowed namespace may go on; None if none waits for that."""
        times = [lane.not_before for lane in self._lanes.values() if lane.jobs and not lane.busy]
        return min(times, default=None)

    def end(self, namespace: str, number: int, seconds: float, now: float, *, overran: bool) -> None:
        """A turn in which so many requests were answered is over."""
        lane = self._lanes[namespace]
        lane.busy = False
        if overran:
            lane.turn = 1
            lane.not_before = now + min(FIRST_PENALTY * 2**lane.overruns, LONGEST_PENALTY)
            lane.overruns = min(lane.overruns + 1, 10)
        elif number:
            lane.turn = min(MAX_TURN, max(1.0, number * TURN_SECONDS / max(seconds, 0.001)))
            lane.overruns = max(0, lane.overruns - 1)
        while lane.jobs and not any(job.pending for job in lane.jobs):
            lane.jobs.popleft()
        if not lane.jobs and not lane.overruns:
            del self._lanes[namespace]


def _requests(job: Job, number: int) -> list[EvaluationRequest]:
    """So many of a job's requests, of which no two of a batch are suspected."""
    taken: list[EvaluationRequest] = []
    size, known = 0, set()
    while job.pending and len(taken) < number:
        request = job.pending[0]
        if taken and request.key in job.suspects:
            break
        size += sum(len(value.body) for _, value in request.values if value.digest not in known)
        if taken and size > MAX_MESSAGE_BYTES // 2:
            break
        known |= {value.digest for _, value in request.values}
        taken.append(job.pending.popleft())
        if request.key in job.suspects:
            break
    return taken


def give_back(job: Job, requests: Sequence[EvaluationRequest]) -> None:
    """Requests of a turn that were not evaluated come first in the next one."""
    job.pending.extendleft(reversed(requests))
