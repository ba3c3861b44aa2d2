"""What an agent finds in its pod."""

import json
from typing import Any

import pytest

from perdure.kube.pods import PodEnvironment, build_pod

OWNER = {"apiVersion": "perdure.dev/v1alpha1", "kind": "AgentTask", "name": "audit-a-x7k2q", "uid": "u-1"}


def pod(agent: dict[str, Any] | None = None, *, input: Any = None, index: int = -1) -> dict[str, Any]:
    return build_pod(
        task_name="audit-a-x7k2q",
        pod_name="audit-a-x7k2q-3",
        namespace="team",
        owner=OWNER,
        labels={"perdure.dev/task": "audit-a-x7k2q", "app.kubernetes.io/managed-by": "perdure"},
        agent={"image": "agents/audit:1"} | (agent or {}),
        input={} if input is None else input,
        env=PodEnvironment(
            gateway_url="http://gateway.example:8080", workflow="audit", step="a", attempt=3, index=index
        ),
        audience="perdure",
    )


def container(of: dict[str, Any]) -> dict[str, Any]:
    (only,) = of["spec"]["containers"]
    return only


def environment(of: dict[str, Any]) -> dict[str, str | None]:
    variables = container(of)["env"]
    names = [variable["name"] for variable in variables]
    assert len(names) == len(set(names)), "a variable is defined twice"
    return {variable["name"]: variable.get("value") for variable in variables}


def test_identity_labels_and_owner() -> None:
    metadata = pod()["metadata"]
    assert (metadata["name"], metadata["namespace"]) == ("audit-a-x7k2q-3", "team")
    assert metadata["labels"]["perdure.dev/task"] == "audit-a-x7k2q"
    assert metadata["ownerReferences"] == [OWNER | {"controller": True, "blockOwnerDeletion": False}]


def test_the_environment_of_the_contract() -> None:
    assert environment(pod()) == {
        "PERDURE_GATEWAY_URL": "http://gateway.example:8080",
        "PERDURE_NAMESPACE": "team",
        "PERDURE_WORKFLOW": "audit",
        "PERDURE_TASK": "audit-a-x7k2q",
        "PERDURE_STEP": "a",
        "PERDURE_ATTEMPT": "3",
        "PERDURE_INPUT_FILE": "/perdure/input.json",
        "PERDURE_TOKEN_FILE": "/var/run/secrets/perdure/token",
    }
    assert environment(pod(index=0))["PERDURE_INDEX"] == "0"


def test_our_variables_win_and_can_be_referred_to() -> None:
    built = pod(
        {
            "env": [
                {"name": "PERDURE_ATTEMPT", "value": "99"},
                {"name": "PERDURE_INDEX", "value": "7"},
                {"name": "PERDURE_CUSTOM", "value": "theirs"},
                {"name": "WHERE", "value": "/data/$(PERDURE_TASK)"},
            ]
        }
    )
    found = environment(built)
    assert found["PERDURE_ATTEMPT"] == "3"
    assert "PERDURE_INDEX" not in found
    assert found["PERDURE_CUSTOM"] == "theirs"
    names = list(found)
    assert names.index("PERDURE_TASK") < names.index("WHERE"), "the kubelet would not expand it"


def test_the_authors_strings_arrive_untouched() -> None:
    secret = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "model"}}}
    agent = {
        "command": ["run", "$$(LITERAL)"],
        "args": ["$(EXPANDED)", "äöü 日本", ""],
        "env": [{"name": "PRICE", "value": "5$$ $(HOME)"}, secret],
    }
    built = container(pod(agent))
    assert built["command"] == agent["command"]
    assert built["args"] == agent["args"]
    assert built["env"][-2:] == agent["env"]


def test_the_image_decides_where_the_agent_says_nothing() -> None:
    built = pod()
    assert not {"command", "args", "resources"} & container(built).keys()
    assert "serviceAccountName" not in built["spec"]
    assert container(pod({"args": []}))["args"] == []


def test_resources_and_service_account() -> None:
    resources = {"requests": {"cpu": "100m", "memory": 1024}, "limits": {"nvidia.com/gpu": 1}}
    built = pod({"resources": resources, "serviceAccountName": "auditor"})
    assert container(built)["resources"] == resources
    assert built["spec"]["serviceAccountName"] == "auditor"


def test_the_input_is_compact_json_mounted_as_a_file() -> None:
    value = {"path": "a b.py", "items": [1, None, True], "text": "ü"}
    built = pod(input=value)
    text = built["metadata"]["annotations"]["perdure.dev/input"]
    assert json.loads(text) == value
    assert text == json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    (item,) = volume(built, "perdure-input")["downwardAPI"]["items"]
    assert item == {
        "path": "input.json",
        "fieldRef": {"fieldPath": "metadata.annotations['perdure.dev/input']"},
    }
    assert mount(built, "perdure-input") == ("/perdure", True)


def test_the_token_is_for_our_audience_and_the_only_one() -> None:
    built = pod()
    (source,) = volume(built, "perdure-token")["projected"]["sources"]
    assert source["serviceAccountToken"] == {
        "path": "token",
        "audience": "perdure",
        "expirationSeconds": 3600,
    }
    assert mount(built, "perdure-token") == ("/var/run/secrets/perdure", True)
    assert built["spec"]["automountServiceAccountToken"] is False


def test_one_attempt_and_what_it_may_do() -> None:
    built = pod()
    assert built["spec"]["restartPolicy"] == "Never"
    assert built["spec"]["enableServiceLinks"] is False
    assert built["spec"]["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
    agent = container(built)
    assert agent["name"] == "agent"
    assert agent["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert agent["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }


def test_an_agent_without_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"agent\.image of task audit-a-x7k2q"):
        pod({"image": ""})


def test_the_agent_block_is_not_changed_or_shared() -> None:
    agent = {"image": "i", "args": ["a"], "env": [{"name": "A", "value": "1"}], "resources": {"limits": {}}}
    before = json.dumps(agent)
    built = container(pod(agent))
    built["args"].append("b")
    built["env"][-1]["value"] = "2"
    assert json.dumps(agent) == before


def volume(of: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [volume for volume in of["spec"]["volumes"] if volume["name"] == name]
    return found


def mount(of: dict[str, Any], name: str) -> tuple[str, bool]:
    (found,) = [mount for mount in container(of)["volumeMounts"] if mount["name"] == name]
    return found["mountPath"], found["readOnly"]
