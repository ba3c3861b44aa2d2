"""The model of snapshots: what admission writes, and what earlier and later versions wrote."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from tests.support.manifests import accept

from perdure.domain.snapshot import RunSnapshot

OLD: dict[str, Any] = {
    "inputs": {},
    "parallelism": None,
    "retention": {"ttlAfterFinished": "1h"},
    "steps": [{"name": "a", "dependsOn": [], "agent": {"image": "i"}}],
    "outputs": {},
}


def test_the_snapshot_of_an_agent_task_is_what_the_model_says() -> None:
    made = accept("AgentTask", {"agent": {"image": "i"}, "timeout": "1m", "retry": {"limit": 2}})
    read = RunSnapshot.model_validate(made)
    assert read.model_dump(by_alias=True, exclude_unset=True) == made
    assert (read.model_extra, [*read.steps[0].blocks]) == ({}, ["agent"])


def test_a_snapshot_of_an_earlier_version_gets_defaults() -> None:
    read = RunSnapshot.model_validate(OLD)
    (step,) = read.steps
    assert (read.priority, read.failure_policy, read.finally_) == (0, "FinishRunning", [])
    assert (read.retention.checkpoints_per_task, read.retention.pods) == (10, "Always")
    assert (step.sees, step.continue_on_failure, step.is_for_each, step.input) == (None, False, False, {})


def test_fields_of_a_later_version_are_kept() -> None:
    later = {**OLD, "budget": {"tokens": 1}, "steps": [{**OLD["steps"][0], "spawn": True}]}
    read = RunSnapshot.model_validate(later)
    assert read.model_extra == {"budget": {"tokens": 1}}
    assert read.steps[0].blocks["spawn"] is True


def test_a_null_for_each_is_one() -> None:
    read = RunSnapshot.model_validate({**OLD, "steps": [{**OLD["steps"][0], "forEach": None}]})
    assert read.steps[0].is_for_each


def test_a_snapshot_without_steps_is_refused() -> None:
    with pytest.raises(ValidationError, match="steps"):
        RunSnapshot.model_validate({**OLD, "steps": None})
