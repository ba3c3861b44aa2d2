"""Manifests that are made to be dear: limits at their edges, and work that grows with the manifest only."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import pytest

from perdure.api.spec_models import spec_models
from perdure.api.validation.repair import MAX_FAULTS
from perdure.domain.admission import graph_check
from perdure.domain.admission.accept import AdmissionResult, admit
from perdure.domain.admission.expression_check import MAX_SUGGESTIONS
from perdure.domain.admission.expression_sum import MAX_EXPRESSIONS
from perdure.domain.admission.templates import NO_TEMPLATES, StoredTemplates
from perdure.domain.expressions.templating import compact
from perdure.steps import KINDS

MODELS = spec_models(KINDS)


def checked(steps: list[Any], **fields: Any) -> AdmissionResult:
    """The admission of a Workflow with these steps."""
    manifest = {"metadata": {"name": "run"}, "spec": {"steps": steps, **fields}}
    return admit("Workflow", manifest, models=MODELS, templates=NO_TEMPLATES)


def step(position: int = 0, **fields: Any) -> dict[str, Any]:
    return {"name": f"s{position}", "agent": {"image": "x"}, **fields}


def inline(**fields: Any) -> dict[str, Any]:
    """A step whose inner workflow has these fields, which the API server does not prune."""
    return {"name": "outer", "workflow": {"spec": {"steps": [step()], **fields}}}


@pytest.fixture
def comparisons(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that were compared with known ones."""
    names: list[str] = []
    compare: Callable[..., list[str]] = difflib.get_close_matches

    def counted(name: str, *arguments: Any, **options: Any) -> list[str]:
        names.append(name)
        return compare(name, *arguments, **options)

    monkeypatch.setattr(difflib, "get_close_matches", counted)
    return names


def expressions(characters: int) -> dict[str, str]:
    """An input whose expressions have so many characters together."""
    made, left = {}, characters
    while left:
        size = min(left, 4096)
        made[f"k{len(made)}"] = "${" + '"' + "x" * (size - 2) + '"' + "}"
        left -= size
    return made


def test_expressions_of_an_object_have_a_sum() -> None:
    assert checked([step(input=expressions(MAX_EXPRESSIONS))]).problems == ()
    (problem,) = checked([step(input=expressions(MAX_EXPRESSIONS) | {"last": "${1}"})]).problems
    assert problem.path == "spec.steps[0].input.last"
    assert "65,536 characters together" in problem.message


def test_the_sum_counts_inner_workflows_and_no_escapes() -> None:
    half = MAX_EXPRESSIONS // 2
    inner = {"name": "in", "workflow": {"spec": {"steps": [step(input=expressions(half))]}}}
    assert checked([step(input=expressions(half)), inner]).problems == ()
    (problem,) = checked([step(input=expressions(half + 1)), inner]).problems
    assert problem.path.startswith("spec.steps[1].workflow.spec.steps[0].input.")
    assert checked([step(input=["$${ " * 30_000])]).problems == ()
    (problem,) = checked([step(input="$${ ${" + "x" * 70_000)]).problems
    assert "together" in problem.message
    assert checked([step(input=expressions(half))], inputs=expressions(half + 1)).problems == ()


def test_the_sum_holds_for_templates_and_agent_tasks() -> None:
    long = expressions(MAX_EXPRESSIONS + 1)
    task = {"metadata": {"name": "t"}, "spec": {"agent": {"image": "x"}, "input": long}}
    (problem,) = admit("AgentTask", task, models=MODELS, templates=NO_TEMPLATES).problems
    assert "together" in problem.message
    specs: dict[str, Any] = {
        "AgentTemplate": {"image": "x", "args": list(long.values())},
        "WorkflowTemplate": {"steps": [step(input=long)]},
    }
    templates = StoredTemplates(lambda kind, name: specs[kind], MODELS)
    workflow = {"metadata": {"name": "w"}, "spec": {"templateRef": "t"}}
    result = admit("Workflow", workflow, models=MODELS, templates=templates)
    assert any("WorkflowTemplate t: spec" in it.path and "together" in it.message for it in result.problems)
    used = {"metadata": {"name": "w"}, "spec": {"steps": [step(agent={"templateRef": "a"})]}}
    result = admit("Workflow", used, models=MODELS, templates=templates)
    assert any("AgentTemplate a: spec" in it.path and "together" in it.message for it in result.problems)


@pytest.mark.parametrize("number", [MAX_FAULTS, MAX_FAULTS + 2])
def test_as_many_findings_as_the_limit_are_reported_and_then_their_number(number: int) -> None:
    problems = checked([step(input=[f"${{nosuch{position}}}" for position in range(number)])]).problems
    if number == MAX_FAULTS:
        assert len(problems) == MAX_FAULTS
        assert problems[-1].path == f"spec.steps[0].input[{MAX_FAULTS - 1}]"
        return
    assert len(problems) == MAX_FAULTS + 1
    assert problems[-1].message == "2 more faults are left out"


def test_no_number_is_reported_where_parsing_has_found_too_many_faults() -> None:
    problems = checked([inline(**{f"unknown{position}": 1 for position in range(MAX_FAULTS + 1)})]).problems
    assert len(problems) == MAX_FAULTS + 1
    assert problems[-1].message.startswith(f"has more than {MAX_FAULTS} faults")


def test_steps_that_do_not_exist_share_the_comparisons(comparisons: list[str]) -> None:
    steps = [step(it, dependsOn=[f"missing{it}-{other}" for other in range(100)]) for it in range(500)]
    problems = checked(steps).problems
    assert len(problems) == MAX_FAULTS + 1
    assert problems[-1].message == "49900 more faults are left out"
    assert len(comparisons) == MAX_SUGGESTIONS


def test_a_long_name_is_shortened_in_paths() -> None:
    (problem,) = checked([inline(**{"u" * 1_000_000: 1})]).problems
    assert len(problem.path) < 400


def test_filled_in_steps_have_a_sum() -> None:
    defaults = {"agent": {"image": "x", "args": ["y" * 32_000] * 250}}
    steps = [{"name": f"s{position}", "agent": {}} for position in range(500)]
    (problem,) = checked(steps, defaults=defaults).problems
    assert problem.path == "spec.steps"
    assert "filled in" in problem.message


def test_filled_in_steps_are_accepted_up_to_their_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [step(position, input="y" * 1000) for position in range(3)]
    size = sum(
        len(compact({name: value for name, value in made.items() if name not in ("dependsOn", "sees")}))
        for made in checked(steps).snapshot["steps"]
    )
    monkeypatch.setattr(graph_check, "MAX_FILLED_BYTES", size)
    assert checked(steps).problems == ()
    monkeypatch.setattr(graph_check, "MAX_FILLED_BYTES", size - 1)
    (problem,) = checked(steps).problems
    assert "filled in" in problem.message
