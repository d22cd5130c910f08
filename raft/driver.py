"""`Raft`: one member of the group, running. The asyncio shell around `core.Core`.

What happens is decided in the core; this file moves bytes and time. One method, `_pump`, runs after every
batch of events: it turns waiting commands into entries, takes the core's output and carries it out in the
order that `Output` demands. Disk work is done by two threads (`workers.Worker`): one for the journal, one
for snapshots. Nothing here waits while it holds something: between two awaits the state is whole.

An exception in the core, in the state machine's `apply`, or from the disk ends the node: `_fail`. It is
then of no use but to be closed; what it acknowledged is on the disks of a majority.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from pathlib import Path
from time import perf_counter
from typing import Any

from raft.core import Core
from raft.effects import (
    ConfigChanged,
    Effect,
    InstallSnapshot,
    Output,
    ReadReady,
    ReadRefused,
    ReadSnapshot,
    ReceiveSnapshot,
    Role,
    RoleChanged,
    WriteEntries,
)
from raft.errors import (
    CommandTooLarge,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    RaftError,
    SnapshotDamaged,
    Stopped,
    StorageFull,
    Unavailable,
)
from raft.files import DirectoryLock
from raft.journal import FileJournal
from raft.log import encode_config
from raft.machine import Counters, Event, LeaderReady, NodeStopped, StateMachine, Status
from raft.messages import Append, Message, decode_commands, decode_frame, encode_commands, encode_frame
from raft.recovery import found, identity, make_core, reconcile, restore
from raft.settings import Settings
from raft.snapshots import FileSnapshotStore
from raft.storage_api import (
    KIND_COMMANDS,
    Config,
    Journal,
    SnapshotMeta,
    SnapshotReceiver,
    SnapshotStore,
)
from raft.transport import NoTransport, Transport
from raft.workers import Worker

__all__ = ["LeaderReady", "NodeStopped", "Raft", "StateMachine", "Status"]

log = logging.getLogger("raft")

_RECEIVE_JOBS_MAX = 64
"""Pieces of an incoming snapshot waiting for the disk; more are dropped, and sent again."""
_COMMAND_OVERHEAD_BYTES = 5
"""Of msgpack, around one command."""


class Raft:
    """One member of the group. Made by `open`; everything on one event loop.

    Errors say whether they are definite (`RaftError.definite`): a definite one means that the command is
    certainly not in the log and never will be through this call.
    """

    def __init__(
        self,
        *,
        core: Core,
        journal: Journal,
        snapshots: SnapshotStore,
        state_machine: StateMachine,
        transport: Transport,
        settings: Settings,
        lock: DirectoryLock,
        journal_worker: Worker,
        snapshot_worker: Worker,
        applied_index: int,
    ) -> None:
        self._core = core
        self._journal = journal
        self._snapshots = snapshots
        self._machine = state_machine
        self._transport = transport
        self._settings = settings
        self._lock = lock
        self._journal_worker = journal_worker
        self._snapshot_worker = snapshot_worker
        self._loop = asyncio.get_running_loop()
        self._counters = Counters()
        self._listeners: list[Callable[[Event], None]] = []

        self._queue: deque[tuple[bytes, asyncio.Future[Any]]] = deque()
        self._queue_bytes = 0
        self._waiting: deque[tuple[int, float, list[asyncio.Future[Any]]]] = deque()
        """(index, when appended, who waits for its commands' results), ascending."""
        self._storage_full = False
        self._readers: list[asyncio.Future[int | None]] = []
        """Waiting for the next read to be asked for; all share it."""
        self._reads: dict[int, list[asyncio.Future[int | None]]] = {}
        self._read_context = 0
        self._reads_count = 0
        self._ready_reads: list[tuple[int, int, list[asyncio.Future[int | None]]]] = []
        """Heap of (index to be applied first, context, readers)."""

        self._applied_index = applied_index
        self._leader_ready_term = 0
        self._pump_scheduled = False
        self._syncing = False
        self._unsynced_seq = 0
        """Newest write_seq that is in the journal but not in a sync; 0: none."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._installing = False
        self._receiver: SnapshotReceiver | None = None
        self._receive_jobs = 0
        self._snapshot_send_at = 0.0
        # What was applied before this start and is in no snapshot yet; the rest of the log is counted as it is applied.
        since = max(core.snapshot.index if core.snapshot else 0, core.log.base_index)
        self._snapshot_log_entries = max(applied_index - since, 0)
        self._snapshot_log_bytes = 0
        if isinstance(journal, FileJournal):
            self._snapshot_log_bytes = max(journal.bytes_after(since) - journal.bytes_after(applied_index), 0)
        self._snapshot_task: asyncio.Task[None] | None = None
        self._snapshot_not_before = 0.0
        self._snapshot_lock = asyncio.Lock()
        self._leader_changed = asyncio.Event()
        self._failure: BaseException | None = None
        self._closed = False
        self._stopped = asyncio.Event()

    # -- life --------------------------------------------------------------------------------------

    @classmethod
    async def open(
        cls,
        *,
        data_dir: str | Path,
        state_machine: StateMachine,
        node_id: str | None = None,
        initial_voters: Mapping[str, str] | None = None,
        transport: Transport | None = None,
        settings: Settings | None = None,
        rng: random.Random | None = None,
        listener: Callable[[Event], None] | None = None,
        journal: Journal | None = None,
        snapshots: SnapshotStore | None = None,
        workers: Callable[[str, asyncio.AbstractEventLoop], Worker] = Worker,
    ) -> Raft:
        """Start the member whose log is in `<data_dir>/raft`, restoring snapshot and log; a new one if
        there is none.

        `node_id`: the name for all time of this data directory; None: the one it has, or a new random one.
        A directory that belongs to another node is refused (SettingsInvalid): one that was wiped must come
        back as a new node. `initial_voters` (id -> address): only for a new directory; every founding voter
        must be given the same. None for a new directory: a group of this node alone. Empty: the node waits
        until a leader adds it. Raises DataDirectoryLocked, JournalDamaged, StorageFailed, StorageFull. Does
        not wait for a leader.
        """
        settings = settings or Settings()
        directory = Path(data_dir) / "raft"
        loop = asyncio.get_running_loop()
        journal_worker = workers("raft-journal", loop)
        snapshot_worker = workers("raft-snapshots", loop)
        transport = transport or NoTransport()
        lock: DirectoryLock | None = None
        try:
            lock = await journal_worker.run(lambda: DirectoryLock(directory))
            name = await journal_worker.run(lambda: identity(directory, node_id))
            if journal is None:
                journal = await journal_worker.run(lambda: FileJournal.open(directory / "journal"))
            if snapshots is None:
                snapshots = await snapshot_worker.run(lambda: FileSnapshotStore.open(directory / "snapshots"))
            await journal_worker.run(lambda: found(journal, snapshots, name, initial_voters))
            await journal_worker.run(lambda: reconcile(journal, snapshots))
            applied = await snapshot_worker.run(lambda: restore(journal, snapshots, state_machine))
            raft = cls(
                core=make_core(
                    journal, snapshots, name, applied, settings, rng or random.Random(), loop.time()
                ),
                journal=journal,
                snapshots=snapshots,
                state_machine=state_machine,
                transport=transport,
                settings=settings,
                lock=lock,
                journal_worker=journal_worker,
                snapshot_worker=snapshot_worker,
                applied_index=applied,
            )
            if listener is not None:
                raft.add_listener(listener)
            await transport.start(name, raft._on_frame, raft._on_link_closed)
            raft._set_members(raft._core.log.config)
        except BaseException:
            await journal_worker.close()
            await snapshot_worker.close()
            if journal is not None:
                journal.close()
            if lock is not None:
                lock.release()
            raise
        raft._schedule_pump()
        return raft

    async def close(self) -> None:
        """Stop: refuse new work, let commands under way end as OutcomeUnknown, close links and files.
        Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._abandon(Stopped("the node was closed"))
        if self._snapshot_task is not None:
            self._snapshot_task.cancel()
            await asyncio.gather(self._snapshot_task, return_exceptions=True)
        await self._transport.close()
        await self._journal_worker.close()
        await self._snapshot_worker.close()
        self._journal.close()
        self._lock.release()
        self._stopped.set()

    async def wait_stopped(self) -> None:
        """Until the node is closed or has stopped by itself; raises the error that stopped it."""
        await self._stopped.wait()
        if self._failure is not None:
            raise self._failure

    def add_listener(self, listener: Callable[[Event], None]) -> None:
        """`listener(event)` is called on the loop for each event from now on. It must not raise, nor call
        back in."""
        self._listeners.append(listener)

    @property
    def node_id(self) -> str:
        return self._core.node_id

    @property
    def is_leader(self) -> bool:
        return self._core.role is Role.LEADER and self._failure is None and not self._closed

    def status(self) -> Status:
        core, counters = self._core, self._counters
        return Status(
            node_id=core.node_id,
            role=core.role,
            term=core.term,
            leader_id=core.leader_id,
            commit_index=core.commit_index,
            applied_index=self._applied_index,
            synced_index=core.synced_index,
            last_index=core.log.last_index,
            first_index=core.log.base_index + 1,
            snapshot_index=core.snapshot.index if core.snapshot else 0,
            voters=dict(core.log.config.voters),
            learners=dict(core.log.config.learners),
            match={peer: progress.match for peer, progress in core.progress.items()},
            proposals_waiting=len(self._queue),
            proposals_waiting_bytes=self._queue_bytes,
            uncommitted_bytes=core.uncommitted_bytes,
            storage_full=self._storage_full,
            proposals_total=counters.proposals,
            entries_applied_total=counters.entries_applied,
            commands_applied_total=counters.commands_applied,
            syncs_total=counters.syncs,
            elections_won_total=counters.elections_won,
            terms_seen_total=counters.terms_seen,
            frames_refused_total=counters.frames_refused,
            snapshots_made_total=counters.snapshots_made,
            snapshot_bytes_sent_total=counters.snapshot_bytes_sent,
            snapshot_bytes_received_total=counters.snapshot_bytes_received,
            sync_latency_s=counters.sync_latency_s,
            commit_latency_s=counters.commit_latency_s,
            failure=str(self._failure) if self._failure is not None else None,
        )

    # -- commands ----------------------------------------------------------------------------------

    async def propose(self, command: bytes) -> object:
        """Returns what `apply` returned for `command`, once that is committed and applied here.

        Raises, definite: NotLeader, Overloaded, StorageFull, CommandTooLarge, Stopped. Indefinite:
        OutcomeUnknown, when leadership or the node was lost after the command entered the log. Cancelling
        does not take it back.
        """
        return await self.propose_nowait(command)

    def propose_nowait(self, command: bytes) -> asyncio.Future[Any]:
        """The same as a future, for many at once. Raises the definite errors that are known at once."""
        settings = self._settings
        self._raise_if_stopped()
        if self._core.role is not Role.LEADER:
            raise self._not_leader()
        size = len(command) + _COMMAND_OVERHEAD_BYTES
        if size + _COMMAND_OVERHEAD_BYTES > settings.entry_bytes_max:
            raise CommandTooLarge(
                f"a command of {len(command)} bytes does not fit into an entry of {settings.entry_bytes_max} "
                "bytes (entry_bytes_max); store the value elsewhere and refer to it"
            )
        if len(self._queue) >= settings.proposals_max:
            raise self._overloaded("proposals_max", settings.proposals_max)
        if self._queue_bytes + size > settings.proposals_bytes_max:
            raise self._overloaded("proposals_bytes_max", settings.proposals_bytes_max)
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.append((command, future))
        self._queue_bytes += size
        self._schedule_pump()
        return future

    async def read_barrier(self) -> int:
        """A linearizable read point: every command that was acknowledged anywhere before the call is
        applied here when it returns. On followers too. Returns the applied index. Raises Unavailable when
        no leader confirms it in time, and Overloaded, Stopped."""
        self._raise_if_stopped()
        if self._reads_count >= self._settings.reads_max:
            raise self._overloaded("reads_max", self._settings.reads_max)
        self._reads_count += 1
        try:
            async with asyncio.timeout(self._settings.read_timeout_s):
                while True:
                    future: asyncio.Future[int | None] = self._loop.create_future()
                    self._readers.append(future)
                    self._schedule_pump()
                    index = await future
                    if index is not None:
                        return index
                    await self._wait_leader_change()
        except TimeoutError:
            raise Unavailable(
                f"no leader confirmed the read within {self._settings.read_timeout_s} s "
                f"(term {self._core.term}, leader {self._core.leader_id}); try again, or read stale data"
            ) from None
        finally:
            self._reads_count -= 1

    async def wait_leader(self) -> str:
        """The leader's id, as soon as one is known here."""
        while self._core.leader_id is None:
            self._raise_if_stopped()
            await self._wait_leader_change()
        return self._core.leader_id

    async def _wait_leader_change(self) -> None:
        """Until role or leader changes, or a heartbeat interval has passed."""
        self._leader_changed.clear()
        try:
            async with asyncio.timeout(self._settings.heartbeat_interval_s):
                await self._leader_changed.wait()
        except TimeoutError:
            return

    # -- members -----------------------------------------------------------------------------------

    async def add_learner(self, node_id: str, address: str = "") -> int:
        """Begin to replicate to `node_id` without counting it. Returns the index at which that is committed.

        The same call changes the address of a learner. Raises NotLeader, MembershipRefused;
        OutcomeUnknown."""
        config = self._core.log.config
        if node_id in config.voters:
            return await self._change(replace_members(config, voters={**config.voters, node_id: address}))
        return await self._change(replace_members(config, learners={**config.learners, node_id: address}))

    async def promote(self, node_id: str) -> int:
        """Make a learner that has caught up a voter. Errors as `add_learner`."""
        config = self._core.log.config
        learners = {name: address for name, address in config.learners.items() if name != node_id}
        address = config.learners.get(node_id, config.voters.get(node_id, ""))
        return await self._change(Config({**config.voters, node_id: address}, learners))

    async def remove(self, node_id: str) -> int:
        """Take a member out. A leader that is to remove itself hands leadership over first and raises
        NotLeader with the new leader, which is to be asked again; without another voter it refuses. Errors
        as `add_learner`."""
        config = self._core.log.config
        if node_id == self.node_id and self._core.role is Role.LEADER:
            await self.transfer_leadership()
            raise self._not_leader()
        voters = {name: address for name, address in config.voters.items() if name != node_id}
        learners = {name: address for name, address in config.learners.items() if name != node_id}
        return await self._change(Config(voters, learners))

    async def _change(self, config: Config) -> int:
        self._raise_if_stopped()
        if not self._journal.has_room(len(encode_config(config)), use_reserve=True):
            raise self._no_space()
        index = self._core.propose_config(config)
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append((index, perf_counter(), [future]))
        self._schedule_pump()
        await future
        return index

    async def transfer_leadership(self, target: str | None = None) -> str:
        """Hand leadership to `target` (None: the voter that is furthest). Returns the new leader's id.
        Raises NotLeader, MembershipRefused, or Unavailable if this node still leads when the time for it is
        over."""
        self._raise_if_stopped()
        chosen = self._core.transfer(self._loop.time(), target)
        term = self._core.term
        self._schedule_pump()
        deadline = (
            self._loop.time() + self._settings.transfer_timeout_s + self._settings.election_timeout_max_s
        )
        while self._loop.time() < deadline:
            self._raise_if_stopped()
            core = self._core
            if core.term > term and core.leader_id is not None and core.role is not Role.LEADER:
                return core.leader_id
            if core.role is Role.LEADER and core.transfer_target is None:
                break
            await self._wait_leader_change()
        raise Unavailable(
            f"{chosen} did not take over leadership from {self.node_id} in time; it goes on leading"
        )

    # -- snapshots ---------------------------------------------------------------------------------

    async def snapshot(self) -> int:
        """Store a snapshot of the applied state now and drop the log below it. Returns its index."""
        async with self._snapshot_lock:
            self._raise_if_stopped()
            return await self._make_snapshot()

    async def _make_snapshot(self) -> int:
        core = self._core
        newest = core.snapshot.index if core.snapshot else 0
        if self._installing:
            return newest  # the leader's newer one is taking the state's place right now
        index, chunks = self._machine.begin_snapshot()
        self._snapshot_log_bytes = self._snapshot_log_entries = 0
        if index <= newest:
            return newest
        term, config = core.log.term_at(index), core.log.config_at(index)
        meta: SnapshotMeta = await self._snapshot_worker.run(
            lambda: self._snapshots.write(index, term, config, chunks)
        )
        self._counters.snapshots_made += 1
        core.snapshot_made(meta)
        log.info(
            "snapshot stored", extra={"event": "raft.snapshot_stored", "log_index": index, "bytes": meta.size}
        )
        await self._compact()
        return index

    async def _compact(self) -> None:
        """Drop the log up to the oldest kept snapshot, as far as the state machine's store has it."""
        kept = self._snapshots.kept()
        if not kept:
            return
        index = min(
            kept[0].index, self._machine.durable_index(), self._applied_index, self._core.synced_index
        )
        if index <= self._core.log.base_index:
            return
        self._core.compacted(index)
        await self._journal_worker.run(lambda: self._journal.compact(index))

    def _snapshot_if_due(self) -> None:
        settings = self._settings
        if (
            self._snapshot_log_bytes < settings.snapshot_log_bytes
            and self._snapshot_log_entries < settings.snapshot_log_entries
        ):
            return
        if self._snapshot_task is not None or self._snapshot_lock.locked() or self._installing:
            return
        if self._loop.time() >= self._snapshot_not_before:
            self._snapshot_task = self._loop.create_task(self._background_snapshot(), name="raft-snapshot")

    async def _background_snapshot(self) -> None:
        try:
            await self.snapshot()
        except StorageFull as error:
            self._snapshot_not_before = self._loop.time() + 10.0
            log.warning(
                "no space for a snapshot", extra={"event": "raft.snapshot_no_space", "reason": str(error)}
            )
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._fail(error)
        finally:
            self._snapshot_task = None

    # -- events in ---------------------------------------------------------------------------------

    def _on_frame(self, sender: str, frame: bytes) -> None:
        if self._failure is not None or self._closed:
            return
        try:
            messages = decode_frame(frame)
        except ValueError as error:
            self._counters.frames_refused += 1
            log.warning(
                "frame refused", extra={"event": "raft.frame_refused", "peer": sender, "reason": str(error)}
            )
            return
        now = self._loop.time()
        core = self._core
        try:
            for message in messages:
                if type(message) is Append and message.entries and not self._has_room_for(message):
                    continue  # as if lost; the leader asks again, and there may be space by then
                core.handle(now, sender, message)
        except Exception as error:
            self._fail(error)
            return
        self._schedule_pump()

    def _has_room_for(self, message: Append) -> bool:
        size = sum([len(entry.payload) for entry in message.entries])
        room = self._journal.has_room(size + 64 * len(message.entries), use_reserve=True)
        if not room and not self._storage_full:
            log.error(
                "disk full, entries refused", extra={"event": "raft.storage_full", "node_id": self.node_id}
            )
        self._storage_full = not room
        return room

    def _on_link_closed(self, peer: str) -> None:
        if self._failure is None and not self._closed:
            self._core.link_closed(self._loop.time(), peer)
            self._schedule_pump()

    def _on_timer(self) -> None:
        self._timer = None
        if self._failure is not None or self._closed:
            return
        now = self._loop.time()
        if now >= self._core.next_deadline():
            try:
                self._core.tick(now)
            except Exception as error:
                self._fail(error)
                return
            self._schedule_pump()
        else:
            self._arm_timer()

    def _arm_timer(self) -> None:
        deadline = self._core.next_deadline()
        if self._timer is not None:
            if self._timer_at <= deadline:
                return  # fires early and looks again: cheaper than a new timer per message
            self._timer.cancel()
            self._timer = None
        if deadline != float("inf"):
            self._timer_at = deadline
            self._timer = self._loop.call_at(deadline, self._on_timer)

    # -- the pump ----------------------------------------------------------------------------------

    def _schedule_pump(self) -> None:
        if not self._pump_scheduled:
            self._pump_scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """After a batch of events: commands into entries, the core's output into the world."""
        self._pump_scheduled = False
        if self._failure is not None or self._closed:
            return
        try:
            if self._readers:
                self._ask_reads()
            if self._queue and not self._syncing:
                self._take_commands()
            self._carry_out(self._core.output(self._loop.time()))
        except Exception as error:
            self._fail(error)

    def _take_commands(self) -> None:
        """Turn what waits into entries: as many commands to an entry as its bounds allow."""
        core, settings = self._core, self._settings
        if core.role is not Role.LEADER or core.transfer_target is not None:
            return
        if core.uncommitted_bytes > settings.uncommitted_bytes_max:
            return
        if not self._journal.has_room(self._queue_bytes + 64 * len(self._queue)):
            if not self._storage_full:
                log.error(
                    "disk full, commands refused",
                    extra={"event": "raft.storage_full", "node_id": self.node_id},
                )
            self._storage_full = True
            self._refuse_queue(self._no_space())
            return
        self._storage_full = False
        queue = self._queue
        payloads: list[bytes] = []
        waiters: list[list[asyncio.Future[Any]]] = []
        budget = settings.uncommitted_bytes_max - core.uncommitted_bytes
        count_max, bytes_max = settings.commands_per_entry_max, settings.entry_bytes_max
        while queue and budget > 0:
            commands: list[bytes] = []
            futures: list[asyncio.Future[Any]] = []
            size = _COMMAND_OVERHEAD_BYTES
            while queue and len(commands) < count_max:
                command, future = queue[0]
                size += len(command) + _COMMAND_OVERHEAD_BYTES
                if size > bytes_max and commands:
                    break
                queue.popleft()
                commands.append(command)
                futures.append(future)
            payload = encode_commands(commands)
            budget -= len(payload)
            payloads.append(payload)
            waiters.append(futures)
            self._counters.proposals += len(commands)
        self._queue_bytes = (
            sum([len(command) + _COMMAND_OVERHEAD_BYTES for command, _ in queue]) if queue else 0
        )
        # Whoever waits is noted before the core acts: whatever goes wrong there, each gets an answer.
        now, first = perf_counter(), core.log.last_index + 1
        self._waiting.extend([(index, now, futures) for index, futures in enumerate(waiters, first)])
        core.propose(payloads)

    def _carry_out(self, output: Output) -> None:
        if output.writes:
            journal = self._journal
            for write in output.writes:
                if type(write) is WriteEntries:
                    journal.append(write.entries)
                else:
                    journal.set_term_vote(write.term, write.voted_for)  # type: ignore[union-attr]
            self._unsynced_seq = output.write_seq
        if self._unsynced_seq and not self._syncing:
            self._start_sync()
        if output.messages:
            self._send(output.messages)
        for effect in output.effects:
            self._perform(effect)
        if output.apply_to > self._applied_index and not self._installing:
            self._apply(output.apply_to)
        self._arm_timer()

    def _start_sync(self) -> None:
        seq, self._unsynced_seq = self._unsynced_seq, 0
        self._syncing = True
        started = perf_counter()

        def done(_: None, error: BaseException | None) -> None:
            self._syncing = False
            if error is not None:
                self._fail(error)
                return
            if self._failure is not None or self._closed:
                return
            counters = self._counters
            counters.syncs += 1
            counters.sync_latency_s += (perf_counter() - started - counters.sync_latency_s) * 0.1
            self._core.synced(self._loop.time(), seq)
            # Not through the loop's queue: a lone command is waiting for exactly this.
            self._pump()

        self._journal_worker.submit(self._journal.sync, done)

    def _send(self, messages: Sequence[tuple[str, Message]]) -> None:
        """One frame per receiver, or several where one would be too large."""
        transport = self._transport
        if len(messages) == 1:
            to, message = messages[0]
            transport.send(to, encode_frame([message]))
            return
        batches: dict[str, list[Message]] = {}
        for to, message in messages:
            batches.setdefault(to, []).append(message)
        for to, batch in batches.items():
            if len(batch) > 1:
                for part in _frames(batch, self._settings.frame_bytes_max // 2):
                    transport.send(to, encode_frame(part))
            else:
                transport.send(to, encode_frame(batch))

    # -- applying ----------------------------------------------------------------------------------

    def _apply(self, target: int) -> None:
        """Apply committed entries for at most a slice of time; the rest after the loop had its turn."""
        core, machine, settings = self._core, self._machine, self._settings
        applied = self._applied_index
        counters = self._counters
        until = (
            perf_counter() + settings.apply_slice_s
        )  # a loop's own clock may stand still during a callback
        waiting = self._waiting
        while applied < target:
            entries = core.log.slice(applied + 1, target, settings.apply_bytes_max, 256)
            for entry in entries:
                index = entry.index
                commands: Sequence[bytes] = ()
                if entry.kind == KIND_COMMANDS:
                    commands = decode_commands(entry.payload)
                results = machine.apply(index, entry.term, commands)
                self._applied_index = applied = index
                counters.commands_applied += len(commands)
                self._snapshot_log_bytes += len(entry.payload)
                if waiting and waiting[0][0] == index:
                    _, since, futures = waiting.popleft()
                    counters.commit_latency_s += (perf_counter() - since - counters.commit_latency_s) * 0.1
                    if entry.kind != KIND_COMMANDS:
                        results = (index,)
                    for future, result in zip(futures, results, strict=True):
                        if not future.done():
                            future.set_result(result)
            counters.entries_applied += len(entries)
            self._snapshot_log_entries += len(entries)
            if perf_counter() >= until:
                break
        core.applied(applied)
        if self._ready_reads:
            self._finish_reads()
        if core.role is Role.LEADER:
            self._note_leader_ready()
        self._snapshot_if_due()
        if applied < target or core.has_waiting_reads or (self._queue and not self._syncing):
            self._schedule_pump()

    def _note_leader_ready(self) -> None:
        core = self._core
        if self._leader_ready_term != core.term and core.applied_index >= core.term_start:
            self._leader_ready_term = core.term
            self._tell(LeaderReady(core.term))

    # -- reads -------------------------------------------------------------------------------------

    def _ask_reads(self) -> None:
        """All readers of the last moment share one question."""
        readers, self._readers = self._readers, []
        self._read_context += 1
        self._reads[self._read_context] = readers
        self._core.read(self._read_context)

    def _reads_ready(self, contexts: Sequence[int], index: int) -> None:
        for context in contexts:
            readers = self._reads.pop(context, None)
            if readers is not None:
                heappush(self._ready_reads, (index, context, readers))
        self._finish_reads()

    def _finish_reads(self) -> None:
        while self._ready_reads and self._ready_reads[0][0] <= self._applied_index:
            for reader in heappop(self._ready_reads)[2]:
                if not reader.done():
                    reader.set_result(self._applied_index)

    # -- effects -----------------------------------------------------------------------------------

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, ReadReady):
            self._reads_ready(effect.contexts, effect.index)
        elif isinstance(effect, ReadRefused):
            for context in effect.contexts:
                for reader in self._reads.pop(context, ()):
                    if not reader.done():
                        reader.set_result(None)
        elif isinstance(effect, RoleChanged):
            self._role_changed(effect)
        elif isinstance(effect, ConfigChanged):
            self._set_members(effect.config)
            log.info("members changed", extra={"event": "raft.members_changed", "log_index": effect.index})
            self._tell(effect)
        elif isinstance(effect, ReadSnapshot):
            self._read_snapshot(effect)
        elif isinstance(effect, ReceiveSnapshot):
            self._receive_snapshot(effect)
        else:
            self._install_snapshot(effect)

    def _role_changed(self, change: RoleChanged) -> None:
        self._counters.terms_seen = max(self._counters.terms_seen, change.term)
        if change.role is Role.LEADER:
            self._counters.elections_won += 1
        elif self._waiting or self._queue:
            self._lose_leadership(change)
        self._leader_changed.set()
        log.info(
            "role changed",
            extra={
                "event": "raft.role_changed",
                "node_id": self.node_id,
                "role": change.role.value,
                "term": change.term,
                "leader_id": change.leader_id,
            },
        )
        self._tell(change)

    def _lose_leadership(self, change: RoleChanged) -> None:
        waiting, self._waiting = self._waiting, deque()
        for index, _, futures in waiting:
            error = OutcomeUnknown(
                f"{self.node_id} lost leadership (now term {change.term}) before entry {index} was "
                "committed; it may still commit: ask for the outcome before repeating it"
            )
            _fail_futures(futures, error)
        self._refuse_queue(self._not_leader())

    def _set_members(self, config: Config) -> None:
        members = {**config.learners, **config.voters}
        members.pop(self.node_id, None)
        self._transport.set_members(members)

    def _read_snapshot(self, effect: ReadSnapshot) -> None:
        """Read a piece when the bandwidth for snapshots allows."""
        now = self._loop.time()
        self._snapshot_send_at = max(self._snapshot_send_at, now) + effect.bytes_max / (
            self._settings.snapshot_bytes_per_s_max
        )

        def done(data: bytes, error: BaseException | None) -> None:
            if self._failure is not None or self._closed:
                return
            if error is not None:
                log.warning(
                    "snapshot unreadable", extra={"event": "raft.snapshot_unreadable", "reason": str(error)}
                )
                self._core.snapshot_read_failed(effect.to, effect.meta)
            else:
                self._counters.snapshot_bytes_sent += len(data)
                self._core.snapshot_read(effect.to, effect.meta, effect.offset, data)
            self._schedule_pump()

        def read() -> None:
            if self._failure is None and not self._closed:
                self._snapshot_worker.submit(
                    lambda: self._snapshots.read(effect.meta, effect.offset, effect.bytes_max), done
                )

        self._loop.call_at(self._snapshot_send_at, read)

    def _receive_snapshot(self, effect: ReceiveSnapshot) -> None:
        if self._receive_jobs >= _RECEIVE_JOBS_MAX:
            return
        self._receive_jobs += 1
        self._counters.snapshot_bytes_received += len(effect.data)

        def done(offset: int, error: BaseException | None) -> None:
            self._receive_jobs -= 1
            if self._failure is not None or self._closed:
                return
            if isinstance(error, StorageFull):
                log.error("no space for the leader's snapshot", extra={"event": "raft.storage_full"})
            elif error is not None:
                self._fail(error)
            else:
                self._core.snapshot_received(effect.meta, offset)
                self._schedule_pump()

        self._snapshot_worker.submit(lambda: self._write_received(effect), done)

    def _write_received(self, effect: ReceiveSnapshot) -> int:
        """(thread) Returns how much of the file is held."""
        receiver = self._receiver
        if receiver is None or receiver.meta != effect.meta:
            latest = self._snapshots.latest()
            if latest is not None and latest.digest == effect.meta.digest:
                return effect.meta.size  # a late piece of a file that is complete
            if receiver is not None:
                receiver.abort()
            receiver = self._receiver = self._snapshots.receive(effect.meta)
        return receiver.write(effect.offset, effect.data) if effect.data else receiver.offset

    def _install_snapshot(self, effect: InstallSnapshot) -> None:
        meta = effect.meta
        self._installing = True

        def finish() -> None:
            if self._receiver is not None:
                receiver, self._receiver = self._receiver, None
                receiver.finish()
            self._machine.restore(meta.index, meta.term, self._snapshots.chunks(meta))

        def done(_: None, error: BaseException | None) -> None:
            self._installing = False
            if self._failure is not None or self._closed:
                return
            if isinstance(error, SnapshotDamaged):
                log.warning("received snapshot is damaged", extra={"event": "raft.snapshot_damaged"})
                self._core.snapshot_install_failed(meta)
            elif error is not None:
                self._fail(error)
                return
            else:
                if effect.reset:
                    self._journal.reset(meta.index, meta.term)
                self._applied_index = meta.index
                self._core.snapshot_installed(meta)
                log.info(
                    "snapshot installed", extra={"event": "raft.snapshot_installed", "log_index": meta.index}
                )
                self._finish_reads()
            self._schedule_pump()

        self._snapshot_worker.submit(finish, done)

    # -- ends --------------------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)

    def _fail(self, error: BaseException) -> None:
        """The state of this node is not to be trusted any more: stop, and say why."""
        if self._failure is not None or self._closed:
            return
        self._failure = error
        log.critical(
            "raft stopped",
            exc_info=error,
            extra={"event": "raft.stopped", "node_id": self.node_id, "reason": str(error)},
        )
        if self._timer is not None:
            self._timer.cancel()
        stopped = Stopped(f"the node stopped: {error}")
        stopped.__cause__ = error
        self._abandon(stopped)
        self._leader_changed.set()
        self._stopped.set()
        self._tell(NodeStopped(error))

    def _abandon(self, reason: Stopped) -> None:
        for index, _, futures in self._waiting:
            error = OutcomeUnknown(f"{reason}; entry {index} may still commit on the others")
            error.__cause__ = reason.__cause__
            _fail_futures(futures, error)
        self._waiting.clear()
        self._refuse_queue(reason)
        readers = self._readers
        for _, _, ready in self._ready_reads:
            readers.extend(ready)
        for asked in self._reads.values():
            readers.extend(asked)
        _fail_futures(readers, reason)
        self._readers = []
        self._ready_reads.clear()
        self._reads.clear()

    def _refuse_queue(self, error: RaftError) -> None:
        _fail_futures([future for _, future in self._queue], error)
        self._queue.clear()
        self._queue_bytes = 0

    def _raise_if_stopped(self) -> None:
        if self._failure is not None:
            raise Stopped(f"the node stopped: {self._failure}") from self._failure
        if self._closed:
            raise Stopped("the node was closed")

    def _not_leader(self) -> NotLeader:
        leader = self._core.leader_id
        where = f"send it to {leader}" if leader else "no leader is known yet, try again shortly"
        return NotLeader(
            f"{self.node_id} did not take the command: it is not the leader in term {self._core.term}; "
            f"{where}",
            leader,
        )

    def _overloaded(self, limit: str, value: int) -> Overloaded:
        return Overloaded(
            f"{self.node_id} refused the command: {limit} ({value}) is reached; try again later",
            limit=limit,
            retry_after_s=max(0.05, 2 * self._counters.commit_latency_s),
        )

    def _no_space(self) -> StorageFull:
        return StorageFull(
            f"{self.node_id} refused the command: the disk has no room left for the log; free some space. "
            "Reads go on, and nothing acknowledged is lost"
        )


def replace_members(
    config: Config, *, voters: dict[str, str] | None = None, learners: dict[str, str] | None = None
) -> Config:
    """`config` with other voters or learners."""
    return Config(
        config.voters if voters is None else voters, config.learners if learners is None else learners
    )


def _fail_futures(futures: Iterable[asyncio.Future[Any]], error: BaseException) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)


def _frames(batch: list[Message], bytes_max: int) -> Iterator[list[Message]]:
    """Split a batch so that each part's payload stays within a frame."""
    part: list[Message] = []
    total = 0
    for message in batch:
        size = 128
        if type(message) is Append:
            size += sum([len(entry.payload) + 32 for entry in message.entries])
        elif hasattr(message, "data"):
            size += len(message.data)
        if part and total + size > bytes_max:
            yield part
            part, total = [], 0
        part.append(message)
        total += size
    yield part
