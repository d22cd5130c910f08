"""Sealed packets: AES-256-GCM under a keyring, with the cluster and the protocol version authenticated.

Layout: magic 2 | version 1 | cluster hint 4 | key hint 4 | session 8 | counter 4 | ciphertext | tag 16.
The nonce is session and counter: a session is random per process and used by one `Seal`, a counter value is
used once (NIST SP 800-38D, 8.2.1). Everything before the ciphertext, and the full cluster id, is associated
data. Hints only tell *why* a packet is foreign; what decides is the tag.

Replays are dropped by a sliding window per session. A receiver that has just started, or has forgotten a
session because `sessions_max` others were heard since, takes an old recording once; the core is indifferent
to it, since claims are ordered by incarnation and acks by sequence number.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gossip.errors import GossipError, Rejected, SettingsInvalid

PROTOCOL_VERSION = 1
_MAGIC = b"TG"
_HEADER_BYTES = 23
_TAG_BYTES = 16
OVERHEAD_BYTES = _HEADER_BYTES + _TAG_BYTES
SESSION_BYTES = 8
KEY_BYTES = 32
_COUNTER_MAX = 2**32 - 1

REASONS = ("oversized", "garbage", "version", "cluster", "key", "forged", "replayed")
"""Why packets are dropped: too long; not of our form; other protocol version; other cluster; sealed with a
key that is not in the ring; the tag does not fit; seen before, or too old to tell."""


class CounterExhausted(GossipError):
    """2**32 packets were sealed in one session: make a new `Seal` with a new session."""

    code = "gossip_counter_exhausted"


class Keyring:
    """Keys of the cluster: the first seals, all open. Owner of the keys; the shell shares one with `Seal`.

    Rotation without losing a member: `install` the new key everywhere, `use` it everywhere, then `remove`
    the old one. `len(keyring) <= keys_max`; a further key is refused.
    """

    __slots__ = ("_keys", "keys_max")

    def __init__(self, keys: Iterable[bytes], *, keys_max: int = 8) -> None:
        """Keys of 32 bytes, the sealing one first. Raises SettingsInvalid."""
        self.keys_max = keys_max
        self._keys: dict[bytes, AESGCM] = {}  # by hint; the first one seals
        for key in keys:
            self.install(key)
        if not self._keys:
            raise SettingsInvalid("the keyring is empty: gossip needs at least one key of 32 bytes")

    def __len__(self) -> int:
        return len(self._keys)

    def install(self, key: bytes) -> None:
        """Open packets sealed with `key` too. Raises SettingsInvalid."""
        hint = _key_hint(key)
        if hint not in self._keys and len(self._keys) >= self.keys_max:
            raise SettingsInvalid(f"the keyring holds {self.keys_max} keys already; remove an old one first")
        self._keys.setdefault(hint, AESGCM(key))

    def use(self, key: bytes) -> None:
        """Seal with `key` from now on. Raises SettingsInvalid when it is not installed."""
        hint = _key_hint(key)
        if hint not in self._keys:
            raise SettingsInvalid("the key to use is not installed; install it on all members first")
        self._keys = {hint: self._keys.pop(hint), **self._keys}

    def remove(self, key: bytes) -> None:
        """Open packets sealed with `key` no more. Raises SettingsInvalid for the key in use."""
        hint = _key_hint(key)
        if hint == self.sealing()[0]:
            raise SettingsInvalid("the key in use cannot be removed; use another one first")
        self._keys.pop(hint, None)

    def sealing(self) -> tuple[bytes, AESGCM]:
        """Hint and cipher of the key in use."""
        return next(iter(self._keys.items()))

    def find(self, hint: bytes) -> AESGCM | None:
        return self._keys.get(hint)


class Seal:
    """Seals and opens the packets of one process. Not thread-safe; one per `session`, never two."""

    __slots__ = ("_cluster", "_cluster_hint", "_counter", "_keyring", "_session", "_sessions", "sessions_max")

    def __init__(
        self, keyring: Keyring, cluster_id: str, *, session: bytes, sessions_max: int = 32_768
    ) -> None:
        """`session`: 8 random bytes of this process. `sessions_max`: replay windows kept, twice the members;
        when full, the one heard longest ago is dropped."""
        if len(session) != SESSION_BYTES:
            raise SettingsInvalid(f"a session has {SESSION_BYTES} bytes, not {len(session)}")
        self._keyring = keyring
        self._cluster = cluster_id.encode()
        self._cluster_hint = hashlib.sha256(b"thaiyyal gossip cluster\0" + self._cluster).digest()[:4]
        self._session = session
        self._counter = 0
        self._sessions: OrderedDict[bytes, _Window] = OrderedDict()
        self.sessions_max = sessions_max

    def seal(self, plain: bytes) -> bytes:
        """`plain` in a packet, OVERHEAD_BYTES longer. Raises CounterExhausted."""
        if self._counter >= _COUNTER_MAX:
            raise CounterExhausted("2**32 packets were sealed in this session; restart the node")
        self._counter += 1
        hint, cipher = self._keyring.sealing()
        nonce = self._session + self._counter.to_bytes(4, "big")
        header = b"".join((_MAGIC, bytes((PROTOCOL_VERSION,)), self._cluster_hint, hint, nonce))
        return header + cipher.encrypt(nonce, plain, header + self._cluster)

    def open(self, packet: bytes, *, bytes_max: int) -> bytes:
        """The plaintext of a packet of this cluster that was not opened before. Raises Rejected, and then
        nothing has changed."""
        if len(packet) > bytes_max:
            raise Rejected("oversized")
        if len(packet) < OVERHEAD_BYTES or packet[:2] != _MAGIC:
            raise Rejected("garbage")
        if packet[2] != PROTOCOL_VERSION:
            raise Rejected("version")
        if packet[3:7] != self._cluster_hint:
            raise Rejected("cluster")
        cipher = self._keyring.find(packet[7:11])
        if cipher is None:
            raise Rejected("key")
        header = packet[:_HEADER_BYTES]
        try:
            plain = cipher.decrypt(packet[11:_HEADER_BYTES], packet[_HEADER_BYTES:], header + self._cluster)
        except InvalidTag as error:
            raise Rejected("forged") from error
        if not self._is_first(packet[11:19], int.from_bytes(packet[19:23], "big")):
            raise Rejected("replayed")
        return plain

    def _is_first(self, session: bytes, counter: int) -> bool:
        window = self._sessions.get(session)
        if window is None:
            if len(self._sessions) >= self.sessions_max:
                self._sessions.popitem(last=False)
            window = self._sessions[session] = _Window()
        else:
            self._sessions.move_to_end(session)
        return window.admit(counter)


class _Window:
    """Which of the last WIDTH counters were seen: bit b of `seen` stands for `highest - b`."""

    __slots__ = ("highest", "seen")
    WIDTH = 1024  # packets of one sender that the network may reorder

    def __init__(self) -> None:
        self.highest = 0
        self.seen = 0

    def admit(self, counter: int) -> bool:
        ahead = counter - self.highest
        if ahead > 0:
            self.seen = ((self.seen << ahead) | 1) & ((1 << self.WIDTH) - 1) if ahead < self.WIDTH else 1
            self.highest = counter
            return True
        if -ahead >= self.WIDTH or self.seen >> -ahead & 1:
            return False
        self.seen |= 1 << -ahead
        return True


def _key_hint(key: bytes) -> bytes:
    if len(key) != KEY_BYTES:
        raise SettingsInvalid(f"a gossip key has {KEY_BYTES} bytes (AES-256), not {len(key)}")
    return hashlib.sha256(b"thaiyyal gossip key\0" + key).digest()[:4]
