"""The failure of an earlier attempt, so that an agent can avoid its cause."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class LastFailure:
    """End of the last attempt at this task that failed or was disrupted."""

    #: Number of that attempt, from 1.
    attempt: int
    #: One of Perdure's reasons, such as ExitCode, AgentFailure, Timeout, OOMKilled or Disrupted.
    reason: str
    message: str
    #: None if the container left no exit code.
    exit_code: int | None

    @classmethod
    def parse(cls, value: Any) -> LastFailure | None:
        """From the JSON of the agent's contract; None from null. Raises ValueError for another shape."""
        if value is None:
            return None
        match value:
            case {"attempt": int(attempt)}:
                return cls(
                    attempt=attempt,
                    reason=str(value.get("reason") or ""),
                    message=str(value.get("message") or ""),
                    exit_code=value.get("exitCode"),
                )
        raise ValueError('it must be null or an object with "attempt" in it')
