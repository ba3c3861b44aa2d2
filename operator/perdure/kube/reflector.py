"""Reflector of the objects of one kind: a list, then a watch from the list's version on, for ever.

The algorithm is that of client-go's `Reflector`. The reflector serves the objects that runs create, of which
every step has several events; kopf, which watches the objects that people apply, spends many times as much
CPU on each event. The reflector keeps no copy of the objects. The handler keeps the copy, and must detect
after each list the deletions that the list cannot show.
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
from perdure.kube.retries import backoff, error_of

#: Seconds after which the API server ends a watch. Up to twice as many at random, so that not all watches end
#: together.
WATCH_SECONDS = 300
#: Seconds without a byte after which a watch counts as broken: bookmarks arrive every minute.
SILENCE = 75.0
#: Longest backoff in seconds, after many failures in a row.
LONGEST_PAUSE = 5.0
#: Longest backoff in seconds while the API server refuses the kind or namespace: people have to act.
LONGEST_REFUSED_PAUSE = 30.0
#: Objects of a list that are handled before other tasks have a turn.
SLICE = 50

_GONE = 410
#: The bytes with which the API server begins an ADDED event, and writes the object's version, before any
#: field that could contain the same bytes. An event in another form is decoded as a whole.
_ADDED = b'{"type":"ADDED",'
_VERSION = re.compile(rb'"resourceVersion":"(\d+)"')

_log = structlog.get_logger(__name__)


class Watchable(Protocol):
    """The calls of the client that a reflector needs."""

    def pages(
        self, kind: str, *, namespace: str | None = None, label_selector: str | None = None
    ) -> AsyncGenerator[Page, None]: ...

    def stream(self, path: str, *, silence: float) -> AbstractAsyncContextManager[AsyncIterator[bytes]]: ...


class Selection(NamedTuple):
    """The followed objects: of all namespaces, and with any labels, where None."""

    kind: str
    namespace: str | None = None
    label_selector: str | None = None


class Event(NamedTuple):
    """One event of a watch: ADDED, MODIFIED, DELETED, or BOOKMARK, which has only a version."""

    type: str
    object: dict[str, Any]


async def reflect(
    kube: Watchable,
    of: Selection,
    *,
    on_event: Callable[[Mapping[str, Any], bool], None],
    on_list: Callable[[], None],
    is_ours: Callable[[str], bool] = lambda version: False,
    on_refused: Callable[[ApiError], None] = lambda error: None,
    version: str = "",
) -> NoReturn:
    """Report every object and every change of an object to the handlers, until cancelled.

    `on_event` is called with an object and whether the object was deleted, and must not block. `on_list` is
    called after every list, the first one included: deletions before the list are not reported. Every failure
    of the API server is retried. `on_refused` is called for each answer that the kind or the namespace does
    not exist or may not be read.

    `version` is the version of a list whose objects the handler has already: the watch starts there.

    An ADDED event is skipped if `is_ours` is true for its version, which a create of this process has
    returned: the handler has that object, and decoding the event costs more than all other work on it.
    """
    clock = asyncio.get_running_loop().time
    failures = 0
    while True:
        began = clock()
        try:
            if not version:
                version = await _list(kube, of, on_event)
                on_list()
            async with aclosing(watch(kube, of, version=version, is_ours=is_ours)) as events:
                async for event in events:
                    version = event.object["metadata"]["resourceVersion"]
                    failures = 0
                    if event.type != "BOOKMARK":
                        on_event(event.object, event.type == "DELETED")
        except ApiError as error:
            if error.status == _GONE:
                version = ""
            failures += 1
            longest = LONGEST_PAUSE
            if error.status in (403, 404):
                on_refused(error)
                longest = LONGEST_REFUSED_PAUSE
            _log.warning("watch broken", **of._asdict(), error=str(error), failures=failures)
        else:
            longest = LONGEST_PAUSE
            # Watches that end as soon as they begin would otherwise be repeated in a tight loop.
            failures = failures + 1 if clock() - began < 1 else 0
        if failures:
            await asyncio.sleep(backoff(failures, longest=longest))


async def watch(
    kube: Watchable,
    of: Selection,
    *,
    version: str,
    is_ours: Callable[[str], bool],
) -> AsyncGenerator[Event, None]:
    """Events after a resourceVersion, until the API server ends the watch.

    An event that `is_ours` skips (see `reflect`) is replaced by a bookmark.

    Raises ApiError: with status 410 if the version is older than the server's history.
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
            yield _own_create(line, is_ours) or _event(line)


async def _list(kube: Watchable, of: Selection, on_event: Callable[[Mapping[str, Any], bool], None]) -> str:
    """Report all objects. Returns the version of the list."""
    version = ""
    pages = kube.pages(of.kind, namespace=of.namespace, label_selector=of.label_selector)
    async with aclosing(pages):
        async for page in pages:
            for number, obj in enumerate(page.items, 1):
                on_event(obj, False)
                if number % SLICE == 0:
                    await asyncio.sleep(0)
            version = page.version
    return version


def _own_create(line: bytes, is_ours: Callable[[str], bool]) -> Event | None:
    """A bookmark in place of the ADDED event of an own create; None for any other line."""
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
        # A proxy answered in place of the API server.
        raise ApiError(0, "NoAnswer", f"no event of a watch: {line[:200]!r}") from error
    if event.type == "ERROR":
        raise error_of(code, event.object, None)
    return event


async def _lines(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Whole lines from pieces of any size. An incomplete last line is dropped: the next watch repeats it."""
    rest: list[bytes] = []
    async for piece in pieces:
        *whole, last = piece.split(b"\n")
        for line in whole:
            if rest or line:
                yield b"".join((*rest, line)) if rest else line
            rest.clear()
        if last:
            rest.append(last)
