"""A client of a Thaiyyal cluster: async (`Client`) and blocking (`SyncClient`), with the same methods.

    async with Client("http://127.0.0.1:7410") as client:
        execution = await client.run({"nodes": […], "edges": […]}, inputs={"amount": 3})
        print(execution.final_output)

What it takes care of:

- Several addresses: a call that cannot reach one goes to the next, and stays there.
- Repeats: definite errors (429, 503 …) and lost connections are repeated with exponential backoff and full jitter,
  never sooner than Retry-After says. Each start carries an idempotency key, made once, so a repeat never doubles.
- Errors are `ApiError` (the node said no; `.code` is stable) or `Unreachable` (nobody answered).
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import secrets
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote

import aiohttp

DEFAULT_ADDRESS: Final = "http://127.0.0.1:7410"
Status = Literal[
    "queued", "running", "waiting", "paused", "cancelling", "completed", "failed", "cancelled", "terminated"
]
TERMINAL: Final = frozenset({"completed", "failed", "cancelled", "terminated"})
# One request waits at most so long for an execution; longer waits are several requests.
_wait_slice_s: Final = 30.0
# Answers beyond this are not read: a result of the engine has at most 64 MiB.
_answer_bytes_max: Final = 256 * 1024 * 1024
# A line of an event stream; one event carries ids and texts, no results.
_event_bytes_max: Final = 4 * 1024 * 1024

T = TypeVar("T")


# --- errors -----------------------------------------------------------------------------------------------


class ClientError(Exception):
    """Base of what the client raises."""


class Unreachable(ClientError):
    """No address answered. For a start: it may have been accepted; repeat it with the same idempotency key."""


class ApiError(ClientError):
    """The node refused. `code` is stable; `what_to_do` says what to do; `problems` name places."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.code: str = str(problem.get("code", "unknown"))
        self.title: str = str(problem.get("title", f"HTTP {status}"))
        self.detail: str = str(problem.get("detail", ""))
        self.what_to_do: str = str(problem.get("what_to_do", ""))
        self.problems: list[Mapping[str, Any]] = list(problem.get("problems", ()))
        self.request_id: str = str(problem.get("request_id", ""))
        self.retry_after_s: float | None = problem.get("retry_after_s")
        super().__init__(f"{self.code}: {self.detail or self.title}")


class ExecutionFailed(ClientError):
    """`run` ended in another way than `completed`; `execution` has the details."""

    def __init__(self, execution: Execution) -> None:
        error = execution.error
        super().__init__(error.message if error else f"execution {execution.id} was {execution.status}")
        self.execution = execution


class WaitTimeout(ClientError):
    """The execution has not ended within the time to wait; it goes on. `execution` is its last state."""

    def __init__(self, execution: Execution, timeout_s: float) -> None:
        super().__init__(f"execution {execution.id} is {execution.status} after {timeout_s:g} s; it goes on")
        self.execution = execution


# --- results ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExecutionError:
    """Why an execution failed; `node` is the id of the step."""

    code: str
    message: str
    node: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """State of one step."""

    id: str
    type: str
    status: str
    path: tuple[int, ...] = ()
    attempt: int = 0
    started_at: str | None = None
    finished_at: str | None = None
    error: ExecutionError | None = None
    waits_for: str | None = None


@dataclass(frozen=True, slots=True)
class Execution:
    """One run of a workflow. `raw` is the object as the API sent it."""

    id: str
    workflow_id: str
    workflow_version: int | None
    status: Status
    node_results: Mapping[str, Any]
    final_output: Any
    error: ExecutionError | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    priority: int
    tags: Mapping[str, str]
    steps_total: int
    steps_done: int
    steps: tuple[Step, ...] | None = None
    deduplicated: bool = False
    parent: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_terminal(self) -> bool:
        """Whether it has ended."""
        return self.status in TERMINAL


@dataclass(frozen=True, slots=True)
class ExecutionSummary:
    """A line of a list."""

    id: str
    workflow_id: str
    status: Status
    created_at: str
    started_at: str | None
    finished_at: str | None
    tags: Mapping[str, str]
    error_message: str | None
    steps_total: int
    steps_done: int


