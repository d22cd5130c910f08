"""Recorded cases of the original engine through the HTTP API of real nodes, each with the settings that its cases need.

The whole table: python -m tests.conformance.run --nodes
"""

from __future__ import annotations

import pytest

from tests.conformance.cases import FAMILIES, missing_reason
from tests.conformance.run import run_through_nodes

THROUGH_NODES = ("inputs", "operations", "control", "http", "examples")


@pytest.mark.timeout(180)
async def test_recorded_cases_have_the_same_results_through_a_node() -> None:
    assert set(THROUGH_NODES) <= set(FAMILIES)
    tallies = await run_through_nodes(THROUGH_NODES)
    assert [tally.failures for tally in tallies] == [[]] * len(tallies)
    present = [family for family in THROUGH_NODES if missing_reason(family) is None]
    assert [tally.family for tally in tallies] == present
    assert all(tally.held > 50 for tally in tallies)
