"""Steps on arrays that need no expression: cut, order, group, join and reshape.

Counts are Go ints. Where the original leaves a nil slice, the result is a NilSlice (JSON null).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from workflow.steps.arrays import soft_error
from workflow.steps.base import Field, RunState, Services, Step, StepFailed, StepType
from workflow.steps.casing import lower
from workflow.steps.golang import go_int, stable_sort, wrapped
from workflow.values import NilSlice, SliceMap, Value, text_form

range_items_max: Final = 10_000  # the original's own limit; 9999 pass


def _array_step(
    name: str,
    fields: tuple[Field, ...],
    data_name: str,
    work: Callable[[Mapping[str, Any], list[Value]], Value],
) -> StepType:
    """A step type whose work is a function of its data and the array in its first input."""

    def run(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
        assert step.data is not None
        if not inputs:
            raise StepFailed(f"{name} node needs at least 1 input")
        items = inputs[0]
        return work(step.data, items) if isinstance(items, list) else soft_error(items)

    return StepType(name, fields, "pure", run, data_name)


def _integer(value: Value, default: int) -> int:
    return go_int(value) if type(value) is float else default


# --- cut --------------------------------------------------------------------------------------------------


def _slice(data: Mapping[str, Any], items: list[Value]) -> Value:
    count = len(items)
    start = _from_end(_integer(data["start"], 0), count)
    end = count
    if type(data["end"]) is float:
        end = go_int(data["end"])
    elif type(data["length"]) is float:
        end = wrapped(start + go_int(data["length"]))
    end = _from_end(end, count)
    start = min(start, end)
    sliced = _part(items, start, end)
    return {
        "sliced": sliced,
        "input_count": count,
        "output_count": len(sliced),
        "start": start,
        "end": end,
    }


def _from_end(position: int, count: int) -> int:
    if position < 0:
        position += count
    return min(max(position, 0), count)


def _part(items: list[Value], start: int, end: int) -> list[Value]:
    return items if type(items) is NilSlice else items[start:end]


def _chunk(data: Mapping[str, Any], items: list[Value]) -> Value:
    size = _integer(data["size"], 10)
    if size <= 0:
        raise StepFailed(f"chunk size must be greater than 0, got {size}")
    chunks = [items[start : start + size] for start in range(0, len(items), size)]
    return {
        "chunks": chunks or NilSlice(),
        "input_count": len(items),
        "chunk_count": len(chunks),
        "chunk_size": size,
    }


def run_sample(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The first, last or random elements. The random ones depend on the execution and the step: a repetition of the
    attempt draws the same."""
    assert step.data is not None
    if not inputs:
        raise StepFailed("sample node needs at least 1 input")
    items = inputs[0]
    if not isinstance(items, list):
        return soft_error(items)
    count = _integer(step.data["count"], 1)
    if count <= 0:
        raise StepFailed(f"sample count must be greater than 0, got {count}")
    method = step.data["method"]
    match "random" if method is None else method:
        case "first":
            sample = _part(items, 0, count)
        case "last":
            sample = _part(items, max(len(items) - count, 0), len(items))
        case "random":
            chosen = services.rng(state.execution_id, step.id)
            sample = list(items) if count >= len(items) else chosen.sample(items, count)
        case _:
            raise StepFailed(f"unknown sample method: {method} (must be 'random', 'first', or 'last')")
    return {
        "sample": sample,
        "input_count": len(items),
        "output_count": len(sample),
        "method": "random" if method is None else method,
    }


def _compact(data: Mapping[str, Any], items: list[Value]) -> Value:
    without_blank = data["remove_empty"] is True
    kept = [
        item
        for item in items
        if not (item is None or (type(item) is float and math.isnan(item)) or (without_blank and item == ""))
    ]
    return {
        "compacted": kept or NilSlice(),
        "input_count": len(items),
        "output_count": len(kept),
        "removed": len(items) - len(kept),
    }


def _unique(data: Mapping[str, Any], items: list[Value]) -> Value:
    field = data["field"]
    seen: set[str] = set()
    kept: list[Value] = []
    for item in items:
        if field and type(item) is dict:
            if field not in item:
                kept.append(item)
                continue
            key = text_form(item[field])
        else:
            key = text_form(item)
        if key not in seen:
            seen.add(key)
            kept.append(item)
    return {
        "unique": kept or NilSlice(),
        "input_count": len(items),
        "output_count": len(kept),
        "removed": len(items) - len(kept),
    }


