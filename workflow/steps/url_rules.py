"""Which URLs and addresses an http step may reach. Pure rules with the original's texts; no name is resolved here.

`check_url` looks at a URL before any request, at each redirect too. `check_address` looks at an address that
a host name resolved to; a client connects only to addresses that passed it. Stricter than the original, which
could be led around its rules: IPv4 addresses inside IPv6 ones, the short, octal and decimal forms of IPv4
(`127.1`, `0x7f000001`), `::`, and the ranges that no public host has are refused like the private ones they
lead to.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import unquote

from workflow.steps.base import Settings
from workflow.steps.golang import quoted

Address = IPv4Address | IPv6Address
_Networks = tuple[IPv4Network | IPv6Network, ...]

_SCHEMES: Final = ("http", "https")
_LOCALHOST_NAMES: Final = frozenset(("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"))
_METADATA_NAMES: Final = frozenset(("metadata.google.internal", "metadata.azure.com"))
_METADATA: Final = frozenset(map(ip_address, ("169.254.169.254", "fd00:ec2::254")))

_LOCALHOST_NETS: Final = (
    IPv4Network("127.0.0.0/8"),
    IPv4Network("0.0.0.0/8"),
    IPv6Network("::1/128"),
    IPv6Network("::/128"),
)
_PRIVATE_NETS: Final[_Networks] = (
    *map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")),
    *map(IPv6Network, ("fc00::/7", "fec0::/10")),
)
# Neither private nor public: protocol assignments, benchmarks, multicast, reserved. Refused like private ones.
_SPECIAL_NETS: Final[_Networks] = (
    *map(IPv4Network, ("192.0.0.0/24", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4")),
    IPv6Network("ff00::/8"),
)
_LINK_LOCAL_NETS: Final = (IPv4Network("169.254.0.0/16"), IPv6Network("fe80::/10"))
_NAT64: Final = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_IPV4_COMPATIBLE: Final = IPv6Network("::/96")


class UrlRefused(ValueError):
    """The URL or address must not be requested; the message is the original's."""


def check_url(url: str, settings: Settings) -> str:
    """The host of a URL that may be requested as far as the URL itself tells. Raises UrlRefused."""
    scheme, host = split_url(url)
    if scheme not in _SCHEMES:
        raise UrlRefused(f"URL scheme not allowed: {scheme} (allowed: [http https])")
    if not host:
        raise UrlRefused("URL missing hostname")
    lowered = host.lower()
    if settings.allowed_domains and lowered not in {domain.lower() for domain in settings.allowed_domains}:
        raise UrlRefused(f"domain not in allowlist: {host}")
    address = parse_address(host)
    if address is not None:
        problem = address_problem(address, settings)
        if problem:
            raise UrlRefused(f"IP validation failed for {host}: {problem}")
        return host
    name = lowered.rstrip(".")
    if not settings.allow_localhost and (name in _LOCALHOST_NAMES or name.endswith(".localhost")):
        raise UrlRefused("localhost addresses are blocked")
    if not settings.allow_cloud_metadata and name in _METADATA_NAMES:
        raise UrlRefused(_METADATA_TEXT)
    return host


def check_address(host: str, address: str, settings: Settings) -> None:
    """Raises UrlRefused if `host` must not be reached at `address`, which it resolved to."""
    parsed = parse_address(address)
    problem = "not an IP address" if parsed is None else address_problem(parsed, settings)
    if problem:
        raise UrlRefused(f"IP validation failed for {host} ({address}): {problem}")


_LOCALHOST_TEXT: Final = "localhost addresses are blocked (set allow_localhost=true to permit)"
_METADATA_TEXT: Final = "cloud metadata endpoints are blocked (set allow_cloud_metadata=true to permit)"


def address_problem(address: Address, settings: Settings) -> str | None:
    """Why an address must not be reached, None if it may."""
    for candidate in _meanings(address):
        if not settings.allow_localhost and _in(candidate, _LOCALHOST_NETS):
            return _LOCALHOST_TEXT
        if not settings.allow_private_ips and _in(candidate, _PRIVATE_NETS + _SPECIAL_NETS):
            return "private IP addresses are blocked (set allow_private_ips=true to permit)"
        if not settings.allow_link_local and _in(candidate, _LINK_LOCAL_NETS):
            return "link-local addresses are blocked (set allow_link_local=true to permit)"
        if not settings.allow_cloud_metadata and candidate in _METADATA:
            return _METADATA_TEXT
    return None


