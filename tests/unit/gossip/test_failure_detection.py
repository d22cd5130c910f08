"""The core's failure detector, behaviour by behaviour, against SWIM (Das, Gupta, Motivala 2002) and Lifeguard
(Dadgar, Phillips, Currey 2018)."""

from __future__ import annotations

from itertools import pairwise

import pytest

from gossip.effects import AskFailed, StreamOnly
from gossip.messages import (
    ANONYMOUS,
    Ack,
    Alive,
    Dead,
    Nack,
    Ping,
    PingReq,
    State,
    StreamAck,
    StreamPing,
    Suspect,
)
from gossip.settings import Settings
from tests.unit.gossip.builders import (
    address_of,
    alive,
    asked,
    drain,
    events,
    instance_of,
    membership,
    node,
    run_until,
    sent,
    updates,
)

T = Settings().probe_period_s
TIMEOUT = Settings().probe_timeout_s
PEERS = ("n2", "n3", "n4", "n5")


def first_ping(core):  # type: ignore[no-untyped-def]
    """Advance to the first probe: (when, target, its ping)."""
    while True:
        now = core.next_deadline()
        pings = sent(core.on_tick(now), Ping)
        if pings:
            return now, pings[0][1].target, pings[0][1]


# Probing (SWIM, section 3.1).


def test_each_period_one_member_is_probed() -> None:
    core = membership(PEERS)
    pings = []
    while len(pings) < 12:
        now = core.next_deadline()
        for address, ping in sent(core.on_tick(now), Ping):
            assert address == address_of(ping.target)
            pings.append((now, ping.target))
            core.handle(now + 0.001, Ack(ping.seq, ping.target, 1), address)
    gaps = [later[0] - earlier[0] for earlier, later in pairwise(pings)]
    assert gaps == pytest.approx([T] * 11)
    for start in (0, 4, 8):
        assert sorted(target for _, target in pings[start : start + 4]) == sorted(PEERS), "once per pass"


def test_a_ping_is_answered_to_where_it_came_from() -> None:
    core = membership(PEERS)
    effects = core.handle(1.0, Ping(77, node("n2"), instance_of("n2"), node("n1")), address_of("n9"))
    assert sent(effects, Ack) == [(address_of("n9"), Ack(77, node("n1"), instance_of("n1")))]


def test_a_ping_for_somebody_else_is_not_answered() -> None:
    """Another member may have had this address before; answering would keep it alive."""
    core = membership(PEERS)
    assert core.handle(1.0, Ping(77, node("n2"), 1, node("n7")), address_of("n2")) == []
    assert core.stats().totals.misaddressed == 1


def test_without_an_ack_k_members_and_the_stream_are_asked() -> None:
    core = membership(PEERS)
    now, target, ping = first_ping(core)
    effects = core.on_tick(now + TIMEOUT)
    requests = sent(effects, PingReq)
    assert len(requests) == 3
    assert {request.target for _, request in requests} == {target}
    assert {request.address for _, request in requests} == {address_of(target)}
    assert {address for address, _ in requests} == {address_of(p) for p in PEERS if p != target}
    stream_ping = StreamPing(ping.seq, node("n1"), instance_of("n1"), target)
    assert asked(effects, StreamPing) == [(address_of(target), stream_ping)]


def test_no_more_than_k_relays_and_never_the_target_or_ourselves() -> None:
    core = membership([f"n{i}" for i in range(2, 60)])
    now, target, _ = first_ping(core)
    relays = [address for address, _ in sent(core.on_tick(now + TIMEOUT), PingReq)]
    assert len(set(relays)) == 3
    assert address_of(target) not in relays
    assert address_of("n1") not in relays


def test_a_relay_passes_the_ack_on_under_the_askers_number() -> None:
    core = membership(PEERS)
    effects = core.handle(1.0, PingReq(5, node("n2"), node("n3"), address_of("n3")), address_of("n2"))
    ((address, ping),) = sent(effects, Ping)
    assert (address, ping.target) == (address_of("n3"), "n3")
    effects = core.handle(1.05, Ack(ping.seq, node("n3"), 7), address_of("n3"))
    assert sent(effects, Ack) == [(address_of("n2"), Ack(5, node("n3"), 7))]
    effects = core.handle(1.06, Ack(ping.seq, node("n3"), 7), address_of("n3"))
    assert sent(effects, Ack) == [], "once"


