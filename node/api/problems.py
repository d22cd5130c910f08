"""Errors as application/problem+json (RFC 9457).

    {"type": "urn:thaiyyal-node:problem:not_found", "title": "Not found", "status": 404, "code": "not_found",
     "detail": what happened and why, "what_to_do": …, "problems": [{"path", "message", "code"}], "request_id": …}

`code` is stable, clients match on it; the texts may change. CATALOGUE is the list of all codes and is part of
the OpenAPI document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from msgspec import json as msgspec_json

from node.errors import NotLeader, Overloaded, Problem, RequestInvalid, ThaiyyalError

PROBLEM_TYPE: Final = "application/problem+json"


class Kind(NamedTuple):
    """One stable code: the status it goes with, its title, and the advice when the error has none of its own."""

    status: int
    title: str
    what_to_do: str


_SAME_KEY = "Repeat the request under the same idempotency key; if it did take effect you get that execution."

CATALOGUE: Final[Mapping[str, Kind]] = {
    "malformed_http": Kind(400, "Not an HTTP request", "Check what the client sends."),
    "not_json": Kind(400, "The body is not JSON", "Send one JSON object; the detail names the place."),
    "too_deep": Kind(400, "The body is nested too deeply", "Flatten the data."),
    "wrong_type": Kind(400, "A value has the wrong type", "Correct the value that the problem names."),
    "unknown_field": Kind(
        400, "Unknown field", "Correct the name or remove it; unknown fields are refused so that typos show."
    ),
    "missing_field": Kind(400, "A field is missing", "Add the field that the problem names."),
    "invalid_value": Kind(400, "A value is not allowed", "Correct the value that the problem names."),
    "invalid_query": Kind(400, "The query string is wrong", "Correct the parameter that the problem names."),
    "cross_origin": Kind(
        403, "Refused for another origin", "Call the API from the same origin, or from a program."
    ),
    "not_found": Kind(
        404, "Not found", "Check the id; `GET /v1/executions` and `/v1/workflows` list what there is."
    ),
    "no_such_route": Kind(404, "No such route", "`GET /v1/openapi.json` lists the routes."),
    "method_not_allowed": Kind(405, "Method not allowed", "Use a method that the Allow header names."),
    "request_timeout": Kind(
        408, "The request came too slowly", "Send the body faster, or in a smaller request."
    ),
    "conflict": Kind(409, "Does not fit the present state", "Read the thing again and decide anew."),
    "length_required": Kind(411, "Length required", "Send Content-Length or chunks."),
    "too_large": Kind(413, "Too large", "Make it smaller, or raise the limit that the detail names."),
    "unsupported_media_type": Kind(
        415, "Unsupported media type", "Send `Content-Type: application/json`, not compressed."
    ),
    "request_invalid": Kind(422, "The request cannot be carried out", "Correct what the problems name."),
    "workflow_invalid": Kind(
        422,
        "The workflow is not valid",
        "Correct what the problems name; `POST /v1/workflows:validate` lists all.",
    ),
    "workflow_graph_invalid": Kind(
        422, "The graph is not valid", "Correct the nodes and edges that the problems name."
    ),
    "inputs_invalid": Kind(
        422,
        "The inputs do not fit the workflow",
        "Send the inputs that the workflow declares; the problems name them.",
    ),
    "workflow_too_large": Kind(
        413, "The workflow is too large", "Split it, or raise the limit that the detail names."
    ),
    "overloaded": Kind(429, "Too much at once", "Come back after the seconds in Retry-After."),
    "internal": Kind(
        500, "A fault of the node", "Repeat it; if it stays, report the request id and the node's log."
    ),
    "not_implemented": Kind(501, "Not offered by this node", "The detail says what takes its place."),
    "not_leader": Kind(503, "This node does not lead", "Repeat it, or send it to the node in the detail."),
    "unavailable": Kind(503, "Starting or stopping", "Repeat it after the seconds in Retry-After."),
    "outcome_unknown": Kind(503, "It may or may not have taken effect", _SAME_KEY),
    "storage_full": Kind(
        507,
        "The disk is full",
        "Free space in the data directory; the node goes on by itself. Nothing is lost.",
    ),
}


class ApiError(ThaiyyalError):
    """An error that only the edge knows: no route, wrong method, unsupported media type …"""

    definite = True

    def __init__(
        self,
        code: str,
        message: str,
        *,
        problems: Sequence[Problem] = (),
        headers: Mapping[str, str] | None = None,
        what_to_do: str = "",
    ) -> None:
        super().__init__(message)
        self.api_code = code
        self.problems = tuple(problems)
        self.headers = headers or {}
        self.what_to_do = what_to_do


class ProblemReply(NamedTuple):
    """A finished error answer: status, body, headers beside the usual ones."""

    status: int
    body: bytes
    headers: Mapping[str, str]


def problem_reply(error: ThaiyyalError, request_id: str) -> ProblemReply:
    """The answer to a request that failed with `error`."""
    document, headers = _document(error)
    document["request_id"] = request_id
    return ProblemReply(document["status"], msgspec_json.encode(document) + b"\n", headers)


def problem_object(error: ThaiyyalError) -> dict[str, Any]:
    """The same facts as an entry of a batch's answer."""
    return _document(error)[0]


def _document(error: ThaiyyalError) -> tuple[dict[str, Any], Mapping[str, str]]:
    code, status, problems, headers = _facts(error)
    kind = CATALOGUE.get(code) or CATALOGUE["request_invalid" if status < 500 else "internal"]
    document: dict[str, Any] = {
        "type": f"urn:thaiyyal-node:problem:{code}",
        "title": kind.title,
        "status": status,
        "code": code,
        "detail": _text(error.message),
        "what_to_do": getattr(error, "what_to_do", "") or kind.what_to_do,
    }
    if isinstance(error, Overloaded):
        document["limit"] = error.limit
        document["retry_after_s"] = error.retry_after_s
    if isinstance(error, NotLeader) and error.leader_id is not None:
        document["leader_id"] = error.leader_id
    if problems:
        document["problems"] = [
            {"path": _text(p.path), "message": _text(p.message), "code": p.code or code} for p in problems
        ]
    return document, headers


def _text(text: str) -> str:
    """Without what UTF-8 cannot write: headers may hold any bytes, and errors quote them."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _facts(error: ThaiyyalError) -> tuple[str, int, tuple[Problem, ...], Mapping[str, str]]:
    if isinstance(error, ApiError):
        return error.api_code, CATALOGUE[error.api_code].status, error.problems, error.headers
    if isinstance(error, RequestInvalid):
        code = error.detail_code if error.detail_code in CATALOGUE else error.code
        return code, error.status, error.problems, {}
    if isinstance(error, Overloaded):
        return error.code, error.http_status, (), {"Retry-After": str(max(1, round(error.retry_after_s)))}
    if error.http_status == 503:
        return error.code, 503, (), {"Retry-After": "1"}
    return error.code, error.http_status, (), {}
