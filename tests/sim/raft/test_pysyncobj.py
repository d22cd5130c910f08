"""The known-bad reference: stock PySyncObj 0.3.17 is convicted under faults and acquitted without.

In a process of its own: its module globals are replaced, and its files are closed when it pleases.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def verdict(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.sim.raft.pysyncobj_reference", *arguments],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("nothing is synced before it is acknowledged", ["--crash", "power"]),
        ("snapshots, without any crash", ["--crash", "none", "--snapshots"]),
        ("late bytes of an old connection", ["--net", "late", "--crash", "none", "--snapshots"]),
        ("kill -9 with the page cache kept", ["--crash", "kill", "--snapshots"]),
        ("five voters", ["--crash", "power", "--voters", "5"]),
    ],
)
def test_it_is_convicted_under_faults(name: str, arguments: list[str]) -> None:
    result = verdict("--seeds", "30", *arguments)
    assert result["unsafe"], f"30 seeds acquit what is known to be unsafe: {name}"


@pytest.mark.parametrize("arguments", [[], ["--snapshots"], ["--voters", "5"]])
def test_it_is_acquitted_without_faults(arguments: list[str]) -> None:
    result = verdict("--seeds", "15", "--faults", "none", *arguments)
    assert result["unsafe"] == {}
    assert result["stuck"] == 0
    assert result["acknowledged"] > 1000
