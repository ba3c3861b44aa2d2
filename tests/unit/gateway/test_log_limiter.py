"""Log lines that clients can cause."""

from __future__ import annotations

from structlog.testing import CapturingLogger

from perdure.gateway.http.log_limiter import LINES, PERIOD, LogLimiter


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_up_to_the_limit_are_written_and_the_next_is_not() -> None:
    log, clock = CapturingLogger(), Clock()
    limiter = LogLimiter(log, clock=clock)
    for number in range(LINES):
        limiter.warning("cut off", number=number)
    assert len(log.calls) == LINES
    limiter.warning("cut off")
    assert len(log.calls) == LINES


def test_one_event_does_not_silence_another() -> None:
    log = CapturingLogger()
    limiter = LogLimiter(log, clock=Clock())
    for _ in range(LINES * 10):
        limiter.warning("cut off")
    limiter.error("failed", task="a")
    assert log.calls[-1].method_name == "error"
    assert log.calls[-1].kwargs == {"task": "a"}


def test_the_next_period_says_how_many_lines_were_left_out() -> None:
    log, clock = CapturingLogger(), Clock()
    limiter = LogLimiter(log, clock=clock)
    for _ in range(LINES + 7):
        limiter.warning("cut off")
    clock.now += PERIOD
    limiter.warning("cut off")
    assert log.calls[-1].kwargs == {"left_out": 7}
    limiter.warning("cut off")
    assert log.calls[-1].kwargs == {}
