"""How often things are told: sends per update, the interval of exchanges, the chance of a rejoin call."""

from __future__ import annotations

import math


def retransmit_limit(mult: int, members: int, floor: int) -> int:
    """λ · ⌈log10(n + 1)⌉ (SWIM, section 4.1; memberlist's form), at least `floor`."""
    return max(floor, mult * math.ceil(math.log10(members + 1)))


def exchange_interval_s(period_s: float, members: int, large_from: int) -> float:
    """The period up to `large_from` members, then times ⌈log2 n - log2 large_from⌉ + 1 (memberlist)."""
    if members <= large_from:
        return period_s
    return period_s * (math.ceil(math.log2(members) - math.log2(large_from)) + 1)


def rejoin_chance(*, lost: int, live: int) -> float:
    """Chance that one member makes one call this period, so that the cluster makes about `lost` calls.

    A small side of a partition always calls; one dead member among 10,000 gets one call a period, not 10,000.
    """
    if lost == 0:
        return 0.0
    return min(1.0, lost / max(1, live))
