"""How frames travel: the Protocol that the driver needs, a network in memory, and one over plain TCP.

A product brings its own implementation (an authenticated mesh, say); the ones here serve tests, benchmarks
and small programs. Raft needs little: frames may be lost, delayed, repeated or reordered, but not altered,
and `sender` must be who really sent them.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Callable, Mapping
from typing import Protocol, cast

import msgspec

from raft.messages import PROTOCOL_VERSION

OnFrame = Callable[[str, bytes], None]
OnLinkClosed = Callable[[str], None]


class Transport(Protocol):
    """Carries frames between members. All methods are called on the event loop; none but `close` and
    `start` waits."""

    async def start(self, node_id: str, on_frame: OnFrame, on_link_closed: OnLinkClosed) -> None:
        """Begin. `on_frame(sender, frame)` for each frame, in order per link; `on_link_closed(peer)` when
        the link to `peer` is lost, at once if its process died."""
        ...

    def set_members(self, addresses: Mapping[str, str]) -> None:
        """The other members by id; links to those no longer named may be closed."""
        ...

    def send(self, to: str, frame: bytes) -> None:
        """Never blocks. Dropped when there is no link, or too much waits on it."""
        ...

    async def close(self) -> None: ...


class NoTransport:
    """For a group of one."""

    async def start(self, node_id: str, on_frame: OnFrame, on_link_closed: OnLinkClosed) -> None:
        pass

    def set_members(self, addresses: Mapping[str, str]) -> None:
        pass

    def send(self, to: str, frame: bytes) -> None:
        pass

    async def close(self) -> None:
        pass


class MemoryNetwork:
    """Links between nodes of one process and one event loop. `cut` and `heal` act on ordered pairs."""

    def __init__(self) -> None:
        self._handlers: dict[str, tuple[OnFrame, OnLinkClosed]] = {}
        self._cut: set[tuple[str, str]] = set()

    def transport(self) -> MemoryTransport:
        return MemoryTransport(self)

    def cut(self, sender: str, receiver: str) -> None:
        """Frames from `sender` to `receiver` are lost from now on."""
        self._cut.add((sender, receiver))

    def isolate(self, node_id: str) -> None:
        """Nothing reaches `node_id`, nothing leaves it."""
        for other in self._handlers:
            self.cut(node_id, other)
            self.cut(other, node_id)

    def heal(self) -> None:
        self._cut.clear()

    def attach(self, node_id: str, on_frame: OnFrame, on_link_closed: OnLinkClosed) -> None:
        self._handlers[node_id] = (on_frame, on_link_closed)

    def detach(self, node_id: str) -> None:
        self._handlers.pop(node_id, None)
        for _, on_link_closed in self._handlers.values():
            on_link_closed(node_id)

    def carry(self, sender: str, to: str, frame: bytes) -> None:
        asyncio.get_running_loop().call_soon(self._deliver, sender, to, frame)

    def _deliver(self, sender: str, to: str, frame: bytes) -> None:
        handlers = self._handlers.get(to)
        if handlers is not None and sender in self._handlers and (sender, to) not in self._cut:
            handlers[0](sender, frame)


class MemoryTransport:
    """One node's end of a `MemoryNetwork`."""

    def __init__(self, network: MemoryNetwork) -> None:
        self._network = network
        self._node_id = ""

    async def start(self, node_id: str, on_frame: OnFrame, on_link_closed: OnLinkClosed) -> None:
        self._node_id = node_id
        self._network.attach(node_id, on_frame, on_link_closed)

    def set_members(self, addresses: Mapping[str, str]) -> None:
        pass

    def send(self, to: str, frame: bytes) -> None:
        self._network.carry(self._node_id, to, frame)

    async def close(self) -> None:
        self._network.detach(self._node_id)


class _Hello(msgspec.Struct, array_like=True, frozen=True):
    """First frame of each connection, both ways."""

    version: int
    group: str
    node_id: str


