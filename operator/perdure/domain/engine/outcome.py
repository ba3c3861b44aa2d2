"""How an attempt ended: success, a failure of the agent, or a disruption that was none of its doing.

The difference decides which budget is spent, so every way in which a pod can end is classified here and
nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any

import orjson

from perdure.api.validation.parse import MAX_DEPTH
from perdure.domain.engine.observed import ChildRun
from perdure.domain.engine.pod_facts import PodFacts
from perdure.domain.numbers import long_integer_in
from perdure.domain.payloads import Payload, payload_of
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import Report

#: An agent's way to say "interrupted, run me again from my checkpoint" and "I was superseded".
EXIT_INTERRUPTED = 75
EXIT_SUPERSEDED = 76
#: How long a deleted pod may outlive its grace before its node is taken for lost.
LOST_AFTER = timedelta(seconds=30)
#: Kubelet reasons for which waiting is useless: the manifest itself is at fault.
_NEVER_STARTS = frozenset({"InvalidImageName"})
#: Kubelet reasons of a container whose program was never begun,
_NOT_STARTED = frozenset({"StartError", "ContainerCannotRun"})
#: and what its runtime says if that was the runtime's fault: it, or the kubelet, was just being restarted.
_RUNTIME_FAULTS = (
    "context canceled",
    "context deadline exceeded",
    "code = unavailable",
    "ttrpc: closed",
    "transport is closing",
    "error reading from server",
)
#: Characters of a message that Perdure makes, in the ledger and in statuses.
MAX_MESSAGE = 1024
#: Characters of the failure that an agent reports, as many as the gateway accepts. Statuses have MAX_MESSAGE
#: of them; the next attempt, and the history, have all.
MAX_REPORTED = 4096
#: Characters of a failed container's own message that are kept.
MAX_LAST_WORDS = 512


class EndKind(Enum):
    """What an end means for the task."""

    SUCCEEDED = "succeeded"
    #: Spends the retry budget.
    FAILED = "failed"
    #: Spends the disruption budget.
    DISRUPTED = "disrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of an attempt."""

    kind: EndKind
    reason: Reason | None = None
    message: str = ""
    exit_code: int | None = None
    output: Payload | None = None
    retryable: bool = True


def outcome_of_report(report: Report) -> Outcome:
    """What an agent said of itself. It wins over the state of its pod."""
    if report.outcome == "Succeeded":
        return Outcome(kind=EndKind.SUCCEEDED, output=report.output, exit_code=0)
    return Outcome(
        kind=EndKind.FAILED,
        reason=Reason.AGENT_FAILURE,
        message=shorten(report.message, MAX_REPORTED),
        retryable=report.retryable,
    )


def outcome_of_pod(pod: PodFacts, now: datetime, *, result_required: bool = False) -> Outcome | None:
    """What a pod's state means for an attempt that has not reported; None while it may still go on.

    With `result_required`, a container that ends well without a termination message has failed.
    """
    outcome = _outcome_of_pod(pod, now)
    if outcome is None or outcome.kind is not EndKind.SUCCEEDED or not result_required:
        return outcome
    if pod.exit is not None and pod.exit.message:
        return outcome
    text = "the container ended well, but left no result: post one, or write a termination message"
    return Outcome(kind=EndKind.FAILED, reason=Reason.NO_RESULT, message=text, exit_code=outcome.exit_code)


def _outcome_of_pod(pod: PodFacts, now: datetime) -> Outcome | None:
    if pod.over_limit is not None and pod.agent_ended:
        return _outcome_over_limit(pod, pod.over_limit)
    disruption = pod.disruption
    if disruption is None and pod.deletion is not None:
        disruption = "the pod was deleted from outside"
    if pod.exit is not None:
        return _outcome_of_exit(pod, disruption)
    if pod.phase == "Succeeded" and disruption is None:
        return Outcome(kind=EndKind.SUCCEEDED, exit_code=0)
    if pod.phase in ("Succeeded", "Failed"):
        # Without an exit code, nothing says that the program ran to its end: the node refused the pod,
        # evicted it, or was lost with it.
        return _disrupted(disruption or "the pod failed before its container ended")
    if pod.deletion is not None and now >= pod.deletion + LOST_AFTER:
        return _disrupted("the pod was deleted and its node does not confirm its end")
    text = None
    if pod.waiting is not None and pod.waiting[0] in _NEVER_STARTS:
        text = ": ".join(pod.waiting)
    elif pod.hold is not None and pod.hold.reason in _NEVER_STARTS:
        text = pod.hold.text
    if text is None:
        return None
    return Outcome(kind=EndKind.FAILED, reason=Reason.INVALID_CONFIG, message=shorten(text), retryable=False)


