"""Tests of the audit's agents without a cluster, and without bandit: `pip install pytest pytest-asyncio`."""

from __future__ import annotations

import sys

import agent
import pytest
from code_audit import scanner

from perdure_agent import testing

FILES = ["uuid.py", "shelve.py", "getpass.py", "plistlib.py"]


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were examined, in order; nothing is found in any of them."""
    seen: list[str] = []

    async def scan(file: str) -> scanner.Scan:
        seen.append(file)
        return scanner.Scan(findings=(), rules={}, seconds=0.0)

    monkeypatch.setattr(scanner, "scan", scan)
    monkeypatch.setattr(sys, "argv", ["agent.py", "analyse"])
    return seen


@pytest.mark.asyncio
async def test_a_replacement_repeats_only_the_file_in_hand(scanned: list[str]) -> None:
    async with testing.Gateway(input={"batch": "some", "files": FILES}) as gateway:
        # The pod dies with the third file examined, and its checkpoint not yet saved.
        gateway.script(testing.Kill(), on="checkpoint", at=3)
        assert await gateway.run(agent.main) == 137
        assert await gateway.run(agent.main) == 0
        assert scanned == ["uuid.py", "shelve.py", "getpass.py", "getpass.py", "plistlib.py"]
        assert gateway.output["resumptions"] == [{"attempt": 2, "checkpoint": 2}]
        assert [entry["attempt"] for entry in gateway.output["journal"]] == [1, 1, 2, 2]
        assert [kept.label for kept in gateway.checkpoints] == FILES


@pytest.mark.asyncio
async def test_an_absent_gateway_costs_no_file(scanned: list[str]) -> None:
    async with testing.Gateway(input={"files": FILES}) as gateway:
        gateway.script(testing.Unavailable(), on="checkpoint", at=2, times=100)
        assert await gateway.run(agent.main) == 0
        assert scanned == FILES
        assert gateway.progress[-1].message == "analysing plistlib.py"


@pytest.mark.asyncio
async def test_a_mistake_in_the_manifest_fails_for_good(scanned: list[str]) -> None:
    async with testing.Gateway(input={"files": ["nonsense.py"]}) as gateway:
        assert await gateway.run(agent.main) == 1
        assert isinstance(gateway.outcome, testing.Failure)
        assert gateway.outcome.message.startswith(
            "input: files[0]: nonsense.py is not in the standard library"
        )
        assert not gateway.outcome.retryable
        assert scanned == []
