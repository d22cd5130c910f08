"""What can go wrong in the gossip library.

GossipError
├── SettingsInvalid   our own configuration contradicts itself
├── MetaTooLarge      metadata over its bound; nothing was announced
├── IdConflict        another live process has our node id
├── StreamFailed      a stream could not be opened or broke; an answer may or may not have been acted on
├── Malformed         authentic bytes that are not a message of ours: the peer misbehaved
└── Rejected          bytes that did not come from a member of this cluster, with the reason counted
"""

from __future__ import annotations

from typing import ClassVar


class GossipError(Exception):
    """Root of the tree. `code` is stable; match on it, never on the text."""

    code: ClassVar[str] = "gossip"
    definite: ClassVar[bool] = True  # the operation certainly had no effect


class SettingsInvalid(GossipError):
    code = "gossip_settings_invalid"


class MetaTooLarge(GossipError):
    code = "gossip_meta_too_large"


class IdConflict(GossipError):
    code = "gossip_id_conflict"


class StreamFailed(GossipError):
    code = "gossip_stream_failed"
    definite = False


class Malformed(GossipError):
    code = "gossip_malformed"


class Rejected(GossipError):
    """Bytes that were not opened. `reason` is one of `seal.REASONS`."""

    code = "gossip_rejected"

    def __init__(self, reason: str) -> None:
        super().__init__(f"packet dropped: {reason}")
        self.reason = reason