def test_a_relay_without_an_ack_sends_a_nack_after_its_timeout() -> None:
    """Lifeguard, section IV-A."""
    core = membership(PEERS)
    core.handle(0.0, PingReq(5, node("n2"), node("n3"), address_of("n3")), address_of("n2"))
    early = [e for t, e in run_until(core, TIMEOUT - 0.001)]
    assert sent(early, Nack) == []
    assert sent(core.on_tick(TIMEOUT), Nack) == [(address_of("n2"), Nack(5, node("n1")))]


def test_relays_under_way_are_bounded() -> None:
    core = membership(PEERS, settings=Settings(relays_max=2))
    for seq in range(3):
        request = PingReq(seq, node("n2"), node("n3"), address_of("n3"))
        assert len(sent(core.handle(0.0, request, address_of("n2")), Ping)) == (1 if seq < 2 else 0)
    assert core.stats().totals.relays_refused == 1


@pytest.mark.parametrize("when", [0.001, TIMEOUT + 0.01, T - 0.001])
def test_an_ack_before_the_period_ends_saves_the_member(when: float) -> None:
    core = membership(PEERS)
    now, target, ping = first_ping(core)
    if when > TIMEOUT:
        core.on_tick(now + TIMEOUT)
    core.handle(now + when, Ack(ping.seq, target, 1), address_of(target))
    core.on_tick(now + T)
    assert core.get(target).state is State.ALIVE


def test_an_ack_of_somebody_else_or_of_another_probe_does_not_count() -> None:
    core = membership(PEERS)
    now, target, ping = first_ping(core)
    other = next(p for p in PEERS if p != target)
    core.handle(now + 0.01, Ack(ping.seq, node(other), 1), address_of(other))
    core.handle(now + 0.01, Ack(ping.seq + 1, target, 1), address_of(target))
    core.on_tick(now + TIMEOUT)
    core.on_tick(now + T)
    assert core.get(target).state is State.SUSPECT


def test_success_by_stream_alone_is_alive_and_a_warning() -> None:
    """memberlist's TCP ping, in parallel with the indirect ones."""
    core = membership(PEERS)
    now, target, ping = first_ping(core)
    core.on_tick(now + TIMEOUT)
    effects = core.handle(now + 0.3, StreamAck(ping.seq, target, 1), address_of(target))
    assert [e.member.node_id for e in effects if isinstance(e, StreamOnly)] == [target]
    core.on_tick(now + T)
    assert core.get(target).state is State.ALIVE
    assert core.stats().totals.stream_only == 1


def test_a_stream_that_fails_leaves_the_verdict_to_the_period() -> None:
    core = membership(PEERS)
    now, target, _ = first_ping(core)
    (request,) = [request for _, request in asked(core.on_tick(now + TIMEOUT), StreamPing)]
    core.handle(now + 0.25, AskFailed(request))
    assert core.get(target).state is State.ALIVE
    core.on_tick(now + T)
    assert core.get(target).state is State.SUSPECT


# Suspicion (SWIM, section 4.2; Lifeguard, section IV-B).


def test_a_failed_probe_makes_a_suspect_not_a_dead_member() -> None:
    core = membership(PEERS)
    now, target, _ = first_ping(core)
    core.on_tick(now + TIMEOUT)
    effects = core.on_tick(now + T)
    assert events(effects) == [("suspected", target)]
    assert Suspect(node("n1"), target, 0) in updates(core) + [m for _, m in sent(effects, Suspect)]


def test_a_suspicion_that_runs_out_buries_and_tells_everybody() -> None:
    core = membership(("n2", "n3"))
    core.handle(0.0, Suspect(node("n3"), node("n2"), 0), address_of("n3"))
    deadline = core.suspicion(node("n2")).deadline
    assert deadline == 2.5, "no third member that could confirm: the minimum at once"
    run_until(core, deadline - 0.01)
    assert core.get("n2").state is State.SUSPECT
    effects = core.on_tick(deadline)
    assert ("failed", "n2") in events(effects)
    assert Dead(node("n1"), node("n2"), 0) in updates(core) + [m for _, m in sent(effects, Dead)]


