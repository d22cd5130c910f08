"""retry, try_catch, timeout, rate_limiter and throttle: at level 1 they look at their first input and guard
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from workflow.durations import DurationInvalid, format_duration, parse_duration
from workflow.steps.base import EngineCrash, Field, RunState, Services, Step, StepFailed, StepType
from workflow.steps.golang import go_int, wrapped
from workflow.values import Int64, Value, text_form

counted_waits_max: Final = (
    1000  # waits of a retry that are added up one by one; later ones count as the last of them
)


def _reports_error(value: Value) -> bool:
    return type(value) is dict and "error" in value


# --- retry ------------------------------------------------------------------------------------------------


async def run_retry(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """Passes a good value on. An error object fails the run, after the waits of all attempts: nothing is run again.

    The waits cannot change the result, but they do change when it comes and whether the execution's time runs
    out first, as in the original. They are awaited in one go and end after `max_execution_time` at the
    latest.
    """
    assert step.data is not None
    if not inputs:
        raise StepFailed("retry node requires at least one input")
    attempts = step.data["max_attempts"]
    if attempts is None:
        attempts = 3
    if attempts <= 0:
        raise EngineCrash(f"retry max_attempts must be greater than 0, got {attempts}")
    value = inputs[0]
    if not _reports_error(value):
        return {"value": value, "attempts": 1, "success": True}
    message = value["error"] if type(value["error"]) is str else ""
    patterns = step.data["retry_on_errors"]
    if patterns and not any(pattern in message for pattern in patterns):
        raise StepFailed(f"error not in retry list: {message}")
    limit_ns = services.settings.max_execution_time_ns or None
    wait_ns = total_backoff_ns(step.data, attempts, limit_ns)
    if wait_ns > 0:
        await services.sleep(wait_ns / 1e9)
    raise StepFailed(f"max retry attempts ({attempts}) reached: {message}")


def total_backoff_ns(data: Mapping[str, Any], attempts: int, limit_ns: int | None) -> int:
    """Sum of the waits between `attempts` attempts, but no more than `limit_ns`."""
    initial = _duration_or(data["initial_delay"], 1_000_000_000)
    longest = _duration_or(data["max_delay"], 30_000_000_000)
    strategy = "exponential" if data["backoff_strategy"] is None else data["backoff_strategy"]
    multiplier = 2.0 if data["multiplier"] is None else data["multiplier"]
    waits = attempts - 1
    counted = min(waits, counted_waits_max)
    total = delay = 0
    for attempt in range(1, counted + 1):
        if strategy == "exponential":
            delay = go_int(initial * _power(multiplier, attempt - 1))
        else:
            delay = wrapped(initial * attempt) if strategy == "linear" else initial
        delay = max(min(delay, longest), 0)
        total += delay
    total += (waits - counted) * delay
    return total if limit_ns is None else min(total, limit_ns)


def _power(base: float, exponent: int) -> float:
    try:
        return base**exponent
    except OverflowError:
        return math.inf


def _duration_or(text: str | None, default_ns: int) -> int:
    try:
        return default_ns if text is None else parse_duration(text)
    except DurationInvalid:
        return default_ns


# --- try_catch --------------------------------------------------------------------------------------------


def run_try_catch(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The fallback in place of an error object. A step that failed has stopped the run before this."""
    assert step.data is not None
    if not inputs:
        raise StepFailed("try-catch node requires at least one input")
    value = inputs[0]
    if not _reports_error(value):
        return {"value": value, "error_caught": False}
    message = text_form(value["error"])
    if step.data["continue_on_error"] is False:
        raise StepFailed(f"error caught: {message}")
    result = {"value": step.data["fallback_value"], "error_caught": True, "error_message": message}
    if step.data["error_output_path"]:
        result["error_output_path"] = step.data["error_output_path"]
    return result


# --- timeout ----------------------------------------------------------------------------------------------


def run_timeout(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """Compares the `execution_time` that the first input claims with the limit."""
    assert step.data is not None
    text = step.data["timeout"]
    try:
        limit = parse_duration(text)
    except DurationInvalid:
        raise StepFailed(f"invalid timeout duration: {text}") from None
    if not inputs:
        raise StepFailed("timeout node requires at least one input")
    value = inputs[0]
    spent = _claimed_time(value)
    result: dict[str, Value] = {
        "value": value,
        "timeout_duration": format_duration(limit),
        "execution_time": format_duration(spent),
        "timed_out": spent > limit,
    }
    if spent > limit:
        action = step.data["timeout_action"]
        if action is None or action == "error":
            raise StepFailed(
                f"operation timed out after {format_duration(spent)} (limit: {format_duration(limit)})"
            )
        result |= {"timeout_exceeded": True, "partial_result": True}
    return result


def _claimed_time(value: Value) -> int:
    claim = value.get("execution_time") if type(value) is dict else None
    if type(claim) is not str:
        return 0
    try:
        return parse_duration(claim)
    except DurationInvalid:
        return 0


# --- rate_limiter and throttle ----------------------------------------------------------------------------


def run_rate_limiter(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """Passes the first input on. Its window belongs to this step of this execution, so it is always the first
    request.
    """
    assert step.data is not None
    window, strategy, limit = step.data["per_duration"], step.data["strategy"], step.data["max_requests"]
    try:
        parse_duration(window)
    except DurationInvalid as error:
        raise StepFailed(f"invalid per_duration format: {error}") from None
    if strategy is not None and strategy != "fixed_window":
        raise StepFailed(f"unsupported rate limit strategy: {strategy} (only fixed_window supported)")
    if limit <= 0:
        raise EngineCrash(f"rate_limiter max_requests must be greater than 0, got {limit}")
    return {
        "value": inputs[0] if inputs else None,
        "rate_limited": True,
        "requests_count": 1,
        "max_requests": limit,
        "window": window,
    }


def run_throttle(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """Passes the first input on. Its gap belongs to this step of this execution, so there is nothing to wait
    for.
    """
    assert step.data is not None
    rate = step.data["requests_per_second"]
    if rate <= 0:
        raise StepFailed(f"requests_per_second must be positive, got {rate:f}")
    return {
        "value": inputs[0] if inputs else None,
        "throttled": True,
        "requests_per_second": rate,
        "delay_ms": Int64(0),
    }


STEP_TYPES = (
    StepType(
        "retry",
        (
            Field("max_attempts", "integer"),
            Field("backoff_strategy", "string"),
            Field("initial_delay", "duration"),
            Field("max_delay", "duration"),
            Field("multiplier", "number"),
            Field("retry_on_errors", "string_list"),
        ),
        "pure",
        run_retry,
        "RetryData",
    ),
    StepType(
        "try_catch",
        (
            Field("fallback_value", "any"),
            Field("continue_on_error", "bool"),
            Field("error_output_path", "string"),
        ),
        "pure",
        run_try_catch,
        "TryCatchData",
    ),
    StepType(
        "timeout",
        (Field("timeout", "duration", required=True), Field("timeout_action", "string")),
        "pure",
        run_timeout,
        "TimeoutData",
    ),
    StepType(
        "rate_limiter",
        (
            Field("max_requests", "integer", required=True),
            Field("per_duration", "duration", required=True),
            Field("strategy", "string"),
        ),
        "pure",
        run_rate_limiter,
        "RateLimiterData",
    ),
    StepType(
        "throttle",
        (Field("requests_per_second", "number", required=True),),
        "pure",
        run_throttle,
        "ThrottleData",
    ),
)
