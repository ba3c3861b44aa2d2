"""The mark of the pass that computes right now, which survives the death of the process.

A pass may kill the process: native code that fails, memory that runs out, a computation that never ends.
The next process must know which pass that was. All passes share one thread, so at most one of them computes
at any moment; between its turns a pass only waits. The mark names the pass during its turns alone. A process
that is killed from outside while it waits leaves no mark, and one that is killed within a turn names one run.

The mark is written to a memory-mapped file, in about a microsecond and without a system call. The kernel
keeps such a file when the process dies. In a cluster the file is in the `emptyDir` of the pod, which outlives
its containers, and not the pod.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import types
import uuid
from collections.abc import Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import structlog

#: Bytes of the file: a length of two bytes, then the mark.
SIZE = 4096
_LENGTH = 2
_SEPARATOR = "\n"

Result = TypeVar("Result")

#: The journal and the mark of the pass that this task is part of.
_watched: ContextVar[tuple[PassJournal, bytes] | None] = ContextVar("watched", default=None)

_log = structlog.get_logger(__name__)


class Subject(NamedTuple):
    """The object whose pass computes."""

    kind: str
    namespace: str
    name: str
    uid: str
    #: Changes whenever people change the object.
    fingerprint: str


class Mark(NamedTuple):
    """The pass that computed when a process died."""

    subject: Subject
    #: The process that died.
    life: str


class PassJournal:
    """The mark of one process, in a buffer that may be a memory-mapped file."""

    def __init__(self, buffer: bytearray | mmap.mmap | None = None) -> None:
        self._buffer = bytearray(SIZE) if buffer is None else buffer
        self._life = uuid.uuid4().hex
        #: The mark that an earlier process left, if it died during a pass.
        self.left: Mark | None = _read(self._buffer)
        self.clear()

    @classmethod
    def open(cls, path: Path) -> PassJournal:
        """The journal in a file; in memory alone if the file cannot be used, or another process uses it."""
        try:
            # Other users of the machine may create files of any name in a temporary folder.
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(path, flags, mode=0o600)
            # The lock ends with the process, so it is never closed on purpose.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_uid != os.geteuid():
                raise PermissionError(f"{path} belongs to another user")
            os.ftruncate(descriptor, SIZE)
            return cls(mmap.mmap(descriptor, SIZE))
        except OSError as error:
            _log.warning("a pass that kills this process will not be known to the next", error=str(error))
            return cls()

    def mark(self, text: bytes) -> None:
        """A pass computes from now on; `text` is from `encoded`."""
        end = _LENGTH + len(text)
        self._buffer[_LENGTH:end] = text
        # The length is written last: a mark that is written by half is none.
        self._buffer[:_LENGTH] = len(text).to_bytes(_LENGTH, "big")

    def clear(self) -> None:
        """No pass computes."""
        self._buffer[:_LENGTH] = b"\0\0"

    def encoded(self, subject: Subject) -> bytes:
        """The mark of a subject."""
        return _SEPARATOR.join((self._life, *subject)).encode()[: SIZE - _LENGTH]

    @contextmanager
    def marked(self, subject: Subject) -> Iterator[None]:
        """One computation without waits, such as the compilation of a run at the start."""
        self.mark(self.encoded(subject))
        try:
            yield
        finally:
            self.clear()

    @types.coroutine
    def watch(
        self, subject: Subject | None, work: Coroutine[Any, Any, Result]
    ) -> Generator[Any, Any, Result]:
        """Run `work`, marked during each of its turns. Without a subject only run it."""
        if subject is None:
            return (yield from work.__await__())
        text = self.encoded(subject)
        _watched.set((self, text))
        try:
            return (yield from self._in_turns(text, work))
        finally:
            # Not `reset`: a pass that is never ended is closed in another context.
            _watched.set(None)

    def _in_turns(self, text: bytes, work: Coroutine[Any, Any, Result]) -> Generator[Any, Any, Result]:
        error: BaseException | None = None
        while True:
            self.mark(text)
            try:
                waits_for = work.send(None) if error is None else work.throw(error)
            except StopIteration as stop:
                result: Result = stop.value
                return result
            finally:
                self.clear()
            error = None
            try:
                yield waits_for
            except BaseException as thrown:
                error = thrown  # a cancellation, to be delivered to `work`


@types.coroutine
def _continued(work: Coroutine[Any, Any, Result]) -> Generator[Any, Any, Result]:
    watched = _watched.get()
    if watched is None:
        return (yield from work.__await__())
    journal, text = watched
    return (yield from journal._in_turns(text, work))


async def continued(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a part of a pass in a task of its own, marked like the pass."""
    return await _continued(work)


def _read(buffer: bytearray | mmap.mmap) -> Mark | None:
    length = int.from_bytes(bytes(buffer[:_LENGTH]), "big")
    if not 0 < length <= SIZE - _LENGTH:
        return None
    parts = bytes(buffer[_LENGTH : _LENGTH + length]).decode("utf-8", "replace").split(_SEPARATOR)
    if len(parts) != 1 + len(Subject._fields):
        return None
    return Mark(Subject(*parts[1:]), parts[0])
