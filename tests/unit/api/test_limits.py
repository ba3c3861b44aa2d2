"""The limits of manifests, each at its edge: docs/limits.md lists them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.support.manifests import (
    Checked,
    check_agenttask,
    check_workflow,
    check_workflowschedule,
    check_workflowtemplate,
)

AGENT = {"image": "i"}
EXPRESSION = "${" + "x" * 8189 + "}"


def workflow(**spec: Any) -> Checked[Any]:
    return check_workflow({"spec": {"steps": [{"name": "a", "agent": AGENT}], **spec}})


def step(**fields: Any) -> Checked[Any]:
    return workflow(steps=[{"name": "a", "agent": AGENT, **fields}])


def steps(number: int, field: str) -> Checked[Any]:
    return workflow(**{field: [{"name": f"{field}-{n}", "agent": AGENT} for n in range(number)]})


def children(depth: int) -> Checked[Any]:
    """A workflow with so many in each other."""
    spec: dict[str, Any] = {"steps": [{"name": "a", "agent": AGENT}]}
    for _ in range(depth):
        spec = {"steps": [{"name": "a", "workflow": {"spec": spec}}]}
    return workflow(**spec)


def child(**fields: Any) -> Checked[Any]:
    return workflow(steps=[{"name": "a", "workflow": {"templateRef": "t", **fields}}])


def waiting(**fields: Any) -> Checked[Any]:
    return workflow(steps=[{"name": "a", "wait": fields}])


def task(**fields: Any) -> Checked[Any]:
    return check_agenttask({"spec": {"agent": AGENT, **fields}})


def template(**fields: Any) -> Checked[Any]:
    return check_workflowtemplate({"spec": {"steps": [{"name": "a", "agent": AGENT}], **fields}})


def schedule(name: str = "a", **fields: Any) -> Checked[Any]:
    spec = {"schedule": "@daily", "workflow": {"spec": {"templateRef": "t"}}, **fields}
    return check_workflowschedule({"metadata": {"name": name}, "spec": spec})


def labels(number: int) -> dict[str, Any]:
    return {"podTemplate": {"metadata": {"labels": {f"l{n}": "v" for n in range(number)}}}}


def of_size(size: int) -> dict[str, str]:
    """An object that is so large as compact JSON."""
    return {"a": "x" * (size - len('{"a":""}'))}


#: What is limited, how a manifest with a value is made, and values within the limit and beyond it.
EDGES: list[tuple[str, Callable[[Any], Checked[Any]], list[Any], list[Any]]] = [
    ("steps", lambda n: steps(n, "steps"), [1, 500], [0, 501]),
    ("finally steps", lambda n: steps(n, "finally"), [0, 50], [51]),
    ("workflows in each other", children, [0, 8], [9]),
    ("items", lambda n: step(forEach=[1] * n), [0, 10_000], [10_001]),
    ("iterations", lambda n: step(repeat={"until": "${true}", "maxIterations": n}), [1, 1000], [0, 1001]),
    ("dependencies", lambda n: step(dependsOn=[f"s{i}" for i in range(n)]), [100], [101]),
    ("parallelism of a run", lambda n: workflow(parallelism=n), [1, 10_000], [0, 10_001]),
    ("parallelism of a step", lambda n: step(forEach=[1], parallelism=n), [1, 10_000], [0, 10_001]),
    ("failures", lambda n: step(forEach=[1], maxFailures=n), [0, 10_000, "0%", "100%"], [-1, 10_001, "101%"]),
    ("priority", lambda n: workflow(priority=n), [-1000, 1000], [-1001, 1001]),
    ("retries", lambda n: step(retry={"limit": n}), [0, 1000], [-1, 1001]),
    ("factor", lambda n: step(retry={"backoff": {"factor": n}}), [1, 1.5, 100], [0.9, 100.1]),
    ("jitter", lambda n: step(retry={"backoff": {"jitter": n}}), [0, 1], [-0.1, 1.1]),
    ("delay", lambda d: step(retry={"backoff": {"initial": "1m", "max": d}}), ["1m"], ["59s"]),
    ("disruptions", lambda n: task(disruptions={"limit": n}), [0, 1000], [-1, 1001]),
    ("timeout", lambda d: workflow(timeout=d), ["1ms", "87600h"], ["0s", "87601h"]),
    ("attempt's timeout", lambda d: task(timeout=d), ["1ms", "87600h"], ["0s", "87601h"]),
    ("pending timeout", lambda d: task(pendingTimeout=d), ["1ms"], ["0ms"]),
    ("idle timeout", lambda d: task(idleTimeout=d), ["1ms"], ["0h"]),
    ("cache", lambda d: step(cache={"key": "k", "ttl": d}), ["1s", "87600h"], ["0s", "87601h"]),
    ("wait", lambda d: waiting(duration=d), ["0s", "87600h"], ["87601h"]),
    ("retention", lambda d: workflow(retention={"ttlAfterFinished": d}), ["0s", "87600h"], ["87601h"]),
    ("checkpoints", lambda n: task(retention={"checkpointsPerTask": n}), [1, 1000], [0, 1001]),
    ("expression", lambda text: step(when=text), [EXPRESSION], [EXPRESSION.replace("x", "xx", 1)]),
    ("cache key", lambda text: step(cache={"key": text}), ["x" * 8192], ["", "x" * 8193]),
    ("inputs", lambda n: workflow(inputs=of_size(n)), [65_536], [65_537]),
    ("inputs of a child", lambda n: child(inputs=of_size(n)), [65_536], [65_537]),
    ("parameters", lambda n: template(parameters=of_size(n)), [65_536], [65_537]),
    ("model", lambda n: task(agent={**AGENT, "model": "m" * n}), [1, 256], [0, 257]),
    ("labels", lambda n: task(agent={**AGENT, **labels(n)}), [64], [65]),
    (
        "label",
        lambda n: schedule(workflow={"metadata": {"labels": {"a": "v" * n}}, "spec": {"templateRef": "t"}}),
        [63],
        [64],
    ),
    ("name of a schedule", lambda n: schedule("n" * n), [52], [53]),
    ("succeeded runs", lambda n: schedule(successfulHistoryLimit=n), [0, 1000], [-1, 1001]),
    ("failed runs", lambda n: schedule(failedHistoryLimit=n), [0, 1000], [-1, 1001]),
    ("starting deadline", lambda d: schedule(startingDeadline=d), ["1ms"], ["0s"]),
]


@pytest.mark.parametrize(
    ("make", "within", "beyond"), [row[1:] for row in EDGES], ids=[row[0] for row in EDGES]
)
def test_a_limit_holds_at_its_edge(
    make: Callable[[Any], Checked[Any]], within: list[Any], beyond: list[Any]
) -> None:
    for value in within:
        assert make(value).problems == ()
    for value in beyond:
        assert len(make(value).problems) == 1
