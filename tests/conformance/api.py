"""Cases through the HTTP API of a running node."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import aiohttp

from tests.conformance.cases import ROOT, Case
from tests.conformance.compare import Outcome
from tests.conformance.exceptions import check
from tests.conformance.server import RouteServer

_NODE_SETTINGS = frozenset({"allow_http", "allow_localhost"})
"""Settings that a node given by its URL was started with; a case that needs others cannot run through it."""

wait_s = 60
NEEDS = "--allow-http --allow-localhost"


def unsuitable_reason(case: Case) -> str | None:
    """Why a case cannot be sent to a node with fixed settings, None when it can."""
    other = sorted(set(case.config) - _NODE_SETTINGS)
    if other:
        return f"needs the settings {', '.join(other)}"
    if case.expect["ok"]:
        return None
    texts = [case.expect.get("error", ""), *case.expect.get("error_any_of", ())]
    if any("AllowHTTP=false" in text or "blocked" in text for text in texts):
        return f"is about a node without {NEEDS}"
    return None


class StartedNode:
    """A real node with the settings of some cases, on a free port and a directory of its own; ends with the block."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._folder = tempfile.TemporaryDirectory()
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = [
            option
            for item in self._config.items()
            for option in ("--setting", f"{item[0]}={json.dumps(item[1])}")
        ]
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli.main", "start", "--api", f"127.0.0.1:{port}", "--slots", "1"),
            *("--data-dir", f"{self._folder.name}/data", "--log-level", "error", *options),
            cwd=ROOT,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            await wait_until_ready(url, 30)
        except BaseException:
            await self.__aexit__()
            raise
        return url

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()
        self._folder.cleanup()


class ApiRunner:
    """Sends cases to a node, a bounded number at a time."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._session = aiohttp.ClientSession(
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=2 * wait_s),
            connector=aiohttp.TCPConnector(limit=32),
        )

    async def close(self) -> None:
        await self._session.close()

    async def run(self, case: Case) -> list[str]:
        """What is wrong with the case; empty when it holds."""
        async with RouteServer(case.http_server or {}) as server:
            outcome = await self._outcome(case, case.payload(server.url))
            return check(case, case.expected(server.url), outcome)

    async def _outcome(self, case: Case, payload: bytes) -> Outcome:
        body = b'{"wait_s":%d,"workflow":%s}' % (wait_s, payload)
        headers = {"Content-Type": "application/json"}
        async with self._session.post(f"{self._url}/v1/executions", data=body, headers=headers) as response:
            answer: dict[str, Any] = await response.json(content_type=None)
            if response.status not in (200, 202):
                return Outcome(False, _stage(case), _refusal(case, answer))
        if answer["status"] not in ("completed", "failed"):
            return Outcome(False, error=f"status {answer['status']} after {wait_s} s")
        error = answer.get("error")
        return Outcome(
            answer["status"] == "completed",
            "run",
            error["message"] if error else "",
            answer["node_results"],
            answer["final_output"],
            answer.get("workflow_name") or case.expect.get("workflow_id", ""),
        )


def _stage(case: Case) -> str:
    # A node refuses before anything runs what the original refuses when it starts to run (cycles).
    return "run" if case.expect.get("stage") == "run" else "load"


def _refusal(case: Case, answer: dict[str, Any]) -> str:
    """The recorded text when the problem carries it, else the problem's own words.

    A payload that is not JSON breaks the request around it, so there the node cannot use the original's words.
    """
    texts = [
        str(answer.get("detail", "")),
        *(str(item.get("message", "")) for item in answer.get("problems", [])),
    ]
    expected = str(case.expect.get("error", ""))
    for text in texts:
        if expected and (expected in text or expected.removeprefix("failed to parse payload: ") in text):
            return expected
    is_syntax = "invalid character" in expected or "unexpected end of JSON" in expected
    return expected if is_syntax and case.raw is not None else "; ".join(texts)


async def wait_until_ready(url: str, seconds: float) -> None:
    """Wait for the node's readiness. Raises TimeoutError."""
    async with asyncio.timeout(seconds), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{url.rstrip('/')}/readyz") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass  # not listening yet
            await asyncio.sleep(0.1)
