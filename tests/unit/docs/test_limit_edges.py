"""Limits of docs/limits.md at their edges, as far as no test of one module has them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.unit.kube.test_pods import pod

from perdure.api.graph import MAX_INPUT_BYTES
from perdure.control.schedules import MAX_ACTIVE, _status
from perdure.domain.engine import outcome
from perdure.domain.engine.outcome import MAX_LAST_WORDS, MAX_REPORTED, outcome_of_report
from perdure.domain.engine.tasks import MAX_TASK_INPUT_BYTES, check_size, check_sum
from perdure.domain.expressions.templating import ExpressionError
from perdure.domain.names import ANNOTATION_INPUT
from perdure.domain.payloads import MAX_RUN_PAYLOAD_BYTES, encode, payload_of
from perdure.domain.records import Report
from perdure.gateway.agent_api.limits import AgentLimits
from perdure.gateway.agent_api.request_fields import message
from perdure.gateway.http.limits import Limits
from perdure.kube.tokens import MAX_TOKEN_LENGTH, InvalidToken, TokenVerifier
from perdure_agent import _termination_message

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def of_size(size: int) -> str:
    """A text that is so large as compact JSON, with characters of more than one byte."""
    return "ä" * ((size - 2) // 2) + "x" * ((size - 2) % 2)


def test_the_input_of_a_task() -> None:
    check_size(MAX_TASK_INPUT_BYTES, "input")
    with pytest.raises(ExpressionError, match=f"input: {MAX_TASK_INPUT_BYTES + 1} bytes"):
        check_size(MAX_TASK_INPUT_BYTES + 1, "input")


def test_the_payloads_of_a_run() -> None:
    payload = payload_of(of_size(5))
    check_sum(MAX_RUN_PAYLOAD_BYTES - 5, payload, "input")
    with pytest.raises(ExpressionError, match=f"input: 5 bytes .* keeps {MAX_RUN_PAYLOAD_BYTES - 4} already"):
        check_sum(MAX_RUN_PAYLOAD_BYTES - 4, payload, "input")
    # Null is kept as nothing: a run that is full goes on with tasks that have no input.
    check_sum(MAX_RUN_PAYLOAD_BYTES + 1, None, "input")


def test_the_input_file_of_a_pod() -> None:
    whole = pod(input=encode(of_size(MAX_INPUT_BYTES)))["metadata"]["annotations"]
    assert json.loads(whole[ANNOTATION_INPUT]) == of_size(MAX_INPUT_BYTES)
    assert ANNOTATION_INPUT not in pod(input=encode(of_size(MAX_INPUT_BYTES + 1)))["metadata"]["annotations"]


def test_a_termination_message(tmp_path: Path) -> None:
    file = tmp_path / "log"
    limit = _termination_message.LIMIT
    assert _termination_message.write_output(file, b"1" * limit)
    assert file.read_bytes() == b"1" * limit
    assert not _termination_message.write_output(file, b"1" * (limit + 1))
    # Not even the older message: it would become the output.
    assert file.read_bytes() == b""


def reported(text: str) -> str:
    """What is kept of a failure, from the request to the record of the attempt."""
    sent = message(text, AgentLimits().failure_message)
    return outcome_of_report(Report(outcome="Failed", message=sent, retryable=False, at=NOW)).message


def test_the_message_of_a_failure() -> None:
    assert AgentLimits().failure_message == MAX_REPORTED
    for text in ("x" * MAX_REPORTED, "ä" * MAX_REPORTED):
        assert reported(text) == text
        assert reported(text + "y") == text


def test_the_message_of_progress() -> None:
    limit = AgentLimits().progress_message
    assert message("x" * limit, limit) == "x" * limit
    assert len(message("x" * (limit + 1), limit)) == limit


def test_the_last_words_of_a_container() -> None:
    assert outcome._on_one_line("x" * MAX_LAST_WORDS) == "x" * MAX_LAST_WORDS
    assert outcome._on_one_line("x" * MAX_LAST_WORDS + "y") == "…" + "x" * (MAX_LAST_WORDS - 2) + "y"


async def test_the_length_of_a_token() -> None:
    async def never(_: str) -> Any:
        raise AssertionError("no request for a token that cannot be read")

    verifier = TokenVerifier(never, audience="perdure")
    with pytest.raises(InvalidToken, match="not a JSON web token"):
        await verifier.verify("x" * MAX_TOKEN_LENGTH, now=NOW)
    with pytest.raises(InvalidToken, match="too long"):
        await verifier.verify("x" * (MAX_TOKEN_LENGTH + 1), now=NOW)


def test_the_time_of_a_transfer() -> None:
    limits = Limits()
    assert limits.transfer_time(0) == limits.body_time
    assert limits.transfer_time(limits.slowest) == limits.body_time + 1
    assert limits.transfer_time(AgentLimits().checkpoint) == 158


def test_the_live_runs_of_a_schedule() -> None:
    for number, listed in ((MAX_ACTIVE, MAX_ACTIVE), (MAX_ACTIVE + 1, MAX_ACTIVE)):
        active = [{"name": f"run-{index}", "uid": str(index)} for index in range(number)]
        status = _status({"metadata": {"name": "s"}}, active, NOW, problem=None)
        assert status["active"] == active[:listed]
