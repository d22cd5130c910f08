"""Policies that the leader enforces: how long an attempt may wait for a worker, and how long it may be silent."""

from __future__ import annotations

import asyncio

from node.worker.messages import TaskHeartbeat
from tests.unit.coordinator.plans import Seg, failed, make_plan
from tests.unit.coordinator.rig import running
from workflow.messages import RetryPolicy, StepPolicy


def one_step(**policy):
    return make_plan([Seg(effect="read", policy=StepPolicy(**policy))])


async def test_an_attempt_that_no_worker_takes_in_time_fails(tmp_path):
    plan = one_step(schedule_to_start_s=0.05)
    async with running(tmp_path, {"plan": plan}, capacity=0) as rig:
        view = await rig.run()
        assert (view.status, view.error.code) == ("failed", "schedule_to_start")
        assert rig.workers.seen == []


async def test_an_attempt_that_was_taken_in_time_goes_on(tmp_path):
    plan = one_step(schedule_to_start_s=0.05)
    async with running(tmp_path, {"plan": plan}, behave=lambda task: None) as rig:
        (view,) = await rig.engine.start([rig.request()], wait_s=0.2)
        assert view.status == "running"
        (frame,) = rig.workers.running.values()
        rig.workers.finish(frame.task, failed("s0"))
        assert (await rig.engine.get(view.id, wait_s=5)).error.code == "step_failed"


async def test_a_silent_attempt_is_stopped_and_its_details_go_to_the_next_one(tmp_path):
    plan = one_step(heartbeat_s=0.1, retry=RetryPolicy(max_attempts=2, initial_interval_s=0.001))
    async with running(tmp_path, {"plan": plan}, behave=lambda task: None) as rig:
        (view,) = await rig.engine.start([rig.request()])
        while not rig.workers.running:
            await asyncio.sleep(0)
        ((key, frame),) = rig.workers.running.items()
        for _ in range(4):
            rig.engine.leader.heartbeats([TaskHeartbeat(*key, b"\x07")])
            await asyncio.sleep(0.05)
        assert rig.workers.cancelled == [], "it was heard"
        while not rig.workers.cancelled:
            await asyncio.sleep(0.01)
        rig.workers.finish(frame.task, failed("s0", code="cancelled"))
        while not rig.workers.running:
            await asyncio.sleep(0.01)
        (again,) = rig.workers.running.values()
        assert again.task.heartbeat == b"\x07"
        history = await rig.engine.history(view.id)
        assert [e.detail["code"] for e in history if e.type == "attempt_failed"] == ["timeout"]


async def test_heartbeats_of_attempts_that_are_not_out_are_ignored(tmp_path):
    async with running(tmp_path, {"plan": one_step()}) as rig:
        rig.engine.leader.heartbeats([TaskHeartbeat("nobody", 0, (), 1, b"\x07")])
        assert (await rig.run()).status == "completed"
