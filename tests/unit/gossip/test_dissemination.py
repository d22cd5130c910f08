"""Gossip, metadata, leaving, forgetting and exchanges of the core."""

from __future__ import annotations

import pytest

from gossip.effects import Answer, Ask, AskFailed, CallSeeds, Established, Send, TableHeard
from gossip.errors import MetaTooLarge
from gossip.messages import (
    Ack,
    Alive,
    Compare,
    Dead,
    InSync,
    Left,
    Ping,
    State,
    Suspect,
    Taken,
    encode_datagram,
)
from gossip.seal import OVERHEAD_BYTES
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
    row,
    run_until,
    sent,
    table_of,
    updates,
)

PEERS = ("n2", "n3", "n4", "n5")


def acked(core, until):  # type: ignore[no-untyped-def]
    """Run with every ping answered: the effects."""
    out = []
    while (now := core.next_deadline()) is not None and now <= until:
        effects = core.on_tick(now)
        out += effects
        for address, ping in sent(effects, Ping):
            core.handle(now, Ack(ping.seq, ping.target, 1), address)
        for effect in effects:
            if isinstance(effect, Ask) and isinstance(effect.request, Compare):
                core.handle(now, InSync(node("n2"), 1), effect.address)
    return out


# Gossip (SWIM, section 4.1).


def test_updates_ride_on_pings_and_acks() -> None:
    core = membership(PEERS)
    core.handle(0.0, alive("n6"), address_of("n6"))
    effects = core.handle(0.0, Ping(1, node("n2"), 1, node("n1")), address_of("n2"))
    assert [type(m) for m in effects[0].messages] == [Ack, Alive]


def test_news_are_gossiped_to_a_few_members_each_period_until_told_often_enough() -> None:
    core = membership(PEERS)
    core.handle(0.0, alive("n6"), address_of("n6"))
    told = [m for _, m in sent(acked(core, 10.0), Alive) if m.member == "n6"]
    assert len(told) == 12
    assert updates(core) == []


def test_old_news_are_not_told_on() -> None:
    core = membership(PEERS)
    for old in (alive("n2"), Dead(node("n3"), node("n77"), 1), Dead(node("n3"), node("n77"), 1)):
        drain(core)
        core.handle(0.0, old, address_of("n3"))
    assert updates(core) == []


def test_no_datagram_is_longer_than_the_bound() -> None:
    core = membership(PEERS)
    for i in range(6, 200):
        core.handle(0.0, alive(f"n{i}", meta=b"x" * (i * 3 % 512)), address_of("n2"))
    longest = max(
        len(encode_datagram(e.messages)) + OVERHEAD_BYTES for e in acked(core, 3.0) if isinstance(e, Send)
    )
    assert 1_300 < longest <= 1_400


def test_the_recently_dead_are_gossiped_to_so_that_they_can_refute() -> None:
    core = membership(("n2",))
    core.handle(0.0, Dead(node("n3"), node("n2"), 0), address_of("n3"))
    effects = [e for _, e in run_until(core, 2.0)]
    assert (address_of("n2"), Dead(node("n3"), node("n2"), 0)) in sent(effects, Dead)
    drain(core)
    core.handle(31.0, Suspect(node("n9"), node("n1"), 0), address_of("n9"))
    late = [core.on_tick(core.next_deadline()) for _ in range(60)]
    assert not [
        e for effects in late for e in effects if isinstance(e, Send) and e.address == address_of("n2")
    ]


def test_a_member_alone_does_not_gossip_into_the_void() -> None:
    core = membership(())
    core.announce(0.0, meta=b"v2")
    run_until(core, 1.0)
    gossips = [t for t, e in run_until(core, 60.0) if isinstance(e, Send)]
    assert gossips == []


def test_unknown_members_beyond_the_bound_are_refused_and_counted() -> None:
    core = membership(PEERS, settings=Settings(members_max=6))
    core.handle(0.0, alive("n6"), address_of("n6"))
    assert core.get("n6") is not None
    core.handle(0.0, alive("n7"), address_of("n7"))
    core.handle(0.0, Dead(node("n2"), node("n8"), 0), address_of("n7"))
    assert core.get("n7") is None
    assert core.get("n8") is None
    assert core.stats().totals.members_refused == 2
    core.handle(0.0, alive("n6", 1, b"new"), address_of("n6"))
    assert core.get("n6").meta == b"new", "known ones still change"


# Metadata and addresses.


def test_new_metadata_spreads_like_a_change_of_state() -> None:
    core = membership(PEERS)
    core.announce(0.0, meta=b"v2")
    assert updates(core) == [Alive(node("n1"), 1, address_of("n1"), b"v2", instance_of("n1"))]
    other = membership(("n1",), me="n2")
    (event,) = other.handle(0.0, updates(core)[0], address_of("n1"))
    assert (event.change.value, event.member.meta, event.member.version) == ("updated", b"v2", 1)


