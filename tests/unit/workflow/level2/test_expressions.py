"""Expressions of level 2: what they give, and what they say when they cannot be read or evaluated."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from workflow.level2.functions import FUNCTIONS
from workflow.level2.grammar import DEPTH_MAX, TEXT_MAX, compile_expression
from workflow.level2.scope import ExpressionError, Missing, Scope
from workflow.values import JsonNumber, MapSlice

INPUT = {
    "age": 30.0,
    "name": "Bob",
    "ok": True,
    "nul": None,
    "price": 10.0,
    "qty": 3.0,
    "tags": ["a", "b"],
    "arr": [3.0, 1.0, 2.0],
    "value": 7.0,
    "users": [{"age": 1.0, "n": "x"}, {"age": 2.0, "n": "y"}],
    "m": [[1.0, 2.0], [3.0, 4.0]],
}


def evaluate(text: str, **names: Any) -> Any:
    scope = Scope(
        {"input": INPUT, "item": INPUT, **names},
        current=INPUT,
        nodes={"a": {"x": 1.0}, "b-c": 2.0},
        now=lambda: datetime(2026, 1, 31, 12, tzinfo=UTC),
    )
    return compile_expression(text).evaluate(scope)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # binding and operators
        ("1 + 2 * 3", 7.0),
        ("(1 + 2) * 3", 9.0),
        ("-2 ** 2", -4.0),
        ("2 ** 3 ** 2", 512.0),
        ("-7 % 3", -1.0),
        ("10 - 3 - 2", 5.0),
        ("1 < 2 && 2 < 3 || false", True),
        ("false && 1/0 > 1", False),
        ("true || input.missing", True),
        ("!ok == false", True),
        ("not ok or ok", True),
        ("item.price - item.qty > 5", True),
        # kinds
        ('"5" == 5', False),
        ("true == 1", False),
        ("nul == null", True),
        ("input.nul != null", False),
        ("[1, 2] == [1, 2]", True),
        ("{a: [true]} == {a: [1]}", False),
        ('"b" > "a"', True),
        ('"a" + 1', "a1"),
        ('name + "!"', "Bob!"),
        ("[1] + [2]", [1.0, 2.0]),
        # paths
        ("input.m[1][0]", 3.0),
        ("arr[-1]", 2.0),
        ("input.arr.length", 3.0),
        ('input["name"]', "Bob"),
        ("input?.missing", None),
        ("input.missing ?? 4", 4.0),
        ("nul ?? 5", 5.0),
        ("node.a.x + node['b-c']", 3.0),
        ("age", 30.0),
        # a condition that begins with its sign looks at the current value, or what its `value` wraps
        ("> 5", True),
        ("== 7", True),
        # functions
        ("input.users.map(u => u.age * 2)", [2.0, 4.0]),
        ("map(users, (u, i) => i)", [0.0, 1.0]),
        ("map([1, 2], x => map([10], y => x + y))", [[11.0], [12.0]]),
        ("filter(arr, x => x > 1).sum()", 5.0),
        ("reduce(arr, (a, x) => a + x, 0)", 6.0),
        ('sort(users, u => u.age, "desc")[0].n', "y"),
        ("max(arr) - min(arr)", 2.0),
        ("round(1.005, 2)", 1.01),
        ("round(-2.5)", -3.0),
        ('default(input.missing.deeper, "d")', "d"),
        ('get(input, "users.1.n")', "y"),
        ('"a" in tags && !("z" in tags)', True),
        ('parseJson("{\\"a\\": [1]}").a[0]', 1.0),
        ('groupBy(users, u => u.n)["x"].length', 1.0),
        ("range(3)", [0.0, 1.0, 2.0]),
        # dates
        ('dateDiff("2026-01-31", "2026-01-01", "day")', 30.0),
        ('formatDate(dateAdd("2026-01-31", 1, "month"))', "2026-02-28T00:00:00Z"),
        ('now() > "2026-01-01".parseDate()', True),
        ('weekday("2026-11-22")', 7.0),
        ('toEpoch("Thu, 01 Jan 1970 00:01:00 GMT")', 60.0),
        # texts
        ("'it''s' == \"it\"", None),
        ("\"\\u00e9\\n\" == 'é\n'", True),
        ('"a||b" == "a||b" ? "q?:" : "no"', "q?:"),
    ],
)
def test_an_expression_gives_its_value(text: str, value: Any) -> None:
    if text == "'it''s' == \"it\"":
        with pytest.raises(ExpressionError, match="unexpected"):
            evaluate(text)
        return
    result = evaluate(text)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the expression is empty"),
        ("1 +", "expected a value, found the end (at character 4"),
        ("1 < 2 < 3", "comparisons do not chain"),
        ("a = 1", "compare with =="),
        ('"open', "a text that does not end"),
        ("inpt.age", "did you mean 'input'?"),
        ("input.agee", "no field 'agee'"),
        ("input.arr[9]", "no element 9: the array has 3"),
        ("input.name.x", "this is a text, not an object"),
        ("foo(1)", "unknown function 'foo'"),
        ("uper(name)", "did you mean 'upper'?"),
        ("map(arr)", "map takes 2 arguments, got 1"),
        ("map(arr, 5)", "map takes a function (x => …) as argument 2"),
        ("upper(x => x)", "upper takes no function"),
        ("1 && true", "&& needs true or false, got number"),
        ("name > 1", "got number and text"),
        ("name * 2", "* needs a number, got text"),
        ("nul + 1", "got null and number"),
        ("1 / 0", "division by zero"),
        ("age ? 1 : 2", "? needs true or false before it, got number"),
        ("arr[0.5]", "an index is a whole number"),
        ('"\\q"', "unknown escape"),
        ("sqrt(-1)", "no root of a negative number"),
        ('parseDate("soon")', "is not a date"),
        ("node.z.x", "step 'z' has no result"),
        ("now().x", "no field 'x': this is a date"),
        ("(" * (DEPTH_MAX + 1) + "1", "nests deeper"),
        ("!" * 500 + "true", "nests deeper"),
        ("-" * 500 + "1", "nests deeper"),
        ("a" + ".b" * 500, "a path has more than"),
        ("1" * (TEXT_MAX + 1), "over the limit"),
        ('repeat("x", 1e9)', "grows past"),
        ("range(1e12)", "at most"),
        ('reduce(range(100), (a, x) => a + a, "xx")', "grows past"),
        ("map(range(2000), x => map(range(2000), y => y)).length", "function bodies"),
    ],
)
def test_a_wrong_expression_says_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        evaluate(text)
    assert says in str(caught.value)


def test_an_error_names_the_place_and_the_text() -> None:
    with pytest.raises(Missing) as caught:
        evaluate("1 + input.missing")
    assert caught.value.position == 10
    assert str(caught.value).endswith("(at character 11 of: 1 + input.missing)")


def test_a_condition_must_be_true_or_false() -> None:
    with pytest.raises(ExpressionError, match="this gives number"):
        compile_expression("1 + 1").condition(Scope({}))


def test_values_of_the_originals_types_are_plain_here() -> None:
    assert evaluate("x.n", x={"n": 3}) + 0 == 3
    assert evaluate("rows[0].a", rows=MapSlice([{"a": 1.0}])) == 1.0
    assert evaluate("map(rows, r => r.a)", rows=MapSlice([{"a": 1.0}])) == [1.0]
    assert evaluate("length(rows)", rows=MapSlice([{"a": 1.0}])) == 1.0
    assert JsonNumber("1") != 1


def test_references_and_free_names_are_known_without_running() -> None:
    compiled = compile_expression('node.a.x + node["b-c"] + map(input.items, x => x + y)[0]')
    assert compiled.nodes == {"a", "b-c"}
    assert compiled.names == {"input", "y"}


def test_names_of_a_function_hide_outer_ones_only_inside_it() -> None:
    assert evaluate("map([1], age => age)[0] + age", age=5.0) == 6.0


def test_every_function_has_a_row_that_can_be_shown() -> None:
    for name, row in FUNCTIONS.items():
        assert row.about, name
        assert row.most is None or row.least <= row.most
