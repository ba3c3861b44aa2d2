"""The manifest of `agent` steps: container, environment, resources and pod template."""

from __future__ import annotations

from typing import Any

import pytest
from tests.support.manifests import parse_workflow
from tests.unit.api.validation.cases import (
    one_step,
    problems_of,
    with_agent,
    with_spec,
    workflow,
)

#: Name of the case, manifest, path of the problem, part of its message.
MISTAKES: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "deep",
        with_agent(env=[{"name": "A", "vlaue": "1"}]),
        "spec.steps[0].agent.env[0].vlaue",
        "did you mean value?",
    ),
    (
        "bare number in env",
        with_agent(env=[{"name": "A", "value": 1}]),
        "spec.steps[0].agent.env[0].value",
        "must be text",
    ),
    (
        "optional",
        with_agent(
            env=[{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": "no"}}}]
        ),
        "spec.steps[0].agent.env[0].valueFrom.secretKeyRef.optional",
        "must be true or false",
    ),
    (
        "template",
        one_step(agent={"templateRef": "A"}),
        "spec.steps[0].agent.templateRef",
        "is no object name",
    ),
    (
        "bare fraction of a CPU",
        with_agent(resources={"limits": {"cpu": 0.5}}),
        "spec.steps[0].agent.resources.limits.cpu",
        'in quotes, such as "0.5"',
    ),
    (
        "quantity under a long name",
        with_agent(resources={"limits": {"nvidia.com/gpu": "one"}}),
        'spec.steps[0].agent.resources.limits["nvidia.com/gpu"]',
        "quantity in quotes",
    ),
    (
        "no container",
        workflow({"steps": [{"name": "a"}]}),
        "spec.steps[0].agent",
        "give image or templateRef",
    ),
    (
        "arguments only",
        workflow(
            {"defaults": {"agent": {"args": ["x"]}}, "steps": [{"name": "a", "agent": {"args": ["y"]}}]}
        ),
        "spec.steps[0].agent",
        "or in spec.defaults.agent",
    ),
    (
        "env twice",
        with_agent(env=[{"name": "A"}, {"name": "A"}]),
        "spec.steps[0].agent.env[1].name",
        "set twice",
    ),
    (
        "env twice by default",
        with_spec(defaults={"agent": {"env": [{"name": "A"}, {"name": "A"}]}}),
        "spec.defaults.agent.env[1].name",
        "set twice",
    ),
    (
        "value of both kinds",
        with_agent(
            env=[{"name": "A", "value": "", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
        ),
        "spec.steps[0].agent.env[0]",
        "value or valueFrom, not both",
    ),
    (
        "value from nowhere",
        with_agent(env=[{"name": "A", "valueFrom": {}}]),
        "spec.steps[0].agent.env[0].valueFrom",
        "exactly one of secretKeyRef, configMapKeyRef and fieldRef",
    ),
    ("executor", with_agent(executor="Deployment"), "spec.steps[0].agent.executor", "must be Pod or Job"),
    ("result", with_agent(result="Yes"), "spec.steps[0].agent.result", "must be Optional or Required"),
    ("model", with_agent(model="m" * 257), "spec.steps[0].agent.model", "has 257 characters; at most 256"),
    (
        "pod template",
        with_agent(podTemplate={"spec": []}),
        "spec.steps[0].agent.podTemplate.spec",
        "must be a map",
    ),
    (
        "labels",
        with_agent(podTemplate={"metadata": {"labels": {"a": 1}}}),
        "spec.steps[0].agent.podTemplate.metadata.labels.a",
        "must be text",
    ),
]


@pytest.mark.parametrize(
    ("manifest", "path", "message"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES]
)
def test_a_mistake_in_an_agent_is_one_problem_with_its_path(
    manifest: dict[str, Any], path: str, message: str
) -> None:
    (problem,) = problems_of(manifest)
    assert problem.path == path
    assert message in problem.message


GOOD: list[tuple[str, dict[str, Any]]] = [
    ("template", one_step(agent={"templateRef": "team.auditor"})),
    (
        "pod template",
        with_agent(executor="Job", result="Required", model="m" * 256, podTemplate={"spec": {"a": [None]}}),
    ),
]


@pytest.mark.parametrize("manifest", [row[1] for row in GOOD], ids=[row[0] for row in GOOD])
def test_an_agent_is_parsed_as_it_is_written(manifest: dict[str, Any]) -> None:
    assert parse_workflow(manifest).manifest() == manifest["spec"]
