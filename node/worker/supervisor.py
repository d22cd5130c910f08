"""Keeps the runner processes of a pool alive: starts them, and replaces at once those that die.

A runner that dies while it starts is tried again after a delay that doubles; at the node's own start that is final,
because a module that does not load will not load later either. Knows nothing of what tasks are.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from dataclasses import dataclass, field
from typing import Protocol

from node.errors import ThaiyyalError
from node.worker.dispatch import Dispatch
from node.worker.messages import FromFailed, FromReady, FromRunner, LostCode, RunnerSettings, StepError
from node.worker.page import CPU_LAST_STARTED, CPU_TICKET, LOOP_TICKET
from node.worker.process import RunnerProcess, exit_text
from node.worker.settings import WorkerSettings, language_settings_to_plain

log = logging.getLogger("thaiyyal.worker")


class WorkerStartFailed(ThaiyyalError):
    """The runners cannot start; the text says why."""

    code = "worker_start_failed"
    definite = True


@dataclass(frozen=True, slots=True)
class Sentence:
    """Why a runner was killed. The guilty task, if there is one, gets `error` as its result."""

    code: LostCode
    reason: str
    ticket: int = 0
    error: StepError | None = None


@dataclass(frozen=True, slots=True)
class LostRunner:
    """What is known of a runner that is gone; `tasks` are those that were with it, by ticket."""

    pid: int
    status: int
    sentence: Sentence | None
    tasks: dict[int, Dispatch]
    running: int  # ticket of the task that it ran at that moment, 0: none, or waiting for I/O
    cpu_last_started: int


@dataclass(slots=True, eq=False)
class Runner:
    """A slot: its present process, and what the pool has handed to it.

    Process, readiness and sentence belong to the supervisor; the rest to the pool.
    """

    slot: int
    process: RunnerProcess | None = None
    is_ready: bool = False
    sentence: Sentence | None = None
    restart_delay_s: float = 0.0
    start_timer: asyncio.TimerHandle | None = None  # the limit of a start, or the delay before the next one

    is_slow: bool = False  # its CPU task takes long: nothing is queued behind it
    tasks: dict[int, Dispatch] = field(default_factory=dict)  # by ticket, ascending
    cpu: int = 0  # of them
    cpu_cost_us: float = 0.0  # what these are expected to take together
    plans_asked: set[bytes] = field(default_factory=set)  # sent, not answered

    @property
    def io(self) -> int:
        return len(self.tasks) - self.cpu

    @property
    def can_be_used(self) -> bool:
        return self.is_ready and self.process is not None and self.sentence is None


class SupervisorEvents(Protocol):
    """What the owner of a supervisor is told."""

    def on_ready(self, runner: Runner) -> None: ...

    def on_message(self, runner: Runner, message: FromRunner) -> None: ...

    def on_garbage(self, runner: Runner, reason: str) -> None: ...

    def on_output(self, runner: Runner, stream: str, text: str) -> None: ...

    def on_lost(self, lost: LostRunner) -> None:
        """A runner that was ready is gone; its slot is being filled again, unless the supervisor is closing."""


class Supervisor:
    """The slots of a pool. Everything runs on the event loop of `start`."""

    def __init__(self, slots: int, settings: WorkerSettings, events: SupervisorEvents) -> None:
        self.runners = [Runner(slot) for slot in range(slots)]
        self.start_error: str | None = None  # why the last runner could not start
        self.runners_started = 0
        self.runners_lost = 0
        self.is_closing = False
        self._settings = settings
        self._events = events
        self._by_process: dict[RunnerProcess, Runner] = {}
        self._started: asyncio.Future[None] | None = None
        self._all_dead = asyncio.Event()

    async def start(self) -> None:
        """Returns when all runners are ready. Raises WorkerStartFailed, with nothing left running."""
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.create_future()
        self._import_path = [path or os.getcwd() for path in sys.path]
        self._environment = self._settings.scrubbed_environment(os.environ, self._import_path)
        try:
            for runner in self.runners:
                self._spawn(runner)
            await self._started
        except OSError as error:
            await self.close()
            raise WorkerStartFailed(f"no runner process can be started: {error}") from error
        except (WorkerStartFailed, asyncio.CancelledError):
            await self.close()
            raise

    async def close(self) -> None:
        """Kill all runners and wait until they are gone. Idempotent."""
        self.is_closing = True
        for runner in self.runners:
            if runner.start_timer is not None:
                runner.start_timer.cancel()
            if runner.process is not None:
                runner.process.kill()
        while self._by_process:
            self._all_dead.clear()
            await self._all_dead.wait()

    def kill(self, runner: Runner, sentence: Sentence) -> None:
        """End the runner because of `sentence`; `on_lost` follows. Nothing if it is dying already."""
        if runner.process is None or runner.sentence is not None:
            return
        runner.sentence = sentence
        runner.process.kill()

    # ---- RunnerEvents

    def on_message(self, process: RunnerProcess, message: FromRunner) -> None:
        runner = self._by_process[process]
        match message:
            case FromReady():
                self._is_ready(runner)
            case FromFailed():
                self.start_error = message.message
            case _:
                self._events.on_message(runner, message)

    def on_garbage(self, process: RunnerProcess, reason: str) -> None:
        self._events.on_garbage(self._by_process[process], reason)

    def on_output(self, process: RunnerProcess, stream: str, text: str) -> None:
        self._events.on_output(self._by_process[process], stream, text)

    def on_death(self, process: RunnerProcess, status: int) -> None:
        runner = self._by_process.pop(process)
        words = process.page.words
        running = words[CPU_TICKET] or words[LOOP_TICKET]
        lost = LostRunner(
            process.pid, status, runner.sentence, runner.tasks, running, words[CPU_LAST_STARTED]
        )
        was_ready = runner.is_ready
        runner.process = runner.sentence = None
        runner.is_ready = runner.is_slow = False
        runner.tasks, runner.cpu, runner.cpu_cost_us = {}, 0, 0.0
        runner.plans_asked.clear()
        if runner.start_timer is not None:
            runner.start_timer.cancel()
            runner.start_timer = None
        if not self._by_process:
            self._all_dead.set()
        if self.is_closing:
            self._events.on_lost(lost)
        elif was_ready:
            self._log_loss(lost)
            self._spawn_or_wait(runner)
            self._events.on_lost(lost)
        else:
            self._start_failed(runner, status)

    # ---- starting

    def _spawn(self, runner: Runner) -> None:
        """Raises OSError when the system has no process for us."""
        settings = self._settings
        runner.start_timer = None
        runner_settings = RunnerSettings(
            parent_pid=os.getpid(),
            load=settings.load,
            import_path=tuple(self._import_path),
            language=language_settings_to_plain(settings.language),
            address_space_bytes_max=settings.address_space_bytes_max,
            open_files_max=settings.open_files_max,
            result_bytes_max=settings.result_bytes_max,
            frame_bytes_max=settings.frame_bytes_max,
            stop_grace_s=settings.stop_grace_s,
            log_line_bytes_max=settings.log_line_bytes_max,
            log_bytes_per_attempt_max=settings.log_bytes_per_attempt_max,
            http_clients=dict(settings.http_clients),
        )
        runner.process = RunnerProcess(runner_settings, self._environment, self)
        self._by_process[runner.process] = runner
        self.runners_started += 1
        runner.start_timer = self._loop.call_later(settings.start_timeout_s, self._start_overran, runner)

    def _spawn_or_wait(self, runner: Runner) -> None:
        try:
            self._spawn(runner)
        except OSError as error:
            self.start_error = f"no runner process can be started: {error}"
            self._restart_later(runner)

    def _is_ready(self, runner: Runner) -> None:
        if runner.start_timer is not None:
            runner.start_timer.cancel()
            runner.start_timer = None
        runner.is_ready = True
        runner.restart_delay_s = 0.0
        assert self._started is not None
        if not self._started.done() and all(runner.is_ready for runner in self.runners):
            self._started.set_result(None)
        self._events.on_ready(runner)

    def _start_overran(self, runner: Runner) -> None:
        if runner.process is not None:
            self.start_error = f"the runner was not ready after {self._settings.start_timeout_s:g} s"
            runner.process.kill()

    def _start_failed(self, runner: Runner, status: int) -> None:
        reason = self.start_error or f"the runner ended while it started: {exit_text(status)}"
        self.start_error = reason
        assert self._started is not None
        if not self._started.done():
            self._started.set_exception(WorkerStartFailed(reason))
            return
        log.error("runner does not start", extra={"event": "worker.runner_start_failed", "reason": reason})
        self._restart_later(runner)

    def _restart_later(self, runner: Runner) -> None:
        settings = self._settings
        delay = runner.restart_delay_s * 2 or settings.restart_delay_s
        runner.restart_delay_s = min(delay, settings.restart_delay_s_max)
        runner.start_timer = self._loop.call_later(runner.restart_delay_s, self._spawn_or_wait, runner)

    def _log_loss(self, lost: LostRunner) -> None:
        self.runners_lost += 1
        log.warning(
            "runner lost",
            extra={
                "event": "worker.runner_lost",
                "runner_pid": lost.pid,
                "how": exit_text(lost.status),
                "reason": lost.sentence.reason if lost.sentence is not None else "",
                "tasks": len(lost.tasks),
            },
        )
