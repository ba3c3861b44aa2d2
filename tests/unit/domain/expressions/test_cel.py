"""Single expressions: results as JSON, errors that a person can act on, no dependence on a map's order."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.api.workflow import MAX_ITEMS
from perdure.domain.expressions.cel import ExpressionError, compile_expression, to_json
from perdure.domain.expressions.macros import ORDERING

VALUES: dict[str, Any] = {
    "inputs": {
        "name": "audit",
        "n": 3,
        "big": 2**63 - 1,
        "huge": 2**64 - 1,
        "f": 0.5,
        "none": None,
        "list": [3, 1, 2],
        "names": ["b", "a"],
        "map": {"z": 1, "a": 2, "m": 3},
        "a-b": {"c": [{"d": "deep"}]},
    },
    "steps": {},
    "workflow": {"name": "w", "phase": "Running"},
    "at": datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
}


def evaluate(source: str, values: dict[str, Any] | None = None) -> Any:
    return compile_expression(source).evaluate(VALUES if values is None else values)


def message(source: str, values: dict[str, Any] | None = None) -> str:
    with pytest.raises(ExpressionError) as raised:
        evaluate(source, values)
    return str(raised.value)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("inputs.name", "audit"),
        ('inputs["a-b"].c[0].d', "deep"),
        ("inputs.none", None),
        ("inputs.huge", 2**64 - 1),
        ("inputs.f * 2.0", 1.0),
        ("inputs.n > 2 && inputs.name == 'audit'", True),
        ("inputs.n == 3 ? 'three' : 'other'", "three"),
        ("inputs.list.size()", 3),
        ("size(inputs.map)", 3),
        ("'x' in inputs.map", False),
        ("has(inputs.gone)", False),
        ("has(inputs.none)", True),
        ("has(inputs.gone) ? inputs.gone : 'default'", "default"),
        ("inputs.list.map(x, x * 2)", [6, 2, 4]),
        ("inputs.list.map(x, x > 1, x * 2)", [6, 4]),
        ("inputs.list.filter(x, x > 1)", [3, 2]),
        ("inputs.list.all(x, x > 0)", True),
        ("inputs.list.exists(x, x > 2)", True),
        ("inputs.list.exists_one(x, x > 2)", True),
        ("inputs.list.sort()", [1, 2, 3]),
        ("inputs.names.join('-')", "b-a"),
        ("inputs.list.map(x, inputs.list.map(y, x * y))", [[9, 3, 6], [3, 1, 2], [6, 2, 4]]),
        ("[].map(x, x)", []),
        ("[].first().orValue(7)", 7),
        ("math.greatest(1, 2)", 2),
        ("string(inputs.n) + '%'", "3%"),
        ("'a,b'.split(',')", ["a", "b"]),
        ("'x'.matches('^[a-z]$')", True),
        ("type(inputs.map) == map", True),
        ("{'b': 1, 'a': 2}", {"a": 2, "b": 1}),
        # 19: timestamps and durations are CEL's own.
        ("at", "2024-01-02T03:04:05Z"),
        ("at + duration('90s')", "2024-01-02T03:05:35Z"),
        ("at.getHours()", 3),
        ("at - timestamp('2024-01-02T03:00:00Z')", "245s"),
        ("at > timestamp('2024-01-01T00:00:00Z')", True),
        ("timestamp('2024-01-01T02:00:00+02:00')", "2024-01-01T00:00:00Z"),
        ("duration('1500ms')", "1.5s"),
        ("duration('1h')", "3600s"),
        ("duration('-1s')", "-1s"),
    ],
)
def test_results(source: str, value: Any) -> None:
    result = evaluate(source)
    assert result == value
    assert type(result) is type(value)
    if isinstance(value, dict):
        assert list(result) == list(value)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("1 +", "at character 4"),
        ("1 +\n  * 2", "at line 2, character 3"),
        ("", "at character 1"),
        ("a..b", "at character 3"),
        ("inputs.name &", "at character 13"),
        ("size(", "at character 6"),
        ("'open", "at character 1"),
        ("for", "reserved identifier: for at character 1"),
        ("frobnicate(1)", "unknown function 'frobnicate'"),
        ("inputs.list.frobnicate()", "unknown function 'frobnicate'"),
        ("_f(1)", "unknown function '_f'"),
        ("inputs.list.perdurePieces()", "unknown function 'perdurePieces'"),
        ("now()", "unknown function 'now'"),
        ("[1].map(steps, steps)", "'steps' cannot be a variable of a macro; choose another name"),
    ],
)
def test_what_does_not_compile(source: str, text: str) -> None:
    with pytest.raises(ExpressionError) as raised:
        compile_expression(source)
    assert str(raised.value).startswith(f"${{{source}}}: ")
    assert text in str(raised.value)
    assert "ERROR" not in str(raised.value)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("inputs.gone", "no such key: 'gone'"),
        ("inputs['gone'] + 1", "no such key: 'gone'"),
        ("inputs.none.x", "null has no element 'x'"),
        ("inputs.list.x", "a list has no element 'x'"),
        ("inputs.list[3]", "index out of bounds: 3"),
        ("inputs.name.x", "the str 'audit' has no element 'x'"),
        ("inputs.list[-1]", "index out of bounds: -1"),
        ("inputs.name + 1", "string + int"),
        ("1 / 0", "division by zero"),
        ("inputs.big + 1", "overflow"),
        ("1 ? 2 : 3", "No such overload"),
        ("size(1)", "size() is not for arguments like these"),
        ("abs(1)", "abs() is not for arguments like these"),
        ("'é'.charAt(5)", "charAt(): index 5 out of range for string of length 1"),
        (f"lists.range({MAX_ITEMS + 1})", f"the limit is {MAX_ITEMS}"),
        ("lists.range(1000000000000)", f"the limit is {MAX_ITEMS}"),
        ("'a'.matches('(')", "not a valid regex"),
        # What JSON, or the ledger, cannot hold.
        ("1.0 / 0.0", "the result is inf, which JSON cannot hold"),
        ("0.0 / 0.0", "the result is nan, which JSON cannot hold"),
        ("[1.0 / 0.0]", "the result is inf, which JSON cannot hold"),
        ("bytes('x')", "the result is of type bytes, which JSON cannot hold"),
        ("{1: 2}", "the keys of a map must be strings"),
        ("{'a': {true: 1}}", "the keys of a map must be strings"),
        ("'\\u0000'", "U+0000"),
        ("['a\\u0000b']", "U+0000"),
        ("[].first()", "the result is of type OptionalValue"),
        ("inputs.list.map(x, {'v': x}).map(y, y.w)", "${"),
    ],
)
def test_what_cannot_be_evaluated(source: str, text: str) -> None:
    said = message(source)
    assert said.startswith(f"${{{source}}}: ")
    assert text in said
    assert "perdure" not in said


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1])
def test_numbers_of_more_than_64_bits_are_refused(value: int) -> None:
    with pytest.raises(ExpressionError, match="more than 64 bits"):
        to_json([value])


def test_depth_is_bounded_and_never_a_crash() -> None:
    value: Any = 1
    for _ in range(100):
        value = [value]
    assert evaluate("inputs.deep", {"inputs": {"deep": value}}) == value
    assert "nested deeper than 100 levels" in message("inputs.deep", {"inputs": {"deep": [value]}})
    for opening, closing in (("(", ")"), ("[", "]"), ("[1].map(x, ", ")"), ("size(", ")")):
        with pytest.raises(ExpressionError):
            compile_expression(opening * 5000 + "1" + closing * 5000)
    # Macros nest to about half the depth that the parser allows; beyond that they are refused as a whole.
    for depth in range(1, 60):
        source = "[1].map(x, " * depth + "1" + ")" * depth
        try:
            result = evaluate(source)
        except ExpressionError:
            break
        assert str(result) == "[" * depth + "1" + "]" * depth
    assert depth > 10


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (timedelta(seconds=90), "90s"),
        (timedelta(microseconds=1), "0.000001s"),
        (timedelta(0), "0s"),
        (datetime(2024, 1, 1, tzinfo=UTC), "2024-01-01T00:00:00Z"),
        (datetime(2024, 1, 1, microsecond=120, tzinfo=UTC), "2024-01-01T00:00:00.000120Z"),
    ],
)
def test_times_as_json(value: Any, text: str) -> None:
    assert to_json(value) == text


# --- maps have no order, decisions do


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("inputs.m.map(k, k)", sorted("qwertyuiop")),
        ("inputs.m.map(k, inputs.m[k])", ["qwertyuiop".index(key) for key in sorted("qwertyuiop")]),
        ("inputs.m.filter(k, inputs.m[k] > 4)", sorted("yuiop")),
        ("inputs.m.map(k, inputs.m[k] > 4, k)", sorted("yuiop")),
        ("[inputs.m].map(m, m.map(k, k))[0]", sorted("qwertyuiop")),
        ("inputs.m.filter(k, true).map(k, k + k)", [2 * key for key in sorted("qwertyuiop")]),
        ("{'y': 1, 'x': 2, 'z': 3, 'w': 4}.map(k, k)", ["w", "x", "y", "z"]),
        ("{3: 'c', 1: 'a', 2: 'b'}.map(k, k)", [1, 2, 3]),
        ("inputs.m.join(',')", ",".join(sorted("qwertyuiop"))),
        ("inputs.m.exists(k, k == 'q' || 1 / 0 == 1)", ExpressionError),
    ],
)
def test_maps_are_gone_through_in_key_order(source: str, value: Any) -> None:
    values = {"inputs": {"m": {key: index for index, key in enumerate("qwertyuiop")}}, "steps": {}}
    for _ in range(5):  # the evaluator's own order changes from one evaluation to the next
        if value is ExpressionError:
            assert "division by zero" in message(source, values)
        else:
            assert evaluate(source, values) == value


@given(st.dictionaries(st.text("äbcABC '\"", max_size=3), st.integers(0, 9), max_size=6))
def test_a_maps_order_never_shows(values: dict[str, int]) -> None:
    names = {"inputs": {"m": values}, "steps": {}}
    assert list(evaluate("inputs.m", names)) == sorted(values)
    assert evaluate("inputs.m.map(k, k)", names) == sorted(values)
    assert evaluate("inputs.m.all(k, inputs.m[k] < 9)", names) == all(v < 9 for v in values.values())


@given(st.lists(st.integers(-9, 9), max_size=350))
def test_long_lists_give_what_short_ones_give(values: list[int]) -> None:
    names = {"inputs": {"l": values}, "steps": {}}
    assert evaluate("inputs.l.map(x, x * x)", names) == [x * x for x in values]
    assert evaluate("inputs.l.filter(x, x > 0).map(x, -x)", names) == [-x for x in values if x > 0]
    assert evaluate("inputs.l.exists(x, x == 5)", names) == (5 in values)


def test_the_longest_list_is_cut_into_as_many_pieces_as_a_piece_has_elements() -> None:
    """The evaluator copies a macro's result for each element: fifty million copies, were it not cut."""
    pieces = ORDERING["perdurePieces"](list(range(MAX_ITEMS)))
    assert max(map(len, pieces)) * len(pieces) == MAX_ITEMS
    assert len(pieces) == 100
    values = {"inputs": {"l": list(range(MAX_ITEMS))}, "steps": {}}
    assert evaluate("inputs.l.map(x, {'n': x})", values) == [{"n": x} for x in range(MAX_ITEMS)]


