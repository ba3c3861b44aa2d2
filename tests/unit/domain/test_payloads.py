"""Payloads: what is kept of JSON in memory, and what expressions that name them ask for."""

from typing import Any

import pytest

from perdure.domain.expressions.cel import ExpressionError, compile_expression
from perdure.domain.expressions.evaluation import MAX_SEEN_BYTES, Evaluation, EvaluationPending
from perdure.domain.expressions.references import step_fields
from perdure.domain.payloads import INLINE_BYTES, Payload, Source, StoredOutput, payload_of, value_of


def stored(size: int, digest: str = "d") -> StoredOutput:
    return StoredOutput("a", -1, Payload(size, digest))


@pytest.mark.parametrize(("size", "kept"), [(INLINE_BYTES, True), (INLINE_BYTES + 1, False)])
def test_a_body_is_kept_up_to_its_limit(size: int, kept: bool) -> None:
    payload = payload_of("x" * (size - 2))
    assert payload is not None
    assert payload.size == size
    settled = payload.settled()
    assert settled == payload
    assert (settled.body is not None) == (payload.inline is not None) == kept
    assert (payload.at(Source("run", "u")).source is None) == kept
    if not kept:
        with pytest.raises(ValueError, match=f"{size} bytes"):
            _ = settled.value


def test_null_has_no_payload() -> None:
    assert payload_of(None) is None
    assert value_of(None) is None


@pytest.mark.parametrize(
    ("source", "fields"),
    [
        ("steps.a.output.x + steps['b'].phase", {"a": {"output"}, "b": {"phase"}}),
        ("steps.a.phase == 'x' || has(steps.a.outputs)", {"a": {"phase", "outputs"}}),
        ("size(steps.a)", {"a": None}),
        ("steps.a.phase == string(steps.a)", {"a": None}),
        ("steps.a['output']", {"a": None}),
        ("inputs.steps.a.output", {}),
    ],
)
def test_the_fields_that_an_expression_names(source: str, fields: dict[str, Any]) -> None:
    assert step_fields(source) == fields


def ask(source: str, step: dict[str, Any]) -> list[StoredOutput]:
    """What is to be read for an expression; nothing if it is evaluated at once."""
    evaluation = Evaluation()
    try:
        evaluation.evaluate(compile_expression(source), {"steps": {"a": {"phase": "Succeeded", **step}}})
    except EvaluationPending:
        (request,) = evaluation.requests.values()
        return [output for _, value in request.values for output in value.stored]
    return []


def test_an_output_is_read_only_if_an_expression_names_it() -> None:
    output = stored(5000)
    for source in ("steps.a.output", "steps.a.output.n", "steps.a.output.n == 1", "[steps.a].map(x, x)"):
        assert ask(source, {"output": output}) == [output], source
    for source in ("steps.a.phase", "steps.a.phase == 'Failed'", "[steps.a.phase].map(x, x)"):
        assert ask(source, {"output": output}) == [], source
    assert ask("steps.a.outputs", {"outputs": [1, output, None]}) == [output]


@pytest.mark.parametrize(("more", "refused"), [(0, False), (1, True)])
def test_what_one_evaluation_reads_is_limited(more: int, refused: bool) -> None:
    around = len('{"phase":"Succeeded","output":}')
    step = {"output": stored(MAX_SEEN_BYTES - around + more)}
    if refused:
        with pytest.raises(ExpressionError, match=str(MAX_SEEN_BYTES)):
            ask("steps.a.output", step)
    else:
        assert len(ask("steps.a.output", step)) == 1


def test_outputs_of_other_content_are_other_requests() -> None:
    def key(digest: str) -> str:
        evaluation = Evaluation()
        values = {"steps": {"a": {"phase": "Succeeded", "output": stored(5000, digest)}}}
        with pytest.raises(EvaluationPending):
            evaluation.evaluate(compile_expression("steps.a.output"), values)
        (found,) = evaluation.requests
        return found

    assert key("d") == key("d") != key("e")
