"""The checker on histories recorded from real systems, as they are and with one value changed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from checker.history import parse_history
from checker.linearizability import Verdict, check
from checker.models import model_named

ROOT = Path(__file__).parents[3]
OWN = ROOT / "tests" / "data" / "histories"
SHARED = ROOT.parent / "shared" / "histories"


def judged(folder: Path, name: str, lines: list[str] | None = None) -> Verdict:
    entry = json.loads((folder / "index.json").read_text())[name]
    null_read = "any" if entry["null_read"] == "any" else "absent"
    model = model_named(entry["model"], initial=entry["initial"], null_read=null_read)
    if lines is None:
        lines = (folder / name).read_text().splitlines()
    return check(parse_history(lines), model, time_limit_s=240).verdict


def verdicts(folder: Path) -> dict[str, bool]:
    found: dict[str, bool] = json.loads((folder / "verdicts.json").read_text())
    return found


@pytest.mark.parametrize(("name", "linearizable"), verdicts(OWN).items())
def test_our_copies_get_their_known_verdict(name: str, linearizable: bool) -> None:
    assert judged(OWN, name) is (Verdict.LINEARIZABLE if linearizable else Verdict.NOT_LINEARIZABLE)


def test_all_154_recorded_histories_get_their_known_verdict_in_time() -> None:
    if not SHARED.is_dir():
        pytest.skip(
            f"LEFT OUT: the 154 recorded histories are not here ({SHARED}); the copies in tests/data were read"
        )
    known = verdicts(SHARED)
    assert len(known) == 154
    began = time.process_time()
    wrong = [
        name
        for name, linearizable in known.items()
        if judged(SHARED, name) is not (Verdict.LINEARIZABLE if linearizable else Verdict.NOT_LINEARIZABLE)
    ]
    assert wrong == []
    assert time.process_time() - began < 30


def _spoiled(lines: list[str], rng: random.Random) -> list[str] | None:
    """The history with one read changed to a value that nobody ever wrote."""
    parsed: list[dict[str, Any]] = [json.loads(line) for line in lines]
    reads = [
        number
        for number, event in enumerate(parsed)
        if event["type"] == "ok" and event["f"] in ("read", "get", "txn") and event["value"] is not None
    ]
    if not reads:
        return None
    event = parsed[rng.choice(reads)]
    if event["f"] == "txn":
        seen = [part for part in event["value"] if part[0] == "read" and part[2] is not None]
        if not seen:
            return None
        rng.choice(seen)[2] = 987654
    else:
        event["value"] = "never written" if event["f"] == "get" else 987654
    return [json.dumps(event) for event in parsed]


@pytest.mark.parametrize("name", [name for name, good in verdicts(OWN).items() if good])
def test_a_good_history_with_a_read_of_a_value_never_written_turns_red(name: str) -> None:
    lines = (OWN / name).read_text().splitlines()
    rng = random.Random(3)
    spoiled = [changed for _ in range(5) if (changed := _spoiled(lines, rng)) is not None]
    assert spoiled
    for changed in spoiled:
        assert judged(OWN, name, changed) is Verdict.NOT_LINEARIZABLE


def test_a_stale_read_turns_red() -> None:
    """One client alone: each get must see exactly what was there, not what was there one append before."""
    name = "kv_c01-ok.jsonl"
    parsed = [json.loads(line) for line in (OWN / name).read_text().splitlines()]
    last_seen: dict[str, str] = {}
    changed = 0
    for event in parsed:
        if event["type"] != "ok" or event["f"] != "get":
            continue
        key, value = event["key"], event["value"]
        if last_seen.get(key, value) != value:
            stale = [{**held, "value": last_seen[key]} if held is event else held for held in parsed]
            assert judged(OWN, name, [json.dumps(held) for held in stale]) is Verdict.NOT_LINEARIZABLE
            changed += 1
        last_seen[key] = value
    assert changed > 0


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jepsen-style" / "check.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_prints_a_verdict_for_each_file_and_ends_with_its_status(tmp_path: Path) -> None:
    good, bad = str(OWN / "etcd_002.jsonl"), str(OWN / "etcd_000.jsonl")
    done = _command(good)
    assert (done.returncode, done.stderr) == (0, "")
    assert "etcd_002.jsonl: linearizable" in done.stdout
    done = _command(good, bad)
    assert done.returncode == 1
    assert "etcd_000.jsonl: NOT LINEARIZABLE: no order gets past read" in done.stdout
    done = _command("--pairs-max", "100", good)
    assert done.returncode == 2
    assert "UNKNOWN" in done.stdout
    nowhere = tmp_path / "run.jsonl"
    nowhere.write_text(Path(good).read_text())
    done = _command(str(nowhere), good)
    assert done.returncode == 3
    assert "give --model" in done.stderr
    assert "etcd_002.jsonl: linearizable" in done.stdout
    done = _command("--model", "cas-register", str(nowhere))
    assert done.returncode == 0
    nowhere.write_text("{}")
    done = _command("--model", "cas-register", str(nowhere))
    assert done.returncode == 3
    assert "line 1 is not an event" in done.stderr
    assert "Traceback" not in done.stderr
