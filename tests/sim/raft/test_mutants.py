"""The simulation can see: every wrong core is convicted, by a seed or by a named schedule."""

from __future__ import annotations

import pytest

from tests.sim.raft.mutants import MUTANTS, Mutant
from tests.sim.raft.world import plan_for, run


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.schedule], ids=lambda m: m.name)
def test_the_named_schedule_convicts(mutant: Mutant) -> None:
    assert mutant.schedule is not None
    assert isinstance(mutant.wrong, type)
    with pytest.raises(AssertionError):
        mutant.schedule(mutant.wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if not m.schedule], ids=lambda m: m.name)
def test_a_seed_convicts(mutant: Mutant) -> None:
    for seed in range(mutant.seeds):
        try:
            run(plan_for(seed, **mutant.where), mutant.node_type)
        except AssertionError:
            return
    pytest.fail(f"{mutant.seeds} seeds acquit a core that is wrong: {mutant.name}")
