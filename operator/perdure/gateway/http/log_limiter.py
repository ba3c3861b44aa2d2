"""Log lines that clients can cause, at most some a minute of each kind.

A hostile client must not be able to fill the log, and a flood of one line must not hide all others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import structlog

#: Lines of one event in one period, and the period in seconds.
LINES: Final = 10
PERIOD: Final = 60.0


class LogLimiter:
    """Writes the first lines of each event in a period. The next period's first says how many were left out.

    Events are texts of the code, so that their number is bounded; what clients send belongs into the fields.
    """

    def __init__(
        self, log: structlog.stdlib.BoundLogger, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._clock = clock
        #: For each event: start of its period, and lines since, those left out included.
        self._periods: dict[str, tuple[float, int]] = {}

    def warning(self, event: str, **fields: Any) -> None:
        """A warning, unless there were too many of the same event."""
        self._write(self._log.warning, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """An error, unless there were too many of the same event."""
        self._write(self._log.error, event, fields)

    def _write(self, write: Callable[..., Any], event: str, fields: dict[str, Any]) -> None:
        now = self._clock()
        since, count = self._periods.get(event, (now, 0))
        if now - since >= PERIOD:
            if count > LINES:
                fields["left_out"] = count - LINES
            since, count = now, 0
        self._periods[event] = (since, count + 1)
        if count < LINES:
            write(event, **fields)
