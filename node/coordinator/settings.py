"""Every number of the coordinator, each with its reason. Those that decide inside `apply` are in `state.Limits`."""

from __future__ import annotations

from dataclasses import dataclass, field

from node.coordinator.state import Limits

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Numbers of one node's coordinator; the leader's count."""

    limits: Limits = field(default_factory=Limits)
    """Replicated when this node leads."""

    executions_live_max: int = 200_000
    """Twice the 100,000 that restart in 15 s; about 2 KiB each without their values."""
    tasks_queued_max: int = 500_000
    """Ready and not handed out; a start is refused above it."""
    state_bytes_max: int = 1024 * MIB
    """Values held by live executions; they are in memory on every voter."""
    history_waiting_max: int = 100_000
    """Finished and not yet in history.db, some 2 KiB each with small values; a start is refused above it."""
    inbox_commands_max: int = 100_000
    """Requests waiting to be proposed: some 30 s of starts at the best rate measured."""
    inbox_bytes_max: int = 256 * MIB
    value_bytes_max: int = 64 * MIB
    """One command with all its values; the codec's own bound."""

    entry_bytes_max: int = 900 * 1024
    """Of one batch: fits into one log entry (1 MiB) with its frame. A bigger one goes in parts."""
    entry_commands_max: int = 4096
    """Of one batch: some 60 ms of applying at the most."""
    proposals_max: int = 2
    """Batches under way at once: while one is synced the next waits at the log, so there is no pause between."""
    parts_max: int = 8
    """Parts of one big batch under way at once."""
    retry_s: float = 0.2
    """A report or timer that could not be proposed (overloaded, disk full) is proposed again after this."""

    flush_interval_s: float = 1.0
    """Between flushes of the stores: what a restart has to replay."""
    flush_rows_max: int = 5_000
    """Ended executions waiting for history.db that make a flush due at once: bounds memory at high rates."""
    encode_slice: int = 200
    """Rows encoded at once: about 1 ms."""
    history_keep_s: float = 30 * 86_400.0
    history_keep_max: int = 5_000_000
    """About 5 GB of small executions."""
    definition_keep_s: float = 3600.0
    """An inline definition nobody uses is dropped from the state after this."""
    compiled_max: int = 2_000
    """Raw payloads whose compiled form is remembered."""
    compiled_bytes_max: int = 64 * MIB
    compile_inline_bytes_max: int = 32 * 1024
    """Bigger payloads are compiled in a thread: about 2 ms of the loop's time at this size."""

    requeues_max: int = 20
    """A task that workers return unstarted is handed out again so often, then it fails with their reason."""
    requeue_delay_s: float = 0.05
    """Before such a task is handed out again; doubles up to `requeue_delay_s_max`."""
    requeue_delay_s_max: float = 2.0
    heartbeat_check_s: float = 0.05
    """Shortest time between two looks for attempts without a heartbeat."""
    deadline_grace_s: float = 5.0
    """A runner may overrun its execution's deadline by this before it is stopped for it: the coordinator acts first."""
    timers_per_tick_max: int = 2_000
    """Due timers taken at once; the rest comes with the next turn of the loop."""
    wait_s_max: float = 600.0
    """Longest wait of a client for a result."""
    waiters_max: int = 100_000
    """Clients waiting for results or following events."""
    list_limit_max: int = 1_000
    store_retry_s: float = 1.0
    """After a store could not be written (disk full)."""
