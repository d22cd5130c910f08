"""Tasks through real runners: values, errors, limits of size, plans, logs, heartbeats."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from node.errors import Overloaded
from node.worker.messages import TaskHeartbeat
from node.worker.supervisor import WorkerStartFailed
from tests.process.worker_pool import PoolUnderTest, key_of, running_pool, until
from workflow import codec


async def test_a_step_of_the_users_own_gets_its_data_and_its_result_comes_back():
    async with running_pool() as under_test:
        assert await under_test.value("plus_one", data={"number": 1}) == 2.0


async def test_a_thousand_tasks_are_spread_over_all_runners_and_each_has_one_outcome():
    async with running_pool(slots=2) as under_test:
        frames = [under_test.frame("pid_of_runner", data={"seconds": 0.001}) for _ in range(1000)]
        under_test.pool.submit(frames)
        await under_test.until(lambda: len(under_test.outcomes) == 1000)
        pids = [codec.decode((await under_test.result(key_of(frame))).outputs[0]) for frame in frames]
        assert {int(pid) for pid in pids} == set(under_test.pool.stats().runner_pids)
        assert min(pids.count(pid) for pid in set(pids)) >= 20
        assert under_test.pool.outstanding == 0


async def test_outcomes_of_short_tasks_come_in_batches():
    async with running_pool() as under_test:
        frames = [under_test.frame("plus_one", data={"number": 1}) for _ in range(1000)]
        under_test.pool.submit(frames)
        await under_test.until(lambda: len(under_test.outcomes) == 1000)
        assert len(under_test.batches) < 500


async def test_short_tasks_that_come_one_by_one_share_a_runner():
    async with running_pool(slots=2) as under_test:
        for _ in range(100):  # until the pool has learnt that they are short
            await under_test.value("pid_of_runner")
        pids = {await under_test.value("pid_of_runner") for _ in range(20)}
        assert len(pids) == 1


async def test_a_task_that_is_already_in_the_pool_is_not_taken_twice():
    async with running_pool() as under_test:
        frame = under_test.frame("plus_one", data={"number": 1})
        under_test.pool.submit([frame, frame])
        await under_test.outcome(key_of(frame))
        assert under_test.pool.stats().finished == 1


async def test_io_steps_run_at_the_same_time_in_one_runner():
    async with running_pool() as under_test:
        keys = [under_test.submit("sleep_awaiting", data={"seconds": 0.2}) for _ in range(100)]
        outcomes = [await under_test.outcome(key) for key in keys]
        assert sum(outcome.usage.wall_us for outcome in outcomes if outcome.usage) > 100 * 190_000
        assert under_test.pool.stats().outstanding_peak == 100


async def test_a_blocking_step_stops_neither_io_steps_nor_other_cpu_steps(tmp_path: Path):
    blocker = tmp_path / "release"
    async with running_pool(slots=2) as under_test:
        blocked = under_test.submit("wait_for_file", data={"file": str(blocker)})
        behind = [under_test.submit("plus_one", data={"number": 1}) for _ in range(200)]
        io = [under_test.submit("sleep_awaiting", data={"seconds": 0.01}) for _ in range(200)]
        for key in behind + io:
            assert (await under_test.result(key)).error is None
        assert blocked not in under_test.outcomes
        blocker.touch()
        assert (await under_test.result(blocked)).error is None


async def test_io_steps_go_on_while_every_runner_is_busy_with_a_cpu_step(tmp_path: Path):
    blocker = tmp_path / "release"
    async with running_pool(slots=1) as under_test:
        blocked = under_test.submit("wait_for_file", data={"file": str(blocker)})
        await until(lambda: under_test.pool.stats().running_cpu == 1)
        waiting = under_test.submit("plus_one", data={"number": 1})
        for _ in range(20):
            assert await under_test.value("sleep_awaiting", data={"seconds": 0.01}) == 0.01
        assert waiting not in under_test.outcomes
        blocker.touch()
        await under_test.outcome(blocked)
        assert (await under_test.result(waiting)).error is None


async def test_the_context_of_a_step_has_the_ids_of_its_attempt():
    async with running_pool() as under_test:
        context = await under_test.value(
            "context_of_step", data={"size": 3}, execution_id="e1", attempt=4, idempotency_key="k1"
        )
        assert context == {
            "execution_id": "e1",
            "step_id": "it",
            "attempt": 4.0,
            "idempotency_key": "k1",
            "inputs": [],
            "data": {"size": 3.0},
        }


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("set", "set; make it a list"),
        ("object", "type object"),
        ("bytes", "bytes at deep[0]"),
        ("int_key", "a dict with a key of type int"),
        ("huge_int", "64 bits"),
        ("endless", "contains itself"),
        ("surrogate", "Unicode"),
        ("coroutine", "async def"),
    ],
)
async def test_a_result_that_cannot_be_encoded_is_a_step_error_that_names_step_and_type(what: str, text: str):
    async with running_pool() as under_test:
        error = (await under_test.run("return_odd", data={"what": what})).error
        assert error is not None
        assert error.code == "result_not_encodable"
        assert error.node == "it"
        assert "return_odd" in error.message
        assert text in error.message
        assert await under_test.value("plus_one", data={"number": 1}) == 2.0


async def test_a_result_over_the_limit_is_a_step_error_and_one_below_passes():
    async with running_pool(result_bytes_max=4_000_000) as under_test:
        assert len(await under_test.value("return_odd", data={"what": "large"})) == 3_000_000
    async with running_pool(result_bytes_max=1_000_000) as under_test:
        error = (await under_test.run("return_odd", data={"what": "large"})).error
        assert error is not None
        assert error.code == "output_too_large"
        assert error.node == "it"
        assert "limit: 1000000" in error.message


async def test_an_exception_is_a_step_error_and_its_traceback_is_logged():
    async with running_pool() as under_test:
        error = (await under_test.run("raise_error")).error
        assert error is not None
        assert (error.code, error.type, error.retryable) == ("step_failed", "ValueError", True)
        assert error.message == "error executing node it: ValueError: that is no good"
        await under_test.until(lambda: any("worker_steps.py" in line.text for line in under_test.logs))


async def test_a_step_can_say_that_another_attempt_makes_no_sense():
    async with running_pool() as under_test:
        error = (await under_test.run("raise_error", data={"retryable": False})).error
        assert error is not None
        assert (error.code, error.retryable) == ("no_use", False)


async def test_sys_exit_in_a_step_fails_the_step_and_not_the_runner():
    async with running_pool() as under_test:
        error = (await under_test.run("call_sys_exit")).error
        assert error is not None
        assert error.type == "SystemExit"
        assert under_test.pool.stats().runners_lost == 0


async def test_a_step_that_asks_for_more_memory_than_allowed_fails_alone():
    async with running_pool(address_space_bytes_max=512 << 20) as under_test:
        error = (await under_test.run("eat_memory")).error
        assert error is not None
        assert error.code == "out_of_memory"
        assert await under_test.value("plus_one", data={"number": 1}) == 2.0
        assert under_test.pool.stats().runners_lost == 0


async def test_what_a_step_prints_and_logs_comes_with_its_attempt():
    async with running_pool() as under_test:
        key = under_test.submit("talk", data={"lines": 2}, attempt=3)
        await under_test.outcome(key)
        await under_test.until(lambda: any(line.text.startswith("written") for line in under_test.logs))
        by_stream = {
            stream: [line.text for line in under_test.logs if line.stream == stream]
            for stream in ("stdout", "stderr", "log")
        }
        assert [text for text in by_stream["stdout"] if not text.startswith("written")] == [
            "printed 0",
            "printed 1",
            "no newline",
        ]
        assert by_stream["stderr"] == ["to stderr"]
        assert by_stream["log"] == ["logged"]
        assert {line.fields.get("answer") for line in under_test.logs if line.stream == "log"} == {42}
        printed = [line for line in under_test.logs if not line.text.startswith("written")]
        assert {(line.execution_id, line.attempt) for line in printed} == {(key[0], 3)}


async def test_an_attempt_that_prints_too_much_is_cut_with_a_line_that_says_so():
    async with running_pool(log_bytes_per_attempt_max=1000) as under_test:
        await under_test.run("talk", data={"lines": 100_000})
        text = [line.text for line in under_test.logs if not line.text.startswith("written")]
        assert len(text) < 120
        assert "the rest is dropped" in text[-1]


async def test_heartbeats_are_delivered_and_the_last_details_reach_the_next_attempt():
    async with running_pool() as under_test:
        key = under_test.submit("heartbeats")
        assert (await under_test.result(key)).error is not None
        assert under_test.heartbeats == [
            TaskHeartbeat(*key, codec.encode({"done": 1.0})),
            TaskHeartbeat(*key, codec.encode({"done": 2.0})),
        ]
        details = under_test.heartbeats[-1].details
        assert await under_test.value("heartbeats", attempt=2, heartbeat=details) == {"done": 2.0}


async def test_a_definition_is_fetched_once_and_sent_to_each_runner_once():
    async with running_pool(slots=2) as under_test:
        for _ in range(3):
            frames = [under_test.frame("plus_one", data={"number": 1}) for _ in range(50)]
            under_test.pool.submit(frames)
            await under_test.until(lambda: under_test.pool.outstanding == 0)
        assert len(under_test.fetched) == 1


async def test_plans_beyond_the_bound_are_forgotten_and_fetched_again():
    async with running_pool(plans_max=2) as under_test:
        for number in (1, 2, 3, 1):
            assert await under_test.value("plus_one", data={"number": number}) == number + 1
        assert len(under_test.fetched) == 4
        assert await under_test.value("plus_one", data={"number": 1}) == 2
        assert len(under_test.fetched) == 4


async def test_a_plan_that_cannot_be_fetched_loses_its_tasks_without_their_having_started():
    async with running_pool() as under_test:
        frame = under_test.frame("plus_one")
        under_test.definitions.clear()
        under_test.pool.submit([frame])
        lost = (await under_test.outcome(key_of(frame))).lost
        assert lost is not None
        assert (lost.code, lost.started, lost.at_fault) == ("plan_unavailable", False, False)


async def test_a_definition_that_does_not_load_here_fails_its_tasks():
    async with running_pool() as under_test:
        error = (await under_test.run("no_such_type")).error
        assert error is not None
        assert "no_such_type" in error.message


async def test_a_segment_that_the_plan_does_not_have_is_an_error():
    async with running_pool() as under_test:
        error = (await under_test.run("plus_one", data={"number": 1}, segment=9)).error
        assert error is not None
        assert error.code == "plan_invalid"


async def test_tasks_of_many_megabytes_reach_a_runner_that_reads_slowly(tmp_path: Path):
    blocker = tmp_path / "release"
    large = codec.encode({"text": "x" * 4_000_000})
    async with running_pool() as under_test:
        blocked = under_test.submit("wait_for_file", data={"file": str(blocker)})
        keys = [under_test.submit("plus_one", data={"number": 1}, context=large) for _ in range(10)]
        blocker.touch()
        for key in [blocked, *keys]:
            assert (await under_test.result(key)).error is None
        assert under_test.pool.stats().runners_lost == 0


async def test_usage_of_an_attempt_is_measured():
    async with running_pool() as under_test:
        outcome = await under_test.outcome(under_test.submit("sleep_awaiting", data={"seconds": 0.05}))
        assert outcome.usage is not None
        assert outcome.usage.wall_us >= 50_000
        assert 0 < outcome.usage.cpu_us < 50_000
        assert outcome.usage.bytes_out > 0


async def test_a_full_pool_refuses_and_takes_none_of_the_tasks(tmp_path: Path):
    blocker = tmp_path / "release"
    async with running_pool(backlog_max=10) as under_test:
        data = {"file": str(blocker)}
        room = 10 + under_test.pool.credits_max
        under_test.pool.submit([under_test.frame("wait_for_file", data=data) for _ in range(room)])
        with pytest.raises(Overloaded) as refusal:
            under_test.pool.submit([under_test.frame("wait_for_file", data=data)])
        assert refusal.value.limit == "backlog_max"
        assert under_test.pool.outstanding == room
        blocker.touch()
        await under_test.until(lambda: under_test.pool.outstanding == 0)


async def test_a_runner_has_no_secrets_no_privileges_to_gain_and_no_descriptors_of_the_node(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("THAIYYAL_SECRET", "hunter2")
    async with running_pool(environment={"GIVEN": "1"}, open_files_max=64) as under_test:
        with open(os.devnull):
            found = await under_test.value("environment_of_runner")
    assert "THAIYYAL_SECRET" not in found["environment"]
    assert found["environment"]["GIVEN"] == "1"
    assert found["no_new_privileges"] is True
    assert found["is_group_leader"] is True
    assert found["core_limit"] == 0
    assert found["files_limit"] == 64
    assert found["address_space_limit"] == 2 << 30
    assert len(found["descriptors"]) <= 7, "0, 1, 2, inbox, outbox, shared page, and the listing itself"


async def test_a_module_that_does_not_load_is_refused_at_start_with_its_name_and_place():
    under_test = PoolUnderTest(load=("tests.process.no_such_module",))
    with pytest.raises(WorkerStartFailed, match=r"there is no module tests\.process\.no_such_module"):
        await under_test.pool.start()
    assert under_test.pool.stats().runner_pids == ()


async def test_closing_waits_for_tasks_only_as_long_as_it_is_told(tmp_path: Path):
    async with running_pool(slots=2) as under_test:
        short = under_test.submit("sleep_awaiting", data={"seconds": 0.1})
        started = tmp_path / "started"
        endless = under_test.submit("touch_and_await", data={"file": str(started)})
        await until(started.exists)
        await under_test.pool.close(drain_s=0.3)
        assert under_test.outcomes[short].result is not None
        lost = under_test.outcomes[endless].lost
        assert lost is not None
        assert (lost.code, lost.started) == ("pool_closed", True)
        with pytest.raises(Overloaded):
            under_test.submit("plus_one")
