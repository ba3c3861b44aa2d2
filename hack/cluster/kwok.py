"""The KWOK mode: the light mode, a scheduler, and simulated nodes.

Why: a real node starts a few pods a second. To load the operator with hundreds
of them, something has to do the kubelet's part of the conversation with the API
server without running anything.

What a pod does is said by the annotation `hack.perdure.dev/simulate`:
    (absent)     pods of Perdure, and of Jobs, succeed at once; others run on
    2s           succeed after that time
    hang         run until deleted
    fail         fail with exit code 1
    fail-once    fail if PERDURE_ATTEMPT is 1, else succeed
What it leaves as its termination message is said by its environment variable
`PERDURE_SIMULATE_OUTPUT`.
"""

import json
from pathlib import Path
from typing import Any

from . import programs
from .api import node_ready
from .cluster import Cluster
from .light import boot_control_plane, prepare

ANNOTATION = "hack.perdure.dev/simulate"
OUTPUT = "PERDURE_SIMULATE_OUTPUT"
OWNER_LABEL = "app.kubernetes.io/managed-by"

# How a running pod will end: "" for not by itself.
_OUTCOME = f"""
(.metadata.annotations["{ANNOTATION}"] // "") as $how
| ([.spec.containers[].env[]? | select(.name == "PERDURE_ATTEMPT") | .value][0] // "1") as $attempt
| (.metadata.labels["{OWNER_LABEL}"] == "perdure") as $ours
| any(.metadata.ownerReferences[]?; .kind == "Job") as $job
| if $how == "hang" then ""
  elif $how == "fail" then "fail"
  elif $how == "fail-once" then (if $attempt == "1" then "fail" else "succeed" end)
  elif $how != "" or $ours or $job then "succeed"
  else "" end
"""
_DURATION = f'(.metadata.annotations["{ANNOTATION}"] // "") | if test("^[0-9]") then . else "0s" end'

_RUNNING = """
{{ $now := Now }}
conditions:
{{ range $type := list "PodReadyToStartContainers" "Initialized" "Ready" "ContainersReady" }}
- {type: {{ $type | Quote }}, status: "True", lastTransitionTime: {{ $now | Quote }}}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: {{ .image | Quote }}
  containerID: {{ printf "kwok://%s" .name | Quote }}
  ready: true
  started: true
  restartCount: 0
  state: {running: {startedAt: {{ $now | Quote }}}}
{{ end }}
initContainerStatuses:
{{ range .spec.initContainers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: {{ .image | Quote }}
  ready: true
  restartCount: 0
  state:
    terminated:
      exitCode: 0
      reason: Completed
      startedAt: {{ $now | Quote }}
      finishedAt: {{ $now | Quote }}
{{ end }}
hostIP: {{ NodeIPWith .spec.nodeName | Quote }}
{{ $onHost := or .spec.hostNetwork false }}
{{ $ip := PodIPWith .spec.nodeName $onHost (or .metadata.uid "") .metadata.name .metadata.namespace }}
podIP: {{ $ip | Quote }}
podIPs: [{ip: {{ $ip | Quote }}}]
phase: Running
startTime: {{ $now | Quote }}
"""

_ENDED = """
{{ $now := Now }}
{{ $started := .status.startTime }}
conditions:
{{ range $type := list "Ready" "ContainersReady" }}
- {type: {{ $type | Quote }}, status: "False", reason: %(reason)s, lastTransitionTime: {{ $now | Quote }}}
{{ end }}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: {{ .image | Quote }}
  containerID: {{ printf "kwok://%%s" .name | Quote }}
  ready: false
  started: false
  restartCount: 0
  state:
    terminated:
      containerID: {{ printf "kwok://%%s" .name | Quote }}
      exitCode: %(code)d
      reason: %(exit)s
{{ range .env }}{{ if eq .name "%(output)s" }}
      message: {{ .value | Quote }}
{{ end }}{{ end }}
      startedAt: {{ $started | Quote }}
      finishedAt: {{ $now | Quote }}
{{ end }}
phase: %(phase)s
"""

_NODE_READY = """
{{ $now := Now }}
{{ $joined := or .metadata.creationTimestamp $now }}
conditions:
{{ range NodeConditions }}
- type: {{ .type | Quote }}
  status: {{ .status | Quote }}
  reason: {{ .reason | Quote }}
  message: {{ .message | Quote }}
  lastHeartbeatTime: {{ $now | Quote }}
  lastTransitionTime: {{ $joined | Quote }}
{{ end }}
addresses:
- {type: InternalIP, address: {{ NodeIP | Quote }}}
- {type: Hostname, address: {{ .metadata.name | Quote }}}
allocatable: {cpu: 1k, memory: 1Ti, pods: 100k}
capacity: {cpu: 1k, memory: 1Ti, pods: 100k}
phase: Running
"""

