"""The shell: sockets, timers and chance around the core. One `Gossip` is one member.

Datagrams go straight from the loop's callback through `Seal`, the decoder and the core; the core's answer is
performed before the next one is read. Only streams and seeds need tasks, and a task group owns them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import random
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Literal, Self

from msgspec import Struct

from gossip import codec
from gossip.core import Membership
from gossip.effects import (
    Answer,
    Ask,
    AskFailed,
    CallSeeds,
    Conflict,
    Effect,
    Established,
    MemberEvent,
    Request,
    Response,
    Send,
    StreamOnly,
    TableHeard,
)
from gossip.errors import IdConflict, Malformed, Rejected, SettingsInvalid, StreamFailed
from gossip.messages import (
    Address,
    Compare,
    InSync,
    Member,
    NodeId,
    StreamAck,
    StreamPing,
    Taken,
    decode_datagram,
    encode_datagram,
)
from gossip.seal import SESSION_BYTES, Keyring, Seal
from gossip.seeds import SEED_ADDRESSES_MAX, Resolve, parse_seed, resolve_by_dns, retry_delay_s
from gossip.settings import Settings
from gossip.stats import Stats
from gossip.stream import FRAME_BYTES_MAX, Streams, TcpStreams
from gossip.table import Snapshot, is_live

log = logging.getLogger("gossip")

Phase = Literal["starting", "searching", "member", "leaving", "closed"]
_STREAM_TIMEOUT_S = 5.0
_BIND_TRIES = 16
_RECEIVE_BUFFER_BYTES = 1 << 20  # a burst from a few hundred members while the loop is busy


class Status(Struct, frozen=True):
    """Where this member stands, for people."""

    node_id: NodeId
    address: Address | None
    phase: Phase
    live: int
    seeds: tuple[str, ...]
    join_rounds: int  # rounds of calling the seeds so far
    join_error: str  # why the last round failed; "" when it did not
    conflict: str  # the two addresses that claim our id; "" when there are none


class ShellStats(Struct, frozen=True):
    """Totals since the start. `dropped` counts packets by reason: those of `seal.REASONS`, `malformed`
    (authentic, but not ours to read), `unknown_message` (a single message of a newer version was skipped),
    `unsent` (the operating system refused)."""

    core: Stats
    received: int
    received_bytes: int
    sent: int
    sent_bytes: int
    dropped: dict[str, int]


class Gossip:
    """A member on a UDP socket and streams of the same port number.

    Use as `async with Gossip(...) as gossip:`; leaving the block closes the sockets, after `leave` others
    have been told. Entering waits for the first round of calls to the seeds. It raises IdConflict when
    another live process has our id, OSError when the port cannot be bound; that no seed answers is not an
    error: the calls go on, `status()` says so. A later failure cancels the block and is raised from it.

    `on_event` is called after each change of a member, in order, outside the core; it must not block.
    """

    def __init__(
        self,
        *,
        node_id: str,
        keyring: Keyring,
        cluster_id: str,
        bind: Address,
        seeds: Sequence[str] = (),
        meta: bytes = b"",
        advertise_host: str | None = None,
        settings: Settings | None = None,
        streams: Streams | None = None,
        on_event: Callable[[MemberEvent], None] | None = None,
        resolve: Resolve = resolve_by_dns,
        rng: random.Random | None = None,
    ) -> None:
        """`advertise_host` is what others use to reach us, a numeric address; needed when `bind` is a
        wildcard. Raises SettingsInvalid."""
        host = advertise_host or bind.host
        try:
            if ipaddress.ip_address(host).is_unspecified:
                raise SettingsInvalid(
                    f"others cannot reach {host}; set advertise_host to an address of this host"
                )
        except ValueError as error:
            raise SettingsInvalid(f"{host!r} is not a numeric IP address") from error
        if not 0 < len(node_id) <= 64:
            raise SettingsInvalid(f"a node id has 1 to 64 characters, not {len(node_id)}")
        self._node_id = NodeId(node_id)
        self._bind = bind
        self._advertise_host = host
        self._seeds = tuple(seeds)
        self._seed_targets = [parse_seed(seed, bind.port) for seed in seeds]
        self._meta = meta
        self._settings = settings or Settings()
        self._streams: Streams = streams or TcpStreams()
        self._on_event = on_event
        self._resolve = resolve
        self._rng = rng or random.Random(secrets.randbits(128))
        self._seal = Seal(keyring, cluster_id, session=os.urandom(SESSION_BYTES))
        self._core: Membership | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tasks = asyncio.TaskGroup()
        self._background: set[asyncio.Task[object]] = set()
        self._failure: asyncio.Future[None] | None = None
        self._joined = asyncio.Event()
        self._spread = asyncio.Event()
        self._phase: Phase = "starting"
        self._join_rounds = 0
        self._join_error = ""
        self._conflict = ""
        self._dropped: Counter[str] = Counter()
        self._received = self._received_bytes = self._sent = self._sent_bytes = 0

    # Life.

    async def __aenter__(self) -> Self:
        await self._open_sockets()
        await self._tasks.__aenter__()
        try:
            self._failure = asyncio.get_running_loop().create_future()
            self._start(self._watch_failure(), "gossip failure watch")
            await self._join_first()
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close: timer, tasks, sockets, in this order. Raises what ended a background task."""
        self._phase = "closed"
        if self._timer is not None:
            self._timer.cancel()
        for background in list(self._background):
            background.cancel()
        failure = self._failure
        try:
            await self._tasks.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            single = group.exceptions[0] if len(group.exceptions) == 1 else None
            if single is None:
                raise
            if single is not error:
                raise single from None
        finally:
            if failure is not None:
                failure.cancel()
            if self._transport is not None:
                self._transport.close()
            await self._streams.close()
            await asyncio.sleep(0)  # the transport calls connection_lost in the next step

    async def leave(self, timeout_s: float = 3.0) -> bool:
        """Tell the others that we go; True when it was told as often as an update is told, False when
        `timeout_s` was too short. Leave the `async with` block afterwards."""
        core, loop = self._running(), asyncio.get_running_loop()
        self._phase = "leaving"
        self._spread.clear()
        self._feed(core.leave(loop.time()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._spread.wait()
        return core.has_spread

    async def wait_joined(self) -> None:
        """Return once we have announced ourselves to the cluster (at once for a node without seeds)."""
        await self._joined.wait()

    # What may be read and said.

    @property
    def address(self) -> Address:
        """Where others reach us."""
        return self._running().me.address

    def members(self) -> Snapshot:
        """All rows at this moment, tombstones included."""
        return self._running().members(asyncio.get_running_loop().time())

    def live_members(self) -> list[Member]:
        """Alive and suspect members, ourselves included."""
        return [row for row in self.members() if is_live(row)]

    def get(self, node_id: str) -> Member | None:
        return self._running().get(NodeId(node_id))

    def set_meta(self, meta: bytes) -> None:
        """Spread new metadata. Raises MetaTooLarge."""
        self._feed(self._running().announce(asyncio.get_running_loop().time(), meta=meta))

    def status(self) -> Status:
        core = self._core
        return Status(
            node_id=self._node_id,
            address=None if core is None else core.me.address,
            phase=self._phase,
            live=0 if core is None else core.live_count,
            seeds=self._seeds,
            join_rounds=self._join_rounds,
            join_error=self._join_error,
            conflict=self._conflict,
        )

    def stats(self) -> ShellStats:
        return ShellStats(
            core=self._running().stats(),
            received=self._received,
            received_bytes=self._received_bytes,
            sent=self._sent,
            sent_bytes=self._sent_bytes,
            dropped=dict(self._dropped),
        )

    # Sockets.

    async def _open_sockets(self) -> None:
        loop = asyncio.get_running_loop()
        for last in reversed(range(_BIND_TRIES)):
            port = await self._streams.serve(self._bind.host, self._bind.port, self._respond)
            try:
                transport, _ = await loop.create_datagram_endpoint(
                    lambda: _Datagrams(self), local_addr=(self._bind.host, port)
                )
                break
            except OSError:
                await self._streams.close()
                if self._bind.port or not last:  # else the system chose the port: let it choose another
                    raise
        self._transport = transport
        self._widen_receive_buffer(transport)
        self._core = Membership(
            node_id=self._node_id,
            address=Address(self._advertise_host, port),
            meta=self._meta,
            instance=secrets.randbits(63),
            settings=self._settings,
            rng=self._rng,
        )

    def _widen_receive_buffer(self, transport: asyncio.DatagramTransport) -> None:
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)

    def on_datagram(self, packet: bytes, source: Address) -> None:
        """A datagram came. Whatever it holds, nothing is raised: a fault of ours ends the member instead."""
        self._received += 1
        self._received_bytes += len(packet)
        try:
            plain = self._seal.open(packet, bytes_max=self._settings.datagram_bytes_max)
            messages, unknown = decode_datagram(plain)
        except Rejected as rejected:
            self._dropped[rejected.reason] += 1
            return
        except Malformed:
            self._dropped["malformed"] += 1
            return
        self._dropped["unknown_message"] += unknown
        core, now = self._running(), asyncio.get_running_loop().time()
        try:
            for message in messages:
                self._perform(core.handle(now, message, source))
            self._arm()
        except Exception as error:
            self._fail(error)

    def on_unsent(self) -> None:
        """The system reported that a datagram did not go out or found nobody (ICMP)."""
        self._dropped["unsent"] += 1

    def _respond(self, packet: bytes) -> bytes | None:
        """A request came by stream; None when it is not from a member."""
        request = self._open_stream(packet)
        if request is None or self._phase == "closed":
            return None
        if not _is_request(request):
            self._dropped["malformed"] += 1
            return None
        try:
            effects = self._running().handle(asyncio.get_running_loop().time(), request)
            self._feed([effect for effect in effects if not isinstance(effect, Answer)])
        except Exception as error:
            self._fail(error)
            return None
        (answer,) = [effect.response for effect in effects if isinstance(effect, Answer)]
        return self._seal.seal(codec.encode(answer))

    def _open_stream(self, packet: bytes) -> Request | Response | None:
        try:
            return codec.decode(self._seal.open(packet, bytes_max=FRAME_BYTES_MAX))
        except Rejected as rejected:
            self._dropped[rejected.reason] += 1
        except Malformed:
            self._dropped["malformed"] += 1
        return None

    # The core's effects.

    def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self._send(effect)
                case MemberEvent():
                    self._tell(effect)
                case Ask():
                    self._start(self._ask(effect.address, effect.request), f"gossip ask {effect.address}")
                case Established():
                    self._phase = "member"
                    self._join_error = ""
                    self._joined.set()
                    log.info("joined the cluster", extra={"event": "gossip.joined", "node_id": self._node_id})
                case CallSeeds():
                    if self._seeds:
                        self._start(self._call_absent_seeds(), "gossip call seeds")
                case StreamOnly():
                    log.warning(
                        "member answers by stream but not by datagram; is UDP blocked?",
                        extra={"event": "gossip.stream_only", "member": effect.member.node_id},
                    )
                case Conflict():
                    self._report_conflict(effect)
                case Answer():
                    raise AssertionError("an answer outside of a stream request")

    def _feed(self, effects: Sequence[Effect]) -> None:
        """Perform, and wake when the core next wants it."""
        self._perform(effects)
        self._arm()

    def _send(self, effect: Send) -> None:
        transport = self._transport
        assert transport is not None
        packet = self._seal.seal(encode_datagram(effect.messages))
        self._sent += 1
        self._sent_bytes += len(packet)
        if not transport.is_closing():
            transport.sendto(packet, tuple(effect.address))

    def _tell(self, event: MemberEvent) -> None:
        row = event.member
        log.info(
            "member changed",
            extra={
                "event": f"gossip.{event.change.value}",
                "node_id": self._node_id,
                "member": row.node_id,
                "incarnation": row.incarnation,
                "address": str(row.address),
            },
        )
        if self._on_event is not None:
            self._on_event(event)

    def _report_conflict(self, conflict: Conflict) -> None:
        self._conflict = f"{conflict.ours} and {conflict.theirs}"
        text = f"two nodes claim the id {conflict.node_id}: {conflict.ours} (this one) and {conflict.theirs}"
        log.error(
            text,
            extra={
                "event": "gossip.id_conflict",
                "node_id": conflict.node_id,
                "ours": str(conflict.ours),
                "theirs": str(conflict.theirs),
            },
        )
        if conflict.fatal:
            self._fail(
                IdConflict(f"{text}; this one came later and does not start: give it an id of its own")
            )

    def _arm(self) -> None:
        core = self._core
        if core is None or self._phase == "closed":
            return
        if core.has_spread:
            self._spread.set()
        deadline = core.next_deadline()
        if self._timer is not None:
            if self._timer.when() == deadline and not self._timer.cancelled():
                return
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        core, loop = self._running(), asyncio.get_running_loop()
        try:
            # The loop may wake up to its clock's resolution early; the core wants its deadline reached.
            self._feed(core.on_tick(max(loop.time(), core.next_deadline() or 0.0)))
        except Exception as error:
            self._fail(error)

    # Tasks: streams, seeds, the failure that ends us.

    def _start(self, work: Coroutine[Any, Any, object], name: str) -> None:
        background = self._tasks.create_task(work, name=name)
        self._background.add(background)
        background.add_done_callback(self._background.discard)

    async def _ask(self, address: Address, request: Request) -> bool:
        """One request and its answer, or its failure, into the core; whether it was answered."""
        core, loop = self._running(), asyncio.get_running_loop()
        response: Request | Response | None = None
        try:
            async with asyncio.timeout(_STREAM_TIMEOUT_S):
                packet = await self._streams.ask(address, self._seal.seal(codec.encode(request)))
        except (StreamFailed, TimeoutError) as error:
            if not self._joined.is_set():
                self._join_error = f"{address}: {error or 'no answer in time'}"
        else:
            response = self._open_stream(packet)
            if response is not None and not _answers(request, response):
                self._dropped["malformed"] += 1
                response = None
        if self._phase == "closed":
            return False
        if response is None:
            self._feed(core.handle(loop.time(), AskFailed(request)))
            return False
        self._feed(core.handle(loop.time(), response, address))
        return True

    async def _join_first(self) -> None:
        """One round of calls before we are in use; what fails goes on in the background."""
        if not self._seeds:
            self._feed(self._running().establish(asyncio.get_running_loop().time()))
            return
        self._phase = "searching"
        await self._call_round()
        if not self._joined.is_set():
            self._start(self._join(), "gossip join")

    async def _join(self) -> None:
        while not self._joined.is_set():
            delay_s = retry_delay_s(self._join_rounds, self._rng)
            log.warning(
                "no seed answered; trying on",
                extra={
                    "event": "gossip.searching",
                    "node_id": self._node_id,
                    "seeds": list(self._seeds),
                    "rounds": self._join_rounds,
                    "error": self._join_error,
                    "next_s": round(delay_s, 3),
                },
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._joined.wait()
            if not self._joined.is_set():
                await self._call_round()

    async def _call_round(self) -> None:
        """Call all seeds. Those that are ourselves do not count; when all are, we are the first member."""
        core = self._running()
        own = core.me.address
        self._join_rounds += 1
        self._join_error = ""
        addresses: set[Address] = set()
        others = 0
        for found in await self._resolve_seeds():
            if own not in found:
                others += 1
                addresses |= set(found)
        if others == 0:
            self._feed(core.establish(asyncio.get_running_loop().time()))
            return
        if not addresses:
            return
        chosen = self._rng.sample(sorted(addresses), min(len(addresses), SEED_ADDRESSES_MAX))
        answered = await asyncio.gather(*(self._ask(address, core.open_exchange()) for address in chosen))
        if any(answered) and not self._joined.is_set():
            # Our id is being found out about; that takes a few probes and ends in a join or a conflict.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(4 * self._settings.probe_period_s):
                    await self._joined.wait()

    async def _call_absent_seeds(self) -> None:
        """Call one seed that is no live member: it may stand on the other side of a healed partition."""
        core = self._running()
        present = {row.address for row in self.members() if is_live(row)}
        absent = sorted({address for found in await self._resolve_seeds() for address in found} - present)
        if absent:
            await self._ask(self._rng.choice(absent), core.open_exchange())

    async def _resolve_seeds(self) -> list[Sequence[Address]]:
        """Per seed its addresses; none for a name that does not resolve now."""
        return await asyncio.gather(*(self._resolve_seed(host, port) for host, port in self._seed_targets))

    async def _resolve_seed(self, host: str, port: int) -> Sequence[Address]:
        try:
            async with asyncio.timeout(_STREAM_TIMEOUT_S):
                return await self._resolve(host, port)
        except OSError as error:  # TimeoutError included
            if not self._joined.is_set():
                self._join_error = f"{host} does not resolve: {error or 'no answer in time'}"
            return ()

    def _fail(self, error: Exception) -> None:
        assert self._failure is not None
        if not self._failure.done():
            self._failure.set_exception(error)

    async def _watch_failure(self) -> None:
        assert self._failure is not None
        await self._failure

    def _running(self) -> Membership:
        if self._core is None:
            raise RuntimeError("this Gossip has not been entered: use `async with`")
        return self._core


class _Datagrams(asyncio.DatagramProtocol):
    """asyncio's side of the socket."""

    def __init__(self, gossip: Gossip) -> None:
        self._gossip = gossip

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._gossip.on_datagram(data, Address(addr[0], addr[1]))

    def error_received(self, exc: Exception) -> None:
        self._gossip.on_unsent()


def _is_request(message: Request | Response) -> bool:
    if isinstance(message, TableHeard):
        return message.push
    return isinstance(message, StreamPing | Compare)


def _answers(request: Request, response: Request | Response) -> bool:
    if isinstance(request, StreamPing):
        return isinstance(response, StreamAck)
    if isinstance(request, Compare):
        return isinstance(response, InSync) or (isinstance(response, TableHeard) and not response.push)
    return isinstance(response, Taken)
