"""What can go wrong for an agent, told apart by what the agent should do about it."""

from __future__ import annotations


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
    the answer was no problem document), `detail` says which field is wrong and what to do.
    """

    def __init__(self, status: int, *, kind: str, title: str, detail: str) -> None:
        super().__init__(f"{status} {title}: {detail}" if detail else f"{status} {title}")
        self.status = status
        self.kind = kind
        self.title = title
        self.detail = detail


class AgentFailure(Exception):
    """Raise it inside the context to fail the task with a message of your own.

    `retryable=False` says that another attempt would fail alike, so that none is spent on it.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable
