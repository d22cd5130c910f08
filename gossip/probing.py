"""One probe per period: direct, then indirect and by stream (SWIM, section 3.1), with nacks and local health
(Lifeguard, section IV-A). Reads the table, never changes it: what a failed probe means is the core's to say.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable

from msgspec import Struct

from gossip.awareness import Awareness, failed_probe_delta
from gossip.effects import Ask, Effect, StreamOnly
from gossip.messages import (
    ANONYMOUS,
    Ack,
    Address,
    DatagramMessage,
    Member,
    Nack,
    NodeId,
    Ping,
    PingReq,
    State,
    StreamAck,
    StreamPing,
    Suspect,
)
from gossip.order import ProbeOrder
from gossip.settings import Settings
from gossip.stats import Counters
from gossip.table import MemberTable, is_live

SendMessages = Callable[[Address, tuple[DatagramMessage, ...], list[Effect]], None]
"""Appends the datagram to the effects, with updates in the room that is left."""
_SEQ_MASK = 0xFFFFFFFF


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


class Prober:
    """Owner of the current probe, the probe order, the local health and the probes relayed for others."""

    __slots__ = (
        "_counters",
        "_instance",
        "_node_id",
        "_probe",
        "_relay_deadlines",
        "_relays",
        "_rng",
        "_send",
        "_seq",
        "_settings",
        "_table",
        "awareness",
        "order",
        "probe_at",
    )

    def __init__(
        self,
        *,
        node_id: NodeId,
        instance: int,
        table: MemberTable,
        settings: Settings,
        rng: random.Random,
        counters: Counters,
        send: SendMessages,
    ) -> None:
        self._node_id = node_id
        self._instance = instance
        self._table = table
        self._settings = settings
        self._rng = rng
        self._counters = counters
        self._send = send
        self._seq = rng.getrandbits(32)
        self._probe: _Probe | None = None
        self._relays: dict[int, _Relay] = {}
        self._relay_deadlines: deque[tuple[float, int]] = deque()
        self.awareness = Awareness(settings.awareness_max)
        self.order = ProbeOrder(table, rng)
        self.probe_at = math.inf

    @property
    def probed(self) -> NodeId | None:
        """The member that this period's probe is for."""
        return None if self._probe is None else self._probe.target

    @property
    def relay_count(self) -> int:
        return len(self._relays)

    @property
    def relay_deadline(self) -> float:
        return self._relay_deadlines[0][0] if self._relay_deadlines else math.inf

    def next_seq(self) -> int:
        """A number that no probe of ours has at present."""
        self._seq = (self._seq + 1) & _SEQ_MASK
        return self._seq

    def start(self, now: float) -> None:
        """Probe from a random moment of the next period on."""
        self.probe_at = now + self._rng.random() * self._settings.probe_period_s

    def stop(self) -> None:
        self._probe, self.probe_at = None, math.inf

    def forgive(self, by_s: float) -> None:
        """We slept for `by_s`: the probe gets that time added, and we trust ourselves less."""
        self.awareness.apply(1)
        if self._probe is not None:
            self._probe.ends_at += by_s
            self.probe_at += by_s

    def advance(self, now: float, effects: list[Effect]) -> Member | None:
        """`probe_at` is reached: next stage, or next probe. The member whose probe has failed, if one has."""
        probe = self._probe
        accused = None
        if probe is not None:
            if now < probe.ends_at:
                self.probe_at = probe.ends_at
                if not probe.acked and not probe.asked:
                    self._ask_others(probe, effects)
                return None
            accused = self._end(probe)
        self._begin(now, effects, accused)
        return accused

    def _begin(self, now: float, effects: list[Effect], accused: Member | None) -> None:
        period_s = self.awareness.probe_period_s(self._settings.probe_period_s)
        target = self.order.next(self._is_live_other)
        if target is None:
            self._probe, self.probe_at = None, now + period_s
            return
        row = self._table.get(target)
        assert row is not None
        self._counters.probes += 1
        self._probe = _Probe(target=target, seq=self.next_seq(), ends_at=now + period_s)
        self.probe_at = now + self._settings.probe_timeout_s
        ping = Ping(self._probe.seq, self._node_id, self._instance, target)
        if row.state is State.SUSPECT or row is accused:
            # The accused hears of it from us at once (Lifeguard, section IV-C: buddy system).
            self._send(row.address, (ping, Suspect(ANONYMOUS, target, row.incarnation)), effects)
        else:
            self._send(row.address, (ping,), effects)

    def _ask_others(self, probe: _Probe, effects: list[Effect]) -> None:
        probe.asked = True
        target = self._table.get(probe.target)
        if target is None or not is_live(target):
            return
        relays = self._table.pick(
            self._rng,
            self._settings.indirect_probes,
            lambda node_id: node_id != probe.target and self._is_live_other(node_id),
        )
        probe.nacks_wanted = len(relays)
        request = PingReq(probe.seq, self._node_id, probe.target, target.address)
        for relay in relays:
            row = self._table.get(relay)
            assert row is not None
            self._send(row.address, (request,), effects)
        if self._settings.stream_probe:
            ping = StreamPing(probe.seq, self._node_id, self._instance, probe.target)
            effects.append(Ask(target.address, ping))

    def _end(self, probe: _Probe) -> Member | None:
        self._probe = None
        row = self._table.get(probe.target)
        if probe.acked or row is None or not is_live(row):
            return None
        self._counters.probes_failed += 1
        delta = failed_probe_delta(nacks_wanted=probe.nacks_wanted, nacks_received=probe.nacks)
        self.awareness.apply(delta)
        return row

    def on_ack(self, m: Ack, effects: list[Effect]) -> bool:
        """Whether the ack was for a probe of ours, or for one that we relay."""
        probe = self._probe
        if probe is not None and m.seq == probe.seq and m.source == probe.target:
            self._succeed(probe)
            return True
        relay = self._relays.get(m.seq)
        if relay is None or relay.target != m.source:
            return False
        del self._relays[m.seq]
        self._send(relay.asker, (Ack(relay.asker_seq, m.source, m.instance),), effects)
        return True

    def on_stream_ack(self, m: StreamAck, effects: list[Effect]) -> bool:
        """Whether the answer was to a probe of ours."""
        probe = self._probe
        if probe is None or m.seq != probe.seq or m.source != probe.target:
            return False
        row = self._table.get(probe.target)
        if self._succeed(probe) and row is not None:
            self._counters.stream_only += 1
            effects.append(StreamOnly(row))
        return True

    def on_nack(self, m: Nack) -> None:
        if self._probe is not None and m.seq == self._probe.seq:
            self._probe.nacks += 1

    def relay(self, now: float, m: PingReq, asker: Address, effects: list[Effect]) -> None:
        """Ping for another member; its answer, or a nack after the timeout, goes back."""
        if len(self._relays) >= self._settings.relays_max:
            self._counters.relays_refused += 1
            return
        seq = self.next_seq()
        self._relays[seq] = _Relay(asker, m.seq, m.target)
        self._relay_deadlines.append((now + self._settings.probe_timeout_s, seq))
        self._send(m.address, (Ping(seq, self._node_id, self._instance, m.target),), effects)

    def end_relays(self, now: float, effects: list[Effect]) -> None:
        """Send the nacks that are due."""
        while self._relay_deadlines and self._relay_deadlines[0][0] <= now:
            relay = self._relays.pop(self._relay_deadlines.popleft()[1], None)
            if relay is not None:
                self._send(relay.asker, (Nack(relay.asker_seq, self._node_id),), effects)

    def _succeed(self, probe: _Probe) -> bool:
        if probe.acked:
            return False
        probe.acked = True
        self.awareness.apply(-1)
        self.probe_at = probe.ends_at
        return True

    def _is_live_other(self, node_id: NodeId) -> bool:
        row = self._table.get(node_id)
        return node_id != self._node_id and row is not None and is_live(row)
