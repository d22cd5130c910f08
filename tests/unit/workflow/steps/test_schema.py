"""JSON Schema with gojsonschema's answers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.workflow.steps.step_runs import run_step
from workflow.steps.base import StepFailed
from workflow.values import JsonNumber, MapSlice, NilSlice, SliceMap, from_json


def problems(schema: Any, value: Any) -> list[tuple[str, str, str]]:
    result = run_step("schema_validator", {"schema": from_json(schema)}, from_json(value))
    if result["valid"]:
        return []
    return [(error["field"], error["type"], error["description"]) for error in result["errors"].items]


def refusal(schema: Any, value: Any = 1.0) -> str:
    with pytest.raises(StepFailed) as caught:
        run_step("schema_validator", {"schema": from_json(schema)}, value)
    return caught.value.text.removeprefix("schema validation failed: ")


@pytest.mark.parametrize(
    ("schema", "value", "expected"),
    [
        ({"type": ["string", "object"]}, [], [
            ("(root)", "invalid_type", "Invalid type. Expected: [string,object], given: array")
        ]),
        ({"type": "number"}, 5, []),
        ({"type": "integer"}, 5.0, []),
        ({"const": {"a": [1]}}, {"a": [1.0]}, []),
        ({"const": 5}, 6, [("(root)", "const", "(root) does not match: 5")]),
        ({"multipleOf": 0.1}, 0.3, []),  # exact, where floats would fail
        ({"multipleOf": 0.5}, 0.7, [("(root)", "multiple_of", "Must be a multiple of 0.5")]),
        ({"exclusiveMinimum": 3}, 3, [("(root)", "number_gt", "Must be greater than 3")]),
        ({"maximum": 3, "exclusiveMaximum": True}, 3, [("(root)", "number_lt", "Must be less than 3")]),
        ({"minimum": 1_500_000}, 1, [("(root)", "number_gte", "Must be greater than or equal to 1.5e+06")]),
        ({"minLength": 2}, "é", [("(root)", "string_gte", "String length must be greater than or equal to 2")]),
        ({"pattern": "^a$"}, "a\n", [("(root)", "pattern", "Does not match pattern '^a$'")]),
        ({"format": "no-such-format"}, "x", []),
        ({"maxProperties": 0}, {"a": 1}, [("(root)", "array_max_properties", "Must have at most 0 properties")]),
        (
            {"items": [{"type": "string"}], "additionalItems": False},
            [1, 2],
            [
                ("(root)", "array_no_additional_items", "No additional items allowed on array"),
                ("0", "invalid_type", "Invalid type. Expected: string, given: integer"),
            ],
        ),
        ({"items": [{}], "additionalItems": {"type": "null"}}, [1, 2], [
            ("1", "invalid_type", "Invalid type. Expected: null, given: integer")
        ]),
        (
            {"contains": {"minimum": 5}},
            [1, 2],
            [
                ("(root)", "contains", "At least one of the items must match"),
                ("0", "number_gte", "Must be greater than or equal to 5"),
            ],
        ),
        ({"uniqueItems": True}, [1, True, "1", 1.0], [("(root)", "unique", "array items[0,3] must be unique")]),
        ({"dependencies": {"a": ["b"]}}, {"a": 1}, [("(root)", "missing_dependency", "Has a dependency on b")]),
        ({"propertyNames": {"maxLength": 1}}, {"ab": 1}, [
            ("(root)", "invalid_property_name", 'Property name of "ab" does not match'),
            ("(root)", "string_lte", "String length must be less than or equal to 1"),
        ]),
        (
            {"patternProperties": {"^n": {"type": "number"}}, "additionalProperties": {"type": "null"}},
            {"n1": "x", "o": 1},
            [
                ("n1", "invalid_type", "Invalid type. Expected: number, given: string"),
                ("(root)", "invalid_type", "Invalid type. Expected: null, given: integer"),
            ],
        ),
        ({"if": {"type": "number"}, "then": {"minimum": 9}}, 5, [
            ("(root)", "condition_then", 'Must validate "then" as "if" was valid'),
            ("(root)", "number_gte", "Must be greater than or equal to 9"),
        ]),
        ({"if": {"type": "string"}, "else": {"maximum": 1}}, 5, [
            ("(root)", "condition_else", 'Must validate "else" as "if" was not valid'),
            ("(root)", "number_lte", "Must be less than or equal to 1"),
        ]),
        (False, 5, [("(root)", "number_not", "Must not validate the schema (not)")]),
        ({"properties": {"a": {"properties": {"b": {"enum": ["x"]}}}}}, {"a": {"b": 1}}, [
            ("a.b", "enum", 'a.b must be one of the following: "x"')
        ]),
    ],
)  # fmt: skip
def test_answers_are_gojsonschemas(schema: Any, value: Any, expected: list[tuple[str, str, str]]) -> None:
    assert problems(schema, value) == expected


def test_of_several_alternatives_the_closest_one_is_explained() -> None:
    schema = {
        "anyOf": [
            {"type": "string"},
            {"type": "object", "required": ["a", "b"], "properties": {"a": {"type": "string"}}},
        ]
    }
    assert [error[1] for error in problems(schema, {"a": "x"})] == ["number_any_of", "required"]
    assert [error[1] for error in problems({"oneOf": [{"minimum": 1}, {"minimum": 2}]}, 3)] == [
        "number_one_of"
    ]


def test_a_wrong_type_ends_the_look_at_a_value() -> None:
    schema = {"type": "string", "enum": ["x"], "allOf": [{"minimum": 5}]}
    assert [error[1] for error in problems(schema, 1)] == ["invalid_type"]


def test_references_stay_within_the_schema() -> None:
    schema = {
        "definitions": {"positive": {"$id": "#p", "minimum": 0}},
        "properties": {"a": {"$ref": "#/definitions/positive"}, "b": {"$ref": "#p"}, "child": {"$ref": "#"}},
    }
    value = {"a": -1, "b": -1, "child": {"child": {"a": -1}}}
    assert [error[0] for error in problems(schema, value)] == ["a", "b", "child.child.a"]


def test_a_schema_may_refer_to_the_meta_schemas_without_a_network() -> None:
    schema = {"$ref": "http://json-schema.org/draft-07/schema#"}
    assert problems(schema, {"type": "object", "minLength": 1}) == []
    assert problems(schema, {"minLength": -1}) == [
        ("minLength", "number_gte", "Must be greater than or equal to 0"),
        ("minLength", "number_all_of", "Must validate all the schemas (allOf)"),
    ]


@pytest.mark.parametrize(
    "reference", ["http://127.0.0.1:1/x.json", "file:///etc/passwd", "https://example.com/s#/a", "other.json"]
)
def test_a_reference_to_elsewhere_is_refused_and_never_followed(reference: str) -> None:
    assert refusal({"$ref": reference}) == (
        f"$ref {reference!r} leads outside the schema; only references within it are followed"
    )


def test_a_schema_that_refers_to_itself_without_end_is_an_error() -> None:
    assert "refer to itself" in refusal({"$ref": "#"})
    assert "refer to itself" in refusal({"allOf": [{"$ref": "#"}]})


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"$schema": 5}, "Invalid type. Expected: string, given: $schema"),
        ({"properties": {"a": 5}}, "Expected: schema, given: Invalid JSON"),
        ({"properties": []}, "properties must be of type object"),
        ({"type": ["string", "string"]}, "string type is duplicated"),
        ({"type": 5}, "Invalid type. Expected: string/array of strings, given: type"),
        ({"minimum": "1"}, "minimum must be of a number"),
        ({"multipleOf": 0}, "multipleOf must be strictly greater than 0"),
        ({"exclusiveMinimum": True}, "exclusiveMinimum cannot be used without minimum"),
        ({"minLength": 1.5}, "minLength must be of an integer"),
        ({"minLength": -1}, "minLength must be greater than or equal to 0"),
        ({"minLength": 2, "maxLength": 1}, "minLength cannot be greater than maxLength"),
        ({"pattern": "("}, "pattern must be a valid regex"),
        ({"pattern": "(?=a)"}, "pattern must be a valid regex"),
        ({"patternProperties": {"[": {}}}, "Invalid regex pattern '['"),
        ({"required": ["a", "a"]}, "required items must be unique"),
        ({"required": "a"}, "required must be of an array"),
        ({"enum": [1, 1.0]}, "enum items must be unique"),
        ({"not": 5}, "not must be of an object"),
        ({"$ref": "#/definitions/nope"}, "Object has no key 'nope'"),
        (
            {"$schema": "http://json-schema.org/draft-04/schema#", "items": True},
            "Expected: schema, given: Invalid JSON",
        ),
    ],
)
def test_schemas_that_cannot_be_used_say_why(schema: Any, problem: str) -> None:
    assert refusal(schema) == problem


def test_draft_4_knows_none_of_the_later_keywords() -> None:
    old = {"$schema": "http://json-schema.org/draft-04/schema#"}
    assert problems(old | {"const": 1, "if": {}, "then": {"const": 2}}, 5) == []


def test_values_are_looked_at_as_their_json() -> None:
    rows = MapSlice([{"a": 1.0}])
    schema = from_json({"type": "array", "items": {"type": "object"}})
    assert run_step("schema_validator", {"schema": schema}, rows)["valid"] is True
    for value, kind in (
        (SliceMap({}), "object"),
        (NilSlice(), "null"),
        (JsonNumber("1.0"), "integer"),
        (3, "integer"),
    ):
        assert run_step("schema_validator", {"schema": {"type": kind}}, value)["valid"] is True, kind


def test_numbers_too_large_for_exact_arithmetic_are_refused() -> None:
    assert refusal({"minimum": 1}, JsonNumber("1e999999999")) == "number out of range: 1e999999999"


def test_strict_fails_with_the_number_of_errors() -> None:
    schema = from_json({"required": ["a", "b"]})
    with pytest.raises(StepFailed, match="validation failed: 2 errors found"):
        run_step("schema_validator", {"schema": schema, "strict": True}, {})


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date", ["2024-02-29", "0000-01-01"], ["2023-02-29", "2024-2-1", "2024-01-01T"]),
        ("time", ["10:11:12", "9:11:12Z", "10:11:12.5+02:00"], ["24:00:00", "10:11"]),
        (
            "date-time",
            ["2024-01-01T00:00:00Z", "2024-01-01", "10:11:12"],
            ["2024-01-01T00:00:00", "2024-01-01 00:00:00Z"],
        ),
        ("email", ["a@b", "Bob <a.b@c.de>", '"x y"@z'], ["a", "@b", "a@", "a b@c", "<a@b"]),
        ("hostname", ["a-b.c", "1"], ["-a", "a..b", "a_b", "x" * 256]),
        ("ipv4", ["1.2.3.4"], ["1.2.3", "01.2.3.4", "::1"]),
        ("ipv6", ["::1", "::ffff:1.2.3.4"], ["1.2.3.4", "fe80::1%eth0"]),
        ("uri", ["http://a/b", "mailto:x"], ["//a/b", "a\\b", ":x"]),
        ("uri-reference", ["/a", "", "http://x"], ["\\a", ":x"]),
        ("uri-template", ["/a/{b}"], ["/a/{b"]),
        ("uuid", ["00000000-0000-0000-0000-00000000000F"], ["0", "g0000000-0000-0000-0000-000000000000"]),
        ("regex", ["a*", ""], ["(", "(?!a)"]),
        ("json-pointer", ["", "/a~0~1"], ["a", "/~2"]),
        ("relative-json-pointer", ["0", "1/a", "2#"], ["-1", "01"]),
    ],
)
def test_formats(name: str, good: list[str], bad: list[str]) -> None:
    assert [text for text in good if problems({"format": name}, text)] == []
    assert [text for text in bad if not problems({"format": name}, text)] == []
