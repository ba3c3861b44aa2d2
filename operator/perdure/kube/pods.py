"""The pod of one attempt: the agent's container and everything the agent's contract promises it.

Pure, so that what an agent will find can be read and tested without a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perdure.api.workflow import MAX_INPUT_BYTES
from perdure.domain.facts import CONTAINER
from perdure.domain.names import ANNOTATION_INPUT
from perdure.domain.records import NO_INDEX
from perdure.domain.templating import compact

INPUT_FOLDER = "/perdure"
INPUT_FILE = f"{INPUT_FOLDER}/input.json"
TOKEN_FOLDER = "/var/run/secrets/perdure"  # noqa: S105 - a path
TOKEN_FILE = f"{TOKEN_FOLDER}/token"
#: Seconds. The kubelet renews the file long before the token ends.
TOKEN_LIFETIME = 3600

#: Variables that are ours, whether this pod has them or not.
RESERVED = frozenset(
    {
        "PERDURE_GATEWAY_URL",
        "PERDURE_NAMESPACE",
        "PERDURE_WORKFLOW",
        "PERDURE_TASK",
        "PERDURE_STEP",
        "PERDURE_INDEX",
        "PERDURE_ATTEMPT",
        "PERDURE_INPUT_FILE",
        "PERDURE_TOKEN_FILE",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodEnvironment:
    """What the agent is told about its place in the run."""

    gateway_url: str
    #: Bare name of the run's object.
    workflow: str
    #: '' for a standalone AgentTask.
    step: str
    attempt: int
    index: int = NO_INDEX


def build_pod(
    *,
    task_name: str,
    pod_name: str,
    namespace: str,
    owner: Mapping[str, Any],
    labels: Mapping[str, str],
    agent: Mapping[str, Any],
    input: Any,
    env: PodEnvironment,
    audience: str,
) -> dict[str, Any]:
    """The manifest of one attempt's pod.

    `owner` has `apiVersion`, `kind`, `name` and `uid`. `agent` is an agent block as in a manifest, templates
    merged in and expressions evaluated; its strings are passed on untouched, so what must not be expanded
    by the kubelet is already escaped. `input` is any JSON value. Raises ValueError if `agent` has no image.
    """
    if not agent.get("image"):
        raise ValueError(f"agent.image of task {task_name}: required, here or in the agent's template")
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(agent, _environment(task_name, namespace, env))],
        "volumes": _volumes(audience),
    }
    if agent.get("serviceAccountName"):
        spec["serviceAccountName"] = agent["serviceAccountName"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name,
            "namespace": namespace,
            "labels": dict(labels),
            "annotations": _annotations(input),
            "ownerReferences": [
                {
                    "apiVersion": owner["apiVersion"],
                    "kind": owner["kind"],
                    "name": owner["name"],
                    "uid": owner["uid"],
                    "controller": True,
                    # True would need the right to set finalizers on the owner, and delay its deletion.
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": spec,
    }


def _annotations(input: Any) -> dict[str, str]:
    """The input for the file, unless it is too large: then the file is empty, and the gateway has it."""
    text = compact(input)
    return {ANNOTATION_INPUT: text.decode()} if len(text) <= MAX_INPUT_BYTES else {}


def _environment(task_name: str, namespace: str, env: PodEnvironment) -> list[dict[str, Any]]:
    values = {
        "PERDURE_GATEWAY_URL": env.gateway_url,
        "PERDURE_NAMESPACE": namespace,
        "PERDURE_WORKFLOW": env.workflow,
        "PERDURE_TASK": task_name,
        "PERDURE_STEP": env.step,
        "PERDURE_ATTEMPT": str(env.attempt),
        "PERDURE_INPUT_FILE": INPUT_FILE,
        "PERDURE_TOKEN_FILE": TOKEN_FILE,
    }
    if env.index != NO_INDEX:
        values["PERDURE_INDEX"] = str(env.index)
    return [{"name": name, "value": value} for name, value in values.items()]


def _container(agent: Mapping[str, Any], ours: list[dict[str, Any]]) -> dict[str, Any]:
    theirs = [dict(variable) for variable in agent.get("env") or () if variable["name"] not in RESERVED]
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": agent["image"],
        # Ours first: the kubelet expands $(NAME) in a value only if NAME was defined before it. They win
        # because the author's of the same names are left out.
        "env": ours + theirs,
        "volumeMounts": [
            {"name": "perdure-input", "mountPath": INPUT_FOLDER, "readOnly": True},
            {"name": "perdure-token", "mountPath": TOKEN_FOLDER, "readOnly": True},
        ],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        # runAsNonRoot is not asked for: images that run as root are the author's choice.
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    for field in ("command", "args"):
        if agent.get(field) is not None:
            container[field] = list(agent[field])
    if agent.get("resources"):
        container["resources"] = dict(agent["resources"])
    return container


def _volumes(audience: str) -> list[dict[str, Any]]:
    return [
        {
            "name": "perdure-input",
            "downwardAPI": {
                "items": [
                    {
                        "path": "input.json",
                        "fieldRef": {"fieldPath": f"metadata.annotations['{ANNOTATION_INPUT}']"},
                    }
                ]
            },
        },
        {
            "name": "perdure-token",
            "projected": {
                "sources": [
                    {
                        "serviceAccountToken": {
                            "path": "token",
                            "audience": audience,
                            "expirationSeconds": TOKEN_LIFETIME,
                        }
                    }
                ]
            },
        },
    ]
