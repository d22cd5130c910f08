"""The engine's face, over a log in memory and fake workers."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest
from msgspec.structs import replace

from node.coordinator.settings import Settings
from node.coordinator.state import Limits
from node.engine import StartRequest
from node.errors import (
    Conflict,
    NotFound,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    RequestInvalid,
    StorageFull,
    TooLarge,
)
from node.worker.messages import Lost, TaskOutcome
from raft import errors as raft_errors
from tests.unit.coordinator.plans import Seg, chain, done, failed, make_plan, retrying, spawns, waits
from tests.unit.coordinator.rig import MemoryLog, encode, running
from workflow import codec

ONE = chain(1)
TWO = chain(2)


def never(task):
    return None


async def settle():
    """Until nothing more happens by itself."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_start_is_answered_with_its_result_when_the_client_waits(tmp_path):
    async with running(tmp_path, {"plan": TWO}) as rig:
        view = await rig.run()
        assert view.status == "completed"
        assert view.node_results == {"s0": b"\x00", "s1": b"\x01"}
        assert view.final_output == b"\x01"
        assert view.steps_done == view.steps_total == 2


async def test_a_start_without_waiting_is_answered_once_it_is_in_the_log(tmp_path):
    async with running(tmp_path, {"plan": ONE}, capacity=0) as rig:
        rig.log.held = True
        start = asyncio.ensure_future(rig.engine.start([rig.request()]))
        await settle()
        assert not start.done()
        rig.log.commit()
        (view,) = await start
        assert view.status == "queued"


async def test_a_client_that_waits_too_long_is_answered_with_the_state_of_that_moment(tmp_path):
    async with running(tmp_path, {"plan": ONE}, behave=never) as rig:
        (view,) = await rig.engine.start([rig.request()], wait_s=0.02)
        assert view.status == "running"
        assert rig.engine.stats()["waiting_clients"] == 0


async def test_everything_of_a_moment_is_one_proposal(tmp_path):
    async with running(tmp_path, {"plan": ONE}) as rig:
        before = len(rig.log.entries)
        views = await asyncio.gather(*[rig.run() for _ in range(50)])
        assert {view.status for view in views} == {"completed"}
        assert len(rig.log.entries) - before <= 4


async def test_a_batch_has_one_answer_per_request_in_order(tmp_path):
    async with running(tmp_path, {"plan": ONE}) as rig:
        requests = [rig.request(), StartRequest(execution_id="x", workflow_id="unknown"), rig.request()]
        first, second, third = await rig.engine.start(requests, wait_s=5)
        assert first.id == requests[0].execution_id
        assert isinstance(second, NotFound)
        assert third.status == "completed"


async def test_a_repeated_inline_workflow_is_compiled_and_stored_once(tmp_path):
    async with running(tmp_path, {"plan": ONE}) as rig:
        for _ in range(3):
            await rig.run()
        assert rig.engine._definitions._compile.compiled == 1
        puts = sum(b"plan" in command for _, commands in rig.log.entries for command in commands)
        assert puts == 1


async def test_a_key_gives_the_same_execution_again_even_after_its_end(tmp_path):
    async with running(tmp_path, {"plan": ONE}) as rig:
        first = await rig.run(idempotency_key="k")
        again = await rig.run(idempotency_key="k")
        assert again.id == first.id
        assert again.deduplicated
        assert again.status == "completed"
        await rig.engine.flush()
        assert (await rig.run(idempotency_key="k")).id == first.id
        with pytest.raises(Conflict):
            await rig.run(idempotency_key="k", inputs=b"\x01")


