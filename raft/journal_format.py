"""The bytes of a journal segment: its head, its frames, and what the end of a segment says.

Pure functions on bytes; nothing here touches a file. All numbers are little-endian.

    segment = head (512 bytes), frames, zeros (space that was allocated and not yet used) head    = CRC-32,
    magic, format version, sequence, base index, base term, term, end of the previous segment,
              salt, vote; zeros up to 512
    frame   = CRC-32, length, index, term, synced, kind, tag, magic (32 bytes), payload (`length` bytes), 0xA5

- The CRC of a frame covers everything behind it but the last byte. It starts from the segment's random
  `salt`, so bytes that a user stores in a payload, or that were left by another segment, are never taken for
  a frame.
- `synced` is how far this segment was known to be on the disk when the frame was made. It tells an unsynced
  write that a crash tore (harmless: nobody was told of it) from damage to something that had been
  acknowledged.
- The last byte of the header and of the frame are never 0: a write that was cut short reads as zeros from the
  cut on, so it shows.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from zlib import crc32

from raft.storage_api import Entry

HEAD_BYTES = 512
SECTOR_BYTES = 512  # the unit in which disks keep or lose a write
VOTE_BYTES_MAX = 400  # the head must hold it
TRAILER = b"\xa5"
TRAILER_BYTE = 0xA5

_HEAD = struct.Struct("<8sHQQQQIIH")
_HEAD_MAGIC = b"RAFTJRNL"
_FORMAT_VERSION = 1

CRC = struct.Struct("<I")
COVERED_HEADER = struct.Struct("<IQQIBBH")  # length, index, term, synced, kind, tag, magic
FRAME_HEADER = struct.Struct("<IIQQIBBH")  # the same behind the CRC
FRAME_MAGIC = 0xD74A
_FRAME_MAGIC_BYTES = FRAME_MAGIC.to_bytes(2, "little")
FRAME_OVERHEAD_BYTES = FRAME_HEADER.size + len(TRAILER)
_SEARCH_BYTES_MAX = 1 << 30  # bytes that the search for frames behind a bad one may sum up


class FrameKind(IntEnum):
    """What a frame says. Written once, never renumbered."""

    STATE = 1  # term, and the vote as payload (empty: none)
    TRUNCATE = 2  # the log now ends at (index, term)
    RESET = 3  # the log is now empty and starts behind (index, term): a snapshot was installed
    ENTRY = 4  # a log entry; `tag` is the entry's own kind


@dataclass(frozen=True, slots=True)
class SegmentHead:
    """State of the whole journal at the moment this segment began."""

    sequence: int  # 1, 2, 3, ... without gaps
    base_index: int  # last index of the log then; 0 = empty from the start
    base_term: int  # term of that entry
    term: int
    vote: bytes  # empty = none in this term
    previous_end: int  # where the last frame of the segment before ends; 0 for the first segment
    salt: int


def encode_head(head: SegmentHead) -> bytes:
    """The 512 bytes of `head`. Raises ValueError for a vote of more than VOTE_BYTES_MAX."""
    if len(head.vote) > VOTE_BYTES_MAX:
        raise ValueError(f"a vote of {len(head.vote)} bytes is longer than {VOTE_BYTES_MAX}")
    fields = _HEAD.pack(
        _HEAD_MAGIC,
        _FORMAT_VERSION,
        head.sequence,
        head.base_index,
        head.base_term,
        head.term,
        head.previous_end,
        head.salt,
        len(head.vote),
    )
    body = (fields + head.vote).ljust(HEAD_BYTES - CRC.size, b"\0")
    return CRC.pack(crc32(body)) + body


def decode_head(block: bytes) -> SegmentHead:
    """The head in the first 512 bytes of a segment. Raises ValueError with the reason if it is not whole."""
    if len(block) < HEAD_BYTES:
        raise ValueError(f"the file is shorter than a segment head ({len(block)} < {HEAD_BYTES} bytes)")
    (checksum,) = CRC.unpack_from(block)
    body = block[CRC.size : HEAD_BYTES]
    if crc32(body) != checksum:
        raise ValueError("the checksum of the segment head is wrong")
    magic, version, *numbers, vote_length = _HEAD.unpack_from(body)
    if magic != _HEAD_MAGIC:
        raise ValueError("this is not a journal segment")
    if version != _FORMAT_VERSION:
        raise ValueError(f"the segment has format version {version}, this program reads {_FORMAT_VERSION}")
    sequence, base_index, base_term, term, previous_end, salt = numbers
    vote = body[_HEAD.size : _HEAD.size + vote_length]
    return SegmentHead(sequence, base_index, base_term, term, vote, previous_end, salt)


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame and where it ends."""

    kind: int
    tag: int
    index: int
    term: int
    synced: int
    payload: bytes
    end: int


def frame_at(data: bytes | memoryview, offset: int, salt: int) -> Frame | None:
    """The frame that starts at `offset`, or None where there is no whole, sound one."""
    if offset + FRAME_OVERHEAD_BYTES > len(data):
        return None
    checksum, length, index, term, synced, kind, tag, magic = FRAME_HEADER.unpack_from(data, offset)
    last = offset + FRAME_HEADER.size + length
    if magic != FRAME_MAGIC or last >= len(data) or data[last] != TRAILER_BYTE:
        return None
    view = memoryview(data)
    if crc32(view[offset + CRC.size : last], salt) != checksum:
        return None
    payload = bytes(view[offset + FRAME_HEADER.size : last])
    return Frame(kind, tag, index, term, synced, payload, last + 1)


