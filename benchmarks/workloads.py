"""The workflows of DESIGN §6, and what a right answer to each holds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

FAN_OUT: Final = 100
CHAIN: Final = 10


@dataclass(frozen=True, slots=True)
class Workload:
    """`tasks` are what one execution hands to workers (0: it counts executions); `holds` is in every finished one."""

    name: str
    title: str
    payload: dict[str, Any]
    tasks: int
    holds: bytes


def _edge(source: str, target: str) -> dict[str, str]:
    return {"id": f"{source}-{target}", "source": source, "target": target}


def _number(value: float = 1) -> dict[str, Any]:
    return {"id": "n", "type": "number", "data": {"value": value}}


def _chain(level: int, name: str, step_type: str, data: dict[str, Any], length: int) -> dict[str, Any]:
    ids = [f"s{position}" for position in range(1, length + 1)]
    steps = [{"id": step_id, "type": step_type, "data": data} for step_id in ids]
    edges = [_edge(source, target) for source, target in zip(["n", *ids], ids, strict=False)]
    return {"language": level, "workflow_id": name, "nodes": [_number(), *steps], "edges": edges}


def one_task(level: int) -> Workload:
    """W1: a number, and one step of the user's own that adds one to it."""
    payload = _chain(level, "w1", "add_one", {}, 1)
    return Workload("w1", "W1 one-task executions", payload, 0, b'"final_output":2')


def effectful_chain(level: int) -> Workload:
    """W2: ten such steps in a row; each is a task of its own, with its result committed before the next."""
    payload = _chain(level, "w2", "add_one", {}, CHAIN)
    return Workload("w2", f"W2 chain of {CHAIN} effectful tasks", payload, CHAIN, b'"final_output":11')


def pure_chain(level: int) -> Workload:
    """W2p: ten pure steps in a row, which make one task."""
    payload = _chain(level, "w2p", "expression", {"expression": "input + 1"}, CHAIN)
    return Workload("w2p", f"W2p chain of {CHAIN} pure steps", payload, 0, b'"final_output":11')


def fan_out(level: int) -> Workload:
    """W3: a hundred tasks beside each other, and a join of their results."""
    ids = [f"s{position}" for position in range(FAN_OUT)]
    nodes = [
        _number(),
        *({"id": step_id, "type": "add_one", "data": {}} for step_id in ids),
        {"id": "all", "type": "join", "data": {"join_strategy": "all"}},
    ]
    edges = [_edge("n", step_id) for step_id in ids] + [_edge(step_id, "all") for step_id in ids]
    payload = {"language": level, "workflow_id": "w3", "nodes": nodes, "edges": edges}
    return Workload(
        "w3", f"W3 fan-out to {FAN_OUT} tasks and join", payload, FAN_OUT, b'"status":"completed"'
    )


def waiting(level: int) -> Workload:
    """W4: an execution that waits."""
    nodes = [_number(), {"id": "wait", "type": "delay", "data": {"duration": "2h"}}]
    payload = {"language": level, "workflow_id": "w4", "nodes": nodes, "edges": [_edge("n", "wait")]}
    return Workload("w4", "W4 waiting executions", payload, 0, b'"id":"')


def registration(workload: Workload) -> bytes:
    """Body of POST /v1/workflows."""
    return json.dumps({"id": workload.name, "workflow": workload.payload}).encode()


def start_body(workload: Workload, *, wait_s: float) -> bytes:
    """Body of POST /v1/executions, by name."""
    return json.dumps({"workflow_id": workload.name, "wait_s": wait_s}).encode()


def batch_body(workload: Workload, size: int, *, wait_s: float) -> bytes:
    """Body of POST /v1/executions:batch."""
    return json.dumps({"executions": [{"workflow_id": workload.name}] * size, "wait_s": wait_s}).encode()