@dataclass(frozen=True, slots=True)
class Page:
    """Newest first; `cursor` continues, None at the end."""

    executions: tuple[ExecutionSummary, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Event:
    """One line of an execution's history; `seq` counts from 1."""

    seq: int
    time: str
    type: str
    step: str | None = None
    path: tuple[int, ...] = ()
    attempt: int | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Workflow:
    """A registered workflow; `payload` only when one was asked for."""

    id: str
    version: int
    name: str
    description: str
    hash: str
    created_at: str
    steps_total: int
    payload: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One start of a batch."""

    workflow: Mapping[str, Any] | str | bytes | None = None
    workflow_id: str | None = None
    version: int | None = None
    inputs: Mapping[str, Any] | None = None
    priority: int | None = None
    tags: Mapping[str, str] | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """When the client repeats a call. Repeats end at whichever bound comes first."""

    attempts_max: int = 8  # with these delays some 20 s, which outlasts an election and a restart
    delay_first_s: float = 0.1
    delay_max_s: float = 5.0
    total_max_s: float = 60.0
    connect_timeout_s: float = 3.0  # a node that is up answers a connection at once
    answer_timeout_s: float = 30.0  # beyond the time that the call itself waits


# --- the async client -------------------------------------------------------------------------------------


class Client:
    """Owns a connection pool; use it as `async with`, or call `close()`."""

    def __init__(
        self, addresses: str | Sequence[str] = DEFAULT_ADDRESS, *, retry: RetrySettings | None = None
    ) -> None:
        given = [addresses] if isinstance(addresses, str) else list(addresses)
        self._addresses = [normal_address(address) for address in given]
        if not self._addresses:
            raise ValueError("give at least one address")
        self._retry = retry or RetrySettings()
        self._session: aiohttp.ClientSession | None = None
        self._current = 0

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    # --- executions

    async def start(
        self,
        workflow: Mapping[str, Any] | str | bytes | None = None,
        *,
        workflow_id: str | None = None,
        version: int | None = None,
        inputs: Mapping[str, Any] | None = None,
        priority: int | None = None,
        tags: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        wait_s: float = 0.0,
    ) -> Execution:
        """Start an execution of a payload (object or JSON text) or of a registered workflow.

        Durable when it returns. With `wait_s` it returns at the end of the execution or of the wait.
        """
        one = Start(
            workflow=workflow,
            workflow_id=workflow_id,
            version=version,
            inputs=inputs,
            priority=priority,
            tags=tags,
            idempotency_key=idempotency_key or new_idempotency_key(),
        )
        body = _start_body(one)
        if wait_s:
            body["wait_s"] = min(wait_s, _wait_slice_s)
        answer = await self._call("POST", "/v1/executions", body=body, answer_s=wait_s)
        return _execution(answer)

    async def run(
        self,
        workflow: Mapping[str, Any] | str | bytes | None = None,
        *,
        timeout_s: float | None = None,
        **options: Any,
    ) -> Execution:
        """`start`, then `wait`. Raises ExecutionFailed unless it completed, WaitTimeout after `timeout_s`."""
        first_wait = _wait_slice_s if timeout_s is None else min(timeout_s, _wait_slice_s)
        began = time.monotonic()
        execution = await self.start(workflow, wait_s=first_wait, **options)
        if not execution.is_terminal:
            left = None if timeout_s is None else timeout_s - (time.monotonic() - began)
            execution = await self.wait(execution.id, timeout_s=left)
        if execution.status != "completed":
            raise ExecutionFailed(execution)
        return execution

    async def get(self, execution_id: str, *, steps: bool = False, wait_s: float = 0.0) -> Execution:
        """The execution now; with `wait_s` at its end or at the end of the wait."""
        query = {"steps": "1"} if steps else {}
        if wait_s > 0:
            query["wait_s"] = f"{min(wait_s, 300.0):.3f}"
        path = f"/v1/executions/{_segment(execution_id)}"
        return _execution(await self._call("GET", path, query=query, answer_s=wait_s))

    async def wait(self, execution_id: str, *, timeout_s: float | None = None) -> Execution:
        """The ended execution, whatever its end. Raises WaitTimeout."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = _wait_slice_s if deadline is None else min(_wait_slice_s, deadline - time.monotonic())
            execution = await self.get(execution_id, wait_s=max(0.0, left))
            if execution.is_terminal:
                return execution
            if deadline is not None and time.monotonic() >= deadline:
                raise WaitTimeout(execution, timeout_s or 0.0)

    async def list(
        self,
        *,
        status: str | None = None,
        workflow: str | None = None,
        tag: tuple[str, str] | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """A page of executions, newest first."""
        query = {"limit": str(limit)}
        for name, value in (("status", status), ("workflow", workflow), ("cursor", cursor)):
            if value is not None:
                query[name] = value
        if tag is not None:
            query["tag"] = f"{tag[0]}:{tag[1]}"
        answer = await self._call("GET", "/v1/executions", query=query)
        return Page(tuple(_known(ExecutionSummary, item) for item in answer["executions"]), answer["cursor"])

    async def cancel(self, execution_id: str, *, reason: str = "") -> Execution:
        """Returns when the cancellation is durable; the execution may still be `cancelling`."""
        path = f"/v1/executions/{_segment(execution_id)}/cancel"
        return _execution(await self._call("POST", path, body={"reason": reason}))

    async def signal(
        self, execution_id: str, name: str, payload: Any = None, *, key: str | None = None
    ) -> Execution:
        """Hand a value to the step that waits for this signal, now or later. Durable when it returns.

        Under one `key` an execution takes a signal once; without one each call has a key of its own, so that repeating
        it after a lost connection does no harm.
        """
        path = f"/v1/executions/{_segment(execution_id)}/signals/{_segment(name)}"
        body = {"payload": payload, "key": key or new_idempotency_key()}
        return _execution(await self._call("POST", path, body=body))

    async def history(self, execution_id: str, *, after: int = 0) -> tuple[Event, ...]:
        """Everything that has happened so far."""
        events: list[Event] = []
        position: int | None = after
        while position is not None:
            path = f"/v1/executions/{_segment(execution_id)}/history"
            answer = await self._call("GET", path, query={"after": str(position)})
            events += [_event(item) for item in answer["events"]]
            position = answer["next_after"]
        return tuple(events)

    async def events(self, execution_id: str, *, after: int = 0) -> AsyncIterator[Event]:
        """Events as they happen, to the end of the execution; goes on by itself after a lost connection."""
        failures = 0
        while True:
            try:
                async for event in self._stream(execution_id, after):
                    failures = 0
                    after = event.seq
                    yield event
                    if event.type in _LAST_EVENTS:
                        return
                if (await self.get(execution_id)).is_terminal:
                    rest = await self.history(execution_id, after=after)
                    for event in rest:
                        yield event
                    return
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                failures += 1
                if failures >= self._retry.attempts_max:
                    raise Unreachable(self._nobody(error)) from error
                self._current += 1
            await asyncio.sleep(retry_delay_s(failures, self._retry, random.random()))

    async def batch(self, starts: Sequence[Start], *, wait_s: float = 0.0) -> Sequence[Execution | ApiError]:
        """Start many at once; one answer per start, in order. The batch is no transaction."""
        bodies = [_start_body(one, key=new_idempotency_key()) for one in starts]
        answer = await self._call(
            "POST", "/v1/executions:batch", body={"executions": bodies, "wait_s": wait_s}, answer_s=wait_s
        )
        return [
            ApiError(item["problem"]["status"], item["problem"]) if "problem" in item else _execution(item)
            for item in answer["executions"]
        ]

    # --- workflows and the node

    async def register_workflow(
        self,
        workflow: Mapping[str, Any] | str | bytes,
        *,
        workflow_id: str | None = None,
        name: str = "",
        description: str = "",
    ) -> Workflow:
        """Register a payload; equal content gives the version that it has already."""
        body: dict[str, Any] = {"workflow": _payload(workflow), "name": name, "description": description}
        if workflow_id is not None:
            body["id"] = workflow_id
        return _workflow(await self._call("POST", "/v1/workflows", body=body))

    async def get_workflow(self, workflow_id: str, *, version: int | None = None) -> Workflow:
        """A registered workflow with its payload, the newest version by default."""
        query = {} if version is None else {"version": str(version)}
        return _workflow(await self._call("GET", f"/v1/workflows/{_segment(workflow_id)}", query=query))

    async def list_workflows(
        self, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[tuple[Workflow, ...], str | None]:
        """The newest version of each, and a cursor that continues."""
        query = {"limit": str(limit)} | ({} if cursor is None else {"cursor": cursor})
        answer = await self._call("GET", "/v1/workflows", query=query)
        return tuple(_workflow(item) for item in answer["workflows"]), answer["cursor"]

    async def validate(self, workflow: Mapping[str, Any] | str | bytes) -> Mapping[str, Any]:
        """`{"valid", "error", "problems": [{"path", "message", "code"}], "steps_total"}`."""
        answer = await self._call("POST", "/v1/workflows:validate", body={"workflow": _payload(workflow)})
        return _mapping(answer)

    async def status(self) -> Mapping[str, Any]:
        """The node that answers, at this moment."""
        return _mapping(await self._call("GET", "/v1/status"))

    # --- one call

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        answer_s: float = 0.0,
    ) -> Any:
        """One call, repeated as the module's docstring says. Every call is safe to repeat: reads are, starts carry
        a key, and registering, cancelling and validating the same thing twice changes nothing more.
        """
        data = None if body is None else json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        deadline = time.monotonic() + self._retry.total_max_s + answer_s
        failures = 0
        while True:
            try:
                return await self._attempt(method, path, query or {}, data, answer_s)
            except _Repeatable as repeatable:
                failures += 1
                delay = retry_delay_s(failures, self._retry, random.random())
                delay = max(delay, repeatable.retry_after_s)
                if failures >= self._retry.attempts_max or time.monotonic() + delay > deadline:
                    raise repeatable.error from repeatable.__cause__
                if repeatable.change_address:
                    self._current += 1
                    if failures < len(self._addresses):
                        continue  # the others have not been asked yet
            await asyncio.sleep(delay)

    async def _attempt(
        self, method: str, path: str, query: Mapping[str, str], data: bytes | None, answer_s: float
    ) -> Any:
        address = self._addresses[self._current % len(self._addresses)]
        timeout = aiohttp.ClientTimeout(
            total=self._retry.answer_timeout_s + answer_s, sock_connect=self._retry.connect_timeout_s
        )
        headers = {"Content-Type": "application/json"} if data is not None else {}
        try:
            stream = None if data is None else io.BytesIO(data)  # a big body goes out in pieces
            async with self._open().request(
                method, address + path, params=query, data=stream, headers=headers, timeout=timeout
            ) as response:
                content = await _content(response)
                if response.status < 400:
                    return json.loads(content) if content else None
                error = ApiError(response.status, _problem(content, response.status))
                if response.status in (429, 503):
                    wait = error.retry_after_s or _seconds(response.headers.get("Retry-After"))
                    raise _Repeatable(error, wait, change_address=response.status == 503)
                raise error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as cause:
            raise _Repeatable(Unreachable(self._nobody(cause)), 0.0, change_address=True) from cause

    async def _stream(self, execution_id: str, after: int) -> AsyncIterator[Event]:
        address = self._addresses[self._current % len(self._addresses)]
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._retry.connect_timeout_s, sock_read=60.0
        )
        path = f"/v1/executions/{_segment(execution_id)}/events"
        async with self._open().get(
            address + path,
            params={"after": str(after)},
            headers={"Accept": "text/event-stream"},
            timeout=timeout,
        ) as response:
            if response.status == 503:
                raise aiohttp.ClientConnectionError("the node is starting or stopping")
            if response.status >= 400:
                content = await _content(response)
                raise ApiError(response.status, _problem(content, response.status))
            kind = data = ""
            async for line in _lines(response.content):
                if line.startswith("event: "):
                    kind = line[7:]
                elif line.startswith("data: "):
                    data += line[6:]
                elif not line and data:
                    if kind == "problem":
                        raise aiohttp.ClientConnectionError(data)
                    yield _event(json.loads(data))
                    kind = data = ""

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=256))
        return self._session

    def _nobody(self, cause: BaseException) -> str:
        where = " and ".join(self._addresses)
        return f"no node answers at {where}: {_reason(cause)}"


