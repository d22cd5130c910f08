"""Whether another live process has our node id.

An id that appears at another address is an earlier life of ours, moved, or a second process with a copied
configuration. Asking at that address tells: a process that answers with our id and another instance number
lives. The one that has not announced itself yet gives way; two that both have only report it, and neither
raises its incarnation over it, which would never end.
"""

from __future__ import annotations

import math

from gossip.effects import Ask, Conflict, Effect, Send
from gossip.messages import Address, NodeId, Ping, StreamPing

_PINGS = 4  # half a period apart: a lost datagram must not let two members share an id
_TELL_AGAIN_S = 60.0


class RivalCheck:
    """Owner of the question and of when its answer was last told. `refused`: we came second."""

    __slots__ = (
        "_address",
        "_instance",
        "_node_id",
        "_period_s",
        "_pings_left",
        "_seq",
        "_told_at",
        "incarnation",
        "next_ping_at",
        "refused",
    )

    def __init__(self, *, node_id: NodeId, instance: int, period_s: float) -> None:
        self._node_id = node_id
        self._instance = instance
        self._period_s = period_s
        self._address: Address | None = None  # asked at present
        self._seq = 0
        self._pings_left = 0
        self._told_at = -math.inf
        self.incarnation = 0  # the highest one that was claimed from there
        self.next_ping_at = math.inf
        self.refused = False

    @property
    def is_open(self) -> bool:
        return self._address is not None

    def open(
        self, now: float, address: Address, *, incarnation: int, seq: int, effects: list[Effect]
    ) -> None:
        """Ask at `address`; while one question is open, only remember a higher incarnation."""
        if self._address is not None:
            self.incarnation = max(self.incarnation, incarnation)
            return
        self._address, self.incarnation, self._seq = address, incarnation, seq
        self._pings_left = _PINGS
        self.press(now, effects)

    def press(self, now: float, effects: list[Effect]) -> bool:
        """`next_ping_at` is reached: ask again. True when nobody answered and the question is closed."""
        assert self._address is not None
        if self._pings_left == 0:
            self._close()
            return True
        self._pings_left -= 1
        self.next_ping_at = now + self._period_s / 2
        effects.append(Send(self._address, (Ping(self._seq, self._node_id, self._instance, self._node_id),)))
        if self._pings_left == _PINGS - 2:
            request = StreamPing(self._seq, self._node_id, self._instance, self._node_id)
            effects.append(Ask(self._address, request))
        return False

    def answered(self, seq: int, source: NodeId, instance: int) -> Address | None:
        """Where the rival is, when this is its answer; the question is then closed."""
        if self._address is None or seq != self._seq:
            return None
        if source != self._node_id or instance == self._instance:
            return None
        address = self._address
        self._close()
        return address

    def tell(
        self, now: float, *, ours: Address, theirs: Address, established: bool, effects: list[Effect]
    ) -> None:
        """Report the conflict, once a minute at most."""
        if now - self._told_at < _TELL_AGAIN_S:
            return
        self._told_at = now
        self.refused = self.refused or not established
        effects.append(Conflict(self._node_id, ours, theirs, fatal=not established))

    def _close(self) -> None:
        self._address, self.next_ping_at = None, math.inf
