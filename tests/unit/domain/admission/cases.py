"""The snapshot of one step, and the problems of a spec that is refused."""

from typing import Any

from tests.unit.domain.builders import IMAGE, snapshot

from perdure.domain.admission.accept import Refused
from perdure.domain.engine.plan import compile_plan
from perdure.steps import KINDS

#: What a snapshot fills in for a step whose manifest leaves it out.
BACKOFF = {"initial": "1s", "factor": 2, "max": "1m", "jitter": 0.1}
BARE = {"dependsOn": [], "sees": [], "continueOnFailure": False}
EFFORT = {"retry": {"limit": 0, "backoff": BACKOFF}, "disruptions": {"limit": 10}}


def one(step: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """The snapshot of one step."""
    spec = {"defaults": {"agent": IMAGE, **defaults}, "steps": [{"name": "a", **step}]}
    made: dict[str, Any] = snapshot(spec)["steps"][0]
    compile_plan(snapshot(spec), KINDS)
    return made


def refused(spec: dict[str, Any]) -> list[str]:
    try:
        snapshot(spec)
    except Refused as error:
        return [str(problem) for problem in error.problems]
    return []
