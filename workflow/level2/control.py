"""The step types that level 2 adds, and those whose level-1 form is a marker only: waits, guards, set, fail, log.

A wait step answers first what it waits for (`wait`), and makes its result when that is over (`run`, with
`state.resumed`). Guards are compiled into the policy of the step that feeds them; what stands here is what they make of
its outcome. A step that has failed, and whose failure is handled, hands on an error value (`caught_error`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from workflow.level2 import dates
from workflow.level2.evaluate import array_of, condition_holds, scope_of
from workflow.level2.operators import kind_name, plain, scalar_text
from workflow.level2.scope import ExpressionError
from workflow.level2.shapes import duration_s
from workflow.steps.base import RunState, Services, Step, StepFailed, Suspend
from workflow.values import Value, json_form

FOR_EACH_ITEMS_MAX = 100_000
"""Items of one loop, unless the step says otherwise: each is a scope in the state of the execution while it runs."""
WHILE_ROUNDS_MAX = 100

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_log = logging.getLogger("workflow.step")


def _data(step: Step) -> Mapping[str, Any]:
    return step.data or {}


def _in0(inputs: Sequence[Value]) -> Value:
    return inputs[0] if inputs else None


def caught_error(value: Value) -> Mapping[str, Value] | None:
    """The error in an error value, `{"error": {code, message, …}, "failed_step": id}`; None for any other value."""
    if (
        type(value) is dict
        and len(value) == 2
        and "failed_step" in value
        and type(value.get("error")) is dict
    ):
        return value["error"]  # type: ignore[no-any-return]
    return None


def error_value(step_id: str, *, code: str, message: str, type: str, attempts: int) -> dict[str, Value]:
    """What a step whose failure is handled hands on in place of its result."""
    error = {"code": code, "message": message, "step": step_id, "type": type, "attempts": float(attempts)}
    return {"error": error, "failed_step": step_id}


# --- values -----------------------------------------------------------------------------------------------


def run_set(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """An object of values; each may be a template."""
    return dict(_data(step)["values"])


def run_fail(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """Fails with the author's own message and code; never retried."""
    data = _data(step)
    message = _shown(data.get("message") or "the workflow failed here")
    raise StepFailed(message, code=_shown(data.get("code") or "failed"), retryable=False)


