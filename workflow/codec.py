"""Values between steps as bytes: msgpack, with one extension type for each Go type that msgpack lacks.

The C packer of msgpack does the work; Python code runs only for the extension types. Two bounds refuse
what could hurt a reader: `depth_max` for nesting, `size_max` for the encoded size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final

import msgpack

from workflow.errors import WorkflowError
from workflow.values import Int64, JsonNumber, MapSlice, NilSlice, SliceMap, StringPtr, StringSlice, Value

depth_max: Final = 250  # levels; whoever walks a value by recursion stays far from the interpreter's limit
size_max: Final = 64 * 1024 * 1024  # the biggest payload that the API takes
opaque_depth_max: Final = 24  # nesting of opaque containers in each other; each level costs C stack when read

_NIL_SLICE, _INT64, _JSON_NUMBER, _TIME, _MAP_SLICE, _SLICE_MAP, _STRING_SLICE, _STRING_PTR = range(1, 9)


class CodecError(WorkflowError):
    """A value cannot be encoded, or bytes are not an encoded value. The text says which bound or type it
    was.
    """


def encode(value: Value) -> bytes:
    """The value as bytes. Raises CodecError for a type outside the value model and for the bounds of this
    module.
    """
    try:
        data: bytes = _pack(value, 0)
    except CodecError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise CodecError(_why_not(error)) from error
    if len(data) > size_max:
        raise CodecError(f"value too large: {len(data)} bytes (limit: {size_max})")
    if len(data) > depth_max and _containers_at_most(data) > depth_max and not _is_within_depth(value):
        raise CodecError(f"value too deeply nested (limit: {depth_max} levels)")
    return data


def decode(data: bytes) -> Value:
    """The value that encode() made these bytes from. Raises CodecError for anything else; never crashes."""
    if len(data) > size_max:
        raise CodecError(f"value too large: {len(data)} bytes (limit: {size_max})")
    return _unpack(data, 0)


_CONTAINER_HEADS: Final = bytes([*range(0x80, 0xA0), *range(0xDC, 0xE0)])


def _containers_at_most(data: bytes) -> int:
    """An upper bound of the containers in encoded data: bytes that may be the head of one. Cheap."""
    return len(data) - len(data.translate(None, _CONTAINER_HEADS))


def _is_within_depth(value: Value) -> bool:
    level = [value]
    for _ in range(depth_max):
        level = [child for item in level for child in _children(item) if type(child) in _CONTAINERS]
        if not level:
            return True
    return False


def _children(value: Value) -> Iterable[Value]:
    kind = type(value)
    if kind is dict:
        return value.values()  # type: ignore[no-any-return]
    if kind is list:
        return value  # type: ignore[no-any-return]
    if kind is SliceMap:
        return value.items.values()  # type: ignore[no-any-return]
    return value.items if kind is MapSlice else ()


_CONTAINERS: Final = frozenset({dict, list, SliceMap, MapSlice})


def _why_not(error: Exception) -> str:
    if isinstance(error, RecursionError) or "recursion" in str(error):
        return f"value too deeply nested (limit: {depth_max} levels)"
    if isinstance(error, UnicodeError):
        return f"text is not valid Unicode: {error}"
    return f"value cannot be encoded: {error}"


def _pack(value: Value, depth: int) -> bytes:
    if depth > opaque_depth_max:
        raise CodecError(f"value too deeply nested (limit: {opaque_depth_max} opaque containers)")
    packed: bytes = msgpack.packb(value, strict_types=True, default=_DEFAULTS[depth])
    return packed


def _make_default(depth: int) -> Callable[[Any], msgpack.ExtType]:
    def default(value: Any) -> msgpack.ExtType:
        kind = type(value)
        if kind is NilSlice:
            return msgpack.ExtType(_NIL_SLICE, b"")
        if kind is SliceMap:
            return msgpack.ExtType(_SLICE_MAP, _pack(value.items, depth + 1))
        if kind is MapSlice:
            return msgpack.ExtType(_MAP_SLICE, _pack(value.items, depth + 1))
        if kind is Int64:
            return msgpack.ExtType(_INT64, int(value).to_bytes(8, "big", signed=True))
        if kind is JsonNumber:
            return msgpack.ExtType(_JSON_NUMBER, value.text.encode())
        if kind is datetime:
            return msgpack.ExtType(_TIME, value.isoformat().encode())
        if kind is StringSlice:
            return msgpack.ExtType(_STRING_SLICE, _pack(value.items, depth + 1))
        if kind is StringPtr:
            return msgpack.ExtType(_STRING_PTR, _pack(value.value, depth + 1))
        if kind is int:  # msgpack hands over what it cannot write itself
            raise CodecError("integer does not fit into 64 bits")
        raise CodecError(f"{kind.__name__} is not a value of the language")

    return default


def _unpack(data: bytes, depth: int) -> Value:
    if depth > opaque_depth_max:
        raise CodecError(f"value too deeply nested (limit: {opaque_depth_max} opaque containers)")
    try:
        return msgpack.unpackb(data, ext_hook=_EXT_HOOKS[depth], strict_map_key=True)
    except CodecError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise CodecError(f"not an encoded value: {error or type(error).__name__}") from error


def _make_ext_hook(depth: int) -> Callable[[int, bytes], Value]:
    def ext_hook(code: int, data: bytes) -> Value:
        if code == _NIL_SLICE:
            return NilSlice()
        if code == _SLICE_MAP:
            return SliceMap(_expect(_unpack(data, depth + 1), dict))
        if code == _MAP_SLICE:
            return MapSlice(_expect(_unpack(data, depth + 1), list))
        if code == _INT64:
            return Int64(int.from_bytes(data, "big", signed=True))
        if code == _JSON_NUMBER:
            return JsonNumber(data.decode())
        if code == _TIME:
            moment = datetime.fromisoformat(data.decode())
            if moment.tzinfo is None:
                raise CodecError("a time without a zone")
            return moment
        if code == _STRING_SLICE:
            return StringSlice(_expect(_unpack(data, depth + 1), list))
        if code == _STRING_PTR:
            return StringPtr(_unpack(data, depth + 1))
        raise CodecError(f"unknown extension type {code}")

    return ext_hook


def _expect(value: Value, kind: type) -> Any:
    if type(value) is not kind:
        raise CodecError(f"expected {kind.__name__} in an opaque container, got {type(value).__name__}")
    return value


_DEFAULTS: Final = tuple(_make_default(depth) for depth in range(opaque_depth_max + 1))
_EXT_HOOKS: Final = tuple(_make_ext_hook(depth) for depth in range(opaque_depth_max + 1))
