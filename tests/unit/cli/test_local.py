"""Commands that need no node: `validate` and `run --local`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Command

EXAMPLES = Path(__file__).parents[3] / "examples"

BROKEN = """{
  "nodes": [
    {"id": "a", "type": "number", "data": {"value": 1}},
    {"id": "b", "type": "nummber", "data": {}}
  ],
  "edges": [
    {"source": "a", "target": "b"},
    {"source": "a", "target": "nowhere"}
  ]
}
"""


async def test_every_problem_has_its_line_and_column(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text(BROKEN)
    status, out, err = await command("validate", str(path))
    assert status == 1
    assert f"{path}:4:25: nodes[1].type: there is no step type 'nummber'; did you mean 'number'?" in out
    assert f"{path}:8:" in out
    assert "nowhere" in out
    assert "2 problems in 1 of 1 files" in err


async def test_validate_for_programs(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    path.write_text(BROKEN)
    status, out, _ = await command("validate", str(path), "--json")
    report = json.loads(out)
    assert (status, report["valid"]) == (1, False)
    assert {problem["line"] for problem in report["problems"]} == {4, 8}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            '{"nodes": [{"id": "a", "type": "number", "data": {"value": "x"}}]}',
            "failed to unmarshal data for node a",
        ),
        ('{"nodes": [{"id": 3}]}', "nodes[0].id: failed to unmarshal node"),
        (
            '{"nodes": [{"id": "a", "type": "number", "data": {"value": 1}}],'
            ' "edges": [{"source": "a", "target": "a"}]}',
            "cycle",
        ),
    ],
)
async def test_what_a_start_would_refuse_is_not_valid(
    command: Command, tmp_path: Path, content: str, words: str
) -> None:
    path = tmp_path / "w.json"
    path.write_text(content)
    status, out, _ = await command("validate", str(path))
    assert status == 1
    assert words in out


async def test_the_examples_are_valid(command: Command) -> None:
    files = sorted(str(path) for path in EXAMPLES.glob("*.json"))
    status, out, _ = await command("validate", *files, "--load", "examples.resize_image")
    assert status == 0, out
    assert out.count(": valid, ") == len(files) > 1


async def test_a_local_run_prints_the_result_of_the_example(command: Command) -> None:
    status, out, _ = await command("run", "--local", str(EXAMPLES / "order.json"), "--json")
    execution = json.loads(out)
    assert (status, execution["status"]) == (0, "completed")
    assert execution["final_output"]["values"][0] == 566.1


async def test_a_local_run_takes_inputs(command: Command) -> None:
    arguments = ("-i", "discount_from=1000", "--json")
    _, out, _ = await command("run", "--local", str(EXAMPLES / "order.json"), *arguments)
    assert json.loads(out)["node_results"]["full_price"] == 629


async def test_a_local_run_that_fails_is_exit_status_1(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    path.write_text('{"nodes": [{"id": "a", "type": "zz", "data": {}}]}')
    status, out, _ = await command("run", "--local", str(path))
    assert status == 1
    assert "error executing node a: no executor registered for type: zz" in out


async def test_a_local_run_of_what_does_not_load_is_one_line(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "w.json"
    path.write_text('{"nodes": [{"id": "a", "type": "number", "data": {"value": "x"}}]}')
    status, _, err = await command("run", "--local", str(path))
    assert status == 1
    assert err.startswith("Error: failed to parse payload: failed to unmarshal data for node a")


async def test_a_step_type_of_ones_own_runs_locally(command: Command) -> None:
    arguments = ("--load", "examples.resize_image", "--json")
    status, out, err = await command("run", "--local", str(EXAMPLES / "resize_image.json"), *arguments)
    assert status == 0, err
    assert json.loads(out)["final_output"] == {"path": "cat-320.jpg", "width": 320, "height": 240}


async def test_a_module_that_cannot_be_loaded_is_one_line(command: Command) -> None:
    status, _, err = await command("run", "--local", str(EXAMPLES / "order.json"), "--load", "no.such.module")
    assert status == 2
    assert "there is no module no.such.module" in err