def entry_at(data: bytes, offset: int, salt: int) -> Entry | None:
    """The log entry whose frame starts at `offset`, or None where there is no whole, sound one."""
    if offset + FRAME_OVERHEAD_BYTES > len(data):
        return None
    checksum, length, index, term, _, kind, tag, magic = FRAME_HEADER.unpack_from(data, offset)
    begin = offset + FRAME_HEADER.size
    last = begin + length
    if magic != FRAME_MAGIC or kind != FrameKind.ENTRY or last >= len(data) or data[last] != TRAILER_BYTE:
        return None
    payload = data[begin:last]
    if crc32(payload, crc32(data[offset + CRC.size : begin], salt)) != checksum:
        return None
    return Entry(index, term, tag, payload)


def judge_tail(data: bytes, offset: int, salt: int) -> str | None:
    """What it means that no sound frame starts at `offset`, behind the last good one.

    None: nothing was acknowledged from `offset` on. There is nothing there, or the remains of a write that a
    crash cut short (zeros from some byte on) or of which it lost sectors (whole sectors of zeros); cut it
    off. Otherwise the reason why this is damage to what was on the disk.

    What cannot be told apart: damage to the very last unconfirmed batch that looks exactly like a lost
    sector, that is, a frame that is wrong *and* has 512 aligned zero bytes. It counts as torn.
    """
    end = end_of_content(data, offset)
    if end == offset:
        return None
    try:
        next_good, known_synced = _frames_behind(data, offset, end, salt)
    except _SearchTooLongError:
        return "what follows could not be searched for further frames in reasonable time"
    if known_synced > offset:
        return f"later frames say that the journal was on disk up to byte {known_synced}"
    if _lost_sector(data, offset, end if next_good is None else next_good):
        return None
    if next_good is not None:
        return f"sound frames follow at byte {next_good}"
    return _judge_last_frame(data, offset, end, salt)


def _judge_last_frame(data: bytes, offset: int, end: int, salt: int) -> str | None:
    """The bad frame at `offset` is the last thing there; `end` is behind its last byte that is not 0."""
    if end < offset + FRAME_HEADER.size:
        return None  # the write stopped within the header
    if not any(data[offset : offset + FRAME_HEADER.size]):
        return None  # no frame was begun here; some other byte of the unused space is not 0
    _, length, *_ = FRAME_HEADER.unpack_from(data, offset)
    frame_end = offset + FRAME_OVERHEAD_BYTES + length
    if data[end - 1] == TRAILER_BYTE and _sound_with_length(data, offset, end, salt):
        return "the length of the frame is wrong"
    if frame_end > len(data) > end:
        return f"a frame claims {length} bytes of payload, more than the segment has left"
    if end >= frame_end:
        return "the checksum is wrong, and the frame is there to its last byte"
    return None  # zeros from some byte on: the write was cut short


def _sound_with_length(data: bytes, offset: int, end: int, salt: int) -> bool:
    """Would the frame be sound if it ended at `end`?"""
    length = end - offset - FRAME_OVERHEAD_BYTES
    if length < 0:
        return False
    checksum, _, *rest = FRAME_HEADER.unpack_from(data, offset)
    header = COVERED_HEADER.pack(length, *rest)
    payload = memoryview(data)[offset + FRAME_HEADER.size : end - 1]
    return bool(crc32(payload, crc32(header, salt)) == checksum)


class _SearchTooLongError(Exception):
    """Only a payload built for it makes the search this long."""


def _frames_behind(data: bytes, offset: int, end: int, salt: int) -> tuple[int | None, int]:
    """Where the first sound frame behind `offset` starts, and the highest `synced` of all such frames."""
    first: int | None = None
    known_synced = 0
    budget = _SEARCH_BYTES_MAX
    behind_magic = FRAME_HEADER.size - len(_FRAME_MAGIC_BYTES)
    position = offset + 1
    while (found := data.find(_FRAME_MAGIC_BYTES, position + behind_magic, end)) >= 0:
        start = found - behind_magic
        (length,) = CRC.unpack_from(data, start + CRC.size)
        budget -= length if start + length < end else 0
        if budget < 0:
            raise _SearchTooLongError
        frame = frame_at(data, start, salt)
        if frame is None:
            position = start + 1
            continue
        first = start if first is None else first
        known_synced = max(known_synced, frame.synced)
        position = frame.end
    return first, known_synced


def _lost_sector(data: bytes, start: int, end: int) -> bool:
    """Is any disk sector, as far as it lies in [start, end), nothing but zeros?"""
    position = start
    while position < end:
        border = min(end, (position // SECTOR_BYTES + 1) * SECTOR_BYTES)
        if not any(data[position:border]):
            return True
        position = border
    return False


_ZEROS = bytes(1 << 16)


def end_of_content(data: bytes, offset: int) -> int:
    """Behind the last byte that is not 0, at least `offset`."""
    end = len(data)
    # Mostly tens of MiB of zeros: compared in pieces, which is ten times as fast as a search.
    while end > offset:
        begin = max(offset, end - len(_ZEROS))
        piece = data[begin:end]
        if piece != _ZEROS[: len(piece)]:
            return begin + len(piece.rstrip(b"\0"))
        end = begin
    return offset
