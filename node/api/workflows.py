"""/v1/workflows: registered definitions, versioned by content, and the check of a definition before it is used."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec import json as msgspec_json

from node.api.bodies import BodyReader, RegisterBody, ValidateBody, check_depth
from node.api.problems import ApiError
from node.api.render import page_json, workflow_object
from node.api.replies import AnyReply, Reply
from node.api.server import ApiSettings, Call, query_int
from node.checking import CheckReport
from node.engine import Engine
from node.errors import NotFound, Problem

list_limit_max: Final = 500
versions_limit_max: Final = 100

_REGISTER: Final = BodyReader(RegisterBody)
_VALIDATE: Final = BodyReader(ValidateBody)


Checker = Callable[[bytes], CheckReport]


class WorkflowRoutes:
    """The handlers; they hold no state of their own."""

    def __init__(self, engine: Engine, settings: ApiSettings, check: Checker) -> None:
        self._engine = engine
        self._settings = settings
        self._check = check

    async def register(self, call: Call) -> AnyReply:
        """201 with a new version; 200 with the known one when the content is the same."""
        body = await call.body()
        await check_depth(body, self._settings.json_depth_max)
        fields: RegisterBody = _REGISTER.decode(body)
        payload = bytes(fields.workflow)
        workflow_id = fields.id or _id_from(fields.name) or _id_from(_payload_id(payload))
        if not workflow_id:
            message = "give `id` or `name`: the workflow is called by it later"
            raise ApiError("missing_field", f"id: {message}", problems=[Problem(path="id", message=message)])
        before = await self._latest_version(workflow_id)
        view = await self._engine.register_workflow(
            workflow_id=workflow_id, payload=payload, name=fields.name, description=fields.description
        )
        return Reply(
            msgspec_json.encode(workflow_object(view)) + b"\n",
            status=201 if view.version > before else 200,
            headers=b"Location: /v1/workflows/%b\r\n" % workflow_id.encode(),
        )

    async def _latest_version(self, workflow_id: str) -> int:
        try:
            return (await self._engine.get_workflow(workflow_id)).version
        except NotFound:
            return 0

    async def list(self, call: Call) -> AnyReply:
        """The newest version of each."""
        query = call.query("limit", "cursor")
        limit = query_int(query, "limit", default=100, low=1, high=list_limit_max)
        views, cursor = await self._engine.list_workflows(limit=limit, cursor=query.get("cursor"))
        return Reply(page_json("workflows", [workflow_object(view) for view in views], cursor))

    async def get(self, call: Call) -> AnyReply:
        """One version, the newest without `?version=`, with its payload as it was sent."""
        query = call.query("version")
        version = query_int(query, "version", default=0, low=1, high=2**31) or None
        view = await self._engine.get_workflow(_workflow_id(call), version)
        return Reply(msgspec_json.encode(workflow_object(view, payload=True)) + b"\n")

    async def versions(self, call: Call) -> AnyReply:
        """Newest first, without payloads; `?before=` continues."""
        query = call.query("limit", "before")
        limit = query_int(query, "limit", default=20, low=1, high=versions_limit_max)
        workflow_id = _workflow_id(call)
        newest = await self._engine.get_workflow(workflow_id)
        before = query_int(query, "before", default=newest.version + 1, low=1, high=2**31)
        first = min(before - 1, newest.version)
        numbers = range(first, max(0, first - limit), -1)
        views = [
            newest if number == newest.version else await self._engine.get_workflow(workflow_id, number)
            for number in numbers
        ]
        more = numbers[-1] if numbers and numbers[-1] > 1 else None
        document = {"versions": [workflow_object(view) for view in views], "next_before": more}
        return Reply(msgspec_json.encode(document) + b"\n")

    async def delete(self, call: Call) -> AnyReply:
        """204. Executions under way keep the definition that they started with."""
        await self._engine.delete_workflow(_workflow_id(call))
        return Reply(b"", status=204, content_type="")

    async def validate(self, call: Call) -> AnyReply:
        """200 with every problem and its place, valid or not; nothing is stored."""
        body = await call.body()
        await check_depth(body, self._settings.json_depth_max)
        fields: ValidateBody = _VALIDATE.decode(body)
        report = await asyncio.to_thread(self._check, bytes(fields.workflow))
        return Reply(msgspec_json.encode(report_object(report)) + b"\n")


def report_object(report: CheckReport) -> dict[str, Any]:
    """The answer of the validate route."""
    return {
        "valid": report.valid,
        "error": report.error or None,
        "problems": [
            {"path": problem.path, "message": problem.message, "code": problem.code or "workflow_invalid"}
            for problem in report.problems
        ],
        "warnings": [{"path": found.path, "message": found.message} for found in report.warnings],
        "steps_total": report.steps_total,
    }


def _workflow_id(call: Call) -> str:
    workflow_id = call.parameters["id"]
    if not 0 < len(workflow_id) <= 200:
        raise NotFound(f"no workflow has the id {workflow_id[:100]!r}")
    return workflow_id


def _id_from(name: str) -> str:
    """A name as an id: letters, digits, `-._~:`; the rest becomes single dashes."""
    return re.sub(r"[^A-Za-z0-9._~:]+", "-", name).strip("-")[:200].lower()


def _payload_id(payload: bytes) -> str:
    try:
        return msgspec_json.decode(payload, type=_PayloadHead).workflow_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""  # register_workflow says what is wrong with it


class _PayloadHead(Struct):
    workflow_id: str = ""
