"""/v1/executions: start, read, wait, list, follow and cancel.

`start_one` is the hot path: the workflow stays raw bytes, starts of one loop turn that do not wait share a
call of the engine (batching.py), and the answer is spliced from finished pieces (render.py).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any, Final, get_args

from msgspec import UNSET
from msgspec import json as msgspec_json

from node.api.batching import StartBatcher
from node.api.bodies import (
    BatchBody,
    BatchItem,
    BodyReader,
    CancelBody,
    StartBody,
    check_depth,
    read_json_object,
    wait_s_max,
)
from node.api.counters import RequestCounters
from node.api.ids import new_execution_id
from node.api.problems import ApiError, problem_object
from node.api.render import event_object, execution_json, page_json, summary_object
from node.api.replies import AnyReply, Reply, StreamReply
from node.api.server import ApiSettings, Call, query_flag, query_float, query_int
from node.engine import TERMINAL, Engine, ExecutionEvent, ExecutionView, StartRequest, Status
from node.errors import NotFound, Overloaded, Problem, ThaiyyalError
from workflow.codec import CodecError, encode
from workflow.values import from_json

# One page of a list or of a history; more is asked for with a cursor.
list_limit_max: Final = 500
history_limit_max: Final = 10_000
idempotency_key_chars_max: Final = 200

_HEADER_KEY: Final = re.compile(f"[!-~]{{1,{idempotency_key_chars_max}}}", re.ASCII)
_START: Final = BodyReader(StartBody)
_BATCH: Final = BodyReader(BatchBody)
_CANCEL: Final = BodyReader(CancelBody)
_STATUSES: Final = get_args(Status)


class ExecutionRoutes:
    """The handlers; they hold no state of their own."""

    def __init__(
        self, engine: Engine, settings: ApiSettings, batcher: StartBatcher, counters: RequestCounters
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._batcher = batcher
        self._counters = counters

    # --- starting --------------------------------------------------------------------------------------------

    async def start_one(self, call: Call) -> AnyReply:
        """202 when the start is durable; 200 with the result when it ended within `wait_s`."""
        body = await call.body()
        if body.count(b"[") + body.count(b"{") > self._settings.json_depth_max:
            await check_depth(body, self._settings.json_depth_max)
        fields: StartBody = _START.decode(body)
        key = _idempotency_key(call, fields.idempotency_key)
        request = start_request(fields, key, place="")
        if fields.wait_s:
            # A shared call would answer all of its clients when the slowest execution has ended.
            [answer] = await self._engine.start([request], wait_s=fields.wait_s)
            if isinstance(answer, ThaiyyalError):
                raise answer
            view = answer
        else:
            view = await self._batcher.submit(request)
        return Reply(
            execution_json(view),
            status=200 if view.status in TERMINAL else 202,
            headers=b"Location: /v1/executions/%b\r\n" % view.id.encode(),
        )

    async def start_batch(self, call: Call) -> AnyReply:
        """Answers in order: an execution, or the problem of this one start. The batch is no transaction."""
        body = await call.body()
        await check_depth(body, self._settings.json_depth_max)
        fields: BatchBody = _BATCH.decode(body)
        batch_key = _idempotency_key(call, None)
        answers: list[ExecutionView | ThaiyyalError | None] = []
        requests: list[StartRequest] = []
        for position, item in enumerate(fields.executions):
            key = item.idempotency_key or (f"{batch_key}/{position}" if batch_key else None)
            try:
                requests.append(start_request(item, key, place=f"executions[{position}]."))
                answers.append(None)
            except ThaiyyalError as error:
                answers.append(error)
        started = iter(await self._engine.start(requests, wait_s=fields.wait_s) if requests else [])
        parts = [_batch_entry(next(started) if answer is None else answer) for answer in answers]
        return Reply(b'{"executions":[' + b",".join(parts) + b"]}\n")

    # --- reading ---------------------------------------------------------------------------------------------

    async def get(self, call: Call) -> AnyReply:
        """The execution; with `?wait_s=` its state at its end or at the end of the wait."""
        query = call.query("steps", "wait_s")
        wait_s = query_float(query, "wait_s", low=0, high=wait_s_max)
        view = await self._engine.get(_execution_id(call), steps=query_flag(query, "steps"), wait_s=wait_s)
        return Reply(execution_json(view))

    async def list(self, call: Call) -> AnyReply:
        """Newest first."""
        query = call.query("status", "workflow", "tag", "limit", "cursor")
        status = query.get("status")
        if status is not None and status not in _STATUSES:
            raise ApiError(
                "invalid_query",
                f"query parameter status: {status[:50]!r} is not a status; there are {', '.join(_STATUSES)}",
                problems=[Problem(path="?status", message="is not a status", code="invalid_query")],
            )
        page = await self._engine.list(
            status=status,
            workflow=query.get("workflow"),
            tag=_tag(query.get("tag")),
            limit=query_int(query, "limit", default=50, low=1, high=list_limit_max),
            cursor=query.get("cursor"),
        )
        return Reply(page_json("executions", [summary_object(item) for item in page.items], page.cursor))

    async def history(self, call: Call) -> AnyReply:
        """The events so far, oldest first; `next_after` continues where this page ends."""
        query = call.query("after", "limit")
        after = query_int(query, "after", default=0, low=0, high=2**53)
        limit = query_int(query, "limit", default=1000, low=1, high=history_limit_max)
        events = await self._engine.history(_execution_id(call), after=after, limit=limit)
        more = events[-1].seq if len(events) == limit else None
        document = {"events": [event_object(event) for event in events], "next_after": more}
        return Reply(msgspec_json.encode(document) + b"\n")

    async def events(self, call: Call) -> AnyReply:
        """Server-sent events from the beginning or after Last-Event-ID; ends with the terminal event.

        204 when nothing will come any more, which also tells a browser to stop reconnecting.
        """
        execution_id = _execution_id(call)
        after = _last_event_id(call)
        view = await self._engine.get(execution_id)
        if view.status in TERMINAL and not await self._engine.history(execution_id, after=after, limit=1):
            return Reply(b"", status=204, content_type="")
        if self._counters.streams >= self._settings.streams_max:
            raise Overloaded(
                f"{self._settings.streams_max} event streams are open (limit: streams_max)",
                limit="streams_max",
                retry_after_s=5.0,
            )
        return StreamReply(
            self._stream(execution_id, after, call.server.stopping),
            content_type="text/event-stream",
            stall_timeout_s=self._settings.stall_timeout_s,
        )

    async def _stream(self, execution_id: str, after: int, stopping: asyncio.Event) -> AsyncIterator[bytes]:
        source = aiter(self._engine.events(execution_id, after=after))
        following: asyncio.Future[ExecutionEvent] | None = None
        node_stops: asyncio.Future[Any] = asyncio.ensure_future(stopping.wait())
        self._counters.streams += 1
        try:
            yield b"retry: 1000\n\n"
            while not node_stops.done():
                if following is None:
                    following = asyncio.ensure_future(anext(source))
                waits: set[asyncio.Future[Any]] = {following, node_stops}
                await asyncio.wait(
                    waits,
                    timeout=self._settings.heartbeat_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not following.done():
                    yield b": still here\n\n"
                    continue
                done, following = following, None
                try:
                    event = done.result()
                except StopAsyncIteration:
                    return
                except ThaiyyalError as error:
                    yield b"event: problem\ndata: %b\n\n" % msgspec_json.encode(problem_object(error))
                    return
                data = msgspec_json.encode(event_object(event))
                yield b"id: %d\nevent: %b\ndata: %b\n\n" % (event.seq, event.type.encode(), data)
        finally:
            self._counters.streams -= 1
            node_stops.cancel()
            if following is not None:
                following.cancel()
                await asyncio.wait({following})
            if hasattr(source, "aclose"):
                await source.aclose()

    # --- stopping --------------------------------------------------------------------------------------------

    async def cancel(self, call: Call) -> AnyReply:
        """Answers when `cancelling` is durable: 202, or 200 when the execution has ended already."""
        body = await call.body() if call.request.body_exists else b""
        fields = _CANCEL.decode(body) if body.strip() else CancelBody()
        view = await self._engine.cancel(_execution_id(call), reason=fields.reason)
        return Reply(execution_json(view), status=200 if view.status in TERMINAL else 202)


def start_request(fields: StartBody | BatchItem, key: str | None, *, place: str) -> StartRequest:
    """The engine's request for a body. Raises ApiError for what the struct's types do not say."""
    workflow = b"" if fields.workflow is UNSET else bytes(fields.workflow)
    if bool(workflow) == (fields.workflow_id is not None):
        raise _bad_choice(place, both=bool(workflow))
    if fields.version is not None and fields.workflow_id is None:
        message = "goes with `workflow_id` only: an inline workflow has no versions"
        raise _invalid(f"{place}version", message)
    return StartRequest(
        execution_id=new_execution_id(),
        workflow=workflow or None,
        workflow_id=fields.workflow_id,
        version=fields.version,
        inputs=None if fields.inputs is UNSET else _encoded_inputs(bytes(fields.inputs), f"{place}inputs"),
        priority=fields.priority,
        tags=fields.tags,
        idempotency_key=key,
    )


def _bad_choice(place: str, *, both: bool) -> ApiError:
    where = place.rstrip(".")
    message = (
        "`workflow` and `workflow_id` are both given; send one of them"
        if both
        else "give either `workflow` (a payload) or `workflow_id` (a registered one)"
    )
    return ApiError(
        "invalid_value" if both else "missing_field",
        f"{where}: {message}" if where else f"the body: {message}",
        problems=[Problem(path=where or "workflow", message=message)],
    )


def _invalid(path: str, message: str) -> ApiError:
    return ApiError("invalid_value", f"{path}: {message}", problems=[Problem(path=path, message=message)])


def _encoded_inputs(raw: bytes, place: str) -> bytes | None:
    if raw in (b"null", b"{}"):
        return None
    try:
        return encode(from_json(read_json_object(raw, place)))
    except (CodecError, OverflowError) as error:
        raise _invalid(place, str(error)) from None


def _batch_entry(answer: ExecutionView | ThaiyyalError) -> bytes:
    if isinstance(answer, ThaiyyalError):
        return b'{"problem":' + msgspec_json.encode(problem_object(answer)) + b"}"
    return execution_json(answer).rstrip()


def _idempotency_key(call: Call, in_body: str | None) -> str | None:
    in_header = call.request.headers.get("Idempotency-Key")
    if in_header is None:
        return in_body
    if not _HEADER_KEY.fullmatch(in_header):
        raise _invalid(
            "Idempotency-Key", f"must be 1 to {idempotency_key_chars_max} visible ASCII characters"
        )
    if in_body is not None and in_body != in_header:
        raise _invalid("idempotency_key", "differs from the header Idempotency-Key; send one of them")
    return in_header


def _execution_id(call: Call) -> str:
    execution_id = call.parameters["id"]
    if not 0 < len(execution_id) <= 100 or not execution_id.isascii():
        raise NotFound(f"no execution has the id {execution_id[:100]!r}")
    return execution_id


def _tag(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    name, colon, value = text.partition(":")
    if not colon or not name:
        raise ApiError(
            "invalid_query",
            "query parameter tag: must be name:value",
            problems=[Problem(path="?tag", message="must be name:value")],
        )
    return name, value


def _last_event_id(call: Call) -> int:
    query: dict[str, Any] = call.query("after")
    header = call.request.headers.get("Last-Event-ID")
    if header is not None and "after" not in query:
        query["after"] = header.strip()
    return query_int(query, "after", default=0, low=0, high=2**53)
