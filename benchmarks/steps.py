"""The step of the user's own that W1 to W3 run; loaded into nodes with `--load benchmarks.steps`."""

from __future__ import annotations

from thaiyyal import step_type


@step_type("add_one", effect="write")
def add_one(number: float) -> float:
    return number + 1
