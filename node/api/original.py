"""The routes of the original server, for its web editor and for programs written against it (SERVER.md §2, §3).

Answers have the original's form, texts and status codes: JSON with `<>&` escaped, a newline at the end. On purpose
different, and why (docs/api.md lists them):

- a dangling edge is a clear error in the same envelope; there it is a crash behind a plain 500;
- non-finite numbers come as {"$float": "NaN"}; there the body is empty;
- saved workflows and named HTTP clients survive a restart; there they are gone;
- unknown `/api/` paths are 404; there they are the editor's page. No CORS headers: a foreign page gets nothing.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from msgspec import json as msgspec_json

from node.api.bodies import check_depth
from node.api.http_clients import ClientConfigInvalid, ClientExists, HttpClientStore
from node.api.ids import new_execution_id, new_workflow_id
from node.api.problems import ApiError, problem_object, problem_reply
from node.api.replies import AnyReply, Reply, header_lines
from node.api.router import Handler
from node.api.server import ApiSettings, Call
from node.api.workflows import Checker
from node.engine import TERMINAL, Engine, ExecutionView, StartRequest, WorkflowView
from node.errors import NotFound, RequestInvalid, ThaiyyalError, TooLarge
from workflow.codec import decode
from workflow.durations import format_duration
from workflow.values import json_form, time_rfc3339, to_json

# What the original stores need not be a payload; such data is wrapped in one that loads and says so when it is run.
_WRAPPED: Final = "thaiyyal_saved_data"
_STARTED = time.monotonic()


class OriginalRoutes:
    """The handlers. Saved workflows live in the registered-workflow store, under a random UUID each."""

    def __init__(
        self,
        engine: Engine,
        settings: ApiSettings,
        check: Checker,
        clients: HttpClientStore,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._check = check
        self._clients = clients

    # --- running ---------------------------------------------------------------------------------------------

    async def execute(self, call: Call) -> AnyReply:
        """Run the payload in the body, and answer with its results."""
        try:
            payload = await call.any_body()
            await check_depth(payload, self._settings.json_depth_max)
        except ApiError as error:
            return _failure(400, "Failed to read request body", error.message)
        started = time.perf_counter()
        answer = await self._run(StartRequest(execution_id=new_execution_id(), workflow=payload))
        if isinstance(answer, Reply):
            return answer
        elapsed = format_duration(int((time.perf_counter() - started) * 1e9))
        return _json({"success": True, "execution_time": elapsed, "results": _results(answer)})

    async def execute_saved(self, call: Call) -> AnyReply:
        """Run a saved workflow; the body is ignored."""
        workflow_id = call.parameters["id"]
        try:
            saved = _Saved(await self._engine.get_workflow(workflow_id))
        except NotFound:
            return _failure(404, "Failed to load workflow", _no_workflow(workflow_id))
        answer = await self._run(StartRequest(execution_id=new_execution_id(), workflow=saved.data))
        if isinstance(answer, Reply):
            return answer
        return _json(
            {
                "success": True,
                "workflow_id": saved.view.id,
                "workflow_name": saved.view.name,
                "results": _results(answer),
            }
        )

    async def _run(self, request: StartRequest) -> ExecutionView | Reply:
        """The finished execution, or the answer that says why there is none."""
        limit_s = self._settings.compat_execution_timeout_s
        try:
            [view] = await self._engine.start([request], wait_s=limit_s)
            if isinstance(view, ThaiyyalError):
                raise view
        except (RequestInvalid, TooLarge) as error:
            if "cycles" in error.message:
                return _failure(500, "Workflow execution failed", error.message)
            return _failure(400, "Failed to create engine", error.message)
        if view.status == "completed":
            return view
        if view.status not in TERMINAL:
            late = f"workflow execution timeout: exceeded {format_duration(int(limit_s * 1e9))}"
            return _failure(500, "Workflow execution failed", f"{late}; it goes on as execution {view.id}")
        details = view.error.message if view.error is not None else f"the execution is {view.status}"
        return _failure(500, "Workflow execution failed", details)

    async def validate(self, call: Call) -> AnyReply:
        """Only what the original checks while decoding; `POST /v1/workflows:validate` finds everything."""
        try:
            payload = await call.any_body()
            await check_depth(payload, self._settings.json_depth_max)
        except ApiError as error:
            return _failure(400, "Failed to read request body", error.message)
        report = self._check(payload)
        if report.loads:
            return _json({"valid": True})
        return _json({"valid": False, "error": report.error})

    # --- saved workflows -------------------------------------------------------------------------------------

    async def save(self, call: Call) -> AnyReply:
        """Store any JSON under a new id."""
        body = await call.any_body()
        try:
            fields = msgspec_json.decode(body, type=_SaveBody)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return _failure(400, "Failed to parse request", str(error))
        data = bytes(fields.data)
        if not fields.name:
            return _short_failure(400, "Failed to save workflow: workflow name is required")
        if not data:
            return _short_failure(400, "Failed to save workflow: workflow data is required")
        workflow_id = new_workflow_id()
        is_workflow = data.lstrip()[:1] == b"{" and self._check(data).valid
        await self._engine.register_workflow(
            workflow_id=workflow_id,
            payload=data if is_workflow else _wrapped(data),
            name=fields.name,
            description=fields.description,
        )
        return _json(
            {"success": True, "id": workflow_id, "message": "Workflow saved successfully"}, status=201
        )

    async def list(self, call: Call) -> AnyReply:
        """All registered workflows, those of /v1/workflows included."""
        views: list[WorkflowView] = []
        cursor: str | None = None
        while True:
            page, cursor = await self._engine.list_workflows(limit=500, cursor=cursor)
            views += page
            if cursor is None:
                break
        lines = [_saved_head(view) for view in views]
        return _json({"success": True, "workflows": lines, "count": len(lines)})

    async def load(self, call: Call) -> AnyReply:
        """A saved workflow with its data."""
        workflow_id = call.parameters["id"]
        if not workflow_id:
            return _short_failure(400, "Workflow ID is required")
        try:
            saved = _Saved(await self._engine.get_workflow(workflow_id))
        except NotFound:
            return _short_failure(404, _no_workflow(workflow_id))
        head = json_form({"success": True}).encode()[:-1]
        fields = json_form(_saved_head(saved.view)).encode()[:-1]
        return Reply(b'%b,"workflow":%b,"data":%b}}\n' % (head, fields, saved.data))

    async def delete(self, call: Call) -> AnyReply:
        """Remove a saved workflow."""
        workflow_id = call.parameters["id"]
        if not workflow_id:
            return _short_failure(400, "Workflow ID is required")
        try:
            await self._engine.delete_workflow(workflow_id)
        except NotFound:
            return _short_failure(404, _no_workflow(workflow_id))
        return _json({"success": True, "message": "Workflow deleted successfully"})

    # --- named HTTP clients ----------------------------------------------------------------------------------

    async def register_client(self, call: Call) -> AnyReply:
        """Store a named HTTP client. As on the original server, no workflow uses it."""
        body = await call.any_body()
        try:
            uid = await self._clients.register(body)
        except ClientExists as error:
            return _short_failure(409, f"Failed to register HTTP client: {error}")
        except ClientConfigInvalid as error:
            return _short_failure(400, str(error))
        return _json(
            {"success": True, "message": "HTTP client registered successfully", "uid": uid}, status=201
        )

    async def list_clients(self, call: Call) -> AnyReply:
        """The uids of the registered HTTP clients."""
        uids = self._clients.uids()
        return _json({"success": True, "clients": uids, "count": len(uids)})


class HealthRoutes:
    """`/health`, `/health/live`, `/health/ready` in the original's form."""

    def __init__(self, *, version: str, ready: Any) -> None:
        self._version = version
        self._ready = ready

    async def ready(self, call: Call) -> AnyReply:
        """503 while the engine does not accept starts."""
        reason = self._ready()
        engine = {"status": "unhealthy" if reason else "healthy", "last_checked": _now()}
        if reason:
            engine["error"] = reason
        document = self._document("unhealthy" if reason else "healthy")
        document["checks"] = {"engine": engine}
        return _json(document, status=503 if reason else 200)

    async def live(self, call: Call) -> AnyReply:
        """Always 200."""
        return _json(self._document("healthy"))

    def _document(self, status: str) -> dict[str, Any]:
        return {
            "status": status,
            "service_name": "thaiyyal-workflow-engine",
            "service_version": self._version,
            "uptime": format_duration(int((time.monotonic() - _STARTED) * 1e9)),
            "timestamp": _now(),
        }


