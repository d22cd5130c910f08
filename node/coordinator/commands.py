"""What changes the replicated state: one union of frozen structs, encoded as arrays with small integer tags.

A Raft command is one `Batch`, or one `Part` of a batch too large for an entry. Whatever a replica could not
compute alike (time, chance, ids, compiled plans) is in the command. Tags and field order are the format on disk and
on the wire: never reused, new fields go to the end with defaults. A command that a replica cannot read stops it.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from node.coordinator.state import AttemptKey, Limits
from workflow.messages import SegmentResult


class Start(Struct, frozen=True, array_like=True, tag=1, gc=False):
    """Accept an execution of a definition that is in the state (or comes earlier in the same batch)."""

    id: str
    plan: bytes
    workflow_id: str
    workflow_version: int | None
    context: bytes | None
    priority: int
    tags: dict[str, str]
    tenant: str
    timeout_s: float  # of the whole execution; 0: none
    key: str | None = None  # idempotency key
    digest: bytes = b""  # of what the key stands for


class Completed(Struct, frozen=True, array_like=True, tag=2, gc=False):
    """An attempt reported. Valid only while it is the current one."""

    id: str
    segment: int
    path: tuple[int, ...]
    attempt: int
    result: SegmentResult
    heartbeat: bytes | None = None  # details of its last one, for the attempt that follows a failure


class Lost(Struct, frozen=True, array_like=True, tag=3):
    """An attempt ended without a result, and may have run. `at_fault`: it took its runner with it."""

    id: str
    segment: int
    path: tuple[int, ...]
    attempt: int
    code: str
    reason: str
    at_fault: bool
    heartbeat: bytes | None = None


class Withdrawn(Struct, frozen=True, array_like=True, tag=4):
    """An attempt of an ending execution was never handed out."""

    id: str
    segment: int
    path: tuple[int, ...]
    attempt: int


class TimerFired(Struct, frozen=True, array_like=True, tag=5):
    """The `due` of an attempt has come; segment -1: the execution's own deadline."""

    id: str
    segment: int
    path: tuple[int, ...]
    attempt: int


class Grant(Struct, frozen=True, array_like=True, tag=6):
    """Write attempts above the window may be dispatched now."""

    attempts: list[AttemptKey]


class Cancel(Struct, frozen=True, array_like=True, tag=7):
    """Start nothing more of this execution; it ends when what runs has reported."""

    id: str
    reason: str


class Signal(Struct, frozen=True, array_like=True, tag=8):
    """Hand a value to the step that waits for `name`, or keep it until one does."""

    id: str
    name: str
    payload: bytes
    key: str | None = None  # a repetition under the same key changes nothing


class PutDefinition(Struct, frozen=True, array_like=True, tag=9):
    """A canonical definition and its compiled plan (an encoded ControlPlan: replicas do not compile)."""

    plan: bytes
    payload: bytes
    control: bytes


class DropDefinitions(Struct, frozen=True, array_like=True, tag=10):
    """Forget these unless something refers to them."""

    plans: list[bytes]


class RegisterWorkflow(Struct, frozen=True, array_like=True, tag=11):
    """Add a version, unless one with this content exists."""

    workflow_id: str
    plan: bytes
    name: str
    description: str


class DeleteWorkflow(Struct, frozen=True, array_like=True, tag=12):
    """Remove a workflow with all its versions. Executions under way go on."""

    workflow_id: str


class Configure(Struct, frozen=True, array_like=True, tag=13):
    """Replace the replicated limits."""

    limits: Limits


Command = (
    Start
    | Completed
    | Lost
    | Withdrawn
    | TimerFired
    | Grant
    | Cancel
    | Signal
    | PutDefinition
    | DropDefinitions
    | RegisterWorkflow
    | DeleteWorkflow
    | Configure
)


class Batch(Struct, frozen=True, array_like=True, tag=1):
    """Commands of one moment, applied in order, each with one answer."""

    now: float  # cluster time of the proposer
    chance: float  # in [0, 1): the source of jitter in this batch
    token: int  # the proposer's mark, by which it finds its waiting clients again
    commands: list[Command]


class Part(Struct, frozen=True, array_like=True, tag=2, gc=False):
    """A piece of an encoded Batch. Parts of one token come in order; the last one makes the batch take effect."""

    token: int
    index: int
    total: int
    chunk: bytes


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final[msgspec.msgpack.Decoder[Batch | Part]] = msgspec.msgpack.Decoder(Batch | Part)


def encode(entry: Batch | Part) -> bytes:
    """Bytes of one Raft command."""
    return _encoder.encode(entry)


def decode(data: bytes) -> Batch | Part:
    """Raises msgspec.DecodeError for bytes that encode() did not make: then the replica must stop."""
    return _decoder.decode(data)
