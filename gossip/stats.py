"""Counters and fill levels of the core, for people and metrics."""

from __future__ import annotations

from msgspec import Struct


class Counters(Struct):
    """Totals since the start."""

    probes: int = 0
    probes_failed: int = 0
    accusations: int = 0  # own failed probes that made or confirmed a suspicion
    refutations: int = 0
    buried: int = 0  # own suspicions that ran out
    stream_only: int = 0
    exchanges: int = 0
    exchanges_full: int = 0
    exchanges_failed: int = 0
    exchanges_refused: int = 0  # exchanges_max
    relays_refused: int = 0  # relays_max
    members_refused: int = 0  # members_max
    misaddressed: int = 0  # pings for somebody else: a node id moved
    stalls: int = 0


class Stats(Struct, frozen=True):
    """Fill levels and totals at one moment."""

    live: int
    suspect: int
    tombstones: int
    awareness: int
    broadcasts: int
    broadcasts_peak: int
    broadcasts_dropped: int
    relays: int
    exchanges_open: int
    totals: Counters
