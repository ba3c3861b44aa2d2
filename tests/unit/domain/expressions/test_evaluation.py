"""What is evaluated in place and what is asked for, and the limits of both."""

from typing import Any

import pytest

from perdure.domain.expressions import evaluation
from perdure.domain.expressions.cel import CHEAP_TOKENS, ExpressionError, compile_expression
from perdure.domain.expressions.compiled import CompiledCache
from perdure.domain.expressions.evaluation import (
    CHEAP_CHARACTERS,
    CHEAP_PATH_VALUES,
    CHEAP_VALUES,
    Evaluation,
    EvaluationPending,
    Names,
    answer,
)
from perdure.domain.expressions.meter import MAX_CHARACTERS, MAX_ELEMENTS
from perdure.domain.expressions.templating import compile_value, render, render_argument


def in_place(source: str, **values: Any) -> bool:
    """Whether an expression is evaluated at once."""
    try:
        Evaluation().evaluate(compile_expression(source), values)
    except EvaluationPending:
        return False
    return True


CHEAP = [
    "inputs.a == 1 && !(inputs.b in [1, 2]) || has(inputs.c)",
    "string(inputs.a) + '-' + inputs.s",
    "size(inputs.s) > 0 ? inputs.s : 'x'",
    "inputs.s.startsWith('a') || inputs.s.contains('b')",
    "{'a': inputs.a, 'b': [inputs.b]}",
]
DEAR = [
    "[1].map(x, x)",
    "inputs.s.matches('a+')",
    "inputs.s.replace('a', 'b')",
    "lists.range(3)",
    "duration('1h')",
    "inputs.s.split(',')",
]


@pytest.mark.parametrize("source", CHEAP)
def test_an_expression_without_macros_and_costly_functions_is_evaluated_in_place(source: str) -> None:
    assert in_place(source, inputs={"a": 1, "b": 2, "s": "abc"})


@pytest.mark.parametrize("source", DEAR)
def test_macros_and_costly_functions_are_asked_for(source: str) -> None:
    assert not in_place(source, inputs={"s": "a,b"})


def test_the_tokens_of_what_is_evaluated_in_place_are_limited() -> None:
    exactly = "+".join(["1"] * (CHEAP_TOKENS // 2))
    assert in_place(f"-{exactly}")
    assert not in_place(f"{exactly}+1")


def test_the_values_that_are_seen_in_place_are_limited() -> None:
    # The name, the map and the list count as well.
    assert in_place("inputs.l == []", inputs={"l": [0] * (CHEAP_VALUES - 3)})
    assert not in_place("inputs.l == []", inputs={"l": [0] * (CHEAP_VALUES - 2)})
    assert in_place("inputs.l", inputs={"l": [0] * (CHEAP_PATH_VALUES - 1)})
    assert not in_place("inputs.l", inputs={"l": [0] * CHEAP_PATH_VALUES})


def test_the_characters_that_are_seen_in_place_are_limited() -> None:
    names = len("inputs") + len("s")
    assert in_place("inputs.s == ''", inputs={"s": "a" * (CHEAP_CHARACTERS - names)})
    assert not in_place("inputs.s == ''", inputs={"s": "a" * (CHEAP_CHARACTERS - names + 1)})
    assert in_place("inputs.s", inputs={"s": "a" * 1_000_000}), "a path copies no text"


def test_only_steps_that_are_referred_to_are_seen() -> None:
    steps = {"a": {"phase": "Succeeded"}, "b": {"phase": "Succeeded", "output": ["x"] * 5000}}
    assert in_place("steps.a.phase == 'Succeeded'", steps=steps)
    assert not in_place("steps.b.phase == 'Succeeded'", steps=steps)


def test_what_an_expression_sees_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "MAX_SEEN_BYTES", len('{"s":"aaaa"}'))
    assert not in_place("[inputs.s].map(x, x)", inputs={"s": "aaaa"})
    with pytest.raises(ExpressionError, match="it sees 13 bytes of JSON; the limit is 12"):
        in_place("[inputs.s].map(x, x)", inputs={"s": "aaaaa"})


def test_all_expressions_of_a_value_are_asked_for_before_it_waits() -> None:
    asked = Evaluation()
    names = Names({"inputs": {}}, asked)
    value = compile_value({"a": "${[1].map(x, x)}", "b": ["${[2].map(x, x)}", "${1 / 0}"]})
    with pytest.raises(EvaluationPending):
        render(value, names, "input")
    with pytest.raises(EvaluationPending):
        render_argument(compile_value("a ${[3].map(x, x)}"), names, "args")
    answers = {it.key: answer(it, compile_expression(it.source)) for it in asked.requests.values()}
    assert len(answers) == 3
    known = Names({"inputs": {}}, Evaluation(answers))
    assert render_argument(compile_value("a ${[3].map(x, x)}"), known, "args") == "a [3]"
    with pytest.raises(ExpressionError, match=r"^input\.b\[1\]: "):
        render(value, known, "input")


def failure(source: str, **values: Any) -> str:
    with pytest.raises(ExpressionError) as error:
        compile_expression(source).evaluate(values)
    return str(error.value)


def test_the_elements_of_macros_are_counted_up_to_the_limit() -> None:
    # A list of 100, each element of which goes through a list of 9,998: with the macros' own, one million.
    inner = ["x"] * (MAX_ELEMENTS // 100 - 3)
    outer = ["x"] * 100
    source = "inputs.o.exists(a, inputs.i.exists(b, b == 'y'))"
    assert compile_expression(source).evaluate({"inputs": {"o": outer, "i": inner}}) is False
    assert "too much work" in failure(source, inputs={"o": outer, "i": [*inner, "x", "x"]})


def test_the_text_that_functions_make_is_counted_before_it_is_made() -> None:
    half = MAX_CHARACTERS // 2
    replaced = compile_expression("inputs.s.replace('a', 'bc')")
    assert replaced.evaluate({"inputs": {"s": "a" * (half // 2)}}) == "bc" * (half // 2)
    assert "too much work" in failure("inputs.s.replace('a', 'bc')", inputs={"s": "a" * (half + 1)})
    assert "too much work" in failure("inputs.l.join(inputs.s)", inputs={"l": ["a"] * 9, "s": "a" * half})


def test_each_evaluation_has_a_budget_of_its_own() -> None:
    for _ in range(3):
        assert compile_expression("lists.range(10000).all(x, x >= 0)").evaluate({}) is True


def test_compiled_expressions_are_kept_by_the_size_of_their_text() -> None:
    cache: CompiledCache[int] = CompiledCache(limit=10)
    for number, text in enumerate(["aaaa", "bbbb", "cc"]):
        cache.put(text, number)
    assert (len(cache), cache.characters) == (3, 10)
    assert cache.get("aaaa") == 0
    cache.put("dd", 3)
    assert cache.get("bbbb") is None, "it was not used for longest"
    assert (cache.get("aaaa"), cache.get("dd")) == (0, 3)
    assert cache.put("x" * 11, 4) == 4
    assert (len(cache), cache.characters) == (3, 8)
