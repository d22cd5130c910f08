"""Integers, quoting and sorting as Go does them."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflow.steps.golang import INT_MIN, go_int, quoted, stable_sort, wrapped


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (1.9, 1),
        (-1.9, -1),
        (2.0**63, INT_MIN),
        (-(2.0**63), INT_MIN),
        (math.inf, INT_MIN),
        (math.nan, INT_MIN),
    ],
)
def test_a_float_that_does_not_fit_becomes_the_smallest_int(number: float, expected: int) -> None:
    assert go_int(number) == expected


def test_integers_wrap_around() -> None:
    assert wrapped(2**63) == -(2**63)
    assert wrapped(-(2**63) - 1) == 2**63 - 1
    assert wrapped(5) == 5


def test_quoting_escapes_what_go_does_not_print() -> None:
    assert quoted('a"\\\n\x01é\u2028\U000e0001 ') == '"a\\"\\\\\\n\\x01é\\u2028\\U000e0001 "'


@given(st.lists(st.tuples(st.integers(0, 5), st.integers()), max_size=200))
def test_for_a_proper_order_the_stable_sort_is_any_stable_sort(items: list[tuple[int, int]]) -> None:
    expected = sorted(items, key=lambda item: item[0])
    stable_sort(items, lambda left, right: left[0] < right[0])
    assert items == expected


def test_for_no_order_at_all_it_still_ends_and_loses_nothing() -> None:
    items = list(range(500))
    rng = random.Random(1)
    stable_sort(items, lambda left, right: rng.random() < 0.5)
    assert sorted(items) == list(range(500))
