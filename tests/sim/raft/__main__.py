"""Runs the simulation: one seed again, or many.

python -m tests.sim.raft --seed 4711 --voters 5 --net late --storm      # one run, as a failure printed it
python -m tests.sim.raft --seeds 1000 [--first 0]                       # a soak over mixed plans
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from typing import Any

from tests.sim.raft.network import KINDS
from tests.sim.raft.world import plan_for, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.raft", description=__doc__)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--voters", type=int, choices=(1, 3, 5, 7))
    parser.add_argument("--net", choices=KINDS)
    parser.add_argument("--crash", choices=("none", "kill", "power"))
    parser.add_argument("--faults-s", type=float)
    parser.add_argument("--snapshots", action=argparse.BooleanOptionalAction)
    for name in ("members", "store", "storm"):
        parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction)
    options = parser.parse_args()
    fixed: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("voters", "net", "crash", "snapshots", "members", "store", "storm", "faults_s")
        if getattr(options, name) is not None
    }
    if options.seed is not None and fixed:
        # A printed command names all that is on; what it does not name is off.
        fixed = {"snapshots": True, "members": False, "store": False, "storm": False, **fixed}
    seeds = (
        [options.seed] if options.seed is not None else range(options.first, options.first + options.seeds)
    )
    totals: Counter[str] = Counter()
    began = time.perf_counter()
    for seed in seeds:
        plan = plan_for(seed, **fixed)
        try:
            outcome = run(plan)
        except Exception as error:
            totals[type(error).__name__] += 1
            print(f"seed {seed}: {type(error).__name__}: {error}")
            if options.seed is not None or not isinstance(error, AssertionError):
                traceback.print_exc()
            print("  " + "\n  ".join(getattr(error, "__notes__", [])))
            continue
        totals["good"] += 1
        for name in (
            "acks",
            "reads",
            "unknown",
            "crashes",
            "snapshots_installed",
            "config_changes",
            "events",
            "terms",
        ):
            totals[name] += getattr(outcome, name)
        if options.seed is not None:
            print(outcome)
    print(f"{dict(totals)} in {time.perf_counter() - began:.1f} s")
    return 0 if totals["good"] == len(seeds) else 1


if __name__ == "__main__":
    sys.exit(main())
