"""Cluster time: the last applied time plus the monotonic time since. It never goes back.

Seconds since the Unix epoch, near to wall time but not equal to it: steps of the wall clock do not reach timers.
The one file of the coordinator that reads clocks.
"""

from __future__ import annotations

import logging
import time
from typing import Protocol

log = logging.getLogger(__name__)


class Clock(Protocol):
    """Where time comes from."""

    def monotonic(self) -> float:
        """Seconds within this process; for intervals."""
        ...

    def wall(self) -> float:
        """Unix seconds; for calendars and people."""
        ...


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """See Clock."""
        return time.monotonic()

    def wall(self) -> float:
        """See Clock."""
        return time.time()


class ClusterClock:
    """This replica's idea of cluster time."""

    def __init__(self, clock: Clock, *, jump_report_s: float = 60.0) -> None:
        self._clock = clock
        self._base = 0.0
        self._base_monotonic = clock.monotonic()
        self._jump_report_s = jump_report_s

    def now(self) -> float:
        """Cluster time."""
        return self._base + (self._clock.monotonic() - self._base_monotonic)

    def start(self, last_applied: float) -> None:
        """After a restart: nobody measured the time it took, so wall time decides, but never backwards."""
        wall = self._clock.wall()
        if last_applied and wall < last_applied:
            log.warning(
                "wall clock is behind cluster time; timers wait until it has caught up",
                extra={"event": "coordinator.wall_clock_behind", "behind_s": last_applied - wall},
            )
        elif last_applied and wall - last_applied > self._jump_report_s:
            log.info(
                "cluster time moves on to wall time",
                extra={"event": "coordinator.time_moved", "ahead_s": wall - last_applied},
            )
        self._set(max(wall, last_applied))

    def observe(self, applied: float) -> None:
        """Follow the leader's time, as the entry that was just applied shows it."""
        self._set(applied)

    def not_before(self, applied: float) -> None:
        """Move on if this replica lags behind what has been applied."""
        if self.now() < applied:
            self._set(applied)

    def _set(self, base: float) -> None:
        self._base = base
        self._base_monotonic = self._clock.monotonic()
