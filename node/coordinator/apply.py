"""`apply(state, batch)`: the only way that the replicated state changes.

Deterministic: nothing but the arguments is used. Each command has one answer, in order; a command that no longer fits
the state (a fenced report, a cancel of something ended) changes nothing and says so. An exception here is a bug: the
state is then not trusted, and the replica stops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from node.coordinator import commands as c
from node.coordinator.effects import Accepted, Answer, Effects, Ready, Refused, TimerKey, TimerSet, no_effects
from node.coordinator.journal import Entry, Kind
from node.coordinator.program import Program
from node.coordinator.run import Transition
from node.coordinator.state import (
    Attempt,
    AttemptKey,
    Dedupe,
    Definition,
    Execution,
    Scope,
    Stage,
    State,
    Version,
    Workflow,
    scope_at,
)
from workflow.messages import ControlPlan, StepError

_control_decoder: Final = msgspec.msgpack.Decoder(ControlPlan)

DEDUPE_EXPIRED_PER_BATCH_MAX: Final = 256
"""Bounds the time that forgetting old keys adds to one apply; more than one moment can add."""


def apply(state: State, batch: c.Batch) -> Effects:
    """Apply one batch and say what it asks for."""
    if batch.now > state.now:
        state.now = batch.now  # cluster time never goes back
    fx = no_effects()
    transition = Transition(state, fx, state.now, batch.chance)
    _forget_old_keys(state)
    state.keyed.expire(state.now)
    answers = fx.answers
    for command in batch.commands:
        answers.append(_HANDLERS[type(command)](transition, command))
    return fx


def _find(
    t: Transition, execution_id: str, segment: int, path: tuple[int, ...], number: int
) -> tuple[Execution, Program, Scope, Attempt] | None:
    """The attempt, if it is the current one of its segment; counts what is fenced off."""
    x = t.state.executions.get(execution_id)
    if x is not None:
        program = t.state.definitions[x.plan].program
        scope = scope_at(x, program, segment, path)
        if scope is not None:
            attempt = scope.attempts.get(segment)
            if attempt is not None and attempt.number == number:
                _touch(t, x)
                return x, program, scope, attempt
    t.fx.dropped += 1
    return None


def _touch(t: Transition, x: Execution) -> None:
    """Before anything of an execution changes."""
    t.touch(x)


# ---- executions ----------------------------------------------------------------------------------------------


def _start(t: Transition, command: c.Start) -> Answer:
    state = t.state
    definition = state.definitions.get(command.plan)
    if definition is None:
        return Refused("definition_unknown", "the definition is not stored; send it along")
    known = state.executions.get(command.id)
    if known is not None:
        return Accepted(command.id, known, True)
    if command.key is not None:
        earlier = _claim_key(state, command)
        if earlier is not None:
            return earlier
    x = t.accept(
        command.id,
        definition,
        workflow_id=command.workflow_id,
        version=command.workflow_version,
        context=command.context,
        priority=command.priority,
        tags=command.tags,
        tenant=command.tenant,
        timeout_s=command.timeout_s,
    )
    t.begin(x, definition.program)
    return Accepted(x.id, x)


def _claim_key(state: State, command: c.Start) -> Answer:
    """Remember the key, or answer for the start that already has it. None: go on."""
    tenant = command.tenant
    key = (tenant, command.key or "")
    earlier = state.dedupe.get(key)
    if earlier is not None:
        if earlier.digest != command.digest:
            return Refused(
                "idempotency_key_reused",
                f"idempotency key {command.key!r} was used for another request (execution {earlier.execution_id})",
            )
        return Accepted(earlier.execution_id, state.executions.get(earlier.execution_id), True)
    count = state.dedupe_counts.get(tenant, 0)
    if count >= state.limits.dedupe_keys_max:
        return Refused(
            "overloaded",
            f"tenant {tenant!r} has {count} idempotency keys of the last {state.limits.dedupe_keep_s / 3600:g} h",
            limit="dedupe_keys_max",
        )
    state.dedupe[key] = Dedupe(command.id, command.digest, state.now, state.accepted)
    state.dedupe_order.append(key)
    state.changes.dedupe[key] = None
    state.dedupe_counts[tenant] = count + 1
    return None


def _forget_old_keys(state: State) -> None:
    horizon = state.now - state.limits.dedupe_keep_s
    for _ in range(DEDUPE_EXPIRED_PER_BATCH_MAX):
        if not state.dedupe_order or state.dedupe[state.dedupe_order[0]].at > horizon:
            return
        key = state.dedupe_order.popleft()
        del state.dedupe[key]
        state.changes.dedupe[key] = None
        left = state.dedupe_counts[key[0]] - 1
        if left:
            state.dedupe_counts[key[0]] = left
        else:
            del state.dedupe_counts[key[0]]


def _completed(t: Transition, command: c.Completed) -> Answer:
    found = _find(t, command.id, command.segment, command.path, command.attempt)
    if found is None:
        return None
    x, program, scope, attempt = found
    if attempt.stage != Stage.ACTIVE:
        t.fx.dropped += 1
        return None
    if command.heartbeat is not None:
        attempt.heartbeat = command.heartbeat
    t.report(x, program, scope, attempt, command.result)
    return None


def _lost(t: Transition, command: c.Lost) -> Answer:
    found = _find(t, command.id, command.segment, command.path, command.attempt)
    if found is not None and found[3].stage == Stage.ACTIVE:
        error = StepError(command.code, command.reason, None)
        if command.heartbeat is not None:
            found[3].heartbeat = command.heartbeat
        t.lose(*found, error, at_fault=command.at_fault)
    return None


def _withdrawn(t: Transition, command: c.Withdrawn) -> Answer:
    found = _find(t, command.id, command.segment, command.path, command.attempt)
    if found is not None and found[3].stage == Stage.ACTIVE:
        t.withdraw(*found)
    return None


def _timer_fired(t: Transition, command: c.TimerFired) -> Answer:
    if command.segment < 0:
        x = t.state.executions.get(command.id)
        if x is not None and x.deadline and x.deadline <= t.now:
            _touch(t, x)
            t.expire(x, t.state.definitions[x.plan].program)
        return None
    found = _find(t, command.id, command.segment, command.path, command.attempt)
    if found is None:
        return None
    attempt = found[3]
    waiting = attempt.stage not in (Stage.QUEUED, Stage.ACTIVE)
    if waiting and attempt.due and (attempt.wall or attempt.due <= t.now):
        t.fire(*found)
    return None


def _grant(t: Transition, command: c.Grant) -> Answer:
    for key in command.attempts:
        found = _find(t, *key)
        if found is not None and found[3].stage == Stage.QUEUED:
            t.grant(*found)
    return None


def _cancel(t: Transition, command: c.Cancel) -> Answer:
    x = t.state.executions.get(command.id)
    if x is None:
        return Refused("not_found", f"execution {command.id} is not running")
    _touch(t, x)
    if x.ending:
        return x
    x.journal.append(Entry(Kind.CANCELLING, t.now, text=command.reason))
    text = f"cancelled: {command.reason}" if command.reason else "cancelled"
    error = StepError("cancelled", text, None, retryable=False)
    t.end(x, t.state.definitions[x.plan].program, "cancelled", error)
    return x


def _signal(t: Transition, command: c.Signal) -> Answer:
    x = t.state.executions.get(command.id)
    if x is None or x.ending:
        return Refused("conflict", f"execution {command.id} takes no more signals")
    limits = t.state.limits
    if command.key is not None:
        if x.signal_ids is not None and command.key in x.signal_ids:
            return x
        if x.signal_ids is not None and len(x.signal_ids) >= limits.signals_max:
            text = f"execution {x.id} has taken {len(x.signal_ids)} keyed signals"
            return Refused("overloaded", text, limit="signals_max")
    waiting = sum(map(len, x.signals.values())) if x.signals else 0
    held = sum(len(payload) for queue in x.signals.values() for payload in queue) if x.signals else 0
    if waiting >= limits.signals_max:
        return Refused("overloaded", f"execution {x.id} has {waiting} unread signals", limit="signals_max")
    if held + len(command.payload) > limits.signal_bytes_max:
        text = f"execution {x.id} has {held} bytes of unread signals"
        return Refused("overloaded", text, limit="signal_bytes_max")
    if command.key is not None:
        x.signal_ids = x.signal_ids or {}
        x.signal_ids[command.key] = None
    _touch(t, x)
    t.signal(x, t.state.definitions[x.plan].program, command.name, command.payload)
    return x


# ---- definitions and workflows ---------------------------------------------------------------------------------


def _put_definition(t: Transition, command: c.PutDefinition) -> Answer:
    if command.plan not in t.state.definitions:
        plan = _control_decoder.decode(command.control)
        t.state.definitions[command.plan] = Definition(command.payload, plan, Program(plan))
        t.state.changes.definitions[command.plan] = None
    return None


def _drop_definitions(t: Transition, command: c.DropDefinitions) -> Answer:
    for plan in command.plans:
        definition = t.state.definitions.get(plan)
        if definition is not None and definition.references == 0:
            del t.state.definitions[plan]
            t.state.changes.definitions[plan] = None
    return None


def _register_workflow(t: Transition, command: c.RegisterWorkflow) -> Answer:
    state = t.state
    definition = state.definitions.get(command.plan)
    if definition is None:
        return Refused("definition_unknown", "the definition is not stored; send it along")
    workflow = state.workflows.get(command.workflow_id)
    if workflow is None:
        if len(state.workflows) >= state.limits.workflows_max:
            text = f"{len(state.workflows)} workflows are registered"
            return Refused("overloaded", text, limit="workflows_max")
        workflow = state.workflows[command.workflow_id] = Workflow([])
    for version in workflow.versions:
        if version.plan == command.plan:
            return version
    number = workflow.versions[-1].version + 1 if workflow.versions else 1
    version = Version(number, command.plan, command.name, command.description, t.now)
    workflow.versions.append(version)
    state.changes.workflows[command.workflow_id] = None
    definition.references += 1
    return version


def _delete_workflow(t: Transition, command: c.DeleteWorkflow) -> Answer:
    workflow = t.state.workflows.pop(command.workflow_id, None)
    if workflow is None:
        return Refused("not_found", f"no workflow {command.workflow_id!r} is registered")
    t.state.changes.workflows[command.workflow_id] = None
    for version in workflow.versions:
        definition = t.state.definitions[version.plan]
        definition.references -= 1
    return None


def _configure(t: Transition, command: c.Configure) -> Answer:
    t.state.limits = command.limits
    return None


_HANDLERS: Final[dict[type, Callable[[Transition, Any], Answer]]] = {
    c.Start: _start,
    c.Completed: _completed,
    c.Lost: _lost,
    c.Withdrawn: _withdrawn,
    c.TimerFired: _timer_fired,
    c.Grant: _grant,
    c.Cancel: _cancel,
    c.Signal: _signal,
    c.PutDefinition: _put_definition,
    c.DropDefinitions: _drop_definitions,
    c.RegisterWorkflow: _register_workflow,
    c.DeleteWorkflow: _delete_workflow,
    c.Configure: _configure,
}


def outstanding(state: State) -> tuple[list[Ready], list[TimerSet]]:
    """What a new leader takes up: every attempt that is QUEUED or ACTIVE, oldest first, and every timer."""
    ready: list[Ready] = []
    timers: list[TimerSet] = []
    for x in state.executions.values():
        if x.deadline:
            timers.append(TimerSet(TimerKey(x.id, -1, (), 0), x.deadline))
        for scope in (x, *(x.scopes or {}).values()):
            for attempt in scope.attempts.values():
                if attempt.stage in (Stage.QUEUED, Stage.ACTIVE):
                    ready.append(Ready(x, scope, attempt, attempt.number))
                elif attempt.due:
                    key = TimerKey(x.id, attempt.segment, scope.path, attempt.number)
                    timers.append(TimerSet(key, attempt.due, attempt.wall))
    ready.sort(key=lambda item: item.attempt.since)
    return ready, timers


__all__ = ["AttemptKey", "apply", "outstanding"]
