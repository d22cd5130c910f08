"""Local health: how much a member distrusts its own view (Lifeguard, section IV-A: LHA-Probe).

A member whose own probes fail, whose relays do not even send nacks, or who has to refute, is probably the
slow one. It then probes less often, which gives late acks time to count.
"""

from __future__ import annotations


def failed_probe_delta(*, nacks_wanted: int, nacks_received: int) -> int:
    """Score change for a failed probe: the nacks that are missing; 1 when no relay could send any."""
    if nacks_wanted == 0:
        return 1
    return max(0, nacks_wanted - nacks_received)


class Awareness:
    """The score, `0 <= score <= score_max - 1`. 0 is healthy."""

    __slots__ = ("_score_max", "score")

    def __init__(self, score_max: int) -> None:
        self._score_max = score_max
        self.score = 0

    def apply(self, delta: int) -> None:
        """Add and clamp."""
        self.score = min(self._score_max - 1, max(0, self.score + delta))

    def probe_period_s(self, period_s: float) -> float:
        """T · (score + 1)."""
        return period_s * (self.score + 1)