async def test_get_finds_live_just_ended_and_stored_executions(tmp_path):
    async with running(tmp_path, {"plan": ONE}, behave=never) as rig:
        (view,) = await rig.engine.start([rig.request()])
        await settle()
        assert (await rig.engine.get(view.id)).status == "running"
        rig.workers.finish(rig.workers.seen[0], done(ONE, 0))
        assert (await rig.engine.get(view.id, wait_s=5)).status == "completed"
        in_memory = await rig.engine.get(view.id, steps=True)
        await rig.engine.flush()
        assert rig.engine.stats()["store"]["history_waiting"] == 0
        assert await rig.engine.get(view.id, steps=True) == in_memory
        with pytest.raises(NotFound):
            await rig.engine.get("nope")


async def test_lists_are_newest_first_with_cursors_over_live_and_history(tmp_path):
    held = {3, 4}

    def behave(task):
        return None if int(task.execution_id, 16) in held else done(ONE, 0)

    async with running(tmp_path, {"plan": ONE}, behave=behave) as rig:
        for number in range(1, 8):
            await rig.engine.start([rig.request(tags={"odd": str(number % 2)})], wait_s=0.01)
            if number == 5:
                await rig.engine.flush()
        seen: list[int] = []
        cursor = None
        while True:
            page = await rig.engine.list(limit=2, cursor=cursor)
            seen += [int(item.id, 16) for item in page.items]
            cursor = page.cursor
            if cursor is None:
                break
        assert seen == [7, 6, 5, 4, 3, 2, 1]
        running_now = await rig.engine.list(status="running")
        assert [int(item.id, 16) for item in running_now.items] == [4, 3]
        completed = await rig.engine.list(status="completed", tag=("odd", "1"))
        assert [int(item.id, 16) for item in completed.items] == [7, 5, 1]
        assert (await rig.engine.list(workflow="other")).items == []
        for no_cursor in ("x", "", "-1", "²", "١", "9" * 19):
            with pytest.raises(RequestInvalid):
                await rig.engine.list(cursor=no_cursor)


async def test_history_and_events_tell_the_same_story_without_gaps(tmp_path):
    async with running(tmp_path, {"plan": TWO}, behave=never) as rig:
        (view,) = await rig.engine.start([rig.request()])
        followed = []

        async def follow():
            async for event in rig.engine.events(view.id, after=1):
                followed.append(event)

        following = asyncio.create_task(follow())
        await settle()
        for segment in range(2):
            rig.workers.finish(rig.workers.seen[segment], done(TWO, segment))
            await settle()
        async with asyncio.timeout(5):
            await following
        history = await rig.engine.history(view.id)
        assert [event.seq for event in history] == list(range(1, len(history) + 1))
        assert followed == history[1:]
        assert [event.type for event in history] == [
            "execution_accepted",
            "execution_started",
            "step_scheduled",
            "step_started",
            "step_completed",
            "step_scheduled",
            "step_started",
            "step_completed",
            "execution_completed",
        ]
        await rig.engine.flush()
        assert await rig.engine.history(view.id, after=3, limit=2) == history[3:5]
        stored = [event async for event in rig.engine.events(view.id)]
        assert stored == history


async def test_cancel_reaches_the_worker_and_is_final_when_that_reports(tmp_path):
    async with running(tmp_path, {"plan": TWO}, behave=never) as rig:
        (view,) = await rig.engine.start([rig.request()])
        await settle()
        cancelled = await rig.engine.cancel(view.id, reason="enough")
        assert cancelled.status == "cancelling"
        assert rig.workers.cancelled == [(view.id, 0, (), 1)]
        rig.workers.finish(rig.workers.seen[0], failed(code="cancelled"))
        final = await rig.engine.get(view.id, wait_s=5)
        assert final.status == "cancelled"
        with pytest.raises(Conflict, match="cancelled already"):
            await rig.engine.cancel(view.id)
        with pytest.raises(NotFound):
            await rig.engine.cancel("nope")


async def test_cancel_of_what_no_worker_has_is_final_at_once(tmp_path):
    async with running(tmp_path, {"plan": TWO}, capacity=0) as rig:
        (view,) = await rig.engine.start([rig.request()])
        await rig.engine.cancel(view.id)
        assert (await rig.engine.get(view.id, wait_s=5)).status == "cancelled"
        rig.engine.leader.set_capacity("w1", 10)
        await settle()
        assert rig.workers.seen == []


