"""Joining, coming back, and two processes that claim one id."""

from __future__ import annotations

import pytest

from gossip.effects import Answer, Ask, AskFailed, Conflict, Effect, Established, Send, TableHeard
from gossip.messages import Ack, Address, Alive, Compare, Dead, InSync, Ping, State, StreamPing
from tests.unit.gossip.builders import (
    address_of,
    alive,
    asked,
    events,
    instance_of,
    membership,
    newcomer,
    node,
    row,
    run_until,
    sent,
    table_of,
    updates,
)


def kinds(effects: list[Effect]) -> list[type]:
    return [type(e) for e in effects]


def test_a_newcomer_claims_nothing_before_it_has_heard_of_the_others() -> None:
    core = newcomer()
    assert core.next_deadline() is None
    assert updates(core) == []
    (answer,) = core.handle(0.0, Compare(node("n2"), 1, 5))
    assert isinstance(answer.response, TableHeard)
    assert [r.node_id for r in answer.response.snapshot] == []


def test_the_first_answer_joins_and_announces() -> None:
    core, seed = newcomer("n1"), membership(("n3",), me="n2")
    (answer,) = seed.handle(0.0, core.open_exchange())
    effects = core.handle(0.0, answer.response, address_of("n2"))
    assert Established in kinds(effects)
    assert sorted(n for change, n in events(effects) if change == "joined") == ["n2", "n3"]
    ((_, push),) = asked(effects, TableHeard)
    assert ("joined", "n1") in events(seed.handle(0.0, push))
    assert updates(core) == [alive("n1")], "what everybody knows is not told again"


def test_two_newcomers_that_are_each_others_seeds_join() -> None:
    one, other = newcomer("n1"), newcomer("n2")
    (answer,) = other.handle(0.0, one.open_exchange())
    effects = one.handle(0.0, answer.response, address_of("n2"))
    assert one.established
    ((_, push),) = asked(effects, TableHeard)
    effects = other.handle(0.0, push)
    assert ("joined", "n1") in events(effects)
    ((address, compare),) = asked(effects, Compare)
    assert address == address_of("n1"), "somebody is there: no need to wait for the next round"
    (answer,) = one.handle(0.1, compare)
    other.handle(0.1, answer.response, address)
    assert other.established


def test_a_failed_call_joins_nothing() -> None:
    core = newcomer()
    request = core.open_exchange()
    assert core.handle(0.0, AskFailed(request)) == []
    assert not core.established


def test_our_own_answer_joins_nothing() -> None:
    core = newcomer()
    core.open_exchange()
    core.handle(0.0, InSync(node("n1"), instance_of("n1")), address_of("n1"))
    assert not core.established


def test_a_restart_at_the_same_address_outbids_its_earlier_life() -> None:
    """Others hold alive(7) or dead(7) of the process before; it starts with 0."""
    for state in (State.ALIVE, State.SUSPECT, State.DEAD, State.LEFT):
        core = newcomer("n1")
        before = row("n1", state, 7, instance=555)
        effects = core.handle(0.0, table_of(before, row("n2"), source="n2"), address_of("n2"))
        assert core.me.incarnation == 8
        assert Established in kinds(effects)
        assert core.awareness == 0


def test_a_restart_at_another_address_asks_the_old_one_and_takes_over_when_it_is_silent() -> None:
    core = newcomer("n1")
    before = row("n1", State.ALIVE, 7, instance=555, address=address_of("n77"))
    effects = core.handle(0.0, table_of(before, row("n2"), source="n2"), address_of("n2"))
    assert not core.established
    assert [(a, m.target) for a, m in sent(effects, Ping)] == [(address_of("n77"), "n1")]
    later = [e for _, e in run_until(core, 0.99)]
    assert not core.established
    assert len(sent(later, Ping)) == 3, "one lost datagram decides nothing"
    assert len(asked(effects + later, StreamPing)) == 1
    effects = core.on_tick(1.0)
    assert Established in kinds(effects)
    assert (core.me.incarnation, core.me.address) == (8, address_of("n1"))


