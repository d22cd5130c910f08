"""The http step; its client is stood in for."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.workflow.steps.step_runs import run_step
from workflow.steps.base import (
    HttpFailed,
    HttpRequest,
    HttpResponse,
    RunState,
    Services,
    Settings,
    StepFailed,
)
from workflow.values import JsonNumber

ALLOWED = Settings(allow_http=True)


class Client:
    """Answers every request alike, and remembers it."""

    def __init__(self, answer: HttpResponse | HttpFailed) -> None:
        self.answer = answer
        self.requests: list[HttpRequest] = []

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        self.requests.append(request)
        if isinstance(self.answer, HttpFailed):
            raise self.answer
        return self.answer


def answer(body: bytes, content_type: str | None = "application/json", status: int = 200) -> HttpResponse:
    return HttpResponse(status, {} if content_type is None else {"content-type": content_type}, body)


def fetch(
    response: HttpResponse | HttpFailed,
    *,
    settings: Settings = ALLOWED,
    state: RunState | None = None,
    **data: Any,
) -> tuple[Any, Client]:
    client = Client(response)
    services = Services(settings=settings, http=client)
    result = run_step("http", {"url": "http://h.test/x"} | data, state=state, services=services)
    return result, client


@pytest.mark.parametrize(
    ("body", "content_type", "value"),
    [
        (b'{"n": 1.50} trailing', "application/json; charset=utf-8", {"n": JsonNumber("1.50")}),
        (b"[1]", "Application/Problem+JSON", [JsonNumber("1")]),
        (b'{"a":1}', "text/json", '{"a":1}'),
        (b' {"a":true}', None, {"a": True}),
        (b"{oops", None, "{oops"),
        (b"5", None, "5"),
        (b"\xff", "text/plain", "\ufffd"),
        (b"", None, ""),
    ],
)
def test_the_content_type_decides_what_a_body_is(body: bytes, content_type: str | None, value: Any) -> None:
    assert fetch(answer(body, content_type))[0] == value


@pytest.mark.parametrize(
    ("body", "problem"),
    [(b"", "EOF"), (b"{", "unexpected EOF"), (b"\xef\xbb\xbf{}", "invalid character 'ï' looking")],
)
def test_declared_json_must_be_json(body: bytes, problem: str) -> None:
    with pytest.raises(StepFailed, match=f"failed to parse JSON response: {problem}"):
        fetch(answer(body))


@pytest.mark.parametrize(
    ("status", "again"), [(300, False), (404, False), (429, True), (500, True), (503, True)]
)
def test_a_status_that_is_not_2xx_fails(status: int, again: bool) -> None:
    with pytest.raises(StepFailed) as caught:
        fetch(answer(b"", status=status))
    assert caught.value.text == f"HTTP request returned error status: {status}"
    assert caught.value.retryable is again


def test_the_request_carries_the_limits_of_the_settings() -> None:
    settings = Settings(
        allow_http=True, http_timeout_ns=1_500_000_000, max_http_redirects=2, max_response_size=10
    )
    _, client = fetch(answer(b"1"), settings=settings)
    request = client.requests[0]
    assert (request.method, request.timeout_s, request.redirects_max, request.response_bytes_max) == (
        "GET",
        1.5,
        2,
        10,
    )
    assert request.settings is settings


def test_a_named_client_follows_the_same_rules() -> None:
    with pytest.raises(StepFailed, match=r"URL validation failed: IP validation failed for 127\.0\.0\.1"):
        fetch(answer(b"1"), url="http://127.0.0.1/", http_client_uid="anything")


def test_calls_are_counted_before_the_url_is_looked_at() -> None:
    state = RunState()
    settings = Settings(allow_http=True, max_http_calls_per_exec=1)
    with pytest.raises(StepFailed, match="URL scheme not allowed"):
        fetch(answer(b"1"), settings=settings, state=state, url="ftp://x")
    with pytest.raises(StepFailed, match=r"maximum HTTP calls per execution exceeded: 2 \(limit: 1\)"):
        fetch(answer(b"1"), settings=settings, state=state)


def test_nothing_is_requested_where_http_is_off() -> None:
    state = RunState()
    with pytest.raises(StepFailed, match="HTTP requests are not allowed"):
        fetch(answer(b"1"), settings=Settings(), state=state)
    assert state.http_calls == 0


def test_the_clients_failure_is_the_steps() -> None:
    with pytest.raises(StepFailed) as caught:
        fetch(HttpFailed("HTTP request failed: x", retryable=False))
    assert (caught.value.text, caught.value.retryable) == ("HTTP request failed: x", False)


def test_a_process_without_a_client_says_so() -> None:
    with pytest.raises(StepFailed, match="no HTTP client"):
        run_step("http", {"url": "http://h.test/"}, services=Services(settings=ALLOWED))
