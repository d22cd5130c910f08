"""The installed command against a real node, on a pipe and on a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node_process import ROOT, NodeProcess, node, run_cli

ORDER = "examples/order.json"
COMMAND = str(Path(sys.executable).with_name("thaiyyal-node"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with node(tmp_path_factory.mktemp("cli") / "data", "--slots", "1") as process:
        yield process


def on_terminal(*arguments: str, node: NodeProcess, timeout_s: float = 30.0) -> tuple[int, str]:
    """(exit status, everything on the screen) of the command on a pseudo-terminal of 40 lines by 120 columns."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "THAIYYAL_NODE": node.address, "TERM": "xterm-256color"}
    environment |= {"COLUMNS": "120", "LINES": "40"}
    process = subprocess.Popen(
        [COMMAND, *arguments], cwd=ROOT, env=environment, stdin=follower, stdout=follower, stderr=follower
    )
    os.close(follower)
    screen = b""
    deadline = time.monotonic() + timeout_s
    with contextlib.suppress(OSError):  # EIO: the other side is closed
        while time.monotonic() < deadline:
            if select.select([leader], [], [], 0.1)[0]:
                part = os.read(leader, 65536)
                if not part:
                    break
                screen += part
    os.close(leader)
    return process.wait(10), screen.decode(errors="replace")


def test_run_on_a_terminal_shows_steps_as_they_go_and_the_result(running: NodeProcess) -> None:
    status, screen = on_terminal("run", ORDER, node=running)
    assert status == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen)
    assert "\x1b[" in screen
    assert re.search(r"◷ +reserve_stock +delay +waiting +\S+ s +for 0\.4 s", plain)
    assert re.search(r"✓ +receipt +join +completed", plain)
    assert re.search(r"– +full_price +expression +skipped", plain)
    assert "14/14" in plain
    assert "566.1" in plain


def test_run_on_a_pipe_prints_the_result_alone(running: NodeProcess) -> None:
    ran = run_cli("run", ORDER, node=running)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "\x1b[" not in ran.stdout
    assert "566.1" in ran.stdout


def test_watch_joins_an_execution_under_way_and_tells_its_whole_story(running: NodeProcess) -> None:
    started = run_cli("run", ORDER, "--no-wait", node=running).stdout.strip()
    ran = run_cli("watch", started, node=running)
    lines = ran.stdout.splitlines()
    assert ran.returncode == 0
    assert lines[0].endswith("execution_accepted")
    assert any("step_waiting  take_payment  for 0.6 s" in line for line in lines)
    status, screen = on_terminal("watch", started, node=running)
    assert (status, "14/14" in screen) == (0, True)


def test_watch_goes_on_when_the_node_is_killed_and_comes_back(tmp_path: Path) -> None:
    with node(tmp_path / "data", "--slots", "1") as process:
        workflow = tmp_path / "slow.json"
        workflow.write_text('{"nodes": [{"id": "a", "type": "delay", "data": {"duration": "3s"}}]}')
        started = run_cli("run", str(workflow), "--no-wait", node=process).stdout.strip()
        environment = {**os.environ, "THAIYYAL_NODE": process.address}
        with subprocess.Popen(
            [COMMAND, "watch", started, "--json"], cwd=ROOT, env=environment, stdout=subprocess.PIPE
        ) as watching:
            assert watching.stdout is not None
            seen = [json.loads(watching.stdout.readline())]
            process.kill()
            process.launch(api=process.address.removeprefix("http://"))
            process.wait_event("node.ready")
            seen += [json.loads(line) for line in watching.stdout]
            assert watching.wait(30) == 0
    assert [event["seq"] for event in seen] == list(range(1, len(seen) + 1))
    assert seen[-1]["type"] == "execution_completed"


