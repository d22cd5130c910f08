"""The command: replay the recordings and print a table per family.

    python -m tests.conformance.run [--family NAME]… [--way steps|segments] [--nodes | --api URL [--token TOKEN]]

Exit status 0 when every case holds, 1 otherwise. With --nodes every case goes through a real node: the command starts
one for each set of settings that cases need. With --api they go through the node at URL, which must have been started
with --allow-http --allow-localhost; cases about other settings are left out and counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from tests.conformance.api import ApiRunner, StartedNode, unsuitable_reason
from tests.conformance.cases import FAMILIES, Case, load_family, missing_reason
from tests.conformance.exceptions import TABLE, difference_of
from tests.conformance.local import WAYS, LocalRunner

shown_max = 20


@dataclass
class Tally:
    """Counts of one family."""

    family: str
    held: int = 0
    by_exception: int = 0
    left_out: int = 0
    seconds: float = 0.0
    failures: list[tuple[str, list[str]]] = field(default_factory=list)


async def run_family(
    family: str, run: Callable[[Case], Awaitable[list[str]]], *, through_api: bool, at_once: int
) -> Tally:
    tally = Tally(family)
    started = time.perf_counter()
    places = asyncio.Semaphore(at_once)

    async def one(case: Case) -> None:
        if through_api and unsuitable_reason(case) is not None:
            tally.left_out += 1
            return
        await _judge(case, run, places, tally)

    await asyncio.gather(*(one(case) for case in load_family(family)))
    tally.seconds = time.perf_counter() - started
    return tally


async def run_through_nodes(families: Sequence[str]) -> list[Tally]:
    """Every case through a node with the case's own settings."""
    tallies: dict[str, Tally] = {}
    groups: dict[str, list[Case]] = {}
    for family in families:
        reason = missing_reason(family)
        if reason is not None:
            print(f"left out: {reason}")
            continue
        tallies[family] = Tally(family)
        for case in load_family(family):
            groups.setdefault(json.dumps(case.config, sort_keys=True), []).append(case)
    for config, cases in groups.items():
        async with StartedNode(json.loads(config)) as url:
            runner = ApiRunner(url)
            places = asyncio.Semaphore(16)
            started = time.perf_counter()
            try:
                async with asyncio.TaskGroup() as tasks:
                    for case in cases:
                        tasks.create_task(_judge(case, runner.run, places, tallies[case.family]))
            finally:
                await runner.close()
            for case in cases:
                tallies[case.family].seconds += (time.perf_counter() - started) / len(cases)
    return list(tallies.values())


async def _judge(
    case: Case, run: Callable[[Case], Awaitable[list[str]]], places: asyncio.Semaphore, tally: Tally
) -> None:
    async with places:
        problems = await run(case)
    if problems:
        tally.failures.append((case.id, problems))
    elif difference_of(case) is not None:
        tally.by_exception += 1
    else:
        tally.held += 1


async def run_all(arguments: argparse.Namespace) -> list[Tally]:
    if arguments.nodes:
        return await run_through_nodes(arguments.family or FAMILIES)
    runner: ApiRunner | LocalRunner
    runner = ApiRunner(arguments.api, arguments.token) if arguments.api else LocalRunner(arguments.way)
    tallies = []
    try:
        for family in arguments.family or FAMILIES:
            reason = missing_reason(family)
            if reason is not None:
                print(f"left out: {reason}")
                continue
            through_api = arguments.api is not None
            tallies.append(await run_family(family, runner.run, through_api=through_api, at_once=16))
    finally:
        await runner.close()
    return tallies


def print_table(tallies: list[Tally]) -> None:
    print(
        f"{'family':<14}{'cases':>7}{'equal':>7}{'by exception':>14}{'left out':>10}{'failed':>8}{'seconds':>9}"
    )
    total = Tally("all")
    for tally in tallies:
        _print_row(tally, len(tally.failures))
        total.held += tally.held
        total.by_exception += tally.by_exception
        total.left_out += tally.left_out
        total.seconds += tally.seconds
        total.failures += tally.failures
    _print_row(total, len(total.failures))
    for case_id, problems in total.failures[:shown_max]:
        print(f"\n{case_id}")
        for problem in problems:
            print(f"  {problem}")
    if len(total.failures) > shown_max:
        print(f"\n… and {len(total.failures) - shown_max} more")


def _print_row(tally: Tally, failed: int) -> None:
    count = tally.held + tally.by_exception + tally.left_out + failed
    print(
        f"{tally.family:<14}{count:>7}{tally.held:>7}{tally.by_exception:>14}{tally.left_out:>10}"
        f"{failed:>8}{tally.seconds:>9.1f}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance.run", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--family", action="append", choices=FAMILIES, help="only this family; may be repeated"
    )
    parser.add_argument(
        "--way", choices=WAYS, default="steps", help="in process: a task boundary after each step"
    )
    parser.add_argument("--api", metavar="URL", help="send the cases to this node")
    parser.add_argument(
        "--nodes", action="store_true", help="send the cases to real nodes that this command starts"
    )
    parser.add_argument("--token", help="bearer token for --api")
    parser.add_argument("--exceptions", action="store_true", help="print the table of deliberate differences")
    arguments = parser.parse_args()
    if arguments.exceptions:
        for difference in TABLE:
            print(f"{difference.name}: {difference.reason}")
        return 0
    tallies = asyncio.run(run_all(arguments))
    print_table(tallies)
    return 1 if any(tally.failures for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