async def test_what_becomes_ready_in_the_batch_that_ends_its_execution_does_not_hold_it_up(tmp_path):
    plan = make_plan([Seg(effect="wait"), Seg()])

    def behave(task):
        return waits(plan, 0, "signal", name="go") if task.segment == 0 else None

    async with running(tmp_path, {"plan": plan}, behave=behave) as rig:
        (view,) = await rig.engine.start([rig.request()])
        await settle()
        signalled = asyncio.ensure_future(rig.engine.signal(view.id, "go", b"\x01"))
        await asyncio.sleep(0)
        task = next(task for task in rig.workers.seen if task.segment == 1)
        key = (task.execution_id, task.segment, task.path, task.attempt)
        rig.engine.leader.outcomes("w1", [TaskOutcome(*key, result=encode(failed("s1")))])
        assert (await rig.engine.get(view.id, wait_s=5)).status == "failed"
        await signalled


async def test_an_attempt_that_nobody_has_is_found_counted_and_taken_up_again(tmp_path):
    async with running(tmp_path, {"plan": ONE}, capacity=0) as rig:
        (view,) = await rig.engine.start([rig.request()])
        rig.engine._look_at([view.id])
        assert rig.engine.stats()["attempts_rescued_total"] == 0
        rig.engine.leader.scheduler.clear()  # what no code of ours does while it leads
        rig.engine.leader.set_capacity("w1", 5)
        await settle()
        assert (await rig.engine.get(view.id)).status == "queued"
        for _ in range(2):
            rig.engine._look_at([view.id])
            rig.engine._suspects, rig.engine._suspects_before = set(), rig.engine._suspects
        assert (await rig.engine.get(view.id, wait_s=5)).status == "completed"
        assert rig.engine.stats()["attempts_rescued_total"] == 1


async def test_what_waits_for_space_in_the_log_is_not_taken_for_lost(tmp_path):
    async with running(tmp_path, {"plan": ONE}, behave=never, settings=Settings(retry_s=0.05)) as rig:
        (view,) = await rig.engine.start([rig.request()])
        await settle()
        rig.log.error = raft_errors.StorageFull("full")
        rig.workers.finish(rig.workers.seen[0], done(ONE, 0))
        await settle()
        assert rig.engine.stats()["inbox"] == 1
        for _ in range(3):
            rig.engine._look_at([view.id])
            rig.engine._suspects, rig.engine._suspects_before = set(), rig.engine._suspects
        assert rig.engine.stats()["attempts_rescued_total"] == 0
        rig.log.error = None
        assert (await rig.engine.get(view.id, wait_s=5)).status == "completed"
        assert len(rig.workers.seen) == 1
        assert rig.engine.leader.inbox_bytes == rig.engine.stats()["inbox"] == 0


async def test_a_request_that_cannot_be_stored_is_refused_alone(tmp_path):
    async with running(tmp_path, {"plan": ONE}, behave=never) as rig:
        requests = [rig.request(), rig.request(tags={"half": "\ud800"}), rig.request()]
        good, bad, also_good = await rig.engine.start(requests)
        assert (good.status, also_good.status) == ("running", "running")
        assert isinstance(bad, RequestInvalid)
        assert rig.engine.leader.inbox_bytes == 0
        with pytest.raises(RequestInvalid):
            await rig.engine.cancel(good.id, reason="\ud800")


