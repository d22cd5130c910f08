"""The type of a node that names none, from the keys of its data. First match wins; only presence counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

# (keys that must all be there, type), in the original's order.
_BEFORE_EXPRESSION: Final = (
    (("value",), "number"),
    (("text",), "text_input"),
    (("boolean_value",), "boolean_input"),
    (("date_value",), "date_input"),
    (("datetime_value",), "datetime_input"),
    (("mode",), "visualization"),
    (("op",), "operation"),
    (("text_op",), "text_operation"),
    (("url",), "http"),
    (("condition", "true_path"), "condition"),
    (("condition",), "filter"),
    (("expression", "initial_value"), "reduce"),
)
_AFTER_EXPRESSION: Final = (
    (("var_name", "var_op"), "variable"),
    (("field",), "extract"),
    (("fields",), "extract"),
    (("transform_type",), "transform"),
    (("accum_op",), "accumulator"),
    (("counter_op",), "counter"),
    (("cases",), "switch"),
    (("join_strategy",), "join"),
    (("paths",), "split"),
    (("duration",), "delay"),
    (("cache_op", "cache_key"), "cache"),
    (("context_name",), "context_variable"),
    (("context_values",), "context_variable"),
    (("max_attempts",), "retry"),
    (("backoff_strategy",), "retry"),
    (("fallback_value",), "try_catch"),
    (("continue_on_error",), "try_catch"),
    (("timeout", "timeout_action"), "timeout"),
)


def infer_type(data: Any) -> str:
    """The inferred type, or "" (which fails when the step runs)."""
    if not isinstance(data, dict):
        return ""
    found = _first_match(data, _BEFORE_EXPRESSION)
    if found:
        return found
    expression = data.get("expression")
    if isinstance(expression, str) and expression:
        return "expression"
    return _first_match(data, _AFTER_EXPRESSION)


def _first_match(data: Mapping[str, Any], rules: tuple[tuple[tuple[str, ...], str], ...]) -> str:
    for keys, name in rules:
        if all(key in data for key in keys):
            return name
    return ""
