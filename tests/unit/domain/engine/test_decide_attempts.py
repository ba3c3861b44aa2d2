"""How attempts go: starts, results, retries, disruptions, and what comes late."""

import pytest
from tests.unit.domain.builders import view_of_workflow
from tests.unit.domain.clock import START, at
from tests.unit.domain.runs import FAILURE, FATAL, SUCCESS, Run

from perdure.domain.engine.decide import decide
from perdure.domain.engine.observed import Observed, Refusal
from perdure.domain.engine.outcome import LOST_AFTER
from perdure.domain.engine.pod_facts import ContainerExit
from perdure.domain.engine.retry import DISRUPTION_LIMIT, backoff
from perdure.domain.payloads import payload_of
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import Report, TaskKey

A = TaskKey("a")


def started(retries: int = 0) -> Run:
    run = Run(view_of_workflow({"name": "a", "retry": {"limit": retries}}))
    run.settle()
    return run


# --- results


def test_an_exit_code_of_zero_with_its_message() -> None:
    run = started()
    run.exited(A, message='{"n": [1]}')
    assert (run.tasks[A].output, run.tasks[A].exit_code) == ({"n": [1]}, 0)
    (attempt,) = run.attempts_of(A)
    assert (attempt.outcome, attempt.exit_code, attempt.closed_at) == (Phase.SUCCEEDED, 0, START)


def test_a_report_wins_over_the_state_of_its_pod() -> None:
    """Guarantee 1, and 5: the agent's own word is the result, whatever became of its pod since."""
    run = started()
    broken = ContainerExit(code=137, reason="OOMKilled", message="")
    run.settle(Observed(reports={A: (1, SUCCESS)}, pods={A: run.pod(A, exit=broken)}, gone=frozenset({A})))
    assert (run.phase, run.tasks[A].output) == (Phase.SUCCEEDED, {"n": 1})
    assert run.attempts[A, 1].report == SUCCESS
    run = started()
    run.settle(
        Observed(
            reports={A: (1, FATAL)}, pods={A: run.pod(A, exit=ContainerExit(code=0, reason="", message="x"))}
        )
    )
    assert (run.tasks[A].phase, run.tasks[A].reason) == (Phase.FAILED, Reason.AGENT_FAILURE)


def test_a_pod_that_was_never_seen_running_has_started_and_ended() -> None:
    run = started()
    run.exited(A)
    assert run.types(since=3) == ["task.started", "task.succeeded", "workflow.succeeded"]


def test_a_reported_success_counts_as_a_start() -> None:
    run = started()
    run.reported(A, SUCCESS)
    assert run.tasks[A].started_at is not None
    assert "task.started" in run.types()


def test_a_pod_that_never_started_is_no_start() -> None:
    run = started()
    refused = run.pod(A, phase="Failed", started_at=None)
    run.settle(Observed(pods={A: refused}))
    assert "task.started" not in run.types()
    assert run.tasks[A].disruptions == 1


def test_a_start_has_one_event_and_its_time_is_kept() -> None:
    run = started(retries=1)
    run.now = at(5)
    run.started(A)
    run.now = at(8)
    run.started(A)
    assert run.types().count("task.started") == 1
    assert (run.tasks[A].started_at, run.attempts[A, 1].started_at) == (at(5), at(5))
    run.exited(A, code=1)
    run.settle(now=at(60))
    run.now = at(61)
    run.started(A)
    # The task started with its first attempt, the attempt by itself.
    assert (run.tasks[A].started_at, run.attempts[A, 2].started_at) == (at(5), at(61))


# --- retries (22)


@pytest.mark.parametrize("limit", [0, 1, 2, 5])
def test_the_limit_counts_retries(limit: int) -> None:
    run = started(limit)
    for number in range(1, limit + 2):
        assert run.tasks[A].attempt == number
        run.exited(A, code=1)
        run.settle(now=run.tasks[A].retry_at)
    assert (run.tasks[A].phase, run.tasks[A].reason) == (Phase.FAILED, Reason.EXIT_CODE)
    assert (run.tasks[A].attempt, run.tasks[A].retries, run.tasks[A].exit_code) == (limit + 1, limit, 1)
    assert run.phase is Phase.FAILED


