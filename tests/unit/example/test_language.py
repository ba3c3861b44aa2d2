"""The examples of the language without a cluster: they are valid, complete, and compared rightly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from tests.cluster import language
from tests.cluster.language import Example, Expected, Namespace, differences, due
from tests.support import manifests

from perdure.api.agent import Agent
from perdure.api.agenttask import AgentTaskSpec
from perdure.api.custom_resources import KINDS
from perdure.api.workflowschedule import WorkflowScheduleSpec
from perdure.domain.admission.accept import Refused
from perdure.domain.engine.plan import compile_plan
from perdure.steps import KINDS as STEP_KINDS
from perdure.steps.schema import MODELS

EXAMPLES = {example.name: example for example in language.examples()}
IMAGE = "python:3.13-slim"
Object = dict[str, Any]


@pytest.mark.parametrize("name", EXAMPLES)
class TestEachExample:
    def test_is_valid(self, name: str) -> None:
        for manifest in EXAMPLES[name].manifests:
            check = getattr(manifests, f"parse_{manifest['kind'].lower()}")
            check(manifest)

    def test_is_accepted_unless_it_is_stated_not_to_be(self, name: str) -> None:
        for expected in EXAMPLES[name].expected:
            if expected.conditions.get("Accepted") == "False":
                with pytest.raises(Refused):
                    _accept(EXAMPLES[name], expected)
            else:
                compile_plan(_accept(EXAMPLES[name], expected), STEP_KINDS)

    def test_says_what_it_shows(self, name: str) -> None:
        text = (language.FOLDER / f"{name}.yaml").read_text()
        assert re.match(r"# [A-Z`a-z]", text), "begins with a comment"
        assert all(len(line) <= 120 for line in text.splitlines())

    def test_states_the_outcome_of_every_run(self, name: str) -> None:
        example = EXAMPLES[name]
        stated = [example.manifest(expected)["metadata"]["name"] for expected in example.expected]
        runs = [it["metadata"]["name"] for it in example.manifests if it["kind"] in language.RUNS]
        assert sorted(stated) == sorted(runs)
        assert len(runs) > 1 or runs == [name] or example.expected[0].kind == "WorkflowSchedule"

    def test_states_the_outcome_of_every_step(self, name: str) -> None:
        example = EXAMPLES[name]
        for expected in example.expected:
            spec = _graph(example, expected)
            # One that is refused has no steps.
            if expected.kind != "AgentTask" and expected.conditions.get("Accepted") != "False":
                steps = [*spec["steps"], *spec.get("finally", ())]
                assert sorted(expected.steps) == sorted(step["name"] for step in steps)
                wanted = set(spec.get("outputs", ())) if expected.phase == "Succeeded" else set()
                assert set(expected.outputs or ()) == wanted

    def test_uses_the_image_that_everybody_has(self, name: str) -> None:
        images = [value for key, value in _fields(EXAMPLES[name].manifests) if key == "image"]
        assert {image for image in images if not image.startswith("registry.invalid/")} <= {IMAGE}


def _accept(example: Example, expected: Expected) -> Object:
    """The snapshot of a run, with the templates of its file. Raises Refused."""
    manifest = example.manifest(expected)
    agents = {
        it["metadata"]["name"]: manifests.parse_agenttemplate(it)
        for it in example.manifests
        if it["kind"] == "AgentTemplate"
    }
    kind, spec = expected.kind, manifest["spec"]
    if expected.kind == "WorkflowSchedule":
        kind, spec = "Workflow", spec["workflow"]["spec"]
    workflows = {
        it["metadata"]["name"]: manifests.parse_workflowtemplate(it)
        for it in example.manifests
        if it["kind"] == "WorkflowTemplate"
    }
    return manifests.accept(kind, spec, agents, workflows)


def _graph(example: Example, expected: Expected) -> Object:
    """The fields in which the steps of a run are written."""
    spec: Object = example.manifest(expected)["spec"]
    if expected.kind == "WorkflowSchedule":
        spec = spec["workflow"]["spec"]
    if "templateRef" in spec:
        (spec,) = (
            it["spec"]
            for it in example.manifests
            if it["kind"] == "WorkflowTemplate" and it["metadata"]["name"] == spec["templateRef"]
        )
    return spec


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """Every field in JSON, at any depth."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield key, item
            yield from _fields(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _fields(item)


def test_every_field_of_the_language_has_an_example() -> None:
    models = (MODELS.workflow, MODELS.workflow_template, WorkflowScheduleSpec, AgentTaskSpec, Agent)
    used = {key for example in EXAMPLES.values() for key, _ in _fields(example.manifests)}
    # `retry.on` stands there bare, which is read as true.
    used |= {"on"} if "true" in used else set()
    known = {field.alias or name for model in models for name, field in _all_models(model)}
    assert known - used == set()


def _all_models(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    """Every field of a model, and of the models in its fields but for what is as in any pod."""
    for name, field in model.model_fields.items():
        yield name, field
        if name != "env":
            for part in _models_in(field.annotation):
                yield from _all_models(part)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _models_in(part)


def test_the_examples_show_every_kind() -> None:
    shown = {manifest["kind"] for example in EXAMPLES.values() for manifest in example.manifests}
    assert shown == {kind.kind for kind in KINDS}


def test_the_readme_lists_every_example() -> None:
    listed = re.findall(r"\]\(([a-z-]+)\.yaml\)", (language.FOLDER / "README.md").read_text())
    assert sorted(listed) == sorted(EXAMPLES)


# --- comparing


def _object(kind: str, name: str, status: Object, **labels: str) -> Object:
    named = {f"perdure.dev/{label}": value for label, value in labels.items()}
    return {"kind": kind, "metadata": {"name": name, "labels": named}, "status": status}


def _ended(**changes: Any) -> Namespace:
    """What a run leaves that has one step with two tasks."""
    status = {
        "phase": "Succeeded",
        "message": "all done",
        "outputs": {"n": 1},
        "steps": [{"name": "a", "phase": "Succeeded"}],
        "conditions": [
            {"type": "Complete", "status": "True", "reason": "Succeeded"},
            {"type": "Failed", "status": "False", "reason": "Succeeded"},
        ],
    } | changes
    tasks = [
        _object("AgentTask", f"r-a-{index}", {"phase": phase, "attempt": 2, "output": index},
                workflow="r", step="a", index=str(index))
        for index, phase in ((1, "Failed"), (0, "Succeeded"))
    ]  # fmt: skip
    pod = _object("Pod", "r-a-0-1", {"phase": "Running"}, workflow="r", step="a", index="0")
    return Namespace((_object("Workflow", "r", status), *tasks, pod))


_STATED = {
    "phase": "Succeeded",
    "message": "done",
    "outputs": {"n": 1},
    "steps": {
        "a": {
            "phase": "Succeeded",
            "pods": 1,
            "attempts": 4,
            "tasks": ["Succeeded", "Failed"],
            "outputs": [0, 1],
        }
    },
}


def test_what_came_out_as_stated_has_no_differences() -> None:
    assert differences(Expected.model_validate(_STATED), "r", _ended()) == []


@pytest.mark.parametrize(
    ("stated", "complaint"),
    [
        ({"phase": "Failed"}, "phase: 'Failed' was expected, it is 'Succeeded'"),
        ({"reason": "Timeout"}, "reason: 'Timeout' was expected, it is 'Succeeded'"),
        ({"message": "nothing"}, "message: 'nothing' is not in 'all done'"),
        ({"conditions": {"Accepted": "False"}}, "condition Accepted: 'False' was expected, it is None"),
        ({"outputs": {"n": None}}, "outputs: {'n': None} was expected, it is {'n': 1}"),
        ({"labels": {"a": "b"}}, "labels: {'a': 'b'} are not among {}"),
        ({"steps": {}}, "steps: [] was expected, it is ['a']"),
        ({"kind": "AgentTask"}, "there is no run of AgentTask r"),
        (("pods", 2), "step a: pods: 2 was expected, it is 1"),
        (("jobs", 1), "step a: jobs: 1 was expected, it is 0"),
        (("attempts", 3), "step a: attempt: 3 was expected, it is 4"),
        (("retries", 1), "step a: retries: 1 was expected, it is 0"),
        (("reason", "Cached"), "step a: reason: 'Cached' was expected, it is None"),
        (("tasks", []), "step a: tasks: [] was expected, it is ['Succeeded', 'Failed']"),
        (("outputs", [1, 0]), "step a: outputs of tasks: [1, 0] was expected, it is [0, 1]"),
        (("children", ["Failed"]), "step a: children: ['Failed'] was expected, it is []"),
    ],
)
def test_a_difference_is_named(stated: Object | tuple[str, Any], complaint: str) -> None:
    if isinstance(stated, tuple):
        stated = {"steps": {"a": {**_STATED["steps"]["a"], stated[0]: stated[1]}}}  # type: ignore[index]
    assert complaint in differences(Expected.model_validate({**_STATED, **stated}), "r", _ended())


def test_a_failed_run_must_not_have_outputs() -> None:
    stated = Expected.model_validate({"phase": "Failed", "steps": _STATED["steps"]})
    assert any("outputs: there are some" in text for text in differences(stated, "r", _ended()))


def test_a_schedule_is_judged_by_its_first_run() -> None:
    def made(minute: int, second: int) -> Object:
        run = _object("Workflow", f"s-{minute}", {"phase": "Succeeded", "steps": []})
        owner = {"kind": "WorkflowSchedule", "name": "s", "controller": True}
        time = f"1970-01-01T00:{minute:02}:{second:02}+00:00"
        run["metadata"] |= {"ownerReferences": [owner], "creationTimestamp": time}
        run["status"]["conditions"] = [
            {"type": "Complete", "status": "True"},
            {"type": "Failed", "status": "False"},
        ]
        return run

    stated = Expected.model_validate({"kind": "WorkflowSchedule", "phase": "Succeeded"})
    assert differences(stated, "s", Namespace((made(12, 1), made(11, 2)))) == []
    late = made(11, 2)
    late["metadata"]["creationTimestamp"] = "1970-01-01T00:12:30+00:00"
    (complaint,) = differences(stated, "s", Namespace((late,)))
    assert "90 s after its minute" in complaint


@pytest.mark.parametrize(
    ("moment", "is_due"),
    [
        ({"phase": "Succeeded"}, True),
        ({"phase": "Paused"}, False),
        ({"phase": "Succeeded", "pods": 0}, False),
        ({"phase": "Succeeded", "step": "a"}, True),
        ({"phase": "Succeeded", "step": "b"}, False),
        ({"phase": "Succeeded", "step": "a", "checkpoint": 1}, False),
    ],
)
def test_an_action_is_due_when_all_of_its_moment_holds(moment: Object, is_due: bool) -> None:
    assert due(language.Moment.model_validate(moment), "r", "Workflow", _ended()) is is_due


def test_examples_are_read_as_kubectl_reads_them() -> None:
    """YAML 1.1, which kubectl reads, has booleans that YAML 1.2 does not: no example may depend on which."""
    for example in EXAMPLES.values():
        text = (language.FOLDER / f"{example.name}.yaml").read_text()
        for token in yaml.scan(text):
            if isinstance(token, yaml.ScalarToken) and token.plain:
                assert token.value.lower() not in {"y", "n", "yes", "no", "off"}, example.name
