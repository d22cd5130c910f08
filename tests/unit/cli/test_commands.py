"""Each command against an API over the memory engine: output for people, output for programs, exit statuses."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from node.errors import Overloaded, RequestInvalid, StorageFull
from node.errors import Problem as NodeProblem
from tests.api_server import Served
from tests.unit.cli.conftest import Command

NUMBER = {"workflow_id": "w", "nodes": [{"id": "a", "type": "number", "data": {"value": 5}}], "edges": []}
HOLD = {"nodes": [{"id": "a", "type": "hold", "data": {}}], "edges": []}


@pytest.fixture
def number(tmp_path: Path) -> str:
    path = tmp_path / "number.json"
    path.write_text(json.dumps(NUMBER))
    return str(path)


@pytest.fixture
def hold(tmp_path: Path) -> str:
    path = tmp_path / "hold.json"
    path.write_text(json.dumps(HOLD))
    return str(path)


async def test_run_prints_the_result(served: Served, command: Command, number: str) -> None:
    status, out, _ = await command("run", number, "--node", served.address)
    assert status == 0
    assert "completed" in out
    assert out.rstrip().endswith("result    5")


async def test_run_for_programs_prints_the_execution_object(
    served: Served, command: Command, number: str
) -> None:
    status, out, err = await command("run", number, "--json", "--node", served.address)
    assert (status, err) == (0, "")
    assert json.loads(out)["final_output"] == 5


async def test_inputs_are_json_where_they_are_json(served: Served, command: Command, number: str) -> None:
    arguments = ["-i", "n=3", "-i", "list=[1, true]", "-i", "name=Anna", "-i", "text=a=b", "-i", "nan=NaN"]
    status, _, _ = await command(
        "run", number, *arguments, "--tag", "team=blue", "--priority", "7", "--node", served.address
    )
    assert status == 0
    from workflow.codec import decode

    [request] = served.engine.requests
    assert decode(request.inputs or b"") == {
        "n": 3.0,
        "list": [1.0, True],
        "name": "Anna",
        "text": "a=b",
        "nan": "NaN",
    }
    assert (request.tags, request.priority) == ({"team": "blue"}, 7)
    assert request.idempotency_key


async def test_no_wait_prints_the_id_alone(served: Served, command: Command, hold: str) -> None:
    status, out, _ = await command("run", hold, "--no-wait", "--node", served.address)
    assert (status, out.strip()) == (0, next(iter(served.engine.executions)))


async def test_a_failed_execution_is_exit_status_1(served: Served, command: Command, tmp_path: Path) -> None:
    path = tmp_path / "explode.json"
    path.write_text('{"nodes": [{"id": "x", "type": "explode"}]}')
    status, out, _ = await command("run", str(path), "--node", served.address)
    assert status == 1
    assert "error executing node x: boom (step_failed)" in out


async def test_a_registered_workflow_is_registered_listed_shown_and_run(
    served: Served, command: Command, number: str
) -> None:
    status, out, _ = await command(
        "workflows", "register", number, "--id", "orders", "--node", served.address
    )
    assert (status, out.strip()) == (0, "orders version 1")
    _, out, _ = await command("workflows", "list", "--node", served.address)
    assert out.startswith("orders\t1\t")
    _, out, _ = await command("workflows", "show", "orders", "--node", served.address)
    assert json.loads(out) == NUMBER
    status, out, _ = await command("run", "--id", "orders", "--node", served.address)
    assert (status, "result    5" in out) == (0, True)


async def test_list_prints_lines_for_awk_and_json_for_programs(
    served: Served, command: Command, number: str
) -> None:
    await command("run", number, "--node", served.address)
    _, out, _ = await command("list", "--node", served.address)
    [line] = out.splitlines()
    assert line.split("\t")[:3] == [next(iter(served.engine.executions)), "completed", "0/0"]
    _, out, _ = await command("list", "--json", "--node", served.address)
    assert json.loads(out)["executions"][0]["workflow_id"] == "w"


async def test_an_empty_list_says_what_to_do_next(served: Served, command: Command) -> None:
    status, out, err = await command("list", "--node", served.address)
    assert (status, out) == (0, "")
    assert "thaiyyal-node run" in err


async def test_get_shows_steps_and_results(served: Served, command: Command, number: str) -> None:
    await command("run", number, "--node", served.address)
    execution_id = next(iter(served.engine.executions))
    status, out, _ = await command("get", execution_id, "--node", served.address)
    assert status == 0
    assert "number" in out
    assert "result    5" in out
    _, out, _ = await command("get", execution_id, "--json", "--node", served.address)
    assert json.loads(out)["steps"][0]["id"] == "a"


async def test_watch_prints_events_until_the_end(served: Served, command: Command, hold: str) -> None:
    await command("run", hold, "--no-wait", "--node", served.address)
    execution_id = next(iter(served.engine.executions))
    watching = asyncio.create_task(command("watch", execution_id, "--node", served.address))
    while not served.api.counters.streams:
        await asyncio.sleep(0.005)
    await served.engine.finish(execution_id)
    status, out, _ = await watching
    assert status == 0
    assert "execution_accepted" in out
    assert "execution_completed" in out


async def test_watch_for_programs_prints_one_event_per_line(
    served: Served, command: Command, number: str
) -> None:
    await command("run", number, "--node", served.address)
    execution_id = next(iter(served.engine.executions))
    _, out, _ = await command("watch", execution_id, "--json", "--node", served.address)
    assert [json.loads(line)["type"] for line in out.splitlines()] == [
        "execution_accepted",
        "execution_completed",
    ]


async def test_cancel_and_history(served: Served, command: Command, hold: str) -> None:
    await command("run", hold, "--no-wait", "--node", served.address)
    execution_id = next(iter(served.engine.executions))
    status, out, _ = await command("cancel", execution_id, "--reason", "enough", "--node", served.address)
    assert (status, out.split()) == (0, [execution_id, "cancelled"])
    _, out, _ = await command("history", execution_id, "--node", served.address)
    assert [line.split("  ")[1] for line in out.splitlines()] == ["execution_accepted", "execution_cancelled"]


async def test_status_and_version(served: Served, command: Command) -> None:
    _, out, _ = await command("status", "--node", served.address)
    assert "version\t0.0.0-test" in out
    assert "raft.term\t3" in out
    status, out, _ = await command("version")
    assert (status, out.startswith("thaiyyal-node ")) == (0, True)


# --- what goes wrong --------------------------------------------------------------------------------------


async def test_an_unreachable_node_is_one_line_and_what_to_do(command: Command, number: str) -> None:
    from thaiyyal import client

    quick = client.RetrySettings(attempts_max=1)
    original, client.RetrySettings = client.RetrySettings, lambda: quick  # type: ignore[misc,assignment]
    try:
        status, out, err = await command("run", number, "--node", "127.0.0.1:1")
    finally:
        client.RetrySettings = original  # type: ignore[misc]
    assert (status, out) == (3, "")
    first, second = err.splitlines()
    assert first.startswith("Error: no node answers at http://127.0.0.1:1")
    assert "thaiyyal-node start" in second


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "either a workflow file or --id"),
        (["run", "x.json", "--id", "w"], "either a workflow file or --id"),
        (["run", "missing.json"], "missing.json: No such file"),
        (["run", "missing.json", "--input", "x"], "'x' is not NAME=VALUE"),
        (["run", "missing.json", "-i", "a=1", "-i", "a=2"], "given twice"),
        (["run", "missing.json", "--node", "http://h/path"], "is no address of a node"),
        (["run", "missing.json", "--priority", "11"], "0<=x<=9"),
        (["list", "--status", "done"], "'done' is not one of"),
        (["list", "--tag", "x"], "NAME=VALUE"),
        (["start", "--api", "nope"], "is not HOST:PORT"),
        (["start", "--slots", "0"], "`auto`"),
        (["get"], "Missing argument"),
        (["gte", "x"], "Did you mean 'get'?"),
        (["list", "--lmit", "3"], "--limit"),
    ],
)
async def test_bad_arguments_are_exit_status_2_and_a_clear_line(
    command: Command, arguments: list[str], words: str
) -> None:
    status, _, err = await command(*arguments)
    assert status == 2
    assert words in " ".join(err.split())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{\n  "nodes": [,]\n}', ":2:13: not JSON"),
        (b"[]", ":1:1: a workflow is a JSON object"),
        (b"\xff", "not UTF-8"),
        (b"", "not JSON"),
    ],
)
async def test_a_file_that_is_no_workflow_is_one_line_with_its_place(
    command: Command, tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "w.json"
    path.write_bytes(content)
    status, _, err = await command("run", str(path))
    assert status == 1
    assert words in err
    assert len(err.splitlines()) == 1


async def test_what_the_node_refuses_is_exit_status_4_with_every_problem(
    served: Served, command: Command, number: str
) -> None:
    served.engine.fail_with = RequestInvalid(
        "the graph is wrong",
        code="workflow_invalid",
        problems=[NodeProblem("edges[0].target", "there is no node x")],
    )
    status, _, err = await command("run", number, "--node", served.address)
    assert status == 4
    assert "Error: the graph is wrong (workflow_invalid)" in err
    assert "edges[0].target: there is no node x" in err
    served.engine.fail_with = StorageFull("no space left in /data")
    status, _, err = await command("run", number, "--node", served.address)
    assert (status, "no space left in /data (storage_full)" in err) == (4, True)


async def test_an_unknown_execution_is_exit_status_4(served: Served, command: Command) -> None:
    for name in ("get", "watch", "history", "cancel"):
        status, _, err = await command(name, "nope", "--node", served.address)
        assert (status, "not_found" in err) == (4, True)


async def test_overload_is_waited_out(served: Served, command: Command, number: str) -> None:
    served.engine.fail_with = Overloaded("full", limit="x", retry_after_s=0.01)
    running = asyncio.create_task(command("run", number, "--node", served.address))
    while not served.api.counters.by_route.get(("/v1/executions", 429)):
        await asyncio.sleep(0.005)
    served.engine.fail_with = None
    assert (await running).status == 0
    assert len(served.engine.executions) == 1


async def test_help_names_every_command_and_the_exit_statuses(command: Command) -> None:
    from cli.main import SECTIONS

    status, out, _ = await command("--help")
    assert status == 0
    for title, rows in SECTIONS:
        assert f"{title}:" in out
        for name, _, _ in rows:
            assert f"\n  {name} " in out
            assert (await command(name, "--help")).status == 0
    assert "130" in out
    assert "Shell completion" in out
