"""Inside a runner: tasks that wait for I/O, many at once, on an event loop in a thread of its own.

The loop starts with the first such task, so a runner that only computes never pays for it. Everything in `IoTasks` but
`start` and `request_stop` runs on the loop's thread.
"""

from __future__ import annotations

import asyncio
import threading
import time
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import uvloop

from node.worker.attempts import RunningAttempt
from node.worker.messages import ToStop
from node.worker.page import LOOP_TICKET, LOOP_TURN_NS
from node.worker.user_steps import current_attempt
from workflow.messages import SegmentResult

_T = TypeVar("_T")

RunSegment = Callable[[RunningAttempt], Awaitable[SegmentResult]]
Finished = Callable[[RunningAttempt, SegmentResult | BaseException, int, int], None]
"""(attempt, result or what the segment raised, wall µs, CPU µs)"""


@dataclass(slots=True)
class _IoTask:
    """One task on the loop."""

    attempt: RunningAttempt
    background: asyncio.Task[None] | None = None
    wall_timer: asyncio.TimerHandle | None = None
    has_begun: bool = False  # its coroutine had its first turn
    cpu_ns: int = 0  # of its turns so far


class IoTasks:
    """The event loop of a runner and the tasks on it."""

    def __init__(
        self,
        *,
        words: memoryview,
        run_segment: RunSegment,
        finished: Finished,
        flush: Callable[[], None],
        stuck: Callable[[int], None],
        stop_grace_s: float,
        new_event_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
    ) -> None:
        self._words = words
        self._run_segment = run_segment
        self._finished = finished
        self._flush = flush
        self._stuck = stuck
        self._stop_grace_s = stop_grace_s
        self._new_event_loop = new_event_loop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running: dict[int, _IoTask] = {}
        self._flush_is_scheduled = False

    def start(self, attempts: list[RunningAttempt]) -> None:
        """Begin these; from any thread."""
        if self._loop is None:
            self._loop = self._new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="io", daemon=True).start()
        self._loop.call_soon_threadsafe(self._start, attempts)

    def request_stop(self, stop: ToStop) -> None:
        """Cancel a task that was given to `start`, or do nothing if it has ended; from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop, stop)

    def _start(self, attempts: list[RunningAttempt]) -> None:
        loop = asyncio.get_running_loop()
        for attempt in attempts:
            task = self._running[attempt.ticket] = _IoTask(attempt)
            message = f"the step took longer than {attempt.wall_s:g} s"
            stop = ToStop(attempt.ticket, "timeout", message)
            task.wall_timer = loop.call_later(attempt.wall_s, self._stop, stop)
            task.background = loop.create_task(self._run(task), name=f"task {attempt.ticket}")

    async def _run(self, task: _IoTask) -> None:
        task.has_begun = True
        attempt = task.attempt
        current_attempt.set(attempt)
        started_ns = time.monotonic_ns()
        outcome: SegmentResult | BaseException
        try:
            outcome = await _metered(self._as_coroutine(attempt), task, self._words)
        except BaseException as error:  # CancelledError too: this task ends here either way
            outcome = error
        self._end(task, outcome, (time.monotonic_ns() - started_ns) // 1000)

    def _end(self, task: _IoTask, outcome: SegmentResult | BaseException, wall_us: int) -> None:
        del self._running[task.attempt.ticket]
        if task.wall_timer is not None:
            task.wall_timer.cancel()
        self._finished(task.attempt, outcome, wall_us, task.cpu_ns // 1000)
        if not self._flush_is_scheduled:
            self._flush_is_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush_now)

    async def _as_coroutine(self, attempt: RunningAttempt) -> SegmentResult:
        return await self._run_segment(attempt)

    def _flush_now(self) -> None:
        self._flush_is_scheduled = False
        self._flush()

    def _stop(self, stop: ToStop) -> None:
        task = self._running.get(stop.ticket)
        if task is None or task.background is None or task.attempt.stop is not None:
            return
        task.attempt.stop = stop
        task.attempt.cancelled = True
        task.background.cancel()
        if not task.has_begun:  # then its coroutine never runs, and cannot report its end
            self._end(task, asyncio.CancelledError(), 0)
            return
        asyncio.get_running_loop().call_later(self._stop_grace_s, self._check_stopped, stop.ticket)

    def _check_stopped(self, ticket: int) -> None:
        if ticket in self._running:
            self._stuck(ticket)


_NO_TICKET: Final = 0


@types.coroutine
def _metered(coroutine: Coroutine[Any, Any, _T], task: _IoTask, words: memoryview) -> Generator[Any, Any, _T]:
    """Await the coroutine; while one of its turns is under way the shared page says so, and its CPU time is summed.

    That is how the node knows which task blocks the loop.
    """
    ticket = task.attempt.ticket
    sent: Any = None
    thrown: BaseException | None = None
    while True:
        cpu_before = time.thread_time_ns()
        words[LOOP_TURN_NS] = time.monotonic_ns()
        words[LOOP_TICKET] = ticket
        try:
            awaited = coroutine.send(sent) if thrown is None else coroutine.throw(thrown)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            words[LOOP_TICKET] = _NO_TICKET
            task.cpu_ns += time.thread_time_ns() - cpu_before
        sent = thrown = None
        try:
            sent = yield awaited
        except BaseException as error:  # cancellation above all: it belongs to the coroutine
            thrown = error
