"""Join, detection and idle cost of real member processes on loopback, next to serf (memberlist) in the same run.

    python -m benchmarks.gossip [--members 5 20] [--kills 5] [--json FILE] [--install-serf] [--no-serf]

Every member is a process of its own, encrypted, with its defaults (serf: the LAN profile). A time is measured
by whoever reads the processes' output, from the newcomer's first line to the last member that reports it, and
from kill -9 to the first and the last member that reports the failure. Serf is skipped, and the table says so,
when it is not installed; --install-serf runs `apt-get install -y serf` first (root).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gossip import Address, Change, Gossip, Keyring, MemberEvent

ROOT = Path(__file__).resolve().parents[1]
KEY = b"benchmark gossip key of 32 bytes"
IDLE_S = 5.0
PATIENCE_S = 60.0


# One member of ours, as a process.


async def live(name: str, port: int, seeds: Sequence[str]) -> None:
    def on_event(event: MemberEvent) -> None:
        if event.change in (Change.JOINED, Change.FAILED):
            print(event.change.value, event.member.node_id, flush=True)

    print("starting", flush=True)
    async with Gossip(
        node_id=name,
        keyring=Keyring([KEY]),
        cluster_id="benchmark",
        bind=Address("127.0.0.1", port),
        seeds=seeds,
        on_event=on_event,
    ):
        await asyncio.Event().wait()


# Clusters of processes.


@dataclass
class Process:
    """A member and when it was first read to say what of whom."""

    name: str
    port: int
    handle: asyncio.subprocess.Process
    said: dict[tuple[str, str], float] = field(default_factory=dict)
    first_line_at: float = 0.0

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.handle.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mb(self) -> float:
        for line in Path(f"/proc/{self.handle.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise RuntimeError(f"{self.name} has no VmRSS: it is gone")


class Cluster:
    """Processes of one program. `kind` is "ours" or "serf"."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.members: dict[str, Process] = {}
        self._readers = asyncio.TaskGroup()
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Cluster:
        await self._readers.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        for member in self.members.values():
            if member.handle.returncode is None:
                member.handle.send_signal(signal.SIGKILL)
            await member.handle.wait()
        await self._readers.__aexit__(None, None, None)

    async def start(self, name: str, seed: Process | None) -> Process:
        port = _free_port()
        command = _command(self.kind, name, port, seed)
        handle = await asyncio.create_subprocess_exec(
            *command,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        member = self.members[name] = Process(name, port, handle)
        self._readers.create_task(self._read(member), name=f"read {name}")
        await self._until(lambda: member.first_line_at > 0)
        return member

    async def kill(self, name: str) -> float:
        member = self.members.pop(name)
        killed_at = time.monotonic()
        member.handle.send_signal(signal.SIGKILL)
        await member.handle.wait()
        return killed_at

    async def wait_all_said(self, what: str, whom: str) -> list[float]:
        """When each member other than `whom` said so."""
        others = [member for member in self.members.values() if member.name != whom]
        await self._until(lambda: all((what, whom) in member.said for member in others))
        return [member.said[what, whom] for member in others]

    async def _until(self, holds) -> None:  # type: ignore[no-untyped-def]
        async with asyncio.timeout(PATIENCE_S):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    async def _read(self, member: Process) -> None:
        assert member.handle.stdout is not None
        async for line in member.handle.stdout:
            now = time.monotonic()
            member.first_line_at = member.first_line_at or now
            found = _PATTERNS[self.kind].search(line.decode())
            if found:
                what = found[1].lower().removeprefix("eventmember")
                member.said.setdefault(("joined" if what == "join" else what, found[2]), now)
            self._changed.set()


_PATTERNS = {
    "ours": re.compile(r"^(joined|failed) (\S+)"),
    "serf": re.compile(r"(EventMemberJoin|EventMemberFailed): (\S+)"),
}


def _command(kind: str, name: str, port: int, seed: Process | None) -> list[str]:
    if kind == "ours":
        seeds = [] if seed is None else [f"127.0.0.1:{seed.port}"]
        return [sys.executable, "-m", "benchmarks.gossip", "--member", name, str(port), *seeds]

    command = [
        "serf",
        "agent",
        f"-node={name}",
        f"-bind=127.0.0.1:{port}",
        f"-rpc-addr=127.0.0.1:{_free_port()}",
        "-profile=lan",
        f"-encrypt={base64.b64encode(KEY).decode()}",
    ]
    return command if seed is None else [*command, f"-join=127.0.0.1:{seed.port}"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Measuring.


@dataclass(frozen=True)
class Figures:
    program: str
    members: int
    join_all_s: list[float]
    kill_first_s: list[float]
    kill_last_s: list[float]
    idle_cpu_percent: float  # of a core, per member
    rss_mb: float  # per member, mean


async def measure(kind: str, members: int, kills: int) -> Figures:
    joins: list[float] = []
    firsts: list[float] = []
    lasts: list[float] = []
    async with Cluster(kind) as cluster:
        seed = await cluster.start("m0", None)
        for i in range(1, members):
            newcomer = await cluster.start(f"m{i}", seed)
            told = await cluster.wait_all_said("joined", newcomer.name)
            if i >= members // 2:
                joins.append(max(told) - newcomer.first_line_at)
        await asyncio.sleep(2.0)
        before = {name: member.cpu_s() for name, member in cluster.members.items()}
        await asyncio.sleep(IDLE_S)
        used = [member.cpu_s() - before[name] for name, member in cluster.members.items()]
        rss = statistics.mean(member.rss_mb() for member in cluster.members.values())
        for i in range(kills):
            victim = f"m{members - 1 + i}"
            killed_at = await cluster.kill(victim)
            told = await cluster.wait_all_said("failed", victim)
            firsts.append(min(told) - killed_at)
            lasts.append(max(told) - killed_at)
            newcomer = await cluster.start(f"m{members + i}", seed)
            await cluster.wait_all_said("joined", newcomer.name)
            await asyncio.sleep(1.0)
    program = "Thaiyyal gossip" if kind == "ours" else _serf_version()
    percent = 100 * statistics.mean(used) / IDLE_S
    return Figures(program, members, joins, firsts, lasts, percent, rss)


def _serf_version() -> str:
    shown = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Version}", "serf"], capture_output=True, text=True, check=False
    )
    return f"serf {shown.stdout.strip() or 'of unknown version'}"


