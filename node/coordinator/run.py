"""The run rule: what becomes of an execution when an attempt ends, a wait is over, a step fails.

A segment is *resolved* when it is done or skipped. It is looked at when the sources of all its edges are resolved: no
flow edge in, or a live one -> it runs; else it is skipped, and so are those that only it could have activated.
Level 1 is a chain of segments and needs no rule of its own. Loop bodies are scopes under a loop path; nesting is free.

Nothing here reads a clock or draws a number: `Transition` carries both, from the command.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from typing import Any, Final

from node.coordinator.effects import Effects, Finished, Ready, TimerKey, TimerSet
from node.coordinator.journal import Entry, Kind, encode_timings
from node.coordinator.keyed import KeyedFull
from node.coordinator.program import Program
from node.coordinator.state import (
    LIVE,
    PHASE_MASK,
    Attempt,
    Definition,
    Execution,
    Loop,
    Parent,
    Phase,
    Scope,
    Stage,
    State,
    Version,
    parent_scope,
    scope_at,
    scopes_of,
)
from workflow import codec
from workflow.durations import format_duration
from workflow.level2.control import error_value
from workflow.messages import RetryPolicy, SegmentPlan, SegmentResult, Spawn, StepError, Wait

NIL: Final = b"\xc0"
_RECEIVED: Final = b"\x81\xa7payload"  # {"payload": …}: a signal's null payload is not the end of its wait
_FOUND: Final = b"\x82\xa5found\xc3\xa5value"
_NOT_FOUND: Final = b"\x82\xa5found\xc2\xa5value\xc0"
_FINAL_OUTPUT: Final = b"\xacfinal_output"
_KEYED_WAITS: Final = frozenset({"cache_get", "cache_set", "cache_delete", "rate"})
_GOLDEN: Final = 0.6180339887498949
_WAIT_MAX_S: Final = 1e11  # some 3,000 years: any wait that is meant


def retry_delay_s(policy: RetryPolicy, failures: int, chance: float) -> float:
    """Wait before the attempt that follows failure number `failures` (from 1); `chance` is in [0, 1).

    Exponential, capped, and `jitter` of it random: 1.0 is full jitter, from 0 to the whole delay.
    """
    if policy.backoff == "linear":
        ceiling = min(policy.max_interval_s, policy.initial_interval_s * failures)
    else:
        exponent = min(failures - 1, 64)  # beyond, the cap has long decided
        ceiling = min(policy.max_interval_s, policy.initial_interval_s * policy.multiplier**exponent)
    return ceiling * (1.0 - policy.jitter) + ceiling * policy.jitter * chance


def array_of(encoded: list[bytes]) -> bytes:
    """A msgpack array of values that are encoded already."""
    count = len(encoded)
    if count < 16:
        header = bytes((0x90 | count,))
    elif count < 1 << 16:
        header = b"\xdc" + count.to_bytes(2, "big")
    else:
        header = b"\xdd" + count.to_bytes(4, "big")
    return header + b"".join(encoded)


def may_retry(policy: RetryPolicy, error: StepError) -> bool:
    """Whether the policy lets another attempt follow this error, if any are left."""
    if not error.retryable or error.code in policy.non_retryable or error.type in policy.non_retryable:
        return False
    return not policy.retry_on or any(part in error.code or part in error.message for part in policy.retry_on)


class Transition:
    """One batch being applied: the moment, its chance, and the effects collected so far."""

    __slots__ = ("_chance", "_draws", "fx", "now", "state")

    def __init__(self, state: State, fx: Effects, now: float, chance: float) -> None:
        self.state = state
        self.fx = fx
        self.now = now
        self._chance = chance
        self._draws = 0

    def touch(self, x: Execution) -> None:
        """Call before anything of an execution changes."""
        self.state.changing(x)
        self.fx.touched.append(x)

    # ---- opening ---------------------------------------------------------------------------------------------

    def accept(
        self,
        id: str,
        definition: Definition,
        *,
        workflow_id: str,
        version: int | None,
        context: bytes | None,
        priority: int,
        tags: dict[str, str],
        tenant: str,
        timeout_s: float,
        parent: Parent | None = None,
        depth: int = 0,
    ) -> Execution:
        """A new execution. It does nothing before `begin`."""
        state = self.state
        definition.references += 1
        state.accepted += 1
        size = definition.program.scope_size[0]
        x = Execution(
            body=0,
            path=(),
            phases=bytearray(size),
            unresolved=size,
            joins={},
            outputs={},
            attempts={},
            item=None,
            id=id,
            number=state.accepted,
            plan=definition.plan.hash,
            workflow_id=workflow_id,
            workflow_version=version,
            created_at=self.now,
            context=context,
            priority=priority,
            tags=tags,
            tenant=tenant,
            journal=[Entry(Kind.ACCEPTED, self.now, text=parent.id if parent is not None else None)],
            timeout_s=timeout_s,
            parent=parent,
            depth=depth,
        )
        state.executions[x.id] = x
        state.changes.executions[x.number] = x
        if context is not None:
            self.hold(x, len(context))
        if timeout_s > 0:
            x.deadline = self.now + timeout_s
            self.fx.timers.append(TimerSet(TimerKey(x.id, -1, (), 0), x.deadline))
        return x

    def begin(self, x: Execution, program: Program) -> None:
        """Open the root scope of an accepted execution."""
        if x.unresolved == 0:
            self.finish(x, "completed")
            return
        for segment in program.roots[0]:
            self._open(x, program, x, segment)

    def _open(self, x: Execution, program: Program, scope: Scope, segment: int) -> None:
        local = program.local[segment]
        scope.phases[local] = (scope.phases[local] & ~PHASE_MASK) | Phase.OPEN
        attempt = Attempt(segment)
        scope.attempts[segment] = attempt
        x.journal.append(Entry(Kind.SCHEDULED, self.now, segment, scope.path, 1))
        self._make_ready(x, program, scope, attempt)

    def _make_ready(self, x: Execution, program: Program, scope: Scope, attempt: Attempt) -> None:
        """The attempt may be handed out. For a write this *is* the record that it may have run."""
        attempt.since = self.now
        if program.writes[attempt.segment]:
            queue = program.queues[attempt.segment]
            granted = self.state.granted.get(queue, 0)
            if granted >= self.state.limits.write_window or queue in self.state.queued:
                attempt.stage = Stage.QUEUED
                x.parked += 1
                self.state.queued[queue] = self.state.queued.get(queue, 0) + 1
                self.fx.ready.append(Ready(x, scope, attempt, attempt.number))
                return
            self.state.granted[queue] = granted + 1
        attempt.stage = Stage.ACTIVE
        x.active += 1
        self.fx.ready.append(Ready(x, scope, attempt, attempt.number))

    def _make_ready_again(self, x: Execution, program: Program, scope: Scope, attempt: Attempt) -> None:
        attempt.number += 1
        self._make_ready(x, program, scope, attempt)

    def grant(self, x: Execution, program: Program, scope: Scope, attempt: Attempt) -> None:
        """A write above the window may be dispatched now."""
        queue = program.queues[attempt.segment]
        x.parked -= 1
        _count_down(self.state.queued, queue)
        x.active += 1
        self.state.granted[queue] = self.state.granted.get(queue, 0) + 1
        attempt.stage = Stage.ACTIVE
        self.fx.ready.append(Ready(x, scope, attempt, attempt.number))

    # ---- leaving a stage --------------------------------------------------------------------------------------

    def _leave_active(self, x: Execution, program: Program, attempt: Attempt) -> None:
        x.active -= 1
        if program.writes[attempt.segment]:
            _count_down(self.state.granted, program.queues[attempt.segment])

    def _park(self, x: Execution, scope: Scope, attempt: Attempt, stage: Stage) -> None:
        attempt.stage = stage
        attempt.since = self.now
        x.parked += 1
        if attempt.due:
            key = TimerKey(x.id, attempt.segment, scope.path, attempt.number)
            self.fx.timers.append(TimerSet(key, attempt.due, attempt.wall))

    def _unpark(self, x: Execution, scope: Scope, attempt: Attempt, *, fired: bool) -> None:
        x.parked -= 1
        if attempt.due:
            if not fired:
                key = TimerKey(x.id, attempt.segment, scope.path, attempt.number)
                self.fx.timers_cleared.append(TimerSet(key, attempt.due, attempt.wall))
            attempt.due = 0.0
            attempt.wall = False
        attempt.name = None

    def _close(self, program: Program, scope: Scope, segment: int, phase: Phase) -> None:
        del scope.attempts[segment]
        local = program.local[segment]
        scope.phases[local] = (scope.phases[local] & ~PHASE_MASK) | phase
        scope.unresolved -= 1

    def hold(self, x: Execution, size: int) -> None:
        """Count bytes of values that the execution now holds (negative: no longer holds)."""
        x.held += size
        self.state.held += size

    # ---- reports ---------------------------------------------------------------------------------------------

    def report(
        self, x: Execution, program: Program, scope: Scope, attempt: Attempt, result: SegmentResult
    ) -> None:
        """The active attempt has a result."""
        problem = _problem(program, attempt, result)
        if problem is not None:
            error = StepError(
                "result_invalid", problem, self._last_step(program, attempt.segment), retryable=False
            )
            result = SegmentResult({}, (), None, {}, error)
        self._leave_active(x, program, attempt)
        self._keep(x, scope, result)
        if not x.started_at:
            x.started_at = max(x.created_at, self.now - _duration_s(result))
        if x.ending or self._doomed(x, program, scope):
            self._report_late(x, program, scope, attempt, result)
        elif result.error is not None:
            self.fail_attempt(x, program, scope, attempt, result.error, result)
        elif result.wait is not None:
            self._wait(x, program, scope, attempt, result.wait)
        elif result.spawn is not None:
            self._spawn(x, program, scope, attempt, result.spawn)
        else:
            self._done(x, program, scope, attempt, result)

    def _keep(self, x: Execution, scope: Scope, result: SegmentResult) -> None:
        size = 0
        for step, output in result.outputs.items():
            size += len(output) - len(scope.outputs.get(step, b""))
        scope.outputs.update(result.outputs)
        if result.state is not None:
            size += len(result.state) - len(x.shared or b"")
            x.shared = result.state
        self.hold(x, size)

    def _report_late(
        self, x: Execution, program: Program, scope: Scope, attempt: Attempt, result: SegmentResult
    ) -> None:
        """It ran while its execution, or its loop body, was already ending: what finished is kept, nothing follows."""
        finished = result.error is None and result.wait is None and result.spawn is None
        kind = Kind.DONE if finished else Kind.STOPPED
        self._record_end(x, scope, attempt, result, kind)
        self._close(program, scope, attempt.segment, Phase.DONE if finished else Phase.FAILED)
        self.hold(x, -len(attempt.resume or b""))
        self.settle(x, program, scope)

    def _record_end(
        self, x: Execution, scope: Scope, attempt: Attempt, result: SegmentResult, kind: Kind
    ) -> None:
        timings = encode_timings(result.timings) if result.timings else None
        x.journal.append(
            Entry(
                kind,
                self.now,
                attempt.segment,
                scope.path,
                attempt.failures + 1,
                timings,
                result.error,
                None,
                _duration_s(result),
            )
        )

    def _done(
        self, x: Execution, program: Program, scope: Scope, attempt: Attempt, result: SegmentResult
    ) -> None:
        self._record_end(x, scope, attempt, result, Kind.DONE)
        if attempt.resume is not None:
            self.hold(x, -len(attempt.resume))
        segment = attempt.segment
        self._close(program, scope, segment, Phase.DONE)
        if program.edges_out[segment]:
            self._resolved(x, program, scope, segment, result.live, by_default=True)
        if len(x.journal) > self.state.limits.journal_max:
            self._overgrown(x, program)
        elif scope.unresolved == 0:
            self._scope_done(x, program, scope)

    def _resolved(
        self,
        x: Execution,
        program: Program,
        scope: Scope,
        segment: int,
        live: Collection[int],
        *,
        by_default: bool,
    ) -> None:
        """Look at everything that this segment's resolution decides; skipping cascades without recursion.

        Edges in `live` are live; with `by_default` those too that need no condition.
        """
        runs: list[int] = []
        stack: list[tuple[int, Collection[int], bool]] = [(segment, live, by_default)]
        phases = scope.phases
        while stack:
            source, live_out, default = stack.pop()
            for edge in program.edges_out[source]:
                target = edge.target
                local = program.local[target]
                if edge.flow and ((default and edge.live_by_default) or edge.number in live_out):
                    phases[local] |= LIVE
                degree = program.in_degree[target]
                if degree > 1:
                    left = scope.joins.get(target, degree) - 1
                    if left:
                        scope.joins[target] = left
                        continue
                    del scope.joins[target]
                if phases[local] & LIVE or not program.flow_in[target]:
                    runs.append(target)
                    continue
                phases[local] = Phase.SKIPPED
                scope.unresolved -= 1
                x.journal.append(Entry(Kind.SKIPPED, self.now, target, scope.path))
                stack.append((target, (), False))
        runs.sort()
        for target in runs:
            self._open(x, program, scope, target)

    def _scope_done(self, x: Execution, program: Program, scope: Scope) -> None:
        if scope.body == 0:
            self.finish(x, "completed")
            return
        result = program.body_result(scope.body, scope.outputs)
        self._body_ended(x, program, scope, NIL if result is None else result, None)

    def _overgrown(self, x: Execution, program: Program) -> None:
        text = (
            f"execution history is too long: over {self.state.limits.journal_max} entries (limit journal_max)"
        )
        self.end(x, program, "failed", StepError("history_too_long", text, None, retryable=False))

    # ---- waits -----------------------------------------------------------------------------------------------

    def _wait(self, x: Execution, program: Program, scope: Scope, attempt: Attempt, wait: Wait) -> None:
        self._drop_resume(x, attempt)
        attempt.number += 1  # a second report of the attempt that asked for the wait is stale
        text = wait.kind if wait.name is None else f"{wait.kind} {wait.name}"
        self._start_clock(program, attempt)
        if wait.kind in _KEYED_WAITS:
            if not self._ask_keyed(x, program, scope, attempt, wait):
                return
        elif wait.kind == "child":
            if not self._start_child(x, program, scope, attempt, wait):
                return
            text = f"child {attempt.name}"
        elif wait.kind == "signal":
            name = wait.name or ""
            payload = self._take_signal(x, name)
            if payload is not None:
                self._resume(x, program, scope, attempt, _RECEIVED + payload)
                return
            attempt.name = name
            attempt.due = self.now + wait.duration_s if wait.duration_s is not None else 0.0
            self._park_at_most(x, scope, attempt, Stage.SIGNAL)
        elif wait.kind == "until":
            attempt.due = max(wait.until or 0.0, 1e-9)
            attempt.wall = True
            self._park_at_most(x, scope, attempt, Stage.TIMER)
        else:
            attempt.due = self.now + max(wait.duration_s or 0.0, 0.0)
            self._park_at_most(x, scope, attempt, Stage.TIMER)
        x.journal.append(
            Entry(Kind.WAITING, self.now, attempt.segment, scope.path, text=text, number=attempt.due)
        )

    def _start_clock(self, program: Program, attempt: Attempt) -> None:
        """A step that waits is bounded by its timeout_s from its first wait on."""
        timeout_s = program.timeouts[attempt.segment]
        if timeout_s is not None and not attempt.expires:
            attempt.expires = self.now + timeout_s

    def _park_at_most(self, x: Execution, scope: Scope, attempt: Attempt, stage: Stage) -> None:
        """Park, but not beyond the time that the step has."""
        if attempt.expires and not (attempt.due and attempt.due < attempt.expires):
            attempt.due = attempt.expires
            attempt.wall = False
        self._park(x, scope, attempt, stage)

    def _ask_keyed(self, x: Execution, program: Program, scope: Scope, attempt: Attempt, wait: Wait) -> bool:
        """Answer from what executions share by key. True: the attempt is parked until its slot comes."""
        keyed, limits = self.state.keyed, self.state.limits.keyed
        key = (x.tenant, wait.name or "")
        value = NIL
        try:
            if wait.kind == "rate":
                count, window_s = _rate_of(wait)
                slot = keyed.reserve(key, count, window_s, self.now, limits)
                if slot > self.now:
                    attempt.due = slot
                    self._park_at_most(x, scope, attempt, Stage.TIMER)
                    return True
            elif wait.kind == "cache_set":
                keyed.set(key, wait.data or NIL, wait.duration_s or 0.0, self.now, limits)
                value = _found(wait.data or NIL)
            elif wait.kind == "cache_get":
                value = _found(keyed.get(key, self.now))
            else:
                value = _found(NIL if keyed.delete(key, self.now) else None)
        except KeyedFull as error:
            self._refuse_wait(x, program, scope, attempt, wait, "limit_exceeded", str(error), retryable=True)
            return False
        except (codec.CodecError, ValueError) as error:
            self._refuse_wait(x, program, scope, attempt, wait, "result_invalid", f"{wait.kind}: {error}")
            return False
        self._resume(x, program, scope, attempt, value)
        return False

    def _refuse_wait(
        self,
        x: Execution,
        program: Program,
        scope: Scope,
        attempt: Attempt,
        wait: Wait,
        code: str,
        text: str,
        *,
        retryable: bool = False,
    ) -> None:
        error = StepError(code, text, program.plan.step_ids[wait.step], retryable)
        self.fail_attempt(x, program, scope, attempt, error, None)

    # ---- other executions ------------------------------------------------------------------------------------

    def _start_child(
        self, x: Execution, program: Program, scope: Scope, attempt: Attempt, wait: Wait
    ) -> bool:
        """Start the execution that a step asks for, and park the step until it has ended. False: refused."""
        state = self.state
        limits = state.limits
        try:
            request = _child_request(wait)
        except (codec.CodecError, ValueError) as error:
            self._refuse_wait(x, program, scope, attempt, wait, "result_invalid", f"child: {error}")
            return False
        workflow_id, number, context, on_cancel = request
        version = self._version(workflow_id, number)
        if isinstance(version, str):
            self._refuse_wait(x, program, scope, attempt, wait, "workflow_not_found", version)
            return False
        if x.depth >= limits.nesting_max:
            text = f"sub-workflows are nested deeper than {limits.nesting_max} (limit nesting_max)"
            self._refuse_wait(x, program, scope, attempt, wait, "limit_exceeded", text)
            return False
        if len(state.executions) >= limits.executions_max:
            text = f"{len(state.executions)} executions are live (limit executions_max)"
            self._refuse_wait(x, program, scope, attempt, wait, "limit_exceeded", text, retryable=True)
            return False
        child_id = _child_id(x.id, attempt.segment, scope.path, attempt.number, self.now)
        if child_id in state.executions:
            text = f"execution {child_id} exists already"
            self._refuse_wait(x, program, scope, attempt, wait, "conflict", text, retryable=True)
            return False
        definition = state.definitions[version.plan]
        child = self.accept(
            child_id,
            definition,
            workflow_id=workflow_id,
            version=version.version,
            context=context,
            priority=x.priority,
            tags={},
            tenant=x.tenant,
            timeout_s=definition.plan.max_execution_time_s or 0.0,
            parent=Parent(x.id, attempt.segment, scope.path, attempt.number, on_cancel),
            depth=x.depth + 1,
        )
        attempt.name = child_id
        attempt.due = 0.0
        self._park_at_most(x, scope, attempt, Stage.CHILD)
        self.begin(child, definition.program)
        return attempt.stage == Stage.CHILD

    def _version(self, workflow_id: str, number: int | None) -> Version | str:
        """The version of a registered workflow, None for the newest; or why there is none."""
        workflow = self.state.workflows.get(workflow_id)
        if workflow is None:
            return f"no workflow {workflow_id!r} is registered"
        if number is None:
            return workflow.versions[-1]
        for version in workflow.versions:
            if version.version == number:
                return version
        return f"workflow {workflow_id!r} has no version {number}"

    def _tell_parent(self, child: Execution, parent: Parent, definition: Definition) -> None:
        """A child has ended: the step that started it goes on with its outcome, if it still waits."""
        x = self.state.executions.get(parent.id)
        if x is None:
            return
        program = self.state.definitions[x.plan].program
        scope = scope_at(x, program, parent.segment, parent.path)
        attempt = scope.attempts.get(parent.segment) if scope is not None else None
        if scope is None or attempt is None or attempt.stage != Stage.CHILD or attempt.name != child.id:
            return
        self.touch(x)
        self._unpark(x, scope, attempt, fired=False)
        self._resume(x, program, scope, attempt, _outcome(child, definition))

    def _leave_child(self, child_id: str) -> None:
        """Nobody waits for this execution any more: it ends too, unless it was started to go on alone."""
        child = self.state.executions.get(child_id)
        if child is None or child.ending or child.parent is None or child.parent.on_cancel != "cancel":
            return
        self.touch(child)
        text = f"cancelled: execution {child.parent.id}, which started it, waits for it no more"
        child.journal.append(Entry(Kind.CANCELLING, self.now, text=text.removeprefix("cancelled: ")))
        program = self.state.definitions[child.plan].program
        self.end(child, program, "cancelled", StepError("cancelled", text, None, retryable=False))

    def fire(self, x: Execution, program: Program, scope: Scope, attempt: Attempt) -> None:
        """The attempt's timer is due."""
        stage = attempt.stage
        if stage != Stage.BACKOFF and attempt.expires and attempt.due >= attempt.expires and not attempt.wall:
            self._time_out(x, program, scope, attempt)
            return
        self._unpark(x, scope, attempt, fired=True)
        if stage == Stage.BACKOFF:
            x.journal.append(
                Entry(Kind.SCHEDULED, self.now, attempt.segment, scope.path, attempt.failures + 1)
            )
            self._make_ready(x, program, scope, attempt)
            return
        x.journal.append(Entry(Kind.FIRED, self.now, attempt.segment, scope.path))
        self._resume(x, program, scope, attempt, NIL)

    def _time_out(self, x: Execution, program: Program, scope: Scope, attempt: Attempt) -> None:
        """A step that waits has used up its timeout_s."""
        node = self._last_step(program, attempt.segment)
        limit = format_duration(round((program.timeouts[attempt.segment] or 0.0) * 1e9))
        error = StepError("timeout", f"the step did not end within {limit}", node)
        if attempt.loop is not None:
            attempt.due = 0.0
            self._end_loop(x, program, scope, attempt, attempt.loop, error)
            return
        child_id = attempt.name if attempt.stage == Stage.CHILD else None
        self._unpark(x, scope, attempt, fired=True)
        self.fail_attempt(x, program, scope, attempt, error, None)
        if child_id is not None:
            self._leave_child(child_id)

    def _resume(self, x: Execution, program: Program, scope: Scope, attempt: Attempt, value: bytes) -> None:
        attempt.resume = value
        self.hold(x, len(value))
        self._make_ready(x, program, scope, attempt)

    def _drop_resume(self, x: Execution, attempt: Attempt) -> None:
        if attempt.resume is not None:
            self.hold(x, -len(attempt.resume))
            attempt.resume = None

    def _take_signal(self, x: Execution, name: str) -> bytes | None:
        queue = x.signals.get(name) if x.signals else None
        if not queue or x.signals is None:
            return None
        payload = queue.pop(0)
        if not queue:
            del x.signals[name]
        self.hold(x, -len(payload))
        return payload

    def signal(self, x: Execution, program: Program, name: str, payload: bytes) -> None:
        """Hand the payload to the first attempt that waits for `name`, or keep it."""
        x.journal.append(Entry(Kind.SIGNALLED, self.now, text=name))
        for scope in scopes_of(x):
            for attempt in scope.attempts.values():
                if attempt.stage == Stage.SIGNAL and attempt.name == name:
                    self._unpark(x, scope, attempt, fired=False)
                    self._resume(x, program, scope, attempt, _RECEIVED + payload)
                    return
        if x.signals is None:
            x.signals = {}
        x.signals.setdefault(name, []).append(payload)
        self.hold(x, len(payload))

    # ---- loops -----------------------------------------------------------------------------------------------

    def _spawn(self, x: Execution, program: Program, scope: Scope, attempt: Attempt, spawn: Spawn) -> None:
        count = len(spawn.items)
        if count > self.state.limits.loop_items_max:
            text = f"loop has {count} items (limit loop_items_max: {self.state.limits.loop_items_max})"
            node = program.plan.step_ids[spawn.step]
            error = StepError("too_many_items", text, node, retryable=False)
            self._fail_for_good(x, program, scope, attempt, error, None)
            return
        self._drop_resume(x, attempt)
        attempt.number += 1
        attempt.stage = Stage.LOOP
        attempt.since = self.now
        attempt.loop = Loop(
            items=spawn.items,
            results=[b""] * count,
            started=0,
            running=0,
            done=0,
            failed=0,
            max_concurrency=max(spawn.max_concurrency, 1),
            tolerated_failures=spawn.tolerated_failures,
            carry=spawn.carry,
        )
        self._start_clock(program, attempt)
        if attempt.expires:
            attempt.due = attempt.expires
            key = TimerKey(x.id, attempt.segment, scope.path, attempt.number)
            self.fx.timers.append(TimerSet(key, attempt.due))
        self.hold(x, sum(map(len, spawn.items)) + len(spawn.carry or b""))
        x.journal.append(Entry(Kind.LOOP, self.now, attempt.segment, scope.path, number=float(count)))
        self._advance_loop(x, program, scope, attempt, attempt.loop)

    def _advance_loop(
        self, x: Execution, program: Program, scope: Scope, attempt: Attempt, loop: Loop
    ) -> None:
        body = program.segments[attempt.segment].body
        assert body is not None, "checked with the result"
        while loop.started < len(loop.items) and loop.running < loop.max_concurrency:
            index = loop.started
            loop.started += 1
            size = program.scope_size.get(body, 0)
            if size == 0:
                loop.results[index] = NIL
                self.hold(x, len(NIL))
                loop.done += 1
                continue
            child = Scope(body, (*scope.path, index), bytearray(size), size, {}, {}, {}, loop.items[index])
            if x.scopes is None:
                x.scopes = {}
            x.scopes[(body, child.path)] = child
            loop.running += 1
            for segment in program.roots[body]:
                self._open(x, program, child, segment)
        if loop.done == len(loop.items):
            last_error = NIL if loop.last_error is None else codec.encode(loop.last_error.message)
            failed = codec.encode(float(loop.failed))
            value = array_of([loop.carry or NIL, array_of(loop.results), failed, last_error])
            self._drop_loop(x, attempt, loop)
            self._resume(x, program, scope, attempt, value)

    def _drop_loop(self, x: Execution, attempt: Attempt, loop: Loop) -> None:
        self.hold(x, -sum(map(len, loop.items)) - sum(map(len, loop.results)) - len(loop.carry or b""))
        attempt.loop = None
        attempt.due = 0.0  # a timer that is still set for it finds another number, or no due time

    def _body_ended(
        self, x: Execution, program: Program, scope: Scope, result: bytes, error: StepError | None
    ) -> None:
        """A loop body has its result, or has failed and nothing of it runs any more."""
        for inside in list(self._subtree(x, program, scope)):
            self.hold(x, -sum(map(len, inside.outputs.values())))
            if x.scopes is not None:
                del x.scopes[(inside.body, inside.path)]
        parent = parent_scope(x, program, scope)
        segment = program.loop_of[scope.body]
        attempt = parent.attempts.get(segment) if parent is not None else None
        if parent is None or attempt is None or attempt.loop is None:
            return  # the loop itself is ending
        loop = attempt.loop
        loop.results[scope.path[-1]] = result
        self.hold(x, len(result))
        loop.running -= 1
        loop.done += 1
        if error is not None:
            loop.failed += 1
            loop.last_error = error
            if loop.broken is None and 0 <= loop.tolerated_failures < loop.failed:
                self._end_loop(x, program, parent, attempt, loop, error)
                return
        if attempt.loop is not loop:
            return  # ended while it was broken off
        if loop.broken is None:
            self._advance_loop(x, program, parent, attempt, loop)
        else:
            self._end_if_broken(x, program, parent, attempt, loop)

    def _end_loop(
        self, x: Execution, program: Program, scope: Scope, attempt: Attempt, loop: Loop, error: StepError
    ) -> None:
        """The loop fails with this error, once what runs in it has ended."""
        self._break_loop(x, program, scope, attempt, loop, error)
        if attempt.loop is loop:
            self._end_if_broken(x, program, scope, attempt, loop)

    def _end_if_broken(
        self, x: Execution, program: Program, scope: Scope, attempt: Attempt, loop: Loop
    ) -> None:
        if loop.broken is not None and loop.running == 0:
            self._drop_loop(x, attempt, loop)
            self.fail_attempt(x, program, scope, attempt, loop.broken, None, is_loop=True)

    def _break_loop(
        self, x: Execution, program: Program, scope: Scope, attempt: Attempt, loop: Loop, error: StepError
    ) -> None:
        """More items failed than are tolerated: start no more, stop the others; the loop fails when all have ended."""
        loop.broken = error
        body = program.segments[attempt.segment].body
        around = [s for s in (x.scopes or {}).values() if s.body == body and s.path[:-1] == scope.path]
        for child in around:
            if child.failed is None:
                child.failed = error
                for inside in list(self._subtree(x, program, child)):
                    self._stop(x, program, inside)
        for child in around:
            if x.scopes and (child.body, child.path) in x.scopes:
                self.settle(x, program, child)

    def _subtree(self, x: Execution, program: Program, scope: Scope) -> Iterator[Scope]:
        """A loop body's scope and those of the loops inside it."""
        yield scope
        if scope.body not in program.nests:
            return  # with many items at once, looking at all of them for each would be felt
        if scope.body not in program.bodies_with_loops:
            return  # the usual case; 10,000 bodies at once must not look at each other
        for candidate in list((x.scopes or {}).values()):
            body, path = candidate.body, candidate.path
            if len(path) <= len(scope.path):
                continue
            while len(path) > len(scope.path):
                body, path = program.scope_of[program.loop_of[body]], path[:-1]
            if body == scope.body and path == scope.path:
                yield candidate

    def _doomed(self, x: Execution, program: Program, scope: Scope) -> bool:
        """Is this scope, or one around it, failed and only waiting for its last reports?"""
        around: Scope | None = scope
        while around is not None and around.body:
            if around.failed is not None:
                return True
            around = parent_scope(x, program, around)
        return False

    # ---- failures --------------------------------------------------------------------------------------------

    def fail_attempt(
        self,
        x: Execution,
        program: Program,
        scope: Scope,
        attempt: Attempt,
        error: StepError,
        result: SegmentResult | None,
        *,
        is_loop: bool = False,
    ) -> None:
        """The attempt (no longer active) failed: another one follows if the policy allows, else the step has failed."""
        policy = program.retries[attempt.segment]
        attempt.failures += 1
        if attempt.failures >= policy.max_attempts or not may_retry(policy, error):
            attempt.failures -= 1
            self._fail_for_good(x, program, scope, attempt, error, result, is_loop=is_loop)
            return
        delay = retry_delay_s(policy, attempt.failures, self._draw())
        self._retry(x, scope, attempt, error, delay)

    def _retry(self, x: Execution, scope: Scope, attempt: Attempt, error: StepError, delay_s: float) -> None:
        self._drop_resume(x, attempt)  # a wait step waits anew
        attempt.expires = 0.0
        attempt.wall = False
        attempt.due = self.now + delay_s
        x.journal.append(
            Entry(
                Kind.ATTEMPT_FAILED,
                self.now,
                attempt.segment,
                scope.path,
                attempt.failures,
                error=error,
                number=attempt.due,
            )
        )
        attempt.number += 1
        self._park(x, scope, attempt, Stage.BACKOFF)

    def lose(
        self,
        x: Execution,
        program: Program,
        scope: Scope,
        attempt: Attempt,
        error: StepError,
        *,
        at_fault: bool,
    ) -> None:
        """The worker of the active attempt is gone, and it may have run.

        A write is in doubt: `outcome_unknown`, followed by another attempt only if its policy has one left.
        Anything else is handed out again, unless it keeps taking runners with it.
        """
        self._leave_active(x, program, attempt)
        if x.ending or self._doomed(x, program, scope):
            self._report_late(x, program, scope, attempt, SegmentResult({}, (), None, {}, error))
            return
        node = self._last_step(program, attempt.segment)
        if program.writes[attempt.segment]:
            text = f"it is not known whether the step took effect: {error.message}"
            self.fail_attempt(x, program, scope, attempt, StepError("outcome_unknown", text, node), None)
            return
        attempt.losses += at_fault
        attempt.lost += 1
        limits = self.state.limits
        if attempt.losses >= limits.runner_kills_max or attempt.lost >= limits.losses_max:
            ended = attempt.losses >= limits.runner_kills_max
            what = f"ended its runner {attempt.losses} times" if ended else f"was lost {attempt.lost} times"
            text = f"the task {what}: {error.message}"
            self._fail_for_good(
                x, program, scope, attempt, StepError(error.code, text, node, retryable=False), None
            )
            return
        x.journal.append(
            Entry(
                Kind.ATTEMPT_FAILED, self.now, attempt.segment, scope.path, attempt.failures + 1, error=error
            )
        )
        self._make_ready_again(x, program, scope, attempt)

    def _fail_for_good(
        self,
        x: Execution,
        program: Program,
        scope: Scope,
        attempt: Attempt,
        error: StepError,
        result: SegmentResult | None,
        *,
        is_loop: bool = False,
    ) -> None:
        if result is not None:
            self._record_end(x, scope, attempt, result, Kind.FAILED)
        else:
            x.journal.append(
                Entry(Kind.FAILED, self.now, attempt.segment, scope.path, attempt.failures + 1, error=error)
            )
        self._drop_resume(x, attempt)
        plan = program.segments[attempt.segment]
        # only the last step of a segment has error edges
        blamed = self._last_step(program, attempt.segment)
        if plan.error_edges and (is_loop or error.node in (None, blamed)):
            self._handle_failure(x, program, scope, attempt, error, plan)
            return
        self._close(program, scope, attempt.segment, Phase.FAILED)
        self._fail_scope(x, program, scope, error)

    def _handle_failure(
        self,
        x: Execution,
        program: Program,
        scope: Scope,
        attempt: Attempt,
        error: StepError,
        plan: SegmentPlan,
    ) -> None:
        """The step has an error port or a guard: its failure becomes its output, and only those edges are live."""
        step = plan.steps[-1]
        value = error_value(
            program.plan.step_ids[step],
            code=error.code,
            message=error.message,
            type=error.type,
            attempts=attempt.failures + 1,
        )
        encoded = codec.encode(value)
        self.hold(x, len(encoded) - len(scope.outputs.get(step, b"")))
        scope.outputs[step] = encoded
        self._close(program, scope, attempt.segment, Phase.DONE)
        self._resolved(x, program, scope, attempt.segment, plan.error_edges, by_default=False)
        if scope.unresolved == 0:
            self._scope_done(x, program, scope)

    def _fail_scope(self, x: Execution, program: Program, scope: Scope, error: StepError) -> None:
        if scope.body == 0:
            self.end(x, program, "failed", _execution_error(program, error))
            return
        scope.failed = error
        for inside in list(self._subtree(x, program, scope)):
            self._stop(x, program, inside)
        self.settle(x, program, scope)

    @staticmethod
    def _last_step(program: Program, segment: int) -> str:
        """The step that a segment's trouble is blamed on: the effectful one, which ends it."""
        return program.last_steps[segment]

    def _draw(self) -> float:
        """The next number of this batch in [0, 1): spread by the golden ratio from its chance."""
        self._draws += 1
        return (self._chance + self._draws * _GOLDEN) % 1.0

    # ---- ending ----------------------------------------------------------------------------------------------

    def end(self, x: Execution, program: Program, status: str, error: StepError | None) -> None:
        """Start nothing more; become `status` once every active attempt has reported."""
        x.ending = status
        x.error = error
        for scope in scopes_of(x):
            self._stop(x, program, scope)
        self.settle(x, program, x)

    def _stop(self, x: Execution, program: Program, scope: Scope) -> None:
        """Close what does not run, ask for the end of what may run."""
        for segment, attempt in list(scope.attempts.items()):
            if attempt.stage in (Stage.ACTIVE, Stage.QUEUED):
                self.fx.cancels.append((x.id, segment, scope.path, attempt.number))
            if attempt.stage == Stage.ACTIVE:
                continue
            child_id = attempt.name if attempt.stage == Stage.CHILD else None
            if attempt.stage == Stage.QUEUED:
                _count_down(self.state.queued, program.queues[segment])
            if attempt.loop is not None:
                self._drop_loop(x, attempt, attempt.loop)
            else:
                self._unpark(x, scope, attempt, fired=False)
            self._drop_resume(x, attempt)
            x.journal.append(Entry(Kind.STOPPED, self.now, segment, scope.path, attempt.failures + 1))
            self._close(program, scope, segment, Phase.FAILED)
            if child_id is not None:
                self._leave_child(child_id)

    def withdraw(self, x: Execution, program: Program, scope: Scope, attempt: Attempt) -> None:
        """The active attempt was never handed out, and its execution (or loop body) is ending."""
        self._leave_active(x, program, attempt)
        self._report_late(
            x,
            program,
            scope,
            attempt,
            SegmentResult({}, (), None, {}, StepError("cancelled", "not started", None)),
        )

    def settle(self, x: Execution, program: Program, scope: Scope) -> None:
        """After an attempt of something that is ending was closed: is it over?"""
        if x.ending:
            if x.active == 0:
                self.finish(x, x.ending)
            return
        around: Scope | None = scope
        while around is not None and around.body:
            parent = parent_scope(x, program, around)
            if around.failed is not None and (around.body, around.path) in (x.scopes or {}):
                active = any(
                    attempt.stage == Stage.ACTIVE
                    for inside in self._subtree(x, program, around)
                    for attempt in inside.attempts.values()
                )
                if not active:
                    self._body_ended(x, program, around, NIL, around.failed)
            if x.ending or x.status:
                return
            around = parent

    def finish(self, x: Execution, status: str) -> None:
        """Terminal: leave the hot state. What is kept from here on is history."""
        x.status = status
        x.finished_at = self.now
        x.ending = ""
        x.journal.append(Entry(Kind.FINISHED, self.now, error=x.error, text=status))
        if x.deadline:
            self.fx.timers_cleared.append(TimerSet(TimerKey(x.id, -1, (), 0), x.deadline))
        state = self.state
        state.held -= x.held
        definition = state.definitions[x.plan]
        definition.references -= 1
        del state.executions[x.id]
        x.shared = None
        x.signals = None
        x.signal_ids = None
        x.scopes = None
        self.fx.finished.append(Finished(x, definition))
        if x.parent is not None:
            self._tell_parent(x, x.parent, definition)

    def expire(self, x: Execution, program: Program) -> None:
        """The execution's own deadline has come."""
        x.deadline = 0.0
        if x.ending:
            return
        duration = format_duration(round(x.timeout_s * 1e9))
        error = StepError(
            "timeout", f"workflow execution timeout: exceeded {duration}", None, retryable=False
        )
        self.end(x, program, "failed", error)


