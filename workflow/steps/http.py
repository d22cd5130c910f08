"""The http step of level 1: GET of a fixed URL. The request itself is made by the client in Services."""

from __future__ import annotations

from collections.abc import Sequence

from workflow.steps.base import (
    Field,
    HttpFailed,
    HttpRequest,
    HttpResponse,
    RunState,
    Services,
    Step,
    StepFailed,
    StepType,
)
from workflow.steps.json_text import JsonError, decode_numbers
from workflow.steps.url_rules import UrlRefused, check_url
from workflow.values import Value


async def run_http(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """JSON (numbers as json.Number) or the text of a 2xx answer; any other answer is a failure.

    A named client (`http_client_uid`) follows the same address rules as the default one; in the original an
    unknown name switches them off.
    """
    assert step.data is not None
    settings = services.settings
    if not settings.allow_http:
        raise StepFailed(
            "HTTP requests are not allowed (AllowHTTP=false). Enable AllowHTTP in config to make HTTP requests",
            retryable=False,
        )
    state.http_calls += 1
    limit = settings.max_http_calls_per_exec
    if 0 < limit < state.http_calls:
        raise StepFailed(
            f"maximum HTTP calls per execution exceeded: {state.http_calls} (limit: {limit})", retryable=False
        )
    url = step.data["url"]
    try:
        check_url(url, settings)
    except UrlRefused as error:
        raise StepFailed(f"URL validation failed: {error}", retryable=False) from None
    if services.http is None:
        raise StepFailed("HTTP request failed: this process has no HTTP client", code="no_http_client")
    request = HttpRequest(
        "GET",
        url,
        settings,
        timeout_s=settings.http_timeout_ns / 1e9,
        redirects_max=settings.max_http_redirects,
        response_bytes_max=settings.max_response_size,
    )
    try:
        response = await services.http(request)
    except HttpFailed as error:
        raise StepFailed(error.text, retryable=error.retryable) from error
    return response_value(response)


def response_value(response: HttpResponse) -> Value:
    """The value of an answer. Raises StepFailed for a status that is not 2xx and for JSON that is none."""
    if not 200 <= response.status < 300:
        again = response.status in (408, 425, 429) or response.status >= 500
        raise StepFailed(f"HTTP request returned error status: {response.status}", retryable=again)
    text = response.body.decode("utf-8", "replace")
    content_type = response.headers.get("content-type", "")
    if _declares_json(content_type):
        try:
            return decode_numbers(text)
        except JsonError as error:
            raise StepFailed(f"failed to parse JSON response: {error}") from None
    if not content_type and text.lstrip(" \t\r\n")[:1] in ("{", "["):
        try:
            return decode_numbers(text)
        except JsonError:
            return text
    return text


def _declares_json(content_type: str) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or (
        media_type.startswith("application/") and media_type.endswith("+json")
    )


STEP_TYPES = (
    StepType(
        "http",
        (Field("url", "string", required=True), Field("http_client_uid", "string")),
        "read",
        run_http,
        "HTTPData",
    ),
)
