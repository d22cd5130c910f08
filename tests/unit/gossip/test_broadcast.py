"""Piggybacked updates (SWIM, section 4.1)."""

from __future__ import annotations

from gossip.broadcast import BroadcastQueue
from gossip.messages import Dead, NodeId, Suspect, size_of
from tests.unit.gossip.builders import alive


def names(taken: list[object]) -> list[str]:
    return [update.member for update in taken]  # type: ignore[attr-defined]


def test_the_newest_update_goes_first() -> None:
    queue = BroadcastQueue(10)
    for name in ("n1", "n2", "n3"):
        queue.put(alive(name))
    assert names(queue.take(10_000, 4)) == ["n3", "n2", "n1"]


def test_an_update_sent_less_often_goes_before_a_newer_one() -> None:
    """Preference to younger updates: fewest sends first."""
    queue = BroadcastQueue(10)
    queue.put(alive("n1"))
    queue.put(alive("n2"))
    one = size_of(alive("n2"))
    assert names(queue.take(one, 4)) == ["n2"]
    assert names(queue.take(one, 4)) == ["n1"]
    assert names(queue.take(one, 4)) == ["n2"]


def test_an_update_is_sent_exactly_as_often_as_the_limit_says() -> None:
    queue = BroadcastQueue(10)
    queue.put(alive("n1"))
    sends = 0
    while queue.take(1_000, 12):
        sends += 1
    assert sends == 12
    assert len(queue) == 0
    assert "n1" not in queue


def test_a_newer_update_about_a_member_replaces_the_waiting_one_and_starts_anew() -> None:
    queue = BroadcastQueue(10)
    queue.put(alive("n1"))
    queue.take(1_000, 3)
    queue.put(Suspect(NodeId("n2"), NodeId("n1"), 0))
    queue.put(Dead(NodeId("n2"), NodeId("n1"), 0))
    assert len(queue) == 1
    for _ in range(3):
        assert queue.take(1_000, 3) == [Dead(NodeId("n2"), NodeId("n1"), 0)]
    assert queue.take(1_000, 3) == []


def test_updates_fill_the_room_that_is_left_and_no_more() -> None:
    queue = BroadcastQueue(100)
    for i in range(40):
        queue.put(alive(f"n{i}", meta=b"x" * 100))
    taken = queue.take(1_000, 4)
    used = sum(size_of(update) for update in taken)
    assert 1_000 - size_of(alive("n10", meta=b"x" * 100)) < used <= 1_000


def test_a_smaller_update_takes_the_room_that_a_bigger_one_does_not_fit_in() -> None:
    queue = BroadcastQueue(100)
    queue.put(Dead(NodeId("n2"), NodeId("n1"), 0))
    queue.put(alive("n9", meta=b"x" * 500))
    assert names(queue.take(100, 4)) == ["n1"]


def test_bound_below_at_and_above() -> None:
    queue = BroadcastQueue(3)
    for name in ("n1", "n2"):
        queue.put(alive(name))
    assert queue.dropped == 0
    queue.put(alive("n3"))
    assert (len(queue), queue.dropped) == (3, 0)
    queue.take(size_of(alive("n3")), 9)  # n3 was sent once: it is the one to go
    queue.put(alive("n4"))
    assert (len(queue), queue.dropped, queue.peak) == (3, 1, 3)
    assert "n3" not in queue


def test_a_dropped_member_is_not_told_of() -> None:
    queue = BroadcastQueue(3)
    queue.put(alive("n1"))
    queue.drop(NodeId("n1"))
    queue.drop(NodeId("n7"))
    assert queue.take(1_000, 4) == []
