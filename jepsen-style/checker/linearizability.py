"""Search for an order of all operations that explains what every client saw.

After Wing and Gong (1993) and Lowe (2017): the calls and ends of a history stand in a linked list. The search takes out
the first operation whose call comes before every remaining end and that is possible in the present state, and
goes on from the start; at an end it must have taken that operation before, else it puts back the last one and
tries the next. A pair (operations taken, state) that was met before is not tried again. Without ends there is nothing
left to explain: operations of unknown outcome may be left over, as they may never have happened.

Linearizability is local (Herlihy and Wing 1990), so independent keys are searched apart, in turns: a key that is
quickly found wrong is not kept waiting by one that is hard.

A search that was stopped, by time or by the number of pairs met, gives UNKNOWN. That is not a pass.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from checker.history import Operation
from checker.models import IMPOSSIBLE, Model

PAIRS_MAX = 10_000_000  # met (operations, state) pairs; some 200 bytes each
_TURN_ROUNDS = 4096  # of one key before the next has its turn, and the bounds are looked at


class Verdict(Enum):
    """What a check found out."""

    LINEARIZABLE = "linearizable"
    NOT_LINEARIZABLE = "not linearizable"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verdict and what it rests on."""

    verdict: Verdict
    key: Hashable = None  # of the object that is not linearizable, or was given up
    blocked: Operation | None = None  # not linearizable: the longest order found does not get past this one
    reason: str = ""  # unknown: which bound stopped the search
    operations: int = 0
    pairs: int = 0  # how much was searched


def check(
    operations: Sequence[Operation],
    model: Model,
    *,
    time_limit_s: float = 60.0,
    pairs_max: int = PAIRS_MAX,
    monotonic: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Whether `operations` are linearizable. One bad key is enough for NOT_LINEARIZABLE, even if another was given up.

    `time_limit_s` and `pairs_max` are for all keys together.
    """
    deadline = monotonic() + time_limit_s
    parts: dict[Hashable, list[Operation]] = {}
    for operation in operations:
        if not model.says_nothing(operation):
            parts.setdefault(operation.key if model.by_key else None, []).append(operation)
    searches = [_Search(key, part, model) for key, part in parts.items()]
    turns = deque((search, search.run()) for search in searches)
    while turns:
        search, turn = turns.popleft()
        outcome = next(turn)
        if outcome is None:
            turns.append((search, turn))
        elif outcome.verdict is Verdict.NOT_LINEARIZABLE:
            return outcome
        pairs = sum(search.pairs for search in searches)
        bound = "the time limit" if monotonic() > deadline else ""
        bound = f"the limit of {pairs_max} pairs" if pairs > pairs_max else bound
        if turns and bound:
            key = turns[0][0].key
            reason = f"{bound} ended the search"
            return Outcome(Verdict.UNKNOWN, key, reason=reason, operations=len(operations), pairs=pairs)
    pairs = sum(search.pairs for search in searches)
    return Outcome(Verdict.LINEARIZABLE, operations=len(operations), pairs=pairs)


class _Event:
    """A call or an end in the linked list."""

    __slots__ = ("bit", "end", "following", "operation", "previous")

    def __init__(self, operation: Operation, bit: int) -> None:
        self.operation = operation
        self.bit = bit  # 1 << number of the operation, for a call; 0 for an end
        self.end: _Event | None = None  # of a call
        self.previous: _Event = self
        self.following: _Event | None = None


class _Search:
    """One object. The list and the stack belong to this search alone."""

    def __init__(self, key: Hashable, operations: Sequence[Operation], model: Model) -> None:
        self.key = key
        self._model = model
        self._operations = len(operations)
        self._head = _Event(operations[0], 0)
        self._ends_left = 0
        self._met: set[tuple[int, Hashable]] = {(0, model.initial)}
        placed: list[tuple[int, _Event]] = []
        for number, operation in enumerate(operations):
            call = _Event(operation, 1 << number)
            placed.append((operation.call, call))
            if operation.end is not None:
                call.end = _Event(operation, 0)
                placed.append((operation.end, call.end))
                self._ends_left += 1
        placed.sort(key=lambda pair: pair[0])
        last = self._head
        for _, event in placed:
            last.following = event
            event.previous = last
            last = event

    @property
    def pairs(self) -> int:
        """How many (operations taken, state) were met."""
        return len(self._met)

    def run(self) -> Iterator[Outcome | None]:
        """The verdict for this object, at the end; before it None at times, so that others get their turn."""
        step = self._model.step
        state: Hashable = self._model.initial
        taken = 0
        met = self._met
        stack: list[tuple[_Event, Hashable]] = []
        deepest = -1
        blocked: Operation | None = None
        rounds = 0
        event = self._head.following
        while self._ends_left:
            rounds += 1
            if rounds % _TURN_ROUNDS == 0:
                yield None
            if event is not None and event.bit:
                after = step(state, event.operation)
                if after is not IMPOSSIBLE:
                    pair = (taken | event.bit, after)
                    if pair not in met:
                        met.add(pair)
                        stack.append((event, state))
                        taken, state = pair
                        self._take_out(event)
                        event = self._head.following
                        continue
                event = event.following
                continue
            # An end whose operation was not taken, or nothing more to try: the last choice was wrong.
            if event is not None and len(stack) > deepest:
                deepest, blocked = len(stack), event.operation
            if not stack:
                yield self._outcome(Verdict.NOT_LINEARIZABLE, blocked)
                return
            event, state = stack.pop()
            taken ^= event.bit
            self._put_back(event)
            event = event.following
        yield self._outcome(Verdict.LINEARIZABLE, None)

    def _outcome(self, verdict: Verdict, blocked: Operation | None) -> Outcome:
        return Outcome(verdict, self.key, blocked, operations=self._operations, pairs=self.pairs)

    def _take_out(self, call: _Event) -> None:
        for event in (call, call.end):
            if event is not None:
                event.previous.following = event.following
                if event.following is not None:
                    event.following.previous = event.previous
        self._ends_left -= call.end is not None

    def _put_back(self, call: _Event) -> None:
        for event in (call.end, call):
            if event is not None:
                event.previous.following = event
                if event.following is not None:
                    event.following.previous = event
        self._ends_left += call.end is not None
