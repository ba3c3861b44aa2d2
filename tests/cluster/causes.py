"""Manifests that wait, one for each cause of waiting, and the objects that make them wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.cluster.manifests import leave, python, step, workflow

Object = dict[str, Any]

AGENT = python(leave("1"))
FOREVER = python("import time; time.sleep(3600)")
#: Nothing listens for this name.
NO_REGISTRY = "registry.invalid/none:1"
#: Of tasks of one namespace; more wait with reason Limit.
LIMIT = 20


@dataclass(frozen=True)
class Cause:
    """A run that waits, and what its status says."""

    manifest: Object
    reason: str
    #: Parts of the message.
    texts: tuple[str, ...]
    #: The step whose status has them.
    step: str = "a"
    #: The namespace, by its purpose (see `objects_of`).
    place: str = "plain"


def _pod(
    name: str, reason: str, *texts: str, place: str = "plain", agent: Object | None = None, **spec: Any
) -> Cause:
    """A run of one step whose pod does not start, for a field of the pod's spec."""
    block = dict(AGENT if agent is None else agent)
    if spec:
        block["podTemplate"] = {"spec": spec}
    return Cause(workflow(name, step("a", block)), reason, texts, place=place)


def _mounted(volume: Object) -> Object:
    return {
        "volumes": [{"name": "extra", **volume}],
        "containers": [{"name": "agent", "volumeMounts": [{"name": "extra", "mountPath": "/extra"}]}],
    }


def _from(source: Object) -> Object:
    return {**AGENT, "env": [{"name": "X", "valueFrom": source}]}


_HOUR = {"name": "first", "wait": {"duration": "1h"}}
_LONG = {"initial": "1h", "max": "1h"}
_SMALL = {"name": "x", "image": AGENT["image"]}

