"""A real node: started, stopped, killed, restarted, refused, and out of disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node_process import NodeProcess, node
from thaiyyal.client import ApiError, RetrySettings, SyncClient, Unreachable

ORDER = (Path(__file__).parents[2] / "examples" / "order.json").read_text()
NUMBER = {"nodes": [{"id": "a", "type": "number", "data": {"value": 5}}]}


def delayed(duration: str) -> dict[str, object]:
    return {
        "nodes": [
            {"id": "a", "type": "number", "data": {"value": 20}},
            {"id": "wait", "type": "delay", "data": {"duration": duration}},
            {"id": "sum", "type": "expression", "data": {"expression": "node.a + 1"}},
        ],
        "edges": [{"source": "a", "target": "wait"}, {"source": "wait", "target": "sum"}],
    }


def test_a_node_runs_the_example_and_stops_in_good_order(tmp_path: Path) -> None:
    with node(tmp_path / "data", "--slots", "1") as process:
        with process.client() as client:
            assert client.run(ORDER).final_output["values"][0] == 566.1
        assert process.stop() == 0
        names = [event["event"] for event in process.events()]
        assert names[-2:] == ["node.stopping", "node.stopped"]
        assert "Traceback" not in process.log_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_node_with_status_0(tmp_path: Path, number: int) -> None:
    with node(tmp_path / "data", "--slots", "1") as process:
        assert process.stop(number) == 0


def test_a_node_that_is_asked_to_stop_ends_event_streams_at_once(tmp_path: Path) -> None:
    with node(tmp_path / "data", "--slots", "1") as process, process.client(attempts_max=1) as client:
        execution = client.start(delayed("1h"))
        events = client.events(execution.id)
        assert next(events).type == "execution_accepted"
        began = time.monotonic()
        assert process.stop() == 0
        assert time.monotonic() - began < 4
        with pytest.raises(Unreachable):
            list(events)


def test_what_was_acknowledged_survives_kill_9_and_goes_on(tmp_path: Path) -> None:
    with node(tmp_path / "data", "--slots", "1") as process:
        with process.client() as client:
            done = client.run(NUMBER)
            waiting = [client.start(delayed("1500ms"), tags={"n": str(number)}) for number in range(20)]
            client.register_workflow(NUMBER, workflow_id="kept")
        process.kill()
        process.start()
        with process.client() as client:
            assert client.get(done.id).final_output == 5
            assert client.get_workflow("kept").payload == NUMBER
            for number, started in enumerate(waiting):
                ended = client.wait(started.id, timeout_s=30)
                assert (ended.status, ended.final_output, ended.tags) == ("completed", 21, {"n": str(number)})
                types = [event.type for event in client.history(started.id)]
                assert types.count("execution_completed") == 1
            assert len(client.list(limit=100).executions) == 21


def test_a_start_repeated_under_its_key_after_kill_9_is_the_same_execution(tmp_path: Path) -> None:
    with node(tmp_path / "data", "--slots", "1") as process:
        with process.client() as client:
            first = client.start(delayed("100ms"), idempotency_key="order-1")
        process.kill()
        process.start()
        with process.client() as client:
            again = client.start(delayed("100ms"), idempotency_key="order-1")
            assert (again.id, again.deduplicated) == (first.id, True)
            assert len(client.list().executions) == 1
            with pytest.raises(ApiError) as caught:
                client.start(NUMBER, idempotency_key="order-1")
            assert (caught.value.status, caught.value.code) == (409, "conflict")


def test_a_second_node_on_the_same_data_is_refused_and_names_the_first(tmp_path: Path) -> None:
    with node(tmp_path / "data", "--slots", "1") as first:
        second = NodeProcess(tmp_path / "data", "--slots", "1")
        second.log_path = tmp_path / "second.log"
        second.launch()
        assert second.wait() == 5
        [line] = second.log_text().splitlines()
        assert f"in use by the process with pid {first.pid}" in line
        with first.client() as client:
            assert client.run(NUMBER).final_output == 5
    third = NodeProcess(tmp_path / "data", "--slots", "1")
    third.start()
    third.kill()


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with node(tmp_path / "one", "--slots", "1") as first:
        second = NodeProcess(tmp_path / "two", "--slots", "1")
        second.launch(api=first.address.removeprefix("http://"))
        assert second.wait() == 5
        [line] = second.log_text().splitlines()
        assert "is in use by another process; choose another one with --api" in line


def test_a_data_directory_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    process = NodeProcess(tmp_path / "file" / "data", "--slots", "1")
    process.log_path = tmp_path / "log"
    process.launch()
    assert process.wait() == 5
    [line] = process.log_text().splitlines()
    assert line.startswith("Error: the data directory cannot be used")


def test_a_damaged_log_is_one_line_and_not_a_guess(tmp_path: Path) -> None:
    with node(tmp_path / "data", "--slots", "1") as process:
        with process.client() as client:
            for _ in range(20):
                client.run(NUMBER)
        process.kill()
        segment = max((tmp_path / "data" / "raft" / "journal").glob("*.seg"))
        content = bytearray(segment.read_bytes())
        used = len(content.rstrip(b"\0"))
        content[used // 2] ^= 0xFF
        segment.write_bytes(content)
        process.launch()
        assert process.wait() == 5
        last = process.log_text().splitlines()[-1]
        assert last.startswith("Error: ")
        assert "Traceback" not in process.log_text()


def test_a_module_with_a_fault_is_one_line(tmp_path: Path) -> None:
    process = NodeProcess(tmp_path / "data", "--slots", "1", "--load", "no.such.module")
    process.launch()
    assert process.wait() == 5
    assert "there is no module no.such.module" in process.log_text()


def test_the_step_type_of_the_example_runs_on_a_node(tmp_path: Path) -> None:
    workflow = (Path(__file__).parents[2] / "examples" / "resize_image.json").read_text()
    options = ("--slots", "1", "--load", "examples.resize_image")
    with node(tmp_path / "data", *options) as process, process.client() as client:
        assert client.run(workflow).final_output == {"path": "cat-320.jpg", "width": 320, "height": 240}
        assert client.validate(workflow)["valid"] is True


def test_a_node_is_alive_before_it_is_ready_and_says_so(tmp_path: Path) -> None:
    with node(tmp_path / "data", "--slots", "1") as process, process.client() as client:
        status = client.status()
    assert status["ready"] is True
    assert status["raft"]["role"] == "leader"
    assert status["runners"]["runners_ready"] == 1


def test_cancel_of_a_waiting_execution_is_durable(tmp_path: Path) -> None:
    with node(tmp_path / "data", "--slots", "1") as process:
        with process.client() as client:
            execution = client.start(delayed("1h"))
            client.cancel(execution.id, reason="enough")
        process.kill()
        process.start()
        with process.client() as client:
            assert client.wait(execution.id, timeout_s=10).status == "cancelled"


# --- a full disk ------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 192 MiB: room for two segments of the log."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("needs root, for a small tmpfs")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=192m", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def run_when_there_is_room(client: SyncClient) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            return client.run(NUMBER).id
        except ApiError as error:
            if error.status != 507:
                raise
        time.sleep(0.05)
    raise AssertionError("the node has not recovered")


def test_a_full_disk_refuses_starts_with_507_loses_nothing_and_recovers(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    quick = RetrySettings(attempts_max=1)
    process = NodeProcess(small_disk / "data", "--slots", "1")
    process.log_path = small_disk.parent / "node.log"
    process.start()
    try:
        with SyncClient(process.address, retry=quick) as client:
            acknowledged = [client.run(NUMBER).id]
            with ballast.open("wb") as file:
                try:
                    while True:
                        file.write(b"x" * 65536)
                        file.flush()
                except OSError:
                    pass
            refused = None
            for _ in range(5000):
                try:
                    started = client.start({**NUMBER, "padding": "x" * 20_000})
                except ApiError as error:
                    refused = error
                    break
                acknowledged.append(started.id)
            assert refused is not None
            assert (refused.status, refused.code) == (507, "storage_full"), refused
            assert refused.what_to_do
            assert client.get(acknowledged[0]).status == "completed"

            ballast.unlink()
            acknowledged.append(run_when_there_is_room(client))
        process.kill()
        process.start()
        with SyncClient(process.address, retry=quick) as client:
            for execution_id in acknowledged:
                assert client.wait(execution_id, timeout_s=20).status == "completed"
    finally:
        if process.process is not None and process.process.poll() is None:
            process.kill()


def test_json_logs_are_one_object_per_line_with_an_event(tmp_path: Path) -> None:
    with node(tmp_path / "data", "--slots", "1") as process:
        process.stop()
        for line in process.log_text().splitlines():
            record = json.loads(line)
            assert {"time", "level", "event", "msg"} <= record.keys()
