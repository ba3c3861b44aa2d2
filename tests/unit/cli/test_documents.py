"""Manifests read as kubectl reads them, with the line of every field."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.cli.documents import Document, Slip, read_documents


def read(text: str) -> Document:
    (found,) = read_documents(text)
    assert isinstance(found, Document)
    return found


def slips(text: str) -> list[tuple[int, str, str]]:
    return [(slip.line, slip.path, slip.message) for slip in read(text).slips]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True),
        ("y", True),
        ("off", False),
        ("N", False),
        ("Yes!", "Yes!"),
        ("~", None),
        ("", None),
        ("null", None),
        ("017", 15),
        ("0o17", 15),
        ("08", 8),
        ("0x1F", 31),
        ("-0b11", -3),
        ("1_000", 1000),
        ("+12", 12),
        ("1e3", 1000),
        ("1.0", 1),
        (".5", 0.5),
        ("-2.5", -2.5),
        ("1:30", "1:30"),
        ("2026-01-01", "2026-01-01"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("1.2.3", "1.2.3"),
        ("${inputs.x}", "${inputs.x}"),
    ],
)
def test_scalars_are_what_kubectl_makes_of_them(text: str, value: Any) -> None:
    found = read(f"x: {text}\n").value["x"]
    assert (found, type(found)) == (value, type(value))


MANIFEST = """\
kind: Workflow
spec:
  steps:
  - name: a
    agent:
      args: [x,
             y]
  - name: b
    input: |
      many
      lines
  labels: {"a.b/c": 1, plain-name: 2}
  base: &base
    one: 1
  uses:
    <<: *base
    two: 2
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("kind", 1),
        ("spec.steps", 3),
        ("spec.steps[0]", 4),
        ("spec.steps[0].agent.args[1]", 7),
        ("spec.steps[1].input", 9),
        ('spec.labels["a.b/c"]', 12),
        ("spec.labels.a.b/c", 12),
        ("spec.labels.plain-name", 12),
        ("spec.uses.one", 14),
        ("spec.uses.two", 17),
        # What is not there has the line of what it should be in.
        ("spec.steps[0].agent.image", 5),
        ("spec.steps[7].name", 3),
        ("spec.steps[1].when.deeper", 8),
        ("spec.timeout", 2),
        ("metadata.name", 1),
        ("", 1),
    ],
)
def test_lines_of_fields(path: str, line: int) -> None:
    assert read(MANIFEST).place.line_of(path) == line


def test_merged_keys_give_way_to_written_ones() -> None:
    text = "a: &a {x: 1, z: 1}\nb: {x: 2, <<: *a}\n"
    assert read(text).value["b"] == {"x": 2, "z": 1}
    assert slips(text) == []


def test_lines_go_on_through_documents_and_lists() -> None:
    text = "kind: A\n---\n# nothing\n---\nkind: List\nitems:\n- kind: B\n  x: 1\n- kind: C\n---\nkind: D\n"
    found = [part for part in read_documents(text) if isinstance(part, Document)]
    assert [(part.value["kind"], part.place.line) for part in found] == [
        ("A", 1),
        ("B", 7),
        ("C", 9),
        ("D", 11),
    ]
    assert found[1].place.line_of("x") == 8


def test_a_key_given_twice_is_reported_where_it_is_given_again() -> None:
    assert slips("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n") == [
        (4, "b.c", "is given twice, here and in line 3: remove one"),
        (5, "a", "is given twice, here and in line 1: remove one"),
    ]
    text = "kind: List\nitems:\n- {x: 1}\n- x: 1\n  x: 2\n"
    first, second = (part for part in read_documents(text) if isinstance(part, Document))
    assert first.slips == ()
    assert [(slip.line, slip.path) for slip in second.slips] == [(5, "x")]


def test_names_that_yaml_takes_for_something_else() -> None:
    found = slips("job:\n  on: x\n  'on2': y\npoint: {x: 1, y: 2, 3: 4}\n? ~\n: 5\n")
    assert found == [
        (2, "job.on", "in YAML the bare key 'on' means true: put it in quotes"),
        (4, "point.y", "in YAML the bare key 'y' means true: put it in quotes"),
        (5, "~", "in YAML the bare key '~' means null: put it in quotes"),
    ]
    assert read("retry:\n  on: x\n").value == {"retry": {"on": "x"}}
    assert slips("'on': 1\ntrue: 2\n") == []
    assert slips("retry:\n  on: x\n") == [], "read as true, it means the same there"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: c: d\n", 2),
        ("a: [1,\n", 1),
        ("a: 'x\n", 1),
        ("a: {{ .Values.x }}x\n", 1),
        ("a: \x00\n", 1),
        ("\tb: 1\n", 1),
        ("a: *gone\n", 1),
        ("b:\n  " + "[" * 400 + "]" * 400, 2),
        ("[" * 300_000 + "]" * 300_000, 1),
        ("".join(f"{' ' * level}a:\n" for level in range(400)), 201),
        ("a: &a [*a]", 1),
    ],
)
def test_what_cannot_be_read_is_reported_with_its_line(text: str, line: int) -> None:
    found = [part for part in read_documents(text) if isinstance(part, Slip)]
    assert [slip.line for slip in found] == [line]
    assert "\n" not in found[0].message


def test_documents_after_a_broken_one_are_read_all_the_same() -> None:
    text = "kind: A\n---\na: [1\n---\nkind: B\n---\nb: c: d\n---\nkind: C\n"
    found = list(read_documents(text))
    lines = [part.line if isinstance(part, Slip) else part.place.line for part in found]
    assert [type(part) for part in found] == [Document, Slip, Document, Slip, Document]
    assert (lines[0], lines[2], lines[3], lines[4]) == (1, 5, 7, 9)


def test_aliases_cannot_make_a_large_document_of_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.cli.documents._MOST", 1000)
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (found,) = read_documents("\n".join(levels))
    assert isinstance(found, Slip) and "values" in found.message


def test_a_text_without_documents() -> None:
    assert list(read_documents("")) == []
    assert list(read_documents("# nothing\n---\n---\n")) == []
