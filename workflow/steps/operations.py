"""Arithmetic, text operations and the expression step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from workflow import codec
from workflow.expressions import evaluate_condition, evaluate_value
from workflow.expressions.context import EvalContext
from workflow.steps import casing
from workflow.steps.base import EvalError, Field, RunState, Services, Step, StepFailed, StepType
from workflow.values import Value, byte_len

repeat_bytes_max: Final = codec.size_max  # a longer text could not be passed on; the original dies of it


def run_operation(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """Arithmetic on the first two inputs, which must be float64 (no int, no numeric text)."""
    assert step.data is not None
    if len(inputs) < 2:
        raise StepFailed(f"operation needs 2 inputs, got {len(inputs)}")
    left, right = inputs[0], inputs[1]
    if type(left) is not float or type(right) is not float:
        raise StepFailed("operation inputs must be numbers")
    match step.data["op"]:
        case "add":
            return left + right
        case "subtract":
            return left - right
        case "multiply":
            return left * right
        case "divide":
            if right == 0.0:
                raise StepFailed("division by zero")
            return left / right
        case op:
            raise StepFailed(f"unknown operation: {op}")


_CASE_CHANGES: Mapping[str, Callable[[str], str]] = {
    "uppercase": casing.upper,
    "lowercase": casing.lower,
    "titlecase": casing.title,
    "camelcase": casing.camel,
    "inversecase": casing.inverse,
}


def run_text_operation(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """Changes the case of the first input, repeats it, or joins all inputs."""
    assert step.data is not None
    if not inputs:
        raise StepFailed("text operation needs at least 1 input")
    op = step.data["text_op"]
    if op == "concat":
        return _concat(inputs, step.data["separator"])
    if op == "repeat":
        return _repeat(inputs[0], step.data["repeat_n"])
    text = inputs[0]
    if type(text) is not str:
        raise StepFailed("text operation input must be text/string")
    change = _CASE_CHANGES.get(op)
    if change is None:
        raise StepFailed(f"unknown text operation: {op}")
    return change(text)


def _concat(inputs: Sequence[Value], separator: str | None) -> str:
    for position, text in enumerate(inputs):
        if type(text) is not str:
            raise StepFailed(f"concat operation input {position} must be text/string")
    return (separator or "").join(inputs)


def _repeat(text: Value, count: int | None) -> str:
    if type(text) is not str:
        raise StepFailed("repeat operation input must be text/string")
    if count is None:
        raise StepFailed("repeat operation requires repeat_n field")
    if count < 0:
        raise StepFailed(f"repeat_n must be non-negative, got {count}")
    if byte_len(text) * count > repeat_bytes_max:
        raise StepFailed(
            f"repeat operation result too long (limit: {repeat_bytes_max} bytes)", retryable=False
        )
    return text * count


def run_expression(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The value of an expression; where it has none, its truth as a condition (so a wrong name is false)."""
    assert step.data is not None
    if not inputs:
        raise StepFailed("expression node needs at least 1 input")
    text, value = step.data["expression"], inputs[0]
    if text == "":
        return {"result": value, "warning": "no expression specified"}
    context = EvalContext(value, {**state.variables, "input": value}, state.context, state.results)
    try:
        return evaluate_value(text, context)
    except EvalError as no_value:
        try:
            return evaluate_condition(text, context)
        except EvalError:
            raise StepFailed(f"expression evaluation failed: {no_value}") from no_value


STEP_TYPES = (
    StepType("operation", (Field("op", "string", required=True),), "pure", run_operation, "OperationData"),
    StepType(
        "text_operation",
        (
            Field("text_op", "string", required=True),
            Field("separator", "string"),
            Field("repeat_n", "integer"),
        ),
        "pure",
        run_text_operation,
        "TextOperationData",
    ),
    StepType(
        "expression",
        (Field("expression", "string", required=True),),
        "pure",
        run_expression,
        "ExpressionData",
    ),
)
