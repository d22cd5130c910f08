"""From a socket to a reply: the aiohttp low-level server, with every limit of time and size of the API.

One request: `ApiServer._serve` gives it an id, finds the route, calls the handler, and turns what it raises into a
problem. There are no middlewares: the same few checks for every route stand in one function, in order.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import parse_qsl

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from node.api.counters import RequestCounters
from node.api.problems import PROBLEM_TYPE, ApiError, problem_reply
from node.api.replies import AnyReply, GoneReply, Reply, header_lines
from node.api.router import Route, Router
from node.errors import Overloaded, Problem, ThaiyyalError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """The knobs of the API. Each bound refuses with a problem that names it."""

    host: str = "127.0.0.1"  # loopback until tokens and TLS protect the API
    port: int = 7410  # 0 takes a free one
    body_bytes_max: int = 10 * 1024 * 1024  # as the original server's
    bodies_bytes_total_max: int = 256 * 1024 * 1024  # bodies being received at once; beyond: 429
    json_depth_max: int = 104  # a payload may have 100 levels; a batch puts it three levels down
    connections_max: int = 4096  # some 20 kB each when idle; beyond: closed with 429
    streams_max: int = 1024  # event streams at once; each is a task and a subscription
    body_timeout_s: float = 30.0  # 10 MiB at 3 Mbit/s
    idle_timeout_s: float = 75.0  # idle keep-alive, and the time that a request's head may take
    stall_timeout_s: float = 30.0  # a reader that takes nothing for so long is disconnected
    heartbeat_s: float = 15.0  # comments on event streams; proxies cut silent ones after 30 to 60 s
    shutdown_timeout_s: float = 5.0  # at a stop, for requests under way; streams end at once
    compat_execution_timeout_s: float = 60.0  # the original server's execution limit, on its routes


class ApiRequest(web.BaseRequest):
    """aiohttp's request with our id on it."""

    request_id: str = ""

    def get(self, key: Any, default: Any = None) -> Any:
        """The replies ask for `request_id` without knowing this class."""
        return self.request_id if key == "request_id" else default


@dataclass(slots=True)
class Call:
    """What a handler gets: the request, the values from its path, its id, and the server's ways to read it."""

    request: ApiRequest
    parameters: Mapping[str, str]
    server: ApiServer

    async def body(self) -> bytes:
        """The whole body; 408, 413, 415 and 429 come from here. JSON only."""
        request = self.request
        content_type = request.headers.get("Content-Type")
        if content_type is not None and content_type != "application/json":
            _check_content_type(content_type)
        return await self.server.read_body(request)

    async def any_body(self) -> bytes:
        """The whole body whatever its type."""
        return await self.server.read_body(self.request)

    def query(self, *known: str) -> dict[str, str]:
        """The query's parameters. Unknown and repeated ones are refused, so that typos show."""
        text = self.request.rel_url.raw_query_string
        if not text:
            return {}
        values: dict[str, str] = {}
        for name, value in parse_qsl(text, keep_blank_values=True, errors="replace"):
            if name not in known:
                listed = f"it takes {', '.join(known)}" if known else "it takes none"
                raise _bad_query(name, f"is not a parameter of this route; {listed}")
            if name in values:
                raise _bad_query(name, "is given twice")
            values[name] = value
        return values


def query_int(values: Mapping[str, str], name: str, *, default: int, low: int, high: int) -> int:
    """An integer parameter within its bounds."""
    text = values.get(name)
    if text is None:
        return default
    if re.fullmatch(r"-?[0-9]{1,18}", text, re.ASCII) and low <= int(text) <= high:
        return int(text)
    raise _bad_query(name, f"must be an integer from {low} to {high}, got {text[:50]!r}")


def query_float(values: Mapping[str, str], name: str, *, low: float, high: float) -> float:
    """A number of seconds within its bounds; 0 when absent."""
    text = values.get(name)
    if text is None:
        return 0.0
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text, re.ASCII) and low <= float(text) <= high:
        return float(text)
    raise _bad_query(name, f"must be a number from {low:g} to {high:g}, got {text[:50]!r}")


def query_flag(values: Mapping[str, str], name: str) -> bool:
    """`?steps=1`."""
    text = values.get(name)
    if text in (None, "0", "false"):
        return False
    if text in ("1", "true", ""):
        return True
    raise _bad_query(name, f"must be 1 or 0, got {text[:50]!r}" if text else "must be 1 or 0")


def _bad_query(name: str, message: str) -> ApiError:
    return ApiError(
        "invalid_query",
        f"query parameter {name[:100]}: {message}",
        problems=[Problem(path=f"?{name[:100]}", message=message, code="invalid_query")],
    )


