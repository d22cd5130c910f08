"""What compiled expressions are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from workflow.errors import LimitExceeded
from workflow.expressions.context import EvalContext
from workflow.expressions.paths import MISSING
from workflow.values import Value

steps_max: Final = 5_000_000  # evaluation steps (array elements, nested calls): a few seconds

Run = Callable[[EvalContext], Value]


@dataclass(frozen=True, slots=True)
class Part:
    """A compiled part. `constant` parts give the same value in every context."""

    run: Run
    constant: bool = False
    value: Value = None


def constant(value: Value) -> Part:
    return Part(lambda context: value, True, value)


NOTHING: Final = constant(MISSING)


def charge(context: EvalContext, steps: int) -> None:
    """Count evaluation steps against the bound."""
    context.spent += steps
    if context.spent > steps_max:
        raise LimitExceeded(f"expression takes too many evaluation steps (limit: {steps_max})")


def with_names(context: EvalContext, value: Value) -> EvalContext:
    """A context for another current value in which `item` and `input` keep what they mean in `context`."""
    variables = context.variables
    if context.value is not None and not ("item" in variables and "input" in variables):
        variables = {"item": context.value, "input": context.value, **variables}
    inner = EvalContext(value, variables, context.context, context.results)
    inner.spent = context.spent
    return inner
