"""The program inside a runner process: `python -m node.worker.runner INBOX OUTBOX PAGE FRAME_BYTES_MAX`.

Three threads, so that no step can keep the runner from hearing its node:

- the *reader* takes frames from the node: plans, tasks, stops. It runs no step;
- the *main thread* runs tasks that need no I/O, one at a time in ticket order. A batch of them costs no event loop;
- the *io thread* (`io_tasks.py`) starts with the first task that awaits something.

The node ends a runner with SIGKILL; there is no goodbye. The node's death ends the runner too (`limits.py`, and the
inbox's end). The first three arguments are descriptors.
"""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import resource
import signal
import socket
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Final, NoReturn

import msgspec

from node.worker.attempts import AttemptStream, Outbox, RunningAttempt, capture_output, printable
from node.worker.frames import FrameInvalid, FrameSplitter
from node.worker.io_tasks import IoTasks
from node.worker.limits import confine
from node.worker.messages import (
    FromFailed,
    FromPlan,
    FromReady,
    FromResults,
    FromReturned,
    FromStuck,
    RunnerSettings,
    ToForget,
    ToPlan,
    ToReturn,
    ToRunner,
    ToStop,
    ToTasks,
)
from node.worker.outside_errors import error_result, outside_error, worded
from node.worker.page import CPU_LAST_STARTED, CPU_STARTED_NS, CPU_TICKET, SharedPage
from node.worker.segments import DefinitionInvalid, LoadedPlan, Segments
from node.worker.user_steps import StepTypesInvalid, current_attempt, load_step_types
from workflow.messages import SegmentResult, StepError
from workflow.steps.base import HttpClient, HttpRequest, HttpResponse, Services, Settings

READ_BYTES: Final = 256 * 1024
RESULTS_HELD_MAX: Final = 32  # results wait for each other at most so many …
RESULTS_HELD_S: Final = 0.002  # … and so long, while further tasks run
MEMORY_MEASURED_FROM_US: Final = 2000  # a shorter task cannot touch memory worth a system call

_encode: Final = msgspec.msgpack.Encoder().encode


