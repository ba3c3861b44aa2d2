"""The snapshot: everything that a run is to know, with what the manifest leaves out filled in."""

from typing import Any

import pytest
from tests.support.manifests import accept, parse_workflowtemplate
from tests.unit.domain.admission.cases import BACKOFF, BARE, EFFORT, one
from tests.unit.domain.builders import IMAGE, snapshot, workflow

from perdure.domain.admission.accept import Refused, TemplateMissing
from perdure.domain.engine.plan import compile_plan
from perdure.steps import KINDS


def test_what_a_manifest_leaves_out() -> None:
    assert snapshot(workflow({"name": "a"})) == {
        "inputs": {},
        "parallelism": None,
        "priority": 0,
        "timeout": None,
        "failurePolicy": "FinishRunning",
        "retention": {"ttlAfterFinished": "168h", "checkpointsPerTask": 10, "pods": "Always"},
        "steps": [{"name": "a", **BARE, "agent": IMAGE, "input": {}, **EFFORT}],
        "finally": [],
        "outputs": {},
    }


def test_what_a_run_says() -> None:
    made = snapshot(
        workflow(
            {"name": "a"},
            inputs={"n": 1},
            parallelism=3,
            priority=-5,
            timeout="2h",
            failurePolicy="RunAll",
            retention={"ttlAfterFinished": "1h", "pods": "Never"},
            desiredState="Paused",
            outputs={"o": None},
        )
    )
    del made["steps"]
    assert made == {
        "inputs": {"n": 1},
        "parallelism": 3,
        "priority": -5,
        "timeout": "2h",
        "failurePolicy": "RunAll",
        "retention": {"ttlAfterFinished": "1h", "checkpointsPerTask": 10, "pods": "Never"},
        "finally": [],
        "outputs": {"o": None},
    }


def test_a_snapshot_keeps_repeat() -> None:
    repeated = one({"repeat": {"until": "${last.done}", "maxIterations": 5}})
    assert repeated["repeat"] == {"until": "${last.done}", "maxIterations": 5}


@pytest.mark.parametrize(
    ("own", "defaults", "wanted"),
    [
        (None, {"limit": 2}, {"limit": 2, "backoff": BACKOFF}),
        ({"limit": 0}, {"limit": 2}, {"limit": 0, "backoff": BACKOFF}),
        # Field by field, as in an agent block.
        (
            {"limit": 5},
            {"limit": 2, "backoff": {"initial": "9s"}},
            {"limit": 5, "backoff": {**BACKOFF, "initial": "9s"}},
        ),
        (
            {"backoff": {"max": "2m"}},
            {"limit": 2, "backoff": {"initial": "9s", "max": "1h"}},
            {"limit": 2, "backoff": {**BACKOFF, "initial": "9s", "max": "2m"}},
        ),
        # 36: a max that no layer says is the longer of 1m and initial, whichever layer says initial.
        *(
            (
                {"backoff": {"initial": initial}},
                {"limit": 2},
                {"limit": 2, "backoff": {**BACKOFF, "initial": initial, "max": longest}},
            )
            for initial, longest in (("59s", "1m"), ("60s", "1m"), ("61s", "61s"), ("5m", "5m"), ("0s", "1m"))
        ),
        (
            {"limit": 1},
            {"backoff": {"initial": "2h"}},
            {"limit": 1, "backoff": {**BACKOFF, "initial": "2h", "max": "2h"}},
        ),
        ({"limit": 1}, {"on": "${true}"}, {"limit": 1, "backoff": BACKOFF, "on": "${true}"}),
        (
            {"on": "${false}"},
            {"limit": 1, "on": "${true}"},
            {"limit": 1, "backoff": BACKOFF, "on": "${false}"},
        ),
    ],
)
def test_retries_are_merged_with_the_defaults(
    own: dict[str, Any] | None, defaults: dict[str, Any], wanted: dict[str, Any]
) -> None:
    assert one({} if own is None else {"retry": own}, retry=defaults)["retry"] == wanted


def test_limits_come_from_the_defaults() -> None:
    defaults = {"timeout": "1h", "pendingTimeout": "2m", "idleTimeout": "3m", "disruptions": {"limit": 1}}
    made = one({"timeout": "9m", "disruptions": {"limit": 0}}, **defaults)
    assert (made["timeout"], made["pendingTimeout"], made["idleTimeout"]) == ("9m", "2m", "3m")
    assert made["disruptions"] == {"limit": 0}
    assert one({}, **defaults)["disruptions"] == {"limit": 1}


def test_every_reference_of_a_step_is_a_dependency() -> None:
    fields = {
        "when": "${steps.w.phase == 'Failed'}",
        "forEach": "${steps.f.output}",
        "retry": {"on": "${steps.r.output}"},
        "cache": {"key": "${steps.c.output}"},
        "input": "${steps.i.output}",
        "agent": {"args": ["${steps.g.output}"]},
    }
    others = [{"name": name} for name in ("w", "f", "r", "c", "i", "g", "d", "wd", "wu", "wi", "u")]
    made = snapshot(
        workflow(
            {"name": "all", "dependsOn": ["d"], **fields},
            {"name": "again", "repeat": {"until": "${steps.u.output}", "maxIterations": 2}},
            {"name": "rest", "wait": {"duration": "${steps.wd.output}"}},
            {"name": "until", "wait": {"until": "${steps.wu.finishedAt}"}},
            {"name": "child", "workflow": {"templateRef": "t", "inputs": {"x": ["${steps.wi.output}"]}}},
            *others,
        )
    )
    depends = {step["name"]: step["dependsOn"] for step in made["steps"]}
    assert depends["all"] == ["c", "d", "f", "g", "i", "r", "w"]
    assert [depends[name] for name in ("again", "rest", "until", "child")] == [["u"], ["wd"], ["wu"], ["wi"]]
    assert all(step["sees"] == step["dependsOn"] for step in made["steps"])


