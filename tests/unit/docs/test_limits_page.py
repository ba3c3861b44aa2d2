"""docs/limits.md: generated, with every constant that is a limit, and a test at each edge that exists."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest
from hack.docs import limits
from tests.unit.api import test_limits as manifests

from perdure.gateway.agent_api.limits import AgentLimits
from perdure.gateway.http.limits import Limits

ROOT = Path(__file__).resolve().parents[3]
PRODUCT = ROOT / "operator"

#: Constants with the name of a limit that bind no person, each with the reason.
INTERNAL = {
    "perdure.control.evaluation.limits:MAX_EVALUATIONS": "when a child is replaced",
    "perdure.control.evaluation.pool:MAX_ANSWER_BYTES": "the answer to a batch; one result has a limit",
    "perdure.control.evaluation.queue:MAX_TURN": "evaluations of one batch; more follow in the next",
    "perdure.control.evaluation.wire:MAX_MESSAGE_BYTES": "a message between operator and child",
    "perdure.domain.expressions.compiled:MAX_CHARACTERS": "a cache",
    "perdure.control.leadership.retention:MAX_REFUSED": "memory of refused deletions; they are tried again",
    "perdure.control.passed_over:MAX_ERROR": "text of an error in the log and the readiness",
    "perdure.control.passed_over:MAX_NAME": "text of an error in the log and the readiness",
    "perdure.control.runs.live_runs:MAX_CAUSE": "text of an error in a status, which has a limit of its own",
    "perdure.control.queue.workqueue:MAX_DELAY": "backoff of a failed pass",
    "perdure.control.runs.pod_warnings:MAX_BUCKETS": "a cache",
    "perdure.control.schedules:MAX_MESSAGE": "the same as in every status",
    "perdure.control.status.conditions:MAX_MESSAGE": "the same as in every status",
    "perdure.control.status.pending:MAX_TASKS": "statuses of one batch; more follow in the next",
    "perdure.control.status.waiting:MAX_NAMES": "names in a message; the rest is counted",
    "perdure.domain.engine.outcome:MAX_REPORTED": "the gateway's limit again: see test_limit_edges.py",
    "perdure.domain.engine.steps:MAX_NEW_TASKS": "tasks of one decision; more follow in the next",
    "perdure.domain.names:MAX_TASK_NAME": "names are cut, and stay unique",
    "perdure.health:MAX_FINDINGS": "findings in the readiness",
    "perdure.kube.client:MAX_WARNINGS": "a cache",
    "perdure.kube.retries:MAX_PAUSE": "backoff of a request",
}
#: Fields of the gateway's limits that bind no person.
INTERNAL_FIELDS = {
    "window": "memory of one transfer",
    "sessions": "a cache",
    "uncounted": "which bodies count against the memory",
    "discarded": "what is read of a refused body",
    "stream_time": "no route has a stream yet",
    "stream_idle": "no route has a stream yet",
    "drain": "the stop of a gateway",
}


def functions(path: str) -> set[str]:
    """Names of the test functions of a file."""
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_the_committed_page_is_fresh() -> None:
    assert limits.main(["--check", "--output", str(ROOT / limits.FILE)]) == 0


def test_every_named_test_exists() -> None:
    missing = []
    edges = {row[0] for row in manifests.EDGES}
    for limit in limits.limits():
        for test in limit.tests:
            path, _, name = test.partition("::")
            name, _, parameter = name.removesuffix("]").partition("[")
            if (
                not (ROOT / path).exists()
                or name not in functions(path)
                or (name == "test_a_limit_holds_at_its_edge" and parameter not in edges)
            ):
                missing.append(f"{limit.what}: {test}")
    assert missing == []


def test_every_edge_of_a_manifest_is_on_the_page() -> None:
    named = {test.removesuffix("]").partition("[")[2] for limit in limits.limits() for test in limit.tests}
    assert {row[0] for row in manifests.EDGES} - named == set()


def constants() -> set[str]:
    """All constants of the product with the name of a limit, as `module:NAME`."""
    found = set()
    for file in PRODUCT.rglob("*.py"):
        module = ".".join(file.relative_to(PRODUCT).with_suffix("").parts)
        for line in file.read_text().splitlines():
            if match := re.match(r"(MAX_[A-Z_]+)(: Final)?\s*=", line):
                found.add(f"{module}:{match[1]}")
    return found


def test_every_constant_that_is_a_limit_is_on_the_page_or_internal() -> None:
    listed = {constant for limit in limits.limits() for constant in limit.constants}
    values = {constant: limits.value_of(constant) for constant in constants()}
    assert sorted(values.keys() - listed - INTERNAL.keys()) == []
    assert INTERNAL.keys() - values.keys() == set(), "internal constants that were deleted"


@pytest.mark.parametrize("model", [Limits, AgentLimits], ids=lambda model: model.__name__)
def test_every_limit_of_the_gateway_is_on_the_page_or_internal(model: type) -> None:
    listed = {
        constant.rpartition(".")[2]
        for limit in limits.limits()
        for constant in limit.constants
        if model.__module__ in constant
    }
    fields = {field.name for field in dataclasses.fields(model)}
    assert fields - listed - INTERNAL_FIELDS.keys() == set()


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (10_000, "", "10,000"),
        (65_536, "size", "64 KiB"),
        (1 << 20, "size", "1 MiB"),
        (1_310_720, "size", "1,280 KiB"),
        (1000, "size", "1,000 bytes"),
        (60.0, "s", "1 min"),
        (75.0, "s", "75 s"),
        (3600, "s", "1 h"),
        (0.5, "s", "500 ms"),
        (604_800.0, "s", "7 d"),
    ],
)
def test_numbers_are_written_as_people_write_them(value: float, unit: str, text: str) -> None:
    assert limits.shown(value, unit) == text


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ('limit = "{perdure.api.graph:MAX_STEP}"\ntests = ["a::b"]', "perdure.api.graph:MAX_STEP"),
        ('limit = "{perdure.nothing:X}"\ntests = ["a::b"]', "perdure.nothing:X"),
        ('limit = "{perdure.gateway.http.limits:Limits.nothing}"\ntests = ["a::b"]', "Limits.nothing"),
        ('limit = "5"', "needs tests"),
        ('limit = "5"\ntests = ["a::b"]\nwho = "x"', "who"),
    ],
)
def test_a_faulty_row_is_named(row: str, error: str) -> None:
    text = f'[a]\ntitle = "A"\n[[a.limits]]\nwhat = "w"\nscope = "s"\nbeyond = "b"\n{row}\n'
    with pytest.raises(ValueError, match=re.escape(error)):
        limits.limits(text)
