"""The size of one expression: refused before the parser sees more, and within the limit never a crash."""

import subprocess
import sys
from typing import Any

import pytest
from tests.support.manifests import accept
from tests.unit.domain.builders import snapshot, workflow

from perdure.api.base import MAX_EXPRESSION
from perdure.domain.admission.accept import Refused
from perdure.domain.expressions import evaluator, tokens
from perdure.domain.expressions.cel import MAX_TOKENS, ExpressionError, compile_expression
from perdure.domain.expressions.templating import parse_text

LONG = f"'{'x' * (MAX_EXPRESSION - 2)}'"
#: `1+1+…`: an odd number of tokens; with `-` before it, an even one.
WIDE = "-1" + "+1" * ((MAX_TOKENS - 2) // 2)
TOO_WIDE = "1" + "+1" * (MAX_TOKENS // 2)


def refusal(source: str) -> str:
    with pytest.raises(ExpressionError) as raised:
        compile_expression(source)
    return str(raised.value)


def test_as_many_characters_as_the_limit_are_accepted_and_one_more_is_refused() -> None:
    assert len(LONG) == 8192
    assert compile_expression(LONG).evaluate({}) == "x" * 8190
    message = refusal(LONG[:-1] + "x'")
    assert "8,193 characters, and the limit is 8,192; split it" in message
    assert len(message) < 400, "the message does not repeat what is too long"


def test_as_many_tokens_as_the_limit_are_accepted_and_one_more_is_refused() -> None:
    assert len(tokens.tokenize(WIDE)) == 1000 and len(tokens.tokenize(TOO_WIDE)) == 1001
    assert compile_expression(WIDE).evaluate({}) == 498
    assert "1,001 tokens (names, literals, operators, brackets), and the limit is 1,000" in refusal(TOO_WIDE)


def test_characters_are_counted_not_bytes() -> None:
    text = "é" * (MAX_EXPRESSION - 2)
    assert compile_expression(f"'{text}'").evaluate({}) == text


def test_white_space_around_an_expression_does_not_count_and_text_has_any_number_of_expressions() -> None:
    text = parse_text("x" * 20_000 + f"${{ {LONG} }}" * 3 + " " * 20_000)
    assert len(text.parts) == 5


@pytest.mark.parametrize("source", [LONG + " ", TOO_WIDE, "(" * 20_000])
def test_the_parser_never_sees_more_than_the_limits(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile(text: str) -> Any:
        raise AssertionError("the parser was called")

    monkeypatch.setattr(evaluator, "compile", compile)
    assert "and the limit is" in refusal(source)


FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"agent": {"args": ["x", f"a ${{{TOO_WIDE}}} b"]}}, "spec.steps[0].agent.args[1]"),
    ({"agent": {"command": [f"${{{TOO_WIDE}}}"]}}, "spec.steps[0].agent.command[0]"),
    ({"agent": {"env": [{"name": "A", "value": f"${{{TOO_WIDE}}}"}]}}, "spec.steps[0].agent.env[0].value"),
    ({"input": {"x": [f"${{{TOO_WIDE}}}"]}}, "spec.steps[0].input.x[0]"),
    ({"when": f"${{{TOO_WIDE} > 0}}"}, "spec.steps[0].when"),
    ({"forEach": f"${{[{TOO_WIDE}]}}"}, "spec.steps[0].forEach"),
    ({"wait": {"duration": f"${{{TOO_WIDE}}}"}}, "spec.steps[0].wait.duration"),
    ({"wait": {"until": f"${{{TOO_WIDE}}}"}}, "spec.steps[0].wait.until"),
    (
        {"workflow": {"templateRef": "t", "inputs": {"x": f"${{{TOO_WIDE}}}"}}},
        "spec.steps[0].workflow.inputs.x",
    ),
    ({"repeat": {"until": f"${{{TOO_WIDE} > 0}}", "maxIterations": 2}}, "spec.steps[0].repeat.until"),
    ({"retry": {"limit": 1, "on": f"${{{TOO_WIDE} > 0}}"}}, "spec.steps[0].retry.on"),
    ({"cache": {"key": f"${{{TOO_WIDE}}}"}}, "spec.steps[0].cache.key"),
]


@pytest.mark.parametrize(("fields", "path"), FIELDS)
def test_every_field_with_expressions_is_limited(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(Refused) as raised:
        snapshot(workflow({"name": "a", **fields}))
    (problem,) = raised.value.problems
    assert problem.path == path
    assert (
        "tokens (names, literals, operators, brackets), and the limit is 1,000; split it" in problem.message
    )


def test_outputs_and_standalone_tasks_are_limited() -> None:
    with pytest.raises(Refused) as raised:
        snapshot(workflow({"name": "a"}, outputs={"o": f"${{{LONG} }}", "p": f"${{{LONG} + 'x'}}"}))
    assert [problem.path for problem in raised.value.problems] == ["spec.outputs.p"]
    spec = {"agent": {"image": "i"}, "input": f"${{{TOO_WIDE}}}"}
    with pytest.raises(Refused) as raised:
        accept("AgentTask", spec)
    assert [problem.path for problem in raised.value.problems] == ["spec.input"]


@pytest.mark.parametrize("stack", [0, 1024 * 1024], ids=["default", "1 MiB"])
def test_the_worst_shapes_within_the_limits_crash_no_thread(stack: int) -> None:
    tried = subprocess.run(
        [sys.executable, "-m", "tests.unit.domain.expressions.shapes", str(stack)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert tried.returncode == 0, (tried.returncode, tried.stderr[-2000:])


class Counting:
    """A pattern that counts the characters it has read."""

    def __init__(self, pattern: Any) -> None:
        self._pattern = pattern
        self.read = 0

    def match(self, text: str, start: int) -> Any:
        found = self._pattern.match(text, start)
        self.read += found.end() - start
        return found


@pytest.mark.parametrize(
    "text", ["'" + "\\'" * 5000, '"' + '\\"' * 5000, "'''" + "\\'''" * 5000, "'\n" * 5000]
)
def test_a_string_that_does_not_end_is_read_once(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = {quote: Counting(pattern) for quote, pattern in tokens._BODIES.items()}
    monkeypatch.setattr(tokens, "_BODIES", bodies)
    assert tokens.tokenize(text)
    assert sum(body.read for body in bodies.values()) <= 2 * len(text)
