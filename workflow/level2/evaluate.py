"""The step types of level 2 whose data holds expressions.

Results have the shapes of level 1 (docs/language.md), so that people find what they know; what level 1 passes over in
silence (no array, a condition that is no boolean, an element that cannot be evaluated) is an error here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from workflow.level2.functions import sorted_by, text_of
from workflow.level2.grammar import Compiled, compile_expression
from workflow.level2.operators import kind_name, plain
from workflow.level2.scope import ExpressionError, Scope
from workflow.steps.base import RunState, Services, Step, StepFailed
from workflow.values import Value

ARRAY_KEYS = (
    "range", "filtered", "results", "sorted", "sliced", "reversed", "unique", "flattened", "chunks", "compacted",
    "sample", "zipped", "passed", "transposed", "items", "data", "values", "array",
)  # fmt: skip
"""Where an array step looks for the array when its input is the result object of another array step; the first wins."""


def scope_of(inputs: Sequence[Value], state: RunState, services: Services, **names: Value) -> Scope:
    """The scope of an expression of a step; `names` come on top."""
    current = inputs[0] if inputs else None
    loop = state.loop
    scope: dict[str, Value] = {
        "input": current,
        "item": current if loop is None else loop["item"],
        "inputs": state.context,
        "context": state.context,
        "variables": state.variables,
        "execution": {"id": state.execution_id},
    }
    if loop is not None:
        scope["loop"] = loop
        scope["index"] = loop["index"]
    scope.update(names)
    return Scope(scope, current=current, nodes=state.results, now=services.now)


def _data(step: Step) -> dict[str, Any]:
    return dict(step.data or {})


def _compiled(step: Step, field: str, text: Value) -> Compiled:
    """The expression in `field`. Raises StepFailed naming step, field and place."""
    if type(text) is not str:
        raise StepFailed(
            f"{step.type} needs an expression in {field!r}", code="invalid_data", retryable=False
        )
    try:
        return compile_expression(text)
    except ExpressionError as error:
        raise failed(step, field, error) from error


def failed(step: Step, field: str, error: ExpressionError) -> StepFailed:
    """The failure of a step whose expression cannot be evaluated."""
    return StepFailed(f"{step.type}.{field}: {error}", code="expression", retryable=False)


def _first(step: Step, inputs: Sequence[Value]) -> Value:
    if not inputs:
        raise StepFailed(f"{step.type} needs an input: no step leads to it", code="no_input", retryable=False)
    return inputs[0]


def array_of(step: Step, inputs: Sequence[Value]) -> list[Value]:
    """The array that a step works on: its first input, or the main array of another array step's result."""
    value = _first(step, inputs)
    if not isinstance(value, (list, dict)):
        value = plain(value)
    if isinstance(value, list):
        return value
    if type(value) is dict:
        for key in ARRAY_KEYS:
            if isinstance(value.get(key), list):
                return value[key]  # type: ignore[no-any-return]
    raise StepFailed(
        f"{step.type} needs an array, got {kind_name(value)}", code="wrong_type", retryable=False
    )


class Elements:
    """An expression over the elements of an array: one scope, whose `item` and `index` move."""

    __slots__ = ("compiled", "field", "scope", "step")

    def __init__(
        self, step: Step, field: str, text: Value, state: RunState, services: Services, items: list[Value]
    ) -> None:
        self.step = step
        self.field = field
        self.compiled = _compiled(step, field, text)
        self.scope = scope_of([None], state, services, items=items)

    def at(self, index: int, item: Value) -> Value:
        scope = self.scope
        names = scope.names
        names["item"] = names["input"] = scope.current = item
        names["index"] = float(index)
        try:
            return self.compiled.run(scope)
        except ExpressionError as error:
            raise self._failed(error, index) from None

    def holds(self, index: int, item: Value) -> bool:
        value = self.at(index, item)
        if value is True or value is False:
            return value
        error = ExpressionError(f"a condition must give true or false, this gives {kind_name(value)}", 0)
        raise self._failed(error, index)

    def _failed(self, error: ExpressionError, index: int) -> StepFailed:
        placed = error if error.text else type(error)(error.reason, error.position, self.compiled.text)
        return StepFailed(
            f"{self.step.type}.{self.field} at element {index}: {placed}", code="expression", retryable=False
        )


# --- step functions ---------------------------------------------------------------------------------------


