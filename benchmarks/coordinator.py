"""What the coordinator itself costs: a log in memory, workers that answer at once, no HTTP.

    python -m benchmarks.coordinator            one-task executions, chains of ten, many waiting, restart
    python -m benchmarks.coordinator --profile  where the time of one-task executions goes

CPU is that of the event loop's thread, clients and fake workers included: the rest of a core is for the rest of a node.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import pstats
import tempfile
import time
from pathlib import Path

import uvloop

from node.coordinator.settings import Settings
from tests.unit.coordinator.plans import chain, done, waits
from tests.unit.coordinator.rig import MemoryLog, Rig, running

CLIENTS = 64


async def throughput(rig: Rig, count: int) -> tuple[float, float]:
    """(executions per second, µs of the loop's thread per execution) at CLIENTS in flight."""

    async def client() -> None:
        for _ in range(count // CLIENTS):
            await rig.run()

    await client()
    wall, cpu = time.perf_counter(), time.thread_time()
    await asyncio.gather(*[client() for _ in range(CLIENTS)])
    total = count // CLIENTS * CLIENTS
    return total / (time.perf_counter() - wall), (time.thread_time() - cpu) / total * 1e6


async def one_task(directory: Path, *, profile: bool) -> None:
    plan = chain(1, effect="write", level=2)
    async with running(directory, {"plan": plan}, serve=True) as rig:
        profiler = cProfile.Profile()
        if profile:
            profiler.enable()
        rate, cpu = await throughput(rig, 20_000)
        profiler.disable()
        print(f"one task          {rate:9.0f} executions/s  {cpu:6.1f} µs each")
        if profile:
            pstats.Stats(profiler).sort_stats("tottime").print_stats(40)


async def chain_of_ten(directory: Path) -> None:
    plan = chain(10, effect="write", level=2)
    async with running(directory, {"plan": plan}, serve=True) as rig:
        rate, cpu = await throughput(rig, 3_000)
        print(f"chain of 10       {rate * 10:9.0f} tasks/s       {cpu / 10:6.1f} µs per task")


async def waiting(directory: Path, count: int) -> None:
    plan = chain(1, effect="wait", level=2)

    def behave(task):  # type: ignore[no-untyped-def]
        return waits(plan, 0, duration_s=3600.0) if task.resume is None else done(plan, 0)

    log = MemoryLog()
    settings = Settings(executions_live_max=2 * count)
    before = _rss_mb()
    async with running(
        directory, {"plan": plan}, log=log, behave=behave, settings=settings, serve=True
    ) as rig:
        began = time.perf_counter()
        for _ in range(count // 100):
            await rig.engine.start([rig.request() for _ in range(100)])
        while rig.engine.stats()["timers"] < count:
            await asyncio.sleep(0.01)
        rate = count / (time.perf_counter() - began)
        rig.workers.seen.clear()
        await _flushed(rig)
        log.entries = [(term, []) for term, _ in log.entries]
        gc.collect()
        each = (_rss_mb() - before) * 1e6 / count
        print(f"{count:,} waiting   {rate:9.0f} starts/s      {each:6.0f} bytes each")
        index, chunks = rig.engine.replica.begin_snapshot()
        size = len(b"".join(chunks))
        print(f"snapshot          {size / 1e6:9.1f} MB at index {index}")
    began = time.perf_counter()
    async with running(directory, {"plan": plan}, log=log, behave=behave, settings=settings) as rig:
        live = len(rig.engine.replica.state.executions)
        print(f"restart           {time.perf_counter() - began:9.2f} s with {live:,} live executions")


async def _flushed(rig: Rig) -> None:
    while rig.engine.replica.durable_index() < rig.engine.replica.applied_index:
        await rig.engine.flush()
        await asyncio.sleep(0.01)


def _rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


async def main() -> None:
    """Run the parts one after the other, each in a directory of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--waiting", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        await one_task(Path(directory) / "one", profile=arguments.profile)
        if not arguments.profile:
            await chain_of_ten(Path(directory) / "ten")
            await waiting(Path(directory) / "waiting", arguments.waiting)


if __name__ == "__main__":
    uvloop.run(main())
