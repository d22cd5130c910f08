"""Steps on the shared state of an execution: variables, accumulator, counter, cache, context values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Any

from workflow.durations import DurationInvalid, parse_duration
from workflow.steps.base import Field, RunState, Services, Settings, Step, StepFailed, StepType
from workflow.steps.golang import go_int, quoted
from workflow.values import StringPtr, Value, byte_len, parse_float, text_form, type_name

# --- variable ---------------------------------------------------------------------------------------------


def run_variable(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """Sets a workflow variable to the first input, or reads one."""
    assert step.data is not None
    name, op = step.data["var_name"], step.data["var_op"]
    if op == "set":
        if not inputs:
            raise StepFailed("variable set operation requires input value")
        _set_variable(state, services.settings, name, inputs[0])
        return {"var_name": name, "operation": "set", "value": inputs[0]}
    if op == "get":
        if name not in state.variables:
            raise StepFailed(f"variable '{name}' not found")
        return {"var_name": name, "operation": "get", "value": state.variables[name]}
    raise StepFailed(f"unsupported variable operation: {op} (use 'get' or 'set')")


def _set_variable(state: RunState, settings: Settings, name: str, value: Value) -> None:
    problem = _size_problem(value, settings) or _depth_problem(value, settings)
    if problem:
        raise StepFailed(f"variable validation failed: {problem}")
    limit = settings.max_variables
    if name not in state.variables and 0 < limit <= len(state.variables):
        raise StepFailed(f"maximum variables exceeded: {len(state.variables)} (limit: {limit})")
    state.variables[name] = value


def _size_problem(value: Value, settings: Settings) -> str | None:
    """What is too large in a value. Looks into arrays, not into objects."""
    if type(value) is str:
        size = byte_len(value)
        if 0 < settings.max_string_length < size:
            return f"string too long: {size} bytes (limit: {settings.max_string_length})"
    elif isinstance(value, list):
        if 0 < settings.max_array_length < len(value):
            return f"array too large: {len(value)} elements (limit: {settings.max_array_length})"
        for position, item in enumerate(value):
            problem = _size_problem(item, settings)
            if problem:
                return f"array element {position}: {problem}"
    return None


def _depth_problem(value: Value, settings: Settings) -> str | None:
    if settings.max_context_depth <= 0:
        return None
    depth = _depth(value)
    if depth <= settings.max_context_depth:
        return None
    return f"value too deeply nested: {depth} levels (limit: {settings.max_context_depth})"


def _depth(value: Value) -> int:
    """Nesting of arrays and objects; a scalar is 1 deep, null 0."""
    if value is None:
        return 0
    items: Sequence[Value] = ()
    if type(value) is dict:
        items = list(value.values())
    elif isinstance(value, list):
        items = value
    return 1 + max(map(_depth, items), default=0)


# --- accumulator and counter ------------------------------------------------------------------------------

_ACCUMULATOR_START: Mapping[str, Value] = {"sum": 0.0, "product": 1.0, "concat": "", "count": 0.0}


def run_accumulator(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """Adds the first input to the one accumulator of the execution; without inputs only shows it."""
    assert step.data is not None
    op = step.data["accum_op"]
    if state.accumulator is None:
        start = step.data["initial_value"]
        if start is None:
            start = [] if op == "array" else _ACCUMULATOR_START.get(op)
        state.accumulator = start
    if inputs:
        state.accumulator = _accumulated(op, state.accumulator, inputs[0])
    return {"operation": op, "value": state.accumulator}


def _accumulated(op: str, current: Value, value: Value) -> Value:
    match op:
        case "sum" | "product":
            if type(current) is not float:
                raise StepFailed("accumulator value is not a number")
            if type(value) is not float:
                raise StepFailed(f"{op} accumulator requires numeric input, got {type_name(value)}")
            return current + value if op == "sum" else current * value
        case "concat":
            if type(current) is not str:
                raise StepFailed("accumulator value is not a string")
            if type(value) is not str:
                raise StepFailed(f"concat accumulator requires string input, got {type_name(value)}")
            return current + value
        case "array":
            if not isinstance(current, list):
                raise StepFailed("accumulator value is not an array")
            return [*current, value]
        case "count":
            if type(current) is not float:
                raise StepFailed("accumulator value is not a number")
            return current + 1.0
    raise StepFailed(f"unsupported accumulator operation: {op}")


def run_counter(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """Changes the one counter of the execution. A numeric start is stored first, every time."""
    assert step.data is not None
    start, delta = step.data["initial_value"], step.data["delta"]
    if start is not None:
        state.counter = start
    step_size = 1.0 if delta is None else delta
    op = step.data["counter_op"]
    match op:
        case "increment":
            state.counter += step_size
        case "decrement":
            state.counter -= step_size
        case "reset":
            state.counter = 0.0 if start is None else start
        case "get":
            pass
        case _:
            raise StepFailed(f"unsupported counter operation: {op} (use increment, decrement, reset, or get)")
    return {"operation": op, "value": state.counter}


# --- cache ------------------------------------------------------------------------------------------------

_TTL_DEFAULT_NS = 300_000_000_000


def run_cache(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """Keeps a value by key for the rest of the execution. `delete` says it deleted and keeps it, as the original."""
    assert step.data is not None
    op, key = step.data["cache_op"], step.data["cache_key"]
    match op:
        case "set":
            if not inputs:
                raise StepFailed("cache set operation requires an input value")
            ttl = step.data["ttl"]
            try:
                nanoseconds = _TTL_DEFAULT_NS if ttl is None else parse_duration(ttl)
            except DurationInvalid as error:
                raise StepFailed(f"invalid TTL format: {error}") from None
            state.cache[key] = (inputs[0], services.now().timestamp() + nanoseconds / 1e9)
            return {"operation": "set", "key": key, "value": inputs[0], "ttl": StringPtr(ttl)}
        case "get":
            value, expiry = state.cache.get(key, (None, 0.0))
            found = key in state.cache and services.now().timestamp() <= expiry
            return {"operation": "get", "key": key, "found": found, "value": value if found else None}
        case "delete":
            return {"operation": "delete", "key": key, "deleted": True}
    raise StepFailed(f"unsupported cache operation: {op} (use get, set, or delete)")


# --- context values ---------------------------------------------------------------------------------------


def run_context_variable(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """Defines `context.<name>`."""
    return _define_context(step, state, services, constant=False)


def run_context_constant(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """Defines `context.<name>`, hidden by a variable of that name; not really constant."""
    return _define_context(step, state, services, constant=True)


def _define_context(step: Step, state: RunState, services: Services, *, constant: bool) -> Value:
    assert step.data is not None
    short, plural = ("const", "constants") if constant else ("variable", "variables")
    if step.data["context_values"]:
        defined: dict[str, Value] = {}
        for entry in step.data["context_values"]:
            name, kind = entry["name"] or "", entry["type"] or ""
            try:
                value = _converted(entry["value"], kind, services.timezone)
            except ValueError as error:
                raise StepFailed(f"{step.type} node: error converting {name} ({kind}): {error}") from None
            state.set_context(name, value, constant=constant)
            defined[name] = value
        return {"type": short, plural: defined}
    name, value = step.data["context_name"], step.data["context_value"]
    if value is None:
        raise StepFailed(f"{step.type} node missing context_value")
    state.set_context(name, value, constant=constant)
    return {"type": short, "name": name, "value": value}


def _check_context(data: Mapping[str, Any]) -> None:
    if not data["context_values"] and data["context_name"] is None:
        raise ValueError("missing required field: context_values or context_name")


def _converted(value: Value, kind: str, zone: tzinfo) -> Value:
    match kind:
        case "string":
            return text_form(value)
        case "number":
            return _to_number(value)
        case "boolean":
            return _to_boolean(value)
        case "time_string":
            text = text_form(value)
            _check_rfc3339(text)
            return text
        case "epoch_second":
            return _instant(_to_integer(value, "epoch seconds"), 0, zone)
        case "epoch_ms":
            milliseconds = _to_integer(value, "epoch milliseconds")
            return _instant(milliseconds // 1000, milliseconds % 1000, zone)
        case "null":
            return None
    raise ValueError(f"unsupported type {quoted(kind)}")


def _to_number(value: Value) -> float:
    if type(value) is float:
        return value
    if type(value) is not str:
        raise ValueError(f"cannot convert type {type_name(value)} to number")
    number = parse_float(value)
    if number is None:
        raise ValueError(_parse_problem(value, "number", "ParseFloat", _FLOAT_SHAPE))
    return number


_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))


def _to_boolean(value: Value) -> bool:
    if type(value) is bool:
        return value
    if type(value) is float:
        return value != 0.0
    if type(value) is not str:
        raise ValueError(f"cannot convert type {type_name(value)} to boolean")
    if value in _TRUE or value in _FALSE:
        return value in _TRUE
    raise ValueError(_parse_problem(value, "boolean", "ParseBool", None))


_INTEGER = re.compile(r"[+-]?[0-9]+")
_FLOAT_SHAPE = re.compile(
    r"[+-]?(?:[0-9_]+\.?[0-9_]*|\.[0-9_]+)(?:[eE][+-]?[0-9_]+)?|[+-]?0[xX][0-9a-fA-F_.]+[pP][+-]?[0-9]+"
)


def _to_integer(value: Value, what: str) -> int:
    if type(value) is float:
        return go_int(value)
    if type(value) is not str:
        raise ValueError(f"cannot convert type {type_name(value)} to {what}")
    if _INTEGER.fullmatch(value) and len(value) <= 20 and -(2**63) <= int(value) < 2**63:
        return int(value)
    raise ValueError(_parse_problem(value, what, "ParseInt", _INTEGER))


def _parse_problem(text: str, what: str, function: str, shape: re.Pattern[str] | None) -> str:
    reason = "value out of range" if shape is not None and shape.fullmatch(text) else "invalid syntax"
    shown = quoted(text)
    return f"cannot convert {shown} to {what}: strconv.{function}: parsing {shown}: {reason}"


_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def _instant(seconds: int, milliseconds: int, zone: tzinfo) -> datetime:
    try:
        return (_EPOCH + timedelta(seconds=seconds, milliseconds=milliseconds)).astimezone(zone)
    except (OverflowError, ValueError):
        raise ValueError("time is outside the years 1 to 9999") from None


_TIME_LAYOUT = "2006-01-02T15:04:05Z07:00"
_TIME_PARTS = (
    ("2006", re.compile(r"[0-9]{4}")),
    ("-", re.compile("-")),
    ("01", re.compile(r"[0-9]{2}")),
    ("-", re.compile("-")),
    ("02", re.compile(r"[0-9]{2}")),
    ("T", re.compile("T")),
    ("15", re.compile(r"[0-9]{1,2}")),
    (":", re.compile(":")),
    ("04", re.compile(r"[0-9]{2}")),
    (":", re.compile(":")),
    ("05", re.compile(r"[0-9]{2}(?:[.,][0-9]+)?")),
    ("Z07:00", re.compile(r"Z|[+-][0-9]{2}:[0-9]{2}")),
)
_MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def _check_rfc3339(text: str) -> None:
    """Raises ValueError with Go's text unless `text` is an RFC 3339 time with a zone."""
    position = 0
    parts: list[str] = []
    for name, pattern in _TIME_PARTS:
        match = pattern.match(text, position)
        if match is None:
            rest = quoted(text[position:])
            raise ValueError(_time_problem(text, f"cannot parse {rest} as {quoted(name)}"))
        parts.append(match[0])
        position = match.end()
    if position < len(text):
        raise ValueError(_time_problem(text, "extra text: " + quoted(text[position:]), separator=""))
    year, month, day, hour, minute, second = (
        int(parts[i].partition(".")[0].partition(",")[0]) for i in (0, 2, 4, 6, 8, 10)
    )
    leap = month == 2 and (year % 4 == 0 and (year % 100 != 0 or year % 400 == 0))
    for what, wrong in (
        ("month", not 1 <= month <= 12),
        ("hour", hour > 23),
        ("minute", minute > 59),
        ("second", second > 59),
        ("day", not 1 <= month <= 12 or not 1 <= day <= _MONTH_DAYS[month - 1] + leap),
    ):
        if wrong:
            raise ValueError(_time_problem(text, f"{what} out of range", separator=""))


