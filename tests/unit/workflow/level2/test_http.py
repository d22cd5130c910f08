"""The http step of level 2, with a client that answers from a list."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.workflow.level2.step_runs import NOW, run_step
from workflow.steps.base import (
    HttpClient,
    HttpFailed,
    HttpRequest,
    HttpResponse,
    NamedClient,
    Services,
    Settings,
    StepFailed,
)

URL = "https://example.com/x"


class Server:
    def __init__(
        self, status: int = 200, body: bytes = b'{"n":1}', kind: str = "application/json; charset=utf-8"
    ) -> None:
        self.answer = HttpResponse(status, {"content-type": kind}, body)
        self.asked: list[HttpRequest] = []

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        self.asked.append(request)
        return self.answer


def services(client: HttpClient | None, **settings: Any) -> Services:
    return Services(Settings(**{"allow_http": True, **settings}), now=lambda: NOW, http=client)


def ask(server: Server, *inputs: Any, **data: Any) -> Any:
    return run_step("http", {"url": URL, **data}, *inputs, services=services(server))


def failure(server: Server | None, data: Any = None, **settings: Any) -> StepFailed:
    with pytest.raises(StepFailed) as failed:
        run_step("http", {"url": URL, **(data or {})}, services=services(server, **settings))
    return failed.value


def test_a_get_sends_neither_body_nor_key() -> None:
    server = Server()
    assert ask(server) == {"n": 1}
    (request,) = server.asked
    assert (request.method, request.url, request.body, dict(request.headers)) == ("GET", URL, None, {})
    assert request.timeout_s == 30


def test_method_headers_query_body_and_timeout_are_sent() -> None:
    server = Server(201)
    ask(
        server,
        {"id": 5},
        method="POST",
        headers={"X-Shop": 7},
        query={"q": "a b", "n": [1, 2], "none": None},
        body={"id": "{{ input.id }}", "text": "ü"},
        timeout="5s",
    )
    (request,) = server.asked
    assert request.url == URL + "?q=a+b&n=1&n=2"
    assert request.body == '{"id":5,"text":"ü"}'.encode()
    assert request.headers == {"x-shop": "7", "content-type": "application/json", "idempotency-key": "key"}
    assert (request.method, request.timeout_s) == ("POST", 5)


def test_a_text_body_is_text_and_given_headers_win() -> None:
    server = Server()
    ask(server, method="PUT", body="hi", headers={"Content-Type": "text/csv", "Idempotency-Key": "mine"})
    assert server.asked[0].body == b"hi"
    assert server.asked[0].headers == {"content-type": "text/csv", "idempotency-key": "mine"}
    ask(server, method="PUT", body="hi")
    assert server.asked[1].headers["content-type"].startswith("text/plain")


def test_a_query_joins_one_that_is_there() -> None:
    server = Server()
    ask(server, url=URL + "?a=1", query={"b": True})
    assert server.asked[0].url == URL + "?a=1&b=true"


def test_the_content_type_decides_what_the_body_is() -> None:
    assert ask(Server(body=b"[1]", kind="application/problem+json")) == [1]
    assert ask(Server(body=b"[1]", kind="text/plain")) == "[1]"
    assert ask(Server(204, b"")) is None
    assert failure(Server(body=b"{")).code == "http_bad_json"


def test_a_full_response_has_status_and_headers() -> None:
    got = ask(Server(202), response="full")
    assert (got["status"], got["body"], "content-type" in got["headers"]) == (202, {"n": 1}, True)


@pytest.mark.parametrize(
    ("status", "again"), [(404, False), (408, True), (429, True), (500, True), (503, True), (301, False)]
)
def test_an_unexpected_status_fails_and_says_whether_to_try_again(status: int, again: bool) -> None:
    failed = failure(Server(status), {"url": URL + "?token=secret"})
    assert (failed.code, failed.retryable) == ("http_status", again)
    assert "secret" not in failed.text


@pytest.mark.parametrize(("expected", "status", "good"), [([404], 404, True), (["4xx"], 404, True), ("404", 404, True),
                                                          ([201, "3xx"], 200, False), (204, 204, True)])  # fmt: skip
def test_expected_statuses(expected: Any, status: int, good: bool) -> None:
    if good:
        assert ask(Server(status), expected_statuses=expected) == {"n": 1}
    else:
        assert failure(Server(status), {"expected_statuses": expected}).code == "http_status"


@pytest.mark.parametrize(
    "headers",
    [{"a\n": "x"}, {"a": "x\r\ny"}, {"ü": "x"}, {"a": {"b": 1}}, {f"h{at}": 1 for at in range(101)}],
)
def test_what_is_no_header_is_refused(headers: Any) -> None:
    server = Server()
    assert failure(server, {"headers": headers}).code == "invalid_data"
    assert not server.asked


def test_what_the_node_forbids_is_never_asked() -> None:
    server = Server()
    assert failure(server, allow_http=False).code == "http_not_allowed"
    assert failure(server, {"url": "http://127.0.0.1/"}).code == "url_refused"
    assert failure(server, {"url": "ftp://example.com/"}).code == "url_refused"
    assert failure(None).code == "no_http_client"
    assert not server.asked


def test_a_request_without_an_answer_fails() -> None:
    async def gone(request: HttpRequest) -> HttpResponse:
        raise HttpFailed("refused", retryable=False)

    with pytest.raises(StepFailed) as failed:
        run_step("http", {"url": URL}, services=services(gone))
    assert (failed.value.code, failed.value.text, failed.value.retryable) == ("http_failed", "refused", False)


def test_numbers_in_a_body_are_whole_where_they_are() -> None:
    server = Server()
    ask(server, method="POST", body={"a": 1, "b": 1.5, "c": [2, "{{ 1 + 1 }}"]})
    assert json.loads(server.asked[0].body or b"") == {"a": 1, "b": 1.5, "c": [2, 2]}
    assert b"1.0" not in (server.asked[0].body or b"")


def with_client(server: Server, **data: Any) -> Any:
    shop = NamedClient("https://shop.example.com/v1", {"Authorization": "Bearer s3cret", "X-Team": "shop"})
    lent = Services(Settings(allow_http=True), now=lambda: NOW, http=server, http_clients={"shop": shop})
    return run_step("http", {"client": "shop", **data}, services=lent)


def test_a_named_client_gives_its_base_url_and_headers() -> None:
    server = Server()
    with_client(server, url="orders/7", query={"full": "yes"}, headers={"x-team": "mine"})
    (request,) = server.asked
    assert request.url == "https://shop.example.com/v1/orders/7?full=yes"
    assert dict(request.headers) == {"authorization": "Bearer s3cret", "x-team": "mine"}


@pytest.mark.parametrize(
    "url", ["https://evil.example.com/", "//evil.example.com/x", "../admin", "https://shop.example.com/v2/x"]
)
def test_the_headers_of_a_named_client_never_leave_its_base_url(url: str) -> None:
    server = Server()
    with pytest.raises(StepFailed, match="leaves the base URL") as failed:
        with_client(server, url=url)
    assert failed.value.code == "url_refused"
    assert server.asked == []


def test_an_unknown_client_is_named_with_those_there_are() -> None:
    with pytest.raises(StepFailed, match=r"no HTTP client 'shopp' \(it has shop\)") as failed:
        with_client(Server(), client="shopp", url="x")
    assert failed.value.code == "http_client_unknown"
    assert "s3cret" not in failed.value.text