class _Repeatable(Exception):
    def __init__(self, error: ClientError, retry_after_s: float, *, change_address: bool) -> None:
        super().__init__()
        self.error = error
        self.retry_after_s = retry_after_s
        self.change_address = change_address


_LAST_EVENTS = frozenset(f"execution_{status}" for status in TERMINAL)


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[str]:
    """Lines without their end, each at most `_event_bytes_max`."""
    rest = b""
    async for chunk in content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode().rstrip("\r")
        if len(rest) > _event_bytes_max:
            raise aiohttp.ClientPayloadError(f"an event has more than {_event_bytes_max} bytes")


async def _content(response: aiohttp.ClientResponse) -> bytes:
    if (response.content_length or 0) > _answer_bytes_max:
        raise aiohttp.ClientPayloadError(f"the answer has more than {_answer_bytes_max} bytes")
    return await response.read()


def retry_delay_s(failures: int, settings: RetrySettings, chance: float) -> float:
    """Full jitter: a random part of first * 2^(failures - 1), capped. `chance` is from 0 to 1."""
    ceiling: float = settings.delay_first_s * 2.0 ** min(max(failures, 1) - 1, 30)
    return min(settings.delay_max_s, ceiling) * chance


def new_idempotency_key() -> str:
    """A random key; two starts never share one."""
    return f"py-{secrets.token_hex(16)}"


