"""Membership under SWIM with Lifeguard's extensions: the pure core.

Events and time in, effects out. Nothing here reads a clock, a socket or a global source of chance; equal
state, equal input and an equal `rng` give equal output. Times are seconds of the caller's monotonic clock
and never travel.

Read `handle`, then `_claim` and `_become`: every change of a row goes through them.
SWIM = Das, Gupta, Motivala 2002. Lifeguard = Dadgar, Phillips, Currey 2018.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from typing import ClassVar

import msgspec
from msgspec import Struct

from gossip.awareness import Awareness, failed_probe_delta
from gossip.broadcast import BroadcastQueue
from gossip.effects import (
    Answer,
    Ask,
    AskFailed,
    CallSeeds,
    Conflict,
    Effect,
    Established,
    Event,
    MemberEvent,
    Send,
    StreamOnly,
    TableHeard,
)
from gossip.errors import MetaTooLarge
from gossip.messages import (
    ANONYMOUS,
    INCARNATION_MAX,
    LIST_HEADER_BYTES,
    Ack,
    Address,
    Alive,
    Compare,
    DatagramMessage,
    Dead,
    InSync,
    Left,
    Member,
    Nack,
    NodeId,
    Ping,
    PingReq,
    State,
    StreamAck,
    StreamPing,
    Suspect,
    Taken,
    Update,
    size_of,
)
from gossip.order import ProbeOrder
from gossip.seal import OVERHEAD_BYTES
from gossip.settings import Settings
from gossip.spread import exchange_interval_s, rejoin_chance, retransmit_limit
from gossip.suspicion import Suspicion, confirmations_wanted, suspicion_min_s
from gossip.table import (
    EMPTY,
    TRANSITIONS,
    Base,
    Change,
    MemberTable,
    Snapshot,
    describes_newer,
    is_live,
    wins,
)

UNKNOWN, ALIVE, SUSPECT, DEAD, LEFT = State
NEVER = math.inf
_SEQ_MASK = 0xFFFFFFFF


class Counters(Struct):
    """Totals since the start."""

    probes: int = 0
    probes_failed: int = 0
    accusations: int = 0  # own failed probes that made or confirmed a suspicion
    refutations: int = 0
    buried: int = 0  # own suspicions that ran out
    stream_only: int = 0
    exchanges: int = 0
    exchanges_full: int = 0
    exchanges_failed: int = 0
    exchanges_refused: int = 0  # exchanges_max
    relays_refused: int = 0  # relays_max
    members_refused: int = 0  # members_max
    misaddressed: int = 0  # pings for somebody else: a node id moved
    stalls: int = 0


class Stats(Struct, frozen=True):
    """Fill levels and totals at one moment."""

    live: int
    suspect: int
    tombstones: int
    awareness: int
    broadcasts: int
    broadcasts_peak: int
    broadcasts_dropped: int
    relays: int
    exchanges_open: int
    totals: Counters


class _Probe:
    """The probe of the current period."""

    __slots__ = ("acked", "asked", "ends_at", "nacks", "nacks_wanted", "seq", "target")

    def __init__(self, *, target: NodeId, seq: int, ends_at: float) -> None:
        self.target = target
        self.seq = seq
        self.ends_at = ends_at
        self.acked = False
        self.asked = False  # the indirect probes are out
        self.nacks = 0
        self.nacks_wanted = 0


class _Relay(Struct, frozen=True, gc=False):
    asker: Address
    asker_seq: int
    target: NodeId


class _Rival:
    """A claim of our id by another process, being checked."""

    __slots__ = ("address", "incarnation", "next_ping_at", "pings_left", "seq")

    def __init__(self, *, address: Address, incarnation: int, seq: int, now: float) -> None:
        self.address = address
        self.incarnation = incarnation
        self.seq = seq
        self.next_ping_at = now
        self.pings_left = 4


class Membership:
    """Member table of one node under SWIM. The only code that changes a member's state.

    Until `established` it claims nothing: it answers, and learns. `establish` ends that (a first node), or
    the first answer to a `open_exchange()` does (a join), unless a live process has our id already.
    """

    __slots__ = (
        "_awareness",
        "_conflict_told_at",
        "_counters",
        "_event_order",
        "_exchange_at",
        "_exchanges_open",
        "_gossip_at",
        "_instance",
        "_leaving",
        "_order",
        "_probe",
        "_probe_at",
        "_queue",
        "_reap_at",
        "_refused",
        "_rejoin_at",
        "_relay_deadlines",
        "_relays",
        "_rival",
        "_rng",
        "_seq",
        "_settings",
        "_suspicion_heap",
        "_suspicions",
        "_table",
        "_tombstones",
        "established",
        "node_id",
    )

    def __init__(
        self,
        *,
        node_id: NodeId,
        address: Address,
        meta: bytes,
        instance: int,
        settings: Settings,
        rng: random.Random,
        base: Base = EMPTY,
    ) -> None:
        """`instance` is a random number of this process. Raises MetaTooLarge."""
        _require_meta(meta, settings)
        self.node_id = node_id
        self.established = False
        self._instance = instance
        self._settings = settings
        self._rng = rng
        self._table = MemberTable(base)
        if self._table.get(node_id) is None:
            self._table.put(Member(node_id, ALIVE, 0, address, meta, instance, 0))
        self._order = ProbeOrder(self._table, rng)
        self._queue = BroadcastQueue(settings.broadcasts_max)
        self._awareness = Awareness(settings.awareness_max)
        self._counters = Counters()
        self._seq = rng.getrandbits(32)
        self._event_order = 0
        self._leaving = False
        self._refused = False  # another process has our id, and it was there first
        self._probe: _Probe | None = None
        self._suspicions: dict[NodeId, Suspicion] = {}
        self._suspicion_heap: list[tuple[float, NodeId]] = []  # may hold outdated entries
        self._relays: dict[int, _Relay] = {}
        self._relay_deadlines: deque[tuple[float, int]] = deque()
        self._tombstones: dict[NodeId, float] = {}  # since when
        self._exchanges_open = 0
        self._rival: _Rival | None = None
        self._conflict_told_at = -NEVER
        self._probe_at = self._gossip_at = self._exchange_at = self._rejoin_at = self._reap_at = NEVER

    # What may be read.

    @property
    def me(self) -> Member:
        """Our own row."""
        row = self._table.get(self.node_id)
        assert row is not None
        return row

    @property
    def live_count(self) -> int:
        """Alive and suspect members, ourselves included."""
        return self._table.live_count

    @property
    def has_spread(self) -> bool:
        """Nothing of ours waits to be told: after `leave`, the moment to close."""
        return self.node_id not in self._queue or self._table.live_count == (0 if self._leaving else 1)

    @property
    def awareness(self) -> int:
        return self._awareness.score

    @property
    def digest(self) -> int:
        """Equal for equal live rows."""
        return self._table.digest

    @property
    def totals(self) -> Counters:
        """The running totals. To be read only."""
        return self._counters

    @property
    def probed(self) -> NodeId | None:
        """The member that this period's probe is for."""
        return None if self._probe is None else self._probe.target

    def get(self, node_id: NodeId) -> Member | None:
        return self._table.get(node_id)

    def members(self, now: float) -> Snapshot:
        """All rows, tombstones included."""
        return self._table.snapshot({node_id: now - since for node_id, since in self._tombstones.items()})

    def stats(self) -> Stats:
        return Stats(
            live=self._table.live_count,
            suspect=len(self._suspicions),
            tombstones=len(self._tombstones),
            awareness=self._awareness.score,
            broadcasts=len(self._queue),
            broadcasts_peak=self._queue.peak,
            broadcasts_dropped=self._queue.dropped,
            relays=len(self._relays),
            exchanges_open=self._exchanges_open,
            totals=msgspec.structs.replace(self._counters),
        )

    def suspicion(self, node_id: NodeId) -> Suspicion | None:
        """The open suspicion of a member. To be read only."""
        return self._suspicions.get(node_id)

    def waiting_updates(self) -> list[Update]:
        """Updates waiting to be spread, the next one first."""
        return list(self._queue)

    def next_deadline(self) -> float | None:
        """When `on_tick` is next worth calling; None when nothing is due ever."""
        first = min(self._probe_at, self._gossip_at, self._exchange_at, self._rejoin_at, self._reap_at)
        if self._suspicion_heap and self._suspicion_heap[0][0] < first:
            first = self._suspicion_heap[0][0]
        if self._relay_deadlines and self._relay_deadlines[0][0] < first:
            first = self._relay_deadlines[0][0]
        if self._rival is not None and self._rival.next_ping_at < first:
            first = self._rival.next_ping_at
        return None if first == NEVER else first

    # Events.

    def handle(self, now: float, message: Event, source: Address | None = None) -> list[Effect]:
        """Take one message in. `source` is where a datagram came from; None for streams."""
        effects: list[Effect] = []
        self._HANDLERS[type(message)](self, now, message, source, effects)
        return effects

    def on_tick(self, now: float) -> list[Effect]:
        """Do what is due: probes, suspicions that ran out, gossip, exchanges, forgetting."""
        effects: list[Effect] = []
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return effects
        if now - deadline > self._settings.stall_s:
            self._forgive_stall(now - deadline)
        self._end_relays(now, effects)
        if now >= self._probe_at:
            self._advance_probe(now, effects)
        self._end_suspicions(now, effects)
        if now >= self._gossip_at:
            self._gossip(now, effects)
        if now >= self._exchange_at:
            self._exchange(now, effects)
        if now >= self._rejoin_at:
            self._call_the_lost(now, effects)
        if now >= self._reap_at:
            self._reap(now)
        if self._rival is not None and now >= self._rival.next_ping_at:
            self._press_rival(now, effects)
        return effects

    def establish(self, now: float) -> list[Effect]:
        """Announce ourselves and start to probe. Without effect when done already."""
        effects: list[Effect] = []
        if not self.established:
            self._establish(now, effects)
        return effects

    def announce(
        self, now: float, *, meta: bytes | None = None, address: Address | None = None
    ) -> list[Effect]:
        """Spread new metadata or a new address of ours, under a new incarnation. Raises MetaTooLarge."""
        me = self.me
        meta = me.meta if meta is None else meta
        _require_meta(meta, self._settings)
        effects: list[Effect] = []
        if self._leaving or (meta == me.meta and address in (None, me.address)):
            return effects
        self._describe_anew(now, me.incarnation + 1, effects, meta=meta, address=address or me.address)
        return effects

    def leave(self, now: float) -> list[Effect]:
        """Say that we go. Keep the core running until `has_spread`."""
        effects: list[Effect] = []
        if self._leaving:
            return effects
        self._leaving = True
        me = self.me
        self._become(now, me, msgspec.structs.replace(me, state=LEFT), effects)
        if self.established:
            self._enqueue(now, Left(self.node_id, me.incarnation))
            self._gossip_at = now
        self._probe, self._probe_at, self._exchange_at, self._rejoin_at = None, NEVER, NEVER, NEVER
        return effects

    def open_exchange(self) -> Compare:
        """The request that starts an exchange, or a join; its answer or its failure is to be handled."""
        self._exchanges_open += 1
        self._counters.exchanges += 1
        return Compare(self.node_id, self._instance, self._table.digest)

    # Probes (SWIM, section 3.1; Lifeguard, section IV-A).

    def _advance_probe(self, now: float, effects: list[Effect]) -> None:
        probe = self._probe
        if probe is not None:
            if now < probe.ends_at:
                self._probe_at = probe.ends_at
                if not probe.acked and not probe.asked:
                    self._probe_indirectly(now, probe, effects)
                return
            self._end_probe(now, probe, effects)
        self._begin_probe(now, effects)

    def _begin_probe(self, now: float, effects: list[Effect]) -> None:
        period_s = self._awareness.probe_period_s(self._settings.probe_period_s)
        target = self._order.next(self._is_live_other)
        if target is None:
            self._probe, self._probe_at = None, now + period_s
            return
        row = self._table.get(target)
        assert row is not None
        self._counters.probes += 1
        self._probe = _Probe(target=target, seq=self._next_seq(), ends_at=now + period_s)
        self._probe_at = now + self._settings.probe_timeout_s
        ping = Ping(self._probe.seq, self.node_id, self._instance, target)
        if row.state is SUSPECT:  # the accused hears it from us at once (Lifeguard, section IV-C: buddy)
            self._send(row.address, (ping, Suspect(ANONYMOUS, target, row.incarnation)), effects)
        else:
            self._send(row.address, (ping,), effects)

    def _probe_indirectly(self, now: float, probe: _Probe, effects: list[Effect]) -> None:
        probe.asked = True
        target = self._table.get(probe.target)
        if not is_live(target):
            return
        assert target is not None
        relays = self._table.pick(
            self._rng,
            self._settings.indirect_probes,
            lambda node_id: node_id != probe.target and self._is_live_other(node_id),
        )
        probe.nacks_wanted = len(relays)
        for relay in relays:
            row = self._table.get(relay)
            assert row is not None
            self._send(
                row.address, (PingReq(probe.seq, self.node_id, probe.target, target.address),), effects
            )
        if self._settings.stream_probe:
            request = StreamPing(probe.seq, self.node_id, self._instance, probe.target)
            effects.append(Ask(target.address, request))

    def _end_probe(self, now: float, probe: _Probe, effects: list[Effect]) -> None:
        self._probe = None
        row = self._table.get(probe.target)
        if probe.acked or row is None or not is_live(row):
            return
        self._counters.probes_failed += 1
        self._awareness.apply(failed_probe_delta(nacks_wanted=probe.nacks_wanted, nacks_received=probe.nacks))
        if self._hear_suspect(now, Suspect(self.node_id, probe.target, row.incarnation), effects):
            self._counters.accusations += 1

    def _on_ping(self, now: float, m: Ping, source: Address | None, effects: list[Effect]) -> None:
        assert source is not None
        if m.target != self.node_id:
            self._counters.misaddressed += 1
            return
        if m.source == self.node_id and m.instance != self._instance:
            self._tell_conflict(now, source, effects)
        self._send(source, (Ack(m.seq, self.node_id, self._instance),), effects)

    def _on_ping_req(self, now: float, m: PingReq, source: Address | None, effects: list[Effect]) -> None:
        assert source is not None
        if len(self._relays) >= self._settings.relays_max:
            self._counters.relays_refused += 1
            return
        seq = self._next_seq()
        self._relays[seq] = _Relay(source, m.seq, m.target)
        self._relay_deadlines.append((now + self._settings.probe_timeout_s, seq))
        self._send(m.address, (Ping(seq, self.node_id, self._instance, m.target),), effects)

    def _on_ack(self, now: float, m: Ack, source: Address | None, effects: list[Effect]) -> None:
        probe = self._probe
        if probe is not None and m.seq == probe.seq and m.source == probe.target:
            self._probe_succeeded(probe)
            return
        relay = self._relays.get(m.seq)
        if relay is not None and relay.target == m.source:
            del self._relays[m.seq]
            self._send(relay.asker, (Ack(relay.asker_seq, m.source, m.instance),), effects)
            return
        self._hear_rival(now, m.seq, m.source, m.instance, effects)

    def _on_nack(self, now: float, m: Nack, source: Address | None, effects: list[Effect]) -> None:
        if self._probe is not None and m.seq == self._probe.seq:
            self._probe.nacks += 1

    def _probe_succeeded(self, probe: _Probe) -> bool:
        if probe.acked:
            return False
        probe.acked = True
        self._awareness.apply(-1)
        self._probe_at = probe.ends_at
        return True

    def _end_relays(self, now: float, effects: list[Effect]) -> None:
        while self._relay_deadlines and self._relay_deadlines[0][0] <= now:
            relay = self._relays.pop(self._relay_deadlines.popleft()[1], None)
            if relay is not None:
                self._send(relay.asker, (Nack(relay.asker_seq, self.node_id),), effects)

    def _on_stream_ping(
        self, now: float, m: StreamPing, source: Address | None, effects: list[Effect]
    ) -> None:
        # Asked of somebody else: answer nevertheless with our own name, the asker then sees the mistake.
        if m.target != self.node_id:
            self._counters.misaddressed += 1
        effects.append(Answer(StreamAck(m.seq, self.node_id, self._instance)))

    def _on_stream_ack(self, now: float, m: StreamAck, source: Address | None, effects: list[Effect]) -> None:
        probe = self._probe
        if probe is not None and m.seq == probe.seq and m.source == probe.target:
            row = self._table.get(probe.target)
            if self._probe_succeeded(probe) and row is not None:
                self._counters.stream_only += 1
                effects.append(StreamOnly(row))
            return
        self._hear_rival(now, m.seq, m.source, m.instance, effects)

    def _forgive_stall(self, by_s: float) -> None:
        """We did not run for `by_s` (paused, swapped, blocked). What we did not hear meanwhile says nothing
        about others, so every judgement gets that time added, and we trust ourselves less."""
        self._counters.stalls += 1
        self._awareness.apply(1)
        if self._probe is not None:
            self._probe.ends_at += by_s
            self._probe_at += by_s
        for suspicion in self._suspicions.values():
            suspicion.delay(by_s)
        self._suspicion_heap = [(deadline + by_s, node_id) for deadline, node_id in self._suspicion_heap]

    # Claims.

    def _on_alive(self, now: float, m: Alive, source: Address | None, effects: list[Effect]) -> None:
        self._hear_alive(now, m, effects)

    def _hear_alive(self, now: float, m: Alive, effects: list[Effect]) -> None:
        """State and description are two claims: an `Alive` that an accusation overtook still tells where the
        accused is. An `Alive` that wins is the newer description as well (`version <= incarnation`)."""
        if m.member == self.node_id:
            self._hear_of_me_alive(now, m, effects)
            return
        held = self._table.get(m.member)
        if held is None and self._is_full():
            return
        if wins(held, ALIVE, m.incarnation):
            row = Member(m.member, ALIVE, m.incarnation, m.address, m.meta, m.instance, m.incarnation)
        elif held is not None and describes_newer(m.incarnation, m.instance, held):
            row = Member(m.member, held.state, held.incarnation, m.address, m.meta, m.instance, m.incarnation)
        else:
            return
        self._become(now, held, row, effects)
        if row.state is ALIVE:  # else the accusation is what must spread
            self._enqueue(now, m)

    def _on_suspect(self, now: float, m: Suspect, source: Address | None, effects: list[Effect]) -> None:
        self._hear_suspect(now, m, effects)

    def _hear_suspect(self, now: float, m: Suspect, effects: list[Effect], *, buried: bool = False) -> bool:
        """Accuse, or count a confirmation. `buried`: somebody holds the member dead already."""
        if m.member == self.node_id:
            self._refute(now, m.incarnation, effects)
            return False
        held = self._table.get(m.member)
        if held is None:
            return False
        if wins(held, SUSPECT, m.incarnation):
            row = msgspec.structs.replace(held, state=SUSPECT, incarnation=m.incarnation)
            self._become(now, held, row, effects)
            self._open_suspicion(now, m)
            news = True
        else:
            news = self._confirm_suspicion(held, m)
        suspicion = self._suspicions.get(m.member)
        if buried and suspicion is not None and m.incarnation == suspicion.incarnation:
            suspicion.hasten()
            heapq.heappush(self._suspicion_heap, (suspicion.deadline, m.member))
        if news:
            self._enqueue(now, m)
        return news

    def _confirm_suspicion(self, held: Member, m: Suspect) -> bool:
        suspicion = self._suspicions.get(m.member)
        if suspicion is None or m.incarnation != held.incarnation or m.accuser == ANONYMOUS:
            return False
        if not suspicion.confirm(m.accuser):
            return False
        heapq.heappush(self._suspicion_heap, (suspicion.deadline, m.member))
        return True

    def _open_suspicion(self, now: float, m: Suspect) -> None:
        settings, members = self._settings, self._table.live_count
        min_s = suspicion_min_s(settings.suspicion_mult, members, settings.probe_period_s)
        suspicion = Suspicion(
            now=now,
            first_accuser=m.accuser,
            incarnation=m.incarnation,
            wanted=confirmations_wanted(settings.suspicion_mult, members),
            min_s=min_s,
            max_s=min_s * settings.suspicion_max_mult,
        )
        self._suspicions[m.member] = suspicion
        heapq.heappush(self._suspicion_heap, (suspicion.deadline, m.member))

    def _end_suspicions(self, now: float, effects: list[Effect]) -> None:
        heap = self._suspicion_heap
        while heap and heap[0][0] <= now:
            _, node_id = heapq.heappop(heap)
            suspicion = self._suspicions.get(node_id)
            if suspicion is not None and suspicion.deadline <= now:
                self._counters.buried += 1
                self._hear_dead(now, Dead(self.node_id, node_id, suspicion.incarnation), effects)

    def _on_dead(self, now: float, m: Dead, source: Address | None, effects: list[Effect]) -> None:
        self._hear_dead(now, m, effects)

    def _hear_dead(self, now: float, m: Dead, effects: list[Effect]) -> None:
        if m.member == self.node_id:
            self._refute(now, m.incarnation, effects)
        elif self._claim_gone(now, m.member, DEAD, m.incarnation, effects):
            self._enqueue(now, m)

    def _on_left(self, now: float, m: Left, source: Address | None, effects: list[Effect]) -> None:
        self._hear_left(now, m, effects)

    def _hear_left(self, now: float, m: Left, effects: list[Effect]) -> None:
        if m.member == self.node_id:
            self._refute(now, m.incarnation, effects)
        elif self._claim_gone(now, m.member, LEFT, m.incarnation, effects):
            self._enqueue(now, m)

    def _claim_gone(
        self,
        now: float,
        node_id: NodeId,
        state: State,
        incarnation: int,
        effects: list[Effect],
        described: Member | None = None,
    ) -> bool:
        held = self._table.get(node_id)
        if not wins(held, state, incarnation) or (held is None and self._is_full()):
            return False
        known = described or held
        if known is None:  # nothing but a tombstone: where it was is not known
            row = Member(node_id, state, incarnation, Address("", 0), b"", 0, 0)
        else:
            row = msgspec.structs.replace(known, state=state, incarnation=incarnation)
        self._become(now, held, row, effects)
        return True

    def _become(self, now: float, held: Member | None, row: Member, effects: list[Effect]) -> None:
        """Change one row, and all that hangs on it: suspicion, tombstone, probe list, events."""
        node_id, state = row.node_id, row.state
        before = UNKNOWN if held is None else held.state
        self._table.put(row)
        if held is not None and before is SUSPECT and (state, held.incarnation) != (SUSPECT, row.incarnation):
            self._suspicions.pop(node_id, None)
        if state is DEAD or state is LEFT:
            self._bury(now, node_id)
        elif before is DEAD or before is LEFT:
            del self._tombstones[node_id]
        if held is None:
            self._order.add(node_id)
        changes = TRANSITIONS[before, state].changes
        if held is not None and before is state:
            described_anew = (held.address, held.meta) != (row.address, row.meta)
            changes = (Change.UPDATED,) if described_anew and is_live(row) else ()
        for change in changes:
            self._event_order += 1
            effects.append(MemberEvent(self._event_order, change, row))

    def _bury(self, now: float, node_id: NodeId) -> None:
        self._tombstones.setdefault(node_id, now)
        if len(self._tombstones) > self._settings.tombstones_max:
            self._forget(min(self._tombstones, key=self._tombstones.__getitem__))
        if self._reap_at == NEVER:
            self._reap_at = now + self._reap_period_s()

    def _reap(self, now: float) -> None:
        horizon = now - self._settings.tombstone_s
        for node_id in [node_id for node_id, since in self._tombstones.items() if since <= horizon]:
            self._forget(node_id)
        self._reap_at = now + self._reap_period_s() if self._tombstones else NEVER

    def _forget(self, node_id: NodeId) -> None:
        del self._tombstones[node_id]
        if node_id != self.node_id:
            self._queue.drop(node_id)
            self._table.forget(node_id)

    def _reap_period_s(self) -> float:
        return min(60.0, self._settings.tombstone_s / 8)

    # Claims about ourselves.

    def _refute(self, now: float, incarnation: int, effects: list[Effect]) -> None:
        """Answer an accusation with a higher incarnation (SWIM, section 4.2)."""
        if self._leaving or incarnation < self.me.incarnation:
            return
        if self.established:  # else it is about an earlier process of ours
            self._counters.refutations += 1
            self._awareness.apply(1)
        me = self.me
        self._describe_anew(
            now, min(incarnation + 1, INCARNATION_MAX), effects, meta=me.meta, address=me.address
        )

    def _describe_anew(
        self, now: float, incarnation: int, effects: list[Effect], *, meta: bytes, address: Address
    ) -> None:
        row = Member(self.node_id, ALIVE, incarnation, address, meta, self._instance, incarnation)
        self._become(now, self.me, row, effects)
        if self.established:
            self._enqueue(now, Alive(self.node_id, incarnation, address, meta, self._instance))

    def _hear_of_me_alive(self, now: float, m: Alive, effects: list[Effect]) -> None:
        """An echo, an earlier life of ours, or somebody else under our id."""
        if m.instance == self._instance or m.incarnation < self.me.incarnation or self._leaving:
            return
        if m.address == self.me.address:  # nobody else can be bound to it: an earlier life
            self._refute(now, m.incarnation, effects)
        elif self._rival is None:
            self._challenge(now, m.address, m.incarnation, effects)
        else:
            self._rival.incarnation = max(self._rival.incarnation, m.incarnation)

    def _challenge(self, now: float, address: Address, incarnation: int, effects: list[Effect]) -> None:
        """Find out whether a process that lives has our id: ping it there, under our own name."""
        self._rival = _Rival(address=address, incarnation=incarnation, seq=self._next_seq(), now=now)
        self._press_rival(now, effects)

    def _press_rival(self, now: float, effects: list[Effect]) -> None:
        rival = self._rival
        assert rival is not None
        if rival.pings_left == 0:  # silent: the address is an old one of ours
            self._rival = None
            self._refute(now, rival.incarnation, effects)
            if not self.established:
                self._establish(now, effects)
            return
        rival.pings_left -= 1
        rival.next_ping_at = now + self._settings.probe_period_s / 2
        effects.append(Send(rival.address, (Ping(rival.seq, self.node_id, self._instance, self.node_id),)))
        if rival.pings_left == 2:
            request = StreamPing(rival.seq, self.node_id, self._instance, self.node_id)
            effects.append(Ask(rival.address, request))

    def _hear_rival(self, now: float, seq: int, source: NodeId, instance: int, effects: list[Effect]) -> None:
        rival = self._rival
        if rival is None or seq != rival.seq or source != self.node_id or instance == self._instance:
            return
        self._rival = None
        self._tell_conflict(now, rival.address, effects)

    def _tell_conflict(self, now: float, theirs: Address, effects: list[Effect]) -> None:
        """Say it, at most once a minute. Nobody raises an incarnation over it: that would never end."""
        if now - self._conflict_told_at < 60.0:
            return
        self._conflict_told_at = now
        self._refused = self._refused or not self.established
        effects.append(Conflict(self.node_id, self.me.address, theirs, fatal=not self.established))

    # Dissemination (SWIM, section 4.1) and exchange.

    def _gossip(self, now: float, effects: list[Effect]) -> None:
        if not len(self._queue):
            self._gossip_at = NEVER
            return
        self._gossip_at = now + self._settings.gossip_period_s
        targets = self._table.pick(
            self._rng, self._settings.gossip_fanout, lambda node_id: self._is_told(now, node_id)
        )
        if not targets:  # alone; whoever comes gets the whole table, and its coming starts the gossip again
            self._gossip_at = NEVER
        for node_id in targets:
            row = self._table.get(node_id)
            assert row is not None
            updates = self._take(0)
            if not updates:
                return
            effects.append(Send(row.address, tuple(updates)))

    def _is_told(self, now: float, node_id: NodeId) -> bool:
        row = self._table.get(node_id)
        if row is None or node_id == self.node_id or row.state is LEFT:
            return False
        if row.state is not DEAD:
            return True
        return bool(row.address.host) and now - self._tombstones[node_id] < self._settings.gossip_to_dead_s

    def _enqueue(self, now: float, update: Update) -> None:
        if not self.established:  # a newcomer is told what everybody knows
            return
        self._queue.put(update)
        if self._gossip_at == NEVER:
            self._gossip_at = now + self._rng.random() * self._settings.gossip_period_s

    def _send(self, address: Address, messages: tuple[DatagramMessage, ...], effects: list[Effect]) -> None:
        if len(self._queue):
            messages += tuple(self._take(sum(size_of(message) for message in messages)))
        effects.append(Send(address, messages))

    def _take(self, used_bytes: int) -> list[Update]:
        settings = self._settings
        room = settings.datagram_bytes_max - OVERHEAD_BYTES - LIST_HEADER_BYTES - used_bytes
        limit = retransmit_limit(settings.retransmit_mult, self._table.live_count, settings.retransmit_min)
        return self._queue.take(room, limit)

    def _exchange(self, now: float, effects: list[Effect]) -> None:
        self._exchange_at = now + self._exchange_interval_s()
        for node_id in self._table.pick(self._rng, 1, self._is_live_other):
            row = self._table.get(node_id)
            assert row is not None
            self._ask_compare(row.address, effects)

    def _call_the_lost(self, now: float, effects: list[Effect]) -> None:
        """Call a dead member or the seeds: they may be the other side of a partition that has ended."""
        self._rejoin_at = now + self._settings.rejoin_period_s * (0.8 + 0.4 * self._rng.random())
        live = self._table.live_count
        lost = len(self._tombstones)
        if self._rng.random() < rejoin_chance(lost=lost, live=live):
            node_id = self._rng.choice(list(self._tombstones))
            row = self._table.get(node_id)
            if row is not None and row.state is DEAD and row.address.host:
                self._ask_compare(row.address, effects)
        if self._rng.random() < rejoin_chance(lost=4, live=live):
            effects.append(CallSeeds())

    def _ask_compare(self, address: Address, effects: list[Effect]) -> None:
        if self._exchanges_open >= self._settings.exchanges_max:
            self._counters.exchanges_refused += 1
            return
        effects.append(Ask(address, self.open_exchange()))

    def _on_compare(self, now: float, m: Compare, source: Address | None, effects: list[Effect]) -> None:
        if m.digest == self._table.digest and self.established:
            effects.append(Answer(InSync(self.node_id, self._instance)))
        else:
            effects.append(Answer(TableHeard(self.node_id, self._instance, self._claimed_rows(now))))

    def _on_in_sync(self, now: float, m: InSync, source: Address | None, effects: list[Effect]) -> None:
        self._exchanges_open = max(0, self._exchanges_open - 1)
        self._join_through(now, m.source, m.instance, source, effects)

    def _on_taken(self, now: float, m: Taken, source: Address | None, effects: list[Effect]) -> None:
        self._exchanges_open = max(0, self._exchanges_open - 1)
        if m.alive is not None:
            self._hear_alive(now, m.alive, effects)

    def _on_ask_failed(self, now: float, m: AskFailed, source: Address | None, effects: list[Effect]) -> None:
        if isinstance(m.request, StreamPing):  # its probe ends by its own deadline
            return
        self._exchanges_open = max(0, self._exchanges_open - 1)
        self._counters.exchanges_failed += 1

    def _on_table(self, now: float, m: TableHeard, source: Address | None, effects: list[Effect]) -> None:
        if m.push:
            self._on_push(now, m, effects)
            return
        self._exchanges_open = max(0, self._exchanges_open - 1)
        self._counters.exchanges_full += 1
        self._merge(now, m.snapshot, effects)
        self._join_through(now, m.source, m.instance, source, effects)
        if not self.established or source is None or m.source == self.node_id:
            return
        lacking = self._lacking(now, m.snapshot)
        if len(lacking):
            self._exchanges_open += 1
            effects.append(Ask(source, TableHeard(self.node_id, self._instance, lacking, push=True)))

    def _on_push(self, now: float, m: TableHeard, effects: list[Effect]) -> None:
        self._merge(now, m.snapshot, effects)
        me = self.me
        if self.established and not self._leaving:
            alive = Alive(me.node_id, me.incarnation, me.address, me.meta, me.instance)
            effects.append(Answer(Taken(self.node_id, self._instance, alive)))
            return
        effects.append(Answer(Taken(self.node_id, self._instance)))
        pusher = m.snapshot.get(m.source)
        if pusher is not None and not self.established:  # somebody is there: join through it, now
            self._ask_compare(pusher.address, effects)

    def _join_through(
        self, now: float, member: NodeId, instance: int, address: Address | None, effects: list[Effect]
    ) -> None:
        """A member answered: announce ourselves, unless our id is taken or that is being found out."""
        if member == self.node_id:
            if instance != self._instance and address is not None and self._rival is None:
                self._challenge(now, address, self.me.incarnation, effects)
            return
        if not self.established and self._rival is None:
            self._establish(now, effects)

    def _establish(self, now: float, effects: list[Effect]) -> None:
        if self._refused or self._leaving:
            return
        self.established = True
        effects.append(Established())
        me, settings, rng = self.me, self._settings, self._rng
        self._probe_at = now + rng.random() * settings.probe_period_s
        self._exchange_at = now + rng.random() * self._exchange_interval_s()
        self._rejoin_at = now + rng.random() * settings.rejoin_period_s
        self._enqueue(now, Alive(me.node_id, me.incarnation, me.address, me.meta, me.instance))

    def _merge(self, now: float, heard: Snapshot, effects: list[Effect]) -> None:
        """Take in the rows of another table. They are hearsay: an accusation among them counts for nobody's
        confirmation, and one held dead there is only suspected here, so that it can refute (memberlist)."""
        for node_id in heard.candidates(self._table):
            row = heard.get(node_id)
            if row is None:
                continue
            if node_id == self.node_id:
                self._merge_me(now, row, effects)
            elif is_live(row):
                self._hear_alive(now, _claim_of(row), effects)
                if row.state is SUSPECT:
                    self._hear_suspect(now, Suspect(ANONYMOUS, node_id, row.incarnation), effects)
            elif row.state is DEAD and is_live(self._table.get(node_id)):
                if row.address.host:
                    self._hear_alive(now, _claim_of(row), effects)
                accusation = Suspect(ANONYMOUS, node_id, row.incarnation)
                self._hear_suspect(now, accusation, effects, buried=True)
            else:
                self._merge_gone(now, row, heard.ages.get(node_id, 0.0), effects)

    def _merge_me(self, now: float, row: Member, effects: list[Effect]) -> None:
        if row.instance == self._instance or not is_live(row):
            if row.state is not ALIVE:
                self._refute(now, row.incarnation, effects)
        else:
            claim = Alive(row.node_id, row.incarnation, row.address, row.meta, row.instance)
            self._hear_of_me_alive(now, claim, effects)

    def _merge_gone(self, now: float, row: Member, age_s: float, effects: list[Effect]) -> None:
        """A tombstone keeps its age on the way, or members would tell each other of the dead for ever."""
        if age_s >= self._settings.tombstone_s:
            return
        held = self._table.get(row.node_id)
        described = row if held is None or describes_newer(row.version, row.instance, held) else held
        if self._claim_gone(now, row.node_id, row.state, row.incarnation, effects, described):
            self._tombstones[row.node_id] = min(self._tombstones[row.node_id], now - age_s)
            if row.state is LEFT:
                self._enqueue(now, Left(row.node_id, row.incarnation))

    def _lacking(self, now: float, theirs: Snapshot) -> Snapshot:
        """Our rows that would change their table."""
        rows: dict[NodeId, Member | None] = {}
        for node_id in theirs.candidates(self._table):
            mine = self._table.get(node_id)
            if mine is None:
                continue
            other = theirs.get(node_id)
            if wins(other, mine.state, mine.incarnation) or (
                other is None or describes_newer(mine.version, mine.instance, other)
            ):
                rows[node_id] = mine
        ages = {node_id: now - since for node_id, since in self._tombstones.items() if node_id in rows}
        return Snapshot(EMPTY, rows, ages)

    def _claimed_rows(self, now: float) -> Snapshot:
        """The whole table; before we are established, without ourselves."""
        snapshot = self.members(now)
        return snapshot if self.established else snapshot.without(self.node_id)

    # Small helpers.

    def _is_live_other(self, node_id: NodeId) -> bool:
        row = self._table.get(node_id)
        return row is not None and (row.state is ALIVE or row.state is SUSPECT) and node_id != self.node_id

    def _is_full(self) -> bool:
        if len(self._table) < self._settings.members_max:
            return False
        self._counters.members_refused += 1
        return True

    def _exchange_interval_s(self) -> float:
        settings = self._settings
        return exchange_interval_s(
            settings.exchange_period_s, self._table.live_count, settings.exchange_large_from
        )

    def _next_seq(self) -> int:
        self._seq = (self._seq + 1) & _SEQ_MASK
        return self._seq

    def check_invariants(self) -> None:
        """Compare every fact that is kept twice. For tests; O(members)."""
        self._table.check_invariants()
        rows = {row.node_id: row for row in self.members(0.0)}
        assert {n for n, row in rows.items() if row.state is SUSPECT} == set(self._suspicions)
        assert {n for n, row in rows.items() if row.state in (DEAD, LEFT)} == set(self._tombstones)
        for row in rows.values():
            assert row.version <= row.incarnation
            assert row.state is not ALIVE or row.version == row.incarnation
        heap = set(self._suspicion_heap)
        assert all((s.deadline, node_id) in heap for node_id, s in self._suspicions.items())

    _HANDLERS: ClassVar[dict[type, Callable[..., None]]] = {
        Ping: _on_ping,
        Ack: _on_ack,
        Nack: _on_nack,
        PingReq: _on_ping_req,
        Alive: _on_alive,
        Suspect: _on_suspect,
        Dead: _on_dead,
        Left: _on_left,
        StreamPing: _on_stream_ping,
        StreamAck: _on_stream_ack,
        Compare: _on_compare,
        InSync: _on_in_sync,
        TableHeard: _on_table,
        Taken: _on_taken,
        AskFailed: _on_ask_failed,
    }


def _claim_of(row: Member) -> Alive:
    """What the member itself said last, as far as the row's holder knows."""
    return Alive(row.node_id, row.version, row.address, row.meta, row.instance)


def _require_meta(meta: bytes, settings: Settings) -> None:
    if len(meta) > settings.meta_bytes_max:
        raise MetaTooLarge(
            f"metadata has {len(meta)} bytes, at most {settings.meta_bytes_max} are spread; "
            "shorten labels or queues"
        )
