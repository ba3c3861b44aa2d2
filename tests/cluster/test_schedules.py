"""A schedule on the real cluster: its minute comes, also when the operator dies before it."""

from __future__ import annotations

import signal
from datetime import datetime

from tests.cluster.installation import DEADLINE, Installation, Object
from tests.cluster.manifests import API_VERSION, leave, python, step
from tests.cluster.runs import Run
from tests.cluster.waiting import until

NAME = "every-minute"
RESOURCE = f"workflowschedules.perdure.dev/{NAME}"
SCHEDULE: Object = {
    "apiVersion": API_VERSION,
    "kind": "WorkflowSchedule",
    "metadata": {"name": NAME},
    "spec": {
        "schedule": "* * * * *",
        "timeZone": "Europe/Berlin",
        "workflow": {
            "metadata": {"labels": {"team": "reports"}},
            "spec": {
                "steps": [step("report", python(leave("done")))],
                "outputs": {"report": "${steps.report.output}"},
            },
        },
    },
}


def minutes(time: str) -> int:
    """Minutes since 1970 of a time in a status."""
    return int(datetime.fromisoformat(time).timestamp()) // 60


def test_the_minute_comes_though_the_operator_dies_before_it(perdure: Installation, namespace: str) -> None:
    said = perdure.apply(namespace, SCHEDULE)
    assert said.code == 0, said.error

    def status() -> Object:
        found: Object = perdure.get(RESOURCE, "-n", namespace).get("status", {})
        return found

    def runs() -> list[Object]:
        return perdure.items("workflows.perdure.dev", "-n", namespace)

    def minutes_made() -> dict[int, Object]:
        return {int(run["metadata"]["name"].removeprefix(f"{NAME}-")): run for run in runs()}

    due = minutes(
        until(
            lambda: status().get("nextScheduleTime"), seconds=DEADLINE, what="the schedule to be reconciled"
        )
    )
    before = perdure.restarts("operator")
    perdure.signal("operator", signal.SIGKILL)
    perdure.until_back("operator", restarts=before + 1)
    until(lambda: max(minutes_made(), default=0) >= due, seconds=60 + DEADLINE, what="the minute to come")
    perdure.ok("patch", RESOURCE, "-n", namespace, "--type=merge", "-p", '{"spec": {"suspend": true}}')
    until(lambda: "nextScheduleTime" not in status(), seconds=DEADLINE, what="the schedule to be suspended")

    # On a machine so slow that more than a minute went by before it was suspended, there is one for each. And
    # a minute that began between the schedule's creation and its first reconciliation has had its run before.
    made = minutes_made()
    assert min(made) >= due - 1
    assert max(made) == minutes(status()["lastScheduleTime"])
    schedule = perdure.get(RESOURCE, "-n", namespace)
    for manifest in made.values():
        metadata = manifest["metadata"]
        assert metadata["labels"]["team"] == "reports"
        assert metadata["ownerReferences"][0]["uid"] == schedule["metadata"]["uid"]
        run = Run(perdure, namespace, metadata["name"], metadata["uid"])
        assert run.until()["outputs"] == {"report": "done"}
        assert len(run.pods()) == 1
    until(
        lambda: "active" not in status() and "lastSuccessfulTime" in status(),
        seconds=DEADLINE,
        what="the success to be noted",
    )
    table = perdure.ok("get", "psched", "-n", namespace)
    assert "* * * * *" in table
    assert "true" in table

    perdure.ok("delete", RESOURCE, "-n", namespace)
    until(lambda: not runs(), seconds=DEADLINE, what="its runs to be collected")
