"""How long a member stays suspect before it is declared dead (Lifeguard, section IV-B: LHA-Suspicion).

Nothing here reads a clock. A suspicion starts with the long timeout and shrinks with each independent
accuser, because one accuser may itself be the slow one and several seldom are.
"""

from __future__ import annotations

import math

from gossip.messages import NodeId


def suspicion_min_s(mult: int, members: int, period_s: float) -> float:
    """Shortest suspicion: mult · max(1, log10 n) · T. `members` counts ourselves (memberlist)."""
    return mult * max(1.0, math.log10(max(1, members))) * period_s


def confirmations_wanted(wanted: int, members: int) -> int:
    """k: further accusers that bring the timeout down to its minimum; 0 when the cluster has too few others.

    The accused and the first accuser cannot confirm, so n - 2 members are left. memberlist derives `wanted`
    from the multiplier (mult - 2); here it is a setting of its own.
    """
    return wanted if members - 2 >= wanted else 0


def suspicion_timeout_s(*, confirmations: int, wanted: int, min_s: float, max_s: float) -> float:
    """max - (max - min) · ln(c + 1) / ln(k + 1), floored to milliseconds, never under min; min for k = 0."""
    if wanted < 1:
        return min_s
    share = math.log(confirmations + 1) / math.log(wanted + 1)
    floored = math.floor(1000.0 * (max_s - share * (max_s - min_s))) / 1000.0
    return max(min_s, floored)


def remaining_suspicion_s(
    *, confirmations: int, wanted: int, elapsed_s: float, min_s: float, max_s: float
) -> float:
    """What is left of the timeout after `elapsed_s`; negative when it should have ended already."""
    timeout_s = suspicion_timeout_s(confirmations=confirmations, wanted=wanted, min_s=min_s, max_s=max_s)
    return timeout_s - elapsed_s


class Suspicion:
    """One member's open suspicion: who accused, since when, until when.

    Invariant: `started_at + min_s <= deadline <= started_at + max_s`, and `deadline` never grows except by
    `delay`, which moves the whole suspicion.
    """

    __slots__ = ("_max_s", "_min_s", "accusers", "deadline", "incarnation", "started_at", "wanted")

    def __init__(
        self,
        *,
        now: float,
        first_accuser: NodeId,
        incarnation: int,
        wanted: int,
        min_s: float,
        max_s: float,
    ) -> None:
        self.started_at = now
        self.incarnation = incarnation
        self.accusers = {first_accuser}
        self.wanted = wanted
        self._min_s = min_s
        self._max_s = max_s
        self.deadline = now + self._timeout_s()

    def confirm(self, accuser: NodeId) -> bool:
        """Count one more accuser; False when it counted already, was the first one, or k are known."""
        if len(self.accusers) > self.wanted or accuser in self.accusers:
            return False
        self.accusers.add(accuser)
        self.deadline = self.started_at + self._timeout_s()
        return True

    def hasten(self) -> None:
        """Fall to the minimum: somebody has waited out the whole suspicion before us."""
        self.wanted = 0
        self.deadline = self.started_at + self._min_s

    def delay(self, by_s: float) -> None:
        """We slept for `by_s`: the accused gets that time back to refute."""
        self.started_at += by_s
        self.deadline += by_s

    def _timeout_s(self) -> float:
        return suspicion_timeout_s(
            confirmations=len(self.accusers) - 1, wanted=self.wanted, min_s=self._min_s, max_s=self._max_s
        )