async def test_a_report_that_cannot_be_stored_ends_its_attempt(tmp_path):
    async with running(tmp_path, {"plan": ONE}, behave=never) as rig:
        (view,) = await rig.engine.start([rig.request()])
        await settle()
        task = rig.workers.seen[0]
        lost = Lost("runner_died", "half of a pair: \ud800", started=True, at_fault=True)
        for _ in range(3):
            await settle()
            task = rig.workers.seen[-1]
            key = (task.execution_id, task.segment, task.path, task.attempt)
            rig.engine.leader.outcomes("w1", [TaskOutcome(*key, lost=lost)])
        view = await rig.engine.get(view.id, wait_s=5)
        assert (view.status, view.error.code) == ("failed", "result_invalid")


async def test_higher_priority_goes_first_and_equals_in_order(tmp_path):
    async with running(tmp_path, {"plan": ONE}, capacity=0) as rig:
        for priority in (1, 9, 5, 9, 0):
            await rig.engine.start([rig.request(priority=priority)])
        rig.engine.leader.set_capacity("w1", 1)
        await settle()
        assert [int(task.execution_id, 16) for task in rig.workers.seen] == [2, 4, 3, 1, 5]


async def test_a_worker_never_has_more_than_its_capacity(tmp_path):
    async with running(tmp_path, {"plan": ONE}, behave=never, capacity=3) as rig:
        await rig.engine.start([rig.request() for _ in range(10)])
        await settle()
        assert len(rig.workers.running) == 3
        rig.workers.finish(rig.workers.seen[0], done(ONE, 0))
        await settle()
        assert len(rig.workers.running) == 3


async def test_a_lost_workers_reads_go_to_another_one(tmp_path):
    from tests.unit.coordinator.rig import FakeWorkers, echo

    async with running(tmp_path, {"plan": ONE}, behave=never) as rig:
        (view,) = await rig.engine.start([rig.request()])
        await settle()
        rig.engine.leader.attach("w2", FakeWorkers(rig.engine, echo({ONE.hash: ONE}), id="w2"), capacity=5)
        rig.engine.leader.detach("w1", "lease ended")
        assert (await rig.engine.get(view.id, wait_s=5)).status == "completed"


async def test_what_never_started_is_handed_out_again_without_a_trace(tmp_path):
    tries = []

    def behave(task):
        tries.append(task)
        if len(tries) < 3:
            return Lost("plan_unavailable", "not yet", started=False, at_fault=False)
        return done(ONE, 0)

    settings = Settings(requeue_delay_s=0.001)
    async with running(tmp_path, {"plan": chain(1, effect="write")}, behave=behave, settings=settings) as rig:
        view = await rig.run()
        assert view.status == "completed"
        assert [task.attempt for task in tries] == [1, 1, 1]


async def test_a_task_that_nobody_can_start_fails_after_a_while(tmp_path):
    def behave(task):
        return Lost("plan_unavailable", "no such file", started=False, at_fault=False)

    settings = Settings(requeue_delay_s=0.0001, requeue_delay_s_max=0.001, requeues_max=5)
    async with running(tmp_path, {"plan": ONE}, behave=behave, settings=settings) as rig:
        view = await rig.run()
        assert view.status == "failed"
        assert "no worker could start it in 6 tries: no such file" in view.error.message


async def test_a_wait_ends_by_its_timer_and_never_early(tmp_path):
    plan = chain(2, effect="wait")
    fired: list[float] = []

    def behave(task):
        if task.resume is None and task.segment == 0:
            fired.append(asyncio.get_running_loop().time())
            return waits(plan, 0, duration_s=0.05)
        fired.append(asyncio.get_running_loop().time())
        return done(plan, task.segment)

    async with running(tmp_path, {"plan": plan}, behave=behave) as rig:
        (view,) = await rig.engine.start([rig.request()])
        await settle()
        assert (await rig.engine.get(view.id)).status == "waiting"
        assert (await rig.engine.get(view.id, wait_s=5)).status == "completed"
        assert 0.05 <= fired[1] - fired[0] < 0.5


