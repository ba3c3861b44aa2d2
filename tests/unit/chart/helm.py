"""Runs the real helm on the chart, without a cluster."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "charts" / "perdure"
VALUES = sorted((CHART / "ci").glob("*.yaml"))
EVALUATION = ("evaluation.enabled=true",)
EXTERNAL = ("database.existingSecret=db", "nats.existingSecret=bus")

Manifest = dict[str, Any]


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """helm's answer, whatever its exit code."""
    command = [str(_helm()), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@functools.cache
def _helm() -> Path:
    # An hour, because it may have to be built first.
    command = [sys.executable, str(ROOT / "hack" / "cluster"), "path", "helm"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=3600, check=True)
    return Path(done.stdout.strip())


def template(
    *sets: str, files: Iterable[Path] = (), release: str = "perdure"
) -> subprocess.CompletedProcess[str]:
    """`helm template` with these `--set`s and values files."""
    options: list[str | Path] = []
    for file in files:
        options += ["--values", file]
    for one in sets:
        options += ["--set", one]
    return helm("template", release, CHART, "--namespace", "perdure-system", *options)


def render(*sets: str, files: Iterable[Path] = (), release: str = "perdure") -> list[Manifest]:
    """The chart's objects."""
    done = template(*sets, files=files, release=release)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def pick(manifests: Iterable[Manifest], kind: str, name: str | None = None) -> list[Manifest]:
    """Those of a kind, and of a name if one is given."""
    return [
        manifest
        for manifest in manifests
        if manifest["kind"] == kind and (name is None or manifest["metadata"]["name"] == name)
    ]


def one(manifests: Iterable[Manifest], kind: str, name: str) -> Manifest:
    """The one of that kind and name."""
    (found,) = pick(manifests, kind, name)
    return found


def pod_templates(manifests: Iterable[Manifest]) -> dict[str, Manifest]:
    """The pods that the chart makes, by `Kind/name`."""
    return {
        f"{manifest['kind']}/{manifest['metadata']['name']}": manifest["spec"]["template"]
        for manifest in manifests
        if manifest["kind"] in {"Deployment", "StatefulSet", "Job"}
    }


def containers(template: Manifest) -> list[Manifest]:
    """Init containers and containers."""
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


def environment(container: Manifest) -> dict[str, Manifest]:
    """Variables by name."""
    return {variable["name"]: variable for variable in container.get("env", [])}