def test_unchanged_metadata_is_not_news() -> None:
    core = membership(PEERS)
    assert core.announce(0.0, meta=b"") == []
    assert core.me.incarnation == 0


def test_metadata_at_the_bound_is_spread_and_above_it_refused() -> None:
    core = membership(PEERS)
    core.announce(0.0, meta=b"x" * 512)
    assert len(core.me.meta) == 512
    with pytest.raises(MetaTooLarge):
        core.announce(0.0, meta=b"x" * 513)
    assert len(core.me.meta) == 512


def test_a_member_that_moved_keeps_its_id() -> None:
    core = membership(PEERS)
    moved = Alive(node("n2"), 1, address_of("n42"), b"", 9)
    assert events(core.handle(0.0, moved, address_of("n42"))) == [("updated", "n2")]
    assert core.get("n2").address == address_of("n42")


def test_an_accusation_that_overtakes_a_description_does_not_hide_it() -> None:
    core = membership(PEERS)
    core.handle(0.0, Suspect(node("n3"), node("n2"), 5), address_of("n3"))
    moved = Alive(node("n2"), 5, address_of("n42"), b"v5", 9)
    assert events(core.handle(0.1, moved, address_of("n3"))) == [("updated", "n2")]
    held = core.get("n2")
    assert (held.state, held.incarnation, held.meta, held.version) == (State.SUSPECT, 5, b"v5", 5)
    core.check_invariants()


def test_events_of_a_member_rise() -> None:
    core = membership(PEERS)
    heard = []
    for message in (
        Suspect(node("n3"), node("n2"), 0),
        alive("n2", 1),
        alive("n2", 2, b"m"),
        Left(node("n2"), 2),
    ):
        heard += core.handle(0.0, message, address_of("n3"))
    orders = [e.order for e in heard]
    assert orders == sorted(set(orders))
    assert [e.change.value for e in heard] == ["suspected", "updated", "updated", "left"]


# Leaving.


def test_leaving_is_told_before_the_core_is_done() -> None:
    core = membership(PEERS)
    core.leave(0.0)
    assert not core.has_spread
    told = [m for _, m in sent([e for _, e in run_until(core, 2.0)], Left)]
    assert told == [Left(node("n1"), 0)] * 12
    assert core.has_spread


def test_who_leaves_alone_is_done_at_once() -> None:
    core = membership(())
    core.leave(0.0)
    assert core.has_spread


def test_who_leaves_refutes_nothing_and_probes_nobody() -> None:
    core = membership(PEERS)
    core.leave(0.0)
    core.handle(0.1, Suspect(node("n2"), node("n1"), 0), address_of("n2"))
    core.handle(0.1, Dead(node("n2"), node("n1"), 3), address_of("n2"))
    assert core.me.state is State.LEFT
    assert sent([e for _, e in run_until(core, 5.0)], Ping) == []


def test_left_is_not_dead_and_comes_back_only_with_a_higher_incarnation() -> None:
    core = membership(PEERS)
    assert events(core.handle(0.0, Left(node("n2"), 0), address_of("n2"))) == [("left", "n2")]
    assert events(core.handle(0.0, Dead(node("n3"), node("n2"), 0), address_of("n3"))) == []
    assert events(core.handle(0.0, alive("n2", 0), address_of("n3"))) == []
    assert events(core.handle(0.0, alive("n2", 1), address_of("n3"))) == [("joined", "n2")]


# Remembering the gone.


def test_tombstones_outlive_late_gossip_and_are_forgotten_in_the_end() -> None:
    core = membership(("n2", "n3"), settings=Settings(tombstone_s=100.0))
    core.handle(0.0, Left(node("n2"), 0), address_of("n2"))
    acked(core, 99.0)
    assert core.get("n2") is not None
    acked(core, 115.0)
    assert core.get("n2") is None
    core.check_invariants()


def test_tombstones_are_bounded_and_the_oldest_goes() -> None:
    core = membership((), settings=Settings(tombstones_max=3))
    for i in range(2, 6):
        core.handle(float(i), Dead(node("n9"), node(f"n{i}"), 0), address_of("n9"))
    assert core.stats().tombstones == 3
    assert core.get("n2") is None
    assert core.get("n3") is not None
    core.check_invariants()


def test_the_age_of_a_tombstone_travels_so_that_nobody_remembers_for_ever() -> None:
    core = membership(("n2",), settings=Settings(tombstone_s=100.0))
    heard = table_of(
        row("n7", State.DEAD), row("n8", State.DEAD), source="n2", ages={"n7": 99.0, "n8": 100.0}
    )
    core.handle(0.0, heard, address_of("n2"))
    assert core.get("n7").state is State.DEAD
    assert core.get("n8") is None
    acked(core, 14.0)
    assert core.get("n7") is None


