"""Inside a runner: one attempt while it runs, what it reports, and the way out to the node.

Any thread may report; the way out is one socket behind one lock.
"""

from __future__ import annotations

import io
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final, Literal

from node.worker.frames import encode_frame
from node.worker.messages import FromHeartbeat, FromLog, FromRunner, RunnerSettings, Stream, Task, ToStop
from node.worker.segments import LoadedPlan
from node.worker.user_steps import Attempt, current_attempt

HEARTBEAT_INTERVAL_S: Final = 0.05  # heartbeats that come faster are merged: the newest details win
FIELD_BYTES_MAX: Final = 1024  # of one field of a log line


class Outbox:
    """The socket to the node. When the node is gone there is nothing left to do: the process ends."""

    def __init__(self, outbox: socket.socket) -> None:
        self._socket = outbox
        self._lock = threading.Lock()

    def send(self, message: FromRunner) -> None:
        """Blocks while the node does not read."""
        frame = encode_frame(message)
        try:
            with self._lock:
                self._socket.sendall(frame)
        except OSError:
            os._exit(1)


class RunningAttempt:
    """One task that this runner has, from when it was read to its result."""

    __slots__ = (
        "_heartbeat_at",
        "_heartbeat_merged",
        "_log_bytes_left",
        "_outbox",
        "_settings",
        "cancelled",
        "kind",
        "loaded",
        "stop",
        "task",
        "ticket",
        "wall_s",
    )

    def __init__(
        self,
        ticket: int,
        wall_s: float,
        task: Task,
        loaded: LoadedPlan,
        outbox: Outbox,
        settings: RunnerSettings,
    ) -> None:
        self.ticket = ticket
        self.wall_s = wall_s
        self.task = task
        self.loaded = loaded
        self.kind = loaded.kinds[task.segment]
        self.cancelled = False
        self.stop: ToStop | None = None  # once the node asked for its end
        self._outbox = outbox
        self._settings = settings
        self._log_bytes_left = settings.log_bytes_per_attempt_max
        self._heartbeat_at = 0.0
        self._heartbeat_merged: bytes | None = None

    def report_heartbeat(self, details: bytes) -> None:
        now = time.monotonic()
        if now - self._heartbeat_at < HEARTBEAT_INTERVAL_S:
            self._heartbeat_merged = details
            return
        self._heartbeat_at = now
        self._heartbeat_merged = None
        self._outbox.send(FromHeartbeat(self.ticket, details))

    def report_merged_heartbeat(self) -> None:
        """What the last interval held back; before a failure is reported, for the next attempt to have it."""
        if self._heartbeat_merged is not None:
            self._outbox.send(FromHeartbeat(self.ticket, self._heartbeat_merged))
            self._heartbeat_merged = None

    def report_log(self, stream: Stream, text: str, fields: Mapping[str, Any]) -> None:
        if self._log_bytes_left <= 0:
            return
        text = text[: self._settings.log_line_bytes_max]
        self._log_bytes_left -= len(text) + 1
        if self._log_bytes_left <= 0:
            text += " … (this attempt logs too much; the rest is dropped)"
        self._outbox.send(FromLog(self.ticket, stream, printable(text), _plain_fields(fields)))


def _plain_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        if isinstance(value, bool | int | float | None)
        else printable(str(value)[:FIELD_BYTES_MAX])
        for name, value in fields.items()
    }


def printable(text: str) -> str:
    """The text as UTF-8 can carry it."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


class AttemptStream(io.TextIOBase):
    """Stands in for sys.stdout or sys.stderr: whole lines become log lines of the attempt that printed them."""

    def __init__(self, stream: Literal["stdout", "stderr"], outbox: Outbox, line_bytes_max: int) -> None:
        super().__init__()
        self._stream = stream
        self._outbox = outbox
        self._line_bytes_max = line_bytes_max
        self._pending: ContextVar[str] = ContextVar(f"pending_{stream}", default="")

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1 if self._stream == "stdout" else 2

    def write(self, text: str, /) -> int:
        lines = (self._pending.get() + text).split("\n")
        rest = lines.pop()
        if len(rest) > self._line_bytes_max:
            lines.append(rest)
            rest = ""
        self._pending.set(rest)
        for line in lines:
            self._report(line)
        return len(text)

    def flush(self) -> None:
        """Nothing: a line that is not complete waits for its end, or for the end of its attempt."""

    def end_line(self) -> None:
        """The attempt is over: what it printed without a newline at the end is a line too."""
        rest = self._pending.get()
        if rest:
            self._pending.set("")
            self._report(rest)

    def _report(self, line: str) -> None:
        attempt: Attempt | None = current_attempt.get(None)
        if attempt is not None:
            attempt.report_log(self._stream, line, {})
        elif line:
            self._outbox.send(FromLog(0, self._stream, printable(line[: self._line_bytes_max])))


def capture_output(outbox: Outbox, line_bytes_max: int) -> tuple[AttemptStream, AttemptStream]:
    """Replace sys.stdout and sys.stderr; what C code writes to the descriptors goes through the node's pipes."""
    streams = (
        AttemptStream("stdout", outbox, line_bytes_max),
        AttemptStream("stderr", outbox, line_bytes_max),
    )
    sys.stdout, sys.stderr = streams
    return streams
