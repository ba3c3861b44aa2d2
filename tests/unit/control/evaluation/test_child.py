"""What an evaluation child answers, and the limits of an answer."""

from typing import Any

import pytest

from perdure.control.evaluation import child
from perdure.control.evaluation.wire import decode_batch, encode_batch
from perdure.domain.expressions.cel import ExpressionError, compile_expression
from perdure.domain.expressions.evaluation import Evaluation, EvaluationPending, EvaluationRequest


def request(source: str, values: dict[str, Any]) -> EvaluationRequest:
    evaluation = Evaluation()
    with pytest.raises(EvaluationPending):
        evaluation.evaluate(compile_expression(source), values)
    (made,) = evaluation.requests.values()
    return made


def evaluated(*requests: EvaluationRequest) -> list[bytes]:
    """Answers to a batch that was sent and received."""
    batch = decode_batch(encode_batch(requests)[4:])
    parsed: dict[int, Any] = {}
    return [child.evaluate(source, values, batch, parsed) for source, values in batch.requests]


def test_the_requests_of_a_batch_see_their_own_values_and_share_equal_ones() -> None:
    seen = {"inputs": {"l": [1, 2]}}
    requests = [request(f"inputs.l.map(x, x * {factor})", seen) for factor in (1, 2)]
    other = request("inputs.l.map(x, x)", {"inputs": {"l": ["a"]}})
    batch = decode_batch(encode_batch([*requests, other])[4:])
    assert [bytes(body) for body in batch.bodies] == [b'{"l":[1,2]}', b'{"l":["a"]}']
    assert evaluated(*requests, other) == [b"[1,2]", b"[2,4]", b'["a"]']


def test_a_result_has_as_many_bytes_as_the_limit_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "MAX_RESULT_BYTES", len('["aaaa"]'))
    asked = "[inputs.s].map(x, x)"
    assert evaluated(request(asked, {"inputs": {"s": "aaaa"}})) == [b'["aaaa"]']
    with pytest.raises(ExpressionError, match="the result has 9 bytes of JSON; the limit is 8"):
        evaluated(request(asked, {"inputs": {"s": "aaaaa"}}))


def test_a_result_has_as_many_values_as_the_limit_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "MAX_RESULT_VALUES", 4)
    asked = "inputs.l.map(x, x)"
    assert evaluated(request(asked, {"inputs": {"l": [",", [], {}]}})) == [b'[",",[],{}]']
    assert evaluated(request(asked, {"inputs": {"l": [",,,,[[[["]}})), "commas of a text are no values"
    with pytest.raises(ExpressionError, match="the result has 5 values; the limit is 4"):
        evaluated(request(asked, {"inputs": {"l": [",", [0], {}]}}))
