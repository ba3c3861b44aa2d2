"""Outcome of an attempt, as the operator derives it: report, then exit code and termination message."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from perdure_agent._last_failure import LastFailure
from perdure_agent._run import EXIT_INTERRUPTED, EXIT_SUPERSEDED
from perdure_agent.errors import GatewayUnavailable, Superseded, contains
from perdure_agent.testing._pod import Pod
from perdure_agent.testing._records import Failure, Success

#: Exit code of a process that SIGKILL ends.
EXIT_KILLED: Final = 137


def outcome(pod: Pod, exit_code: int | None) -> Success | Failure | None:
    """End of the pod's attempt; None if the attempt ended without a consequence for the task.

    `exit_code`: None if the process's exit code is unknown.
    """
    number, report, message = pod.attempt.number, pod.attempt.report, pod.termination_message
    if isinstance(report, Success):
        return report
    if report is not None:
        return replace(report, exit_code=exit_code)
    if pod.killed or exit_code == EXIT_INTERRUPTED:
        words = "the pod was killed" if pod.killed else "the agent was interrupted"
        return Failure(attempt=number, reason="Disrupted", message=words, retryable=True, exit_code=exit_code)
    if not pod.attempt.open or exit_code in (None, EXIT_SUPERSEDED):
        return None
    if exit_code:
        words = message or f"exit code {exit_code}"
        return Failure(attempt=number, reason="ExitCode", message=words, retryable=True, exit_code=exit_code)
    return Success(attempt=number, output=_output(message) if message else None)


def exit_code_of(error: BaseException) -> int:
    """Exit code of `run` after an exception that left the agent's context."""
    if contains(error, Superseded):
        return EXIT_SUPERSEDED
    if isinstance(error, asyncio.CancelledError) or contains(error, GatewayUnavailable):
        return EXIT_INTERRUPTED
    return 1


def contract_form(failure: LastFailure | Failure) -> Mapping[str, Any]:
    """The failure as JSON of the agent's contract."""
    return {
        "attempt": failure.attempt,
        "reason": failure.reason,
        "message": failure.message,
        "exitCode": failure.exit_code,
    }


def _output(message: str) -> Any:
    """The termination message as JSON if it parses, or else as text."""
    try:
        return json.loads(message)
    except ValueError:
        return message.removesuffix("\n")
