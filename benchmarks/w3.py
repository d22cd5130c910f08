"""W3 fan-out to 100 tasks and join: executions and tasks per second. See workloads.py for the workflow."""

from __future__ import annotations

from typing import Any

from benchmarks.engine_run import Options, options_of, run, throughput
from benchmarks.node_under_test import Node
from benchmarks.workloads import fan_out

TITLE = "W3 fan-out to 100 tasks and join"


async def measure(options: Options, node: Node) -> dict[str, Any]:
    return await throughput(fan_out(options.language), options, node)


if __name__ == "__main__":
    run(options_of(TITLE), measure, TITLE)
