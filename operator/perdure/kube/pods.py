"""Manifest of an attempt's pod: the agent's container, and the environment of the agent's contract.

Pure, so that the environment of an agent can be read and tested without a cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perdure.api import GROUP
from perdure.api.workflow import MAX_INPUT_BYTES
from perdure.domain.engine.outcome import shorten
from perdure.domain.engine.pod_containers import CONTAINER
from perdure.domain.expressions.templating import compact
from perdure.domain.kube_objects import OwnerReference, controller_reference
from perdure.domain.names import ANNOTATION_GATEWAY_CA, ANNOTATION_INPUT
from perdure.domain.records import NO_INDEX
from perdure.kube.podtemplate import merge_pod_spec, refuse_directives

INPUT_FOLDER = "/perdure"
INPUT_FILE = f"{INPUT_FOLDER}/input.json"
#: In the same folder, which is mounted already.
CA_FILE = f"{INPUT_FOLDER}/ca.crt"
TOKEN_FOLDER = "/var/run/secrets/perdure"  # noqa: S105 - a path
TOKEN_FILE = f"{TOKEN_FOLDER}/token"
#: Seconds. The kubelet renews the file long before the token expires.
TOKEN_LIFETIME = 3600
#: Characters of the last failure's message in PERDURE_LAST_FAILURE.
MAX_FAILURE_MESSAGE = 512

#: Variables of the contract: never taken from the author, whether this pod has them or not.
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

#: Defaults under the `podTemplate`. Only the agent's container is hardened: a sidecar may need privileges,
#: such as a proxy that changes its user.
_DEFAULTS: Mapping[str, Any] = {
    "automountServiceAccountToken": False,
    "enableServiceLinks": False,
    "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": CONTAINER,
            # Without runAsNonRoot: images that run as root are the author's choice.
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
    ],
}
#: Fields of the agent block that are also fields of its container.
_OF_CONTAINER = ("image", "command", "args", "resources")
#: Fields with which the kubelet would restart the agent. Retries are the control loop's decision alone.
_NOT_OF_AGENT = ("restartPolicy", "restartPolicyRules")
_MOUNTS: tuple[Mapping[str, Any], ...] = (
    {"name": "perdure-input", "mountPath": INPUT_FOLDER, "readOnly": True},
    {"name": "perdure-token", "mountPath": TOKEN_FOLDER, "readOnly": True},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodEnvironment:
    """The agent's place in the run, for the PERDURE_ variables."""

    gateway_url: str
    #: PEM certificates that sign the gateway's; None if agents need none.
    gateway_ca: str | None = None
    #: Name of the run's object, without its kind.
    workflow: str
    #: '' for a standalone AgentTask.
    step: str
    attempt: int
    index: int = NO_INDEX
    #: The newest failure of the task: `attempt`, `reason`, `message`, `exitCode`; None without one.
    last_failure: Mapping[str, Any] | None = None


def build_pod(
    *,
    task_name: str,
    pod_name: str,
    namespace: str,
    owner: OwnerReference,
    labels: Mapping[str, str],
    agent: Mapping[str, Any],
    input: bytes | None,
    env: PodEnvironment,
    audience: str,
) -> dict[str, Any]:
    """The manifest of one attempt's pod.

    `owner` has `apiVersion`, `kind`, `name` and `uid`. `agent` is an agent block as in a manifest, with
    templates merged and expressions evaluated. The strings of its command, arguments and environment are
    copied: the caller has escaped everything that the kubelet must not expand. `input` is compact JSON, or
    None for one that the gateway serves.

    The order of precedence, lowest first: defaults, the block's `podTemplate`, the rest of the block, the
    contract with agents, and the fields that bind a pod to one attempt. Raises PodTemplateError if the
    template cannot be merged, and ValueError without an image.
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
    ours = _volumes(audience, authority=env.gateway_ca is not None)
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
            "annotations": _theirs(metadata.get("annotations")) | _annotations(input, env),
            "ownerReferences": [
                controller_reference(
                    api_version=owner["apiVersion"],
                    kind=owner["kind"],
                    name=owner["name"],
                    uid=owner["uid"],
                )
            ],
        },
        "spec": spec,
    }


def _find_agent(spec: dict[str, Any]) -> dict[str, Any]:
    """The agent's container in a spec, added if the template has removed all containers of the defaults."""
    containers: list[dict[str, Any]] = spec.setdefault("containers", [{"name": CONTAINER}])
    return next(each for each in containers if each["name"] == CONTAINER)


def _theirs(texts: Mapping[str, str] | None) -> dict[str, str]:
    """Labels or annotations of a template, without Perdure's own prefix, by which pods are selected."""
    return {name: text for name, text in (texts or {}).items() if not name.startswith(f"{GROUP}/")}


def _annotations(input: bytes | None, env: PodEnvironment) -> dict[str, str]:
    """The annotations behind the files of input and authority. A large input is served by the gateway."""
    found = {} if input is None or len(input) > MAX_INPUT_BYTES else {ANNOTATION_INPUT: input.decode()}
    return found if env.gateway_ca is None else found | {ANNOTATION_GATEWAY_CA: env.gateway_ca}


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
    if env.gateway_ca is not None:
        values["PERDURE_CA_FILE"] = CA_FILE
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
    """A text that the kubelet does not expand, even if the text contains $(NAME)."""
    return text.replace("$", "$$")


def _agent_container(
    template: Mapping[str, Any], agent: Mapping[str, Any], ours: list[dict[str, Any]]
) -> dict[str, Any]:
    """The fields that are set on the agent's container, over those of the template."""
    block = {name: agent[name] for name in _OF_CONTAINER if agent.get(name) not in (None, "", {})}
    merged = merge_pod_spec(
        {"containers": [template]}, {"containers": [{"name": CONTAINER, **block}]}, "agent"
    )["containers"][0]
    reserved = RESERVED | {variable["name"] for variable in ours}
    own = [dict(variable) for variable in agent.get("env") or () if variable["name"] not in reserved]
    taken = reserved | {variable["name"] for variable in own}
    inherited = [variable for variable in template.get("env") or () if variable["name"] not in taken]
    paths = {mount["mountPath"] for mount in _MOUNTS}
    mounts = [
        mount
        for mount in template.get("volumeMounts") or ()
        if str(mount["mountPath"]).rstrip("/") not in paths
    ]
    return {
        **merged,
        # The contract's variables first: the kubelet expands $(NAME) in a value only if NAME is defined
        # earlier in the list. The author's variables of the same names are left out above, and so are the
        # template's that the block also has.
        "env": ours + inherited + own,
        "volumeMounts": [dict(mount) for mount in _MOUNTS] + mounts,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _volumes(audience: str, *, authority: bool) -> list[dict[str, Any]]:
    files = {"input.json": ANNOTATION_INPUT} | ({"ca.crt": ANNOTATION_GATEWAY_CA} if authority else {})
    return [
        {
            "name": "perdure-input",
            "downwardAPI": {
                "items": [
                    {"path": path, "fieldRef": {"fieldPath": f"metadata.annotations['{annotation}']"}}
                    for path, annotation in files.items()
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
