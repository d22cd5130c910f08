"""The pool: which runner gets which task, and what becomes of the tasks of a runner that is lost.

    submit ──► waiting for its plan ──► backlog ──► handed to a runner ──► outcome
                     ▲                     ▲                │
                     └── plan forgotten    └── not started ─┘ runner lost, or busy while another is idle

Rules:
- a CPU task goes to the runner with the least work ahead of it, an I/O task to the one with the fewest; at most
  `cpu_tasks_max` and `io_tasks_max` of them are with one runner. Work of less than PACK_US counts as none, so that
  short tasks share a runner and its system calls. A runner whose CPU task takes long gets no more of them, and those
  behind it come back;
- what a task is (CPU or I/O) is known from its plan: a runner answers every plan with the kinds of its segments;
- a task that certainly did not start is handed out again, silently; one that did ends as `Lost`, unless the runner
  was killed because of this very task: then its outcome is the error for which it was killed;
- nothing that a runner sends is believed: tickets must be its own, results must decode. A runner that breaks this
  is replaced.

Everything runs on the event loop that `start` was called on; outcomes are delivered there, once per turn of the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from node.errors import Overloaded
from node.worker.dispatch import Dispatch
from node.worker.frames import encode_frame
from node.worker.messages import (
    FromHeartbeat,
    FromLog,
    FromPlan,
    FromResults,
    FromReturned,
    FromRunner,
    FromStuck,
    LogLine,
    LostCode,
    SegmentResult,
    Stream,
    TaskFrame,
    TaskHeartbeat,
    TaskKey,
    TaskOutcome,
    ToReturn,
    ToStop,
    ToTasks,
    Usage,
)
from node.worker.page import CPU_TICKET
from node.worker.plans import FetchPlan, Plans
from node.worker.process import exit_text
from node.worker.settings import WorkerSettings
from node.worker.supervisor import LostRunner, Runner, Sentence, Supervisor
from node.worker.watchdog import Verdict, look

log = logging.getLogger("thaiyyal.worker")

WATCH_INTERVAL_S: Final = 0.02  # while tasks are out; a limit is noticed so much late at most
HANDED_MAX: Final = 3  # a task that never started but whose runners keep dying is given up after so many
PACK_US: Final = 300.0  # of work; waiting for so much is cheaper than waking another process
UNSENT_BYTES_MAX: Final = 8 * 1024 * 1024  # a runner that reads so slowly gets nothing more

OnResults = Callable[[list[TaskOutcome]], None]

_check_result: Final = msgspec.msgpack.Decoder(SegmentResult).decode


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Where tasks are now, and what has happened since the pool started."""

    slots: int
    runners_ready: int
    runner_pids: tuple[int, ...]
    backlog: int
    waiting_for_plan: int
    running_cpu: int  # handed to runners, CPU tasks
    running_io: int
    finished: int
    lost: int
    handed_again: int  # moved from a busy or lost runner to another
    runners_started: int
    runners_lost: int
    garbage: int  # messages that broke the protocol
    outstanding_peak: int
    start_error: str | None  # why the last runner could not start


