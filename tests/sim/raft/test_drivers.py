"""The real driver, journal and snapshots under power losses, on a virtual clock; see `drivers.py`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.sim.raft.drivers import run_drivers


@pytest.mark.parametrize("block", range(4))
def test_recorded_seeds_lose_nothing(block: int, tmp_path: Path) -> None:
    acknowledged = crashes = 0
    for seed in range(block * 10, block * 10 + 10):
        world = run_drivers(seed, tmp_path / str(seed))
        acknowledged += len(world.acknowledged)
        crashes += world.crashes
    assert acknowledged > 500
    assert crashes > 30


def test_fresh_seeds_lose_nothing(tmp_path: Path) -> None:
    first = random.SystemRandom().randrange(10**6, 10**9)
    print(f"fresh driver seeds from {first}")
    for seed in range(first, first + 20):
        run_drivers(seed, tmp_path / str(seed))


def test_disks_that_lie_about_syncs_are_found_out(tmp_path: Path) -> None:
    """The test can see: where a sync does nothing, a power loss takes what was acknowledged."""
    convicted = 0
    for seed in range(12):
        try:
            run_drivers(seed, tmp_path / str(seed), lying_disks=True)
        except Exception:
            convicted += 1
    assert convicted >= 6
