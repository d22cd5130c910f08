"""Round robin over a shuffled list (SWIM, section 4.3)."""

from __future__ import annotations

import random
from collections import Counter

from gossip.order import ProbeOrder
from gossip.table import Base, MemberTable
from tests.unit.gossip.builders import node, row


def table(count: int, *, shared: int = 0) -> MemberTable:
    """`count` members, the first `shared` of them in the immutable base."""
    made = MemberTable(Base({node(f"n{i}"): row(f"n{i}") for i in range(1, shared + 1)}))
    for i in range(shared + 1, count + 1):
        made.put(row(f"n{i}"))
    return made


def test_everybody_is_drawn_exactly_once_per_pass() -> None:
    for shared in (0, 20, 50):
        order = ProbeOrder(table(50, shared=shared), random.Random(3))
        for _ in range(4):
            drawn = [order.next(lambda _: True) for _ in range(50)]
            assert sorted(drawn) == sorted(f"n{i}" for i in range(1, 51))


def test_passes_are_shuffled_anew() -> None:
    order = ProbeOrder(table(50), random.Random(3))
    passes = [tuple(order.next(lambda _: True) for _ in range(50)) for _ in range(4)]
    assert len(set(passes)) == 4


def test_nobody_waits_longer_than_2n_minus_1_periods() -> None:
    count, seen_at, worst = 7, {}, 0
    order = ProbeOrder(table(count), random.Random(5))
    for period in range(20_000):
        target = order.next(lambda _: True)
        if target in seen_at:
            worst = max(worst, period - seen_at[target])
        seen_at[target] = period
    assert worst == 2 * count - 1


def test_each_place_of_a_pass_is_equally_likely() -> None:
    firsts = Counter(ProbeOrder(table(5), random.Random(seed)).next(lambda _: True) for seed in range(5_000))
    assert all(900 < count < 1_100 for count in firsts.values()), firsts


def test_who_joins_in_a_pass_is_drawn_in_it() -> None:
    members = table(10)
    order = ProbeOrder(members, random.Random(1))
    drawn = [order.next(lambda _: True) for _ in range(4)]
    members.put(row("n11"))
    order.add(node("n11"))
    drawn += [order.next(lambda _: True) for _ in range(7)]
    assert sorted(drawn) == sorted(f"n{i}" for i in range(1, 12))


def test_those_not_accepted_cost_no_period() -> None:
    order = ProbeOrder(table(10), random.Random(1))
    drawn = [order.next(lambda node_id: node_id in ("n3", "n4")) for _ in range(6)]
    assert Counter(drawn) == {"n3": 3, "n4": 3}


def test_nobody_to_draw_is_said_not_searched_for_ever() -> None:
    assert ProbeOrder(table(10), random.Random(1)).next(lambda _: False) is None
    assert ProbeOrder(table(0), random.Random(1)).next(lambda _: True) is None