# --- order ------------------------------------------------------------------------------------------------


def _sort(data: Mapping[str, Any], items: list[Value]) -> Value:
    field = data["field"] or ""
    order = "asc" if data["order"] is None else lower(data["order"])
    pairs = [(_sort_value(item, field), item) for item in items]
    kinds = {type(value) for value, _ in pairs}
    ordered_kind = len(kinds - {type(None)}) == 1 and not kinds.isdisjoint((float, int, str, bool))
    if len(kinds) <= 1 and type(None) in kinds:
        ordered_kind = True
    if ordered_kind and not any(type(value) is float and value != value for value, _ in pairs):
        # A plain order; null first. The descending result is the exact reverse, ties included.
        pairs.sort(key=lambda pair: (pair[0] is not None, pair[0]) if pair[0] is not None else (False,))
        if order == "desc":
            pairs.reverse()
    elif order == "desc":
        stable_sort(pairs, lambda left, right: not _less(left[0], right[0]))
    else:
        stable_sort(pairs, lambda left, right: _less(left[0], right[0]))
    return {"sorted": [item for _, item in pairs], "count": len(pairs), "field": field, "order": order}


def _sort_value(item: Value, field: str) -> Value:
    if not field:
        return item
    return item.get(field) if type(item) is dict else None


def _less(left: Value, right: Value) -> bool:
    """The original's order of two values. Not transitive over mixed types."""
    if left is None or right is None:
        return left is None and right is not None
    if type(left) is type(right) and type(left) in (float, int, str, bool):
        return bool(left < right)
    return text_form(left) < text_form(right)


def _reverse(data: Mapping[str, Any], items: list[Value]) -> Value:
    return {"reversed": items[::-1], "count": len(items)}


# --- group, spread, join ----------------------------------------------------------------------------------


def _flat_map(data: Mapping[str, Any], items: list[Value]) -> Value:
    field = data["field"] or ""
    flattened: list[Value] = []
    for item in items:
        if field and field != ".":
            if type(item) is not dict or field not in item:
                continue
            item = item[field]
        if isinstance(item, list):
            flattened += item
        else:
            flattened.append(item)
    return {
        "flattened": flattened or NilSlice(),
        "input_count": len(items),
        "output_count": len(flattened),
        "field": field,
    }


_AGGREGATE_KEYS = {
    "count": "counts",
    "sum": "sums",
    "avg": "averages",
    "min": "minimums",
    "max": "maximums",
    "values": "values",
}


def _group_by(data: Mapping[str, Any], items: list[Value]) -> Value:
    field = data["field"]
    if field == "":
        raise StepFailed("group_by node requires 'field' string")
    aggregate = "count" if data["aggregate"] is None else data["aggregate"]
    groups: dict[str, list[Value]] = {}
    for item in items:
        key = text_form(item) if type(item) is not dict else _group_key(item, field)
        groups.setdefault(key, []).append(item)
    if aggregate not in _AGGREGATE_KEYS:
        raise StepFailed(f"unknown aggregate function: {aggregate}")
    value_field = data["value_field"] or ""
    return {
        "groups": SliceMap(groups),
        "group_count": len(groups),
        "input_count": len(items),
        "field": field,
        "aggregate": aggregate,
        _AGGREGATE_KEYS[aggregate]: {
            key: _aggregated(aggregate, group, value_field) for key, group in groups.items()
        },
    }


def _group_key(item: dict[str, Value], field: str) -> str:
    return text_form(item[field]) if field in item else "<missing>"


def _aggregated(aggregate: str, group: list[Value], value_field: str) -> Value:
    if aggregate == "count":
        return len(group)
    if aggregate == "values":
        return group
    numbers = [
        float(item[value_field])
        for item in group
        if type(item) is dict and type(item.get(value_field)) in (float, int)
    ]
    if aggregate in ("min", "max"):
        return _extreme(numbers, aggregate == "min")
    total = 0.0
    for number in numbers:  # not sum(): it may add floats with compensation
        total += number
    if aggregate == "sum":
        return total
    return total / len(numbers) if numbers else 0.0


def _extreme(numbers: list[float], smallest: bool) -> float | None:
    best: float | None = None
    for number in numbers:
        if best is None or (number < best if smallest else number > best):
            best = number
    return best


