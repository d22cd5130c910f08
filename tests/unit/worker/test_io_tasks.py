"""The event loop of a runner: tasks that start, end, are stopped at awkward moments, or do not stop."""

from __future__ import annotations

import asyncio
import queue
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from node.worker.attempts import Outbox, RunningAttempt
from node.worker.io_tasks import IoTasks
from node.worker.messages import RunnerSettings, SegmentKind, Task, ToStop
from node.worker.page import LOOP_TICKET, PAGE_BYTES
from node.worker.segments import LoadedPlan
from workflow.messages import SegmentResult
from workflow.payload import load
from workflow.plan import compile_plan

DONE = SegmentResult({}, (), None, {})
SETTINGS = RunnerSettings(0, (), (), {}, 0, 0, 0, 0, 0.05, 1000, 1000)
WAIT_S = 10.0


class Harness:
    """IoTasks with a segment per ticket; ends arrive in a queue."""

    def __init__(self, outbox: Outbox) -> None:
        self.segments: dict[int, Callable[[], Awaitable[SegmentResult]]] = {}
        self.ended: queue.SimpleQueue[tuple[int, Any, int]] = queue.SimpleQueue()
        self.stuck: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.flushed = threading.Event()
        self.loop = asyncio.new_event_loop()
        self.words = memoryview(bytearray(PAGE_BYTES)).cast("Q")
        self._outbox = outbox
        plan = compile_plan(load(b'{"nodes":[{"id":"it","type":"number","data":{"value":1}}]}'))
        self._loaded = LoadedPlan(plan, [SegmentKind(True, "it", "number", 1, 1)])
        self.io = IoTasks(
            words=self.words,
            run_segment=lambda attempt: self.segments[attempt.ticket](),
            finished=lambda attempt, outcome, wall_us, cpu_us: self.ended.put(
                (attempt.ticket, outcome, cpu_us)
            ),
            flush=self.flushed.set,
            stuck=self.stuck.put,
            stop_grace_s=0.05,
            new_event_loop=lambda: self.loop,
        )

    def close(self) -> None:
        """End what still runs, and the loop."""

        async def cancel_all() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for other in others:
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        if self.loop.is_running():
            asyncio.run_coroutine_threadsafe(cancel_all(), self.loop).result(WAIT_S)
            self.loop.call_soon_threadsafe(self.loop.stop)
            while self.loop.is_running():
                threading.Event().wait(0.001)
        self.loop.close()

    def start(
        self, ticket: int, segment: Callable[[], Awaitable[SegmentResult]], wall_s: float = 100.0
    ) -> RunningAttempt:
        self.segments[ticket] = segment
        task = Task("e", 0, (), 1, b"", {}, None, None, None, None, "", None)
        attempt = RunningAttempt(ticket, wall_s, task, self._loaded, self._outbox, SETTINGS)
        self.io.start([attempt])
        return attempt

    def next_end(self) -> tuple[int, Any]:
        ticket, outcome, _ = self.ended.get(timeout=WAIT_S)
        return ticket, outcome


@pytest.fixture
def harness() -> Iterator[Harness]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        harness = Harness(Outbox(ours))
        yield harness
        harness.close()


async def forever() -> SegmentResult:
    await asyncio.Event().wait()
    return DONE


async def at_once() -> SegmentResult:
    return DONE


def test_a_task_ends_with_its_result_and_the_results_are_flushed(harness: Harness):
    harness.start(1, at_once)
    assert harness.next_end() == (1, DONE)
    assert harness.flushed.wait(WAIT_S)


def test_what_a_segment_raises_is_its_end(harness: Harness):
    async def broken() -> SegmentResult:
        raise ValueError("no")

    harness.start(1, broken)
    ticket, outcome = harness.next_end()
    assert (ticket, type(outcome)) == (1, ValueError)


def test_a_stop_cancels_and_the_attempt_knows_why(harness: Harness):
    attempt = harness.start(1, forever)
    stop = ToStop(1, "cancelled", "because")
    harness.io.request_stop(stop)
    ticket, outcome = harness.next_end()
    assert (ticket, type(outcome)) == (1, asyncio.CancelledError)
    assert attempt.stop == stop


def test_a_stop_before_the_first_turn_ends_the_task_all_the_same(harness: Harness):
    release, blocked = threading.Event(), threading.Event()

    async def blocks_the_loop() -> SegmentResult:
        blocked.set()
        release.wait(WAIT_S)
        return DONE

    harness.start(1, blocks_the_loop)
    assert blocked.wait(WAIT_S)
    assert harness.words[LOOP_TICKET] == 1
    harness.start(2, forever)
    harness.io.request_stop(ToStop(2, "cancelled", "because"))
    release.set()
    assert harness.next_end() == (1, DONE)
    ticket, outcome = harness.next_end()
    assert (ticket, type(outcome)) == (2, asyncio.CancelledError)
    harness.start(3, at_once)
    assert harness.next_end() == (3, DONE)
    assert harness.ended.empty()


def test_a_stop_for_a_task_that_has_ended_changes_nothing(harness: Harness):
    harness.start(1, at_once)
    harness.next_end()
    harness.io.request_stop(ToStop(1, "cancelled", "because"))
    harness.start(2, at_once)
    assert harness.next_end() == (2, DONE)


def test_a_task_beyond_its_time_is_stopped(harness: Harness):
    attempt = harness.start(1, forever, wall_s=0.01)
    ticket, outcome = harness.next_end()
    assert (ticket, type(outcome)) == (1, asyncio.CancelledError)
    assert attempt.stop == ToStop(1, "timeout", "the step took longer than 0.01 s")


def test_a_task_that_swallows_its_cancellation_is_reported_as_stuck(harness: Harness):
    begun, swallowed = threading.Event(), threading.Event()

    async def stubborn() -> SegmentResult:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            swallowed.set()
        return await forever()

    harness.start(1, stubborn)
    assert begun.wait(WAIT_S)
    harness.io.request_stop(ToStop(1, "cancelled", "because"))
    assert swallowed.wait(WAIT_S)
    assert harness.stuck.get(timeout=WAIT_S) == 1
    assert harness.ended.empty()


def test_only_the_turns_of_a_task_count_as_its_cpu_time(harness: Harness):
    async def waits_and_works() -> SegmentResult:
        await asyncio.sleep(0.05)
        sum(range(200_000))
        await asyncio.sleep(0.05)
        return DONE

    harness.start(1, waits_and_works)
    _, outcome, cpu_us = harness.ended.get(timeout=WAIT_S)
    assert outcome == DONE
    assert 100 < cpu_us < 90_000
    assert harness.words[LOOP_TICKET] == 0
