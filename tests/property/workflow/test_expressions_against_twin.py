"""The compiled evaluators agree with a plainly written second implementation, on sense and on nonsense."""

from __future__ import annotations

import contextlib
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.property.workflow import expression_twin as twin
from workflow import codec
from workflow.expressions import (
    EngineCrash,
    EvalContext,
    EvalError,
    LimitExceeded,
    evaluate_condition,
    evaluate_value,
    simple_condition,
)

INPUT = {
    "age": 30.0,
    "name": "Bob",
    "s5": "5",
    "ok": True,
    "nul": None,
    "price": 10.0,
    "qty": 3.0,
    "a-b": 4.0,
    "count": 3,
    "tags": ["a", "b", "é"],
    "arr": [3.0, 1.0, 2.0],
    "mix": [3.0, "2", "x", None, True, 1.0, "1", -0.0, 0.0],
    "m": [[1.0, 2.0], [3.0, [4.0]]],
    "value": {"value": 7.0},
    "users": [{"age": 1.0}, {"age": 2.0}],
    "n": {"length": 9.0, "x": 1.0},
}
INPUTS: tuple[Any, ...] = (INPUT, 7.0, "12", None, [1.0, "b", [2.0]], True, {"value": -3.5}, 4)
VARIABLES: tuple[dict[str, Any], ...] = (
    {"x": 5.0, "o": {"k": [1.0, 2.0]}},
    {"item": {"age": 1.0}, "index": 2.0, "items": [9.0, 8.0], "accumulator": 100.0},
    {"input": 60.0, "x": "7"},
)
CONTEXT = {"c": 2.0, "cfg": {"u": 1.0}, "cfg.u": 8.0}
RESULTS = {"n1": {"items": [{"id": 1.0}], "value": 9.0}, "num": 4.0, "": 1.0}

WORDS = [
    "item",
    "input",
    "variables",
    "context",
    "node",
    "age",
    "name",
    "s5",
    "ok",
    "nul",
    "price",
    "qty",
    "a-b",
    "count",
    "tags",
    "arr",
    "mix",
    "m",
    "value",
    "users",
    "n",
    "length",
    "x",
    "o",
    "k",
    "items",
    "index",
    "accumulator",
    "c",
    "cfg",
    "n1",
    "num",
    "id",
    "missing",
    "true",
    "false",
    "null",
    "inf",
    "nan",
    "1e3",
    "0x1p4",
    "1_000",
    "0",
    "1",
    "2",
    "3",
    "5",
    "7",
    "0.5",
    "2.5",
    "100",
    "-1",
    "map",
    "sum",
    "avg",
    "min",
    "max",
    "round",
    "floor",
    "ceil",
    "abs",
    "sort",
    "reverse",
    "unique",
    "flatten",
    "slice",
    "sample",
    "zip",
    "pow",
    "sqrt",
    "foo",
    "isNull",
    "coalesce",
    "contains",
    "now",
    "year",
    "toUpperCase",
    "toLowerCase",
    "trim",
    "includes",
    "startsWith",
    "endsWith",
    "replace",
    "split",
    "join",
    "first",
    "last",
]
MARKS = (
    *tuple("()[].,+-*/%?:!<>=&|\"' _"),
    "&&",
    "||",
    "==",
    "!=",
    "<=",
    ">=",
    "()",
    "[0]",
    " ? ",
    " : ",
    '"a"',
    "'b'",
)

loose = st.lists(st.sampled_from(WORDS + list(MARKS)), max_size=14).map("".join)

paths = st.sampled_from(
    (
        "item", "input", "item.age", "age", "input.price", "item.qty", "item.a-b", "item.tags", "item.arr", "item.mix",
        "item.m", "item.m[0]", "item.m[1].[0]", "item.users", "item.tags[1]", "item.tags.length", "item.name.length",
        "item.nul", "item.missing", "item.ok", "item.s5", "variables.x", "variables.o.k[1]", "variables.item.age", "x",
        "index", "accumulator", "items[0]", "context.c", "context.cfg.u", "node.n1.value", "node.n1.items[0].id",
        "node.num", "node.zz", "item.value", "value", "length", "item.name.toUpperCase()", 'item.tags.join("-")',
        "item.tags.includes(a)", 'item.name.replace("o", "0")', "item.arr.reverse().first()", "item.name.split('')",
        "item.count", "item.n.length", "item.users[0].age",
    )
)  # fmt: skip
literals = st.sampled_from(
    ("0", "1", "2", "-3", "0.5", "1e3", '"Bob"', "'a'", "true", "false", "null", '""', "7")
)


def grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    operators = st.sampled_from((" + ", " - ", "*", " / ", " % ", "-", "+"))
    comparisons = st.sampled_from((" == ", "!=", " < ", "<=", " > ", ">="))
    functions = st.sampled_from(
        [*twin.FUNCTIONS, "pow", "sqrt", "isNull", "coalesce", "contains", "foo", "year"]
    )
    return st.one_of(
        st.tuples(inner, operators, inner).map("".join),
        st.tuples(inner, comparisons, inner).map("".join),
        st.tuples(inner, st.sampled_from((" && ", "||")), inner).map("".join),
        st.tuples(inner, st.just(" ? "), inner, st.just(" : "), inner).map("".join),
        st.tuples(st.sampled_from(("(", "-(", "!(")), inner, st.just(")")).map("".join),
        st.tuples(st.sampled_from(("!", "-", ">", "==")), inner).map("".join),
        st.tuples(functions, st.lists(inner, max_size=3).map(", ".join)).map(
            lambda pair: f"{pair[0]}({pair[1]})"
        ),
    )


sensible = st.recursive(st.one_of(paths, literals), grow, max_leaves=8)
texts = st.one_of(sensible, loose, st.text(max_size=20))

contexts = st.tuples(st.sampled_from(INPUTS), st.sampled_from(VARIABLES))


def ours(evaluate: Any, text: str, value: Any, variables: dict[str, Any]) -> Any:
    try:
        return evaluate(text, EvalContext(value, variables, CONTEXT, RESULTS))
    except EvalError:
        return "fails"
    except EngineCrash:
        return "dies"


def theirs(evaluate: Any, text: str, value: Any, variables: dict[str, Any]) -> Any:
    try:
        return evaluate(text, twin.Names(value, variables, CONTEXT, RESULTS))
    except twin.Fails:
        return "fails"
    except twin.Dies:
        return "dies"


def as_bytes(value: Any) -> bytes:
    """So that NaN equals itself, 0 differs from -0, and an int from a float."""
    return codec.encode(value)


@settings(max_examples=600, deadline=None)
@given(text=texts, names=contexts)
@example(text="isNull(item.nope) || true", names=(INPUT, VARIABLES[0]))
@example(text="1/0 + foo(1)", names=(INPUT, VARIABLES[0]))
def test_conditions_agree(text: str, names: tuple[Any, dict[str, Any]]):
    assert ours(evaluate_condition, text, *names) == theirs(twin.condition, text, *names)


@settings(max_examples=600, deadline=None)
@given(text=texts, names=contexts)
@example(text="foo(1) +", names=(INPUT, VARIABLES[0]))
@example(text="map(item.users, map(item.arr, item))", names=(INPUT, VARIABLES[0]))
def test_values_agree(text: str, names: tuple[Any, dict[str, Any]]):
    mine, other = ours(evaluate_value, text, *names), theirs(twin.value_of, text, *names)
    assert as_bytes(mine) == as_bytes(other)


@given(text=st.text(alphabet="0123456789+-.eEpPxXinfanNF_<>=! \n\tab", max_size=12), value=st.floats())
def test_simple_conditions_agree(text: str, value: float):
    assert simple_condition(text, value) == twin.simple(text, value)
    assert simple_condition(text, {"value": value}) == twin.simple(text, {"value": value})


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200), names=contexts)
def test_random_bytes_have_an_answer(data: bytes, names: tuple[Any, dict[str, Any]]):
    text = data.decode("utf-8", "replace")
    for evaluate in (evaluate_condition, evaluate_value):
        with contextlib.suppress(EvalError, EngineCrash, LimitExceeded):
            evaluate(text, EvalContext(*names, CONTEXT, RESULTS))


@settings(max_examples=100, deadline=2000)
@given(piece=loose, times=st.integers(1, 3000))
def test_long_repetitions_end_soon(piece: str, times: int):
    text = (piece * times)[:60_000]
    for evaluate in (evaluate_condition, evaluate_value):
        with contextlib.suppress(EvalError, EngineCrash, LimitExceeded):
            evaluate(text, EvalContext(INPUT, VARIABLES[0], CONTEXT, RESULTS))
