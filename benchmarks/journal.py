"""The journal alone: append and sync by size, beside a bare write and fdatasync of as many bytes; restart of a big log.

    python -m benchmarks.journal [--seconds 2] [--log-mib 1024] [--entry-bytes 1024] [--dir DIR] [--json FILE]

DIR should lie on the disk that is meant (the default is the present folder, as /tmp may be memory).
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, Final

from benchmarks.report import latency_figures, machine, print_table, write_json
from raft.journal import FileJournal
from raft.journal_format import FRAME_OVERHEAD_BYTES
from raft.storage_api import Entry

SIZES: Final = (100, 1024, 4096, 16384, 65536, 1 << 20)
BATCH_BYTES: Final = 1 << 20


def raw_syncs(path: Path, size: int, seconds: float) -> dict[str, Any]:
    """Write `size` bytes into preallocated space and fdatasync, one after the other."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    room = 64 << 20
    block = os.urandom(size)
    took: list[float] = []
    try:
        os.posix_fallocate(descriptor, 0, room)
        os.fsync(descriptor)
        offset = 0
        end = perf_counter() + seconds
        while perf_counter() < end:
            if offset + size > room:
                offset = 0
            began = perf_counter()
            os.pwrite(descriptor, block, offset)
            os.fdatasync(descriptor)
            took.append(perf_counter() - began)
            offset += size
    finally:
        os.close(descriptor)
        path.unlink()
    return {"per_s": round(len(took) / sum(took)), **latency_figures(took)}


def journal_syncs(folder: Path, size: int, seconds: float) -> dict[str, Any]:
    """Append one entry of `size` bytes and sync, one after the other; compaction keeps the disk small."""
    journal = FileJournal.open(folder)
    block = os.urandom(size)
    took: list[float] = []
    index = 0
    end = perf_counter() + seconds
    while perf_counter() < end:
        index += 1
        began = perf_counter()
        journal.append([Entry(index, 1, 0, block)])
        journal.sync()
        took.append(perf_counter() - began)
        if journal.stats().segments > 4:
            journal.compact(index)
    journal.close()
    shutil.rmtree(folder)
    return {"per_s": round(len(took) / sum(took)), **latency_figures(took)}


def append_cost_us(folder: Path, size: int, batch: int) -> float:
    """Python time of buffering one entry, in microseconds."""
    journal = FileJournal.open(folder)
    block = os.urandom(size)
    count = 20_000 // batch * batch
    entries = [Entry(index, 1, 0, block) for index in range(1, count + 1)]
    spent = 0.0
    for first in range(0, count, batch):
        part = entries[first : first + batch]
        began = perf_counter()
        journal.append(part)
        spent += perf_counter() - began
        if first % 5000 == 0:
            journal.sync()
    journal.close()
    shutil.rmtree(folder)
    return round(spent / count * 1e6, 2)


def restart(folder: Path, log_bytes: int, entry_bytes: int) -> dict[str, Any]:
    """Write a log of that size in group commits, close it, and open it again."""
    journal = FileJournal.open(folder)
    block = os.urandom(entry_bytes)
    per_batch = max(1, BATCH_BYTES // entry_bytes)
    index = 0
    began = perf_counter()
    while index * (entry_bytes + FRAME_OVERHEAD_BYTES) < log_bytes:
        journal.append([Entry(index + number, 1, 0, block) for number in range(1, per_batch + 1)])
        journal.sync()
        index += per_batch
    written_s = perf_counter() - began
    journal.close()
    began, cpu_began = perf_counter(), process_time()
    journal = FileJournal.open(folder)
    opened_s, opened_cpu_s = perf_counter() - began, process_time() - cpu_began
    assert journal.last_index == index
    began = perf_counter()
    read = 0
    while read < index:
        read += len(journal.entries(read + 1, index, BATCH_BYTES))
    read_s = perf_counter() - began
    journal.close()
    shutil.rmtree(folder)
    mib = index * (entry_bytes + FRAME_OVERHEAD_BYTES) / 2**20
    return {
        "entries": index,
        "entry_bytes": entry_bytes,
        "mib": round(mib),
        "write_mib_per_s": round(mib / written_s),
        "restart_s": round(opened_s, 2),
        "restart_cpu_s": round(opened_cpu_s, 2),
        "read_mib_per_s": round(mib / read_s),
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="for each size and kind")
    parser.add_argument("--log-mib", type=int, default=1024, help="size of the log that is restarted")
    parser.add_argument("--entry-bytes", type=int, nargs="+", default=[100, 1024, 65536], help="its entries")
    parser.add_argument("--dir", type=Path, default=Path(), help="where the files are made")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    figures: dict[str, Any] = {"machine": machine(), "sync": {}, "append_us": {}, "restart": []}
    rows: list[tuple[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="journal-benchmark-") as name:
        folder = Path(name)
        for size in SIZES:
            raw = raw_syncs(folder / "raw", size, options.seconds)
            own = journal_syncs(folder / "journal", size, options.seconds)
            figures["sync"][size] = {"fdatasync": raw, "journal": own}
            rows.append(
                (
                    f"{size} B, append and sync",
                    f"{own['per_s']}/s, p50 {own['p50_ms']} p95 {own['p95_ms']} ms; bare fdatasync "
                    f"{raw['per_s']}/s, p50 {raw['p50_ms']} p95 {raw['p95_ms']} ms",
                )
            )
        for batch in (1, 100):
            cost = append_cost_us(folder / "journal", 100, batch)
            figures["append_us"][batch] = cost
            rows.append((f"append of 100 B, {batch} at a time", f"{cost} us each"))
        for entry_bytes in options.entry_bytes:
            found = restart(folder / "journal", options.log_mib << 20, entry_bytes)
            figures["restart"].append(found)
            rows.append(
                (
                    f"log of {found['mib']} MiB in entries of {entry_bytes} B",
                    f"restart {found['restart_s']} s ({found['restart_cpu_s']} s CPU); "
                    f"written {found['write_mib_per_s']}, "
                    f"read {found['read_mib_per_s']} MiB/s",
                )
            )
    print_table("journal", rows)
    if options.json is not None:
        write_json(options.json, figures)


if __name__ == "__main__":
    main()
