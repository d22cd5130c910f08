"""Branching, loops and the flow helpers. None of them controls another step at level 1: edges do, by the shape of a
result (`path`, `output_path`, `true_path` …)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workflow.durations import DurationInvalid, parse_duration
from workflow.expressions import evaluate_condition, simple_condition
from workflow.expressions.context import EvalContext
from workflow.steps.base import (
    EngineCrash,
    EvalError,
    Field,
    RunState,
    Services,
    Step,
    StepFailed,
    StepType,
    Suspend,
)
from workflow.values import StringSlice, Value, type_name

# --- branching --------------------------------------------------------------------------------------------


def run_condition(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The first input with whether it meets the condition. A condition that cannot be evaluated is no error."""
    assert step.data is not None
    if not inputs:
        raise StepFailed("condition node needs at least 1 input")
    text, value = step.data["condition"], inputs[0]
    try:
        met = evaluate_condition(text, EvalContext(value, state.variables, state.context, state.results))
    except EvalError:
        met = simple_condition(text, value)
    return {
        "value": value,
        "condition_met": met,
        "condition": text,
        "path": "true" if met else "false",
        "true_path": met,
        "false_path": not met,
    }


def run_switch(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The first case whose condition holds, else the default; a condition that cannot be evaluated does not hold."""
    assert step.data is not None
    if not inputs:
        raise StepFailed("switch node requires at least one input")
    value = inputs[0]
    context = EvalContext(value, state.variables, state.context, state.results)
    cases = step.data["cases"]
    for position, case in enumerate(cases):
        if case["is_default"]:
            continue
        try:
            holds = evaluate_condition(case["when"] or "", context)
        except EvalError:
            continue
        if holds:
            return _switch_result(value, position, case["when"] or "", case["output_path"], matched=True)
    last = len(cases) - 1
    return _switch_result(value, last, "default", cases[last]["output_path"] or "default", matched=False)


def _switch_result(value: Value, position: int, case: str, path: str, *, matched: bool) -> dict[str, Value]:
    return {"value": value, "matched": matched, "case": case, "output_path": path, "case_index": position}


def _check_switch(data: Mapping[str, Any]) -> None:
    cases = data["cases"]
    last = len(cases) - 1
    defaults = 0
    for position, case in enumerate(cases):
        if case["is_default"]:
            defaults += 1
            if position != last:
                raise ValueError(
                    f"default case must be the last case in the array (found at index {position}, "
                    f"but last index is {last})"
                )
        elif not case["output_path"]:
            raise ValueError(
                f"case at index {position} must have output_path (non-default cases require output_path)"
            )
    if defaults != 1:
        raise ValueError(f"switch node must have exactly one default case (found {defaults})")


# --- loops ------------------------------------------------------------------------------------------------


def run_for_each(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """Counts the elements of the first input. Nothing runs per element at level 1."""
    assert step.data is not None
    if not inputs:
        raise StepFailed("for_each node needs at least 1 input")
    items = inputs[0]
    if not isinstance(items, list):
        raise StepFailed(f"for_each node requires array input, got {type_name(items)}")
    limit = step.data["max_iterations"]
    if limit is None or limit <= 0:
        limit = 1000
    count = len(items)
    if count > limit:
        raise StepFailed(f"for_each exceeds max iterations: {count} > {limit}")
    return {"input_count": count, "iterations": count, "successful": count, "failed": 0}


def run_while_loop(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """Checks a simple condition on a value that never changes: false at once, or too many iterations."""
    assert step.data is not None
    if not inputs:
        raise StepFailed("while_loop node needs at least 1 input")
    condition, value = step.data["condition"], inputs[0]
    if simple_condition(condition, value):
        limit = step.data["max_iterations"]
        if limit is None or limit <= 0:
            limit = 100
        raise StepFailed(f"while_loop exceeded max iterations: {limit}")
    return {"final_value": value, "iterations": 0, "condition": condition}


# --- flow helpers -----------------------------------------------------------------------------------------


def run_parallel(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """A list of the inputs. A limit of 0 hangs the original and a negative one kills it; both are errors here."""
    assert step.data is not None
    if not inputs:
        raise StepFailed("parallel node requires at least one input")
    limit = step.data["max_concurrency"]
    if limit is None:
        limit = 10
    if limit <= 0:
        raise EngineCrash(f"parallel max_concurrency must be greater than 0, got {limit}")
    return {"results": list(inputs), "count": len(inputs), "concurrency": limit}


def run_join(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The inputs that are there; nothing is waited for."""
    assert step.data is not None
    strategy = step.data["join_strategy"]
    match "all" if strategy is None else strategy:
        case "all":
            if not inputs:
                raise StepFailed("join node with 'all' strategy requires at least one input")
            return {"strategy": "all", "values": list(inputs), "count": len(inputs)}
        case "any":
            if not inputs:
                raise StepFailed("join node with 'any' strategy has no inputs")
            return {"strategy": "any", "value": inputs[0], "count": len(inputs)}
        case "first":
            if not inputs:
                raise StepFailed("join node with 'first' strategy has no inputs")
            return {"strategy": "first", "value": inputs[0]}
    raise StepFailed(f"unsupported join strategy: {strategy} (use all, any, or first)")


def run_split(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The first input under the name of each path. The paths are no output ports."""
    assert step.data is not None
    if not inputs:
        raise StepFailed("split node requires at least one input")
    paths, value = step.data["paths"], inputs[0]
    return {"value": value, "paths": StringSlice(list(paths)), "outputs": dict.fromkeys(paths, value)}


def _delay_ns(step: Step) -> int:
    assert step.data is not None
    try:
        return parse_duration(step.data["duration"])
    except DurationInvalid as error:
        raise StepFailed(f"invalid duration format: {error}") from None


def wait_delay(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Suspend | None:
    """The wait of a delay; none for zero and negative durations."""
    nanoseconds = _delay_ns(step)
    return Suspend("timer", duration_s=nanoseconds / 1e9) if nanoseconds > 0 else None


def run_delay(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The first input (null without one), after the wait."""
    assert step.data is not None
    _delay_ns(step)
    return {"value": inputs[0] if inputs else None, "duration": step.data["duration"], "delayed": True}


_MAX_ITERATIONS = Field("max_iterations", "integer")

STEP_TYPES = (
    StepType(
        "condition",
        (
            Field("condition", "string", required=True),
            Field("true_path", "string"),
            Field("false_path", "string"),
        ),
        "pure",
        run_condition,
        "ConditionData",
    ),
    StepType(
        "switch", (Field("cases", "cases", required=True),), "pure", run_switch, "SwitchData", _check_switch
    ),
    StepType("for_each", (_MAX_ITERATIONS,), "pure", run_for_each, "ForEachData"),
    StepType(
        "while_loop",
        (Field("condition", "string", required=True), _MAX_ITERATIONS),
        "pure",
        run_while_loop,
        "WhileLoopData",
    ),
    StepType(
        "parallel",
        (Field("max_concurrency", "integer"), Field("timeout", "string")),
        "pure",
        run_parallel,
        "ParallelData",
    ),
    StepType(
        "join", (Field("join_strategy", "string"), Field("timeout", "string")), "pure", run_join, "JoinData"
    ),
    StepType("split", (Field("paths", "string_list", required=True),), "pure", run_split, "SplitData"),
    StepType(
        "delay",
        (Field("duration", "duration", required=True),),
        "wait",
        run_delay,
        "DelayData",
        wait=wait_delay,
    ),
)
