"""A small engine in memory with the face of node.engine.Engine, for tests of the API's own rules.

A step of type `number` gives its value, `text_input` its text, any other type its `data`; a step of type `hold` keeps
the execution running until `finish(execution_id)`. Set `fail_with` to have every call refuse.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from node.engine import (
    TERMINAL,
    ExecutionEvent,
    ExecutionSummary,
    ExecutionView,
    Page,
    StartRequest,
    StepView,
    WorkflowView,
)
from node.errors import Conflict, NotFound, Problem, RequestInvalid, ThaiyyalError
from workflow.codec import encode
from workflow.messages import StepError
from workflow.values import from_json


class MemoryEngine:
    """Owned by one test; nothing is durable."""

    def __init__(self) -> None:
        self.executions: dict[str, ExecutionView] = {}
        self.logs: dict[str, list[ExecutionEvent]] = {}
        self.workflows: dict[str, list[WorkflowView]] = {}
        self.keys: dict[str, str] = {}
        self.requests: list[StartRequest] = []
        self.calls = 0
        self.signals: list[tuple[str, str, bytes, str | None]] = []
        self.fail_with: ThaiyyalError | BaseException | None = None
        self.facts: dict[str, Any] = {"executions_live": 0, "raft": {"term": 3}}
        self._changed = asyncio.Condition()

    def _check(self) -> None:
        if self.fail_with is not None:
            raise self.fail_with

    async def start(
        self, requests: Sequence[StartRequest], *, wait_s: float = 0.0
    ) -> list[ExecutionView | ThaiyyalError]:
        self._check()
        self.calls += 1
        answers: list[ExecutionView | ThaiyyalError] = []
        for request in requests:
            self.requests.append(request)
            try:
                answers.append(self._start_one(request))
            except ThaiyyalError as error:
                answers.append(error)
        if wait_s:
            answers = [
                answer if isinstance(answer, ThaiyyalError) else await self.get(answer.id, wait_s=wait_s)
                for answer in answers
            ]
        return answers

    def _start_one(self, request: StartRequest) -> ExecutionView:
        if request.idempotency_key in self.keys:
            return msgspec.structs.replace(
                self.executions[self.keys[request.idempotency_key or ""]], deduplicated=True
            )
        payload = request.workflow
        if request.workflow_id is not None:
            payload = self._workflow(request.workflow_id, request.version).payload
        try:
            document = json.loads(payload or b"{}")
            nodes = document.get("nodes") or []
            if not isinstance(nodes, list):
                raise ValueError("json: cannot unmarshal number into Go struct field Payload.nodes")
        except (ValueError, AttributeError) as error:
            text = f"failed to parse payload: {error}"
            raise RequestInvalid(text, code="workflow_invalid", problems=[Problem("", text)]) from None
        results = {node["id"]: _result(node) for node in nodes if node.get("type") != "hold"}
        failed = [node for node in nodes if node.get("type") == "explode"]
        held = any(node.get("type") == "hold" for node in nodes)
        now = time.time()
        view = ExecutionView(
            id=request.execution_id,
            workflow_id=request.workflow_id or document.get("workflow_id", ""),
            workflow_version=request.version,
            status="running" if held else "failed" if failed else "completed",
            created_at=now,
            started_at=now,
            finished_at=None if held else now,
            node_results={key: encode(value) for key, value in results.items()},
            final_output=None if held or not results else encode(list(results.values())[-1]),
            error=StepError("step_failed", "error executing node x: boom", "x") if failed else None,
            priority=request.priority,
            tags=request.tags,
            steps_total=len(nodes),
            steps_done=len(results),
            steps=[StepView(id=node["id"], type=node.get("type", ""), status="completed") for node in nodes],
        )
        self.executions[view.id] = view
        self.logs[view.id] = [ExecutionEvent(seq=1, time=now, type="execution_accepted")]
        if not held:
            self.logs[view.id].append(ExecutionEvent(seq=2, time=now, type=f"execution_{view.status}"))
        if request.idempotency_key:
            self.keys[request.idempotency_key] = view.id
        return view

    async def finish(self, execution_id: str, status: str = "completed") -> None:
        """End an execution that a `hold` keeps running."""
        async with self._changed:
            view = self.executions[execution_id]
            self.executions[execution_id] = msgspec.structs.replace(
                view, status=status, finished_at=time.time()
            )
            log = self.logs[execution_id]
            log.append(ExecutionEvent(seq=len(log) + 1, time=time.time(), type=f"execution_{status}"))
            self._changed.notify_all()

    async def get(self, execution_id: str, *, steps: bool = False, wait_s: float = 0.0) -> ExecutionView:
        self._check()
        if execution_id not in self.executions:
            raise NotFound(f"no execution has the id {execution_id!r}")
        if wait_s:
            try:
                async with asyncio.timeout(wait_s), self._changed:
                    await self._changed.wait_for(lambda: self.executions[execution_id].status in TERMINAL)
            except TimeoutError:
                pass
        view = self.executions[execution_id]
        return view if steps else msgspec.structs.replace(view, steps=None)

    async def list(
        self,
        *,
        status: str | None = None,
        workflow: str | None = None,
        tag: tuple[str, str] | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        self._check()
        chosen = [
            view
            for view in sorted(self.executions.values(), key=lambda view: view.id, reverse=True)
            if (status is None or view.status == status)
            and (workflow is None or view.workflow_id == workflow)
            and (tag is None or view.tags.get(tag[0]) == tag[1])
            and (cursor is None or view.id < cursor)
        ]
        items = [
            ExecutionSummary(
                id=view.id,
                workflow_id=view.workflow_id,
                status=view.status,
                created_at=view.created_at,
                started_at=view.started_at,
                finished_at=view.finished_at,
                tags=view.tags,
            )
            for view in chosen[:limit]
        ]
        return Page(items=items, cursor=items[-1].id if len(chosen) > limit else None)

    async def history(self, execution_id: str, *, after: int = 0, limit: int = 1000) -> list[ExecutionEvent]:
        await self.get(execution_id)
        return [event for event in self.logs[execution_id] if event.seq > after][:limit]

    async def events(self, execution_id: str, *, after: int = 0) -> AsyncIterator[ExecutionEvent]:
        position = after
        while True:
            async with self._changed:
                while len(self.logs[execution_id]) <= position and not self._ended(execution_id):
                    await self._changed.wait()
            fresh = self.logs[execution_id][position:]
            for event in fresh:
                yield event
                position = event.seq
            if self._ended(execution_id) and position >= len(self.logs[execution_id]):
                return

    def _ended(self, execution_id: str) -> bool:
        return self.executions[execution_id].status in TERMINAL

    async def cancel(self, execution_id: str, *, reason: str = "") -> ExecutionView:
        view = await self.get(execution_id)
        if view.status in TERMINAL and view.status != "cancelled":
            raise Conflict(f"execution {execution_id} is {view.status} already")
        await self.finish(execution_id, "cancelled")
        return self.executions[execution_id]

    async def signal(
        self, execution_id: str, name: str, payload: bytes, *, key: str | None = None
    ) -> ExecutionView:
        view = await self.get(execution_id)
        if view.status in TERMINAL:
            raise Conflict(f"execution {execution_id} is {view.status} already")
        self.signals.append((execution_id, name, payload, key))
        return view

    async def register_workflow(
        self, *, workflow_id: str, payload: bytes, name: str = "", description: str = ""
    ) -> WorkflowView:
        self._check()
        digest = hashlib.sha256(payload).hexdigest()
        versions = self.workflows.setdefault(workflow_id, [])
        for view in versions:
            if view.hash == digest:
                return view
        view = WorkflowView(
            id=workflow_id,
            version=len(versions) + 1,
            name=name,
            description=description,
            hash=digest,
            created_at=time.time(),
            payload=payload,
        )
        versions.append(view)
        return view

    def _workflow(self, workflow_id: str, version: int | None) -> WorkflowView:
        versions = self.workflows.get(workflow_id)
        if not versions or (version is not None and version > len(versions)):
            raise NotFound(f"no workflow has the id {workflow_id!r}")
        return versions[-1 if version is None else version - 1]

    async def get_workflow(self, workflow_id: str, version: int | None = None) -> WorkflowView:
        self._check()
        return self._workflow(workflow_id, version)

    async def list_workflows(
        self, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[WorkflowView], str | None]:
        self._check()
        ids = sorted(key for key in self.workflows if cursor is None or key > cursor)
        more = ids[limit - 1] if len(ids) > limit else None
        return [self.workflows[key][-1] for key in ids[:limit]], more

    async def delete_workflow(self, workflow_id: str) -> None:
        self._workflow(workflow_id, None)
        del self.workflows[workflow_id]

    def stats(self) -> dict[str, Any]:
        return self.facts


def _result(node: dict[str, Any]) -> Any:
    data = node.get("data") or {}
    match node.get("type"):
        case "number":
            return from_json(data.get("value"))
        case "text_input":
            return data.get("text")
    return from_json(data)
