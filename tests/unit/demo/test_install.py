"""`CLUSTER=current make install` says what the cluster must have before anything is changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hack import install
from hack.target import Problem, Target

KUBECTL = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$1 $2" in
"version -o") cat "$VERSION" ;;
"auth can-i") case "$DENIED" in *"$4"*) exit 1 ;; esac ;;
*) echo "unexpected: $@" >&2; exit 2 ;;
esac
"""


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    """A cluster of version 1.36 whose user may do everything, and an image."""
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(KUBECTL)
    kubectl.chmod(0o755)
    (tmp_path / "version").write_text(json.dumps({"serverVersion": {"major": "1", "minor": "36+"}}))
    for name, value in {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "CALLS": str(tmp_path / "calls"),
        "VERSION": str(tmp_path / "version"),
        "DENIED": "none",
        "IMAGE_REPOSITORY": "registry.example.com/perdure",
    }.items():
        monkeypatch.setenv(name, value)
    return Target("current", tmp_path)


def missing(target: Target) -> str:
    with pytest.raises(Problem, match="nothing was changed") as caught:
        install.check_needs(target)
    calls = (target.state / "calls").read_text().splitlines()
    assert all(call.startswith(("version ", "auth can-i ")) for call in calls)
    return caught.value.remedy


def test_a_cluster_that_has_everything_passes(target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    install.check_needs(target)
    said = capsys.readouterr().out
    assert "the image registry.example.com/perdure:dev" in said
    assert "Kubernetes 1.30 or newer" in said
    assert "the right to create clusterroles" in said


def test_everything_that_is_missing_is_named_at_once(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMAGE_REPOSITORY")
    monkeypatch.setenv("DENIED", "clusterroles validatingadmissionpolicies")
    (target.state / "version").write_text(json.dumps({"serverVersion": {"major": "1", "minor": "29"}}))
    remedy = missing(target)
    for part in (
        "docker build -t REGISTRY/perdure:TAG",
        "1.30 or newer; the cluster has 1.29",
        "the right to create clusterroles:",
        "the right to create validatingadmissionpolicies:",
    ):
        assert part in remedy
    assert "namespaces" not in remedy


@pytest.mark.parametrize("minor", ["29", "8"])
def test_an_old_cluster_is_refused(target: Target, minor: str) -> None:
    (target.state / "version").write_text(json.dumps({"serverVersion": {"major": "1", "minor": minor}}))
    assert missing(target) == f"Kubernetes 1.30 or newer; the cluster has 1.{minor}"


def test_the_oldest_version_is_the_chart_s() -> None:
    chart = yaml.safe_load((install.CHART / "Chart.yaml").read_text())
    assert chart["kubeVersion"] == ">={}.{}.0-0".format(*install.OLDEST)