async def test_until_waits_for_wall_time(tmp_path):
    import time

    plan = chain(1, effect="wait")
    until = time.time() + 0.05

    def behave(task):
        if task.resume is None:
            return waits(plan, 0, "until", until=until)
        assert time.time() >= until
        return done(plan, 0)

    async with running(tmp_path, {"plan": plan}, behave=behave) as rig:
        assert (await rig.run()).status == "completed"


async def test_retries_come_after_their_backoff(tmp_path):
    plan = chain(1, policy=retrying(3, initial_interval_s=0.02, jitter=0.0))

    def behave(task):
        return failed() if task.attempt < 3 else done(plan, 0)

    async with running(tmp_path, {"plan": plan}, behave=behave) as rig:
        view = await rig.run()
        assert view.status == "completed"
        events = [event.type for event in await rig.engine.history(view.id)]
        assert events.count("attempt_failed") == 2


async def test_a_signal_ends_its_wait(tmp_path):
    plan = chain(1, effect="wait")

    def behave(task):
        return waits(plan, 0, "signal", name="go") if task.resume is None else done(plan, 0, task.resume)

    async with running(tmp_path, {"plan": plan}, behave=behave) as rig:
        (view,) = await rig.engine.start([rig.request()])
        await settle()
        steps = (await rig.engine.get(view.id, steps=True)).steps
        assert steps[0].waits_for == "signal go"
        await rig.engine.signal(view.id, "go", codec.encode(42))
        final = await rig.engine.get(view.id, wait_s=5)
        assert codec.decode(final.final_output) == {"payload": 42}
        with pytest.raises(Conflict):
            await rig.engine.signal(view.id, "go", b"\x01")
        with pytest.raises(NotFound):
            await rig.engine.signal("nope", "go", b"\x01")


async def test_loops_run_through_the_engine(tmp_path):
    plan = make_plan([Seg(body=1), Seg(scope=1, needs=[0]), Seg(after=[0])])

    def behave(task):
        if task.segment == 0 and task.resume is None:
            return spawns(plan, 0, [codec.encode(n) for n in range(500)], at_once=50)
        if task.segment == 0:
            return done(plan, 0, task.resume)
        return (
            done(plan, 1, codec.encode(codec.decode(task.item) * 2)) if task.segment == 1 else done(plan, 2)
        )

    async with running(tmp_path, {"plan": plan}, behave=behave) as rig:
        view = await rig.run()
        assert view.status == "completed", view.error
        assert codec.decode(view.node_results["s0"]) == [None, [n * 2 for n in range(500)], 0.0, None]
        assert len(rig.workers.seen) == 503, "the loop twice, its items, what follows"


async def test_an_execution_that_takes_too_long_fails_with_the_originals_text(tmp_path):
    plan = make_plan([Seg()], level=1, timeout_s=0.03)

    async with running(tmp_path, {"plan": plan}, behave=never) as rig:
        (view,) = await rig.engine.start([rig.request()])
        await asyncio.sleep(0.1)
        assert rig.workers.cancelled == [(view.id, 0, (), 1)]
        rig.workers.finish(rig.workers.seen[0], failed(code="cancelled"))
        final = await rig.engine.get(view.id, wait_s=5)
        assert final.error.message == "workflow execution timeout: exceeded 30ms"


# ---- limits ----


async def test_starts_above_the_limit_of_live_executions_are_refused_by_name(tmp_path):
    async with running(
        tmp_path, {"plan": ONE}, behave=never, settings=Settings(executions_live_max=2)
    ) as rig:
        answers = await rig.engine.start([rig.request() for _ in range(3)])
        assert isinstance(answers[2], Overloaded)
        assert answers[2].limit == "executions_live_max"
        rig.workers.finish(rig.workers.seen[0], done(ONE, 0))
        await settle()
        (accepted,) = await rig.engine.start([rig.request()])
        assert not isinstance(accepted, Exception)


