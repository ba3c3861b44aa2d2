"""Programs in the product's Python that receive one command per line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson

#: Bytes of an answer, which may have a time for each of thousands of pieces of work.
_LONGEST_ANSWER = 2**24


class Asked:
    """A program that answers each JSON document on its standard input with one on its standard output."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, order: Any, *, within: float) -> dict[str, Any]:
        """Send one line, and return the answer. Raises RuntimeError, TimeoutError."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(orjson.dumps(order) + b"\n")
        async with asyncio.timeout(within):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("the program has ended; what it said is above")
        answer: dict[str, Any] = orjson.loads(line)
        return answer


@asynccontextmanager
async def asked(command: Sequence[str], environment: Mapping[str, str]) -> AsyncIterator[Asked]:
    """Start a program; it is killed in the end."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LONGEST_ANSWER,
    )
    try:
        yield Asked(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
