"""The HTTP client that workers lend to steps: aiohttp, fenced by the address rules of `workflow.steps.url_rules`.

How a request cannot get where it must not:
- the URL is checked as it stands and as aiohttp will read it, at every redirect again;
- names are resolved here, every address is checked, and one bad address refuses the name;
- the socket is made only for an address that passes, so a name that changes its mind gains nothing;
- connections are pooled per set of rules: a request never rides on a connection that laxer rules opened.

No proxy from the environment, no cookies, no `.netrc`. Error texts follow the original's where they are its own.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from workflow.steps.base import HttpFailed, HttpRequest, HttpResponse, Settings
from workflow.steps.url_rules import UrlRefused, check_address, check_url, parse_address

connections_max: Final = 100  # open connections per set of rules; further requests wait for one
connections_per_host_max: Final = 100  # as the original's client
idle_s: Final = 90.0
header_bytes_max: Final = 64 * 1024  # one header line of an answer

_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_KEEP_METHOD: Final = frozenset((307, 308))
_SAFE_ANYWHERE: Final = frozenset(("accept", "accept-language", "content-type", "idempotency-key"))
"""What goes along to another host by a redirect; any other header may hold a secret meant for the first."""
_HEADERS: Final = {"User-Agent": "thaiyyal-node", "Accept-Encoding": "gzip"}
_READ_BYTES: Final = 64 * 1024

Lookup = Callable[[str, int], Awaitable[list[str]]]


class _Rules(NamedTuple):
    """What decides whether an address may be reached; the key of a pool."""

    allow_localhost: bool
    allow_private_ips: bool
    allow_link_local: bool
    allow_cloud_metadata: bool

    @classmethod
    def of(cls, settings: Settings) -> _Rules:
        return cls(*(getattr(settings, name) for name in cls._fields))


async def lookup_addresses(host: str, port: int) -> list[str]:
    """The addresses of a host name, from the system's resolver. Raises OSError when there are none."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class AiohttpClient:
    """Makes the requests of http steps; see HttpClient. Owns its connections: close() ends them.

    Belongs to the event loop of its first request.
    """

    def __init__(self, *, lookup: Lookup = lookup_addresses, ssl: Any = True) -> None:
        self._lookup = lookup
        self._ssl = ssl
        self._sessions: dict[_Rules, aiohttp.ClientSession] = {}
        self._closed = False

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        """Make the request, follow its redirects, read its body. Raises HttpFailed when there is no answer."""
        exchange = _Exchange(request)
        try:
            async with asyncio.timeout(request.timeout_s):
                return await self._exchange(exchange)
        except TimeoutError:
            raise HttpFailed(exchange.timeout_text()) from None
        except UrlRefused as error:
            raise HttpFailed(exchange.refusal_text(str(error)), retryable=False) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise HttpFailed(exchange.failure_text(_reason(error))) from error

    async def close(self) -> None:
        """Ends all connections. Requests under way fail; later ones are refused."""
        self._closed = True
        sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            await session.close()

    async def _exchange(self, exchange: _Exchange) -> HttpResponse:
        while True:
            session = self._session(exchange.request.settings)
            url = exchange.checked_url()
            async with session.request(
                exchange.method,
                url,
                headers=exchange.headers,
                data=exchange.body,
                allow_redirects=False,
            ) as response:
                location = response.headers.get("Location", "")
                if response.status in _REDIRECTS and location:
                    exchange.redirect(response.status, location)
                    continue
                return await _answer(exchange, response)

    def _session(self, settings: Settings) -> aiohttp.ClientSession:
        if self._closed:
            raise HttpFailed("HTTP request failed: the HTTP client of this process is closed")
        rules = _Rules.of(settings)
        session = self._sessions.get(rules)
        if session is None:
            session = self._sessions[rules] = self._new_session(Settings(**rules._asdict()))
        return session

    def _new_session(self, rules: Settings) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=connections_max,
            limit_per_host=connections_per_host_max,
            keepalive_timeout=idle_s,
            use_dns_cache=False,
            resolver=_CheckedResolver(rules, self._lookup),
            socket_factory=lambda info: _checked_socket(info, rules),
            ssl=self._ssl,
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            skip_auto_headers=("Accept",),
            timeout=aiohttp.ClientTimeout(),  # the deadline covers redirects and body, so it is not aiohttp's
            trust_env=False,
            max_line_size=header_bytes_max,
            max_field_size=header_bytes_max,
        )


