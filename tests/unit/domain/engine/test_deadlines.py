"""What time alone does (23, 24): each limit with its own reason, at its moment and not before."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.unit.domain.cases import A, B, begun, begun_alone, end_of, reasons, step
from tests.unit.domain.clock import START, at
from tests.unit.domain.runs import SUCCESS, Run

from perdure.domain.engine.deadlines import deadlines, last_sign
from perdure.domain.engine.observed import Observed
from perdure.domain.engine.pod_facts import ContainerExit
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import AttemptRecord, TaskKey

MILLISECOND = timedelta(milliseconds=1)


def passes(run: Run, moment: datetime, observed: Observed | None = None) -> None:
    """Time passes: nothing changes until the moment, of which the run has said that it comes."""
    decision = run.decide(observed)
    assert (decision.commit, decision.requeue_at) == (None, moment)
    assert run.decide(observed, now=moment - MILLISECOND).commit is None
    run.settle(observed, now=moment)


# --- attempts


def test_a_timeout_runs_from_the_containers_start() -> None:
    """24."""
    run = begun(step("a", timeout="10s"))
    assert run.requeue_at is None, "before the start, it is the pendingTimeout's time"
    run.now = at(100)
    run.started(A)
    # The kubelet cuts fractions of a second off.
    passes(run, at(110))
    assert end_of(run) == ("Failed", "Timeout")
    assert run.tasks[A].message == "ran longer than 10s"
    (attempt,) = run.attempts_of(A)
    assert (attempt.closed_at, attempt.outcome, attempt.reason) == (at(110), Phase.FAILED, Reason.TIMEOUT)


def test_a_start_that_was_noticed_late_counts_from_when_it_was() -> None:
    """24: an operator that was away makes no timeout longer than the kubelet's rounding does."""
    run = begun(step("a", timeout="10s"))
    run.now = at(60)
    run.settle(Observed(pods={A: run.pod(A, started_at=at(55))}))
    assert run.attempts[A, 1].started_at == at(56)
    passes(run, at(66))
    assert end_of(run) == ("Failed", "Timeout")


@pytest.mark.parametrize(("seen", "counts"), [(at(-50), START), (at(500), at(5)), (at(5), at(5))])
def test_a_nodes_clock_that_is_wrong_cannot_move_a_start_out_of_its_bounds(
    seen: datetime, counts: datetime
) -> None:
    run = begun(step("a", timeout="10s"))
    run.now = at(5)
    run.settle(Observed(pods={A: run.pod(A, started_at=seen)}))
    assert run.attempts[A, 1].started_at == counts


def test_a_pending_timeout_ends_with_the_start() -> None:
    """24."""
    run = begun(step("a", pendingTimeout="10s"))
    run.now = at(9)
    run.started(A)
    assert run.requeue_at is None
    run.settle(now=at(1000))
    assert run.open == [A]


def waiting_pod(run: Run, **facts: Any) -> Observed:
    return Observed(pods={A: run.pod(A, phase="Pending", started_at=None, **facts)})


@pytest.mark.parametrize(
    ("facts", "cause"),
    [
        ({"unschedulable": "0/3 nodes"}, ": Unschedulable: 0/3 nodes"),
        ({"waiting": ("ImagePullBackOff", "no such tag")}, ": ImagePull: ImagePullBackOff: no such tag"),
        (
            {"waiting": ("CreateContainerConfigError", "no secret")},
            ": Starting: CreateContainerConfigError: no secret",
        ),
        ({}, ": Starting: the pod is being started"),
    ],
)
def test_a_pending_timeout_says_what_was_waited_for(facts: dict[str, Any], cause: str) -> None:
    """6, 24: what may heal waits, and ends as PendingTimeout with the cause in its message."""
    run = begun(step("a", pendingTimeout="1m30s"))
    observed = waiting_pod(run, **facts)
    passes(run, at(90), observed)
    assert end_of(run) == ("Failed", "PendingTimeout")
    assert run.tasks[A].message == f"did not start within 90s{cause}"


def test_a_pending_timeout_without_a_pod() -> None:
    """24: it runs from the moment at which the attempt was decided, pod or not."""
    run = begun(step("a", pendingTimeout="10s"))
    held_up = Observed(blocked={A: (Reason.QUOTA, "exceeded quota: pods")})
    run.settle(held_up, now=at(10))
    assert run.tasks[A].message == "did not start within 10s: Quota: exceeded quota: pods"
    run = begun(step("a", pendingTimeout="10s"))
    passes(run, at(10))
    assert run.tasks[A].message == "did not start within 10s"


def test_every_attempt_has_a_pending_timeout_of_its_own() -> None:
    run = begun(step("a", pendingTimeout="10s"))
    run.settle(Observed(gone=frozenset({A})), now=at(7))
    assert run.requeue_at == at(17)


