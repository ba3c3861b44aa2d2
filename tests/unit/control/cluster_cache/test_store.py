"""The store: the newest version of each object, whatever order they are seen in."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tests.unit.control.objects import AUDIT, filled, obj, owner, pod, task, workflow

from perdure.control.cluster_cache import store as module
from perdure.control.cluster_cache import unreadable
from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.cluster_cache.store import AGENT_TEMPLATE, POD, Store
from perdure.domain.records import AGENT_TASK, WORKFLOW


def empty_of(store: Store, run: RunKey) -> bool:
    """True if nothing in the store is about a run any more."""
    entries = [name for kind in (WORKFLOW, AGENT_TASK, POD) for _, name, *_ in store.names(kind)]
    return run not in store.roots and run not in store.children and not entries


def test_children_are_found_by_run() -> None:
    store = filled()
    children = store.of(AUDIT)
    assert children.tasks["audit-a"].uid == "uid-audit-a"
    assert (children.pods["audit-a-1"].attempt, children.pods["audit-a-1"].phase) == (1, "Running")
    assert children.changed == {"audit-a-1"}
    assert store.of(RunKey("Workflow", "other", "audit")).pods == {}


def test_only_tasks_of_runs_are_read_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    read_task = module.read_task

    def counted(obj: Any) -> Any:
        read.append(obj["metadata"]["name"])
        return read_task(obj)

    monkeypatch.setattr(module, "read_task", counted)
    store = Store()
    store.apply(WORKFLOW, workflow(1))
    store.apply(AGENT_TASK, obj("alone", 2, spec={}))
    store.apply(POD, pod("audit-a-1", 3))
    store.apply(AGENT_TASK, task("audit-a", 4))
    store.apply(POD, pod("audit-a-1", 5, phase="Succeeded"))
    assert read == ["audit-a"]


def test_an_event_names_its_run() -> None:
    store = Store()
    assert store.apply(WORKFLOW, workflow(1)) == AUDIT
    assert store.apply(AGENT_TASK, task("audit-a", 2)) == AUDIT
    assert store.apply(POD, pod("audit-a-1", 3)) == AUDIT
    assert store.apply(AGENT_TASK, obj("alone", 4, spec={})) == RunKey("AgentTask", "team", "alone")
    assert store.apply(POD, obj("stranger", 5)) is None
    assert store.apply(AGENT_TEMPLATE, obj("t", 6, spec={"image": "i"})) is None


def test_an_own_create_is_known_and_its_event_is_recognised_once() -> None:
    store = Store()
    store.apply_created(POD, pod("audit-a-1", 3))
    assert store.of(AUDIT).pods["audit-a-1"].attempt == 1
    assert store.of(AUDIT).changed == {"audit-a-1"}
    assert not store.is_own_create("2")
    assert store.is_own_create("3")
    assert not store.is_own_create("3")


def test_the_oldest_own_creates_are_evicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MADE", 2)
    store = Store()
    for version in (3, 4, 5):
        store.apply_created(POD, pod(f"audit-a-{version}", version))
    assert [store.is_own_create(str(version)) for version in (3, 4, 5)] == [False, True, True]


def test_the_echo_of_a_status_write_enqueues_nothing() -> None:
    store = filled()
    assert store.apply(WORKFLOW, workflow(4, phase="Running")) is None
    assert store.roots[AUDIT].status == {"phase": "Running"}
    assert store.apply(AGENT_TASK, task("audit-a", 5, phase="Running")) is None
    assert store.of(AUDIT).tasks["audit-a"].shown_phase == "Running"
    assert store.apply(POD, pod("audit-a-1", 6)) is None


def test_a_change_of_the_spec_enqueues_the_run() -> None:
    store = filled()
    changed = workflow(4, phase="Running")
    changed["metadata"]["generation"] = 2
    assert store.apply(WORKFLOW, changed) == AUDIT
    assert (
        store.apply(WORKFLOW, changed | {"metadata": changed["metadata"] | {"resourceVersion": "5"}}) is None
    )


@pytest.mark.parametrize("kind", [WORKFLOW, AGENT_TASK, POD])
def test_a_new_object_of_the_same_name_enqueues_the_run(kind: str) -> None:
    store = filled()
    made = {WORKFLOW: workflow(9), AGENT_TASK: task("audit-a", 9), POD: pod("audit-a-1", 9)}[kind]
    made["metadata"]["uid"] = "new"
    assert store.apply(kind, made) == AUDIT


def test_the_end_of_a_run_enqueues_it() -> None:
    """What was kept of it can go."""
    store = filled()
    assert store.apply(WORKFLOW, workflow(9, phase="Succeeded")) == AUDIT


@pytest.mark.parametrize("version", [1, 2, 3])
def test_what_is_not_newer_is_ignored(version: int) -> None:
    store = filled()
    store.of(AUDIT).changed.clear()
    assert store.apply(POD, pod("audit-a-1", version, phase="Pending")) is None
    assert store.of(AUDIT).pods["audit-a-1"].phase == "Running"
    assert store.of(AUDIT).changed == set()


def test_versions_are_numbers() -> None:
    store = Store()
    store.apply(POD, pod("audit-a-1", 9))
    store.apply(POD, pod("audit-a-1", 10, phase="Failed"))
    assert store.of(AUDIT).pods["audit-a-1"].phase == "Failed"


def test_a_newer_version_with_the_same_facts_is_no_change() -> None:
    store = filled()
    store.of(AUDIT).changed.clear()
    store.apply(POD, pod("audit-a-1", 7))
    assert store.of(AUDIT).changed == set()
    # It is the newer one all the same.
    assert store.apply(POD, pod("audit-a-1", 6, phase="Failed")) is None


def test_a_removed_pod_is_a_change() -> None:
    store = filled()
    store.of(AUDIT).changed.clear()
    assert store.remove(POD, "team", "audit-a-1", uid="uid-audit-a-1") == AUDIT
    assert store.of(AUDIT).pods == {}
    assert store.of(AUDIT).changed == {"audit-a-1"}


def test_a_removal_of_another_uid_is_ignored() -> None:
    store = filled()
    assert store.remove(POD, "team", "audit-a-1", uid="an older one") is None
    assert "audit-a-1" in store.of(AUDIT).pods
    assert store.remove(POD, "team", "never-seen", uid="x") is None


def test_a_stale_event_does_not_resurrect_a_removed_object() -> None:
    """An answer of the API server may overtake the event of the deletion, or be overtaken by it."""
    store = filled()
    store.remove(POD, "team", "audit-a-1", uid="uid-audit-a-1")
    assert store.apply(POD, pod("audit-a-1", 4)) is None
    assert store.of(AUDIT).pods == {}
    store = Store()
    store.remove(POD, "team", "audit-a-1", uid="uid-audit-a-1")
    assert store.apply(POD, pod("audit-a-1", 4)) is None
    # Another object of the same name may.
    assert store.apply(POD, pod("audit-a-1", 5, uid="new")) == AUDIT


def of_job(name: str, version: int) -> dict[str, Any]:
    """A pod of an attempt's Job, which gives it a name of its own."""
    made = pod("audit-a-1", version, uid=f"uid-{name}")
    made["metadata"] |= {
        "name": name,
        "ownerReferences": [owner("Job", "audit-a-1", group="batch/v1")],
    }
    return made


def test_a_second_pod_of_a_job_is_met_again_once_the_first_is_gone() -> None:
    """The next relist has the second pod in the same version that was ignored before."""
    store = filled()
    assert store.apply(POD, of_job("audit-a-1-x", 4)) == AUDIT
    assert store.apply(POD, of_job("audit-a-1-y", 5)) == AUDIT
    assert list(store.of(AUDIT).surplus) == ["audit-a-1-y"]
    assert store.of(AUDIT).pods["audit-a-1"].pod_name == "audit-a-1-x"
    store.remove(POD, "team", "audit-a-1-x", uid="uid-audit-a-1-x")
    assert store.apply(POD, of_job("audit-a-1-y", 5)) == AUDIT
    assert store.of(AUDIT).pods["audit-a-1"].pod_name == "audit-a-1-y"


def test_a_new_object_replaces_the_one_of_the_same_name() -> None:
    store = filled()
    store.of(AUDIT).changed.clear()
    assert store.apply(POD, pod("audit-a-1", 8, uid="new")) == AUDIT
    assert store.of(AUDIT).pods["audit-a-1"].uid == "new"
    assert store.of(AUDIT).changed == {"audit-a-1"}
    # A late event of the deleted object does not concern the new one.
    assert store.remove(POD, "team", "audit-a-1", uid="uid-audit-a-1") is None
    assert "audit-a-1" in store.of(AUDIT).pods


