"""Pods of attempts: the agent's contract, and templates around it."""

import json
from typing import Any

import pytest
from tests.unit.domain.kubelet import expand

from perdure.kube.pods import MAX_FAILURE_MESSAGE, RESERVED, PodEnvironment, build_pod
from perdure.kube.podtemplate import PodTemplateError

OWNER = {"apiVersion": "perdure.dev/v1alpha1", "kind": "AgentTask", "name": "audit-a-x7k2q", "uid": "u-1"}


def pod(
    agent: dict[str, Any] | None = None,
    *,
    input: Any = None,
    index: int = -1,
    last_failure: dict[str, Any] | None = None,
    gateway_ca: str | None = None,
) -> dict[str, Any]:
    return build_pod(
        task_name="audit-a-x7k2q",
        pod_name="audit-a-x7k2q-3",
        namespace="team",
        owner=OWNER,
        labels={"perdure.dev/task": "audit-a-x7k2q", "app.kubernetes.io/managed-by": "perdure"},
        agent={"image": "agents/audit:1"} | (agent or {}),
        input=b"{}" if input is None else input,
        env=PodEnvironment(
            gateway_url="http://gateway.example:8080",
            workflow="audit",
            step="a",
            attempt=3,
            index=index,
            last_failure=last_failure,
            gateway_ca=gateway_ca,
        ),
        audience="perdure",
    )


def templated(spec: Any = None, *, metadata: dict[str, Any] | None = None, **agent: Any) -> dict[str, Any]:
    """A pod whose agent block has a `podTemplate`."""
    return pod({"podTemplate": {"spec": spec or {}, "metadata": metadata}, **agent})


def container(of: dict[str, Any], name: str = "agent") -> dict[str, Any]:
    (found,) = [each for each in of["spec"]["containers"] if each["name"] == name]
    return found


def environment(of: dict[str, Any]) -> dict[str, str | None]:
    variables = container(of)["env"]
    names = [variable["name"] for variable in variables]
    assert len(names) == len(set(names)), "a variable is defined twice"
    return {variable["name"]: variable.get("value") for variable in variables}


def test_a_pod_has_name_labels_and_owner() -> None:
    metadata = pod()["metadata"]
    assert (metadata["name"], metadata["namespace"]) == ("audit-a-x7k2q-3", "team")
    assert metadata["labels"]["perdure.dev/task"] == "audit-a-x7k2q"
    assert metadata["ownerReferences"] == [OWNER | {"controller": True, "blockOwnerDeletion": False}]


def test_a_pod_gets_the_authority_of_the_gateway_as_a_file() -> None:
    found = pod({"env": [{"name": "PERDURE_CA_FILE", "value": "/mine"}]}, gateway_ca="PEM")
    assert environment(found)["PERDURE_CA_FILE"] == "/perdure/ca.crt"
    assert found["metadata"]["annotations"]["perdure.dev/gateway-ca"] == "PEM"
    (volume,) = [each for each in found["spec"]["volumes"] if each["name"] == "perdure-input"]
    assert {
        "path": "ca.crt",
        "fieldRef": {"fieldPath": "metadata.annotations['perdure.dev/gateway-ca']"},
    } in volume["downwardAPI"]["items"]


def test_without_an_authority_the_variable_is_the_author_s() -> None:
    found = pod({"env": [{"name": "PERDURE_CA_FILE", "value": "/mine"}]})
    assert environment(found)["PERDURE_CA_FILE"] == "/mine"
    assert "perdure.dev/gateway-ca" not in found["metadata"]["annotations"]


def test_a_pod_has_the_environment_of_the_contract() -> None:
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


def test_variables_of_the_contract_override_the_authors_and_can_be_referred_to() -> None:
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


def test_the_authors_strings_are_copied_unchanged() -> None:
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


def test_fields_missing_from_the_agent_block_are_left_to_the_image() -> None:
    built = pod()
    assert not {"command", "args", "resources"} & container(built).keys()
    assert "serviceAccountName" not in built["spec"]
    assert container(pod({"args": []}))["args"] == []


def test_resources_and_service_account_are_those_of_the_block() -> None:
    resources = {"requests": {"cpu": "100m", "memory": 1024}, "limits": {"nvidia.com/gpu": 1}}
    built = pod({"resources": resources, "serviceAccountName": "auditor"})
    assert container(built)["resources"] == resources
    assert built["spec"]["serviceAccountName"] == "auditor"


