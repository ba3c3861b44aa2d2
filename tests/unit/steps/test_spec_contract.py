"""The manifest side of every step kind, a kind that only this test knows included: schema, lint, admission.

The tests name no kind. They ask each for a block with which nothing is wrong, and for the fields that it
excludes, and check that all who must know of them do.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.echo import WITH_ECHO

from perdure.api.codegen import crds, policy
from perdure.api.codegen.reference import reference
from perdure.api.custom_resources import resources_with
from perdure.api.spec_models import spec_models
from perdure.api.step import Defaults
from perdure.api.step_kind import FREE_FORM, StepSpec, excluded_fields
from perdure.api.validation.parse import check_workflow
from perdure.api.validation.problems import field_names
from perdure.cli.arguments import GraphFormat
from perdure.cli.checks import check_files
from perdure.cli.graph import print_graph
from perdure.domain.admission.accept import admit
from perdure.domain.admission.templates import NO_TEMPLATES
from perdure.domain.snapshot import RunSnapshot

MODELS = spec_models(WITH_ECHO)
RESOURCES = resources_with(MODELS)
POLICY = Path(__file__).parents[3] / "charts/perdure/files/validating-admission-policy.yaml"

#: A value for each common field that a kind may exclude.
VALUES: dict[str, Any] = {
    "input": {"a": 1},
    "retry": {"limit": 1},
    "disruptions": {"limit": 1},
    "timeout": "1m",
    "pendingTimeout": "1m",
    "idleTimeout": "1m",
    "cache": {"key": "k"},
    "repeat": {"until": "${true}", "maxIterations": 2},
    "forEach": [1, 2],
}


@pytest.fixture(params=WITH_ECHO, ids=lambda kind: kind.field)
def kind(request: pytest.FixtureRequest) -> StepSpec:
    found: StepSpec = request.param
    return found


def step(kind: StepSpec, **fields: Any) -> dict[str, Any]:
    return {"name": "a", kind.field: copy.deepcopy(kind.stand_in), **fields}


def manifest(*steps: dict[str, Any], **spec: Any) -> dict[str, Any]:
    head = {"apiVersion": "perdure.dev/v1alpha1", "kind": "Workflow", "metadata": {"name": "run"}}
    return {**head, "spec": {"steps": list(steps), **spec}}


def problems(*steps: dict[str, Any], **spec: Any) -> dict[str, str]:
    """Messages by path, as `perdure lint` reports them."""
    text = yaml.safe_dump(manifest(*steps, **spec), sort_keys=False)
    findings = check_files([("run.yaml", text)], MODELS).findings
    found = {finding.path: finding.message for finding in findings}
    assert len(found) == len(findings), "each field is reported once"
    return found


def accepted(*steps: dict[str, Any], **spec: Any) -> dict[str, Any]:
    made = admit("Workflow", manifest(*steps, **spec), models=MODELS, templates=NO_TEMPLATES)
    return made.accepted()


def step_schema(kind: str = "Workflow") -> dict[str, Any]:
    (resource,) = (resource for resource in RESOURCES if resource.kind == kind)
    (version,) = crds.crd(resource)["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    found: dict[str, Any] = spec["properties"]["steps"]["items"]["properties"]
    return found


def rules(kind: str) -> dict[str, str]:
    """The CEL rules over a graph by their messages, in the schema of a resource."""
    (resource,) = (resource for resource in RESOURCES if resource.kind == kind)
    (version,) = crds.crd(resource)["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return {rule["message"]: rule["rule"] for rule in spec["x-kubernetes-validations"]}


@pytest.mark.parametrize("resource", ["Workflow", "WorkflowTemplate"])
def test_the_schema_has_the_block_with_all_its_fields(kind: StepSpec, resource: str) -> None:
    schema = step_schema(resource)
    assert schema[kind.field]["description"] == kind.description
    assert list(schema[kind.field]["properties"]) == field_names(kind.block)
    assert all(node["description"] for node in schema[kind.field]["properties"].values())


def test_the_reference_has_the_block_with_all_its_fields(kind: StepSpec) -> None:
    page = reference(RESOURCES)
    assert f"| `{kind.field}` | [{kind.block.__name__}](#{kind.block.__name__.lower()}) |" in page
    section = page.partition(f"### {kind.block.__name__}\n")[2].partition("\n#")[0]
    assert all(f"| `{name}` |" in section for name in field_names(kind.block))


def test_a_step_with_the_block_is_accepted_and_has_no_other_block_in_its_snapshot(kind: StepSpec) -> None:
    (made,) = accepted(step(kind))["steps"]
    assert {other.field for other in WITH_ECHO} & made.keys() == {kind.field}
    assert json.loads(json.dumps(made)) == made
    assert problems(step(kind)) == {}
    assert problems(manifest(step(kind))["spec"]["steps"][0], **{"finally": [step(kind, name="z")]}) == {}


def test_fields_that_the_kind_takes_are_in_its_snapshot_and_no_others(kind: StepSpec) -> None:
    taken = {name: value for name, value in VALUES.items() if kind.takes(name) and name != "repeat"}
    assert problems(step(kind, **taken)) == {}
    (made,) = accepted(step(kind, **taken))["steps"]
    assert taken.keys() <= made.keys()
    defaults = {name: VALUES[name] for name in VALUES if name in field_names(Defaults)}
    (made,) = accepted(step(kind), defaults=defaults)["steps"]
    assert {name for name in defaults if name in made} == {name for name in defaults if kind.takes(name)}


def test_the_snapshot_is_what_its_model_says(kind: StepSpec) -> None:
    taken = {name: value for name, value in VALUES.items() if kind.takes(name) and name != "repeat"}
    made = accepted(step(kind, **taken, when="${true}"), timeout="1h", **{"finally": [step(kind, name="z")]})
    read = RunSnapshot.model_validate(made)
    assert read.model_dump(by_alias=True, exclude_unset=True) == made
    assert read.model_extra == {} and read.steps[0].blocks.keys() == {kind.field}


def test_a_field_that_the_kind_excludes_is_reported_with_its_remedy(kind: StepSpec) -> None:
    excluded = dict(excluded_fields(kind, WITH_ECHO))
    assert not any(kind.takes(name) for excluded in kind.excludes for name in excluded.fields)
    for name in excluded.keys() & VALUES.keys():
        assert problems(step(kind, **{name: VALUES[name]})) == {f"spec.steps[0].{name}": excluded[name]}
        assert f"does not go together with {kind.field}" in excluded[name]


@pytest.mark.parametrize("resource", ["Workflow", "WorkflowTemplate"])
def test_the_rules_of_the_schema_name_every_excluded_field(kind: StepSpec, resource: str) -> None:
    found = rules(resource)
    for excluded in kind.excludes:
        seen = [name for name in excluded.fields if name not in FREE_FORM]
        (text,) = (
            [
                rule
                for message, rule in found.items()
                if message.endswith(excluded.remedy_for_all)
                and message.startswith(f"a step with {kind.field} takes no ")
            ]
            if seen
            else ("",)
        )
        for name in seen:
            assert f"has(s.{name})" in text


def test_the_admission_policy_refuses_what_rules_cannot_see(kind: StepSpec) -> None:
    documents = list(yaml.safe_load_all(policy.updated(POLICY.read_text(), WITH_ECHO)))
    spec = documents[0]["spec"]
    variables = {variable["name"]: variable["expression"] for variable in spec["variables"]}
    for excluded in kind.excludes:
        for name in set(excluded.fields) & set(FREE_FORM):
            variable = f"excluded{name[:1].upper()}{name[1:]}"
            assert f"has(s.{name})" in variables[variable] and f"has(s.{kind.field})" in variables[variable]
            (rule,) = (
                it for it in spec["validations"] if it["expression"] == f"size(variables.{variable}) == 0"
            )
            assert kind.field in rule["message"] and rule["message"].endswith(f"takes no {name}")
            assert f"With {kind.field}: {excluded.remedy}" in rule["messageExpression"]


def test_two_blocks_in_a_step_are_reported(kind: StepSpec) -> None:
    (text,) = (rule for message, rule in rules("Workflow").items() if "at most one of" in message)
    assert f"(has(s.{kind.field}) ? 1 : 0)" in text
    for other in WITH_ECHO:
        if other is not kind:
            found = problems({**step(kind), other.field: other.stand_in})
            (path,) = found
            assert path in (f"spec.steps[0].{kind.field}", f"spec.steps[0].{other.field}")
            assert "does not go together with" in found[path]


def test_a_misspelt_block_is_known_by_its_likeness(kind: StepSpec) -> None:
    wrong = f"{kind.field}s"
    found = problems({"name": "a", wrong: kind.stand_in})
    assert found == {f"spec.steps[0].{wrong}": f"unknown field; did you mean {kind.field}?"}


def test_a_field_of_the_block_in_the_step_is_sent_to_the_block(kind: StepSpec) -> None:
    common = set(field_names(MODELS.step))
    for name in field_names(kind.block):
        if name not in common and name not in kind.misplaced:
            message = problems(step(kind, **{name: "x"}))[f"spec.steps[0].{name}"]
            assert message.startswith("unknown field; ") and f"in {kind.field}" in message


def test_an_unknown_field_in_the_block_is_reported(kind: StepSpec) -> None:
    found = problems(step(kind, **{kind.field: {**kind.stand_in, "zzz": 1}}))
    (path,) = found
    assert path == f"spec.steps[0].{kind.field}.zzz" and found[path].startswith("unknown field; known are ")


@pytest.mark.parametrize("value", [5, "x", [], True])
def test_a_faulty_block_hides_no_other_fault_and_causes_none(kind: StepSpec, value: Any) -> None:
    steps = [
        step(kind, **{kind.field: value}, when="${nonsense}", forEach="${inputs.x}"),
        {"name": "b", "agent": {"image": "i", "args": ["${item}", "${steps.a.outputs}"]}},
    ]
    found = problems(*steps)
    assert set(found) == {f"spec.steps[0].{kind.field}", "spec.steps[0].when", "spec.steps[1].agent.args[0]"}
    assert found[f"spec.steps[0].{kind.field}"] == "must be a map"


def test_a_repaired_step_is_valid_for_its_model(kind: StepSpec) -> None:
    checked = check_workflow(manifest(step(kind, **{kind.field: 5})), MODELS)
    assert checked.spec is not None and checked.spec.steps[0].kind is kind


def test_the_drawing_shows_the_kind(kind: StepSpec, capsys: pytest.CaptureFixture[str]) -> None:
    text = yaml.safe_dump(manifest(step(kind), step(kind, name="b", dependsOn=["a"])))
    assert print_graph([("run.yaml", text)], MODELS, name=None, form=GraphFormat.MERMAID)
    before, after = kind.shape
    lines = capsys.readouterr().out.splitlines()
    assert any(f's0{before}"a' in line and line.endswith(f'"{after}') for line in lines)
    assert "  s0 --> s1" in lines
    assert print_graph([("run.yaml", text)], MODELS, name=None, form=GraphFormat.TEXT)
    assert f" {kind.field}" in capsys.readouterr().out


def test_a_registry_has_one_kind_for_steps_without_a_block() -> None:
    assert [kind.implied for kind in WITH_ECHO].count(True) == 1
    with pytest.raises(ValueError, match="expected 1"):
        spec_models(tuple(kind for kind in WITH_ECHO if not kind.implied))


def test_expressions_of_a_block_are_checked_and_order_the_steps() -> None:
    """With echo, whose one field may hold expressions."""
    steps: list[dict[str, Any]] = [
        {"name": "a", "agent": {"image": "i"}},
        {"name": "b", "echo": {"signal": "${item}-${steps.a.output}"}, "forEach": [1, 2]},
    ]
    _, made = accepted(*steps)["steps"]
    assert (made["dependsOn"], made["echo"]) == (["a"], {"signal": "${item}-${steps.a.output}"})
    del steps[1]["forEach"]
    assert problems(*steps) == {
        "spec.steps[1].echo.signal": "${item}: unknown name 'item': only a step with forEach has it"
    }