class WorkerPool:
    """N runner processes behind one `submit`. One owner, one event loop."""

    def __init__(
        self,
        *,
        slots: int,
        settings: WorkerSettings,
        on_results: OnResults,
        fetch_plan: FetchPlan,
        on_heartbeats: Callable[[list[TaskHeartbeat]], None] | None = None,
        on_logs: Callable[[list[LogLine]], None] | None = None,
    ) -> None:
        """`on_results` gets every outcome, once; `fetch_plan` turns a plan hash into the definition's canonical JSON.

        Callbacks are called on the event loop, never from inside `submit` or `cancel`.
        """
        if slots < 1:
            raise ValueError("a pool needs at least one slot")
        self._settings = settings
        self._on_results = on_results
        self._on_heartbeats = on_heartbeats
        self._on_logs = on_logs or log_to_logger
        self._supervisor = Supervisor(slots, settings, self)
        self._runners = self._supervisor.runners
        self._plans = Plans(settings, self._runners, fetch_plan, self._plan_is_unavailable)
        self._tasks: dict[TaskKey, Dispatch] = {}
        self._cpu_backlog: deque[Dispatch] = deque()
        self._io_backlog: deque[Dispatch] = deque()
        self._next_ticket = 1
        self._outcomes: list[TaskOutcome] = []
        self._heartbeats: list[TaskHeartbeat] = []
        self._log_lines: list[LogLine] = []
        self._delivery_is_scheduled = False
        self._watch_timer: asyncio.TimerHandle | None = None
        self._is_empty = asyncio.Event()
        self._finished = self._lost = self._handed_again = self._garbage = self._outstanding_peak = 0

    # ---- life

    async def start(self) -> None:
        """Start the runners and wait until all are ready. Raises WorkerStartFailed, with nothing left running."""
        self._loop = asyncio.get_running_loop()
        await self._supervisor.start()

    async def close(self, *, drain_s: float = 0.0) -> None:
        """End all runners. Idempotent.

        With `drain_s`, tasks may finish that long; what is left ends as Lost, delivered before this returns.
        """
        if drain_s > 0 and self._tasks:
            self._is_empty.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    await self._is_empty.wait()
        await self._plans.close()
        await self._supervisor.close()
        if self._watch_timer is not None:
            self._watch_timer.cancel()
        for dispatch in list(self._tasks.values()):
            self._finish(dispatch, dispatch.lost("pool_closed", "the worker was shut down", started=False))
        self._deliver()

    # ---- tasks

    @property
    def credits_max(self) -> int:
        """How many tasks may usefully be with this pool at once; more are accepted, and wait in its backlog."""
        return len(self._runners) * (self._settings.cpu_tasks_max + self._settings.io_tasks_max)

    @property
    def outstanding(self) -> int:
        """Tasks without an outcome."""
        return len(self._tasks)

    def submit(self, frames: Sequence[TaskFrame]) -> None:
        """Take these tasks; each gets exactly one outcome. A task that is already here is not taken again.

        Raises Overloaded, with none of them taken, when the backlog would exceed `backlog_max`.
        """
        if self._supervisor.is_closing:
            raise Overloaded("the worker is shutting down", limit="worker_closed")
        tasks, settings = self._tasks, self._settings
        if len(tasks) + len(frames) > settings.backlog_max + self.credits_max:
            raise Overloaded(
                f"the worker has {len(tasks)} tasks already (limit: {settings.backlog_max} waiting)",
                limit="backlog_max",
            )
        for frame in frames:
            task = frame.task
            key = (task.execution_id, task.segment, task.path, task.attempt)
            if key in tasks:
                continue
            limit_s = task.deadline_s if task.deadline_s is not None else settings.task_wall_s_max
            dispatch = tasks[key] = Dispatch(frame, key, limit_s)
            self._enqueue(dispatch)
        self._outstanding_peak = max(self._outstanding_peak, len(tasks))
        self._hand_out()

    def cancel(self, execution_id: str, segment: int, path: tuple[int, ...], attempt: int) -> None:
        """Stop this attempt: its outcome is the error `cancelled` unless it ends by itself before. Unknown: nothing."""
        dispatch = self._tasks.get((execution_id, segment, path, attempt))
        if dispatch is not None and dispatch.stop is None:
            self._stop(dispatch, "cancelled", "the execution was cancelled")

    def cancel_writes(self, message: str) -> None:
        """Stop every attempt that may write: this node has no leader any more, another may soon repeat them."""
        for dispatch in list(self._tasks.values()):
            if dispatch.frame.effect == "write" and dispatch.stop is None:
                self._stop(dispatch, "cancelled", message)

    def running(self) -> list[TaskKey]:
        """The attempts that are with this pool: what a worker reports to a new leader."""
        return list(self._tasks)

    def stats(self) -> PoolStats:
        """A snapshot; cheap."""
        supervisor = self._supervisor
        processes = [runner.process for runner in self._runners]
        return PoolStats(
            slots=len(self._runners),
            runners_ready=sum(runner.is_ready for runner in self._runners),
            runner_pids=tuple(process.pid for process in processes if process is not None),
            backlog=len(self._cpu_backlog) + len(self._io_backlog),
            waiting_for_plan=self._plans.waiting,
            running_cpu=sum(runner.cpu for runner in self._runners),
            running_io=sum(runner.io for runner in self._runners),
            finished=self._finished,
            lost=self._lost,
            handed_again=self._handed_again,
            runners_started=supervisor.runners_started,
            runners_lost=supervisor.runners_lost,
            garbage=self._garbage,
            outstanding_peak=self._outstanding_peak,
            start_error=supervisor.start_error,
        )

    # ---- handing out

    def _enqueue(self, dispatch: Dispatch, *, in_front: bool = False) -> None:
        """Where a task goes that is with no runner: to its end, to its plan, or to a backlog."""
        if dispatch.stop is not None:
            self._finish(dispatch, dispatch.failed(dispatch.stop_error(dispatch.stop)))
            return
        task = dispatch.frame.task
        if dispatch.profile is None:
            plan = self._plans.answered(task.plan_hash)
            if plan is None:
                self._plans.wait(dispatch)
                return
            if plan.segments is None or not 0 <= task.segment < len(plan.segments):
                message = plan.error or f"the plan has no segment {task.segment}"
                self._finish(
                    dispatch, dispatch.failed(dispatch.error("plan_invalid", message, retryable=False))
                )
                return
            dispatch.profile = plan.segments[task.segment]
        backlog = self._io_backlog if dispatch.is_io else self._cpu_backlog
        if in_front:
            backlog.appendleft(dispatch)
        else:
            backlog.append(dispatch)

    def _hand_out(self) -> None:
        """Give the backlogs to the runners that have room; one system call for each runner."""
        if not self._cpu_backlog and not self._io_backlog:
            return
        usable = [
            runner
            for runner in self._runners
            if runner.can_be_used and runner.process.unsent_bytes < UNSENT_BYTES_MAX  # type: ignore[union-attr]
        ]
        batches: dict[int, list[Dispatch]] = {}
        if self._cpu_backlog:
            works = [
                (runner.cpu_cost_us, runner.slot, self._settings.cpu_tasks_max - runner.cpu)
                for runner in usable
                if not runner.is_slow
            ]
            _spread(self._cpu_backlog, works, PACK_US, batches)
        if self._io_backlog:
            counts = [
                (float(runner.io), runner.slot, self._settings.io_tasks_max - runner.io) for runner in usable
            ]
            _spread(self._io_backlog, counts, 0.0, batches)
        for slot, batch in batches.items():
            self._hand_to(self._runners[slot], batch)
        if batches and self._watch_timer is None:
            self._watch_timer = self._loop.call_later(WATCH_INTERVAL_S, self._watch)

    def _hand_to(self, runner: Runner, batch: list[Dispatch]) -> None:
        process = runner.process
        assert process is not None
        frames = bytearray()
        tasks = []
        now = time.monotonic()
        known_hash = b""
        for dispatch in batch:
            task = dispatch.frame.task
            if task.plan_hash != known_hash:
                plan_frames = self._plans.frames_for(process, task.plan_hash)
                if plan_frames is None:
                    self._plans.wait(dispatch)
                    continue
                known_hash = task.plan_hash
                frames += plan_frames
            dispatch.ticket = ticket = self._next_ticket
            self._next_ticket += 1
            dispatch.runner = runner
            dispatch.handed_at = now
            dispatch.times_handed += 1
            runner.tasks[ticket] = dispatch
            if not dispatch.is_io:
                dispatch.cost_us = dispatch.profile.cost_us  # type: ignore[union-attr]
                runner.cpu_cost_us += dispatch.cost_us
                runner.cpu += 1
            tasks.append((ticket, dispatch.wall_s, task))
        if tasks:
            frames += encode_frame(ToTasks(tasks))
        process.send(frames)

    def _release(self, dispatch: Dispatch) -> None:
        """The task is no longer with its runner."""
        runner = dispatch.runner
        assert runner is not None
        del runner.tasks[dispatch.ticket]
        if not dispatch.is_io:
            runner.cpu -= 1
            runner.cpu_cost_us = runner.cpu_cost_us - dispatch.cost_us if runner.cpu else 0.0
        dispatch.runner = None
        dispatch.ticket = 0

    # ---- stopping and watching

    def _stop(self, dispatch: Dispatch, code: Literal["cancelled", "timeout"], message: str) -> None:
        dispatch.stop = stop = ToStop(dispatch.ticket, code, message)
        runner = dispatch.runner
        if runner is not None and runner.process is not None:
            runner.process.send(encode_frame(stop))
            self._loop.call_later(self._settings.stop_grace_s, self._enforce_stop, dispatch, dispatch.ticket)
            return
        if not self._plans.forget(dispatch):
            (self._io_backlog if dispatch.is_io else self._cpu_backlog).remove(dispatch)
        self._finish(dispatch, dispatch.failed(dispatch.stop_error(stop)))

    def _enforce_stop(self, dispatch: Dispatch, ticket: int) -> None:
        """The grace period is over: a task that is still there takes its runner with it."""
        if dispatch.runner is None or dispatch.ticket != ticket or dispatch.stop is None:
            return
        error = dispatch.stop_error(dispatch.stop)
        reason = f"a task in it did not end when it was asked to ({dispatch.stop.code})"
        self._supervisor.kill(dispatch.runner, Sentence("runner_replaced", reason, ticket, error))

    def _watch(self) -> None:
        """Look at what the runners are doing, every WATCH_INTERVAL_S while tasks are with them."""
        self._watch_timer = None
        if not any(runner.tasks for runner in self._runners):
            return
        self._watch_timer = self._loop.call_later(WATCH_INTERVAL_S, self._watch)
        now_ns = time.monotonic_ns()
        for runner in self._runners:
            if not runner.tasks or runner.process is None or not runner.can_be_used:
                continue
            verdict = look(runner, runner.process.page.words, now_ns, self._settings)
            if isinstance(verdict, Sentence):
                self._supervisor.kill(runner, verdict)
            elif verdict is Verdict.SLOW and not runner.is_slow:
                runner.is_slow = True
                if runner.cpu > 1:
                    runner.process.send(encode_frame(ToReturn()))

    # ---- what runners say (SupervisorEvents)

    def on_ready(self, runner: Runner) -> None:
        self._plans.ask_again()
        self._hand_out()

    def on_message(self, runner: Runner, message: FromRunner) -> None:
        match message:
            case FromResults():
                self._take_results(runner, message)
            case FromPlan():
                runner.plans_asked.discard(message.plan_hash)
                for dispatch in self._plans.learn(message):
                    self._enqueue(dispatch)
                self._hand_out()
            case FromReturned():
                self._take_back(runner, message.tickets)
            case FromHeartbeat():
                self._take_heartbeat(runner, message)
            case FromLog():
                self._take_log(runner, message)
            case FromStuck():
                self._take_stuck(runner, message.ticket)

    def on_garbage(self, runner: Runner, reason: str) -> None:
        self._garbage += 1
        self._supervisor.kill(runner, Sentence("runner_died", f"it sent what is no message: {reason}"))

    def on_output(self, runner: Runner, stream: str, text: str) -> None:
        assert runner.process is not None
        ticket = runner.process.page.words[CPU_TICKET]
        named: Stream = "stderr" if stream == "stderr" else "stdout"
        self._take_log(runner, FromLog(ticket, named, text))

    def on_lost(self, lost: LostRunner) -> None:
        code, reason = _cause(lost)
        sentence = lost.sentence
        for ticket in sorted(lost.tasks, key=lambda ticket: (ticket != lost.running, ticket)):
            dispatch = lost.tasks[ticket]
            started = dispatch.has_started(lost.cpu_last_started)
            dispatch.runner = None
            dispatch.ticket = 0
            if self._supervisor.is_closing:
                outcome = dispatch.lost("pool_closed", "the worker was shut down", started=started)
            elif sentence is not None and sentence.ticket == ticket and sentence.error is not None:
                outcome = dispatch.failed(sentence.error)
            elif not started and dispatch.times_handed < HANDED_MAX:
                self._handed_again += 1
                self._enqueue(dispatch)
                continue
            else:
                at_fault = sentence is None and ticket == lost.running
                outcome = dispatch.lost(code, reason, started=started, at_fault=at_fault)
            self._finish(dispatch, outcome)
        if not self._supervisor.is_closing:
            self._plans.ask_again()
            self._hand_out()

    def _take_results(self, runner: Runner, message: FromResults) -> None:
        for ticket, result, wall_us, cpu_us, memory_bytes in message.results:
            dispatch = runner.tasks.get(ticket)
            if dispatch is None:
                self._garbage += 1
                continue
            try:
                _check_result(result)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                self.on_garbage(runner, f"a result that does not decode: {error}")
                return
            if not dispatch.is_io:
                runner.is_slow = False
                dispatch.profile.learn_cost(wall_us)  # type: ignore[union-attr]
            self._release(dispatch)
            inputs = dispatch.frame.task.inputs
            bytes_in = sum(map(len, inputs.values())) if inputs else 0
            usage = Usage(wall_us, cpu_us, memory_bytes, bytes_in, len(result))
            self._finish(dispatch, TaskOutcome(*dispatch.key, result, None, usage))
        self._hand_out()

    def _take_back(self, runner: Runner, tickets: list[int]) -> None:
        returned = [runner.tasks[ticket] for ticket in tickets if ticket in runner.tasks]
        for dispatch in reversed(returned):  # each to the front: so they keep their order
            self._release(dispatch)
            dispatch.times_handed -= 1
            self._handed_again += 1
            self._enqueue(dispatch, in_front=True)
        self._hand_out()

    def _take_stuck(self, runner: Runner, ticket: int) -> None:
        dispatch = runner.tasks.get(ticket)
        if dispatch is None:
            return
        stop = dispatch.stop or ToStop(ticket, "timeout", dispatch.overrun_message())
        reason = "a step in it does not let itself be cancelled"
        error = dispatch.stop_error(stop)
        self._supervisor.kill(runner, Sentence("runner_replaced", reason, ticket, error))

    def _take_heartbeat(self, runner: Runner, message: FromHeartbeat) -> None:
        dispatch = runner.tasks.get(message.ticket)
        if dispatch is not None and self._on_heartbeats is not None:
            self._heartbeats.append(TaskHeartbeat(*dispatch.key, message.details))
            self._schedule_delivery()

    def _take_log(self, runner: Runner, message: FromLog) -> None:
        assert runner.process is not None
        line = LogLine(message.text, message.stream, runner.process.pid, fields=message.fields)
        dispatch = runner.tasks.get(message.ticket)
        if dispatch is not None:
            line = LogLine(
                message.text, message.stream, runner.process.pid, *dispatch.key, fields=message.fields
            )
        self._log_lines.append(line)
        self._schedule_delivery()

    def _plan_is_unavailable(self, waiting: list[Dispatch], why: str) -> None:
        for dispatch in waiting:
            reason = f"the definition could not be fetched: {why}"
            self._finish(dispatch, dispatch.lost("plan_unavailable", reason, started=False))

    # ---- delivery

    def _finish(self, dispatch: Dispatch, outcome: TaskOutcome) -> None:
        del self._tasks[dispatch.key]
        self._finished += 1
        if outcome.lost is not None:
            self._lost += 1
        self._outcomes.append(outcome)
        if not self._tasks:
            self._is_empty.set()
        self._schedule_delivery()

    def _schedule_delivery(self) -> None:
        if not self._delivery_is_scheduled:
            self._delivery_is_scheduled = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._delivery_is_scheduled = False
        if self._log_lines:
            lines, self._log_lines = self._log_lines, []
            self._on_logs(lines)
        if self._heartbeats and self._on_heartbeats is not None:
            heartbeats, self._heartbeats = self._heartbeats, []
            self._on_heartbeats(heartbeats)
        if self._outcomes:
            outcomes, self._outcomes = self._outcomes, []
            self._on_results(outcomes)