def _time_problem(text: str, problem: str, separator: str = f' as "{_TIME_LAYOUT}"') -> str:
    shown = quoted(text)
    return f"invalid time string {shown}: parsing time {shown}{separator}: {problem}"


_CONTEXT_FIELDS = (
    Field("context_values", "context_values"),
    Field("context_name", "string"),
    Field("context_value", "any"),
)

STEP_TYPES = (
    StepType(
        "variable",
        (
            Field("var_name", "string", required=True),
            Field("var_op", "string", required=True),
            Field("scope", "string"),
        ),
        "pure",
        run_variable,
        "VariableData",
    ),
    StepType(
        "accumulator",
        (Field("accum_op", "string", required=True), Field("initial_value", "any")),
        "pure",
        run_accumulator,
        "AccumulatorData",
    ),
    StepType(
        "counter",
        (
            Field("counter_op", "string", required=True),
            Field("delta", "number"),
            Field("initial_value", "any_number"),
        ),
        "pure",
        run_counter,
        "CounterData",
    ),
    StepType(
        "cache",
        (
            Field("cache_op", "string", required=True),
            Field("cache_key", "string", required=True),
            Field("ttl", "duration"),
            Field("max_size", "integer"),
            Field("eviction", "string"),
            Field("storage", "string"),
        ),
        "pure",
        run_cache,
        "CacheData",
    ),
    StepType(
        "context_variable",
        _CONTEXT_FIELDS,
        "pure",
        run_context_variable,
        "ContextVariableData",
        _check_context,
    ),
    StepType(
        "context_constant",
        _CONTEXT_FIELDS,
        "pure",
        run_context_constant,
        "ContextConstantData",
        _check_context,
    ),
)