def test_finally_steps_wait_for_each_other_and_see_everything() -> None:
    made = snapshot(
        workflow(
            {"name": "a"},
            {"name": "b", "agent": {**IMAGE, "args": ["x"]}},
            **{
                "finally": [
                    {"name": "notify", "input": "${steps.a.phase} ${workflow.failures}"},
                    {"name": "clean", "dependsOn": ["notify", "b"], "input": "${steps.notify.output}"},
                ]
            },
            outputs={"both": ["${steps.a.output}", "${steps.clean.output}"]},
        )
    )
    notify, clean = made["finally"]
    assert (notify["dependsOn"], notify["sees"]) == ([], ["a"])
    assert (clean["dependsOn"], clean["sees"]) == (["notify"], ["b", "notify"])
    assert clean["agent"] == IMAGE
    plan = compile_plan(made, KINDS)
    assert (plan.order, plan.finally_order) == (("a", "b"), ("notify", "clean"))


# --- runs of a WorkflowTemplate

TEMPLATE = {
    "parameters": {
        "required": ["files"],
        "properties": {
            "files": {"type": "array", "items": {"type": "string"}},
            "mode": {"enum": ["fast", "deep"], "default": "fast"},
        },
    },
    "parallelism": 4,
    "priority": 7,
    "timeout": "2h",
    "failurePolicy": "RunAll",
    "retention": {"ttlAfterFinished": "1h", "pods": "Never"},
    "defaults": {"agent": IMAGE},
    "steps": [{"name": "a", "forEach": "${inputs.files}"}],
    "outputs": {"all": "${steps.a.outputs}"},
}


def run_of(spec: dict[str, Any], template: dict[str, Any] | None = None) -> dict[str, Any]:
    known = {"t": parse_workflowtemplate({"metadata": {"name": "t"}, "spec": template or TEMPLATE})}
    return accept("Workflow", {"templateRef": "t", **spec}, workflows=known)


def test_a_run_of_a_template_takes_all_of_it() -> None:
    made = run_of({"inputs": {"files": ["a.py"]}})
    assert made["inputs"] == {"files": ["a.py"], "mode": "fast"}
    assert [made[name] for name in ("parallelism", "priority", "timeout", "failurePolicy")] == [
        4,
        7,
        "2h",
        "RunAll",
    ]
    assert made["steps"][0]["agent"] == IMAGE
    assert made["outputs"] == {"all": "${steps.a.outputs}"}
    assert list(compile_plan(made, KINDS).steps) == ["a"]


def test_what_a_run_says_wins_over_its_template() -> None:
    own = {"parallelism": 1, "priority": 0, "timeout": "1m", "retention": {"ttlAfterFinished": "2h"}}
    made = run_of({"inputs": {"files": []}, **own})
    assert (made["parallelism"], made["priority"], made["timeout"]) == (1, 0, "1m")
    assert made["retention"] == {"ttlAfterFinished": "2h", "checkpointsPerTask": 10, "pods": "Never"}


def test_inputs_are_judged_by_the_parameters() -> None:
    with pytest.raises(Refused) as raised:
        run_of({"inputs": {"mode": "slow", "files": [1]}})
    assert [str(problem) for problem in raised.value.problems] == [
        "spec.inputs.files[0]: must be text; it is 1",
        'spec.inputs.mode: must be one of "fast", "deep"; it is "slow"',
    ]
    with pytest.raises(Refused, match=r"^spec\.inputs\.files: is required"):
        run_of({})


def test_without_parameters_any_inputs_will_do() -> None:
    template = {name: value for name, value in TEMPLATE.items() if name != "parameters"}
    assert run_of({"inputs": {"x": [None]}}, template)["inputs"] == {"x": [None]}


def test_faults_of_a_template_are_said_to_be_there() -> None:
    template = {**TEMPLATE, "steps": [{"name": "a", "input": "${nope}"}]}
    with pytest.raises(Refused) as raised:
        run_of({"inputs": {"files": []}}, template)
    # The outputs take the step to have a forEach.
    assert [problem.path for problem in raised.value.problems] == [
        "WorkflowTemplate t: spec.steps[0].input",
        "WorkflowTemplate t: spec.outputs.all",
    ]


def test_a_missing_workflow_template_is_named() -> None:
    with pytest.raises(TemplateMissing, match=r"spec\.templateRef: there is no WorkflowTemplate 'late'"):
        accept("Workflow", {"templateRef": "late"})


def test_templates_of_a_template_are_found_too() -> None:
    template = {"defaults": {"agent": {"templateRef": "late"}}, "steps": [{"name": "a"}]}
    with pytest.raises(TemplateMissing) as raised:
        run_of({}, template)
    (reference,) = raised.value.references
    assert reference.path == "WorkflowTemplate t: spec.defaults.agent.templateRef"
