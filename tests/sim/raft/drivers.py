"""Whole members in one process: the real driver, journal and snapshots, on simulated disks and a virtual clock.

`world.py` tries the protocol with a shell of its own and is fast; this tries what is around the core: recovery, the
order of writes and messages, snapshots made, sent and installed, the bytes on disk. A power loss keeps any prefix
of the unsynced bytes, also in the middle of a write. `run_drivers(seed)` raises on any fault; so does

    python -m tests.sim.raft.drivers --seed 7 [--voters 5]      # one again
    python -m tests.sim.raft.drivers --seeds 200                # a soak
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import selectors
import sys
import tempfile
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from raft import MemoryNetwork, Raft, Settings
from raft.errors import RaftError
from raft.journal import FileJournal, JournalSettings
from raft.snapshots import FileSnapshotStore
from raft.transport import MemoryTransport
from raft.workers import Worker
from tests.property.raft.simulated_disk import SimulatedCrash, SimulatedDisk

JOURNAL = JournalSettings(segment_bytes=8192, reserve_bytes=1024, cache_bytes_max=2000)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Waits by moving its clock."""

    def __init__(self) -> None:
        self._virtual_now = 0.0
        super().__init__(_VirtualSelector(self))

    def time(self) -> float:
        return self._virtual_now

    def advance(self, seconds: float) -> None:
        self._virtual_now += seconds


