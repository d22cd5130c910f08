"""A client that costs as little as possible, because it shares the cores with what it measures.

Each connection is an asyncio protocol that writes ready-made bytes and has one request under way; of an answer it
reads the status, the length, and whether it holds the text that every right answer holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Final, cast

_HEAD_END: Final = b"\r\n\r\n"


class WrongAnswer(Exception):
    """An answer is not what the load expects; nothing measured is worth anything."""


def post(path: str, body: bytes) -> bytes:
    """A request, ready to be written."""
    return (
        b"POST %b HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % (path.encode(), len(body))
    ) + body


def get(path: str) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: bench\r\n\r\n" % path.encode()


class Connection(asyncio.Protocol):
    """One keep-alive connection, one request at a time. `on_answer(connection, status, body)` may send the next."""

    def __init__(self, on_answer: Callable[[Connection, int, bytes], None]) -> None:
        self.sent_at = 0.0
        self._on_answer = on_answer
        self._received = b""
        self._wanted = -1  # bytes of the whole answer, -1: not known yet
        self._transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own classes do not inherit from it

    def send(self, request: bytes) -> None:
        assert self._transport is not None
        self.sent_at = perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        if self._wanted < 0:
            end = received.find(_HEAD_END)
            if end < 0:
                self._received = received
                return
            head = received[:end].lower()
            at = head.find(b"content-length:")
            if at < 0:
                self._fail(f"an answer without Content-Length: {head[:200]!r}")
                return
            self._wanted = end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(received) < self._wanted:
            self._received = received
            return
        answer, self._received = received[: self._wanted], received[self._wanted :]
        self._wanted = -1
        body = answer[answer.find(_HEAD_END) + 4 :]
        self._on_answer(self, int(answer[9:12]), body)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        if error is not None or self._wanted >= 0:
            self._fail(f"the connection was lost: {error}")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _fail(self, text: str) -> None:
        self._on_answer(self, 0, text.encode())


async def ask(host: str, port: int, request: bytes) -> tuple[int, bytes]:
    """One request on a connection of its own: status and body."""
    answered: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

    def on_answer(connection: Connection, status: int, body: bytes) -> None:
        if not answered.done():
            answered.set_result((status, body))

    _, connection = await asyncio.get_running_loop().create_connection(
        lambda: Connection(on_answer), host, port
    )
    connection.send(request)
    try:
        return await answered
    finally:
        connection.close()
        await connection.lost


class Load:
    """The same request over and over, so many under way at once, until enough were answered or time is over."""

    def __init__(
        self, request: bytes, *, statuses: tuple[int, ...], must_hold: bytes, times: int = 1
    ) -> None:
        """Each answer must have one of the statuses and hold `must_hold` exactly `times` times."""
        self.latencies: list[float] = []
        self._request = request
        self._statuses = statuses
        self._must_hold = must_hold
        self._times = times
        self._left = 0
        self._stop_at = float("inf")
        self._under_way = 0
        self._done: asyncio.Future[None] | None = None

    async def run(
        self, host: str, port: int, *, in_flight: int, requests: int = 1 << 62, seconds: float = float("inf")
    ) -> float:
        """Seconds from the first request to the last answer. Raises WrongAnswer at the first one."""
        loop = asyncio.get_running_loop()
        connections = [
            (await loop.create_connection(lambda: Connection(self._on_answer), host, port))[1]
            for _ in range(min(in_flight, requests))
        ]
        self._done = loop.create_future()
        self._left = requests - len(connections)
        self._under_way = len(connections)
        started = perf_counter()
        self._stop_at = started + seconds
        try:
            for connection in connections:
                connection.send(self._request)
            await self._done
            return perf_counter() - started
        finally:
            for connection in connections:
                connection.close()
            await asyncio.gather(*(connection.lost for connection in connections))

    def _on_answer(self, connection: Connection, status: int, body: bytes) -> None:
        assert self._done is not None
        now = perf_counter()
        if self._done.done():
            return
        if status not in self._statuses or body.count(self._must_hold) != self._times:
            self._done.set_exception(WrongAnswer(f"status {status}: {body[:2000].decode(errors='replace')}"))
            return
        self.latencies.append(now - connection.sent_at)
        if self._left > 0 and now < self._stop_at:
            self._left -= 1
            connection.send(self._request)
            return
        self._under_way -= 1
        if self._under_way == 0:
            self._done.set_result(None)
