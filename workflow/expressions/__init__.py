"""The expression language: string-splitting evaluators that share a value resolver, compiled to closures.

`evaluate_condition` (EB), `evaluate_value` (EV) and `simple_condition` (SC) are what step functions call;
each text is compiled once and kept in a bounded cache. Start with `context.py` (what an expression sees),
then `compiler.py` (the procedure); `arithmetic.py` is EA, `paths.py` what follows a name, `scan.py` the
cutting of texts.
"""

from workflow.errors import EngineCrash, EvalError, LimitExceeded
from workflow.expressions.context import EvalContext
from workflow.expressions.evaluate import (
    compiled_condition,
    compiled_value,
    evaluate_condition,
    evaluate_value,
    simple_condition,
)
from workflow.expressions.paths import MISSING

__all__ = [
    "MISSING",
    "EngineCrash",
    "EvalContext",
    "EvalError",
    "LimitExceeded",
    "compiled_condition",
    "compiled_value",
    "evaluate_condition",
    "evaluate_value",
    "simple_condition",
]
