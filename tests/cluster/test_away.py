"""The control plane away while agents end: nothing is lost, and nothing counts as a disruption."""

from __future__ import annotations

import os
import time

from hack.target import NAMESPACE, RELEASE

from tests.cluster.installation import DEADLINE, Installation
from tests.cluster.manifests import leave, python, step, workflow
from tests.cluster.runs import Run, of_type
from tests.cluster.waiting import until

#: Seconds for which operator and gateway are away.
AWAY = float(os.environ.get("PERDURE_AWAY_SECONDS", "45"))
_PARTS = (f"deployment/{RELEASE}-operator", f"deployment/{RELEASE}-gateway")
_ENDS = "import time; time.sleep({}); " + leave("7")
_REPORTS = """
import asyncio, perdure_agent

async def main():
    async with perdure_agent.connect() as agent:
        await agent.checkpoint({"at": 1})
        await asyncio.sleep(10)
        await agent.result(8)

perdure_agent.run(main)
"""


def _scale(perdure: Installation, count: int, *parts: str) -> None:
    for part in parts:
        perdure.ok("scale", part, "-n", NAMESPACE, f"--replicas={count}")


def test_agents_that_end_while_the_control_plane_is_away(perdure: Installation, namespace: str) -> None:
    run = Run.apply(
        perdure,
        namespace,
        workflow(
            "away",
            step("plain", python(_ENDS.format(10))),
            step("fails", python("import time; time.sleep(10); raise SystemExit(3)"), continueOnFailure=True),
            step("reports", python(_REPORTS)),
            outputs={"plain": "${steps.plain.output}", "reports": "${steps.reports.output}"},
        ),
    )

    def all_run() -> bool:
        steps = {item["name"]: item["phase"] for item in run.status.get("steps", ())}
        return set(steps.values()) == {"Running"}

    until(all_run, seconds=DEADLINE, what="all agents to run")
    run.until_checkpoint(1, step="reports")
    _scale(perdure, 0, *_PARTS)
    try:
        time.sleep(AWAY)
    finally:
        _scale(perdure, 1, *reversed(_PARTS))
    status = run.until("Complete", seconds=2 * DEADLINE)
    assert status["outputs"] == {"plain": 7, "reports": 8}
    assert status["attempts"] == 3
    assert not of_type(run.events(), "task.disrupted")