def run_log(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """Writes a line to the log of the attempt; the first input passes through."""
    data = _data(step)
    level = _LEVELS[data.get("level") or "info"]
    fields = {"execution_id": state.execution_id, "step_id": step.id, "fields": data.get("fields") or {}}
    _log.log(level, "%s", _shown(data["message"]), extra={"event": "step.log", **fields})
    return _in0(inputs)


def _shown(value: Value) -> str:
    text = scalar_text(value)
    return text if text is not None else json_form(value)


# --- waits ------------------------------------------------------------------------------------------------


def wait_delay(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Suspend | None:
    """For `duration`, or until a time on the calendar."""
    data = _data(step)
    if data.get("until") is not None:
        try:
            return Suspend("until", until=dates.to_date(data["until"]).timestamp())
        except ExpressionError as error:
            raise StepFailed(f"delay.until: {error}", code="invalid_data", retryable=False) from None
    seconds = duration_s(data.get("duration"))
    if seconds is None:
        raise StepFailed("delay needs a duration or a time until", code="invalid_data", retryable=False)
    return Suspend("timer", duration_s=seconds) if seconds > 0 else None


def run_delay(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The first input, after the wait."""
    data = _data(step)
    when = "until" if data.get("until") is not None else "duration"
    return {"value": _in0(inputs), when: data[when], "delayed": True}


def wait_signal(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Suspend:
    """For a signal by name, at most `timeout`."""
    data = _data(step)
    return Suspend("signal", duration_s=_timeout_s(step, data), name=_shown(data["name"]))


def _timeout_s(step: Step, data: Mapping[str, Any]) -> float | None:
    if data.get("timeout") is None:
        return None
    seconds = duration_s(data["timeout"])
    if seconds is None:
        raise StepFailed(f"{step.type}.timeout must be a duration", code="invalid_data", retryable=False)
    return seconds


def run_wait_signal(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """What the signal carried; ports `received` and `timeout`."""
    received = state.resumed
    timed_out = received is None
    return {
        "signal": _shown(_data(step)["name"]),
        "payload": None if timed_out else received["payload"],
        "value": _in0(inputs),
        "timed_out": timed_out,
        "path": "timeout" if timed_out else "received",
    }


def approval_name(step: Step) -> str:
    """The signal that an approval waits for: `name`, or approval:<step id>."""
    return _shown(_data(step).get("name") or f"approval:{step.id}")


def wait_approval(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Suspend:
    """For the signal of a decision, at most `timeout`."""
    return Suspend("signal", duration_s=_timeout_s(step, _data(step)), name=approval_name(step))


def run_approval(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """Who decided what; ports `approved`, `rejected`, `timeout`. Without `approved: true` it is a rejection."""
    received = state.resumed
    decision = received["payload"] if received is not None else None
    approved = type(decision) is dict and decision.get("approved") is True
    path = "timeout" if received is None else ("approved" if approved else "rejected")
    about = decision if type(decision) is dict else {}
    return {
        "approved": approved,
        "by": about.get("by"),
        "comment": about.get("comment"),
        "value": _in0(inputs),
        "timed_out": received is None,
        "path": path,
    }


# --- guards -----------------------------------------------------------------------------------------------


def run_retry(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The value of the step that it retries. That step's attempts are in the execution's history."""
    _pass_on(_in0(inputs))
    return {"value": _in0(inputs), "success": True}


def _pass_on(value: Value) -> None:
    """Fail again with a failure that only a guard further on handles."""
    error = caught_error(value)
    if error is not None:
        kind = _shown(error.get("type") or "")
        raise StepFailed(_shown(error["message"]), code=_shown(error["code"]), retryable=False, type=kind)


def run_timeout(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The value of the step that it bounds; with another action than `error`, a marker instead of a failure."""
    data, value = _data(step), _in0(inputs)
    error = caught_error(value)
    if error is None:
        return {"value": value, "timeout_duration": data["timeout"], "timed_out": False}
    if error["code"] != "timeout" or data.get("timeout_action") in (None, "error"):
        _pass_on(value)
    return {"value": None, "timeout_duration": data["timeout"], "timed_out": True, "timeout_exceeded": True}


def run_try_catch(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The value of the step that it watches, or the fallback when that has failed for good."""
    data, value = _data(step), _in0(inputs)
    error = caught_error(value)
    if error is None:
        return {"value": value, "error_caught": False}
    if data.get("continue_on_error") is False:
        raise StepFailed(
            f"error caught: {_shown(error['message'])}", code=_shown(error["code"]), retryable=False
        )
    result: dict[str, Value] = {
        "value": data.get("fallback_value"),
        "error_caught": True,
        "error_message": error["message"],
        "error": dict(error),
    }
    if data.get("error_output_path"):
        result["error_output_path"] = result["path"] = data["error_output_path"]
    return result


# --- other executions -------------------------------------------------------------------------------------


def wait_sub_workflow(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Suspend:
    """For an execution of a registered workflow, which the coordinator starts."""
    data = _data(step)
    given = data.get("inputs")
    if given is None:
        given = _in0(inputs) if type(_in0(inputs)) is dict else {}
    if type(given) is not dict:
        raise StepFailed(
            f"sub_workflow.inputs must be an object, got {kind_name(given)}",
            code="invalid_data",
            retryable=False,
        )
    workflow_id = _shown(data["workflow_id"])
    request = {
        "workflow_id": workflow_id,
        "version": data.get("version"),
        "inputs": given,
        "on_cancel": data.get("on_cancel") or "cancel",
    }
    return Suspend("child", name=workflow_id, data=request)


def run_sub_workflow(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The final output of the other execution; its failure is this step's."""
    outcome = state.resumed
    if type(outcome) is not dict:
        raise StepFailed("the sub-workflow reported no outcome", code="sub_workflow_failed", retryable=True)
    if outcome.get("status") == "completed":
        return {
            "execution_id": outcome.get("execution_id"),
            "status": "completed",
            "value": plain(outcome.get("final_output")),
        }
    error = outcome.get("error") or {}
    reason = error.get("message", "no reason given")
    text = f"sub-workflow {outcome.get('execution_id')} {outcome.get('status')}: {reason}"
    raise StepFailed(text, code=_shown(error.get("code") or "sub_workflow_failed"))


# --- state that executions share, by key --------------------------------------------------------------------


def wait_cache(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Suspend:
    """The coordinator keeps the cache: it answers at once."""
    data = _data(step)
    operation, key = data["cache_op"], _shown(data["cache_key"])
    if operation == "set" and not inputs:
        raise StepFailed("cache set operation requires an input value", code="no_input", retryable=False)
    ttl_s = duration_s(data.get("ttl") or "5m")
    if ttl_s is None:
        raise StepFailed("cache.ttl must be a duration", code="invalid_data", retryable=False)
    return Suspend(f"cache_{operation}", duration_s=ttl_s, name=key, data=_in0(inputs))


def run_cache(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """What the cache held, or that it holds the value now."""
    data, answer = _data(step), state.resumed
    operation, key = data["cache_op"], _shown(data["cache_key"])
    if operation == "set":
        return {"operation": "set", "key": key, "value": _in0(inputs), "ttl": data.get("ttl")}
    found = type(answer) is dict and answer.get("found") is True
    if operation == "delete":
        return {"operation": "delete", "key": key, "deleted": found}
    return {"operation": "get", "key": key, "found": found, "value": answer["value"] if found else None}


def wait_rate_limiter(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Suspend:
    """For a place among `max_requests` in any window of `per_duration`, over all executions with the same key."""
    data = _data(step)
    window_s = duration_s(data["per_duration"])
    if window_s is None or window_s <= 0 or data["max_requests"] < 1:
        raise StepFailed(
            "rate_limiter needs max_requests of at least 1 and a per_duration",
            code="invalid_data",
            retryable=False,
        )
    request = {"count": float(data["max_requests"]), "window_s": window_s}
    return Suspend("rate", name=_shown(data.get("key") or f"rate_limiter:{step.id}"), data=request)


def run_rate_limiter(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The first input, when its place has come."""
    data = _data(step)
    return {
        "value": _in0(inputs),
        "rate_limited": True,
        "max_requests": data["max_requests"],
        "window": data["per_duration"],
    }


def wait_throttle(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Suspend:
    """For 1 / requests_per_second since the one before, over all executions with the same key."""
    data = _data(step)
    rate = data["requests_per_second"]
    if rate <= 0:
        raise StepFailed(
            f"requests_per_second must be positive, got {rate:f}", code="invalid_data", retryable=False
        )
    request = {"count": 1.0, "window_s": 1.0 / rate}
    return Suspend("rate", name=_shown(data.get("key") or f"throttle:{step.id}"), data=request)


def run_throttle(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The first input, when its turn has come."""
    return {
        "value": _in0(inputs),
        "throttled": True,
        "requests_per_second": _data(step)["requests_per_second"],
    }


# --- loops ------------------------------------------------------------------------------------------------


def wait_for_each(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Suspend | None:
    """For the bodies of all items; none without items."""
    data = _data(step)
    items = array_of(step, inputs) if data.get("items") is None else array_of(step, [data["items"]])
    most = int(data.get("max_iterations") or FOR_EACH_ITEMS_MAX)
    if len(items) > most:
        text = f"for_each has {len(items)} items, over its max_iterations of {most}"
        raise StepFailed(text, code="limit_exceeded", retryable=False)
    if not items:
        return None
    return spawn(items, int(data.get("max_concurrency") or 10), int(data.get("tolerated_failures") or 0))


def run_for_each(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The results of all bodies in the order of the items; null for one that failed and was tolerated."""
    _, results, failures, last_error = state.resumed or (None, [], 0.0, None)
    result: dict[str, Value] = {
        "results": results,
        "input_count": float(len(results)),
        "successful": float(len(results)) - float(failures),
        "failed": float(failures),
    }
    return result if last_error is None else {**result, "last_error": last_error}


def spawn(items: list[Value], max_concurrency: int, tolerated_failures: int, carry: Value = None) -> Suspend:
    """A wait for bodies to run, one for each item; `carry` comes back with their results."""
    request = {
        "items": items,
        "max_concurrency": max(1, max_concurrency),
        "tolerated_failures": max(0, tolerated_failures),
        "carry": carry,
    }
    return Suspend("spawn", data=request)


def wait_while_loop(
    step: Step, inputs: Sequence[Value], state: RunState, services: Services
) -> Suspend | None:
    """For the first round; none when the condition does not hold at once."""
    return _next_round(step, _in0(inputs), 0, state, services)


def run_while_loop(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The value after the last round, or a Suspend for one more."""
    condition = _data(step)["condition"]
    if state.resumed is None:
        return {"final_value": _in0(inputs), "iterations": 0.0, "condition": condition}
    rounds, (value,), _, _ = state.resumed
    again = _next_round(step, value, int(rounds), state, services)
    if again is not None:
        return again
    return {"final_value": value, "iterations": float(rounds), "condition": condition}


def _next_round(step: Step, value: Value, rounds: int, state: RunState, services: Services) -> Suspend | None:
    data = _data(step)
    scope = scope_of([value], state, services, item=value, index=float(rounds))
    if not condition_holds(step, "condition", data["condition"], scope):
        return None
    most = int(data.get("max_iterations") or WHILE_ROUNDS_MAX)
    if rounds >= most:
        raise StepFailed(
            f"while_loop exceeded max iterations: {most}", code="limit_exceeded", retryable=False
        )
    return spawn([value], 1, 0, float(rounds + 1))
