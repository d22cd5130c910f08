"""User-registered functions as step types of the language: loading, calling, and the context that they are given.

The node loads the same modules as its runners, to know names and effects when it validates a workflow; it never calls
the functions. Values cross the border in plain Python, as its json module would read them: a number without a fraction
is an int, any other a float; what the language keeps in carriers of its own (json.Number, opaque containers) arrives
as numbers, lists and dicts. All are copies, so a function may change what it is given. A result is taken as JSON data:
numbers become float64, except integers that float64 cannot hold exactly.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import traceback
from collections.abc import Collection, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final, Protocol

from node.worker.messages import Stream
from thaiyyal.step_types import StepFailed as UserStepFailed
from thaiyyal.step_types import StepTypeError, UserStepType, registered
from workflow import codec
from workflow.errors import StepFailed
from workflow.level2.types import LEVEL2, SHAPES
from workflow.messages import Task
from workflow.steps.base import RunState, Services, Step, StepType
from workflow.steps.registry import LEVEL1
from workflow.values import Int64, JsonNumber, MapSlice, SliceMap, StringPtr, StringSlice, Value

INTEGER_EXACT_MAX: Final = 2**53  # beyond it float64 has no place for every integer
INTEGER_MIN: Final = -(2**63)
INTEGER_MAX: Final = 2**63 - 1
TRACEBACK_LINES_MAX: Final = 40


BUILTIN_NAMES: Final = frozenset({*LEVEL1, *LEVEL2, *SHAPES})
"""Names that no module may take: the step types of both levels of the language."""


class StepTypesInvalid(Exception):
    """A module with step types cannot be used; the text names it and says why."""


class Attempt(Protocol):
    """The attempt that runs now, as the functions of this file see it; the runner sets `current_attempt`."""

    task: Task
    cancelled: bool

    def report_heartbeat(self, details: bytes) -> None: ...

    def report_log(self, stream: Stream, text: str, fields: Mapping[str, Any]) -> None: ...


current_attempt: ContextVar[Attempt] = ContextVar("current_attempt")


def load_step_types(
    modules: Sequence[str], *, builtin: Collection[str] = BUILTIN_NAMES
) -> dict[str, StepType]:
    """Import the modules and return all step types registered so far.

    Raises StepTypesInvalid when a module does not import, registers wrongly, or takes the name of a built-in type.
    """
    for module in modules:
        if module.endswith(".py") or "/" in module:
            raise StepTypesInvalid(
                f"--load takes the name of a module, as in `import {_module_name(module)}`"
            )
        try:
            importlib.import_module(module)
        except StepTypeError as error:
            raise StepTypesInvalid(f"module {module}: {error}") from error
        except ModuleNotFoundError as error:
            if error.name is not None and f"{module}.".startswith(f"{error.name}."):
                raise StepTypesInvalid(
                    f"there is no module {module} on the import path (--load {module})"
                ) from error
            raise StepTypesInvalid(_import_failed(module, error)) from error
        except (Exception, SystemExit) as error:
            raise StepTypesInvalid(_import_failed(module, error)) from error
    for name, declared in registered().items():
        if name in builtin:
            raise StepTypesInvalid(
                f"{declared.function.__module__} registers a step type {name}, which is built in; choose another name"
            )
    return {name: adapt(declared) for name, declared in registered().items()}


def _module_name(path: str) -> str:
    return path.removesuffix(".py").strip("./").replace("/", ".")


def _import_failed(module: str, error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"module {module} does not load: {type(error).__name__}: {error}{place}"


def adapt(declared: UserStepType) -> StepType:
    """The step type of the language that calls the function."""
    return StepType(
        name=declared.name,
        fields=(),
        effect=declared.effect,
        run=_async_run(declared) if declared.is_async else _sync_run(declared),
        check=_field_check(declared) if declared.fields_required else None,
        needs_data=False,
    )


def _field_check(declared: UserStepType) -> Any:
    def check(data: Mapping[str, Any]) -> None:
        missing = declared.missing_fields(data)
        if missing:
            raise ValueError(f"step type {declared.name} needs {', '.join(missing)} in the step's data")

    return check


def _sync_run(declared: UserStepType) -> Any:
    takes_context = declared.takes_context
    origin = f"step type {declared.name}"

    def run(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
        given = [to_plain(value) for value in inputs]
        data = {name: to_plain(value) for name, value in step.data.items()} if step.data else {}
        context = Context(step.id, given, data, current_attempt.get()) if takes_context else None
        try:
            result = declared.call(given, data, context)
        except (Exception, SystemExit) as error:
            raise _failed(error) from error
        return from_result(result, origin)

    return run


def _async_run(declared: UserStepType) -> Any:
    takes_context = declared.takes_context
    origin = f"step type {declared.name}"

    async def run(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
        given = [to_plain(value) for value in inputs]
        data = {name: to_plain(value) for name, value in step.data.items()} if step.data else {}
        context = Context(step.id, given, data, current_attempt.get()) if takes_context else None
        try:
            result = await declared.call(given, data, context)
        except asyncio.CancelledError:
            raise
        except (Exception, SystemExit) as error:
            raise _failed(error) from error
        return from_result(result, origin)

    return run


def _failed(error: BaseException) -> StepFailed:
    """The language's error for what a function raised; the traceback goes to the attempt's log."""
    if isinstance(error, UserStepFailed):
        return StepFailed(error.message, code=error.code, retryable=error.retryable, type="StepFailed")
    if isinstance(error, StepFailed):
        return error
    kind = type(error).__name__
    if isinstance(error, MemoryError):
        return StepFailed("the step ran out of memory", code="out_of_memory", type=kind)
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in _OUR_FILES:
        trace = trace.tb_next  # the user's own frames are what helps
    lines = traceback.format_exception(type(error), error, trace)
    text = "".join(lines).rstrip().split("\n")[-TRACEBACK_LINES_MAX:]
    current_attempt.get().report_log("stderr", "\n".join(text), {})
    message = str(error)
    return StepFailed(f"{kind}: {message}" if message else kind, code="step_failed", type=kind)


_OUR_FILES: Final = (__file__, UserStepType.call.__code__.co_filename)


class Context:
    """The StepContext of one call. See thaiyyal.step_types for what its members promise."""

    __slots__ = ("_attempt", "_data", "_inputs", "_step_id")

    def __init__(
        self, step_id: str, inputs: Sequence[Any], data: Mapping[str, Any], attempt: Attempt
    ) -> None:
        self._step_id = step_id
        self._inputs = inputs
        self._data = data
        self._attempt = attempt

    @property
    def step_id(self) -> str:
        return self._step_id

    @property
    def inputs(self) -> Sequence[Any]:
        return self._inputs

    @property
    def data(self) -> Mapping[str, Any]:
        return self._data

    @property
    def execution_id(self) -> str:
        return self._attempt.task.execution_id

    @property
    def attempt(self) -> int:
        return self._attempt.task.attempt

    @property
    def idempotency_key(self) -> str:
        return self._attempt.task.idempotency_key

    @property
    def heartbeat_details(self) -> Any:
        details = self._attempt.task.heartbeat
        return None if details is None else to_plain(codec.decode(details))

    @property
    def cancelled(self) -> bool:
        return self._attempt.cancelled

    def heartbeat(self, details: Any = None) -> None:
        """Raises StepFailed (of the language) when `details` are no value."""
        self._attempt.report_heartbeat(codec.encode(from_result(details, "heartbeat")))

    def log(self, message: str, /, **fields: Any) -> None:
        self._attempt.report_log("log", str(message), fields)


def to_plain(value: Value) -> Any:
    """A copy of the value in plain Python types, as a user's function gets it."""
    kind = type(value)
    if kind is float:
        is_exact = value.is_integer() and -INTEGER_EXACT_MAX <= value <= INTEGER_EXACT_MAX
        return int(value) if is_exact else value
    if kind is str or value is None or kind is bool or kind is int:
        return value
    if kind is dict:
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [to_plain(item) for item in value]
    if kind is JsonNumber:
        return _plain_number(value.text)
    if kind is Int64:
        return int(value)
    if kind is SliceMap or kind is MapSlice or kind is StringSlice:
        return to_plain(value.items)
    if kind is StringPtr:
        return value.value
    return value


