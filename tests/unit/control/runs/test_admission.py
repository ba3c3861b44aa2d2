"""From an object in the store to a run: accepted, waiting for templates, or refused."""

from typing import Any

import pytest
from tests.unit.control.objects import obj
from tests.unit.domain.clock import START, at

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.cluster_cache.run_objects import Root
from perdure.control.cluster_cache.store import AGENT_TEMPLATE, WORKFLOW_TEMPLATE, Store
from perdure.control.runs import admission
from perdure.control.runs.admission import Waits, refusal
from perdure.domain.admission.accept import Refused
from perdure.domain.engine.view import RunView
from perdure.domain.names import shard_of
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import AGENT_TASK, WORKFLOW, TaskKey
from perdure.steps import KINDS

IMAGE = {"image": "agents/audit:1"}


def accept(root: Root, store: Store) -> RunView | Waits:
    return admission.accept(root, store, KINDS)


def root_of(kind: str, spec: dict[str, Any], store: Store | None = None) -> tuple[Root, Store]:
    store = store or Store()
    store.apply(kind, obj("audit", 5, uid="uid-1", spec=spec))
    return store.roots[RunKey(kind, "team", "audit")], store


def refused(kind: str, spec: dict[str, Any], store: Store | None = None) -> str:
    with pytest.raises(Refused) as raised:
        accept(*root_of(kind, spec, store))
    return str(raised.value)


def test_an_accepted_workflow_is_a_run_without_history() -> None:
    view = accept(*root_of(WORKFLOW, {"steps": [{"name": "a", "agent": IMAGE}]}))
    assert isinstance(view, RunView)
    run = view.run
    assert (run.uid, run.kind, run.namespace, run.name) == ("uid-1", "Workflow", "team", "audit")
    assert (run.phase, run.version, run.generation, run.created_at) == (Phase.PENDING, 0, 1, START)
    assert run.shard == shard_of("uid-1")
    assert run.spec["steps"][0]["agent"] == IMAGE
    assert (view.tasks, view.steps) == ({}, {})


def test_an_accepted_task_is_a_run_of_its_own_kind() -> None:
    view = accept(*root_of(AGENT_TASK, {"agent": IMAGE}))
    assert isinstance(view, RunView)
    assert view.run.kind == "AgentTask"
    assert list(view.plan.steps) == [TaskKey("").step]


@pytest.mark.parametrize(
    ("kind", "spec", "problem"),
    [
        # What the schema would have said, had it been asked.
        (WORKFLOW, {}, "spec.steps: is required"),
        (WORKFLOW, {"steps": [{"name": "A", "agent": IMAGE}]}, "spec.steps[0].name: 'A' is no DNS label"),
        (
            WORKFLOW,
            {"steps": [{"name": "a", "agent": IMAGE, "wen": "x"}]},
            "spec.steps[0].wen: unknown field",
        ),
        (
            WORKFLOW,
            {"steps": [{"name": f"s{number}", "agent": IMAGE} for number in range(501)]},
            "spec.steps: has 501 entries; at most 500 are allowed",
        ),
        (
            WORKFLOW,
            {"steps": [{"name": "a", "agent": IMAGE}], "inputs": {"x": "y" * 66_000}},
            "spec.inputs: has 66008 bytes as compact JSON; at most 65536",
        ),
        # What only acceptance can say.
        (
            WORKFLOW,
            {"steps": [{"name": "a", "agent": IMAGE, "dependsOn": ["b"]}]},
            "spec.steps[0].dependsOn[0]: there is no step 'b'",
        ),
        (AGENT_TASK, {"agent": IMAGE, "input": "${item}"}, "spec.input: ${item}: unknown name 'item'"),
    ],
)
def test_refusals_name_the_field(kind: str, spec: dict[str, Any], problem: str) -> None:
    assert refused(kind, spec).startswith(problem)


def test_a_run_waits_for_its_templates_and_then_copies_them() -> None:
    spec = {
        "defaults": {"agent": {"templateRef": "base"}},
        "steps": [{"name": "a"}, {"name": "b", "agent": IMAGE}],
    }
    root, store = root_of(WORKFLOW, spec)
    waits = accept(root, store)
    assert isinstance(waits, Waits)
    assert waits.templates == {("team", "base")}
    assert "spec.defaults.agent.templateRef: there is no AgentTemplate 'base'" in waits.message
    store.apply(AGENT_TEMPLATE, obj("base", 6, spec={"image": "base:1"}))
    view = accept(root, store)
    assert isinstance(view, RunView)
    assert view.plan.steps["a"].block == {"image": "base:1"}


def test_a_template_of_another_namespace_does_not_count() -> None:
    root, store = root_of(AGENT_TASK, {"agent": {"templateRef": "base"}})
    template = obj("base", 6, spec={"image": "base:1"})
    template["metadata"]["namespace"] = "other"
    store.apply(AGENT_TEMPLATE, template)
    assert isinstance(accept(root, store), Waits)


def test_a_fault_in_a_template_is_said_to_be_there() -> None:
    store = Store()
    store.apply(AGENT_TEMPLATE, obj("base", 1, spec={"image": "base:1", "comand": ["x"]}))
    problem = refused(WORKFLOW, {"steps": [{"name": "a", "agent": {"templateRef": "base"}}]}, store)
    assert problem == "AgentTemplate base: spec.comand: unknown field; did you mean command?"


