"""Every knob and bound of the membership protocol, with the reason for its default.

Times are seconds and durations, never instants. The formulas that use these values are in `suspicion.py`,
`awareness.py` and `spread.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from gossip.errors import SettingsInvalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How sharp, how talkative and how big. All members of a cluster should run with equal values.

    Raises SettingsInvalid when values contradict each other.
    """

    # Failure detection (SWIM, section 3; Lifeguard, section IV).
    probe_period_s: float = 0.5
    """One direct probe each period, times (awareness score + 1)."""
    probe_timeout_s: float = 0.2
    """Wait for the direct ack; also a relay's wait before its nack. Not scaled by awareness. Two of them
    fit into a period, so that a nack arrives before the prober needs it."""
    indirect_probes: int = 3
    """k of SWIM: relays asked after a direct probe failed."""
    stream_probe: bool = True
    """Ask over the stream as well when the direct probe failed; off only to compare with the formula."""
    awareness_max: int = 8
    """Scores are 0..awareness_max-1; 1 switches local health off."""
    stall_s: float = 0.2
    """A tick this late means that we slept, not the others: all deadlines move by the delay."""

    # Suspicion. With 5 x 0.5 s a killed member of 5 is dead within 3 to 5 s, one of 100 within 10 s.
    suspicion_mult: int = 5
    suspicion_confirmations: int = 2
    """k: further accusers after which the minimum holds. memberlist's value; with mult - 2 = 3 a cluster of
    5 needs everybody's accusation, and one that is late or lost costs seconds (2 % of crashes took over 5 s)."""
    suspicion_max_mult: int = 6
    """Maximum over minimum of the suspicion timeout; 1 switches confirmations off."""

    # Dissemination.
    retransmit_mult: int = 4
    retransmit_min: int = 12
    """Floor of the sends per update. With memberlist's 4 for up to 9 members gossip alone misses some of
    them, and at heavy loss a refutation that is missed buries the living (figures in docs/gossip.md)."""
    gossip_period_s: float = 0.1
    gossip_fanout: int = 3
    gossip_to_dead_s: float = 30.0
    """The dead are gossiped to this long, so that one held dead by mistake hears of it and refutes."""
    exchange_period_s: float = 5.0
    """Anti-entropy by stream, stretched above `exchange_large_from` members. Two tables that are equal
    compare a digest and send nothing more."""
    exchange_large_from: int = 32

    # Rejoin after a partition, and the memory of the gone.
    rejoin_period_s: float = 5.0
    """How often a dead member or a seed may be called. Scaled by dead/live: the whole cluster makes about
    one call per dead member and period, however big it is."""
    tombstone_s: float = 7200.0
    """How long the dead and the left are remembered: late gossip cannot raise them meanwhile, and the dead
    are called again. Hours, because partitions last minutes to hours."""

    # Bounds.
    datagram_bytes_max: int = 1400
    """Whole sealed datagram; fits an Ethernet frame with IP, UDP and a tunnel's header. Longer: dropped."""
    meta_bytes_max: int = 512
    """Metadata of one member, encoded. Longer: refused."""
    members_max: int = 16_384
    """Members in the table, tombstones included. When full, unknown members are refused and counted."""
    tombstones_max: int = 4_096
    """Remembered dead and left members. When full, the oldest is forgotten."""
    broadcasts_max: int = 4_096
    """Updates waiting to be spread. When full, the one sent most often is dropped; exchanges repair it."""
    relays_max: int = 1_024
    """Indirect probes under way for others. When full, refused: the asker misses a nack."""
    exchanges_max: int = 64
    """Streams asked for and not yet answered. When full, no new exchange is started."""

    def __post_init__(self) -> None:
        if not 0 < 2 * self.probe_timeout_s <= self.probe_period_s:
            raise SettingsInvalid(
                f"probe_timeout_s={self.probe_timeout_s} must be over 0 and at most half of "
                f"probe_period_s={self.probe_period_s}: the direct and the indirect probe share the period"
            )
        for name in ("gossip_period_s", "exchange_period_s", "rejoin_period_s", "tombstone_s", "stall_s"):
            if getattr(self, name) <= 0:
                raise SettingsInvalid(f"{name} must be over 0, is {getattr(self, name)}")
        for name in ("awareness_max", "suspicion_mult", "suspicion_max_mult", "gossip_fanout", "members_max"):
            if getattr(self, name) < 1:
                raise SettingsInvalid(f"{name} must be at least 1, is {getattr(self, name)}")
        if self.suspicion_confirmations < 0:
            raise SettingsInvalid(
                f"suspicion_confirmations must not be negative, is {self.suspicion_confirmations}"
            )
        if self.meta_bytes_max > 512 or self.datagram_bytes_max < 1200:
            raise SettingsInvalid(
                f"meta_bytes_max={self.meta_bytes_max} must be at most 512 and "
                f"datagram_bytes_max={self.datagram_bytes_max} at least 1200: one update always fits"
            )
