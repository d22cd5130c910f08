"""One measured run against a node: warm-up, load, figures. Every `w*.py` is a call of something in here."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Final
from urllib.parse import urlsplit

import uvloop

from benchmarks.load_client import Load, WrongAnswer, ask, post
from benchmarks.node_under_test import Node, NodeFailed, running_node
from benchmarks.report import CpuMeter, latency_figures, machine, print_table, write_json
from benchmarks.workloads import Workload, batch_body, registration, start_body

WAIT_S: Final = 60.0
WARM_UP_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    nodes: int
    url: str | None
    seconds: float
    in_flight: int
    batch: int
    language: int
    slots: str
    json: Path | None
    data_parent: Path | None


def options_of(description: str, *, in_flight: int = 64, seconds: float = 10.0) -> Options:
    """Read the command line of a benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--nodes", type=int, choices=[1], default=1, help="nodes in the cluster")
    parser.add_argument("--url", help="a node that runs already (with --load benchmarks.steps)")
    parser.add_argument("--seconds", type=float, default=seconds, help="length of the measured part")
    parser.add_argument("--in-flight", type=int, default=in_flight, help="requests under way at once")
    parser.add_argument("--batch", type=int, default=0, metavar="N", help="start N executions per request")
    parser.add_argument("--language", type=int, choices=[1, 2], default=2, help="language level")
    parser.add_argument("--slots", default="auto", help="runners of the node")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--data-parent", type=Path, help="where the node's data directory is made")
    return Options(**vars(parser.parse_args()))


def run(options: Options, measure: Callable[[Options, Node], Awaitable[dict[str, Any]]], title: str) -> None:
    """Start a node, measure, report. Ends the program with status 1 when the figures would be worthless."""
    try:
        report = uvloop.run(_with_node(options, measure))
    except (WrongAnswer, NodeFailed, OSError) as error:
        raise SystemExit(f"{title}: {error}") from None
    print_table(f"{title}, {options.nodes} node", list(report.items()))
    if options.json is not None:
        write_json(options.json, {"benchmark": title, "nodes": options.nodes, **report})


async def _with_node(
    options: Options, measure: Callable[[Options, Node], Awaitable[dict[str, Any]]]
) -> dict[str, Any]:
    async with _node(options) as node:
        report = await measure(options, node)
        return {**report, "node_started_s": round(node.started_s, 2), "machine": machine()}


@asynccontextmanager
async def _node(options: Options) -> AsyncIterator[Node]:
    if options.url is not None:
        address = urlsplit(options.url)
        yield Node(address.hostname or "127.0.0.1", address.port or 80, None, 0.0)
        return
    async with running_node(data_parent=options.data_parent, slots=options.slots) as node:
        yield node


async def register(node: Node, workload: Workload) -> None:
    """Make the workflow known by name. Raises WrongAnswer when the node refuses it."""
    status, body = await ask(node.host, node.port, post("/v1/workflows", registration(workload)))
    if status not in (200, 201):
        raise WrongAnswer(f"registering {workload.name}: status {status}: {body[:1000].decode()}")


def load_of(workload: Workload, options: Options) -> Load:
    """The requests of a workload, one execution each or a batch."""
    if options.batch:
        body = batch_body(workload, options.batch, wait_s=WAIT_S)
        request = post("/v1/executions:batch", body)
        return Load(request, statuses=(200,), must_hold=workload.holds, times=options.batch)
    request = post("/v1/executions", start_body(workload, wait_s=WAIT_S))
    return Load(request, statuses=(200,), must_hold=workload.holds)


async def throughput(workload: Workload, options: Options, node: Node) -> dict[str, Any]:
    """Start and wait for executions as fast as they are answered."""
    await register(node, workload)
    await load_of(workload, options).run(node.host, node.port, in_flight=options.in_flight, seconds=WARM_UP_S)
    load = load_of(workload, options)
    meter = CpuMeter(node.groups())
    seconds = await load.run(node.host, node.port, in_flight=options.in_flight, seconds=options.seconds)
    executions = len(load.latencies) * max(1, options.batch)
    report: dict[str, Any] = {"executions_per_s": round(executions / seconds, 1)}
    if workload.tasks:
        report["tasks_per_s"] = round(executions * workload.tasks / seconds, 1)
    return report | {
        "executions": executions,
        "seconds": round(seconds, 2),
        "in_flight": options.in_flight,
        "batch": options.batch,
        "latency": latency_figures(load.latencies),
        **meter.figures(seconds),
    }


async def latency_at_idle(
    workload: Workload, options: Options, node: Node, *, pause_s: float
) -> dict[str, Any]:
    """One execution after the other, with a pause in which everything comes to rest."""
    await register(node, workload)
    await load_of(workload, options).run(node.host, node.port, in_flight=1, requests=50)
    meter = CpuMeter(node.groups())
    started = perf_counter()
    latencies: list[float] = []
    load = load_of(workload, options)
    while perf_counter() - started < options.seconds:
        await load.run(node.host, node.port, in_flight=1, requests=1)
        await asyncio.sleep(pause_s)
    latencies = load.latencies
    return {
        "executions": len(latencies),
        "pause_s": pause_s,
        "latency": latency_figures(latencies),
        **meter.figures(perf_counter() - started),
    }


async def many_waiting(
    workload: Workload, options: Options, node: Node, *, executions: int
) -> dict[str, Any]:
    """Start executions that wait, and look at what a node with all of them needs."""
    await register(node, workload)
    request = post("/v1/executions", start_body(workload, wait_s=0))
    meter = CpuMeter(node.groups())
    load = Load(request, statuses=(200, 202), must_hold=workload.holds)
    seconds = await load.run(node.host, node.port, in_flight=options.in_flight, requests=executions)
    figures = meter.figures(seconds)
    idle = CpuMeter(node.groups())
    await asyncio.sleep(3.0)
    return {
        "waiting": executions,
        "starts_per_s": round(executions / seconds, 1),
        "seconds": round(seconds, 2),
        "in_flight": options.in_flight,
        "start_latency": latency_figures(load.latencies),
        **figures,
        "then_idle": idle.figures(3.0),
    }
