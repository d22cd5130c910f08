"""What a leader knows of one other member, and how much it may send to it.

Probe: one message at a time until the logs meet. Replicate: optimistic, bounded by bytes and messages in
flight. Snapshot: the entries it needs are gone; a file is on its way (states as in etcd's raft).
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from raft.storage_api import SnapshotMeta


class Pace(Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Progress:
    """Invariants: `match < next`; in flight is `match+1..next-1` at most, and only in REPLICATE."""

    __slots__ = (
        "acked_round",
        "commit_sent",
        "contact",
        "inflight",
        "inflight_bytes",
        "match",
        "match_at_heartbeat",
        "next",
        "pace",
        "probe_due",
        "snapshot",
        "snapshot_held",
        "snapshot_next",
        "snapshot_retry_at",
        "snapshot_synced",
    )

    def __init__(self, *, next_index: int, now: float) -> None:
        self.match = 0
        """Highest entry known to be equal to ours and on its disk."""
        self.next = next_index
        self.pace = Pace.PROBE
        self.probe_due = True
        """An (otherwise empty) Append should go out now."""
        self.inflight: deque[tuple[int, int]] = deque()
        """(last index, payload bytes) of each unacknowledged Append."""
        self.inflight_bytes = 0
        self.contact = now
        """When it last said something in our term."""
        self.acked_round = 0
        self.commit_sent = 0
        self.match_at_heartbeat = 0
        self.snapshot: SnapshotMeta | None = None
        self.snapshot_held = 0
        """Bytes it says it has."""
        self.snapshot_next = 0
        """Where the next chunk to be read begins."""
        self.snapshot_synced = False
        """It has told us how far it is, so chunks may flow."""
        self.snapshot_retry_at = 0.0

    def acknowledge(self, match: int) -> bool:
        """It has everything up to `match`. True if that is news."""
        while self.inflight and self.inflight[0][0] <= match:
            self.inflight_bytes -= self.inflight.popleft()[1]
        if match >= self.next:
            self.next = match + 1
        if match <= self.match:
            return False
        self.match = match
        return True

    def probe_from(self, next_index: int) -> None:
        """Go back to one message at a time, starting at `next_index` (never below match + 1)."""
        self.pace = Pace.PROBE
        self.next = max(self.match + 1, next_index)
        self.probe_due = True
        self.snapshot = None
        self.inflight.clear()
        self.inflight_bytes = 0

    def replicate(self) -> None:
        """The logs have met at `match`."""
        self.pace = Pace.REPLICATE
        self.next = self.match + 1
        self.snapshot = None

    def start_snapshot(self, meta: SnapshotMeta, retry_at: float) -> None:
        self.probe_from(self.match + 1)
        self.pace = Pace.SNAPSHOT
        self.probe_due = False
        self.snapshot = meta
        self.snapshot_held = self.snapshot_next = 0
        self.snapshot_synced = False
        self.snapshot_retry_at = retry_at

    def sent(self, last_index: int, size: int) -> None:
        """An Append up to `last_index` is on its way."""
        self.inflight.append((last_index, size))
        self.inflight_bytes += size
        self.next = last_index + 1
