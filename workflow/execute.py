"""Running steps: a whole workflow in this process, or one segment of it for a coordinator.

The walk over the steps is one generator that runs plain steps itself and hands the others out: a step that awaits,
a wait. Its two drivers differ only in what they do with those. Results and errors are the original's; what it does
not have is added beside them (timings, codes, the results of a failed execution).

Clocks: only durations are measured here, for `timings` and for the time limit of a local run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any, Final

from workflow import codec
from workflow.codec import CodecError
from workflow.definition import Definition, LoadError
from workflow.durations import format_duration
from workflow.errors import StepFailed
from workflow.graph import inputs_of, is_satisfied
from workflow.inputs import bind_inputs
from workflow.level2.plan import ITEM
from workflow.messages import SegmentResult, Spawn, StepError, Task, Wait
from workflow.plan import Plan, StepPlan, compile_plan
from workflow.steps.base import RunState, Services, Suspend
from workflow.values import Value

__all__ = ["Result", "run_local", "run_local_async", "run_segment", "run_segment_now"]

log = logging.getLogger(__name__)

_NO_SERVICES: Final = Services()


class _Stopped(Exception):
    """A step failed; ends the walk."""

    def __init__(self, error: StepError) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass(frozen=True, slots=True)
class _Handover:
    """A step that the walk cannot run itself. The driver sends its result, or None after a wait."""

    step: StepPlan
    inputs: Sequence[Value]
    suspend: Suspend | None  # None: the step awaits


# Called with each result; returns what the following steps see (a round trip through the codec, for one).
_AfterStep = Callable[[StepPlan, Value], Value]
_Walk = Generator[_Handover, Any, None]


def _walk(
    steps: Sequence[StepPlan],
    state: RunState,
    services: Services,
    after_step: _AfterStep | None,
    resumed: int | None = None,
) -> _Walk:
    """Run `steps` in order. `state.results` gets every result; raises _Stopped at the first error.

    `resumed` is the index of a step whose wait is over; `state.resumed` then has the value that ended it.
    """
    results = state.results
    executions_max = services.settings.max_node_executions
    for step in steps:
        inputs = step.inputs_of(step.sources, results)
        if inputs is None:
            continue
        try:
            state.executions += 1
            if 0 < executions_max < state.executions:
                raise StepFailed(
                    f"maximum node executions exceeded: {state.executions} (limit: {executions_max})",
                    code="limit_exceeded",
                    retryable=False,
                )
            step_type = step.step_type
            if step_type is None:
                raise StepFailed(
                    f"no executor registered for type: {step.type}", code="unknown_step_type", retryable=False
                )
            if step.step.data is None and step_type.needs_data:
                raise StepFailed(f"expected {step_type.data_name}, got <nil>", retryable=False)
            if step_type.wait is not None and step.index != resumed:
                suspend = step_type.wait(step.step, inputs, state, services)
                if suspend is not None:
                    yield _Handover(step, inputs, suspend)
            if step_type.is_async:
                value = yield _Handover(step, inputs, None)
            else:
                value = step_type.run(step.step, inputs, state, services)
            if type(value) is Suspend:  # a loop asks for another round
                yield _Handover(step, inputs, value)
            if after_step is not None:
                value = after_step(step, value)
        except _Stopped:
            raise
        except StepFailed as error:
            raise _Stopped(_step_error(step, error)) from error
        except CodecError as error:
            failed = StepFailed(
                f"the result cannot be passed on: {error}", code="result_invalid", retryable=False
            )
            raise _Stopped(_step_error(step, failed)) from error
        except RecursionError as error:
            failed = StepFailed("a value is too deeply nested", code="too_deep", retryable=False)
            raise _Stopped(_step_error(step, failed)) from error
        except MemoryError:
            raise
        except Exception as error:
            log.exception(
                "step type raised an error of its own",
                extra={"event": "workflow.step_fault", "step_id": step.id, "step_type": step.type},
            )
            text = f"internal error in step type {step.type}: {type(error).__name__}: {error}"
            raise _Stopped(_step_error(step, StepFailed(text, code="internal"))) from error
        results[step.id] = value


def _step_error(step: StepPlan, error: StepFailed) -> StepError:
    """The original's text at level 1; at level 2 the step is named beside it."""
    message = f"error executing node {step.id}: {error.text}" if step.inputs_of is inputs_of else error.text
    return StepError(error.code, message, step.id, error.retryable, error.type)


