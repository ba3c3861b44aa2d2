"""Conditions, as `kubectl wait`, kstatus and people read them."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.control.lives import Live, condition
from tests.unit.domain.clock import START, at
from tests.unit.domain.runs import FATAL, SUCCESS

from perdure.api.status import Condition
from perdure.control.status.compute import refused_status
from perdure.control.status.conditions import conditions
from perdure.domain.engine.observed import Observed
from perdure.domain.phases import TERMINAL, Phase, Reason
from perdure.domain.records import TaskKey

WAITING = (Reason.UNSCHEDULABLE, "0/3 nodes")


def made(
    phase: Phase, reason: Reason | None = None, message: str = "", **more: Any
) -> dict[str, tuple[str, str, str]]:
    arguments: dict[str, Any] = {"waiting": None, "before": {}, "now": START, **more}
    found = conditions(phase, reason, message, 7, **arguments)
    return {each["type"]: (each["status"], each["reason"], each["message"]) for each in found}


@pytest.mark.parametrize(
    ("phase", "reason", "message", "waiting", "wanted"),
    [
        (
            Phase.RUNNING,
            None,
            "",
            None,
            {
                "Accepted": ("True", "Accepted", ""),
                "Ready": ("False", "Running", ""),
                "Reconciling": ("True", "Running", ""),
                "Stalled": ("False", "Running", ""),
            },
        ),
        (
            Phase.RUNNING,
            None,
            "",
            WAITING,
            {
                "Accepted": ("True", "Accepted", ""),
                "Ready": ("False", "Running", ""),
                "Reconciling": ("True", "Unschedulable", "0/3 nodes"),
                "Stalled": ("False", "Running", ""),
            },
        ),
        (
            Phase.SUCCEEDED,
            None,
            "",
            None,
            {
                "Accepted": ("True", "Accepted", ""),
                "Ready": ("True", "Succeeded", ""),
                "Complete": ("True", "Succeeded", ""),
                "Failed": ("False", "Succeeded", ""),
                "Reconciling": ("False", "Succeeded", ""),
                "Stalled": ("False", "Succeeded", ""),
            },
        ),
        (
            Phase.FAILED,
            Reason.EXIT_CODE,
            "exit code 1",
            None,
            {
                "Accepted": ("True", "Accepted", ""),
                "Ready": ("False", "ExitCode", "exit code 1"),
                "Complete": ("False", "ExitCode", ""),
                "Failed": ("True", "ExitCode", "exit code 1"),
                "Stalled": ("True", "ExitCode", "exit code 1"),
                "Reconciling": ("False", "ExitCode", ""),
            },
        ),
        # 12: a cancelled run has Failed=True and Complete=False.
        (
            Phase.CANCELLED,
            Reason.DELETED,
            "gone",
            None,
            {
                "Accepted": ("True", "Accepted", ""),
                "Ready": ("False", "Deleted", "gone"),
                "Complete": ("False", "Deleted", ""),
                "Failed": ("True", "Deleted", "gone"),
                "Stalled": ("True", "Deleted", "gone"),
                "Reconciling": ("False", "Deleted", ""),
            },
        ),
    ],
)
def test_conditions_follow_from_phase_and_reason(
    phase: Phase,
    reason: Reason | None,
    message: str,
    waiting: tuple[Reason, str] | None,
    wanted: dict[str, tuple[str, str, str]],
) -> None:
    assert made(phase, reason, message, waiting=waiting) == wanted


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("accepted", [True, False, None])
@pytest.mark.parametrize("waiting", [None, WAITING])
def test_what_holds_in_every_phase(phase: Phase, accepted: bool | None, waiting: Any) -> None:
    found = made(phase, Reason.EXIT_CODE, "why", accepted=accepted, waiting=waiting)
    assert found["Accepted"][0] == {True: "True", False: "False", None: "Unknown"}[accepted]
    ended = phase in TERMINAL
    # kubectl wait: one of the two becomes true, at the end and not before.
    assert ("Complete" in found, "Failed" in found) == (ended, ended)
    if ended:
        assert {found["Complete"][0], found["Failed"][0]} == {"True", "False"}
    # kstatus: in progress, or done, or failed.
    assert (found["Reconciling"][0] == "True") == (not ended)
    assert (found["Ready"][0] == "True") == (phase is Phase.SUCCEEDED)
    assert (found["Stalled"][0] == "True") == (ended and phase is not Phase.SUCCEEDED)
    for status, reason, message in found.values():
        assert status in ("True", "False", "Unknown")
        assert reason.isalpha() and len(message) <= 1024
    for each in conditions(phase, None, "", 7, waiting=waiting, before={}, now=START, accepted=accepted):
        assert each["observedGeneration"] == 7
        Condition.model_validate(each)


def test_transition_times_change_with_the_status_only() -> None:
    before = {"conditions": conditions(Phase.RUNNING, None, "", 1, waiting=None, before={}, now=at(0))}
    later = {"conditions": conditions(Phase.RUNNING, None, "", 1, waiting=WAITING, before=before, now=at(60))}
    assert condition(later, "Reconciling")["reason"] == "Unschedulable"
    assert {each["lastTransitionTime"] for each in later["conditions"]} == {"2024-05-01T12:00:00Z"}
    done = {"conditions": conditions(Phase.SUCCEEDED, None, "", 2, waiting=None, before=later, now=at(120))}
    times = {each["type"]: each["lastTransitionTime"] for each in done["conditions"]}
    assert times == {
        "Accepted": "2024-05-01T12:00:00Z",
        "Stalled": "2024-05-01T12:00:00Z",
        "Ready": "2024-05-01T12:02:00Z",
        "Complete": "2024-05-01T12:02:00Z",
        "Failed": "2024-05-01T12:02:00Z",
        "Reconciling": "2024-05-01T12:02:00Z",
    }
    assert {each["observedGeneration"] for each in done["conditions"]} == {2}


@given(
    st.lists(
        st.tuples(st.sampled_from([Phase.PENDING, Phase.RUNNING, Phase.FAILED]), st.integers(0, 90)),
        min_size=1,
    )
)
def test_a_transition_time_is_that_of_the_last_change(history: list[tuple[Phase, int]]) -> None:
    status: dict[str, Any] = {}
    now = START
    since: dict[str, tuple[str, str]] = {}
    for phase, seconds in history:
        now += timedelta(seconds=seconds)
        status = {"conditions": conditions(phase, None, "", 1, waiting=None, before=status, now=now)}
        text = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        types = {each["type"]: each["status"] for each in status["conditions"]}
        since = {
            type: since[type] if type in since and since[type][0] == value else (value, text)
            for type, value in types.items()
        }
        assert {
            each["type"]: (each["status"], each["lastTransitionTime"]) for each in status["conditions"]
        } == since


def test_the_statuses_of_a_run_keep_their_times() -> None:
    live = Live({"name": "a"}, {"name": "b", "dependsOn": ["a"]})
    live.status()
    live.now = at(10)
    live.started(TaskKey("a"))
    assert condition(live.status(), "Reconciling")["lastTransitionTime"] == "2024-05-01T12:00:00Z"
    live.now = at(20)
    live.settle(Observed(reports={TaskKey("a"): (1, FATAL)}))
    status = live.status()
    assert condition(status, "Failed")["lastTransitionTime"] == "2024-05-01T12:00:20Z"
    assert condition(status, "Accepted")["lastTransitionTime"] == "2024-05-01T12:00:00Z"
    assert condition(status, "Failed")["message"] == "step 'a' failed: no hope"


def test_a_task_has_the_same_conditions_as_a_run() -> None:
    live = Live({"name": "a"})
    live.reported(TaskKey("a"), SUCCESS)
    assert condition(live.task_status(TaskKey("a")), "Complete")["status"] == "True"


@pytest.mark.parametrize("final", [True, False])
def test_a_refused_run(final: bool) -> None:
    status = refused_status(2, Reason.INVALID_CONFIG, "spec.steps[0]: no", {}, START, final=final)
    assert status["phase"] == ("Failed" if final else "Pending")
    assert status["message"] == "spec.steps[0]: no"
    accepted = condition(status, "Accepted")
    if final:
        assert (accepted["status"], accepted["reason"]) == ("False", "InvalidConfig")
        assert condition(status, "Failed")["status"] == "True"
        assert condition(status, "Stalled")["message"] == "spec.steps[0]: no"
    else:
        assert accepted["status"] != "True"
        assert condition(status, "Reconciling")["reason"] == "InvalidConfig"
        assert condition(status, "Reconciling")["message"] == "spec.steps[0]: no"