CAUSES: dict[str, Cause] = {
    "dependency": Cause(
        workflow("dependency", _HOUR, step("a", AGENT, dependsOn=["first"])),
        "Dependency",
        ("waits for first",),
    ),
    "parallelism": Cause(
        workflow("parallelism", step("a", FOREVER, forEach=[0, 1], parallelism=1)),
        "Parallelism",
        ("1 task waits: the step's parallelism 1",),
    ),
    "limit": Cause(
        workflow(
            "limit",
            step(
                "a",
                {**AGENT, "podTemplate": {"spec": {"nodeSelector": {"example.com/none": "x"}}}},
                forEach=list(range(LIMIT + 1)),
            ),
        ),
        "Limit",
        ("1 task waits: the limit of tasks that may run at once",),
        place="limit",
    ),
    "waiting": Cause(workflow("waiting", {"name": "a", "wait": {"duration": "1h"}}), "Waiting", ()),
    "backoff": Cause(
        workflow("backoff", step("a", python("exit(3)"), retry={"limit": 1, "backoff": _LONG})),
        "Backoff",
        ("attempt 2 starts at ", ": exit code 3"),
    ),
    "pause": Cause(workflow("pause", step("a", AGENT), desiredState="Paused"), "Paused", ("paused",)),
    "unschedulable": _pod("unschedulable", "Unschedulable", "node", nodeSelector={"example.com/none": "x"}),
    "claim": _pod(
        "claim",
        "Unschedulable",
        'persistentvolumeclaim "none" not found',
        **_mounted({"persistentVolumeClaim": {"claimName": "none"}}),
    ),
    "gates": _pod(
        "gates",
        "Starting",
        "SchedulingGated",
        "(example.com/approved)",
        schedulingGates=[{"name": "example.com/approved"}],
    ),
    "image": _pod("image", "ImagePull", NO_REGISTRY, agent={**AGENT, "image": NO_REGISTRY}),
    "init-image": _pod(
        "init-image",
        "ImagePull",
        "init container fetch: ",
        NO_REGISTRY,
        initContainers=[{"name": "fetch", "image": NO_REGISTRY}],
    ),
    "init-runs": _pod(
        "init-runs",
        "Starting",
        "init container slow: runs before the agent",
        initContainers=[{**_SMALL, "name": "slow", "command": ["sleep", "3600"]}],
    ),
    "sidecar": _pod(
        "sidecar",
        "Starting",
        "sidecar proxy: has not passed its startup probe",
        initContainers=[
            {
                **_SMALL,
                "name": "proxy",
                "command": ["sleep", "3600"],
                "restartPolicy": "Always",
                "startupProbe": {"exec": {"command": ["false"]}, "failureThreshold": 1000},
            }
        ],
    ),
    "secret-volume": _pod(
        "secret-volume",
        "Starting",
        "FailedMount: ",
        'secret "none" not found',
        **_mounted({"secret": {"secretName": "none"}}),
    ),
    "configmap-key": _pod(
        "configmap-key",
        "Starting",
        "FailedMount: ",
        "references non-existent config key: none",
        **_mounted({"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "none", "path": "x"}]}}),
    ),
    "secret-key": _pod(
        "secret-key",
        "Starting",
        "CreateContainerConfigError: ",
        'secret "none" not found',
        agent=_from({"secretKeyRef": {"name": "none", "key": "x"}}),
    ),
    "template": Cause(
        workflow("template", step("a", {"templateRef": "none"})), "TemplateNotFound", ("none",), step=""
    ),
    "quota": _pod("quota", "Quota", "exceeded quota: none-left", place="quota"),
    "limit-range": _pod(
        "limit-range",
        "Starting",
        "the API server refuses the pod: ",
        "maximum memory usage per Container is 8Mi",
        place="limit-range",
        agent={**AGENT, "resources": {"limits": {"memory": "16Mi"}}},
    ),
    "pod-security": _pod(
        "pod-security",
        "Starting",
        'the API server refuses the pod: ',
        'violates PodSecurity "restricted:latest"',
        place="restricted",
    ),
    "account": _pod(
        "account",
        "Starting",
        'serviceaccount "none" not found',
        agent={**AGENT, "serviceAccountName": "none"},
    ),
    "priority-class": _pod(
        "priority-class", "Starting", "no PriorityClass with name none was found", priorityClassName="none"
    ),
    "policy-invalid": _pod(
        "policy-invalid", "Starting", "ValidatingAdmissionPolicy", "denied request: never Invalid"
    ),
    "policy-forbidden": _pod(
        "policy-forbidden", "Starting", "ValidatingAdmissionPolicy", "denied request: never Forbidden"
    ),
    "webhook-away": _pod(
        "webhook-away", "Starting", 'failed calling webhook "causes.example.com"', "no-such-injector"
    ),
    "job-quota": Cause(
        workflow("job-quota", step("a", {**AGENT, "executor": "Job"})),
        "Starting",
        ("FailedCreate: ", "exceeded quota: none-left"),
        place="quota",
    ),
}  # fmt: skip


def namespaced() -> dict[str, list[Object]]:
    """Objects that make runs of a namespace wait, by its purpose."""
    return {
        "plain": [],
        "limit": [],
        "restricted": [],
        "quota": [_object("v1", "ResourceQuota", "none-left", spec={"hard": {"pods": "0"}})],
        "limit-range": [
            _object(
                "v1",
                "LimitRange",
                "small",
                spec={"limits": [{"type": "Container", "max": {"memory": "8Mi"}}]},
            )
        ],
    }


def cluster_wide(suffix: str) -> list[Object]:
    """Policies and webhooks for single runs, found by their label."""
    made = []
    for reason in ("Invalid", "Forbidden"):
        made += policy(f"causes-{reason.lower()}-{suffix}", f"policy-{reason.lower()}", reason)
    return [*made, webhook(f"causes-{suffix}", "webhook-away")]


def policy(name: str, run: str, reason: str, *, message: str = "") -> list[Object]:
    """A ValidatingAdmissionPolicy that denies the pods of a run, and its binding."""
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    group = "admissionregistration.k8s.io/v1"
    spec = {
        "failurePolicy": "Fail",
        "matchConstraints": {
            "objectSelector": {"matchLabels": {"perdure.dev/workflow": run}},
            "resourceRules": [pods],
        },
        "validations": [{"expression": "false", "message": message or f"never {reason}", "reason": reason}],
    }
    binding = {"policyName": name, "validationActions": ["Deny"]}
    return [
        _object(group, "ValidatingAdmissionPolicy", name, spec=spec),
        _object(group, "ValidatingAdmissionPolicyBinding", name, spec=binding),
    ]


def webhook(name: str, run: str, *, step: str = "a") -> Object:
    """A webhook for the pods of a step that cannot be called."""
    hook = {
        "name": "causes.example.com",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "timeoutSeconds": 2,
        "clientConfig": {"service": {"namespace": "default", "name": "no-such-injector", "path": "/inject"}},
        "objectSelector": {"matchLabels": {"perdure.dev/workflow": run, "perdure.dev/step": step}},
        "rules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
        ],
    }
    return _object("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", name, webhooks=[hook])


def _object(version: str, kind: str, name: str, **fields: Any) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **fields}