def _plain_number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def from_result(value: Any, origin: str) -> Value:
    """What a function returned, as a value of the language. Raises StepFailed that names `origin` and the place."""
    kind = type(value)
    if kind is float or value is None or kind is bool:
        return value
    try:
        return _from_result(value, "")
    except _NoValue as error:
        raise StepFailed(
            f"{origin}: the value cannot be passed on: {error}", code="result_not_encodable", retryable=False
        ) from error
    except RecursionError as error:
        raise StepFailed(
            f"{origin}: the value cannot be passed on: it is nested too deeply, or contains itself",
            code="result_not_encodable",
            retryable=False,
        ) from error


class _NoValue(Exception):
    """The text says where in the result, and which type."""


def _from_result(value: Any, place: str) -> Value:
    kind = type(value)
    if kind is float or value is None or kind is bool:
        return value
    if kind is str:
        return _text(value, place)
    if kind is dict:
        return {_key(key, place): _from_result(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_from_result(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, str):  # a subclass, such as an enum
        return _text(str.__str__(value), place)
    if isinstance(value, float):  # numpy's float64 is one
        return float(value)
    if isinstance(value, int):
        return _number(int(value), place)
    if isinstance(value, Mapping):
        return {_key(key, place): _from_result(item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value
    raise _NoValue(_why_no_value(value, place))


def _text(value: str, place: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise _NoValue(f"text that is not valid Unicode{_at(place)}: {error.reason}") from error
    return value


def _number(value: int, place: str) -> Value:
    if -INTEGER_EXACT_MAX <= value <= INTEGER_EXACT_MAX:
        return float(value)
    if INTEGER_MIN <= value <= INTEGER_MAX:
        return value
    raise _NoValue(f"an integer that does not fit into 64 bits{_at(place)}")


def _key(key: Any, place: str) -> str:
    if isinstance(key, str):
        return _text(str.__str__(key), place)
    raise _NoValue(f"a dict with a key of type {type(key).__name__}{_at(place)}; keys must be text")


def _why_no_value(value: Any, place: str) -> str:
    if inspect.iscoroutine(value):
        value.close()  # nobody will await it
        return f"a coroutine{_at(place)}; declare the function with `async def`"
    if isinstance(value, datetime):
        return f"a datetime without a time zone{_at(place)}"
    hint = "; bytes must be made text first" if isinstance(value, bytes | bytearray) else ""
    hint = "; make it a list" if isinstance(value, set | frozenset) else hint
    return f"a value of type {type(value).__name__}{_at(place)}{hint}"


def _at(place: str) -> str:
    return f" at {place.lstrip('.')}" if place else ""
