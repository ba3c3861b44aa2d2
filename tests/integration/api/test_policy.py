"""The ValidatingAdmissionPolicy of the chart: `kubectl apply` names dependencies that do not exist."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.integration.api.conftest import Kubectl
from tests.integration.api.objects import step, workflow
from tests.integration.api.test_crds import GIANT
from tests.integration.apiserver import eventually

from perdure.kube.client import KubeClient

TEXT = Path(__file__).parents[3] / "charts/perdure/files/validating-admission-policy.yaml"

UNKNOWN = workflow(
    step("a", dependsOn=["b", "typo", "slip"]), step("b"), step("c", dependsOn=["a", "gone"]), name="unknown"
)


@pytest.fixture
async def policy(kubectl: Kubectl, kube: KubeClient, namespace: str) -> AsyncIterator[str]:
    """The policy's name, once it acts, and in this namespace only: other tests apply what it would refuse."""
    made, binding = yaml.safe_load_all(TEXT.read_text())
    assert binding["spec"]["policyName"] == made["metadata"]["name"]
    for item in (made, binding):
        item["metadata"]["name"] = f"workflows.{namespace}"
    binding["spec"]["policyName"] = made["metadata"]["name"]
    binding["spec"]["matchResources"] = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    }
    said = await kubectl("apply", objects=[made, binding])
    assert said.code == 0, said.error

    async def acts() -> bool:
        tried = await kubectl("create", "--dry-run=server", objects=[UNKNOWN])
        return "ValidatingAdmissionPolicy" in tried.error

    await eventually(acts)
    yield made["metadata"]["name"]
    await kubectl(
        "delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", made["metadata"]["name"]
    )


async def test_the_policy(kubectl: Kubectl, kube: KubeClient, policy: str) -> None:
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
        # Runs out of the policy's budget; the operator looks at it itself.
        GIANT,
    ):
        said = await kubectl("apply", "--server-side", objects=[good])
        assert said.code == 0, said.error

    # A person can still change labels of what exists.
    relabelled = copy.deepcopy(GIANT)
    relabelled["metadata"]["labels"] = {"team": "a"}
    assert (await kubectl("apply", "--server-side", objects=[relabelled])).code == 0


async def test_the_policy_compiles_without_warnings(kube: KubeClient, policy: str) -> None:
    path = f"/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{policy}"
    found: dict[str, Any] = {}

    async def checked() -> bool:
        found.update(await kube.raw_get(path))
        return "typeChecking" in found.get("status", {})

    await eventually(checked)
    assert found["status"]["typeChecking"] == {}
