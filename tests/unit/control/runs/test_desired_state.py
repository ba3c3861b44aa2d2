"""Pause and cancel flow down from parents to the Workflows that they made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.control.objects import obj, owner
from tests.unit.domain.builders import UID, view_of_workflow
from tests.unit.domain.clock import START

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.cluster_cache.run_objects import Root
from perdure.control.cluster_cache.store import Store
from perdure.control.live_run import LiveRun
from perdure.control.runs.desired_state import desired_state
from perdure.domain.records import AttemptRecord, TaskKey


def _root(name: str, state: str | None = None, *, parent: str | None = None, phase: str = "Running") -> Any:
    spec: dict[str, Any] = {"steps": []} if state is None else {"steps": [], "desiredState": state}
    return obj(
        name,
        1,
        spec=spec,
        owner=None if parent is None else owner("Workflow", parent),
        status={
            "phase": phase,
            "conditions": [
                {"type": "Complete", "status": str(phase == "Succeeded")},
                {"type": "Failed", "status": str(phase in ("Failed", "Cancelled"))},
            ],
        },
    )


def _wanted(name: str, *objects: Any) -> str:
    store = Store()
    for made in objects:
        store.apply("Workflow", made)
    return desired_state(store.roots[RunKey("Workflow", "team", name)], store.roots, {})


@pytest.mark.parametrize(
    ("grandparent", "parent", "own", "wanted"),
    [
        ("Running", "Running", None, "Running"),
        ("Running", "Running", "Paused", "Paused"),
        ("Running", "Paused", "Running", "Paused"),
        ("Paused", "Running", "Running", "Paused"),
        ("Cancelled", "Running", "Paused", "Cancelled"),
        ("Paused", "Cancelled", None, "Cancelled"),
        ("Paused", "Paused", "Cancelled", "Cancelled"),
    ],
)
def test_the_strongest_wish_above_counts(grandparent: str, parent: str, own: str | None, wanted: str) -> None:
    found = _wanted(
        "child",
        _root("top", grandparent),
        _root("middle", parent, parent="top"),
        _root("child", own, parent="middle"),
    )
    assert found == wanted


def test_a_child_of_a_finished_parent_is_not_wanted() -> None:
    assert _wanted("child", _root("top", phase="Failed"), _root("child", parent="top")) == "Cancelled"


def test_a_parent_of_the_same_name_but_another_uid_is_none() -> None:
    other = _root("top", "Paused")
    other["metadata"]["uid"] = "uid-of-another"
    assert _wanted("child", other, _root("child", parent="top")) == "Running"


def test_a_missing_parent_leaves_the_child_to_the_garbage_collector() -> None:
    assert _wanted("child", _root("child", parent="top")) == "Running"


def test_a_schedule_above_wants_nothing() -> None:
    made = obj("run", 1, spec={"steps": []}, owner=owner("WorkflowSchedule", "nightly"))
    assert _wanted("run", made) == "Running"


def test_objects_that_own_each_other_do_not_keep_us() -> None:
    assert _wanted("a", _root("a", parent="b"), _root("b", parent="a")) == "Running"


def test_an_unknown_state_counts_as_running_and_is_left_to_acceptance() -> None:
    assert _wanted("odd", _root("odd", "Sleeping")) == "Running"


def _let_go(**attempt: Any) -> str:
    """What is wanted of a child whose attempt in its live parent is like this."""
    view = view_of_workflow({"name": "a"})
    key = TaskKey("a")
    parent_key = RunKey("Workflow", "team", "audit")
    live = LiveRun(key=parent_key, view=view, generation=1)
    made = AttemptRecord(key=key, number=1, pod_name="child", created_at=START, pod_uid="uid-child")
    live.objects.index([made])
    view.attempts[key] = replace(made, **attempt)
    store = Store()
    parent = _root("audit")
    parent["metadata"]["uid"] = UID
    child = _root("child", parent="audit")
    child["metadata"]["ownerReferences"][0]["uid"] = UID
    store.apply("Workflow", parent)
    store.apply("Workflow", child)
    root: Root = store.roots[RunKey("Workflow", "team", "child")]
    return desired_state(root, store.roots, {parent_key: live})


def test_a_child_is_wanted_while_its_attempt_is_open() -> None:
    assert _let_go() == "Running"


def test_a_child_whose_attempt_is_closed_or_superseded_is_not_wanted() -> None:
    assert _let_go(closed_at=START) == "Cancelled"
    assert _let_go(number=2, pod_name="child-2") == "Cancelled"
