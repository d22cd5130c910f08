"""The face of the engine: what the API, the CLI's in-process mode and the peer use of the coordinator.

Values (`inputs`, step results, final outputs) are encoded with `workflow.codec` and stay opaque here; JSON
exists only at the API's edge. All times are Unix seconds of cluster time (DESIGN §4, Time).
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal, Protocol

from msgspec import Struct

from node.errors import ThaiyyalError
from workflow.messages import StepError

Status = Literal[
    "queued", "running", "waiting", "paused", "cancelling", "completed", "failed", "cancelled", "terminated"
]
TERMINAL: frozenset[str] = frozenset({"completed", "failed", "cancelled", "terminated"})

StepStatus = Literal[
    "pending",
    "queued",
    "running",
    "waiting",
    "completed",
    "failed",
    "skipped",
    "cancelled",
    "outcome_unknown",
]


class StartRequest(Struct, frozen=True, kw_only=True):
    """One execution to be started. Exactly one of `workflow` (raw JSON payload) and `workflow_id` is set."""

    execution_id: str
    workflow: bytes | None = None
    workflow_id: str | None = None
    version: int | None = None
    inputs: bytes | None = None
    priority: int = 5
    tags: dict[str, str] = {}
    idempotency_key: str | None = None
    tenant: str = "default"


class StepView(Struct, frozen=True, kw_only=True):
    """State of one step of an execution; `path` is its loop path, () outside loops."""

    id: str
    type: str
    status: StepStatus
    path: tuple[int, ...] = ()
    attempt: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    error: StepError | None = None
    waits_for: str | None = None


class ExecutionView(Struct, frozen=True, kw_only=True):
    """An execution as a reader sees it at one applied index."""

    id: str
    workflow_id: str
    workflow_version: int | None
    status: Status
    created_at: float
    started_at: float | None
    finished_at: float | None
    node_results: dict[str, bytes]
    final_output: bytes | None
    error: StepError | None
    priority: int = 5
    tags: dict[str, str] = {}
    tenant: str = "default"
    steps_total: int = 0
    steps_done: int = 0
    steps: list[StepView] | None = None
    deduplicated: bool = False
    parent: str | None = None  # the execution whose sub_workflow step started this one


class ExecutionSummary(Struct, frozen=True, kw_only=True):
    """A line of a list."""

    id: str
    workflow_id: str
    status: Status
    created_at: float
    started_at: float | None
    finished_at: float | None
    tags: dict[str, str] = {}
    error_message: str | None = None
    steps_total: int = 0
    steps_done: int = 0


class Page(Struct, frozen=True, kw_only=True):
    """Newest first; `cursor` continues after the last item, None at the end."""

    items: list[ExecutionSummary]
    cursor: str | None


class ExecutionEvent(Struct, frozen=True, kw_only=True):
    """One line of an execution's history. `seq` counts from 1 without gaps; `type` is stable:

    execution_accepted, execution_started, step_scheduled, step_started, step_completed, step_failed, step_skipped,
    step_waiting, attempt_failed, execution_cancelling, execution_completed, execution_failed, execution_cancelled,
    execution_terminated, signal_received, timer_fired.
    """

    seq: int
    time: float
    type: str
    step: str | None = None
    path: tuple[int, ...] = ()
    attempt: int | None = None
    detail: dict[str, Any] = {}


class WorkflowView(Struct, frozen=True, kw_only=True):
    """A registered definition; versions count from 1, equal content gives the same version again."""

    id: str
    version: int
    name: str
    description: str
    hash: str
    created_at: float
    payload: bytes | None = None
    steps_total: int = 0


class Engine(Protocol):
    """What a node offers to its API. Every method may raise `ThaiyyalError`."""

    async def start(
        self, requests: Sequence[StartRequest], *, wait_s: float = 0.0
    ) -> list[ExecutionView | ThaiyyalError]:
        """Accept executions: an answer means that the start is durable. One answer per request, in order.

        With `wait_s` the views are those at the end of the executions, or at the end of the wait.
        """
        ...

    async def get(self, execution_id: str, *, steps: bool = False, wait_s: float = 0.0) -> ExecutionView: ...

    async def list(
        self,
        *,
        status: str | None = None,
        workflow: str | None = None,
        tag: tuple[str, str] | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page: ...

    async def history(
        self, execution_id: str, *, after: int = 0, limit: int = 1000
    ) -> builtins.list[ExecutionEvent]: ...

    def events(self, execution_id: str, *, after: int = 0) -> AsyncIterator[ExecutionEvent]:
        """Events with `seq > after`, then live ones; ends after the execution's terminal event."""
        ...

    async def cancel(self, execution_id: str, *, reason: str = "") -> ExecutionView:
        """Returns when `cancelling` (or a terminal state) is durable."""
        ...

    async def signal(
        self, execution_id: str, name: str, payload: bytes, *, key: str | None = None
    ) -> ExecutionView:
        """Hand an encoded value to the step that waits for `name`; durable when it returns, kept until a step waits.

        A repetition under the same key changes nothing. NotFound, Conflict when it has ended or is ending, Overloaded.
        """
        ...

    async def register_workflow(
        self, *, workflow_id: str, payload: bytes, name: str = "", description: str = ""
    ) -> WorkflowView: ...

    async def get_workflow(self, workflow_id: str, version: int | None = None) -> WorkflowView: ...

    async def list_workflows(
        self, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[builtins.list[WorkflowView], str | None]: ...

    async def delete_workflow(self, workflow_id: str) -> None: ...

    def stats(self) -> dict[str, Any]:
        """Counts and gauges for `/readyz`, `/v1/status` and the metrics; cheap, no I/O."""
        ...
