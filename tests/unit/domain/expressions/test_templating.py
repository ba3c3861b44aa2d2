"""Strings with `${}` (18): parts, types, interpolation, and what the kubelet makes of a rendered argument."""

from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.domain.kubelet import expand

from perdure.domain.expressions import tokens as templating_tokens
from perdure.domain.expressions.cel import ExpressionError
from perdure.domain.expressions.templating import (
    Text,
    as_text,
    compact,
    compile_value,
    parse_text,
    render,
    render_argument,
    walk_strings,
)

VALUES: dict[str, Any] = {
    "inputs": {
        "text": "héllo",
        "number": 3,
        "float": 1.5,
        "yes": True,
        "nothing": None,
        "list": [1, "a", None],
        "map": {"b": 1, "a": {"c": []}},
        "money": "$5 $(HOME) $$ ${x}",
    },
    "steps": {},
    "item": {"path": "a.py"},
    "index": 0,
}


def rendered(text: str) -> Any:
    return render(compile_value(text), VALUES, "input")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # One expression keeps its type.
        ("${inputs.text}", "héllo"),
        ("${inputs.number}", 3),
        ("${inputs.float}", 1.5),
        ("${inputs.yes}", True),
        ("${inputs.nothing}", None),
        ("${inputs.list}", [1, "a", None]),
        ("${inputs.map}", {"a": {"c": []}, "b": 1}),
        ("${ inputs.number }", 3),
        ("${inputs.number + 1}", 4),
        ("${index}", 0),
        # Anything around it makes it text.
        (" ${inputs.number}", " 3"),
        ("${inputs.number} ", "3 "),
        ("${inputs.number}${inputs.number}", "33"),
        ("<${inputs.text}>", "<héllo>"),
        ("<${inputs.yes}>", "<true>"),
        ("<${inputs.nothing}>", "<null>"),
        ("<${inputs.float}>", "<1.5>"),
        ("<${inputs.list}>", '<[1,"a",null]>'),
        ("<${inputs.map}>", '<{"a":{"c":[]},"b":1}>'),
        ("<${inputs.money}>", "<$5 $(HOME) $$ ${x}>"),
        ("${item.path}:${index}", "a.py:0"),
        # `$${` is a literal `${`, and what follows it is text.
        ("$${inputs.text}", "${inputs.text}"),
        ("$$${inputs.text}", "$${inputs.text}"),
        ("a $${b} ${inputs.number}", "a ${b} 3"),
        ("${inputs.number}$${x}", "3${x}"),
        ('${"$${x}"}', "$${x}"),  # not an escape inside an expression
        # No expression at all.
        ("", ""),
        ("$5 {x} $(HOME) $$", "$5 {x} $(HOME) $$"),
        ("}{", "}{"),
    ],
)
def test_what_a_string_becomes(text: str, value: Any) -> None:
    result = rendered(text)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('${{"a": {"b": 1}}.a.b}', 1),
        ('${{"a": {"b": {}}}}', {"a": {"b": {}}}),
        ('${"}"}', "}"),
        ("${'}'}", "}"),
        ('${"\\"}"}', '"}'),
        ('${"""a}"b"""}', 'a}"b'),
        ("${'''a}'b'''}", "a}'b"),
        ('${r"\\"}', "\\"),
        ('${"{"}', "{"),
        ('it\'s ${"}"} and "${inputs.number}"', 'it\'s } and "3"'),
        ("${inputs.number /* 1 */}", ExpressionError),
        ("${inputs.number // }\n}", 3),
        ("${{}.size()}${{}}", "0{}"),
    ],
)
def test_where_an_expression_ends(text: str, value: Any) -> None:
    if value is ExpressionError:
        with pytest.raises(ExpressionError):
            rendered(text)
    else:
        assert rendered(text) == value


@pytest.mark.parametrize("text", ["${", "a ${inputs.x", "${{}", "${a // }", "$$${ ${"])
def test_an_open_expression_is_reported_with_the_remedy(text: str) -> None:
    with pytest.raises(ExpressionError, match=r"without '}'; write \$\$\{ for a literal \$\{"):
        parse_text(text)


@given(st.text(alphabet="ab ${}()'\"\\\n", max_size=30))
def test_any_string_is_text_or_an_error(text: str) -> None:
    try:
        parts = parse_text(text).parts
    except ExpressionError:
        assert "${" in text
        return
    # Adjacent literals are one, so that the kubelet's view of them is the author's.
    assert not any(isinstance(one, str) and isinstance(two, str) for one, two in pairwise(parts))
    if all(isinstance(part, str) for part in parts):
        assert "".join(map(str, parts)) == text.replace("$${", "${")


def test_values_are_rendered_at_any_depth_and_keys_never() -> None:
    value = {"a": ["${inputs.number}", {"b": "<${index}>"}], "${index}": 1, "n": None, "t": True}
    compiled = compile_value(value)
    assert isinstance(compiled["a"][0], Text)
    assert render(compiled, VALUES, "input") == {"a": [3, {"b": "<0>"}], "${index}": 1, "n": None, "t": True}