def run_zip(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """Tuples of the first input (if it is an array) and the arrays in the data, filled up to the longest."""
    assert step.data is not None
    given = step.data["arrays"]
    sources = [*inputs[:1], *(given if isinstance(given, list) else ())]
    arrays = [source for source in sources if isinstance(source, list)]
    if not arrays:
        raise StepFailed("zip node requires at least one array")
    fill = step.data["fill_missing"]
    longest = max(map(len, arrays))
    zipped = [[array[i] if i < len(array) else fill for array in arrays] for i in range(longest)]
    return {
        "zipped": zipped or NilSlice(),
        "array_count": len(arrays),
        "tuple_count": longest,
        "max_length": longest,
    }


def _transpose(data: Mapping[str, Any], items: list[Value]) -> Value:
    if not items:
        return {"transposed": [], "rows": 0, "cols": 0}
    if not isinstance(items[0], list):
        return {
            "error": "input is not a 2D array (array of arrays)",
            "first_element": items[0],
            "expected": "array of arrays",
        }
    rows, cols = len(items), len(items[0])
    for index, row in enumerate(items):
        if not isinstance(row, list):
            return {"error": f"row {index} is not an array", "row_index": index, "row_value": row}
        if len(row) != cols:
            return {
                "error": "all rows must have the same length",
                "expected_cols": cols,
                "row_index": index,
                "actual_cols": len(row),
            }
    return {
        "transposed": [list(column) for column in zip(*items, strict=True)],
        "rows": rows,
        "cols": cols,
        "transposed_rows": cols,
        "transposed_cols": rows,
    }


# --- range ------------------------------------------------------------------------------------------------


def run_range(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """Numbers from start to end, both included, by repeated addition of step. Inputs are ignored."""
    assert step.data is not None
    data = step.data
    start = data["start"] if type(data["start"]) is float else 0.0
    end = data["end"] if type(data["end"]) is float else 10.0
    size = data["step"] if data["step"] is not None else 1.0
    if size == 0.0:
        raise StepFailed("range step cannot be 0")
    bounds = f"got start={text_form(start)} end={text_form(end)}"
    if size > 0 and start > end:
        raise StepFailed(f"range with positive step requires start <= end, {bounds}")
    if size < 0 and start < end:
        raise StepFailed(f"range with negative step requires start >= end, {bounds}")
    numbers: list[Value] = []
    number = start
    while (number <= end if size > 0 else number >= end) and len(numbers) < range_items_max:
        numbers.append(number)
        number += size
    if len(numbers) >= range_items_max:
        raise StepFailed(f"range would generate more than {range_items_max} items, adjust start/end/step")
    return {"range": numbers, "count": len(numbers), "start": start, "end": end, "step": size}


def _check_range(data: Mapping[str, Any]) -> None:
    if data["start"] is None or data["end"] is None:
        raise ValueError("missing required field: start and end")


_FIELD = Field("field", "string")

STEP_TYPES = (
    _array_step(
        "slice",
        (Field("start", "any_number"), Field("end", "any_number"), Field("length", "any_number")),
        "SliceData",
        _slice,
    ),
    _array_step("sort", (_FIELD, Field("order", "string")), "SortData", _sort),
    _array_step("flat_map", (_FIELD, Field("expression", "string")), "FlatMapData", _flat_map),
    _array_step(
        "group_by",
        (
            Field("field", "string", required=True),
            Field("aggregate", "string"),
            Field("value_field", "string"),
        ),
        "GroupByData",
        _group_by,
    ),
    _array_step("unique", (_FIELD,), "UniqueData", _unique),
    _array_step("chunk", (Field("size", "any_number", required=True),), "ChunkData", _chunk),
    _array_step("reverse", (), "ReverseData", _reverse),
    _array_step("compact", (Field("remove_empty", "bool"),), "CompactData", _compact),
    _array_step("transpose", (), "TransposeData", _transpose),
    StepType(
        "zip",
        (Field("arrays", "any"), Field("fill_missing", "any"), Field("remove_empty", "bool")),
        "pure",
        run_zip,
        "ZipData",
    ),
    StepType(
        "sample",
        (Field("count", "any_number", required=True), Field("method", "string")),
        "pure",
        run_sample,
        "SampleData",
    ),
    StepType(
        "range",
        (Field("start", "any"), Field("end", "any"), Field("step", "any_number")),
        "pure",
        run_range,
        "RangeData",
        _check_range,
    ),
)
