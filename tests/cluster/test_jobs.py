"""Attempts as Jobs, and pods that are shaped by a `podTemplate`, with a real Job controller and kubelet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from perdure.kube.podtemplate import merge_pod_spec
from tests.cluster.installation import DEADLINE, Installation, Object
from tests.cluster.manifests import IMAGE, agenttask, leave, python, step, workflow
from tests.cluster.runs import Run, data, of_type
from tests.cluster.waiting import until

#: A first attempt that fails, and a second one whose output is the last failure that it received.
_ECHOES_LAST_FAILURE = (
    "import os, sys; last = os.environ.get('PERDURE_LAST_FAILURE', '');"
    "open('/dev/termination-log', 'w').write(last or 'the $(HOME) is full'); sys.exit(0 if last else 3)"
)
#: A first attempt that waits to be disrupted, and a second one that does not.
_WAITS = "import os, time; time.sleep(600 if os.environ['PERDURE_ATTEMPT'] == '1' else 0)"
#: Waits until the sidecar has left its word, and hands it on with what else the template gave.
_READS = """
import json, os, pathlib, time
word = pathlib.Path('/scratch/word')
while not word.exists():
    time.sleep(0.05)
found = {'word': word.read_text(), 'model': os.environ['PERDURE_MODEL'], 'shared': os.environ['SHARED'],
         'input': json.load(open('/perdure/input.json')), 'pod': os.environ['POD']}
open('/dev/termination-log', 'w').write(json.dumps(found))
"""
#: Ends by itself only with the argument "leaves", and not by SIGTERM.
_SIDECAR = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path('/scratch/new').write_text('from sidecar')
pathlib.Path('/scratch/new').rename('/scratch/word')
while sys.argv[1] == 'stays':
    time.sleep(60)
"""
_SCRATCH = [{"name": "scratch", "mountPath": "/scratch"}]
_POD: Object = {
    "metadata": {"labels": {"team": "a"}, "annotations": {"example.com/note": "kept"}},
    "spec": {
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "scratch", "emptyDir": {}}],
        "containers": [
            {
                "name": "sidecar",
                "image": IMAGE,
                "command": ["python", "-c", _SIDECAR],
                "volumeMounts": _SCRATCH,
            },
            {
                "name": "agent",
                "image": "example.com/never-pulled:1",
                "volumeMounts": _SCRATCH,
                "env": [
                    {"name": "SHARED", "value": "template"},
                    {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                ],
            },
        ],
    },
}


def job(source: str, *arguments: str) -> Object:
    """An agent block whose attempts are Jobs."""
    return {**python(source, *arguments), "executor": "Job"}


def shaped(sidecar: str, **more: Any) -> Object:
    """An agent block with a sidecar, that "stays" or "leaves", and everything that `_READS` reads."""
    sidecar_container, agent = _POD["spec"]["containers"]
    containers = [sidecar_container | {"args": [sidecar]}, agent]
    template = _POD | {"spec": _POD["spec"] | {"containers": containers}}
    return {**python(_READS), "model": "m-$(HOME)", "podTemplate": template, **more}