def _outcome_over_limit(pod: PodFacts, limit: str) -> Outcome:
    """The end of a pod that was evicted for a limit of its own: a failure, as another pod would end alike."""
    code = None if pod.exit is None else pod.exit.code
    if pod.exit is not None and code == 0 and pod.exit.message:
        return Outcome(kind=EndKind.SUCCEEDED, exit_code=0, output=payload_of(read_output(pod.exit.message)))
    text = f"the pod was evicted: {_on_one_line(limit)}"
    return Outcome(kind=EndKind.FAILED, reason=Reason.EVICTED, message=shorten(text), exit_code=code)


def outcome_of_gone(child: str | None = None) -> Outcome:
    """The end of an attempt whose pod, or child Workflow, was deleted, with nothing reported."""
    if child is not None:
        return _child_failed(f"child workflow {child} was deleted")
    return _disrupted("the pod was deleted from outside")


def outcome_of_child(child: ChildRun, name: str) -> Outcome | None:
    """What a child run's phase means for the attempt that it is; None while it goes on."""
    if not child.phase.terminal:
        return None
    if child.phase is Phase.SUCCEEDED:
        return Outcome(kind=EndKind.SUCCEEDED, output=child.outputs)
    reason = f" ({child.reason.value})" if child.reason is not None else ""
    text = f"child workflow {name} ended as {child.phase.value}{reason}"
    # Who cancels a child does not want to find another in its place.
    return _child_failed(
        f"{text}: {child.message}" if child.message else text, retryable=child.phase is not Phase.CANCELLED
    )


def _child_failed(message: str, *, retryable: bool = True) -> Outcome:
    return Outcome(
        kind=EndKind.FAILED, reason=Reason.CHILD_FAILED, message=shorten(message), retryable=retryable
    )


def _outcome_of_exit(pod: PodFacts, disruption: str | None) -> Outcome:
    assert pod.exit is not None
    code, message = pod.exit.code, pod.exit.message
    if pod.exit.reason == "ContainerStatusUnknown":
        return _disrupted("the node lost track of the container")
    if pod.exit.reason in _NOT_STARTED and any(fault in message.lower() for fault in _RUNTIME_FAULTS):
        return _disrupted(f"the node could not start the container: {_on_one_line(message)}", code)
    if code == 0 and (message or disruption is None):
        return Outcome(kind=EndKind.SUCCEEDED, exit_code=0, output=payload_of(read_output(message)))
    if disruption is not None:
        return _disrupted(disruption, code)
    if code == EXIT_INTERRUPTED and not pod.exit.container:
        return Outcome(
            kind=EndKind.DISRUPTED,
            reason=Reason.INTERRUPTED,
            message="the agent asked to be run again from its checkpoint",
            exit_code=code,
        )
    if code == EXIT_SUPERSEDED and not pod.exit.container:
        return Outcome(
            kind=EndKind.DISRUPTED,
            reason=Reason.SUPERSEDED,
            message="the agent took itself for superseded",
            exit_code=code,
        )
    if pod.exit.reason == "OOMKilled":
        who = pod.exit.container or "the container"
        text = f"{who} was killed for want of memory; raise its memory limit"
        return Outcome(kind=EndKind.FAILED, reason=Reason.OOM_KILLED, message=text, exit_code=code)
    last_words = _on_one_line(message)
    text = f"exit code {code}: {last_words}" if last_words else f"exit code {code}"
    if pod.failed_beside:
        text = shorten(f"{text}; before it, {pod.failed_beside}")
    return Outcome(kind=EndKind.FAILED, reason=Reason.EXIT_CODE, message=text, exit_code=code)


def _on_one_line(message: str) -> str:
    """The end of a message or of a log, where the cause usually stands, fit for a column of a table."""
    text = " ".join(message.split())
    return text if len(text) <= MAX_LAST_WORDS else "…" + text[-(MAX_LAST_WORDS - 1) :]


def _disrupted(message: str, exit_code: int | None = None) -> Outcome:
    return Outcome(
        kind=EndKind.DISRUPTED, reason=Reason.DISRUPTED, message=shorten(message), exit_code=exit_code
    )


def read_output(message: str) -> Any:
    """A termination message as an output: JSON if it parses, else its text, null if there is none.

    U+0000, which the ledger cannot keep, becomes U+FFFD. JSON too deep to be kept counts as text, and so does
    JSON with a whole number of more than 64 bits, whose digits would be lost otherwise.
    """
    message = message.replace("\0", "\ufffd")
    if not message:
        return None
    try:
        value = _kept(orjson.loads(message))
    except ValueError:
        return message.removesuffix("\n")
    return message.removesuffix("\n") if long_integer_in(message) else value


def _kept(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, (dict, list)):
        if depth == MAX_DEPTH:
            raise ValueError
        if isinstance(value, list):
            return [_kept(item, depth + 1) for item in value]
        return {_kept(key): _kept(item, depth + 1) for key, item in value.items()}
    return value


def shorten(text: str, limit: int = MAX_MESSAGE) -> str:
    """Text of at most `limit` characters; a cut is marked by an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
