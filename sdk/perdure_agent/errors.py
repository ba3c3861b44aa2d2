"""What can go wrong for an agent, told apart by what the agent should do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class AgentError(Exception):
    """Base of what this package raises on purpose."""


class Superseded(AgentError):
    """Another attempt has taken this task over: stop, and write nothing more.

    Leave with exit code 76 (`perdure_agent.run` does so). Nothing that this attempt does can count any more.
    """


class GatewayUnavailable(AgentError):
    """The gateway stayed away for longer than the call was allowed to wait.

    Whether the call took effect is unknown.
    """


class GatewayError(AgentError):
    """The gateway refused a call, and would refuse it again.

    `status` is the HTTP status, `kind` the last part of the problem's type (`too-large`, for instance; '' if
    the answer was no problem document), `detail` says which field is wrong and what to do, `members` holds
    the whole problem document.
    """

    def __init__(
        self,
        status: int,
        *,
        kind: str,
        title: str,
        detail: str,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{status} {title}: {detail}" if detail else f"{status} {title}")
        self.status = status
        self.kind = kind
        self.title = title
        self.detail = detail
        self.members = dict(members or {})


class DamagedCheckpoint(AgentError):
    """A checkpoint does not match its checksum, in the ledger or each time it comes here.

    An older one may be sound: `restore(fallback=True)` looks for it.
    """

    def __init__(self, sequence: int | None, detail: str) -> None:
        super().__init__(detail)
        #: Its number; None if the gateway did not say.
        self.sequence = sequence


def contains(error: BaseException, *kinds: type[Exception]) -> bool:
    """True for an error of one of these kinds, and for a task group's error with one in it."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(kinds) is not None
    return isinstance(error, kinds)


class AgentFailure(Exception):
    """Raise it inside the context to fail the task with a message of your own.

    `retryable=False` says that another attempt would fail alike, so that none is spent on it.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable
