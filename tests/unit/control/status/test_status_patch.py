"""Patches of a status: applied as RFC 6902 says, they make the new one of the old, nulls included."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.control.status.status_writer import status_patch

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.text("ab", max_size=2)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.sampled_from("xyz"), inner, max_size=2)
    ),
    max_leaves=5,
)
STATUSES = st.dictionaries(st.sampled_from(["phase", "outputs", "steps", "message"]), VALUES)


def apply(patch: list[dict[str, Any]], document: dict[str, Any]) -> dict[str, Any]:
    """As the API server does, for paths of one or two parts: any operation that fails fails all."""
    result = copy.deepcopy(document)
    for change in patch:
        *parents, last = change["path"].strip("/").split("/")
        place = result
        for part in parents:
            place = place[part]
        if change["op"] == "test":
            assert place[last] == change["value"], "the test of the patch failed"
        elif change["op"] == "add":
            place[last] = change["value"]
        else:
            assert change["op"] == "remove"
            del place[last]
    return result


@given(STATUSES, STATUSES)
def test_a_patch_makes_the_new_status_of_the_old(before: dict[str, Any], after: dict[str, Any]) -> None:
    document = {"metadata": {"uid": "u"}, "spec": 1} | ({"status": before} if before else {})
    patched = apply(status_patch("u", before, after), document)
    assert patched.get("status", {}) == after
    assert {name: patched[name] for name in ("metadata", "spec")} == {"metadata": {"uid": "u"}, "spec": 1}


@given(STATUSES)
def test_nothing_is_sent_if_nothing_changed(status: dict[str, Any]) -> None:
    assert status_patch("u", status, copy.deepcopy(status)) == []


@given(STATUSES, STATUSES)
def test_only_what_changed_is_sent(before: dict[str, Any], after: dict[str, Any]) -> None:
    patch = status_patch("u", before, after)
    if before and patch:
        changed = {
            name for name in before.keys() | after.keys() if before.get(name, ...) != after.get(name, ...)
        }
        assert {change["path"] for change in patch[1:]} == {f"/status/{name}" for name in changed}


def test_a_later_object_of_the_same_name_is_not_patched() -> None:
    patch = status_patch("old", {"phase": "Running"}, {"phase": "Failed"})
    with pytest.raises(AssertionError, match="the test of the patch failed"):
        apply(patch, {"metadata": {"uid": "new"}, "status": {}})


def test_the_order_of_keys_is_no_change() -> None:
    assert status_patch("u", {"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}}) == []
