"""What an expression says about steps: dependencies, and the hint when one has no output."""

from typing import Any

import pytest

from perdure.domain.expressions.cel import ExpressionError, compile_expression


@pytest.mark.parametrize(
    ("source", "steps"),
    [
        ("steps.a.output", {"a"}),
        ('steps["a-b"].output', {"a-b"}),
        ("steps['a-b'].output", {"a-b"}),
        ("steps . a . output", {"a"}),
        ("steps // the first\n.a.output", {"a"}),
        ("steps.a.output + steps.b.output", {"a", "b"}),
        ("has(steps.a.output) ? steps.a.output : steps.b.output", {"a", "b"}),
        ("steps.a.outputs.map(o, o.steps.x)", {"a"}),
        ('inputs.l.map(x, steps["a"].output[x])', {"a"}),
        ("inputs.steps.a", set()),
        ("'steps.a'", set()),
        ("\"steps['a']\"", set()),
        # `a-b` is a subtraction here, and `b` an unknown name.
        ("steps.a-b.output", {"a"}),
    ],
)
def test_steps_that_an_expression_depends_on(source: str, steps: set[str]) -> None:
    assert compile_expression(source).steps == steps


@pytest.mark.parametrize(
    "source",
    [
        "steps",
        "steps[inputs.name].output",
        "steps['a' + 'b'].output",
        "steps.size()[0] + size(steps)",
        "[steps]",
        'steps[r"a"].output',
        'steps["\\x61"].output',
        'steps["""a"""].output',
        "steps.exists(s, true) || size(steps) > 1",
    ],
)
def test_a_dependency_must_be_legible(source: str) -> None:
    with pytest.raises(ExpressionError, match=r'write steps.name or steps\["name"\], so that'):
        compile_expression(source)


STEPS: dict[str, Any] = {
    "good": {"phase": "Succeeded", "output": {"n": 1}, "attempts": 1},
    "bad": {"phase": "Failed", "exitCode": 3, "attempts": 2},
    "a-b": {"phase": "Skipped", "attempts": 0},
    "many": {"phase": "Failed", "outputs": [1, None, 3], "attempts": 4},
}


def evaluate(source: str) -> Any:
    return compile_expression(source).evaluate({"steps": STEPS, "inputs": {}})


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("steps.good.output.n", 1),
        ("has(steps.bad.output)", False),
        ("has(steps.good.output)", True),
        ("has(steps.bad.output) ? steps.bad.output : 'none'", "none"),
        ("steps.bad.phase == 'Failed' && steps.bad.exitCode == 3", True),
        ('steps["a-b"].phase', "Skipped"),
        ('has(steps["a-b"].output)', False),
        ("steps.many.outputs.filter(o, o != null)", [1, 3]),
        ("has(steps.many.output)", False),
    ],
)
def test_guarded_references(source: str, value: Any) -> None:
    assert evaluate(source) == value


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("steps.bad.output", "(step 'bad' is Failed and has no output; guard the reference with has())"),
        ("steps.bad.output.x + 1", "step 'bad' is Failed and has no output"),
        ('steps["a-b"].output', "step 'a-b' is Skipped and has no output"),
        (
            'steps.bad.output == steps["a-b"].output',
            "(step 'a-b' is Skipped and has no output; step 'bad' is Failed and has no output; guard",
        ),
    ],
)
def test_an_unguarded_reference_names_the_step_and_the_remedy(source: str, hint: str) -> None:
    with pytest.raises(ExpressionError) as raised:
        evaluate(source)
    assert str(raised.value).startswith(f"${{{source}}}: no such key: 'output'")
    assert hint in str(raised.value)


def test_a_fault_of_another_kind_blames_no_step() -> None:
    with pytest.raises(ExpressionError) as raised:
        evaluate("steps.good.output.gone")
    assert str(raised.value) == "${steps.good.output.gone}: no such key: 'gone'"
