"""W2p chain of 10 pure steps: executions and tasks per second. See workloads.py for the workflow."""

from __future__ import annotations

from typing import Any

from benchmarks.engine_run import Options, options_of, run, throughput
from benchmarks.node_under_test import Node
from benchmarks.workloads import pure_chain

TITLE = "W2p chain of 10 pure steps"


async def measure(options: Options, node: Node) -> dict[str, Any]:
    return await throughput(pure_chain(options.language), options, node)


if __name__ == "__main__":
    run(options_of(TITLE), measure, TITLE)