def test_a_new_run_replaces_the_one_of_the_same_name() -> None:
    store = filled()
    store.apply(WORKFLOW, workflow(9, uid="new", phase=None))
    assert store.roots[AUDIT].uid == "new"
    assert store.remove(WORKFLOW, "team", "audit", uid="uid-audit") is None
    assert AUDIT in store.roots


@pytest.mark.parametrize("phase", ["Succeeded", "Failed", "Cancelled"])
def test_of_a_finished_run_little_is_kept(phase: str) -> None:
    store = filled()
    store.apply(WORKFLOW, workflow(5, phase=phase))
    root = store.roots[AUDIT]
    assert root.finished
    assert (root.manifest, root.status) == (None, None)
    # The next relist stores neither ended pods nor tasks of the run.
    store.apply(POD, pod("audit-a-1", 6, phase="Succeeded"))
    store.release(AUDIT)
    store.apply(POD, pod("audit-a-1", 7, phase="Succeeded"))
    store.apply(AGENT_TASK, task("audit-a", 8, phase="Succeeded"))
    assert AUDIT not in store.children
    assert [list(store.names(kind)) for kind in (POD, AGENT_TASK)] == [[], []]
    # One that still runs does: it is to be stopped.
    assert store.apply(POD, pod("audit-b-1", 9)) == AUDIT
    assert set(store.of(AUDIT).pods) == {"audit-b-1"}


def test_a_live_run_keeps_its_manifest_and_status() -> None:
    store = Store()
    store.apply(WORKFLOW, workflow(1, phase="Running"))
    root = store.roots[AUDIT]
    assert root.manifest == {"metadata": {"name": "audit"}, "spec": {"steps": []}}
    assert (root.status, root.finished, root.uid) == ({"phase": "Running"}, False, "uid-audit")


@pytest.mark.parametrize("order", [["w", "t", "p"], ["p", "t", "w"], ["w", "p", "t"], ["t", "w", "p"]])
def test_nothing_is_left_of_a_deleted_run(order: list[str]) -> None:
    store = filled()
    places = {"w": (WORKFLOW, "audit"), "t": (AGENT_TASK, "audit-a"), "p": (POD, "audit-a-1")}
    for which in order:
        kind, name = places[which]
        store.remove(kind, "team", name)
    assert empty_of(store, AUDIT)


def test_nothing_is_left_of_a_run_that_never_created_an_object() -> None:
    store = Store()
    store.apply(WORKFLOW, workflow(1))
    store.of(AUDIT)
    store.remove(WORKFLOW, "team", "audit")
    assert empty_of(store, AUDIT)


def test_templates() -> None:
    store = Store()
    store.apply(AGENT_TEMPLATE, obj("t", 1, spec={"image": "i:1"}))
    store.apply(AGENT_TEMPLATE, obj("t", 3, spec={"image": "i:3"}))
    store.apply(AGENT_TEMPLATE, obj("t", 2, spec={"image": "i:2"}))
    assert store.templates == {("team", "t"): {"image": "i:3"}}
    store.remove(AGENT_TEMPLATE, "team", "t")
    assert store.templates == {}


def test_memory_of_removed_objects_is_bounded() -> None:
    store = Store()
    for number in range(20_000):
        store.remove(POD, "team", "p", uid=f"u{number}")
    assert len(store._removed) <= 10_000
    assert store.apply(POD, pod("audit-a-1", 1, uid="u19999")) is None


Sighting = tuple[str, int, str]


@st.composite
def histories(draw: st.DrawFn) -> list[Sighting]:
    """What became of one pod's name: made, changed and deleted under several uids, as it was seen."""
    events: list[Sighting] = []
    version = 0
    for generation in range(draw(st.integers(1, 3))):
        for phase in draw(
            st.lists(st.sampled_from(["Pending", "Running", "Failed"]), min_size=1, max_size=3)
        ):
            version += 1
            events.append((phase, version, f"u{generation}"))
        version += 1
        events.append(("deleted", version, f"u{generation}"))
    return events[: draw(st.integers(1, len(events)))]