def _execution_error(program: Program, error: StepError) -> StepError:
    """The error of the execution that a step's failure makes; level 1 has the original's text."""
    if program.level != 1 or error.node is None:
        return error
    prefix = f"error executing node {error.node}: "
    if error.message.startswith(prefix):
        return error
    return StepError(error.code, prefix + error.message, error.node, error.retryable, error.type)


def _found(value: bytes | None) -> bytes:
    """`{"found": …, "value": …}` of an encoded value, None for none."""
    return _FOUND + value if value is not None else _NOT_FOUND


def _rate_of(wait: Wait) -> tuple[int, float]:
    """(count, window in seconds) of a rate wait. Raises ValueError, CodecError."""
    request: Any = codec.decode(wait.data or NIL)
    if type(request) is not dict:
        raise ValueError("needs an object")
    count, window_s = request.get("count"), request.get("window_s")
    if type(count) is not float or not 1 <= count <= 2**31:
        raise ValueError("count must be a number of at least 1")
    if type(window_s) is not float or not 0 < window_s <= _WAIT_MAX_S:
        raise ValueError("window_s must be a number above 0")
    return int(count), window_s


def _child_request(wait: Wait) -> tuple[str, int | None, bytes | None, str]:
    """(workflow id, version, encoded inputs, on_cancel) of a child wait. Raises ValueError, CodecError."""
    request: Any = codec.decode(wait.data or NIL)
    if type(request) is not dict:
        raise ValueError("needs an object")
    workflow_id, version = request.get("workflow_id"), request.get("version")
    inputs, on_cancel = request.get("inputs") or {}, request.get("on_cancel") or "cancel"
    if type(workflow_id) is not str:
        raise ValueError("workflow_id must be a text")
    if version is not None and (type(version) not in (float, int) or not 1 <= version < 2**53):
        raise ValueError("version must be a number of at least 1")
    if type(inputs) is not dict:
        raise ValueError("inputs must be an object")
    if on_cancel not in ("cancel", "abandon"):
        raise ValueError("on_cancel must be cancel or abandon")
    context = codec.encode(inputs) if inputs else None
    return workflow_id, None if version is None else int(version), context, on_cancel


