"""Errors of the SDK, one class for each remedy of the agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class AgentError(Exception):
    """Base class of the SDK's own errors."""


class Superseded(AgentError):
    """Another attempt has taken this task over. Stop, and exit with code 76, as `perdure_agent.run` does.

    The ledger refuses every further write of this attempt.
    """


class GatewayUnavailable(AgentError):
    """The gateway was away for longer than the call was allowed to wait.

    Whether the call took effect is unknown.
    """


class GatewayError(AgentError):
    """The gateway refused a call, and would refuse a repetition too.

    `status`: the HTTP status. `kind`: the last part of the problem's type, such as `too-large`; '' if the
    answer was no problem document. `detail`: the field that is wrong, and the remedy. `members`: the whole
    problem document.
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
    """A checkpoint does not match its checksum: in the ledger, or on each of several ways from there.

    `restore(fallback=True)` searches for an older checkpoint that is sound.
    """

    def __init__(self, sequence: int | None, detail: str) -> None:
        super().__init__(detail)
        #: Sequence number of the checkpoint; None if the answer did not contain the number.
        self.sequence = sequence


def contains(error: BaseException, *kinds: type[Exception]) -> bool:
    """True for an error of one of these kinds, and for an exception group with such an error in it."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(kinds) is not None
    return isinstance(error, kinds)


class AgentFailure(Exception):
    """An exception for agents to raise inside the context: fails the task with a message of the agent's.

    `retryable=False` states that another attempt would fail alike, so that no retry is spent.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable
