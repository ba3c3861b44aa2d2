"""The snapshot of an `agent` step."""

from tests.unit.domain.admission.cases import one
from tests.unit.domain.builders import IMAGE


def test_an_agent_step_with_everything() -> None:
    made = one(
        {
            "when": "${inputs.x}",
            "forEach": [1],
            "input": {"x": None},
            "retry": {
                "limit": 3,
                "backoff": {"initial": "10s", "factor": 1.5, "max": "5m", "jitter": 0},
                "on": "${attempt.exitCode != 2}",
            },
            "disruptions": {"limit": 20},
            "timeout": "30m",
            "pendingTimeout": "5m",
            "idleTimeout": "1m",
            "continueOnFailure": True,
            "parallelism": 2,
            "maxFailures": "20%",
            "cache": {"key": "${item}"},
        }
    )
    assert made == {
        "name": "a",
        "dependsOn": [],
        "sees": [],
        "continueOnFailure": True,
        "when": "${inputs.x}",
        "forEach": [1],
        "parallelism": 2,
        "maxFailures": "20%",
        "agent": IMAGE,
        "input": {"x": None},
        "retry": {
            "limit": 3,
            "backoff": {"initial": "10s", "factor": 1.5, "max": "5m", "jitter": 0},
            "on": "${attempt.exitCode != 2}",
        },
        "disruptions": {"limit": 20},
        "timeout": "30m",
        "pendingTimeout": "5m",
        "idleTimeout": "1m",
        "cache": {"key": "${item}", "ttl": "168h"},
    }