def _child_id(parent: str, segment: int, path: tuple[int, ...], attempt: int, now: float) -> str:
    """An execution id like any other (group, milliseconds, and 48 bits that nobody else gets)."""
    name = f"{parent}:{segment}:{'.'.join(map(str, path))}:{attempt}"
    return (
        f"{parent[:2]}{int(now * 1000) & 0xFFFFFFFFFFFF:012x}{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    )


def _outcome(child: Execution, definition: Definition) -> bytes:
    """How a child ended, as the step that started it gets it; encoded, its final output untouched."""
    final = definition.program.final_output(child.outputs) if child.status == "completed" else None
    error: dict[str, Any] | None = None
    if child.error is not None:
        error = {"code": child.error.code, "message": child.error.message, "node": child.error.node}
    head = codec.encode({"execution_id": child.id, "status": child.status, "error": error})
    return bytes((head[0] + 1,)) + head[1:] + _FINAL_OUTPUT + (final if final is not None else NIL)


def _count_down(counts: dict[str, int], key: str) -> None:
    left = counts[key] - 1
    if left:
        counts[key] = left
    else:
        del counts[key]


def _duration_s(result: SegmentResult) -> float:
    if not result.timings:
        return 0.0
    return max(start + duration for start, duration in result.timings.values()) / 1e6


def _problem(program: Program, attempt: Attempt, result: SegmentResult) -> str | None:
    """Runners run foreign code: what they report is checked before it counts."""
    steps = program.step_sets[attempt.segment]
    if not steps.issuperset(result.outputs):
        return "the runner reported a step that is not in its segment"
    if not steps.issuperset(result.timings):
        return "the runner timed a step that is not in its segment"
    if result.wait is not None:
        if result.wait.step not in steps:
            return "the runner reported a wait of a step that is not in its segment"
        for seconds in (result.wait.duration_s, result.wait.until):
            if seconds is not None and not seconds <= _WAIT_MAX_S:  # not a number included
                return f"the wait is too long: {seconds} s (limit {_WAIT_MAX_S:.0f})"
    if result.spawn is not None:
        if result.spawn.step not in steps:
            return "the runner reported a loop of a step that is not in its segment"
        if program.segments[attempt.segment].body is None:
            return "the runner reported a loop of a step that has no body"
    return None