# `curl -d` declares a form when nothing is said, and means JSON. A browser's form is refused by its Origin.
_JSON_CONTENT = re.compile(r"application/(([\w.+-]+\+)?json|x-www-form-urlencoded)\s*(;.*)?", re.IGNORECASE)


def _check_content_type(content_type: str) -> None:
    if _JSON_CONTENT.fullmatch(content_type.strip()):
        return
    raise ApiError(
        "unsupported_media_type",
        f"the body is declared as {content_type[:100]}; this route takes application/json",
        what_to_do="Send `Content-Type: application/json` (curl: add -H 'content-type: application/json').",
    )


_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,100}", re.ASCII)


class ApiServer:
    """Owns the listening socket, the connections and the figures about requests."""

    def __init__(self, router: Router, settings: ApiSettings, counters: RequestCounters) -> None:
        self._router = router
        self._settings = settings
        self._counters = counters
        self._server: _LowLevelServer | None = None
        self._listener: asyncio.Server | None = None
        self._id_prefix = os.urandom(4).hex()
        self._request_number = 0
        self._bodies_bytes = 0
        self.stopping = asyncio.Event()

    async def start(self) -> tuple[str, int]:
        """Listen; the address that was bound. Raises OSError when the port is taken."""
        settings = self._settings
        self._server = _LowLevelServer(self)
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(
            self._server, settings.host, settings.port, backlog=1024, family=_family(settings.host)
        )
        host, port = self._listener.sockets[0].getsockname()[:2]
        return host, port

    async def stop_listening(self) -> None:
        """Take no new connection; idle ones are closed, streams end, other requests under way go on."""
        self.stopping.set()
        if self._listener is not None:
            self._listener.close()
        if self._server is not None:
            self._server.pre_shutdown()

    async def close(self, timeout_s: float | None = None) -> None:
        """Give requests under way `timeout_s` (default: `shutdown_timeout_s`), then close every connection."""
        await self.stop_listening()
        if self._server is not None:
            if timeout_s is None:
                timeout_s = self._settings.shutdown_timeout_s
            # aiohttp waits so long for the answer, and once more for the cancelled handler.
            await self._server.shutdown(timeout_s / 2)
        if self._listener is not None:
            await self._listener.wait_closed()

    @property
    def connections(self) -> int:
        """Open connections."""
        return 0 if self._server is None else len(self._server.connections)

    # --- one request -----------------------------------------------------------------------------------------

    async def serve(self, base_request: web.BaseRequest) -> web.StreamResponse:
        """The answer to one request; never raises for what a client did."""
        request = cast(ApiRequest, base_request)
        self._request_number += 1
        wanted_id = request.headers.get("X-Request-Id")
        if wanted_id is not None and _REQUEST_ID.fullmatch(wanted_id):
            request.request_id = wanted_id
        else:
            request.request_id = f"{self._id_prefix}-{self._request_number:x}"
        started = time.monotonic()
        route: Route | None = None
        reply: AnyReply
        try:
            method = request.method
            route, parameters = self._router.match(method, request.rel_url.raw_path)
            if method not in ("GET", "HEAD"):
                _check_origin(request)
            reply = await route.handler(Call(request, parameters, self))
        except ThaiyyalError as error:
            reply = _error_reply(error, request.request_id)
        except asyncio.CancelledError:  # the client has gone, or the server stops
            self._counters.count(route.path if route else "none", 499, time.monotonic() - started)
            raise
        except ConnectionError:
            reply = GoneReply()
        except Exception:
            log.exception(
                "a request failed by a fault of ours",
                extra={"event": "api.fault", "request_id": request.request_id, "route": route and route.path},
            )
            fault = ApiError(
                "internal", "the node met an unexpected error and logged it under this request id"
            )
            reply = _error_reply(fault, request.request_id)
        self._counters.count(route.path if route else "none", reply.status, time.monotonic() - started)
        if not request.content.is_eof() and not request.content.at_eof():
            reply.keep_alive = False  # the rest of the body is not read: it may be what was refused
        return cast(web.StreamResponse, reply)

    async def read_body(self, request: ApiRequest) -> bytes:
        """The body within its bounds of size and time. Raises ApiError and Overloaded."""
        content = request.content
        if content.is_eof():
            data = content.read_nowait(-1)
            if len(data) > self._settings.body_bytes_max:
                raise self._too_large()
            if "Content-Encoding" in request.headers:
                _refuse_encoding(request)
            return data
        _refuse_encoding(request)
        declared = request.content_length or 0
        if declared > self._settings.body_bytes_max:
            raise self._too_large()
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return await self._read_slowly(request, declared)

    async def _read_slowly(self, request: ApiRequest, declared: int) -> bytes:
        body = bytearray()
        reserved = 0
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                reserved = self._reserve(declared)
                while chunk := await request.content.readany():
                    body += chunk
                    if len(body) > self._settings.body_bytes_max:
                        raise self._too_large()
                    if len(body) > reserved:
                        reserved += self._reserve(len(body) - reserved)
        except TimeoutError:
            raise ApiError(
                "request_timeout",
                f"the body did not arrive within {self._settings.body_timeout_s:g} s (limit: body_timeout_s)",
            ) from None
        except web.RequestPayloadError as error:
            raise ApiError("malformed_http", f"the body's transfer is broken: {error}") from None
        finally:
            self._bodies_bytes -= reserved
        return bytes(body)

    def _reserve(self, size: int) -> int:
        limit = self._settings.bodies_bytes_total_max
        if self._bodies_bytes + size > limit:
            raise Overloaded(
                f"the bodies being received fill {limit} bytes (limit: bodies_bytes_total_max)",
                limit="bodies_bytes_total_max",
            )
        self._bodies_bytes += size
        return size

    def _too_large(self) -> ApiError:
        return ApiError(
            "too_large",
            f"the body is larger than {self._settings.body_bytes_max} bytes (limit: body_bytes_max)",
        )


