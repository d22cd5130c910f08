"""Answers, written with one system call.

aiohttp's response classes build a header multidict and pass several layers; at thousands of starts per second
that is a quarter of the request's cost (docs/api.md, Cost of a request). A Reply is the finished bytes: it has the
three names that aiohttp's connection handler uses of a response (`prepare`, `write_eof`, `keep_alive`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Final

from aiohttp import web

JSON_TYPE: Final = "application/json"

# Of one reply, how much may sit in the kernel's and the loop's buffers before we wait for a slow reader.
unsent_bytes_max: Final = 256 * 1024

_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
_JSON_HEADS: Final = {
    status: (
        f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n"
        "Cache-Control: no-store\r\nContent-Length: "
    ).encode()
    for status, phrase in _PHRASES.items()
}


class Reply:
    """A whole answer. `headers` are finished lines (see `header_lines`), "" or each ending in CRLF."""

    __slots__ = ("body", "content_type", "headers", "keep_alive", "status")

    def __init__(
        self,
        body: bytes,
        *,
        status: int = 200,
        content_type: str = JSON_TYPE,
        headers: bytes = b"",
        close: bool = False,
    ) -> None:
        self.body = body
        self.status = status
        self.content_type = content_type
        self.headers = headers
        self.keep_alive = not close

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write head and body; waits only when the reader is slow."""
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        body = self.body
        self.keep_alive = self.keep_alive and request.keep_alive
        if self.keep_alive:
            connection = b"" if request.version.minor else b"Connection: keep-alive\r\n"
        else:
            connection = b"Connection: close\r\n"
        request_id = request.get("request_id", "").encode()
        if self.content_type is JSON_TYPE:
            head = b"%b%d\r\n%b%bX-Request-Id: %b\r\n\r\n" % (
                _JSON_HEADS[self.status],
                len(body),
                self.headers,
                connection,
                request_id,
            )
        else:
            head = b"%b%b%bX-Request-Id: %b\r\n\r\n" % (
                self._first_lines(),
                self.headers,
                connection,
                request_id,
            )
        transport.write(head if request.method == "HEAD" else head + body)
        if len(body) > unsent_bytes_max:
            await request.writer.drain()

    def _first_lines(self) -> bytes:
        lines = (
            f"HTTP/1.1 {self.status} {_PHRASES.get(self.status, '')}\r\nX-Content-Type-Options: nosniff\r\n"
        )
        lines += "Cache-Control: no-store\r\n"
        if self.status != 204:
            lines += f"Content-Type: {self.content_type}\r\nContent-Length: {len(self.body)}\r\n"
        return lines.encode("latin-1")

    async def write_eof(self) -> None:
        """Nothing is left to write."""


def header_lines(headers: Mapping[str, str]) -> bytes:
    """Headers as bytes. Raises ValueError for one that would break out of its line."""
    text = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if text.count("\n") != len(headers) or text.count("\r") != len(headers):
        raise ValueError("a header has a line break in it")
    return text.encode("latin-1", "replace")


class StreamReply:
    """An answer of unknown length, in chunks, until `parts` ends or the client leaves.

    A reader that takes nothing for `stall_timeout_s` is disconnected: it would hold its buffers for ever.
    """

    __slots__ = ("_parts", "content_type", "keep_alive", "stall_timeout_s", "status")

    def __init__(self, parts: AsyncIterator[bytes], *, content_type: str, stall_timeout_s: float) -> None:
        self._parts = parts
        self.content_type = content_type
        self.keep_alive = False
        self.stall_timeout_s = stall_timeout_s
        self.status = 200

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write everything; returns when the stream has ended. Raises ConnectionError when the client has gone."""
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        chunked = request.version.minor > 0
        transport.write(
            (
                f"HTTP/1.1 200 OK\r\nContent-Type: {self.content_type}\r\nCache-Control: no-store\r\n"
                f"X-Accel-Buffering: no\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n"
                f"X-Request-Id: {request.get('request_id', '')}\r\n"
                + ("Transfer-Encoding: chunked\r\n\r\n" if chunked else "\r\n")
            ).encode("latin-1", "replace")
        )
        if request.method == "HEAD":
            return
        parts = self._parts
        try:
            async for part in parts:
                if transport.is_closing():
                    raise ConnectionResetError("the client has gone")
                transport.write(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
                if transport.get_write_buffer_size() > unsent_bytes_max:
                    await self._wait_drained(request)
        finally:
            if hasattr(parts, "aclose"):
                await parts.aclose()
        if chunked and not transport.is_closing():
            transport.write(b"0\r\n\r\n")

    async def _wait_drained(self, request: web.BaseRequest) -> None:
        try:
            async with asyncio.timeout(self.stall_timeout_s):
                await request.writer.drain()
        except TimeoutError:
            raise ConnectionResetError("the client takes nothing from the stream") from None

    async def write_eof(self) -> None:
        """Nothing is left to write."""


class GoneReply:
    """To a client that has left before its request was read: nothing can be written."""

    __slots__ = ("keep_alive", "status")

    def __init__(self) -> None:
        self.status = 499
        self.keep_alive = False

    async def prepare(self, request: web.BaseRequest) -> None:
        """Tell aiohttp's connection handler, which then closes without a word."""
        raise ConnectionResetError("the client has gone")

    async def write_eof(self) -> None:
        """Nothing is left to write."""


AnyReply = Reply | StreamReply | GoneReply
