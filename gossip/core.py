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
from collections.abc import Callable
from typing import ClassVar

import msgspec

from gossip.broadcast import BroadcastQueue
from gossip.effects import (
    Answer,
    Ask,
    AskFailed,
    CallSeeds,
    Effect,
    Established,
    Event,
    MemberEvent,
    Send,
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
from gossip.probing import Prober
from gossip.rival import RivalCheck
from gossip.seal import OVERHEAD_BYTES
from gossip.settings import Settings
from gossip.spread import exchange_interval_s, rejoin_chance, retransmit_limit
from gossip.stats import Counters, Stats
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


class Membership:
    """Member table of one node under SWIM. The only code that changes a member's state.

    Until `established` it claims nothing: it answers, and learns. `establish` ends that (a first node), or
    the first answer to a `open_exchange()` does (a join), unless a live process has our id already.
    """

    __slots__ = (
        "_counters",
        "_event_order",
        "_exchange_at",
        "_exchanges_open",
        "_gossip_at",
        "_instance",
        "_leaving",
        "_prober",
        "_queue",
        "_reap_at",
        "_rejoin_at",
        "_rival",
        "_rng",
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
        self._queue = BroadcastQueue(settings.broadcasts_max)
        self._counters = Counters()
        self._prober = Prober(
            node_id=node_id,
            instance=instance,
            table=self._table,
            settings=settings,
            rng=rng,
            counters=self._counters,
            send=self._send,
        )
        self._rival = RivalCheck(node_id=node_id, instance=instance, period_s=settings.probe_period_s)
        self._event_order = 0
        self._leaving = False
        self._suspicions: dict[NodeId, Suspicion] = {}
        self._suspicion_heap: list[tuple[float, NodeId]] = []  # may hold outdated entries
        self._tombstones: dict[NodeId, float] = {}  # since when
        self._exchanges_open = 0
        self._gossip_at = self._exchange_at = self._rejoin_at = self._reap_at = NEVER

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
        return self._prober.awareness.score

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
        return self._prober.probed

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
            awareness=self._prober.awareness.score,
            broadcasts=len(self._queue),
            broadcasts_peak=self._queue.peak,
            broadcasts_dropped=self._queue.dropped,
            relays=self._prober.relay_count,
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
        prober = self._prober
        first = min(
            prober.probe_at,
            prober.relay_deadline,
            self._gossip_at,
            self._exchange_at,
            self._rejoin_at,
            self._reap_at,
            self._rival.next_ping_at,
        )
        if self._suspicion_heap and self._suspicion_heap[0][0] < first:
            first = self._suspicion_heap[0][0]
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
        self._prober.end_relays(now, effects)
        if now >= self._prober.probe_at:
            self._probe(now, effects)
        self._end_suspicions(now, effects)
        if now >= self._gossip_at:
            self._gossip(now, effects)
        if now >= self._exchange_at:
            self._exchange(now, effects)
        if now >= self._rejoin_at:
            self._call_the_lost(now, effects)
        if now >= self._reap_at:
            self._reap(now)
        if now >= self._rival.next_ping_at:
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
        self._prober.stop()
        self._exchange_at = self._rejoin_at = NEVER
        return effects

    def open_exchange(self) -> Compare:
        """The request that starts an exchange, or a join; its answer or its failure is to be handled."""
        self._exchanges_open += 1
        self._counters.exchanges += 1
        return Compare(self.node_id, self._instance, self._table.digest)

    # Probes (SWIM, section 3.1; Lifeguard, section IV-A).

    def _probe(self, now: float, effects: list[Effect]) -> None:
        accused = self._prober.advance(now, effects)
        if accused is None:
            return
        accusation = Suspect(self.node_id, accused.node_id, accused.incarnation)
        if self._hear_suspect(now, accusation, effects):
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
        self._prober.relay(now, m, source, effects)

    def _on_ack(self, now: float, m: Ack, source: Address | None, effects: list[Effect]) -> None:
        if not self._prober.on_ack(m, effects):
            self._hear_rival(now, m.seq, m.source, m.instance, effects)

    def _on_nack(self, now: float, m: Nack, source: Address | None, effects: list[Effect]) -> None:
        self._prober.on_nack(m)

    def _on_stream_ping(
        self, now: float, m: StreamPing, source: Address | None, effects: list[Effect]
    ) -> None:
        # Asked of somebody else: answer nevertheless with our own name, the asker then sees the mistake.
        if m.target != self.node_id:
            self._counters.misaddressed += 1
        effects.append(Answer(StreamAck(m.seq, self.node_id, self._instance)))

    def _on_stream_ack(self, now: float, m: StreamAck, source: Address | None, effects: list[Effect]) -> None:
        if not self._prober.on_stream_ack(m, effects):
            self._hear_rival(now, m.seq, m.source, m.instance, effects)

    def _forgive_stall(self, by_s: float) -> None:
        """We did not run for `by_s` (paused, swapped, blocked). What we did not hear meanwhile says nothing
        about others, so every judgement gets that time added. Not in the papers: a process that was paused
        finds all its deadlines past, and would accuse and bury before it reads what waits in its socket."""
        self._counters.stalls += 1
        self._prober.forgive(by_s)
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
        if held is None or not held.address.host:  # nobody, or a tombstone of which no more was ever heard
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
            wanted=confirmations_wanted(settings.suspicion_confirmations, members),
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
            self._prober.order.add(node_id)
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
            self._prober.awareness.apply(1)
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
        else:
            self._challenge(now, m.address, m.incarnation, effects)

    def _challenge(self, now: float, address: Address, incarnation: int, effects: list[Effect]) -> None:
        """Find out whether a process that lives has our id."""
        seq = self._prober.next_seq()
        self._rival.open(now, address, incarnation=incarnation, seq=seq, effects=effects)

    def _press_rival(self, now: float, effects: list[Effect]) -> None:
        if self._rival.press(now, effects):  # silent: the address is an old one of ours
            self._refute(now, self._rival.incarnation, effects)
            if not self.established:
                self._establish(now, effects)

    def _hear_rival(self, now: float, seq: int, source: NodeId, instance: int, effects: list[Effect]) -> None:
        theirs = self._rival.answered(seq, source, instance)
        if theirs is not None:
            self._tell_conflict(now, theirs, effects)

    def _tell_conflict(self, now: float, theirs: Address, effects: list[Effect]) -> None:
        self._rival.tell(
            now, ours=self.me.address, theirs=theirs, established=self.established, effects=effects
        )

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
            if instance != self._instance and address is not None:
                self._challenge(now, address, self.me.incarnation, effects)
            return
        if not self.established and not self._rival.is_open:
            self._establish(now, effects)

    def _establish(self, now: float, effects: list[Effect]) -> None:
        if self._rival.refused or self._leaving:
            return
        self.established = True
        effects.append(Established())
        me, settings, rng = self.me, self._settings, self._rng
        self._prober.start(now)
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
