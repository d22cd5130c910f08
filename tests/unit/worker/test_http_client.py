"""The real client against a real server on loopback."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from node.worker.http_client import AiohttpClient, _checked_socket
from workflow.steps.base import HttpFailed, HttpRequest, Settings

LOCAL = Settings(allow_http=True, allow_localhost=True)
STRICT = Settings(allow_http=True)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Routes on loopback, and what was asked of them."""

    def __init__(self) -> None:
        self.routes: dict[str, Handler] = {}
        self.seen: list[web.Request] = []
        self.peers: set[object] = set()
        self.port = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        assert request.transport is not None
        self.peers.add(request.transport.get_extra_info("peername"))
        handler = self.routes.get(request.path)
        return await handler(request) if handler else web.Response(status=404)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def redirect(self, path: str, location: str, status: int = 302) -> None:
        async def answer(request: web.Request) -> web.Response:
            return web.Response(status=status, headers={"Location": location})

        self.routes[path] = answer

    def text(self, path: str, body: str) -> None:
        async def answer(request: web.Request) -> web.Response:
            return web.Response(text=body)

        self.routes[path] = answer


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    served = Server()
    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", served.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    served.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    yield served
    await runner.cleanup()


NAMES = {
    "public.test": ["127.0.0.1"],
    "inner.test": ["10.0.0.5"],
    "mixed.test": ["127.0.0.1", "10.0.0.5"],
    "mapped.test": ["::ffff:10.0.0.5"],
}


async def lookup(host: str, port: int) -> list[str]:
    if host not in NAMES:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return NAMES[host]


@pytest.fixture
async def client() -> AsyncIterator[AiohttpClient]:
    made = AiohttpClient(lookup=lookup)
    yield made
    await made.close()


def get(url: str, settings: Settings = LOCAL, **options: object) -> HttpRequest:
    return HttpRequest("GET", url, settings, **options)  # type: ignore[arg-type]


async def failure(client: AiohttpClient, request: HttpRequest) -> str:
    with pytest.raises(HttpFailed) as caught:
        await client(request)
    return caught.value.text


async def test_a_get_returns_status_headers_and_body(client: AiohttpClient, server: Server) -> None:
    server.text("/x", "hello")
    response = await client(get(server.url("/x?q=a%20b&n=2")))
    assert (response.status, response.body) == (200, b"hello")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert server.seen[0].raw_path == "/x?q=a%20b&n=2"
    assert "Cookie" not in server.seen[0].headers


async def test_connections_are_reused_by_requests_under_the_same_rules(
    client: AiohttpClient, server: Server
) -> None:
    for _ in range(5):
        await client(get(server.url("/x")))
    assert len(server.peers) == 1


async def test_a_connection_opened_under_laxer_rules_is_not_reused_under_stricter_ones(
    client: AiohttpClient, server: Server
) -> None:
    await client(get(server.url("/x", "public.test")))
    text = await failure(client, get(server.url("/x", "public.test"), STRICT))
    assert text == (
        "URL validation failed: IP validation failed for public.test (127.0.0.1): "
        "localhost addresses are blocked (set allow_localhost=true to permit)"
    )
    assert len(server.seen) == 1


async def test_the_request_goes_to_the_address_that_was_checked(
    client: AiohttpClient, server: Server
) -> None:
    server.text("/x", "by name")
    response = await client(get(server.url("/x", "public.test")))
    assert response.body == b"by name"
    assert server.seen[0].host == f"public.test:{server.port}"


async def test_each_connection_resolves_and_checks_again(server: Server) -> None:
    answers = [["127.0.0.1"], ["10.0.0.5"]]

    async def changing(host: str, port: int) -> list[str]:
        return answers.pop(0)

    client = AiohttpClient(lookup=changing)

    async def closing(request: web.Request) -> web.Response:
        return web.Response(text="x", headers={"Connection": "close"})

    server.routes["/x"] = closing
    try:
        await client(get(server.url("/x", "rebinding.test")))
        assert "private IP addresses are blocked" in await failure(
            client, get(server.url("/x", "rebinding.test"))
        )
    finally:
        await client.close()


@pytest.mark.parametrize("host", ["mixed.test", "inner.test", "mapped.test"])
async def test_one_refused_address_refuses_the_name(client: AiohttpClient, server: Server, host: str) -> None:
    assert "private IP addresses are blocked" in await failure(client, get(server.url("/x", host)))
    assert server.seen == []


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "①②⑦.⓪.⓪.①",
        "localhost",
        "LOCALHOST.",
        "a.localhost",
    ],
)
async def test_no_spelling_of_loopback_is_reached(client: AiohttpClient, server: Server, host: str) -> None:
    text = await failure(client, get(server.url("/x", host), STRICT))
    assert "localhost addresses are blocked" in text
    assert server.seen == []


def test_a_socket_is_made_only_for_an_address_that_passes() -> None:
    info = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 80))
    with pytest.raises(PermissionError, match="localhost addresses are blocked"):
        _checked_socket(info, STRICT)
    _checked_socket(info, LOCAL).close()


async def test_redirects_are_followed(client: AiohttpClient, server: Server) -> None:
    server.redirect("/a", "/b", 301)
    server.redirect("/b", server.url("/c"), 307)
    server.text("/c", "end")
    assert (await client(get(server.url("/a")))).body == b"end"


async def test_a_redirect_without_location_is_an_answer(client: AiohttpClient, server: Server) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=302)

    server.routes["/a"] = answer
    assert (await client(get(server.url("/a")))).status == 302