def test_the_input_is_compact_json_mounted_as_a_file() -> None:
    value = {"path": "a b.py", "items": [1, None, True], "text": "ü"}
    built = pod(input=json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())
    text = built["metadata"]["annotations"]["perdure.dev/input"]
    assert json.loads(text) == value
    assert text == json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    (item,) = volume(built, "perdure-input")["downwardAPI"]["items"]
    assert item == {
        "path": "input.json",
        "fieldRef": {"fieldPath": "metadata.annotations['perdure.dev/input']"},
    }
    assert mount(built, "perdure-input") == ("/perdure", True)


def test_the_only_token_is_for_perdures_audience() -> None:
    built = pod()
    (source,) = volume(built, "perdure-token")["projected"]["sources"]
    assert source["serviceAccountToken"] == {
        "path": "token",
        "audience": "perdure",
        "expirationSeconds": 3600,
    }
    assert mount(built, "perdure-token") == ("/var/run/secrets/perdure", True)
    assert built["spec"]["automountServiceAccountToken"] is False


def test_a_pod_runs_once_without_privileges() -> None:
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


def test_the_model_is_not_expanded_by_the_kubelet() -> None:
    value = environment(pod({"model": "vendor/$(HOME)-$$1"}))["PERDURE_MODEL"]
    assert expand(value or "", {"HOME": "/root"}) == "vendor/$(HOME)-$$1"
    assert "PERDURE_MODEL" not in environment(pod())


def test_the_next_attempt_has_the_last_failure() -> None:
    failure = {"attempt": 2, "reason": "ExitCode", "message": 'no "$(HOME)" ü\n$$', "exitCode": 3}
    value = environment(pod(last_failure=failure))["PERDURE_LAST_FAILURE"]
    assert json.loads(expand(value or "", {"HOME": "/root"})) == failure
    assert "PERDURE_LAST_FAILURE" not in environment(pod())


def test_a_long_failure_is_cut() -> None:
    failure = {"attempt": 1, "reason": "AgentFailure", "message": "$" * 5000, "exitCode": None}
    value = environment(pod(last_failure=failure))["PERDURE_LAST_FAILURE"] or ""
    given = json.loads(expand(value, {}))
    assert given == failure | {"message": "$" * (MAX_FAILURE_MESSAGE - 1) + "…"}
    assert len(value) < 2 * MAX_FAILURE_MESSAGE + 100


def test_the_author_cannot_set_variables_of_the_contract() -> None:
    theirs = [{"name": name, "value": "theirs"} for name in sorted(RESERVED)]
    built = templated({"containers": [{"name": "agent", "env": theirs}]}, env=theirs)
    assert "theirs" not in environment(built).values()
    assert not {"PERDURE_MODEL", "PERDURE_LAST_FAILURE"} & environment(built).keys()


# --- podTemplate


