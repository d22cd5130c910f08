"""Signs of life of attempts that are out, by their `heartbeat_s`. Volatile: a new leader begins anew.

An attempt counts as silent when nothing was heard for `heartbeat_s` since it was handed out or last heard; time spent
in a worker's own queue counts too. The details of the last heartbeat go with the attempt's report into the log, for
the attempt that follows.
"""

from __future__ import annotations

from typing import Final

from node.coordinator.state import AttemptKey

DETAILS_BYTES_MAX: Final = 64 * 1024
"""Of one heartbeat; details that are bigger are not kept, as they become part of the replicated state."""


class Heartbeats:
    """What was heard of which attempt, and which are overdue."""

    def __init__(self) -> None:
        self._details: dict[AttemptKey, bytes] = {}
        self._watched: dict[AttemptKey, tuple[float, float]] = {}  # -> (due, heartbeat_s)
        self._silent: set[AttemptKey] = set()

    def watch(self, key: AttemptKey, heartbeat_s: float, now: float) -> None:
        """This attempt was handed out and owes a heartbeat."""
        self._watched[key] = (now + heartbeat_s, heartbeat_s)

    def heard(self, key: AttemptKey, details: bytes | None, now: float) -> None:
        """The attempt lives."""
        if details is not None and len(details) <= DETAILS_BYTES_MAX:
            self._details[key] = details
        watched = self._watched.get(key)
        if watched is not None:
            self._watched[key] = (now + watched[1], watched[1])

    def overdue(self, now: float) -> list[AttemptKey]:
        """Attempts that have become silent since the last call."""
        found = [key for key, (due, _) in self._watched.items() if due <= now]
        for key in found:
            del self._watched[key]
            self._silent.add(key)
        return found

    def next_due(self) -> float | None:
        """When `overdue` is next worth calling."""
        return min((due for due, _ in self._watched.values()), default=None)

    def ended(self, key: AttemptKey) -> tuple[bytes | None, bool]:
        """(details of its last heartbeat, whether it was silent); it is forgotten."""
        self._watched.pop(key, None)
        silent = key in self._silent
        self._silent.discard(key)
        return self._details.pop(key, None), silent

    def clear(self) -> None:
        """Forget everything."""
        self._details.clear()
        self._watched.clear()
        self._silent.clear()
