"""The interface between the engine and a step function.

A step function is `def run(step, inputs, state, services) -> Value` (or `async def`, for steps that do
I/O). It gets the decoded step, the results of its sources in edge order, the mutable state of the
execution and the services of the process, and returns the step's result or raises StepFailed with the
original's text (without the `error executing node <id>: ` prefix, which the engine adds). It never catches
EngineCrash or LimitExceeded, never changes `inputs`, and has no side effect but those on `state`.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from workflow import codec
from workflow.durations import parse_duration
from workflow.errors import EngineCrash, EvalError, LimitExceeded, StepFailed
from workflow.messages import StepPolicy
from workflow.values import Value

__all__ = [
    "EngineCrash",
    "EvalError",
    "Field",
    "HttpClient",
    "HttpFailed",
    "HttpRequest",
    "HttpResponse",
    "LimitExceeded",
    "NamedClient",
    "RunState",
    "Services",
    "Settings",
    "Step",
    "StepFailed",
    "StepType",
    "Suspend",
]

FIELD_KINDS = frozenset(
    {
        "string",
        "number",  # float64
        "integer",  # int: no fraction, no exponent
        "int64",
        "bool",
        "any",
        "any_number",  # any JSON value; anything but a number decodes to None
        "duration",  # a string at load; parsed when the step runs
        "string_list",
        "cases",  # list of {"when": str, "output_path": str, "is_default": bool}
        "context_values",  # list of {"name": str, "value": Any, "type": str}
    }
)


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a step's `data`.

    `required` makes the loader refuse its absence with `missing required field: <name>`; null counts as
    absent, and so does an empty list for the list kinds. An empty string does not.
    """

    name: str
    kind: str
    required: bool = False

    def __post_init__(self) -> None:
        if self.kind not in FIELD_KINDS:
            raise ValueError(f"unknown field kind {self.kind!r} of {self.name}")


@dataclass(frozen=True, slots=True)
class Step:
    """One node of a workflow, decoded.

    `data` has every field of the type's table as a key, None where absent or null; in an `any` field
    numbers are floats. `data` is None when the payload had no data: such a step fails when its turn comes.
    `raw` is the data object as it stood in the payload (numbers as JSON read them), kept for
    user-registered types and level 2.
    """

    id: str
    type: str
    data: Mapping[str, Any] | None
    raw: Mapping[str, Any] | None = None
    policy: StepPolicy | None = None
    index: int = -1  # position in the payload


@dataclass(frozen=True, slots=True)
class Suspend:
    """What a wait step returns from `wait`: the execution goes on when this is over."""

    kind: str  # timer | signal | until | child
    duration_s: float | None = None
    until: float | None = None
    name: str | None = None
    data: Value = None


RunFunction = Callable[["Step", Sequence[Value], "RunState", "Services"], Value]
AsyncRunFunction = Callable[["Step", Sequence[Value], "RunState", "Services"], Awaitable[Value]]
WaitFunction = Callable[["Step", Sequence[Value], "RunState", "Services"], Suspend | None]


@dataclass(frozen=True)
class StepType:
    """A type of step.

    `data_name` is the name of the original's Go struct, such as `NumberData`; error texts show it.
    `check` gets the decoded data after the field checks and raises ValueError with the original's text.
    `wait` (effect "wait" only) is called first; None means there is nothing to wait for. After the wait
    `run` makes the result; `state.resumed` then holds the value that ended it.
    """

    name: str
    fields: tuple[Field, ...]
    effect: str  # pure | read | write | wait
    run: RunFunction | AsyncRunFunction
    data_name: str = ""
    check: Callable[[Mapping[str, Any]], None] | None = None
    wait: WaitFunction | None = None
    needs_data: bool = True
    levels: tuple[int, ...] = (1, 2)
    is_async: bool = field(init=False)

    def __post_init__(self) -> None:
        if self.effect not in ("pure", "read", "write", "wait"):
            raise ValueError(f"unknown effect class {self.effect!r} of step type {self.name}")
        object.__setattr__(self, "is_async", inspect.iscoroutinefunction(self.run))


