"""The engine on one node: the `Engine` face over a replica and its leader's shell.

Requests are checked here, become commands, and are answered in the apply that carries them. Reads look at the live
state, then at what has just ended, then at history.db.
"""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from msgspec.structs import replace

from node.coordinator import commands as c
from node.coordinator.clock import Clock, ClusterClock, SystemClock
from node.coordinator.definitions import Compile, Compiled, Definitions
from node.coordinator.effects import Accepted, Answer, Effects, Refused
from node.coordinator.journal import Expansion
from node.coordinator.leader import Leader, Log, node_error
from node.coordinator.replica import Replica
from node.coordinator.scheduler import key_of
from node.coordinator.settings import Settings
from node.coordinator.state import (
    AttemptKey,
    Execution,
    Version,
    decode_execution,
    executions_without_next_step,
    has_next_step,
)
from node.coordinator.store.flush import decode_control
from node.coordinator.store.stores import RunBlocking, Stores
from node.coordinator.views import (
    nobody_runs,
    status_of,
    summary_from_history,
    summary_of,
    view_of,
    workflow_view,
)
from node.engine import (
    TERMINAL,
    ExecutionEvent,
    ExecutionSummary,
    ExecutionView,
    Page,
    StartRequest,
    WorkflowView,
)
from node.errors import (
    Conflict,
    NotFound,
    NotLeader,
    Overloaded,
    RequestInvalid,
    StorageFull,
    ThaiyyalError,
    Unavailable,
)
from raft.driver import LeaderReady
from raft.errors import RaftError
from workflow.messages import ControlPlan

log = logging.getLogger(__name__)

_NO_NUMBER: Final = 1 << 62
_SWEEP_SLICE: Final = 2000  # executions checked in one turn of the loop: about 3 ms
_LIST_SLICE: Final = 1000  # executions that a list looks at in one turn of the loop: about 3 ms


class RaftLog(Log, Protocol):
    """What the coordinator needs of raft.Raft."""

    async def read_barrier(self) -> int:
        """Everything acknowledged before the call is applied here."""
        ...


class _Call:
    """A client's call with several parts, answered in applies; one future for all of it."""

    __slots__ = ("_waits", "_watch", "accepted", "future", "left", "results")

    def __init__(self, count: int, *, waits: bool, watch: Callable[[str, _Call, int], None] | None) -> None:
        self.results: list[Any] = [None] * count
        self.accepted: dict[int, Accepted] = {}
        self.left = count
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waits = waits
        self._watch = watch

    def settle(self, slot: int, result: Any) -> None:
        """This part is decided."""
        self.results[slot] = result
        self.left -= 1
        if not self.left and not self.future.done():
            self.future.set_result(None)

    def answer(self, slot: int, answer: Answer) -> None:
        """See Waiter: with `waits`, an accepted execution keeps the part open until it has ended."""
        if (
            self._waits
            and type(answer) is Accepted
            and answer.execution is not None
            and not answer.execution.status
        ):
            self.accepted[slot] = answer
            if self._watch is not None:
                self._watch(answer.id, self, slot)
            return
        self.settle(slot, answer)

    def ended(self, slot: int) -> None:
        """The execution of this part has ended."""
        accepted = self.accepted.pop(slot, None)
        if accepted is not None:
            self.settle(slot, accepted)

    def fail(self, slot: int, error: ThaiyyalError) -> None:
        """See Waiter."""
        self.settle(slot, error)

    def stop_waiting(self) -> None:
        """The client's patience is over: parts that are accepted are answered as they are."""
        self._waits = False
        for slot in list(self.accepted):
            self.ended(slot)