def normal_address(address: str) -> str:
    """`host`, `host:port` or a URL as `http://host:port`. Raises ValueError for anything else."""
    text = address.strip()
    scheme, _, rest = text.partition("://") if "://" in text else ("http", "", text)
    rest = rest.removesuffix("/")
    host, _, port = rest.rpartition(":") if rest.count(":") == 1 or "]:" in rest else (rest, "", "")
    if scheme not in ("http", "https") or not host or "/" in rest or (port and not port.isdigit()):
        raise ValueError(f"{address!r} is no address of a node; give host:port, for example 127.0.0.1:7410")
    return f"{scheme}://{host}:{port or 7410}"


def _start_body(one: Start, *, key: str | None = None) -> dict[str, Any]:
    if (one.workflow is None) == (one.workflow_id is None):
        raise ValueError("give either a workflow (its payload) or a workflow_id (a registered one)")
    body: dict[str, Any] = {"idempotency_key": one.idempotency_key or key}
    if one.workflow is not None:
        body["workflow"] = _payload(one.workflow)
    else:
        body["workflow_id"] = one.workflow_id
    for name in ("version", "inputs", "priority", "tags"):
        value = getattr(one, name)
        if value is not None:
            body[name] = value
    return body


def _payload(workflow: Mapping[str, Any] | str | bytes) -> Any:
    return json.loads(workflow) if isinstance(workflow, str | bytes) else workflow


