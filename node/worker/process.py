"""One runner process as the node sees it: started, spoken to, watched, killed, buried. Decides nothing about tasks.

Everything runs on the node's event loop; the owner (`pool.py`) gets calls of its `RunnerEvents`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import IO, Final, Protocol

import msgspec

from node.worker.frames import FrameInvalid, FrameSplitter, encode_frame
from node.worker.messages import FromRunner, RunnerSettings, ToForget, ToPlan
from node.worker.page import SharedPage, create_page

READ_BYTES: Final = 256 * 1024
OUTPUT_LINE_BYTES_MAX: Final = 8192  # of what C code writes to a runner's standard streams
OUTPUT_BYTES_PER_S_MAX: Final = 65_536  # beyond it lines are dropped, with one that says so

_decoder: Final = msgspec.msgpack.Decoder(FromRunner)


class RunnerEvents(Protocol):
    """What a runner process tells its owner."""

    def on_message(self, runner: RunnerProcess, message: FromRunner) -> None: ...

    def on_garbage(self, runner: RunnerProcess, reason: str) -> None:
        """It sent what is no message; nothing more will be read from it."""

    def on_output(self, runner: RunnerProcess, stream: str, text: str) -> None:
        """A line on its standard output or error that did not come through Python."""

    def on_death(self, runner: RunnerProcess, status: int) -> None:
        """It is gone, every message that it sent has been delivered. `status`: as in subprocess, -9 for SIGKILL."""


class RunnerProcess:
    """A child process that runs `node.worker.runner`, and the sockets to it."""

    def __init__(
        self, settings: RunnerSettings, environment: Mapping[str, str], events: RunnerEvents
    ) -> None:
        """Starts the process at once. Needs a running event loop; call it on the thread that lives longest, because
        the death of the starting thread ends the runner. Raises OSError when no process can be made."""
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._unsent = bytearray()
        self._splitter = FrameSplitter(settings.frame_bytes_max)
        self._is_readable = True
        self.is_dead = False
        # hash -> bytes of JSON, least recently used first
        self.plans: OrderedDict[bytes, int] = OrderedDict()
        self.plan_bytes = 0
        page_descriptor = create_page()
        try:
            self.page = SharedPage(page_descriptor)
            self._inbox, their_inbox = socket.socketpair()
            self._outbox, their_outbox = socket.socketpair()
            with their_inbox, their_outbox:
                descriptors = (their_inbox.fileno(), their_outbox.fileno(), page_descriptor)
                arguments = [*map(str, descriptors), str(settings.frame_bytes_max)]
                self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    [sys.executable, "-m", "node.worker.runner", *arguments],
                    pass_fds=descriptors,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=dict(environment),
                    start_new_session=True,
                )
        finally:
            os.close(page_descriptor)
        self.pid = self._process.pid
        self._pidfd = os.pidfd_open(self.pid)
        self._output_since, self._output_bytes_left = 0.0, OUTPUT_BYTES_PER_S_MAX
        self._outputs: dict[IO[bytes], tuple[str, bytearray]] = {}
        self._watch()
        self.send(encode_frame_of_settings(settings))

    def _watch(self) -> None:
        self._inbox.setblocking(False)
        self._outbox.setblocking(False)
        self._loop.add_reader(self._outbox.fileno(), self._read)
        self._loop.add_reader(self._pidfd, self._bury)
        for name, pipe in (("stdout", self._process.stdout), ("stderr", self._process.stderr)):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            self._outputs[pipe] = (name, bytearray())
            self._loop.add_reader(pipe.fileno(), self._read_output, pipe)

    @property
    def unsent_bytes(self) -> int:
        """What the runner has not taken yet: it does not read fast enough."""
        return len(self._unsent)

    def send(self, frames: bytes | bytearray) -> None:
        """Hand over one or several frames, in one system call when the socket takes them."""
        if self.is_dead:
            return
        if self._unsent:
            self._unsent += frames
            return
        try:
            sent = self._inbox.send(frames)
        except BlockingIOError:
            sent = 0
        except OSError:  # it is dying: its death will be reported
            return
        if sent < len(frames):
            self._unsent += memoryview(frames)[sent:]
            self._loop.add_writer(self._inbox.fileno(), self._write)

    def frames_for_plan(
        self, plan_hash: bytes, definition: bytes, *, plans_max: int, bytes_max: int
    ) -> bytearray:
        """Frames that make the runner know the plan, none if it does; beyond the bounds it forgets the least used.

        A runner resolves plans as it reads tasks, so one may be forgotten while its tasks still run.
        """
        if plan_hash in self.plans:
            self.plans.move_to_end(plan_hash)
            return bytearray()
        self.plans[plan_hash] = len(definition)
        self.plan_bytes += len(definition)
        frames = encode_frame(ToPlan(plan_hash, definition))
        while len(self.plans) > 1 and (len(self.plans) > plans_max or self.plan_bytes > bytes_max):
            forgotten, size = self.plans.popitem(last=False)
            self.plan_bytes -= size
            frames += encode_frame(ToForget(forgotten))
        return frames

    def forget_plan(self, plan_hash: bytes) -> None:
        """Next time the plan is sent again, and answered again."""
        self.plan_bytes -= self.plans.pop(plan_hash, 0)

    def kill(self) -> None:
        """SIGKILL to the runner and to what its steps have started; `on_death` follows."""
        if not self.is_dead:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def _write(self) -> None:
        try:
            sent = self._inbox.send(self._unsent)
        except BlockingIOError:
            return
        except OSError:
            sent = len(self._unsent)
        del self._unsent[:sent]
        if not self._unsent:
            self._loop.remove_writer(self._inbox.fileno())

    def _read(self) -> None:
        self._read_once()

    def _read_once(self) -> bool:
        """Deliver what one read gives; False when there was nothing."""
        if not self._is_readable:
            return False
        try:
            received = self._outbox.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            received = b""
        if not received:  # its death follows, or it has closed the socket by itself
            self._stop_reading()
            return False
        try:
            for body in self._splitter.feed(received):
                self._events.on_message(self, _decoder.decode(body))
        except (msgspec.DecodeError, FrameInvalid) as error:
            self._stop_reading()
            self._events.on_garbage(self, str(error))
        return True

    def _stop_reading(self) -> None:
        if self._is_readable:
            self._is_readable = False
            self._loop.remove_reader(self._outbox.fileno())

    def _read_output(self, pipe: IO[bytes]) -> None:
        name, pending = self._outputs[pipe]
        try:
            received = os.read(pipe.fileno(), READ_BYTES)
        except BlockingIOError:
            return
        if not received:
            self._loop.remove_reader(pipe.fileno())
            received = b"\n" if pending else b""
        pending += received
        *lines, rest = bytes(pending).split(b"\n")
        if len(rest) > OUTPUT_LINE_BYTES_MAX:
            lines.append(rest)
            rest = b""
        pending[:] = rest
        for line in lines:
            if line and self._output_budget_allows(len(line)):
                text = line[:OUTPUT_LINE_BYTES_MAX].decode("utf-8", "replace")
                self._events.on_output(self, name, text)

    def _output_budget_allows(self, size: int) -> bool:
        now = self._loop.time()
        if now - self._output_since > 1.0:
            self._output_since, self._output_bytes_left = now, OUTPUT_BYTES_PER_S_MAX
        if self._output_bytes_left <= 0:
            return False
        self._output_bytes_left -= size
        if self._output_bytes_left <= 0:
            self._events.on_output(self, "stderr", "… (the runner prints too much; the rest is dropped)")
            return False
        return True

    def _bury(self) -> None:
        """The process has ended: deliver its last words, release everything, report."""
        self._loop.remove_reader(self._pidfd)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            # What its steps have started dies with it; before `wait` makes its id free for others.
            os.killpg(self.pid, signal.SIGKILL)
        status = self._process.wait()
        while self._read_once():
            pass
        self.is_dead = True
        self._stop_reading()
        self._loop.remove_writer(self._inbox.fileno())
        for pipe in self._outputs:
            self._read_output(pipe)
            self._loop.remove_reader(pipe.fileno())
            pipe.close()
        os.close(self._pidfd)
        self._inbox.close()
        self._outbox.close()
        self._events.on_death(self, status)
        self.page.close()


def encode_frame_of_settings(settings: RunnerSettings) -> bytes:
    """The first frame to a runner: its settings, without a tag."""
    body = msgspec.msgpack.encode(settings)
    return len(body).to_bytes(4, "little") + body


def exit_text(status: int) -> str:
    """How a process ended, for people."""
    if status >= 0:
        return f"exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "unknown"
    return f"signal {-status} ({name})"
