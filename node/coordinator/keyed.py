"""State that executions share by key: the cache, and the reservations of rate limiters. Per tenant, bounded.

Part of the replicated state: the same calls in the same order give the same tables on every replica. Entries end by
cluster time, a bounded number with each batch; a reader never sees one that has ended.

Act when full: a cache that is full for its tenant refuses (`KeyedFull`, a retryable failure of the step); so does a
rate limiter. Nothing is dropped before its time.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from typing import Final

from msgspec import Struct

Key = tuple[str, str]  # (tenant, key)

EXPIRED_PER_BATCH_MAX: Final = 256
"""Bounds the time that ended entries add to one apply; what is left over goes with the next one."""
CACHE_ENTRY_BYTES: Final = 100
"""Counted for an entry beside its key and value, so that many tiny ones are bounded too."""


class KeyedLimits(Struct, array_like=True, frozen=True, kw_only=True):
    """Bounds of what executions share by key; replicated, as they decide inside `apply`."""

    cache_keys_max: int = 100_000  # per tenant
    cache_bytes_max: int = 64 * 1024 * 1024  # per tenant; in memory on every voter
    cache_value_bytes_max: int = 1024 * 1024
    cache_ttl_s_max: float = 30 * 86_400.0
    key_chars_max: int = 500
    rate_keys_max: int = 10_000  # per tenant
    rate_count_max: int = 10_000  # slots in one window: each is remembered for the length of the window
    rate_ahead_max: int = 100_000  # slots of one key that are reserved and still to come


class Cached(Struct, array_like=True, frozen=True, gc=False):
    """A value of the cache, until a moment of cluster time."""

    value: bytes
    ends: float


class Rate(Struct, array_like=True):
    """Slots of a rate limiter, ascending: those of the last window, and those reserved ahead."""

    slots: list[float]
    window_s: float  # the longest that was asked for
    ends: float  # when the last slot has left its window


class KeyedFull(Exception):
    """A bound was met; `limit` names it."""

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(f"{message} (limit {limit})")
        self.limit = limit


class Keyed:
    """Owner of both tables. `changed_*` collect what the store has to write; `take_changes` empties them."""

    __slots__ = (
        "_due",
        "cache",
        "cache_bytes",
        "cache_counts",
        "changed_cache",
        "changed_rates",
        "rate_counts",
        "rates",
    )

    def __init__(self) -> None:
        self.cache: dict[Key, Cached] = {}
        self.rates: dict[Key, Rate] = {}
        self.cache_bytes: dict[str, int] = {}  # by tenant
        self.cache_counts: dict[str, int] = {}  # by tenant
        self.rate_counts: dict[str, int] = {}  # by tenant
        self.changed_cache: dict[Key, None] = {}
        self.changed_rates: dict[Key, None] = {}
        self._due: list[
            tuple[float, int, Key]
        ] = []  # heap of (ends, 0 cache or 1 rate, key); some are outdated

    # ---- the cache -----------------------------------------------------------------------------------------

    def get(self, key: Key, now: float) -> bytes | None:
        """The value under a key, None without one."""
        found = self.cache.get(key)
        return found.value if found is not None and found.ends > now else None

    def set(self, key: Key, value: bytes, ttl_s: float, now: float, limits: KeyedLimits) -> None:
        """Keep a value for `ttl_s`. Raises KeyedFull."""
        tenant = key[0]
        _check_key(key, limits)
        if len(value) > limits.cache_value_bytes_max:
            most = limits.cache_value_bytes_max
            text = f"the value for cache key {key[1]!r} has {len(value)} bytes of at most {most}"
            raise KeyedFull("cache_value_bytes_max", text)
        earlier = self.cache.get(key)
        count = self.cache_counts.get(tenant, 0) + (earlier is None)
        if count > limits.cache_keys_max:
            raise KeyedFull(
                "cache_keys_max", f"the cache holds {count - 1} keys of at most {limits.cache_keys_max}"
            )
        size = self.cache_bytes.get(tenant, 0) + _size(key, value)
        if earlier is not None:
            size -= _size(key, earlier.value)
        if size > limits.cache_bytes_max:
            text = f"the cache would hold {size} bytes of at most {limits.cache_bytes_max}"
            raise KeyedFull("cache_bytes_max", text)
        ends = now + min(max(ttl_s, 0.0), limits.cache_ttl_s_max)
        self._put_cached(key, Cached(value, ends))
        self.changed_cache[key] = None

    def delete(self, key: Key, now: float) -> bool:
        """Forget a key; whether there was a value."""
        found = self.get(key, now) is not None
        if key in self.cache:
            self._drop_cached(key)
        return found

    def _put_cached(self, key: Key, entry: Cached) -> None:
        tenant = key[0]
        if key in self.cache:
            self._uncount(key)
        self.cache[key] = entry
        self.cache_counts[tenant] = self.cache_counts.get(tenant, 0) + 1
        self.cache_bytes[tenant] = self.cache_bytes.get(tenant, 0) + _size(key, entry.value)
        self._set_due(entry.ends, 0, key)

    def _drop_cached(self, key: Key) -> None:
        self._uncount(key)
        del self.cache[key]
        self.changed_cache[key] = None

    def _uncount(self, key: Key) -> None:
        tenant = key[0]
        self.cache_bytes[tenant] -= _size(key, self.cache[key].value)
        self.cache_counts[tenant] -= 1
        if not self.cache_counts[tenant]:
            del self.cache_counts[tenant], self.cache_bytes[tenant]

    # ---- rates ---------------------------------------------------------------------------------------------

    def reserve(self, key: Key, count: int, window_s: float, now: float, limits: KeyedLimits) -> float:
        """The next moment at which no window of `window_s` has more than `count` slots; it is taken.

        Slots of one key are given in the order in which they are asked for. Raises KeyedFull.
        """
        _check_key(key, limits)
        if count > limits.rate_count_max:
            text = f"{count} in one window are more than can be remembered ({limits.rate_count_max})"
            raise KeyedFull("rate_count_max", text)
        rate = self.rates.get(key)
        if rate is None:
            in_use = self.rate_counts.get(key[0], 0)
            if in_use >= limits.rate_keys_max:
                raise KeyedFull("rate_keys_max", f"{in_use} rate limiters are in use")
            rate = Rate([], window_s, 0.0)
            self.load_rate(key, rate)
        rate.window_s = max(rate.window_s, window_s)
        slots = rate.slots
        if len(slots) >= limits.rate_ahead_max and slots[-limits.rate_ahead_max] > now:
            raise KeyedFull("rate_ahead_max", f"{limits.rate_ahead_max} wait for rate limiter {key[1]!r}")
        slot = now
        if slots:
            slot = max(slot, slots[-1])
        if len(slots) >= count:
            slot = max(slot, slots[-count] + window_s)
        slots.append(slot)
        rate.ends = slot + rate.window_s
        del slots[: bisect_right(slots, now - rate.window_s)]  # in no window any more
        self.changed_rates[key] = None
        self._set_due(rate.ends, 1, key)
        return slot

    # ---- time ----------------------------------------------------------------------------------------------

    def _set_due(self, ends: float, kind: int, key: Key) -> None:
        heapq.heappush(self._due, (ends, kind, key))
        if len(self._due) > 2 * (len(self.cache) + len(self.rates)) + 1000:
            self._rebuild_due()

    def _rebuild_due(self) -> None:
        self._due = [(entry.ends, 0, key) for key, entry in self.cache.items()]
        self._due += [(rate.ends, 1, key) for key, rate in self.rates.items()]
        heapq.heapify(self._due)

    def expire(self, now: float) -> None:
        """Forget what has ended, a bounded number of entries."""
        left = EXPIRED_PER_BATCH_MAX
        while self._due and left and self._due[0][0] <= now:
            ends, kind, key = heapq.heappop(self._due)
            entry = self.rates.get(key) if kind else self.cache.get(key)
            if entry is None or entry.ends != ends:
                continue  # outdated: it was set again, or is gone; other replicas may not have this line
            left -= 1
            if kind:
                del self.rates[key]
                self.changed_rates[key] = None
                self.rate_counts[key[0]] -= 1
                if not self.rate_counts[key[0]]:
                    del self.rate_counts[key[0]]
            else:
                self._drop_cached(key)

    # ---- the store -----------------------------------------------------------------------------------------

    def take_changes(self) -> tuple[dict[Key, None], dict[Key, None]]:
        """Keys of the cache, and of rates, that were set or forgotten since the last call."""
        changed = self.changed_cache, self.changed_rates
        self.changed_cache, self.changed_rates = {}, {}
        return changed

    def load_cached(self, key: Key, entry: Cached) -> None:
        """A row of the store."""
        self._put_cached(key, entry)

    def load_rate(self, key: Key, rate: Rate) -> None:
        """A row of the store."""
        self.rates[key] = rate
        self.rate_counts[key[0]] = self.rate_counts.get(key[0], 0) + 1
        self._set_due(rate.ends, 1, key)

    def check_invariants(self) -> None:
        """Raise AssertionError where a derived number disagrees with what it is derived from."""
        counts: dict[str, int] = {}
        sizes: dict[str, int] = {}
        for key, entry in self.cache.items():
            counts[key[0]] = counts.get(key[0], 0) + 1
            sizes[key[0]] = sizes.get(key[0], 0) + _size(key, entry.value)
        assert counts == self.cache_counts, f"cache keys: counted {counts}, kept {self.cache_counts}"
        assert sizes == self.cache_bytes, f"cache bytes: counted {sizes}, kept {self.cache_bytes}"
        due = set(self._due)
        assert all((entry.ends, 0, key) in due for key, entry in self.cache.items())
        assert all((rate.ends, 1, key) in due for key, rate in self.rates.items())
        assert all(rate.slots == sorted(rate.slots) for rate in self.rates.values())


def _size(key: Key, value: bytes) -> int:
    return len(key[1]) + len(value) + CACHE_ENTRY_BYTES


def _check_key(key: Key, limits: KeyedLimits) -> None:
    if len(key[1]) > limits.key_chars_max:
        raise KeyedFull("key_chars_max", f"the key {key[1][:40]!r}… has {len(key[1])} characters")
