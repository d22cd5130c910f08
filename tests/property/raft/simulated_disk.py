"""A disk in memory that fills `raft.files.Files`, loses what was not synced, gets full, and fails on demand.

What may survive a power loss, per file: everything up to the last `sync_data`, and of the writes behind it
either a prefix, cut at any byte, or any set of 512-byte sectors. Per directory: everything up to the last
`sync_directory`, of the creations and renames behind it a prefix, and any of the removals. After a mere kill of
the process everything survives.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

SECTOR = 512


class SimulatedCrash(BaseException):
    """The process is gone at this call. Not an Exception: nothing may handle it."""


@dataclass
class _Inode:
    content: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    allocated: int = 0
    unsynced: list[tuple[str, int, bytes]] = field(
        default_factory=list
    )  # (write|truncate|allocate, offset, bytes)


def _apply(content: bytearray, change: tuple[str, int, bytes]) -> None:
    kind, offset, data = change
    if kind == "truncate":
        del content[offset:]
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    if kind == "write":
        content[offset : offset + len(data)] = data


class SimulatedDisk:
    """See the module. `crash_at` counts changing calls; `fault` may return an errno for (operation, path)."""

    def __init__(self, *, capacity: int = 1 << 40) -> None:
        self.capacity = capacity
        self.changes = 0
        self.crash_at: int | None = None
        self.crash_bytes = 0  # of the write at which the crash happens, so many bytes get through
        self.fault: Callable[[str, str], int | None] = lambda _operation, _path: None
        self.log: list[tuple[str, str]] = []
        self._names: dict[str, _Inode] = {}
        self._durable_names: dict[str, _Inode] = {}
        self._name_changes: list[tuple[str, str, str | _Inode]] = []
        self._descriptors: dict[int, tuple[_Inode, str]] = {}
        self._next_descriptor = 1000
        self._salt = random.Random(7)

    # The outside world

    def kill(self) -> None:
        """The process ends; the machine goes on."""
        self._descriptors.clear()
        self.crash_at = None

    def lose_power(self, rng: random.Random, *, sectors: bool = False) -> None:
        """The machine stops: choose what of the unsynced changes survives."""
        self.kill()
        for inode in {
            id(inode): inode for inode in [*self._names.values(), *self._durable_names.values()]
        }.values():
            content = bytearray(inode.durable)
            survivors = _some_sectors(inode.unsynced, rng) if sectors else _some_bytes(inode.unsynced, rng)
            for change in survivors:
                _apply(content, change)
            inode.content = content
            inode.durable = bytes(content)
            inode.unsynced.clear()
        names = dict(self._durable_names)
        survivors_of_names = rng.randint(0, len(self._name_changes))
        for number, change in enumerate(self._name_changes):
            if change[0] == "remove":
                if rng.random() < 0.5 and change[1] in names:
                    _rename(names, change)
            elif number < survivors_of_names:
                _rename(names, change)
        self._names, self._durable_names = names, dict(names)
        self._name_changes.clear()

    def content(self, path: str) -> bytearray:
        """The bytes of a file, to look at and to spoil."""
        return self._names[path].content

    def names(self) -> list[str]:
        return sorted(self._names)

    def open_descriptors(self) -> int:
        return len(self._descriptors)

    # Files

    def open(self, path: str, *, create: bool = False) -> int:
        self._visit("open", path, changes=create)
        if create:
            if path in self._names:
                raise OSError(errno.EEXIST, "exists", path)
            inode = _Inode()
            self._change_names(("add", path, inode))
        elif path not in self._names:
            raise OSError(errno.ENOENT, "no such file", path)
        self._next_descriptor += 1
        self._descriptors[self._next_descriptor] = (self._names[path], path)
        return self._next_descriptor

    def close(self, descriptor: int) -> None:
        del self._descriptors[descriptor]

    def write_at(self, descriptor: int, parts: Sequence[bytes], offset: int) -> None:
        inode, path = self._descriptors[descriptor]
        data = b"".join(parts)
        crashes = self.crash_at is not None and self.changes + 1 >= self.crash_at
        if crashes:
            self._change(inode, ("write", offset, data[: self.crash_bytes]))
        self._visit("write_at", path)
        self._need_space(inode, offset + len(data))
        self._change(inode, ("write", offset, data))

    def read_at(self, descriptor: int, length: int, offset: int) -> bytes:
        inode, path = self._descriptors[descriptor]
        self._visit("read_at", path, changes=False)
        return bytes(inode.content[offset : offset + length])

    def sync_data(self, descriptor: int) -> None:
        inode, path = self._descriptors[descriptor]
        self._visit("sync_data", path)
        inode.durable = bytes(inode.content)
        inode.unsynced.clear()

    def sync_directory(self, path: str) -> None:
        self._visit("sync_directory", path)
        self._durable_names = dict(self._names)
        self._name_changes.clear()

    def allocate(self, descriptor: int, length: int) -> None:
        inode, path = self._descriptors[descriptor]
        self._visit("allocate", path)
        self._need_space(inode, length)
        inode.allocated = max(inode.allocated, length)
        if len(inode.content) < length:
            self._change(inode, ("allocate", length, b""))

    def truncate(self, descriptor: int, length: int) -> None:
        inode, path = self._descriptors[descriptor]
        self._visit("truncate", path)
        inode.allocated = min(inode.allocated, length)
        self._change(inode, ("truncate", length, b""))

    def size(self, descriptor: int) -> int:
        return len(self._descriptors[descriptor][0].content)

    def drop_cache(self, descriptor: int) -> None:
        """Reads are not cached here."""

    def rename(self, source: str, target: str) -> None:
        self._visit("rename", source)
        self._change_names(("move", source, target))

    def unlink(self, path: str) -> None:
        self._visit("unlink", path)
        self._change_names(("remove", path, ""))

    def exists(self, path: str) -> bool:
        return path in self._names

    def list_directory(self, path: str) -> list[str]:
        return sorted(
            PurePosixPath(name).name for name in self._names if str(PurePosixPath(name).parent) == path
        )

    def make_directory(self, path: str) -> None:
        self._visit("make_directory", path)

    def free_bytes(self, path: str) -> int:
        return max(0, self.capacity - self._used())

    def salt(self) -> int:
        return self._salt.getrandbits(32)

    # Inside

    def _visit(self, operation: str, path: str, *, changes: bool = True) -> None:
        self.log.append((operation, path))
        if changes:
            self.changes += 1
            if self.crash_at is not None and self.changes >= self.crash_at:
                raise SimulatedCrash
        number = self.fault(operation, path)
        if number is not None:
            raise OSError(number, errno.errorcode[number], path)

    def _used(self) -> int:
        return sum(max(len(inode.content), inode.allocated) for inode in self._names.values())

    def _need_space(self, inode: _Inode, length: int) -> None:
        more = length - max(len(inode.content), inode.allocated)
        if more > 0 and self._used() + more > self.capacity:
            raise OSError(errno.ENOSPC, "no space left on device")

    def _change(self, inode: _Inode, change: tuple[str, int, bytes]) -> None:
        inode.unsynced.append(change)
        _apply(inode.content, change)

    def _change_names(self, change: tuple[str, str, str | _Inode]) -> None:
        self._name_changes.append(change)
        _rename(self._names, change)


def _rename(names: dict[str, _Inode], change: tuple[str, str, str | _Inode]) -> None:
    kind, path, other = change
    if kind == "add":
        assert isinstance(other, _Inode)
        names[path] = other
    elif kind == "move":
        assert isinstance(other, str)
        names[other] = names.pop(path)
    else:
        del names[path]


def _some_bytes(changes: list[tuple[str, int, bytes]], rng: random.Random) -> list[tuple[str, int, bytes]]:
    total = sum(max(1, len(data)) for _, _, data in changes)
    left = rng.randint(0, total)
    survivors = []
    for kind, offset, data in changes:
        if left <= 0:
            break
        survivors.append((kind, offset, data[:left]))
        left -= max(1, len(data))
    return survivors


def _some_sectors(changes: list[tuple[str, int, bytes]], rng: random.Random) -> list[tuple[str, int, bytes]]:
    survivors: list[tuple[str, int, bytes]] = []
    touched = {
        sector
        for kind, offset, data in changes
        if kind == "write" and data
        for sector in range(offset // SECTOR, (offset + len(data) - 1) // SECTOR + 1)
    }
    share = rng.random()
    lost = {sector for sector in touched if rng.random() < share}
    for kind, offset, data in changes:
        if kind != "write":
            survivors.append((kind, offset, data))
            continue
        position = offset
        while position < offset + len(data):
            border = min(offset + len(data), (position // SECTOR + 1) * SECTOR)
            if position // SECTOR not in lost:
                survivors.append(("write", position, data[position - offset : border - offset]))
            position = border
    return survivors