def test_list_get_and_cancel(running: NodeProcess) -> None:
    started = run_cli("run", ORDER, "--no-wait", "--tag", "shop=eu", node=running).stdout.strip()
    cancelled = run_cli("cancel", started, "--reason", "changed their mind", node=running)
    assert cancelled.returncode == 0
    got = run_cli("get", started, "--wait", "10", "--json", node=running)
    assert json.loads(got.stdout)["status"] == "cancelled"
    listed = json.loads(run_cli("list", "--tag", "shop=eu", "--json", node=running).stdout)
    assert [item["id"] for item in listed["executions"]] == [started]
    assert run_cli("watch", started, node=running).returncode == 1
    assert "changed their mind" in run_cli("history", started, node=running).stdout


def test_ctrl_c_on_run_leaves_the_execution_running_and_says_how_to_follow(running: NodeProcess) -> None:
    workflow = '{"nodes": [{"id": "a", "type": "delay", "data": {"duration": "1h"}}]}'
    environment = {**os.environ, "THAIYYAL_NODE": running.address}
    with subprocess.Popen(
        [COMMAND, "run", "-", "--tag", "ctrl=c"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running_command:
        assert running_command.stdin is not None
        assert running_command.stderr is not None
        running_command.stdin.write(workflow.encode())
        running_command.stdin.close()
        items: list[dict[str, str]] = []
        while not items:
            items = json.loads(run_cli("list", "--tag", "ctrl=c", "--json", node=running).stdout)[
                "executions"
            ]
        running_command.send_signal(2)
        error = running_command.stderr.read().decode()
        assert running_command.wait(10) == 130
    assert error.strip() == f"the execution goes on; follow it with: thaiyyal-node watch {items[0]['id']}"
    run_cli("cancel", items[0]["id"], node=running)


def test_an_unreachable_node_is_one_line_and_status_3() -> None:
    began = time.monotonic()
    ran = run_cli("list", "--node", "127.0.0.1:1", timeout_s=60)
    assert ran.returncode == 3
    assert "Error: no node answers at http://127.0.0.1:1" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert time.monotonic() - began < 10


def test_a_reader_that_leaves_is_no_error(running: NodeProcess) -> None:
    line = f"{COMMAND} status --json --node {running.address} | true; echo ${{PIPESTATUS[0]}}"
    ran = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout.strip() == "0"
    assert ran.stderr == ""


def test_python_m_cli_main_is_the_same_command() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "cli.main", "--help"],
        env={**os.environ, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert ran.stdout == run_cli("--help").stdout


def test_shell_completion_knows_the_commands() -> None:
    environment = {**os.environ, "_THAIYYAL_NODE_COMPLETE": "bash_complete"}
    environment |= {"COMP_WORDS": "thaiyyal-node wa", "COMP_CWORD": "1"}
    ran = subprocess.run([COMMAND], env=environment, capture_output=True, text=True)
    assert "watch" in ran.stdout


# --- make run ---------------------------------------------------------------------------------------------


def quickstart(data_dir: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "examples.quickstart", "--once", "--data-dir", str(data_dir), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=90)


def test_the_quickstart_runs_the_example_and_ends(tmp_path: Path) -> None:
    for _ in range(2):  # the second time on the same data
        ran = quickstart(tmp_path / "run" / "data", "--port", "0")
        assert ran.returncode == 0, ran.stderr
        assert "completed. Its result:" in ran.stdout
        assert "566.1" in ran.stdout
        assert ran.stderr == ""


def test_the_quickstart_says_so_when_the_port_is_taken(running: NodeProcess, tmp_path: Path) -> None:
    port = running.address.rpartition(":")[2]
    ran = quickstart(tmp_path / "data", "--port", port)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"Port {port} is taken")


def test_the_quickstart_says_so_when_its_data_is_in_use(running: NodeProcess) -> None:
    ran = quickstart(running.data_dir, "--port", "0")
    assert ran.returncode == 1
    assert f"in use by the process with pid {running.pid}" in ran.stderr


def test_the_quickstart_stays_up_until_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "examples.quickstart", "--port", "0"]
    command += ["--data-dir", str(tmp_path / "data")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("Kill the node"):
                break
        text = "".join(lines)
        address = re.search(r"listens on (http://\S+) until Ctrl-C", text)
        assert address is not None
        process.send_signal(2)
        assert "The node has stopped." in process.stdout.read()
        assert process.wait(30) == 0
