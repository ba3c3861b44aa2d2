"""The guard around one object in a loop over foreign objects: what fails is counted, logged and passed over.

Watches, relists, retention, statuses and the start handle the objects of all namespaces in turn. An exception
that leaves such a loop stops all of these namespaces, so every turn of such a loop is guarded by itself.
"""

from __future__ import annotations

import asyncio
import traceback
from collections import Counter, OrderedDict
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import structlog

from perdure.domain.records import Deposed

#: What ends a loop and not only one of its turns: the end of the task or the process, or another leader. All
#: else is passed over, the panic of a native library included, which is no Exception.
THROUGH = (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit, Deposed)
#: Failing objects that are remembered (LRU), so that the same failure does not fill the log.
REMEMBERED = 4096
#: Characters of an error in the log.
MAX_ERROR = 500

#: Characters of the name of an error's type.
MAX_NAME = 100

_PACKAGE = Path(__file__).parents[1]

_log = structlog.get_logger(__name__)


class PassedOver:
    """Objects that loops have passed over, by loop."""

    def __init__(self) -> None:
        #: Failures since the start of the process, by loop. Shown by the readiness probe.
        self.counts: Counter[str] = Counter()
        self._seen: OrderedDict[tuple[str, str], int] = OrderedDict()

    def guard(self, loop: str, what: object) -> AbstractContextManager[None]:
        """One turn of a loop: whatever is raised within is noted, and the loop goes on.

        `loop` names the loop, `what` the object, for the log.
        """
        return _Guard(self, loop, what)

    def note(self, loop: str, what: object, error: BaseException) -> None:
        """Count a failure. The log has the first, second, fourth, eighth … of each object."""
        self.counts[loop] += 1
        known = loop, str(what)[:MAX_ERROR]
        times = self._seen.pop(known, 0) + 1
        self._seen[known] = times
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        if times & (times - 1) == 0:
            text = f"{type(error).__name__}: {error}"[:MAX_ERROR]
            facts = {"loop": loop, "object": known[1], "error": text, "times": times}
            if type(error).__module__.startswith("perdure."):
                _log.warning("passed over", **facts)  # an answer of the API server or the ledger
            else:
                _log.error("passed over", **facts, exc_info=error)

    def summary(self) -> list[str]:
        """A line for each loop that has passed something over."""
        return [f"{loop}: passed over {number} times" for loop, number in sorted(self.counts.items())]


class _Guard:
    """The guard of one turn. A class, since a pass enters several, and a generator costs more."""

    __slots__ = ("_loop", "_passed_over", "_what")

    def __init__(self, passed_over: PassedOver, loop: str, what: object) -> None:
        self._passed_over = passed_over
        self._loop = loop
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None or isinstance(error, THROUGH):
            return False
        # Tasks of a group are deposed together, and the group's exception is then one of several.
        if isinstance(error, BaseExceptionGroup) and error.subgroup(THROUGH) is not None:
            return False
        self._passed_over.note(self._loop, self._what, error)
        return True


def place_of(error: BaseException) -> str:
    """The type of an unexpected error, and the line of Perdure that raised the error, for statuses.

    Without the error's own text, which may contain anything: the log has the text.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _PACKAGE in Path(frame.filename).parents]
    name = type(error).__name__[:MAX_NAME]
    if not own:
        return name
    return f"{name} at {Path(own[-1].filename).relative_to(_PACKAGE)}:{own[-1].lineno}"
