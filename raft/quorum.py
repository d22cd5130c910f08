"""The arithmetic of majorities. Pure functions."""

from __future__ import annotations

from collections.abc import Collection, Iterable


def majority(voters: int) -> int:
    """How many of `voters` are a majority. Raises ValueError for an empty group."""
    if voters < 1:
        raise ValueError("a group without voters has no majority")
    return voters // 2 + 1


def quorum_index(matched: Collection[int]) -> int:
    """Highest log index that a majority of voters has on disk.

    `matched` has one entry per voter, the leader included when it is one, in any order; 0 means none. Says
    nothing about terms: the caller also needs the entry to be of its own term (Raft paper, section 5.4.2).
    Raises ValueError for an empty group.
    """
    count = len(matched)
    return sorted(matched)[count - majority(count)]


def has_quorum(agreeing: Iterable[str], voters: Collection[str]) -> bool:
    """Whether a majority of `voters` is among `agreeing`; others, and repetitions, count nothing."""
    return len(set(agreeing).intersection(voters)) >= majority(len(voters))