class _VirtualSelector(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "everybody waits for ever"
        self._loop.advance(max(timeout, 0.0))
        return super().select(0)


class VirtualWorker(Worker):
    """Does each job at once, a little later, one after the other; a crash in it is the crash of its member."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, member: Member) -> None:
        self._virtual = loop
        self._member = member
        self._life = member.life
        self._queue: deque[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]] = deque()
        self._loop = loop

    def submit(self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        self._queue.append((work, done))
        if len(self._queue) == 1:
            self._next()

    def _next(self) -> None:
        self._virtual.call_later(self._member.job_time(), self._do)

    def _do(self) -> None:
        if self._member.life != self._life:
            return
        work, done = self._queue[0]
        result, failure = None, None
        try:
            result = work()
        except SimulatedCrash:
            return
        except BaseException as error:
            failure = error
        done(result, failure)
        self._queue.popleft()
        if self._queue:
            self._next()

    async def close(self) -> None:
        if self._member.life == self._life:
            await self.run(lambda: None)


class MemberDisk(SimulatedDisk):
    """A crash in the midst of a call ends the member at once, whoever made the call."""

    def __init__(self, member: Member) -> None:
        super().__init__()
        self._member = member

    def sync_data(self, descriptor: int) -> None:
        if not self._member.world.lying_disks:
            super().sync_data(descriptor)

    def _visit(self, operation: str, path: str, *, changes: bool = True) -> None:
        try:
            super()._visit(operation, path, changes=changes)
        except SimulatedCrash:
            self._member.die(self._member.life)
            raise


class FaultyNetwork(MemoryNetwork):
    """Delays each frame by itself, so they change order; loses and repeats some."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng
        self.calm = False

    def carry(self, sender: str, to: str, frame: bytes) -> None:
        rng, loop = self._rng, asyncio.get_running_loop()
        if self.calm:
            loop.call_later(0.0005, self._deliver, sender, to, frame)
            return
        if rng.random() < 0.02:
            return
        for _ in range(2 if rng.random() < 0.02 else 1):
            loop.call_later(
                rng.choice((0.0002, 0.0002, 0.002, 0.05)) * rng.random(), self._deliver, sender, to, frame
            )


class Ledger:
    """The state machine: a digest, and the ids of all commands."""

    def __init__(self, seen: dict[int, int]) -> None:
        self.applied_index = 0
        self.digest = 0
        self.names: list[bytes] = []
        self._seen = seen

    def apply(self, index: int, term: int, commands: Sequence[bytes]) -> Sequence[object]:
        assert index == self.applied_index + 1, "an entry was left out or applied twice"
        self.digest = crc32(b"".join([*commands, b"%d/%d/" % (index, term)]), self.digest)
        self.names.extend(command.split(b":")[0] for command in commands)
        self.applied_index = index
        other = self._seen.setdefault(index, self.digest)
        assert other == self.digest, f"states differ at index {index}"
        return [index] * len(commands)

    def durable_index(self) -> int:
        return self.applied_index

    def begin_snapshot(self) -> tuple[int, Iterator[bytes]]:
        image = msgspec.msgpack.encode([self.digest, self.names])
        return self.applied_index, iter([image[i : i + 200] for i in range(0, len(image), 200)])

    def restore(self, index: int, term: int, chunks: Iterable[bytes]) -> None:
        self.digest, self.names = msgspec.msgpack.decode(b"".join(chunks), type=tuple[int, list[bytes]])
        self.applied_index = index
        assert self._seen.get(index, self.digest) == self.digest, (
            f"the snapshot's state at {index} is another one"
        )


class Member:
    def __init__(self, world: DriverWorld, name: str) -> None:
        self.world = world
        self.name = name
        self.disk = MemberDisk(self)
        self.life = 0
        self.raft: Raft | None = None
        self.ledger = Ledger(world.seen)
        self.opening = False

    def job_time(self) -> float:
        rng = self.world.rng
        if self.world.calm:
            return 0.0005
        return rng.uniform(0.0001, 0.003) if rng.random() < 0.95 else rng.uniform(0.01, 0.3)

    async def start(self) -> None:
        self.disk.crash_at = None if self.world.calm else self.disk.crash_at
        if self.raft is not None or self.opening:
            return
        self.opening = True
        self.life += 1
        life, rng = self.life, self.world.rng
        self.ledger = Ledger(self.world.seen)
        if not self.world.calm and rng.random() < 0.3:
            self.disk.crash_at = self.disk.changes + rng.randint(1, 300)
            self.disk.crash_bytes = rng.randint(0, 200)
        try:
            journal = FileJournal.open(
                "/j", files=self.disk, settings=JOURNAL, monotonic=self.world.loop.time
            )
            snapshots = FileSnapshotStore.open("/s", files=self.disk)
            raft = await Raft.open(
                data_dir=self.world.directory / f"{self.name}.{life}",  # only the lock and the name are there
                node_id=self.name,
                initial_voters=dict.fromkeys(self.world.names, ""),
                state_machine=self.ledger,
                transport=MemoryTransport(self.world.network),
                settings=self.world.settings,
                rng=random.Random(f"{self.world.seed}/{self.name}/{life}"),
                journal=journal,
                snapshots=snapshots,
                workers=lambda name, loop: VirtualWorker(name, loop, self),
            )
        except (SimulatedCrash, asyncio.CancelledError):
            return
        except KeyError:
            assert life != self.life, "a descriptor that was never opened"
            return  # a former life, cleared away at the end, closes files that its crash had closed
        self.opening = False
        self.raft = raft

    def die(self, life: int) -> None:
        """From now on nobody hears this life; its remains are cleared away when the call that crashed is over."""
        self.world.network.detach(self.name)
        self.world.loop.call_soon(lambda: self.crash() if life == self.life else None)

    def crash(self) -> None:
        """Power loss."""
        self.life += 1
        self.opening = False
        self.disk.lose_power(self.world.rng)
        raft, self.raft = self.raft, None
        if raft is not None:
            raft._closed = True
            if raft._timer is not None:
                raft._timer.cancel()
            if raft._snapshot_task is not None:
                raft._snapshot_task.cancel()
            for _, _, futures in raft._waiting:
                for future in futures:
                    future.cancel()
            for _, future in raft._queue:
                future.cancel()
            raft._lock.release()
        self.world.network.detach(self.name)
        self.world.crashes += 1
        self.world.later(self.world.rng.uniform(0.0, 1.0), self.start)


class DriverWorld:
    def __init__(self, seed: int, directory: Path, voters: int = 3, *, lying_disks: bool = False) -> None:
        self.seed = seed
        self.lying_disks = lying_disks
        self.rng = random.Random(f"{seed}/drivers")
        self.directory = directory
        self.names = [f"n{number}" for number in range(1, voters + 1)]
        self.seen: dict[int, int] = {}
        self.acknowledged: list[bytes] = []
        self.crashes = 0
        self.calm = False
        self.network = FaultyNetwork(self.rng)
        self.settings = Settings(
            snapshot_log_entries=self.rng.choice((20, 60)),
            snapshot_log_bytes=self.rng.choice((2000, 1 << 30)),
            snapshot_chunk_bytes=300,
            snapshot_retry_s=0.4,
            commands_per_entry_max=self.rng.choice((1, 4, 100)),
            append_entries_max=self.rng.choice((3, 4096)),
            tail_bytes_max=self.rng.choice((200, 1 << 20)),
        )
        self.members = {name: Member(self, name) for name in self.names}
        self._tasks: set[asyncio.Task[None]] = set()
        self._number = 0
        self._errors: list[BaseException] = []

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def later(self, seconds: float, start: Callable[[], Any]) -> None:
        def begin() -> None:
            task = self.loop.create_task(start())
            self._tasks.add(task)
            task.add_done_callback(self._ended)

        self.loop.call_later(seconds, begin)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._errors.append(task.exception())  # type: ignore[arg-type]

    async def client(self) -> None:
        """One command after the other to whoever leads; reads on anybody."""
        rng = self.rng
        while not self.calm:
            up = [m for m in self.members.values() if m.raft is not None]
            leaders = [m for m in up if m.raft is not None and m.raft.is_leader]
            member = rng.choice(leaders or up) if up else None
            if member is not None and member.raft is not None:
                try:
                    async with asyncio.timeout(1.0):
                        if rng.random() < 0.8:
                            self._number += 1
                            name = b"%d" % self._number
                            await member.raft.propose(name + b":" + bytes(rng.randint(0, 120)))
                            self.acknowledged.append(name)
                        else:
                            floor = set(self.acknowledged)
                            ledger, raft = member.ledger, member.raft
                            await raft.read_barrier()
                            if raft is member.raft:
                                missing = floor.difference(ledger.names)
                                assert not missing, f"a read on {member.name} missed {sorted(missing)[:3]}"
                except (RaftError, TimeoutError):
                    pass
                except asyncio.CancelledError:
                    if asyncio.current_task().cancelling():  # type: ignore[union-attr]
                        raise
            await asyncio.sleep(rng.uniform(0.0, 0.03))

    async def faults(self) -> None:
        rng = self.rng
        while not self.calm:
            await asyncio.sleep(rng.uniform(0.1, 0.8))
            if self.calm:
                return
            kind = rng.choice(("crash", "crash", "crash all", "isolate", "heal", "heal", "cut"))
            up = [m for m in self.members.values() if m.raft is not None]
            if kind == "crash" and up:
                rng.choice(up).crash()
            elif kind == "crash all":
                for member in up:
                    member.crash()
            elif kind == "isolate":
                self.network.isolate(rng.choice(self.names))
            elif kind == "cut" and len(self.names) > 1:
                self.network.cut(*rng.sample(self.names, 2))
            else:
                self.network.heal()

    def failed(self) -> BaseException | None:
        for member in self.members.values():
            if member.raft is not None and member.raft._failure is not None:
                return member.raft._failure
        return self._errors[0] if self._errors else None

    def together(self) -> bool:
        rafts = [m.raft for m in self.members.values()]
        if any(raft is None for raft in rafts):
            return False
        ends = {(raft.status().applied_index, raft.status().last_index) for raft in rafts if raft is not None}
        return len(ends) == 1 and all(applied == last for applied, last in ends)

    async def play(self, faults_s: float = 8.0) -> None:
        for member in self.members.values():
            self.later(self.rng.uniform(0, 0.2), member.start)
        for _ in range(4):
            self.later(0.5, self.client)
        self.later(1.0, self.faults)
        end = self.loop.time() + faults_s
        while self.loop.time() < end:
            await asyncio.sleep(0.05)
            self._check()
        self.calm = self.network.calm = True
        self.network.heal()
        for member in self.members.values():
            member.disk.crash_at = None
        await asyncio.sleep(2.0)
        deadline = self.loop.time() + 15.0
        while not self.together():
            self._check()
            assert self.loop.time() < deadline, (
                f"no agreement: {[m.raft and m.raft.status() for m in self.members.values()]}"
            )
            await asyncio.sleep(0.05)
        for member in self.members.values():
            missing = set(self.acknowledged).difference(member.ledger.names)
            assert not missing, f"{member.name} lacks {len(missing)} acknowledged commands"
            assert len(member.ledger.names) == len(set(member.ledger.names)), "a command was applied twice"
        for member in self.members.values():
            assert member.raft is not None
            await member.raft.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._check()

    def _check(self) -> None:
        error = self.failed()
        if error is not None:
            raise error


def run_drivers(
    seed: int, directory: Path, voters: int | None = None, *, faults_s: float = 8.0, lying_disks: bool = False
) -> DriverWorld:
    """One run; raises what went wrong. With `lying_disks` a sync does nothing, and something should go wrong."""
    voters = (3, 3, 5, 1)[seed % 4] if voters is None else voters
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    try:
        world = DriverWorld(seed, directory, voters, lying_disks=lying_disks)
        try:
            loop.run_until_complete(world.play(faults_s))
        except BaseException as error:
            error.add_note(f"repeat with: python -m tests.sim.raft.drivers --seed {seed} --voters {voters}")
            raise
        return world
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        asyncio.set_event_loop(None)
        loop.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.raft.drivers")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--voters", type=int)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    seeds = range(options.first, options.first + options.seeds) if options.seed is None else [options.seed]
    acknowledged = crashes = failed = 0
    for seed in seeds:
        with tempfile.TemporaryDirectory() as directory:
            try:
                world = run_drivers(seed, Path(directory), options.voters)
            except Exception as error:
                failed += 1
                traceback.print_exception(error)
                continue
        acknowledged += len(world.acknowledged)
        crashes += world.crashes
    print(
        f"{len(seeds)} seeds, {failed} failed, {acknowledged} commands acknowledged, {crashes} power losses"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
