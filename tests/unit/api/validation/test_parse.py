"""Every mistake that a manifest shows by itself is found, with the author's path and a remedy."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.manifests import (
    InvalidManifest,
    ManifestProblem,
    parse_agenttask,
    parse_agenttemplate,
    parse_inline_workflow,
    parse_workflow,
    parse_workflowschedule,
    parse_workflowtemplate,
)
from tests.unit.api.validation.cases import (
    AGENT,
    WAIT,
    one_step,
    problems_of,
    with_spec,
    workflow,
)

from perdure.api.base import Model
from perdure.steps import KINDS

PATH = re.compile(r'^(apiVersion|kind|metadata\.name|spec)((\.[A-Za-z_][\w-]*)|(\[\d+\])|(\["[^"]*"\]))*$')


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


MISTAKES: list[tuple[str, dict[str, Any], str, str]] = [
    # unknown fields
    ("snake case", one_step(depends_on=["b"]), "spec.steps[0].depends_on", "did you mean dependsOn?"),
    ("typing slip", one_step(dependOn=["b"]), "spec.steps[0].dependOn", "did you mean dependsOn?"),
    ("lower case", one_step(foreach=["b"]), "spec.steps[0].foreach", "did you mean forEach?"),
    (
        "far off",
        one_step(zzz=1),
        "spec.steps[0].zzz",
        f"known are name, dependsOn, when, forEach, repeat, {', '.join(kind.field for kind in KINDS)}, input",
    ),
    ("in the spec", with_spec(step=[]), "spec.step", "did you mean steps?"),
    ("strange key", with_spec(**{"a b": 1}), 'spec["a b"]', "unknown field"),
    # types
    ("no spec", workflow(None), "spec", "is required"),
    ("spec a list", workflow([]), "spec", "must be a map"),
    ("no steps", workflow({}), "spec.steps", "is required"),
    ("steps a map", workflow({"steps": {}}), "spec.steps", "must be a list"),
    ("step a text", workflow({"steps": ["a"]}), "spec.steps[0]", "must be a map"),
    ("number as text", with_spec(parallelism="3"), "spec.parallelism", "must be a whole number"),
    ("truth as number", with_spec(parallelism=True), "spec.parallelism", "must be a whole number"),
    ("fraction", with_spec(parallelism=1.5), "spec.parallelism", "must be a whole number"),
    ("inputs a list", with_spec(inputs=[]), "spec.inputs", "must be a map"),
    # forms
    ("step name", one_step(name="A_b"), "spec.steps[0].name", "'A_b' is no DNS label"),
    ("step name empty", one_step(name=""), "spec.steps[0].name", "must not be empty"),
    ("step name long", one_step(name="a" * 64), "spec.steps[0].name", "has 64 characters; at most 63"),
    ("dotted name", {**one_step(), "metadata": {"name": "a.b"}}, "metadata.name", "'a.b' is no DNS label"),
    ("long name", {**one_step(), "metadata": {"name": "a" * 64}}, "metadata.name", "at most 63 characters"),
    ("other kind", {**one_step(), "kind": "AgentTask"}, "kind", "must be Workflow"),
    ("other version", {**one_step(), "apiVersion": "v1"}, "apiVersion", "must be perdure.dev/v1alpha1"),
    (
        "duration",
        with_spec(retention={"ttlAfterFinished": "7 days"}),
        "spec.retention.ttlAfterFinished",
        "write it like 10s, 5m",
    ),
    (
        "duration beyond dates",
        with_spec(retention={"ttlAfterFinished": "999999999h"}),
        "spec.retention.ttlAfterFinished",
        "longer than 87600h",
    ),
    # limits
    ("empty steps", workflow({"steps": []}), "spec.steps", "at least 1 entry"),
    (
        "501 steps",
        workflow({"steps": [{"name": f"s{number}", "agent": AGENT} for number in range(501)]}),
        "spec.steps",
        "has 501 entries; at most 500 are allowed",
    ),
    ("no parallelism", with_spec(parallelism=0), "spec.parallelism", "is 0; it must be at least 1"),
    (
        "retries",
        one_step(retry={"limit": 1001}),
        "spec.steps[0].retry.limit",
        "is 1001; it must be at most 1000",
    ),
    ("negative retries", one_step(retry={"limit": -1}), "spec.steps[0].retry.limit", "must be at least 0"),
    (
        "inputs",
        with_spec(inputs={"a": "x" * 65_536}),
        "spec.inputs",
        "has 65544 bytes as compact JSON; at most 65536",
    ),
    ("inputs in UTF-8", with_spec(inputs={"a": "é" * 33_000}), "spec.inputs", "has 66008 bytes"),
    (
        "items",
        one_step(forEach=list(range(10_001))),
        "spec.steps[0].forEach",
        "has 10001 items; at most 10000",
    ),
    (
        "entries",
        one_step(forEach={str(number): 1 for number in range(10_001)}),
        "spec.steps[0].forEach",
        "has 10001 items; at most 10000",
    ),
    (
        "nesting",
        with_spec(inputs=nested(200)),
        ("spec.inputs" + ".a" * 30)[:60] + "…",
        "is nested deeper than 100 levels",
    ),
    # what is not JSON, or no ledger can store
    ("NUL", with_spec(inputs={"a": ["ok", "x\0"]}), "spec.inputs.a[1]", "U+0000"),
    ("NUL in a name", with_spec(inputs={"a\0": 1}), "spec.inputs", "names are text"),
    ("name no text", with_spec(inputs={"a": {1: 2}}), "spec.inputs.a", "names are text, in quotes"),
    ("date", with_spec(inputs={"a": datetime.date(2026, 1, 1)}), "spec.inputs.a", "is a date, not JSON"),
    ("not a number", with_spec(inputs={"a": float("nan")}), "spec.inputs.a", "is nan, which is not JSON"),
    ("huge number", with_spec(inputs={"a": 2**64}), "spec.inputs.a", "more than 64 bits"),
    # what fields say together
    (
        "forEach number",
        one_step(forEach=5),
        "spec.steps[0].forEach",
        "must be a list, a map, or one expression",
    ),
    ("forEach text", one_step(forEach="inputs.files"), "spec.steps[0].forEach", "such as ${inputs.files}"),
    (
        "own dependency",
        one_step(dependsOn=["b", "a"]),
        "spec.steps[0].dependsOn[1]",
        "cannot depend on itself",
    ),
    ("dependency twice", one_step(dependsOn=["b", "b"]), "spec.steps[0].dependsOn[1]", "'b' is listed twice"),
    (
        "step name twice",
        workflow({"steps": [{"name": name, "agent": AGENT} for name in ("a", "b", "a")]}),
        "spec.steps[2].name",
        "'a' is the name of spec.steps[0] already",
    ),
]


#: What the parts of the language say by themselves and together.
LANGUAGE_MISTAKES: list[tuple[str, dict[str, Any], str, str]] = [
    ("desired state", with_spec(desiredState="Stopped"), "spec.desiredState", "Running, Paused or Cancelled"),
    (
        "failure policy",
        with_spec(failurePolicy="Stop"),
        "spec.failurePolicy",
        "FinishRunning, CancelRunning or",
    ),
    ("priority", with_spec(priority=1001), "spec.priority", "is 1001; it must be at most 1000"),
    ("low priority", with_spec(priority=-1001), "spec.priority", "must be at least -1000"),
    ("no time at all", with_spec(timeout="0s"), "spec.timeout", "must be longer than 0s"),
    (
        "checkpoints",
        with_spec(retention={"checkpointsPerTask": 0}),
        "spec.retention.checkpointsPerTask",
        "at least 1",
    ),
    ("pods", with_spec(retention={"pods": "Some"}), "spec.retention.pods", "Always, OnFailure or Never"),
    ("when", one_step(when="x > 1"), "spec.steps[0].when", "is not one expression; write it like ${"),
    (
        "factor",
        one_step(retry={"backoff": {"factor": 0.5}}),
        "spec.steps[0].retry.backoff.factor",
        "at least 1",
    ),
    (
        "jitter",
        one_step(retry={"backoff": {"jitter": 1.5}}),
        "spec.steps[0].retry.backoff.jitter",
        "at most 1",
    ),
    (
        "backoff beyond its maximum",
        one_step(retry={"backoff": {"initial": "5m", "max": "1m"}}),
        "spec.steps[0].retry.backoff",
        "initial (5m) is longer than max (1m): raise max",
    ),
    ("name of retry.on", one_step(retry={"when": "${true}"}), "spec.steps[0].retry.when", "it is called on"),
    ("disruptions", one_step(disruptions={"limit": 1001}), "spec.steps[0].disruptions.limit", "at most 1000"),
    ("idle", one_step(idleTimeout="soon"), "spec.steps[0].idleTimeout", "write it like 10s"),
    # forEach, repeat, cache
    (
        "repeat and forEach",
        one_step(forEach=[1], repeat={"until": "${true}", "maxIterations": 1}),
        "spec.steps[0].repeat",
        "does not go together with forEach",
    ),
    (
        "endless repeat",
        one_step(repeat={"until": "${true}"}),
        "spec.steps[0].repeat.maxIterations",
        "is required",
    ),
    (
        "iterations",
        one_step(repeat={"until": "${true}", "maxIterations": 1001}),
        "spec.steps[0].repeat.maxIterations",
        "at most 1000",
    ),
    ("parallelism of one", one_step(parallelism=2), "spec.steps[0].parallelism", "add forEach, or remove it"),
    ("failures of one", one_step(maxFailures=1), "spec.steps[0].maxFailures", "add forEach, or remove it"),
    (
        "percentage",
        one_step(forEach=[1], maxFailures="101%"),
        "spec.steps[0].maxFailures",
        "or a percentage such as 20%",
    ),
    ("failures", one_step(forEach=[1], maxFailures=10_001), "spec.steps[0].maxFailures", "from 0 to 10000"),
    ("negative", one_step(forEach=[1], maxFailures=-1), "spec.steps[0].maxFailures", "from 0 to 10000"),
    ("cache without key", one_step(cache={"ttl": "1h"}), "spec.steps[0].cache.key", "is required"),
    ("no caching", one_step(cache={"key": "k", "ttl": "0s"}), "spec.steps[0].cache.ttl", "longer than 0s"),
    # finally
    (
        "name of a step",
        with_spec(**{"finally": [{"name": "a", "agent": AGENT}]}),
        "spec.finally[0].name",
        "'a' is the name of spec.steps[0] already",
    ),
    (
        "51 finally steps",
        with_spec(**{"finally": [{"name": f"f{number}", "agent": AGENT} for number in range(51)]}),
        "spec.finally",
        "has 51 entries; at most 50 are allowed",
    ),
    (
        "nothing to run",
        with_spec(**{"finally": [{"name": "z"}]}),
        "spec.finally[0].agent",
        "or in spec.defaults",
    ),
    # templateRef
    *(
        (
            f"template and {field}",
            workflow({"templateRef": "t", field: value}),
            f"spec.{field}",
            "does not go together with templateRef",
        )
        for field, value in {
            "steps": [WAIT],
            "finally": [WAIT],
            "outputs": {"a": 1},
            "failurePolicy": "RunAll",
            "defaults": {"retry": {"limit": 1}},
        }.items()
    ),
]


@pytest.mark.parametrize(
    ("manifest", "path", "message"),
    [row[1:] for row in MISTAKES + LANGUAGE_MISTAKES],
    ids=[row[0] for row in MISTAKES + LANGUAGE_MISTAKES],
)
def test_mistakes(manifest: dict[str, Any], path: str, message: str) -> None:
    (problem,) = problems_of(manifest)
    assert problem.path == path
    assert message in problem.message


GOOD: list[tuple[str, dict[str, Any]]] = [
    ("least", one_step()),
    ("without kind, as in a list", {"metadata": {"name": "a"}, "spec": one_step()["spec"]}),
    ("generated name", {**one_step(), "metadata": {"generateName": "a."}}),
    ("agent by default", workflow({"defaults": {"agent": AGENT}, "steps": [{"name": "a"}, {"name": "b"}]})),
    ("inputs at the limit", with_spec(inputs={"a": "x" * (65_536 - 8)})),
    ("items at the limit", one_step(forEach=list(range(10_000)))),
    ("no items", one_step(forEach=[])),
    ("map of items", one_step(forEach={"a": 1})),
    ("items by expression", one_step(forEach="${inputs.files}")),
    ("nulls", with_spec(inputs={"a": None}, outputs={"a": None})),
    ("an escape spelt out", with_spec(inputs={"a": "\\u0000"})),
    ("longest names", {**one_step(name="a" * 63), "metadata": {"name": "a" * 63}}),
    ("template", workflow({"templateRef": "t", "inputs": {"a": None}})),
    (
        "every field that a template allows",
        workflow(
            {
                "parallelism": 1,
                "priority": -1000,
                "timeout": "1h",
                "retention": {"pods": "Never"},
                "templateRef": "t",
                "inputs": {},
                "desiredState": "Cancelled",
            }
        ),
    ),
    ("repeat", one_step(repeat={"until": "${last.done}", "maxIterations": 1000}, cache={"key": "${index}"})),
    ("forEach in full", one_step(forEach=[1], parallelism=10_000, maxFailures="100%")),
    ("no failures", one_step(forEach=[1], maxFailures=0)),
    ("retry", one_step(retry={"limit": 1000, "backoff": {"factor": 1, "jitter": 0.5}, "on": "${true}"})),
    ("no backoff", one_step(retry={"backoff": {"initial": "0s"}})),
    ("finally", with_spec(**{"finally": [{"name": "z", "agent": AGENT, "dependsOn": ["y"]}]})),
    (
        "50 finally steps",
        with_spec(**{"finally": [{"name": f"f{number}", "agent": AGENT} for number in range(50)]}),
    ),
    ("500 steps", workflow({"steps": [{"name": f"s{number}", "agent": AGENT} for number in range(500)]})),
]


@pytest.mark.parametrize("manifest", [row[1] for row in GOOD], ids=[row[0] for row in GOOD])
def test_good_ones(manifest: dict[str, Any]) -> None:
    assert parse_workflow(manifest).manifest() == manifest["spec"]


def test_all_problems_come_at_once_and_a_message_names_the_first_ten() -> None:
    steps = [{"name": f"s{number}", "agent": AGENT, "dependsOn": [f"s{number}"]} for number in range(12)]
    with pytest.raises(InvalidManifest) as caught:
        parse_workflow(workflow({"steps": steps}))
    assert [problem.path for problem in caught.value.problems] == [
        f"spec.steps[{number}].dependsOn[0]" for number in range(12)
    ]
    text = str(caught.value)
    assert text.startswith("spec.steps[0].dependsOn[0]: a step cannot depend on itself")
    assert "spec.steps[9]" in text and "spec.steps[10]" not in text
    assert text.endswith("; and 2 more")


def test_what_is_quoted_stays_short() -> None:
    (problem,) = problems_of(one_step(agent={"templateRef": "X" * 200}))
    assert len(problem.message) < 120


TASK_MISTAKES: list[tuple[str, dict[str, Any], str, str]] = [
    ("no agent", {}, "spec.agent", "is required"),
    ("no container", {"agent": {}}, "spec.agent", "give image or templateRef"),
    ("field of a step", {"agent": AGENT, "forEach": []}, "spec.forEach", "unknown field"),
    ("env twice", {"agent": {**AGENT, "env": [{"name": "A"}] * 2}}, "spec.agent.env[1].name", "set twice"),
]


@pytest.mark.parametrize(
    ("spec", "path", "message"), [row[1:] for row in TASK_MISTAKES], ids=[row[0] for row in TASK_MISTAKES]
)
def test_mistakes_in_a_task(spec: dict[str, Any], path: str, message: str) -> None:
    (problem,) = problems_of({"metadata": {"name": "t"}, "spec": spec}, parse_agenttask)
    assert problem.path == path and message in problem.message


def test_a_task() -> None:
    spec = {"agent": AGENT, "input": [1, None], "retry": {"limit": 2}}
    assert parse_agenttask({"metadata": {"name": "t"}, "spec": spec}).manifest() == spec
    (problem,) = problems_of({"metadata": {"name": "a.b"}, "spec": spec}, parse_agenttask)
    assert problem.path == "metadata.name"


def test_a_template() -> None:
    spec = {"image": "busybox", "env": [{"name": "A", "value": "1"}]}
    assert parse_agenttemplate({"metadata": {"name": "dotted.name"}, "spec": spec}).manifest() == spec
    (problem,) = problems_of({"spec": {"templateRef": "other"}}, parse_agenttemplate)
    assert problem.path == "spec.templateRef" and "unknown field" in problem.message


def test_a_task_in_full() -> None:
    spec = {
        "agent": AGENT,
        "disruptions": {"limit": 0},
        "timeout": "1h",
        "pendingTimeout": "1m",
        "idleTimeout": "1m",
        "desiredState": "Paused",
        "retention": {"checkpointsPerTask": 1000},
    }
    assert parse_agenttask({"metadata": {"name": "t"}, "spec": spec}).manifest() == spec


def test_a_workflow_template() -> None:
    spec = {**with_spec()["spec"], "parameters": {"type": "object", "x": "y" * 65_000}}
    del spec["parameters"]["x"]
    assert parse_workflowtemplate({"metadata": {"name": "a.b"}, "spec": spec}).manifest() == {
        "steps": spec["steps"],
        "parameters": spec["parameters"],
    }


TEMPLATE_MISTAKES: list[tuple[str, dict[str, Any], str, str]] = [
    ("no steps", {}, "spec.steps", "is required"),
    ("inputs", {"steps": [WAIT], "inputs": {}}, "spec.inputs", "are described in parameters"),
    ("template", {"templateRef": "t", "steps": [WAIT]}, "spec.templateRef", "a workflow step takes it"),
    ("parameters", {"steps": [WAIT], "parameters": []}, "spec.parameters", "must be a map"),
    (
        "large parameters",
        {"steps": [WAIT], "parameters": {"a": "x" * (65_536 - 7)}},
        "spec.parameters",
        "has 65537 bytes as compact JSON; at most 65536",
    ),
    ("step", {"steps": [{**WAIT, "name": "A"}]}, "spec.steps[0].name", "is no DNS label"),
]


@pytest.mark.parametrize(
    ("spec", "path", "message"),
    [row[1:] for row in TEMPLATE_MISTAKES],
    ids=[row[0] for row in TEMPLATE_MISTAKES],
)
def test_mistakes_in_a_workflow_template(spec: dict[str, Any], path: str, message: str) -> None:
    (problem,) = problems_of({"metadata": {"name": "t"}, "spec": spec}, parse_workflowtemplate)
    assert problem.path == path and message in problem.message


def schedule(name: str = "nightly", **fields: Any) -> dict[str, Any]:
    spec = {"schedule": "@daily", "workflow": {"spec": {"steps": [WAIT]}}, **fields}
    return {"kind": "WorkflowSchedule", "metadata": {"name": name}, "spec": spec}


def test_a_schedule() -> None:
    made = schedule(
        "n" * 52,
        timeZone="Europe/Berlin",
        concurrencyPolicy="Replace",
        startingDeadline="1h",
        suspend=True,
        successfulHistoryLimit=0,
        failedHistoryLimit=1000,
        workflow={"metadata": {"labels": {"a": "b"}}, "spec": {"templateRef": "t", "inputs": {"a": None}}},
    )
    assert parse_workflowschedule(made).manifest() == made["spec"]


SCHEDULE_MISTAKES: list[tuple[str, dict[str, Any], str, str]] = [
    ("name", schedule("n" * 53), "metadata.name", "at most 52 characters"),
    ("fields", schedule(schedule="* * *"), "spec.schedule", "has 3 fields, not 5: minute, hour"),
    ("seconds", schedule(schedule="0 * * * * *"), "spec.schedule", "has 6 fields, not 5"),
    ("minute", schedule(schedule="60 * * * *"), "spec.schedule", "is no cron schedule: bad minute"),
    ("never", schedule(schedule="0 0 31 2 *"), "spec.schedule", "bad day-of-month"),
    ("alias", schedule(schedule="@reboot"), "spec.schedule", "known are @hourly, @daily, @weekly, @monthly"),
    ("zone", schedule(timeZone="Berlin"), "spec.timeZone", "write it like Europe/Berlin or UTC"),
    ("zone no place", schedule(timeZone="Europe"), "spec.timeZone", "is no time zone"),
    ("zone outside", schedule(timeZone="../etc"), "spec.timeZone", "must match"),
    ("policy", schedule(concurrencyPolicy="Queue"), "spec.concurrencyPolicy", "Allow, Forbid or Replace"),
    ("deadline", schedule(startingDeadline="0s"), "spec.startingDeadline", "longer than 0s"),
    ("history", schedule(failedHistoryLimit=1001), "spec.failedHistoryLimit", "at most 1000"),
    ("no workflow", schedule(workflow=None), "spec.workflow", "must be a map"),
    ("no spec", schedule(workflow={}), "spec.workflow.spec", "is required"),
    (
        "workflow",
        schedule(workflow={"spec": {"steps": [{**WAIT, "wait": {"duration": "1"}}]}}),
        "spec.workflow.spec.steps[0].wait.duration",
        "write it like 10s",
    ),
    (
        "neither steps nor template",
        schedule(workflow={"spec": {}}),
        "spec.workflow.spec.steps",
        "or templateRef instead",
    ),
]


@pytest.mark.parametrize(
    ("manifest", "path", "message"),
    [row[1:] for row in SCHEDULE_MISTAKES],
    ids=[row[0] for row in SCHEDULE_MISTAKES],
)
def test_mistakes_in_a_schedule(manifest: dict[str, Any], path: str, message: str) -> None:
    (problem,) = problems_of(manifest, parse_workflowschedule)
    assert problem.path == path and message in problem.message


def test_an_inline_workflow_has_the_path_of_its_place() -> None:
    path = "spec.steps[3].workflow.spec"
    assert parse_inline_workflow({"steps": [WAIT]}, path).manifest() == {"steps": [WAIT]}
    (problem,) = problems_of({"steps": [{"name": "x"}]}, lambda raw: parse_inline_workflow(raw, path))
    assert problem.path == f"{path}.steps[0].agent"


NAMES = (
    "name steps agent image env value valueFrom resources limits forEach input dependsOn retry limit inputs"
    " outputs retention ttlAfterFinished defaults templateRef finally wait duration until workflow spec"
    " repeat maxIterations when cache key backoff initial max metadata labels podTemplate parameters"
    " schedule timeZone on true"
).split()

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from([*NAMES, "x y"]), children, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(spec=anything)
@pytest.mark.parametrize(
    "parse",
    [parse_workflow, parse_agenttask, parse_agenttemplate, parse_workflowtemplate, parse_workflowschedule],
)
def test_any_spec_is_parsed_or_refused_with_paths(spec: Any, parse: Callable[[Any], Model]) -> None:
    problems: tuple[ManifestProblem, ...] = ()
    try:
        parse({"metadata": {"name": "a"}, "spec": spec})
    except InvalidManifest as error:
        problems = error.problems or (ManifestProblem("", "no problem named"),)
    for problem in problems:
        assert PATH.match(problem.path), problem
        assert problem.message and "Input should" not in problem.message, problem
