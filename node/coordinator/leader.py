"""The leader's shell: gathers what happens into proposals, hands out what became ready, fires timers.

    requests, reports, due timers ──► inbox ──► one batch ──► log ──► apply ──► effects ──► answers, tasks, timers

One proposal carries everything of a moment; while it is being synced the next one fills. There is no asyncio task per
execution, task or request: waiting clients are `Waiter`s, answered in the apply of their batch. All on one loop.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Iterable
from typing import Any, Final, Protocol

import msgspec

from node.coordinator import commands as c
from node.coordinator.apply import outstanding
from node.coordinator.clock import Clock, ClusterClock
from node.coordinator.effects import Answer, Effects, Ready
from node.coordinator.heartbeats import Heartbeats
from node.coordinator.replica import Replica
from node.coordinator.scheduler import Scheduler, Worker, Workers, is_current, key_of
from node.coordinator.settings import Settings
from node.coordinator.state import AttemptKey, Execution, Stage, scopes_of
from node.coordinator.tasks import task_for
from node.coordinator.timers import TimerWheel
from node.errors import (
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    RequestInvalid,
    StorageFull,
    ThaiyyalError,
    TooLarge,
    Unavailable,
)
from node.worker.messages import Effect, TaskFrame, TaskHeartbeat, TaskOutcome
from node.worker.messages import Lost as LostOutcome
from raft import errors as raft_errors
from workflow.messages import SegmentResult, StepError

log = logging.getLogger(__name__)

_decode_result: Final = msgspec.msgpack.Decoder(SegmentResult).decode
_COMMAND_BYTES: Final = 150  # of a command without its values


class Log(Protocol):
    """What the leader needs of raft."""

    def propose_nowait(self, command: bytes) -> asyncio.Future[Any]:
        """Committed and applied, or an error of raft.errors."""
        ...


class Waiter(Protocol):
    """Somebody who wants the answer to a command."""

    def answer(self, slot: int, answer: Answer) -> None:
        """Applied. Called inside apply: decide and note, no more."""
        ...

    def fail(self, slot: int, error: ThaiyyalError) -> None:
        """Not applied, or not known."""
        ...


class _Item(msgspec.Struct, gc=False):
    """A command in the inbox. `first` goes before it into the same batch."""

    command: c.Command
    size: int
    first: c.Command | None = None
    waiter: Waiter | None = None
    slot: int = 0


def node_error(error: BaseException) -> ThaiyyalError:
    """An error of the log as the API's clients see it."""
    text = str(error)
    if isinstance(error, raft_errors.NotLeader):
        return NotLeader(text, leader_id=error.leader_id)
    if isinstance(error, raft_errors.Overloaded):
        return Overloaded(text, limit=error.limit, retry_after_s=error.retry_after_s)
    if isinstance(error, raft_errors.StorageFull):
        return StorageFull(text)
    if isinstance(error, raft_errors.CommandTooLarge):
        return TooLarge(text)
    if isinstance(error, raft_errors.RaftError) and error.definite:
        return Unavailable(text)
    return OutcomeUnknown(text or "the request was interrupted; it may or may not have taken effect")


