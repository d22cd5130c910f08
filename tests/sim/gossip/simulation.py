"""The real core, n times in one process, under virtual time and a network of our own.

Nothing of the protocol is modelled: every member is a `gossip.core.Membership`, every datagram is what it
asked to send (objects, encoded only to count their bytes; the codec has tests of its own). The network delays,
drops, and cuts; streams are reliable but cannot cross a cut. One seed gives one run.

Members may start with one shared immutable base, so that 10,000 views of 10,000 members fit into memory.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gossip import codec
from gossip.core import Membership
from gossip.effects import (
    Answer,
    Ask,
    AskFailed,
    CallSeeds,
    Conflict,
    Effect,
    MemberEvent,
    Request,
    Response,
    Send,
    TableHeard,
)
from gossip.messages import Address, Member, NodeId, Record, State, encode_datagram, size_of
from gossip.seal import OVERHEAD_BYTES
from gossip.settings import Settings
from gossip.table import EMPTY, Base, Change

STREAM_TIMEOUT_S = 5.0
SEEDS = 3


@dataclass
class Network:
    """What happens to packets. Times in seconds; `loss` is per datagram and one way."""

    loss: float = 0.0
    latency_s: tuple[float, float] = (0.0005, 0.003)
    slow_s: tuple[float, float] = (0.5, 1.5)
    """How much later a slow member gets to anything that was sent to it: always too late for a healthy
    period of 0.5 s, hardly ever too late for one stretched by local health."""


@dataclass
class Traffic:
    datagrams: int = 0
    bytes: int = 0
    streams: int = 0
    stream_bytes: int = 0

    def copy(self) -> Traffic:
        return Traffic(self.datagrams, self.bytes, self.streams, self.stream_bytes)


@dataclass
class Heard:
    """Who heard of a change and when: for the member watched, per observer the first time."""

    times: dict[int, float] = field(default_factory=dict)


def node_name(index: int) -> NodeId:
    return NodeId(f"n{index:05d}")


def node_address(index: int) -> Address:
    return Address(f"10.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255}", 7946)


def base_of(members: int) -> Base:
    """The rows of a cluster in which all know all."""
    return Base(
        {
            node_name(i): Member(node_name(i), State.ALIVE, 0, node_address(i), b"", i + 1, 0)
            for i in range(members)
        }
    )


class Simulation:
    """A cluster. `now` is virtual; everything random comes from `seed`."""

    def __init__(
        self,
        members: int,
        *,
        seed: int,
        settings: Settings | None = None,
        network: Network | None = None,
        known: bool = True,
        slow: Iterable[int] = (),
    ) -> None:
        """`known`: all start established and know all; else member 0 is first and the others are started
        by `start`."""
        self.now = 0.0
        self.settings = settings or Settings()
        self.network = network or Network()
        self.traffic = Traffic()
        self.rng = random.Random(seed)
        self.slow = frozenset(slow)
        self.up = [True] * members
        self.side = [0] * members
        self.wakes_at = [0.0] * members
        self.false_suspicions = 0  # events about members that run and are not cut off
        self.false_deaths = 0
        self.accusations_by: dict[bool, int] = {False: 0, True: 0}  # of healthy members, by slow ones or not
        self.watched: dict[tuple[NodeId, Change], Heard] = {}
        self.conflicts: list[Conflict] = []
        self.events = 0
        self._serial = 0
        self._heap: list[tuple[float, int, int, object, object]] = []
        self._due = [math.inf] * members
        self._base = base_of(members) if known else EMPTY
        self._row_bytes = size_of(_record(node_name(members - 1)))
        self._addresses = [node_address(i) for i in range(members)]
        self._index = {address: i for i, address in enumerate(self._addresses)}
        self.cores = [self._core(i) for i in range(members)]
        if known:
            for i, core in enumerate(self.cores):
                self._perform(i, core.establish(0.0))

    def _core(self, index: int) -> Membership:
        return Membership(
            node_id=node_name(index),
            address=node_address(index),
            meta=b"",
            instance=index + 1,
            settings=self.settings,
            rng=random.Random(self.rng.getrandbits(64)),
            base=self._base,
        )

    # What a scenario does.

    def run(self, until: float, *, stop: Callable[[], bool] | None = None) -> bool:
        """Let time pass to `until`, or until `stop` holds (asked after each event); whether it did."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            when, _, index, what, whom = heapq.heappop(heap)
            self.now = when
            self._step(index, what, whom)
            if stop is not None and stop():
                return True
        self.now = until
        return stop is not None and stop()

    def start(self, index: int, seeds: Iterable[int] = ()) -> None:
        """Start a member of a cluster that was made with `known=False`."""
        core = self.cores[index]
        calls = [i for i in seeds if i != index]
        if not calls:
            self._perform(index, core.establish(self.now))
        for i in calls:
            self._perform(index, [Ask(node_address(i), core.open_exchange())])

    def crash(self, index: int) -> None:
        self.up[index] = False

    def pause(self, index: int, seconds: float) -> None:
        """Stop the process: what is due or arrives waits until it goes on (SIGSTOP)."""
        self.wakes_at[index] = self.now + seconds

    def restart(self, index: int, seeds: Iterable[int]) -> None:
        """A new process with the old id, which remembers nothing."""
        self._base = EMPTY
        self.up[index] = True
        core = self._core(index)
        core._instance = 10**6 + self._serial  # another process
        self.cores[index] = core
        self._due[index] = math.inf
        self.start(index, seeds)

    def act(self, index: int, effects: list[Effect]) -> None:
        """Perform what a scenario made a core want, e.g. `announce`."""
        self._perform(index, effects)

    def cut(self, sides: Callable[[int], int]) -> None:
        """Only members of one side reach each other; `lambda _: 0` heals."""
        self.side = [sides(i) for i in range(len(self.cores))]

    def watch(self, member: int, change: Change) -> Heard:
        """Record when each observer is told this of the member."""
        return self.watched.setdefault((node_name(member), change), Heard())

    def running(self) -> list[Membership]:
        return [core for core, up in zip(self.cores, self.up, strict=True) if up]

    def agree(self) -> bool:
        """Everybody that runs holds exactly those that run for live, by the same rows."""
        running = self.running()
        return all(core.live_count == len(running) for core in running) and (
            len({core.digest for core in running}) == 1
        )

    # Inside.

    def _push(self, when: float, index: int, what: object, whom: object) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (when, self._serial, index, what, whom))

    def _delay(self, index: int) -> float:
        low, high = self.network.latency_s
        delay = low + (high - low) * self.rng.random()
        if index in self.slow:
            low, high = self.network.slow_s
            delay += low + (high - low) * self.rng.random()
        return delay

    def _step(self, index: int, what: object, whom: object) -> None:
        if self.wakes_at[index] > self.now:
            if what is None and self._due[index] != whom:
                return
            self._push(self.wakes_at[index], index, what, whom)
        elif what is None:
            if self._due[index] != whom or not self.up[index]:
                return  # rescheduled meanwhile
            self._due[index] = math.inf
            self._tick(index)
        elif self.up[index]:
            self.events += 1
            core = self.cores[index]
            if type(what) is tuple:
                if self.side[index] == self.side[self._index[whom]]:  # type: ignore[index]
                    for message in what:
                        self._perform(index, core.handle(self.now, message, whom), arm=False)  # type: ignore[arg-type]
                    self._arm(index)
            elif type(what) is _Request:
                self._serve(index, what)
            else:
                assert type(what) is _Outcome
                self._perform(index, core.handle(self.now, what.event, what.address))
        elif type(what) is _Request:
            self._push(self.now, what.asker, _Outcome(AskFailed(what.request), None), None)

    def _tick(self, index: int) -> None:
        core = self.cores[index]
        deadline = core.next_deadline()
        if deadline is not None and deadline <= self.now:
            self.events += 1
            probed, before = core.probed, core.totals.accusations
            effects = core.on_tick(self.now)
            if core.totals.accusations != before and probed is not None:
                target = int(probed[1:])
                if self.up[target] and target not in self.slow and self.side[target] == self.side[index]:
                    self.accusations_by[index in self.slow] += 1
            self._perform(index, effects)
        else:
            self._arm(index)

    def _arm(self, index: int) -> None:
        deadline = self.cores[index].next_deadline()
        if deadline is not None and deadline < self._due[index]:
            self._due[index] = deadline
            self._push(deadline, index, None, deadline)

    def _perform(self, index: int, effects: Iterable[Effect], *, arm: bool = True) -> None:
        for effect in effects:
            kind = type(effect)
            if kind is Send:
                self._send(index, effect)  # type: ignore[arg-type]
            elif kind is MemberEvent:
                self._note(index, effect)  # type: ignore[arg-type]
            elif kind is Ask:
                self._ask(index, effect.address, effect.request)  # type: ignore[union-attr]
            elif kind is CallSeeds:
                seed = self.rng.randrange(SEEDS)
                if seed != index:
                    self._ask(index, node_address(seed), self.cores[index].open_exchange())
            elif kind is Conflict:
                self.conflicts.append(effect)  # type: ignore[arg-type]
            else:
                assert kind is not Answer
        if arm:
            self._arm(index)

    def _send(self, index: int, effect: Send) -> None:
        self.traffic.datagrams += 1
        self.traffic.bytes += len(encode_datagram(effect.messages)) + OVERHEAD_BYTES
        if self.network.loss and self.rng.random() < self.network.loss:
            return
        target = self._index.get(effect.address)
        if target is not None:
            self._push(self.now + self._delay(target), target, effect.messages, self._addresses[index])

    def _ask(self, index: int, address: Address, request: Request) -> None:
        self.traffic.streams += 1
        self.traffic.stream_bytes += self._stream_bytes(request)
        target = self._index[address]
        if self.side[index] != self.side[target]:
            self._push(self.now + STREAM_TIMEOUT_S, index, _Outcome(AskFailed(request), None), None)
            return
        self._push(self.now + self._delay(target), target, _Request(index, request), None)

    def _serve(self, index: int, what: _Request) -> None:
        effects = self.cores[index].handle(self.now, what.request)
        for effect in effects:
            if isinstance(effect, Answer):
                self.traffic.stream_bytes += self._stream_bytes(effect.response)
                outcome = _Outcome(effect.response, self._addresses[index])
                self._push(self.now + self._delay(what.asker), what.asker, outcome, None)
        self._perform(index, [effect for effect in effects if not isinstance(effect, Answer)])

    def _stream_bytes(self, message: Request | Response) -> int:
        if isinstance(message, TableHeard):
            rows = len(message.snapshot.base.ids) + message.snapshot.changed_count
            return rows * self._row_bytes + OVERHEAD_BYTES
        return len(codec.encode(message)) + OVERHEAD_BYTES

    def _note(self, index: int, event: MemberEvent) -> None:
        member = event.member.node_id
        heard = self.watched.get((member, event.change))
        if heard is not None:
            heard.times.setdefault(index, self.now)
        if event.change is Change.SUSPECTED or event.change is Change.FAILED:
            target = int(member[1:])
            if self.up[target] and self.side[target] == self.side[index]:
                if event.change is Change.FAILED:
                    self.false_deaths += 1
                else:
                    self.false_suspicions += 1


@dataclass(frozen=True, slots=True)
class _Request:
    asker: int
    request: Request


@dataclass(frozen=True, slots=True)
class _Outcome:
    event: Response | AskFailed
    address: Address | None


def _record(name: NodeId) -> Record:
    return Record(name, State.ALIVE, 0, Address("10.255.255.255", 7946), b"", 1 << 40, 0)
