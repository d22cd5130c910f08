"""Whole voters under a virtual clock, with faults; see `world.py`. A failure prints the command that repeats it.

A soak: `python -m tests.sim.raft --seeds 1000`.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from tests.sim.raft.world import Plan, plan_for, run

RECORDED = 300
"""Seeds 0.. that every run repeats, over all mixtures of plans."""
FRESH = 300
"""Seeds that nobody has run before. RAFT_SIM_FRESH changes the number."""


@pytest.mark.parametrize("block", range(10))
def test_recorded_seeds_keep_every_promise(block: int) -> None:
    size = RECORDED // 10
    for seed in range(block * size, (block + 1) * size):
        run(plan_for(seed))


def test_fresh_seeds_keep_every_promise() -> None:
    first = random.SystemRandom().randrange(10**6, 10**9)
    print(f"fresh seeds from {first}")
    for seed in range(first, first + int(os.environ.get("RAFT_SIM_FRESH", FRESH))):
        run(plan_for(seed))


@pytest.mark.parametrize("voters", [1, 3, 5, 7])
@pytest.mark.parametrize("storm", [False, True])
def test_each_group_size_survives_crashes(voters: int, storm: bool) -> None:
    acks = reads = 0
    for seed in range(12):
        outcome = run(plan_for(seed, voters=voters, storm=storm, crash="power", net="wild"))
        acks += outcome.acks
        reads += outcome.reads
    assert acks > 50
    assert reads > 20, "the runs did too little to say anything"


def test_without_faults_nothing_is_refused_for_long_and_nobody_is_deposed() -> None:
    outcome = run(Plan(seed=1, net="tcp", crash="none", snapshots=True, faults_s=0.9))
    assert outcome.terms <= 3


@pytest.mark.parametrize("seed", [3, 14, 159])
def test_a_seed_gives_the_same_run_whatever_the_hash_seed(seed: int) -> None:
    code = (
        "from tests.sim.raft.world import plan_for, run;"
        f"o = run(plan_for({seed}, members=True, voters=5)); print(o.trace, o.events, o.acks)"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.getcwd()},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("0", "1", "4242")
    }
    assert len(runs) == 1