def test_a_newcomer_whose_id_is_in_use_does_not_start() -> None:
    core = newcomer("n1")
    rival = row("n1", State.ALIVE, 7, instance=555, address=address_of("n77"))
    effects = core.handle(0.0, table_of(rival, row("n2"), source="n2"), address_of("n2"))
    ((_, ping),) = sent(effects, Ping)
    effects = core.handle(0.1, Ack(ping.seq, node("n1"), 555), address_of("n77"))
    assert effects == [Conflict(node("n1"), address_of("n1"), address_of("n77"), fatal=True)]
    core.handle(0.2, InSync(node("n2"), 1), address_of("n2"))
    assert not core.established
    assert run_until(core, 10.0) == []


def test_the_one_that_was_there_first_reports_both_addresses_and_goes_on() -> None:
    core = membership(("n2",))
    ping = Ping(9, node("n1"), 555, node("n1"))
    effects = core.handle(1.0, ping, address_of("n77"))
    assert Conflict(node("n1"), address_of("n1"), address_of("n77"), fatal=False) in effects
    assert sent(effects, Ack), "the newcomer must hear of us"
    assert core.me.incarnation == 0
    again = core.handle(2.0, ping, address_of("n77"))
    assert Conflict not in kinds(again), "reported once a minute, not per packet"
    assert Conflict in kinds(core.handle(61.1, ping, address_of("n77")))


def test_two_established_members_with_one_id_do_not_outbid_each_other() -> None:
    core = membership(("n2",))
    claim = Alive(node("n1"), 5, address_of("n77"), b"", 555)
    effects = core.handle(0.0, claim, address_of("n2"))
    ((_, ping),) = sent(effects, Ping)
    effects = core.handle(0.1, Ack(ping.seq, node("n1"), 555), address_of("n77"))
    assert effects == [Conflict(node("n1"), address_of("n1"), address_of("n77"), fatal=False)]
    assert core.me.incarnation == 0
    run_until(core, 3.0)
    assert core.me.incarnation == 0


def test_a_seed_that_has_our_id_is_found_out_without_a_table() -> None:
    core = newcomer("n1")
    core.open_exchange()
    effects = core.handle(0.0, InSync(node("n1"), 555), address_of("n77"))
    ((address, ping),) = sent(effects, Ping)
    assert address == address_of("n77")
    effects = core.handle(0.1, Ack(ping.seq, node("n1"), 555), address)
    assert [e.fatal for e in effects if isinstance(e, Conflict)] == [True]


def test_an_echo_of_ourselves_is_no_conflict() -> None:
    core = membership(("n2",))
    assert (
        core.handle(0.0, Alive(node("n1"), 0, address_of("n1"), b"", instance_of("n1")), address_of("n2"))
        == []
    )


def test_a_dead_claim_about_an_earlier_life_is_outbid_while_joining() -> None:
    core = newcomer("n1")
    core.handle(0.0, Dead(node("n2"), node("n1"), 7), address_of("n2"))
    assert core.me.incarnation == 8
    assert not core.established


@pytest.mark.parametrize("state", [State.ALIVE, State.SUSPECT])
def test_rows_of_a_table_bring_strangers_with_their_state(state: State) -> None:
    core = newcomer("n1")
    core.handle(0.0, table_of(row("n3", state, 4, version=2), source="n2"), address_of("n2"))
    held = core.get("n3")
    assert (held.state, held.address) == (state, Address("10.0.0.3", 7946))
    core.check_invariants()


def test_asks_are_answered_before_we_are_established() -> None:
    core = newcomer("n1")
    effects = core.handle(0.0, StreamPing(3, node("n2"), 1, node("n1")))
    assert [e.response.seq for e in effects if isinstance(e, Answer)] == [3]
    effects = core.handle(0.0, Ping(3, node("n2"), 1, node("n1")), address_of("n2"))
    assert kinds(effects) == [Send]
    assert not [e for e in effects if isinstance(e, Ask)]
