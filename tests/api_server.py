"""A real API server on a free port over the memory engine, for tests of the API's own rules."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from node.api.routes import Api, ApiParts
from node.api.server import ApiSettings
from node.checking import CheckReport
from node.errors import Problem
from tests.api_engine import MemoryEngine


@dataclass
class Served:
    """The parts of a running server, and a client session with its base address."""

    engine: MemoryEngine
    api: Api
    http: aiohttp.ClientSession
    address: str
    not_ready: list[str]


def check(payload: bytes) -> CheckReport:
    """Valid is what is a JSON object without an edge to nowhere."""
    try:
        document = json.loads(payload)
        if not isinstance(document, dict) or not isinstance(document.get("nodes", []), list):
            raise ValueError("json: cannot unmarshal into Go value of type types.Payload")
    except ValueError as error:
        text = f"failed to parse payload: {error}"
        return CheckReport(False, text, (Problem("", text),), loads=False)
    ids = {node["id"] for node in document.get("nodes") or []}
    problems = [
        Problem(f"edges[{position}].target", f"there is no node {edge['target']!r}")
        for position, edge in enumerate(document.get("edges") or [])
        if edge["target"] not in ids
    ]
    return CheckReport(not problems, problems[0].message if problems else "", tuple(problems), len(ids))


@contextlib.asynccontextmanager
async def serve(data_dir: Path, settings: ApiSettings | None = None) -> AsyncIterator[Served]:
    """Start, hand out, stop."""
    engine = MemoryEngine()
    not_ready: list[str] = []
    api = Api(
        ApiParts(
            engine=engine,
            settings=settings or ApiSettings(port=0),
            data_dir=data_dir,
            check=check,
            step_types=lambda: [{"name": "number", "effect": "pure"}],
            facts=lambda: {"version": "0.0.0-test", "node_id": "n1"},
            ready=lambda: not_ready[0] if not_ready else "",
        )
    )
    host, port = await api.start()
    address = f"http://{host}:{port}"
    async with aiohttp.ClientSession(base_url=address) as http:
        yield Served(engine, api, http, address, not_ready)
    await api.close()