class Runner:
    """The tasks of this process. `run_cpu_tasks` is the main thread, `read` the reader thread."""

    def __init__(
        self, settings: RunnerSettings, outbox: Outbox, page: SharedPage, segments: Segments
    ) -> None:
        self._settings = settings
        self._outbox = outbox
        self._words = page.words
        self._segments = segments
        self._plans: dict[bytes, LoadedPlan] = {}  # owned by the reader thread
        self._cpu_queue: queue.SimpleQueue[RunningAttempt] = queue.SimpleQueue()  # only the reader puts
        self._cpu_running: RunningAttempt | None = None
        self._io = IoTasks(
            words=page.words,
            run_segment=lambda attempt: segments.run(attempt.loaded, attempt.task),
            finished=self._io_finished,
            flush=self._flush_io,
            stuck=lambda ticket: outbox.send(FromStuck(ticket)),
            stop_grace_s=settings.stop_grace_s,
        )
        self._io_results: list[tuple[int, bytes, int, int, int]] = []  # owned by the io thread
        self._memory_peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._streams: tuple[AttemptStream, ...] = ()

    def serve(self, inbox: socket.socket, splitter: FrameSplitter, first: list[bytes]) -> NoReturn:
        """Start the reader and run CPU tasks until the process is ended."""
        self._streams = capture_output(self._outbox, self._settings.log_line_bytes_max)
        threading.Thread(target=self._read, args=(inbox, splitter, first), name="reader", daemon=True).start()
        self._run_cpu_tasks()

    # ---- reader thread

    def _read(self, inbox: socket.socket, splitter: FrameSplitter, bodies: list[bytes]) -> NoReturn:
        decoder = msgspec.msgpack.Decoder(ToRunner)
        try:
            while True:
                for body in bodies:
                    self._receive(decoder.decode(body))
                received = inbox.recv(READ_BYTES)
                if not received:
                    end_with_children(0)
                bodies = splitter.feed(received)
        except (OSError, msgspec.DecodeError, FrameInvalid) as error:
            self._outbox.send(FromFailed(f"the node sent what a runner cannot read: {error}"))
        except BaseException as error:
            self._outbox.send(FromFailed(f"the reader of the runner failed: {error!r}"))
        end_with_children(1)

    def _receive(self, message: ToRunner) -> None:
        match message:
            case ToTasks():
                self._take(message)
            case ToPlan():
                self._learn(message)
            case ToForget():
                self._plans.pop(message.plan_hash, None)
            case ToStop():
                self._stop(message)
            case ToReturn():
                self._outbox.send(FromReturned([attempt.ticket for attempt in self._unstarted()]))

    def _learn(self, message: ToPlan) -> None:
        try:
            loaded = self._segments.load(message.plan_hash, message.definition)
        except DefinitionInvalid as error:
            self._outbox.send(FromPlan(message.plan_hash, [], str(error)))
            return
        self._plans[message.plan_hash] = loaded
        self._outbox.send(FromPlan(message.plan_hash, loaded.kinds))

    def _take(self, message: ToTasks) -> None:
        io: list[RunningAttempt] = []
        for ticket, wall_s, task in message.tasks:
            loaded = self._plans[task.plan_hash]
            attempt = RunningAttempt(ticket, wall_s, task, loaded, self._outbox, self._settings)
            if attempt.kind.is_io:
                io.append(attempt)
            else:
                self._cpu_queue.put(attempt)
        if io:
            self._io.start(io)

    def _unstarted(self) -> list[RunningAttempt]:
        """Take back all CPU tasks that the main thread has not begun; it may begin some meanwhile."""
        taken: list[RunningAttempt] = []
        with contextlib.suppress(queue.Empty):
            while True:
                taken.append(self._cpu_queue.get_nowait())
        return taken

    def _stop(self, stop: ToStop) -> None:
        running = self._cpu_running
        if running is not None and running.ticket == stop.ticket:
            running.cancelled = True  # a step may look at it; if not, the node kills this process
            return
        for attempt in self._unstarted():
            if attempt.ticket == stop.ticket:
                result = stopped_result(attempt, stop)
                self._outbox.send(FromResults([(attempt.ticket, _encode(result), 0, 0, 0)]))
            else:
                self._cpu_queue.put(attempt)
        self._io.request_stop(stop)

    # ---- main thread

    def _run_cpu_tasks(self) -> NoReturn:
        held: list[tuple[int, bytes, int, int, int]] = []
        held_since = 0.0
        while True:
            if not held:
                attempt = self._cpu_queue.get()
                held_since = time.monotonic()
            else:
                try:
                    attempt = self._cpu_queue.get_nowait()
                except queue.Empty:
                    self._outbox.send(FromResults(held))
                    held = []
                    continue
            held.append(self._run_cpu_task(attempt))
            if len(held) >= RESULTS_HELD_MAX or time.monotonic() - held_since > RESULTS_HELD_S:
                self._outbox.send(FromResults(held))
                held = []

    def _run_cpu_task(self, attempt: RunningAttempt) -> tuple[int, bytes, int, int, int]:
        words = self._words
        self._cpu_running = attempt
        current_attempt.set(attempt)
        cpu_before = time.thread_time_ns()
        started_ns = time.monotonic_ns()
        words[CPU_STARTED_NS] = started_ns
        words[CPU_LAST_STARTED] = attempt.ticket
        words[CPU_TICKET] = attempt.ticket
        try:
            outcome: SegmentResult | BaseException = self._segments.run_now(attempt.loaded, attempt.task)
        except BaseException as error:  # a step's SystemExit too: the runner goes on
            outcome = error
        self._cpu_running = None
        wall_us = (time.monotonic_ns() - started_ns) // 1000
        cpu_us = (time.thread_time_ns() - cpu_before) // 1000
        line = self._report(attempt, outcome, wall_us, cpu_us)
        words[CPU_TICKET] = 0  # not before: a result that ends the runner is the fault of its task too
        return line

    # ---- io thread

    def _io_finished(
        self, attempt: RunningAttempt, outcome: SegmentResult | BaseException, wall_us: int, cpu_us: int
    ) -> None:
        self._io_results.append(self._report(attempt, outcome, wall_us, cpu_us))

    def _flush_io(self) -> None:
        results, self._io_results = self._io_results, []
        self._outbox.send(FromResults(results))

    # ---- both

    def _report(
        self, attempt: RunningAttempt, outcome: SegmentResult | BaseException, wall_us: int, cpu_us: int
    ) -> tuple[int, bytes, int, int, int]:
        """The line of FromResults for an attempt that is over."""
        for stream in self._streams:
            stream.end_line()
        if not isinstance(outcome, SegmentResult):
            outcome = failed_result(attempt, outcome)
        if outcome.error is not None:
            attempt.report_merged_heartbeat()
            outcome = msgspec.structs.replace(outcome, error=_carriable(outcome.error))
        encoded = _encode(outcome)
        if len(encoded) > self._settings.result_bytes_max:
            encoded = _encode(self._too_large(attempt, outcome, len(encoded)))
        memory_bytes = self._memory_peak_bytes() if wall_us > MEMORY_MEASURED_FROM_US else 0
        return attempt.ticket, encoded, wall_us, cpu_us, memory_bytes

    def _too_large(self, attempt: RunningAttempt, result: SegmentResult, size: int) -> SegmentResult:
        step_id, step_type = attempt.kind.step_id, attempt.kind.step_type
        if result.outputs:
            steps = attempt.loaded.plan.steps
            largest = max(result.outputs, key=lambda index: len(result.outputs[index]))
            step_id, step_type = steps[largest].id, steps[largest].type
        limit = self._settings.result_bytes_max
        message = f"step type {step_type}: the result is too large: {size} bytes (limit: {limit})"
        text = worded(attempt.kind.level, step_id, message)
        return error_result(StepError("output_too_large", text, step_id, retryable=False))

    def _memory_peak_bytes(self) -> int:
        """The peak of this process if it rose since the last call, else 0."""
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if peak_kib <= self._memory_peak_kib:
            return 0
        self._memory_peak_kib = peak_kib
        return peak_kib * 1024