async def test_starts_wait_for_a_history_that_cannot_keep_up(tmp_path):
    settings = Settings(history_waiting_max=1, flush_interval_s=30.0)
    async with running(tmp_path, {"plan": ONE}, settings=settings) as rig:
        await rig.run()
        (answer,) = await rig.engine.start([rig.request()])
        assert isinstance(answer, Overloaded)
        assert answer.limit == "history_waiting_max"


async def test_queued_tasks_and_bytes_are_bounded(tmp_path):
    async with running(tmp_path, {"plan": ONE}, capacity=0, settings=Settings(tasks_queued_max=1)) as rig:
        await rig.engine.start([rig.request()])
        (answer,) = await rig.engine.start([rig.request()])
        assert answer.limit == "tasks_queued_max"
    async with running(
        tmp_path / "b", {"plan": ONE}, behave=never, settings=Settings(state_bytes_max=1000)
    ) as rig:
        await rig.engine.start([rig.request(inputs=b"x" * 1000)])
        (answer,) = await rig.engine.start([rig.request()])
        assert answer.limit == "state_bytes_max"


async def test_keys_per_tenant_are_bounded(tmp_path):
    settings = Settings(limits=Limits(dedupe_keys_max=1))
    async with running(tmp_path, {"plan": ONE}, settings=settings) as rig:
        await rig.run(idempotency_key="1")
        with pytest.raises(Overloaded) as refused:
            await rig.run(idempotency_key="2")
        assert refused.value.limit == "dedupe_keys_max"


async def test_values_larger_than_an_entry_go_through_in_parts(tmp_path):
    big = codec.encode("x" * 3_000_000)

    def behave(task):
        return done(TWO, task.segment, big if task.segment == 0 else codec.encode(len(task.context)))

    async with running(tmp_path, {"plan": TWO}, behave=behave) as rig:
        view = await rig.run(inputs=big)
        assert view.node_results["s0"] == big
        assert view.final_output == codec.encode(len(big))
        assert max(len(command) for _, commands in rig.log.entries for command in commands) < 1024 * 1024
        await rig.engine.flush()
        assert rig.engine.replica.durable_index() == rig.engine.replica.applied_index


async def test_many_big_starts_at_once_all_arrive(tmp_path):
    big = codec.encode("y" * 1_500_000)
    async with running(tmp_path, {"plan": ONE}) as rig:
        views = await asyncio.gather(
            *[rig.run(inputs=big) for _ in range(4)], *[rig.run() for _ in range(20)]
        )
        assert {view.status for view in views} == {"completed"}


async def test_a_result_over_the_limit_fails_its_step(tmp_path):
    def behave(task):
        return done(ONE, 0, codec.encode("x" * 5000))

    async with running(
        tmp_path, {"plan": ONE}, behave=behave, settings=Settings(value_bytes_max=4000)
    ) as rig:
        view = await rig.run()
        assert view.error.code == "value_too_large"


# ---- trouble with the log and the stores ----


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (raft_errors.NotLeader("no", "n2"), NotLeader),
        (raft_errors.Overloaded("full", limit="proposals_max", retry_after_s=1.0), Overloaded),
        (raft_errors.StorageFull("full"), StorageFull),
        (raft_errors.CommandTooLarge("big"), TooLarge),
    ],
)
async def test_definite_refusals_of_the_log_are_passed_on(tmp_path, error, expected):
    async with running(tmp_path, {"plan": ONE}) as rig:
        rig.log.error = error
        (answer,) = await rig.engine.start([rig.request()])
        assert isinstance(answer, expected)
        assert answer.definite


async def test_an_unknown_outcome_is_passed_on_as_such(tmp_path):
    async with running(tmp_path, {"plan": ONE}) as rig:
        rig.log.held = True
        start = asyncio.ensure_future(rig.engine.start([rig.request()]))
        await settle()
        rig.log._queue[0][1].set_exception(raft_errors.OutcomeUnknown("lost"))
        (answer,) = await start
        assert isinstance(answer, OutcomeUnknown)
        assert not answer.definite


