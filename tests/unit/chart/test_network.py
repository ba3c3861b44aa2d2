"""Who may connect to whom under the chart's NetworkPolicies and the example of docs/security.md."""

from __future__ import annotations

import itertools
import re

import pytest
import yaml

from perdure.domain.names import LABEL_MANAGED_BY

from .helm import EVALUATION, EXTERNAL, ROOT, Manifest, one, pick, render
from .network import Pod, allowed

SYSTEM = "perdure-system"
#: An agent's pod has this label whatever its podTemplate says: see tests/unit/kube/test_pods.py.
AGENT = Pod("team-a", {LABEL_MANAGED_BY: "perdure", "app": "mine"}, {})
OTHER = Pod("team-a", {"app": "mine"}, {})
STRANGER = Pod(SYSTEM, {"app": "mine"}, {})


def policies(manifests: list[Manifest]) -> list[Manifest]:
    return pick(manifests, "NetworkPolicy")


def part(manifests: list[Manifest], kind: str, name: str) -> Pod:
    """A pod of the chart, with its ports."""
    template = one(manifests, kind, f"perdure-{name}")["spec"]["template"]
    ports = {
        port["name"]: port["containerPort"]
        for container in template["spec"]["containers"]
        for port in container.get("ports", [])
    }
    return Pod(SYSTEM, template["metadata"]["labels"], ports)


def test_the_gateway_is_open_to_agents_only():
    manifests = render(*EXTERNAL)
    gateway = part(manifests, "Deployment", "gateway")
    operator = part(manifests, "Deployment", "operator")
    port = gateway.ports["http"]
    assert allowed(policies(manifests), AGENT, gateway, port)
    for source in (OTHER, STRANGER, operator):
        assert not allowed(policies(manifests), source, gateway, port)
    for source, number in itertools.product((AGENT, OTHER, STRANGER, gateway), operator.ports.values()):
        assert not allowed(policies(manifests), source, operator, number)


def test_with_watched_namespaces_agents_of_others_are_not_let_through():
    manifests = render(*EXTERNAL, "watchNamespaces={team-a,team-b}")
    gateway = part(manifests, "Deployment", "gateway")
    reached = {
        namespace: allowed(
            policies(manifests), Pod(namespace, AGENT.labels, {}), gateway, gateway.ports["http"]
        )
        for namespace in ("team-a", "team-b", "team-c", SYSTEM)
    }
    assert reached == {"team-a": True, "team-b": True, "team-c": False, SYSTEM: False}


def test_peers_of_ones_own_take_the_place_of_agents():
    manifests = render(*EXTERNAL, "networkPolicy.gatewayFrom[0].podSelector.matchLabels.app=mine")
    gateway = part(manifests, "Deployment", "gateway")
    found = [
        allowed(policies(manifests), source, gateway, gateway.ports["http"])
        for source in (STRANGER, OTHER, Pod("team-a", {LABEL_MANAGED_BY: "perdure"}, {}))
    ]
    assert found == [True, False, False]


@pytest.mark.parametrize("enabled", ["true", "false"])
def test_the_evaluation_s_stores_are_closed_to_all_but_us(enabled):
    manifests = render(*EVALUATION, f"networkPolicy.enabled={enabled}")
    operator, gateway = (part(manifests, "Deployment", name) for name in ("operator", "gateway"))
    for name in ("postgres", "nats"):
        store = part(manifests, "StatefulSet", name)
        for source in (operator, gateway):
            assert allowed(policies(manifests), source, store, store.ports[name])
        for source in (AGENT, OTHER, STRANGER):
            for port in store.ports.values():
                assert not allowed(policies(manifests), source, store, port)
        # The monitor of NATS is not even for us.
        assert all(
            not allowed(policies(manifests), source, store, port)
            for source in (operator, gateway)
            for label, port in store.ports.items()
            if label != name
        )
        assert not allowed(policies(manifests), store, AGENT, 443)
        assert not allowed(policies(manifests), store, gateway, gateway.ports["http"])


def example() -> Manifest:
    """The NetworkPolicy of the page."""
    text = (ROOT / "docs/security.md").read_text()
    (found,) = [
        block
        for block in re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
        if "kind: NetworkPolicy" in block
    ]
    return yaml.safe_load(found)


def test_the_example_lets_agents_reach_the_gateway_and_names():
    manifests = render(*EVALUATION)
    both = [*policies(manifests), example()]
    gateway = part(manifests, "Deployment", "gateway")
    dns = Pod("kube-system", {"k8s-app": "kube-dns"}, {})
    assert allowed(both, AGENT, gateway, gateway.ports["http"])
    assert allowed(both, AGENT, dns, 53, "UDP")
    for target, port in (
        (part(manifests, "StatefulSet", "postgres"), 5432),
        (part(manifests, "StatefulSet", "nats"), 4222),
        (part(manifests, "Deployment", "operator"), 8081),
        (Pod("default", {"component": "apiserver"}, {}), 443),
        (dns, 443),
        (gateway, 9090),
        (OTHER, 80),
    ):
        assert not allowed(both, AGENT, target, port), target
    assert not allowed(both, OTHER, AGENT, 80)
    # It says nothing about pods that are not Perdure's.
    assert allowed(both, OTHER, Pod("default", {}, {}), 443)
