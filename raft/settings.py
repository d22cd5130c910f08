"""Every number the log can be tuned by, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass

from raft.errors import SettingsInvalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Numbers of one voter. Timeouts should be alike on all members; the others are local choices."""

    election_timeout_min_s: float = 0.3
    """Shortest wait without a leader's word before asking for an election; also how long a follower that
    hears a leader refuses its vote to others."""
    election_timeout_max_s: float = 0.6
    """Longest such wait, and how long a leader without a majority goes on calling itself leader."""
    heartbeat_interval_s: float = 0.1
    """A third of the shortest election timeout: two heartbeats may be lost without an election."""
    link_closed_timeout_s: float = 0.08
    """After the link from the leader closed (its process died), pre-vote within this time instead."""
    commit_notice_s: float = 0.02
    """A quiet leader tells followers of a new commit index after this; a busy one does so with the next
    entries."""

    entry_bytes_max: int = 1024 * 1024
    """Commands of one entry together. Bounds the time one apply and one frame take."""
    commands_per_entry_max: int = 4096
    """Commands sharing one entry. 1 gives every command its own."""
    append_bytes_max: int = 1024 * 1024
    """Payload of one Append message; one entry is sent even if it is larger."""
    append_entries_max: int = 4096
    inflight_bytes_max: int = 8 * 1024 * 1024
    """Unacknowledged payload per follower: covers 60 MB/s at 100 ms."""
    inflight_messages_max: int = 256
    uncommitted_bytes_max: int = 32 * 1024 * 1024
    """Payload in the leader's log above the commit index; more is refused (`Overloaded`)."""
    proposals_bytes_max: int = 16 * 1024 * 1024
    """Commands waiting for their entry; more is refused (`Overloaded`)."""
    proposals_max: int = 65536
    reads_max: int = 65536
    """Reads waiting for their round; more is refused (`Overloaded`)."""
    tail_bytes_max: int = 16 * 1024 * 1024
    """Applied entries kept in memory for followers a little behind; older ones are read from the journal."""

    snapshot_log_bytes: int = 256 * 1024 * 1024
    """Journal payload since the last snapshot that makes the next one due."""
    snapshot_log_entries: int = 500_000
    snapshot_chunk_bytes: int = 256 * 1024
    """Bytes per message of a snapshot on its way to a follower."""
    snapshot_window_chunks: int = 4
    """Chunks under way at once; with the chunk size it bounds memory per receiver."""
    snapshot_bytes_per_s_max: float = 100e6
    """All snapshots sent by one leader together, so that they do not crowd out commands."""
    snapshot_retry_s: float = 1.0
    """A snapshot transfer without progress asks again where the follower stands."""
    transfer_timeout_s: float = 1.0
    """A leadership transfer not done by then is given up, and proposals are taken again."""
    learner_lag_entries_max: int = 1000
    """A learner within this of the leader's last entry may be promoted."""

    frame_bytes_max: int = 4 * 1024 * 1024
    """Largest frame taken from a peer."""
    apply_slice_s: float = 0.005
    """Time spent applying entries before the event loop gets its turn."""
    apply_bytes_max: int = 4 * 1024 * 1024
    """Payload taken from the log at once for applying."""
    read_timeout_s: float = 2.0
    """A read not confirmed by then fails (`Unavailable`)."""
    stall_s: float = 0.2
    """A timer this late means this process stood still: what waits in the sockets is read before time is
    judged."""

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat_interval_s * 2 <= self.election_timeout_min_s:
            raise SettingsInvalid(
                f"heartbeat_interval_s {self.heartbeat_interval_s} must be at most half of "
                f"election_timeout_min_s {self.election_timeout_min_s}, or lost heartbeats cause elections"
            )
        if self.election_timeout_max_s < self.election_timeout_min_s * 1.2:
            raise SettingsInvalid(
                f"election_timeout_max_s {self.election_timeout_max_s} must exceed election_timeout_min_s "
                f"{self.election_timeout_min_s} by a fifth, or votes split again and again"
            )
        if self.frame_bytes_max < 2 * max(self.entry_bytes_max, self.append_bytes_max):
            raise SettingsInvalid(
                f"frame_bytes_max {self.frame_bytes_max} must be twice entry_bytes_max {self.entry_bytes_max} and "
                f"append_bytes_max {self.append_bytes_max}, or an entry may not fit into a frame"
            )
        for name in (
            "entry_bytes_max",
            "commands_per_entry_max",
            "inflight_messages_max",
            "snapshot_window_chunks",
        ):
            if getattr(self, name) < 1:
                raise SettingsInvalid(f"{name} must be at least 1")
