"""A page of memory that a runner and its node share: what the runner is doing right now, without a message.

The runner writes, the node reads. Every slot is one aligned 64-bit word, written whole, so a reader sees the old or
the new value. It outlives the runner: after a SIGKILL the node still reads which task was running. Times are
CLOCK_MONOTONIC, which all processes of a host share.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

PAGE_BYTES: Final = 64

CPU_TICKET: Final = 0  # CPU task that runs now, 0: none. Written after the two below.
CPU_STARTED_NS: Final = 1
CPU_LAST_STARTED: Final = 2  # ticket of the newest CPU task that was started; they start in ticket order
LOOP_TICKET: Final = 3  # I/O task whose turn on the event loop is under way, 0: none
LOOP_TURN_NS: Final = 4  # when that turn began


class SharedPage:
    """The page, mapped from a file descriptor that both sides hold."""

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, PAGE_BYTES)
        self._bytes = memoryview(self._map)
        self.words = self._bytes.cast("Q")

    def close(self) -> None:
        """Unmap; what was read before stays right, `words` must not be used any more."""
        self.words.release()
        self._bytes.release()
        self._map.close()


def create_page() -> int:
    """A descriptor of a new page, all zero; it is inherited by a child only where asked for."""
    descriptor = os.memfd_create("thaiyyal-runner", os.MFD_CLOEXEC)
    os.ftruncate(descriptor, PAGE_BYTES)
    return descriptor