# --- a whole workflow in this process -------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """How a local run ended. `node_results` has what finished, also when it failed."""

    execution_id: str
    workflow_id: str
    node_results: Mapping[str, Value]
    final_output: Value
    error: StepError | None = None
    stage: str = "run"  # load: the definition was refused and nothing ran
    state: RunState = field(repr=False, default_factory=RunState)

    @property
    def ok(self) -> bool:
        return self.error is None


def run_local(
    workflow: Definition | Plan,
    inputs: Mapping[str, Value] | None = None,
    services: Services = _NO_SERVICES,
    *,
    execution_id: str = "",
    task_boundaries: bool = False,
) -> Result:
    """Run a workflow to its end, blocking. Never raises for what a workflow can do wrong: see Result.error.

    With `task_boundaries` every result and the whole state pass through the codec after each step, as they do
    between tasks. Must not be called from a running event loop if the workflow waits or awaits: see
    run_local_async.
    """
    plan, refused = _plan_of(workflow, services, execution_id)
    if plan is None:
        assert refused is not None
        return refused
    if plan.needs_loop:
        return asyncio.run(_run_plan(plan, inputs, services, execution_id, task_boundaries))
    run = _LocalRun(plan, inputs, services, execution_id, task_boundaries)
    error = run.error
    if error is None:
        try:
            for handover in run.walk:
                raise AssertionError(f"step {handover.step.id} of a plan without waits was handed out")
        except _Stopped as stopped:
            error = stopped.error
    return run.result(error)


async def run_local_async(
    workflow: Definition | Plan,
    inputs: Mapping[str, Value] | None = None,
    services: Services = _NO_SERVICES,
    *,
    execution_id: str = "",
    task_boundaries: bool = False,
) -> Result:
    """As run_local, on the running event loop."""
    plan, refused = _plan_of(workflow, services, execution_id)
    if plan is None:
        assert refused is not None
        return refused
    return await _run_plan(plan, inputs, services, execution_id, task_boundaries)


def _plan_of(
    workflow: Definition | Plan, services: Services, execution_id: str
) -> tuple[Plan | None, Result | None]:
    if isinstance(workflow, Plan):
        return workflow, None
    try:
        return compile_plan(workflow, services.settings), None
    except LoadError as error:
        refusal = StepError(error.code, error.text, None, retryable=False)
        return None, Result(execution_id, workflow.workflow_id, {}, None, refusal, stage="load")


class _LocalRun:
    """The state of one local run."""

    def __init__(
        self,
        plan: Plan,
        inputs: Mapping[str, Value] | None,
        services: Services,
        execution_id: str,
        task_boundaries: bool,
    ) -> None:
        self.plan = plan
        self.state = RunState(execution_id)
        self.error: StepError | None = None
        self._limit_ns = services.settings.max_execution_time_ns if plan.level == 1 else 0
        self._started_ns = perf_counter_ns()
        try:
            for name, value in bind_inputs(plan.definition, inputs).items():
                self.state.set_context(name, value, constant=True)
        except LoadError as error:
            self.error = StepError(error.code, error.text, None, retryable=False)
        self.walk = _walk(
            plan.steps, self.state, services, self._boundary if task_boundaries else self._check_time
        )

    def _check_time(self, step: StepPlan, value: Value) -> Value:
        if self._limit_ns and perf_counter_ns() - self._started_ns > self._limit_ns:
            raise _Stopped(self.timed_out())
        return value

    def _boundary(self, step: StepPlan, value: Value) -> Value:
        self._check_time(step, value)
        self.state.decode(self.state.encode())
        return codec.decode(codec.encode(value))

    def timed_out(self) -> StepError:
        text = f"workflow execution timeout: exceeded {format_duration(self._limit_ns)}"
        return StepError("timeout", text, None, retryable=False)

    def seconds_left(self) -> float | None:
        """Until the time limit; None without one."""
        if not self._limit_ns:
            return None
        return max(0, self._started_ns + self._limit_ns - perf_counter_ns()) / 1e9

    def result(self, error: StepError | None) -> Result:
        results = self.state.results
        final: Value = None
        if error is None:
            steps = self.plan.steps
            final = next((results[steps[i].id] for i in self.plan.terminals if steps[i].id in results), None)
        return Result(self.state.execution_id, self.plan.workflow_id, results, final, error, state=self.state)