def test_confirmations_shorten_the_suspicion_and_are_passed_on() -> None:
    core = membership(PEERS)
    core.handle(0.0, Suspect(node("n3"), node("n2"), 0), address_of("n3"))
    assert core.suspicion(node("n2")).deadline == 15.0
    core.handle(0.1, Suspect(node("n3"), node("n2"), 0), address_of("n3"))
    assert core.suspicion(node("n2")).deadline == 15.0, "the first accuser again"
    drain(core)
    core.handle(0.2, Suspect(node("n4"), node("n2"), 0), address_of("n4"))
    assert core.suspicion(node("n2")).deadline == 7.113
    assert updates(core) == [Suspect(node("n4"), node("n2"), 0)]
    core.handle(0.3, Suspect(node("n6"), node("n2"), 0), address_of("n6"))
    assert core.suspicion(node("n2")).deadline == 2.5


def test_an_accusation_of_a_newer_incarnation_starts_anew() -> None:
    core = membership(PEERS)
    core.handle(0.0, Suspect(node("n3"), node("n2"), 0), address_of("n3"))
    core.handle(5.0, Suspect(node("n3"), node("n2"), 4), address_of("n3"))
    assert core.suspicion(node("n2")).deadline == 20.0
    assert core.get("n2").incarnation == 4


def test_hearsay_confirms_nothing() -> None:
    core = membership(PEERS)
    core.handle(0.0, Suspect(node("n3"), node("n2"), 0), address_of("n3"))
    core.handle(0.1, Suspect(ANONYMOUS, node("n2"), 0), address_of("n4"))
    assert core.suspicion(node("n2")).deadline == 15.0


def test_accused_member_refutes_with_a_higher_incarnation() -> None:
    """SWIM, section 4.2."""
    for accusation in (Suspect(node("n2"), node("n1"), 4), Dead(node("n2"), node("n1"), 4)):
        core = membership(PEERS)
        core.handle(0.0, accusation, address_of("n2"))
        assert updates(core) == [Alive(node("n1"), 5, address_of("n1"), b"", instance_of("n1"))]
        assert core.me.incarnation == 5
        assert core.awareness == 1, "having to refute costs health (Lifeguard, section IV-A)"


def test_an_old_accusation_is_not_refuted_twice() -> None:
    core = membership(PEERS)
    core.handle(0.0, Suspect(node("n2"), node("n1"), 4), address_of("n2"))
    drain(core)
    core.handle(0.1, Suspect(node("n3"), node("n1"), 4), address_of("n2"))
    assert core.me.incarnation == 5
    assert updates(core) == []


def test_a_refutation_ends_the_suspicion() -> None:
    core = membership(PEERS)
    core.handle(0.0, Suspect(node("n3"), node("n2"), 0), address_of("n3"))
    assert events(core.handle(1.0, alive("n2", 1), address_of("n4"))) == [("updated", "n2")]
    assert core.suspicion(node("n2")) is None
    drain(core)
    pings = sent([e for _, e in run_until(core, 14.9)], Dead)
    assert not [m for _, m in pings if m.member == "n2" and m.incarnation == 0]


def test_the_ping_of_a_suspect_carries_the_suspicion() -> None:
    """Lifeguard, section IV-C: the accused refutes at once, however the gossip travels."""
    core = membership(("n2",))
    core.handle(0.0, Suspect(node("n3"), node("n2"), 3), address_of("n3"))
    drain(core)
    effects = [e for _, e in run_until(core, 0.6)]
    assert (address_of("n2"), Suspect(ANONYMOUS, node("n2"), 3)) in sent(effects, Suspect)


def test_the_dead_are_not_raised_by_late_gossip() -> None:
    core = membership(PEERS)
    core.handle(0.0, Dead(node("n3"), node("n2"), 2), address_of("n3"))
    for late in (alive("n2", 2), alive("n2", 0), Suspect(node("n4"), node("n2"), 2)):
        assert events(core.handle(1.0, late, address_of("n4"))) == []
        assert core.get("n2").state is State.DEAD


