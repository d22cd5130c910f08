"""One replica of the state machine: what raft drives, on every voter, leading or not.

Applies entries, puts big batches together from their parts, keeps both stores up with the state. What a batch asks for
is handed to a listener (the leader's shell, and the waiting clients of this node).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from node.coordinator import commands as c
from node.coordinator.apply import apply
from node.coordinator.clock import ClusterClock
from node.coordinator.effects import Effects
from node.coordinator.settings import Settings
from node.coordinator.store.stores import Stores

OnApplied = Callable[[c.Batch, Effects], None]


class Replica:
    """Owner of the state. Implements raft's StateMachine."""

    def __init__(self, stores: Stores, clock: ClusterClock, settings: Settings) -> None:
        """Loads the state from the stores: blocks for about a second per 100,000 live executions."""
        self._stores = stores
        self._clock = clock
        self._settings = settings
        self.state, self.applied_index, self._term = stores.load()
        self._parts: list[bytes] = []  # of the one big batch under way
        self._parts_token = 0
        self._flush_asked = asyncio.Event()
        self._begin_wanted = False  # by a flush that waits for the end of a big batch
        self._flush_begun = asyncio.Event()
        self._last_flush_index = self.applied_index
        self.follows_clock = False
        """A leader's time is being observed. Not while a log is replayed after a restart: that time is old."""
        self.on_applied: OnApplied = _ignore
        self.dropped_total = 0

    # ---- raft's StateMachine ----------------------------------------------------------------------------------

    def apply(self, index: int, term: int, commands: Sequence[bytes]) -> list[object]:
        """Apply one entry. The result of a command is the list of its answers, None for a part."""
        if term != self._term:
            self._term = term
            self._parts = []  # of a leader that is gone; its client was told that the outcome is unknown
        results: list[object] = []
        for data in commands:
            entry = c.decode(data)
            batch = entry if type(entry) is c.Batch else self._assemble(entry)  # type: ignore[arg-type]
            results.append(self._apply(batch) if batch is not None else None)
        self.applied_index = index
        if self._begin_wanted and not self._parts:
            self._begin_flush()
        return results

    def _apply(self, batch: c.Batch) -> list[object]:
        fx = apply(self.state, batch)
        self.dropped_total += fx.dropped
        if fx.finished:
            self._stores.add_ended(fx.finished)
            if self._stores.waiting >= self._settings.flush_rows_max:
                self._flush_asked.set()
        if self.follows_clock:
            self._clock.observe(self.state.now)
        self.on_applied(batch, fx)
        return fx.answers

    def _assemble(self, part: c.Part) -> c.Batch | None:
        """A leader sends one big batch at a time: a first part ends whatever was under way."""
        if part.index == 0:
            self._parts = [part.chunk]
            self._parts_token = part.token
        elif part.token == self._parts_token and part.index == len(self._parts):
            self._parts.append(part.chunk)
        else:
            return None
        if len(self._parts) < part.total:
            return None
        data = b"".join(self._parts)
        self._parts = []
        batch = c.decode(data)
        assert type(batch) is c.Batch, "parts hold a batch"
        return batch

    def durable_index(self) -> int:
        """See raft.StateMachine."""
        return self._stores.durable_index

    def begin_snapshot(self) -> tuple[int, Iterator[bytes]]:
        """See raft.StateMachine."""
        return self._stores.begin_snapshot()

    def restore(self, index: int, term: int, chunks: Iterable[bytes]) -> None:
        """*(thread)* See raft.StateMachine."""
        self.state, self.applied_index = self._stores.install(chunks)
        self._term = term
        self._parts = []

    # ---- flushing ---------------------------------------------------------------------------------------------

    async def run_flushes(self) -> None:
        """Flush every `flush_interval_s`, or when much has ended. Ends only with an error."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.flush_interval_s):
                    await self._flush_asked.wait()
            await self.flush()

    async def flush(self) -> None:
        """Bring the stores up to the state. Returns at once when they are, or when a flush is under way."""
        self._flush_asked.clear()
        if self.applied_index == self._last_flush_index or self._stores.is_flushing:
            return
        if self._parts:
            self._flush_begun.clear()
            self._begin_wanted = True
            await self._flush_begun.wait()
        else:
            self._begin_flush()
        await self._stores.finish(self.state)

    def _begin_flush(self) -> None:
        self._begin_wanted = False
        self._last_flush_index = self.applied_index
        self._stores.begin(self.state, self.applied_index, self._term)
        self._flush_begun.set()


def _ignore(batch: c.Batch, fx: Effects) -> None:
    """Nobody listens yet: the log is being replayed."""