# --- plain paths skip the evaluator, and must agree with it

PATHS = st.recursive(
    st.one_of(st.none(), st.integers(-3, 3), st.text("ab", max_size=2), st.booleans()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    ),
    max_leaves=6,
)
STEPS = st.lists(
    st.sampled_from([".a", ".b", '["a"]', "['b']", "[0]", "[1]", '["""a"""]', ' [r"b"]']), max_size=3
)


@given(PATHS, STEPS)
def test_a_plain_path_gives_what_the_evaluator_gives(value: Any, steps: list[str]) -> None:
    values = {"inputs": value, "steps": {}}
    path = "inputs" + "".join(steps)
    try:
        expected = evaluate(f"true ? {path} : 0", values)
    except ExpressionError:
        with pytest.raises(ExpressionError):
            evaluate(path, values)
    else:
        assert evaluate(path, values) == expected


# --- names: macros bind their own


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("inputs.x + workflow.name", {"inputs", "workflow"}),
        ("inputs.l.map(x, x.inputs)", {"inputs"}),
        ("inputs.l.map(item, item.path)", {"inputs"}),
        ("inputs.l.map(item, item.path) + [item]", {"inputs", "item"}),
        ("[item] + inputs.l.map(item, item.path)", {"inputs", "item"}),
        ("item.l.map(item, item)", {"item"}),
        ("[1].map(x, [2].map(y, x + y + z))", {"z"}),
        ("[1].map(x, x) + [x]", {"x"}),
        ("type(1) == int", set()),
        ("math.abs(index)", {"index"}),
        ("'inputs'", set()),
        ("{'inputs': 1}", set()),
    ],
)
def test_free_names(source: str, names: set[str]) -> None:
    assert compile_expression(source).names == names


