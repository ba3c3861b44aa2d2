"""Refusals that heal, objects that can never be created, and causes that end as PendingTimeout."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.causes import policy, webhook
from tests.cluster.installation import DEADLINE, Installation
from tests.cluster.manifests import leave, python, step, workflow
from tests.cluster.runs import Run, of_type
from tests.cluster.waiting import until

Object = dict[str, Any]
_ONE = python(leave("1"))
_BLOCK = "0123456789" * 150
_LENGTHS = (
    "import json, os, sys; open('/dev/termination-log', 'w')"
    ".write(json.dumps([len(sys.argv[1]), len(os.environ['LONG'])]))"
)


def _blocks(number: int) -> str:
    return "${" + " + ".join(["inputs.block"] * number) + "}"


DENIED = workflow("policy-lifted", step("work", _ONE))
MESHED = workflow(
    "meshed",
    step("blocked", _ONE),
    step("other", _ONE),
    step("after", _ONE, dependsOn=["other"]),
    step("join", _ONE, dependsOn=["blocked", "after"]),
)
LONG = workflow(
    "long-argument",
    step("work", python(_LENGTHS, _blocks(30)) | {"env": [{"name": "LONG", "value": _blocks(30)}]}),
    inputs={"block": _BLOCK},
    outputs={"lengths": "${steps.work.output}"},
)
BULKY = workflow("bulky", step("work", python("print(1)", *[_blocks(15)] * 90)), inputs={"block": _BLOCK})
TOO_LONG = workflow("too-long", step("work", python("print(1)", _blocks(70))), inputs={"block": _BLOCK})
INVALID = workflow(
    "invalid",
    step(
        "work",
        {
            **_ONE,
            "podTemplate": {
                "spec": {
                    "containers": [{"name": "agent", "volumeMounts": [{"name": "none", "mountPath": "/x"}]}]
                }
            },
        },
    ),
)
UNMOUNTED = workflow(
    "unmounted",
    step(
        "work",
        {
            **_ONE,
            "podTemplate": {
                "spec": {
                    "volumes": [{"name": "creds", "secret": {"secretName": "feed-credentials"}}],
                    "containers": [
                        {"name": "agent", "volumeMounts": [{"name": "creds", "mountPath": "/creds"}]}
                    ],
                }
            },
        },
        pendingTimeout="12s",
    ),
)
ACCOUNT = workflow("account-later", step("work", {**_ONE, "serviceAccountName": "later"}))
QUOTA = workflow("quota-raised", step("work", _ONE))
INIT = workflow(
    "init-fails",
    step(
        "work",
        {
            **_ONE,
            "podTemplate": {
                "spec": {
                    "initContainers": [
                        {"name": "fetch", "image": _ONE["image"], "command": ["sh", "-c", "exit 75"]}
                    ]
                }
            },
        },
    ),
)
ALL = (DENIED, MESHED, LONG, BULKY, TOO_LONG, INVALID, UNMOUNTED, ACCOUNT, INIT)


@pytest.fixture(scope="module")
def runs(perdure: Installation) -> Iterator[dict[str, Run]]:
    """All cases, applied at once; their causes are taken away by the tests."""
    namespace = perdure.make_namespace("cases-refusals")
    quota = perdure.make_namespace("cases-quota")
    suffix = namespace.rpartition("-")[2]
    wide = [
        *policy(
            f"cost-center-{suffix}", "policy-lifted", "Invalid", message="pods need the label cost-center"
        ),
        webhook(f"injector-{suffix}", "meshed", step="blocked"),
    ]
    said = perdure.apply("default", *wide)
    assert said.code == 0, said.error
    limit = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}}
    assert perdure.apply(quota, {**limit, "spec": {"hard": {"pods": "0"}}}).code == 0
    time.sleep(3)
    said = perdure.apply(namespace, *ALL)
    assert said.code == 0, said.error
    found = {QUOTA["metadata"]["name"]: Run.apply(perdure, quota, QUOTA)}
    for run in perdure.items("workflows.perdure.dev", "-n", namespace):
        name = run["metadata"]["name"]
        found[name] = Run(perdure, namespace, name, run["metadata"]["uid"])
    yield found
    for item in wide:
        perdure.kubectl("delete", item["kind"], item["metadata"]["name"], "--ignore-not-found")


def waits(run: Run, name: str, *texts: str) -> Object:
    """The status of a step that waits, once its run's condition has these texts."""

    def found() -> Object | None:
        status = run.status
        step = next((item for item in status.get("steps", ()) if item["name"] == name), {})
        said = str(status.get("conditions", "")) + str(step)
        return step if step.get("reason") and all(text in said for text in texts) else None

    return until(found, seconds=DEADLINE, what=f"{run.name} to name its cause") or {}