async def _run_plan(
    plan: Plan,
    inputs: Mapping[str, Value] | None,
    services: Services,
    execution_id: str,
    task_boundaries: bool,
) -> Result:
    run = _LocalRun(plan, inputs, services, execution_id, task_boundaries)
    if run.error is not None:
        return run.result(run.error)
    try:
        async with asyncio.timeout(run.seconds_left()):
            await _drive(run, services)
    except _Stopped as stopped:
        return run.result(stopped.error)
    except TimeoutError:
        return run.result(run.timed_out())
    return run.result(None)


async def _drive(run: _LocalRun, services: Services) -> None:
    answer: Value = None
    error: Exception | None = None
    while True:
        try:
            handover = run.walk.send(answer) if error is None else run.walk.throw(error)
        except StopIteration:
            return
        answer, error = None, None
        try:
            if handover.suspend is None:
                answer = await _await_step(handover, run.state, services)
            else:
                await _sleep_locally(handover.suspend, services)
        except Exception as raised:  # the walk knows the step it belongs to
            error = raised


async def _await_step(handover: _Handover, state: RunState, services: Services) -> Value:
    step_type = handover.step.step_type
    assert step_type is not None
    return await step_type.run(handover.step.step, handover.inputs, state, services)


async def _sleep_locally(suspend: Suspend, services: Services) -> None:
    if suspend.kind == "timer" and suspend.duration_s is not None:
        await services.sleep(suspend.duration_s)
    elif suspend.kind == "until" and suspend.until is not None:
        await services.sleep(max(0.0, suspend.until - services.now().timestamp()))
    else:
        raise StepFailed(f"a local run cannot wait for a {suspend.kind}", code="needs_node", retryable=False)


# --- one segment for a coordinator ----------------------------------------------------------------------------


