"""`helm upgrade` under a running workflow, two replicas, and the death of the one that leads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hack.target import NAMESPACE

from tests.cluster.installation import COMPONENTS, DEADLINE, Installation, ready
from tests.cluster.manifests import counted, counting
from tests.cluster.runs import Run, of_type
from tests.cluster.waiting import until

COUNT = 8
GATE = 4


@pytest.fixture(scope="module")
def working(perdure: Installation) -> Iterator[Run]:
    """A run that is on its way for as long as these tests want."""
    run = Run.apply(perdure, perdure.make_namespace("upgrade"), counting("counting", count=COUNT, gate=GATE))
    run.until_checkpoint(2)
    yield run
    # The last test checks the outcome.
    run.kubectl("delete", run.resource, "--ignore-not-found")


def secrets(perdure: Installation) -> dict[str, str]:
    """The passwords of the bundled servers."""
    found = perdure.items("secrets", "-n", NAMESPACE, "-l", "app.kubernetes.io/instance=perdure")
    return {secret["metadata"]["name"]: secret["data"]["password"] for secret in found}


def identities(perdure: Installation) -> dict[str, set[tuple[str, int]]]:
    """Uids and restarts of the chart's pods."""
    return {
        component: {(pod["metadata"]["uid"], perdure.restarts(component)) for pod in perdure.pods(component)}
        for component in COMPONENTS
    }


def leader(perdure: Installation) -> str:
    """The holder of the Lease, '' without a holder."""
    lease = perdure.get("lease", "perdure-operator", "-n", NAMESPACE)
    return str(lease["spec"].get("holderIdentity") or "")


def test_an_upgrade_without_changes_restarts_nothing(perdure: Installation, working: Run) -> None:
    passwords, pods = secrets(perdure), identities(perdure)
    assert set(passwords) == {"perdure-nats", "perdure-postgres"}
    perdure.upgrade()
    assert secrets(perdure) == passwords
    assert identities(perdure) == pods
    assert working.status["phase"] == "Running"


def test_the_second_replica_takes_over(perdure: Installation, working: Run) -> None:
    perdure.upgrade("operator.replicas=2")
    both = {pod["metadata"]["name"]: pod for pod in perdure.pods("operator")}
    assert len(both) == 2
    assert all(ready(pod) for pod in both.values())
    first = leader(perdure)
    assert first in both
    (other,) = set(both) - {first}

    perdure.ok("delete", "pod", first, "-n", NAMESPACE, "--wait=false")
    until(lambda: leader(perdure) == other, seconds=DEADLINE, what=f"{other} to lead")
    working.open_gates()
    status = working.until()

    assert status["outputs"] == counted(count=COUNT)
    events = working.events()
    assert [event["attempt"] for event in of_type(events, "task.succeeded")] == [1, 1, 1]
    assert len(of_type(events, "task.checkpointed")) == 2 * COUNT
    ids = working.published(len(events))
    assert sorted(ids) == sorted(event["id"] for event in events)

    def replaced() -> bool:
        pods = perdure.pods("operator")
        return len(pods) == 2 and all(ready(pod) for pod in pods)

    until(replaced, seconds=DEADLINE, what="a new second replica")
    assert leader(perdure) == other
