"""The leader's view of work: what is ready, who has room, what is out. Volatile: rebuilt from the state.

Order: per queue, priority 9 before 8 … before 0, first in first out within one. Where fairness by key and aging go is
`ReadyQueue`: it alone decides what is next. Where labels go is `Worker.accepts`.

Nothing here is durable, and nothing needs to be: the state says which attempts are ACTIVE, workers say which they run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final, Protocol

from node.coordinator.effects import Ready
from node.coordinator.state import AttemptKey, Stage
from node.worker.messages import TaskFrame

PRIORITIES: Final = 10


class Workers(Protocol):
    """Where tasks go: a pool of runners here, or a link to another node's."""

    def submit(self, tasks: list[TaskFrame]) -> None:
        """Run these. Each ends in exactly one outcome, given to the coordinator."""
        ...

    def cancel(self, execution_id: str, segment: int, path: tuple[int, ...], attempt: int) -> None:
        """Stop this attempt; its outcome still comes. Nothing if it is unknown."""
        ...


def key_of(ready: Ready) -> AttemptKey:
    """The attempt's name in the whole cluster."""
    return (ready.execution.id, ready.attempt.segment, ready.scope.path, ready.number)


def is_current(ready: Ready) -> bool:
    """Does the state still want this attempt dispatched (or granted)?"""
    attempt = ready.attempt
    return (
        attempt.number == ready.number
        and attempt.stage <= Stage.ACTIVE
        and ready.scope.attempts.get(attempt.segment) is attempt
        and ready.scope.failed is None
        and not ready.execution.ending
        and not ready.execution.status
    )


class ReadyQueue:
    """What waits in one queue, by priority. Attempts whose grant was asked for come back in front."""

    __slots__ = ("_count", "_front", "_levels", "_rest")

    def __init__(self) -> None:
        self._front: list[deque[AttemptKey]] = [deque() for _ in range(PRIORITIES)]
        self._rest: list[deque[AttemptKey]] = [deque() for _ in range(PRIORITIES)]
        self._levels = 0  # bit p: something of priority p is here
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def push(self, key: AttemptKey, priority: int, *, in_front: bool) -> None:
        """Last of its priority, or last of those in front."""
        (self._front if in_front else self._rest)[priority].append(key)
        self._levels |= 1 << priority
        self._count += 1

    def pop(self) -> AttemptKey | None:
        """The next one, None when empty."""
        while self._levels:
            priority = self._levels.bit_length() - 1
            for level in (self._front[priority], self._rest[priority]):
                if level:
                    self._count -= 1
                    return level.popleft()
            self._levels &= ~(1 << priority)
        return None


class Worker:
    """Somebody with runner slots. `capacity`: how many attempts it takes at once (its credits)."""

    __slots__ = ("capacity", "id", "queues", "reserved", "running", "sink")

    def __init__(self, id: str, sink: Workers, capacity: int, queues: frozenset[str] | None) -> None:
        self.id = id
        self.sink = sink
        self.capacity = capacity
        self.queues = queues  # None: all
        self.running: dict[AttemptKey, Ready] = {}
        self.reserved: dict[AttemptKey, None] = {}  # grants asked for: they will need a slot

    @property
    def free(self) -> int:
        """Slots without an attempt."""
        return self.capacity - len(self.running) - len(self.reserved)

    def accepts(self, queue: str) -> bool:
        """May attempts of this queue go here?"""
        return self.queues is None or queue in self.queues


