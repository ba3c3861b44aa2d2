"""Pods that end when their run has ended, and the operator that knew of them has stopped.

The final status of a run does not wait for its pods. The next operator has to find out from the pod and the
ledger whether the pod stays.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from perdure.domain.phases import Phase
from perdure.domain.records import Report, RunState
from perdure.ledger.types import AgentSession
from tests.fakes.clock import run
from tests.fakes.world import World, eventually

POLICIES = ("Always", "OnFailure", "Never")


def spec(pods: str, executor: str) -> dict[str, Any]:
    return {
        "retention": {"pods": pods},
        "steps": [{"name": "a", "agent": {"image": "agent", "executor": executor}}],
    }


def written(at: World) -> bool:
    return str(at.status("audit").get("phase")) in ("Succeeded", "Failed")


def running(at: World) -> int:
    return len(at.pods())


def reports_failure(at: World) -> None:
    """Have every agent report that it failed for good. Its container ends with 0 all the same."""
    report = at.ledger.report

    def failed(session: AgentSession, pod_uid: str, given: Report) -> None:
        report(session, pod_uid, replace(given, outcome="Failed", output=None, retryable=False))

    at.ledger.report = failed  # type: ignore[method-assign]


def counted_loads(at: World) -> list[str]:
    """The uids of runs that are loaded from now on."""
    load, loads = at.ledger.load, []

    def counted(uid: str) -> RunState | None:
        loads.append(uid)
        return load(uid)

    at.ledger.load = counted  # type: ignore[method-assign]
    return loads


@pytest.mark.parametrize("executor", ["Pod", "Job"])
@pytest.mark.parametrize("dies", ["before the pod ends", "before the event", "never"])
@pytest.mark.parametrize(("outcome", "policy"), [(o, p) for o in ("Succeeded", "Failed") for p in POLICIES])
def test_a_pod_that_ends_after_its_run_follows_the_policy(
    outcome: str, policy: str, dies: str, executor: str
) -> None:
    async def scenario() -> None:
        at = World(1)
        at.behaviour.reports = True
        # Long enough for the final status, and no longer than a pod may take to leave.
        at.behaviour.exit_delay = 5.0
        if outcome == "Failed":
            reports_failure(at)
        loads = counted_loads(at)
        at.start_operator()
        uid = at.apply("audit", spec(policy, executor))
        (ended,) = await at.until_ended([uid])
        assert ended.phase is Phase(outcome)
        await eventually(lambda: written(at), seconds=3.0)
        assert running(at) == 1, "the pod is still under way"
        if dies == "before the pod ends":
            await at.kill_operator()
            await eventually(lambda: running(at) == 0)
            at.start_operator()
        elif dies == "before the event":
            assert at.operator is not None
            at.api.watches.remove(at.operator.watch)
            await eventually(lambda: running(at) == 0)
            await at.kill_operator()
            at.start_operator()
        await asyncio.sleep(120)
        left = len(at.api.all("Pod"))
        assert left == (policy == "Always" or (policy, outcome) == ("OnFailure", "Failed"))
        assert len(at.api.all("Job")) == (left if executor == "Job" else 0)
        # No pass loads the run again for a pod that stays.
        asked = len(loads)
        await asyncio.sleep(300)
        assert len(loads) == asked
        await at.close()

    run(scenario())
