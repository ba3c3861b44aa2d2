"""`helm uninstall` takes away what the chart made, and leaves everybody's workflows; then it can come back.

Runs last, because nothing works after it (see `conftest.py`).
"""

from __future__ import annotations

import pytest
from hack.install import install
from hack.target import NAMESPACE, RELEASE

from tests.cluster.installation import DEADLINE, Installation
from tests.cluster.manifests import leave, python, step, workflow
from tests.cluster.runs import Run
from tests.cluster.waiting import until

_CRDS = [
    f"{plural}.perdure.dev"
    for plural in ("agenttasks", "agenttemplates", "workflows", "workflowschedules", "workflowtemplates")
]
_NAMESPACED = (
    "deployments,statefulsets,services,serviceaccounts,secrets,configmaps,roles,rolebindings,jobs,pods"
)
_WIDE = (
    "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings,"
    "customresourcedefinitions"
)
MANIFEST = workflow("kept", step("only", python(leave('"kept"'))), outputs={"only": "${steps.only.output}"})


@pytest.fixture(scope="module")
def kept(perdure: Installation) -> Run:
    """A run that has succeeded before."""
    run = Run.apply(perdure, perdure.make_namespace("kept"), MANIFEST)
    run.until()
    return run


def test_uninstall_leaves_the_definitions_and_workflows(perdure: Installation, kept: Run) -> None:
    before = perdure.get(kept.resource, "-n", kept.namespace)
    said = perdure.helm("uninstall", RELEASE, "--wait", "--timeout", "120s")
    assert said.code == 0, said.error

    assert perdure.ok("get", "crd", "-o", "name").split() == [
        f"customresourcedefinition.apiextensions.k8s.io/{name}" for name in _CRDS
    ]
    ours = ("-l", f"app.kubernetes.io/instance={RELEASE}", "-o", "name")

    def left() -> list[str]:
        names = perdure.ok("get", _NAMESPACED, "-n", NAMESPACE, *ours) + perdure.ok("get", _WIDE, *ours)
        return [name for name in names.split() if not name.startswith("customresourcedefinition")]

    # Helm waits for what it made itself; the Deployments' pods end a moment later.
    until(lambda: not left(), seconds=DEADLINE, what="everything of the release to go")
    everything = perdure.ok("get", _WIDE, "-o", "name").split()
    assert [name for name in everything if "perdure" in name and "customresourcedefinition" not in name] == []
    assert perdure.get(kept.resource, "-n", kept.namespace) == before
    assert len(kept.pods()) == 1


def test_a_second_installation_keeps_workflows(perdure: Installation, kept: Run) -> None:
    """The definitions that were kept are taken over, and finished runs stay as they were."""
    before = perdure.get(kept.resource, "-n", kept.namespace)
    install(perdure.target)
    run = Run.apply(perdure, perdure.make_namespace("again"), MANIFEST)
    assert run.until()["outputs"] == {"only": "kept"}
    run.events()
    assert perdure.get(kept.resource, "-n", kept.namespace) == before
