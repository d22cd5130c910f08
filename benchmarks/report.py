"""Figures: percentiles, what processes used, on which machine; as a table for people and JSON for programs."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def percentile(ascending: Sequence[float], share: float) -> float:
    """The smallest value that `share` (0 to 1) of all values do not exceed; NaN of nothing."""
    if not ascending:
        return float("nan")
    rank = math.ceil(
        round(share * len(ascending), 6)
    )  # from 1; rounded, because 0.07 * 100 is a little over 7
    return ascending[max(rank, 1) - 1]


def latency_figures(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and the longest, in milliseconds."""
    ascending = sorted(seconds)
    return {
        f"{name}_ms": round(percentile(ascending, share) * 1000, 3)
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory_kib = int(Path("/proc/meminfo").read_text().split(maxsplit=2)[1])
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_kib / 2**20, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": _commit(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """CPU seconds and resident memory of one process at one moment."""

    cpu_s: float
    rss_bytes: int


def process_use(pid: int) -> ProcessUse:
    """Raises FileNotFoundError when the process is gone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return ProcessUse(cpu_s, pages * os.sysconf("SC_PAGE_SIZE"))


def children_of(pid: int) -> list[int]:
    """Pids of the direct children."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return sorted(found)


class CpuMeter:
    """CPU of groups of processes between two moments, in percent of one core."""

    def __init__(self, groups: Mapping[str, Sequence[int]]) -> None:
        self._groups = {name: list(pids) for name, pids in groups.items()}
        self._before = self._now()

    def _now(self) -> dict[int, float]:
        return {pid: process_use(pid).cpu_s for pids in self._groups.values() for pid in pids}

    def figures(self, seconds: float) -> dict[str, Any]:
        """`cpu_percent` and `rss_mib` per group; memory is the sum over the group now."""
        after = self._now()
        cpu = {
            name: round(sum(after[pid] - self._before[pid] for pid in pids) / seconds * 100, 1)
            for name, pids in self._groups.items()
        }
        rss = {
            name: round(sum(process_use(pid).rss_bytes for pid in pids) / 2**20, 1)
            for name, pids in self._groups.items()
        }
        return {"cpu_percent": cpu, "rss_mib": rss}


def print_table(title: str, rows: Sequence[tuple[str, Any]]) -> None:
    """Two columns, as wide as they need to be."""
    width = max(len(name) for name, _ in rows)
    print(title)
    for name, value in rows:
        print(f"  {name:<{width}}  {_text(value)}")
    print(flush=True)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name} {_text(inner)}" for name, inner in value.items())
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def write_json(file: Path, report: Mapping[str, Any]) -> None:
    """One report, readable."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=2) + "\n")