async def test_reports_are_proposed_again_until_the_log_takes_them(tmp_path):
    async with running(tmp_path, {"plan": ONE}, behave=never, settings=Settings(retry_s=0.01)) as rig:
        (view,) = await rig.engine.start([rig.request()])
        await settle()
        rig.log.error = raft_errors.StorageFull("full")
        rig.workers.finish(rig.workers.seen[0], done(ONE, 0))
        await asyncio.sleep(0.05)
        rig.log.error = None
        assert (await rig.engine.get(view.id, wait_s=5)).status == "completed"


async def test_a_full_disk_refuses_starts_serves_reads_and_recovers(tmp_path, monkeypatch):
    async with running(
        tmp_path,
        {"plan": ONE},
        settings=Settings(store_retry_s=0.01, flush_interval_s=0.01),
        serve=True,
    ) as rig:
        first = await rig.run()
        real = rig.engine._stores._write_job
        full = True

        def write(job):
            if full:
                raise sqlite3.OperationalError("database or disk is full")
            real(job)

        monkeypatch.setattr(rig.engine._stores, "_write_job", write)
        second = await rig.run()
        while rig.engine._stores.problem is None:
            await asyncio.sleep(0.005)
        (refused,) = await rig.engine.start([rig.request()])
        assert isinstance(refused, StorageFull)
        assert (await rig.engine.get(second.id)).status == "completed"
        full = False
        while rig.engine._stores.problem is not None:
            await asyncio.sleep(0.005)
        third = await rig.run()
        await asyncio.sleep(0.05)
        assert {item.id for item in (await rig.engine.list()).items} == {first.id, second.id, third.id}


# ---- restart ----


async def test_a_restart_goes_on_where_the_log_ends(tmp_path):
    log = MemoryLog()
    async with running(tmp_path, {"plan": TWO}, log=log, behave=never) as rig:
        ids = [view.id for view in await rig.engine.start([rig.request() for _ in range(6)])]
        await settle()
        for task in rig.workers.seen[:2]:
            rig.workers.finish(task, done(TWO, 0))
        await settle()
        await rig.engine.flush()
        rig.workers.finish(rig.workers.seen[2], done(TWO, 0))
        await settle()
    async with running(tmp_path, {"plan": TWO}, log=log) as rig:
        views = [await rig.engine.get(id, wait_s=5) for id in ids]
        assert {view.status for view in views} == {"completed"}
        assert rig.engine.count_without_next_step() == 0


async def test_after_a_restart_running_writes_are_in_doubt_and_reads_go_again(tmp_path):
    log = MemoryLog()
    plans = {"write": chain(1, effect="write"), "read": chain(1, effect="read")}
    async with running(tmp_path, plans, log=log, behave=never) as rig:
        (write,) = await rig.engine.start([rig.request("write")])
        (read,) = await rig.engine.start([rig.request("read")])
        await settle()
    async with running(tmp_path, plans, log=log) as rig:
        assert (await rig.engine.get(read.id, wait_s=5)).status == "completed"
        final = await rig.engine.get(write.id, wait_s=5, steps=True)
        assert final.error.code == "outcome_unknown"
        assert final.steps[0].status == "outcome_unknown"


async def test_only_granted_writes_are_in_doubt_after_a_crash(tmp_path):
    log = MemoryLog()
    plans = {"plan": chain(1, effect="write")}
    settings = Settings(limits=Limits(write_window=2))
    async with running(tmp_path, plans, log=log, behave=never, capacity=2, settings=settings) as rig:
        await rig.engine.start([rig.request() for _ in range(10)])
        await settle()
    async with running(tmp_path, plans, log=log, capacity=2, settings=settings) as rig:
        for number in range(1, 11):
            await rig.engine.get(f"{number:026x}", wait_s=5)
        statuses = [item.status for item in (await rig.engine.list()).items]
        assert sorted(statuses) == ["completed"] * 8 + ["failed"] * 2


