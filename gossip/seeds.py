"""From what an operator writes after --join to addresses to call, and how long to wait between tries."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable, Sequence

from gossip.errors import SettingsInvalid
from gossip.messages import Address

SEED_ADDRESSES_MAX = 64
"""Addresses called per round: a DNS name of a big cluster may have hundreds, a join needs one that answers."""

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]


def parse_seed(seed: str, default_port: int) -> tuple[str, int]:
    """`host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address. Raises SettingsInvalid."""
    text = seed.strip()
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise SettingsInvalid(f"seed {seed!r} is not of the form [address]:port")
        port_text = rest[1:]
    elif text.count(":") > 1:
        host, port_text = text, ""
    else:
        host, _, port_text = text.partition(":")
    if not host:
        raise SettingsInvalid(f"seed {seed!r} names no host; write host:port")
    if not port_text:
        return host, default_port
    if not port_text.isascii() or not port_text.isdigit() or not 0 < int(port_text) < 65536:
        raise SettingsInvalid(f"seed {seed!r} has no port between 1 and 65535")
    return host, int(port_text)


async def resolve_by_dns(host: str, port: int) -> list[Address]:
    """All addresses of a name (or the address itself). Raises OSError."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    return list(dict.fromkeys(Address(str(sockaddr[0]), int(sockaddr[1])) for *_, sockaddr in found))


def retry_delay_s(
    attempt: int, rng: random.Random, *, first_s: float = 0.25, longest_s: float = 5.0
) -> float:
    """Backoff after the `attempt`-th failed round, from 1: doubles up to `longest_s`, the upper half of it
    random, so that a cluster that starts at once does not knock in step."""
    ceiling_s: float = min(longest_s, first_s * 2 ** min(attempt - 1, 16))
    return ceiling_s * (0.5 + 0.5 * rng.random())
