"""Containers next to the agent: exit codes that are not the agent's, and causes that its state lacks."""

from typing import Any

import pytest
from tests.unit.domain.clock import at
from tests.unit.domain.pods import condition, ended, pod, waiting

from perdure.domain.engine.outcome import EndKind, outcome_of_pod
from perdure.domain.engine.pod_facts import read_pod
from perdure.domain.engine.pod_waiting import is_silent, waiting_reason
from perdure.domain.phases import Reason

LATER = "2024-05-01T12:00:09Z"


def with_init(
    *statuses: dict[str, Any],
    native: tuple[str, ...] = (),
    agent: dict[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """A pod whose agent waits for init containers."""
    made = pod(state=agent or waiting("PodInitializing"), **{"phase": "Pending", **fields})
    made["status"]["initContainerStatuses"] = list(statuses)
    made["spec"]["initContainers"] = [
        {"name": each["name"], **({"restartPolicy": "Always"} if each["name"] in native else {})}
        for each in statuses
    ]
    return made


@pytest.mark.parametrize("code", [75, 76, 1, 137])
def test_an_init_containers_exit_code_is_a_failure_that_names_it(code: int) -> None:
    outcome = outcome_of_pod(
        read_pod(with_init({"name": "fetch", "state": ended(code)}, phase="Failed")), at(0)
    )
    assert outcome is not None
    assert (outcome.kind, outcome.reason, outcome.exit_code) == (EndKind.FAILED, Reason.EXIT_CODE, code)
    assert outcome.message == f"exit code {code}: init container fetch"


def test_an_init_container_out_of_memory_is_named() -> None:
    state = ended(137, reason="OOMKilled")
    outcome = outcome_of_pod(read_pod(with_init({"name": "fetch", "state": state}, phase="Failed")), at(0))
    assert outcome is not None
    assert (outcome.reason, outcome.kind) == (Reason.OOM_KILLED, EndKind.FAILED)
    assert outcome.message.startswith("init container fetch was killed for want of memory")


def test_a_native_sidecar_that_ended_with_its_pod_is_not_the_cause() -> None:
    made = with_init({"name": "proxy", "state": ended(143)}, native=("proxy",), phase="Failed")
    outcome = outcome_of_pod(read_pod(made), at(0))
    assert outcome is not None
    assert (outcome.kind, outcome.reason) == (EndKind.DISRUPTED, Reason.DISRUPTED)


@pytest.mark.parametrize("code", [75, 76])
def test_the_agents_own_exit_codes_keep_their_meaning(code: int) -> None:
    outcome = outcome_of_pod(read_pod(with_init({"name": "f", "state": ended(0)}, agent=ended(code))), at(0))
    assert outcome is not None
    assert outcome.kind is EndKind.DISRUPTED


def finished(code: int, at: str) -> dict[str, Any]:
    state = ended(code)
    state["terminated"]["finishedAt"] = at
    return state


@pytest.mark.parametrize(
    ("other", "native", "said"),
    [
        ({"name": "proxy", "state": ended(2)}, False, "; before it, container proxy ended with exit code 2"),
        (
            {"name": "proxy", "state": waiting("CrashLoopBackOff"), "lastState": ended(75)},
            True,
            "; before it, sidecar proxy ended with exit code 75",
        ),
        ({"name": "proxy", "state": finished(143, "2024-05-01T12:00:11Z")}, True, ""),
        ({"name": "proxy", "state": ended(0)}, False, ""),
        ({"name": "proxy", "state": {"running": {}}}, False, ""),
    ],
)
def test_a_failure_names_the_sidecars_that_failed_before_it(
    other: dict[str, Any], native: bool, said: str
) -> None:
    agent = finished(1, LATER)
    if native:
        made = with_init(other, native=("proxy",), agent=agent)
    else:
        made = pod(state=agent, extra_statuses=[other])
    outcome = outcome_of_pod(read_pod(made), at(0))
    assert outcome is not None
    assert (outcome.reason, outcome.message) == (Reason.EXIT_CODE, f"exit code 1{said}")


def test_a_sidecars_failure_fails_no_agent() -> None:
    made = pod(
        phase="Failed", state=finished(0, LATER), extra_statuses=[{"name": "proxy", "state": ended(75)}]
    )
    outcome = outcome_of_pod(read_pod(made), at(0))
    assert outcome is not None
    assert outcome.kind is EndKind.SUCCEEDED


UNPULLED = waiting("ErrImagePull", "no such image")
CRASHED = waiting("CrashLoopBackOff", "back-off 10s restarting failed container")


@pytest.mark.parametrize(
    ("made", "reason", "message"),
    [
        (
            with_init({"name": "fetch", "state": UNPULLED}),
            Reason.IMAGE_PULL,
            "init container fetch: ErrImagePull: no such image",
        ),
        (
            with_init({"name": "fetch", "state": {"running": {}}}),
            Reason.STARTING,
            "init container fetch: runs before the agent",
        ),
        (
            with_init({"name": "proxy", "state": CRASHED, "lastState": ended(3)}, native=("proxy",)),
            Reason.STARTING,
            "sidecar proxy: CrashLoopBackOff: back-off 10s restarting failed container (exit code 3)",
        ),
        (
            with_init({"name": "proxy", "state": {"running": {}}, "started": False}, native=("proxy",)),
            Reason.STARTING,
            "sidecar proxy: has not passed its startup probe",
        ),
        (
            with_init(
                {"name": "proxy", "state": {"running": {}}, "started": True},
                {"name": "config", "state": waiting("CreateContainerConfigError", 'configmap "c" not found')},
                native=("proxy",),
            ),
            Reason.STARTING,
            'init container config: CreateContainerConfigError: configmap "c" not found',
        ),
        (
            pod(
                phase="Pending",
                state=waiting("ContainerCreating"),
                extra_statuses=[{"name": "helper", "state": waiting("ImagePullBackOff")}],
            ),
            Reason.IMAGE_PULL,
            "container helper: ImagePullBackOff",
        ),
        (
            pod(phase="Pending", state=waiting("ErrImageNeverPull", "not there")),
            Reason.IMAGE_PULL,
            "ErrImageNeverPull: not there",
        ),
        (
            pod(phase="Pending", conditions=[condition("PodScheduled", "False", "SchedulerError", "oh")]),
            Reason.STARTING,
            "SchedulerError: oh",
        ),
    ],
)  # fmt: skip
def test_the_cause_of_waiting_names_the_container(made: dict[str, Any], reason: Reason, message: str) -> None:
    facts = read_pod(made)
    assert waiting_reason(facts) == (reason, message)
    assert not is_silent(facts)
    assert waiting_reason(facts, "FailedMount: an old event") == (reason, message), (
        "the pod's own words first"
    )


def test_scheduling_gates_are_named() -> None:
    gated = condition(
        "PodScheduled", "False", "SchedulingGated", "Scheduling is blocked due to non-empty gates"
    )
    made = pod(phase="Pending", conditions=[gated])
    made["spec"]["schedulingGates"] = [{"name": "example.com/a"}, {"name": "example.com/b"}]
    text = "SchedulingGated: Scheduling is blocked due to non-empty gates (example.com/a, example.com/b)"
    assert waiting_reason(read_pod(made)) == (Reason.STARTING, text)


def test_an_event_counts_while_the_pod_says_nothing() -> None:
    unready = condition("PodReadyToStartContainers", "False", "")
    facts = read_pod(pod(phase="Pending", state=waiting("ContainerCreating"), conditions=[unready]))
    assert is_silent(facts)
    text = "the pod is being started: its volumes and its network are not ready"
    assert waiting_reason(facts) == (Reason.STARTING, text)
    assert waiting_reason(facts, "FailedMount: x") == (Reason.STARTING, "FailedMount: x")


def test_an_init_container_with_an_invalid_image_can_never_start() -> None:
    state = waiting("InvalidImageName", "couldn't parse")
    outcome = outcome_of_pod(read_pod(with_init({"name": "fetch", "state": state})), at(0))
    assert outcome is not None
    assert (outcome.reason, outcome.retryable) == (Reason.INVALID_CONFIG, False)
    assert outcome.message == "init container fetch: InvalidImageName: couldn't parse"


def test_nothing_holds_up_an_agent_that_has_started() -> None:
    made = with_init({"name": "fetch", "state": ended(0)}, agent={"running": {"startedAt": LATER}})
    made["status"]["conditions"] = [condition("PodReadyToStartContainers", "False", "")]
    facts = read_pod(made)
    assert (facts.hold, facts.unprepared, waiting_reason(facts)) == (None, False, None)
