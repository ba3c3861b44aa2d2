"""Parameters of templates: defaults, verdicts in words, and schemas that would take for ever."""

from typing import Any

import pytest

from perdure.domain.admission.parameters import check_literals, check_parameters, fill_inputs

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "https://example.com/audit",
    "type": "object",
    "required": ["files"],
    "additionalProperties": False,
    "properties": {
        "files": {
            "type": "array",
            "minItems": 1,
            "maxItems": 3,
            "uniqueItems": True,
            "items": {"type": "string", "pattern": r"\.py$"},
            "description": "Which files to audit",
        },
        "mode": {"enum": ["fast", "deep"], "default": "fast"},
        "limits": {"$ref": "#/$defs/limits"},
        "budget": {"type": ["number", "null"], "exclusiveMinimum": 0},
        "when": {
            "anyOf": [{"const": "now"}, {"type": "object", "properties": {"hour": {"type": "integer"}}}]
        },
        "name": {"type": "string", "minLength": 2, "maxLength": 5},
        "a b": {"type": "object", "patternProperties": {"^x": {"type": "integer"}}, "maxProperties": 1},
    },
    "$defs": {
        "limits": {
            "type": "object",
            "default": {},
            "properties": {
                "memory": {"type": "integer", "default": 3, "minimum": 1, "maximum": 9},
                "nested": {"type": "object", "properties": {"x": {"default": 1}}},
            },
        }
    },
}


def reported(inputs: dict[str, Any], schema: dict[str, Any] | None = None) -> list[str]:
    return [str(problem) for problem in fill_inputs(schema or SCHEMA, inputs)[1]]


def test_the_schema_of_these_tests_is_sound() -> None:
    assert check_parameters(SCHEMA) == []


# --- defaults


@pytest.mark.parametrize(
    ("inputs", "filled"),
    [
        (
            {"files": ["a.py"]},
            {"files": ["a.py"], "mode": "fast", "limits": {"memory": 3}},
        ),
        (
            {"files": ["a.py"], "mode": "deep", "limits": {"memory": 5, "nested": {}}},
            {"files": ["a.py"], "mode": "deep", "limits": {"memory": 5, "nested": {"x": 1}}},
        ),
        # What is there stays, whatever it is.
        (
            {"files": ["a.py"], "limits": {"nested": {"x": None}}},
            {"files": ["a.py"], "mode": "fast", "limits": {"memory": 3, "nested": {"x": None}}},
        ),
    ],
)
def test_defaults_are_filled_in(inputs: dict[str, Any], filled: dict[str, Any]) -> None:
    before = repr(inputs)
    assert fill_inputs(SCHEMA, inputs) == (filled, [])
    assert repr(inputs) == before


@pytest.mark.parametrize(
    ("schema", "inputs", "filled"),
    [
        ({"properties": {"x": {"default": None}}}, {}, {"x": None}),
        # As in Kubernetes: nothing is filled into what is not there.
        ({"properties": {"x": {"properties": {"y": {"default": 1}}}}}, {}, {}),
        (
            {"properties": {"l": {"items": {"properties": {"y": {"default": 1}}}}}},
            {"l": [{}, {"y": 2}, 3]},
            {"l": [{"y": 1}, {"y": 2}, 3]},
        ),
        ({"allOf": [{"properties": {"x": {"default": 1}}}]}, {}, {"x": 1}),
        (
            {"additionalProperties": {"properties": {"y": {"default": 1}}}},
            {"any": {}},
            {"any": {"y": 1}},
        ),
        # Which alternative is meant is not known before it is judged.
        ({"anyOf": [{"properties": {"x": {"default": 1}}}]}, {}, {}),
    ],
)
def test_places_of_defaults(schema: dict[str, Any], inputs: dict[str, Any], filled: dict[str, Any]) -> None:
    assert fill_inputs(schema, inputs) == (filled, [])


def test_one_run_does_not_change_the_defaults_of_the_next() -> None:
    schema = {"properties": {"l": {"default": []}}}
    fill_inputs(schema, {})[0]["l"].append(1)
    assert fill_inputs(schema, {})[0] == {"l": []}


