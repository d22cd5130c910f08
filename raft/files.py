"""The few file-system calls that the journal and the snapshots are made of.

Everything that storage asks of a disk goes through the `Files` protocol, so that a test can put a disk in its
place that forgets unsynced writes, is full, or fails. `LocalFiles` is the real one.

Rules of this file: no caching, no retries, no policy. A call either did all that it says or raised OSError;
what an error means is decided by its caller. This is also the only file of `raft/` that asks the operating
system for a random number (`salt`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from raft.errors import RaftError

_WRITE_VECTORS_MAX = 512  # parts of one pwritev; the kernel's limit is 1,024
_JOIN_BELOW_BYTES = 4096  # smaller parts are cheaper to copy together than to describe one by one


class DataDirectoryLocked(RaftError):
    """Another process works in this data directory; `holder` is its pid as far as known."""

    code = "data_directory_locked"
    definite = True

    def __init__(self, message: str, holder: int | None) -> None:
        super().__init__(message)
        self.holder = holder


class Files(Protocol):
    """A file system as storage uses it. Paths are absolute; every method may raise OSError."""

    def open(self, path: str, *, create: bool = False) -> int:
        """A descriptor for reading and writing. With `create` the file must not exist yet."""
        ...

    def close(self, descriptor: int) -> None: ...

    def write_at(self, descriptor: int, parts: Sequence[bytes], offset: int) -> None:
        """Write all `parts` one after the other from `offset` on, whole or with an error."""
        ...

    def read_at(self, descriptor: int, length: int, offset: int) -> bytes:
        """Up to `length` bytes; fewer only at the end of the file."""
        ...

    def sync_data(self, descriptor: int) -> None:
        """Everything written to this file so far, and its size, is on the disk."""
        ...

    def sync_directory(self, path: str) -> None:
        """Names made, renamed and removed in this directory so far are on the disk."""
        ...

    def allocate(self, descriptor: int, length: int) -> None:
        """The first `length` bytes of the file have disk space (and read as zeros where never written)."""
        ...

    def truncate(self, descriptor: int, length: int) -> None: ...

    def size(self, descriptor: int) -> int: ...

    def drop_cache(self, descriptor: int) -> None:
        """Later reads come from the disk, not from memory (as far as the system lets us)."""
        ...

    def rename(self, source: str, target: str) -> None: ...

    def unlink(self, path: str) -> None: ...

    def exists(self, path: str) -> bool: ...

    def list_directory(self, path: str) -> list[str]: ...

    def make_directory(self, path: str) -> None:
        """Make it and its parents where missing, each durable in its parent."""
        ...

    def free_bytes(self, path: str) -> int:
        """Space that is left for us on the file system of `path`."""
        ...

    def salt(self) -> int:
        """A random number of 32 bits."""
        ...


class LocalFiles:
    """`Files` on the machine's own file system."""

    def open(self, path: str, *, create: bool = False) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC
        return os.open(path, flags | os.O_CREAT | os.O_EXCL if create else flags, 0o600)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def write_at(self, descriptor: int, parts: Sequence[bytes], offset: int) -> None:
        for vector in _vectors(parts):
            offset += self._write_vector(descriptor, vector, offset)

    def _write_vector(self, descriptor: int, vector: list[bytes], offset: int) -> int:
        total = sum(map(len, vector))
        written = os.pwritev(descriptor, vector, offset)
        if written == total:
            return total
        # A short write is rare (a signal, a nearly full disk): finish it from a copy, byte-exact.
        rest = memoryview(b"".join(vector))[written:]
        while rest:
            count = os.pwrite(descriptor, rest, offset + written)
            if count == 0:
                raise OSError(errno.EIO, "a write of more than 0 bytes wrote 0")
            written += count
            rest = rest[count:]
        return total

    def read_at(self, descriptor: int, length: int, offset: int) -> bytes:
        first = os.pread(descriptor, length, offset)
        if len(first) == length or not first:
            return first
        pieces = [first]
        got = len(first)
        while got < length:
            piece = os.pread(descriptor, length - got, offset + got)
            if not piece:
                break
            pieces.append(piece)
            got += len(piece)
        return b"".join(pieces)

    def sync_data(self, descriptor: int) -> None:
        os.fdatasync(descriptor)

    def sync_directory(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def allocate(self, descriptor: int, length: int) -> None:
        os.posix_fallocate(descriptor, 0, length)

    def truncate(self, descriptor: int, length: int) -> None:
        os.ftruncate(descriptor, length)

    def size(self, descriptor: int) -> int:
        return os.fstat(descriptor).st_size

    def drop_cache(self, descriptor: int) -> None:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def exists(self, path: str) -> bool:
        return Path(path).exists()

    def list_directory(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def make_directory(self, path: str) -> None:
        missing = []
        folder = Path(path)
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for folder in reversed(missing):
            folder.mkdir(mode=0o700, exist_ok=True)
            self.sync_directory(str(folder.parent))
        if not missing:
            self.sync_directory(str(folder.parent))  # whoever made it may have been killed before this

    def free_bytes(self, path: str) -> int:
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize

    def salt(self) -> int:
        return int.from_bytes(os.urandom(4), "little")


def _vectors(parts: Sequence[bytes]) -> list[list[bytes]]:
    """Group `parts` for pwritev: runs of small parts are joined, and no group has more than the limit."""
    vectors: list[list[bytes]] = [[]]
    small: list[bytes] = []

    def push(piece: bytes) -> None:
        if len(vectors[-1]) == _WRITE_VECTORS_MAX:
            vectors.append([])
        vectors[-1].append(piece)

    for part in parts:
        if len(part) < _JOIN_BELOW_BYTES:
            small.append(part)
            continue
        if small:
            push(b"".join(small))
            small = []
        push(part)
    if small:
        push(b"".join(small))
    return vectors


class DirectoryLock:
    """The exclusive right of this process to a data directory.

    Held by flock on a file `lock` inside, so it ends with the process, however that ends. The file names the
    holder's pid for the message of `DataDirectoryLocked`; a stale pid in a file that nobody locks means
    nothing.
    """

    def __init__(self, directory: str | Path) -> None:
        """Take the lock. Raises DataDirectoryLocked if another process (or another lock here) holds it."""
        folder = Path(directory)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(self._descriptor, 32, 0).strip()
            os.close(self._descriptor)
            holder = int(text) if text.isdigit() else None
            raise DataDirectoryLocked(
                f"the data directory {folder} is in use by the process with pid {holder or 'unknown'}; "
                f"stop that process, or give this node a directory of its own",
                holder,
            ) from None
        except OSError:
            os.close(self._descriptor)
            raise
        # A full disk must not keep a node from starting: the pid is only for the other's error message.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the directory back. The file stays, so that two who come at once meet at the same file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