class Leader:
    """Owner of the inbox, the scheduler and the timers of one replica, active while it leads."""

    def __init__(
        self,
        replica: Replica,
        clock: Clock,
        cluster_clock: ClusterClock,
        settings: Settings,
        rng: random.Random,
    ) -> None:
        self._replica = replica
        self._clock = clock
        self._cluster_clock = cluster_clock
        self._settings = settings
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._log: Log | None = None
        self.is_leading = False
        self.scheduler = Scheduler()
        self._wheel = TimerWheel()
        self._wall_wheel = TimerWheel()
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = float("inf")
        self._inbox: deque[_Item] = deque()
        self._big: deque[_Item] = deque()  # each larger than an entry
        self._inbox_bytes = 0
        self._failed: list[_Item] = []  # our own commands whose batch was refused; they go again in a moment
        self._sent: dict[int, list[_Item]] = {}  # token -> what the batch was made of
        self._parts: deque[_Parts] = deque()  # batches too big for an entry; the first one is being sent
        self._next_token = rng.getrandbits(56) << 6
        self._pump_scheduled = False
        self._dispatch_scheduled = False
        self._requeues: dict[AttemptKey, int] = {}
        self._heartbeats = Heartbeats()
        self._heartbeat_check: asyncio.TimerHandle | None = None
        self._handles: set[asyncio.TimerHandle] = set()  # retries and requeues to come
        self._idle_since: dict[bytes, float] = {}  # definitions without references -> since when
        self._dropping: set[bytes] = set()
        self.proposals_total = 0
        self.commands_total = 0
        self.timers_fired_total = 0
        self.timer_lag_s = 0.0

    # ---- office -----------------------------------------------------------------------------------------------

    def lead(self, journal: Log) -> None:
        """This replica leads and has applied everything committed: take up the work from the state."""
        self._log = journal
        state = self._replica.state
        if self._replica.follows_clock:
            self._cluster_clock.not_before(state.now)
        else:
            self._cluster_clock.start(state.now)
        self._replica.follows_clock = False
        self.is_leading = True
        self._clear()
        if state.limits != self._settings.limits:
            self.submit(c.Configure(self._settings.limits))
        ready, timers = outstanding(state)
        for timer in timers:
            (self._wall_wheel if timer.wall else self._wheel).set(timer.key, timer.due)
        running = {key for _, key, _ in self.scheduler.all_running()}
        for item in ready:
            self._take_up(item, running)
        log.info(
            "coordinating",
            extra={
                "event": "coordinator.leads",
                "executions": len(state.executions),
                "ready": len(ready),
                "timers": len(timers),
            },
        )
        self._set_alarm()
        self._schedule_pump()
        self._schedule_dispatch()

    def _take_up(self, ready: Ready, running: set[AttemptKey]) -> None:
        """Nobody knows whether an active attempt that no worker has did run: a write is in doubt, others go again."""
        key = key_of(ready)
        if key in running:
            return
        program = self._replica.state.definitions[ready.execution.plan].program
        segment = ready.attempt.segment
        if ready.attempt.stage == Stage.ACTIVE and (program.writes[segment] or not is_current(ready)):
            reason = "the coordinator restarted while the step may have been running"
            self.submit(c.Lost(*key, "coordinator_changed", reason, False))
            return
        self._push(ready)

    def on_the_way(self) -> set[AttemptKey]:
        """Attempts that a command speaks of which is not applied yet, or that wait to be handed out again."""
        keys: set[AttemptKey] = set(self._requeues)
        for items in (self._inbox, self._big, self._failed, *self._sent.values()):
            for item in items:
                command = item.command
                if isinstance(command, c.Completed | c.Lost | c.Withdrawn):
                    keys.add((command.id, command.segment, command.path, command.attempt))
        return keys

    def adrift(self, x: Execution, on_the_way: set[AttemptKey]) -> list[Ready]:
        """Attempts of an execution that should be here or at a worker, and are not. Always empty, unless by a bug."""
        found: list[Ready] = []
        for scope in scopes_of(x):
            for attempt in scope.attempts.values():
                if attempt.stage in (Stage.ACTIVE, Stage.QUEUED):
                    key = (x.id, attempt.segment, scope.path, attempt.number)
                    if not self.scheduler.knows(key) and key not in on_the_way:
                        found.append(Ready(x, scope, attempt, attempt.number))
        return found

    def rescue(self, ready: Ready) -> None:
        """Treat an attempt that nobody has as after a restart."""
        self._take_up(ready, set())
        self._schedule_dispatch()

    def follow(self) -> None:
        """Somebody else leads now, or nobody: drop what is volatile, tell who waits."""
        self.is_leading = False
        self._log = None
        error = NotLeader("this node does not lead any more; nothing was accepted")
        for item in (*self._inbox, *self._big):
            if item.waiter is not None:
                item.waiter.fail(item.slot, error)
        self._clear()

    def _clear(self) -> None:
        self._inbox.clear()
        self._big.clear()
        self._failed.clear()
        self._inbox_bytes = 0
        self.scheduler.clear()
        self._wheel = TimerWheel()
        self._wall_wheel = TimerWheel()
        self._requeues.clear()
        self._heartbeats.clear()
        self._heartbeat_check = None
        self._idle_since.clear()
        self._dropping.clear()
        self._parts.clear()
        for handle in self._handles:
            handle.cancel()
        self._handles.clear()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._alarm_at = float("inf")

    # ---- proposing --------------------------------------------------------------------------------------------

    @property
    def inbox_commands(self) -> int:
        """Commands waiting for their batch."""
        return len(self._inbox) + len(self._big) + len(self._failed)

    @property
    def inbox_bytes(self) -> int:
        """About the bytes of these."""
        return self._inbox_bytes

    def submit(
        self,
        command: c.Command,
        *,
        size: int = 0,
        first: c.Command | None = None,
        waiter: Waiter | None = None,
        slot: int = 0,
    ) -> None:
        """Propose with the next batch. `size`: bytes of the values in it.

        Without a waiter it is proposed until it is in the log, or this node does not lead any more.
        """
        if not self.is_leading:
            if waiter is not None:
                waiter.fail(slot, NotLeader("this node does not lead; nothing was accepted"))
            return
        item = _Item(command, size + _COMMAND_BYTES, first, waiter, slot)
        self._inbox_bytes += item.size
        if item.size > self._settings.entry_bytes_max:
            self._big.append(item)
        else:
            self._inbox.append(item)
        if not self._pump_scheduled:
            self._schedule_pump()

    def _schedule_pump(self) -> None:
        if not self._pump_scheduled and self.is_leading:
            self._pump_scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Propose what waits, unless enough is under way."""
        self._pump_scheduled = False
        settings = self._settings
        while self.is_leading and self._inbox and len(self._sent) - len(self._parts) < settings.proposals_max:
            items: list[_Item] = []
            size = 0
            while self._inbox and len(items) < settings.entry_commands_max:
                size += self._inbox[0].size
                if items and size > settings.entry_bytes_max:
                    break
                items.append(self._inbox.popleft())
            self._propose(items)
        if self.is_leading and self._big and not self._parts:
            self._propose([self._big.popleft()])

    def _propose(self, items: list[_Item]) -> None:
        self._inbox_bytes -= sum([item.size for item in items])
        token = self._next_token
        self._next_token += 1
        now, chance = self._cluster_clock.now(), self._rng.random()
        try:
            commands, data = _encode_batch(now, chance, token, items)
        except (ValueError, TypeError, OverflowError):  # one of them; the others must not suffer for it
            items = [item for item in items if self._is_encodable(item)]
            if not items:
                return
            commands, data = _encode_batch(now, chance, token, items)
        self._sent[token] = items
        self.proposals_total += 1
        self.commands_total += len(commands)
        if len(data) <= self._settings.entry_bytes_max * 17 // 16:  # sizes are estimates; an entry has room
            self._send(token, data)
        else:
            self._parts.append(
                _Parts(self, token, data, self._settings.entry_bytes_max, self._settings.parts_max)
            )
            if len(self._parts) == 1:
                self._parts[0].start()

    def _is_encodable(self, item: _Item) -> bool:
        """Can this be written to the log? What cannot is refused, a report of it becomes a loss of its attempt."""
        try:
            _encode_batch(0.0, 0.0, 0, [item])
        except (ValueError, TypeError, OverflowError) as error:
            command = item.command
            log.error(
                "a command cannot be written to the log",
                extra={
                    "event": "coordinator.unencodable",
                    "command": type(command).__name__,
                    "error": str(error),
                },
            )
            if item.waiter is not None:
                text = f"the request has a value that cannot be stored: {error}"
                item.waiter.fail(item.slot, RequestInvalid(text))
            elif isinstance(command, c.Completed | c.Lost):
                key = (command.id, command.segment, command.path, command.attempt)
                self.submit(c.Lost(*key, "result_invalid", "its report cannot be stored", True))
            return False
        return True

    def _end_of_parts(self, token: int) -> None:
        """If this was the batch being sent in parts, the next such one may go: replicas gather one at a time."""
        if self._parts and self._parts[0].token == token:
            self._parts.popleft()
            if self._parts:
                self._loop.call_soon(self._parts[0].start)

    def _send(self, token: int, data: bytes) -> None:
        assert self._log is not None, "only a leader proposes"
        try:
            future = self._log.propose_nowait(data)
        except raft_errors.RaftError as error:
            self.proposal_failed(token, error)
            return
        future.add_done_callback(lambda done: self._proposed(token, done))

    def propose_part(self, data: bytes) -> asyncio.Future[Any]:
        """For `_Parts`. Raises RaftError."""
        if self._log is None:
            raise raft_errors.NotLeader("this node does not lead any more")
        return self._log.propose_nowait(data)

    def _proposed(self, token: int, future: asyncio.Future[Any]) -> None:
        error = raft_errors.OutcomeUnknown("cancelled") if future.cancelled() else future.exception()
        if error is not None:
            self.proposal_failed(token, error)

    def proposal_failed(self, token: int, error: BaseException) -> None:
        """A batch was not applied, or it is not known whether. Clients are told; our own commands go again: reports,
        timers and losses are fenced, so a repetition does no harm."""
        items = self._sent.pop(token, None)
        if items is None:
            return
        self._end_of_parts(token)
        refusal = node_error(error)
        again: list[_Item] = []
        for item in items:
            if item.waiter is not None:
                item.waiter.fail(item.slot, refusal)
            else:
                again.append(item)
        if isinstance(error, raft_errors.NotLeader | raft_errors.Stopped) or not self.is_leading:
            return
        if again:
            if not self._failed:
                self._later(self._settings.retry_s, self._submit_again)
            self._failed += again
            self._inbox_bytes += sum([item.size for item in again])
        self._schedule_pump()

    def _submit_again(self) -> None:
        items, self._failed = self._failed, []
        for item in items:
            (self._big if item.size > self._settings.entry_bytes_max else self._inbox).append(item)
        self._schedule_pump()

    def _later(self, delay_s: float, act: Any) -> asyncio.TimerHandle:
        def run() -> None:
            self._handles.discard(handle)
            if self.is_leading:
                act()

        handle = self._loop.call_later(delay_s, run)
        self._handles.add(handle)
        return handle

    # ---- effects ----------------------------------------------------------------------------------------------

    def applied(self, batch: c.Batch, fx: Effects) -> None:
        """A batch took effect. On every replica; only a leader has something to do."""
        items = self._sent.pop(batch.token, None)
        if self.is_leading:
            self._perform(fx)
        if items is not None:
            position = 0
            for item in items:
                position += item.first is not None
                if item.waiter is not None:
                    item.waiter.answer(item.slot, fx.answers[position])
                elif type(item.command) is c.DropDefinitions:
                    self._dropping.difference_update(item.command.plans)
                position += 1
            self._end_of_parts(batch.token)
            if self._inbox or self._big:
                self._schedule_pump()

    def _perform(self, fx: Effects) -> None:
        for timer in fx.timers_cleared:
            (self._wall_wheel if timer.wall else self._wheel).clear(timer.key, timer.due)
        if fx.timers:
            for timer in fx.timers:
                (self._wall_wheel if timer.wall else self._wheel).set(timer.key, timer.due)
            self._set_alarm()
        for ready in fx.ready:
            if is_current(ready):
                self._push(ready)
            elif ready.attempt.number == ready.number and ready.attempt.stage == Stage.ACTIVE:
                self.submit(c.Withdrawn(*key_of(ready)))  # ready, and ending, in the same batch
        for key in fx.cancels:
            self._stop(key)
        if fx.ready:
            self._schedule_dispatch()

    def _push(self, ready: Ready) -> None:
        program = self._replica.state.definitions[ready.execution.plan].program
        segment = ready.attempt.segment
        priority = program.priorities[segment]
        self.scheduler.push(
            ready, program.queues[segment], ready.execution.priority if priority is None else priority
        )
        policy = program.policies[segment]
        if policy is not None and policy.schedule_to_start_s is not None:
            waited = self._cluster_clock.now() - ready.attempt.since
            self._later(max(policy.schedule_to_start_s - waited, 0.0), lambda: self._overdue(ready))

    def _overdue(self, ready: Ready) -> None:
        """An attempt has waited as long as its schedule_to_start_s allows. It certainly did not run."""
        key = key_of(ready)
        if ready.attempt.stage != Stage.ACTIVE or not is_current(ready) or not self.scheduler.is_waiting(key):
            return  # a write that waits for its grant is looked at again when it has it
        self.scheduler.withdraw(key)
        text = "no worker took the step within its schedule_to_start_s"
        self.submit(c.Completed(*key, self._failure(key, "schedule_to_start", text)))

    def _stop(self, key: AttemptKey) -> None:
        """The state wants no result of this attempt any more: end it wherever it is."""
        waiting = self.scheduler.withdraw(key)
        if waiting is not None:
            if waiting.attempt.stage == Stage.ACTIVE:
                self.submit(c.Withdrawn(*key))
            return
        worker = self.scheduler.worker_of(key)
        if worker is not None:
            worker.sink.cancel(*key)
        # else its report is in the inbox already, or a requeue is about to find it ending

    # ---- dispatch ---------------------------------------------------------------------------------------------

    def _schedule_dispatch(self) -> None:
        if not self._dispatch_scheduled and self.is_leading:
            self._dispatch_scheduled = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatch_scheduled = False
        if not self.is_leading or not len(self.scheduler):
            return
        batches, grants = self.scheduler.assign()
        now = self._cluster_clock.now()
        for worker, batch in batches:
            frames = [self._frame(ready, now) for ready in batch]
            try:
                worker.sink.submit(frames)
            except ThaiyyalError as error:
                log.warning(
                    "a worker takes no tasks",
                    extra={
                        "event": "coordinator.worker_refuses",
                        "worker_id": worker.id,
                        "error": error.message,
                    },
                )
                worker.capacity = 0  # until it says otherwise
                for ready in batch:
                    self.scheduler.release(worker.id, key_of(ready))
                    self._push(ready)
                continue
            for ready in batch:
                self._watch_heartbeats(ready)
        if grants:
            self.submit(c.Grant(grants))

    def _watch_heartbeats(self, ready: Ready) -> None:
        policy = self._replica.state.definitions[ready.execution.plan].program.policies[ready.attempt.segment]
        if policy is not None and policy.heartbeat_s is not None:
            self._heartbeats.watch(key_of(ready), policy.heartbeat_s, self._loop.time())
            self._schedule_heartbeat_check()

    def heartbeats(self, heartbeats: Iterable[TaskHeartbeat]) -> None:
        """Signs of life from a worker."""
        now = self._loop.time()
        for beat in heartbeats:
            key = (beat.execution_id, beat.segment, beat.path, beat.attempt)
            if self.scheduler.worker_of(key) is not None:
                self._heartbeats.heard(key, beat.details, now)

    def _schedule_heartbeat_check(self) -> None:
        due = self._heartbeats.next_due() if self._heartbeat_check is None else None
        if due is not None:
            delay = max(due - self._loop.time(), self._settings.heartbeat_check_s)
            self._heartbeat_check = self._later(delay, self._check_heartbeats)

    def _check_heartbeats(self) -> None:
        """End attempts that are silent; their report is then the error `timeout`."""
        self._heartbeat_check = None
        for key in self._heartbeats.overdue(self._loop.time()):
            worker = self.scheduler.worker_of(key)
            if worker is not None:
                worker.sink.cancel(*key)
        self._schedule_heartbeat_check()

    def _frame(self, ready: Ready, now: float) -> TaskFrame:
        x, segment = ready.execution, ready.attempt.segment
        program = self._replica.state.definitions[x.plan].program
        deadline = program.timeouts[segment]
        if x.deadline:
            left = max(x.deadline - now, 0.0) + self._settings.deadline_grace_s
            deadline = left if deadline is None else min(deadline, left)
        effect: Effect = program.segments[segment].effect  # type: ignore[assignment]
        return TaskFrame(task_for(self._replica.state, ready, deadline), effect, x.tenant)

    # ---- workers ----------------------------------------------------------------------------------------------

    def attach(
        self, worker_id: str, sink: Workers, *, capacity: int, queues: frozenset[str] | None = None
    ) -> None:
        """A worker is there and takes up to `capacity` attempts at once."""
        self.scheduler.add_worker(Worker(worker_id, sink, capacity, queues))
        self._schedule_dispatch()

    def set_capacity(self, worker_id: str, capacity: int) -> None:
        """A worker has more or fewer slots than before. 0: it finishes what it has and gets nothing more."""
        worker = self.scheduler.workers.get(worker_id)
        if worker is not None:
            worker.capacity = capacity
            self._schedule_dispatch()

    def detach(self, worker_id: str, reason: str) -> None:
        """A worker is gone for good (its lease has ended): what it had is lost, and may have run."""
        for ready in self.scheduler.remove_worker(worker_id):
            self.submit(c.Lost(*key_of(ready), "worker_lost", reason, False))
        self._schedule_dispatch()

    def outcomes(self, worker_id: str, outcomes: Iterable[TaskOutcome]) -> None:
        """Attempts that ended at a worker, each once."""
        for outcome in outcomes:
            key = (outcome.execution_id, outcome.segment, outcome.path, outcome.attempt)
            ready = self.scheduler.release(worker_id, key)
            details, silent = self._heartbeats.ended(key)
            if not self.is_leading:
                continue
            if outcome.result is not None:
                if self._requeues:
                    self._requeues.pop(key, None)
                self._report(key, outcome.result, details, silent=silent)
            elif outcome.lost is not None:
                self._lost(key, ready, outcome.lost, details)
        if len(self.scheduler):
            self._schedule_dispatch()

    def _report(
        self, key: AttemptKey, encoded: bytes, details: bytes | None = None, *, silent: bool = False
    ) -> None:
        if len(encoded) > self._settings.value_bytes_max:
            text = f"result too large: {len(encoded)} bytes (limit: {self._settings.value_bytes_max})"
            result = self._failure(key, "value_too_large", text, retryable=False)
        else:
            try:
                result = _decode_result(encoded)
            except msgspec.DecodeError as error:
                text = f"the worker sent what is no result: {error}"
                result = self._failure(key, "result_invalid", text, retryable=False)
        if silent and result.error is not None and result.error.code == "cancelled":
            result = self._failure(key, "timeout", "no heartbeat came within heartbeat_s")
        heartbeat = details if result.error is not None else None
        self.submit(c.Completed(*key, result, heartbeat), size=len(encoded) + len(heartbeat or b""))

    def _failure(self, key: AttemptKey, code: str, text: str, *, retryable: bool = True) -> SegmentResult:
        """A result that we make up for a task, blamed on its effectful step."""
        x = self._replica.state.executions.get(key[0])
        node: str | None = None
        if x is not None:
            program = self._replica.state.definitions[x.plan].program
            if 0 <= key[1] < len(program.segments):
                node = program.last_steps[key[1]]
        return SegmentResult({}, (), None, {}, StepError(code, text, node, retryable))

    def _lost(
        self, key: AttemptKey, ready: Ready | None, lost: LostOutcome, details: bytes | None = None
    ) -> None:
        if lost.started or ready is None:
            self.submit(c.Lost(*key, lost.code, lost.reason, lost.at_fault, details))
        elif not is_current(ready):
            self.submit(c.Withdrawn(*key))
        else:
            self._hand_out_again(key, ready, lost)

    def _hand_out_again(self, key: AttemptKey, ready: Ready, lost: LostOutcome) -> None:
        """It certainly did not run, so nothing needs to be recorded; but not for ever."""
        times = self._requeues.get(key, 0) + 1
        if times > self._settings.requeues_max:
            self._requeues.pop(key, None)
            text = f"no worker could start it in {times} tries: {lost.reason}"
            self.submit(c.Completed(*key, self._failure(key, lost.code, text)))
            return
        self._requeues[key] = times
        delay = min(self._settings.requeue_delay_s * 2 ** (times - 1), self._settings.requeue_delay_s_max)

        def push() -> None:
            if is_current(ready):
                self._push(ready)
                self._schedule_dispatch()
            elif ready.attempt.number == ready.number and ready.attempt.stage == Stage.ACTIVE:
                self.submit(c.Withdrawn(*key))

        self._later(delay, push)

    # ---- time -------------------------------------------------------------------------------------------------

    def _set_alarm(self) -> None:
        """Wake up for the next deadline, on whichever clock it is."""
        delay = float("inf")
        due = self._wheel.next_due()
        if due is not None:
            delay = due - self._cluster_clock.now()
        due = self._wall_wheel.next_due()
        if due is not None:
            delay = min(delay, due - self._clock.wall(), 60.0)  # wall time may jump: look again
        if delay == float("inf"):
            return
        at = self._loop.time() + max(delay, 0.0)
        if at >= self._alarm_at - 0.001 and self._alarm is not None:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = self._loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._alarm_at = float("inf")
        if not self.is_leading:
            return
        now = self._cluster_clock.now()
        count_max = self._settings.timers_per_tick_max
        oldest = self._wheel.next_due()
        due = self._wheel.pop_due(now, count_max=count_max)
        if due and oldest is not None:
            self.timer_lag_s = now - oldest
        due += self._wall_wheel.pop_due(self._clock.wall(), count_max=count_max)
        self.timers_fired_total += len(due)
        for key in due:
            self.submit(c.TimerFired(key.id, key.segment, key.path, key.attempt))
        self._set_alarm()

    @property
    def timers_waiting(self) -> int:
        """Deadlines that have not come."""
        return len(self._wheel) + len(self._wall_wheel)

    # ---- definitions ------------------------------------------------------------------------------------------

    def has_definition(self, plan: bytes) -> bool:
        """May a start rely on this definition being in the state when it is applied?"""
        return plan in self._replica.state.definitions and plan not in self._dropping

    def drop_idle_definitions(self) -> None:
        """Propose to forget definitions that nothing has referred to for `definition_keep_s`."""
        if not self.is_leading:
            return
        now = self._cluster_clock.now()
        old: list[bytes] = []
        for plan, definition in self._replica.state.definitions.items():
            if definition.references:
                self._idle_since.pop(plan, None)
            elif now - self._idle_since.setdefault(plan, now) > self._settings.definition_keep_s:
                old.append(plan)
        for plan in old:
            self._idle_since.pop(plan, None)
        if old:
            self._dropping.update(old)
            self.submit(c.DropDefinitions(old))


def _encode_batch(
    now: float, chance: float, token: int, items: Iterable[_Item]
) -> tuple[list[c.Command], bytes]:
    commands: list[c.Command] = []
    for item in items:
        if item.first is not None:
            commands.append(item.first)
        commands.append(item.command)
    return commands, c.encode(c.Batch(now, chance, token, commands))


class _Parts:
    """Sends one batch that is too big for an entry, a few parts at a time."""

    def __init__(self, leader: Leader, token: int, data: bytes, part_bytes_max: int, window: int) -> None:
        self._leader = leader
        self.token = token
        count = -(-len(data) // part_bytes_max)
        size = -(-len(data) // count)
        self._parts = [
            c.Part(token, index, count, data[index * size : (index + 1) * size]) for index in range(count)
        ]
        self._window = window
        self._next = 0
        self._under_way = 0
        self._failed = False

    def start(self) -> None:
        """Send the first ones; the rest follows as they are committed."""
        while not self._failed and self._next < len(self._parts) and self._under_way < self._window:
            part = self._parts[self._next]
            self._next += 1
            try:
                future = self._leader.propose_part(c.encode(part))
            except raft_errors.RaftError as error:
                self._fail(error)
                return
            self._under_way += 1
            future.add_done_callback(self._done)

    def _done(self, future: asyncio.Future[Any]) -> None:
        self._under_way -= 1
        error = raft_errors.OutcomeUnknown("cancelled") if future.cancelled() else future.exception()
        if error is not None:
            self._fail(error)
        else:
            self.start()

    def _fail(self, error: BaseException) -> None:
        """Nothing more is sent. Without all of its parts a batch has no effect, so a definite error stays one."""
        if not self._failed:
            self._failed = True
            self._leader.proposal_failed(self.token, error)
