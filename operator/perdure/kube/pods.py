"""The pod of one attempt: the agent's container and everything the agent's contract promises it.

Pure, so that what an agent will find can be read and tested without a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perdure.api import GROUP
from perdure.api.workflow import MAX_INPUT_BYTES
from perdure.domain.engine.outcome import shorten
from perdure.domain.engine.pod_facts import CONTAINER
from perdure.domain.expressions.templating import compact
from perdure.domain.names import ANNOTATION_INPUT
from perdure.domain.records import NO_INDEX
from perdure.kube.podtemplate import merge_pod_spec, refuse_directives

INPUT_FOLDER = "/perdure"
INPUT_FILE = f"{INPUT_FOLDER}/input.json"
TOKEN_FOLDER = "/var/run/secrets/perdure"  # noqa: S105 - a path
TOKEN_FILE = f"{TOKEN_FOLDER}/token"
#: Seconds. The kubelet renews the file long before the token ends.
TOKEN_LIFETIME = 3600
#: Characters of the last failure's message that the next attempt is told.
MAX_FAILURE_MESSAGE = 512

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
        "PERDURE_MODEL",
        "PERDURE_LAST_FAILURE",
    }
)

_PATH = "agent.podTemplate"

#: What a pod is like unless its `podTemplate` says otherwise. Only the agent's container is hardened: what
#: others need, such as a proxy that changes its user, only their author knows.
_DEFAULTS: Mapping[str, Any] = {
    "automountServiceAccountToken": False,
    "enableServiceLinks": False,
    "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": CONTAINER,
            # runAsNonRoot is not asked for: images that run as root are the author's choice.
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
    ],
}
#: Fields of the agent block that are fields of its container.
_OF_CONTAINER = ("image", "command", "args", "resources")
#: With these the kubelet would run the agent again, and only one party may do that.
_NOT_OF_AGENT = ("restartPolicy", "restartPolicyRules")
_MOUNTS: tuple[Mapping[str, Any], ...] = (
    {"name": "perdure-input", "mountPath": INPUT_FOLDER, "readOnly": True},
    {"name": "perdure-token", "mountPath": TOKEN_FOLDER, "readOnly": True},
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
    #: Why the last attempt that failed did: `attempt`, `reason`, `message`, `exitCode`; None if none did.
    last_failure: Mapping[str, Any] | None = None


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
    merged in and expressions evaluated; the strings of its command, arguments and environment are passed on
    untouched, so what must not be expanded by the kubelet is already escaped. `input` is any JSON value.

    Its `podTemplate` lies over our defaults and under the rest of the block, which in turn lies under what
    agents are promised and what keeps an attempt one attempt. Raises PodTemplateError if that cannot be
    merged, and ValueError if there is no image.
    """
    template = agent.get("podTemplate") or {}
    spec = merge_pod_spec(_DEFAULTS, template.get("spec") or {}, f"{_PATH}.spec")
    container = _find_agent(spec)
    container.update(_agent_container(container, agent, _environment(task_name, namespace, agent, env)))
    for field in _NOT_OF_AGENT:
        container.pop(field, None)
    if not container.get("image"):
        raise ValueError(f"agent.image of task {task_name}: required, here or in the agent's template")
    spec["restartPolicy"] = "Never"
    ours = _volumes(audience)
    names = {volume["name"] for volume in ours}
    spec["volumes"] = ours + [each for each in spec.get("volumes") or () if each["name"] not in names]
    if agent.get("serviceAccountName"):
        spec["serviceAccountName"] = agent["serviceAccountName"]
    metadata = template.get("metadata") or {}
    refuse_directives(metadata, f"{_PATH}.metadata")
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name,
            "namespace": namespace,
            "labels": _theirs(metadata.get("labels")) | dict(labels),
            "annotations": _theirs(metadata.get("annotations")) | _annotations(input),
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


def _find_agent(spec: dict[str, Any]) -> dict[str, Any]:
    """The agent's container in a spec; made if the template has taken out our defaults for all of them."""
    containers: list[dict[str, Any]] = spec.setdefault("containers", [{"name": CONTAINER}])
    return next(each for each in containers if each["name"] == CONTAINER)


def _theirs(texts: Mapping[str, str] | None) -> dict[str, str]:
    """Labels or annotations of a template, without those under our domain: pods are recognised by them."""
    return {name: text for name, text in (texts or {}).items() if not name.startswith(f"{GROUP}/")}


def _annotations(input: Any) -> dict[str, str]:
    """The input for the file, unless it is too large: then the file is empty, and the gateway has it."""
    text = compact(input)
    return {ANNOTATION_INPUT: text.decode()} if len(text) <= MAX_INPUT_BYTES else {}


def _environment(
    task_name: str, namespace: str, agent: Mapping[str, Any], env: PodEnvironment
) -> list[dict[str, Any]]:
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
    if agent.get("model"):
        values["PERDURE_MODEL"] = _literal(agent["model"])
    if env.last_failure:
        message = shorten(str(env.last_failure.get("message") or ""), MAX_FAILURE_MESSAGE)
        failure = compact({**env.last_failure, "message": message})
        values["PERDURE_LAST_FAILURE"] = _literal(failure.decode())
    return [{"name": name, "value": value} for name, value in values.items()]


def _literal(text: str) -> str:
    """A text that the kubelet passes on as it is, whatever variables it seems to name."""
    return text.replace("$", "$$")


def _agent_container(
    template: Mapping[str, Any], agent: Mapping[str, Any], ours: list[dict[str, Any]]
) -> dict[str, Any]:
    """What is set on the agent's container over what its template has."""
    block = {name: agent[name] for name in _OF_CONTAINER if agent.get(name) not in (None, "", {})}
    merged = merge_pod_spec(
        {"containers": [template]}, {"containers": [{"name": CONTAINER, **block}]}, "agent"
    )["containers"][0]
    own = [dict(variable) for variable in agent.get("env") or () if variable["name"] not in RESERVED]
    taken = RESERVED | {variable["name"] for variable in own}
    inherited = [variable for variable in template.get("env") or () if variable["name"] not in taken]
    paths = {mount["mountPath"] for mount in _MOUNTS}
    mounts = [
        mount
        for mount in template.get("volumeMounts") or ()
        if str(mount["mountPath"]).rstrip("/") not in paths
    ]
    return {
        **merged,
        # Ours first: the kubelet expands $(NAME) in a value only if NAME was defined before it. They win
        # because the author's of the same names are left out, and so do the block's over the template's.
        "env": ours + inherited + own,
        "volumeMounts": [dict(mount) for mount in _MOUNTS] + mounts,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


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