# The controller manager takes a node for lost that says nothing for five minutes.
HEARTBEAT_MS = 60_000
_NODE_HEARTBEAT = _NODE_READY.partition("addresses:")[0]

_ALIVE = {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"}


def boot(cluster: Cluster, port: int | None, nodes: int) -> None:
    """The control plane, and that many nodes that are ready."""
    plane = prepare(cluster, port, nodes=True)
    boot_control_plane(cluster, plane)
    cluster.facts["nodes"] = nodes
    cluster.run("kube-scheduler", plane.scheduler())
    config = cluster.state_dir / "kwok.json"
    # One JSON document after the other is YAML.
    config.write_text("\n---\n".join(json.dumps(document) for document in _documents()))
    cluster.run("kwok", _command(config, plane.kubeconfig("kwok")))
    api = cluster.api()
    for number in range(1, nodes + 1):
        api.create("/api/v1/nodes", _node(f"node-{number}"))

    def ready() -> bool:
        existing = (api.get("/api/v1/nodes") or {}).get("items", [])
        return sum(map(node_ready, existing)) >= nodes

    cluster.wait(f"{nodes} simulated nodes", "kwok", ready, 60 + nodes)


def _command(config: Path, kubeconfig: str) -> list[str]:
    # KWOK would log every patch, and that CPU time would distort measurements.
    # With leases KWOK drops a node's pods whenever a busy machine renews a lease late.
    return [
        str(programs.path("kwok")),
        f"--config={config}",
        f"--kubeconfig={kubeconfig}",
        "--v=warn",
        "--node-lease-duration-seconds=0",
    ]


def _documents() -> list[dict[str, Any]]:
    options = {
        "manageAllNodes": True,
        "cidr": "10.244.0.0/16",
        "nodeIP": "10.89.0.1",
        "nodePlayStageParallelism": 16,
        "podPlayStageParallelism": 64,
        "podsOnNodeSyncParallelism": 8,
    }
    pending = {"key": ".status.phase", "operator": "In", "values": ["Pending"]}
    running = {"key": ".status.phase", "operator": "In", "values": ["Running"]}

    def ends(outcome: str) -> dict[str, Any]:
        return {"key": _OUTCOME, "operator": "In", "values": [outcome]}

    ready = {
        "key": '.status.conditions.[] | select(.type == "Ready") | .status',
        "operator": "In",
        "values": ["True"],
    }
    beat = {"durationMilliseconds": HEARTBEAT_MS}
    ended = {"output": OUTPUT}
    succeeded = _ENDED % (
        ended | {"phase": "Succeeded", "reason": "PodCompleted", "exit": "Completed", "code": 0}
    )
    failed = _ENDED % (ended | {"phase": "Failed", "reason": "PodFailed", "exit": "Error", "code": 1})
    delay = {"durationMilliseconds": 0, "durationFrom": {"expressionFrom": _DURATION}}
    return [
        {
            "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
            "kind": "KwokConfiguration",
            "options": options,
        },
        _stage("node-ready", "Node", [{**ready, "operator": "NotIn"}], {"statusTemplate": _NODE_READY}),
        _stage("node-heartbeat", "Node", [ready], {"statusTemplate": _NODE_HEARTBEAT}, delay=beat),
        _stage("pod-running", "Pod", [_ALIVE, pending], {"statusTemplate": _RUNNING}),
        _stage(
            "pod-succeeded",
            "Pod",
            [_ALIVE, running, ends("succeed")],
            {"statusTemplate": succeeded},
            delay=delay,
        ),
        _stage("pod-failed", "Pod", [_ALIVE, running, ends("fail")], {"statusTemplate": failed}),
        _stage("pod-deleted", "Pod", [{**_ALIVE, "operator": "Exists"}], {"delete": True}),
    ]


def _stage(name: str, kind: str, matches: list[Any], then: dict[str, Any], **more: Any) -> dict[str, Any]:
    spec = {
        "resourceRef": {"apiGroup": "v1", "kind": kind},
        "selector": {"matchExpressions": matches},
        "next": then,
    }
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {**spec, **more},
    }


def _node(name: str) -> dict[str, Any]:
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "type": "kwok"}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
