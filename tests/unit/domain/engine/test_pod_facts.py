"""What is read from a pod object, and that nothing in it can make reading fail."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from tests.unit.domain.pods import condition, ended, pod, waiting

from perdure.domain.engine.pod_facts import ContainerExit, PodFacts, read_pod, read_time


def test_a_pod_names_its_task_owner_and_attempt() -> None:
    facts = read_pod(pod())
    assert (facts.name, facts.uid) == ("audit-a-x7k2q-1", "pod-1")
    assert (facts.task, facts.owner_uid, facts.attempt) == ("audit-a-x7k2q", "task-1", 1)


def test_a_pod_that_just_appeared() -> None:
    assert read_pod({"metadata": {"name": "p", "uid": "u"}}) == PodFacts(
        name="p", uid="u", task="", owner_uid="", attempt=0, phase="Pending", watched=False
    )


@pytest.mark.parametrize(("label", "attempt"), [("12", 12), ("", 0), ("x", 0), ("-1", 0), ("1.0", 0)])
def test_an_attempts_number(label: str, attempt: int) -> None:
    assert read_pod(pod(labels={"perdure.dev/attempt": label})).attempt == attempt


def test_a_terminated_container_gives_its_exit_and_start() -> None:
    facts = read_pod(pod(phase="Failed", state=ended(3, reason="Error", message="broken")))
    assert facts.exit == ContainerExit(code=3, reason="Error", message="broken")
    assert facts.started_at == datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
    assert facts.ended


def test_a_pod_has_ended_when_its_agent_or_all_of_it_has() -> None:
    assert read_pod(pod(state=ended(0))).ended
    assert read_pod(pod(phase="Failed")).ended
    assert read_pod(pod(phase="Succeeded")).ended
    assert not read_pod(pod(state={"running": {}})).ended
    assert not read_pod(pod(extra_statuses=[{"name": "proxy", "state": ended(0)}])).ended


def test_a_sidecar_that_runs_on_keeps_the_pod_but_not_the_attempt() -> None:
    on = {"name": "proxy", "state": {"running": {}}}
    facts = read_pod(pod(state=ended(0), extra_statuses=[on]))
    assert (facts.agent_ended, facts.ended) == (True, False)
    assert not read_pod(pod(state={"running": {}}, extra_statuses=[on])).agent_ended
    # The last word about a pod whose node was lost.
    lost = read_pod(pod(phase="Failed", extra_statuses=[on]))
    assert (lost.agent_ended, lost.ended) == (True, True)


def test_an_init_container_that_failed_is_an_end_of_the_agents_doing() -> None:
    seen = pod(phase="Failed", state=waiting("PodInitializing"))
    seen["status"]["initContainerStatuses"] = [
        {"name": "first", "state": ended(0)},
        {"name": "fetch", "state": ended(4, message="no such host")},
    ]
    facts = read_pod(seen)
    name = "init container fetch"
    assert facts.exit == ContainerExit(
        code=4, reason="Error", message=f"{name}: no such host", container=name
    )
    assert (facts.agent_ended, facts.ended, facts.started_at) == (True, True, None)
    # One that the kubelet may start again.
    seen["status"]["phase"] = "Pending"
    assert read_pod(seen).exit is None
    # The agent's own end counts before that of any other.
    seen["status"] |= {"phase": "Failed", "containerStatuses": [{"name": "agent", "state": ended(5)}]}
    assert read_pod(seen).exit == ContainerExit(code=5, reason="Error", message="")


def test_the_pod_of_a_job_is_found_by_the_jobs_name() -> None:
    seen = pod()
    seen["metadata"] |= {
        "name": "audit-a-x7k2q-1-b4d9f",
        "ownerReferences": [
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "name": "audit-a-x7k2q-1",
                "uid": "job-1",
                "controller": True,
            }
        ],
    }
    facts = read_pod(seen)
    assert (facts.name, facts.owner_uid, facts.uid) == ("audit-a-x7k2q-1", "job-1", "pod-1")
    assert (facts.of_job, facts.pod_name) == (True, "audit-a-x7k2q-1-b4d9f")
    plain = read_pod(pod())
    assert (plain.of_job, plain.pod_name) == (False, "audit-a-x7k2q-1")


@pytest.mark.parametrize(
    "change", [{"controller": False}, {"kind": "CronJob"}, {"apiVersion": "batch.example.com/v1"}]
)
def test_only_a_controlling_job_gives_its_name(change: dict[str, object]) -> None:
    seen = pod()
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "job", "uid": "j", "controller": True}
    seen["metadata"]["ownerReferences"] = [owner | change]
    assert not read_pod(seen).of_job


def test_a_running_container_gives_its_start() -> None:
    assert read_pod(pod(state={"running": {"startedAt": "2024-05-01T12:00:01Z"}})).started_at == datetime(
        2024, 5, 1, 12, 0, 1, tzinfo=UTC
    )
    assert read_pod(pod(state=waiting("ContainerCreating"))).started_at is None
    assert read_pod(pod(state=waiting("ImagePullBackOff", "why"))).waiting == ("ImagePullBackOff", "why")


def test_the_schedulers_complaint() -> None:
    refused = condition("PodScheduled", "False", "Unschedulable", "0/3 nodes are available")
    gated = condition("PodScheduled", "False", "SchedulingGated", "gates")
    scheduled = condition("PodScheduled", "True", "")
    assert read_pod(pod(phase="Pending", conditions=[refused])).unschedulable == "0/3 nodes are available"
    assert read_pod(pod(phase="Pending", conditions=[gated])).unschedulable is None
    assert read_pod(pod(conditions=[scheduled])).unschedulable is None


def test_a_deletion_ends_with_its_grace() -> None:
    facts = read_pod(pod(deletion="2024-05-01T12:00:30Z"))
    assert facts.deletion == datetime(2024, 5, 1, 12, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2024-05-01T12:00:00Z", datetime(2024, 5, 1, 12, tzinfo=UTC)),
        ("2024-05-01T12:00:00.123456Z", datetime(2024, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)),
        ("2024-05-01T14:00:00+02:00", datetime(2024, 5, 1, 14, tzinfo=timezone(timedelta(hours=2)))),
    ],
)
def test_times_are_read_with_their_zone(text: str, time: datetime) -> None:
    assert read_time(text) == time
    assert read_time(text).tzinfo is not None


def test_a_pod_keeps_its_identity_and_is_copied_only_if_it_lost_it() -> None:
    known = PodFacts(name="a-1", uid="u", task="a", owner_uid="o", attempt=1, phase="Pending", kept=False)
    same = replace(known, phase="Running")
    assert same.identified_as(known) is same
    changes: list[dict[str, Any]] = [
        {"name": "b-1"},
        {"task": "b"},
        {"owner_uid": "p"},
        {"attempt": 2},
        {"generated_name": "a-1-xyz"},
        {"kept": True},
    ]
    for change in changes:
        assert replace(same, **change).identified_as(known) == same, change


def test_the_owner_of_a_jobs_pod_is_the_present_one() -> None:
    known = PodFacts(
        name="a-1", uid="u", task="a", owner_uid="job", attempt=1, phase="Running", generated_name="a-1-xyz"
    )
    without = replace(known, owner_uid="")
    assert without.identified_as(known) is without
    assert replace(without, name="a-1-xyz", generated_name=None).identified_as(known) == without
