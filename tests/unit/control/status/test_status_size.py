"""A status stays under 32 KiB whatever the run (guarantee 7, semantics 3)."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.control.lives import Live
from tests.unit.domain.clock import START

from perdure.api.status import WorkflowStatus
from perdure.control.status.compute import refused_status
from perdure.domain.engine.observed import Observed
from perdure.domain.expressions.templating import compact
from perdure.domain.payloads import payload_of
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import Report, StepRecord, TaskKey

LIMIT = 32 * 1024
#: One byte, three, four; and six as an escape.
CHARACTERS = ["x", "€", "😀", "\x01"]


def steps(number: int) -> list[dict[str, Any]]:
    return [{"name": f"step-{position:03d}-{'x' * 50}"} for position in range(number)]


@pytest.mark.parametrize("character", CHARACTERS)
@pytest.mark.parametrize("number", [1, 100, 101, 500])
def test_the_longest_messages_in_the_most_steps(number: int, character: str) -> None:
    live = Live(*steps(number), name="w" * 63)
    for record in list(live.view.steps.values()):
        live.view.steps[record.name] = replace(
            record, phase=Phase.FAILED, reason=Reason.EXPRESSION_ERROR, message=character * 1024
        )
    live.view.run = replace(
        live.view.run, phase=Phase.FAILED, reason=Reason.EXPRESSION_ERROR, message=character * 4096
    )
    status = live.status()
    assert len(compact(status)) <= LIMIT
    assert len(status["message"]) <= 1024
    assert all(len(step.get("message", "")) <= 120 for step in status["steps"])
    assert len(status["steps"]) <= 100
    if character != "\x01":  # no real message has a thousand of them
        assert len(status["steps"]) >= min(number, 20)
    WorkflowStatus.model_validate(status)


@pytest.mark.parametrize("character", CHARACTERS)
def test_large_outputs_leave_room_for_the_steps(character: str) -> None:
    size = 8 * 1024 - len(compact({"o": {"v": ""}}))
    text = character * (size // len(compact(character)[1:-1]))
    live = Live(*steps(100), outputs={"o": '${steps["' + steps(1)[0]["name"] + '"].output}'})
    keys = [TaskKey(step["name"]) for step in steps(100)]
    for key in keys:
        live.view.steps[key.step] = replace(live.view.steps[key.step], phase=Phase.SUCCEEDED)
    live.view.run = replace(live.view.run, phase=Phase.SUCCEEDED, outputs=payload_of({"o": {"v": text}}))
    status = live.status()
    assert status["outputs"] == {"o": {"v": text}}
    assert len(compact(status)) <= LIMIT
    assert len(status["steps"]) == 100


@pytest.mark.parametrize("character", CHARACTERS)
@pytest.mark.parametrize("final", [True, False])
def test_a_refused_status_keeps_to_its_limit(character: str, final: bool) -> None:
    status = refused_status(1, Reason.INVALID_CONFIG, character * 50_000, {}, START, final=final)
    assert len(compact(status)) <= LIMIT


def test_up_to_a_hundred_steps_are_in_the_manifests_order() -> None:
    live = Live(*reversed(steps(100)))
    assert [step["name"] for step in live.status()["steps"]] == [
        step["name"] for step in reversed(steps(100))
    ]


PHASES = st.sampled_from([Phase.FAILED, Phase.RUNNING, Phase.SUCCEEDED, Phase.SKIPPED, None])


@given(st.lists(PHASES, min_size=101, max_size=140))
def test_beyond_a_hundred_failed_and_active_steps_come_first(phases: list[Phase | None]) -> None:
    manifest = steps(len(phases))
    live = Live({"name": "gate"}, *({**step, "dependsOn": ["gate"]} for step in manifest))
    assert set(live.view.steps) == {"gate"}
    for step, phase in zip(manifest, phases, strict=True):
        if phase is not None:
            live.view.steps[step["name"]] = StepRecord(name=step["name"], phase=phase, for_each=True, total=0)
    shown = live.status()["steps"]
    assert len(shown) == 100
    order = ["Failed", "Running", "Succeeded", "Skipped", "Pending"]
    rank = {"Failed": 0, "Running": 1, "Succeeded": 2, "Skipped": 2, "Pending": 3}
    ranks = [rank[step["phase"]] for step in shown]
    assert ranks == sorted(ranks), order
    everything = [rank[phase.value if phase else "Pending"] for phase in phases] + [1]
    assert ranks == sorted(everything)[:100]
    # Among equals, the manifest's order.
    for wanted in set(ranks):
        names = [step["name"] for step in shown if rank[step["phase"]] == wanted and step["name"] != "gate"]
        assert names == sorted(names)


def test_a_run_of_many_tasks_has_a_status_of_a_few() -> None:
    live = Live({"name": "a", "forEach": list(range(2000))})
    reports = {
        key: (1, Report(outcome="Succeeded", output=payload_of("x" * 1000), at=START))
        for key in live.open[:1500]
    }
    live.settle(Observed(reports=reports))
    status = live.status()
    assert status["steps"][0]["tasks"] == {"total": 2000, "pending": 500, "succeeded": 1500}
    assert len(compact(status)) < 2048