def stopped_result(attempt: RunningAttempt, stop: ToStop) -> SegmentResult:
    """The result of a task that was stopped from outside."""
    retryable = stop.code == "timeout"
    return error_result(outside_error(attempt.kind, stop.code, stop.message, retryable=retryable))


def failed_result(attempt: RunningAttempt, error: BaseException) -> SegmentResult:
    """The result of a task whose segment raised instead of reporting an error itself."""
    if attempt.stop is not None:
        return stopped_result(attempt, attempt.stop)
    code, message = "internal", f"the runner failed: {type(error).__name__}: {error}"
    if isinstance(error, MemoryError):
        code, message = "out_of_memory", "the step ran out of memory"
    return error_result(outside_error(attempt.kind, code, message, type=type(error).__name__))


def _carriable(error: StepError) -> StepError:
    """The error as the node can read it: steps raise what they like, texts that are no Unicode or no texts too."""
    code, message, kind = (printable(str(text)) for text in (error.code, error.message, error.type))
    return StepError(code, message, error.node, bool(error.retryable), kind)


def end_with_children(status: int) -> NoReturn:
    """End this process, and what steps have started: a runner leads its own process group."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(status)


class HttpOnDemand:
    """The client of the http step, made with the first request: aiohttp takes 10 MB that other runners need not pay."""

    def __init__(self) -> None:
        self._client: HttpClient | None = None

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        if self._client is None:
            from node.worker.http_client import AiohttpClient

            self._client = AiohttpClient()
        return await self._client(request)


def main() -> None:
    """Take the settings from the inbox, confine this process, load the user's modules, serve."""
    inbox, outbox_socket = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    page_descriptor = int(sys.argv[3])
    page = SharedPage(page_descriptor)
    os.close(page_descriptor)
    outbox = Outbox(outbox_socket)
    splitter = FrameSplitter(int(sys.argv[4]))
    settings, further = receive_settings(inbox, splitter)
    try:
        confine(
            parent_pid=settings.parent_pid,
            address_space_bytes_max=settings.address_space_bytes_max,
            open_files_max=settings.open_files_max,
        )
        sys.path[:] = settings.import_path
        language = Settings(
            **{**settings.language, "allowed_domains": tuple(settings.language["allowed_domains"])}
        )
        step_types = load_step_types(settings.load)
    except (OSError, StepTypesInvalid) as error:
        outbox.send(FromFailed(str(error)))
        sys.exit(1)
    services = Services(
        settings=language,
        now=lambda: datetime.now(UTC),
        http=HttpOnDemand(),
        step_types=step_types,
        http_clients=settings.http_clients,
    )
    runner = Runner(settings, outbox, page, Segments(services))
    gc.collect()
    gc.freeze()
    outbox.send(FromReady(sorted(step_types)))
    runner.serve(inbox, splitter, further)


def receive_settings(inbox: socket.socket, splitter: FrameSplitter) -> tuple[RunnerSettings, list[bytes]]:
    """The first frame, and what came with it. Ends the process when the node is gone before it spoke."""
    while True:
        received = inbox.recv(READ_BYTES)
        if not received:
            sys.exit(1)
        bodies = splitter.feed(received)
        if bodies:
            return msgspec.msgpack.decode(bodies[0], type=RunnerSettings), bodies[1:]


if __name__ == "__main__":
    main()
