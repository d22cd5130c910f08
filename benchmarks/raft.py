"""Speed of raft/ alone: voters in processes of their own on loopback, fdatasync on; three of etcd in the same run.

    python -m benchmarks.raft [--seconds 5] [--json FILE] [--quick] [--dir DIR] [--install] [--no-etcd]

Rows of ours: commands one at a time and 64 at a time, each its own entry; grouped; 64 KiB entries; one voter; the time
from kill -9 of the leader to the first command of the next one; a restart with a long log. The load is made inside the
leader, except in the row that says "client", where it comes from this process over TCP.

etcd is measured when it is installed; `--install` installs Debian's etcd-server first (root), without its service.
Its load is puts to the leader's JSON gateway, over as many keep-alive connections as there are puts waiting. That
client shares the cores and both sides speak JSON, which costs etcd more per put than gRPC does: its figures are
a lower bound of what etcd can do.

`--dir` should be on a real disk: on tmpfs a sync costs nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import aiohttp
from rich.console import Console
from rich.table import Table

from benchmarks.report import latency_figures, machine, process_use
from tests.process.raft_cluster import Cluster, Voter, free_port

OWN_ENTRY: Final = {"commands_per_entry_max": 1}
WARMUP_SHARE: Final = 0.2  # of each load, not counted: the same as where the load is made inside the leader
ETCD_LOADS: Final = (
    ("100 B, one at a time", 100, 1),
    ("100 B, 64 waiting", 100, 64),
    ("64 KiB, one at a time", 65536, 1),
    ("64 KiB, 64 waiting", 65536, 64),
)
NO_ETCD: Final = (
    "etcd is left out: it is not installed. As root on Debian, --install installs it (apt-get, package "
    "etcd-server); or put an etcd binary on PATH."
)
Row = dict[str, Any]


def sync_baseline(directory: Path) -> Row:
    """What the disk can do: append 100 bytes and fdatasync, one after the other."""
    path = directory / "baseline"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(descriptor, 0, 16 << 20)
    times = []
    for number in range(1000):
        began = time.perf_counter()
        os.pwrite(descriptor, bytes(100), number * 100)
        os.fdatasync(descriptor)
        times.append(time.perf_counter() - began)
    os.close(descriptor)
    path.unlink()
    times.sort()
    return {
        "what": "append 100 B + fdatasync, no raft",
        "per_second": 1000 / sum(times),
        "p50_ms": times[500] * 1e3,
        "p95_ms": times[950] * 1e3,
        "p99_ms": times[990] * 1e3,
    }


async def throughput(directory: Path, seconds: float) -> list[Row]:
    rows: list[Row] = []
    plans: list[tuple[int, dict[str, Any], list[tuple[str, int, int]]]] = [
        (
            1,
            {},
            [("1 voter, 100 B, one at a time", 100, 1), ("1 voter, 100 B, 64 waiting, grouped", 100, 64)],
        ),
        (
            3,
            OWN_ENTRY,
            [
                ("3 voters, 100 B, one at a time", 100, 1),
                ("3 voters, 100 B, 64 waiting, own entries", 100, 64),
                ("3 voters, 100 B, 512 waiting, own entries", 100, 512),
                ("3 voters, 64 KiB, one at a time", 65536, 1),
                ("3 voters, 64 KiB, 16 waiting, own entries", 65536, 16),
                ("3 voters, 64 KiB, 64 waiting, own entries", 65536, 64),
            ],
        ),
        (
            3,
            {},
            [
                ("3 voters, 100 B, 64 waiting, grouped", 100, 64),
                ("3 voters, 100 B, 1,024 waiting, grouped", 100, 1024),
            ],
        ),
        (5, OWN_ENTRY, [("5 voters, 100 B, 64 waiting, own entries", 100, 64)]),
    ]
    for number, (voters, settings, loads) in enumerate(plans):
        async with Cluster(directory / f"t{number}", voters, settings=settings, null=True) as cluster:
            leader = await cluster.leader()
            for what, size, window in loads:
                row: Row = await leader.ask(
                    "load", {"seconds": seconds, "size": size, "window": window}, timeout_s=60
                )
                rows.append({"what": what, **row, "mb_per_second": row["per_second"] * size / 1e6})
            if (voters, settings) == (3, OWN_ENTRY):
                rows.append(await _through_a_client(leader, seconds))
        shutil.rmtree(directory / f"t{number}")
    return rows


async def _through_a_client(leader: Voter, seconds: float) -> Row:
    """100 B commands from this process over TCP and msgpack: as etcd is asked, by a client on the same cores."""
    command = os.urandom(100)

    async def propose(_: int) -> None:
        await leader.ask("propose", command)

    assert leader.process is not None
    return {
        "what": "3 voters, 100 B, 64 waiting, own entries, from a client",
        **await _load([propose] * 64, size=100, seconds=seconds, server_pid=leader.process.pid),
    }


async def _load(
    clients: list[Callable[[int], Awaitable[None]]], *, size: int, seconds: float, server_pid: int
) -> Row:
    """Every client asks again as soon as it has its answer. Shares are of one core, over the whole load."""
    latencies: list[float] = []
    began = time.perf_counter()
    measured_from, end = began + seconds * WARMUP_SHARE, began + seconds

    async def repeat(number: int, ask: Callable[[int], Awaitable[None]]) -> None:
        while (asked := time.perf_counter()) < end:
            await ask(number)
            answered = time.perf_counter()
            if answered >= measured_from:
                latencies.append(answered - asked)

    server_from, client_from = process_use(server_pid).cpu_s, time.process_time()
    await asyncio.gather(*[repeat(number, ask) for number, ask in enumerate(clients)])
    stopped = time.perf_counter()
    per_second = len(latencies) / (stopped - measured_from)
    return {
        "per_second": per_second,
        **latency_figures(latencies),
        "mb_per_second": per_second * size / 1e6,
        "cpu_share": (process_use(server_pid).cpu_s - server_from) / (stopped - began),
        "client_cpu_share": (time.process_time() - client_from) / (stopped - began),
    }


async def elections(directory: Path, kills: int) -> Row:
    """kill -9 of the leader to the first command that its successor acknowledged."""
    times = []
    async with Cluster(directory / "e", 3) as cluster:
        await cluster.propose("first")
        for number in range(kills):
            leader = await cluster.leader()
            began = time.perf_counter()
            leader.signal(9)
            await cluster.propose(f"after kill {number}")
            times.append(time.perf_counter() - began)
            await leader.kill()
            await leader.start()
            await cluster.propose(f"all back {number}")
            await cluster.same_digests()
    times.sort()
    return {
        "what": f"kill -9 of the leader to the next command, {kills} times",
        "p50_ms": statistics.median(times) * 1e3,
        "p95_ms": times[int(len(times) * 0.95)] * 1e3,
        "p99_ms": times[-1] * 1e3,
    }


async def restart(directory: Path, log_bytes: int) -> Row:
    """A voter with a long log and no snapshot, from the start of its process to its first answer."""
    settings = {"snapshot_log_bytes": 1 << 40, "snapshot_log_entries": 1 << 40}
    async with Cluster(directory / "r", 1, settings=settings, null=True) as cluster:
        leader = await cluster.leader()
        while True:
            status = await leader.ask("status")
            size = status["commands_applied_total"] * 4096
            if size >= log_bytes:
                break
            await leader.ask("load", {"seconds": 1.0, "size": 4096, "window": 64}, timeout_s=60)
        await leader.kill()
        began = time.perf_counter()
        await leader.start()
        await leader.ask("barrier", timeout_s=120)
        took = time.perf_counter() - began
    shutil.rmtree(directory / "r")
    return {
        "what": f"restart with a log of {size / 1e6:.0f} MB, {status['last_index']:,} entries, all applied",
        "p50_ms": took * 1e3,
    }


def install_etcd() -> None:
    """Debian's etcd-server, without its service: it is neither running nor enabled afterwards."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise SystemExit(
            "--install needs root and apt-get (Debian); or put an etcd binary on PATH and leave it out"
        )
    quiet = {
        **os.environ,
        "DEBIAN_FRONTEND": "noninteractive",
        "RUNLEVEL": "1",
    }  # invoke-rc.d starts nothing in 1
    subprocess.run(["apt-get", "update", "-q"], check=True, env=quiet)
    subprocess.run(
        ["apt-get", "install", "-y", "-q", "--no-install-recommends", "etcd-server"], check=True, env=quiet
    )
    if shutil.which("systemctl") is not None:
        now = (
            ["--now"] if Path("/run/systemd/system").exists() else []
        )  # systemd runs, and RUNLEVEL is nothing to it
        subprocess.run(["systemctl", "disable", *now, "etcd.service"], check=True)
    elif shutil.which("update-rc.d") is not None:
        subprocess.run(["update-rc.d", "etcd", "disable"], check=True)


