"""The table of step types of level 2: what runs (`LEVEL2`) and what their data may hold (`SHAPES`).

A type that level 1 has and that means the same here runs level 1's function on plain values (`_lifted`).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from workflow.level2 import control, evaluate, http
from workflow.level2.evaluate import array_of, scope_of
from workflow.level2.operators import plain
from workflow.level2.scope import ExpressionError
from workflow.level2.shapes import DataField as F
from workflow.level2.shapes import Shape, filled_problem
from workflow.level2.templates import Data
from workflow.policy import attempts_max, seconds_max
from workflow.steps.base import Field, RunState, Services, Step, StepFailed, StepType, Suspend
from workflow.steps.registry import LEVEL1
from workflow.values import Value

_ARRAY_STEPS = frozenset({"slice", "chunk", "reverse", "sample", "compact", "transpose"})
"""Level-1 functions that work on an array in their first input."""

# fmt: off
_SAME_AS_LEVEL1 = (
    "number", "text_input", "boolean_input", "date_input", "datetime_input", "visualization", "renderer", "operation",
    "text_operation", "parse", "format", "extract", "transform", "slice", "chunk", "reverse", "zip", "sample", "range",
    "compact", "transpose", "variable", "accumulator", "counter", "context_variable", "context_constant", "parallel",
    "join", "split", "schema_validator",
)
# fmt: on

_KIND_OF_LEVEL1: Final[Mapping[str, str]] = {
    "string": "text",
    "number": "number",
    "integer": "integer",
    "int64": "integer",
    "bool": "boolean",
    "any": "any",
    "any_number": "number",
    "duration": "duration",
    "string_list": "texts",
    "cases": "cases",
    "context_values": "context_values",
}


def _lifted(step_type: StepType) -> StepType:
    """A level-1 type for level 2: plain inputs and results, errors where level 1 answers with an error object."""
    run, fields, takes_array = step_type.run, step_type.fields, step_type.name in _ARRAY_STEPS

    def run_plain(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
        prepared = Step(step.id, step.type, _level1_data(step, fields), step.raw, step.policy, step.index)
        values: Sequence[Value] = [array_of(step, inputs)] if takes_array else inputs
        result = plain(run(prepared, values, state, services))
        if takes_array and type(result) is dict and type(result.get("error")) is str:
            raise StepFailed(f"{step.type}: {result['error']}", code="wrong_type", retryable=False)
        return result

    return StepType(step_type.name, (), step_type.effect, run_plain, step_type.data_name, needs_data=False)


def _level1_data(step: Step, fields: Sequence[Field]) -> dict[str, Any]:
    data = step.data or {}
    prepared: dict[str, Any] = {}
    for field in fields:
        value = data.get(field.name)
        if value is not None and field.kind in ("integer", "int64"):
            value = int(value)
        elif type(value) is int and field.kind in ("number", "any_number", "any"):
            value = float(value)
        prepared[field.name] = value
    return prepared


def _shape_of_level1(step_type: StepType, **more: Any) -> Shape:
    fields = tuple(F(field.name, _KIND_OF_LEVEL1[field.kind], field.required) for field in step_type.fields)
    return Shape(fields, **more)


_CONDITION = F("condition", "expression", True, "gives true or false")
_FIELD = F("field", "text", about="a field of each element")
_KEY = F("key", "expression", about="gives what elements are compared by")
_TIMEOUT = F("timeout", "duration", about="how long to wait at most")

SHAPES: Final[Mapping[str, Shape]] = MappingProxyType(
    {
        # expressions
        "expression": Shape((F("expression", "expression", True),), "the value of an expression"),
        "condition": Shape(
            (_CONDITION, F("true_path", "text"), F("false_path", "text")),
            "goes one of two ways",
            ("true", "false"),
        ),
        "switch": Shape((F("cases", "cases", True),), "goes the way of the first case that holds", None),
        "filter": Shape((_CONDITION,), "the elements that meet a condition"),
        "map": Shape(
            (F("expression", "expression"), _FIELD),
            "a value for each element",
            one_of=("expression", "field"),
        ),
        "reduce": Shape(
            (
                F("expression", "expression", True, "sees accumulator, item and index"),
                F("initial_value", "any"),
            ),
            "one value out of all elements",
        ),
        "find": Shape(
            (F("condition", "expression"), F("expression", "expression"), F("return_index", "boolean")),
            "the first element that meets a condition",
            one_of=("condition", "expression"),
        ),
        "partition": Shape(
            (F("condition", "expression"), F("expression", "expression")),
            "the elements that meet a condition, and the others",
            one_of=("condition", "expression"),
        ),
        "sort": Shape((_FIELD, _KEY, F("order", "text", choices=("asc", "desc"))), "sorted, stable"),
        "unique": Shape((_FIELD, F("by_field", "text"), _KEY), "the first of each"),
        "group_by": Shape(
            (
                _FIELD,
                F("key_field", "text"),
                _KEY,
                F("aggregate", "text", choices=("count", "sum", "avg", "min", "max", "values")),
                F("value_field", "text"),
            ),
            "elements in groups, with an aggregate",
            one_of=("field", "key_field", "key"),
        ),
        "flat_map": Shape((_FIELD, F("expression", "expression")), "the arrays of all elements as one"),
        # loops
        "for_each": Shape(
            (
                F("items", "any", about="the array; without it the first input"),
                F("max_concurrency", "integer", about="bodies at once, 10", least=1, most=100_000),
                F("tolerated_failures", "integer", about="bodies that may fail, 0", least=0),
                F("max_iterations", "integer", about="elements at most, 100000", least=1),
            ),
            "runs the steps behind its item port once for each element",
            ("item", "done"),
            loop="item",
        ),
        "while_loop": Shape(
            (
                F("condition", "expression", True),
                F("max_iterations", "integer", about="rounds at most, 100", least=1),
            ),
            "runs the steps behind its body port while a condition holds",
            ("body", "done"),
            loop="body",
        ),
        # guards
        "retry": Shape(
            (
                F("max_attempts", "integer", about="3", least=1, most=attempts_max, fixed=True),
                F(
                    "backoff_strategy",
                    "text",
                    about="exponential",
                    choices=("exponential", "linear", "constant"),
                    fixed=True,
                ),
                F("initial_delay", "duration", about="1s", most=seconds_max, fixed=True),
                F("max_delay", "duration", about="30s", most=seconds_max, fixed=True),
                F("multiplier", "number", about="2, exponential only", least=1, most=1000, fixed=True),
                F("retry_on_errors", "texts", about="only errors whose code or text has one", fixed=True),
            ),
            "runs the step that feeds it again when it fails",
            guard=True,
        ),
        "timeout": Shape(
            (
                F("timeout", "duration", True, least=0.001, most=seconds_max, fixed=True),
                F("timeout_action", "text", about="error (default), or anything else to go on", fixed=True),
            ),
            "bounds the time of the step that feeds it",
            guard=True,
        ),
        "try_catch": Shape(
            (
                F("fallback_value", "any", about="null"),
                F("continue_on_error", "boolean", about="true; false fails again", fixed=True),
                F("error_output_path", "text", about="a port for what was caught", fixed=True),
            ),
            "goes on when the step that feeds it has failed",
            guard=True,
        ),
        # waits and effects
        "delay": Shape(
            (F("duration", "duration"), F("until", "time")), "goes on later", one_of=("duration", "until")
        ),
        "wait_signal": Shape(
            (F("name", "text", True), _TIMEOUT), "waits for a signal", ("received", "timeout")
        ),
        "approval": Shape(
            (F("name", "text"), _TIMEOUT, F("approvers", "texts")),
            "waits for a decision",
            ("approved", "rejected", "timeout"),
        ),
        "sub_workflow": Shape(
            (
                F("workflow_id", "text", True),
                F("version", "integer", about="the newest", least=1, most=2**31),
                F("inputs", "object"),
                F("on_cancel", "text", about="cancel", choices=("cancel", "abandon")),
            ),
            "runs a registered workflow",
        ),
        "task": Shape(
            (F("step", "text", True, "name of a registered Python step", fixed=True), F("args", "object")),
            "runs a Python step",
        ),
        "http": Shape(
            (
                F("url", "text", True),
                F("method", "text", choices=http.METHODS),
                F("headers", "object"),
                F("query", "object"),
                F("body", "any"),
                F("timeout", "duration", about="30s", least=0.001, most=seconds_max),
                F("expected_statuses", "any", about='numbers or "2xx"; default any 2xx'),
                F("response", "text", choices=("body", "full")),
                F("client", "text", about="a named client of the node: its base URL and headers"),
            ),
            "asks another service",
        ),
        "cache": Shape(
            (
                F("cache_op", "text", True, choices=("get", "set", "delete")),
                F("cache_key", "text", True),
                F("ttl", "duration", about="5m"),
            ),
            "a value that executions share by key",
        ),
        "rate_limiter": Shape(
            (
                F("max_requests", "integer", True, least=1, most=1_000_000),
                F("per_duration", "duration", True, least=0.001, most=seconds_max),
                F("key", "text"),
                F("strategy", "text", choices=("fixed_window",)),
            ),
            "lets so many through in a window, over all executions",
        ),
        "throttle": Shape(
            (F("requests_per_second", "number", True, least=1e-5, most=1_000_000), F("key", "text")),
            "lets one through at a time, over all executions",
        ),
        # values
        "set": Shape((F("values", "object", True),), "an object of values"),
        "fail": Shape(
            (F("message", "text"), F("code", "text")), "fails the execution, or takes its error port"
        ),
        "log": Shape(
            (
                F("message", "text", True),
                F("level", "text", choices=("debug", "info", "warning", "error")),
                F("fields", "object"),
            ),
            "writes a line to the log",
        ),
        **{name: _shape_of_level1(LEVEL1[name]) for name in _SAME_AS_LEVEL1},
    }
)


def _filled(shape: Shape, step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Step:
    """The step with its templates filled in and checked; itself when it has none."""
    data = step.data
    if not isinstance(data, Data) or data.template is None:
        return step
    try:
        values = data.template.fill(scope_of(inputs, state, services))
    except ExpressionError as error:
        raise StepFailed(f"{step.type}: {error}", code="expression", retryable=False) from None
    fields = {**data, **values}
    problem = filled_problem(shape, fields)
    if problem is not None:
        raise StepFailed(f"{step.type}: {problem}", code="invalid_data", retryable=False)
    return Step(step.id, step.type, fields, step.raw, step.policy, step.index)


def with_templates(step_type: StepType, shape: Shape, args: str | None = None) -> StepType:
    """The step type on data whose templates are filled in; with `args` the function gets only that field of it."""
    run, wait = step_type.run, step_type.wait

    def prepared(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Step:
        filled = _filled(shape, step, inputs, state, services)
        if args is None:
            return filled
        fields = (filled.data or {}).get(args) or {}
        return Step(step.id, step_type.name, fields, step.raw, step.policy, step.index)

    def wait_prepared(
        step: Step, inputs: Sequence[Value], state: RunState, services: Services
    ) -> Suspend | None:
        assert wait is not None
        return wait(prepared(step, inputs, state, services), inputs, state, services)

    waits = wait_prepared if wait is not None else None
    if inspect.iscoroutinefunction(run):

        async def run_async(
            step: Step, inputs: Sequence[Value], state: RunState, services: Services
        ) -> Value:
            return await run(prepared(step, inputs, state, services), inputs, state, services)

        return StepType(step_type.name, (), step_type.effect, run_async, wait=waits, needs_data=False)

    def run_sync(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
        return run(prepared(step, inputs, state, services), inputs, state, services)

    return StepType(step_type.name, (), step_type.effect, run_sync, wait=waits, needs_data=False)


_OWN: Final = (
    StepType("expression", (), "pure", evaluate.run_expression),
    StepType("condition", (), "pure", evaluate.run_condition),
    StepType("switch", (), "pure", evaluate.run_switch),
    StepType("filter", (), "pure", evaluate.run_filter),
    StepType("map", (), "pure", evaluate.run_map),
    StepType("reduce", (), "pure", evaluate.run_reduce),
    StepType("find", (), "pure", evaluate.run_find),
    StepType("partition", (), "pure", evaluate.run_partition),
    StepType("sort", (), "pure", evaluate.run_sort),
    StepType("unique", (), "pure", evaluate.run_unique),
    StepType("group_by", (), "pure", evaluate.run_group_by),
    StepType("flat_map", (), "pure", evaluate.run_flat_map),
    StepType("for_each", (), "wait", control.run_for_each, wait=control.wait_for_each),
    StepType("while_loop", (), "wait", control.run_while_loop, wait=control.wait_while_loop),
    StepType("retry", (), "pure", control.run_retry),
    StepType("timeout", (), "pure", control.run_timeout),
    StepType("try_catch", (), "pure", control.run_try_catch),
    StepType("delay", (), "wait", control.run_delay, wait=control.wait_delay),
    StepType("wait_signal", (), "wait", control.run_wait_signal, wait=control.wait_signal),
    StepType("approval", (), "wait", control.run_approval, wait=control.wait_approval),
    StepType("sub_workflow", (), "wait", control.run_sub_workflow, wait=control.wait_sub_workflow),
    StepType("http", (), "read", http.run_http),
    StepType("cache", (), "wait", control.run_cache, wait=control.wait_cache),
    StepType("rate_limiter", (), "wait", control.run_rate_limiter, wait=control.wait_rate_limiter),
    StepType("throttle", (), "wait", control.run_throttle, wait=control.wait_throttle),
    StepType("set", (), "pure", control.run_set),
    StepType("fail", (), "pure", control.run_fail),
    StepType("log", (), "pure", control.run_log),
)

LEVEL2: Final[Mapping[str, StepType]] = MappingProxyType(
    {step_type.name: with_templates(step_type, SHAPES[step_type.name]) for step_type in _OWN}
    | {name: with_templates(_lifted(LEVEL1[name]), SHAPES[name]) for name in _SAME_AS_LEVEL1}
)
"""`task` is not in the table: which function it runs stands in its data (workflow/level2/plan.py)."""
