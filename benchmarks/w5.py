"""W5: from start to result on an idle node, one execution after the other."""

from __future__ import annotations

from typing import Any

from benchmarks.engine_run import Options, latency_at_idle, options_of, run
from benchmarks.node_under_test import Node
from benchmarks.workloads import one_task

TITLE = "W5 start to result at idle"
PAUSE_S = 0.02


async def measure(options: Options, node: Node) -> dict[str, Any]:
    return await latency_at_idle(one_task(options.language), options, node, pause_s=PAUSE_S)


if __name__ == "__main__":
    run(options_of(TITLE, in_flight=1), measure, TITLE)