_LENGTH = struct.Struct(">I")
_hello_decoder = msgspec.msgpack.Decoder(_Hello)


class TcpTransport:
    """Frames with a length of four bytes over TCP, optionally TLS.

    Each node connects to every member it knows and sends on that connection; to one that it does not know (a new
    learner does not know its leader) on the one that came in. Without
    `tls` (a context per side that verifies the other) whoever reaches the port may speak: for tests and
    closed networks only.
    """

    def __init__(
        self,
        *,
        listen: str = "127.0.0.1:0",
        group: str = "raft",
        server_tls: ssl.SSLContext | None = None,
        client_tls: ssl.SSLContext | None = None,
        frame_bytes_max: int = 4 * 1024 * 1024,
        buffer_bytes_max: int = 32 * 1024 * 1024,
        reconnect_s: float = 0.05,
        reconnect_max_s: float = 1.0,
    ) -> None:
        self._listen = listen
        self._group = group
        self._server_tls = server_tls
        self._client_tls = client_tls
        self.frame_bytes_max = frame_bytes_max
        self._buffer_bytes_max = buffer_bytes_max
        self._reconnect_s = reconnect_s
        self._reconnect_max_s = reconnect_max_s
        self.address = ""
        """host:port, once listening."""
        self.frames_dropped = 0
        self.frames_refused = 0
        self._node_id = ""
        self._on_frame: OnFrame | None = None
        self._on_link_closed: OnLinkClosed | None = None
        self._server: asyncio.Server | None = None
        self._addresses: dict[str, str] = {}
        self._dialers: dict[str, asyncio.Task[None]] = {}
        self._out: dict[str, asyncio.Transport] = {}
        self._in: set[_FrameProtocol] = set()
        self._answering: dict[str, asyncio.Transport] = {}
        """Newest incoming connection of each peer."""

    async def listen(self) -> str:
        """Bind the port, before the members' addresses are known. Returns host:port."""
        host, _, port = self._listen.rpartition(":")
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _FrameProtocol(self, peer=None), host, int(port), ssl=self._server_tls
        )
        bound = self._server.sockets[0].getsockname()
        self.address = f"{bound[0]}:{bound[1]}"
        return self.address

    async def start(self, node_id: str, on_frame: OnFrame, on_link_closed: OnLinkClosed) -> None:
        self._node_id = node_id
        self._on_frame = on_frame
        self._on_link_closed = on_link_closed
        if self._server is None:
            await self.listen()

    def set_members(self, addresses: Mapping[str, str]) -> None:
        wanted = {peer: address for peer, address in addresses.items() if peer != self._node_id and address}
        for peer in [peer for peer, address in self._addresses.items() if wanted.get(peer) != address]:
            del self._addresses[peer]
            self._dialers.pop(peer).cancel()
            link = self._out.pop(peer, None)
            if link is not None:
                link.close()
        for peer, address in wanted.items():
            if peer not in self._addresses:
                self._addresses[peer] = address
                self._dialers[peer] = asyncio.get_running_loop().create_task(
                    self._dial(peer, address), name=f"raft-dial-{peer}"
                )

    def send(self, to: str, frame: bytes) -> None:
        link = self._out.get(to) or self._answering.get(to)
        if link is None or link.get_write_buffer_size() > self._buffer_bytes_max:
            self.frames_dropped += 1
            return
        if len(frame) < 65536:
            link.write(_LENGTH.pack(len(frame)) + frame)
        else:
            link.writelines((_LENGTH.pack(len(frame)), frame))

    async def close(self) -> None:
        for dialer in self._dialers.values():
            dialer.cancel()
        await asyncio.gather(*self._dialers.values(), return_exceptions=True)
        self._dialers.clear()
        for link in self._out.values():
            link.abort()
        for protocol in list(self._in):
            protocol.abort()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        await asyncio.sleep(0)

    async def _dial(self, peer: str, address: str) -> None:
        """Keep one outgoing connection to `peer`, for as long as it is a member."""
        host, _, port = address.rpartition(":")
        delay = self._reconnect_s
        while True:
            protocol = _FrameProtocol(self, peer=peer)
            try:
                async with asyncio.timeout(self._reconnect_max_s):
                    await asyncio.get_running_loop().create_connection(
                        lambda protocol=protocol: protocol, host, int(port), ssl=self._client_tls
                    )
            except (OSError, TimeoutError):
                await asyncio.sleep(delay)
                delay = min(delay * 2, self._reconnect_max_s)
                continue
            delay = self._reconnect_s
            try:
                await protocol.closed
            finally:
                protocol.abort()
            await asyncio.sleep(delay)

    # -- called by _FrameProtocol ------------------------------------------------------------------

    def hello(self) -> bytes:
        return msgspec.msgpack.encode(_Hello(PROTOCOL_VERSION, self._group, self._node_id))

    def accepts(self, hello: _Hello) -> bool:
        return (
            hello.version == PROTOCOL_VERSION
            and hello.group == self._group
            and hello.node_id != self._node_id
        )

    def opened_out(self, peer: str, link: asyncio.Transport) -> None:
        self._out[peer] = link

    def closed_out(self, peer: str, link: asyncio.Transport | None) -> None:
        if self._out.get(peer) is link:
            self._out.pop(peer, None)
        if self._on_link_closed is not None:
            self._on_link_closed(peer)

    def opened_in(self, protocol: _FrameProtocol) -> None:
        self._in.add(protocol)

    def greeted(self, peer: str, link: asyncio.Transport) -> None:
        self._answering[peer] = link

    def closed_in(self, protocol: _FrameProtocol, peer: str | None, link: asyncio.Transport | None) -> None:
        self._in.discard(protocol)
        if peer is not None and self._answering.get(peer) is link:
            del self._answering[peer]

    def received(self, peer: str, frame: bytes) -> None:
        if self._on_frame is not None:
            self._on_frame(peer, frame)