# --- services ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Settings:
    """The level-1 settings (FORMAT section 13); 0 means no limit where the table says so."""

    max_execution_time_ns: int = 300_000_000_000
    max_node_execution_time_ns: int = 30_000_000_000  # never checked by the original
    max_iterations: int = 1000  # never checked
    max_nodes: int = 1000  # never checked
    max_edges: int = 10_000  # never checked
    max_payload_size: int = 1_048_576  # never checked
    max_node_executions: int = 10_000
    max_variables: int = 1000
    max_string_length: int = 1_048_576  # bytes
    max_array_length: int = 10_000
    max_context_depth: int = 32
    allow_http: bool = False
    allow_localhost: bool = False
    allow_private_ips: bool = False
    allow_link_local: bool = False
    allow_cloud_metadata: bool = False
    allowed_domains: tuple[str, ...] = ()
    http_timeout_ns: int = 30_000_000_000
    max_http_redirects: int = 10
    max_response_size: int = 10_485_760
    max_http_calls_per_exec: int = 100

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Settings:
        """Settings from names and values as configuration files write them: durations as text, lists as
        lists.

        Raises ValueError for an unknown name or a duration that cannot be read.
        """
        values: dict[str, Any] = {}
        for name, value in config.items():
            key = name
            if name + "_ns" in cls.__dataclass_fields__:
                key, value = name + "_ns", parse_duration(value)
            elif name not in cls.__dataclass_fields__:
                raise ValueError(f"unknown setting {name!r}")
            elif isinstance(value, list):
                value = tuple(value)
            expected = type(getattr(cls(), key))
            if type(value) is not expected or (expected is int and value < 0):
                kind = {bool: "true or false", int: "a whole number, not negative", tuple: "a list"}[expected]
                raise ValueError(f"{name} must be {kind}")
            values[key] = value
        return cls(**values)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request that a step wants made. The client applies the address rules of `settings` after name
    resolution.
    """

    method: str
    url: str
    settings: Settings
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    timeout_s: float = 30.0
    redirects_max: int = 10
    response_bytes_max: int = 10_485_760


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer. Header names are in lower case; `body` is decompressed and within the request's bound."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HttpFailed(Exception):
    """No answer: network, name, address rule, redirect, time or size. `text` is the original's wording."""

    def __init__(self, text: str, *, retryable: bool = True) -> None:
        super().__init__(text)
        self.text = text
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class NamedClient:
    """What the node's operator set for one named client: `http` steps that name it build on it and never see it."""

    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold secrets


class HttpClient(Protocol):
    async def __call__(self, request: HttpRequest) -> HttpResponse:
        """Make the request. Raises HttpFailed when there is no usable answer."""


def _no_clock() -> datetime:
    raise StepFailed("this process gave the workflow library no clock", code="no_clock")


@dataclass(frozen=True, slots=True)
class Services:
    """What a process lends to step functions. The default lends nothing: no clock, no network."""

    settings: Settings = field(default_factory=Settings)
    now: Callable[[], datetime] = _no_clock  # aware
    http: HttpClient | None = None
    step_types: Mapping[str, StepType] = field(
        default_factory=dict
    )  # user-registered, beside the built-in ones
    timezone: Any = UTC  # zone in which level 1 shows times
    http_clients: Mapping[str, NamedClient] = field(default_factory=dict)  # level 2, by name
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep  # seconds

    def rng(self, execution_id: str, step_id: str) -> random.Random:
        """Randomness of one step of one execution: the same on every attempt."""
        seed = hashlib.sha256(f"{execution_id}\0{step_id}".encode("utf-8", "surrogatepass")).digest()
        return random.Random(seed)


# --- the state of an execution ----------------------------------------------------------------------------


class RunState:
    """Mutable state of one execution while a runner has it. Owned by the engine; step functions change it
    in place.

    `results` holds the results of finished steps by id (all of them in a local run; in a segment those
    that the segment needs). Everything else is the shared state of level 1 and travels as the blob of
    encode().
    """

    __slots__ = (
        "accumulator",
        "cache",
        "context",
        "context_consts",
        "context_vars",
        "counter",
        "execution_id",
        "executions",
        "http_calls",
        "idempotency_key",
        "loop",
        "results",
        "resumed",
        "variables",
    )

    def __init__(self, execution_id: str = "", idempotency_key: str = "") -> None:
        self.execution_id = execution_id
        self.idempotency_key = idempotency_key
        self.results: dict[str, Value] = {}
        self.variables: dict[str, Value] = {}
        self.accumulator: Value = None
        self.counter: float = 0.0
        self.cache: dict[str, tuple[Value, float]] = {}  # key -> (value, expiry in unix seconds)
        self.context_vars: dict[str, Value] = {}
        self.context_consts: dict[str, Value] = {}
        self.context: dict[str, Value] = {}  # constants overlaid by variables; see set_context
        self.http_calls = 0
        self.executions = 0  # steps run so far
        self.resumed: Value = None
        self.loop: dict[str, Value] | None = None  # level 2, in a loop body: {item, index, outer}

    def set_context(self, name: str, value: Value, *, constant: bool) -> None:
        """Set `context.<name>`. A variable hides a constant of the same name, whichever is set first."""
        if constant:
            self.context_consts[name] = value
            if name in self.context_vars:
                return
        else:
            self.context_vars[name] = value
        self.context[name] = value

    def encode(self) -> bytes:
        """The shared state without results, as an opaque blob."""
        return codec.encode(
            [
                self.variables,
                self.accumulator,
                self.counter,
                {key: [value, expiry] for key, (value, expiry) in self.cache.items()},
                self.context_vars,
                self.context_consts,
                self.http_calls,
                self.executions,
            ]
        )

    def decode(self, blob: bytes) -> None:
        """Take over the shared state of `blob`; results stay as they are. Raises CodecError for a damaged
        blob.
        """
        fields = codec.decode(blob)
        if type(fields) is not list or len(fields) < 8:
            raise codec.CodecError("the shared state of the execution is damaged")
        self.variables, self.accumulator, self.counter = fields[0], fields[1], fields[2]
        self.cache = {key: (value, expiry) for key, (value, expiry) in fields[3].items()}
        self.context_vars, self.context_consts = fields[4], fields[5]
        self.context = {**self.context_consts, **self.context_vars}
        self.http_calls, self.executions = fields[6], fields[7]
