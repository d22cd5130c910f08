"""Updates waiting to be piggybacked (SWIM, section 4.1): fewest sends first, the newest first among equals.

One update per member: a newer claim about a member replaces the waiting one, which is outdated.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from gossip.messages import NodeId, Update, size_of


class BroadcastQueue:
    """Owner of the waiting updates. `len(queue) <= waiting_max`; `peak` is the highest length seen.

    When full, the update sent most often, of those the oldest, is dropped and counted.
    """

    __slots__ = ("_order", "_serial", "_waiting", "_waiting_max", "dropped", "peak")

    def __init__(self, waiting_max: int) -> None:
        self._waiting_max = waiting_max
        self._serial = 0
        # (sends, -serial, member), sorted: what is to be sent next comes first.
        self._order: list[tuple[int, int, NodeId]] = []
        self._waiting: dict[NodeId, tuple[tuple[int, int, NodeId], Update, int]] = {}
        self.peak = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, member: NodeId) -> bool:
        return member in self._waiting

    def __iter__(self) -> Iterator[Update]:
        for _, _, member in self._order:
            yield self._waiting[member][1]

    def put(self, update: Update) -> None:
        """Queue with a fresh count of sends, instead of what waited about the same member."""
        self.drop(update.member)
        if len(self._order) >= self._waiting_max:
            del self._waiting[self._order.pop()[2]]
            self.dropped += 1
        self._serial += 1
        self._insert(0, self._serial, update, size_of(update))
        self.peak = max(self.peak, len(self._order))

    def drop(self, member: NodeId) -> None:
        """Forget what waits about `member`, if anything does."""
        waiting = self._waiting.pop(member, None)
        if waiting is not None:
            self._unlink(waiting[0])

    def take(self, bytes_max: int, sends_max: int) -> list[Update]:
        """Updates for one packet, `bytes_max` at most in all. Each is counted as sent once and leaves the
        queue with its `sends_max`-th send."""
        taken: list[tuple[int, int, NodeId]] = []
        left = bytes_max
        for key in self._order:
            size = self._waiting[key[2]][2]
            if size <= left:
                left -= size
                taken.append(key)
                if left < _SMALLEST_BYTES:
                    break
        updates: list[Update] = []
        for key in taken:
            self._unlink(key)
            sends, serial, member = key
            _, update, size = self._waiting.pop(member)
            updates.append(update)
            if sends + 1 < sends_max:
                self._insert(sends + 1, -serial, update, size)
        return updates

    def _unlink(self, key: tuple[int, int, NodeId]) -> None:
        del self._order[bisect_left(self._order, key)]

    def _insert(self, sends: int, serial: int, update: Update, size: int) -> None:
        key = (sends, -serial, update.member)
        self._waiting[update.member] = (key, update, size)
        insort(self._order, key)


_SMALLEST_BYTES = 5  # no update is shorter: array header, tag, two ids, incarnation
