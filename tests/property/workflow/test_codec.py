"""What is encoded is decoded to the same value, and nothing else is ever decoded."""

from __future__ import annotations

from datetime import UTC, timedelta, timezone
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from workflow import codec
from workflow.values import Int64, JsonNumber, MapSlice, NilSlice, SliceMap, StringPtr, StringSlice, to_json

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
int64 = st.integers(-(2**63), 2**63 - 1)
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    int64,
    int64.map(Int64),
    texts,
    texts.map(JsonNumber),
    st.one_of(st.none(), texts).map(StringPtr),
    st.datetimes(timezones=st.one_of(st.just(UTC), zones)),
    st.builds(NilSlice),
    st.lists(texts, max_size=3).map(StringSlice),
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    objects = st.dictionaries(texts, inner, max_size=3)
    lists = st.lists(inner, max_size=3)
    return st.one_of(
        lists,
        objects,
        st.lists(objects, max_size=3).map(MapSlice),
        st.dictionaries(texts, lists, max_size=3).map(SliceMap),
    )


values = st.recursive(leaves, containers, max_leaves=20)


def alike(left: Any, right: Any) -> bool:
    """Equal, of the same type everywhere, NaN like NaN and -0 unlike 0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return left.hex() == right.hex()
    if isinstance(left, list):
        return len(left) == len(right) and all(map(alike, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(alike(left[key], right[key]) for key in left)
    if isinstance(left, MapSlice | SliceMap | StringSlice):
        return alike(left.items, right.items)
    return bool(left == right)


@given(value=values)
def test_decoding_gives_back_what_was_encoded(value: Any):
    assert alike(codec.decode(codec.encode(value)), value)


@given(value=values)
def test_every_value_has_a_json_form_for_the_edge(value: Any):
    if "JsonNumber" not in repr(value):  # a json.Number is made from the text of a number only
        to_json(value)


@settings(max_examples=500)
@given(data=st.binary(max_size=60))
def test_random_bytes_decode_or_are_refused(data: bytes):
    try:
        value = codec.decode(data)
    except codec.CodecError:
        return
    codec.encode(value) if not _holds_bytes(value) else None


def _holds_bytes(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_holds_bytes, value))
    if isinstance(value, dict):
        return any(_holds_bytes(item) or isinstance(key, bytes) for key, item in value.items())
    return isinstance(value, bytes) or "timestamp" in type(value).__name__.lower()


@given(value=values, data=st.data())
def test_cut_or_changed_bytes_never_crash(value: Any, data: st.DataObject):
    encoded = bytearray(codec.encode(value))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(encoded), bytes(encoded[:at])):
        try:
            codec.decode(damaged)
        except codec.CodecError:
            continue
