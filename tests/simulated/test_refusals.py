"""Creates that the API server refuses by status code: waited for in their own tasks, and healed."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.domain.phases import Phase, Reason
from perdure.domain.records import TaskKey
from perdure.kube.errors import ApiError, ErrorCause, ErrorDetails
from tests.fakes.clock import run
from tests.fakes.world import World, eventually
from tests.simulated.storm.chaos import HEALING

AGENT = {"image": "agent"}
PAIR: dict[str, Any] = {
    "steps": [
        {"name": "first", "wait": {"duration": "20s"}},
        {"name": "work", "agent": AGENT},
        {"name": "child", "workflow": {"spec": {"steps": [{"name": "a", "agent": AGENT}]}}},
        {"name": "job", "agent": {**AGENT, "executor": "Job"}},
    ]
}


def _steps(at: World) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in at.status("pair").get("steps", ())}


@pytest.mark.parametrize(("status", "reason"), [*HEALING, (0, "")])
def test_a_refusal_that_heals_costs_no_attempt(status: int, reason: str) -> None:
    async def scenario() -> None:
        at = World(1)
        at.start_operator()
        at.api.refusal = ApiError(status, reason, "denied by a fault")
        uid = at.apply("pair", PAIR)

        def named() -> bool:
            said = _steps(at)
            waiting = [said[name].get("message", "") for name in ("work", "child", "job") if name in said]
            return len(waiting) == 3 and all("denied by a fault" in message for message in waiting)

        await eventually(named, seconds=5.0)
        await eventually(lambda: _steps(at)["first"]["phase"] == "Succeeded", seconds=40.0)
        assert {_steps(at)[name]["reason"] for name in ("work", "child", "job")} == {"Starting"}
        assert not at.pods_created
        at.api.refusal = None
        (ended,) = await at.until_ended([uid])
        assert ended.phase is Phase.SUCCEEDED
        assert {task.attempt for key, task in at.tasks(uid).items() if key.step != "first"} == {1}
        at.check([uid])
        await at.close()

    run(scenario())


def test_what_validation_refuses_fails_at_once() -> None:
    async def scenario() -> None:
        at = World(2)
        at.start_operator()
        cause = ErrorCause(reason="FieldValueRequired", message="Required value", field="spec.x")
        details = ErrorDetails(name="x", kind="Pod", causes=(cause,))
        at.api.refusal = ApiError(422, "Invalid", "spec.x: Required value", details=details)
        uid = at.apply("pair", {"steps": [PAIR["steps"][1]]})
        (ended,) = await at.until_ended([uid])
        assert (ended.phase, ended.reason) == (Phase.FAILED, Reason.INVALID_CONFIG)
        assert at.tasks(uid)[TaskKey("work")].message.endswith("spec.x: Required value")
        await at.close()

    run(scenario())
