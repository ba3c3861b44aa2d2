"""Ownership of Kubernetes objects."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.domain.kube_objects import controller_reference, controlling_owner, is_controlled_by

OWNER = controller_reference(api_version="batch/v1", kind="Job", name="a", uid="u1")
OTHER = {"apiVersion": "v1", "kind": "ConfigMap", "name": "b", "uid": "u2"}


@pytest.mark.parametrize(
    ("references", "uid"),
    [
        (None, None),
        ([], None),
        ([OTHER], None),
        ([{**OTHER, "controller": False}], None),
        ([OTHER, OWNER], "u1"),
    ],
)
def test_only_the_controlling_reference_decides_on_ownership(references: Any, uid: str | None) -> None:
    obj = {"metadata": {"name": "x", "ownerReferences": references}}
    owner = controlling_owner(obj)
    assert (None if owner is None else owner["uid"]) == uid
    assert is_controlled_by(obj, "u1") == (uid == "u1")
    assert not is_controlled_by(obj, "u2")


def test_an_object_without_references_has_no_owner() -> None:
    assert controlling_owner({"metadata": {"name": "x"}}) is None


def test_a_controller_reference_needs_no_right_on_the_owner() -> None:
    assert OWNER == {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": "a",
        "uid": "u1",
        "controller": True,
        "blockOwnerDeletion": False,
    }