@given(histories(), st.data())
def test_late_and_repeated_sightings_end_with_the_newest(
    history: list[Sighting], data: st.DataObject
) -> None:
    """Seen whole and in order, with older sightings strewn in, the store has what is there."""
    store = Store()
    for position, event in enumerate(history):
        stale = data.draw(st.lists(st.sampled_from(history[: position + 1]), max_size=2), "late")
        for phase, version, uid in [event, *stale]:
            _see(store, phase, version, uid)
    phase, _, uid = history[-1]
    pods: dict[str, Any] = dict(store.of(AUDIT).pods)
    if phase == "deleted":
        assert pods == {}
    else:
        assert (pods["audit-a-1"].phase, pods["audit-a-1"].uid) == (phase, uid)


def _see(store: Store, phase: str, version: int, uid: str) -> None:
    if phase == "deleted":
        store.remove(POD, "team", "audit-a-1", uid=uid)
    else:
        store.apply(POD, pod("audit-a-1", version, phase=phase, uid=uid))


# --- objects that cannot be read


def annotated(depth: str, version: int = 1) -> dict[str, Any]:
    made = workflow(version)
    made["metadata"]["annotations"] = {"perdure.dev/depth": depth}
    return made


@pytest.mark.parametrize(
    ("text", "depth"),
    [
        ("0", 0),
        ("7", 7),
        ("999", 999),
        ("1000", 999),
        ("9" * 4301, 999),
        ("0" * 5000, 999),
        ("-1", 0),
        ("1.5", 0),
        ("\u00b2", 0),
        ("\u0663", 0),
        ("", 0),
    ],
)
def test_the_depth_of_a_run_whatever_its_annotation_says(text: str, depth: int) -> None:
    store = Store()
    assert store.apply(WORKFLOW, annotated(text)) == AUDIT
    assert store.roots[AUDIT].depth == depth


def without(part: str, made: dict[str, Any], value: Any = None) -> dict[str, Any]:
    """The object without a part of its metadata, or with another value there."""
    metadata = {name: entry for name, entry in made["metadata"].items() if name != part}
    return {**made, "metadata": metadata if value is None else {**metadata, part: value}}


UNREADABLE: list[tuple[str, Any]] = [
    (WORKFLOW, without("creationTimestamp", workflow(9))),
    (WORKFLOW, without("creationTimestamp", workflow(9), "9" * 4301)),
    (WORKFLOW, {**workflow(9), "spec": ["no map"]}),
    (WORKFLOW, {**workflow(9), "status": {"phase": ["no text"]}}),
    (WORKFLOW, without("annotations", workflow(9), ["no map"])),
    (WORKFLOW, without("ownerReferences", workflow(9), ["no map"])),
    (POD, without("deletionTimestamp", pod("audit-a-1", 9), "soon")),
    (POD, {**pod("audit-a-1", 9), "status": ["no map"]}),
    (AGENT_TASK, {**task("audit-a", 9), "status": ["no map"]}),
    (WORKFLOW, without("resourceVersion", workflow(9), "9" * 4301)),
    (POD, without("uid", pod("audit-a-1", 9))),
    (POD, without("labels", pod("audit-a-1", 9), 7)),
    (POD, {}),
    (POD, "no object"),
    (POD, {"metadata": None}),
]


@pytest.mark.parametrize(("kind", "odd"), UNREADABLE)
def test_an_object_that_cannot_be_read_changes_nothing_and_is_logged_once(kind: str, odd: Any) -> None:
    store, untouched = filled(), filled()
    with capture_logs() as logs:
        assert store.apply(kind, odd) is None
        assert store.apply(kind, odd) is None
    assert [entry["event"] for entry in logs] == ["object cannot be read, and is left out"]
    assert store.roots == untouched.roots and store.children == untouched.children
    assert list(store.names(kind)) == list(untouched.names(kind))


@pytest.mark.parametrize(("kind", "odd"), UNREADABLE[:9])
def test_the_next_version_of_an_object_is_read_again(kind: str, odd: dict[str, Any]) -> None:
    store = filled()
    name = odd["metadata"]["name"]
    store.apply(kind, odd)
    later = {WORKFLOW: workflow(10), POD: pod(name, 10, phase="Succeeded"), AGENT_TASK: task(name, 10)}[kind]
    store.apply(kind, later)
    assert ("team", name, 10, later["metadata"]["uid"]) in list(store.names(kind))
    assert store.remove(kind, "team", name) == AUDIT


def test_only_so_many_unreadable_objects_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unreadable, "UNREADABLE", 2)
    store = Store()
    for name in ("a", "b", "c"):
        store.apply(POD, {**pod(name, 1), "status": ["no map"]})
    assert len(store.unreadable) == 2
