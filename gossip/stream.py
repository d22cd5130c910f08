"""Streams: one request, one answer, both opaque sealed bytes.

A node passes its own `Streams` (its mutual-TLS links). `TcpStreams` is a small one that works by itself: plain
TCP on the gossip port, which is enough because what passes is sealed already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from gossip.errors import StreamFailed
from gossip.messages import Address

Respond = Callable[[bytes], bytes | None]
"""Request in, answer out; None when the request was not ours: the stream is closed without an answer."""

FRAME_BYTES_MAX = 16 * 1024 * 1024
"""A table of 16,384 members with full metadata is under 12 MiB. A longer frame: the stream is closed."""
SERVED_MAX = 256
"""Streams served at a time. When full, a new one is closed at once: the asker retries elsewhere."""
_LENGTH_BYTES = 4


class Streams(Protocol):
    """What the shell needs of a stream transport."""

    async def serve(self, host: str, port: int, respond: Respond) -> int:
        """Answer requests until `close`; the bound port. Raises OSError."""
        ...

    async def ask(self, address: Address, request: bytes) -> bytes:
        """The answer. May be cancelled (the shell holds the timeout). Raises StreamFailed."""
        ...

    async def close(self) -> None:
        """Stop serving and close what is open."""
        ...


class TcpStreams:
    """A connection per request; frames of a 4-byte length and the bytes."""

    def __init__(self, *, served_max: int = SERVED_MAX, serve_timeout_s: float = 10.0) -> None:
        self._served_max = served_max
        self._serve_timeout_s = serve_timeout_s
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self.refused = 0

    async def serve(self, host: str, port: int, respond: Respond) -> int:
        async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._serve_one(reader, writer, respond)

        self._server = await asyncio.start_server(serve_one, host, port)
        return int(self._server.sockets[0].getsockname()[1])

    async def ask(self, address: Address, request: bytes) -> bytes:
        try:
            reader, writer = await asyncio.open_connection(address.host, address.port)
        except OSError as error:
            raise StreamFailed(f"no stream to {address}: {error}") from error
        try:
            _write_frame(writer, request)
            await writer.drain()
            return await _read_frame(reader)
        except (OSError, EOFError) as error:
            raise StreamFailed(f"the stream to {address} broke: {error}") from error
        finally:
            writer.close()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            for serving in list(self._serving):
                serving.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None

    async def _serve_one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, respond: Respond
    ) -> None:
        serving = asyncio.current_task()
        assert serving is not None
        try:
            if len(self._serving) >= self._served_max:
                self.refused += 1
                return
            self._serving.add(serving)
            async with asyncio.timeout(self._serve_timeout_s):
                answer = respond(await _read_frame(reader))
                if answer is not None:
                    _write_frame(writer, answer)
                    await writer.drain()
        except (OSError, EOFError, StreamFailed):
            # The asker went away, was too slow (TimeoutError is an OSError), or did not speak our frames.
            self.refused += 1
        finally:
            self._serving.discard(serving)
            writer.close()


def _write_frame(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(len(body).to_bytes(_LENGTH_BYTES, "big") + body)


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
    if length > FRAME_BYTES_MAX:
        raise StreamFailed(f"a frame of {length} bytes was announced, at most {FRAME_BYTES_MAX} are read")
    return await reader.readexactly(length)
