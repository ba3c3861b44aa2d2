"""Which run an object belongs to."""

from typing import Any

import pytest
from tests.unit.control.objects import obj, owner

from perdure.control.cluster_cache.run_key import RunKey, run_key

PARTS = {"perdure.dev/workflow": "audit", "perdure.dev/task": "audit-a-x7k2q"}


@pytest.mark.parametrize(
    ("kind", "made", "key"),
    [
        ("Workflow", obj("audit", 1), RunKey("Workflow", "team", "audit")),
        ("AgentTask", obj("alone", 1), RunKey("AgentTask", "team", "alone")),
        ("AgentTask", obj("a", 1, owner=owner("Workflow", "audit")), RunKey("Workflow", "team", "audit")),
        # Only a controlling Workflow of ours makes a task part of a run; labels are anybody's to set.
        ("AgentTask", obj("a", 1, labels=PARTS), RunKey("AgentTask", "team", "a")),
        (
            "AgentTask",
            obj("a", 1, owner=owner("Workflow", "audit", controller=False)),
            RunKey("AgentTask", "team", "a"),
        ),
        (
            "AgentTask",
            obj("a", 1, owner=owner("Workflow", "audit", group="argoproj.io/v1alpha1")),
            RunKey("AgentTask", "team", "a"),
        ),
        (
            "AgentTask",
            obj("a", 1, owner=owner("Deployment", "d", group="apps/v1")),
            RunKey("AgentTask", "team", "a"),
        ),
        ("Pod", obj("p", 1, labels=PARTS), RunKey("Workflow", "team", "audit")),
        ("Pod", obj("p", 1, labels={"perdure.dev/task": "alone"}), RunKey("AgentTask", "team", "alone")),
        ("Pod", obj("p", 1, labels={"app": "web"}), None),
        ("Pod", obj("p", 1), None),
    ],
)
def test_the_run_of_an_object(kind: str, made: dict[str, Any], key: RunKey | None) -> None:
    assert run_key(kind, made) == key
