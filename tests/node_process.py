"""A node as a real process on loopback, for tests that kill it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from thaiyyal.client import RetrySettings, SyncClient

ROOT = Path(__file__).resolve().parent.parent
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0


class NodeProcess:
    """One `thaiyyal-node start` on a free port; `start` again after `kill` works on the same data."""

    def __init__(self, data_dir: Path, *options: str, env: dict[str, str] | None = None) -> None:
        self.data_dir = data_dir
        self.options = options
        self.log_path = data_dir.with_name(data_dir.name + ".log")
        self._env = {**os.environ, **(env or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self.address = ""

    def launch(self, *, api: str = "127.0.0.1:0") -> None:
        """Start the process without waiting for anything."""
        command = [sys.executable, "-m", "cli.main", "start", "--data-dir", str(self.data_dir), "--api", api]
        command += ["--log-format", "json", *self.options]
        with self.log_path.open("ab") as log:
            self._log_from = log.tell()
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=self._env)

    def start(self) -> NodeProcess:
        """Start the process and wait until it is ready."""
        self.launch()
        ready = self.wait_event("node.ready")
        self.address = ready["api"]
        return self

    def wait_event(self, name: str) -> dict[str, Any]:
        """The first log line of this run with this event."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            for line in self.events():
                if line.get("event") == name:
                    return line
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"the node ended with {self.process.returncode}:\n{self.log_text()}")
            time.sleep(0.01)
        raise AssertionError(f"no {name} after {READY_TIMEOUT_S} s:\n{self.log_text()}")

    def log_text(self) -> str:
        """Everything that this run of the process printed."""
        with self.log_path.open("rb") as log:
            log.seek(self._log_from)
            return log.read().decode(errors="replace")

    def events(self) -> list[dict[str, Any]]:
        """The log lines of this run that are JSON."""
        lines = [line for line in self.log_text().splitlines() if line.startswith("{") and line.endswith("}")]
        return [json.loads(line) for line in lines]

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def client(self, **retry: Any) -> SyncClient:
        """A client of this node."""
        return SyncClient(self.address, retry=RetrySettings(**retry))

    def kill(self) -> None:
        """kill -9, and wait until the process is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop; its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(STOP_TIMEOUT_S)

    def wait(self) -> int:
        """Its exit status, once it has ended by itself."""
        assert self.process is not None
        return self.process.wait(STOP_TIMEOUT_S)


@contextmanager
def node(data_dir: Path, *options: str, env: dict[str, str] | None = None) -> Iterator[NodeProcess]:
    """A ready node; killed at the end if it is still there."""
    process = NodeProcess(data_dir, *options, env=env)
    try:
        yield process.start()
    finally:
        if process.process is not None and process.process.poll() is None:
            process.kill()


def run_cli(*arguments: str, node: NodeProcess | None = None, timeout_s: float = 60.0) -> Any:
    """The installed command as a process: returncode, stdout, stderr as text."""
    env = {**os.environ, "COLUMNS": "160"}
    if node is not None:
        env["THAIYYAL_NODE"] = node.address
    command: Sequence[str] = [str(Path(sys.executable).with_name("thaiyyal-node")), *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=timeout_s)
