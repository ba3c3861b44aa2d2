"""Agents: the programs in the pods, and every way in which one can end.

The work of an agent has parts. Each part is done once and saved, and the next attempt resumes after it. The
output follows from the agent's place in the run alone, so a run has the same outputs whatever happened to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import orjson

from perdure.domain.names import LABEL_ATTEMPT, LABEL_INDEX, LABEL_STEP, LABEL_TASK
from perdure.domain.payloads import INLINE_BYTES, payload_of
from perdure.domain.records import Report, Superseded
from perdure.ledger.types import Overtaken
from tests.fakes.clock import Process, now
from tests.fakes.faults import Faults
from tests.fakes.gateway import Client, Unavailable
from tests.fakes.model import PodTruth

Result = TypeVar("Result")

#: Exit codes: done, failed, interrupted, superseded.
DONE, FAILED, INTERRUPTED, SUPERSEDED = 0, 1, 75, 76
#: Seconds between signs of life.
HEARTBEAT: Final = 8.0
#: How often a report is sent before the agent leaves it to the termination message.
REPORTS: Final = 6
#: Longer than any world lasts.
FOR_EVER: Final = 1e6


def parts_of(place: str) -> int:
    """How many parts the work of a task has: 1 to 3, by its place in the run."""
    return 1 + zlib.crc32(place.encode()) % 3


def output_of(step: str, index: str | None) -> dict[str, Any]:
    """The output of a task, whichever attempt returned it."""
    place = step if index is None else f"{step}/{index}"
    output = {"at": place, "parts": parts_of(place)}
    # Some are too large to be kept in memory: the ledger copies them, and expressions read them from there.
    return {**output, "text": "x" * INLINE_BYTES} if output["parts"] % 2 else output


@dataclass(slots=True, kw_only=True)
class Behaviour:
    """How agents work. What is None is drawn for each of them."""

    #: Seconds that a part of the work takes, at least and at most.
    work: tuple[float, float] = (0.01, 4.0)
    #: Whether an agent uses the gateway. Otherwise only its exit says how it ended.
    reports: bool | None = None
    #: Seconds from an agent's report to the end of its container.
    exit_delay: float | None = None
    #: How likely SIGTERM comes so late in the work that the agent finishes it instead of stopping.
    finishes: float = 0.0


class Agent:
    """The agent in one pod."""

    def __init__(
        self, pod: dict[str, Any], truth: PodTruth, client: Client, faults: Faults, behaviour: Behaviour
    ) -> None:
        labels = pod["metadata"]["labels"]
        self.task: str = labels[LABEL_TASK]
        self.attempt = int(labels[LABEL_ATTEMPT])
        self.output = output_of(labels.get(LABEL_STEP, ""), labels.get(LABEL_INDEX))
        self.process = Process(f"agent {pod['metadata']['name']}")
        self.truth = truth
        self._client = client
        #: Called when a report is sent.
        self.on_report: Callable[[], None] = lambda: None
        self._faults = faults
        self._work = behaviour.work
        self._exit_delay = behaviour.exit_delay
        self._finishes = behaviour.finishes
        #: Uses no gateway: each attempt starts from scratch, and only its exit reports the end.
        self.plain = faults.chance(0.3) if behaviour.reports is None else not behaviour.reports
        #: Ignores SIGTERM.
        self.deaf = faults.happens("agent deaf")
        #: Parts that are done; None until it is known where to go on.
        self._done: int | None = None
        self._order = 0
        #: The checkpoint that is being saved: part, text and order.
        self._saving: tuple[int | None, str, int] | None = None
        self._task: asyncio.Task[tuple[int, str]] | None = None

    def start(self, ended: Callable[[int, str], None]) -> None:
        """Start to work; `ended` is called with the exit code and the termination message."""

        def note(task: asyncio.Task[tuple[int, str]]) -> None:
            if not task.cancelled():
                ended(*task.result())

        self._task = self.process.start(self._run())
        self._task.add_done_callback(note, context=self.process.context)

    def terminate(self) -> None:
        """SIGTERM."""
        if self._task is not None and not self.deaf:
            self._task.cancel()

    async def _run(self) -> tuple[int, str]:
        beats: asyncio.Task[None] | None = None
        try:
            if self.plain:
                return await self._work_alone()
            beats = asyncio.get_running_loop().create_task(self._beat())
            return await self._work_on()
        except Superseded:
            return SUPERSEDED, ""
        except asyncio.CancelledError:
            return await self._interrupted()
        finally:
            if beats is not None:
                beats.cancel()

    async def _work_alone(self) -> tuple[int, str]:
        for _ in range(self.output["parts"]):
            await self._part()
            code = self._failure()
            if code is not None:
                return await code
        self.truth.worked = True
        return DONE, orjson.dumps(self.output).decode()

    async def _work_on(self) -> tuple[int, str]:
        done = self._done = await self._patiently(self._client.restore)
        while done < self.output["parts"]:
            if self._faults.chance(0.25):
                await self._save(None, "not recoverable")
            await self._part()
            code = self._failure()
            if code is not None:
                return await code
            done += 1
            await self._save(done, "part")
            self._done = done
        self.truth.worked = True
        return await self._report(Report(outcome="Succeeded", output=payload_of(self.output), at=now()))

    async def _part(self) -> None:
        await asyncio.sleep(self._faults.between(*self._work))

    def _failure(self) -> Awaitable[tuple[int, str]] | None:
        faults = self._faults
        if faults.happens("agent fails"):
            return _exits(faults.choice([FAILED, 2, 137]), "bad luck")
        if faults.happens("agent interrupts"):
            return _exits(faults.choice([INTERRUPTED, INTERRUPTED, SUPERSEDED]), "")
        if faults.happens("agent reports failure") and not self.plain:
            return self._report(Report(outcome="Failed", message="no luck", at=now()))
        if faults.happens("agent ends early"):
            return _exits(DONE, "")
        if faults.happens("agent hangs"):
            return self._hang()
        return None

    async def _hang(self) -> tuple[int, str]:
        await asyncio.sleep(self._faults.between(10.0, 400.0))
        return FAILED, "hung"

    async def _interrupted(self) -> tuple[int, str]:
        """Handle SIGTERM: save a checkpoint and ask for another attempt, or finish if the end is near."""
        if self.plain or self._done is None:
            return INTERRUPTED, ""
        try:
            if self.truth.worked or self._faults.chance(self._finishes):
                self.truth.worked = True
                return await self._report(
                    Report(outcome="Succeeded", output=payload_of(self.output), at=now())
                )
            if self._saving is not None:
                await self._send(*self._saving)
            else:
                await self._save(self._done, "interrupted")
        except Superseded:
            return SUPERSEDED, ""
        return INTERRUPTED, ""

    async def _report(self, report: Report) -> tuple[int, str]:
        succeeded = report.outcome == "Succeeded"
        message = orjson.dumps(self.output).decode() if succeeded else report.message
        code = DONE if succeeded else FAILED
        for _ in range(REPORTS):
            self.on_report()
            try:
                await self._client.report(report)
            except Unavailable:
                await asyncio.sleep(self._faults.between(0.5, 3.0))
            else:
                # The gateway has the result, and some agents do not repeat it in the message.
                message = self._faults.choice(["", message])
                break
        delay = self._exit_delay
        await asyncio.sleep(self._faults.choice([0.0, 0.0, 0.2, 1.0]) if delay is None else delay)
        return code, message

    async def _save(self, part: int | None, text: str) -> None:
        self._order += 1
        await self._send(part, text, self._order)

    async def _send(self, part: int | None, text: str, order: int) -> None:
        # A checkpoint that is in flight when SIGTERM arrives is sent again: whether it arrived is unknown.
        self._saving = part, text, order
        # Overtaken: a request that had timed out arrived after all.
        with contextlib.suppress(Overtaken):
            await self._patiently(lambda: self._client.checkpoint(part, text, order=order))
        self._saving = None

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            try:
                await self._client.heartbeat()
            except Unavailable:
                continue
            except Superseded:
                return

    async def _patiently(self, call: Callable[[], Awaitable[Result]]) -> Result:
        while True:
            try:
                return await call()
            except Unavailable:
                await asyncio.sleep(self._faults.between(0.5, 3.0))


async def _exits(code: int, message: str) -> tuple[int, str]:
    return code, message
