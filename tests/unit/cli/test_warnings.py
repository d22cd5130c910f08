"""`validate` shows warnings beside problems, and they make no workflow invalid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.main import main

LATE = """{"nodes": [
  {"id": "a", "type": "expression", "data": {"expression": "node.b"}},
  {"id": "b", "type": "number", "data": {"value": 1}}],
 "edges": [{"source": "a", "target": "b"}]}"""


@pytest.fixture
def late(tmp_path: Path) -> str:
    file = tmp_path / "late.json"
    file.write_text(LATE)
    return str(file)


def test_a_warning_has_its_line_and_the_exit_status_is_0(
    late: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["validate", late])
    assert ended.value.code == 0
    shown = capsys.readouterr().out.replace("\n", "")
    assert "valid, 2 steps" in shown
    assert "late.json:2:" in shown
    assert "warning: nodes[0].data: reads node.b" in shown


def test_warnings_are_in_the_json_too(late: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["validate", "--json", late])
    report = json.loads(capsys.readouterr().out)
    assert report["valid"] is True
    assert report["warnings"][0]["line"] == 2
