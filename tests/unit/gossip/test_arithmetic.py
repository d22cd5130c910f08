"""The formulas, number by number. Expected values: memberlist's tests and defaults, Lifeguard's paper."""

from __future__ import annotations

import pytest

from gossip.awareness import Awareness, failed_probe_delta
from gossip.errors import SettingsInvalid
from gossip.settings import Settings
from gossip.spread import exchange_interval_s, rejoin_chance, retransmit_limit
from gossip.suspicion import (
    Suspicion,
    confirmations_wanted,
    remaining_suspicion_s,
    suspicion_min_s,
    suspicion_timeout_s,
)


@pytest.mark.parametrize(
    ("confirmations", "elapsed_s", "remaining_s"),
    [(0, 0.0, 30.0), (1, 2.0, 14.0), (2, 3.0, 4.81), (3, 4.0, -2.0), (4, 5.0, -3.0), (5, 10.0, -8.0)],
)
def test_remaining_suspicion_is_memberlists_table(
    confirmations: int, elapsed_s: float, remaining_s: float
) -> None:
    """TestSuspicion_remainingSuspicionTime: k = 3, min 2 s, max 30 s."""
    got = remaining_suspicion_s(
        confirmations=confirmations, wanted=3, elapsed_s=elapsed_s, min_s=2.0, max_s=30.0
    )
    assert got == pytest.approx(remaining_s, abs=1e-9)


@pytest.mark.parametrize(
    ("members", "min_s", "one_confirmation_s", "max_s"),
    [(100, 8.0, 22.8, 48.0), (1_000, 12.0, 34.1, 72.0), (10_000, 16.0, 45.5, 96.0)],
)
def test_suspicion_with_memberlists_defaults(
    members: int, min_s: float, one_confirmation_s: float, max_s: float
) -> None:
    """mult 4, max mult 6, T = 1 s, hence k = 2."""
    shortest = suspicion_min_s(4, members, 1.0)
    assert shortest == pytest.approx(min_s)
    assert shortest * 6 == pytest.approx(max_s)
    once = suspicion_timeout_s(confirmations=1, wanted=2, min_s=shortest, max_s=6 * shortest)
    assert once == pytest.approx(one_confirmation_s, abs=0.05)
    assert once * 1000 == pytest.approx(round(once * 1000)), "floored to milliseconds"


@pytest.mark.parametrize(
    ("members", "min_s", "max_s"),
    [(1, 2.5, 15.0), (5, 2.5, 15.0), (10, 2.5, 15.0), (100, 5.0, 30.0), (10_000, 10.0, 60.0)],
)
def test_suspicion_with_our_defaults(members: int, min_s: float, max_s: float) -> None:
    ours = Settings()
    shortest = suspicion_min_s(ours.suspicion_mult, members, ours.probe_period_s)
    assert shortest == pytest.approx(min_s)
    assert shortest * ours.suspicion_max_mult == pytest.approx(max_s)


@pytest.mark.parametrize(
    ("wanted", "members", "k"),
    [(2, 3, 0), (2, 4, 2), (2, 100, 2), (3, 4, 0), (3, 5, 3), (0, 50, 0)],
)
def test_confirmations_are_wanted_only_when_others_are_left_to_give_them(
    wanted: int, members: int, k: int
) -> None:
    """memberlist's defaults want mult - 2 = 2, and so do ours."""
    assert Settings().suspicion_confirmations == 2
    assert confirmations_wanted(wanted, members) == k


def test_suspicion_never_falls_under_its_minimum_and_is_minimal_without_confirmers() -> None:
    assert suspicion_timeout_s(confirmations=9, wanted=3, min_s=2.0, max_s=30.0) == 2.0
    assert suspicion_timeout_s(confirmations=0, wanted=0, min_s=2.0, max_s=30.0) == 2.0


def test_a_confirmation_counts_once_per_accuser_and_never_the_first_accuser() -> None:
    """TestSuspicion_Timer."""
    s = Suspicion(now=0.0, first_accuser="n1", incarnation=0, wanted=3, min_s=2.0, max_s=30.0)
    assert s.deadline == 30.0
    assert not s.confirm("n1")
    assert s.deadline == 30.0
    assert s.confirm("n2")
    assert s.deadline == 16.0
    assert not s.confirm("n2")
    assert s.deadline == 16.0
    assert s.confirm("n3")
    assert s.deadline == pytest.approx(7.81)
    assert s.confirm("n4")
    assert s.deadline == 2.0
    assert not s.confirm("n5"), "k are known already"
    assert s.deadline == 2.0


@pytest.mark.parametrize(
    ("members", "floor", "limit"),
    [
        (5, 0, 4),
        (9, 0, 4),
        (10, 0, 8),
        (100, 0, 12),
        (1_000, 0, 16),
        (10_000, 0, 20),
        (3, 12, 12),
        (9, 12, 12),
        (1_000, 12, 16),
    ],
)
def test_retransmit_limit(members: int, floor: int, limit: int) -> None:
    assert retransmit_limit(4, members, floor) == limit


@pytest.mark.parametrize(
    ("members", "interval_s"),
    [(1, 30.0), (32, 30.0), (33, 60.0), (64, 60.0), (100, 90.0), (1_000, 180.0), (10_000, 300.0)],
)
def test_exchange_interval_is_memberlists(members: int, interval_s: float) -> None:
    assert exchange_interval_s(30.0, members, 32) == interval_s


@pytest.mark.parametrize(
    ("lost", "live", "chance"), [(0, 5, 0.0), (1, 4, 0.25), (50, 50, 1.0), (97, 3, 1.0), (1, 10_000, 0.0001)]
)
def test_the_cluster_makes_one_rejoin_call_per_lost_member(lost: int, live: int, chance: float) -> None:
    assert rejoin_chance(lost=lost, live=live) == chance


def test_awareness_stays_between_0_and_7_and_stretches_the_period() -> None:
    """Lifeguard, section IV-A."""
    awareness = Awareness(8)
    awareness.apply(-1)
    assert awareness.score == 0
    assert awareness.probe_period_s(0.5) == 0.5
    awareness.apply(3)
    assert awareness.probe_period_s(0.5) == 2.0
    awareness.apply(100)
    assert awareness.score == 7
    assert awareness.probe_period_s(0.5) == 4.0


def test_awareness_max_of_1_switches_local_health_off() -> None:
    awareness = Awareness(1)
    awareness.apply(5)
    assert awareness.score == 0


@pytest.mark.parametrize(
    ("wanted", "received", "delta"), [(3, 3, 0), (3, 1, 2), (3, 0, 3), (0, 0, 1), (3, 4, 0)]
)
def test_a_failed_probe_costs_the_missing_nacks(wanted: int, received: int, delta: int) -> None:
    assert failed_probe_delta(nacks_wanted=wanted, nacks_received=received) == delta


@pytest.mark.parametrize(
    "changes",
    [
        {"probe_timeout_s": 0.3},
        {"probe_timeout_s": 0.0},
        {"gossip_period_s": 0.0},
        {"suspicion_mult": 0},
        {"suspicion_confirmations": -1},
        {"meta_bytes_max": 513},
        {"datagram_bytes_max": 1199},
    ],
)
def test_settings_that_contradict_themselves_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(SettingsInvalid):
        Settings(**changes)


def test_settings_at_their_bounds_are_taken() -> None:
    Settings(probe_timeout_s=0.25, datagram_bytes_max=1200, meta_bytes_max=512, awareness_max=1)