# --- verdicts


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        ({}, "spec.inputs.files: is required: Which files to audit"),
        ({"files": "a.py"}, 'spec.inputs.files: must be a list; it is text "a.py"'),
        ({"files": []}, "spec.inputs.files: must have at least 1 items"),
        ({"files": ["a.py", "b.py", "c.py", "d.py"]}, "spec.inputs.files: must have at most 3 items"),
        ({"files": ["a.py", "b.py", "a.py"]}, "spec.inputs.files[2]: is the same as item 0: remove one"),
        ({"files": ["a.js"]}, 'spec.inputs.files[0]: "a.js" does not match \\.py$'),
        ({"files": [True]}, "spec.inputs.files[0]: must be text; it is true"),
        (
            {"mode": "fsat"},
            'spec.inputs.mode: must be one of "fast", "deep"; it is "fsat"; did you mean "fast"?',
        ),
        ({"limits": {"memory": 0}}, "spec.inputs.limits.memory: must be at least 1; it is 0"),
        ({"limits": {"memory": 1.5}}, "spec.inputs.limits.memory: must be a whole number; it is 1.5"),
        ({"fils": []}, "spec.inputs.fils: is unknown; did you mean files?"),
        ({"zzz": 1}, "spec.inputs.zzz: is unknown; known are files, mode, limits"),
        ({"budget": 0}, "spec.inputs.budget: must be more than 0; it is 0"),
        ({"budget": "1"}, 'spec.inputs.budget: must be a number or null; it is text "1"'),
        ({"when": "then"}, 'spec.inputs.when: fits none of 2 alternatives; the nearest: must be "now"'),
        ({"when": {"hour": "x"}}, "the nearest: hour: must be a whole number"),
        ({"name": "x"}, 'spec.inputs.name: must have at least 2 characters; it is "x"'),
        ({"a b": {"x1": "1"}}, 'spec.inputs["a b"].x1: must be a whole number'),
        ({"a b": {"x": 1, "y": 2}}, 'spec.inputs["a b"]: must have at most 1 entries'),
    ],
)
def test_what_is_said_of_inputs(inputs: dict[str, Any], problem: str) -> None:
    (found,) = reported({"files": ["a.py"], **inputs} if inputs else {})
    assert problem in found


def test_all_faults_are_reported_at_once() -> None:
    assert len(reported({"mode": 1, "fils": 1, "name": "x", "limits": {"memory": 100}})) == 5


def test_a_number_is_the_same_however_it_is_written() -> None:
    schema = {"properties": {"l": {"uniqueItems": True}}}
    assert reported({"l": [{"a": 1, "b": 2}, {"b": 2.0, "a": 1.0}]}, schema) != []
    assert reported({"l": [1, True, "1", [1], None, 0, False]}, schema) == []


def test_inputs_are_not_larger_with_their_defaults_than_without() -> None:
    schema = {"properties": {name: {"default": "x" * 30_000} for name in "abc"}}
    (problem,) = reported({}, schema)
    assert "65536 bytes" in problem
    (problem,) = reported({"y": "y" * 60_000}, {"properties": {"x": {"default": "x" * 10_000}}})
    assert problem.startswith("spec.inputs: with defaults filled in it has 70")


# --- inputs of which only a part is known


@pytest.mark.parametrize(
    ("inputs", "paths"),
    [
        ({"files": "${steps.a.output}"}, []),
        ({"files": ["${item}"], "mode": "slow"}, ["mode"]),
        # One file may turn out to be whatever it likes; the other is known.
        ({"files": ["${item}", "b.js"]}, ["files[1]"]),
        ({"when": {"hour": "${inputs.hour}"}}, ["files"]),
        ({"mode": "${inputs.mode}", "fils": 1}, ["files", "fils"]),
    ],
)
def test_literals_are_judged_and_expressions_are_not(inputs: dict[str, Any], paths: list[str]) -> None:
    found = check_literals(SCHEMA, inputs, "here")
    assert [problem.path for problem in found] == [f"here.{path}" for path in paths]


