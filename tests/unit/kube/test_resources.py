"""Paths of objects."""

import pytest

from perdure.kube.resources import KINDS, collection_path, kind_of, object_path


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Workflow", "/apis/perdure.dev/v1alpha1/namespaces/team/workflows/it"),
        ("AgentTask", "/apis/perdure.dev/v1alpha1/namespaces/team/agenttasks/it"),
        ("AgentTemplate", "/apis/perdure.dev/v1alpha1/namespaces/team/agenttemplates/it"),
        ("Pod", "/api/v1/namespaces/team/pods/it"),
        ("Lease", "/apis/coordination.k8s.io/v1/namespaces/team/leases/it"),
        ("Event", "/apis/events.k8s.io/v1/namespaces/team/events/it"),
        ("Namespace", "/api/v1/namespaces/it"),
    ],
)
def test_every_kind_has_its_path(kind: str, path: str) -> None:
    assert object_path(kind_of(kind), "team", "it") == path


def test_collections_of_one_namespace_and_of_all() -> None:
    assert collection_path(KINDS["Pod"], "team") == "/api/v1/namespaces/team/pods"
    assert collection_path(KINDS["Pod"], None) == "/api/v1/pods"
    assert collection_path(KINDS["Namespace"], "ignored") == "/api/v1/namespaces"


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_name_that_would_address_a_collection_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="does not name an object"):
        object_path(KINDS["Pod"], "team", name)
    with pytest.raises(ValueError, match="namespace"):
        object_path(KINDS["Pod"], name, "it")


def test_a_name_cannot_leave_its_segment_of_the_path() -> None:
    assert object_path(KINDS["Pod"], "team", "a/../../b?c#d") == (
        "/api/v1/namespaces/team/pods/a%2F..%2F..%2Fb%3Fc%23d"
    )


def test_unknown_kinds_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown kind 'Secret'; known are Workflow,"):
        kind_of("Secret")
