"""live.db and history.db: what they hold, what they refuse, how they forget."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from node.coordinator import commands as c
from node.coordinator.clock import ClusterClock
from node.coordinator.program import Program
from node.coordinator.settings import Settings
from node.coordinator.store.live import LiveStore
from node.coordinator.store.sqlite import StoreDamaged
from node.coordinator.store.stores import Stores
from tests.unit.coordinator.plans import Machine, Seg, chain, done, image, make_plan, put, start, waits
from tests.unit.coordinator.rig import MemoryLog, running


async def flush(stores: Stores, machine: Machine, index: int) -> None:
    stores.begin(machine.state, index, 1)
    await stores.finish(machine.state)


async def test_executions_that_began_and_ended_between_flushes_never_touch_live_db(tmp_path):
    plan = chain(1)
    machine = Machine(plan)
    stores = Stores(tmp_path, Settings())
    statements: list[str] = []
    stores._live._connection.set_trace_callback(statements.append)
    x = machine.start(plan, "short")
    stores.add_ended(machine.report(x, 0, done(plan, 0)).finished)
    await flush(stores, machine, 3)
    assert not [s for s in statements if "executions" in s]
    assert stores.durable_index == 3
    assert stores.history_written == 1
    await stores.close()


async def test_rows_of_live_executions_come_and_go(tmp_path):
    plan = chain(1)
    machine = Machine(plan)
    stores = Stores(tmp_path, Settings())
    x = machine.start(plan, "x")
    machine.start(plan, "y")
    await flush(stores, machine, 3)
    stores.add_ended(machine.report(x, 0, done(plan, 0)).finished)
    await flush(stores, machine, 4)
    await stores.close()
    again = Stores(tmp_path, Settings())
    state, index, term = again.load()
    assert (list(state.executions), index, term) == (["y"], 4, 1)
    assert image(state) == image(machine.state)
    await again.close()


async def test_a_snapshot_shows_one_moment_whatever_is_written_meanwhile(tmp_path):
    plan = chain(1)
    machine = Machine(plan)
    stores = Stores(tmp_path, Settings())
    for number in range(50):
        machine.start(plan, str(number), context=bytes(20_000))
    await flush(stores, machine, 5)
    before = image(machine.state)
    index, chunks = stores.begin_snapshot()
    first = next(chunks)
    machine.start(plan, "later")
    await flush(stores, machine, 6)
    rest = list(chunks)
    assert len(rest) > 1
    copy = LiveStore(tmp_path / "copy.db")
    data = b"".join([first, *rest])
    state, installed = copy.install([data[at : at + 1000] for at in range(0, len(data), 1000)])
    assert (index, installed) == (5, 5)
    assert image(state) == before
    copy.close()
    await stores.close()


@pytest.mark.parametrize("cut", [1, 3, 100])
async def test_a_snapshot_that_is_cut_off_changes_nothing(tmp_path, cut):
    plan = chain(1)
    machine = Machine(plan)
    machine.start(plan, "x")
    stores = Stores(tmp_path, Settings())
    await flush(stores, machine, 5)
    _, chunks = stores.begin_snapshot()
    data = b"".join(chunks)
    copy = LiveStore(tmp_path / "copy.db")
    copy.install([data])
    with pytest.raises(StoreDamaged):
        copy.install([data[:-cut]])
    assert image(copy.load()[0]) == image(machine.state)
    copy.close()
    await stores.close()


def test_a_file_that_is_no_database_is_refused_by_name(tmp_path):
    (tmp_path / "live.db").write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(StoreDamaged, match=r"live\.db"):
        LiveStore(tmp_path / "live.db")


def test_a_file_of_a_later_version_is_refused(tmp_path):
    LiveStore(tmp_path / "live.db").close()
    connection = sqlite3.connect(tmp_path / "live.db")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(StoreDamaged, match="format 99"):
        LiveStore(tmp_path / "live.db")


def test_a_row_that_cannot_be_read_is_refused(tmp_path):
    store = LiveStore(tmp_path / "live.db")
    store._connection.execute("INSERT INTO meta VALUES (1, 1, 1, 0, 1, ?)", (b"\xff",))
    with pytest.raises(StoreDamaged):
        store.load()
    store.close()


async def test_history_forgets_what_is_too_old_or_too_much(tmp_path):
    plan = chain(1)
    machine = Machine(plan)
    stores = Stores(tmp_path, Settings(history_keep_s=100.0, history_keep_max=3))
    for number in range(6):
        x = machine.start(plan, str(number), tags={"n": str(number)})
        stores.add_ended(machine.report(x, 0, done(plan, 0)).finished)
    await flush(stores, machine, 1)

    def known(reader):
        rows = reader.search(below=1 << 60, status=None, workflow_id=None, tag=None, limit=100)
        return [row[1] for row in rows]

    assert await stores.read_history(known) == ["5", "4", "3"]
    x = machine.start(plan, "new")
    stores.add_ended(machine.report(x, 0, done(plan, 0), after=200.0).finished)
    await flush(stores, machine, 2)
    assert await stores.read_history(known) == ["new"]
    tagged = await stores.read_history(
        lambda reader: reader.search(below=99, status=None, workflow_id=None, tag=("n", "5"), limit=9)
    )
    assert tagged == []
    await stores.close()


async def test_a_replay_writes_the_same_history_again_without_harm(tmp_path):
    log = MemoryLog()
    plan = chain(1)
    async with running(tmp_path, {"plan": plan}, log=log) as rig:
        first = await rig.run()
        await rig.engine.flush()
    (tmp_path / "live.db").unlink()
    async with running(tmp_path, {"plan": plan}, log=log) as rig:
        await rig.engine.flush()
        assert (await rig.engine.get(first.id)).status == "completed"
        assert len((await rig.engine.list()).items) == 1


async def test_a_big_entry_in_parts_is_never_split_by_a_flush(tmp_path):
    plan = chain(1)
    async with running(tmp_path, {"plan": plan}, settings=Settings(parts_max=1)) as rig:
        started = asyncio.ensure_future(
            rig.run(inputs=b"\xc6" + (3_000_000).to_bytes(4, "big") + bytes(3_000_000))
        )
        while not rig.engine.replica._parts:
            await asyncio.sleep(0)
        flushing = asyncio.ensure_future(rig.engine.flush())
        assert (await started).status == "completed"
        await flushing
        assert rig.engine.replica.durable_index() > 1


class FixedClock:
    def __init__(self, monotonic: float, wall: float) -> None:
        self.values = [monotonic, wall]

    def monotonic(self) -> float:
        return self.values[0]

    def wall(self) -> float:
        return self.values[1]


def test_cluster_time_after_a_restart_is_wall_time_but_never_earlier_than_what_was_applied():
    clock = FixedClock(5.0, 1000.0)
    cluster = ClusterClock(clock)
    cluster.start(900.0)
    assert cluster.now() == 1000.0
    clock.values = [7.0, 3000.0]
    assert cluster.now() == 1002.0, "steps of the wall clock do not reach it"
    cluster.start(8000.0)
    assert cluster.now() == 8000.0
    cluster.observe(7000.0)
    clock.values[0] = 8.0
    assert cluster.now() == 7001.0
    cluster.not_before(7000.5)
    assert cluster.now() == 7001.0
    cluster.not_before(7500.0)
    assert cluster.now() == 7500.0


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda p: {"segments": (*p.segments[1:],)}, "calls itself"),
        (lambda p: {"step_ids": ()}, "names a step outside"),
        (lambda p: {"bodies": ()}, "does not exist"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(damage, text):
    import msgspec

    plan = make_plan([Seg(body=1), Seg(scope=1), Seg(after=[0])])
    with pytest.raises(ValueError, match=text):
        Program(msgspec.structs.replace(plan, **damage(plan)))


def test_only_changed_tables_are_written_and_read_back():
    plan, other = chain(1), chain(2)
    machine = Machine(plan)
    machine.do(
        put(other),
        c.RegisterWorkflow("w", other.hash, "W", "what it does"),
        start(plan, "k1", key="a", digest=b"1"),
        start(plan, "k2", key="b", digest=b"2", tenant="t"),
    )
    x = machine.state.executions["k1"]
    machine.report(x, 0, waits(plan, 0, duration_s=5.0))
    assert set(machine.state.changes.workflows) == {"w"}
    assert set(machine.state.changes.dedupe) == {("default", "a"), ("t", "b")}
