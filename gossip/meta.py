"""What a node of the cluster tells about itself, within the 512 bytes that travel with its membership.

The core carries metadata as opaque bytes; this is the form that our nodes put into them.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from gossip.errors import Malformed, MetaTooLarge

META_BYTES_MAX = 512

_Name = Annotated[str, Meta(max_length=64)]


class NodeMeta(Struct, frozen=True, array_like=True, kw_only=True):
    """Later fields go at the end and get defaults: members of different versions read each other."""

    version: _Name = ""  # of the software
    roles: tuple[_Name, ...] = ()  # e.g. voter, worker, api
    slots: Annotated[int, Meta(ge=0)] = 0  # runners for tasks
    queues: tuple[_Name, ...] = ()
    labels: dict[_Name, _Name] = {}
    api_address: str = ""  # host:port of the HTTP API
    cluster_address: str = ""  # host:port of the links between nodes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(NodeMeta)


def encode_meta(meta: NodeMeta) -> bytes:
    """At most META_BYTES_MAX bytes. Raises MetaTooLarge."""
    encoded = _encoder.encode(meta)
    if len(encoded) > META_BYTES_MAX:
        raise MetaTooLarge(
            f"roles, queues and labels take {len(encoded)} bytes, at most {META_BYTES_MAX} are spread; "
            "use fewer or shorter ones"
        )
    return encoded


def decode_meta(encoded: bytes) -> NodeMeta:
    """Inverse of `encode_meta`; no bytes are the defaults. Raises Malformed."""
    if not encoded:
        return NodeMeta()
    try:
        return _decoder.decode(encoded)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"metadata is not a NodeMeta: {error}") from error