def test_a_macros_variable_may_have_a_known_name() -> None:
    values = {"item": {"l": [{"p": 1}]}, "inputs": {"l": [2]}}
    assert evaluate("item.l.map(item, item.p)", values) == [1]
    assert evaluate("inputs.l.map(inputs, inputs + 1)", values) == [3]
    assert evaluate("inputs.l.map(item, item) + [item.l[0].p]", values) == [2, 1]


@pytest.mark.parametrize(
    "text",
    ["10000000000000000h", "2562048h", "-2562048h", "9223372037s", "1e300s", "9" * 400 + "ns", "1d", "", "h"],
)
def test_a_duration_that_cannot_be_held_is_an_error(text: str) -> None:
    with pytest.raises(ExpressionError, match="duration"):
        compile_expression("duration(inputs.d)").evaluate({"inputs": {"d": text}})
    with pytest.raises(ExpressionError, match="duration"):
        compile_expression(f"[1].map(x, duration('{text}'))").evaluate({})


@pytest.mark.parametrize(
    ("text", "gives"),
    [
        ("2562047h", "9223369200s"),
        ("1h30m", "5400s"),
        ("-1.5s", "-1.5s"),
        ("250ms", "0.25s"),
        ("0", "0s"),
        ("1us", "0.000001s"),
        (".5s", "0.5s"),
    ],
)
def test_a_duration_is_what_is_written(text: str, gives: str) -> None:
    assert compile_expression("duration(inputs.d)").evaluate({"inputs": {"d": text}}) == gives
    assert compile_expression(f"[duration('{text}')].map(x, x)").evaluate({}) == [gives]
