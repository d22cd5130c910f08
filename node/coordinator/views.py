"""What readers see of an execution. Pure: an execution, its plan, and what the scheduler knows, in; views out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from node.coordinator.journal import Kind, timings_of
from node.coordinator.state import AttemptKey, Definition, Execution, Stage, Version, scopes_of
from node.engine import ExecutionSummary, ExecutionView, Status, StepStatus, StepView, WorkflowView
from workflow.messages import ControlPlan, StepError

IsRunning = Callable[[AttemptKey], bool]


def nobody_runs(key: AttemptKey) -> bool:
    """For executions that have ended, and replicas that do not lead."""
    return False


def status_of(x: Execution, is_running: IsRunning) -> Status:
    """The public status."""
    if x.status:
        return x.status  # type: ignore[return-value]
    if x.ending == "cancelled":
        return "cancelling"
    if x.active == 0 and all(
        a.stage not in (Stage.QUEUED, Stage.ACTIVE) for scope in scopes_of(x) for a in scope.attempts.values()
    ):
        return "waiting"
    if x.started_at:
        return "running"
    for scope in scopes_of(x):
        for attempt in scope.attempts.values():
            if is_running((x.id, attempt.segment, scope.path, attempt.number)):
                return "running"
    return "queued"


def view_of(x: Execution, plan: ControlPlan, is_running: IsRunning, *, steps: bool = False) -> ExecutionView:
    """The whole execution. `final_output` is set once it has completed."""
    names = plan.step_ids
    outputs = x.outputs
    if len(outputs) == 1:
        results = {names[step]: value for step, value in outputs.items()}
    else:
        results = {names[step]: outputs[step] for step in sorted(outputs)}
    final = None
    if x.status == "completed":
        for step in plan.terminals:
            if step in outputs:
                final = outputs[step]
                break
    return ExecutionView(
        id=x.id,
        workflow_id=x.workflow_id,
        workflow_version=x.workflow_version,
        status=status_of(x, is_running),
        created_at=x.created_at,
        started_at=x.started_at or None,
        finished_at=x.finished_at or None,
        node_results=results,
        final_output=final,
        error=x.error,
        priority=x.priority,
        tags=x.tags,
        tenant=x.tenant,
        steps_total=len(names),
        steps_done=len(outputs),
        steps=step_views(x, plan, is_running) if steps else None,
        parent=x.parent.id if x.parent is not None else None,
    )


def summary_of(x: Execution, plan: ControlPlan, is_running: IsRunning) -> ExecutionSummary:
    """A line of a list."""
    return ExecutionSummary(
        id=x.id,
        workflow_id=x.workflow_id,
        status=status_of(x, is_running),
        created_at=x.created_at,
        started_at=x.started_at or None,
        finished_at=x.finished_at or None,
        tags=x.tags,
        error_message=x.error.message if x.error is not None else None,
        steps_total=len(plan.step_ids),
        steps_done=len(x.outputs),
    )


def summary_from_history(row: tuple[Any, ...]) -> ExecutionSummary:
    """A line of a list, from the columns of history.db."""
    _, id, workflow_id, status, created, started, finished, tags, error, total, done = row
    return ExecutionSummary(
        id=id,
        workflow_id=workflow_id,
        status=status,
        created_at=created,
        started_at=started or None,
        finished_at=finished or None,
        tags=json.loads(tags) if tags else {},
        error_message=error,
        steps_total=total,
        steps_done=done,
    )


def workflow_view(
    workflow_id: str, version: Version, definition: Definition, *, payload: bool
) -> WorkflowView:
    """A version of a registered workflow."""
    return WorkflowView(
        id=workflow_id,
        version=version.version,
        name=version.name,
        description=version.description,
        hash=version.plan.hex(),
        created_at=version.created_at,
        payload=definition.payload if payload else None,
        steps_total=len(definition.plan.step_ids),
    )


class _Step:
    """A step under one path while its view is put together."""

    __slots__ = ("attempt", "error", "finished_at", "started_at", "status", "waits_for")

    def __init__(self) -> None:
        self.status: StepStatus = "pending"
        self.attempt = 0
        self.started_at: float | None = None
        self.finished_at: float | None = None
        self.error: StepError | None = None
        self.waits_for: str | None = None


def step_views(x: Execution, plan: ControlPlan, is_running: IsRunning) -> list[StepView]:
    """Every step of the root, and those of loop bodies that have been reached, in plan order, then by path."""
    found: dict[tuple[int, tuple[int, ...]], _Step] = {}
    for segment in plan.segments:
        if segment.scope == 0:
            for step in segment.steps:
                found[(step, ())] = _Step()
    _read_journal(x, plan, found)
    _read_attempts(x, plan, is_running, found)
    if x.status:
        for state in found.values():
            if state.status in ("queued", "running", "waiting"):
                state.status = "cancelled"
    return [
        StepView(
            id=plan.step_ids[step],
            type=plan.step_types[step],
            status=state.status,
            path=path,
            attempt=state.attempt,
            started_at=state.started_at,
            finished_at=state.finished_at,
            error=state.error,
            waits_for=state.waits_for,
        )
        for (step, path), state in sorted(found.items(), key=lambda item: item[0])
    ]


def _read_journal(x: Execution, plan: ControlPlan, found: dict[tuple[int, tuple[int, ...]], _Step]) -> None:
    for entry in x.journal:
        if entry.segment < 0:
            continue
        steps = plan.segments[entry.segment].steps
        timings = timings_of(entry)
        for step in steps:
            state = found.setdefault((step, entry.path), _Step())
            if step in timings and entry.kind in (Kind.DONE, Kind.FAILED):
                start, duration = timings[step]
                state.status = "completed"
                state.attempt = entry.attempt
                state.started_at = entry.at - entry.number + start / 1e6
                state.finished_at = state.started_at + duration / 1e6
                state.waits_for = None
            elif entry.kind in (Kind.SKIPPED, Kind.DONE):
                state.status = "skipped"
            elif entry.kind == Kind.STOPPED and state.status == "pending":
                state.status = "cancelled"
        if entry.kind in (Kind.ATTEMPT_FAILED, Kind.FAILED) and entry.error is not None:
            blamed = _blamed(plan, steps, entry.error)
            state = found.setdefault((blamed, entry.path), _Step())
            state.attempt = entry.attempt
            state.error = entry.error
            if entry.kind == Kind.FAILED:
                state.status = "outcome_unknown" if entry.error.code == "outcome_unknown" else "failed"
                state.finished_at = entry.at


def _blamed(plan: ControlPlan, steps: tuple[int, ...], error: StepError) -> int:
    return next((step for step in steps if plan.step_ids[step] == error.node), steps[-1])


def _read_attempts(
    x: Execution, plan: ControlPlan, is_running: IsRunning, found: dict[tuple[int, tuple[int, ...]], _Step]
) -> None:
    for scope in scopes_of(x):
        for attempt in scope.attempts.values():
            step = plan.segments[attempt.segment].steps[0]
            state = found.setdefault((step, scope.path), _Step())
            state.attempt = attempt.failures + 1
            state.waits_for = None
            if attempt.stage in (Stage.ACTIVE, Stage.QUEUED):
                running = is_running((x.id, attempt.segment, scope.path, attempt.number))
                state.status = "running" if running else "queued"
                continue
            state.status = "waiting"
            state.waits_for = {
                Stage.TIMER: "timer",
                Stage.SIGNAL: f"signal {attempt.name}",
                Stage.BACKOFF: "retry",
                Stage.LOOP: "loop",
                Stage.CHILD: f"child {attempt.name}",
            }[Stage(attempt.stage)]
