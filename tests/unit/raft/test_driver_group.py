"""Three drivers on a network in memory, real threads and time; and drivers whose disk is full or broken."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from raft import ConfigChanged, MemoryNetwork, Raft, Role, RoleChanged, Settings
from raft.errors import (
    JournalDamaged,
    MembershipRefused,
    NotLeader,
    OutcomeUnknown,
    SettingsInvalid,
    Stopped,
    StorageFailed,
    StorageFull,
    Unavailable,
)
from raft.journal import FileJournal, JournalSettings
from raft.snapshots import FileSnapshotStore
from tests.property.raft.simulated_disk import SimulatedDisk

FAST = Settings(
    election_timeout_min_s=0.15, election_timeout_max_s=0.3, heartbeat_interval_s=0.03, read_timeout_s=1.0
)


class Machine:
    def __init__(self) -> None:
        self.applied_index = 0
        self.commands: list[bytes] = []

    def apply(self, index: int, term: int, commands: Sequence[bytes]) -> Sequence[object]:
        self.applied_index = index
        self.commands.extend(commands)
        return [len(self.commands)] * len(commands)

    def durable_index(self) -> int:
        return self.applied_index

    def begin_snapshot(self) -> tuple[int, Iterator[bytes]]:
        return self.applied_index, iter([msgspec.msgpack.encode(self.commands)])

    def restore(self, index: int, term: int, chunks: Iterable[bytes]) -> None:
        self.commands = msgspec.msgpack.decode(b"".join(chunks), type=list[bytes])
        self.applied_index = index


class Group:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.network = MemoryNetwork()
        self.rafts: dict[str, Raft] = {}
        self.machines: dict[str, Machine] = {}
        self.events: dict[str, list[object]] = {}

    async def start(self, name: str, voters: Iterable[str]) -> Raft:
        self.machines[name] = Machine()
        self.events[name] = []
        self.rafts[name] = await Raft.open(
            data_dir=self.directory / name,
            node_id=name,
            initial_voters=dict.fromkeys(voters, ""),
            state_machine=self.machines[name],
            transport=self.network.transport(),
            settings=FAST,
            listener=self.events[name].append,
        )
        return self.rafts[name]

    async def leader(self) -> Raft:
        async with asyncio.timeout(10):
            while True:
                for raft in self.rafts.values():
                    if raft.is_leader and raft.status().applied_index >= raft.status().commit_index > 1:
                        return raft
                await asyncio.sleep(0.01)

    async def followers(self) -> list[Raft]:
        leader = await self.leader()
        return [raft for raft in self.rafts.values() if raft is not leader]

    async def until(self, condition: object) -> None:
        assert callable(condition)
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)


@pytest.fixture
async def group(tmp_path: Path) -> AsyncIterator[Group]:
    made = Group(tmp_path)
    for name in "abc":
        await made.start(name, "abc")
    yield made
    for raft in made.rafts.values():
        await raft.close()


async def test_a_command_reaches_every_state_machine(group: Group) -> None:
    leader = await group.leader()
    assert await leader.propose(b"x") == 1
    await group.until(lambda: all(machine.commands == [b"x"] for machine in group.machines.values()))


async def test_a_follower_names_the_leader(group: Group) -> None:
    leader = await group.leader()
    for follower in await group.followers():
        await group.until(lambda follower=follower: follower.status().leader_id == leader.node_id)
        with pytest.raises(NotLeader) as refused:
            await follower.propose(b"x")
        assert refused.value.leader_id == leader.node_id
        assert leader.node_id in str(refused.value)


async def test_a_read_barrier_on_a_follower_covers_what_was_acknowledged_before(group: Group) -> None:
    leader = await group.leader()
    for number in range(20):
        await leader.propose(b"%d" % number)
        for follower in await group.followers():
            await follower.read_barrier()
            assert len(group.machines[follower.node_id].commands) == number + 1


async def test_a_leader_that_is_cut_off_leaves_the_outcome_unknown_and_steps_down(group: Group) -> None:
    leader = await group.leader()
    await leader.propose(b"before")
    group.network.isolate(leader.node_id)
    with pytest.raises(OutcomeUnknown):
        await leader.propose(b"into the void")
    assert not leader.is_leader
    with pytest.raises(Unavailable):
        await leader.read_barrier()
    async with asyncio.timeout(5):
        while not any(raft.is_leader for raft in group.rafts.values()):
            await asyncio.sleep(0.01)
    new = next(raft for raft in group.rafts.values() if raft.is_leader)
    await new.propose(b"after")
    group.network.heal()
    await group.until(lambda: all(m.commands == [b"before", b"after"] for m in group.machines.values()))


async def test_leadership_moves_on_request(group: Group) -> None:
    leader = await group.leader()
    target = (await group.followers())[0]
    assert await leader.transfer_leadership(target.node_id) == target.node_id
    await group.until(lambda: target.is_leader)
    assert any(isinstance(e, RoleChanged) and e.role is Role.LEADER for e in group.events[target.node_id])


async def test_a_hand_over_to_a_dead_voter_is_given_up(group: Group) -> None:
    leader = await group.leader()
    target = (await group.followers())[0]
    await target.close()
    del group.rafts[target.node_id]
    await leader.propose(b"something it lacks")
    with pytest.raises(Unavailable):
        await leader.transfer_leadership(target.node_id)
    assert await leader.propose(b"goes on") == 2


async def test_a_learner_joins_is_promoted_and_an_old_voter_leaves(group: Group) -> None:
    leader = await group.leader()
    for number in range(10):
        await leader.propose(b"%d" % number)
    await group.start("d", [])
    await leader.add_learner("d", "address of d")
    await group.until(lambda: len(group.machines["d"].commands) == 10)
    async with asyncio.timeout(5):
        while True:
            try:
                await leader.promote("d")
                break
            except MembershipRefused:
                await asyncio.sleep(0.02)
    assert leader.status().voters["d"] == "address of d"
    assert any(isinstance(event, ConfigChanged) for event in group.events["d"])
    gone = next(raft for raft in group.rafts.values() if raft is not leader and raft.node_id != "d")
    await leader.remove(gone.node_id)
    assert gone.node_id not in leader.status().voters
    assert await leader.propose(b"after") == 11


async def test_a_leader_asked_to_remove_itself_hands_over_and_names_its_successor(group: Group) -> None:
    leader = await group.leader()
    with pytest.raises(NotLeader) as refused:
        await leader.remove(leader.node_id)
    successor = group.rafts[refused.value.leader_id or ""]
    await group.until(lambda: successor.is_leader)
    async with asyncio.timeout(5):
        while True:
            try:
                await successor.remove(leader.node_id)
                break
            except MembershipRefused:
                await asyncio.sleep(0.02)
    assert leader.node_id not in successor.status().voters


async def test_a_wiped_directory_is_a_new_node(group: Group, tmp_path: Path) -> None:
    """R23: the name is bound to the directory, so a wiped voter cannot vote a second time under its old name."""
    fresh = await Raft.open(data_dir=tmp_path / "new", state_machine=Machine(), initial_voters={})
    assert fresh.node_id not in (await group.leader()).status().voters
    assert fresh.status().voters == {}
    await fresh.close()
    with pytest.raises(SettingsInvalid):
        await Raft.open(
            data_dir=tmp_path / "new", state_machine=Machine(), node_id="a", initial_voters={"a": ""}
        )
    with pytest.raises(SettingsInvalid, match="founding"):
        await Raft.open(
            data_dir=tmp_path / "other", state_machine=Machine(), node_id="z", initial_voters={"a": ""}
        )


async def test_garbage_from_a_peer_is_counted_and_harmless(group: Group) -> None:
    leader = await group.leader()
    peer = (await group.followers())[0]
    group.network.carry(peer.node_id, leader.node_id, b"\xc1 garbage")
    await group.until(lambda: leader.status().frames_refused_total == 1)
    assert await leader.propose(b"x") == 1


async def test_waiting_for_a_leader_ends_when_one_is_known(group: Group) -> None:
    names = {await raft.wait_leader() for raft in group.rafts.values()}
    assert names <= set("abc")


# -- disks


async def on(disk: SimulatedDisk, directory: Path, **sizes: int) -> Raft:
    settings = JournalSettings(**{"segment_bytes": 16384, "reserve_bytes": 2048, **sizes})
    raft = await Raft.open(
        data_dir=directory,
        state_machine=Machine(),
        settings=FAST,
        journal=FileJournal.open("/j", files=disk, settings=settings),
        snapshots=FileSnapshotStore.open("/s", files=disk),
    )
    await raft.read_barrier()
    return raft


async def test_a_failing_sync_stops_the_node_and_nothing_is_acknowledged(tmp_path: Path) -> None:
    disk = SimulatedDisk()
    raft = await on(disk, tmp_path)
    await raft.propose(b"good")
    disk.fault = lambda operation, path: errno.EIO if operation == "sync_data" else None
    with pytest.raises(OutcomeUnknown):
        await raft.propose(b"bad")
    disk.fault = lambda operation, path: None
    with pytest.raises(Stopped) as stopped:
        await raft.propose(b"the page is 'clean' again")
    assert isinstance(stopped.value.__cause__, StorageFailed)
    with pytest.raises(Stopped):
        await raft.read_barrier()
    with pytest.raises(StorageFailed):
        await raft.wait_stopped()
    assert "EIO" in (raft.status().failure or "")
    await raft.close()


async def test_a_full_disk_refuses_commands_keeps_reads_and_goes_on_when_there_is_space(
    tmp_path: Path,
) -> None:
    disk = SimulatedDisk(capacity=80_000)
    raft = await on(disk, tmp_path)
    done = 0

    async def fill() -> None:
        nonlocal done
        while done < 200:
            await raft.propose(bytes(1000))
            done += 1

    with pytest.raises(StorageFull):
        await fill()
    assert done > 10
    assert raft.status().storage_full
    assert await raft.read_barrier() == raft.status().applied_index
    with pytest.raises(StorageFull):
        await raft.propose(bytes(1000))
    disk.capacity = 1 << 30
    async with asyncio.timeout(5):
        while True:
            try:
                assert await raft.propose(b"space is back") == done + 1
                break
            except StorageFull:
                await asyncio.sleep(0.1)
    assert not raft.status().storage_full
    await raft.close()
    machine = Machine()
    again = await Raft.open(
        data_dir=tmp_path,
        state_machine=machine,
        journal=FileJournal.open(
            "/j", files=disk, settings=JournalSettings(segment_bytes=16384, reserve_bytes=2048)
        ),
        snapshots=FileSnapshotStore.open("/s", files=disk),
    )
    await again.read_barrier()
    assert len(machine.commands) == done + 1
    await again.close()


async def test_no_space_for_a_snapshot_is_a_warning_and_it_is_tried_again_later(tmp_path: Path) -> None:
    disk = SimulatedDisk()
    raft = await on(disk, tmp_path)
    await raft.propose(b"x")
    disk.fault = lambda operation, path: errno.ENOSPC if path.startswith("/s") else None
    with pytest.raises(StorageFull):
        await raft.snapshot()
    assert await raft.propose(b"y") == 2
    disk.fault = lambda operation, path: None
    assert await raft.snapshot() == raft.status().applied_index
    await raft.close()


async def test_damage_in_the_middle_of_the_journal_is_refused_at_the_start(tmp_path: Path) -> None:
    disk = SimulatedDisk()
    raft = await on(disk, tmp_path)
    for _ in range(10):
        await raft.propose(bytes(range(200)))
    await raft.close()
    (name,) = [name for name in disk.names() if name.endswith(".seg")]
    content = disk.content(name)
    content[1500] ^= 0xFF
    with pytest.raises(JournalDamaged):
        await on(disk, tmp_path)


async def test_a_log_whose_snapshots_are_gone_is_refused_at_the_start(tmp_path: Path) -> None:
    raft = await Raft.open(data_dir=tmp_path, state_machine=Machine(), settings=FAST)
    await raft.wait_leader()
    for _ in range(3):
        await raft.propose(b"x")
    await raft.snapshot()
    journal = raft._journal
    journal.reset(raft.status().last_index, raft.status().term)
    journal.sync()
    await raft.close()
    for path in (tmp_path / "raft" / "snapshots").iterdir():
        path.unlink()
    with pytest.raises(StorageFailed, match="no snapshot"):
        await Raft.open(data_dir=tmp_path, state_machine=Machine())


async def test_a_state_machine_that_is_ahead_of_the_log_is_refused(tmp_path: Path) -> None:
    machine = Machine()
    machine.applied_index = 100
    with pytest.raises(StorageFailed, match="applied entry 100"):
        await Raft.open(data_dir=tmp_path, state_machine=machine)