MANIFESTS = (
    workflow(
        "jobs",
        step("fails", job(_ECHOES_LAST_FAILURE), retry={"limit": 1, "backoff": {"initial": "10ms"}}),
        step("next", job(leave("2")), dependsOn=["fails"]),
        outputs={"last": "${steps.fails.output}", "next": "${steps.next.output}"},
    ),
    workflow("deleted", step("a", job(_WAITS))),
    agenttask("alone", job(leave('{"n": 42}'))),
    workflow("shaped", step("a", shaped("leaves"), input={"n": 1})),
    workflow("shaped-job", step("a", shaped("stays", executor="Job"), input={"n": 1})),
    workflow("refused", step("a", {**python("pass"), "podTemplate": {"spec": {"containers": [
        {"name": "sidecar", "image": IMAGE, "imagePullPolicy": "Sometimes"}]}}})),
    workflow("broken-init", step("a", {**python("pass"), "podTemplate": {"spec": {"initContainers": [
        {"name": "fetch", "image": IMAGE, "command": ["python", "-c", "raise SystemExit(4)"]}]}}})),
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(perdure: Installation) -> dict[str, Run]:
    """All of them at once: most of the time is the kubelet's."""
    namespace = perdure.make_namespace("jobs")
    return {manifest["metadata"]["name"]: Run.apply(perdure, namespace, manifest) for manifest in MANIFESTS}


def jobs_of(run: Run) -> dict[str, Object]:
    """The run's Jobs, by name."""
    label = f"perdure.dev/{'workflow' if run.kind == 'Workflow' else 'task'}={run.name}"
    found = run.perdure.items("jobs.batch", "-n", run.namespace, "-l", label)
    return {item["metadata"]["name"]: item for item in found}


def owners(obj: Object) -> list[tuple[str, str]]:
    """Kind and name of what owns an object."""
    return [(owner["kind"], owner["name"]) for owner in obj["metadata"]["ownerReferences"]]


def test_each_attempt_is_a_job_with_one_pod(runs: dict[str, Run]) -> None:
    run = runs["jobs"]
    status = run.until()
    assert status["outputs"]["next"] == 2
    last = status["outputs"]["last"]
    assert (last["attempt"], last["reason"], last["exitCode"]) == (1, "ExitCode", 3)
    assert last["message"] == "exit code 3: the $(HOME) is full", "the kubelet expands nothing in it"

    jobs, pods = jobs_of(run), run.pods()
    fails, following = run.tasks("fails") + run.tasks("next")
    name, last = fails["metadata"]["name"], following["metadata"]["name"]
    assert set(jobs) == {f"{name}-1", f"{name}-2", f"{last}-1"}
    assert owners(jobs[f"{name}-2"]) == [("AgentTask", name)]
    assert sorted(owners(pod)[0] for pod in pods) == sorted(("Job", job) for job in jobs)
    assert [len(owners(pod)) for pod in pods] == [1, 1, 1]
    assert (fails["status"]["attempt"], fails["status"]["retries"]) == (2, 1)
    assert "disruptions" not in fails["status"]
    assert {item.get("status", {}).get("failed") for item in jobs.values()} == {None, 1}


def test_a_deleted_job_is_a_disruption_that_spends_no_retry(runs: dict[str, Run]) -> None:
    run = runs["deleted"]

    def running() -> list[Object]:
        return [pod for pod in run.pods() if pod["status"]["phase"] == "Running"]

    (pod,) = until(running, seconds=DEADLINE, what="the agent to run")
    ((kind, name),) = owners(pod)
    assert kind == "Job"
    run.kubectl("delete", "job", name, "--wait=false")
    # Its program is process 1 and ignores SIGTERM.
    run.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=1", "--wait=false")
    run.until()
    (task,) = run.tasks()
    assert (task["status"]["attempt"], task["status"]["disruptions"]) == (2, 1)
    assert "retries" not in task["status"]
    assert len(of_type(run.events(), "task.disrupted")) == 1
    assert set(jobs_of(run)) == {f"{task['metadata']['name']}-2"}
    assert len([each for each in run.pods() if each["metadata"]["uid"] != pod["metadata"]["uid"]]) == 1


def test_a_standalone_agenttask_runs_as_a_job(runs: dict[str, Run]) -> None:
    run = runs["alone"]
    assert run.until()["output"] == {"n": 42}
    (made,) = jobs_of(run).values()
    assert owners(made) == [("AgentTask", "alone")]
    assert len(run.pods()) == 1


@pytest.mark.parametrize("name", ["shaped", "shaped-job"])
def test_a_pod_is_shaped_by_its_template(runs: dict[str, Run], name: str) -> None:
    run = runs[name]
    run.until()
    (task,) = run.tasks()
    found = task["status"]["output"]
    pod_name = found.pop("pod")
    assert found == {"word": "from sidecar", "model": "m-$(HOME)", "shared": "template", "input": {"n": 1}}
    assert pod_name.startswith(f"{task['metadata']['name']}-1")


def test_the_pod_has_the_other_fields_of_the_template(runs: dict[str, Run]) -> None:
    run = runs["shaped"]
    run.until()
    (pod,) = run.pods()
    spec, metadata = pod["spec"], pod["metadata"]
    assert [container["name"] for container in spec["containers"]] == ["agent", "sidecar"]
    assert spec["containers"][0]["image"] == IMAGE, "not the template's"
    assert spec["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]
    assert spec["containers"][0]["securityContext"]["allowPrivilegeEscalation"] is False
    assert "securityContext" not in spec["containers"][1]
    assert (metadata["labels"]["team"], metadata["annotations"]["example.com/note"]) == ("a", "kept")


def test_a_sidecar_that_stays_does_not_delay_the_task(runs: dict[str, Run]) -> None:
    """The task ends with its agent, and the sidecar is ended for it."""
    run = runs["shaped-job"]
    run.until()

    def left() -> bool:
        return not [pod for pod in run.pods() if pod["status"]["phase"] == "Running"]

    until(left, seconds=DEADLINE, what="the sidecar to be ended")
    (task,) = run.tasks()
    assert (run.status["phase"], task["status"]["phase"]) == ("Succeeded", "Succeeded")
    assert task["status"]["attempt"] == 1


def test_a_pod_that_the_api_server_refuses_fails_the_task_with_its_message(runs: dict[str, Run]) -> None:
    run = runs["refused"]
    run.until("Failed")
    (task,) = run.tasks()
    assert task["status"]["reason"] == "InvalidConfig"
    assert "imagePullPolicy" in task["status"]["message"]
    assert run.pods() == []


def test_an_init_container_that_fails_is_a_failure(runs: dict[str, Run]) -> None:
    run = runs["broken-init"]
    run.until("Failed")
    (task,) = run.tasks()
    assert (task["status"]["reason"], task["status"]["exitCode"]) == ("ExitCode", 4)
    assert "init container fetch" in task["status"]["message"]
    assert len(run.pods()) == 1
    (failed,) = of_type(run.events(), "task.failed")
    assert data(failed)["exitCode"] == 4


def test_templates_are_merged_as_kubectl_merges(perdure: Installation, tmp_path: Path) -> None:
    base: Object = {
        "tolerations": [{"key": "a"}],
        "nodeSelector": {"a": "1"},
        "securityContext": {"runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "agent",
                "image": "i",
                "args": ["a"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "1"}],
                "ports": [{"containerPort": 80, "name": "x"}],
                "volumeMounts": [{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/b"}],
                "securityContext": {"capabilities": {"drop": ["ALL"]}},
                "envFrom": [{"prefix": "A"}],
            }
        ],
        "volumes": [{"name": "v", "emptyDir": {}}],
        "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a"]}],
        "imagePullSecrets": [{"name": "s"}],
        "schedulingGates": [{"name": "g"}],
        "topologySpreadConstraints": [
            {"topologyKey": "z", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}
        ],
    }
    patch: Object = {
        "tolerations": [{"key": "b"}],
        "nodeSelector": {"b": "2"},
        "securityContext": {"runAsUser": None, "supplementalGroups": [1]},
        "containers": [
            {"name": "proxy", "image": "p"},
            {
                "name": "agent",
                "args": ["b"],
                "env": [{"name": "C", "value": "2"}, {"name": "B", "value": "2"}],
                "ports": [{"containerPort": 81}],
                "volumeMounts": [{"name": "w", "mountPath": "/b"}],
                "securityContext": {"capabilities": {"add": ["X"]}},
                "envFrom": [{"prefix": "B"}],
            },
        ],
        "initContainers": [{"name": "i", "image": "i"}],
        "volumes": [{"name": "w", "emptyDir": {}}],
        "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["b"]}, {"ip": "10.0.0.2"}],
        "imagePullSecrets": [{"name": "t"}],
        "schedulingGates": [{"name": "h"}],
        "topologySpreadConstraints": [{"topologyKey": "z", "maxSkew": 2}],
    }
    file = tmp_path / "pod.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": base}))
    change = json.dumps({"spec": patch})
    said = perdure.ok("patch", "--local", "-f", str(file), "--type=strategic", "-p", change, "-o", "json")
    assert _unordered(merge_pod_spec(base, patch)) == _unordered(json.loads(said)["spec"])


def _unordered(value: Any) -> Any:
    """JSON in which the order of objects in a list does not count: kubectl puts new ones first."""
    if isinstance(value, dict):
        return {name: _unordered(item) for name, item in value.items()}
    if isinstance(value, list):
        return sorted((_unordered(item) for item in value), key=json.dumps)
    return value
