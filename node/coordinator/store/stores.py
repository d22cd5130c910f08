"""Both stores of a replica: opened together, flushed in the background, always to one applied index.

Every flush writes history.db, then live.db. A failed write is tried again with the same job until it succeeds;
meanwhile `problem` says why, and the coordinator takes no starts. Ended executions stay readable in memory until they
are in history.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from node.coordinator.effects import Finished
from node.coordinator.settings import Settings
from node.coordinator.state import State
from node.coordinator.store.flush import FlushJob, encode_control
from node.coordinator.store.history import PLAN_REFRESH_S, HistoryReader, HistoryStore
from node.coordinator.store.live import LiveStore

log = logging.getLogger(__name__)

T = TypeVar("T")


class RunBlocking(Protocol):
    """Runs a function that blocks, off the event loop, one at a time, in order."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]: ...


class _Thread:
    """One thread; the production RunBlocking."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self) -> None:
        self._executor.shutdown(wait=True)


class Stores:
    """Owner of both files. One per data directory."""

    def __init__(
        self, directory: Path, settings: Settings, *, run_blocking: RunBlocking | None = None
    ) -> None:
        """Opens (or makes) the files. Raises sqlite3.Error, StoreDamaged."""
        self._settings = settings
        self._threads: list[_Thread] = []
        if run_blocking is None:
            self._threads = [_Thread("store-writer"), _Thread("history-reader")]
            self._write, self._read = self._threads[0], self._threads[1]
        else:
            self._write = self._read = run_blocking  # type: ignore[assignment]
        self._live = LiveStore(directory / "live.db")
        self._history = HistoryStore(
            directory / "history.db", keep_s=settings.history_keep_s, keep_count_max=settings.history_keep_max
        )
        self._reader = HistoryReader(directory / "history.db")
        self._ended: list[Finished] = []
        self._by_id: dict[str, Finished] = {}  # waiting for history.db, or being written there
        self._plans_known: dict[bytes, float] = {}  # plan -> when its use was last written
        self._live_index = 0
        self._accepted_at_flush = 0
        self._job: FlushJob | None = None
        self.problem: str | None = None
        """Why the last write failed; None when it succeeded."""
        self.flushes = 0
        self.rows_written = 0
        self.history_written = 0

    def load(self) -> tuple[State, int, int]:
        """(state, applied index, term) from disk. Before anything else."""
        state, self._live_index, term = self._live.load()
        self._accepted_at_flush = state.accepted
        return state, self._live_index, term

    async def close(self) -> None:
        """Let go of files and threads. What was not flushed is in the log."""
        await self._write(lambda: None)
        await self._read(self._reader.close)
        self._live.close()
        self._history.close()
        for thread in self._threads:
            thread.close()

    # ---- what has ended ---------------------------------------------------------------------------------------

    def add_ended(self, finished: Iterable[Finished]) -> None:
        """Executions that have become terminal; readable from now on."""
        for ended in finished:
            self._ended.append(ended)
            self._by_id[ended.execution.id] = ended

    def ended_in_memory(self, execution_id: str) -> Finished | None:
        """One that history.db may not have yet."""
        return self._by_id.get(execution_id)

    def all_ended_in_memory(self) -> Iterator[Finished]:
        """Newest last."""
        return iter(self._by_id.values())

    async def read_history(self, query: Callable[[HistoryReader], T]) -> T:
        """Run a query on history.db in its thread."""
        return await self._read(lambda: query(self._reader))

    # ---- flushing ---------------------------------------------------------------------------------------------

    @property
    def durable_index(self) -> int:
        """Both files hold everything up to here."""
        return min(self._live_index, self._history.applied_index)

    @property
    def waiting(self) -> int:
        """Ended executions that no flush has taken yet."""
        return len(self._ended)

    @property
    def unwritten(self) -> int:
        """Ended executions that are not in history.db yet, those of a flush under way included."""
        return len(self._by_id)

    @property
    def is_flushing(self) -> bool:
        """A job is under way."""
        return self._job is not None

    def begin(self, state: State, index: int, term: int) -> None:
        """Fix what the next flush writes: everything up to `index`, which must be what `state` is at."""
        assert self._job is None, "one flush at a time"
        ended, self._ended = self._ended, []
        self._job = FlushJob(
            state, index=index, term=term, ended=ended, accepted_before=self._accepted_at_flush
        )
        self._accepted_at_flush = state.accepted
        for finished in ended:
            plan = finished.execution.plan
            if state.now - self._plans_known.get(plan, 0.0) > PLAN_REFRESH_S:
                self._plans_known[plan] = state.now
                definition = finished.definition
                self._job.plans[plan] = (encode_control(definition.plan), definition.payload)
        if len(self._plans_known) > 10 * self._settings.compiled_max:
            self._plans_known.clear()  # they are written once more than needed

    async def finish(self, state: State) -> None:
        """Encode and write what `begin` fixed. Returns when it is on disk; tries for ever while the disk refuses."""
        job = self._job
        assert job is not None, "begin() first"
        while not job.encode_some(state, count_max=self._settings.encode_slice):  # noqa: ASYNC110
            await asyncio.sleep(0)  # the loop's turn between slices; there is nothing to wait for
        while True:
            try:
                await self._write(lambda: self._write_job(job))
            except sqlite3.OperationalError as error:
                if self.problem is None:
                    log.error(
                        "the store cannot be written; no executions are accepted until it can",
                        extra={"event": "coordinator.store_failed", "error": str(error)},
                    )
                self.problem = str(error)
                await asyncio.sleep(self._settings.store_retry_s)
                continue
            break
        if self.problem is not None:
            log.info("the store can be written again", extra={"event": "coordinator.store_recovered"})
            self.problem = None
        self._job = None
        self._live_index = job.index
        for finished in job.ended:
            self._by_id.pop(finished.execution.id, None)
        self.flushes += 1
        self.rows_written += len(job.rows)
        self.history_written += len(job.finished)

    def _write_job(self, job: FlushJob) -> None:
        self._history.write(job)
        self._live.write(job)

    # ---- snapshots --------------------------------------------------------------------------------------------

    def begin_snapshot(self) -> tuple[int, Iterator[bytes]]:
        """A copy of live.db as it is now."""
        return self._live.begin_snapshot()

    def install(self, chunks: Iterable[bytes]) -> tuple[State, int]:
        """*(any thread, nothing else under way)* Replace live.db by a snapshot; the state that it holds."""
        state, index = self._live.install(chunks)
        self._live_index = index
        self._accepted_at_flush = state.accepted
        self._history.skip_to(index)
        self._job = None
        return state, index

    def stats(self) -> dict[str, Any]:
        """Gauges for the status page."""
        return {
            "durable_index": self.durable_index,
            "flushes": self.flushes,
            "rows_written": self.rows_written,
            "history_written": self.history_written,
            "history_waiting": len(self._by_id),
            "problem": self.problem,
        }
