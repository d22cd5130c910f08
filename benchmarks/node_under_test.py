"""A real node, started for a run: `python -m cli.main start` with a data directory of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from benchmarks.load_client import ask, get
from benchmarks.report import children_of

START_S_MAX = 30.0
STOP_S_MAX = 30.0


class NodeFailed(Exception):
    """The node does not run; the text has what it printed last."""


@dataclass(frozen=True, slots=True)
class Node:
    """Where it listens, and its process; `pid` is None for a node that somebody else started."""

    host: str
    port: int
    pid: int | None
    started_s: float

    def groups(self) -> dict[str, list[int]]:
        """Processes by part, for a CpuMeter."""
        if self.pid is None:
            return {"client": [os.getpid()]}
        return {"client": [os.getpid()], "node": [self.pid], "runners": children_of(self.pid)}


@asynccontextmanager
async def running_node(*, data_parent: Path | None, slots: str = "auto") -> AsyncIterator[Node]:
    """A fresh node with the benchmarks' step types; its data directory is removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="thaiyyal-bench-", dir=data_parent))
    port = _free_port()
    log = directory / "node.log"
    started = monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "cli.main", "start"),
                *("--data-dir", str(directory / "data"), "--api", f"127.0.0.1:{port}"),
                *("--slots", slots, "--load", "benchmarks.steps", "--log-level", "warning"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        await _wait_ready(process, port, log)
        yield Node("127.0.0.1", port, process.pid, monotonic() - started)
        if process.poll() is not None:
            raise NodeFailed(f"the node ended during the run:\n{log.read_text()[-4000:]}")
    finally:
        await asyncio.get_running_loop().run_in_executor(None, _stop, process)
        shutil.rmtree(directory, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _wait_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = monotonic() + START_S_MAX
    while monotonic() < deadline:
        if process.poll() is not None:
            raise NodeFailed(f"the node does not start:\n{log.read_text()[-4000:]}")
        try:
            if (await ask("127.0.0.1", port, get("/readyz")))[0] == 200:
                return
        except OSError:
            pass
        await asyncio.sleep(0.05)
    raise NodeFailed(f"the node is not ready after {START_S_MAX:g} s:\n{log.read_text()[-4000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