def test_strings_are_walked_with_their_paths() -> None:
    value = {"a": ["x", {"b": "y"}], "c": 1, "d": None, "e": "z"}
    assert list(walk_strings(value, "spec.input")) == [
        ("spec.input.a[0]", "x"),
        ("spec.input.a[1].b", "y"),
        ("spec.input.e", "z"),
    ]


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"files": ["a", "${inputs.gone}"]}, "input.files[1]: ${inputs.gone}: no such key: 'gone'"),
        ({"files": {"x": "<${inputs.gone}>"}}, "input.files.x: ${inputs.gone}: no such key: 'gone'"),
        ("${inputs.gone}", "input: ${inputs.gone}: no such key: 'gone'"),
    ],
)
def test_a_failing_expression_names_its_field(value: Any, path: str) -> None:
    with pytest.raises(ExpressionError) as raised:
        render(compile_value(value), VALUES, "input")
    assert str(raised.value) == path


def test_a_failing_argument_names_its_field() -> None:
    with pytest.raises(ExpressionError, match=r"^agent.args\[2\]: \$\{inputs.gone\}: no such key: 'gone'$"):
        render_argument(parse_text("x ${inputs.gone}"), VALUES, "agent.args[2]")


# --- arguments: what arrives in the container is what was written and what was computed

LITERALS = st.text(alphabet="ab$(){} \"'é", max_size=8).filter(lambda text: "${" not in text)
COMPUTED = st.one_of(
    st.text(alphabet="AB$(){} é", max_size=8),
    st.integers(-5, 5),
    st.none(),
    st.lists(st.text(alphabet="A$()", max_size=4), max_size=2),
)


@given(st.lists(st.tuples(LITERALS, COMPUTED), min_size=1, max_size=4), LITERALS)
def test_an_argument_arrives_as_written_and_computed(parts: list[tuple[str, Any]], rest: str) -> None:
    """The kubelet expands what the author wrote between expressions, and leaves what they gave alone."""
    # A `$` right before `${` would be the escape of `${`.
    parts = [(literal.rstrip("$"), value) for literal, value in parts]
    text = "".join(f"{literal}${{inputs.v{number}}}" for number, (literal, _) in enumerate(parts)) + rest
    values = {"inputs": {f"v{number}": value for number, (_, value) in enumerate(parts)}}
    variables = {"a": "<a>", "ab": "<ab>", "A": "<A>", "": "<empty>"}
    wanted = "".join(expand(literal, variables) + as_text(value) for literal, value in parts)
    assert expand(render_argument(parse_text(text), values, "args[0]"), variables) == wanted + expand(
        rest, variables
    )


@pytest.mark.parametrize(
    ("text", "value", "arrives"),
    [
        ("--price=${inputs.v}", "$5", "--price=$5"),
        ("--price=${inputs.v}", "$(HOME)", "--price=$(HOME)"),
        ("${inputs.v}", "$$", "$$"),
        ("$(HOME)/${inputs.v}", "x", "/home/agent/x"),
        ("$$(HOME)/${inputs.v}", "x", "$(HOME)/x"),
        # Shell substitutions are no variables, and their values arrive all the same.
        ("echo $(wc -l ${inputs.v})", "a $b.txt", "echo $(wc -l a $b.txt)"),
        ("echo $(wc -l ${inputs.v}) $(date)", "a)$(HOME)", "echo $(wc -l a)$(HOME)) $(date)"),
        ("$(${inputs.v})", "HOME", "$(HOME)"),
        ("$${HOME} ${inputs.v}", 1, "${HOME} 1"),
        ("${inputs.v}", {"a": ["$x"]}, '{"a":["$x"]}'),
    ],
)
def test_arguments_that_people_write(text: str, value: Any, arrives: str) -> None:
    argument = render_argument(parse_text(text), {"inputs": {"v": value}}, "args[0]")
    assert expand(argument, {"HOME": "/home/agent"}) == arrives


@given(st.text(alphabet="a$(){}", max_size=12).filter(lambda text: "${" not in text))
def test_an_argument_without_expressions_is_the_authors_alone(text: str) -> None:
    assert render_argument(text, VALUES, "args[0]") == text


def test_compact_json_is_utf8_without_spaces() -> None:
    assert compact({"a": [1, "é", None, 1.5]}) == '{"a":[1,"é",null,1.5]}'.encode()
    assert orjson.loads(compact(VALUES["inputs"])) == VALUES["inputs"]


@pytest.mark.parametrize(
    "text", ["${" + "1+" * 400_000 + "1}", "${" + "[" * 800_000, "${" + "a." * 9_000 + "a}"]
)
def test_no_more_is_read_of_an_expression_than_the_limit(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    tokens = templating_tokens._tokens

    def counted(source: str, start: int) -> Any:
        for token in tokens(source, start):
            read.append(token)
            yield token

    monkeypatch.setattr(templating_tokens, "_tokens", counted)
    with pytest.raises(ExpressionError, match="more than the limit of 8,192 characters"):
        parse_text(text)
    assert len(read) < 10_000
