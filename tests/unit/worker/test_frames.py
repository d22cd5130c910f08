"""Frames between node and runner, whole, in pieces, and too large."""

from __future__ import annotations

import msgspec
import pytest

from node.worker.frames import FrameInvalid, FrameSplitter, encode_frame
from node.worker.messages import FromHeartbeat, FromRunner, ToForget

MESSAGES = [ToForget(b"a"), ToForget(b"b" * 1000), ToForget(b"")]
STREAM = b"".join(bytes(encode_frame(message)) for message in MESSAGES)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 1000, len(STREAM)])
def test_frames_come_out_whole_however_the_stream_is_cut(size: int):
    splitter = FrameSplitter(2000)
    bodies = [
        body for start in range(0, len(STREAM), size) for body in splitter.feed(STREAM[start : start + size])
    ]
    assert [msgspec.msgpack.decode(body, type=ToForget) for body in bodies] == MESSAGES


def test_a_length_at_the_bound_passes_and_one_above_is_refused_before_its_body_comes():
    body = b"x" * 10
    assert FrameSplitter(10).feed((10).to_bytes(4, "little") + body) == [body]
    with pytest.raises(FrameInvalid, match="a frame of 11 bytes \\(limit: 10\\)"):
        FrameSplitter(10).feed((11).to_bytes(4, "little"))


def test_messages_of_the_other_direction_are_refused():
    body = bytes(encode_frame(ToForget(b"a")))[4:]
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(body, type=FromHeartbeat)
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(body, type=FromRunner)
