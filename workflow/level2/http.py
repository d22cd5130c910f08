"""The http step of level 2: any method, headers, query, body, expected statuses, named clients.

The address rules and the request itself are the client's in Services; a write carries the task's idempotency key, so
that a sink which knows the key has the effect once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

from workflow.level2.operators import json_text, plain, scalar_text
from workflow.level2.shapes import duration_s
from workflow.steps.base import (
    HttpFailed,
    HttpRequest,
    HttpResponse,
    NamedClient,
    RunState,
    Services,
    Step,
    StepFailed,
)
from workflow.steps.url_rules import UrlRefused, check_url
from workflow.values import Value, from_json

READ_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_HEADERS_MAX = 100


async def run_http(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The body of the answer (JSON as a value, else text), or with `response: full` status and headers too."""
    data, settings = step.data or {}, services.settings
    if not settings.allow_http:
        raise StepFailed(
            "HTTP requests are not allowed on this node; start it with --allow-http",
            code="http_not_allowed",
            retryable=False,
        )
    if services.http is None:
        raise StepFailed("this process has no HTTP client", code="no_http_client", retryable=False)
    request = _request(step, data, state, services)
    try:
        response = await services.http(request)
    except HttpFailed as error:
        raise StepFailed(error.text, code="http_failed", retryable=error.retryable) from error
    if not _expected(data.get("expected_statuses"), response.status):
        again = response.status in RETRYABLE_STATUSES
        shown = response.body[:200].decode("utf-8", "replace")
        raise StepFailed(
            f"{request.method} {_without_query(request.url)} answered {response.status}: {shown}",
            code="http_status",
            retryable=again,
        )
    body = _body_value(response)
    if data.get("response") == "full":
        return {"status": float(response.status), "headers": dict(response.headers), "body": body}
    return body


def _request(step: Step, data: Mapping[str, Any], state: RunState, services: Services) -> HttpRequest:
    settings = services.settings
    method = (data.get("method") or "GET").upper()
    named = _named_client(data, services)
    url = _url(data, named)
    try:
        check_url(url, settings)
    except UrlRefused as error:
        raise StepFailed(f"URL validation failed: {error}", code="url_refused", retryable=False) from None
    headers = (
        _headers(named.headers) | _headers(data.get("headers")) if named else _headers(data.get("headers"))
    )
    body: bytes | None = None
    if data.get("body") is not None:
        body, content_type = _body_bytes(data["body"])
        headers.setdefault("content-type", content_type)
    if method not in READ_METHODS and state.idempotency_key:
        headers.setdefault("idempotency-key", state.idempotency_key)
    timeout_s = (
        duration_s(data["timeout"]) if data.get("timeout") is not None else settings.http_timeout_ns / 1e9
    )
    if timeout_s is None or timeout_s <= 0:
        raise StepFailed("http.timeout must be a duration over 0", code="invalid_data", retryable=False)
    return HttpRequest(
        method,
        url,
        settings,
        headers,
        body,
        timeout_s,
        settings.max_http_redirects,
        settings.max_response_size,
    )


def _named_client(data: Mapping[str, Any], services: Services) -> NamedClient | None:
    name = data.get("client")
    if name is None:
        return None
    found = services.http_clients.get(name)
    if found is None:
        known = ", ".join(sorted(services.http_clients)) or "none; start it with --http-clients FILE"
        text = f"this node has no HTTP client {str(name)[:80]!r} (it has {known})"
        raise StepFailed(text, code="http_client_unknown", retryable=False)
    return found


def _url(data: Mapping[str, Any], named: NamedClient | None) -> str:
    """The address asked for. Under a named client it stays below the base URL, whose host gets the client's headers."""
    url = str(data["url"])
    if named is not None:
        joined = urljoin(named.base_url.rstrip("/") + "/", url.removeprefix("/"))
        if not joined.startswith(named.base_url.rstrip("/") + "/"):
            refusal = "http.url leaves the base URL of its client; give a path below it, without .."
            raise StepFailed(refusal, code="url_refused", retryable=False)
        url = joined
    query = data.get("query")
    if query:
        pairs = [
            (key, text)
            for key, value in query.items()
            for item in (value if isinstance(value, list) else [value])
            if (text := scalar_text(item)) is not None
        ]
        joint = "&" if urlsplit(url).query else "?"
        url = f"{url}{joint}{urlencode(pairs)}" if pairs else url
    return urljoin(url, url)


def _without_query(url: str) -> str:
    """For error texts: a query may hold what should not be shown."""
    return url.partition("?")[0]


def _headers(given: Any) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in (given or {}).items():
        text = scalar_text(value)
        if (
            text is None
            or any(ord(char) < 32 or ord(char) == 127 for char in name + text)
            or not name.isascii()
        ):
            raise StepFailed(
                f"http.headers.{name[:40]!r} is not a header: a text of one line",
                code="invalid_data",
                retryable=False,
            )
        headers[name.lower()] = text
    if len(headers) > _HEADERS_MAX:
        raise StepFailed(f"more than {_HEADERS_MAX} headers", code="invalid_data", retryable=False)
    return headers


def _body_bytes(body: Value) -> tuple[bytes, str]:
    if type(body) is str:
        return body.encode("utf-8", "replace"), "text/plain; charset=utf-8"
    return json_text(body).encode("utf-8", "replace"), "application/json"


def _expected(given: Any, status: int) -> bool:
    """`[200, "4xx"]`; without it any 2xx."""
    if given is None:
        return 200 <= status < 300
    for item in given if isinstance(given, list) else [given]:
        text = (scalar_text(item) or "").lower()
        if text == str(status) or (len(text) == 3 and text[1:] == "xx" and text[0] == str(status)[0]):
            return True
    return False


def _body_value(response: HttpResponse) -> Value:
    if not response.body:
        return None
    text = response.body.decode("utf-8", "replace")
    media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/json" or media_type.endswith("+json"):
        try:
            return plain(from_json(json.loads(text)))
        except (ValueError, RecursionError) as error:
            raise StepFailed(
                f"the answer says it is JSON and is not: {error}", code="http_bad_json"
            ) from None
    return text