# --- schemas


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "array"}, "spec.parameters.type: must be object"),
        (
            {"properties": {"a": {"type": "strng"}}},
            "spec.parameters.properties.a.type: must be one or more of",
        ),
        (
            {"properties": {"a": {"required": True}}},
            "spec.parameters.properties.a.required: must be a list of",
        ),
        ({"properties": {"a": {"enum": []}}}, "spec.parameters.properties.a.enum: must be a list of the"),
        ({"properties": {"a": {"minLength": -1}}}, "minLength: must be a whole number, 0 or more"),
        ({"properties": {"a": 1}}, "spec.parameters.properties.a: must be a schema"),
        ({"properties": []}, "spec.parameters.properties: must be a map of schemas"),
        ({"anyOf": []}, "spec.parameters.anyOf: must be a list of schemas"),
        ({"items": [{}]}, "spec.parameters.items: must be a schema"),
        ({"requried": ["a"]}, "spec.parameters.requried: unknown keyword; did you mean required?"),
        # Nothing is fetched.
        ({"$ref": "https://example.com/x"}, "is outside; refer to a part of this schema"),
        ({"properties": {"a": {"$ref": "other.json#/x"}}}, "is outside"),
        ({"$ref": "#/$defs/gone"}, "'#/$defs/gone' is no part of this schema"),
        # A place that is no schema could hold anything, a dialect of its own included.
        ({"enum": [{"$schema": "x"}], "$ref": "#/enum/0"}, "'#/enum/0' is no part of this schema"),
        ({"properties": {"a": {"$id": "x"}}}, "$id: is not supported here"),
        ({"$dynamicRef": "#x"}, "$dynamicRef: is not supported here"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "$schema: must be left out, or"),
        ({"properties": {"a": {"$schema": "https://json-schema.org/draft/2020-12/schema"}}}, "$schema: must"),
        # Patterns that take for ever are made of these.
        ({"properties": {"a": {"pattern": r"(a)\1"}}}, "is not a pattern that can be matched in linear time"),
        ({"patternProperties": {"(?=x)": {}}}, "is not a pattern that can be matched in linear time"),
        ({"properties": {"a": {"type": "integer", "default": "x"}}}, "properties.a.default: must be a whole"),
        (
            {"properties": {"a": {"default": {"x": 1}, "additionalProperties": False}}},
            "properties.a.default.x: is unknown",
        ),
    ],
)
def test_what_is_said_of_schemas(schema: dict[str, Any], problem: str) -> None:
    (found,) = map(str, check_parameters(schema))
    assert problem in found


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"properties": {"$schema": {"type": "string"}, "required": {"type": "boolean"}, "$ref": True}},
        {"x-order": ["a"], "properties": {"a": {"x-widget": "slider", "format": "date-time"}}},
        {"properties": {"a/b": {"$ref": "#/$defs/c~1d"}}, "$defs": {"c/d": {"type": "integer"}}},
        {"properties": {"tree": {"$ref": "#"}}},
        {"properties": {"a": {"pattern": r"^\p{L}+$"}}},
        # Valid only with the defaults that it gets itself.
        {
            "properties": {
                "a": {
                    "default": {},
                    "required": ["b"],
                    "properties": {"b": {"default": 1, "type": "integer"}},
                }
            }
        },
    ],
)
def test_what_nothing_is_said_of(schema: dict[str, Any]) -> None:
    assert check_parameters(schema) == []


def test_references_are_followed() -> None:
    schema = {"properties": {"a/b": {"$ref": "#/$defs/c~1d"}}, "$defs": {"c/d": {"type": "integer"}}}
    (problem,) = reported({"a/b": "x"}, schema)
    assert problem.startswith('spec.inputs["a/b"]: must be a whole number')
    assert reported(
        {"tree": {"tree": {"tree": 1}}}, {"type": "object", "properties": {"tree": {"$ref": "#"}}}
    ) == ["spec.inputs.tree.tree.tree: must be a map; it is 1"]


@pytest.mark.parametrize(
    ("schema", "inputs"),
    [
        # 2^60 ways to the same end.
        (
            {
                "$ref": "#/$defs/d0",
                "$defs": {
                    **{f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(60)},
                    "d60": {"type": "string"},
                },
            },
            {"a": 1},
        ),
        ({"$ref": "#"}, {}),
        ({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/a"}}}, {}),
        # Every alternative quotes all of the inputs.
        (
            {"anyOf": [{"maxProperties": 0, "title": str(n)} for n in range(1500)]},
            {f"k{n}": n for n in range(5000)},
        ),
        ({"additionalProperties": {"enum": list(range(5000))}}, {f"k{n}": "x" for n in range(5000)}),
        # Defaults within defaults, twice as many at each level.
        (
            {
                "$ref": "#/$defs/d",
                "$defs": {
                    "d": {
                        "properties": {
                            name: {"$ref": "#/$defs/d", "default": {}} for name in ("left", "right")
                        }
                    }
                },
            },
            {},
        ),
    ],
)
def test_schemas_that_take_for_ever_are_given_up(schema: dict[str, Any], inputs: dict[str, Any]) -> None:
    found = fill_inputs(schema, inputs)[1]
    assert [problem.path for problem in found] == ["spec.inputs"]
    assert "too much work" in found[0].message or "without end" in found[0].message


def test_a_pattern_cannot_take_for_ever() -> None:
    (problem,) = reported({"x": "a" * 50_000 + "b"}, {"properties": {"x": {"pattern": "(a+)+$"}}})
    assert "does not match" in problem
