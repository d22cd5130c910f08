"""Steps of level 2 with expressions: results as at level 1, failures where that passes over."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.workflow.level2.step_runs import run_step
from workflow.steps.base import RunState, StepFailed

ROWS = [{"g": "a", "n": 1}, {"g": "b", "n": 2}, {"g": "a", "n": 3}]


@pytest.mark.parametrize(
    ("kind", "data", "given", "expected"),
    [
        ("expression", {"expression": "input.length() + 1"}, [1, 2], 3),
        ("map", {"expression": "item.n * 2 + index"}, ROWS, {"results": [2, 5, 8]}),
        ("map", {"field": "n"}, [*ROWS, {}], {"results": [1, 2, 3, None], "output_count": 4}),
        ("filter", {"condition": "item.n > 1"}, ROWS, {"filtered": ROWS[1:], "skipped_count": 1}),
        ("filter", {"condition": "n > items.length() - 1"}, ROWS, {"filtered": ROWS[2:]}),
        ("reduce", {"expression": "accumulator + item.n"}, ROWS, {"result": 6, "initial_value": None}),
        ("reduce", {"expression": "accumulator + item.g", "initial_value": ""}, ROWS, {"result": "aba"}),
        ("find", {"condition": "item.n == 2"}, ROWS, {"found": ROWS[1], "index": 1}),
        ("find", {"expression": "item.n == 9"}, ROWS, {"found": None, "not_found": True}),
        ("partition", {"condition": "item.n > 1"}, ROWS, {"passed": ROWS[1:], "failed": ROWS[:1]}),
        ("partition", {"expression": "item.n > 1"}, ROWS, {"passed_count": 2, "failed_count": 1}),
        ("sort", {}, [3, None, 1], {"sorted": [None, 1, 3]}),
        ("sort", {"field": "n", "order": "desc"}, ROWS, {"sorted": ROWS[::-1]}),
        ("sort", {"key": "item.g + item.n"}, ROWS, {"sorted": [ROWS[0], ROWS[2], ROWS[1]]}),
        ("unique", {}, [1, "1", 1, True], {"unique": [1, "1", True], "removed": 1}),
        ("unique", {"by_field": "g"}, ROWS, {"unique": ROWS[:2]}),
        ("unique", {"field": "g"}, ROWS, {"unique": ROWS[:2]}),
        ("unique", {"key": "item.n % 2"}, ROWS, {"unique": ROWS[:2]}),
        ("group_by", {"field": "g"}, ROWS, {"counts": {"a": 2, "b": 1}, "group_count": 2}),
        ("group_by", {"key_field": "g", "aggregate": "sum", "value_field": "n"}, ROWS, {"sums": {"a": 4, "b": 2}}),
        ("group_by", {"key": "item.n > 1", "aggregate": "avg", "value_field": "n"}, ROWS,
         {"averages": {"false": 1, "true": 2.5}}),
        ("group_by", {"field": "g", "aggregate": "min", "value_field": "n"}, ROWS, {"minimums": {"a": 1, "b": 2}}),
        ("group_by", {"field": "g", "aggregate": "max", "value_field": "n"}, ROWS, {"maximums": {"a": 3, "b": 2}}),
        ("group_by", {"field": "g", "aggregate": "values", "value_field": "n"}, ROWS,
         {"values": {"a": [1, 3], "b": [2]}}),
        ("flat_map", {"expression": "[item, item * 2]"}, [1, 2], {"flattened": [1, 2, 2, 4]}),
        ("flat_map", {"field": "x"}, [{"x": [1]}, {"x": 2}], {"flattened": [1, 2]}),
        ("flat_map", {}, [[1], [2, [3]]], {"flattened": [1, 2, [3]]}),
        ("slice", {"start": 1}, [1, 2, 3], {"sliced": [2, 3]}),
        ("chunk", {"size": 2}, {"results": [1, 2, 3]}, {"chunks": [[1, 2], [3]]}),
        ("reverse", {}, {"range": [1, 2]}, {"reversed": [2, 1]}),
        ("condition", {"condition": "> 5"}, 6, {"condition_met": True, "path": "true"}),
        ("condition", {"condition": "input.x ?? false"}, {}, {"path": "false", "false_path": True}),
    ],
)  # fmt: skip
def test_results(kind: str, data: dict[str, Any], given: Any, expected: Any) -> None:
    got = run_step(kind, data, given)
    if isinstance(expected, dict):
        got = {key: got[key] for key in expected}
    assert got == expected


@pytest.mark.parametrize(
    ("kind", "data", "given", "message"),
    [
        ("map", {"expression": "item"}, "text", "map needs an array, got text"),
        ("map", {"field": "n"}, [1], "takes field 'n' of objects, got number"),
        ("map", {"expression": "item.x"}, [{"x": 1}, {}], "map.expression at element 1"),
        ("filter", {"condition": "item"}, [1], "must give true or false, this gives number"),
        ("sort", {}, [1, "a"], "sort.order"),
        ("sort", {"key": "item.k"}, [{"k": 1}, {"k": "a"}], "sort.key"),
        ("group_by", {"field": "g", "aggregate": "sum", "value_field": "x"}, [{"g": 1}], "adds up field 'x', which"),
        ("expression", {"expression": "missing + 1"}, {}, "at character 1"),
        ("condition", {"condition": "input + 1"}, 1, "must give true or false"),
        ("switch", {"cases": [{"when": "input > 5", "output_path": "p"}]}, 1, "no case of the switch holds"),
        ("slice", {}, 5, "slice needs an array"),
        ("set", {"values": {"x": "{{ input.y }}"}}, {}, "set: "),
        ("delay", {"duration": "{{ input }}"}, "soon", "delay: duration must be a duration"),
        ("log", {"message": "{{ null }}"}, 1, "log: message is null"),
        ("sort", {"order": "{{ input }}"}, "up", "sort: order must be one of asc, desc"),
    ],
)  # fmt: skip
def test_what_level_1_passes_over_fails_here(
    kind: str, data: dict[str, Any], given: Any, message: str
) -> None:
    with pytest.raises(StepFailed) as failed:
        run_step(kind, data, given)
    assert message in failed.value.text
    assert not failed.value.retryable


def test_an_array_step_without_an_input_says_so() -> None:
    with pytest.raises(StepFailed, match="no step leads to it"):
        run_step("filter", {"condition": "true"})


def test_a_switch_takes_the_first_case_that_holds_else_the_default() -> None:
    cases = [
        {"when": "> 5", "output_path": "big"},
        {"when": "> 3", "output_path": "some"},
        {"is_default": True},
    ]
    assert [run_step("switch", {"cases": cases}, n)["output_path"] for n in (9, 4, 1)] == [
        "big",
        "some",
        "default",
    ]


def test_a_body_sees_its_loop() -> None:
    state = RunState("e")
    state.loop = {"item": 5.0, "index": 2.0, "outer": {"item": "o", "index": 0.0, "outer": None}}
    state.context["rate"] = 3.0
    expression = "[item, index, loop.outer.item, inputs.rate, execution.id]"
    assert run_step("expression", {"expression": expression}, state=state) == [5, 2, "o", 3, "e"]


def test_csv_becomes_an_array_of_objects_for_the_steps_behind_it() -> None:
    rows = run_step("parse", {"input_type": "CSV"}, "a,b\n1,x\n2,y")
    assert run_step("filter", {"condition": "item.a > 1"}, rows)["filtered"] == [{"a": 2, "b": "y"}]


def test_templates_fill_lists_objects_and_texts() -> None:
    values = {"t": "n={{ input.n }}{{ null }}", "l": ["{{ input }}", {"deep": "{{ 1 + 1 }}"}], "k": 1}
    assert run_step("set", {"values": values}, {"n": 2.5}) == {
        "t": "n=2.5",
        "l": [{"n": 2.5}, {"deep": 2}],
        "k": 1,
    }