def _spread(
    backlog: deque[Dispatch],
    loads: list[tuple[float, int, int]],
    negligible: float,
    batches: dict[int, list[Dispatch]],
) -> None:
    """Move tasks from the backlog into the batches of the least loaded slots.

    `loads` are (load, slot, room). Loads up to `negligible` count as equal; of equal ones the lowest slot is taken.
    """
    heap = [(max(load, negligible), slot, room, load) for load, slot, room in loads if room > 0]
    heapq.heapify(heap)
    while backlog and heap:
        _, slot, room, load = heap[0]
        dispatch = backlog.popleft()
        batches.setdefault(slot, []).append(dispatch)
        if room == 1:
            heapq.heappop(heap)
            continue
        assert dispatch.profile is not None
        load += 1.0 if dispatch.is_io else dispatch.profile.cost_us
        heapq.heapreplace(heap, (max(load, negligible), slot, room - 1, load))


def _cause(lost: LostRunner) -> tuple[LostCode, str]:
    """Why a runner is gone: code and text."""
    if lost.sentence is not None:
        return lost.sentence.code, f"the runner was killed: {lost.sentence.reason}"
    if lost.status == -signal.SIGKILL:
        how = exit_text(lost.status)
        return "out_of_memory", f"the runner was ended by {how}, most likely for lack of memory"
    return "runner_died", f"the runner ended by itself: {exit_text(lost.status)}"


def log_to_logger(lines: Iterable[LogLine]) -> None:
    """What steps log and print, as lines of the node's own log."""
    for line in lines:
        level = logging.WARNING if line.stream == "stderr" else logging.INFO
        extra: dict[str, object] = {"event": f"step.{line.stream}", "runner_pid": line.runner_pid}
        if line.execution_id is not None:
            extra |= {
                "execution_id": line.execution_id,
                "segment": line.segment,
                "path": line.path,
                "attempt": line.attempt,
            }
        if line.fields:
            extra["fields"] = line.fields
        log.log(level, "%s", line.text, extra=extra)