def _check_origin(request: ApiRequest) -> None:
    """A web page of another origin must not start or cancel anything here: the API has no login yet."""
    origin = request.headers.get("Origin")
    if origin is None:
        return
    if origin.partition("://")[2].lower() != request.headers.get("Host", "").lower():
        raise ApiError(
            "cross_origin",
            f"the request comes from a page of {origin[:200]}; only this node's own pages may do that",
        )


def _refuse_encoding(request: ApiRequest) -> None:
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise ApiError(
            "unsupported_media_type", f"the body is compressed ({encoding[:50]}); send it as it is"
        )


def _error_reply(error: ThaiyyalError, request_id: str) -> Reply:
    status, body, headers = problem_reply(error, request_id)
    return Reply(body, status=status, content_type=PROBLEM_TYPE, headers=header_lines(headers))


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class _LowLevelServer(web.Server):
    """aiohttp's server, with a bound on connections and our form of errors in the HTTP itself."""

    def __init__(self, owner: ApiServer) -> None:
        settings = owner._settings
        loop = asyncio.get_running_loop()
        # A client that has gone waits for nothing: its stream or its wait gives the place back at once.
        super().__init__(owner.serve, request_factory=self._make_api_request, handler_cancellation=True)
        self._api_loop = loop
        self._connections_max = settings.connections_max
        self._idle_timeout_s = settings.idle_timeout_s

    def _make_api_request(
        self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any
    ) -> ApiRequest:
        return ApiRequest(message, payload, protocol, writer, task, self._api_loop)

    def __call__(self) -> RequestHandler:
        if len(self._connections) >= self._connections_max:
            return cast(RequestHandler, _RefusingProtocol(self._connections_max))
        return _Connection(
            self,
            loop=self._api_loop,
            access_log=None,  # type: ignore[arg-type]  # None turns it off
            auto_decompress=False,
            keepalive_timeout=self._idle_timeout_s,
            lingering_time=2.0,
        )


class _Connection(RequestHandler):
    """One connection. Only the form of errors in the HTTP itself is ours."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP is answered with a problem and closed; it is the client's fault and not logged."""
        if not isinstance(exc, HttpProcessingError):
            log.error("a connection failed", exc_info=exc, extra={"event": "api.connection_fault"})
        if request.writer.output_size > 0:
            raise ConnectionResetError("the answer has begun")
        text = " ".join((message or "not HTTP").split())[:300]
        fault = ApiError("malformed_http" if status == 400 else "internal", text)
        cast(ApiRequest, request).request_id = "none"
        reply = _error_reply(fault, "none")
        reply.keep_alive = False
        return cast(web.StreamResponse, reply)


class _RefusingProtocol(asyncio.Protocol):
    """Says that the node is full, and closes."""

    def __init__(self, connections_max: int) -> None:
        self._connections_max = connections_max

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Answer at once, before the request is read."""
        full = Overloaded(
            f"all {self._connections_max} connections are taken (limit: connections_max)",
            limit="connections_max",
        )
        status, body, _ = problem_reply(full, "none")
        writer = cast(asyncio.WriteTransport, transport)
        writer.write(
            b"HTTP/1.1 %d Too Many Requests\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)
        )
        writer.close()
