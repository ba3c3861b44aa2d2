"""The ValidatingAdmissionPolicy of the chart: `kubectl apply` names dependencies that do not exist."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.integration.api.conftest import Kubectl
from tests.integration.api.objects import step, task, workflow, workflow_template
from tests.integration.api.test_crds import GIANT
from tests.support.waiting import until

from perdure.kube.client import KubeClient

TEXT = Path(__file__).parents[3] / "charts/perdure/files/validating-admission-policy.yaml"

UNKNOWN = workflow(
    step("a", dependsOn=["b", "typo", "slip"]), step("b"), step("c", dependsOn=["a", "gone"]), name="unknown"
)


@pytest.fixture
async def policies(kubectl: Kubectl, kube: KubeClient, namespace: str) -> AsyncIterator[list[str]]:
    """The names of the policies, in force in this namespace only: other tests apply faulty manifests."""
    items = list(yaml.safe_load_all(TEXT.read_text()))
    for item in items:
        item["metadata"]["name"] = f"{item['metadata']['name'].partition('.')[0]}.{namespace}"
        if item["kind"] == "ValidatingAdmissionPolicyBinding":
            item["spec"]["policyName"] = f"{item['spec']['policyName'].partition('.')[0]}.{namespace}"
            assert item["spec"]["policyName"] == item["metadata"]["name"]
            item["spec"]["matchResources"] = {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
            }
    said = await kubectl("apply", objects=items)
    assert said.code == 0, said.error

    async def acts() -> bool:
        tried = await kubectl("create", "--dry-run=server", objects=[UNKNOWN])
        return "ValidatingAdmissionPolicy" in tried.error

    await until(acts)
    names = sorted({item["metadata"]["name"] for item in items})
    yield names
    await kubectl("delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", *names)


async def test_the_policy_refuses_what_the_schemas_cannot(
    kubectl: Kubectl, kube: KubeClient, policies: list[str]
) -> None:
    said = await kubectl("apply", objects=[UNKNOWN])
    assert said.code != 0
    assert (
        "spec.steps: dependsOn names steps that do not exist: a depends on typo, slip; c depends on gone"
        in said.error
    )

    many = workflow(
        step(forEach=list(range(10_001))), step("b", forEach={str(key): 1 for key in range(10_001)})
    )
    said = await kubectl("apply", "--server-side", objects=[many])
    assert "spec.steps: forEach has more than 10000 items: a, b. Give each item more to do" in said.error

    for good in (
        workflow(step("a"), step("b", dependsOn=["a"]), name="good"),
        workflow(step(forEach=list(range(10_000))), name="full"),
        workflow(step(forEach="${inputs.files}"), step("b", forEach=None), name="computed"),
        # Wrong in a way that others report: the policy must not fail on it.
        workflow(step(forEach=5), name="number"),
        workflow(
            step("a"),
            step("b", forEach=[1], parallelism=1, maxFailures=1),
            name="together",
            last=[step("y"), step("z", dependsOn=["y"])],
        ),
        {**workflow(name="by-template"), "spec": {"templateRef": "t"}},
        # Exceeds the policy's budget; the operator checks the manifest itself.
        GIANT,
    ):
        said = await kubectl("apply", "--server-side", objects=[good])
        assert said.code == 0, said.error

    for wrong, text in (
        (
            workflow(step("a", parallelism=2)),
            "parallelism and maxFailures go with forEach only: a. Add forEach",
        ),
        (
            workflow(step("a"), last=[step("z", maxFailures=1)]),
            "parallelism and maxFailures go with forEach only: z",
        ),
        (
            workflow(step("a", forEach=[1], repeat={"until": "${true}", "maxIterations": 1})),
            "forEach and repeat do not go together: a",
        ),
        (
            workflow({"name": "a", "wait": {"duration": "1s"}, "input": {}}),
            "a step with wait or workflow takes no input: a",
        ),
        (
            workflow({"name": "a", "workflow": {"templateRef": "t"}, "input": 1}),
            "a step with wait or workflow takes no input: a",
        ),
        (
            workflow(step("a"), last=[step("y"), step("z", dependsOn=["y", "a"])]),
            "spec.finally: dependsOn names steps that are no finally steps: z depends on a.",
        ),
        (
            with_spec({**workflow(), "spec": {}}, templateRef="t", outputs={"a": 1}),
            "spec.outputs: does not go together with templateRef",
        ),
        (workflow_template(step("a", dependsOn=["gone"])), "do not exist: a depends on gone"),
    ):
        said = await kubectl("apply", "--server-side", objects=[wrong])
        assert text in said.error

    # A user can still change labels of existing objects.
    relabelled = copy.deepcopy(GIANT)
    relabelled["metadata"]["labels"] = {"team": "a"}
    assert (await kubectl("apply", "--server-side", objects=[relabelled])).code == 0


BEFORE = workflow(step(input={"a": 1}), inputs={"a": {"b": 1}, "c": 1}, outputs={"a": 1})


def with_spec(made: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**made, "spec": {**made["spec"], **fields}}


async def test_a_change_of_desired_state_can_carry_no_other_change(
    kubectl: Kubectl, kube: KubeClient, namespace: str, policies: list[str]
) -> None:
    before, child = copy.deepcopy(BEFORE), {"a": 1, "steps": [{"name": "b"}]}
    before["spec"]["steps"].append({"name": "sub", "workflow": {"spec": child}})
    single = task(input={"a": 1})
    await kubectl("apply", objects=[before, single])
    other_child = copy.deepcopy(before["spec"]["steps"])
    other_child[1]["workflow"]["spec"] = {"z": 1, "steps": [{"name": "b"}]}
    # The rules of the schema let these through.
    for wrong in (
        with_spec(before, desiredState="Paused", inputs={"a": {"b": 2}, "c": 1}),
        with_spec(before, desiredState="Paused", inputs={"a": {"b": 1}}),
        with_spec(before, desiredState="Paused", outputs={}),
        with_spec(before, steps=other_child),
        with_spec(single, desiredState="Paused", input={"a": 2}),
    ):

        async def refused(wrong: dict[str, Any] = wrong) -> bool:
            said = await kubectl("replace", "--dry-run=server", objects=[wrong])
            return "spec: nothing but desiredState can be changed once it is applied" in said.error

        await until(refused)
    for state in ("Paused", "Running", "Cancelled"):
        for made in (before, single):
            said = await kubectl("apply", objects=[with_spec(made, desiredState=state)])
            assert said.code == 0, said.error


async def test_the_policies_compile_without_warnings(kube: KubeClient, policies: list[str]) -> None:
    assert len(policies) == 2
    for name in policies:
        path = f"/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{name}"
        found: dict[str, Any] = {}

        async def checked(path: str = path, found: dict[str, Any] = found) -> bool:
            found.update(await kube.raw_get(path))
            return "typeChecking" in found.get("status", {})

        await until(checked)
        assert found["status"]["typeChecking"] == {}
