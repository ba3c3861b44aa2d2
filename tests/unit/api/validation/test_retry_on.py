"""`retry.on` under either name: as it is written, and as readers of YAML 1.1 hand it on when it is bare."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from tests.support.manifests import InvalidManifest, parse_workflow


def _workflow(retry: dict[Any, Any]) -> Any:
    steps = [{"name": "a", "agent": {"image": "agent"}, "retry": retry}]
    return parse_workflow({"metadata": {"name": "run"}, "spec": {"steps": steps}})


@pytest.mark.parametrize("name", ["on", "true"])
def test_both_names_mean_the_same(name: str) -> None:
    spec = _workflow({"limit": 1, name: "${attempt.exitCode != 2}"})
    assert spec.steps[0].retry.condition == "${attempt.exitCode != 2}"


def test_both_at_once_are_refused() -> None:
    with pytest.raises(InvalidManifest, match="has on twice"):
        _workflow({"on": "${true}", "true": "${true}"})


def test_why_there_are_two() -> None:
    assert yaml.safe_load("on: x") == {True: "x"}
