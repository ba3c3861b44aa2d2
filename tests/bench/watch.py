"""The neutral watcher: when the API server reported each change to an independent client.

Timestamps of pods have a resolution of one second, and each component sees its own part only; here a change
happened when this process received the event, by its monotonic clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

from tests.bench.cluster import Api

#: Called with the event's type, the object, and when it was received.
Note = Callable[[str, dict[str, Any], float], None]


class Watch:
    """Watches one collection from when it is entered until it is left."""

    def __init__(self, api: Api, path: str, note: Note) -> None:
        self._api = api
        self._path = path
        self._note = note
        self._task: asyncio.Task[None] | None = None
        #: Set at every event, for `until`.
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        listed = await self._api.get(f"{self._path}?limit=1")
        self._task = asyncio.create_task(self._run(listed["metadata"]["resourceVersion"]))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def until(self, condition: Callable[[], bool], *, within: float) -> bool:
        """Wait until the condition holds; False if it does not within so many seconds.

        The condition is checked after every event. Raises what ended the watch.
        """
        assert self._task is not None
        try:
            async with asyncio.timeout(within):
                while not condition():
                    self._changed.clear()
                    waiting = asyncio.ensure_future(self._changed.wait())
                    try:
                        await asyncio.wait({waiting, self._task}, return_when=asyncio.FIRST_COMPLETED)
                    finally:
                        waiting.cancel()
                    if self._task.done():
                        self._task.result()
        except TimeoutError:
            return condition()
        return True

    async def _run(self, version: str) -> None:
        while True:
            path = f"{self._path}?watch=1&allowWatchBookmarks=true&resourceVersion={version}"
            rest = b""
            try:
                async with self._api.stream(path) as response:
                    async for data in response.content.iter_any():
                        at = time.monotonic()
                        *lines, rest = (rest + data).split(b"\n")
                        for line in lines:
                            version = self._take(orjson.loads(line), at)
            except aiohttp.ClientPayloadError:
                pass  # The server ends every watch after some minutes; go on from where it was.

    def _take(self, event: dict[str, Any], at: float) -> str:
        obj = event["object"]
        if event["type"] == "ERROR":
            raise RuntimeError(f"the watch of {self._path} broke: {obj.get('message')}")
        if event["type"] != "BOOKMARK":
            self._note(event["type"], obj, at)
            self._changed.set()
        version: str = obj["metadata"]["resourceVersion"]
        return version