class Gateway(asyncio.Protocol):
    """One keep-alive connection to etcd's JSON gateway, one put at a time. As little Python per put as it takes, for
    the client runs on the cores of those it measures."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._answered: asyncio.Future[None] | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def put(self, request: bytes) -> asyncio.Future[None]:
        """Fails with RuntimeError when the answer is not a 200."""
        assert self._transport is not None
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answered

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        _, _, length = head.lower().partition(b"\r\ncontent-length:")
        if not head.startswith(b"HTTP/1.1 200") or not length:
            self._end(RuntimeError(f"etcd answered {self._received[:300]!r}"))
        elif len(body) >= int(length.partition(b"\r\n")[0]):
            self._received = b""
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or RuntimeError("etcd closed the connection"))

    def _end(self, error: Exception | None) -> None:
        if self._answered is None or self._answered.done():
            return
        if error is None:
            self._answered.set_result(None)
        else:
            self._answered.set_exception(error)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Etcd:
    """Three etcd processes on loopback with data directories of their own; use as an async context manager."""

    def __init__(self, binary: str, directory: Path) -> None:
        names = ["e1", "e2", "e3"]
        self._directory = directory
        self._peers = {name: f"http://127.0.0.1:{free_port()}" for name in names}
        self._ports = {name: free_port() for name in names}
        self._binary = binary
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
        self.version = said.partition("\n")[0].rpartition(" ")[2]

    async def __aenter__(self) -> Etcd:
        self._directory.mkdir()
        own = {name: value for name, value in os.environ.items() if not name.startswith("ETCD_")}
        try:
            for name, peer in self._peers.items():
                client = f"http://127.0.0.1:{self._ports[name]}"
                with (self._directory / f"{name}.log").open("wb") as log:
                    self._processes[name] = subprocess.Popen(
                        [
                            self._binary, "--name", name, "--data-dir", str(self._directory / name),
                            "--logger", "zap", "--log-level", "error",
                            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                            "--listen-client-urls", client, "--advertise-client-urls", client,
                            "--initial-cluster", ",".join(f"{n}={url}" for n, url in self._peers.items()),
                            "--quota-backend-bytes", str(8 << 30),
                        ],
                        env=own, stdout=log, stderr=log,
                    )  # fmt: skip
            await self.leader()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()

    async def leader(self) -> tuple[int, int]:
        """The client port and the process id of the one that leads."""
        deadline = time.monotonic() + 30
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while time.monotonic() < deadline:
                for name, process in self._processes.items():
                    if process.poll() is not None:
                        said = (self._directory / f"{name}.log").read_text()[-1000:]
                        raise RuntimeError(f"etcd ended with status {process.returncode}: {said}")
                    with contextlib.suppress(
                        aiohttp.ClientError, TimeoutError
                    ):  # not listening yet, or no leader
                        url = f"http://127.0.0.1:{self._ports[name]}/v3/maintenance/status"
                        async with session.post(url, json={}, raise_for_status=True) as answer:
                            status = await answer.json()
                        if status.get("leader", "0") == status["header"]["member_id"]:
                            return self._ports[name], process.pid
                await asyncio.sleep(0.1)
        raise RuntimeError("etcd elected no leader within 30 s")


@contextlib.asynccontextmanager
async def _gateways(port: int, count: int) -> AsyncIterator[list[Gateway]]:
    loop = asyncio.get_running_loop()
    opened: list[Gateway] = []
    try:
        for _ in range(count):
            opened.append((await loop.create_connection(Gateway, "127.0.0.1", port))[1])
        yield opened
    finally:
        for gateway in opened:
            gateway.close()


def _put_request(number: int, value: bytes) -> bytes:
    key = base64.b64encode(b"key%d" % number).decode()
    body = json.dumps({"key": key, "value": base64.b64encode(value).decode()}).encode()
    head = f"POST /v3/kv/put HTTP/1.1\r\nHost: etcd\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def etcd(binary: str, directory: Path, seconds: float) -> list[Row]:
    """The reference: puts to the leader, each connection to a key of its own."""
    rows: list[Row] = []
    async with Etcd(binary, directory) as servers:
        for load, size, window in ETCD_LOADS:
            port, pid = await servers.leader()
            requests = [_put_request(number, os.urandom(size)) for number in range(window)]
            async with _gateways(port, window) as gateways:

                async def put(
                    number: int, gateways: list[Gateway] = gateways, requests: list[bytes] = requests
                ) -> None:
                    await gateways[number].put(requests[number])

                row = await _load([put] * window, size=size, seconds=seconds, server_pid=pid)
            changed = "" if (port, pid) == await servers.leader() else " (the leader changed meanwhile)"
            rows.append({"what": f"etcd {servers.version} ×3, {load}, JSON client{changed}", **row})
    shutil.rmtree(directory)
    return rows


async def measure(options: argparse.Namespace) -> list[Row]:
    """SIGTERM ends it as Ctrl-C does: with every process that it started."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    binary = None if options.no_etcd else shutil.which("etcd")
    directory = Path(tempfile.mkdtemp(prefix="raft-benchmark-", dir=options.dir))
    try:
        rows = [sync_baseline(directory)]
        rows += await throughput(directory, options.seconds)
        if binary is not None:
            rows += await etcd(binary, directory / "etcd", options.seconds)
        rows.append(await elections(directory, 3 if options.quick else 20))
        rows.append(await restart(directory, 50_000_000 if options.quick else 1_000_000_000))
        return rows
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.raft", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="shorter, for a check that it runs")
    parser.add_argument(
        "--dir", help="where the data directories go (default: the system's temporary directory)"
    )
    parser.add_argument(
        "--install", action="store_true", help="install Debian's etcd-server if etcd is absent (root)"
    )
    parser.add_argument("--no-etcd", action="store_true", help="leave etcd out although it is installed")
    options = parser.parse_args()
    if options.quick:
        options.seconds = min(options.seconds, 1.0)
    if options.install and not options.no_etcd and shutil.which("etcd") is None:
        install_etcd()
    before = machine()
    try:
        rows = asyncio.run(measure(options))
    except asyncio.CancelledError:
        print("stopped by SIGTERM; every process that it started has ended", file=sys.stderr)
        return 128 + signal.SIGTERM
    columns = ["per_second", "p50_ms", "p95_ms", "p99_ms", "mb_per_second", "cpu_share", "client_cpu_share"]
    table = Table("what", *columns, title="raft")
    for row in rows:
        cells = [f"{row[column]:,.2f}" if column in row else "" for column in columns]
        table.add_row(row["what"], *cells)
    Console(width=170).print(table)
    print(
        "cpu_share is the leader's, in cores. Load is made inside the leader, but where a client is named: that one "
        "shares the cores."
    )
    if options.no_etcd:
        print("etcd is left out: --no-etcd.")
    elif shutil.which("etcd") is None:
        print(NO_ETCD)
    else:
        print(
            "etcd's client speaks JSON to the leader's gateway, so its figures are a lower bound of etcd's."
        )
    if options.json:
        report = {"machine": before, "load_average_after": os.getloadavg(), "rows": rows}
        options.json.write_text(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
