"""W1 one-task executions: executions and tasks per second. See workloads.py for the workflow."""

from __future__ import annotations

from typing import Any

from benchmarks.engine_run import Options, options_of, run, throughput
from benchmarks.node_under_test import Node
from benchmarks.workloads import one_task

TITLE = "W1 one-task executions"


async def measure(options: Options, node: Node) -> dict[str, Any]:
    return await throughput(one_task(options.language), options, node)


if __name__ == "__main__":
    run(options_of(TITLE), measure, TITLE)