def test_an_idle_timeout_runs_from_the_last_sign_of_life() -> None:
    """24: for plain containers from their start."""
    run = begun(step("a", idleTimeout="10s"))
    run.started(A)
    assert run.requeue_at == at(10)
    run.signs[A] = (1, at(9))
    run.settle(now=at(10))
    assert run.open == [A]
    passes(run, at(19))
    assert end_of(run) == ("Failed", "IdleTimeout")
    assert run.tasks[A].message == "gave no sign of life for 10s: no heartbeat, progress or checkpoint"


def test_signs_of_an_earlier_attempt_are_no_signs_of_this_one() -> None:
    run = begun(step("a", idleTimeout="10s"))
    run.started(A)
    run.gone(A)
    run.now = at(5)
    run.started(A)
    run.signs[A] = (1, at(14))
    passes(run, at(15))
    assert end_of(run) == ("Failed", "IdleTimeout")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"timeout": "10s", "idleTimeout": "20s"}, "Timeout"),
        ({"timeout": "20s", "idleTimeout": "10s"}, "IdleTimeout"),
        ({"timeout": "10s", "pendingTimeout": "1s"}, "Timeout"),
    ],
)
def test_the_earlier_limit_is_the_reason(fields: dict[str, str], reason: str) -> None:
    run = begun(step("a", **fields))
    run.started(A)
    run.settle(now=at(60))
    assert end_of(run) == ("Failed", reason)


@pytest.mark.parametrize("field", ["timeout", "pendingTimeout", "idleTimeout"])
def test_each_spends_a_retry(field: str) -> None:
    """24."""
    run = begun(step("a", retry={"limit": 1}, **{field: "10s"}))
    for retries in (0, 1):
        assert run.tasks[A].retries == retries
        if field != "pendingTimeout":
            run.started(A)
        run.settle(now=run.moment(10))
        run.settle(now=run.requeue_at)
    assert (run.tasks[A].attempt, run.tasks[A].phase) == (2, Phase.FAILED)


@pytest.mark.parametrize("code", [75, 0, 1])
def test_an_exit_in_answer_to_a_timeout_is_a_timeout(code: int) -> None:
    """24: the attempt is closed at its deadline, so whatever its agent then does comes too late."""
    run = begun(step("a", timeout="10s", retry={"limit": 1}))
    run.started(A)
    run.settle(now=at(10))
    ends = ContainerExit(code=code, reason="", message="late")
    assert run.decide(Observed(pods={A: run.pod(A, attempt=1, exit=ends)})).commit is None
    assert (run.tasks[A].retries, run.tasks[A].disruptions) == (1, 0)


@pytest.mark.parametrize(
    "seen", [Observed(reports={A: (1, SUCCESS)}), ContainerExit(code=0, reason="", message="in time")]
)
def test_a_result_that_is_seen_only_after_the_deadline_counts(seen: Any) -> None:
    """Guarantee 5: the operator's absence is not the agent's fault."""
    run = begun(step("a", timeout="10s", idleTimeout="5s"))
    run.started(A)
    observed = seen if isinstance(seen, Observed) else Observed(pods={A: run.pod(A, exit=seen)})
    run.settle(observed, now=at(3600))
    assert end_of(run) == ("Succeeded", None)


def test_a_timeout_does_not_wait_for_what_else_was_seen_of_the_pod() -> None:
    run = begun(step("a", timeout="10s"))
    run.started(A)
    run.settle(Observed(pods={A: run.pod(A, deletion=at(500), started_at=START)}), now=at(10))
    assert end_of(run) == ("Failed", "Timeout")


def test_deadlines_of_an_attempt() -> None:
    run = begun(step("a", timeout="30s", pendingTimeout="10s", idleTimeout="20s"))
    planned = run.view.plan.steps["a"]
    attempt = AttemptRecord(key=A, number=3, pod_name="p", created_at=START)
    assert list(deadlines(planned, attempt, Observed())) == [(at(10), Reason.PENDING_TIMEOUT)]
    attempt = AttemptRecord(key=A, number=3, pod_name="p", created_at=START, started_at=at(1))
    assert {reason: due for due, reason in deadlines(planned, attempt, Observed())} == {
        Reason.TIMEOUT: at(31),
        Reason.IDLE_TIMEOUT: at(21),
    }
    assert last_sign(attempt, Observed(signs={A: (3, at(7))})) == at(7)
    assert last_sign(attempt, Observed(signs={A: (2, at(7))})) == at(1)
    assert last_sign(attempt, Observed(signs={A: (3, at(-7))})) == at(1), "before the start there is none"


# --- a node that is lost


def test_a_deleted_pod_is_waited_for_until_its_node_is_taken_for_lost() -> None:
    run = begun(step("a"))
    run.started(A)
    passes(run, at(60), Observed(pods={A: run.pod(A, deletion=at(30), started_at=START)}))
    assert run.tasks[A].disruptions == 1


def test_a_pod_of_an_earlier_attempt_is_not_waited_for() -> None:
    run = begun(step("a"))
    run.gone(A)
    run.decide(Observed(pods={A: run.pod(A, attempt=1, deletion=at(30))}))
    assert run.requeue_at is None


