"""Short forms of manifests for tests of validation, and the problems that validation finds in one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.support.manifests import InvalidManifest, ManifestProblem, parse_workflow

from perdure.api.base import Model

#: The block of an `agent` step, and steps of the other kinds.
AGENT = {"image": "busybox"}
WAIT = {"name": "a", "wait": {"duration": "1s"}}
CHILD = {"name": "a", "workflow": {"templateRef": "t"}}


def workflow(spec: object, **outside: Any) -> dict[str, Any]:
    return {
        "apiVersion": "perdure.dev/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": "audit", "namespace": "team"},
        "spec": spec,
        **outside,
    }


def one_step(**fields: Any) -> dict[str, Any]:
    return workflow({"steps": [{"name": "a", "agent": AGENT, **fields}]})


def with_agent(**fields: Any) -> dict[str, Any]:
    return one_step(agent={**AGENT, **fields})


def with_spec(**fields: Any) -> dict[str, Any]:
    return workflow({"steps": [{"name": "a", "agent": AGENT}], **fields})


def one_step_of(step: dict[str, Any]) -> dict[str, Any]:
    return workflow({"steps": [step]})


def inline(spec: object) -> dict[str, Any]:
    return one_step_of({"name": "a", "workflow": {"spec": spec}})


def nested_workflows(levels: int) -> dict[str, Any]:
    """A workflow with `levels` workflows inside each other."""
    spec: dict[str, Any] = {"steps": [{"name": "a", "agent": AGENT}]}
    for _ in range(levels):
        spec = {"steps": [{"name": "a", "workflow": {"spec": spec}}]}
    return workflow(spec)


def problems_of(
    manifest: dict[str, Any], parse: Callable[[Any], Model] = parse_workflow
) -> list[ManifestProblem]:
    with pytest.raises(InvalidManifest) as caught:
        parse(manifest)
    return list(caught.value.problems)
