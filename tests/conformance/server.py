"""A loopback HTTP server that answers exactly what a case says, and writes down what it was asked."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

from tests.conformance.cases import fill_in

_head_bytes_max = 64 * 1024


class RouteServer:
    """Serves `routes` (`"GET /path?query": {"status", "headers", "body", "delay_ms"}`), 404 for all else."""

    def __init__(self, routes: dict[str, Any]) -> None:
        self._routes = routes
        self._server: asyncio.Server | None = None
        self._answering: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()
        self.requests: list[str] = []
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_head_bytes_max)
        host, port = self._server.sockets[0].getsockname()[:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()
        self._closing.set()
        await asyncio.gather(*self._answering, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
            self.requests.append(f"{method} {target}")
            writer.write(await self._answer(f"{method} {target}"))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went away: its own affair
        finally:
            self._answering.discard(task)
            writer.close()

    async def _delay(self, seconds: float) -> None:
        """A late answer; at once when nobody waits for it any more."""
        try:
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        except TimeoutError:
            return

    async def _answer(self, request: str) -> bytes:
        route = self._routes.get(request, {"status": 404})
        if route.get("delay_ms"):
            await self._delay(route["delay_ms"] / 1000)
        body = fill_in(route.get("body", ""), self.url).encode()
        status = route.get("status", 200)
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = "Unknown"
        lines = [f"HTTP/1.1 {status} {phrase}", "Connection: close"]
        if status >= 200 and status not in (204, 304):
            lines.append(f"Content-Length: {len(body)}")
        else:
            body = b""
        lines += [f"{name}: {fill_in(value, self.url)}" for name, value in route.get("headers", {}).items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
