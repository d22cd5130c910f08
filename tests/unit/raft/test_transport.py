"""Frames over TCP: whole, in order, from who says so; strangers and giants are cut off."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from raft.transport import TcpTransport


class End:
    """A transport and what it heard."""

    def __init__(self, name: str, transport: TcpTransport) -> None:
        self.name = name
        self.transport = transport
        self.frames: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.closed: asyncio.Queue[str] = asyncio.Queue()

    async def start(self) -> None:
        await self.transport.start(
            self.name, lambda *frame: self.frames.put_nowait(frame), self.closed.put_nowait
        )

    async def hear(self) -> tuple[str, bytes]:
        async with asyncio.timeout(10):
            return await self.frames.get()


async def connected(a: End, b: End, frame: bytes = b"?") -> None:
    """Until frames get from `a` to `b`."""
    while b.frames.empty():
        a.transport.send(b.name, frame)
        await asyncio.sleep(0.005)
    while not b.frames.empty():
        b.frames.get_nowait()


@pytest.fixture
async def pair() -> AsyncIterator[tuple[End, End]]:
    ends = End("a", TcpTransport(frame_bytes_max=1 << 20)), End("b", TcpTransport(frame_bytes_max=1 << 20))
    for end in ends:
        await end.start()
    addresses = {end.name: end.transport.address for end in ends}
    for end in ends:
        end.transport.set_members(addresses)
    await connected(*ends)
    await connected(ends[1], ends[0])
    yield ends
    for end in ends:
        await end.transport.close()


async def test_frames_of_all_sizes_arrive_whole_and_in_order(pair: tuple[End, End]) -> None:
    a, b = pair
    frames = [bytes([size % 251]) * size for size in (1, 0, 5, 65535, 65536, 65537, 1 << 20, 3)]
    for frame in frames:
        a.transport.send("b", frame)
    heard = [await b.hear() for _ in frames]
    assert heard == [("a", frame) for frame in frames]


async def test_a_link_that_closes_is_told_at_once_and_made_again(pair: tuple[End, End]) -> None:
    a, b = pair
    await b.transport.close()
    async with asyncio.timeout(5):
        assert await a.closed.get() == "b"
    a.transport.send("b", b"into the void")
    assert a.transport.frames_dropped >= 1
    again = End("b", TcpTransport(listen=b.transport.address))
    await again.start()
    await connected(a, again)
    await again.transport.close()


async def test_one_who_is_not_a_member_yet_can_answer_on_the_link_that_came_in(pair: tuple[End, End]) -> None:
    a, _ = pair
    learner = End("c", TcpTransport())
    await learner.start()
    a.transport.set_members({"c": learner.transport.address})
    await connected(a, learner)
    learner.transport.send("a", b"here I am")
    assert await a.hear() == ("c", b"here I am")
    await learner.transport.close()


@pytest.mark.parametrize(
    "hello",
    [
        msgspec.msgpack.encode([99, "raft", "x"]),
        msgspec.msgpack.encode([1, "another group", "x"]),
        msgspec.msgpack.encode([1, "raft", "a"]),
        b"GET / HTTP/1.1",
    ],
    ids=["another version", "another group", "its own name", "no hello"],
)
async def test_strangers_are_cut_off(pair: tuple[End, End], hello: bytes) -> None:
    a, _ = pair
    host, _, port = a.transport.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(struct.pack(">I", len(hello)) + hello + struct.pack(">I", 3) + b"bad")
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await reader.readexactly(1)
    writer.close()
    assert a.transport.frames_refused == 1
    assert a.frames.empty()


@pytest.mark.parametrize(("size", "refused"), [((1 << 20), False), ((1 << 20) + 1, True)])
async def test_a_frame_over_the_bound_cuts_the_link(pair: tuple[End, End], size: int, refused: bool) -> None:
    a, _ = pair
    host, _, port = a.transport.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    hello = msgspec.msgpack.encode([1, "raft", "x"])
    writer.write(struct.pack(">I", len(hello)) + hello + struct.pack(">I", size) + bytes(min(size, 1 << 20)))
    if refused:
        async with asyncio.timeout(5):
            while not a.transport.frames_refused:
                await asyncio.sleep(0.005)
        assert a.frames.empty()
    else:
        assert (await a.hear())[0] == "x"
    writer.close()


async def test_a_hello_fed_one_byte_at_a_time_is_understood(pair: tuple[End, End]) -> None:
    a, _ = pair
    host, _, port = a.transport.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    hello = msgspec.msgpack.encode([1, "raft", "x"])
    for byte in struct.pack(">I", len(hello)) + hello + struct.pack(">I", 2) + b"hi":
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0)
    assert await a.hear() == ("x", b"hi")
    writer.close()


async def test_frames_travel_under_tls_and_not_without_the_right_certificate(tmp_path: Path) -> None:
    server, client, stranger = _contexts(tmp_path)
    a = End("a", TcpTransport(server_tls=server, client_tls=client))
    b = End("b", TcpTransport(server_tls=server, client_tls=client))
    bad = End("c", TcpTransport(server_tls=server, client_tls=stranger))
    for end in (a, b, bad):
        await end.start()
    a.transport.set_members({"b": b.transport.address})
    bad.transport.set_members({"b": b.transport.address})
    await connected(a, b, b"sealed")
    bad.transport.send("b", b"not sealed")
    assert bad.transport.frames_dropped == 1
    for end in (a, b, bad):
        await end.transport.close()


def _contexts(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext, ssl.SSLContext]:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def certificate(name: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        pem, secret = directory / f"{name}.pem", directory / f"{name}.key"
        pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return pem, secret

    pem, secret = certificate("group")
    other_pem, other_secret = certificate("stranger")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem, secret)
    server.load_verify_locations(pem)
    server.verify_mode = ssl.CERT_REQUIRED
    contexts = []
    for chain in ((pem, secret), (other_pem, other_secret)):
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.load_verify_locations(pem)
        client.load_cert_chain(*chain)
        contexts.append(client)
    return server, contexts[0], contexts[1]
