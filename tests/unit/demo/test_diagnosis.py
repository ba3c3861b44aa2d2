"""What is said about pods while they come up."""

from __future__ import annotations

import pytest
from hack import diagnosis


def _pod(phase="Pending", *, initial=(), main=(), ready=False):
    def statuses(states):
        return [
            {"name": str(number), "restartCount": 0, "state": state} for number, state in enumerate(states)
        ]

    return {
        "status": {
            "phase": phase,
            "initContainerStatuses": statuses(initial),
            "containerStatuses": statuses(main),
            "conditions": [{"type": "Ready", "status": str(ready)}],
        }
    }


RUNNING = {"running": {}}
DONE = {"terminated": {"exitCode": 0}}


def _waiting(reason):
    return {"waiting": {"reason": reason}}


@pytest.mark.parametrize(
    ("pod", "word"),
    [
        (_pod("Running", initial=[DONE], main=[RUNNING], ready=True), "Ready"),
        (_pod("Running", initial=[DONE], main=[RUNNING]), "Running"),
        (_pod(initial=[RUNNING], main=[_waiting("PodInitializing")]), "Initializing"),
        (
            _pod(initial=[_waiting("CrashLoopBackOff")], main=[_waiting("PodInitializing")]),
            "CrashLoopBackOff",
        ),
        (_pod(main=[_waiting("ErrImagePull")]), "ErrImagePull"),
        (_pod(main=[_waiting("ContainerCreating")]), "ContainerCreating"),
        (_pod("Succeeded", main=[DONE]), "Succeeded"),
        ({"status": {"phase": "Pending"}}, "Pending"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_pods_state_is_one_word(pod, word):
    assert diagnosis.state(pod) == word
