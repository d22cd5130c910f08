"""One voter, end to end on a real directory: commands, snapshots, restarts, refusals."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from raft import LeaderReady, NodeStopped, Raft, Settings
from raft.errors import (
    CommandTooLarge,
    MembershipRefused,
    OutcomeUnknown,
    Overloaded,
    SettingsInvalid,
    Stopped,
)
from raft.files import DataDirectoryLocked


class Recorder:
    """A state machine that keeps every command and counts how often each index was applied."""

    def __init__(self) -> None:
        self.applied_index = 0
        self.commands: list[bytes] = []
        self.seen: list[int] = []
        self.explode_on: bytes | None = None

    def apply(self, index: int, term: int, commands: Sequence[bytes]) -> Sequence[object]:
        if self.explode_on is not None and self.explode_on in commands:
            raise ValueError("this state machine does not like the command")
        self.seen.append(index)
        self.applied_index = index
        results = []
        for command in commands:
            self.commands.append(bytes(command))
            results.append(len(self.commands))
        return results

    def durable_index(self) -> int:
        return self.applied_index

    def begin_snapshot(self) -> tuple[int, Iterator[bytes]]:
        image = msgspec.msgpack.encode(self.commands)
        return self.applied_index, iter([image[i : i + 7] for i in range(0, len(image), 7)])

    def restore(self, index: int, term: int, chunks: Iterable[bytes]) -> None:
        self.commands = msgspec.msgpack.decode(b"".join(chunks), type=list[bytes])
        self.applied_index = index


async def start(
    directory: Path, machine: Recorder | None = None, **settings: object
) -> tuple[Raft, Recorder]:
    machine = machine or Recorder()
    raft = await Raft.open(data_dir=directory, state_machine=machine, settings=Settings(**settings))  # type: ignore[arg-type]
    assert await raft.wait_leader() == raft.node_id
    return raft, machine


async def test_a_single_voter_elects_itself_and_answers_with_what_apply_returned(tmp_path: Path) -> None:
    raft, machine = await start(tmp_path)
    assert await raft.propose(b"a") == 1
    assert await raft.propose(b"b") == 2
    assert machine.commands == [b"a", b"b"]
    await raft.close()


async def test_commands_given_together_share_an_entry_and_keep_their_order(tmp_path: Path) -> None:
    raft, machine = await start(tmp_path)
    await raft.propose(b"first")
    before = raft.status().last_index
    commands = [b"%d" % i for i in range(500)]
    results = await asyncio.gather(*[raft.propose(command) for command in commands])
    assert results == list(range(2, 502))
    assert machine.commands[1:] == commands
    assert raft.status().last_index - before < 10
    await raft.close()


async def test_everything_acknowledged_is_there_after_a_restart(tmp_path: Path) -> None:
    raft, _ = await start(tmp_path)
    for number in range(20):
        await raft.propose(b"%d" % number)
    term = raft.status().term
    await raft.close()
    raft, machine = await start(tmp_path)
    await raft.read_barrier()
    assert machine.commands == [b"%d" % number for number in range(20)]
    assert machine.seen == list(range(1, machine.applied_index + 1))
    assert raft.status().term > term
    await raft.close()


async def test_after_a_snapshot_a_restart_restores_it_and_applies_only_the_tail(tmp_path: Path) -> None:
    raft, machine = await start(tmp_path)
    for number in range(10):
        await raft.propose(b"%d" % number)
    index = await raft.snapshot()
    assert index == machine.applied_index
    await raft.propose(b"tail")
    await raft.close()
    raft, machine = await start(tmp_path)
    await raft.read_barrier()
    assert machine.commands == [*[b"%d" % number for number in range(10)], b"tail"]
    assert machine.seen[0] == index + 1
    await raft.close()


async def test_a_snapshot_is_made_by_itself_when_the_log_has_grown_enough(tmp_path: Path) -> None:
    raft, _ = await start(tmp_path, snapshot_log_entries=10)
    for number in range(60):
        await raft.propose(b"%d" % number)
    await raft.snapshot()
    assert raft.status().snapshots_made_total >= 2
    await raft.close()
    raft, _ = await start(tmp_path)
    assert await raft.propose(b"x") == 61
    await raft.close()


@pytest.mark.parametrize("limit", [{"snapshot_log_entries": 20}, {"snapshot_log_bytes": 20_000}])
async def test_the_log_of_a_node_that_is_often_restarted_is_compacted_too(
    tmp_path: Path, limit: dict[str, int]
) -> None:
    machine = Recorder()
    for _ in range(10):
        raft, _ = await start(tmp_path, machine, **limit)
        for _ in range(4):
            await raft.propose(b"x" * 1000)
        await raft.read_barrier()
        if raft._snapshot_task is not None:
            await asyncio.wait({raft._snapshot_task})
        snapshot_index = raft.status().snapshot_index
        await raft.close()
    assert snapshot_index > 0


async def test_a_state_machine_with_its_own_store_gets_only_what_it_lacks(tmp_path: Path) -> None:
    raft, machine = await start(tmp_path)
    await raft.propose(b"a")
    await raft.snapshot()
    await raft.propose(b"b")
    await raft.close()
    machine.seen.clear()
    at = machine.applied_index
    raft, _ = await start(tmp_path, machine)
    await raft.propose(b"c")
    assert machine.commands == [b"a", b"b", b"c"]
    assert machine.seen[0] == at + 1
    await raft.close()


async def test_leader_ready_is_told_once_the_own_no_op_is_applied(tmp_path: Path) -> None:
    events: list[object] = []
    machine = Recorder()
    raft = await Raft.open(data_dir=tmp_path, state_machine=machine, listener=events.append)
    await raft.read_barrier()
    assert [event for event in events if isinstance(event, LeaderReady)] == [LeaderReady(2)]
    await raft.close()


async def test_a_full_queue_refuses_with_the_name_of_the_limit(tmp_path: Path) -> None:
    raft, _ = await start(tmp_path, proposals_max=3)
    futures = [raft.propose_nowait(b"x") for _ in range(3)]
    with pytest.raises(Overloaded) as refused:
        raft.propose_nowait(b"x")
    assert refused.value.limit == "proposals_max"
    assert await asyncio.gather(*futures) == [1, 2, 3]
    await raft.propose(b"again")
    await raft.close()


async def test_bytes_waiting_are_bounded_too(tmp_path: Path) -> None:
    raft, _ = await start(tmp_path, proposals_bytes_max=1000)
    future = raft.propose_nowait(b"x" * 900)
    with pytest.raises(Overloaded) as refused:
        raft.propose_nowait(b"x" * 100)
    assert refused.value.limit == "proposals_bytes_max"
    await future
    await raft.close()


async def test_a_command_larger_than_an_entry_is_refused_and_one_that_just_fits_is_taken(
    tmp_path: Path,
) -> None:
    raft, _ = await start(tmp_path, entry_bytes_max=1000, append_bytes_max=1000)
    assert await raft.propose(b"x" * 990) == 1
    with pytest.raises(CommandTooLarge):
        await raft.propose(b"x" * 991)
    await raft.close()


async def test_a_second_node_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    raft, _ = await start(tmp_path)
    with pytest.raises(DataDirectoryLocked, match="pid"):
        await Raft.open(data_dir=tmp_path, state_machine=Recorder())
    await raft.close()


@pytest.mark.parametrize("damage", [b"", b"\n", b"\xc8\x00", b"x" * 200])
async def test_a_damaged_node_id_is_named(tmp_path: Path, damage: bytes) -> None:
    raft = await Raft.open(data_dir=tmp_path, state_machine=Recorder(), node_id="n1")
    await raft.close()
    (tmp_path / "raft" / "node_id").write_bytes(damage)
    with pytest.raises(SettingsInvalid, match="node_id is damaged"):
        await Raft.open(data_dir=tmp_path, state_machine=Recorder())


async def test_a_directory_keeps_its_node_id(tmp_path: Path) -> None:
    raft = await Raft.open(data_dir=tmp_path, state_machine=Recorder(), node_id="n1")
    await raft.close()
    with pytest.raises(SettingsInvalid, match="n1"):
        await Raft.open(data_dir=tmp_path, state_machine=Recorder(), node_id="n2")
    raft = await Raft.open(data_dir=tmp_path, state_machine=Recorder())
    assert raft.node_id == "n1"
    await raft.close()


async def test_an_error_in_apply_stops_the_node_and_leaves_the_outcome_unknown(tmp_path: Path) -> None:
    events: list[object] = []
    raft, machine = await start(tmp_path)
    raft.add_listener(events.append)
    machine.explode_on = b"bad"
    await raft.propose(b"good")
    with pytest.raises(OutcomeUnknown):
        await raft.propose(b"bad")
    with pytest.raises(Stopped) as stopped:
        await raft.propose(b"after")
    assert isinstance(stopped.value.__cause__, ValueError)
    with pytest.raises(ValueError, match="does not like"):
        await raft.wait_stopped()
    assert any(isinstance(event, NodeStopped) for event in events)
    await raft.close()


async def test_closing_ends_what_waits_and_refuses_what_follows(tmp_path: Path) -> None:
    raft, _ = await start(tmp_path)
    future = raft.propose_nowait(b"x")
    await raft.close()
    with pytest.raises((Stopped, OutcomeUnknown)):
        await future
    with pytest.raises(Stopped):
        raft.propose_nowait(b"y")
    with pytest.raises(Stopped):
        await raft.read_barrier()
    await raft.close()


async def test_a_lone_voter_cannot_hand_over_or_be_removed(tmp_path: Path) -> None:
    raft, _ = await start(tmp_path)
    await raft.propose(b"x")
    with pytest.raises(MembershipRefused):
        await raft.transfer_leadership()
    with pytest.raises(MembershipRefused):
        await raft.remove(raft.node_id)
    await raft.close()