class Coordinator:
    """Owner of a node's engine. Implements `node.engine.Engine`; raft drives `replica`.

    Life: make it, give `replica` and `on_raft_event` to Raft.open, `attach_log(raft)`, run `serve()` in a task of the
    owner, attach workers; at the end stop the API, cancel `serve()`, close raft, then `close()`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        compile_payload: Compile,
        settings: Settings | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        run_blocking: RunBlocking | None = None,
    ) -> None:
        """Opens the stores and loads the state. Raises sqlite3.Error, StoreDamaged. Needs a running loop."""
        self._settings = settings or Settings()
        self._clock = clock or SystemClock()
        self._cluster_clock = ClusterClock(self._clock)
        self._loop = asyncio.get_running_loop()
        self._stores = Stores(directory, self._settings, run_blocking=run_blocking)
        self.replica = Replica(self._stores, self._cluster_clock, self._settings)
        self.replica.on_applied = self._applied
        self._leader = Leader(
            self.replica, self._clock, self._cluster_clock, self._settings, rng or random.SystemRandom()
        )
        self._definitions = Definitions(
            compile_payload,
            count_max=self._settings.compiled_max,
            bytes_max=self._settings.compiled_bytes_max,
            inline_bytes_max=self._settings.compile_inline_bytes_max,
            thread=run_blocking is None,
        )
        self._log: RaftLog | None = None
        self._leader_ready = False
        self._in_office = asyncio.Event()
        self._closing = False
        self._watchers: dict[str, list[tuple[_Call, int]]] = {}
        self._followers: dict[str, list[asyncio.Event]] = {}
        self._waiting_clients = 0
        self._counts: dict[str, int] = {
            "accepted": 0,
            "refused": 0,
            "completed": 0,
            "failed": 0,
            "cancelled": 0,
        }
        self._without_next_step = 0
        self._found_without_next_step = 0  # in the round of looks under way
        self._suspects: set[AttemptKey] = set()  # attempts that nobody had at the last look
        self._suspects_before: set[AttemptKey] = set()
        self._rescued = 0

    # ---- life -------------------------------------------------------------------------------------------------

    def attach_log(self, journal: RaftLog) -> None:
        """The log that drives the replica."""
        self._log = journal
        if self._leader_ready:
            self._take_office()

    def on_raft_event(self, event: object) -> None:
        """Listener of raft: leadership comes and goes."""
        if isinstance(event, LeaderReady):
            self._leader_ready = True
            if self._log is not None:
                self._loop.call_soon(self._take_office)
            return
        role = getattr(event, "role", None)
        if role is None:
            return
        if role.value != "leader":
            self._leader_ready = False
            if getattr(event, "leader_id", None) is not None:
                self.replica.follows_clock = True
            self._loop.call_soon(self._leave_office)

    def _take_office(self) -> None:
        if self._leader_ready and self._log is not None and not self._closing:
            self._leader.lead(self._log)
            self._in_office.set()

    def _leave_office(self) -> None:
        if self._leader.is_leading and not self._leader_ready:
            self._in_office.clear()
            self._leader.follow()

    async def wait_leading(self) -> None:
        """Until this node coordinates."""
        await self._in_office.wait()

    async def serve(self) -> None:
        """Background work: flushing, forgetting, self-checks. Runs until cancelled; an error in it ends the node."""
        async with asyncio.TaskGroup() as background:
            background.create_task(self.replica.run_flushes(), name="coordinator.flushes")
            background.create_task(self._sweep(), name="coordinator.sweep")

    async def _sweep(self) -> None:
        """Each second a slice of the live executions is looked at; each minute idle definitions go."""
        ids: builtins.list[str] = []
        for second in range(1 << 62):
            await asyncio.sleep(1.0)
            if second % 60 == 59:
                self._leader.drop_idle_definitions()
            if not ids:
                self._without_next_step = self._found_without_next_step
                self._found_without_next_step = 0
                self._suspects, self._suspects_before = set(), self._suspects
                ids = builtins.list(self.replica.state.executions)
            self._look_at([ids.pop() for _ in range(min(len(ids), _SWEEP_SLICE))])

    def _look_at(self, ids: builtins.list[str]) -> None:
        """DESIGN §4: every execution has a next step. In the state, and in what the leader does about it: an attempt
        that nobody has at two looks in a row is taken up again, and counted as the bug that it is."""
        on_the_way = self._leader.on_the_way()
        for id in ids:
            x = self.replica.state.executions.get(id)
            if x is None:
                continue
            if not has_next_step(x):
                self._found_without_next_step += 1
                self._without_next_step = max(self._without_next_step, self._found_without_next_step)
                log.error(
                    "an execution has no next step",
                    extra={"event": "coordinator.stuck", "execution_id": id},
                )
            if not self._leader.is_leading:
                continue
            for ready in self._leader.adrift(x, on_the_way):
                key = key_of(ready)
                if key not in self._suspects_before:
                    self._suspects.add(key)
                    continue
                self._rescued += 1
                log.error(
                    "nobody had an attempt that should run; it is taken up again",
                    extra={"event": "coordinator.adrift", "execution_id": id, "attempt": key[3]},
                )
                self._leader.rescue(ready)

    async def flush(self) -> None:
        """Bring the stores up to date, so that a restart has nothing to replay."""
        await self.replica.flush()

    async def close(self) -> None:
        """After raft is closed and `serve()` has ended. What no flush has written is in the log."""
        self._closing = True
        self._leader.follow()
        error = Unavailable("the node is stopping")
        for watchers in list(self._watchers.values()):
            for call, slot in watchers:
                call.fail(slot, error)
        self._watchers.clear()
        for followers in self._followers.values():
            for wake in followers:
                wake.set()
        self._definitions.close()
        await self._stores.close()

    @property
    def leader(self) -> Leader:
        """For workers: attach, detach, outcomes, set_capacity."""
        return self._leader

    @property
    def is_leading(self) -> bool:
        """Does this node coordinate?"""
        return self._leader.is_leading

    async def fetch_plan(self, plan: bytes) -> bytes:
        """The canonical definition of a plan, for runners. Raises NotFound."""
        definition = self.replica.state.definitions.get(plan)
        if definition is not None:
            return definition.payload
        payload = await self._stores.read_history(lambda history: history.payload(plan))
        if payload is None:
            raise NotFound(f"no definition has the hash {plan.hex()}")
        return payload

    # ---- applied ----------------------------------------------------------------------------------------------

    def _applied(self, batch: c.Batch, fx: Effects) -> None:
        self._leader.applied(batch, fx)
        if self._followers:
            for x in fx.touched:
                for wake in self._followers.get(x.id, ()):
                    wake.set()
        watchers = self._watchers
        counts = self._counts
        leading = self._leader.is_leading  # a replay counts nothing twice
        for finished in fx.finished:
            x = finished.execution
            if leading:
                counts[x.status] = counts.get(x.status, 0) + 1
            if x.id in watchers:
                for call, slot in watchers.pop(x.id):
                    call.ended(slot)

    def _watch(self, execution_id: str, call: _Call, slot: int) -> None:
        self._watchers.setdefault(execution_id, []).append((call, slot))

    def _unwatch(self, call: _Call) -> None:
        for accepted in call.accepted.values():
            watchers = self._watchers.get(accepted.id)
            if watchers is not None:
                watchers[:] = [watcher for watcher in watchers if watcher[0] is not call]
                if not watchers:
                    del self._watchers[accepted.id]

    async def _wait(self, call: _Call, wait_s: float) -> None:
        """Until the call is answered; with `wait_s`, until its executions have ended or the time is over."""
        if call.left == 0:
            return
        if wait_s <= 0:
            await call.future
            return
        if self._waiting_clients >= self._settings.waiters_max:
            raise Overloaded(
                f"{self._waiting_clients} clients wait for results; ask again without waiting",
                limit="waiters_max",
            )
        self._waiting_clients += 1

        def patience_over() -> None:
            self._unwatch(call)
            call.stop_waiting()

        handle = self._loop.call_later(min(wait_s, self._settings.wait_s_max), patience_over)
        try:
            await call.future
        finally:
            handle.cancel()
            self._waiting_clients -= 1
            if call.left:  # the client has gone
                self._unwatch(call)
                call.stop_waiting()

    # ---- starting ---------------------------------------------------------------------------------------------

    async def start(
        self, requests: Sequence[StartRequest], *, wait_s: float = 0.0
    ) -> builtins.list[ExecutionView | ThaiyyalError]:
        """See Engine. Raises nothing for a single request's trouble: that is its answer."""
        call = _Call(len(requests), waits=wait_s > 0, watch=self._watch)
        for slot, request in enumerate(requests):
            try:
                refusal = self._refusal()
                if refusal is not None:
                    raise refusal
                await self._start(call, slot, request)
            except ThaiyyalError as error:
                call.settle(slot, error)
        await self._wait(call, wait_s)
        results = call.results
        for slot, result in enumerate(results):
            results[slot] = await self._start_result(requests[slot], result, wait_s)
        return results

    async def _start_result(
        self, request: StartRequest, result: Any, wait_s: float
    ) -> ExecutionView | ThaiyyalError:
        try:
            if type(result) is Accepted:
                if result.execution is not None:
                    self._counts["accepted"] += 1
                    view = self._view(result.execution)
                else:
                    view = await self._ended_view(result.id)
                if result.deduplicated:
                    view = _marked_deduplicated(view)
                return view
            if type(result) is Refused and result.code == "definition_unknown":
                return await self._start_again(
                    request, wait_s
                )  # it was dropped while the start was on its way
        except ThaiyyalError as error:
            result = error
        self._counts["refused"] += 1
        return _refusal_error(result)

    async def _start_again(self, request: StartRequest, wait_s: float) -> ExecutionView | ThaiyyalError:
        call = _Call(1, waits=wait_s > 0, watch=self._watch)
        await self._start(call, 0, request, put=True)
        await self._wait(call, wait_s)
        result = call.results[0]
        if type(result) is Accepted and result.execution is not None:
            self._counts["accepted"] += 1
            return self._view(result.execution)
        return _refusal_error(result)

    def _refusal(self) -> ThaiyyalError | None:
        """Why no start can be taken now."""
        settings = self._settings
        leader = self._leader
        if not leader.is_leading:
            if self._closing:
                return Unavailable("the node is stopping; nothing was accepted")
            return NotLeader("this node does not lead; nothing was accepted")
        if self._stores.problem is not None:
            return StorageFull(f"the store cannot be written ({self._stores.problem}); free some space")
        state = self.replica.state
        live = len(state.executions) + leader.inbox_commands
        if live >= settings.executions_live_max:
            return Overloaded(
                f"{live} executions are live (limit executions_live_max: {settings.executions_live_max})",
                limit="executions_live_max",
            )
        queued = len(leader.scheduler)
        if queued >= settings.tasks_queued_max:
            return Overloaded(
                f"{queued} tasks wait for a worker (limit tasks_queued_max: {settings.tasks_queued_max})",
                limit="tasks_queued_max",
                retry_after_s=2.0,
            )
        unwritten = self._stores.unwritten
        if unwritten >= settings.history_waiting_max:
            return Overloaded(
                f"{unwritten} finished executions wait to be written "
                f"(limit history_waiting_max: {settings.history_waiting_max})",
                limit="history_waiting_max",
            )
        held = state.held + leader.inbox_bytes
        if held >= settings.state_bytes_max:
            return Overloaded(
                f"live executions hold {held} bytes (limit state_bytes_max: {settings.state_bytes_max})",
                limit="state_bytes_max",
                retry_after_s=2.0,
            )
        if (
            leader.inbox_commands >= settings.inbox_commands_max
            or leader.inbox_bytes >= settings.inbox_bytes_max
        ):
            return Overloaded(
                f"{leader.inbox_commands} requests wait to be logged (limit inbox_commands_max)",
                limit="inbox_commands_max",
            )
        return None

    async def _start(self, call: _Call, slot: int, request: StartRequest, *, put: bool = False) -> None:
        version: int | None = None
        if request.workflow is not None:
            compiled = self._definitions.known(request.workflow)
            if compiled is None:
                compiled = await self._definitions.compiled(request.workflow)
            workflow_id = compiled.workflow_id
        elif request.workflow_id is not None:
            found = self._version(request.workflow_id, request.version)
            compiled = await self._compiled_version(found)
            workflow_id = request.workflow_id
            version = found.version
        else:
            raise RequestInvalid("a start needs a workflow or a workflow_id", status=400)
        inputs = compiled.bind(request.inputs) if compiled.bind is not None else request.inputs
        size = len(inputs) if inputs is not None else 0
        first: c.PutDefinition | None = None
        if put or not self._leader.has_definition(compiled.plan):
            first = c.PutDefinition(compiled.plan, compiled.payload, compiled.control_bytes)
            size += len(compiled.payload) + len(compiled.control_bytes)
        if size > self._settings.value_bytes_max:
            raise RequestInvalid(f"the request holds {size} bytes (limit value_bytes_max)", status=400)
        key = request.idempotency_key
        command = c.Start(
            request.execution_id,
            compiled.plan,
            workflow_id,
            version,
            inputs,
            request.priority,
            request.tags,
            request.tenant,
            compiled.control.max_execution_time_s or 0.0,
            key,
            hashlib.sha256(compiled.plan + (inputs or b"")).digest()[:16] if key is not None else b"",
        )
        self._leader.submit(command, size=size, first=first, waiter=call, slot=slot)

    def _version(self, workflow_id: str, version: int | None) -> Version:
        workflow = self.replica.state.workflows.get(workflow_id)
        if workflow is None:
            raise NotFound(f"no workflow {workflow_id!r} is registered")
        if version is None:
            return workflow.versions[-1]
        for found in workflow.versions:
            if found.version == version:
                return found
        raise NotFound(f"workflow {workflow_id!r} has no version {version}")

    async def _compiled_version(self, version: Version) -> Compiled:
        return await self._definitions.compiled(self.replica.state.definitions[version.plan].payload)

    # ---- reading ----------------------------------------------------------------------------------------------

    async def _barrier(self, *, stale: bool = False) -> None:
        """Reads from here on see everything that was acknowledged before."""
        if stale:
            return
        if self._log is None or self._closing:
            raise Unavailable("the engine is starting or stopping")
        try:
            await self._log.read_barrier()
        except RaftError as error:
            raise node_error(error) from error

    def _is_running(self, key: AttemptKey) -> bool:
        return self._leader.is_leading and self._leader.scheduler.is_running(key)

    def _view(self, x: Execution, *, steps: bool = False) -> ExecutionView:
        """Of a live execution, or one that has ended and is still in memory."""
        definition = self.replica.state.definitions.get(x.plan)
        if definition is not None:
            plan = definition.plan
        else:
            ended = self._stores.ended_in_memory(x.id)
            assert ended is not None, "an execution is live, or ended and in memory"
            plan = ended.definition.plan
        return view_of(x, plan, nobody_runs if x.status else self._is_running, steps=steps)

    async def _ended_view(self, execution_id: str, *, steps: bool = False) -> ExecutionView:
        x, plan = await self._ended(execution_id)
        return view_of(x, plan, nobody_runs, steps=steps)

    async def _ended(self, execution_id: str) -> tuple[Execution, ControlPlan]:
        """An execution that is not live. Raises NotFound."""
        ended = self._stores.ended_in_memory(execution_id)
        if ended is not None:
            return ended.execution, ended.definition.plan
        record = await self._stores.read_history(lambda history: history.record(execution_id))
        if record is None:
            raise NotFound(f"no execution {execution_id!r} is known")
        return decode_execution(record[0]), decode_control(record[1])

    async def get(
        self, execution_id: str, *, steps: bool = False, wait_s: float = 0.0, stale: bool = False
    ) -> ExecutionView:
        """See Engine. `stale`: what this replica knows, without asking the leader."""
        await self._barrier(stale=stale)
        x = self.replica.state.executions.get(execution_id)
        if x is None:
            return await self._ended_view(execution_id, steps=steps)
        if wait_s > 0:
            call = _Call(1, waits=True, watch=self._watch)
            call.answer(0, Accepted(execution_id, x))
            await self._wait(call, wait_s)
            if isinstance(call.results[0], ThaiyyalError):
                raise call.results[0]
        return self._view(x, steps=steps)

    async def list(
        self,
        *,
        status: str | None = None,
        workflow: str | None = None,
        tag: tuple[str, str] | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """See Engine. The cursor is the acceptance number of the last item."""
        await self._barrier()
        limit = max(1, min(limit, self._settings.list_limit_max))
        below = _cursor_number(cursor)
        found: dict[int, ExecutionSummary] = {}
        ended = sorted((e.execution for e in self._stores.all_ended_in_memory()), key=lambda x: -x.number)
        live = builtins.list(reversed(self.replica.state.executions.values()))
        for source in (live, ended):
            matches = 0
            for looked_at, x in enumerate(source, start=1):
                if looked_at % _LIST_SLICE == 0:
                    await asyncio.sleep(0)  # a long look must not hold up everybody else
                if x.number >= below or not self._matches(x, status, workflow, tag):
                    continue
                found[x.number] = self._summary(x)
                matches += 1
                if matches > limit:
                    break
        if status is None or status in TERMINAL:
            rows = await self._stores.read_history(
                lambda history: history.search(
                    below=below, status=status, workflow_id=workflow, tag=tag, limit=limit + 1
                )
            )
            for row in rows:
                found[row[0]] = summary_from_history(row)  # the newer truth, if it has just ended
        numbers = sorted(found, reverse=True)
        more = len(numbers) > limit
        numbers = numbers[:limit]
        return Page(
            items=[found[number] for number in numbers], cursor=str(numbers[-1]) if more and numbers else None
        )

    def _matches(
        self, x: Execution, status: str | None, workflow: str | None, tag: tuple[str, str] | None
    ) -> bool:
        if workflow is not None and x.workflow_id != workflow:
            return False
        if tag is not None and x.tags.get(tag[0]) != tag[1]:
            return False
        return status is None or status_of(x, self._is_running) == status

    def _summary(self, x: Execution) -> ExecutionSummary:
        ended = self._stores.ended_in_memory(x.id) if x.status else None
        plan = ended.definition.plan if ended is not None else self.replica.state.definitions[x.plan].plan
        return summary_of(x, plan, nobody_runs if x.status else self._is_running)

    async def history(
        self, execution_id: str, *, after: int = 0, limit: int = 1000
    ) -> builtins.list[ExecutionEvent]:
        """See Engine."""
        await self._barrier()
        x, plan = await self._live_or_ended(execution_id)
        events: builtins.list[ExecutionEvent] = []
        for event in Expansion(plan).feed(x.journal):
            if event.seq > after:
                events.append(event)
                if len(events) >= limit:
                    break
        return events

    async def _live_or_ended(self, execution_id: str) -> tuple[Execution, ControlPlan]:
        x = self.replica.state.executions.get(execution_id)
        if x is not None:
            return x, self.replica.state.definitions[x.plan].plan
        return await self._ended(execution_id)

    async def events(self, execution_id: str, *, after: int = 0) -> AsyncIterator[ExecutionEvent]:
        """See Engine."""
        await self._barrier()
        x, plan = await self._live_or_ended(execution_id)
        expansion = Expansion(plan)
        wake = asyncio.Event()
        if not x.status:
            self._followers.setdefault(execution_id, []).append(wake)
        try:
            while True:
                wake.clear()
                for event in expansion.feed(x.journal):
                    if event.seq > after:
                        yield event
                if x.status or self._closing:
                    return
                if expansion.entries_read == len(x.journal):
                    await wake.wait()
        finally:
            followers = self._followers.get(execution_id, [])
            if wake in followers:
                followers.remove(wake)
                if not followers:
                    del self._followers[execution_id]

    # ---- changing ---------------------------------------------------------------------------------------------

    async def _command(self, command: c.Command, *, size: int = 0, first: c.Command | None = None) -> Any:
        """Propose one command and return its answer; Refused and errors are raised."""
        call = _Call(1, waits=False, watch=None)
        self._leader.submit(command, size=size, first=first, waiter=call)
        await call.future
        answer = call.results[0]
        if isinstance(answer, ThaiyyalError | Refused):
            raise _refusal_error(answer)
        return answer

    async def cancel(self, execution_id: str, *, reason: str = "") -> ExecutionView:
        """See Engine. Raises NotFound, and Conflict for an execution that has ended."""
        try:
            x = await self._command(c.Cancel(execution_id, reason[:1000]), size=len(reason))
        except NotFound:
            ended, _ = await self._ended(execution_id)
            raise Conflict(f"execution {execution_id} is {ended.status} already") from None
        return self._view(x)

    async def signal(
        self, execution_id: str, name: str, payload: bytes, *, key: str | None = None
    ) -> ExecutionView:
        """Hand an encoded value to the step that waits for `name`; kept until one does. A repeated key does nothing."""
        try:
            x = await self._command(c.Signal(execution_id, name, payload, key), size=len(payload) + len(name))
        except Conflict:
            if execution_id not in self.replica.state.executions:
                await self._ended(execution_id)  # NotFound, if it never was
            raise
        return self._view(x)

    async def register_workflow(
        self, *, workflow_id: str, payload: bytes, name: str = "", description: str = ""
    ) -> WorkflowView:
        """See Engine."""
        compiled = await self._definitions.compiled(payload)
        first: c.PutDefinition | None = None
        size = 0
        if not self._leader.has_definition(compiled.plan):
            first = c.PutDefinition(compiled.plan, compiled.payload, compiled.control_bytes)
            size = len(compiled.payload) + len(compiled.control_bytes)
        version: Version = await self._command(
            c.RegisterWorkflow(workflow_id, compiled.plan, name, description),
            size=size + len(name) + len(description),
            first=first,
        )
        return workflow_view(workflow_id, version, self.replica.state.definitions[version.plan], payload=True)

    async def get_workflow(self, workflow_id: str, version: int | None = None) -> WorkflowView:
        """See Engine."""
        await self._barrier()
        found = self._version(workflow_id, version)
        return workflow_view(workflow_id, found, self.replica.state.definitions[found.plan], payload=True)

    async def list_workflows(
        self, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[builtins.list[WorkflowView], str | None]:
        """See Engine: the newest version of each, by id."""
        await self._barrier()
        state = self.replica.state
        limit = max(1, min(limit, self._settings.list_limit_max))
        names = sorted(name for name in state.workflows if cursor is None or name > cursor)
        page = names[:limit]
        views = []
        for name in page:
            newest = state.workflows[name].versions[-1]
            views.append(workflow_view(name, newest, state.definitions[newest.plan], payload=False))
        return views, page[-1] if len(names) > limit else None

    async def delete_workflow(self, workflow_id: str) -> None:
        """See Engine."""
        await self._command(c.DeleteWorkflow(workflow_id))

    # ---- figures ----------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """See Engine."""
        state = self.replica.state
        leader = self._leader
        scheduler = leader.scheduler
        return {
            "leading": leader.is_leading,
            "applied_index": self.replica.applied_index,
            "cluster_time": state.now,
            "executions_live": len(state.executions),
            "executions_without_next_step": self._without_next_step,
            "attempts_rescued_total": self._rescued,
            "executions_accepted_total": state.accepted,
            "executions_ended_here": dict(self._counts),
            "state_bytes": state.held,
            "definitions": len(state.definitions),
            "definitions_compiled": len(self._definitions),
            "workflows": len(state.workflows),
            "dedupe_keys": len(state.dedupe),
            "cache_keys": len(state.keyed.cache),
            "rate_limiters": len(state.keyed.rates),
            "tasks_queued": len(scheduler),
            "tasks_queued_by_queue": scheduler.backlog(),
            "tasks_running": scheduler.running,
            "slots": scheduler.capacity,
            "workers": {
                worker.id: {"capacity": worker.capacity, "running": len(worker.running)}
                for worker in scheduler.workers.values()
            },
            "dispatched_total": scheduler.dispatched_total,
            "inbox": leader.inbox_commands,
            "proposals_total": leader.proposals_total,
            "commands_total": leader.commands_total,
            "reports_dropped_total": self.replica.dropped_total,
            "timers": leader.timers_waiting,
            "timers_fired_total": leader.timers_fired_total,
            "timer_lag_s": leader.timer_lag_s,
            "waiting_clients": self._waiting_clients,
            "store": self._stores.stats(),
        }

    def count_without_next_step(self) -> int:
        """The invariant, counted now over all live executions; for `doctor` and tests."""
        return executions_without_next_step(self.replica.state)


def _marked_deduplicated(view: ExecutionView) -> ExecutionView:
    return replace(view, deduplicated=True)


def _refusal_error(result: Any) -> ThaiyyalError:
    """What a client is told when its command was refused."""
    if isinstance(result, ThaiyyalError):
        return result
    if not isinstance(result, Refused):
        return Unavailable("the request was not carried out; try again")
    if result.code == "overloaded":
        return Overloaded(result.message, limit=result.limit)
    if result.code == "not_found":
        return NotFound(result.message)
    return Conflict(result.message)


def _cursor_number(cursor: str | None) -> int:
    if cursor is None:
        return _NO_NUMBER
    if not (cursor.isascii() and cursor.isdigit()) or len(cursor) > 18:
        raise RequestInvalid(f"{cursor!r} is not a cursor of this list", status=400)
    return int(cursor)
