"""W4: 10,000 executions that wait: starts per second, start latency, and the memory of a node that has them all."""

from __future__ import annotations

from typing import Any

from benchmarks.engine_run import Options, many_waiting, options_of, run
from benchmarks.node_under_test import Node
from benchmarks.workloads import waiting

TITLE = "W4 10,000 waiting executions"
EXECUTIONS = 10_000


async def measure(options: Options, node: Node) -> dict[str, Any]:
    return await many_waiting(waiting(options.language), options, node, executions=EXECUTIONS)


if __name__ == "__main__":
    run(options_of(TITLE), measure, TITLE)