def test_a_dead_member_that_answers_with_a_higher_incarnation_is_back() -> None:
    core = membership(PEERS)
    core.handle(0.0, Dead(node("n3"), node("n2"), 2), address_of("n3"))
    assert events(core.handle(1.0, alive("n2", 3), address_of("n4"))) == [("joined", "n2")]
    core.check_invariants()


def test_a_tombstone_without_an_address_is_not_made_a_suspect() -> None:
    """Found by the state machine: it would have been probed at no address at all."""
    core = membership(PEERS)
    core.handle(0.0, Dead(node("n3"), node("n7"), 2), address_of("n3"))
    assert events(core.handle(0.0, Suspect(node("n3"), node("n7"), 3), address_of("n3"))) == []
    assert core.get("n7").state is State.DEAD
    assert events(core.handle(0.0, alive("n7", 3), address_of("n3"))) == [("joined", "n7")]


def test_the_dead_are_probed_no_more() -> None:
    core = membership(("n2", "n3"))
    core.handle(0.0, Dead(node("n3"), node("n2"), 0), address_of("n3"))
    pings = []
    while (now := core.next_deadline()) < 5.0:
        for address, ping in sent(core.on_tick(now), Ping):
            pings.append(ping.target)
            core.handle(now, Ack(ping.seq, ping.target, 1), address)
    assert set(pings) == {"n3"}


# Local health (Lifeguard, section IV-A).


def failed_round(nacks: int) -> int:
    core = membership(PEERS)
    now, target, ping = first_ping(core)
    core.on_tick(now + TIMEOUT)
    for relay in [p for p in PEERS if p != target][:nacks]:
        core.handle(now + 0.4, Nack(ping.seq, node(relay)), address_of(relay))
    core.on_tick(now + T)
    return core.awareness


def test_a_failed_probe_costs_a_point_per_missing_nack() -> None:
    assert [failed_round(nacks) for nacks in (0, 1, 2, 3)] == [3, 2, 1, 0]


def test_without_relays_a_failed_probe_costs_one_point() -> None:
    core = membership(("n2",))
    now, _, _ = first_ping(core)
    core.on_tick(now + TIMEOUT)
    core.on_tick(now + T)
    assert core.awareness == 1


def test_ill_health_stretches_the_period_but_not_the_direct_timeout() -> None:
    core = membership(PEERS)
    now, _, _ = first_ping(core)
    core.on_tick(now + TIMEOUT)
    core.on_tick(now + T)  # score 3, and the next probe starts
    effects = core.on_tick(now + T + TIMEOUT)
    assert len(sent(effects, PingReq)) == 3
    quiet = [t for t, e in run_until(core, now + T + 4 * T - 0.01) if sent([e], Ping)]
    assert quiet == []
    assert sent(core.on_tick(now + T + 4 * T), Ping)


def test_a_successful_probe_heals_by_one_point() -> None:
    core = membership(PEERS)
    core.handle(0.0, Suspect(node("n2"), node("n1"), 0), address_of("n2"))
    drain(core)
    now, target, ping = first_ping(core)
    core.handle(now, Ack(ping.seq, target, 1), address_of(target))
    assert core.awareness == 0


def test_a_member_that_slept_blames_itself() -> None:
    """Not in the papers: a process that was paused finds all its deadlines past and would accuse and bury on
    waking, before it reads the acks that wait in its socket."""
    core = membership(("n2", "n3"))
    core.handle(0.0, Suspect(node("n3"), node("n2"), 0), address_of("n3"))
    now, target, ping = first_ping(core)
    effects = core.on_tick(now + 60.0)
    assert events(effects) == []
    assert core.stats().totals.stalls == 1
    assert core.awareness == 1
    core.handle(now + 60.001, Ack(ping.seq, target, 1), address_of(target))
    run_until(core, now + 60.0 + T - 0.01)
    assert core.get("n3").state is State.ALIVE
    assert core.get("n2").state is State.SUSPECT, "its remaining time to refute starts where it stopped"
    core.check_invariants()