class _Exchange:
    """Where one request stands: its next hop, and how its failures are worded."""

    def __init__(self, request: HttpRequest) -> None:
        self.request = request
        self.method = request.method
        self.headers: dict[str, str] = dict(request.headers)
        self.body = request.body
        self._url = request.url
        self._shown_url = request.url  # as error texts show it: a redirect's as the server wrote it
        self._hops = 0
        self._has_head = False

    def checked_url(self) -> URL:
        """The URL of the next hop. Raises UrlRefused."""
        check_url(self._url, self.request.settings)
        try:
            url = URL(self._url)
            host = url.raw_host or ""
        except ValueError as error:
            raise UrlRefused(f"invalid URL: {error}") from None
        # aiohttp connects to what it reads there, which Unicode rules may have made another host
        check_url(f"{url.scheme}://{_bracketed(host)}/", self.request.settings)
        return url.with_fragment(None)

    def redirect(self, status: int, location: str) -> None:
        """Turns to the URL of a redirect. Raises HttpFailed after too many."""
        self._hops += 1
        self._shown_url = location
        if self._hops >= self.request.redirects_max:
            text = f"too many redirects (max {self.request.redirects_max})"
            raise HttpFailed(self.failure_text(text), retryable=False)
        before = URL(self._url)
        try:
            target = before.join(URL(location))
        except ValueError as error:
            raise UrlRefused(f"invalid URL: {error}") from None
        self._url = str(target)
        if (target.host, target.port) != (before.host, before.port):
            self.headers = {
                name: value for name, value in self.headers.items() if name.lower() in _SAFE_ANYWHERE
            }
        if status not in _KEEP_METHOD and self.method not in ("GET", "HEAD"):
            self.method, self.body = "GET", None
            self.headers = {
                name: value for name, value in self.headers.items() if not name.lower().startswith("content-")
            }

    def head_received(self) -> None:
        """From here on a timeout concerns the body."""
        self._has_head = True

    def timeout_text(self) -> str:
        if self._has_head:
            return (
                "failed to read response body: context deadline exceeded "
                "(Client.Timeout or context cancellation while reading body)"
            )
        return self.failure_text("context deadline exceeded (Client.Timeout exceeded while awaiting headers)")

    def refusal_text(self, problem: str) -> str:
        if self._hops:
            return self.failure_text(f"redirect URL validation failed: {problem}")
        return f"URL validation failed: {problem}"

    def failure_text(self, problem: str) -> str:
        if self._has_head:
            return f"failed to read response body: {problem}"
        return f'HTTP request failed: {self.method.capitalize()} "{self._shown_url}": {problem}'


async def _answer(exchange: _Exchange, response: aiohttp.ClientResponse) -> HttpResponse:
    exchange.head_received()
    limit = exchange.request.response_bytes_max
    body = bytearray()
    async for chunk in response.content.iter_chunked(_READ_BYTES):
        body += chunk
        if len(body) > limit:
            raise HttpFailed(f"response too large (exceeds {limit} bytes limit)", retryable=False)
    return HttpResponse(response.status, _header_map(response.headers), bytes(body))


def _header_map(headers: Mapping[str, str]) -> dict[str, str]:
    merged: dict[str, str] = {}
    for name, value in headers.items():
        key = name.lower()
        merged[key] = f"{merged[key]}, {value}" if key in merged else value
    return merged


class _CheckedResolver(AbstractResolver):
    """Resolves names to addresses that all passed the rules, or raises UrlRefused."""

    def __init__(self, rules: Settings, lookup: Lookup) -> None:
        self._rules = rules
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        literal = parse_address(host)
        addresses = [str(literal)] if literal is not None else await self._lookup(host, port)
        for address in addresses:
            check_address(host, address, self._rules)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Holds nothing."""


def _checked_socket(info: Any, rules: Settings) -> socket.socket:
    """A socket for an address that passes the rules: the last gate, for literal addresses too."""
    family, kind, protocol, _name, sockaddr = info
    try:
        check_address(str(sockaddr[0]), str(sockaddr[0]), rules)
    except UrlRefused as error:
        raise PermissionError(errno.EACCES, str(error)) from None
    return socket.socket(family, kind, protocol)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _reason(error: Exception) -> str:
    """The cause in the words of the original's network library, where it has them."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"dial tcp: lookup {error.host}: no such host"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"tls: failed to verify certificate: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        why = error.os_error
        text = os.strerror(why.errno).lower() if why.errno and why.errno > 0 else str(why)
        return f"dial tcp {_bracketed(error.host)}:{error.port}: connect: {text}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "EOF"
    return str(error) or type(error).__name__
