#!/usr/bin/env python3
"""Say of each history file whether it is linearizable.

    python jepsen-style/check.py FILES...
    python jepsen-style/check.py --model cas-register --initial 0 run.jsonl

A file's model is taken from an `index.json` beside it, unless --model is given. One line for each file. Exit status:
0 all are linearizable, 1 at least one is not, 2 none is known not to be but at least one was given up, 3 a file or an
argument was wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from checker.history import HistoryInvalid, parse_history
from checker.linearizability import PAIRS_MAX, Outcome, Verdict, check
from checker.models import MODELS, Model, model_named


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    statuses = [0]
    for path in options.files:
        began = time.perf_counter()
        try:
            model = _model_for(path, options)
            with path.open(encoding="utf-8") as lines:
                operations = parse_history(lines)
            outcome = check(operations, model, time_limit_s=options.time_limit_s, pairs_max=options.pairs_max)
        except (OSError, ValueError) as error:
            print(f"{path}: ERROR: {error}", file=sys.stderr)
            statuses.append(3)
            continue
        print(f"{path}: {_words(outcome)} ({outcome.pairs} states, {time.perf_counter() - began:.2f} s)")
        statuses.append(_STATUS[outcome.verdict])
    for status in (3, 1, 2):
        if status in statuses:
            return status
    return 0


_STATUS = {Verdict.LINEARIZABLE: 0, Verdict.NOT_LINEARIZABLE: 1, Verdict.UNKNOWN: 2}


def _words(outcome: Outcome) -> str:
    key = "" if outcome.key is None else f", key {outcome.key!r}"
    match outcome.verdict:
        case Verdict.LINEARIZABLE:
            return "linearizable"
        case Verdict.UNKNOWN:
            return f"UNKNOWN{key}: {outcome.reason}"
        case Verdict.NOT_LINEARIZABLE:
            blocked = outcome.blocked
            if blocked is None:
                return f"NOT LINEARIZABLE{key}"
            place = f"called in line {blocked.call + 1}"
            place += "" if blocked.end is None else f", ended in line {blocked.end + 1}"
            seen = "a mismatch" if blocked.mismatch else repr(blocked.result)
            return (
                f"NOT LINEARIZABLE{key}: no order gets past {blocked.f} {blocked.argument!r} -> {seen} "
                f"of process {blocked.process} ({place})"
            )


def _model_for(path: Path, options: argparse.Namespace) -> Model:
    if options.model is not None:
        return model_named(options.model, initial=options.initial, null_read=options.null_read)
    index = path.parent / "index.json"
    if not index.exists():
        raise HistoryInvalid("there is no index.json beside it that tells its model; give --model")
    entry = json.loads(index.read_text(encoding="utf-8")).get(path.name)
    if entry is None:
        raise HistoryInvalid(f"{index} does not list it; give --model")
    null_read = entry.get("null_read", "absent")
    return model_named(
        entry["model"],
        initial=entry.get("initial"),
        null_read=null_read if null_read in ("absent", "any") else "absent",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="check.py",
        description="Say of each history file whether it is linearizable.",
        epilog="Exit status: 0 all are, 1 at least one is not, 2 at least one is unknown, 3 wrong input.",
    )
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path)
    parser.add_argument("--model", choices=MODELS, help="instead of what index.json says")
    parser.add_argument("--initial", type=json.loads, default=None, help="a register's first value, as JSON")
    parser.add_argument(
        "--null-read", choices=("absent", "any"), default="absent", help="what reading null means"
    )
    parser.add_argument("--time-limit-s", type=float, default=60.0, help="for each file; then it is UNKNOWN")
    parser.add_argument(
        "--pairs-max", type=int, default=PAIRS_MAX, help="a bound on memory; then it is UNKNOWN"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
