"""The simulation as a command, e.g.:

python -m tests.sim.gossip --members 10 100 1000 --seconds 60
python -m tests.sim.gossip --members 10000 --seconds 60            # the soak: about half a minute
python -m tests.sim.gossip --members 100 --loss 0.1
python -m tests.sim.gossip --members 100 --slow 0.05 [--no-local-health]
python -m tests.sim.gossip --members 100 --cut 600
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from gossip.settings import Settings
from tests.sim.gossip.scenarios import (
    cut_and_heal,
    join_storm,
    slow_members,
    whole_run,
    without_local_health,
)

Row = dict[str, object]


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    gc.disable()  # nothing here makes cycles; collections of millions of live objects would be all it does
    rows = [row for members in options.members for row in _rows(members, options)]
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        _print(rows)
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.gossip", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--members", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--seconds", type=float, default=60.0, help="virtual; at least 40 for 10,000 members")
    parser.add_argument("--loss", type=float, default=0.0, help="share of datagrams lost, one way")
    parser.add_argument("--slow", type=float, default=0.0, help="share of slow members")
    parser.add_argument("--no-local-health", action="store_true")
    parser.add_argument("--cut", type=float, default=0.0, help="cut in halves for so long, instead")
    parser.add_argument("--join", action="store_true", help="join one after the other, instead")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


def _rows(members: int, options: argparse.Namespace) -> list[Row]:
    settings = without_local_health(Settings()) if options.no_local_health else Settings()
    if options.cut:
        healed = cut_and_heal(members, cut_s=options.cut, seed=options.seed, loss=options.loss)
        return [{"members": members, "cut_s": options.cut, **dataclasses.asdict(healed)}]
    if options.join:
        joined = join_storm(members, stagger_s=0.01, seed=options.seed)
        return [{"members": members, **dataclasses.asdict(joined)}]
    run = whole_run(
        members,
        seconds=options.seconds,
        seed=options.seed,
        loss=options.loss,
        slow_share=options.slow,
        settings=settings,
    )
    row: Row = dataclasses.asdict(run)
    if options.slow:
        slow = slow_members(
            members, run.slow, seconds=options.seconds, seeds=[options.seed], settings=settings
        )
        row |= {"accusations_by_slow": slow.by_slow, "accusations_by_healthy": slow.by_healthy}
    return [row]


def _print(rows: list[Row]) -> None:
    table = Table("figure", *(f"{row['members']:,} members" for row in rows))
    for key in rows[0]:
        if key != "members":
            table.add_row(key, *(_text(row[key]) for row in rows))
    Console().print(table)


def _text(value: object) -> str:
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
