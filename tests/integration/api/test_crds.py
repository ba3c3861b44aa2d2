"""The CustomResourceDefinitions on a real API server: what people see, and which words refuse what."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tests.integration.api.conftest import Kubectl
from tests.integration.api.objects import AGENT, step, task, template, workflow

from perdure.api import crds
from perdure.api.kinds import KINDS
from perdure.api.status import MAX_STATUS_STEPS
from perdure.kube.client import KubeClient

pytestmark = pytest.mark.usefixtures("apiserver")

TIME = "2026-11-21T08:00:00Z"


async def test_the_definitions_are_established_and_structural(kube: KubeClient) -> None:
    for kind in KINDS:
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
    }.items():
        said = await kubectl("explain", path)
        assert text in " ".join(said.out.split()), (path, said)


async def test_names_and_category(kubectl: Kubectl) -> None:
    said = await kubectl("api-resources", "--api-group=perdure.dev", "--no-headers", "-o", "wide")
    rows = {row.split()[0]: row.split() for row in said.out.splitlines()}
    assert {name: row[1] for name, row in rows.items()} == {kind.plural: kind.short_name for kind in KINDS}
    assert all(row[-1] == "perdure" for row in rows.values())

    await kubectl("apply", objects=[workflow(), task(), template()])
    said = await kubectl("get", "perdure", "-o", "name")
    assert said.out.split() == [
        "agenttask.perdure.dev/single",
        "agenttemplate.perdure.dev/auditor",
        "workflow.perdure.dev/audit",
    ]


async def test_columns_of_a_workflow(kubectl: Kubectl, kube: KubeClient, namespace: str) -> None:
    await kubectl("apply", objects=[workflow()])
    status = {"phase": "Running", "progress": "3/10", "message": "Backoff", "attempts": 4, "events": 17}
    await kube.patch_status("Workflow", namespace, "audit", {"status": status})
    header, row = (await kubectl("get", "workflows")).out.splitlines()
    assert header.split() == ["NAME", "PHASE", "PROGRESS", "MESSAGE", "AGE"]
    assert row.split()[:4] == ["audit", "Running", "3/10", "Backoff"]
    header, row = (await kubectl("get", "workflows", "-o", "wide")).out.splitlines()
    assert header.split() == ["NAME", "PHASE", "PROGRESS", "MESSAGE", "AGE", "ATTEMPTS", "EVENTS"]
    assert row.split()[-2:] == ["4", "17"]


async def test_columns_of_a_task_show_the_label_or_else_the_number(
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


async def test_kubectl_waits_for_a_condition(kubectl: Kubectl, kube: KubeClient, namespace: str) -> None:
    await kubectl("apply", objects=[workflow()])
    condition = {"type": "Complete", "status": "True", "reason": "Succeeded", "message": ""}
    condition |= {"lastTransitionTime": TIME, "observedGeneration": 1}
    await kube.patch_status("Workflow", namespace, "audit", {"status": {"conditions": [condition]}})
    said = await kubectl("wait", "--for=condition=Complete", "workflow/audit", "--timeout=20s")
    assert said.code == 0, said.error


async def test_status_of_a_newer_operator_is_kept(kubectl: Kubectl, kube: KubeClient, namespace: str) -> None:
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
async def test_applying_twice_changes_nothing(
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


async def test_nulls_are_kept(kubectl: Kubectl, kube: KubeClient, namespace: str) -> None:
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


def changed(*path: str | int, to: Any) -> dict[str, Any]:
    made = copy.deepcopy(BASE)
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
    ],
)
async def test_a_spec_cannot_be_changed_and_the_message_says_what_to_do(
    kubectl: Kubectl, other: dict[str, Any]
) -> None:
    for number, flags in enumerate(((), ("--server-side",))):
        # An applier owns what it applied: each has an object of its own.
        base, next_one = copy.deepcopy(BASE), copy.deepcopy(other)
        base["metadata"]["name"] = next_one["metadata"]["name"] = f"audit-{number}"
        assert (await kubectl("apply", *flags, objects=[base])).code == 0
        said = await kubectl("apply", *flags, objects=[next_one])
        assert said.code != 0
        assert "spec: Invalid value" in said.error
        assert (
            "cannot be changed once it is applied: apply it under a new name, or delete this Workflow"
            " and apply it again" in said.error
        )


async def test_a_tasks_spec_cannot_be_changed_but_labels_can(kubectl: Kubectl) -> None:
    await kubectl("apply", objects=[task(input={"a": 1})])
    said = await kubectl("apply", objects=[task(input={"b": 1})])
    assert "delete this AgentTask and apply it again" in said.error
    labelled = task(input={"a": 1})
    labelled["metadata"]["labels"] = {"team": "a"}
    assert (await kubectl("apply", objects=[labelled])).code == 0


async def test_a_template_can_be_edited_by_several_who_own_different_variables(
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
    ("step name twice", workflow(step("a"), step("a")), ('spec.steps[1]: Duplicate value: {"name":"a"}',)),
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
    ("no steps", {**workflow(), "spec": {}}, ("spec.steps: Required value",)),
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
            " spec.defaults.agent",
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
async def test_what_is_refused(kubectl: Kubectl, made: dict[str, Any], texts: tuple[str, ...]) -> None:
    said = await kubectl("apply", objects=[made])
    assert said.code != 0
    for text in texts:
        assert text in said.error


GIANT = workflow(
    *(
        step(f"s{number}", dependsOn=[f"s{other}" for other in range(max(0, number - 100), number)])
        for number in range(500)
    ),
    name="giant",
)


async def test_the_largest_graph_fits_the_rules_budget(kubectl: Kubectl) -> None:
    for _ in range(2):  # made, and compared with itself
        said = await kubectl("apply", "--server-side", objects=[GIANT])
        assert said.code == 0, said.error


async def test_a_status_patch_adds_little_bookkeeping(
    kubectl: Kubectl, kube: KubeClient, namespace: str
) -> None:
    many = workflow(*(step(f"s{number}", input={"number": number}) for number in range(100)))
    await kubectl("apply", "--server-side", objects=[many])
    await kube.patch_status("Workflow", namespace, "audit", {"status": {"phase": "Running"}})
    found = await kube.get("Workflow", namespace, "audit")
    owned = [row["fieldsV1"] for row in found["metadata"]["managedFields"]]
    assert {"f:spec": {}} in owned, "a spec that cannot change is owned as a whole"
    assert len(str(owned)) < 500
