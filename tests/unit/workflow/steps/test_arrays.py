"""Array steps: the corners that the recorded cases leave out."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.workflow.steps.step_runs import run_step
from workflow.steps.array_shapes import _less
from workflow.steps.base import EngineCrash, RunState, StepFailed
from workflow.steps.golang import stable_sort
from workflow.values import JsonNumber, NilSlice


def test_expressions_see_the_variables_of_the_workflow_and_of_the_element() -> None:
    state = RunState()
    state.variables = {"limit": 2.0, "item": "hidden"}
    assert run_step("filter", {"condition": "item > variables.limit"}, [1.0, 3.0], state=state)[
        "filtered"
    ] == [3.0]
    assert run_step("map", {"expression": "item + index"}, [5.0, 5.0], state=state)["results"] == [5.0, 6.0]
    assert state.variables == {"limit": 2.0, "item": "hidden"}


def test_what_kills_the_original_is_an_error_and_no_skipped_element() -> None:
    for name, data in (
        ("map", {"expression": "foo(item)"}),
        ("reduce", {"expression": "foo(item)"}),
        ("filter", {"condition": 'item == "'}),
        ("find", {"condition": 'item == "'}),
        ("partition", {"condition": 'item == "'}),
    ):
        with pytest.raises(EngineCrash):
            run_step(name, data, ["x"])


def test_a_nil_slice_is_an_empty_array_and_stays_nil_when_cut() -> None:
    nil = NilSlice()
    assert type(run_step("slice", {}, nil)["sliced"]) is NilSlice
    assert type(run_step("sample", {"count": 1.0, "method": "first"}, nil)["sample"]) is NilSlice
    assert type(run_step("reverse", {}, nil)["reversed"]) is list
    assert type(run_step("filter", {"condition": "true"}, nil)["filtered"]) is list
    assert run_step("for_each", {}, nil)["input_count"] == 0


@pytest.mark.parametrize(
    ("data", "start", "end"),
    [
        ({"start": 1e300}, 0, 5),  # becomes the smallest int, which counts from the end
        ({"end": -1e300}, 0, 0),
        ({"start": 3.0, "length": -1.0}, 2, 2),
        ({"start": 2.0, "length": -9.0}, 0, 0),
        ({"start": math.nan}, 0, 5),
        ({"start": 4.0, "end": 1.0}, 1, 1),
    ],
)
def test_slice_bounds_are_clamped(data: dict[str, Any], start: int, end: int) -> None:
    result = run_step("slice", data, [0.0] * 5)
    assert (result["start"], result["end"]) == (start, end)


_SORTABLE = st.one_of(st.none(), st.floats(allow_nan=False, width=16))


@given(st.lists(_SORTABLE, max_size=60), st.sampled_from(["asc", "desc"]))
def test_the_fast_sort_gives_what_the_originals_comparisons_give(items: list[Any], order: str) -> None:
    expected = list(items)
    if order == "desc":
        stable_sort(expected, lambda left, right: not _less(left, right))
    else:
        stable_sort(expected, _less)
    rows = [{"k": item, "i": float(index)} for index, item in enumerate(items)]
    result = run_step("sort", {"field": "k", "order": order}, rows)["sorted"]
    assert [row["k"] for row in result] == expected


def test_descending_ties_are_reversed_also_beyond_one_block() -> None:
    rows = [{"k": float(index % 2), "i": float(index)} for index in range(50)]
    result = run_step("sort", {"field": "k", "order": "desc"}, rows)["sorted"]
    assert [row["i"] for row in result] == [float(i) for i in [*range(49, 0, -2), *range(48, -1, -2)]]


def test_values_of_mixed_types_are_ordered_by_their_text() -> None:
    result = run_step("sort", {}, ["b", 2.0, True, None, JsonNumber("10")])["sorted"]
    assert result == [None, JsonNumber("10"), 2.0, "b", True]


def test_a_random_sample_depends_on_execution_and_step_alone() -> None:
    items = [float(i) for i in range(100)]

    def sample(execution: str, step: str) -> list[float]:
        data = {"count": 5.0}
        return run_step("sample", data, items, state=RunState(execution), step_id=step)["sample"]  # type: ignore[no-any-return]

    assert sample("a", "n") == sample("a", "n")
    assert len({tuple(sample(execution, step)) for execution in "abc" for step in "xyz"}) == 9
    assert len(set(sample("a", "n"))) == 5


def test_group_keys_are_text_forms_and_sums_take_go_ints() -> None:
    rows: list[Any] = [{"g": 1.0, "v": 2}, {"g": "1", "v": 0.5}, {"g": None, "v": "x"}, {"v": 1.0}, 1e6]
    result = run_step("group_by", {"field": "g", "aggregate": "sum", "value_field": "v"}, rows)
    assert result["sums"] == {"1": 2.5, "<nil>": 0.0, "<missing>": 1.0, "1e+06": 0.0}


def test_range_stops_at_its_limit_also_when_the_step_is_too_small_to_count() -> None:
    assert run_step("range", {"start": 1.0, "end": 9999.0})["count"] == 9999
    for data in ({"start": 1.0, "end": 10_000.0}, {"start": 1e20, "end": 1e20 + 1e5, "step": 1.0}):
        with pytest.raises(StepFailed, match="more than 10000 items"):
            run_step("range", data)


def test_inputs_are_never_changed() -> None:
    nested = [[3.0, 1.0], [2.0, None]]
    for name, data in (
        ("sort", {}), ("reverse", {}), ("compact", {}), ("transpose", {}), ("flat_map", {}), ("unique", {}),
        ("chunk", {"size": 1.0}), ("zip", {}), ("transform", {"transform_type": "flatten"}),
    ):  # fmt: skip
        run_step(name, data, nested)
        assert nested == [[3.0, 1.0], [2.0, None]], name
