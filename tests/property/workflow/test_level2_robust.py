"""Whatever text comes in, level 2 answers with a value or an ExpressionError: no other exception, no hang."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from workflow.level2.functions import FUNCTIONS
from workflow.level2.grammar import compile_expression
from workflow.level2.scope import ExpressionError, Scope
from workflow.level2.templates import compile_template

# fmt: off
PIECES = [
    "input", "item", "x", "node.a", "[", "]", "(", ")", "{", "}", ".", ",", ":", "?", "??", "?.", "=>", "+", "-", "*",
    "/", "%", "**", "!", "&&", "||", "==", "!=", "<", "<=", ">", ">=", "in", "and", "or", "not", "1", "0", "1.5", "1e3",
    "1e308", '"a"', "'b'", '""', "true", "false", "null", *FUNCTIONS,
]
# fmt: on
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(-5, 5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def try_it(text: str, value: object) -> None:
    with contextlib.suppress(ExpressionError):
        compile_expression(text).evaluate(Scope({"input": value, "x": value}, current=value))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14), VALUES)
def test_words_of_the_language_in_any_order(pieces: list[str], value: object) -> None:
    try_it(" ".join(pieces), value)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), VALUES)
def test_any_text(text: str, value: object) -> None:
    try_it(text, value)


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(sorted(FUNCTIONS)), st.lists(VALUES, max_size=3))
def test_every_function_with_any_arguments(name: str, arguments: list[object]) -> None:
    names = {f"a{i}": value for i, value in enumerate(arguments)}
    places = [f"{'x => ' if i in FUNCTIONS[name].calls else ''}a{i}" for i in range(len(arguments))]
    with contextlib.suppress(ExpressionError):
        compile_expression(f"{name}({', '.join(places)})").evaluate(Scope(names))


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="{}\"' ax.+", max_size=30))
def test_any_template(text: str) -> None:
    with contextlib.suppress(ExpressionError):
        template = compile_template(text)
        if template is not None:
            template.fill(Scope({"a": 1.0, "x": "t"}))
