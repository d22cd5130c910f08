"""The replicated log as the core sees it: terms of all entries, payloads of the newest ones.

Pure bookkeeping: what is older than the tail in memory is read through a callable. The owner of every index
here is `core.Core`; nothing else changes a `Log`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

import msgspec

from raft.storage_api import KIND_CONFIG, Config, Entry

ReadEntries = Callable[[int, int, int], list[Entry]]
"""(lo, hi, bytes_max) -> entries lo..hi as far as they fit, at least one; as `Journal.entries`."""

_config_decoder = msgspec.msgpack.Decoder(Config)


class Log:
    """Entries base_index+1..last_index; the entry at base_index is known only by its term.

    Invariants: `base_index <= last_index`; the tail holds entries tail_first..last_index; term runs are ascending
    in index and in term; `configs[0]` is the membership at base_index or before, later ones are in the log.
    """

    def __init__(
        self,
        *,
        base_index: int,
        base_term: int,
        last_index: int,
        term_runs: Sequence[tuple[int, int]],
        configs: Sequence[tuple[int, Config]],
        read: ReadEntries,
        tail_bytes_max: int,
    ) -> None:
        self.base_index = base_index
        self.base_term = base_term
        self.last_index = last_index
        self._run_firsts = [first for first, _ in term_runs]
        self._run_terms = [term for _, term in term_runs]
        self._configs = list(configs) or [(0, Config())]
        self._read = read
        self._tail: list[Entry] = []
        self._tail_first = last_index + 1
        self._tail_bytes = 0
        self._tail_bytes_max = tail_bytes_max

    @property
    def last_term(self) -> int:
        return self._run_terms[-1] if self._run_terms else self.base_term

    @property
    def config(self) -> Config:
        """The newest membership in the log, committed or not (dissertation, section 4.1)."""
        return self._configs[-1][1]

    @property
    def config_index(self) -> int:
        return self._configs[-1][0]

    def config_at(self, index: int) -> Config:
        """The newest membership at or below `index`."""
        for position, config in reversed(self._configs):
            if position <= index:
                return config
        return self._configs[0][1]

    def term_at(self, index: int) -> int:
        """Term of the entry at `index`. Requires base_index <= index <= last_index."""
        firsts = self._run_firsts
        if firsts and index >= firsts[-1] and index <= self.last_index:
            return self._run_terms[-1]
        if not self.base_index <= index <= self.last_index:
            raise IndexError(f"index {index} is outside of {self.base_index}..{self.last_index}")
        position = bisect_right(firsts, index) - 1
        return self._run_terms[position] if position >= 0 else self.base_term

    def matches(self, index: int, term: int) -> bool:
        """Whether the log holds an entry at `index` of `term`."""
        return self.base_index <= index <= self.last_index and self.term_at(index) == term

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a log ending so is at least as up to date as this one (Raft paper, section 5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def highest_not_above(self, index: int, term: int) -> tuple[int, int]:
        """The highest (index, its term) here with that index <= `index` and that term <= `term`: where logs
        may agree.

        The base is the floor: what is below it is committed.
        """
        index = min(index, self.last_index)
        while index > self.base_index:
            position = bisect_right(self._run_firsts, index) - 1
            if position < 0:
                break
            if self._run_terms[position] <= term:
                return index, self._run_terms[position]
            index = self._run_firsts[position] - 1
        return self.base_index, self.base_term

    def append(self, entries: Sequence[Entry]) -> bool:
        """Add contiguous entries behind last_index. True if a membership entry is among them."""
        assert entries[0].index == self.last_index + 1
        terms = self._run_terms
        bytes_added = 0
        has_config = False
        for entry in entries:
            bytes_added += len(entry.payload)
            if not terms or terms[-1] != entry.term:
                assert entry.term >= self.last_term  # equal only right behind the base
                self._run_firsts.append(entry.index)
                terms.append(entry.term)
            if entry.kind == KIND_CONFIG:
                self._configs.append((entry.index, decode_config(entry.payload)))
                has_config = True
        self._tail.extend(entries)
        self._tail_bytes += bytes_added
        self.last_index = entries[-1].index
        return has_config

    def truncate(self, index: int) -> bool:
        """Remove `index` and everything behind it. True if a membership entry went with it."""
        assert self.base_index < index <= self.last_index
        while self._run_firsts and self._run_firsts[-1] >= index:
            self._run_firsts.pop()
            self._run_terms.pop()
        if index < self._tail_first:
            self._tail.clear()
            self._tail_first = index
            self._tail_bytes = 0
        else:
            cut = self._tail[index - self._tail_first :]
            self._tail_bytes -= sum(len(entry.payload) for entry in cut)
            del self._tail[index - self._tail_first :]
        self.last_index = index - 1
        had_config = False
        while len(self._configs) > 1 and self._configs[-1][0] >= index:
            self._configs.pop()
            had_config = True
        return had_config

    def slice(self, lo: int, hi: int, bytes_max: int, entries_max: int) -> list[Entry]:
        """Entries lo..hi as far as they fit, at least one. Requires base_index < lo <= hi <= last_index."""
        assert self.base_index < lo <= hi <= self.last_index
        hi = min(hi, lo + entries_max - 1)
        if lo < self._tail_first:
            return self._read(lo, min(hi, self._tail_first - 1), bytes_max)
        start = lo - self._tail_first
        entries = self._tail[start : start + hi - lo + 1]
        total = 0
        for count, entry in enumerate(entries):
            total += len(entry.payload)
            if total > bytes_max and count:
                return entries[:count]
        return entries

    def trim(self, index: int) -> None:
        """Forget the oldest payloads in memory up to `index` if the tail is over its bound; the journal has
        them."""
        if self._tail_bytes <= self._tail_bytes_max and len(self._tail) <= 65536:
            return
        bytes_target, count_target = self._tail_bytes_max * 3 // 4, 49152
        drop = 0
        limit = min(index - self._tail_first + 1, len(self._tail))
        while drop < limit and (self._tail_bytes > bytes_target or len(self._tail) - drop > count_target):
            self._tail_bytes -= len(self._tail[drop].payload)
            drop += 1
        del self._tail[:drop]
        self._tail_first += drop

    def compacted(self, index: int) -> None:
        """The journal dropped everything up to `index`."""
        if index <= self.base_index:
            return
        self.base_term = self.term_at(index)
        config = self.config_at(index)
        position = max((i for i, _ in self._configs if i <= index), default=0)
        self._configs = [(position, config)] + [pair for pair in self._configs if pair[0] > index]
        keep = bisect_right(self._run_firsts, index)
        if keep and index < self.last_index:
            # The run that reaches over the new base starts behind it now, unless the next one does.
            following = self._run_firsts[keep] if keep < len(self._run_firsts) else self.last_index + 1
            if following > index + 1:
                keep -= 1
                self._run_firsts[keep] = index + 1
        del self._run_firsts[:keep]
        del self._run_terms[:keep]
        if index >= self._tail_first:
            drop = min(index - self._tail_first + 1, len(self._tail))
            self._tail_bytes -= sum(len(entry.payload) for entry in self._tail[:drop])
            del self._tail[:drop]
            self._tail_first += drop
        self.base_index = index

    def reset(self, index: int, term: int, config: Config) -> None:
        """Drop everything: a snapshot of `index` takes the log's place."""
        self.base_index = self.last_index = index
        self.base_term = term
        self._run_firsts.clear()
        self._run_terms.clear()
        self._configs = [(index, config)]
        self._tail.clear()
        self._tail_first = index + 1
        self._tail_bytes = 0

    def check_invariants(self) -> None:
        """For tests: the redundant copies agree."""
        assert self.base_index <= self.last_index
        assert self._tail_first + len(self._tail) == self.last_index + 1
        assert self._tail_bytes == sum(len(entry.payload) for entry in self._tail)
        assert self._run_firsts == sorted(set(self._run_firsts))
        assert self._run_terms == sorted(set(self._run_terms))
        if self.last_index > self.base_index:
            assert self._run_firsts[0] == self.base_index + 1, (self._run_firsts, self.base_index)
        else:
            assert not self._run_firsts
        for offset, entry in enumerate(self._tail):
            assert entry.index == self._tail_first + offset
            assert entry.term == self.term_at(entry.index)


def decode_config(payload: bytes) -> Config:
    """The membership in a KIND_CONFIG entry. Raises ValueError."""
    try:
        return _config_decoder.decode(payload)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a membership entry: {error}") from error


def encode_config(config: Config) -> bytes:
    """Payload of a KIND_CONFIG entry; equal memberships have equal bytes."""
    return msgspec.msgpack.encode(config, order="deterministic")
