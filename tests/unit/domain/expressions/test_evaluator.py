"""The border of the CEL library: whatever it raises arrives as an ordinary error."""

import asyncio
from typing import Any

import pytest

from perdure.domain.expressions import cel, evaluator, tokens
from perdure.domain.expressions.cel import COMPILED, ExpressionError
from perdure.domain.expressions.templating import compile_value, render

#: A syntax error beyond column 65,535: the parser panics when it formats the message.
PANICS = f"size('{'a' * 70_000}') + ("


class Panic(BaseException):
    """As `pyo3_runtime.PanicException`: no Exception."""


class Failing:
    """A program of which every use raises."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def execute(self, variables: Any) -> Any:
        raise self._error

    references = execute


def test_a_panic_of_the_parser_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="the evaluator failed \\(PanicException: "):
        evaluator.compile(PANICS)


def test_a_panic_of_the_parser_names_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (cel, tokens):
        monkeypatch.setattr(module, "MAX_EXPRESSION", 100_000)
    with pytest.raises(ExpressionError, match="the evaluator failed"):
        compile_value({"x": f"${{{PANICS}}}"})


@pytest.mark.parametrize("error", [Panic("odd"), AttributeError("odd")])
def test_whatever_a_program_raises_is_an_expression_error(error: BaseException) -> None:
    program: Any = Failing(error)
    with pytest.raises(ValueError, match=f"the evaluator failed \\({type(error).__name__}: odd"):
        evaluator.execute(program, {})
    with pytest.raises(ValueError, match="the evaluator failed"):
        evaluator.references(program)


def test_an_evaluation_without_memory_is_too_much_work() -> None:
    value: Any = compile_value("${2 + 2}")
    object.__setattr__(value.whole, "_program", Failing(MemoryError()))
    try:
        with pytest.raises(ExpressionError, match=r"^input: \$\{2 \+ 2\}: too much work"):
            render(value, {}, "input")
    finally:
        COMPILED.clear()


def test_a_panic_of_an_evaluation_names_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    value = compile_value(["${1 + 1}"])

    class Library:
        def execute(self, variables: Any) -> Any:
            raise Panic("odd")

    object.__setattr__(value[0].whole, "_program", Library())
    try:
        with pytest.raises(
            ExpressionError, match=r"input\[0\]: \$\{1 \+ 1\}: the evaluator failed \(Panic: odd"
        ):
            render(value, {}, "input")
    finally:
        COMPILED.clear()


@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(), GeneratorExit()]
)
def test_what_ends_a_task_or_the_process_passes(error: BaseException) -> None:
    with pytest.raises(type(error)):
        evaluator.execute(Failing(error), {})  # type: ignore[arg-type]
