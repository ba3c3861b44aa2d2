"""How a run tells the simulated nodes what its pods are to do.

The nodes obey an annotation under our own domain, and the operator lets nobody's template set one of those. A
label of the template, which the API server turns into the annotation, gets there all the same; pods without
the label are not looked at.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hack.cluster.kwok import ANNOTATION

from perdure.kube.client import KubeClient
from perdure.kube.errors import ApiError

_LABEL = "bench/simulate"
_NAME = "bench-simulate"
_API = "/apis/admissionregistration.k8s.io/v1"
_WITHIN = 60.0


def template(how: str) -> dict[str, Any]:
    """A `podTemplate` for pods that do as `how` says; hack/cluster/kwok.py has the words."""
    return {"metadata": {"labels": {_LABEL: how}}}


async def prepare(kube: KubeClient) -> None:
    """Install what turns labels into annotations; returns when it does. Raises TimeoutError."""
    await kube.raw_post(f"{_API}/mutatingadmissionpolicies", _policy())
    await kube.raw_post(f"{_API}/mutatingadmissionpolicybindings", _binding())
    async with asyncio.timeout(_WITHIN):
        while not await _works(kube):  # noqa: ASYNC110 - what is waited for happens elsewhere
            await asyncio.sleep(0.1)


def _policy() -> dict[str, Any]:
    made = f'Object.metadata{{annotations: {{"{ANNOTATION}": object.metadata.labels["{_LABEL}"]}}}}'
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": _NAME},
        "spec": {
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": [""],
                        "apiVersions": ["v1"],
                        "operations": ["CREATE"],
                        "resources": ["pods"],
                    }
                ],
                "objectSelector": {"matchExpressions": [{"key": _LABEL, "operator": "Exists"}]},
            },
            "mutations": [
                {
                    "patchType": "ApplyConfiguration",
                    "applyConfiguration": {"expression": f"Object{{metadata: {made}}}"},
                }
            ],
        },
    }


def _binding() -> dict[str, Any]:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": _NAME},
        "spec": {"policyName": _NAME},
    }


async def _works(kube: KubeClient) -> bool:
    """Policies are taken up by and by."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": _NAME, "labels": {_LABEL: "hang"}},
        "spec": {"containers": [{"name": "none", "image": "none"}], "automountServiceAccountToken": False},
    }
    try:
        made = await kube.raw_post("/api/v1/namespaces/default/pods?dryRun=All", pod)
    except ApiError:
        return False  # the namespace's ServiceAccount comes by and by as well
    return (made["metadata"].get("annotations") or {}).get(ANNOTATION) == "hang"
