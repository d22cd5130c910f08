"""Counts and durations of requests by route and status: plain numbers on the hot path, read by /metrics.

Routes are the table's patterns, so the label values are bounded.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

# Seconds; fine where starts are (1 to 50 ms), coarse where waits are.
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class RequestCounters:
    """Owned by the API's server; the only writer is its event loop."""

    def __init__(self) -> None:
        self.by_route: dict[tuple[str, int], int] = {}
        self.durations: dict[str, list[int]] = {}
        self.seconds: dict[str, float] = {}
        self.streams = 0

    def count(self, route: str, status: int, duration_s: float) -> None:
        """One request was answered."""
        key = (route, status)
        self.by_route[key] = self.by_route.get(key, 0) + 1
        buckets = self.durations.get(route)
        if buckets is None:
            buckets = self.durations[route] = [0] * (len(BUCKETS) + 1)
        buckets[bisect_left(BUCKETS, duration_s)] += 1
        self.seconds[route] = self.seconds.get(route, 0.0) + duration_s
