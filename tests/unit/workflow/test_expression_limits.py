"""Expressions: bounds, what killed the original, and what no recorded case shows."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest

from workflow.expressions import (
    EngineCrash,
    EvalContext,
    EvalError,
    LimitExceeded,
    arithmetic,
    compiler,
    evaluate_condition,
    evaluate_value,
    parts,
    simple_condition,
)
from workflow.expressions.functions import ceil, floor, modulo, power, round_half_away
from workflow.values import MapSlice


def context(value: Any = None, **variables: Any) -> EvalContext:
    return EvalContext(value, variables, {}, {})


def test_a_text_may_have_its_limit_and_not_a_character_more():
    assert evaluate_value('"' + "x" * (compiler.length_max - 2) + '"', context()) == "x" * (
        compiler.length_max - 2
    )
    with pytest.raises(LimitExceeded, match="expression too long: 65537 characters"):
        evaluate_value('"' + "x" * (compiler.length_max - 1) + '"', context())


def test_parentheses_nest_to_their_limit():
    depth = arithmetic.depth_max - 1
    assert evaluate_value("(" * depth + "1" + ")" * depth + "+1", context()) == 2.0
    with pytest.raises(LimitExceeded, match="too deeply nested"):
        evaluate_value("(" * (depth + 1) + "1" + ")" * (depth + 1) + "+1", context())


def test_alternatives_nest_to_a_limit():
    assert evaluate_condition("||".join(["false"] * 100 + ["true"]), context())
    with pytest.raises(LimitExceeded, match="too deeply nested"):
        evaluate_condition("||".join(["false"] * 200), context())


def test_evaluation_steps_are_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(parts, "steps_max", 1000)
    rows = context({"a": [1.0] * 40})
    assert evaluate_value("sum(map(item.a, 1))", rows) == 40.0
    with pytest.raises(LimitExceeded, match="too many evaluation steps"):
        evaluate_value("map(item.a, map(variables.item.a, 1))", rows)


def test_no_fallback_hides_what_killed_the_original():
    for text in (
        "foo(1) * 2 > 1 || true",
        "true && foo(1) + 1 == 2",
        "!(5 % 0.5 == 0)",
        "isNull(')",
        "contains(item.a, ')",
    ):
        with pytest.raises(EngineCrash):
            evaluate_condition(text, context({"a": 1.0}))
    for text in (
        "foo(1)",
        "1 + year(2)",
        "'",
        "true ? 7 % 0.1 : 1",
        "sum(item.a.includes('))",
        "map(item.l, foo(1))",
    ):
        with pytest.raises(EngineCrash):
            evaluate_value(text, context({"a": "x", "l": [1.0]}))


def test_what_stands_before_a_syntax_error_is_still_evaluated():
    with pytest.raises(EngineCrash):
        evaluate_value("foo(1) + ", context())
    with pytest.raises(EvalError):
        evaluate_value("missing + foo(1)", context())
    with pytest.raises(EngineCrash):
        evaluate_value("1 + max(1, foo(2)", context())


def test_long_chains_need_no_deep_stack():
    assert evaluate_value("+".join(["x"] * 5000), context(x=2.0)) == 10_000.0
    assert evaluate_value("9 * 2 / 4 % 3 * 8 * 8 * 8 * 8 - 1", context()) == 4095.0
    with pytest.raises(EvalError):
        evaluate_value("1 * 1 * 1 * 1 * 1 * 1 * 1 / 0", context())


def test_times_compare_as_instants():
    early, late = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC)
    names = EvalContext(None, {"a": early, "b": late}, {}, {})
    assert evaluate_condition("variables.a < variables.b", names)
    assert evaluate_condition("variables.a <= variables.a", names)
    assert evaluate_condition("variables.a == variables.a", names)
    assert not evaluate_condition("variables.a > 5", names)


def test_map_takes_rows_of_csv():
    assert evaluate_value("map(item, item.a)", context(MapSlice([{"a": 1.0}]))) == [1.0]


def test_a_failing_evaluation_names_the_expression():
    with pytest.raises(EvalError, match="could not evaluate expression: nope"):
        evaluate_value("  nope ", context(1.0))
    with pytest.raises(EvalError, match="could not evaluate condition: isNull"):
        evaluate_condition("isNull(item.x)", context({}))


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("> 5 apples", 6.0, True),
        (">abc", 1.0, True),
        (">=1p3", 8.0, True),
        (">\n5", 1.0, True),
        (">1e999", 1.0, True),
        ("<0x1p4", 15.0, True),
        ("==nan", math.nan, False),
        ("!=nan", 1.0, True),
        (">", 1.0, False),
        ("true", "x", True),
        (">1p99999", 1.0, True),
        ("> 1", 2, False),
    ],
)
def test_a_simple_condition_takes_the_number_that_the_text_starts_with(text: str, value: Any, holds: bool):
    assert simple_condition(text, value) is holds


def test_mathematics_follows_go_at_the_edges():
    assert power(0.0, -1.0) == math.inf
    assert power(-0.0, -1.0) == -math.inf
    assert math.isnan(power(-8.0, 1 / 3))
    assert power(10.0, 400.0) == math.inf
    assert power(-10.0, 401.0) == -math.inf
    assert [round_half_away(x) for x in (2.5, -2.5, 0.49999999999999994, 1e300)] == [3.0, -3.0, 0.0, 1e300]
    assert str(ceil(-0.5)) == "-0.0"
    assert (floor(-1.5), floor(1e300), ceil(1e300)) == (-2.0, 1e300, 1e300)
    assert (modulo(math.inf, 7.0), modulo(7.9, 3.9), modulo(-7.0, 3.0), modulo(1.0, 0.5)) == (
        -1.0,
        1.0,
        -1.0,
        None,
    )


def test_plain_lists_are_sorted_by_the_library_and_mixed_ones_as_the_original_does():
    names = context({"n": [3.0, 1.0, 2.0], "t": ["b", "a"], "m": [3.0, "2", "x", None, True, 1.0, "1"]})
    assert evaluate_value("sort(item.n)", names) == [1.0, 2.0, 3.0]
    assert evaluate_value("sort(item.t)", names) == ["a", "b"]
    assert evaluate_value("sort(item.m)", names) == [1.0, "1", "2", 3.0, None, True, "x"]