class _SaveBody(msgspec.Struct):
    name: str = ""
    description: str = ""
    data: msgspec.Raw = msgspec.Raw(b"")


class _Saved:
    """A registered workflow as the original's routes show it: `data` is what was saved.

    A workflow may come back with other white space; anything else comes back byte for byte.
    """

    def __init__(self, view: WorkflowView) -> None:
        self.view = view
        payload = view.payload or b"null"
        self.data = payload
        if _WRAPPED.encode() in payload:
            document = msgspec_json.decode(payload)
            if isinstance(document, dict) and isinstance(document.get(_WRAPPED), str):
                self.data = document[_WRAPPED].encode()


def _wrapped(data: bytes) -> bytes:
    """A payload that loads, whose one step says what it is, and that carries the saved text."""
    return msgspec_json.encode(
        {
            "nodes": [{"id": "saved", "type": "not_a_workflow", "data": {}}],
            "edges": [],
            _WRAPPED: data.decode(),
        }
    )


def _saved_head(view: WorkflowView) -> dict[str, Any]:
    moment = time_rfc3339(datetime.fromtimestamp(view.created_at, UTC))
    head: dict[str, Any] = {"id": view.id, "name": view.name or view.id}
    if view.description:
        head["description"] = view.description
    return {**head, "created_at": moment, "updated_at": moment}


def _no_workflow(workflow_id: str) -> str:
    return f"workflow with ID {workflow_id[:200]} not found"


def _results(view: ExecutionView) -> dict[str, Any]:
    results: dict[str, Any] = {"execution_id": view.id}
    if view.workflow_id:
        results["workflow_id"] = view.workflow_id
    results["node_results"] = {key: _finite(decode(value)) for key, value in view.node_results.items()}
    results["final_output"] = None if view.final_output is None else _finite(decode(view.final_output))
    return results


def _finite(value: Any) -> Any:
    """The value unless JSON cannot write it as it is; then its {"$float": …} form."""
    try:
        json_form(value)
    except ValueError:
        return to_json(value)
    return value


def _now() -> str:
    return time_rfc3339(datetime.now(UTC))


def _json(document: Any, *, status: int = 200) -> Reply:
    return Reply(json_form(document).encode("utf-8", "replace") + b"\n", status=status)


def _failure(status: int, error: str, details: str) -> Reply:
    return _json({"success": False, "error": error, "details": details}, status=status)


def _short_failure(status: int, error: str) -> Reply:
    return _json({"success": False, "error": error}, status=status)


def enveloped(handler: Handler) -> Handler:
    """The handler with every other error (overload, a full disk, a stopping node) in the original's envelope."""

    async def answer(call: Call) -> AnyReply:
        try:
            return await handler(call)
        except ThaiyyalError as error:
            problem = problem_reply(error, call.request.request_id)
            reply = _failure(problem.status, problem_object(error)["title"], error.message)
            reply.headers = header_lines(problem.headers)
            return reply

    return answer
