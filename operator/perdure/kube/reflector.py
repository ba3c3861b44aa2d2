"""Following the objects of one kind: a list, and a watch from there on, for ever.

For what runs make, of which every step has several events: kopf, which watches what people apply, spends many
times as much on each. The algorithm is that of client-go's `Reflector`. Like kopf it keeps no copy of the
objects: who is told keeps one, and must look for what a list hides, the deletions before it.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any, NamedTuple, NoReturn, Protocol
from urllib.parse import urlencode

import orjson
import structlog

from perdure.kube.errors import ApiError
from perdure.kube.page import Page
from perdure.kube.resources import collection_path, kind_of
from perdure.kube.retries import error_of, growing_pause

#: Seconds after which the API server ends a watch; up to twice as many, so that not all end at once.
WATCH_SECONDS = 300
#: Seconds without a word after which a watch counts as broken: bookmarks come every minute.
SILENCE = 75.0
#: Seconds between attempts, after many failures in a row.
LONGEST_PAUSE = 5.0

_GONE = 410
#: How the API server begins the event of an object that was made, and writes its version, before all else in
#: which the word could occur. Where another writes it otherwise, the event is read whole.
_ADDED = b'{"type":"ADDED",'
_VERSION = re.compile(rb'"resourceVersion":"(\d+)"')

_log = structlog.get_logger(__name__)


class Watchable(Protocol):
    """What a reflector needs of the client."""

    def pages(
        self, kind: str, *, namespace: str | None = None, label_selector: str | None = None
    ) -> AsyncGenerator[Page, None]: ...

    def stream(self, path: str, *, silence: float) -> AbstractAsyncContextManager[AsyncIterator[bytes]]: ...


class Selection(NamedTuple):
    """Which objects: in all namespaces, or with whatever labels, if None."""

    kind: str
    namespace: str | None = None
    label_selector: str | None = None


class Event(NamedTuple):
    """One event of a watch: ADDED, MODIFIED, DELETED, or BOOKMARK, which has nothing but a version."""

    type: str
    object: dict[str, Any]


async def reflect(
    kube: Watchable,
    of: Selection,
    *,
    heard: Callable[[Mapping[str, Any], bool], None],
    listed: Callable[[], None],
    is_ours: Callable[[str], bool] = lambda version: False,
    version: str = "",
) -> NoReturn:
    """Tell of every object, and of what becomes of it, until cancelled.

    `heard` is called with an object and whether it was deleted, and must not block. `listed` is called after
    every list, the first one included: objects that were deleted before it are not told of. Whatever the API
    server does, it is tried again.

    `version` is that of a list whose objects are known already: only what came after it is told then.

    Of an object that was made it is not told if `is_ours` says that this version is the answer to a request
    of our own: it is known, and reading the event costs more than all else about it.
    """
    clock = asyncio.get_running_loop().time
    failures = 0
    while True:
        began = clock()
        try:
            if not version:
                version = await _list(kube, of, heard)
                listed()
            async with aclosing(watch(kube, of, version=version, is_ours=is_ours)) as events:
                async for event in events:
                    version = event.object["metadata"]["resourceVersion"]
                    failures = 0
                    if event.type != "BOOKMARK":
                        heard(event.object, event.type == "DELETED")
        except ApiError as error:
            if error.status == _GONE:
                version = ""
            failures += 1
            _log.warning("watch broken", **of._asdict(), error=str(error), failures=failures)
        else:
            # One that ends as soon as it begins would keep us, and the API server, busy.
            failures = failures + 1 if clock() - began < 1 else 0
        if failures:
            await asyncio.sleep(growing_pause(failures, longest=LONGEST_PAUSE))


async def watch(
    kube: Watchable,
    of: Selection,
    *,
    version: str,
    is_ours: Callable[[str], bool],
) -> AsyncGenerator[Event, None]:
    """Events after a resourceVersion, until the API server ends the watch.

    What `is_ours` says is ours (see `reflect`) comes as a bookmark.

    Raises ApiError: with status 410 if the version is too old to go on from.
    """
    query = {
        "watch": "1",
        "resourceVersion": version,
        "allowWatchBookmarks": "true",
        "timeoutSeconds": str(random.randint(WATCH_SECONDS, 2 * WATCH_SECONDS)),
        **({} if of.label_selector is None else {"labelSelector": of.label_selector}),
    }
    path = f"{collection_path(kind_of(of.kind), of.namespace)}?{urlencode(query)}"
    async with kube.stream(path, silence=SILENCE) as pieces:
        async for line in _lines(pieces):
            yield _passed_over(line, is_ours) or _event(line)


async def _list(kube: Watchable, of: Selection, heard: Callable[[Mapping[str, Any], bool], None]) -> str:
    """Tell of all there are. Returns the version of the list."""
    version = ""
    pages = kube.pages(of.kind, namespace=of.namespace, label_selector=of.label_selector)
    async with aclosing(pages):
        async for page in pages:
            for obj in page.items:
                heard(obj, False)
            version = page.version
    return version


def _passed_over(line: bytes, is_ours: Callable[[str], bool]) -> Event | None:
    """A bookmark in place of the event of what we made; None if the line is anything else."""
    found = _VERSION.search(line) if line.startswith(_ADDED) else None
    if found is None or not is_ours(version := found[1].decode()):
        return None
    return Event("BOOKMARK", {"metadata": {"resourceVersion": version}})


def _event(line: bytes) -> Event:
    try:
        raw = orjson.loads(line)
        event = Event(raw["type"], raw["object"])
        if event.type == "ERROR":
            code = int(event.object.get("code") or 500)
        else:
            str(event.object["metadata"]["resourceVersion"])
    except (orjson.JSONDecodeError, AttributeError, LookupError, TypeError, ValueError) as error:
        # Something between us and the API server has its say.
        raise ApiError(0, "NoAnswer", f"no event of a watch: {line[:200]!r}") from error
    if event.type == "ERROR":
        raise error_of(code, event.object, None)
    return event


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Whole lines, however they were cut up. One that broke off at the end is dropped: it will come again."""
    rest: list[bytes] = []
    async for piece in pieces:
        *whole, last = piece.split(b"\n")
        for line in whole:
            if rest or line:
                yield b"".join((*rest, line)) if rest else line
            rest.clear()
        if last:
            rest.append(last)
