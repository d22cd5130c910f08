"""One execution in this process, without a log, stores or workers: for `run --local`.

The same `apply` as in a cluster decides what runs when; this file only lends it a clock and runs what becomes ready.
Nothing survives the process. Steps run in the functions that the caller hands in, many at once.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from node.coordinator import commands as c
from node.coordinator.apply import apply
from node.coordinator.clock import Clock
from node.coordinator.definitions import Compiled
from node.coordinator.effects import Accepted, Effects, Ready, TimerSet
from node.coordinator.scheduler import is_current, key_of
from node.coordinator.state import AttemptKey, Execution, Stage, State
from node.coordinator.tasks import task_for
from workflow.messages import SegmentResult, StepError, Task

AT_ONCE_MAX: Final = 100
"""Attempts that run at the same time; the others wait their turn."""

RunTask = Callable[[Task], Awaitable[SegmentResult]]


class InProcess:
    """Owner of one execution and everything that it starts. Used once."""

    def __init__(self, compiled: Compiled, run_task: RunTask, clock: Clock) -> None:
        self._compiled = compiled
        self._run_task = run_task
        self._clock = clock
        self._rng = random.Random()
        self._state = State()
        self._ready: deque[Ready] = deque()
        self._running: dict[AttemptKey, asyncio.Task[None]] = {}
        self._timers: dict[TimerSet, asyncio.TimerHandle] = {}
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._execution: Execution | None = None

    async def run(self, execution_id: str, inputs: bytes | None) -> Execution:
        """The ended execution. Cancelling this ends everything that runs."""
        compiled = self._compiled
        start = c.Start(
            execution_id,
            compiled.plan,
            compiled.workflow_id,
            None,
            inputs,
            5,
            {},
            "default",
            compiled.control.max_execution_time_s or 0.0,
        )
        try:
            put = c.PutDefinition(compiled.plan, compiled.payload, compiled.control_bytes)
            answer = self._do(put, start).answers[1]
            assert isinstance(answer, Accepted)
            assert answer.execution is not None
            self._execution = answer.execution
            if not self._execution.status:
                await self._ended
            return self._execution
        finally:
            for timer in self._timers.values():
                timer.cancel()
            for task in self._running.values():
                task.cancel()
            if self._running:
                await asyncio.wait(self._running.values())

    def _do(self, *commands: c.Command) -> Effects:
        fx = apply(self._state, c.Batch(self._clock.wall(), self._rng.random(), 0, list(commands)))
        self._perform(fx)
        return fx

    def _perform(self, fx: Effects) -> None:
        loop = asyncio.get_running_loop()
        for timer in fx.timers_cleared:
            handle = self._timers.pop(timer, None)
            if handle is not None:
                handle.cancel()
        for timer in fx.timers:
            delay = max(timer.due - self._clock.wall(), 0.0)
            self._timers[timer] = loop.call_later(delay, self._fire, timer)
        self._ready.extend(fx.ready)
        for key in fx.cancels:
            running = self._running.get(key)
            if running is not None:
                running.cancel()
            else:
                loop.call_soon(self._withdraw, key)
        if fx.finished and self._execution is not None and self._execution.status and not self._ended.done():
            self._ended.set_result(None)
        loop.call_soon(self._hand_out)

    def _fire(self, timer: TimerSet) -> None:
        early = timer.due - self._clock.wall()
        if early > 0:  # the two clocks differ by a little
            self._timers[timer] = asyncio.get_running_loop().call_later(early + 0.001, self._fire, timer)
            return
        self._timers.pop(timer, None)
        self._do(c.TimerFired(timer.key.id, timer.key.segment, timer.key.path, timer.key.attempt))

    def _withdraw(self, key: AttemptKey) -> None:
        """An attempt that was never handed out, and whose execution or loop is ending."""
        if self._execution is not None and not self._execution.status:
            self._do(c.Withdrawn(*key))

    def _hand_out(self) -> None:
        while self._ready and len(self._running) < AT_ONCE_MAX:
            ready = self._ready.popleft()
            if not is_current(ready):
                continue
            key = key_of(ready)
            if ready.attempt.stage == Stage.QUEUED:
                self._do(c.Grant([key]))
                continue
            program = self._state.definitions[ready.execution.plan].program
            task = task_for(self._state, ready, program.timeouts[ready.attempt.segment])
            running = asyncio.create_task(self._run(key, task), name=f"step {key}")
            self._running[key] = running
            running.add_done_callback(self._after)

    def _after(self, task: asyncio.Task[None]) -> None:
        """A fault of ours in a background task ends the run."""
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._ended.done():
            self._ended.set_exception(error)

    async def _run(self, key: AttemptKey, task: Task) -> None:
        program = self._state.definitions[task.plan_hash].program
        node = program.last_steps[task.segment]
        try:
            async with asyncio.timeout(task.deadline_s):
                result = await self._run_task(task)
        except TimeoutError:
            text = f"the step did not end within {task.deadline_s:g} s"
            result = SegmentResult({}, (), None, {}, StepError("timeout", text, node))
        except asyncio.CancelledError:
            if self._execution is None or self._execution.status or self._ended.done():
                raise
            result = SegmentResult({}, (), None, {}, StepError("cancelled", "cancelled", node))
        finally:
            del self._running[key]
        wait = result.wait
        if wait is not None and wait.kind == "signal" and wait.duration_s is None:
            text = f"a local run takes no signals, and this step waits for {wait.name!r} without a timeout"
            result = msgspec.structs.replace(
                result, wait=None, error=StepError("needs_node", text, node, retryable=False)
            )
        self._do(c.Completed(*key, result))
