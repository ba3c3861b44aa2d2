"""Least privilege: what the chart's accounts may do, and what its pods and the agents' run as."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hack.target import NAMESPACE

from tests.cluster.installation import COMPONENTS, Installation
from tests.cluster.manifests import leave, python, step, workflow
from tests.cluster.runs import Run

_OPERATOR = f"system:serviceaccount:{NAMESPACE}:perdure-operator"
_GATEWAY = f"system:serviceaccount:{NAMESPACE}:perdure-gateway"
_AGENT = "system:serviceaccount:default:default"

#: Account, verb and resource, namespace (None for the whole cluster), and the expected answer.
TABLE = [
    *(
        (_OPERATOR, f"{verb} workflows.perdure.dev", None, True)
        for verb in ("get", "list", "watch", "create", "patch", "delete")
    ),
    (_OPERATOR, "update workflows.perdure.dev", None, False),
    (_OPERATOR, "patch workflows.perdure.dev/status", None, True),
    (_OPERATOR, "create agenttasks.perdure.dev", None, True),
    *((_OPERATOR, f"{verb} agenttasks.perdure.dev", None, False) for verb in ("update", "patch")),
    (_OPERATOR, "update agenttemplates.perdure.dev", None, False),
    (_OPERATOR, "create workflowtemplates.perdure.dev", None, False),
    (_OPERATOR, "patch workflowschedules.perdure.dev/status", None, True),
    *((_OPERATOR, f"{verb} workflowschedules.perdure.dev", None, False) for verb in ("create", "patch")),
    *((_OPERATOR, f"{verb} jobs.batch", None, True) for verb in ("get", "create", "delete")),
    *((_OPERATOR, f"{verb} jobs.batch", None, False) for verb in ("update", "patch", "deletecollection")),
    *((_OPERATOR, f"{verb} pods", None, True) for verb in ("get", "list", "watch", "create", "delete")),
    *((_OPERATOR, f"{verb} pods", None, False) for verb in ("update", "patch", "deletecollection")),
    (_OPERATOR, "create pods/exec", None, False),
    (_OPERATOR, "create pods/attach", None, False),
    (_OPERATOR, "get pods/log", None, False),
    (_OPERATOR, "patch pods/ephemeralcontainers", None, False),
    (_OPERATOR, "create pods/eviction", None, False),
    *((_OPERATOR, f"{verb} secrets", None, False) for verb in ("get", "list", "watch", "create")),
    (_OPERATOR, "get secrets/perdure-postgres", NAMESPACE, False),
    (_OPERATOR, "get configmaps", None, False),
    (_OPERATOR, "create serviceaccounts/token", NAMESPACE, False),
    (_OPERATOR, "impersonate serviceaccounts", None, False),
    (_OPERATOR, "escalate clusterroles.rbac.authorization.k8s.io", None, False),
    (_OPERATOR, "bind clusterroles.rbac.authorization.k8s.io", None, False),
    (_OPERATOR, "create deployments.apps", NAMESPACE, False),
    (_OPERATOR, "get nodes", None, False),
    (_OPERATOR, "list namespaces", None, False),
    (_OPERATOR, "create events.events.k8s.io", None, True),
    (_OPERATOR, "list events.events.k8s.io", None, True),
    (_OPERATOR, "list events", None, False),
    (_OPERATOR, "watch events.events.k8s.io", None, False),
    (_OPERATOR, "update leases.coordination.k8s.io/perdure-operator", NAMESPACE, True),
    (_OPERATOR, "update leases.coordination.k8s.io/somebody-else", NAMESPACE, False),
    (_OPERATOR, "update leases.coordination.k8s.io/perdure-operator", "kube-system", False),
    (_GATEWAY, "get /openid/v1/jwks", None, True),
    (_GATEWAY, "get pods", NAMESPACE, False),
    (_GATEWAY, "get workflows.perdure.dev", NAMESPACE, False),
    (_GATEWAY, "get secrets", NAMESPACE, False),
    (_GATEWAY, "create tokenreviews.authentication.k8s.io", None, False),
    (_AGENT, "get workflows.perdure.dev", "default", False),
    (_AGENT, "get pods", "default", False),
    (_AGENT, "get secrets", "default", False),
]


def test_accounts_have_the_documented_permissions_only(perdure: Installation) -> None:
    def may(who: str, what: str, where: str | None) -> bool:
        place = ["-n", where] if where else []
        if not where and not what.startswith("get /"):
            place = ["--all-namespaces"]
        verb, _, resource = what.partition(" ")
        kind, slash, rest = resource.partition("/")
        # `pods/exec` is a subresource, `secrets/NAME` one object: kubectl writes only the latter so.
        parts = {"exec", "attach", "log", "status", "token", "eviction", "ephemeralcontainers"}
        words = (kind, f"--subresource={rest}") if slash and rest in parts else (resource,)
        said = perdure.kubectl("auth", "can-i", verb, *words, f"--as={who}", *place)
        answer = said.output.strip()
        assert answer in {"yes", "no"}, f"{what}: {said}"
        return answer == "yes"

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda row: may(*row[:3]), TABLE))
    wrong = [row for row, answer in zip(TABLE, answers, strict=True) if row[3] is not answer]
    assert not wrong


@pytest.mark.parametrize("component", COMPONENTS)
def test_pods_of_the_chart_are_restricted(perdure: Installation, component: str) -> None:
    (pod,) = perdure.pods(component)
    spec = pod["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
    needs_the_cluster = component in {"operator", "gateway"}
    assert spec.get("automountServiceAccountToken", True) is needs_the_cluster
    mounts = [mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]]
    assert ("/var/run/secrets/kubernetes.io/serviceaccount" in mounts) is needs_the_cluster


@pytest.mark.parametrize("component", ["operator", "gateway"])
def test_processes_are_restricted(perdure: Installation, component: str) -> None:
    """The processes themselves are checked, not the manifests that request the restrictions."""
    source = """
import os
for folder in ("/", "/usr", "/etc", "/app"):
    try:
        open(os.path.join(folder, "probe"), "w")
    except OSError as error:
        continue
    raise SystemExit(f"could write to {folder}")
status = open("/proc/1/status").read().split("\\n")
facts = dict(line.split(":\\t", 1) for line in status if ":\\t" in line)
print(os.getuid(), facts["Uid"].split()[0], facts["CapEff"], facts["CapBnd"], facts["NoNewPrivs"])
"""
    said = perdure.python(component, source).split()
    assert said == ["65532", "65532", "0" * 16, "0" * 16, "1"]


def test_the_namespace_admits_restricted_pods_only(perdure: Installation) -> None:
    labels = perdure.get("namespace", NAMESPACE)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_agents_have_no_token_of_the_cluster(perdure: Installation, namespace: str) -> None:
    mounted = "os.path.exists('/var/run/secrets/kubernetes.io')"
    source = f"import os; print({mounted}, file=open('/dev/termination-log', 'w'))"
    run = Run.apply(
        perdure, namespace, workflow("secrets", step("a", python(source)), step("b", python(leave("1"))))
    )
    run.until()
    (pod,) = run.pods("a")
    container = pod["spec"]["containers"][0]
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert run.tasks("a")[0]["status"]["output"] == "False"
