"""The faces of the evaluators: texts are compiled once and kept in a bounded cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from workflow.errors import EvalError, LimitExceeded
from workflow.expressions.compare import compile_simple
from workflow.expressions.compiler import Compiler, length_max
from workflow.expressions.context import EvalContext
from workflow.expressions.parts import Part, Run
from workflow.expressions.paths import MISSING
from workflow.steps.casing import trim_space
from workflow.values import Value

cached_max: Final = 4096  # expressions of a few hundred definitions; some 2 KB each


def evaluate_condition(text: str, context: EvalContext) -> bool:
    """EB: whether a condition holds. Raises EvalError where it has no answer, EngineCrash and
    LimitExceeded.
    """
    context.spent = 0
    try:
        answer = compiled_condition(text)(context)
    except RecursionError as error:
        raise LimitExceeded("expression too deeply nested") from error
    if answer is MISSING:
        raise EvalError(f"could not evaluate condition: {trim_space(text)}")
    return answer  # type: ignore[no-any-return]


def evaluate_value(text: str, context: EvalContext) -> Value:
    """EV: the value of an expression. Raises EvalError where it has none, EngineCrash and LimitExceeded."""
    context.spent = 0
    try:
        value = compiled_value(text)(context)
    except RecursionError as error:
        raise LimitExceeded("expression too deeply nested") from error
    if value is MISSING:
        raise EvalError(f"could not evaluate expression: {trim_space(text)}")
    return value


def simple_condition(text: str, value: Value) -> bool:
    """SC: an operator and a number at the start of `text`, against a float or the float in `value`'s
    `value`.
    """
    return _compiled_simple(text)(value)


@lru_cache(maxsize=cached_max)
def compiled_condition(text: str) -> Run:
    """The closure behind evaluate_condition, for loops over items: MISSING stands for EvalError.

    The caller sets `context.spent` to 0 before each call.
    """
    return _compile(Compiler().condition, text)


@lru_cache(maxsize=cached_max)
def compiled_value(text: str) -> Run:
    """The closure behind evaluate_value; see compiled_condition."""
    return _compile(Compiler().value, text)


@lru_cache(maxsize=cached_max)
def compiled_arithmetic(text: str) -> Run:
    """The closure of an arithmetic text (EA): a float or MISSING."""
    return _compile(Compiler().arithmetic, text)


@lru_cache(maxsize=cached_max)
def _compiled_simple(text: str) -> Callable[[Value], bool]:
    return compile_simple(text)


def _compile(compile_part: Callable[[str], Part], text: str) -> Run:
    if len(text) > length_max:
        raise LimitExceeded(f"expression too long: {len(text)} characters (limit: {length_max})")
    try:
        return compile_part(text).run
    except RecursionError as error:  # the caller's own stack may be deep already
        raise LimitExceeded("expression too deeply nested") from error
