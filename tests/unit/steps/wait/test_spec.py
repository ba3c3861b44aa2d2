"""The manifest of `wait` steps: duration or time, and the fields that a wait does not take."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.manifests import parse_workflow
from tests.unit.api.validation.cases import (
    AGENT,
    WAIT,
    one_step_of,
    problems_of,
)

NO_WAIT = "does not go together with wait"

#: Name of the case, manifest, path of the problem, part of its message.
MISTAKES: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "wait for nothing",
        one_step_of({**WAIT, "wait": {}}),
        "spec.steps[0].wait",
        "exactly one of duration and",
    ),
    (
        "wait for both",
        one_step_of({**WAIT, "wait": {"duration": "1s", "until": "2026-11-21T08:00:00Z"}}),
        "spec.steps[0].wait",
        "exactly one of duration and until",
    ),
    (
        "duration of a wait",
        one_step_of({**WAIT, "wait": {"duration": "1 day"}}),
        "spec.steps[0].wait.duration",
        "write it like 10s",
    ),
    (
        "time without a zone",
        one_step_of({**WAIT, "wait": {"until": "2026-11-21T08:00:00"}}),
        "spec.steps[0].wait.until",
        "write it like 2026-11-21T08:00:00Z",
    ),
    (
        "no such day",
        one_step_of({**WAIT, "wait": {"until": "2026-02-30T08:00:00Z"}}),
        "spec.steps[0].wait.until",
        "is not a time with a zone",
    ),
    *(
        (f"wait with {field}", one_step_of({**WAIT, field: value}), f"spec.steps[0].{field}", NO_WAIT)
        for field, value in {
            "agent": AGENT,
            "input": {},
            "retry": {},
            "disruptions": {},
            "timeout": "1s",
            "pendingTimeout": "1s",
            "idleTimeout": "1s",
            "cache": {"key": "k"},
            "repeat": {"until": "${true}", "maxIterations": 1},
            "workflow": {"templateRef": "t"},
        }.items()
    ),
]


@pytest.mark.parametrize(
    ("manifest", "path", "message"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES]
)
def test_a_mistake_in_a_wait_is_one_problem_with_its_path(
    manifest: dict[str, Any], path: str, message: str
) -> None:
    (problem,) = problems_of(manifest)
    assert problem.path == path
    assert message in problem.message


GOOD: list[tuple[str, dict[str, Any]]] = [
    ("wait", one_step_of(WAIT)),
    ("no wait", one_step_of({**WAIT, "wait": {"duration": "0s"}, "forEach": [1], "continueOnFailure": True})),
    ("wait by expression", one_step_of({**WAIT, "wait": {"until": "${inputs.at}"}, "when": "${true}"})),
    ("wait until", one_step_of({**WAIT, "wait": {"until": "2026-11-21T08:00:00.5+01:00"}})),
]


@pytest.mark.parametrize("manifest", [row[1] for row in GOOD], ids=[row[0] for row in GOOD])
def test_a_wait_is_parsed_as_it_is_written(manifest: dict[str, Any]) -> None:
    assert parse_workflow(manifest).manifest() == manifest["spec"]
