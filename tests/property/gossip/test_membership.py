"""Membership under arbitrary schedules: what must hold whatever the network does, and what must come true once
it delivers again."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gossip.broadcast import BroadcastQueue
from gossip.core import Membership
from gossip.effects import Answer, Ask, AskFailed, CallSeeds, Effect, Request, Response, Send
from gossip.errors import Rejected
from gossip.messages import (
    Address,
    Alive,
    Dead,
    Left,
    Member,
    NodeId,
    State,
    Suspect,
    Update,
    decode_datagram,
    encode_datagram,
)
from gossip.seal import Keyring, Seal
from gossip.settings import Settings
from tests.unit.gossip.builders import address_of, alive, instance_of, membership, node

NAMES = ("n1", "n2", "n3", "n4")
index_of = st.integers(0, len(NAMES) - 1)


@dataclass(frozen=True)
class Datagram:
    source: str
    target: Address
    plain: bytes


@dataclass(frozen=True)
class Call:
    asker: str
    address: Address
    request: Request


class Cluster(RuleBasedStateMachine):
    """Four cores and a network that may deliver, repeat, lose and reorder; members leave, crash and return.

    Time is one clock for all, driven by the rules.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.cores: dict[str, Membership] = {}
        self.lives = dict.fromkeys(NAMES, 0)
        self.datagrams: list[Datagram] = []
        self.calls: list[Call] = []
        self.seed_calls = 0
        self.seen: dict[tuple[str, str], Member] = {}  # (observer's life, member) -> last row
        self.gone: set[str] = set()  # left or crashed

    def make(self, name: str) -> Membership:
        self.lives[name] += 1
        return Membership(
            node_id=node(name),
            address=address_of(name),
            meta=b"",
            instance=instance_of(name) + 10_000 * self.lives[name],
            settings=Settings(tombstone_s=100_000.0),
            rng=random.Random(f"{name}/{self.lives[name]}"),
        )

    @initialize()
    def start(self) -> None:
        for name in NAMES:
            self.cores[name] = self.make(name)
        self.perform("n1", self.cores["n1"].establish(self.now))
        for name in NAMES[1:]:
            self.join(name, "n1")

    def join(self, name: str, seed: str) -> None:
        self.perform(name, [Ask(address_of(seed), self.cores[name].open_exchange())])

    def perform(self, name: str, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self.datagrams.append(Datagram(name, effect.address, encode_datagram(effect.messages)))
            elif isinstance(effect, Ask):
                self.calls.append(Call(name, effect.address, effect.request))
            elif isinstance(effect, CallSeeds):
                others = [other for other in NAMES if other != name]
                self.seed_calls += 1
                self.join(name, others[self.seed_calls % len(others)])

    def owner(self, address: Address) -> str | None:
        return next((n for n in NAMES if address_of(n) == address and n not in self.gone), None)

    def deliver(self, datagram: Datagram) -> None:
        target = self.owner(datagram.target)
        if target is None:
            return
        for message in decode_datagram(datagram.plain)[0]:
            effects = self.cores[target].handle(self.now, message, address_of(datagram.source))
            self.perform(target, effects)

    def answer(self, call: Call) -> None:
        if call.asker in self.gone:
            return
        target = self.owner(call.address)
        response: Response | AskFailed = AskFailed(call.request)
        if target is not None:
            effects = self.cores[target].handle(self.now, call.request)
            answers = [effect.response for effect in effects if isinstance(effect, Answer)]
            assert len(answers) == 1, "every request has one answer"
            response = answers[0]
            self.perform(target, [effect for effect in effects if not isinstance(effect, Answer)])
        core = self.cores[call.asker]
        self.perform(call.asker, core.handle(self.now, response, call.address))

    def tick_all(self) -> None:
        for name, core in self.cores.items():
            deadline = core.next_deadline()
            if name not in self.gone and deadline is not None and deadline <= self.now:
                self.perform(name, core.on_tick(self.now))

    def settle(self, seconds: float) -> None:
        """Let time pass with everything delivered."""
        until = self.now + seconds
        while self.now < until:
            self.now += 0.05
            self.tick_all()
            waiting, self.datagrams = self.datagrams, []
            for datagram in waiting:
                self.deliver(datagram)
            calls, self.calls = self.calls, []
            for call in calls:
                self.answer(call)

    # Rules.

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.2, 0.5, 3.0]))
    def time_passes(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            deadlines = [d for n, c in self.cores.items() if n not in self.gone and (d := c.next_deadline())]
            self.now = min([until, *(max(self.now, d) for d in deadlines)])
            self.tick_all()
            if not deadlines:
                self.now = until
        del self.datagrams[:-200]
        del self.calls[:-50]

    @precondition(lambda self: self.datagrams)
    @rule(at=st.integers(0, 1_000), repeat=st.booleans())
    def a_datagram_arrives(self, at: int, repeat: bool) -> None:
        at %= len(self.datagrams)
        self.deliver(self.datagrams[at] if repeat else self.datagrams.pop(at))

    @precondition(lambda self: self.datagrams)
    @rule()
    def all_datagrams_arrive(self) -> None:
        waiting, self.datagrams = self.datagrams, []
        for datagram in waiting:
            self.deliver(datagram)

    @precondition(lambda self: self.datagrams)
    @rule()
    def all_datagrams_are_lost(self) -> None:
        self.datagrams.clear()

    @precondition(lambda self: self.calls)
    @rule(at=st.integers(0, 1_000))
    def a_call_is_answered(self, at: int) -> None:
        self.answer(self.calls.pop(at % len(self.calls)))

    @precondition(lambda self: self.calls)
    @rule(at=st.integers(0, 1_000))
    def a_call_fails(self, at: int) -> None:
        call = self.calls.pop(at % len(self.calls))
        if call.asker not in self.gone:
            self.perform(call.asker, self.cores[call.asker].handle(self.now, AskFailed(call.request)))

    @rule(who=index_of, meta=st.binary(max_size=4))
    def metadata_changes(self, who: int, meta: bytes) -> None:
        name = NAMES[who]
        if name not in self.gone:
            self.perform(name, self.cores[name].announce(self.now, meta=meta))

    @rule(who=index_of, accused=index_of, ahead=st.integers(0, 2), dead=st.booleans())
    def somebody_is_accused(self, who: int, accused: int, ahead: int, dead: bool) -> None:
        """Wrongly or rightly, with an incarnation that it has or may have."""
        if NAMES[who] in self.gone or NAMES[accused] in self.gone or who == accused:
            return
        incarnation = self.cores[NAMES[accused]].me.incarnation + (ahead if dead else 0)
        kind = Dead if dead else Suspect
        claim = kind(node("n99"), node(NAMES[accused]), incarnation)
        self.perform(NAMES[who], self.cores[NAMES[who]].handle(self.now, claim, address_of("n99")))

    @precondition(lambda self: len(self.gone) < 2)
    @rule(who=index_of, crash=st.booleans())
    def somebody_goes(self, who: int, crash: bool) -> None:
        name = NAMES[who]
        if name in self.gone:
            return
        if not crash:
            self.perform(name, self.cores[name].leave(self.now))
            for _ in range(8):  # stays until it has told
                self.now += 0.1
                self.perform(name, self.cores[name].on_tick(self.now))
        self.gone.add(name)

    @precondition(lambda self: self.gone)
    @rule(seed=index_of)
    def somebody_comes_back(self, seed: int) -> None:
        name = min(self.gone)
        self.gone.discard(name)
        for key in [key for key in self.seen if key[0] == name]:
            del self.seen[key]
        self.cores[name] = self.make(name)
        seeds = [n for n in NAMES if n != name]
        for other in seeds:
            self.join(name, other)

    # Always.

    @invariant()
    def facts_kept_twice_agree(self) -> None:
        for core in self.cores.values():
            core.check_invariants()

    @invariant()
    def beliefs_only_rise(self) -> None:
        """No incarnation falls; no state returns within an incarnation; left comes back only with a higher."""
        for observer, core in self.cores.items():
            for row in core.members(self.now):
                before = self.seen.get((observer, row.node_id))
                if before is not None:
                    assert (row.incarnation, row.state) >= (before.incarnation, before.state)
                    assert (row.version, row.instance) >= (before.version, before.instance) or (
                        row.node_id == observer
                    )
                    if before.state is State.LEFT and row.state is State.ALIVE:
                        assert row.incarnation > before.incarnation
                self.seen[observer, row.node_id] = row

    @invariant()
    def nobody_is_more_of_a_member_than_itself_knows(self) -> None:
        """Only a member raises its incarnation; the accusations above are at most 2 ahead of it."""
        for core in self.cores.values():
            for row in core.members(self.now):
                assert row.incarnation <= 1_000

    def teardown(self) -> None:
        """From now on everything arrives: all that run agree on who runs, and hold nobody else for live."""
        running = [name for name in NAMES if name not in self.gone]
        if not self.cores:
            return
        self.settle(70.0)
        for name in running:  # all calls of its join were lost: its shell would call again
            if not self.cores[name].established:
                for other in running:
                    if other != name:
                        self.join(name, other)
        self.settle(20.0)
        views = {
            name: {row.node_id for row in self.cores[name].members(self.now) if row.state is State.ALIVE}
            for name in running
        }
        for name, view in views.items():
            assert view == set(running), (name, views)
        assert len({self.cores[name].digest for name in running}) == 1


Cluster.TestCase.settings = settings(
    max_examples=150, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
TestCluster = Cluster.TestCase


# Laws.

incarnations = st.integers(0, 3)
claims: st.SearchStrategy[Update] = st.one_of(
    st.builds(lambda i, m: alive("n2", i, m), incarnations, st.just(b"")),
    st.builds(lambda i: Suspect(NodeId("n3"), NodeId("n2"), i), incarnations),
    st.builds(lambda i: Dead(NodeId("n3"), NodeId("n2"), i), incarnations),
    st.builds(lambda i: Left(NodeId("n2"), i), incarnations),
)


@given(heard=st.lists(claims, max_size=8), order=st.randoms(use_true_random=False), again=st.booleans())
def test_what_is_believed_does_not_depend_on_the_order_of_hearing(
    heard: list[Update], order: random.Random, again: bool
) -> None:
    """Views are joins of a semilattice: that is why they converge."""
    shuffled = heard + (heard if again else [])
    order.shuffle(shuffled)
    rows = []
    for sequence in (heard, shuffled):
        core = membership(("n2", "n3"))
        for claim in sequence:
            core.handle(0.0, claim, address_of("n3"))
            core.check_invariants()
        held = core.get(node("n2"))
        assert held is not None
        rows.append((held.state, held.incarnation, held.version))
    assert rows[0] == rows[1]


updates_of_anyone = st.one_of(
    st.builds(
        lambda i, k, m: Alive(NodeId(f"n{k}"), i, address_of(f"n{k}"), m, k),
        incarnations,
        st.integers(0, 30),
        st.binary(max_size=300),
    ),
    st.builds(lambda i, k: Dead(NodeId("n3"), NodeId(f"n{k}"), i), incarnations, st.integers(0, 30)),
)


@given(
    acts=st.lists(st.one_of(updates_of_anyone, st.integers(0, 700)), max_size=60),
    limit=st.integers(1, 5),
)
def test_the_queue_is_the_naive_one(acts: list[Update | int], limit: int) -> None:
    """Against a list that is sorted anew for each packet."""
    queue = BroadcastQueue(10)
    naive: list[tuple[int, int, Update]] = []
    for serial, act in enumerate(acts):
        if isinstance(act, int):
            room, expected, kept = act, [], []
            for sends, minus_serial, update in sorted(naive, key=lambda entry: entry[:2]):
                size = len(encode_datagram([update])) - 1
                if size <= room:
                    room -= size
                    expected.append(update)
                    if sends + 1 < limit:
                        kept.append((sends + 1, minus_serial, update))
                else:
                    kept.append((sends, minus_serial, update))
            naive = kept
            assert queue.take(act, limit) == expected
        else:
            naive = [entry for entry in naive if entry[2].member != act.member]
            if len(naive) == 10:
                naive.remove(max(naive, key=lambda entry: entry[:2]))
            naive.append((0, -serial, act))
            queue.put(act)
        assert len(queue) == len(naive)


@given(order=st.lists(st.integers(1, 40), min_size=1, max_size=120))
def test_the_replay_window_is_a_set(order: list[int]) -> None:
    """Within its width a counter is taken exactly once, in whatever order."""
    sender = Seal(Keyring([b"k" * 32]), "c", session=b"sessionA")
    receiver = Seal(Keyring([b"k" * 32]), "c", session=b"sessionB")
    packets = [sender.seal(bytes([i])) for i in range(41)]
    seen: set[int] = set()
    for index in order:
        if index in seen:
            with pytest.raises(Rejected, match="replayed"):
                receiver.open(packets[index], bytes_max=1_400)
        else:
            assert receiver.open(packets[index], bytes_max=1_400) == bytes([index])
        seen.add(index)


@given(messages=st.lists(st.one_of(claims, updates_of_anyone), max_size=5))
def test_decode_is_the_inverse_of_encode(messages: list[Update]) -> None:
    assert decode_datagram(encode_datagram(messages)) == (messages, 0)
