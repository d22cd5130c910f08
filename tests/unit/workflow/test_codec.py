"""The bounds of the codec; that it keeps values is a property test."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from workflow import codec
from workflow.codec import CodecError, decode, encode
from workflow.values import SliceMap


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_values_nest_to_the_bound():
    assert decode(encode(nested(codec.depth_max))) == nested(codec.depth_max)


@pytest.mark.parametrize("depth", [codec.depth_max + 1, 1100, 5000])
def test_deeper_values_are_refused(depth: int):
    with pytest.raises(CodecError, match="too deeply nested"):
        encode(nested(depth))


def test_wide_values_are_not_taken_for_deep_ones():
    value = [{"a": [float(number)]} for number in range(1000)]
    assert decode(encode(value)) == value
    with pytest.raises(CodecError, match="too deeply nested"):
        encode([*value, nested(codec.depth_max)])


def test_opaque_containers_nest_to_a_bound_of_their_own():
    value: Any = 1.0
    for _ in range(codec.opaque_depth_max):
        value = SliceMap({"a": [value]})
    assert decode(encode(value)) == value
    with pytest.raises(CodecError, match="too deeply nested"):
        encode(SliceMap({"a": [value]}))


def test_hostile_nesting_is_refused_when_read():
    data = b"\xc0"
    for _ in range(codec.opaque_depth_max + 2):
        data = msgpack.packb(msgpack.ExtType(8, data))
    with pytest.raises(CodecError):
        decode(data)


@pytest.mark.parametrize("foreign", [(1,), {1, 2}, object(), 1j])
def test_what_is_no_value_is_refused(foreign: Any):
    with pytest.raises(CodecError, match="is not a value of the language"):
        encode([foreign])


def test_an_integer_beyond_64_bits_is_refused():
    with pytest.raises(CodecError, match="64 bits"):
        encode(1 << 70)


def test_a_lone_surrogate_is_refused():
    with pytest.raises(CodecError, match="not valid Unicode"):
        encode("\ud800")


def test_sizes_are_bounded_both_ways(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(codec, "size_max", 10)
    assert decode(encode("x" * 9)) == "x" * 9
    with pytest.raises(CodecError, match="value too large: 12 bytes"):
        encode("x" * 11)
    with pytest.raises(CodecError, match="value too large"):
        decode(b"\xab" + b"x" * 11)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x01\x01",
        msgpack.packb({1: 2}),
        msgpack.packb(msgpack.ExtType(99, b"")),
        msgpack.packb(msgpack.ExtType(4, b"2024-01-02T00:00:00")),
        msgpack.packb(msgpack.ExtType(4, b"yesterday")),
        msgpack.packb(msgpack.ExtType(5, b"\x01")),
    ],
)
def test_bytes_that_encode_nothing_are_refused(data: bytes):
    with pytest.raises(CodecError):
        decode(data)