async def test_waits_survive_a_restart(tmp_path):
    plan = chain(1, effect="wait")
    log = MemoryLog()

    def behave(task):
        return waits(plan, 0, duration_s=0.1) if task.resume is None else done(plan, 0)

    async with running(tmp_path, {"plan": plan}, log=log, behave=behave) as rig:
        (view,) = await rig.engine.start([rig.request()])
        await settle()
        await rig.engine.flush()
    async with running(tmp_path, {"plan": plan}, log=log, behave=behave) as rig:
        assert (await rig.engine.get(view.id, wait_s=5)).status == "completed"


async def test_workflows_are_versioned_by_content_and_survive_a_restart(tmp_path):
    log = MemoryLog()
    plans = {"one": ONE, "two": TWO}
    async with running(tmp_path, plans, log=log) as rig:
        first = await rig.engine.register_workflow(workflow_id="w", payload=b"one", name="W")
        second = await rig.engine.register_workflow(workflow_id="w", payload=b"two")
        again = await rig.engine.register_workflow(workflow_id="w", payload=b"one")
        assert [first.version, second.version, again.version] == [1, 2, 1]
        await rig.engine.flush()
    async with running(tmp_path, plans, log=log) as rig:
        view = await rig.run(workflow=None, workflow_id="w")
        assert view.workflow_version == 2
        assert view.steps_total == 2
        assert (await rig.run(workflow=None, workflow_id="w", version=1)).steps_total == 1
        with pytest.raises(NotFound):
            await rig.run(workflow=None, workflow_id="w", version=3)
        views, cursor = await rig.engine.list_workflows()
        assert [(found.id, found.version) for found in views] == [("w", 2)]
        assert cursor is None
        await rig.engine.delete_workflow("w")
        with pytest.raises(NotFound):
            await rig.engine.get_workflow("w")
        with pytest.raises(NotFound):
            await rig.engine.delete_workflow("w")


async def test_losing_leadership_tells_those_who_wait_and_keeps_nothing_volatile(tmp_path):
    async with running(tmp_path, {"plan": ONE}) as rig:
        rig.log.held = True
        start = asyncio.ensure_future(rig.engine.start([rig.request()]))
        await settle()
        late = asyncio.ensure_future(rig.engine.start([rig.request()]))
        await asyncio.sleep(0)
        rig.engine.leader.follow()
        rig.log._queue[0][1].set_exception(raft_errors.OutcomeUnknown("lost"))
        (first,) = await start
        assert isinstance(first, OutcomeUnknown)
        (second,) = await late
        assert isinstance(second, NotLeader | OutcomeUnknown)
        assert rig.engine.stats()["inbox"] == 0


async def test_idle_definitions_are_dropped_and_stored_again_when_needed(tmp_path):
    async with running(tmp_path, {"plan": ONE}, settings=Settings(definition_keep_s=0.0)) as rig:
        await rig.run()
        rig.engine.leader.drop_idle_definitions()
        await asyncio.sleep(0.01)
        rig.engine.leader.drop_idle_definitions()
        start = asyncio.ensure_future(rig.run())  # while the drop is on its way
        assert (await start).status == "completed"
        rig.engine.leader.drop_idle_definitions()
        await asyncio.sleep(0.01)
        rig.engine.leader.drop_idle_definitions()
        await settle()
        assert rig.engine.stats()["definitions"] == 0
        view = await rig.run()
        assert view.status == "completed"
        assert await rig.engine.fetch_plan(ONE.hash) == b"plan"


async def test_limits_of_apply_come_from_the_leaders_settings(tmp_path):
    settings = Settings(limits=replace(Limits(), write_window=7))
    async with running(tmp_path, {"plan": ONE}, settings=settings) as rig:
        await rig.run()
        assert rig.engine.replica.state.limits.write_window == 7