@pytest.mark.parametrize(("limit", "requests"), [(0, 1), (1, 1), (3, 3)])
async def test_one_redirect_less_than_the_limit_is_followed(
    client: AiohttpClient, server: Server, limit: int, requests: int
) -> None:
    server.redirect("/a", "/a")
    text = await failure(client, get(server.url("/a"), redirects_max=limit))
    assert text == f'HTTP request failed: Get "/a": too many redirects (max {limit})'
    assert len(server.seen) == requests


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("http://10.0.0.1/", "IP validation failed for 10.0.0.1: private IP addresses are blocked"),
        ("http://inner.test/", "IP validation failed for inner.test (10.0.0.5): private IP"),
        ("http://169.254.169.254/", "IP validation failed for 169.254.169.254: link-local"),
        ("http://metadata.google.internal/", "cloud metadata endpoints are blocked"),
        ("file:///etc/passwd", "URL scheme not allowed: file (allowed: [http https])"),
    ],
)
async def test_redirects_are_checked_again(
    client: AiohttpClient, server: Server, location: str, problem: str
) -> None:
    server.redirect("/a", location)
    text = await failure(client, get(server.url("/a")))
    assert text.startswith(
        f'HTTP request failed: Get "{location}": redirect URL validation failed: {problem}'
    )


async def test_credentials_stay_with_their_host(client: AiohttpClient, server: Server) -> None:
    server.redirect("/a", server.url("/b", "public.test"))
    server.text("/b", "x")
    headers = {"Authorization": "secret", "X-Api-Key": "secret", "Accept": "text/plain"}
    await client(get(server.url("/a"), headers=headers))
    assert server.seen[0].headers["Authorization"] == server.seen[0].headers["X-Api-Key"] == "secret"
    assert not {"Authorization", "X-Api-Key"} & set(server.seen[1].headers)
    assert server.seen[1].headers["Accept"] == "text/plain"


@pytest.mark.parametrize(("status", "method", "body"), [(303, "GET", b""), (307, "POST", b"data")])
async def test_a_redirected_post_keeps_its_body_only_where_the_status_says_so(
    client: AiohttpClient, server: Server, status: int, method: str, body: bytes
) -> None:
    received: list[tuple[str, bytes]] = []

    async def answer(request: web.Request) -> web.Response:
        received.append((request.method, await request.read()))
        return web.Response(text="x")

    server.redirect("/a", "/b", status)
    server.routes["/b"] = answer
    await client(HttpRequest("POST", server.url("/a"), LOCAL, body=b"data"))
    assert received == [(method, body)]


@pytest.mark.parametrize("size", [9, 10])
async def test_a_body_up_to_the_limit_is_read(client: AiohttpClient, server: Server, size: int) -> None:
    server.text("/x", "x" * size)
    assert len((await client(get(server.url("/x"), response_bytes_max=10))).body) == size


async def test_a_longer_body_is_refused(client: AiohttpClient, server: Server) -> None:
    server.text("/x", "x" * 11)
    text = await failure(client, get(server.url("/x"), response_bytes_max=10))
    assert text == "response too large (exceeds 10 bytes limit)"


async def test_the_limit_counts_decompressed_bytes(client: AiohttpClient, server: Server) -> None:
    packed = gzip.compress(b"\0" * 5_000_000)

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    server.routes["/x"] = answer
    text = await failure(client, get(server.url("/x"), response_bytes_max=100_000))
    assert text == "response too large (exceeds 100000 bytes limit)"


async def test_a_late_answer_is_a_timeout(client: AiohttpClient, server: Server) -> None:
    release = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    server.routes["/x"] = answer
    url = server.url("/x")
    text = await failure(client, get(url, timeout_s=0.05))
    release.set()
    assert text == (
        f'HTTP request failed: Get "{url}": context deadline exceeded '
        "(Client.Timeout exceeded while awaiting headers)"
    )


async def test_a_body_that_never_ends_is_a_timeout(client: AiohttpClient, server: Server) -> None:
    release = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"start")
        await release.wait()
        return response

    server.routes["/x"] = answer
    text = await failure(client, get(server.url("/x"), timeout_s=0.2))
    release.set()
    assert text.startswith("failed to read response body: context deadline exceeded")


async def test_a_refused_connection_and_an_unknown_name_say_so(client: AiohttpClient) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        refused = await failure(client, get(f"http://127.0.0.1:{port}/"))
    assert refused == (
        f'HTTP request failed: Get "http://127.0.0.1:{port}/": '
        f"dial tcp 127.0.0.1:{port}: connect: connection refused"
    )
    unknown = await failure(client, get("http://nowhere.test/"))
    assert unknown == (
        'HTTP request failed: Get "http://nowhere.test/": dial tcp: lookup nowhere.test: no such host'
    )


async def test_a_server_that_hangs_up_says_eof(client: AiohttpClient, server: Server) -> None:
    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    server.routes["/x"] = answer
    assert (await failure(client, get(server.url("/x")))).startswith("HTTP request failed: Get ")


async def test_a_cancelled_request_stays_cancelled(client: AiohttpClient, server: Server) -> None:
    arrived, release = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        arrived.set()
        await release.wait()
        return web.Response()

    server.routes["/x"] = answer
    request = asyncio.create_task(client(get(server.url("/x"))))
    await arrived.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    release.set()


async def test_a_closed_client_refuses(server: Server) -> None:
    client = AiohttpClient(lookup=lookup)
    await client(get(server.url("/x")))
    await client.close()
    assert "is closed" in await failure(client, get(server.url("/x")))