def test_a_template_shapes_the_pod_around_the_agent() -> None:
    built = templated(
        {
            "nodeSelector": {"gpu": "yes"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "containers": [{"name": "proxy", "image": "proxy:1"}],
            "initContainers": [{"name": "fetch", "image": "fetch:1"}],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
            "terminationGracePeriodSeconds": 5,
        }
    )
    spec = built["spec"]
    assert spec["nodeSelector"] == {"gpu": "yes"}
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert [each["name"] for each in spec["containers"]] == ["agent", "proxy"], "the agent is what logs show"
    assert container(built, "proxy") == {"name": "proxy", "image": "proxy:1"}
    assert spec["initContainers"] == [{"name": "fetch", "image": "fetch:1"}]
    assert {each["name"] for each in spec["volumes"]} == {"perdure-input", "perdure-token", "scratch"}
    assert spec["terminationGracePeriodSeconds"] == 5


def test_the_agent_block_overrides_the_templates_container() -> None:
    theirs = {
        "name": "agent",
        "image": "other",
        "command": ["other"],
        "args": ["kept"],
        "resources": {"limits": {"cpu": 1, "memory": "1Gi"}},
        "env": [{"name": "A", "value": "template"}, {"name": "B", "value": "template"}],
        "workingDir": "/work",
        "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
    }
    block = {
        "image": "agents/audit:1",
        "command": ["run"],
        "resources": {"limits": {"cpu": 2}},
        "env": [{"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    }
    built = container(templated({"containers": [theirs]}, **block))
    assert (built["image"], built["command"], built["args"]) == ("agents/audit:1", ["run"], ["kept"])
    assert built["resources"] == {"limits": {"cpu": 2, "memory": "1Gi"}}
    assert built["env"][-2:] == [{"name": "A", "value": "template"}, *block["env"]]
    assert (built["workingDir"], built["lifecycle"]) == ("/work", theirs["lifecycle"])


def test_a_template_cannot_remove_the_agents_contract() -> None:
    mounts = [
        {"name": "evil", "mountPath": "/perdure"},
        {"name": "evil", "mountPath": "/var/run/secrets/perdure/", "subPath": "x"},
        {"name": "data", "mountPath": "/data"},
    ]
    built = templated(
        {
            "restartPolicy": "Always",
            "containers": [
                {
                    "name": "agent",
                    "terminationMessagePolicy": "File",
                    "restartPolicy": "Always",
                    "restartPolicyRules": [{"action": "Restart"}],
                    "volumeMounts": mounts,
                }
            ],
            "volumes": [{"name": "perdure-input", "emptyDir": {}}, {"name": "data", "emptyDir": {}}],
        }
    )
    agent = container(built)
    assert built["spec"]["restartPolicy"] == "Never"
    assert not {"restartPolicy", "restartPolicyRules"} & agent.keys(), "only one party retries"
    assert agent["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert mount(built, "perdure-input") == ("/perdure", True)
    assert mount(built, "perdure-token") == ("/var/run/secrets/perdure", True)
    assert [each["mountPath"] for each in agent["volumeMounts"]][2:] == ["/data"]
    assert "downwardAPI" in volume(built, "perdure-input")
    assert "emptyDir" not in volume(built, "perdure-input")


def test_a_template_may_override_the_hardening() -> None:
    built = templated(
        {
            "automountServiceAccountToken": True,
            "enableServiceLinks": True,
            "securityContext": {"seccompProfile": {"type": "Unconfined"}, "runAsUser": 1000},
            "containers": [{"name": "agent", "securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}}}],
        }
    )
    assert (built["spec"]["automountServiceAccountToken"], built["spec"]["enableServiceLinks"]) == (
        True,
        True,
    )
    assert built["spec"]["securityContext"] == {"seccompProfile": {"type": "Unconfined"}, "runAsUser": 1000}
    assert container(built)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"], "add": ["SYS_PTRACE"]},
    }
    bare = templated({"securityContext": None, "containers": [{"name": "agent", "securityContext": None}]})
    assert "securityContext" not in bare["spec"] | container(bare)
    assert container(templated({"containers": None}))["image"] == "agents/audit:1"


def test_labels_and_annotations_of_perdure_override_the_templates() -> None:
    metadata = {
        "labels": {
            "team": "a",
            "app.kubernetes.io/managed-by": "me",
            "perdure.dev/index": "7",
            "perdure.dev/task": "another",
        },
        "annotations": {"perdure.dev/input": "stolen", "sidecar.example/inject": "true"},
    }
    built = templated(metadata=metadata)["metadata"]
    assert built["labels"] == {
        "team": "a",
        "app.kubernetes.io/managed-by": "perdure",
        "perdure.dev/task": "audit-a-x7k2q",
    }
    assert built["annotations"] == {"sidecar.example/inject": "true", "perdure.dev/input": "{}"}


def test_the_service_account_of_the_block_overrides_the_templates() -> None:
    assert templated({"serviceAccountName": "theirs"})["spec"]["serviceAccountName"] == "theirs"
    built = templated({"serviceAccountName": "theirs"}, serviceAccountName="block")
    assert built["spec"]["serviceAccountName"] == "block"


def test_a_template_that_cannot_be_merged_names_the_field() -> None:
    with pytest.raises(PodTemplateError, match=r"^agent\.podTemplate\.spec\.containers\[0\]\.\$patch: "):
        templated({"containers": [{"name": "proxy", "$patch": "delete"}]})
    with pytest.raises(PodTemplateError, match=r"^agent\.podTemplate\.metadata\.labels\.\$patch: "):
        templated(metadata={"labels": {"$patch": "replace"}})


def volume(of: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [volume for volume in of["spec"]["volumes"] if volume["name"] == name]
    return found


def mount(of: dict[str, Any], name: str) -> tuple[str, bool]:
    (found,) = [mount for mount in container(of)["volumeMounts"] if mount["name"] == name]
    return found["mountPath"], found["readOnly"]
