"""Speed of raft/ alone: voters in processes of their own on loopback, fdatasync on, load made inside the leader.

    python -m benchmarks.raft [--seconds 5] [--json FILE] [--quick] [--dir DIR]

Rows: commands one at a time and 64 at a time, each its own entry; grouped; 64 KiB entries; one voter; the time from
kill -9 of the leader to the first command of the next one; a restart with a long log. If `etcd` is installed, three
of it are measured in the same run through their JSON gateway (more work per request than its gRPC, so read its
figures as a lower bound). `--dir` should be on a real disk: on tmpfs a sync costs nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.process.raft_cluster import Cluster, free_port

OWN_ENTRY = {"commands_per_entry_max": 1}
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
                ("3 voters, 64 KiB, 16 waiting, own entries", 65536, 16),
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
        shutil.rmtree(directory / f"t{number}")
    return rows


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


async def etcd(directory: Path, seconds: float) -> list[Row]:
    """The reference, where it is installed."""
    binary = shutil.which("etcd")
    if binary is None:
        return []
    import aiohttp

    names = ["e1", "e2", "e3"]
    peers = {name: f"http://127.0.0.1:{free_port()}" for name in names}
    clients = {name: f"http://127.0.0.1:{free_port()}" for name in names}
    processes = [
        subprocess.Popen(
            [
                binary,
                "--name", name, "--data-dir", str(directory / name), "--log-level", "error",
                "--listen-peer-urls", peers[name], "--initial-advertise-peer-urls", peers[name],
                "--listen-client-urls", clients[name], "--advertise-client-urls", clients[name],
                "--initial-cluster", ",".join(f"{n}={url}" for n, url in peers.items()),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for name in names
    ]  # fmt: skip
    rows = []
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            leader = await _etcd_leader(session, clients)
            for what, size, window in [
                ("etcd ×3, 100 B, one at a time", 100, 1),
                ("etcd ×3, 100 B, 64 waiting", 100, 64),
                ("etcd ×3, 64 KiB, 16 waiting", 65536, 16),
            ]:
                latencies: list[float] = []
                value = base64.b64encode(os.urandom(size)).decode()
                end = time.perf_counter() + seconds

                async def client(
                    number: int, value: str = value, end: float = end, latencies: list[float] = latencies
                ) -> None:
                    key = base64.b64encode(b"key%d" % number).decode()
                    while (began := time.perf_counter()) < end:
                        async with session.post(
                            f"{leader}/v3/kv/put", json={"key": key, "value": value}
                        ) as answer:
                            await answer.read()
                        latencies.append(time.perf_counter() - began)

                await asyncio.gather(*[client(number) for number in range(window)])
                latencies.sort()
                count = len(latencies)
                rows.append(
                    {
                        "what": what,
                        "per_second": count / seconds,
                        "p50_ms": latencies[count // 2] * 1e3,
                        "p95_ms": latencies[int(count * 0.95)] * 1e3,
                        "p99_ms": latencies[int(count * 0.99)] * 1e3,
                        "mb_per_second": count / seconds * size / 1e6,
                    }
                )
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return rows


async def _etcd_leader(session: Any, clients: dict[str, str]) -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for url in clients.values():
            try:
                async with session.post(f"{url}/v3/maintenance/status", json={}) as answer:
                    status = await answer.json()
            except OSError:
                continue
            if status.get("leader", "0") != "0" and status["leader"] == status["header"]["member_id"]:
                return url
        await asyncio.sleep(0.1)
    raise RuntimeError("etcd elected no leader within 20 s")


async def measure(options: argparse.Namespace) -> list[Row]:
    directory = Path(tempfile.mkdtemp(prefix="raft-benchmark-", dir=options.dir))
    try:
        rows = [sync_baseline(directory)]
        rows += await throughput(directory, options.seconds)
        rows.append(await elections(directory, 3 if options.quick else 20))
        rows.append(await restart(directory, 50_000_000 if options.quick else 1_000_000_000))
        rows += await etcd(directory, options.seconds)
        return rows
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.raft", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="shorter, for a check that it runs")
    parser.add_argument(
        "--dir", help="where the data directories go (default: the system's temporary directory)"
    )
    options = parser.parse_args()
    if options.quick:
        options.seconds = min(options.seconds, 1.0)
    rows = asyncio.run(measure(options))
    columns = ["per_second", "p50_ms", "p95_ms", "p99_ms", "mb_per_second", "cpu_share"]
    table = Table("what", *columns, title="raft")
    for row in rows:
        cells = [f"{row[column]:,.2f}" if column in row else "" for column in columns]
        table.add_row(row["what"], *cells)
    Console(width=150).print(table)
    if shutil.which("etcd") is None:
        print("etcd is not installed: no reference measured (Debian: apt install etcd-server)")
    if options.json:
        options.json.write_text(json.dumps({"load_average": os.getloadavg(), "rows": rows}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
