"""The rule book and the table that it is applied to."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from gossip.messages import State
from gossip.table import EMPTY, TRANSITIONS, Base, MemberTable, Snapshot, When, describes_newer, diagram, wins
from tests.unit.gossip.builders import node, row

A, S, D, L = State.ALIVE, State.SUSPECT, State.DEAD, State.LEFT


def test_the_table_of_transitions_is_total() -> None:
    assert set(TRANSITIONS) == {(held, claimed) for held in State for claimed in (A, S, D, L)}


@pytest.mark.parametrize("held", [A, S, D, L])
@pytest.mark.parametrize("claimed", [A, S, D, L])
@pytest.mark.parametrize("i", [4, 5, 6])
def test_a_claim_wins_by_incarnation_then_by_state(held: State, claimed: State, i: int) -> None:
    """SWIM, section 4.2: alive(i) beats only j < i, suspect(i) also alive(i), dead(i) also suspect(i); the
    member's own leave beats all that is said of that incarnation."""
    assert wins(row("n2", held, 5), claimed, i) == ((i, claimed) > (5, held))


def test_of_an_unknown_member_all_counts_but_an_accusation() -> None:
    assert [wins(None, claimed, 3) for claimed in (A, S, D, L)] == [True, False, True, True]


def test_left_comes_back_only_with_a_higher_incarnation() -> None:
    left = row("n2", L, 5)
    assert not wins(left, A, 5)
    assert wins(left, A, 6)


def test_descriptions_are_ordered_by_version_and_ties_by_instance() -> None:
    held = row("n2", A, 5, instance=10)
    assert describes_newer(6, 1, held)
    assert not describes_newer(4, 99, held)
    assert not describes_newer(5, 10, held)
    assert describes_newer(5, 11, held)


def test_the_diagram_shows_every_transition_that_can_happen() -> None:
    lines = diagram().splitlines()
    possible = [rule for rule in TRANSITIONS.values() if rule.when is not When.NEVER]
    assert sum(" --> " in line and "(i)" in line for line in lines) == len(possible)
    assert "    alive --> suspect : suspect(i), i ≥ j / suspected" in lines


def test_the_documented_diagram_is_the_tables() -> None:
    text = (Path(__file__).parents[3] / "docs" / "gossip.md").read_text(encoding="utf-8")
    assert diagram() in text, "replace it with what gossip.table.diagram() returns"


def test_counts_and_digest_follow_every_change() -> None:
    rng = random.Random(7)
    names = [f"n{i}" for i in range(12)]
    table = MemberTable(Base({node(n): row(n) for n in names[:6]}))
    for _ in range(2_000):
        name = node(rng.choice(names))
        held = table.get(name)
        if held is not None and held.state in (D, L) and rng.random() < 0.3:
            table.forget(name)
        else:
            table.put(row(name, rng.choice([A, S, D, L]), rng.randrange(4)))
        table.check_invariants()


def test_equal_live_rows_have_equal_digests_whatever_the_order_and_the_tombstones() -> None:
    one, other = MemberTable(), MemberTable(Base({node("n3"): row("n3", A, 2)}))
    for name in ("n1", "n2"):
        one.put(row(name))
    one.put(row("n3", A, 2))
    for name in ("n2", "n1"):
        other.put(row(name))
    other.put(row("n9", D, 4))
    assert one.digest == other.digest
    other.put(row("n2", S, 0))
    assert one.digest != other.digest


def test_pick_takes_different_accepted_members_and_all_when_few() -> None:
    table = MemberTable(Base({node(f"n{i}"): row(f"n{i}") for i in range(100)}))
    rng = random.Random(1)
    for _ in range(200):
        picked = table.pick(rng, 3, lambda n: n.endswith("7"))
        assert len(set(picked)) == 3
        assert all(n.endswith("7") for n in picked)
    assert sorted(table.pick(rng, 3, lambda n: n in ("n5", "n6"))) == ["n5", "n6"]
    assert table.pick(rng, 3, lambda _: False) == []


def test_a_snapshot_does_not_change_when_the_table_does() -> None:
    table = MemberTable(Base({node("n1"): row("n1")}))
    before = table.snapshot({})
    table.put(row("n1", D, 3))
    table.put(row("n2"))
    assert [r.state for r in before] == [A]
    assert len(table.snapshot({})) == 2


def test_two_views_of_one_base_compare_only_what_either_changed() -> None:
    base = Base({node(f"n{i}"): row(f"n{i}") for i in range(100)})
    one, other = MemberTable(base), MemberTable(base)
    one.put(row("n1", S, 0))
    other.put(row("n2", S, 0))
    other.put(row("n200"))
    assert sorted(one.snapshot({}).candidates(other)) == ["n1", "n2", "n200"]


def test_views_without_a_common_base_compare_all() -> None:
    other = MemberTable()
    other.put(row("n2"))
    heard = Snapshot(EMPTY, {node("n1"): row("n1")}, {})
    assert sorted(heard.candidates(other)) == ["n1", "n2"]
