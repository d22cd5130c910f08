"""Run the stages of the test suite one after the other, and say at the end what failed and what was left out.

    python -m tests                 every stage that CI runs
    python -m tests unit static     only these
    python -m tests --soak          the long versions
    python -m tests --list          the stages

Exit status 0 when every stage passed. A skipped test is never silent: its reason is printed at the end.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Stage:
    """Commands that belong together. `budget_s` is what CI grants it on two cores; over it is reported, not failed."""

    name: str
    about: str
    budget_s: int
    commands: tuple[tuple[str, ...], ...]


@dataclass
class Totals:
    passed: int = 0
    failed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    failed_stages: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def pytest_command(*arguments: str, workers: int = 0) -> tuple[str, ...]:
    parallel = ("-n", str(workers), "--dist", "loadfile") if workers else ("-p", "no:xdist")
    return (sys.executable, "-m", "pytest", "-q", "--no-header", *parallel, *arguments)


COVERED = tuple(f"--cov={name}" for name in ("cli", "node", "raft", "gossip", "workflow", "thaiyyal"))

STAGES = (
    Stage(
        "static",
        "ruff, mypy --strict, import rules",
        60,
        (
            (str(BIN / "ruff"), "check", "."),
            (str(BIN / "ruff"), "format", "--check", "."),
            (str(BIN / "mypy"),),
            (str(BIN / "lint-imports"),),
        ),
    ),
    Stage(
        "unit",
        "unit, property, scenario and conformance tests, with coverage",
        240,
        (
            pytest_command(
                "tests/unit",
                "tests/property",
                "tests/scenario",
                "tests/conformance",
                *COVERED,
                "--cov-report=",
                workers=2,
            ),
            (str(BIN / "coverage"), "report", "--include=workflow/*", "--fail-under=90"),
            (str(BIN / "coverage"), "report", "--include=raft/*", "--fail-under=90"),
            (str(BIN / "coverage"), "report", "--fail-under=80", "--format=total"),
        ),
    ),
    Stage("sim-raft", "raft simulation and mutants", 360, (pytest_command("tests/sim/raft", workers=2),)),
    Stage(
        "sim-coordinator",
        "coordinator simulation",
        240,
        (pytest_command("tests/sim/coordinator", workers=2),),
    ),
    Stage("sim-gossip", "gossip simulation", 120, (pytest_command("tests/sim/gossip", workers=2),)),
    Stage("process", "real processes on loopback", 240, (pytest_command("tests/process"),)),
)


def run_stage(stage: Stage, totals: Totals, environment: dict[str, str]) -> None:
    print(f"\n=== {stage.name}: {stage.about}", flush=True)
    started = time.monotonic()
    ok = True
    for command in stage.commands:
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "junit.xml"
            is_pytest = "pytest" in command
            extra = (f"--junitxml={report}",) if is_pytest else ()
            status = subprocess.run([*command, *extra], cwd=ROOT, env=environment, check=False).returncode
            if is_pytest:
                count(report, totals)
        if status != 0:
            ok = False
            print(f"--- failed with exit status {status}: {' '.join(command)}", flush=True)
    took = time.monotonic() - started
    over = f" (over its budget of {stage.budget_s} s)" if took > stage.budget_s else ""
    totals.lines.append(f"{stage.name:16} {'ok' if ok else 'FAILED':7} {took:6.0f} s{over}")
    if not ok:
        totals.failed_stages.append(stage.name)


def count(report: Path, totals: Totals) -> None:
    """Add one junit file to the totals; a missing file means that pytest itself did not get to run."""
    if not report.exists():
        totals.failed += 1
        return
    for case in ET.parse(report).getroot().iter("testcase"):
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            totals.failed += 1
        elif skipped is not None:
            totals.skipped[skipped.get("message", "no reason given")] += 1
        else:
            totals.passed += 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests", description=__doc__.split("\n")[0])
    parser.add_argument("stages", nargs="*", help="only these stages")
    parser.add_argument("--soak", action="store_true", help="the long versions: more seeds, more cycles")
    parser.add_argument("--list", action="store_true", help="print the stages and end")
    arguments = parser.parse_args()
    names = [stage.name for stage in STAGES]
    if arguments.list:
        for stage in STAGES:
            print(f"{stage.name:16} {stage.about} (budget {stage.budget_s} s)")
        return 0
    unknown = sorted(set(arguments.stages) - set(names))
    if unknown:
        parser.error(f"no stage {', '.join(unknown)}; there are {', '.join(names)}")
    environment = dict(os.environ)
    if arguments.soak:
        environment["THAIYYAL_SOAK"] = "1"
    totals = Totals()
    for stage in STAGES:
        if not arguments.stages or stage.name in arguments.stages:
            run_stage(stage, totals, environment)
    print("\n=== summary")
    print("\n".join(totals.lines))
    if totals.skipped:
        print("left out:")
        for reason, times in totals.skipped.most_common():
            print(f"  {times} x {reason}")
    else:
        print("left out: nothing")
    print(f"{totals.passed} passed, {totals.failed} failed, {sum(totals.skipped.values())} skipped")
    return 1 if totals.failed_stages or totals.failed else 0


if __name__ == "__main__":
    sys.exit(main())
