"""Faults that a test can script for a request, and the script that assigns them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from perdure_agent.testing._records import RecordedRequest, Route


@dataclass(frozen=True, slots=True)
class Unreachable:
    """The connection fails, and the gateway never sees the request."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """503: the ledger is away. `retry_after`: seconds, whole; None leaves the header out."""

    retry_after: int | None = 1


@dataclass(frozen=True, slots=True)
class TooManyRequests:
    """429. `retry_after`: seconds, whole; None leaves the header out."""

    retry_after: int | None = 1


@dataclass(frozen=True, slots=True)
class Slow:
    """The request is handled `seconds` later. A client whose try times out before that is not served."""

    seconds: float


@dataclass(frozen=True, slots=True)
class LostAnswer:
    """The request is committed, and the response never arrives."""


@dataclass(frozen=True, slots=True)
class Takeover:
    """Another attempt takes over: this request and all later requests of the pod get 409 `superseded`."""


@dataclass(frozen=True, slots=True)
class ExpiredToken:
    """401 `token-expired`. `renewed`: the kubelet replaces the token in the file at the same moment.

    Otherwise the token stays expired until the test calls `Gateway.renew_token`.
    """

    renewed: bool = True


@dataclass(frozen=True, slots=True)
class Refusal:
    """Any other problem document. `kind`: the last part of the problem's type, such as `too-large`."""

    kind: str
    status: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL for the pod at this request. `committed`: the request takes effect before."""

    committed: bool = False


Fault = (
    Unreachable | Unavailable | TooManyRequests | Slow | LostAnswer | Takeover | ExpiredToken | Refusal | Kill
)
#: Chooses the fault of each request; None for no fault.
Chooser = Callable[[RecordedRequest], Fault | None]


class Killed(BaseException):
    """The scripted death of a pod.

    Not an `Exception`, so that an agent's own error handling does not outlive the pod. Unlike after SIGKILL,
    `finally` blocks run, but their requests never arrive.
    """


@dataclass(slots=True)
class _Rule:
    fault: Fault | Chooser
    on: Route | None
    #: Matching requests that pass first.
    skip: int
    #: Requests that meet the fault; None: all.
    times: int | None
    met: bool = False

    def matches(self, route: Route) -> bool:
        return route == self.on or (self.on is None and route != "heartbeat")


class Script:
    """Faults by request."""

    def __init__(self) -> None:
        self._rules: list[_Rule] = []

    @property
    def unmet(self) -> list[Fault | Chooser]:
        """Faults that no request has met."""
        return [rule.fault for rule in self._rules if not rule.met]

    def add(self, fault: Fault | Chooser, *, on: Route | None, at: int, times: int | None) -> None:
        """Assign a fault to `times` requests from the `at`-th matching one on. Raises ValueError."""
        if at < 1 or (times is not None and times < 1):
            raise ValueError("at and times count from 1")
        if on is not None and on not in get_args(Route):
            raise ValueError(f"on is {on!r}; it must be one of: {', '.join(get_args(Route))}")
        self._rules.append(_Rule(fault, on, at - 1, times))

    def clear(self) -> None:
        """Remove all faults."""
        self._rules.clear()

    def take(self, request: RecordedRequest) -> Fault | None:
        """The fault for this request. Each rule counts all requests that match; the first due rule acts."""
        found: Fault | None = None
        for rule in list(self._rules):
            if not rule.matches(request.route):
                continue
            if rule.skip:
                rule.skip -= 1
                continue
            if found is not None:
                continue
            rule.met = True
            found = rule.fault(request) if callable(rule.fault) else rule.fault
            if rule.times is not None:
                rule.times -= 1
                if not rule.times:
                    self._rules.remove(rule)
        return found
