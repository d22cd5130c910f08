"""Steps on the shared state."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from tests.unit.workflow.steps.step_runs import NOW, run_step
from workflow.steps.base import RunState, Services, Settings, StepFailed
from workflow.values import StringPtr


def convert(value: Any, kind: str, **services: Any) -> Any:
    data = {"context_values": [{"name": "x", "value": value, "type": kind}]}
    given = Services(now=lambda: NOW, **services)
    return run_step("context_variable", data, services=given)["variables"]["x"]


def test_state_survives_the_way_between_two_tasks() -> None:
    state = RunState("e")
    run_step("variable", {"var_name": "v", "var_op": "set"}, [1.0], state=state)
    run_step("accumulator", {"accum_op": "array"}, "a", state=state)
    run_step("counter", {"counter_op": "increment"}, state=state)
    run_step("cache", {"cache_op": "set", "cache_key": "k"}, 5.0, state=state)
    run_step("context_constant", {"context_name": "c", "context_value": 1.0}, state=state)
    moved = RunState("e")
    moved.decode(state.encode())
    assert run_step("variable", {"var_name": "v", "var_op": "get"}, state=moved)["value"] == [1.0]
    assert run_step("accumulator", {"accum_op": "array"}, "b", state=moved)["value"] == ["a", "b"]
    assert run_step("counter", {"counter_op": "get"}, state=moved)["value"] == 1.0
    assert run_step("cache", {"cache_op": "get", "cache_key": "k"}, state=moved)["found"] is True
    assert moved.context == {"c": 1.0}


def test_an_accumulated_array_leaves_earlier_results_alone() -> None:
    state = RunState()
    first = run_step("accumulator", {"accum_op": "array"}, 1.0, state=state)
    run_step("accumulator", {"accum_op": "array"}, 2.0, state=state)
    assert first["value"] == [1.0]


@pytest.mark.parametrize(("later_s", "found"), [(0, True), (10, True), (10.001, False)])
def test_a_cached_value_is_there_until_its_time_is_over(later_s: float, found: bool) -> None:
    state = RunState()
    result = run_step("cache", {"cache_op": "set", "cache_key": "k", "ttl": "10s"}, 1.0, state=state)
    assert result["ttl"] == StringPtr("10s")
    later = Services(now=lambda: NOW + timedelta(seconds=later_s))
    assert (
        run_step("cache", {"cache_op": "get", "cache_key": "k"}, state=state, services=later)["found"]
        is found
    )


@pytest.mark.parametrize(
    ("value", "limits", "problem"),
    [
        ("é" * 3, {"max_string_length": 5}, "string too long: 6 bytes (limit: 5)"),
        ([[1.0], [1.0, 2.0]], {"max_array_length": 1}, "array too large: 2 elements (limit: 1)"),
        (
            [[], ["abc"]],
            {"max_string_length": 2},
            "array element 1: array element 0: string too long: 3 bytes (limit: 2)",
        ),
        ([{"a": [1.0]}], {"max_context_depth": 3}, "value too deeply nested: 4 levels (limit: 3)"),
    ],
)
def test_values_over_a_limit_are_not_stored(value: Any, limits: dict[str, int], problem: str) -> None:
    state = RunState()
    services = Services(settings=Settings(**limits))
    with pytest.raises(StepFailed) as caught:
        run_step("variable", {"var_name": "v", "var_op": "set"}, value, state=state, services=services)
    assert caught.value.text == f"variable validation failed: {problem}"
    assert state.variables == {}


@pytest.mark.parametrize(
    ("value", "kind", "converted"),
    [
        (1e6, "string", "1e+06"),
        ("0x1p4", "number", 16.0),
        ("T", "boolean", True),
        (0.0, "boolean", False),
        ("2024-02-29T9:08:07.5+05:30", "time_string", "2024-02-29T9:08:07.5+05:30"),
        (1.9, "epoch_second", datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
        ("-1500", "epoch_ms", datetime(1969, 12, 31, 23, 59, 58, 500_000, tzinfo=UTC)),
        ("anything", "null", None),
    ],
)
def test_context_values_are_converted(value: Any, kind: str, converted: Any) -> None:
    assert convert(value, kind) == converted


def test_times_are_shown_in_the_zone_of_the_process() -> None:
    zone = timezone(timedelta(hours=2))
    assert convert(0.0, "epoch_second", timezone=zone).utcoffset() == timedelta(hours=2)


_LAYOUT = '"2006-01-02T15:04:05Z07:00"'


@pytest.mark.parametrize(
    ("value", "kind", "problem"),
    [
        ("x<", "number", 'cannot convert "x<" to number: strconv.ParseFloat: parsing "x<": invalid syntax'),
        (
            "1e999",
            "number",
            'cannot convert "1e999" to number: strconv.ParseFloat: parsing "1e999": value out of range',
        ),
        (None, "boolean", "cannot convert type <nil> to boolean"),
        (
            "99999999999999999999",
            "epoch_ms",
            'cannot convert "99999999999999999999" to epoch milliseconds: strconv.ParseInt: parsing '
            '"99999999999999999999": value out of range',
        ),
        (
            "2024",
            "time_string",
            f'invalid time string "2024": parsing time "2024" as {_LAYOUT}: cannot parse "" as "-"',
        ),
        (
            "2024-02-30T00:00:00Z",
            "time_string",
            'invalid time string "2024-02-30T00:00:00Z": parsing time "2024-02-30T00:00:00Z": day out of range',
        ),
        (1.0, "Number", 'unsupported type "Number"'),
        (1e18, "epoch_second", "time is outside the years 1 to 9999"),
    ],
)
def test_context_values_that_cannot_be_converted_say_why(value: Any, kind: str, problem: str) -> None:
    with pytest.raises(StepFailed) as caught:
        convert(value, kind)
    assert caught.value.text == f"context_variable node: error converting x ({kind}): {problem}"
