"""Complete states of the state machine on disk: written, checked, received from a leader, and read back.

`FileSnapshotStore` fills `storage_api.SnapshotStore`. Names in its directory:

    <index>-<term>.snap       complete; the newest K are kept
    writing-<index>.tmp       being written; removed at the next open
    receiving-<digest>.part   being received; survives a restart, so that the transfer goes on where it stopped
    <index>-<term>.damaged    failed its check at open; the newest is kept for people to look at

The stored file, all numbers little-endian; it is also what travels between nodes, byte for byte:

    head    magic, format version, index, term, config length, config (msgpack); CRC-32 of all that
    chunk   length, number (from 0), CRC-32 of length, number and bytes; the bytes
    footer  0xFFFFFFFF, number of chunks, sum of their bytes, blake2b-16 of everything before; CRC-32 of the footer

Rules of this file: a `.snap` name appears by a rename of a file that is whole and on the disk, so nothing is ever
visible half-written, whenever the process or the machine stops. Bytes go to the disk every few MiB, so that the
journal's next sync does not wait for a whole snapshot.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from zlib import crc32

import msgspec

from raft.errors import SnapshotDamaged, StorageFailed, StorageFull
from raft.files import Files, LocalFiles
from raft.storage_api import Config, SnapshotMeta

log = logging.getLogger(__name__)

KEPT_MAX = 3  # the newest, and two to fall back on should it be damaged
CHUNK_BYTES_MAX = 64 << 20  # one chunk is held in memory, here and by the receiver's state machine
_SYNC_EVERY_BYTES = 8 << 20
_DIGEST_BYTES = 16
_CONFIG_BYTES_MAX = 1 << 20

_MAGIC = b"RAFTSNAP"
_FORMAT_VERSION = 1
_HEAD = struct.Struct("<8sHQQI")
_CHUNK = struct.Struct("<II")
_CRC = struct.Struct("<I")
_CHUNK_HEAD_BYTES = _CHUNK.size + _CRC.size
_FOOTER = struct.Struct(f"<IQQ{_DIGEST_BYTES}s")
_FOOTER_BYTES = _FOOTER.size + _CRC.size
_FOOTER_MARK = 0xFFFFFFFF

_NAME = re.compile(r"(\d{20})-(\d{20})\.snap")


class FileSnapshotStore:
    """`storage_api.SnapshotStore` on a directory. Use `open`.

    Owns every file in its directory. Methods that the driver calls from a thread are called one at a time.
    """

    def __init__(self, directory: str | Path, files: Files | None = None, kept_max: int = KEPT_MAX) -> None:
        """Prepare an object without touching the disk; `open` calls this and then looks around."""
        if kept_max < 1:
            raise ValueError("at least one snapshot must be kept")
        self._directory = str(directory)
        self._files: Files = LocalFiles() if files is None else files
        self._kept_max = kept_max
        self._kept: tuple[SnapshotMeta, ...] = ()  # oldest first; replaced as a whole

    @classmethod
    def open(
        cls, directory: str | Path, *, files: Files | None = None, kept_max: int = KEPT_MAX
    ) -> FileSnapshotStore:
        """Check every snapshot in `directory`, which is made if missing. Blocks: reads all of their bytes.

        One that is damaged or cannot be read is set aside with a warning in the log, and the one before it counts.
        Raises StorageFailed if the directory itself cannot be used.
        """
        store = cls(directory, files, kept_max)
        try:
            store._look_around()
        except OSError as error:
            raise StorageFailed(f"the snapshots in {store._directory} cannot be opened: {error}") from error
        return store

    def latest(self) -> SnapshotMeta | None:
        """The newest whose checksums were right at open or when written."""
        return self._kept[-1] if self._kept else None

    def kept(self) -> list[SnapshotMeta]:
        """All kept ones, oldest first."""
        return list(self._kept)

    # Writing

    def write(self, index: int, term: int, config: Config, chunks: Iterable[bytes]) -> SnapshotMeta:
        """*(thread)* Store one; durable when it returns, and those over K are gone. Chunk boundaries are kept.

        Raises StorageFull, StorageFailed, ValueError for a chunk of more than CHUNK_BYTES_MAX, and whatever
        `chunks` raises; then nothing is visible and nothing else has changed.
        """
        temporary = self._path(f"writing-{index}.tmp")
        try:
            writer = _Writer(self._files, temporary)
            try:
                meta = writer.write(index, term, config, chunks)
            finally:
                writer.close()
            self._publish(temporary, meta)
        except OSError as error:
            self._discard(temporary)
            raise _storage_error(f"the snapshot at index {index} was not written", error) from error
        except BaseException:
            self._discard(temporary)
            raise
        return meta

    def receive(self, meta: SnapshotMeta) -> FileSnapshotReceiver:
        """*(thread)* Start receiving the file that `meta` names, or go on with what is held of it.

        What is held is checked chunk by chunk; it counts up to the first that is not sound. Partial files of other
        snapshots are removed. Raises StorageFull, StorageFailed.
        """
        path = self._path(f"receiving-{meta.digest.hex()}.part")
        try:
            for name in self._files.list_directory(self._directory):
                if name.endswith(".part") and self._path(name) != path:
                    self._files.unlink(self._path(name))
            return FileSnapshotReceiver(self, meta, path)
        except OSError as error:
            raise _storage_error(f"the snapshot at index {meta.index} cannot be received", error) from error

    def _publish(self, path: str, meta: SnapshotMeta) -> None:
        """Give a whole, synced file its name, and drop what is over K."""
        self._files.rename(path, self._path(_name(meta)))
        self._files.sync_directory(self._directory)
        others = [held for held in self._kept if _name(held) != _name(meta)]
        kept = sorted([*others, meta], key=_age)
        self._kept = tuple(kept[-self._kept_max :])
        for old in kept[: -self._kept_max]:
            self._files.unlink(self._path(_name(old)))
        self._files.sync_directory(self._directory)

    def _discard(self, path: str) -> None:
        try:
            if self._files.exists(path):
                self._files.unlink(path)
        except OSError as error:
            # The error that led here is what the caller hears; the file goes at the next open.
            log.warning(
                "a temporary snapshot file could not be removed",
                extra={"event": "raft.snapshot_discard_failed", "path": path, "error": str(error)},
            )

    # Reading

    def chunks(self, meta: SnapshotMeta) -> Iterator[bytes]:
        """*(thread)* The chunks as they were written, each verified before it is given out.

        Raises SnapshotDamaged for a checksum that does not match and for a snapshot that is no longer kept: what
        was given out before must then be thrown away.
        """
        descriptor = self._open_kept(meta)
        try:
            reader = _Reader(self._files, descriptor, self._path(_name(meta)))
            try:
                found_index, found_term, found_config = reader.head()
                if (found_index, found_term, found_config) != (meta.index, meta.term, meta.config):
                    raise reader.damaged("it is not the snapshot that its name says")
                yield from reader.chunks()
            except OSError as error:
                raise reader.damaged(f"it cannot be read ({error})") from error
        finally:
            self._files.close(descriptor)

    def read(self, meta: SnapshotMeta, offset: int, bytes_max: int) -> bytes:
        """*(thread)* Raw bytes of the stored file, for sending; b"" at the end.

        Raises SnapshotDamaged when it is no longer kept or cannot be read. Checksums are the receiver's affair.
        """
        descriptor = self._open_kept(meta)
        try:
            return self._files.read_at(descriptor, max(0, min(bytes_max, meta.size - offset)), offset)
        except OSError as error:
            raise SnapshotDamaged(
                f"the snapshot {self._path(_name(meta))} cannot be read at byte {offset}: {error}"
            ) from error
        finally:
            self._files.close(descriptor)

    def _open_kept(self, meta: SnapshotMeta) -> int:
        if meta not in self._kept:
            raise SnapshotDamaged(f"the snapshot at index {meta.index} is no longer kept")
        try:
            return self._files.open(self._path(_name(meta)))
        except OSError as error:
            raise SnapshotDamaged(
                f"the snapshot {self._path(_name(meta))} cannot be opened: {error}"
            ) from error

    # Opening

    def _look_around(self) -> None:
        self._files.make_directory(self._directory)
        # A process that was killed between a rename and this call left names that are seen but not durable.
        self._files.sync_directory(self._directory)
        names = self._files.list_directory(self._directory)
        for name in names:
            if name.endswith(".tmp"):
                self._files.unlink(self._path(name))
        found = []
        for name in sorted(name for name in names if _NAME.fullmatch(name)):
            try:
                found.append(self._check(name))
            except (SnapshotDamaged, OSError) as error:
                self._set_aside(name, str(error))
        found.sort(key=_age)
        self._kept = tuple(found[-self._kept_max :])
        for old in found[: -self._kept_max]:
            self._files.unlink(self._path(_name(old)))

    def _check(self, name: str) -> SnapshotMeta:
        descriptor = self._files.open(self._path(name))
        try:
            meta = _check_file(self._files, descriptor, self._path(name))
        finally:
            self._files.close(descriptor)
        if _name(meta) != name:
            raise SnapshotDamaged(f"the snapshot {self._path(name)} says that it is {_name(meta)}")
        return meta

    def _set_aside(self, name: str, reason: str) -> None:
        log.warning(
            "a snapshot is damaged; the one before it is used",
            extra={"event": "raft.snapshot_damaged", "path": self._path(name), "reason": reason},
        )
        for other in self._files.list_directory(self._directory):
            if other.endswith(".damaged"):
                self._files.unlink(self._path(other))
        self._files.rename(self._path(name), self._path(name.removesuffix(".snap") + ".damaged"))

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"


class FileSnapshotReceiver:
    """`storage_api.SnapshotReceiver`: made by `FileSnapshotStore.receive`."""

    def __init__(self, store: FileSnapshotStore, meta: SnapshotMeta, path: str) -> None:
        """Open or make the partial file at `path`. May raise OSError."""
        self._store = store
        self._files = store._files
        self._meta = meta
        self._path = path
        self._unsynced_bytes = 0
        self._descriptor = -1
        exists = self._files.exists(path)
        self._descriptor = self._files.open(path, create=not exists)
        try:
            self._offset = self._sound_bytes() if exists else 0
        except BaseException:
            self.abort()
            raise

    @property
    def meta(self) -> SnapshotMeta:
        """What is being received."""
        return self._meta

    @property
    def offset(self) -> int:
        """Bytes already held; the next write must start here."""
        return self._offset

    def write(self, offset: int, data: bytes) -> int:
        """*(thread)* Add bytes at `offset` and return the new offset; a wrong offset changes nothing.

        Raises SnapshotDamaged for more bytes than the snapshot has (the partial file is then removed), StorageFull
        and StorageFailed (it stays).
        """
        if offset != self._offset:
            return self._offset
        if offset + len(data) > self._meta.size:
            raise self._refuse(f"more than its {self._meta.size} bytes were sent")
        try:
            self._files.write_at(self._open_descriptor(), [data], offset)
            self._unsynced_bytes += len(data)
            if self._unsynced_bytes >= _SYNC_EVERY_BYTES:
                self._files.sync_data(self._descriptor)
                self._unsynced_bytes = 0
        except OSError as error:
            raise _storage_error(
                f"a part of the snapshot at index {self._meta.index} was not written", error
            ) from error
        self._offset += len(data)
        return self._offset

    def finish(self) -> SnapshotMeta:
        """*(thread)* Check everything, make it durable and visible: afterwards it is among `SnapshotStore.kept()`.

        Raises SnapshotDamaged after removing the partial file; StorageFull and StorageFailed leave it.
        """
        meta = self._meta
        try:
            if self._offset != meta.size:
                raise self._refuse(f"{self._offset} of {meta.size} bytes were sent")
            descriptor = self._open_descriptor()
            self._files.sync_data(descriptor)
            try:
                found = _check_file(self._files, descriptor, self._path)
            except SnapshotDamaged as error:
                raise self._refuse(str(error)) from error
            if found != meta:
                raise self._refuse(f"it says that it is {found}, and not {meta}")
            self.abort()
            self._store._publish(self._path, meta)
        except OSError as error:
            raise _storage_error(f"the snapshot at index {meta.index} was not stored", error) from error
        return meta

    def abort(self) -> None:
        """*(thread)* Close; the partial file stays for a later resume."""
        if self._descriptor >= 0:
            self._files.close(self._descriptor)
            self._descriptor = -1

    def _open_descriptor(self) -> int:
        if self._descriptor < 0:
            raise StorageFailed("this receiver of a snapshot is closed; ask the store for a new one")
        return self._descriptor

    def _refuse(self, reason: str) -> SnapshotDamaged:
        self.abort()
        self._store._discard(self._path)
        return SnapshotDamaged(f"the snapshot at index {self._meta.index} was received damaged: {reason}")

    def _sound_bytes(self) -> int:
        """How much of the partial file can be built on: it is cut there."""
        size = self._files.size(self._descriptor)
        reader = _Reader(self._files, self._descriptor, self._path)
        sound = 0
        try:
            reader.head()
            sound = reader.offset
            for _ in reader.chunks():
                sound = reader.offset
            sound = reader.offset
        except SnapshotDamaged:
            # The usual case: it ends somewhere within a chunk.
            pass
        sound = min(sound, self._meta.size)
        if sound < size:
            self._files.truncate(self._descriptor, sound)
        return sound


class _Writer:
    """Writes one snapshot file front to back."""

    def __init__(self, files: Files, path: str) -> None:
        self._files = files
        if files.exists(path):
            files.unlink(path)
        self._descriptor = files.open(path, create=True)
        self._offset = 0
        self._unsynced_bytes = 0
        self._digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)

    def write(self, index: int, term: int, config: Config, chunks: Iterable[bytes]) -> SnapshotMeta:
        """The whole file, synced."""
        self._put([_encode_head(index, term, config)])
        count = total = 0
        for chunk in chunks:
            if len(chunk) > CHUNK_BYTES_MAX:
                raise ValueError(
                    f"a snapshot chunk has {len(chunk)} bytes, at most {CHUNK_BYTES_MAX} are allowed"
                )
            head = _CHUNK.pack(len(chunk), count)
            self._put([head + _CRC.pack(crc32(chunk, crc32(head))), chunk])
            count += 1
            total += len(chunk)
        footer = _FOOTER.pack(_FOOTER_MARK, count, total, self._digest.digest())
        self._put([footer + _CRC.pack(crc32(footer))])
        self._files.sync_data(self._descriptor)
        return SnapshotMeta(index, term, config, self._offset, self._digest.digest())

    def _put(self, parts: list[bytes]) -> None:
        self._files.write_at(self._descriptor, parts, self._offset)
        size = 0
        for part in parts:
            self._digest.update(part)
            size += len(part)
        self._offset += size
        self._unsynced_bytes += size
        if self._unsynced_bytes >= _SYNC_EVERY_BYTES:
            self._files.sync_data(self._descriptor)
            self._unsynced_bytes = 0

    def close(self) -> None:
        self._files.close(self._descriptor)


class _Reader:
    """Reads one snapshot file front to back and believes nothing. `offset` is behind what was found sound."""

    def __init__(self, files: Files, descriptor: int, path: str) -> None:
        self._files = files
        self._descriptor = descriptor
        self._path = path
        self.offset = 0
        self.digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)

    def head(self) -> tuple[int, int, Config]:
        """(index, term, config)"""
        fixed = self._read(_HEAD.size, 0)
        magic, version, index, term, config_bytes = _HEAD.unpack(fixed)
        if magic != _MAGIC:
            raise self.damaged("it is not a snapshot")
        if version != _FORMAT_VERSION:
            raise self.damaged(f"it has format version {version}, this program reads {_FORMAT_VERSION}")
        if config_bytes > _CONFIG_BYTES_MAX:
            raise self.damaged(f"its list of members would have {config_bytes} bytes")
        rest = self._read(config_bytes + _CRC.size, _HEAD.size)
        encoded = rest[:config_bytes]
        if crc32(encoded, crc32(fixed)) != _CRC.unpack_from(rest, config_bytes)[0]:
            raise self.damaged("the checksum of its head is wrong")
        try:
            config = msgspec.msgpack.decode(encoded, type=Config)
        except msgspec.DecodeError as error:
            raise self.damaged(f"its list of members cannot be read ({error})") from error
        self._take(fixed + rest)
        return index, term, config

    def chunks(self) -> Iterator[bytes]:
        """Every chunk, verified; ends behind a sound footer."""
        count = total = 0
        while True:
            head = self._read(_CHUNK_HEAD_BYTES, self.offset)
            length, number = _CHUNK.unpack_from(head)
            if length == _FOOTER_MARK:
                self._footer(count, total)
                return
            if number != count or length > CHUNK_BYTES_MAX:
                raise self.damaged(f"the head of chunk {count} is wrong")
            chunk = self._read(length, self.offset + _CHUNK_HEAD_BYTES)
            if crc32(chunk, crc32(head[: _CHUNK.size])) != _CRC.unpack_from(head, _CHUNK.size)[0]:
                raise self.damaged(f"the checksum of chunk {count} is wrong")
            self._take(head)
            self._take(chunk)
            count += 1
            total += length
            yield chunk

    def _footer(self, count: int, total: int) -> None:
        footer = self._read(_FOOTER_BYTES, self.offset)
        _, said_count, said_total, said_digest = _FOOTER.unpack_from(footer)
        if crc32(footer[: _FOOTER.size]) != _CRC.unpack_from(footer, _FOOTER.size)[0]:
            raise self.damaged("the checksum of its footer is wrong")
        if (said_count, said_total, said_digest) != (count, total, self.digest.digest()):
            raise self.damaged("its footer tells of other chunks")
        self._take(footer)
        if self._files.size(self._descriptor) != self.offset:
            raise self.damaged("it goes on behind its footer")

    def _read(self, length: int, offset: int) -> bytes:
        data = self._files.read_at(self._descriptor, length, offset)
        if len(data) != length:
            raise self.damaged(f"it ends at byte {offset + len(data)}")
        return data

    def _take(self, data: bytes) -> None:
        self.digest.update(data)
        self.offset += len(data)

    def damaged(self, reason: str) -> SnapshotDamaged:
        """The error for this file."""
        return SnapshotDamaged(f"the snapshot {self._path} is damaged behind byte {self.offset}: {reason}")


def _check_file(files: Files, descriptor: int, path: str) -> SnapshotMeta:
    """What a file holds, if all of it is sound. Raises SnapshotDamaged, OSError."""
    reader = _Reader(files, descriptor, path)
    index, term, config = reader.head()
    for _ in reader.chunks():
        pass
    return SnapshotMeta(index, term, config, reader.offset, reader.digest.digest())


def _encode_head(index: int, term: int, config: Config) -> bytes:
    encoded = msgspec.msgpack.encode(config)
    if len(encoded) > _CONFIG_BYTES_MAX:
        raise ValueError(
            f"the list of members has {len(encoded)} bytes, at most {_CONFIG_BYTES_MAX} are allowed"
        )
    head = _HEAD.pack(_MAGIC, _FORMAT_VERSION, index, term, len(encoded)) + encoded
    return head + _CRC.pack(crc32(head))


def _storage_error(what: str, error: OSError) -> StorageFull | StorageFailed:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"{what}: the disk is full ({error}); free some space, and it is tried again")
    return StorageFailed(f"{what}: {error}")


def _name(meta: SnapshotMeta) -> str:
    return f"{meta.index:020d}-{meta.term:020d}.snap"


def _age(meta: SnapshotMeta) -> tuple[int, int]:
    return meta.index, meta.term