class _FrameProtocol(asyncio.Protocol):
    """One connection: outgoing (`peer` known; carries our frames) or incoming (the hello names the peer)."""

    def __init__(self, owner: TcpTransport, peer: str | None) -> None:
        self._owner = owner
        self._peer = peer
        self._outgoing = peer is not None
        self._link: asyncio.Transport | None = None
        self._buffer = bytearray()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        link = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._link = link
        link.set_write_buffer_limits(high=64 * 1024 * 1024)
        if self._outgoing:
            hello = self._owner.hello()
            link.write(_LENGTH.pack(len(hello)) + hello)
            assert self._peer is not None
            self._owner.opened_out(self._peer, link)
        else:
            self._owner.opened_in(self)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        start = 0
        size = len(buffer)
        while size - start >= 4:
            (length,) = _LENGTH.unpack_from(buffer, start)
            if length > self._owner.frame_bytes_max:
                self._owner.frames_refused += 1
                self.abort()
                return
            if size - start - 4 < length:
                break
            frame = bytes(buffer[start + 4 : start + 4 + length])
            start += 4 + length
            if self._peer is not None:
                self._owner.received(self._peer, frame)
            elif not self._greet(frame):
                return
        if start:
            del buffer[:start]

    def _greet(self, frame: bytes) -> bool:
        try:
            hello = _hello_decoder.decode(frame)
        except msgspec.MsgspecError:
            hello = None
        if hello is None or not self._owner.accepts(hello):
            self._owner.frames_refused += 1
            self.abort()
            return False
        self._peer = hello.node_id
        assert self._link is not None
        self._owner.greeted(hello.node_id, self._link)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
        if self._outgoing:
            assert self._peer is not None
            self._owner.closed_out(self._peer, self._link)
        else:
            self._owner.closed_in(self, self._peer, self._link)

    def abort(self) -> None:
        if self._link is not None:
            self._link.abort()