def test_faults_count_before_missing_templates() -> None:
    spec = {"steps": [{"name": "a", "agent": {"templateRef": "late"}, "input": "${steps.b.output}"}]}
    assert "there is no step 'b'" in refused(WORKFLOW, spec)


def test_the_history_of_a_refused_workflow() -> None:
    root, _ = root_of(WORKFLOW, {})
    commit = refusal(root, Reason.INVALID_CONFIG, "spec.steps: " + "x" * 5000, at(3))
    assert (commit.run.phase, commit.run.reason, commit.run.version) == (
        Phase.FAILED,
        Reason.INVALID_CONFIG,
        0,
    )
    assert commit.run.finished_at == at(3)
    assert commit.run.expires_at is not None and commit.run.expires_at > at(3)
    assert len(commit.run.message) == 1024
    assert [event.type for event in commit.events] == ["workflow.created", "workflow.failed"]
    assert commit.events[1].data["message"] == commit.run.message
    assert (commit.steps, commit.tasks, commit.attempts, commit.run.spec) == ((), (), (), {})


def test_the_history_of_a_refused_task() -> None:
    root, _ = root_of(AGENT_TASK, {})
    (event,) = refusal(root, Reason.TEMPLATE_NOT_FOUND, "no template", at(3)).events
    assert (event.type, event.task) == ("task.failed", "audit")


# --- WorkflowTemplates, children


TEMPLATE = {
    "parameters": {"required": ["n"], "properties": {"n": {"type": "integer"}, "m": {"default": 2}}},
    "steps": [{"name": "a", "agent": {"templateRef": "base"}, "input": "${inputs}"}],
}


def test_a_run_waits_for_its_template_and_then_for_those_that_it_names() -> None:
    root, store = root_of(WORKFLOW, {"templateRef": "audit", "inputs": {"n": 1}})
    waits = accept(root, store)
    assert isinstance(waits, Waits)
    assert waits.message.startswith("spec.templateRef: there is no WorkflowTemplate 'audit'")
    store.apply(WORKFLOW_TEMPLATE, obj("audit", 6, uid="uid-t", spec=TEMPLATE))
    waits = accept(root, store)
    assert isinstance(waits, Waits)
    assert waits.templates == {("team", "base")}
    assert (
        "WorkflowTemplate audit: spec.steps[0].agent.templateRef: there is no AgentTemplate" in waits.message
    )
    store.apply(AGENT_TEMPLATE, obj("base", 7, uid="uid-b", spec={"image": "base:1"}))
    view = accept(root, store)
    assert isinstance(view, RunView)
    assert view.run.spec["inputs"] == {"n": 1, "m": 2}
    assert view.plan.steps["a"].block == {"image": "base:1"}


@pytest.mark.parametrize(
    ("inputs", "template", "problems"),
    [
        ({"n": "x"}, TEMPLATE, ['spec.inputs.n: must be a whole number; it is text "x"']),
        (
            {"n": 1},
            {"stepz": TEMPLATE["steps"]},
            ["WorkflowTemplate audit: spec.stepz: unknown field; did you mean steps?"],
        ),
        (
            {"n": 1},
            {**TEMPLATE, "parameters": {"type": "array"}},
            ["WorkflowTemplate audit: spec.parameters.type: must be"],
        ),
    ],
)
def test_faults_of_inputs_and_templates(
    inputs: dict[str, Any], template: dict[str, Any], problems: list[str]
) -> None:
    store = Store()
    store.apply(WORKFLOW_TEMPLATE, obj("audit", 1, uid="uid-t", spec=template))
    store.apply(AGENT_TEMPLATE, obj("base", 2, uid="uid-b", spec={"image": "base:1"}))
    with pytest.raises(Refused) as raised:
        accept(*root_of(WORKFLOW, {"templateRef": "audit", "inputs": inputs}, store))
    found = [str(problem) for problem in raised.value.problems]
    assert [text[: len(start)] for text, start in zip(found, problems, strict=True)] == problems


def test_everything_is_said_at_once() -> None:
    store = Store()
    store.apply(AGENT_TEMPLATE, obj("base", 1, spec={"image": "base:1", "comand": ["x"]}))
    spec = {
        "parallelism": 0,
        "steps": [
            {"name": "a", "agent": {"templateRef": "base"}, "wen": "${true}", "dependsOn": ["gone"]},
            {"name": "b", "agent": {"templateRef": "late"}, "input": "${unknown}"},
        ],
    }
    with pytest.raises(Refused) as raised:
        accept(*root_of(WORKFLOW, spec, store))
    assert [problem.path for problem in raised.value.problems] == [
        "spec.parallelism",
        "spec.steps[0].wen",
        "spec.steps[0].dependsOn[0]",
        "spec.steps[1].input",
        "AgentTemplate base: spec.comand",
    ]


@pytest.mark.parametrize(("depth", "accepted"), [("8", True), ("9", False)])
def test_workflows_above_each_other_come_to_an_end(depth: str, accepted: bool) -> None:
    store = Store()
    child = obj("audit", 5, uid="uid-1", spec={"steps": [{"name": "a", "agent": IMAGE}]})
    child["metadata"]["annotations"] = {"perdure.dev/depth": depth}
    store.apply(WORKFLOW, child)
    root = store.roots[RunKey(WORKFLOW, "team", "audit")]
    if accepted:
        assert isinstance(accept(root, store), RunView)
        return
    with pytest.raises(Refused, match=r"child of 9 Workflows above each other; at most 8 are allowed"):
        accept(root, store)
