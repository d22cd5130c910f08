"""One flush: everything that changed since the last one, as it was at one applied index.

Making the job fixes the index and takes the lists; `encode_some` encodes rows in slices, between which entries go on
being applied. An execution that is about to change before its turn is encoded first (`State.changing`), so that all
rows are of the same index. The finished job is plain data for a thread; it is written until it succeeds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from node.coordinator.effects import Finished
from node.coordinator.state import Changes, Dedupe, Execution, State, encode_execution
from workflow.messages import ControlPlan

encode_control: Final = msgspec.msgpack.Encoder().encode
decode_control: Final[Callable[[bytes], ControlPlan]] = msgspec.msgpack.Decoder(ControlPlan).decode
encode_any: Final = msgspec.msgpack.Encoder().encode


class FinishedRow(msgspec.Struct, gc=False):
    """A line of history: searchable columns, and the whole record."""

    number: int
    id: str
    status: str
    workflow_id: str
    created_at: float
    started_at: float
    finished_at: float
    tags: dict[str, str]
    error: str | None
    steps_total: int
    steps_done: int
    plan: bytes
    record: bytes


def finished_row(x: Execution, steps_total: int) -> FinishedRow:
    """The line for an execution that has ended."""
    return FinishedRow(
        x.number,
        x.id,
        x.status,
        x.workflow_id,
        x.created_at,
        x.started_at,
        x.finished_at,
        x.tags,
        x.error.message[:500] if x.error is not None else None,
        steps_total,
        len(x.outputs),
        x.plan,
        encode_execution(x),
    )


class FlushJob:
    """What one flush writes. Built on the loop, written by the store's thread, never changed once complete."""

    __slots__ = (
        "accepted",
        "cache_put",
        "cache_removed",
        "dedupe_put",
        "dedupe_removed",
        "definitions_put",
        "definitions_removed",
        "ended",
        "finished",
        "index",
        "limits",
        "now",
        "plans",
        "rates_put",
        "rates_removed",
        "removed",
        "rows",
        "term",
        "workflows_put",
        "workflows_removed",
    )

    def __init__(
        self, state: State, *, index: int, term: int, ended: list[Finished], accepted_before: int
    ) -> None:
        """Fix the moment. `accepted_before`: executions accepted up to the flush before; later ones have no row."""
        changes = state.changes
        state.changes = Changes()
        assert not state.frozen, "one flush at a time"
        assert not state.images, "one flush at a time"
        self.index = index
        self.term = term
        self.now = state.now
        self.accepted = state.accepted
        self.limits = encode_any(state.limits)
        self.rows: list[tuple[int, bytes]] = []
        self.removed: list[tuple[int]] = []
        self.ended = ended
        self.finished: list[FinishedRow] = []
        self.plans: dict[
            bytes, tuple[bytes, bytes]
        ] = {}  # of finished executions: hash -> (control, payload)
        for number, execution in changes.executions.items():
            if not execution.status:
                state.frozen[number] = execution
            elif number <= accepted_before:
                self.removed.append((number,))
        self.definitions_put: list[tuple[bytes, bytes, bytes]] = []
        self.definitions_removed: list[tuple[bytes]] = []
        for plan in changes.definitions:
            definition = state.definitions.get(plan)
            if definition is None:
                self.definitions_removed.append((plan,))
            else:
                self.definitions_put.append((plan, definition.payload, encode_control(definition.plan)))
        self.workflows_put: list[tuple[str, bytes]] = []
        self.workflows_removed: list[tuple[str]] = []
        for name in changes.workflows:
            workflow = state.workflows.get(name)
            if workflow is None:
                self.workflows_removed.append((name,))
            else:
                self.workflows_put.append((name, encode_any(workflow)))
        self.dedupe_put: list[tuple[str, str, str, bytes, float, int]] = []
        self.dedupe_removed: list[tuple[str, str]] = []
        for key in changes.dedupe:
            claim: Dedupe | None = state.dedupe.get(key)
            if claim is None:
                self.dedupe_removed.append(key)
            else:
                self.dedupe_put.append((*key, claim.execution_id, claim.digest, claim.at, claim.number))
        self.cache_put: list[tuple[str, str, bytes, float]] = []
        self.cache_removed: list[tuple[str, str]] = []
        self.rates_put: list[tuple[str, str, bytes]] = []
        self.rates_removed: list[tuple[str, str]] = []
        cache_changed, rates_changed = state.keyed.take_changes()
        for key in cache_changed:
            entry = state.keyed.cache.get(key)
            if entry is None:
                self.cache_removed.append(key)
            else:
                self.cache_put.append((*key, entry.value, entry.ends))
        for key in rates_changed:
            rate = state.keyed.rates.get(key)
            if rate is None:
                self.rates_removed.append(key)
            else:
                self.rates_put.append((*key, encode_any(rate)))

    def encode_some(self, state: State, *, count_max: int) -> bool:
        """Encode up to so many rows; True when the job is complete."""
        frozen = state.frozen
        while frozen and count_max > 0:
            number, execution = frozen.popitem()
            self.rows.append((number, encode_execution(execution)))
            count_max -= 1
        while len(self.finished) < len(self.ended) and count_max > 0:
            ended = self.ended[len(self.finished)]
            self.finished.append(finished_row(ended.execution, len(ended.definition.plan.step_ids)))
            count_max -= 1
        if frozen or len(self.finished) < len(self.ended):
            return False
        self.rows.extend(state.images)
        state.images = []
        return True
