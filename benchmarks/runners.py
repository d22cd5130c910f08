"""The worker pool alone: tasks per second through real runners, and the way there and back of one task.

`python -m benchmarks.runners [--slots N] [--in-flight N] [--seconds S] [--json FILE]`
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
from pathlib import Path
from time import perf_counter
from typing import Any

import uvloop

from benchmarks.report import CpuMeter, latency_figures, machine, print_table, write_json
from node.worker.messages import Task, TaskFrame, TaskOutcome
from node.worker.pool import WorkerPool
from node.worker.settings import WorkerSettings
from workflow import codec

TITLE = "Worker pool alone"
DEFINITION = json.dumps(
    {
        "edges": [{"source": "n", "target": "s"}],
        "nodes": [
            {"data": {"value": 1}, "id": "n", "type": "number"},
            {"data": {}, "id": "s", "type": "add_one"},
        ],
    },
    separators=(",", ":"),
    sort_keys=True,
).encode()
PLAN_HASH = hashlib.sha256(DEFINITION).digest()
RESULT = codec.encode(2.0)


async def _definition(plan_hash: bytes) -> bytes:
    return DEFINITION


class PoolLoad:
    """Keeps so many tasks in the pool until time is over."""

    def __init__(self, slots: int) -> None:
        self.pool = WorkerPool(
            slots=slots,
            settings=WorkerSettings(load=("benchmarks.steps",)),
            on_results=self._on_results,
            fetch_plan=_definition,
        )
        self.finished = 0
        self._stop_at = 0.0
        self._number = 0
        self._drained = asyncio.Event()

    def _frames(self, count: int) -> list[TaskFrame]:
        first = self._number
        self._number += count
        return [
            TaskFrame(
                Task(
                    f"{number:026x}",
                    0,
                    (),
                    1,
                    PLAN_HASH,
                    {},
                    None,
                    None,
                    None,
                    None,
                    f"{number:026x}:s",
                    None,
                )
            )
            for number in range(first, first + count)
        ]

    def _on_results(self, outcomes: list[TaskOutcome]) -> None:
        for outcome in outcomes:
            if outcome.result is None or RESULT not in outcome.result:
                raise SystemExit(f"wrong outcome: {outcome}")
        self.finished += len(outcomes)
        if perf_counter() < self._stop_at:
            self.pool.submit(self._frames(len(outcomes)))
        elif self.pool.outstanding == 0:
            self._drained.set()

    async def run(self, *, in_flight: int, seconds: float) -> float:
        """Tasks per second."""
        self.finished = 0
        self._drained.clear()
        started = perf_counter()
        self._stop_at = started + seconds
        self.pool.submit(self._frames(in_flight))
        await self._drained.wait()
        return self.finished / (perf_counter() - started)


async def measure(slots: int, in_flight: int, seconds: float) -> dict[str, Any]:
    load = PoolLoad(slots)
    started = perf_counter()
    await load.pool.start()
    ready_s = perf_counter() - started
    await load.run(in_flight=in_flight, seconds=1.0)
    meter = CpuMeter({"node": [os.getpid()], "runners": load.pool.stats().runner_pids})
    rate = await load.run(in_flight=in_flight, seconds=seconds)
    figures = meter.figures(seconds)
    single: list[float] = []
    for _ in range(500):
        before = perf_counter()
        await load.run(in_flight=1, seconds=0.0)
        single.append(perf_counter() - before)
        await asyncio.sleep(0.002)
    await load.pool.close()
    return {
        "tasks_per_s": round(rate, 1),
        "slots": slots,
        "in_flight": in_flight,
        "seconds": seconds,
        "ready_s": round(ready_s, 3),
        "one_task_at_a_time": latency_figures(single),
        **figures,
        "machine": machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=TITLE)
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = uvloop.run(measure(options.slots, options.in_flight, options.seconds))
    print_table(TITLE, list(report.items()))
    if options.json is not None:
        write_json(options.json, {"benchmark": TITLE, **report})


if __name__ == "__main__":
    main()
