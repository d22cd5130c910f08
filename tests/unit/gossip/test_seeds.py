"""From what an operator writes after --join to addresses, and the waits between tries."""

from __future__ import annotations

import random

import pytest

from gossip.errors import SettingsInvalid
from gossip.messages import Address
from gossip.seeds import parse_seed, resolve_by_dns, retry_delay_s


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("host", ("host", 7946)),
        (" host:1 ", ("host", 1)),
        ("10.0.0.1:65535", ("10.0.0.1", 65535)),
        ("[::1]", ("::1", 7946)),
        ("[fe80::1]:9", ("fe80::1", 9)),
        ("fe80::1", ("fe80::1", 7946)),
    ],
)
def test_seeds_are_hosts_with_or_without_ports(text: str, parsed: tuple[str, int]) -> None:
    assert parse_seed(text, 7946) == parsed


@pytest.mark.parametrize(
    "text", ["", ":1", "host:0", "host:65536", "host:x", "[::1", "[::1]1", "[]:1", "host:²"]
)
def test_what_is_no_seed_is_refused(text: str) -> None:
    with pytest.raises(SettingsInvalid):
        parse_seed(text, 7946)


def test_backoff_doubles_up_to_a_bound_and_half_of_it_is_chance() -> None:
    rng = random.Random(1)
    for attempt, ceiling in ((1, 0.25), (2, 0.5), (3, 1.0), (5, 4.0), (6, 5.0), (1_000, 5.0)):
        delays = [retry_delay_s(attempt, rng) for _ in range(200)]
        assert ceiling / 2 <= min(delays) < ceiling * 0.55
        assert ceiling * 0.95 < max(delays) <= ceiling


async def test_a_numeric_seed_resolves_to_itself() -> None:
    assert await resolve_by_dns("127.0.0.1", 5) == [Address("127.0.0.1", 5)]
