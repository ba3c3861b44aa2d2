"""The CustomResourceDefinitions on a real API server: columns, and refusals with their messages."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from tests.integration.api.conftest import Kubectl
from tests.integration.api.objects import (
    AGENT,
    schedule,
    step,
    task,
    template,
    workflow,
    workflow_template,
)

from perdure.api.codegen import crds
from perdure.api.status import MAX_STATUS_STEPS
from perdure.kube.client import KubeClient
from perdure.steps.schema import RESOURCES

pytestmark = pytest.mark.usefixtures("apiserver")

TIME = "2026-11-21T08:00:00Z"


async def test_the_definitions_are_established_and_structural(kube: KubeClient) -> None:
    for kind in RESOURCES:
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind.crd_name}"
        definition = await kube.raw_get(path)
        conditions = {row["type"]: row["status"] for row in definition["status"]["conditions"]}
        assert conditions == {"NamesAccepted": "True", "Established": "True"}
        kept = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        wanted = crds.crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        assert kept == wanted, "the server has dropped or changed part of the schema"


async def test_kubectl_explains_every_level(kubectl: Kubectl) -> None:
    said = await kubectl("explain", "workflow.spec.steps")
    assert said.code == 0, said.error
    assert "a step starts when those it depends on" in " ".join(said.out.split())
    for field in ("name\t<string> -required-", "dependsOn\t<[]string>", "forEach", "input", "agent", "retry"):
        assert field in said.out
    for path, text in {
        "workflow": "One run of a graph of steps",
        "workflow.spec.steps.agent.env.valueFrom.secretKeyRef.key": "The key in it.",
        "workflow.spec.steps.forEach": "at most 10,000 items",
        "workflow.status.steps.reason": "as one word of a closed set",
        "agenttask.spec.retry.limit": "2 allows three attempts",
        "agenttask.status.checkpoint.sequence": "counted from 1 over all attempts",
        "agenttemplate.spec.image": "Container image",
        "workflow.spec.finally.retry.backoff.jitter": "The share of a delay",
        "workflowtemplate.spec.parameters": "A JSON Schema (2020-12) of the inputs",
        "workflowschedule.spec.timeZone": "such as Europe/Berlin",
    }.items():
        said = await kubectl("explain", path)
        assert text in " ".join(said.out.split()), (path, said)


async def test_every_definition_has_its_names_and_category(kubectl: Kubectl) -> None:
    said = await kubectl("api-resources", "--api-group=perdure.dev", "--no-headers", "-o", "wide")
    rows = {row.split()[0]: row.split() for row in said.out.splitlines()}
    assert {name: row[1] for name, row in rows.items()} == {
        kind.plural: kind.short_name for kind in RESOURCES
    }
    assert all(row[-1] == "perdure" for row in rows.values())

    await kubectl("apply", objects=[workflow(), task(), template(), workflow_template(), schedule()])
    said = await kubectl("get", "perdure", "-o", "name")
    assert said.out.split() == [
        "agenttask.perdure.dev/single",
        "agenttemplate.perdure.dev/auditor",
        "workflow.perdure.dev/audit",
        "workflowschedule.perdure.dev/nightly",
        "workflowtemplate.perdure.dev/audit",
    ]


async def test_a_workflow_has_its_columns(kubectl: Kubectl, kube: KubeClient, namespace: str) -> None:
    await kubectl("apply", objects=[workflow()])
    status = {"phase": "Running", "progress": "3/10", "message": "Backoff", "attempts": 4, "events": 17}
    await kube.patch_status("Workflow", namespace, "audit", {"status": status})
    header, row = (await kubectl("get", "workflows")).out.splitlines()
    assert header.split() == ["NAME", "PHASE", "PROGRESS", "MESSAGE", "AGE"]
    assert row.split()[:4] == ["audit", "Running", "3/10", "Backoff"]
    header, row = (await kubectl("get", "workflows", "-o", "wide")).out.splitlines()
    assert header.split() == ["NAME", "PHASE", "PROGRESS", "MESSAGE", "AGE", "ATTEMPTS", "EVENTS"]
    assert row.split()[-2:] == ["4", "17"]


async def test_the_columns_of_a_task_have_the_label_or_else_the_number(
    kubectl: Kubectl, kube: KubeClient, namespace: str
) -> None:
    await kubectl("apply", objects=[task("labelled"), task("numbered"), task("new")])
    common = {"phase": "Running", "attempt": 2, "podName": "pod-2", "reason": "Starting"}
    for name, status in {
        "labelled": {"checkpoint": {"sequence": 3, "label": "file-c.py"}, "progress": {"percent": 30.5}},
        "numbered": {"checkpoint": {"sequence": 3}, "progress": {"percent": 50, "message": "half"}},
    }.items():
        await kube.patch_status("AgentTask", namespace, name, {"status": {**common, **status}})
    header, labelled, _, numbered = (await kubectl("get", "agenttasks")).out.splitlines()
    assert header.split() == ["NAME", "PHASE", "ATTEMPT", "REASON", "CHECKPOINT", "AGE"]
    assert labelled.split()[:5] == ["labelled", "Running", "2", "Starting", "file-c.py"]
    assert numbered.split()[:5] == ["numbered", "Running", "2", "Starting", "3"]
    header, labelled, _, numbered = (await kubectl("get", "agenttasks", "-o", "wide")).out.splitlines()
    assert header.split()[6:] == ["POD", "PROGRESS", "MESSAGE"]
    assert labelled.split()[6:] == ["pod-2", "30.5"] and numbered.split()[6:] == ["pod-2", "half"]


async def test_a_schedule_has_its_columns(kubectl: Kubectl, kube: KubeClient, namespace: str) -> None:
    await kubectl("apply", objects=[schedule(suspend=True), schedule("new")])
    status = {
        "lastScheduleTime": TIME,
        "nextScheduleTime": "2126-11-22T00:00:00Z",
        "active": [{"name": "nightly-1", "uid": "u"}],
    }
    await kube.patch_status("WorkflowSchedule", namespace, "nightly", {"status": status})
    header, new, row = sorted((await kubectl("get", "workflowschedules")).out.splitlines())
    assert header.split() == ["NAME", "SCHEDULE", "SUSPENDED", "LAST", "NEXT", "AGE"]
    assert new.split()[:2] == ["new", "@daily"]
    assert row.split()[:3] == ["nightly", "@daily", "true"]
    assert row.split()[4] == "2126-11-22T00:00:00Z"
    wide = (await kubectl("get", "workflowschedules", "nightly", "-o", "wide")).out.splitlines()
    assert wide[0].split()[6:] == ["ACTIVE", "MESSAGE"] and wide[1].split()[6] == "nightly-1"


async def test_kubectl_wait_finds_a_condition(kubectl: Kubectl, kube: KubeClient, namespace: str) -> None:
    await kubectl("apply", objects=[workflow()])
    condition = {"type": "Complete", "status": "True", "reason": "Succeeded", "message": ""}
    condition |= {"lastTransitionTime": TIME, "observedGeneration": 1}
    await kube.patch_status("Workflow", namespace, "audit", {"status": {"conditions": [condition]}})
    said = await kubectl("wait", "--for=condition=Complete", "workflow/audit", "--timeout=20s")
    assert said.code == 0, said.error


async def test_the_status_of_a_newer_operator_is_kept(
    kubectl: Kubectl, kube: KubeClient, namespace: str
) -> None:
    await kubectl("apply", objects=[workflow()])
    steps = [
        {"name": f"s{number}", "phase": "NewPhase", "message": "x" * 1000, "fresh": 1}
        for number in range(MAX_STATUS_STEPS + 1)
    ]
    condition = {"type": "Ready", "status": "True", "reason": "New", "lastTransitionTime": TIME, "fresh": 1}
    status = {"phase": "NewPhase", "fresh": {"a": [1]}, "steps": steps, "conditions": [condition]}
    await kube.patch_status("Workflow", namespace, "audit", {"status": status})
    found = await kube.get("Workflow", namespace, "audit")
    assert found["status"] == status
    assert found["metadata"]["generation"] == 1


@pytest.mark.parametrize("flags", [(), ("--server-side",)], ids=["client", "server"])
async def test_a_second_apply_changes_nothing(
    kubectl: Kubectl, kube: KubeClient, namespace: str, flags: tuple[str, ...]
) -> None:
    agent = {"image": "i", "env": [{"name": "B", "value": "${item}"}, {"name": "A", "value": "1"}]}
    agent["resources"] = {"requests": {"cpu": 1, "memory": "64Mi"}}
    objects = [
        workflow(
            {
                "name": "a",
                "agent": agent,
                "forEach": [1, "x", {"y": [None]}],
                "input": {"deep": {"er": [1, 2]}},
            },
            step("b", dependsOn=["a"]),
            inputs={"files": ["a.py"], "number": 1.5, "empty": {}},
            outputs={"all": "${steps.a.outputs}"},
            retention={"ttlAfterFinished": "1h"},
        ),
        task(input=[1, {"a": []}]),
        template(env=[{"name": "A", "value": "1"}]),
    ]
    assert (await kubectl("apply", *flags, objects=objects)).code == 0
    first = [await kube.get(item["kind"], namespace, item["metadata"]["name"]) for item in objects]
    said = await kubectl("apply", *flags, objects=objects)
    assert said.code == 0, said.error
    again = [await kube.get(item["kind"], namespace, item["metadata"]["name"]) for item in objects]
    assert again == first
    assert [item["spec"] for item in again] == [item["spec"] for item in objects], "no defaults are filled in"
    if not flags:
        assert said.out.count("unchanged") == len(objects)


async def test_nulls_in_payloads_are_kept(kubectl: Kubectl, kube: KubeClient, namespace: str) -> None:
    made = workflow(step(input={"a": None}, forEach=[None]), inputs={"a": None}, outputs={"b": None})
    for _ in range(2):
        said = await kubectl("apply", "--server-side", objects=[made])
        assert said.code == 0, said.error
    assert (await kube.get("Workflow", namespace, "audit"))["spec"] == made["spec"]


BASE = workflow(
    step("a", input={"q": {"r": 1}}, forEach=[{"k": 1}]),
    step("b", dependsOn=["a"]),
    inputs={"a": 1, "b": {"c": {"d": 1}}},
)


def changed(*path: str | int, to: Any, **others: Any) -> dict[str, Any]:
    made = copy.deepcopy(BASE)
    made["spec"].update(others)
    *parents, last = ("spec", *path)
    node: Any = made
    for part in parents:
        node = node[part]
    node[last] = to
    return made


@pytest.mark.parametrize(
    "other",
    [
        changed("inputs", "a", to=2),
        # Renamed keys, at three depths: equality of free-form JSON is easily got wrong.
        changed("inputs", to={"z": 1, "b": {"c": {"d": 1}}}),
        changed("inputs", "b", "c", to={"e": 1}),
        changed("steps", 0, "input", to={"q": {"s": 1}}),
        changed("steps", 0, "input", to={"p": {"r": 1}}),
        changed("steps", 0, "forEach", to=[{"l": 1}]),
        changed("steps", 0, "agent", to={"image": "agents/a:2"}),
        changed("steps", 1, "dependsOn", to=[]),
        changed("steps", to=[*BASE["spec"]["steps"], step("c")]),
        changed("parallelism", to=1),
        changed("finally", to=[step("z")]),
        changed("outputs", to={"a": 1}),
        # Together with a field that may be changed.
        changed("steps", 0, "input", to={"q": {"s": 1}}, desiredState="Paused"),
        changed("retention", to={"pods": "Never"}, desiredState="Paused"),
    ],
)
async def test_a_spec_cannot_be_changed_and_the_message_says_what_to_do(
    kubectl: Kubectl, other: dict[str, Any]
) -> None:
    for number, flags in enumerate(((), ("--server-side",))):
        # A field manager owns the fields that it applied: each manager has an object of its own.
        base, next_one = copy.deepcopy(BASE), copy.deepcopy(other)
        base["metadata"]["name"] = next_one["metadata"]["name"] = f"audit-{number}"
        assert (await kubectl("apply", *flags, objects=[base])).code == 0
        said = await kubectl("apply", *flags, objects=[next_one])
        assert said.code != 0
        assert "spec: Invalid value" in said.error
        assert (
            "nothing but desiredState can be changed once it is applied: apply it under a new name, or delete"
            " this Workflow and apply it again" in said.error
        )


STATES: list[tuple[Any, Any, bool]] = [
    (None, "Paused", True),
    ("Running", "Paused", True),
    ("Paused", "Running", True),
    ("Paused", None, True),
    (None, "Cancelled", True),
    ("Paused", "Cancelled", True),
    ("Cancelled", "Cancelled", True),
    ("Cancelled", "Running", False),
    ("Cancelled", "Paused", False),
    ("Cancelled", None, False),
    ("Running", "Stopped", False),
]


@pytest.mark.parametrize("kind", ["Workflow", "AgentTask"])
async def test_desired_state_can_be_patched_and_cancelled_is_final(
    kubectl: Kubectl, kube: KubeClient, namespace: str, kind: str
) -> None:
    for number, (before, after, allowed) in enumerate(STATES):
        made = workflow(step(input={"a": [1, None]})) if kind == "Workflow" else task(input={"a": [1, None]})
        name = made["metadata"]["name"] = f"run-{number}"
        made["spec"] |= {"desiredState": before} if before else {}
        await kube.create(kind, namespace, made)
        # The rules know a status write by its status: it must make no difference.
        await kube.patch_status(kind, namespace, name, {"status": {"phase": "Running"}})
        patch = json.dumps({"spec": {"desiredState": after}})
        said = await kubectl("patch", f"{kind}.perdure.dev", name, "--type=merge", f"--patch={patch}")
        assert (said.code == 0) is allowed, (before, after, said.error)
        if before == "Cancelled" and not allowed:
            assert (
                f"spec.desiredState: Invalid value: Cancelled is final: apply the {kind} under" in said.error
            )
        found = await kube.get(kind, namespace, name)
        assert found["spec"].get("desiredState") == (after if allowed else before)
        assert found["status"] == {"phase": "Running"}


async def test_a_client_that_pauses_a_run_owns_no_other_field(
    kubectl: Kubectl, kube: KubeClient, namespace: str
) -> None:
    apply = ("apply", "--server-side", "--field-manager=git")
    await kubectl(*apply, objects=[BASE])
    patch = '--patch={"spec":{"desiredState":"Paused"}}'
    assert (await kubectl("patch", "workflows.perdure.dev", "audit", "--type=merge", patch)).code == 0
    said = await kubectl(*apply, objects=[BASE])
    assert said.code == 0, said.error
    assert (await kube.get("Workflow", namespace, "audit"))["spec"] == BASE["spec"] | {
        "desiredState": "Paused"
    }


async def test_a_write_to_the_status_changes_no_spec_and_vice_versa(
    kubectl: Kubectl, kube: KubeClient, namespace: str
) -> None:
    # The rule that guards the spec leaves status writes alone. This is why it can.
    await kubectl("apply", objects=[BASE])
    patch = {"spec": {"inputs": {"a": 2}, "timeout": "1h"}, "status": {"phase": "Running"}}
    await kube.patch_status("Workflow", namespace, "audit", patch)
    found = await kube.get("Workflow", namespace, "audit")
    assert found["spec"] == BASE["spec"] and found["status"] == {"phase": "Running"}
    patch["status"] = {"phase": "Succeeded"}
    text = f"--patch={json.dumps(patch)}"
    said = await kubectl("patch", "workflows.perdure.dev", "audit", "--type=merge", text)
    assert "nothing but desiredState can be changed" in said.error


async def test_a_tasks_spec_cannot_be_changed_but_labels_can(kubectl: Kubectl) -> None:
    await kubectl("apply", objects=[task(input={"a": 1})])
    said = await kubectl("apply", objects=[task(input={"b": 1})])
    assert "delete this AgentTask and apply it again" in said.error
    labelled = task(input={"a": 1})
    labelled["metadata"]["labels"] = {"team": "a"}
    assert (await kubectl("apply", objects=[labelled])).code == 0


async def test_two_clients_can_own_different_variables_of_a_template(
    kubectl: Kubectl, kube: KubeClient, namespace: str
) -> None:
    apply = ("apply", "--server-side")
    await kubectl(*apply, "--field-manager=one", objects=[template(env=[{"name": "A", "value": "1"}])])
    other = template(env=[{"name": "B", "value": "2"}])
    del other["spec"]["image"]
    said = await kubectl(*apply, "--field-manager=two", objects=[other])
    assert said.code == 0, said.error
    await kubectl(*apply, "--field-manager=one", objects=[template(env=[{"name": "A", "value": "3"}])])
    found = await kube.get("AgentTemplate", namespace, "auditor")
    assert found["spec"] == {
        "image": "agents/a:1",
        "env": [{"name": "A", "value": "3"}, {"name": "B", "value": "2"}],
    }


REFUSED: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    (
        "501 steps",
        workflow(*(step(f"s{number}") for number in range(501))),
        ("spec.steps: Too many: 501: must have at most 500 items",),
    ),
    (
        "step name twice",
        workflow(step("a"), step("b"), step("a")),
        ("spec.steps: Invalid value: two steps have",),
    ),
    (
        "name of a finally step",
        workflow(step("a"), last=[step("a")]),
        ("two steps have the same name: give each its own, steps and finally steps alike",),
    ),
    (
        "name twice in finally",
        workflow(step("a"), last=[step("b"), step("b")]),
        ("two steps have the same name",),
    ),
    (
        "name twice in a template",
        workflow_template(step("a"), step("a")),
        ("two steps have the same name",),
    ),
    ("step name", workflow(step("A_b")), ("spec.steps[0].name", "should match")),
    ("long step name", workflow(step("a" * 64)), ("spec.steps[0].name: Too long: may not be more than 63",)),
    (
        "unknown field",
        workflow(step(dependOn=["a"])),
        ('strict decoding error: unknown field "spec.steps[0].dependOn"',),
    ),
    ("snake case", workflow(step(depends_on=["a"])), ('unknown field "spec.steps[0].depends_on"',)),
    (
        "dotted name",
        workflow(name="team.audit"),
        ("metadata.name: the name of a Workflow has at most 63 characters and no dots",),
    ),
    ("long name", workflow(name="a" * 64), ("has at most 63 characters and no dots",)),
    ("dotted task", task(name="a.b"), ("metadata.name: the name of an AgentTask has at most 63",)),
    ("no steps", {**workflow(), "spec": {}}, ("takes exactly one of steps and templateRef",)),
    ("template without steps", {**workflow_template(), "spec": {}}, ("spec.steps: Required value",)),
    (
        "steps and template",
        workflow(templateRef="t"),
        ("takes exactly one of steps and templateRef", "they come from the template"),
    ),
    *(
        (
            f"template and {field}",
            {**workflow(), "spec": {"templateRef": "t", field: value}},
            ("spec.templateRef", "takes no failurePolicy, defaults, steps or finally next to it"),
        )
        for field, value in {
            "failurePolicy": "RunAll",
            "defaults": {},
            "finally": [step("z")],
        }.items()
    ),
    (
        "51 finally steps",
        workflow(last=[step(f"f{number}") for number in range(51)]),
        ("spec.finally: Too many: 51: must have at most 50 items",),
    ),
    *(
        (f"wait with {field}", workflow({"name": "a", "wait": {"duration": "1s"}, field: value}), (text,))
        for field, value, text in (
            ("agent", AGENT, "a step has at most one of agent, wait and workflow"),
            ("workflow", {"templateRef": "t"}, "a step has at most one of agent, wait and workflow"),
            ("retry", {}, "a step with wait takes no retry, disruptions, timeout"),
            ("disruptions", {}, "a step with wait takes no"),
            ("timeout", "1s", "a step with wait takes no"),
            ("pendingTimeout", "1s", "a step with wait takes no"),
            ("idleTimeout", "1s", "a step with wait takes no"),
            ("cache", {"key": "k"}, "a step with wait takes no"),
            ("repeat", {"until": "${true}", "maxIterations": 1}, "a step with wait takes no"),
        )
    ),
    *(
        (
            f"workflow with {field}",
            workflow({"name": "a", "workflow": {"templateRef": "t"}, field: value}),
            (text,),
        )
        for field, value, text in (
            ("agent", AGENT, "a step has at most one of agent, wait and workflow"),
            ("pendingTimeout", "1s", "a step with workflow takes no pendingTimeout or idleTimeout"),
            ("idleTimeout", "1s", "a step with workflow takes no"),
        )
    ),
    (
        "in finally too",
        workflow(last=[{"name": "z", "wait": {"duration": "1s"}, "timeout": "1s"}]),
        ("spec.finally: Invalid value: a step with wait takes no",),
    ),
    ("wait for nothing", workflow({"name": "a", "wait": {}}), ("should have at least 1 properties",)),
    (
        "wait for both",
        workflow({"name": "a", "wait": {"duration": "1s", "until": "x"}}),
        ("spec.steps[0].wait: Too many: 2",),
    ),
    ("no child", workflow({"name": "a", "workflow": {}}), ("exactly one of templateRef and spec",)),
    (
        "two children",
        workflow({"name": "a", "workflow": {"templateRef": "t", "spec": {"steps": []}}}),
        ("exactly one of templateRef and spec",),
    ),
    ("endless repeat", workflow(step(repeat={"until": "${true}"})), ("maxIterations: Required value",)),
    (
        "iterations",
        workflow(step(repeat={"until": "${true}", "maxIterations": 1001})),
        ("less than or equal to 1000",),
    ),
    ("no expression", workflow(step(when="x > 1")), ("spec.steps[0].when", "should match")),
    ("percentage", workflow(step(forEach=[1], maxFailures="101%")), ("maxFailures", "should match")),
    ("failures", workflow(step(forEach=[1], maxFailures=10_001)), ("less than or equal to 10000",)),
    ("factor", workflow(step(retry={"backoff": {"factor": 0.5}})), ("greater than or equal to 1",)),
    ("priority", workflow(priority=1001), ("spec.priority", "less than or equal to 1000")),
    ("state", workflow(desiredState="Stopped"), ("spec.desiredState: Unsupported value",)),
    ("failure policy", workflow(failurePolicy="Stop"), ("spec.failurePolicy: Unsupported value",)),
    ("model", template(model="m" * 257), ("spec.model: Too long: may not be more than 256",)),
    ("executor", template(executor="Deployment"), ("spec.executor: Unsupported value",)),
    ("schedule's name", schedule("n" * 53), ("the name of a WorkflowSchedule has at most 52 characters",)),
    ("schedule without workflow", schedule(workflow=None), ("spec.workflow",)),
    ("zone", schedule(timeZone="../etc"), ("spec.timeZone", "should match")),
    (
        "no spec",
        {key: value for key, value in workflow().items() if key != "spec"},
        ("spec: Required value",),
    ),
    (
        "empty steps",
        {**workflow(), "spec": {"steps": []}},
        ("spec.steps in body should have at least 1 items",),
    ),
    (
        "itself",
        workflow(step(dependsOn=["a"])),
        ("spec.steps: Invalid value: a step cannot depend on itself: remove its name from its dependsOn",),
    ),
    (
        "dependency twice",
        workflow(step("a"), step("b", dependsOn=["a", "a"])),
        ("dependsOn[1]: Duplicate value",),
    ),
    (
        "no container",
        workflow(step(), step("b", agent={"args": ["x"]})),
        (
            "spec.steps: Invalid value: every step needs agent.image or agent.templateRef, its own or one in"
            " spec.defaults.agent, or else wait or workflow",
        ),
    ),
    ("task without container", task(agent={"args": ["x"]}), ("spec.agent", "needs image or templateRef")),
    ("parallelism", workflow(parallelism=0), ("spec.parallelism", "greater than or equal to 1")),
    ("retries", workflow(step(retry={"limit": 1001})), ("less than or equal to 1000",)),
    ("duration", workflow(retention={"ttlAfterFinished": "7 days"}), ("spec.retention.ttlAfterFinished",)),
    (
        "quantity",
        workflow(step(agent={**AGENT, "resources": {"limits": {"cpu": "0,5"}}})),
        ("spec.steps[0].agent.resources.limits.cpu",),
    ),
    (
        "variable twice",
        workflow(step(agent={**AGENT, "env": [{"name": "A"}, {"name": "A"}]})),
        ('spec.steps[0].agent.env[1]: Duplicate value: {"name":"A"}',),
    ),
    (
        "two values",
        task(
            agent={
                **AGENT,
                "env": [{"name": "A", "value": "", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            }
        ),
        ("spec.agent.env[0]: Too many: 3: must have at most 2 items",),
    ),
    (
        "value from nowhere",
        task(agent={**AGENT, "env": [{"name": "A", "valueFrom": {}}]}),
        ("spec.agent.env[0].valueFrom in body should have at least 1 properties",),
    ),
    ("template of a template", template(templateRef="other"), ('unknown field "spec.templateRef"',)),
]


@pytest.mark.parametrize(("made", "texts"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
async def test_a_faulty_manifest_is_refused(
    kubectl: Kubectl, made: dict[str, Any], texts: tuple[str, ...]
) -> None:
    said = await kubectl("apply", objects=[made])
    assert said.code != 0
    for text in texts:
        assert text in said.error


async def test_a_sound_manifest_is_accepted(kubectl: Kubectl, kube: KubeClient, namespace: str) -> None:
    inline = {"steps": [step(forEach=[1], input={"a": None})], "outputs": {"b": None}}
    made = [
        {**workflow(name="by-template"), "spec": {"templateRef": "t", "inputs": {"a": None}}},
        {
            **workflow(name="with-template-and-own-fields"),
            "spec": {
                "templateRef": "t",
                "inputs": {},
                "desiredState": "Paused",
                "parallelism": 1,
                "priority": -1000,
                "timeout": "1h",
                "retention": {"ttlAfterFinished": "1h", "checkpointsPerTask": 1, "pods": "OnFailure"},
            },
        },
        workflow(
            {"name": "pause", "wait": {"duration": "${inputs.long}"}, "when": "${\n  true\n}\n"},
            {"name": "sub", "workflow": {"spec": inline, "inputs": {"x": [None]}}, "timeout": "1h"},
            step("loop", repeat={"until": "${last.done}", "maxIterations": 1000}, cache={"key": "k"}),
            step(
                "fan",
                forEach="${inputs.files}",
                parallelism=2,
                maxFailures="20%",
                continueOnFailure=True,
                retry={"limit": 3, "backoff": {"initial": "10s", "factor": 1.5, "max": "5m", "jitter": 0}},
                disruptions={"limit": 0},
                timeout="1h",
                pendingTimeout="1m",
                idleTimeout="1m",
            ),
            step("few", forEach=[1], maxFailures=0),
            name="language",
            failurePolicy="RunAll",
            last=[step("z", agent={**AGENT, "executor": "Job", "podTemplate": {"spec": {"a": 1}}})],
        ),
        workflow_template(parameters={"type": "object", "properties": {"a": {"default": None}}}),
        schedule(timeZone="America/Argentina/Buenos_Aires", workflow={"spec": inline}),
    ]
    for _ in range(2):
        said = await kubectl("apply", "--server-side", objects=made)
        assert said.code == 0, said.error
    for item in made:
        found = await kube.get(item["kind"], namespace, item["metadata"]["name"])
        assert found["spec"] == item["spec"], "nothing is filled in or pruned"


GIANT = workflow(
    *(
        step(f"s{number}", dependsOn=[f"s{other}" for other in range(max(0, number - 100), number)])
        for number in range(500)
    ),
    name="giant",
    last=[step(f"f{number}") for number in range(50)],
)


async def test_the_largest_graph_fits_the_rules_budget(kubectl: Kubectl) -> None:
    for _ in range(2):  # made, and compared with itself
        said = await kubectl("apply", "--server-side", objects=[GIANT])
        assert said.code == 0, said.error
    patch = '--patch={"spec":{"desiredState":"Paused"}}'
    said = await kubectl("patch", "workflows.perdure.dev", "giant", "--type=merge", patch)
    assert said.code == 0, said.error
    said = await kubectl("apply", "--server-side", objects=[{**GIANT, "kind": "WorkflowTemplate"}])
    assert said.code == 0, said.error


async def test_a_status_patch_adds_little_bookkeeping(
    kubectl: Kubectl, kube: KubeClient, namespace: str
) -> None:
    many = workflow(*(step(f"s{number}", input={"number": number}) for number in range(100)))
    await kubectl("apply", "--server-side", objects=[many])
    await kube.patch_status("Workflow", namespace, "audit", {"status": {"phase": "Running"}})
    found = await kube.get("Workflow", namespace, "audit")
    owned = [row["fieldsV1"] for row in found["metadata"]["managedFields"]]
    assert {"f:spec": {"f:steps": {}}} in owned, "what cannot change is owned as a whole"
    assert len(str(owned)) < 500