def _in(address: Address, networks: _Networks) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def _meanings(address: Address) -> list[Address]:
    """The address and the IPv4 address that it carries, if it does."""
    if isinstance(address, IPv4Address):
        return [address]
    inner: Address | None = address.ipv4_mapped or address.sixtofour
    if inner is None and address.teredo is not None:
        inner = address.teredo[1]
    if inner is None and any(address in network for network in _NAT64):
        inner = IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is None and address in _IPV4_COMPATIBLE and int(address) > 1:
        inner = IPv4Address(int(address))
    if inner is None:
        return [address]
    return [inner] if address.ipv4_mapped else [address, inner]


_LEGACY_PART = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+")


def parse_address(host: str) -> Address | None:
    """The IP address that a host text stands for, the forms of inet_aton and an IPv6 zone included; None for
    a name.
    """
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        return _legacy_address(host.removesuffix("."))


def _legacy_address(host: str) -> IPv4Address | None:
    parts = host.split(".")
    if len(parts) > 4 or not all(map(_LEGACY_PART.fullmatch, parts)):
        return None
    numbers: list[int] = []
    for part in parts:
        if len(part) > 40:
            return None
        if part[:2] in ("0x", "0X"):
            numbers.append(int(part[2:] or "0", 16))
        elif part[0] == "0" and not set(part) <= set("01234567"):
            return None
        else:
            numbers.append(int(part, 8 if part[0] == "0" else 10))
    *heads, tail = numbers
    if any(head > 255 for head in heads) or tail >= 256 ** (4 - len(heads)):
        return None
    value = tail
    for position, head in enumerate(heads):
        value |= head << (24 - 8 * position)
    return IPv4Address(value)


# --- parsing ----------------------------------------------------------------------------------------------

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*\Z")
_PORT = re.compile(r"[0-9]*\Z")
_BAD_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2}).{0,2}")
_BAD_HOST = re.compile(r"[\x00-\x20\"<>\\^`{|}\x7f]")


def split_url(url: str) -> tuple[str, str]:
    """Scheme (lower case) and host of a URL, without port and brackets, as Go's url.Parse splits it. Raises
    UrlRefused.
    """
    if any(char < " " or char == "\x7f" for char in url):
        raise _invalid(url, "net/url: invalid control character in URL")
    scheme, rest = _split_scheme(url)
    rest = rest.partition("#")[0].partition("?")[0]
    if not rest.startswith("//"):
        if not scheme and ":" in rest.partition("/")[0]:
            raise _invalid(url, "first path segment in URL cannot contain colon")
        return scheme, ""
    authority = rest[2:].partition("/")[0]
    host = authority.rpartition("@")[2]
    path = rest[2 + len(authority) :]
    bad = _BAD_ESCAPE.search(path)
    if bad:
        raise _invalid(url, f"invalid URL escape {quoted(bad[0])}")
    return scheme, _host_without_port(url, host)


def _split_scheme(url: str) -> tuple[str, str]:
    head, colon, rest = url.partition(":")
    if not colon or any(char in head for char in "/?#"):
        return "", url
    if not head:
        raise _invalid(url, "missing protocol scheme")
    if _SCHEME.match(head):
        return head.lower(), rest
    if head[0].isdigit() or head[0] in "+-.":
        raise _invalid(url, "first path segment in URL cannot contain colon")
    return "", url


def _host_without_port(url: str, host: str) -> str:
    if host.startswith("["):
        inside, bracket, port = host[1:].rpartition("]")
        if not bracket:
            raise _invalid(url, "missing ']' in host")
        if port and not (port[0] == ":" and _PORT.match(port[1:])):
            raise _invalid(url, f"invalid port {quoted(port)} after host")
        return unquote(inside)
    name, colon, port = host.partition(":")
    if colon and not _PORT.match(host.rpartition(":")[2]):
        raise _invalid(url, f"invalid port {quoted(':' + host.rpartition(':')[2])} after host")
    name = host.rpartition(":")[0] if colon else host
    bad = _BAD_ESCAPE.search(name)
    if bad:
        raise _invalid(url, f"invalid URL escape {quoted(bad[0])}")
    found = _BAD_HOST.search(name)
    if found:
        raise _invalid(url, f"invalid character {quoted(found[0])} in host name")
    return unquote(name)


def _invalid(url: str, problem: str) -> UrlRefused:
    return UrlRefused(f"invalid URL: parse {quoted(url)}: {problem}")