def _segment(text: str) -> str:
    return quote(text, safe="")


def _problem(content: bytes, status: int) -> Mapping[str, Any]:
    try:
        document = json.loads(content)
    except ValueError:
        return {"detail": content[:300].decode("utf-8", "replace") or f"HTTP {status}"}
    return document if isinstance(document, dict) else {"detail": str(document)[:300]}


def _seconds(header: str | None) -> float:
    return float(header) if header is not None and header.isdigit() else 0.0


def _mapping(answer: Any) -> Mapping[str, Any]:
    return answer if isinstance(answer, dict) else {}


def _known(kind: type[T], item: Mapping[str, Any]) -> T:
    """The dataclass from an object; fields of a newer server are left out."""
    names = kind.__dataclass_fields__  # type: ignore[attr-defined]
    return kind(**{name: value for name, value in item.items() if name in names})


def _error(item: Mapping[str, Any] | None) -> ExecutionError | None:
    return None if item is None else _known(ExecutionError, item)


def _execution(item: Mapping[str, Any]) -> Execution:
    steps = item.get("steps")
    changed = {
        **item,
        "error": _error(item.get("error")),
        "steps": None if steps is None else tuple(_step(step) for step in steps),
        "raw": item,
    }
    return _known(Execution, changed)


def _step(item: Mapping[str, Any]) -> Step:
    return _known(Step, {**item, "path": tuple(item.get("path", ())), "error": _error(item.get("error"))})


def _event(item: Mapping[str, Any]) -> Event:
    return _known(Event, {**item, "path": tuple(item.get("path", ()))})


def _workflow(item: Mapping[str, Any]) -> Workflow:
    return _known(Workflow, {**item, "payload": item.get("workflow")})


