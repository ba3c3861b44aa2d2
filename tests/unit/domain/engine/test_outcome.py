"""Every way in which a pod can end (semantics 20 and 25): a pod object in, an outcome out."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.domain.pods import condition, ended, pod, waiting

from perdure.domain.engine.observed import ChildRun
from perdure.domain.engine.outcome import (
    LOST_AFTER,
    MAX_MESSAGE,
    MAX_REPORTED,
    EndKind,
    Outcome,
    outcome_of_child,
    outcome_of_gone,
    outcome_of_pod,
    outcome_of_report,
    read_output,
    shorten,
)
from perdure.domain.engine.pod_facts import read_pod
from perdure.domain.payloads import payload_of, value_of
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import Report

NOW = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
GRACE_ENDED = "2024-05-01T11:59:59Z"
GRACE_RUNS = "2024-05-01T12:00:30Z"
EVICTED = [condition("DisruptionTarget", "True", "EvictionByEvictionAPI", "Eviction API: evicting")]
PREEMPTED = [condition("DisruptionTarget", "True", "PreemptionByScheduler", "default-scheduler: preempting")]
PRESSURE = [condition("DisruptionTarget", "True", "TerminationByKubelet", "The node was low on resource")]
TAINTED = [condition("DisruptionTarget", "True", "DeletionByTaintManager", "Taint manager: deleting")]
#: The kubelet's texts, with the trailing space that some of them have.
OVER_LIMIT = [
    'Usage of EmptyDir volume "scratch" exceeds the limit "1Mi". ',
    "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. ",
    'Container agent exceeded its local ephemeral storage limit "10Mi". ',
]
PRESSURE_OF_OTHERS = [
    "The node was low on resource: ephemeral-storage. Threshold quantity: 1. Container agent was"
    " using 5Mi, request is 0, has larger consumption of ephemeral-storage. ",
    "Pod was rejected: The node had condition: [DiskPressure]. ",
    "",
]
UNKNOWN = ended(137, reason="ContainerStatusUnknown")
NO_DISRUPTION = [condition("DisruptionTarget", "False", "EvictionByEvictionAPI")]

S, F, D = EndKind.SUCCEEDED, EndKind.FAILED, EndKind.DISRUPTED


def outcome(raw: dict[str, Any], now: datetime = NOW) -> Outcome | None:
    return outcome_of_pod(read_pod(raw), now)


@pytest.mark.parametrize(
    "raw",
    [
        {"metadata": {"name": "p", "uid": "u"}},
        pod(phase="Pending"),
        pod(phase="Pending", state=waiting("ContainerCreating")),
        pod(phase="Pending", state=waiting("ImagePullBackOff", "no such image")),
        pod(phase="Pending", state=waiting("ErrImagePull")),
        pod(phase="Pending", state=waiting("CreateContainerConfigError", 'secret "x" not found')),
        pod(phase="Pending", conditions=[condition("PodScheduled", "False", "Unschedulable", "0/3 nodes")]),
        pod(state={"running": {"startedAt": "2024-05-01T11:00:00Z"}}),
        # A stop that is still under way may end well.
        pod(state={"running": {}}, deletion=GRACE_RUNS),
        pod(state={"running": {}}, conditions=EVICTED),
        pod(state={"running": {}}, conditions=EVICTED, deletion=GRACE_RUNS),
        # Grace is over, but a moment is left to the node.
        pod(state={"running": {}}, deletion=GRACE_ENDED),
        # The container of somebody's sidecar is not the agent's.
        pod(extra_statuses=[{"name": "proxy", "state": ended(1)}]),
        pod(phase="Unknown", state={"running": {}}),
    ],
)
def test_what_may_still_go_on(raw: dict[str, Any]) -> None:
    assert outcome(raw) is None


@pytest.mark.parametrize(
    ("raw", "kind", "reason", "code"),
    [
        (pod(phase="Succeeded", state=ended(0)), S, None, 0),
        (pod(state=ended(0)), S, None, 0),  # the pod's own phase comes later
        (pod(phase="Succeeded"), S, None, 0),
        (pod(phase="Failed", state=ended(1)), F, Reason.EXIT_CODE, 1),
        (pod(phase="Failed", state=ended(127)), F, Reason.EXIT_CODE, 127),
        (pod(phase="Failed", state=ended(128, reason="StartError")), F, Reason.EXIT_CODE, 128),
        (pod(phase="Failed", state=ended(128, reason="ContainerCannotRun")), F, Reason.EXIT_CODE, 128),
        # 25: OOMKilled and a plain 137 are failures.
        (pod(phase="Failed", state=ended(137, reason="OOMKilled")), F, Reason.OOM_KILLED, 137),
        (pod(phase="Failed", state=ended(1, reason="OOMKilled")), F, Reason.OOM_KILLED, 1),
        (pod(phase="Failed", state=ended(137)), F, Reason.EXIT_CODE, 137),
        (pod(phase="Failed", state=ended(143)), F, Reason.EXIT_CODE, 143),
        (pod(phase="Failed", state=ended(137), conditions=NO_DISRUPTION), F, Reason.EXIT_CODE, 137),
        # The agent's own words.
        (pod(phase="Failed", state=ended(75)), D, Reason.INTERRUPTED, 75),
        (pod(phase="Failed", state=ended(76)), D, Reason.SUPERSEDED, 76),
        # 25: ended from outside is disrupted, whatever the exit code …
        (pod(phase="Failed", state=ended(137), deletion=GRACE_RUNS), D, Reason.DISRUPTED, 137),
        (pod(phase="Failed", state=ended(143), deletion=GRACE_ENDED), D, Reason.DISRUPTED, 143),
        (pod(phase="Failed", state=ended(1), deletion=GRACE_RUNS), D, Reason.DISRUPTED, 1),
        (pod(phase="Failed", state=ended(75), deletion=GRACE_RUNS), D, Reason.DISRUPTED, 75),
        (pod(phase="Failed", state=ended(76), deletion=GRACE_RUNS), D, Reason.DISRUPTED, 76),
        (
            pod(phase="Failed", state=ended(137, reason="OOMKilled"), conditions=EVICTED),
            D,
            Reason.DISRUPTED,
            137,
        ),
        (pod(phase="Failed", state=ended(143), conditions=PREEMPTED), D, Reason.DISRUPTED, 143),
        (
            pod(phase="Failed", state=ended(137), conditions=PRESSURE, reason="Evicted"),
            D,
            Reason.DISRUPTED,
            137,
        ),
        (pod(phase="Failed", state=ended(0), deletion=GRACE_RUNS), D, Reason.DISRUPTED, 0),
        (pod(phase="Failed", state=ended(0), conditions=TAINTED), D, Reason.DISRUPTED, 0),
        (pod(phase="Succeeded", deletion=GRACE_RUNS), D, Reason.DISRUPTED, None),
        # … unless it exited 0 and left a message.
        (pod(phase="Succeeded", state=ended(0, message="done"), deletion=GRACE_RUNS), S, None, 0),
        (pod(phase="Succeeded", state=ended(0, message="{}"), conditions=EVICTED), S, None, 0),
        (pod(phase="Failed", state=ended(1, message="done"), deletion=GRACE_RUNS), D, Reason.DISRUPTED, 1),
        # The node says so for the whole pod.
        *(
            (pod(phase="Failed", reason=reason, message="why", state=ended(137)), D, Reason.DISRUPTED, 137)
            for reason in ("Evicted", "Preempted", "Preempting", "Terminated", "NodeShutdown", "NodeLost")
        ),
        (pod(phase="Failed", reason="Evicted", message="DiskPressure"), D, Reason.DISRUPTED, None),
        # 25: evicted for a limit of its own is a failure, as an OOM kill …
        *(
            (pod(phase="Failed", reason="Evicted", message=text, state=ended(137)), F, Reason.EVICTED, 137)
            for text in OVER_LIMIT
        ),
        (pod(phase="Failed", reason="Evicted", message=OVER_LIMIT[0]), F, Reason.EVICTED, None),
        (
            pod(phase="Failed", reason="Evicted", message=OVER_LIMIT[0], state=UNKNOWN),
            F,
            Reason.EVICTED,
            137,
        ),
        (
            pod(phase="Failed", reason="Evicted", message=OVER_LIMIT[0], deletion=GRACE_RUNS),
            F,
            Reason.EVICTED,
            None,
        ),
        (
            pod(phase="Failed", reason="Evicted", message=OVER_LIMIT[0], state=ended(0, message="done")),
            S,
            None,
            0,
        ),
        # … and one for the pressure of others is a disruption, with and without the condition.
        *(
            (pod(phase="Failed", reason="Evicted", message=text, state=ended(137)), D, Reason.DISRUPTED, 137)
            for text in PRESSURE_OF_OTHERS
        ),
        (
            pod(phase="Failed", reason="Evicted", message=OVER_LIMIT[1], conditions=PRESSURE),
            D,
            Reason.DISRUPTED,
            None,
        ),
        (pod(phase="Failed", reason="OutOfcpu", message="Node didn't have"), D, Reason.DISRUPTED, None),
        (pod(phase="Failed", reason="UnexpectedAdmissionError"), D, Reason.DISRUPTED, None),
        (pod(phase="Failed"), D, Reason.DISRUPTED, None),
        (
            pod(phase="Failed", state=waiting("ContainerCreating"), reason="NodeShutdown"),
            D,
            Reason.DISRUPTED,
            None,
        ),
        (pod(phase="Failed", state=ended(137, reason="ContainerStatusUnknown")), D, Reason.DISRUPTED, None),
        # 6: what can never heal.
        (
            pod(phase="Pending", state=waiting("InvalidImageName", "bad//name")),
            F,
            Reason.INVALID_CONFIG,
            None,
        ),
    ],
)
def test_the_end_of_a_container_gives_the_kind_and_reason_of_the_outcome(
    raw: dict[str, Any], kind: EndKind, reason: Reason | None, code: int | None
) -> None:
    result = outcome(raw)
    assert result is not None
    assert (result.kind, result.reason, result.exit_code) == (kind, reason, code)
    assert bool(result.message) == (kind is not S)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (pod(phase="Failed", state=ended(2, message="no input\n")), "exit code 2: no input"),
        (pod(phase="Failed", state=ended(1, message="first\n  last\n")), "exit code 1: first last"),
        (pod(phase="Failed", state=ended(1, message="x" * 600)), f"exit code 1: …{'x' * 511}"),
        (pod(phase="Failed", state=ended(2)), "exit code 2"),
        (pod(phase="Failed", state=ended(2, message="\n")), "exit code 2"),
        (pod(phase="Failed", state=ended(137, reason="OOMKilled")), "raise its memory limit"),
        (pod(phase="Failed", reason="Evicted", message="low on memory"), "Evicted: low on memory"),
        (
            pod(phase="Failed", state=ended(143), conditions=PREEMPTED),
            "PreemptionByScheduler: default-scheduler: preempting",
        ),
        (pod(phase="Failed", state=ended(143), deletion=GRACE_RUNS), "deleted from outside"),
        (pod(phase="Pending", state=waiting("InvalidImageName", "bad//name")), "InvalidImageName: bad//name"),
    ],
)
def test_what_is_said_of_an_end(raw: dict[str, Any], text: str) -> None:
    result = outcome(raw)
    assert result is not None
    assert text in result.message


def test_only_what_cannot_heal_is_not_worth_a_retry() -> None:
    fatal = outcome(pod(phase="Pending", state=waiting("InvalidImageName")))
    usual = outcome(pod(phase="Failed", state=ended(1)))
    assert fatal is not None and not fatal.retryable
    assert usual is not None and usual.retryable


def test_a_node_that_does_not_confirm_a_deletion_is_given_time_and_then_taken_for_lost() -> None:
    raw = pod(state={"running": {}}, deletion="2024-05-01T12:00:00Z")
    grace = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
    assert outcome(raw, grace + LOST_AFTER - timedelta(microseconds=1)) is None
    lost = outcome(raw, grace + LOST_AFTER)
    assert lost is not None
    assert (lost.kind, lost.reason) == (D, Reason.DISRUPTED)


def test_a_pod_that_is_gone_was_disrupted() -> None:
    assert (outcome_of_gone().kind, outcome_of_gone().reason) == (D, Reason.DISRUPTED)


@pytest.mark.parametrize("retryable", [True, False])
def test_a_report_of_failure(retryable: bool) -> None:
    report = Report(outcome="Failed", message="x" * 5000, retryable=retryable, at=NOW)
    result = outcome_of_report(report)
    assert (result.kind, result.reason, result.retryable) == (F, Reason.AGENT_FAILURE, retryable)
    assert len(result.message) == MAX_REPORTED


def test_a_report_of_success() -> None:
    result = outcome_of_report(Report(outcome="Succeeded", output=payload_of({"a": None}), at=NOW))
    assert (result.kind, result.reason, value_of(result.output), result.exit_code) == (
        S,
        None,
        {"a": None},
        0,
    )


# --- results that are required (25)


@pytest.mark.parametrize(
    ("raw", "kind", "reason"),
    [
        (pod(phase="Succeeded", state=ended(0)), F, Reason.NO_RESULT),
        (pod(phase="Succeeded"), F, Reason.NO_RESULT),
        (pod(phase="Succeeded", state=ended(0, message="")), F, Reason.NO_RESULT),
        (pod(phase="Succeeded", state=ended(0, message="null")), S, None),
        (pod(phase="Succeeded", state=ended(0, message="done")), S, None),
        (pod(phase="Failed", state=ended(1)), F, Reason.EXIT_CODE),
        (pod(phase="Failed", state=ended(75)), D, Reason.INTERRUPTED),
        (pod(phase="Succeeded", state=ended(0), deletion=GRACE_RUNS), D, Reason.DISRUPTED),
    ],
)
def test_a_container_that_ends_well_without_a_result(
    raw: dict[str, Any], kind: EndKind, reason: Reason | None
) -> None:
    result = outcome_of_pod(read_pod(raw), NOW, result_required=True)
    assert result is not None
    assert (result.kind, result.reason) == (kind, reason)
    if reason is Reason.NO_RESULT:
        assert result.retryable
        assert "write a termination message" in result.message


def test_one_that_still_runs_needs_no_result_yet() -> None:
    assert outcome_of_pod(read_pod(pod(state={"running": {}})), NOW, result_required=True) is None


# --- children (20)


@pytest.mark.parametrize("phase", [Phase.PENDING, Phase.RUNNING, Phase.PAUSED])
def test_a_child_that_goes_on(phase: Phase) -> None:
    assert outcome_of_child(ChildRun(uid="u", phase=phase), "child") is None


def test_a_child_that_succeeded_gives_its_outputs() -> None:
    result = outcome_of_child(
        ChildRun(uid="u", phase=Phase.SUCCEEDED, outputs=payload_of({"n": None})), "child"
    )
    assert result == Outcome(kind=S, output=payload_of({"n": None}))


def test_a_child_that_failed_says_why_at_no_great_length() -> None:
    child = ChildRun(uid="u", phase=Phase.FAILED, reason=Reason.TIMEOUT, message="x" * 5000)
    result = outcome_of_child(child, "child")
    assert result is not None
    assert (result.kind, result.reason, result.retryable) == (F, Reason.CHILD_FAILED, True)
    assert result.message.startswith("child workflow child ended as Failed (Timeout): xxx")
    assert len(result.message) == MAX_MESSAGE


def test_a_child_that_is_gone_has_failed_and_one_that_was_cancelled_is_not_tried_again() -> None:
    gone = outcome_of_gone("child")
    assert (gone.kind, gone.reason, gone.retryable) == (F, Reason.CHILD_FAILED, True)
    assert gone.message == "child workflow child was deleted"
    cancelled = outcome_of_child(ChildRun(uid="u", phase=Phase.CANCELLED), "child")
    assert cancelled is not None
    assert not cancelled.retryable


# --- termination messages (20)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("null", None),
        ("3", 3),
        ("-1.5e3", -1500.0),
        ("true", True),
        ('"text"', "text"),
        ('{"a": [1, null]}', {"a": [1, None]}),
        ('{"a": 1}\n', {"a": 1}),
        ("done", "done"),
        ("done\n", "done"),
        ("done\n\n", "done\n"),
        (" two\nlines\n", " two\nlines"),
        ("\n", ""),
        ("{not json}", "{not json}"),
        ("NaN", "NaN"),
        ("1e999", "1e999"),
        ("1 2", "1 2"),
        # Whole numbers of 64 bits, signed or not, are kept; others would lose digits, and count as text.
        ("9007199254740993", 9007199254740993),
        ("18446744073709551615", 2**64 - 1),
        ("-9223372036854775808", -(2**63)),
        ("18446744073709551616", "18446744073709551616"),
        ("-9223372036854775809\n", "-9223372036854775809"),
        ('{"n": 123456789012345678901234567890}', '{"n": 123456789012345678901234567890}'),
        ('{"n": "123456789012345678901234567890"}', {"n": "123456789012345678901234567890"}),
        ('{"\\"": 123456789012345678901234567890.5}', {'"': 1.2345678901234568e29}),
        ('"\\ud800"', '"\\ud800"'),
        # The ledger cannot keep U+0000, and nothing can keep what is nested without end.
        ("a\0b\n", "a\ufffdb"),
        ('{"a\\u0000": ["\\u0000"]}', {"a\ufffd": ["\ufffd"]}),
        ('"\\\\u0000"', "\\u0000"),
        ("[" * 100 + "]" * 100, "deep"),
        ("[" * 101 + "]" * 101, "[" * 101 + "]" * 101),
        ("[" * 2000 + "]" * 2000, "[" * 2000 + "]" * 2000),
    ],
)
def test_termination_messages(text: str, value: Any) -> None:
    result = read_output(text)
    if value == "deep":
        assert isinstance(result, list)
        return
    assert result == value
    assert type(result) is type(value)
    ending = outcome(pod(phase="Succeeded", state=ended(0, message=text)))
    assert ending is not None
    assert value_of(ending.output) == value


@given(st.text(max_size=20), st.integers(1, 20))
def test_a_cut_is_marked(text: str, limit: int) -> None:
    cut = shorten(text, limit)
    assert len(cut) <= limit
    assert cut == text if len(text) <= limit else cut == text[: limit - 1] + "…"


_OCI = "failed to create containerd task: failed to create shim task: "


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (_OCI + "context canceled: unknown", D),  # as seen when a kubelet was killed
        (_OCI + "context deadline exceeded: unknown", D),
        ("rpc error: code = Unavailable desc = error reading from server: EOF", D),
        (_OCI + "ttrpc: closed: unknown", D),
        (
            _OCI + 'OCI runtime create failed: exec: "nonsense": executable file not found in $PATH: unknown',
            F,
        ),
        (_OCI + "OCI runtime create failed: permission denied: unknown", F),
        ("", F),
    ],
)
@pytest.mark.parametrize("reason", ["StartError", "ContainerCannotRun"])
def test_who_is_to_blame_for_a_container_that_did_not_start(reason: str, message: str, kind: EndKind) -> None:
    found = outcome(pod(phase="Failed", state=ended(128, reason=reason, message=message)))
    assert found is not None
    assert (found.kind, found.exit_code) == (kind, 128)
    assert found.reason is (Reason.DISRUPTED if kind is D else Reason.EXIT_CODE)


def test_a_program_that_ran_is_judged_by_its_code_whatever_it_says() -> None:
    found = outcome(pod(phase="Failed", state=ended(128, message="context canceled")))
    assert found is not None
    assert found.kind is F