def run_expression(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The value of the expression."""
    compiled = _compiled(step, "expression", _data(step)["expression"])
    try:
        return compiled.evaluate(scope_of(inputs, state, services))
    except ExpressionError as error:
        raise failed(step, "expression", error) from None


def condition_holds(step: Step, field: str, text: Value, scope: Scope) -> bool:
    """Whether the condition in `field` holds. Raises StepFailed when it cannot be evaluated or is no boolean."""
    try:
        return _compiled(step, field, text).condition(scope)
    except ExpressionError as error:
        raise failed(step, field, error) from None


def run_condition(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The first input with whether it meets the condition; ports `true` and `false`."""
    text = _data(step)["condition"]
    met = condition_holds(step, "condition", text, scope_of(inputs, state, services))
    return {
        "value": inputs[0] if inputs else None,
        "condition_met": met,
        "condition": text,
        "path": "true" if met else "false",
        "true_path": met,
        "false_path": not met,
    }


def run_switch(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The first case whose condition holds, else the default; each case's `output_path` is a port."""
    scope, value = scope_of(inputs, state, services), inputs[0] if inputs else None
    cases = _data(step)["cases"]
    for position, case in enumerate(cases):
        if case.get("is_default"):
            path = case.get("output_path") or "default"
            return {
                "value": value,
                "matched": False,
                "case": "default",
                "output_path": path,
                "case_index": float(position),
            }
        when = case.get("when")
        if condition_holds(step, f"cases[{position}].when", when, scope):
            path = case["output_path"]
            return {
                "value": value,
                "matched": True,
                "case": when,
                "output_path": path,
                "case_index": float(position),
            }
    raise StepFailed("no case of the switch holds, and it has no default", code="no_case", retryable=False)


def run_filter(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The elements that meet the condition."""
    items, condition = array_of(step, inputs), _data(step)["condition"]
    elements = Elements(step, "condition", condition, state, services, items)
    kept = [item for index, item in enumerate(items) if elements.holds(index, item)]
    return {
        "filtered": kept,
        "input_count": float(len(items)),
        "output_count": float(len(kept)),
        "skipped_count": float(len(items) - len(kept)),
        "error_count": 0.0,
        "condition": condition,
        "is_array": True,
    }


def run_map(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """An expression's value, or a field, of each element."""
    items, data = array_of(step, inputs), _data(step)
    if data.get("field"):
        results = [_field_of(step, item, data["field"]) for item in items]
    else:
        elements = Elements(step, "expression", data.get("expression"), state, services, items)
        results = [elements.at(index, item) for index, item in enumerate(items)]
    count = float(len(items))
    return {
        "results": results,
        "input_count": count,
        "output_count": count,
        "successful": count,
        "failed": 0.0,
    }


def _field_of(step: Step, item: Value, field: str) -> Value:
    """A field of an element, null where it has none."""
    if type(item) is not dict:
        raise StepFailed(
            f"{step.type} takes field {field!r} of objects, got {kind_name(item)}",
            code="wrong_type",
            retryable=False,
        )
    return item.get(field)


def run_reduce(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """One value out of all elements: the expression sees `accumulator`, `item` and `index`."""
    items, data = array_of(step, inputs), _data(step)
    start = data.get("initial_value")
    accumulator = 0.0 if start is None else start
    elements = Elements(step, "expression", data["expression"], state, services, items)
    names = elements.scope.names
    for index, item in enumerate(items):
        names["accumulator"] = accumulator
        accumulator = elements.at(index, item)
    count = float(len(items))
    return {
        "result": accumulator,
        "initial_value": start,
        "final_value": accumulator,
        "input_count": count,
        "iterations": count,
        "successful": count,
        "failed": 0.0,
    }


def _condition_field(data: dict[str, Any]) -> tuple[str, Value]:
    """find and partition: `condition`, or `expression` as the editor writes it."""
    return (
        ("condition", data["condition"])
        if data.get("condition") is not None
        else ("expression", data.get("expression"))
    )


def run_find(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The first element that meets the condition."""
    items, data = array_of(step, inputs), _data(step)
    field, condition = _condition_field(data)
    elements = Elements(step, field, condition, state, services, items)
    for index, item in enumerate(items):
        if elements.holds(index, item):
            return {"found": item, "condition": condition, "index": float(index)}
    return {"found": None, "not_found": True, "condition": condition, "input_count": float(len(items))}


def run_partition(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The elements that meet the condition, and the others."""
    items, data = array_of(step, inputs), _data(step)
    field, condition = _condition_field(data)
    elements = Elements(step, field, condition, state, services, items)
    passed: list[Value] = []
    others: list[Value] = []
    for index, item in enumerate(items):
        (passed if elements.holds(index, item) else others).append(item)
    return {
        "passed": passed,
        "failed": others,
        "passed_count": float(len(passed)),
        "failed_count": float(len(others)),
        "input_count": float(len(items)),
        "condition": condition,
    }


def _key_function(
    step: Step,
    data: dict[str, Any],
    fields: Sequence[str],
    state: RunState,
    services: Services,
    items: list[Value],
) -> Callable[[int, Value], Value] | None:
    """What elements are sorted, grouped or compared by: the expression `key`, or the first given of `fields`."""
    if data.get("key"):
        return Elements(step, "key", data["key"], state, services, items).at
    for name in fields:
        if data.get(name):
            field = data[name]
            return lambda _index, item: _field_of(step, item, field)
    return None


def run_sort(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """Sorted by `key` (expression) or `field`, `order` asc or desc; stable, nulls first."""
    items, data = array_of(step, inputs), _data(step)
    order = (data.get("order") or "asc").lower()
    key = _key_function(step, data, ("field",), state, services, items)
    keyed = [(item if key is None else key(index, item), item) for index, item in enumerate(items)]
    try:
        result = sorted_by(keyed, order)
    except ExpressionError as error:
        raise failed(step, "key" if key else "order", error) from None
    return {"sorted": result, "count": float(len(items)), "field": data.get("field") or "", "order": order}


def run_unique(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The first of each, by `key` (expression), `field` or `by_field`."""
    items, data = array_of(step, inputs), _data(step)
    key = _key_function(step, data, ("field", "by_field"), state, services, items)
    seen: dict[str, Value] = {}
    for index, item in enumerate(items):
        value = item if key is None else key(index, item)
        seen.setdefault(f"{kind_name(value)}:{text_of(value)}", item)
    kept = list(seen.values())
    return {
        "unique": kept,
        "input_count": float(len(items)),
        "output_count": float(len(kept)),
        "removed": float(len(items) - len(kept)),
    }


_AGGREGATES: dict[str, tuple[str, Callable[[list[float]], Value]]] = {
    "sum": ("sums", sum),
    "avg": ("averages", lambda numbers: sum(numbers) / len(numbers) if numbers else 0.0),
    "min": ("minimums", lambda numbers: min(numbers, default=None)),
    "max": ("maximums", lambda numbers: max(numbers, default=None)),
}


def run_group_by(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """Elements by the text of `key` (expression), `field` or `key_field`, with an aggregate."""
    items, data = array_of(step, inputs), _data(step)
    key = _key_function(step, data, ("field", "key_field"), state, services, items)
    if key is None:
        raise StepFailed("group_by needs a field or a key", code="invalid_data", retryable=False)
    groups: dict[str, list[Value]] = {}
    for index, item in enumerate(items):
        groups.setdefault(text_of(key(index, item)), []).append(item)
    aggregate, value_field = data.get("aggregate") or "count", data.get("value_field") or ""
    result: dict[str, Value] = {
        "groups": groups,
        "group_count": float(len(groups)),
        "input_count": float(len(items)),
        "field": data.get("field") or data.get("key_field") or "",
        "aggregate": aggregate,
    }
    if aggregate == "count":
        result["counts"] = {name: float(len(group)) for name, group in groups.items()}
    elif aggregate == "values":
        result["values"] = {
            name: [_field_of(step, item, value_field) for item in group] for name, group in groups.items()
        }
    elif aggregate in _AGGREGATES:
        name_of, function = _AGGREGATES[aggregate]
        result[name_of] = {
            name: function([_number_of(step, item, value_field) for item in group])
            for name, group in groups.items()
        }
    else:
        raise StepFailed(f"unknown aggregate function: {aggregate}", code="invalid_data", retryable=False)
    return result


def _number_of(step: Step, item: Value, field: str) -> float:
    value = _field_of(step, item, field)
    if type(value) in (float, int):
        return float(value)
    raise StepFailed(
        f"{step.type} adds up field {field!r}, which is {kind_name(value)} in an element",
        code="wrong_type",
        retryable=False,
    )


def run_flat_map(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The arrays that an expression or a field gives for each element, as one array."""
    items, data = array_of(step, inputs), _data(step)
    if data.get("expression"):
        elements = Elements(step, "expression", data["expression"], state, services, items)
        parts = [elements.at(index, item) for index, item in enumerate(items)]
    elif data.get("field"):
        parts = [_field_of(step, item, data["field"]) for item in items]
    else:
        parts = list(items)
    flattened = [inner for part in parts for inner in (part if isinstance(part, list) else [part])]
    return {
        "flattened": flattened,
        "input_count": float(len(items)),
        "output_count": float(len(flattened)),
        "field": data.get("field") or "",
    }