class Scheduler:
    """Owner of ready queues and workers. All methods are called on the event loop."""

    def __init__(self) -> None:
        self._queues: dict[str, ReadyQueue] = {}
        self._waiting: dict[AttemptKey, Ready] = {}
        self._asked: dict[AttemptKey, Worker] = {}
        self.workers: dict[str, Worker] = {}
        self.dispatched_total = 0

    # ---- workers ---------------------------------------------------------------------------------------------

    def add_worker(self, worker: Worker) -> None:
        """A worker with room has come."""
        self.workers[worker.id] = worker

    def remove_worker(self, worker_id: str) -> list[Ready]:
        """It is gone; these are what it had."""
        worker = self.workers.pop(worker_id, None)
        if worker is None:
            return []
        for key in worker.reserved:
            self._asked.pop(key, None)
        return list(worker.running.values())

    def release(self, worker_id: str, key: AttemptKey) -> Ready | None:
        """An attempt of this worker has ended: its slot is free. None if it was not known to be there."""
        worker = self.workers.get(worker_id)
        return worker.running.pop(key, None) if worker is not None else None

    @property
    def capacity(self) -> int:
        """Slots of all workers together."""
        return sum(worker.capacity for worker in self.workers.values())

    @property
    def running(self) -> int:
        """Attempts that are out."""
        return sum(len(worker.running) for worker in self.workers.values())

    def is_running(self, key: AttemptKey) -> bool:
        """Is this attempt with a worker?"""
        return any(key in worker.running for worker in self.workers.values())

    # ---- work ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, ready: Ready, queue: str, priority: int) -> None:
        """Queue an attempt. A granted one goes before those that never had their turn."""
        key = key_of(ready)
        asked = self._asked.pop(key, None)
        if asked is not None:
            asked.reserved.pop(key, None)
        if key in self._waiting:
            self._waiting[key] = ready
            return
        self._waiting[key] = ready
        found = self._queues.get(queue)
        if found is None:
            found = self._queues[queue] = ReadyQueue()
        found.push(key, min(max(priority, 0), PRIORITIES - 1), in_front=asked is not None)

    def withdraw(self, key: AttemptKey) -> Ready | None:
        """Take an attempt out before it is handed out; None if it is not waiting."""
        ready = self._waiting.pop(key, None)
        asked = self._asked.pop(key, None)
        if asked is not None:
            asked.reserved.pop(key, None)
        return ready

    def knows(self, key: AttemptKey) -> bool:
        """Is it waiting here, asked a grant for, or with a worker?"""
        return key in self._waiting or key in self._asked or self.is_running(key)

    def is_waiting(self, key: AttemptKey) -> bool:
        """Is this attempt ready and not handed out?"""
        return key in self._waiting

    def worker_of(self, key: AttemptKey) -> Worker | None:
        """Who runs it."""
        for worker in self.workers.values():
            if key in worker.running:
                return worker
        return None

    def assign(self) -> tuple[list[tuple[Worker, list[Ready]]], list[AttemptKey]]:
        """Hand out as much as there is room for: (worker, attempts) to submit, and grants to be proposed."""
        batches: dict[str, list[Ready]] = {}
        grants: list[AttemptKey] = []
        for name in list(self._queues):
            queue = self._queues[name]
            candidates = [
                worker for worker in self.workers.values() if worker.free > 0 and worker.accepts(name)
            ]
            while candidates and len(queue):
                worker = candidates[0] if len(candidates) == 1 else max(candidates, key=lambda w: w.free)
                if worker.free <= 0:
                    break
                ready = self._next(queue)
                if ready is None:
                    break
                key = key_of(ready)
                if ready.attempt.stage == Stage.QUEUED:
                    grants.append(key)
                    worker.reserved[key] = None
                    self._asked[key] = worker
                    continue
                worker.running[key] = ready
                self.dispatched_total += 1
                batches.setdefault(worker.id, []).append(ready)
            if not len(queue):
                del self._queues[name]
        return [(self.workers[worker_id], batch) for worker_id, batch in batches.items()], grants

    def _next(self, queue: ReadyQueue) -> Ready | None:
        while (key := queue.pop()) is not None:
            ready = self._waiting.pop(key, None)
            if ready is not None and is_current(ready):
                return ready
        return None

    def backlog(self) -> dict[str, int]:
        """Waiting attempts per queue."""
        return {name: len(queue) for name, queue in self._queues.items()}

    def clear(self) -> None:
        """Forget what waits and what is asked for; workers and what they run stay."""
        self._queues.clear()
        self._waiting.clear()
        self._asked.clear()
        for worker in self.workers.values():
            worker.reserved.clear()

    def all_running(self) -> Iterator[tuple[Worker, AttemptKey, Ready]]:
        """Everything that is out."""
        for worker in self.workers.values():
            for key, ready in worker.running.items():
                yield worker, key, ready