# --- the run


def test_the_runs_timeout_stops_everything() -> None:
    """12: tasks end Cancelled (WorkflowTimeout), the run Failed (Timeout)."""
    run = begun(
        step("a"),
        step("b", "a"),
        step("c", retry={"limit": 1}),
        step("d", wait={"duration": "1h"}),
        step("e", forEach=[1, 2, 3], parallelism=1),
        timeout="10s",
    )
    run.reported(TaskKey("e", 0), SUCCESS)
    run.now = at(9.5)
    run.exited(TaskKey("c"), code=1)
    run.settle(now=at(10))
    assert end_of(run) == ("Failed", "Timeout")
    assert run.run.message == "did not end within its timeout of 10s"
    assert set(run.phases().values()) == {"Cancelled"}
    assert set(reasons(run).values()) == {"WorkflowTimeout"}
    live = [task for task in run.tasks.values() if task.phase is not Phase.SUCCEEDED]
    assert {(task.phase, task.reason) for task in live} == {(Phase.CANCELLED, Reason.WORKFLOW_TIMEOUT)}
    assert run.steps["e"].message == "the run was stopped when 1 of 3 tasks had run"


def test_the_runs_timeout_comes_at_its_moment() -> None:
    run = begun(step("a"), step("b", "a"), timeout="10s")
    run.started(A)
    run.now = at(4)
    run.reported(A, SUCCESS)
    passes(run, at(10))
    assert run.phases() == {"a": "Succeeded", "b": "Cancelled"}
    assert end_of(run) == ("Failed", "Timeout")


def test_the_runs_timeout_counts_from_its_start() -> None:
    run = begun(step("a"), timeout="10s", desired="Paused")
    assert run.run.deadline_at is None
    run.want("Running", now=at(100))
    assert (run.run.deadline_at, run.requeue_at) == (at(110), at(110))


def test_the_last_results_count_even_if_they_are_seen_after_the_deadline() -> None:
    """Guarantee 5; but what would have to start after them does not."""
    run = begun(step("a"), step("b", forEach=[1, 2]), timeout="10s", outputs={"n": "${steps.a.output.n}"})
    reports = {A: (1, SUCCESS), TaskKey("b", 0): (1, SUCCESS), TaskKey("b", 1): (1, SUCCESS)}
    run.settle(Observed(reports=reports), now=at(3600))
    assert end_of(run) == ("Succeeded", None)
    assert run.run.outputs == {"n": 1}
    run = begun(step("a"), step("b", "a"), timeout="10s")
    run.settle(Observed(reports={A: (1, SUCCESS)}), now=at(3600))
    assert run.phases() == {"a": "Succeeded", "b": "Cancelled"}
    assert end_of(run) == ("Failed", "Timeout")


def test_the_runs_timeout_does_not_cover_finally_steps() -> None:
    """11: they have their own."""
    last = step("f", timeout="1h", input="${workflow.phase}")
    run = begun(step("a"), finally_=(last,), timeout="10s")
    run.settle(now=at(10))
    assert run.open == [TaskKey("f")]
    assert run.tasks[TaskKey("f")].input == "Failed"
    run.started(TaskKey("f"))
    passes(run, at(10 + 3600))
    assert run.steps["f"].reason is Reason.TIMEOUT
    assert end_of(run) == ("Failed", "Timeout")


def test_a_run_that_is_late_only_for_its_finally_steps_succeeds() -> None:
    """11."""
    run = begun(step("a"), finally_=(step("f"),), timeout="10s")
    run.reported(A, SUCCESS)
    assert run.requeue_at is None
    run.settle(now=at(3600))
    run.reported(TaskKey("f"), SUCCESS)
    assert end_of(run) == ("Succeeded", None)


def test_a_failing_run_that_runs_out_of_time_ends_by_its_timeout() -> None:
    run = begun(step("a"), step("b"), timeout="10s")
    run.exited(A, code=1)
    run.settle(now=at(10))
    assert run.phases() == {"a": "Failed", "b": "Cancelled"}
    assert end_of(run) == ("Failed", "Timeout")


def test_a_standalone_task_has_all_of_an_attempts_timers() -> None:
    key = TaskKey("")
    run = begun_alone(timeout="30s", pendingTimeout="10s", idleTimeout="20s", retry={"limit": 1})
    run.settle(now=at(10))
    assert run.tasks[key].last_failure is not None
    assert run.tasks[key].last_failure["reason"] == "PendingTimeout"
    run.settle(now=at(20))
    run.started(key)
    run.settle(now=at(40))
    assert end_of(run) == ("Failed", "IdleTimeout")


def test_timers_of_different_tasks_do_not_mix() -> None:
    run = begun(step("a", timeout="10s"), step("b", timeout="20s"))
    run.started(A, B)
    assert run.requeue_at == at(10)
    run.settle(now=at(10))
    assert run.open == [B]
    assert run.requeue_at == at(20)
