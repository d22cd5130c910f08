"""Sealed packets: what gets in, and the reason for all that does not."""

from __future__ import annotations

import random

import pytest

from gossip.errors import Rejected, SettingsInvalid
from gossip.seal import OVERHEAD_BYTES, REASONS, CounterExhausted, Keyring, Seal

OLD, NEW, THIRD = b"o" * 32, b"n" * 32, b"t" * 32


def seal(*keys: bytes, cluster: str = "c1", session: bytes = b"sessionA", **bounds: int) -> Seal:
    return Seal(Keyring(keys or (OLD,)), cluster, session=session, **bounds)


def refused(opener: Seal, packet: bytes, bytes_max: int = 1_400) -> str:
    with pytest.raises(Rejected) as caught:
        opener.open(packet, bytes_max=bytes_max)
    assert caught.value.reason in REASONS
    return caught.value.reason


def test_what_a_member_seals_another_opens() -> None:
    packet = seal().seal(b"hello")
    assert len(packet) == 5 + OVERHEAD_BYTES
    assert b"hello" not in packet
    assert seal(session=b"sessionB").open(packet, bytes_max=1_400) == b"hello"


def test_the_first_key_seals_and_all_open() -> None:
    assert seal(NEW, OLD).open(seal(OLD, NEW).seal(b"x"), bytes_max=1_400) == b"x"
    assert refused(seal(NEW), seal(OLD).seal(b"x")) == "key"


def test_keys_rotate_without_a_moment_in_which_members_do_not_understand_each_other() -> None:
    rings = [Keyring([OLD]) for _ in range(3)]
    seals = [Seal(ring, "c1", session=bytes([i]) * 8) for i, ring in enumerate(rings)]

    def all_talk() -> None:
        for sender in seals:
            packet = sender.seal(b"x")
            for receiver in seals:
                if receiver is not sender:
                    assert receiver.open(packet, bytes_max=1_400) == b"x"

    for act in (lambda r: r.install(NEW), lambda r: r.use(NEW), lambda r: r.remove(OLD)):
        for ring in rings:
            act(ring)
            all_talk()
    assert refused(seals[0], seal(OLD, session=b"sessionZ").seal(b"x")) == "key"


def test_a_keyring_refuses_what_would_lock_members_out() -> None:
    ring = Keyring([OLD], keys_max=2)
    with pytest.raises(SettingsInvalid):
        ring.use(NEW)
    with pytest.raises(SettingsInvalid):
        ring.remove(OLD)
    ring.install(NEW)
    ring.install(NEW)
    assert len(ring) == 2
    with pytest.raises(SettingsInvalid):
        ring.install(THIRD)
    with pytest.raises(SettingsInvalid):
        Keyring([])
    with pytest.raises(SettingsInvalid):
        Keyring([b"short"])
    with pytest.raises(SettingsInvalid):
        seal(session=b"short")


def test_another_cluster_with_the_same_key_is_foreign() -> None:
    assert refused(seal(), seal(cluster="c2").seal(b"x")) == "cluster"


def test_the_cluster_id_is_authenticated_not_only_hinted() -> None:
    packet = bytearray(seal(cluster="c2").seal(b"x"))
    packet[3:7] = seal(cluster="c1").seal(b"x")[3:7]
    assert refused(seal(), bytes(packet)) == "forged"


def test_the_version_is_checked_and_authenticated() -> None:
    packet = bytearray(seal().seal(b"x"))
    packet[2] += 1
    assert refused(seal(), bytes(packet)) == "version"


@pytest.mark.parametrize("position", range(OVERHEAD_BYTES + 5))
def test_no_byte_can_be_changed(position: int) -> None:
    packet = bytearray(seal().seal(b"hello"))
    packet[position] ^= 1
    refused(seal(), bytes(packet))


def test_replays_are_dropped_and_reordering_is_not_a_replay() -> None:
    sender, receiver = seal(), seal(session=b"sessionB")
    packets = [sender.seal(bytes([i])) for i in range(200)]
    random.Random(1).shuffle(packets)
    for packet in packets:
        receiver.open(packet, bytes_max=1_400)
    for packet in packets:
        assert refused(receiver, packet) == "replayed"


def test_a_packet_older_than_the_window_counts_as_replayed() -> None:
    sender, receiver = seal(), seal(session=b"sessionB")
    packets = [sender.seal(b"x") for _ in range(1_026)]
    receiver.open(packets[1_025], bytes_max=1_400)
    receiver.open(packets[2], bytes_max=1_400)
    assert refused(receiver, packets[1]) == "replayed"
    assert refused(receiver, packets[0]) == "replayed"


def test_a_forged_packet_does_not_move_the_window() -> None:
    sender, receiver = seal(), seal(session=b"sessionB")
    first, second = sender.seal(b"1"), sender.seal(b"2")
    forged = bytearray(second)
    forged[19:23] = b"\xff\xff\xff\xff"
    assert refused(receiver, bytes(forged)) == "forged"
    assert receiver.open(first, bytes_max=1_400) == b"1"
    assert receiver.open(second, bytes_max=1_400) == b"2"


def test_sessions_are_bounded_and_the_one_heard_longest_ago_goes() -> None:
    receiver = seal(session=b"sessionB", sessions_max=2)
    packets = [seal(session=bytes([i]) * 8).seal(b"x") for i in range(3)]
    for packet in packets:
        receiver.open(packet, bytes_max=1_400)
    assert refused(receiver, packets[2]) == "replayed"
    assert refused(receiver, packets[1]) == "replayed"
    assert receiver.open(packets[0], bytes_max=1_400) == b"x", "forgotten: taken once more"


def test_size_below_at_and_above_the_bound() -> None:
    for size, fits in ((1_399, True), (1_400, True), (1_401, False)):
        packet = seal().seal(b"x" * (size - OVERHEAD_BYTES))
        assert len(packet) == size
        if fits:
            seal().open(packet, bytes_max=1_400)
        else:
            assert refused(seal(), packet) == "oversized"


@pytest.mark.parametrize("packet", [b"", b"T", b"TG", b"TG\x01" + bytes(20), b"XX" + bytes(60)])
def test_bytes_that_are_no_packet_are_garbage(packet: bytes) -> None:
    assert refused(seal(), packet) == "garbage"


def test_no_nonce_is_used_twice() -> None:
    sender = seal()
    nonces = {sender.seal(b"x")[11:23] for _ in range(1_000)}
    assert len(nonces) == 1_000
    sender._counter = 2**32 - 2  # four billion packets later
    sender.seal(b"x")
    with pytest.raises(CounterExhausted):
        sender.seal(b"x")