# --- the blocking face ------------------------------------------------------------------------------------


class SyncClient:
    """The same client for programs without asyncio. Usable from several threads; use it as `with`, or `close()`.

    It runs an event loop in a thread of its own; every method blocks until its answer is there.
    """

    def __init__(
        self, addresses: str | Sequence[str] = DEFAULT_ADDRESS, *, retry: RetrySettings | None = None
    ) -> None:
        self._client = Client(addresses, retry=retry)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="thaiyyal-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> SyncClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and end the thread."""
        if self._loop.is_closed():
            return
        self._wait(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others)
        await self._client.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def start(self, workflow: Mapping[str, Any] | str | bytes | None = None, **options: Any) -> Execution:
        """See Client.start."""
        return self._wait(self._client.start(workflow, **options))

    def run(self, workflow: Mapping[str, Any] | str | bytes | None = None, **options: Any) -> Execution:
        """See Client.run."""
        return self._wait(self._client.run(workflow, **options))

    def get(self, execution_id: str, *, steps: bool = False, wait_s: float = 0.0) -> Execution:
        """See Client.get."""
        return self._wait(self._client.get(execution_id, steps=steps, wait_s=wait_s))

    def wait(self, execution_id: str, *, timeout_s: float | None = None) -> Execution:
        """See Client.wait."""
        return self._wait(self._client.wait(execution_id, timeout_s=timeout_s))

    def list(self, **filters: Any) -> Page:
        """See Client.list."""
        return self._wait(self._client.list(**filters))

    def cancel(self, execution_id: str, *, reason: str = "") -> Execution:
        """See Client.cancel."""
        return self._wait(self._client.cancel(execution_id, reason=reason))

    def signal(
        self, execution_id: str, name: str, payload: Any = None, *, key: str | None = None
    ) -> Execution:
        """See Client.signal."""
        return self._wait(self._client.signal(execution_id, name, payload, key=key))

    def history(self, execution_id: str, *, after: int = 0) -> tuple[Event, ...]:
        """See Client.history."""
        return self._wait(self._client.history(execution_id, after=after))

    def events(self, execution_id: str, *, after: int = 0) -> Iterator[Event]:
        """See Client.events."""
        queue: SimpleQueue[Event | BaseException | None] = SimpleQueue()

        async def feed() -> None:
            try:
                async for event in self._client.events(execution_id, after=after):
                    queue.put(event)
            except BaseException as error:
                queue.put(error)
                raise
            queue.put(None)

        feeding = asyncio.run_coroutine_threadsafe(feed(), self._loop)
        try:
            while (item := queue.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            if not self._loop.is_closed():
                feeding.cancel()

    def batch(self, starts: Sequence[Start], *, wait_s: float = 0.0) -> Sequence[Execution | ApiError]:
        """See Client.batch."""
        return self._wait(self._client.batch(starts, wait_s=wait_s))

    def register_workflow(self, workflow: Mapping[str, Any] | str | bytes, **options: Any) -> Workflow:
        """See Client.register_workflow."""
        return self._wait(self._client.register_workflow(workflow, **options))

    def get_workflow(self, workflow_id: str, *, version: int | None = None) -> Workflow:
        """See Client.get_workflow."""
        return self._wait(self._client.get_workflow(workflow_id, version=version))

    def list_workflows(self, **filters: Any) -> tuple[tuple[Workflow, ...], str | None]:
        """See Client.list_workflows."""
        return self._wait(self._client.list_workflows(**filters))

    def validate(self, workflow: Mapping[str, Any] | str | bytes) -> Mapping[str, Any]:
        """See Client.validate."""
        return self._wait(self._client.validate(workflow))

    def status(self) -> Mapping[str, Any]:
        """See Client.status."""
        return self._wait(self._client.status())


def _reason(cause: BaseException) -> str:
    """Why there was no answer, in the system's own words where it has some: `connection refused`."""
    if isinstance(cause, TimeoutError):
        return "no answer in time"
    underneath = cause.os_error if isinstance(cause, aiohttp.ClientConnectorError) else cause
    if isinstance(underneath, OSError) and underneath.errno is not None and underneath.errno > 0:
        return os.strerror(underneath.errno).lower()
    return str(underneath) or type(underneath).__name__
