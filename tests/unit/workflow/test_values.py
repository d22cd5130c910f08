"""Values: their Go names, text forms and numbers."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from workflow.values import (
    Int64,
    JsonNumber,
    MapSlice,
    NilSlice,
    SliceMap,
    StringPtr,
    StringSlice,
    byte_len,
    from_json,
    json_form,
    parse_float,
    text_form,
    time_rfc3339,
    to_json,
    to_number,
    type_name,
)

MOMENT = datetime(2024, 1, 2, 3, 4, 5, 120_000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (1.0, "float64"),
        (1, "int"),
        (Int64(1), "int64"),
        (True, "bool"),
        (None, "<nil>"),
        ("", "string"),
        ([], "[]interface {}"),
        (NilSlice(), "[]interface {}"),
        ({}, "map[string]interface {}"),
        (JsonNumber("1"), "json.Number"),
        (MOMENT, "time.Time"),
        (MapSlice([]), "[]map[string]interface {}"),
        (SliceMap({}), "map[string][]interface {}"),
        (StringSlice([]), "[]string"),
        (StringPtr(None), "*string"),
    ],
)
def test_values_bear_the_names_of_go(value: Any, name: str):
    assert type_name(value) == name


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (100000.0, "100000"),
        (999999.9, "999999.9"),
        (1e6, "1e+06"),
        (1234567.5, "1.2345675e+06"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (1e21, "1e+21"),
        (-0.0, "-0"),
        (0.1, "0.1"),
        (math.nan, "NaN"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (7, "7"),
        (True, "true"),
        (None, "<nil>"),
        (["a", 1.0, None], "[a 1 <nil>]"),
        (NilSlice(), "[]"),
        ({"b": 1.0, "a": [True]}, "map[a:[true] b:1]"),
        (JsonNumber("1.50"), "1.50"),
        (MOMENT, "2024-01-02 03:04:05.12 +0000 UTC"),
        (MapSlice([{"a": 1.0}]), "[map[a:1]]"),
        (SliceMap({"a": [1.0]}), "map[a:[1]]"),
        (StringSlice(["x", "y"]), "[x y]"),
        (StringPtr("5m"), "5m"),
        (StringPtr(None), "<nil>"),
    ],
)
def test_text_forms_are_those_of_percent_v(value: Any, text: str):
    assert text_form(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e6, "1000000"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (0.000001, "0.000001"),
        (1e-7, "1e-7"),
        (1.5, "1.5"),
        (-0.0, "-0"),
        ("<a&b>\u2028é", '"\\u003ca\\u0026b\\u003e\\u2028é"'),
        ({"b": [], "a": {}}, '{"a":{},"b":[]}'),
        (NilSlice(), "null"),
        (Int64(5), "5"),
        (JsonNumber("1.50"), "1.50"),
        (MOMENT, '"2024-01-02T03:04:05.12Z"'),
        (MapSlice([{"a": 1.0}]), '[{"a":1}]'),
        (SliceMap({"a": []}), '{"a":[]}'),
        (StringSlice(["x"]), '["x"]'),
        (StringPtr(None), "null"),
        (StringPtr("x"), '"x"'),
        ([True, False, None], "[true,false,null]"),
    ],
)
def test_json_forms_are_those_of_the_go_encoder(value: Any, text: str):
    assert json_form(value) == text


def test_indented_json_leaves_empty_containers_on_one_line():
    assert json_form({"a": [1.0, {}], "b": []}, "  ") == '{\n  "a": [\n    1,\n    {}\n  ],\n  "b": []\n}'


def test_a_number_that_json_cannot_write_is_refused_with_the_words_of_go():
    with pytest.raises(ValueError, match=r"^json: unsupported value: NaN$"):
        json_form([math.nan])


def test_times_show_their_zone():
    moment = MOMENT.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert time_rfc3339(moment) == "2024-01-02T08:34:05.12+05:30"
    assert text_form(moment) == "2024-01-02 08:34:05.12 +0530 +0530"


@pytest.mark.parametrize(
    "text", ["5", "-2", ".5", "5.", "1e3", "1_000", "0x1p4", "0x_1.8p1", "inf", "+Infinity"]
)
def test_texts_that_go_parses_are_numbers(text: str):
    assert parse_float(text) is not None


@pytest.mark.parametrize(
    "text", ["", " 5", "1e400", "0x10", "_1", "1__0", "1_", "+nan", "١", "1e", ".", "0x1p99999"]
)
def test_texts_that_go_does_not_parse_are_none(text: str):
    assert parse_float(text) is None


def test_only_numbers_and_numeric_texts_convert():
    assert [to_number(value) for value in (2, Int64(3), 1.5, "4")] == [2.0, 3.0, 1.5, 4.0]
    assert [to_number(value) for value in (True, None, JsonNumber("1"), [], "x")] == [None] * 5


def test_lengths_of_texts_count_bytes():
    assert (byte_len("abc"), byte_len("héllo"), byte_len("😀")) == (3, 6, 4)


def test_the_edge_writes_what_json_cannot_as_an_object_and_reads_it_back():
    value = {
        "a": [math.inf, -math.inf, 1.5],
        "n": JsonNumber("2"),
        "big": JsonNumber("1e999"),
        "nil": NilSlice(),
    }
    plain = to_json(value)
    infinity = {"$float": "Infinity"}
    assert plain == {"a": [infinity, {"$float": "-Infinity"}, 1.5], "n": 2, "big": infinity, "nil": None}
    assert from_json(plain)["a"] == [math.inf, -math.inf, 1.5]
    assert to_json(math.nan) == {"$float": "NaN"}
    opaque = [
        MapSlice([{"a": 1.0}]),
        SliceMap({"a": [1.0]}),
        StringSlice(["x"]),
        StringPtr("x"),
        MOMENT,
        Int64(3),
    ]
    assert to_json(opaque) == [[{"a": 1.0}], {"a": [1.0]}, ["x"], "x", "2024-01-02T03:04:05.12Z", 3]


@pytest.mark.parametrize("foreign", [(1,), {1}, b"x", 1j])
def test_what_is_no_value_is_refused_everywhere(foreign: Any):
    for function in (type_name, text_form, json_form, to_json, from_json):
        with pytest.raises(TypeError, match=r"value of the language|JSON data"):
            function(foreign)


def test_opaque_values_are_equal_by_content_and_show_it():
    assert repr(MapSlice([{"a": 1}])) == "MapSlice([{'a': 1}])"
    assert repr([SliceMap({}), StringSlice([]), StringPtr(None), JsonNumber("1")]) == (
        "[SliceMap({}), StringSlice([]), StringPtr(None), JsonNumber('1')]"
    )
    assert JsonNumber("1") in {JsonNumber("1")}
    assert StringPtr("a") in {StringPtr("a")}
    assert MapSlice([]) != []
