"""Whom to probe next: round robin over a shuffled list (SWIM, section 4.3).

Everybody is drawn once per pass, in an order shuffled anew each pass, so that a member waits 2n - 1 periods
at most between two probes by the same prober. The shuffle is drawn lazily (Fisher-Yates, one swap a draw):
a pass over 10,000 members costs memory for the draws made, not for a list of its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from gossip.messages import NodeId
from gossip.table import MemberTable


class ProbeOrder:
    """One prober's passes. Who joins during a pass lands at a random place of its rest."""

    __slots__ = ("_base_ids", "_drawn", "_rng", "_swapped", "_table", "_tail")

    def __init__(self, table: MemberTable, rng: random.Random) -> None:
        self._table = table
        self._rng = rng
        self._base_ids: tuple[NodeId, ...] = ()
        self._tail: list[NodeId] = []
        self._swapped: dict[int, int] = {}
        self._drawn = 0
        self._start_pass()

    def add(self, node_id: NodeId) -> None:
        """A member joined: it is drawn in this pass too."""
        self._tail.append(node_id)

    def next(self, accept: Callable[[NodeId], bool]) -> NodeId | None:
        """The next id that `accept` takes; None when a whole fresh pass has none."""
        node_id = self._draw_accepted(accept)
        if node_id is None:
            self._start_pass()
            node_id = self._draw_accepted(accept)
        return node_id

    def _draw_accepted(self, accept: Callable[[NodeId], bool]) -> NodeId | None:
        total = len(self._base_ids) + len(self._tail)
        while self._drawn < total:
            node_id = self._draw(total)
            if accept(node_id):
                return node_id
        return None

    def _draw(self, total: int) -> NodeId:
        here = self._drawn
        there = here + int(self._rng.random() * (total - here))
        swapped = self._swapped
        index = swapped.get(there, there)
        if there != here:
            swapped[there] = swapped.get(here, here)
        swapped.pop(here, None)
        self._drawn = here + 1
        base_ids = self._base_ids
        return base_ids[index] if index < len(base_ids) else self._tail[index - len(base_ids)]

    def _start_pass(self) -> None:
        self._base_ids = self._table.base.ids
        self._tail = self._table.tail()
        self._swapped = {}
        self._drawn = 0
