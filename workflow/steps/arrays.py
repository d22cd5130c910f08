"""Steps on arrays that look at each element through an expression: filter, map, reduce, find, partition.

The expression context is made once per run; per element only its value and the step's own variables change.
"""

from __future__ import annotations

from collections.abc import Sequence

from workflow.expressions import MISSING, compiled_condition, compiled_value
from workflow.expressions.context import EvalContext
from workflow.steps.base import Field, RunState, Services, Step, StepFailed, StepType
from workflow.values import NilSlice, Value, type_name

# Keys under which filter and partition look for the array in an object, first one wins.
_ARRAY_KEYS = ("range", "array", "items", "data", "values")


def _array_in(value: Value) -> list[Value] | None:
    """The array that a filter or partition works on: the value, or that under the first fitting key of an object."""
    if isinstance(value, list):
        return value
    if type(value) is dict:
        for key in _ARRAY_KEYS:
            if isinstance(value.get(key), list):
                return value[key]  # type: ignore[no-any-return]
    return None


def soft_error(value: Value) -> dict[str, Value]:
    """What array steps answer, successfully, for an input that is no array."""
    return {"error": "input is not an array", "input": value, "original_type": type_name(value)}


class ElementContext:
    """An expression context that goes from element to element of an array."""

    __slots__ = ("_context", "_variables")

    def __init__(self, state: RunState, **variables: Value) -> None:
        self._variables: dict[str, Value] = {**state.variables, **variables}
        self._context = EvalContext(None, self._variables, state.context, state.results)

    def at(self, item: Value, index: int | float) -> EvalContext:
        """The context of one element. Valid until the next call."""
        self._context.value = item
        self._context.spent = 0
        self._variables["item"] = item
        self._variables["index"] = index
        return self._context

    def set_variable(self, name: str, value: Value) -> None:
        """Changes a variable for the elements that follow."""
        self._variables[name] = value


def run_filter(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The elements that meet the condition. One whose evaluation fails is left out and counted."""
    assert step.data is not None
    condition = step.data["condition"]
    if condition == "":
        raise StepFailed("filter node missing condition expression")
    if not inputs:
        raise StepFailed("filter node needs at least 1 input")
    items = _array_in(inputs[0])
    if items is None:
        return {
            "input": inputs[0],
            "filtered": inputs[0],
            "is_array": False,
            "warning": "input is not an array, passed through unchanged",
            "original_type": type_name(inputs[0]),
        }
    evaluate, element = compiled_condition(condition), ElementContext(state)
    filtered: list[Value] = []
    errors = 0
    for index, item in enumerate(items):
        holds = evaluate(element.at(item, float(index)))
        if holds is MISSING:
            errors += 1
        elif holds:
            filtered.append(item)
    return {
        "filtered": filtered,
        "input_count": len(items),
        "output_count": len(filtered),
        "skipped_count": len(items) - len(filtered),
        "error_count": errors,
        "condition": condition,
        "is_array": True,
    }


def run_map(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """An expression's value or a field of each element; null where there is none."""
    assert step.data is not None
    if not inputs:
        raise StepFailed("map node needs at least 1 input")
    items = inputs[0]
    if not isinstance(items, list):
        raise StepFailed(f"map node requires array input, got {type_name(items)}")
    field, text = step.data["field"], step.data["expression"]
    if not field and not text:
        return {
            "results": items,
            "input_count": len(items),
            "output_count": len(items),
            "warning": "no transformation specified",
        }
    results, failed = _fields_of(items, field) if field else _values_of(items, text, state)
    return {
        "results": results,
        "input_count": len(items),
        "output_count": len(results),
        "successful": len(results) - failed,
        "failed": failed,
    }


def _fields_of(items: list[Value], field: str) -> tuple[list[Value], int]:
    results = [item.get(field) if type(item) is dict else None for item in items]
    return results, sum(type(item) is not dict or field not in item for item in items)


def _values_of(items: list[Value], text: str, state: RunState) -> tuple[list[Value], int]:
    evaluate, element = compiled_value(text), ElementContext(state, items=items)
    results = [evaluate(element.at(item, float(index))) for index, item in enumerate(items)]
    failed = sum(result is MISSING for result in results)
    return [None if result is MISSING else result for result in results] if failed else results, failed


def run_reduce(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """Replaces an accumulator by the value of an expression for each element; one without value leaves it."""
    assert step.data is not None
    if not inputs:
        raise StepFailed("reduce node needs at least 1 input")
    items = inputs[0]
    if not isinstance(items, list):
        raise StepFailed(f"reduce node requires array input, got {type_name(items)}")
    text, start = step.data["expression"], step.data["initial_value"]
    if text == "":
        raise StepFailed("reduce node requires an expression")
    accumulator = 0.0 if start is None else start
    evaluate, element = compiled_value(text), ElementContext(state, items=items, accumulator=accumulator)
    failed = 0
    for index, item in enumerate(items):
        value = evaluate(element.at(item, float(index)))
        if value is MISSING:
            failed += 1
        else:
            accumulator = value
            element.set_variable("accumulator", accumulator)
    return {
        "result": accumulator,
        "initial_value": start,
        "final_value": accumulator,
        "input_count": len(items),
        "iterations": len(items),
        "successful": len(items) - failed,
        "failed": failed,
    }


def run_find(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The first element that meets the condition."""
    assert step.data is not None
    if not inputs:
        raise StepFailed("find node needs at least 1 input")
    items = inputs[0]
    if not isinstance(items, list):
        return soft_error(items)
    condition = step.data["condition"]
    if condition == "":
        raise StepFailed("find node missing required 'condition' string")
    evaluate, element = compiled_condition(condition), ElementContext(state, items=items)
    for index, item in enumerate(items):
        if evaluate(element.at(item, index)) is True:
            result = {"found": item, "condition": condition}
            return {**result, "index": index} if step.data["return_index"] else result
    return {"found": None, "not_found": True, "condition": condition, "input_count": len(items)}


def run_partition(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The elements that meet the condition, and the others (those whose evaluation fails among them)."""
    assert step.data is not None
    if not inputs:
        raise StepFailed("partition node needs at least 1 input")
    items = _array_in(inputs[0])
    if items is None:
        return soft_error(inputs[0])
    condition = step.data["condition"]
    if condition == "":
        raise StepFailed("partition node missing required 'condition' string")
    evaluate, element = compiled_condition(condition), ElementContext(state, items=items)
    passed: list[Value] = []
    failed: list[Value] = []
    for index, item in enumerate(items):
        (passed if evaluate(element.at(item, index)) is True else failed).append(item)
    return {
        "passed": passed or NilSlice(),
        "failed": failed or NilSlice(),
        "passed_count": len(passed),
        "failed_count": len(failed),
        "input_count": len(items),
        "condition": condition,
    }


_CONDITION = Field("condition", "string", required=True)

STEP_TYPES = (
    StepType("filter", (_CONDITION,), "pure", run_filter, "FilterData"),
    StepType("map", (Field("expression", "string"), Field("field", "string")), "pure", run_map, "MapData"),
    StepType(
        "reduce",
        (Field("expression", "string", required=True), Field("initial_value", "any")),
        "pure",
        run_reduce,
        "ReduceData",
    ),
    StepType("find", (_CONDITION, Field("return_index", "bool")), "pure", run_find, "FindData"),
    StepType("partition", (_CONDITION,), "pure", run_partition, "PartitionData"),
)