def test_nobody_is_told_of_a_stranger_that_is_dead_as_if_it_had_been_here() -> None:
    core = membership(("n2",))
    assert events(core.handle(0.0, table_of(row("n7", State.DEAD), source="n2"), address_of("n2"))) == []


# Exchanges.


def test_equal_tables_compare_a_digest_and_send_nothing_more() -> None:
    one, other = membership(("n2",), me="n1"), membership(("n1",), me="n2")
    (answer,) = other.handle(0.0, one.open_exchange())
    assert answer == Answer(InSync(node("n2"), instance_of("n2")))
    assert one.handle(0.0, answer.response, address_of("n2")) == []
    assert one.stats().exchanges_open == 0


def test_an_exchange_brings_both_tables_to_the_same() -> None:
    one, other = membership(("n2", "n3", "n4"), me="n1"), membership(("n1", "n5"), me="n2")
    one.handle(0.0, Left(node("n4"), 0), address_of("n4"))
    other.handle(0.0, alive("n3", 7, b"new"), address_of("n3"))
    (answer,) = other.handle(0.0, one.open_exchange())
    effects = one.handle(0.0, answer.response, address_of("n2"))
    ((address, push),) = asked(effects, TableHeard)
    assert address == address_of("n2")
    assert {r.node_id for r in push.snapshot} == {"n4"}, "only what the other lacks"
    (taken,) = [e for e in other.handle(0.0, push) if isinstance(e, Answer)]
    assert one.handle(0.0, taken.response, address_of("n2")) == []
    assert one.stats().exchanges_open == 0
    assert {r.node_id: (r.state, r.incarnation) for r in one.members(0.0)} == {
        r.node_id: (r.state, r.incarnation) for r in other.members(0.0)
    }


def test_who_is_dead_elsewhere_is_only_suspected_here_and_may_refute() -> None:
    """memberlist, mergeState: after a partition a merge must not bury the living."""
    core = membership(PEERS)
    heard = table_of(row("n2", State.DEAD, 3), source="n3")
    effects = core.handle(0.0, heard, address_of("n3"))
    assert ("suspected", "n2") in events(effects)
    assert core.get("n2").state is State.SUSPECT
    assert core.suspicion(node("n2")).deadline == 2.5, "somebody waited the long time already"


def test_hearing_of_ones_own_death_in_a_table_is_refuted_in_the_same_exchange() -> None:
    dead = membership(("n2",), me="n1")
    effects = dead.handle(0.0, table_of(row("n1", State.DEAD, 3), source="n2", push=True))
    (taken,) = [e.response for e in effects if isinstance(e, Answer)]
    assert isinstance(taken, Taken)
    holder = membership(("n1",), me="n2")
    holder.handle(0.0, Dead(node("n3"), node("n1"), 3), address_of("n3"))
    assert events(holder.handle(0.0, taken, address_of("n1"))) == [("joined", "n1")]


def test_exchanges_under_way_are_bounded_and_failures_free_them() -> None:
    core = membership(PEERS, settings=Settings(exchanges_max=1))
    asks = [e for _, e in run_until(core, 30.0) if isinstance(e, Ask) and isinstance(e.request, Compare)]
    assert len(asks) == 1
    assert core.stats().totals.exchanges_refused > 0
    core.handle(30.0, AskFailed(asks[0].request))
    assert core.stats().exchanges_open == 0
    assert core.stats().totals.exchanges_failed == 1


def test_a_small_cluster_exchanges_every_few_seconds() -> None:
    core = membership(PEERS)
    compares = asked(acked(core, 60.0), Compare)
    assert 11 <= len(compares) <= 13


# Rejoin.


def test_the_smaller_side_calls_the_dead_again_and_again() -> None:
    core = membership(PEERS)
    for peer in PEERS:
        core.handle(0.0, Dead(node("n9"), node(peer), 0), address_of("n9"))
    drain(core)
    called = asked([e for _, e in run_until(core, 600.0)], Compare)
    assert {address for address, _ in called} == {address_of(peer) for peer in PEERS}


def test_a_member_alone_has_its_seeds_called() -> None:
    core = membership(())
    calls = [t for t, e in run_until(core, 60.0) if isinstance(e, CallSeeds)]
    assert 9 <= len(calls) <= 16


def test_who_left_is_not_called() -> None:
    core = membership(PEERS)
    for peer in PEERS:
        core.handle(0.0, Left(node(peer), 0), address_of(peer))
    drain(core)
    assert asked([e for _, e in run_until(core, 600.0)], Compare) == []


def test_established_is_said_once() -> None:
    core = membership(())
    assert not [e for e in core.establish(5.0) if isinstance(e, Established)]
