"""NetworkPolicies by the rules of the API, for pods given by namespace and labels.

The clusters of these tests have no network that enforces policies. This says what one would do:
https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Manifest = dict[str, Any]
NAME = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class Pod:
    """A pod, and the names of its ports."""

    namespace: str
    labels: Mapping[str, str]
    ports: Mapping[str, int]


def allowed(policies: Iterable[Manifest], source: Pod, target: Pod, port: int, protocol: str = "TCP") -> bool:
    """Whether the source may connect to a port of the target."""
    policies = list(policies)
    return _way(policies, "Egress", source, target, (target, port, protocol)) and _way(
        policies, "Ingress", target, source, (target, port, protocol)
    )


def _way(policies: list[Manifest], kind: str, subject: Pod, peer: Pod, at: tuple[Pod, int, str]) -> bool:
    selecting = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == subject.namespace
        and kind in policy["spec"]["policyTypes"]
        and _selects(policy["spec"]["podSelector"], subject.labels)
    ]
    if not selecting:
        return True
    side = "from" if kind == "Ingress" else "to"
    return any(
        _peer(rule.get(side), policy["metadata"]["namespace"], peer) and _port(rule.get("ports"), *at)
        for policy in selecting
        for rule in policy["spec"].get(kind.lower()) or []
    )


def _peer(peers: list[Manifest] | None, home: str, pod: Pod) -> bool:
    # An empty list is as good as none: all peers.
    return not peers or any(
        (
            _selects(peer["namespaceSelector"], {NAME: pod.namespace})
            if "namespaceSelector" in peer
            else pod.namespace == home
        )
        and _selects(peer.get("podSelector", {}), pod.labels)
        for peer in peers
    )


def _port(ports: list[Manifest] | None, target: Pod, number: int, protocol: str) -> bool:
    return not ports or any(
        protocol == port.get("protocol", "TCP")
        and number == (target.ports.get(port["port"]) if isinstance(port["port"], str) else port["port"])
        for port in ports
    )


def _selects(selector: Manifest, labels: Mapping[str, str]) -> bool:
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())
