"""One evaluation child as the operator holds it: started, given batches, killed when it overruns."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import perdure
from perdure.control.evaluation.limits import WALL_SECONDS
from perdure.control.evaluation.wire import LENGTH, MAX_MESSAGE_BYTES, encode_batch
from perdure.domain.expressions.evaluation import EvaluationRequest

#: Seconds until a child that was just started must have answered: importing takes a second on a busy machine.
START_SECONDS: Final = 30.0
#: Bytes of the child's error output that are kept, for the log if the child dies.
_KEPT_STDERR: Final = 2000
_PATH: Final = str(Path(perdure.__file__).parent.parent)


class ChildDied(Exception):
    """The child ended, or was killed, before it had answered a request.

    `overran`: the request took too long, so that no other request can be the cause.
    """

    def __init__(self, cause: str, *, overran: bool) -> None:
        super().__init__(cause)
        self.overran = overran


class Child:
    """A child process. Used by one task at a time."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._stderr = b""
        self._draining = asyncio.create_task(self._drain())

    @classmethod
    async def start(cls) -> Child:
        """Start a child, and wait until it is ready. Raises OSError and ChildDied."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "perdure.control.evaluation.child",
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            # Nothing of the operator's environment: it has credentials.
            env={"PYTHONPATH": _PATH, "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8"},
            limit=1024 * 1024,
        )
        child = cls(process)
        try:
            await child._receive(START_SECONDS)
        except BaseException:
            await child.close()
            raise
        return child

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    async def answers(self, requests: Sequence[EvaluationRequest]) -> AsyncIterator[bytes]:
        """The answers in the order of the requests: a byte for the kind, then the body. Raises ChildDied."""
        assert self._process.stdin is not None
        # A batch that is larger than the pipe is written while its first answer is awaited.
        self._process.stdin.write(encode_batch(requests))
        for _ in requests:
            yield await self._receive(WALL_SECONDS)
            # What has arrived already is read without a wait: others have their turn between answers.
            await asyncio.sleep(0)

    async def _receive(self, seconds: float) -> bytes:
        stdout = self._process.stdout
        assert stdout is not None
        try:
            async with asyncio.timeout(seconds):
                (length,) = LENGTH.unpack(await stdout.readexactly(LENGTH.size))
                if length > MAX_MESSAGE_BYTES:
                    raise ChildDied(f"it sent a message of {length} bytes", overran=False)
                return await stdout.readexactly(length)
        except TimeoutError:
            raise ChildDied(f"it did not answer within {seconds:g} s", overran=True) from None
        except (EOFError, OSError):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._process.wait()
            code = self._process.returncode
            raise ChildDied(f"it ended with code {code}", overran=code == -signal.SIGPROF) from None

    async def close(self) -> None:
        """Kill the child, and wait for its end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._process.wait()
        self._draining.cancel()
        await asyncio.gather(self._draining, return_exceptions=True)
        if self._process.stdin is not None:
            self._process.stdin.close()

    def last_words(self) -> str:
        """The end of the child's error output."""
        return self._stderr.decode(errors="replace")

    async def _drain(self) -> None:
        assert self._process.stderr is not None
        while chunk := await self._process.stderr.read(65536):
            self._stderr = (self._stderr + chunk)[-_KEPT_STDERR:]