class _SegmentRun:
    """The state of one task."""

    def __init__(self, plan: Plan, task: Task, services: Services) -> None:
        self.plan = plan
        self.task = task
        self.segment = plan.segments[task.segment]
        self.outputs: dict[int, bytes] = {}
        self.timings: dict[int, tuple[int, int]] = {}
        self._started_ns = self._step_started_ns = perf_counter_ns()
        state = self.state = RunState(task.execution_id, task.idempotency_key)
        steps = plan.steps
        for index, encoded in task.inputs.items():
            state.results[steps[index].id] = codec.decode(encoded)
        if task.state is not None:
            state.decode(task.state)
        elif task.context is not None or plan.definition.inputs:
            given = codec.decode(task.context) if task.context is not None else None
            for name, value in self._bound(given).items():
                state.set_context(name, value, constant=True)
        if task.item is not None:
            state.loop = codec.decode(task.item)
            assert state.loop is not None
            state.results[ITEM] = state.loop["item"]
        resumed: int | None = None
        if task.resume is not None:
            resumed = self.segment.steps[0]
            state.resumed = codec.decode(task.resume)
        self.walk = _walk([steps[i] for i in self.segment.steps], state, services, self._keep, resumed)

    def _bound(self, given: Mapping[str, Value] | None) -> Mapping[str, Value]:
        """The inputs with the defaults of the declaration. A coordinator that starts a child does not know those."""
        if not self.plan.definition.inputs:
            return given or {}
        try:
            return bind_inputs(self.plan.definition, given)
        except LoadError as error:
            raise _Stopped(StepError(error.code, error.text, None, retryable=False)) from error

    def _keep(self, step: StepPlan, value: Value) -> Value:
        self.outputs[step.index] = codec.encode(value)
        now_ns = perf_counter_ns()
        started_ns = self._step_started_ns
        self.timings[step.index] = ((started_ns - self._started_ns) // 1000, (now_ns - started_ns) // 1000)
        self._step_started_ns = now_ns
        return value

    def finished(self, error: StepError | None = None) -> SegmentResult:
        state: bytes | None = None
        if error is None and self.segment.shared_state and self.segment.edges_out:
            state = self.state.encode()
        return SegmentResult(self.outputs, self._live_edges(), state, self.timings, error)

    def _live_edges(self) -> tuple[int, ...]:
        exits = self.plan.exits.get(self.segment.index)
        if not exits:
            return ()
        steps, results = self.plan.steps, self.state.results
        return tuple(
            edge
            for edge, source, handle in exits
            if source in self.outputs and (handle is None or is_satisfied(handle, results[steps[source].id]))
        )

    def waiting(self, handover: _Handover) -> SegmentResult:
        suspend = handover.suspend
        assert suspend is not None
        if suspend.kind == "spawn":
            return SegmentResult(
                {}, (), self.task.state, {}, None, None, self._spawn(handover.step, suspend.data)
            )
        wait = Wait(
            handover.step.index,
            suspend.kind,
            suspend.duration_s,
            suspend.until,
            suspend.name,
            None if suspend.data is None else codec.encode(suspend.data),
        )
        return SegmentResult({}, (), self.task.state, {}, None, wait)

    def _spawn(self, step: StepPlan, request: Mapping[str, Value]) -> Spawn:
        outer = self.state.loop
        items = [
            codec.encode({"item": item, "index": float(index), "outer": outer})
            for index, item in enumerate(request["items"])
        ]
        carry = codec.encode(request["carry"])
        return Spawn(step.index, items, request["max_concurrency"], request["tolerated_failures"], carry)


def run_segment_now(plan: Plan, task: Task, services: Services) -> SegmentResult:
    """Run a segment that awaits nothing (it is not in `plan.async_segments`)."""
    try:
        run = _SegmentRun(plan, task, services)
    except _Stopped as stopped:
        return SegmentResult({}, (), None, {}, stopped.error)
    except CodecError as error:
        return _unreadable(error)
    try:
        for handover in run.walk:
            run.walk.close()
            return run.waiting(handover)
    except _Stopped as stopped:
        return run.finished(stopped.error)
    except CodecError as error:
        return _unreadable(error)
    return run.finished()


async def run_segment(plan: Plan, task: Task, services: Services) -> SegmentResult:
    """Run a segment. Never raises for what a step can do wrong; cancellation goes through."""
    if task.segment not in plan.async_segments:
        return run_segment_now(plan, task, services)
    try:
        run = _SegmentRun(plan, task, services)
    except _Stopped as stopped:
        return SegmentResult({}, (), None, {}, stopped.error)
    except CodecError as codec_error:
        return _unreadable(codec_error)
    try:
        answer: Value = None
        error: Exception | None = None
        while True:
            handover = run.walk.send(answer) if error is None else run.walk.throw(error)
            answer, error = None, None
            if handover.suspend is not None:
                run.walk.close()
                return run.waiting(handover)
            try:
                answer = await _await_step(handover, run.state, services)
            except Exception as raised:  # the walk knows the step it belongs to
                error = raised
    except StopIteration:
        return run.finished()
    except _Stopped as stopped:
        return run.finished(stopped.error)
    except CodecError as codec_error:
        return _unreadable(codec_error)


def _unreadable(error: CodecError) -> SegmentResult:
    failed = StepError("task_unreadable", f"the task cannot be read: {error}", None, retryable=False)
    return SegmentResult({}, (), None, {}, failed)