def test_a_retry_waits_for_its_delay() -> None:
    run = started(2)
    run.now = at(10)
    run.exited(A, code=7)
    due = at(10) + backoff(run.run.uid, A, 1)
    task = run.tasks[A]
    assert (task.phase, task.reason, task.retry_at, task.exit_code) == (Phase.PENDING, Reason.BACKOFF, due, 7)
    assert "exit code 7" in task.message
    retrying = run.events[-1]
    assert retrying.type == "task.retrying"
    assert dict(retrying.data) == {
        "step": "a",
        "retry": 1,
        "limit": 2,
        "retryAt": due.isoformat(),
        "reason": Reason.EXIT_CODE,
        "message": "exit code 7",
        "exitCode": 7,
    }
    decision = run.decide(now=at(10.5))
    assert (decision.commit, decision.requeue_at) == (None, due)
    run.settle(now=due)
    task = run.tasks[A]
    assert (task.phase, task.reason, task.attempt, task.retry_at) == (Phase.PENDING, Reason.STARTING, 2, None)
    assert run.attempts[A, 2].pod_name.endswith("-2")


def test_what_is_not_worth_a_retry_spends_none() -> None:
    run = started(5)
    run.reported(A, FATAL)
    assert (run.tasks[A].phase, run.tasks[A].retries) == (Phase.FAILED, 0)
    run = started(5)
    run.reported(A, FAILURE)
    assert (run.tasks[A].phase, run.tasks[A].retries) == (Phase.PENDING, 1)


@pytest.mark.parametrize("reason", [Reason.INVALID_CONFIG, Reason.NAME_CONFLICT])
def test_a_pod_that_is_refused_for_good_fails_its_task(reason: Reason) -> None:
    run = started(5)
    run.refused(A, reason)
    task = run.tasks[A]
    assert (task.phase, task.reason, task.message) == (Phase.FAILED, reason, "the API server says no")


# --- disruptions (23)


def test_the_first_disruption_is_answered_at_once() -> None:
    run = started(0)
    run.started(A)
    run.gone(A)
    assert run.open == [A]
    assert run.types(since=4) == ["task.disrupted", "task.scheduled"]
    disrupted, scheduled = run.events[-2:]
    assert (disrupted.attempt, disrupted.data["disruptions"], scheduled.attempt) == (1, 1, 2)
    assert (run.tasks[A].retries, run.tasks[A].disruptions) == (0, 1)
    assert run.attempts[A, 1].reason is Reason.DISRUPTED


def test_later_disruptions_wait_longer_and_spend_no_retry() -> None:
    run = started(1)
    delays = []
    for number in range(1, DISRUPTION_LIMIT + 1):
        run.gone(A)
        task = run.tasks[A]
        assert (task.disruptions, task.retries) == (number, 0)
        if task.retry_at is not None:
            assert task.reason is Reason.BACKOFF
            delays.append((task.retry_at - run.now).total_seconds())
            run.settle(now=task.retry_at)
    assert len(delays) == DISRUPTION_LIMIT - 1
    assert delays[:6] == sorted(delays[:6])  # then all are about a minute
    run.reported(A, SUCCESS)
    assert (run.phase, run.tasks[A].attempt) == (Phase.SUCCEEDED, DISRUPTION_LIMIT + 1)


def test_one_disruption_too_many_fails_and_falls_back_on_no_retry() -> None:
    run = started(5)
    for _ in range(DISRUPTION_LIMIT + 1):
        run.gone(A)
        run.settle(now=run.tasks[A].retry_at)
    task = run.tasks[A]
    assert (task.phase, task.reason) == (Phase.FAILED, Reason.DISRUPTION_LIMIT)
    assert task.message.startswith("11 disruptions, the limit is 10; last: ")
    assert (task.attempt, task.retries) == (DISRUPTION_LIMIT + 1, 0)
    assert run.types()[-3:] == ["task.disrupted", "task.failed", "workflow.failed"]


def test_failures_and_disruptions_are_counted_apart() -> None:
    run = started(2)
    for end in ("gone", "failed", "gone", "failed", "gone"):
        if end == "gone":
            run.gone(A)
        else:
            run.exited(A, code=1)
        run.settle(now=run.tasks[A].retry_at)
    assert (run.tasks[A].attempt, run.tasks[A].retries, run.tasks[A].disruptions) == (6, 2, 3)
    run.exited(A, code=1)
    assert run.tasks[A].phase is Phase.FAILED


