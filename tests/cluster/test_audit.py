"""The example, with fewer files: an analysing agent is killed, and the audit comes out the same."""

from __future__ import annotations

import time
from typing import Any

import yaml
from hack.demo import events as log
from hack.demo import proof
from hack.demo.story import MANIFEST

from tests.cluster.installation import Installation
from tests.cluster.runs import Run

BATCHES = [
    {"name": "data", "files": ["pickle.py", "uuid.py", "shelve.py", "plistlib.py", "tempfile.py"]},
    {"name": "network", "files": ["ftplib.py", "xmlrpc/client.py"]},
]
CHECKPOINTS = 2


def manifests(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The example's template, and its workflow under another name with fewer files."""
    template, workflow = yaml.safe_load_all(MANIFEST.read_text())
    workflow["metadata"]["name"] = name
    workflow["spec"]["inputs"]["batches"] = BATCHES
    return template, workflow


def report(run: Run) -> str:
    """The audit's report, without the sentence about resumptions."""
    text: str = run.status["outputs"]["report"]
    return text.replace("Agents went on from a checkpoint 1 time(s) while it was made.\n\n", "")


def strike(run: Run) -> proof.Kill:
    """Kill the agent of the first batch once it has saved enough."""
    following = log.follow(
        run.perdure.target, f"{run.namespace}/{run.name}", run.uid, deadline=time.monotonic() + 120
    )
    for event in following:
        if event["type"] != "task.checkpointed" or "-analyse-0-" not in event["task"]:
            continue
        if int(event["data"]["sequence"]) == CHECKPOINTS:
            task, attempt = event["task"], int(event["attempt"])
            run.perdure.kill_agent(run.namespace, f"{task}-{attempt}")
            return proof.Kill(task, attempt, "SIGKILL")
    raise AssertionError("no agent saved enough before the run ended")


def test_a_killed_agent_resumes_from_its_checkpoint(perdure: Installation, namespace: str) -> None:
    template, workflow = manifests("audit")
    assert perdure.apply(namespace, template).code == 0
    run = Run.apply(perdure, namespace, workflow)
    kill = strike(run)
    # The one to compare with; not before the kill, which would come later on a busy machine.
    other = Run.apply(perdure, namespace, manifests("undisturbed")[1])
    run.until()
    events = run.events()
    workflow = perdure.get(run.resource, "-n", namespace)
    broken = [
        check.text
        for check in proof.examine(events, proof.batches(workflow, run.tasks()), kill)
        if not check.holds
    ]
    assert not broken
    killed = next(task for task in run.tasks("analyse") if task["metadata"]["name"] == kill.task)
    assert killed["status"]["retries"] == 1
    assert "disruptions" not in killed["status"]
    pods = {pod["metadata"]["name"]: pod for pod in run.pods("analyse")}
    dead = pods[f"{kill.task}-1"]["status"]["containerStatuses"][0]["state"]["terminated"]
    assert dead["exitCode"] == 137

    other.until()
    assert all(task["status"]["attempt"] == 1 for task in other.tasks())
    other.events()
    assert "Agents went on from a checkpoint 1 time(s)" in run.status["outputs"]["report"]
    assert report(run) == report(other) == other.status["outputs"]["report"]