def _install_serf() -> None:
    if os.geteuid() != 0:
        raise SystemExit("--install-serf needs root (apt-get); install serf by hand, or leave the flag out")
    subprocess.run(["apt-get", "install", "-y", "-q", "serf"], check=True)


async def run(options: argparse.Namespace) -> list[Figures]:
    if options.install_serf and shutil.which("serf") is None:
        _install_serf()
    kinds = ["ours"]
    if not options.no_serf and shutil.which("serf") is not None:
        kinds.append("serf")
    return [await measure(kind, members, options.kills) for members in options.members for kind in kinds]


def show(figures: Sequence[Figures]) -> None:
    table = Table(
        "program",
        "members",
        "join seen by all, s",
        "kill: first sees, s",
        "kill: all see, s",
        "idle CPU",
        "RSS",
    )
    for row in figures:
        table.add_row(
            row.program,
            str(row.members),
            _span(row.join_all_s),
            _span(row.kill_first_s),
            _span(row.kill_last_s),
            f"{row.idle_cpu_percent:.2f} %",
            f"{row.rss_mb:.0f} MB",
        )
    console = Console(width=None if sys.stdout.isatty() else 130)
    console.print(table)
    if not any(row.program.startswith("serf") for row in figures):
        console.print("serf did not run: not installed, or --no-serf (see --install-serf)")


def _span(values: Sequence[float]) -> str:
    ordered = sorted(values)
    return f"{statistics.median(ordered):.2f} ({ordered[0]:.2f}–{ordered[-1]:.2f})"


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["--member"]:
        name, port, *seeds = arguments[1:]
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(live(name, int(port), seeds))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--members", type=int, nargs="+", default=[5, 20])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--install-serf", action="store_true")
    parser.add_argument("--no-serf", action="store_true")
    options = parser.parse_args(arguments)
    figures = asyncio.run(run(options))
    show(figures)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in figures], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
