"""The coordinator on the real log: single voter, real files."""

from __future__ import annotations

import asyncio
import contextlib
import random

from node.coordinator.coordinator import Coordinator
from node.coordinator.settings import Settings
from raft.driver import Raft
from tests.unit.coordinator.plans import chain, done, waits
from tests.unit.coordinator.rig import FakeWorkers, Plans, Rig

TWO = chain(2)
WAIT = chain(1, effect="wait")


@contextlib.asynccontextmanager
async def node(directory, behave, **settings):
    plans = {"two": TWO, "wait": WAIT}
    engine = Coordinator(
        directory / "state",
        compile_payload=Plans(*plans.items()),
        settings=Settings(**settings),
        rng=random.Random(1),
    )
    raft = await Raft.open(data_dir=directory, state_machine=engine.replica, listener=engine.on_raft_event)
    engine.attach_log(raft)
    await engine.wait_leading()
    workers = FakeWorkers(engine, behave)
    engine.leader.attach("w1", workers, capacity=100)
    serving = asyncio.create_task(engine.serve())
    try:
        yield Rig(engine, raft, workers), raft
    finally:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        await raft.close()
        await engine.close()


def behave(task):
    if task.plan_hash == WAIT.hash:
        return waits(WAIT, 0, duration_s=0.3) if task.resume is None else done(WAIT, 0)
    return done(TWO, task.segment)


async def test_executions_survive_restarts_with_and_without_a_snapshot(tmp_path):
    async with node(tmp_path, behave) as (rig, _):
        first = await rig.run("two")
        (waiting,) = await rig.engine.start([rig.request("wait")])
    async with node(tmp_path, behave) as (rig, raft):
        assert (await rig.engine.get(first.id)).status == "completed"
        assert (await rig.engine.get(waiting.id, wait_s=5)).status == "completed"
        rig._ids = 100
        (again,) = await rig.engine.start([rig.request("wait")])
        await rig.engine.flush()
        assert await raft.snapshot() > 0
    async with node(tmp_path, behave) as (rig, _):
        assert (await rig.engine.get(first.id)).status == "completed"
        assert (await rig.engine.get(again.id, wait_s=5)).status == "completed"
        assert rig.engine.count_without_next_step() == 0


async def test_many_clients_share_entries(tmp_path):
    async with node(tmp_path, behave, flush_interval_s=0.05) as (rig, raft):
        views = await asyncio.gather(*[rig.run("two") for _ in range(300)])
        assert {view.status for view in views} == {"completed"}
        assert raft.status().last_index < 150
        while rig.engine.replica.durable_index() < rig.engine.replica.applied_index:
            await asyncio.sleep(0.01)
        assert (await rig.engine.get(views[7].id)).status == "completed"
