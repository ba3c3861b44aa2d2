"""Environment variables of the agent's contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure_agent import Environment, LastFailure


def test_an_empty_environment_means_local_mode() -> None:
    environment = Environment.read({})
    assert environment.gateway_url is None
    assert environment.attempt == 1
    assert (environment.model, environment.last_failure) == (None, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("null", None),
        (
            '{"attempt": 1, "reason": "Timeout", "message": "", "exitCode": null}',
            LastFailure(attempt=1, reason="Timeout", message="", exit_code=None),
        ),
        ('{"attempt": 1}', LastFailure(attempt=1, reason="", message="", exit_code=None)),
    ],
)
def test_the_last_failure(text: str, expected: LastFailure | None) -> None:
    assert Environment.read({"PERDURE_LAST_FAILURE": text}).last_failure == expected


def test_the_contract_s_variables() -> None:
    environment = Environment.read(
        {
            "PERDURE_GATEWAY_URL": "http://gateway:8080/",
            "PERDURE_NAMESPACE": "team-a",
            "PERDURE_WORKFLOW": "audit",
            "PERDURE_TASK": "audit-analyse-0-abcde",
            "PERDURE_STEP": "analyse",
            "PERDURE_ATTEMPT": "3",
            "PERDURE_MODEL": "large-2",
            "PERDURE_LAST_FAILURE": (
                '{"attempt":2,"reason":"ExitCode","message":"no such file","exitCode":2,"more":1}'
            ),
            "PERDURE_INPUT_FILE": "/perdure/input.json",
            "PERDURE_TOKEN_FILE": "/var/run/secrets/perdure/token",
        }
    )
    assert environment == Environment(
        gateway_url="http://gateway:8080",
        namespace="team-a",
        workflow="audit",
        task="audit-analyse-0-abcde",
        step="analyse",
        attempt=3,
        model="large-2",
        last_failure=LastFailure(attempt=2, reason="ExitCode", message="no such file", exit_code=2),
        input_file=Path("/perdure/input.json"),
        token_file=Path("/var/run/secrets/perdure/token"),
    )


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"PERDURE_ATTEMPT": "first"}, "PERDURE_ATTEMPT"),
        ({"PERDURE_ATTEMPT": "0"}, "PERDURE_ATTEMPT"),
        ({"PERDURE_GATEWAY_URL": "gateway:8080"}, "PERDURE_GATEWAY_URL"),
        ({"PERDURE_LAST_FAILURE": "the disk was full"}, "PERDURE_LAST_FAILURE makes no sense"),
        ({"PERDURE_LAST_FAILURE": "[1]"}, 'PERDURE_LAST_FAILURE.*object with "attempt"'),
    ],
)
def test_a_variable_with_a_bad_value_is_named(variables: dict[str, str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Environment.read(variables)