def delete(run: Run, *kinds: str) -> None:
    """Take away what was made for the cases of a kind."""
    suffix = run.namespace.rpartition("-")[2]
    for kind in kinds:
        for item in run.perdure.items(kind):
            if item["metadata"]["name"].endswith(f"-{suffix}"):
                run.perdure.ok("delete", kind, item["metadata"]["name"])


def test_a_denial_by_a_policy_is_waited_for(runs: dict[str, Run]) -> None:
    run = runs["policy-lifted"]
    waits(run, "work", "ValidatingAdmissionPolicy", "pods need the label cost-center")
    delete(run, "validatingadmissionpolicybindings")
    status = run.until("Complete")
    assert (status["phase"], status["attempts"]) == ("Succeeded", 1)


def test_a_webhook_that_is_away_holds_up_its_step_alone(runs: dict[str, Run]) -> None:
    run = runs["meshed"]

    def goes_on() -> bool:
        steps = {item["name"]: item for item in run.status.get("steps", ())}
        return bool(steps) and steps["after"]["phase"] == "Succeeded" and steps["blocked"].get("reason")

    until(goes_on, seconds=DEADLINE, what="the other steps to end")
    waits(run, "blocked", "causes.example.com", "no-such-injector")
    delete(run, "mutatingwebhookconfigurations")
    status = run.until("Complete")
    assert (status["phase"], status["attempts"]) == ("Succeeded", 4)
    assert len(run.pods()) == 4


def test_a_long_computed_argument_arrives(runs: dict[str, Run]) -> None:
    assert runs["long-argument"].until("Complete")["outputs"] == {"lengths": [45000, 45000]}
    (task,) = runs["long-argument"].tasks()
    assert all(len(text) <= 32768 for text in task["spec"]["agent"]["args"])


@pytest.mark.parametrize(
    ("name", "reason", "texts"),
    [
        ("bulky", "ExpressionError", ["bytes; the limit of all together is 524288"]),
        ("too-long", "ExpressionError", ["agent.args[0]: 105000 bytes; the limit of one", "98304"]),
        ("invalid", "InvalidConfig", ["volumeMounts", 'Not found: "none"']),
    ],
)
def test_what_can_never_be_created_fails_at_once(
    runs: dict[str, Run], name: str, reason: str, texts: list[str]
) -> None:
    run = runs[name]
    status = run.until("Failed")
    failed = run.condition("Failed")
    assert (status["phase"], failed["reason"]) == ("Failed", reason)
    assert all(text in failed["message"] for text in texts), failed
    assert not run.pods()


def test_a_missing_secret_is_named_while_it_waits_and_at_the_end(runs: dict[str, Run]) -> None:
    run = runs["unmounted"]
    run.until("Failed")
    failed = run.condition("Failed")
    assert failed["reason"] == "PendingTimeout"
    assert 'secret "feed-credentials" not found' in failed["message"]


def test_an_account_that_comes_later(runs: dict[str, Run]) -> None:
    run = runs["account-later"]
    waits(run, "work", 'serviceaccount "later" not found')
    run.kubectl("create", "serviceaccount", "later")
    assert run.until("Complete")["attempts"] == 1


def test_a_quota_that_is_raised(runs: dict[str, Run]) -> None:
    run = runs["quota-raised"]
    assert waits(run, "work", "exceeded quota: few")["reason"] == "Quota"
    run.kubectl("patch", "resourcequota", "few", "--type=merge", "-p", '{"spec": {"hard": {"pods": "5"}}}')
    assert run.until("Complete")["attempts"] == 1


def test_an_init_containers_exit_75_is_its_failure(runs: dict[str, Run]) -> None:
    run = runs["init-fails"]
    run.until("Failed")
    failed = run.condition("Failed")
    assert failed["reason"] == "ExitCode"
    assert "exit code 75: init container fetch" in failed["message"]
    assert not of_type(run.events(), "task.disrupted")
