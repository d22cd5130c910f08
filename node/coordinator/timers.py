"""Deadlines on one clock, cheap to set and to clear: a wheel of buckets over a heap of bucket numbers.

Never early: a deadline falls into the bucket that ends after it. Clearing leaves nothing behind but a number in the
heap, so the many deadlines that never come due (execution timeouts) cost no memory once their executions are gone.
"""

from __future__ import annotations

import heapq
from typing import Final

from node.coordinator.effects import TimerKey


class TimerWheel:
    """Deadlines as buckets of `granularity_s`: up to so much late."""

    def __init__(self, granularity_s: float = 0.01) -> None:
        self._granularity_s: Final = granularity_s
        self._buckets: dict[int, dict[TimerKey, None]] = {}
        self._heap: list[int] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def set(self, key: TimerKey, due: float) -> None:
        """Fire `key` after `due`."""
        number = int(due / self._granularity_s) + 1
        bucket = self._buckets.get(number)
        if bucket is None:
            self._buckets[number] = {key: None}
            heapq.heappush(self._heap, number)
            self._count += 1
        elif key not in bucket:
            bucket[key] = None
            self._count += 1

    def clear(self, key: TimerKey, due: float) -> None:
        """Forget a deadline that was set with this `due`; nothing if it has fired."""
        number = int(due / self._granularity_s) + 1
        bucket = self._buckets.get(number)
        if bucket is None or key not in bucket:
            return
        del bucket[key]
        self._count -= 1
        if not bucket:
            del self._buckets[number]
            if len(self._heap) > 64 and len(self._heap) > 4 * len(self._buckets):
                self._heap = list(self._buckets)
                heapq.heapify(self._heap)

    def pop_due(self, now: float, *, count_max: int) -> list[TimerKey]:
        """Deadlines that have passed, oldest bucket first, at most so many; the rest comes with the next call."""
        due: list[TimerKey] = []
        while self._heap and self._heap[0] * self._granularity_s <= now and len(due) < count_max:
            number = self._heap[0]
            bucket = self._buckets.get(number)
            if bucket is None:
                heapq.heappop(self._heap)
                continue
            room = count_max - len(due)
            if len(bucket) <= room:
                due.extend(bucket)
                del self._buckets[number]
                heapq.heappop(self._heap)
            else:
                taken = list(bucket)[:room]
                for key in taken:
                    del bucket[key]
                due.extend(taken)
        self._count -= len(due)
        return due

    def next_due(self) -> float | None:
        """When pop_due is next worth calling; None with no deadline."""
        while self._heap:
            number = self._heap[0]
            if number in self._buckets:
                return number * self._granularity_s
            heapq.heappop(self._heap)
        return None
