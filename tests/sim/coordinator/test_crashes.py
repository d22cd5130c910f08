"""Crashes between any two outside effects of the coordinator: every accepted execution ends exactly once, rightly.

`COORDINATOR_SIM_SEEDS=1000` runs more seeds; `COORDINATOR_SIM_FROM=4711` starts there. A failure names its seed.
"""

from __future__ import annotations

import gc
import os
import tempfile
from pathlib import Path

import pytest

from tests.sim.coordinator.virtual import run
from tests.sim.coordinator.world import simulate

SEEDS = int(os.environ.get("COORDINATOR_SIM_SEEDS", "25"))
FIRST = int(os.environ.get("COORDINATOR_SIM_FROM", "1"))


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_every_accepted_execution_ends_exactly_once(seed):
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").exists() else None) as directory:
        world = run(simulate(seed, Path(directory), crashes_max=8))
    print(
        f"seed {seed}: {len(world.acked)} executions, {world.crashes} crashes, {len(world.entries)} entries"
    )
    gc.collect()


def test_a_seed_replays_the_same_run():
    logs = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as directory:
            world = run(simulate(7, Path(directory), crashes_max=4))
        logs.append((world.entries, world.points, world.crashes))
    assert logs[0] == logs[1]
