"""Frames between a node and its runners: four bytes of length, then one msgpack message.

Pure byte work; sockets are elsewhere. A length over the bound is refused before anything is allocated for it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from node.worker.messages import FRAME_HEADER_BYTES, FromRunner, ToRunner

_encoder: Final = msgspec.msgpack.Encoder()


class FrameInvalid(Exception):
    """The other side sent what is no frame; nothing that follows can be trusted."""


def encode_frame(message: FromRunner | ToRunner) -> bytearray:
    """The message with its length in front."""
    frame = bytearray(FRAME_HEADER_BYTES)
    _encoder.encode_into(message, frame, FRAME_HEADER_BYTES)
    frame[:FRAME_HEADER_BYTES] = (len(frame) - FRAME_HEADER_BYTES).to_bytes(FRAME_HEADER_BYTES, "little")
    return frame


class FrameSplitter:
    """Cuts a stream of bytes into the bodies of its frames."""

    def __init__(self, frame_bytes_max: int) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._buffer = bytearray()

    def feed(self, received: bytes) -> list[bytes]:
        """Bodies that are complete now, in order. Raises FrameInvalid for a frame over the bound."""
        buffer = self._buffer
        buffer += received
        bodies: list[bytes] = []
        start, end = 0, len(buffer)
        while end - start >= FRAME_HEADER_BYTES:
            body_start = start + FRAME_HEADER_BYTES
            length = int.from_bytes(buffer[start:body_start], "little")
            if length > self._frame_bytes_max:
                raise FrameInvalid(f"a frame of {length} bytes (limit: {self._frame_bytes_max})")
            if end - body_start < length:
                break
            start = body_start + length
            bodies.append(bytes(buffer[body_start:start]))
        del buffer[:start]
        return bodies