@pytest.mark.parametrize(("code", "reason"), [(75, Reason.INTERRUPTED), (76, Reason.SUPERSEDED)])
def test_an_agent_that_asks_to_be_run_again_is_disrupted(code: int, reason: Reason) -> None:
    run = started(0)
    run.exited(A, code=code)
    assert (run.tasks[A].disruptions, run.tasks[A].attempt) == (1, 2)
    assert (run.attempts[A, 1].reason, run.attempts[A, 1].exit_code) == (reason, code)


def test_an_agent_that_keeps_asking_to_be_run_again_is_delayed() -> None:
    """38: the first replacement comes at once, later ones after 1 s to 60 s."""
    run = started(0)
    run.exited(A, code=75)
    assert run.tasks[A].attempt == 2
    delays = []
    now = START
    for _ in range(9):
        exit = ContainerExit(code=75, reason="Error", message="")
        run.settle(Observed(pods={A: run.pod(A, exit=exit)}), now=now)
        retry_at = run.tasks[A].retry_at
        assert retry_at is not None
        delays.append((retry_at - now).total_seconds())
        now = retry_at
        run.settle(now=now)
    assert min(delays) >= 1 and max(delays) <= 60
    assert delays[0] <= 1.1
    assert delays[-1] >= 54


def test_a_run_is_requeued_for_when_a_deleted_pods_grace_period_is_long_over() -> None:
    run = started()
    run.started(A)
    dying = Observed(pods={A: run.pod(A, deletion=at(30), started_at=START)})
    decision = run.decide(dying)
    assert decision.commit is None
    assert decision.requeue_at == at(30) + LOST_AFTER
    assert run.decide(dying, now=at(59)).commit is None
    run.settle(dying, now=decision.requeue_at)
    assert (run.tasks[A].disruptions, run.tasks[A].attempt) == (1, 2)


# --- late, repeated, and for others


def test_nothing_of_an_earlier_attempt_counts() -> None:
    run = started(1)
    run.exited(A, code=1)
    run.settle(now=at(60))
    refusal = Refusal(attempt=1, reason=Reason.INVALID_CONFIG, message="late")
    ended = run.pod(A, attempt=1, exit=ContainerExit(code=0, reason="", message="late"))
    for observed in (
        Observed(reports={A: (1, SUCCESS)}),
        Observed(refusals={A: refusal}),
        Observed(pods={A: ended}),
    ):
        assert run.decide(observed).commit is None
    run.reported(A, Report(outcome="Succeeded", output=payload_of("second"), at=START))
    assert run.tasks[A].output == "second"


def test_nothing_reaches_a_task_that_waits_for_its_next_attempt() -> None:
    run = started(1)
    run.exited(A, code=1)
    assert run.decide(Observed(reports={A: (1, SUCCESS)}, gone=frozenset({A}))).commit is None


def test_the_first_of_two_ends_counts_when_both_come_later() -> None:
    run = started()
    run.reported(A, SUCCESS)
    assert run.decide(Observed(reports={A: (1, FATAL)})).commit is None
    assert run.attempts[A, 1].report == SUCCESS


def test_what_is_said_of_unknown_tasks_is_ignored() -> None:
    run = started()
    stranger = TaskKey("b", 3)
    pod = run.pod(A)
    observed = Observed(pods={stranger: pod}, gone=frozenset({stranger}), reports={stranger: (1, SUCCESS)})
    assert run.decide(observed).commit is None


def test_a_decision_that_was_not_committed_leaves_no_trace() -> None:
    """Nothing of it may show in the next, which may see another outcome: a crash, or a lost race."""
    run = Run(view_of_workflow({"name": "a"}, {"name": "b", "input": "${steps.a.output}"}))
    run.settle()
    lost = Observed(pods={A: run.pod(A, exit=ContainerExit(code=0, reason="", message="from the pod"))})
    assert decide(run.view, lost, run.now).commit is not None
    run.reported(A, Report(outcome="Succeeded", output=payload_of("from the agent"), at=START))
    assert run.tasks[TaskKey("b")].input == "from the agent"
