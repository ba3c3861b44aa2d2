"""Strategic merge of pod templates: merged, replaced and refused fields."""

import copy
from typing import Any

import pytest

from perdure.kube.podtemplate import PodTemplateError, merge_pod_spec

Spec = dict[str, Any]


@pytest.mark.parametrize(
    ("field", "key"),
    [
        ("volumes", "name"),
        ("containers", "name"),
        ("initContainers", "name"),
        ("ephemeralContainers", "name"),
        ("imagePullSecrets", "name"),
        ("hostAliases", "ip"),
        ("topologySpreadConstraints", "topologyKey"),
        ("resourceClaims", "name"),
        ("schedulingGates", "name"),
    ],
)
def test_keyed_lists_of_the_pod_are_merged(field: str, key: str) -> None:
    base = {field: [{key: "a", "x": 1, "y": 1}, {key: "b"}]}
    patch = {field: [{key: "c"}, {key: "a", "y": 2, "z": 2}]}
    assert merge_pod_spec(base, patch) == {
        field: [{key: "a", "x": 1, "y": 2, "z": 2}, {key: "b"}, {key: "c"}]
    }


@pytest.mark.parametrize(
    ("field", "key"),
    [
        ("env", "name"),
        ("ports", "containerPort"),
        ("volumeMounts", "mountPath"),
        ("volumeDevices", "devicePath"),
    ],
)
@pytest.mark.parametrize("kind", ["containers", "initContainers"])
def test_keyed_lists_of_a_container_are_merged(kind: str, field: str, key: str) -> None:
    base = {kind: [{"name": "c", field: [{key: 1, "x": 1}]}]}
    patch = {kind: [{"name": "c", field: [{key: 1, "y": 2}, {key: 2}]}]}
    assert merge_pod_spec(base, patch) == {kind: [{"name": "c", field: [{key: 1, "x": 1, "y": 2}, {key: 2}]}]}


@pytest.mark.parametrize(
    ("base", "patch", "merged"),
    [
        # Lists without a key are replaced as a whole.
        ({"tolerations": [{"key": "a"}]}, {"tolerations": [{"key": "b"}]}, {"tolerations": [{"key": "b"}]}),
        (
            {"containers": [{"name": "c", "args": ["a"], "envFrom": [{"prefix": "A"}]}]},
            {"containers": [{"name": "c", "args": ["b"], "envFrom": []}]},
            {"containers": [{"name": "c", "args": ["b"], "envFrom": []}]},
        ),
        # A list of the same name elsewhere has no key.
        ({"affinity": {"volumes": [1]}}, {"affinity": {"volumes": [2]}}, {"affinity": {"volumes": [2]}}),
        # Maps are merged.
        ({"nodeSelector": {"a": "1"}}, {"nodeSelector": {"b": "2"}}, {"nodeSelector": {"a": "1", "b": "2"}}),
        (
            {"securityContext": {"capabilities": {"drop": ["ALL"]}, "runAsUser": 1}},
            {"securityContext": {"capabilities": {"add": ["NET_ADMIN"]}, "runAsUser": 2}},
            {"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}, "runAsUser": 2}},
        ),
        # null removes the field, and is no value.
        ({"hostNetwork": True, "dnsPolicy": "None"}, {"hostNetwork": None}, {"dnsPolicy": "None"}),
        ({}, {"securityContext": {"runAsUser": None}}, {"securityContext": {}}),
        ({"volumes": [{"name": "v"}]}, {"volumes": None}, {}),
        # False, 0, "" and empty lists are values.
        (
            {"hostPID": True, "priority": 1},
            {"hostPID": False, "priority": 0},
            {"hostPID": False, "priority": 0},
        ),
    ],
)
def test_values_are_merged_replaced_or_removed(base: Spec, patch: Spec, merged: Spec) -> None:
    before = copy.deepcopy((base, patch))
    assert merge_pod_spec(base, patch) == merged
    assert (base, patch) == before, "merging changes neither"


def test_the_result_shares_nothing_with_the_arguments() -> None:
    base: Spec = {"containers": [{"name": "a", "args": ["x"]}], "tolerations": [{"key": "a"}]}
    patch: Spec = {"containers": [{"name": "b", "env": [{"name": "A"}]}], "affinity": {"podAffinity": {}}}
    before = copy.deepcopy((base, patch))
    merged = merge_pod_spec(base, patch)
    merged["containers"][0]["args"].append("y")
    merged["containers"][1]["env"][0]["name"] = "B"
    merged["tolerations"][0]["key"] = "b"
    merged["affinity"]["podAffinity"]["x"] = 1
    assert (base, patch) == before


@pytest.mark.parametrize(
    ("patch", "place"),
    [
        ({"$patch": "replace"}, "spec.$patch"),
        ({"containers": [{"name": "a"}, {"$patch": "delete", "name": "b"}]}, "spec.containers[1].$patch"),
        ({"tolerations": [{"$patch": "replace"}]}, "spec.tolerations[0].$patch"),
        ({"securityContext": {"$retainKeys": ["runAsUser"]}}, "spec.securityContext.$retainKeys"),
        ({"$setElementOrder/containers": []}, "spec.$setElementOrder/containers"),
        ({"$deleteFromPrimitiveList/x": []}, "spec.$deleteFromPrimitiveList/x"),
        ("text", "spec: must be an object"),
        ({"containers": {"name": "a"}}, "spec.containers: must be a list"),
        ({"containers": [{"image": "a"}]}, "spec.containers[0].name: required"),
        ({"volumes": ["data"]}, "spec.volumes[0].name: required"),
        (
            {"containers": [{"name": "a", "env": [{"value": "x"}]}]},
            "spec.containers[0].env[0].name: required",
        ),
    ],
)
def test_refusals_name_the_field(patch: Any, place: str) -> None:
    with pytest.raises(PodTemplateError) as refused:
        merge_pod_spec({}, patch)
    assert str(refused.value).startswith(place)


def test_a_dollar_in_a_name_is_no_directive() -> None:
    patch = {"nodeSelector": {"example.com/$patch": "x"}, "volumes": [{"name": "$patch"}]}
    assert merge_pod_spec({}, patch) == patch
