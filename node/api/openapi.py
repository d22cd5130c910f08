"""The OpenAPI 3.1 document at /v1/openapi.json, put together from the table of routes.

Request schemas come from the structs that decode the bodies, so they cannot differ from what is accepted;
answers are described here. tests/unit/api/test_openapi.py walks the table and validates real answers against it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

import msgspec
from msgspec import json as msgspec_json

from node.api.bodies import BatchBody, CancelBody, RegisterBody, StartBody, ValidateBody, wait_s_max
from node.api.problems import CATALOGUE, PROBLEM_TYPE
from node.api.replies import AnyReply, Reply
from node.api.router import Route
from node.api.server import Call
from node.api.signals import SignalBody
from node.engine import Status, StepStatus

Json = dict[str, Any]


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: Mapping[str, Json], *, optional: Sequence[str] = ()) -> Json:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required}


_TEXT: Final[Json] = {"type": "string"}
_TEXT_OR_NULL: Final[Json] = {"type": ["string", "null"]}
_TIME: Final[Json] = {"type": "string", "format": "date-time"}
_TIME_OR_NULL: Final[Json] = {"type": ["string", "null"], "format": "date-time"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_ANY: Final[Json] = {}
_TAGS: Final[Json] = {"type": "object", "additionalProperties": _TEXT}
_SUCCESS: Final[Json] = {"type": "boolean"}

_STEP = _object(
    {
        "id": _TEXT,
        "type": _TEXT,
        "status": {"enum": list(get_args(StepStatus))},
        "path": {"type": "array", "items": _COUNT, "description": "Loop path; empty outside loops."},
        "attempt": _COUNT,
        "started_at": _TIME_OR_NULL,
        "finished_at": _TIME_OR_NULL,
        "error": {"anyOf": [_ref("ExecutionError"), {"type": "null"}]},
        "waits_for": _TEXT_OR_NULL,
    }
)
_EXECUTION = _object(
    {
        "id": {"type": "string", "pattern": "^[0-9a-f]{26}$"},
        "workflow_id": _TEXT,
        "workflow_version": {"type": ["integer", "null"]},
        "status": {"enum": list(get_args(Status))},
        "node_results": {
            "type": "object",
            "description": 'Result by step id. Non-finite numbers are {"$float": "NaN"}.',
        },
        "final_output": _ANY,
        "error": {"anyOf": [_ref("ExecutionError"), {"type": "null"}]},
        "created_at": _TIME,
        "started_at": _TIME_OR_NULL,
        "finished_at": _TIME_OR_NULL,
        "priority": _COUNT,
        "tags": _TAGS,
        "steps_total": _COUNT,
        "steps_done": _COUNT,
        "steps": {"type": "array", "items": _ref("Step"), "description": "With ?steps=1."},
        "parent": {
            "type": "string",
            "description": "The execution whose sub_workflow step started this one.",
        },
        "deduplicated": {
            "type": "boolean",
            "description": "True when the idempotency key had started this execution before.",
        },
    },
    optional=("steps", "parent", "deduplicated"),
)
_WORKFLOW = _object(
    {
        "id": _TEXT,
        "version": {"type": "integer", "minimum": 1},
        "name": _TEXT,
        "description": _TEXT,
        "hash": _TEXT,
        "created_at": _TIME,
        "steps_total": _COUNT,
        "workflow": {"description": "The payload as it was sent; only in the answer to one workflow."},
    },
    optional=("workflow",),
)
_PROBLEM_ITEM = _object(
    {"path": {"type": "string", "description": "Place of the problem."}, "message": _TEXT, "code": _TEXT}
)
_PROBLEM = _object(
    {
        "type": _TEXT,
        "title": _TEXT,
        "status": {"type": "integer"},
        "code": {"enum": list(CATALOGUE), "description": "Stable; match on it and not on the texts."},
        "detail": _TEXT,
        "what_to_do": _TEXT,
        "problems": {"type": "array", "items": _ref("ProblemItem")},
        "limit": {"type": "string", "description": "Of an overload: the bound that is full."},
        "retry_after_s": {"type": "number"},
        "leader_id": _TEXT,
        "request_id": _TEXT,
    },
    optional=("problems", "limit", "retry_after_s", "leader_id", "request_id"),
)
_SCHEMAS: Final[dict[str, Json]] = {
    "Execution": _EXECUTION,
    "Step": _STEP,
    "ExecutionError": _object(
        {"code": _TEXT, "message": _TEXT, "node": _TEXT_OR_NULL, "type": _TEXT}, optional=("type",)
    ),
    "ExecutionSummary": _object(
        {
            "id": _TEXT,
            "workflow_id": _TEXT,
            "status": {"enum": list(get_args(Status))},
            "created_at": _TIME,
            "started_at": _TIME_OR_NULL,
            "finished_at": _TIME_OR_NULL,
            "tags": _TAGS,
            "error_message": _TEXT_OR_NULL,
            "steps_total": _COUNT,
            "steps_done": _COUNT,
        }
    ),
    "ExecutionPage": _object(
        {"executions": {"type": "array", "items": _ref("ExecutionSummary")}, "cursor": _TEXT_OR_NULL}
    ),
    "BatchAnswer": _object(
        {
            "executions": {
                "type": "array",
                "description": "In the order of the request.",
                "items": {"anyOf": [_ref("Execution"), _object({"problem": _ref("Problem")})]},
            }
        }
    ),
    "Event": _object(
        {
            "seq": {"type": "integer", "minimum": 1},
            "time": _TIME,
            "type": _TEXT,
            "step": _TEXT,
            "path": {"type": "array", "items": _COUNT},
            "attempt": _COUNT,
            "detail": {"type": "object"},
        },
        optional=("step", "path", "attempt", "detail"),
    ),
    "History": _object(
        {"events": {"type": "array", "items": _ref("Event")}, "next_after": {"type": ["integer", "null"]}}
    ),
    "Workflow": _WORKFLOW,
    "WorkflowPage": _object(
        {"workflows": {"type": "array", "items": _ref("Workflow")}, "cursor": _TEXT_OR_NULL}
    ),
    "WorkflowVersions": _object(
        {
            "versions": {"type": "array", "items": _ref("Workflow")},
            "next_before": {"type": ["integer", "null"]},
        }
    ),
    "CheckReport": _object(
        {
            "valid": {"type": "boolean"},
            "error": _TEXT_OR_NULL,
            "problems": {"type": "array", "items": _ref("ProblemItem")},
            "warnings": {
                "type": "array",
                "items": _object({"path": _TEXT, "message": _TEXT}),
                "description": "What runs, and hardly does what was meant.",
            },
            "steps_total": _COUNT,
        }
    ),
    "Status": _object({"version": _TEXT, "ready": {"type": "boolean"}, "engine": {"type": "object"}}),
    "StepTypes": _object(
        {"step_types": {"type": "array", "items": _object({"name": _TEXT, "effect": _TEXT})}}
    ),
    "Health": _object({"status": _TEXT, "reason": _TEXT}, optional=("reason",)),
    "ProblemItem": _PROBLEM_ITEM,
    "Problem": _PROBLEM,
    "OriginalFailure": _object(
        {"success": {"const": False}, "error": _TEXT, "details": _TEXT}, optional=("details",)
    ),
    "OriginalResult": _object(
        {
            "success": _SUCCESS,
            "execution_time": _TEXT,
            "workflow_id": _TEXT,
            "workflow_name": _TEXT,
            "results": _object(
                {
                    "execution_id": _TEXT,
                    "workflow_id": _TEXT,
                    "node_results": {"type": "object"},
                    "final_output": _ANY,
                },
                optional=("workflow_id",),
            ),
        },
        optional=("execution_time", "workflow_id", "workflow_name"),
    ),
    "OriginalAnswer": _object({"success": _SUCCESS}),
    "OriginalValidity": _object({"valid": {"type": "boolean"}, "error": _TEXT}, optional=("error",)),
    "OriginalHealth": _object(
        {"status": _TEXT, "service_name": _TEXT, "service_version": _TEXT, "uptime": _TEXT}
    ),
}


def _query(name: str, schema: Json, description: str) -> Json:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


_WAIT_QUERY = _query(
    "wait_s",
    {"type": "number", "minimum": 0, "maximum": wait_s_max},
    "Wait so long for the end of the execution.",
)
_LIMIT_QUERY = _query("limit", {"type": "integer", "minimum": 1, "maximum": 500}, "Items of a page.")
_CURSOR_QUERY = _query("cursor", _TEXT, "From the page before.")
_KEY_HEADER: Final[Json] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[!-~]+$"},
    "description": "Repeating a start under the same key answers with the first execution, for 24 hours.",
}


def _answers(schema: str, *statuses: int) -> dict[int, Any]:
    return dict.fromkeys(statuses, schema)


class _Described(msgspec.Struct, frozen=True):
    summary: str
    tag: str
    answers: Mapping[int, str | None]
    body: type[msgspec.Struct] | None = None
    body_optional: bool = False
    parameters: tuple[Json, ...] = ()
    problems: tuple[int, ...] = ()
    content: str = "application/json"
    any_body: bool = False


_STARTS = (400, 408, 409, 413, 415, 422, 429, 503, 507)

_OPERATIONS: Final[dict[str, _Described]] = {
    "startExecution": _Described(
        "Start one execution; 200 when it ended within wait_s, else 202",
        "executions",
        _answers("Execution", 200, 202),
        body=StartBody,
        parameters=(_KEY_HEADER,),
        problems=(*_STARTS, 404),
    ),
    "startExecutions": _Described(
        "Start up to 1,000 executions at once; each has its own answer",
        "executions",
        _answers("BatchAnswer", 200),
        body=BatchBody,
        parameters=(_KEY_HEADER,),
        problems=_STARTS,
    ),
    "listExecutions": _Described(
        "Executions, newest first",
        "executions",
        _answers("ExecutionPage", 200),
        parameters=(
            _query("status", {"enum": list(get_args(Status))}, "Only those in this status."),
            _query("workflow", _TEXT, "Only those of this workflow id."),
            _query("tag", {"type": "string", "pattern": "^[^:]+:"}, "Only those with this tag, as name:value."),
            _LIMIT_QUERY,
            _CURSOR_QUERY,
        ),
        problems=(400, 503),
    ),
    "getExecution": _Described(
        "One execution",
        "executions",
        _answers("Execution", 200),
        parameters=(_query("steps", {"enum": ["0", "1"]}, "1 adds the state of each step."), _WAIT_QUERY),
        problems=(400, 404, 503),
    ),
    "getHistory": _Described(
        "Everything that happened to an execution",
        "executions",
        _answers("History", 200),
        parameters=(
            _query("after", {"type": "integer", "minimum": 0}, "Only events with a greater seq."),
            _query("limit", {"type": "integer", "minimum": 1, "maximum": 10_000}, "Events of a page."),
        ),
        problems=(400, 404, 503),
    ),
    "followExecution": _Described(
        "The same, live, as server-sent events; 204 when nothing will come any more",
        "executions",
        {200: "Event", 204: None},
        parameters=(
            _query("after", {"type": "integer", "minimum": 0}, "Only events with a greater seq."),
            {
                "name": "Last-Event-ID",
                "in": "header",
                "required": False,
                "schema": {"type": "string", "pattern": "^[0-9]{1,15}$"},
                "description": "Sent by browsers when they connect again; the same as `after`.",
            },
        ),
        problems=(400, 404, 429, 503),
        content="text/event-stream",
    ),
    "cancelExecution": _Described(
        "Cancel; 202 when `cancelling` is durable, 200 when it has ended already",
        "executions",
        _answers("Execution", 200, 202),
        body=CancelBody,
        body_optional=True,
        problems=(400, 404, 408, 409, 413, 415, 429, 503, 507),
    ),
    "signalExecution": _Described(
        "Hand a value to the step that waits for this signal, now or later; 202 when that is durable",
        "executions",
        _answers("Execution", 200, 202),
        body=SignalBody,
        body_optional=True,
        problems=(400, 404, 408, 409, 413, 415, 429, 503, 507),
    ),
    "registerWorkflow": _Described(
        "Register a workflow; 201 with a new version, 200 when this content has one",
        "workflows",
        _answers("Workflow", 200, 201),
        body=RegisterBody,
        problems=_STARTS,
    ),
    "listWorkflows": _Described(
        "The newest version of each registered workflow",
        "workflows",
        _answers("WorkflowPage", 200),
        parameters=(_LIMIT_QUERY, _CURSOR_QUERY),
        problems=(400, 503),
    ),
    "getWorkflow": _Described(
        "A registered workflow with its payload",
        "workflows",
        _answers("Workflow", 200),
        parameters=(_query("version", {"type": "integer", "minimum": 1}, "The newest when absent."),),
        problems=(400, 404, 503),
    ),
    "listWorkflowVersions": _Described(
        "Versions of a workflow, newest first",
        "workflows",
        _answers("WorkflowVersions", 200),
        parameters=(
            _query("limit", {"type": "integer", "minimum": 1, "maximum": 100}, "Versions of a page."),
            _query("before", {"type": "integer", "minimum": 1}, "Only lower versions."),
        ),
        problems=(400, 404, 503),
    ),
    "deleteWorkflow": _Described(
        "Delete a registered workflow; executions keep their definition",
        "workflows",
        {204: None},
        problems=(404, 409, 429, 503, 507),
    ),
    "validateWorkflow": _Described(
        "Every problem of a payload, with its place",
        "workflows",
        _answers("CheckReport", 200),
        body=ValidateBody,
        problems=(400, 408, 413, 415, 429),
    ),
    "getStatus": _Described("The node at this moment", "node", _answers("Status", 200)),
    "listStepTypes": _Described("Step types that this node runs", "node", _answers("StepTypes", 200)),
    "getWorkflowSchema": _Described(
        "JSON Schema of payloads of both levels of the language",
        "node",
        {200: ""},
        content="application/schema+json",
    ),
    "getOpenApi": _Described("This document", "node", {200: ""}),
    "getRoot": _Described("Where things are", "node", {200: ""}),
    "getHealthz": _Described("200 while the process answers", "node", _answers("Health", 200)),
    "getReadyz": _Described("200 when starts are accepted", "node", _answers("Health", 200, 503)),
    "getMetrics": _Described("Prometheus metrics", "node", {200: ""}, content="text/plain"),
    "originalExecute": _Described(
        "Run the payload in the body",
        "original",
        {200: "OriginalResult", 400: "OriginalFailure", 500: "OriginalFailure"},
        any_body=True,
    ),
    "originalExecuteSaved": _Described(
        "Run a saved workflow",
        "original",
        {200: "OriginalResult", 400: "OriginalFailure", 404: "OriginalFailure", 500: "OriginalFailure"},
    ),
    "originalValidate": _Described(
        "Decode a payload, as the original does", "original", {200: "OriginalValidity", 400: "OriginalFailure"},
        any_body=True,
    ),
    "originalSave": _Described(
        "Save any JSON under a new id", "original", {201: "OriginalAnswer", 400: "OriginalFailure"}, any_body=True
    ),
    "originalList": _Described("Saved workflows", "original", {200: "OriginalAnswer"}),
    "originalLoad": _Described(
        "A saved workflow", "original", {200: "OriginalAnswer", 400: "OriginalFailure", 404: "OriginalFailure"}
    ),
    "originalDelete": _Described(
        "Delete a saved workflow",
        "original",
        {200: "OriginalAnswer", 400: "OriginalFailure", 404: "OriginalFailure"},
    ),
    "originalRegisterClient": _Described(
        "Register a named HTTP client",
        "original",
        {201: "OriginalAnswer", 400: "OriginalFailure", 409: "OriginalFailure"},
        any_body=True,
    ),
    "originalListClients": _Described("Named HTTP clients", "original", {200: "OriginalAnswer"}),
    "originalHealth": _Described("Health", "original", _answers("OriginalHealth", 200, 503)),
    "originalHealthReady": _Described("Readiness", "original", _answers("OriginalHealth", 200, 503)),
    "originalHealthLive": _Described("Liveness", "original", _answers("OriginalHealth", 200)),
}  # fmt: skip


def operation(name: str) -> Json:
    """The operation object of a route, ready but for its path parameters."""
    described = _OPERATIONS[name]
    entry: Json = {"operationId": name, "summary": described.summary, "tags": [described.tag]}
    if described.parameters:
        entry["parameters"] = list(described.parameters)
    if described.body is not None:
        entry["requestBody"] = {
            "required": not described.body_optional,
            "content": {"application/json": {"schema": _ref(described.body.__name__)}},
        }
    if described.any_body:
        entry["requestBody"] = {"required": True, "content": {"application/json": {"schema": {}}}}
    responses: Json = {}
    for status, schema in described.answers.items():
        responses[str(status)] = _response(status, schema, described.content)
    for status in described.problems:
        responses[str(status)] = _problem_response(status)
    responses["default"] = _problem_response(None) if described.tag != "original" else _envelope_response()
    entry["responses"] = dict(sorted(responses.items()))
    return entry


def _response(status: int, schema: str | None, content: str) -> Json:
    words = {200: "OK", 201: "Created", 202: "Accepted; not ended yet", 204: "Nothing"}
    entry: Json = {"description": words.get(status, "Not possible; the body says why")}
    if schema is not None:
        kind = content if status < 400 else "application/json"
        entry["content"] = {kind: {"schema": _ref(schema) if schema and kind == "application/json" else {}}}
    return entry


def _problem_response(status: int | None) -> Json:
    titles = [f"`{code}`" for code, kind in CATALOGUE.items() if kind.status == status]
    return {
        "description": ", ".join(titles) or "Any other problem",
        "content": {PROBLEM_TYPE: {"schema": _ref("Problem")}},
    }


def _envelope_response() -> Json:
    return {
        "description": "Any other error: in the original's envelope, or as a problem when no route was reached",
        "content": {
            "application/json": {"schema": _ref("OriginalFailure")},
            PROBLEM_TYPE: {"schema": _ref("Problem")},
        },
    }


class OpenApiRoute:
    """Serves the document; made once, at the first request."""

    def __init__(self, *, version: str) -> None:
        self.routes: Sequence[Route] = ()
        self._version = version
        self._body = b""

    async def get(self, call: Call) -> AnyReply:
        """The whole document."""
        if not self._body:
            self._body = msgspec_json.encode(document(self.routes, version=self._version)) + b"\n"
        return Reply(self._body)


def document(routes: Sequence[Route], *, version: str) -> Json:
    """The OpenAPI document of a table of routes."""
    paths: Json = {}
    for route in routes:
        if route.operation is None:
            continue
        entry = dict(route.operation)
        names = re.findall(r"\{(\w+)\}", route.path)
        if names:
            entry["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
                for name in names
            ] + entry.get("parameters", [])
        paths.setdefault(route.path, {})[route.method.lower()] = entry
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Thaiyyal Node",
            "version": version,
            "description": "Runs Thaiyyal workflows durably. Errors are application/problem+json with a stable `code`.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "tags": [
            {"name": "executions", "description": "Start, read, follow, cancel"},
            {"name": "workflows", "description": "Registered definitions, versioned by content"},
            {"name": "node", "description": "The node about itself"},
            {"name": "original", "description": "The routes of the original Thaiyyal server"},
        ],
        "paths": paths,
        "components": {"schemas": {**_SCHEMAS, **_body_schemas()}},
    }


def _body_schemas() -> dict[str, Json]:
    kinds = [StartBody, BatchBody, CancelBody, SignalBody, RegisterBody, ValidateBody]
    _, schemas = msgspec_json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    for name, schema in schemas.items():
        properties = schema["properties"]
        if name == "SignalBody":
            properties["payload"] = {"description": "Any JSON value; null without one."}
        for field in ("workflow", "inputs"):
            if field in properties:
                properties[field] = {"type": "object", "description": _RAW_FIELDS[field]}
        if name in ("StartBody", "BatchItem"):
            schema["oneOf"] = [{"required": ["workflow"]}, {"required": ["workflow_id"]}]
            schema["dependentRequired"] = {"version": ["workflow_id"]}
    return dict(schemas)


_RAW_FIELDS: Final = {
    "workflow": "A payload: {nodes: […], edges: […]}, as the editor exports it.",
    "inputs": "Entries become constants of the execution: `context.<name>` in expressions.",
}
