"""Step types of your own: a Python function that workflows use as a step.

    from thaiyyal import StepContext, step_type

    @step_type("resize_image", effect="write")
    def resize_image(image, width=640, *, ctx: StepContext):
        ctx.log("resizing", width=width)
        return {"path": shrink(image["path"], width)}

A workflow node `{"id": "small", "type": "resize_image", "data": {"width": 320}}` then runs it, once a node was started
with `--load my_module`. **What the function receives**, by its parameters:

- the first positional parameter: the step's first input, None if it has none; `*others` after it: the further inputs.
  Named `inputs`, it receives the list of all inputs instead;
- `ctx`: a `StepContext` (ids, idempotency key, heartbeat, log);
- every other parameter: the field of the node's `data` with that name; without a default the field must be there;
  `**fields`: all fields of `data` that no parameter names.

Values are plain Python, as the json module reads them: a number without a fraction is an int, any other a float.
What the function returns is the step's result: None, bool, numbers, str, lists, dicts with str keys, aware datetimes.

`async def` functions run many at once in a runner; plain functions run one at a time. An exception fails the attempt
(`StepFailed` says whether another attempt makes sense).

Nothing here imports the rest of Thaiyyal: a module with step types can be imported and tested anywhere.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol, TypeVar, overload

Effect = Literal["pure", "read", "write"]
EFFECTS: Final = ("pure", "read", "write")

NAME_PATTERN: Final = re.compile(r"[a-z][a-z0-9_.\-]{0,127}\Z")

_F = TypeVar("_F", bound=Callable[..., Any])


class StepFailed(Exception):
    """Raise it in a step to say how the attempt failed.

    `code` is what retry rules match on; `retryable=False` ends the step at once, whatever its retry policy says.
    """

    def __init__(self, message: str, *, code: str = "step_failed", retryable: bool = True) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retryable = retryable


class StepContext(Protocol):
    """What a step may know and do beside its inputs. Valid until the function returns."""

    @property
    def execution_id(self) -> str: ...

    @property
    def step_id(self) -> str: ...

    @property
    def attempt(self) -> int:
        """Which try this is, from 1."""
        ...

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this step: send it along with what must happen only once."""
        ...

    @property
    def inputs(self) -> Sequence[Any]:
        """All inputs, in edge order."""
        ...

    @property
    def data(self) -> Mapping[str, Any]:
        """All fields of the node's `data`."""
        ...

    @property
    def heartbeat_details(self) -> Any:
        """What the previous attempt last gave to `heartbeat`, None if nothing."""
        ...

    @property
    def cancelled(self) -> bool:
        """True once the execution is being cancelled: a long plain function looks at it and returns early.

        A plain function that does not return within the grace period is stopped with its whole runner process;
        an `async def` function gets `asyncio.CancelledError` instead.
        """
        ...

    def heartbeat(self, details: Any = None) -> None:
        """Report progress: feeds the heartbeat timeout, and `details` reach the next attempt if this one fails."""
        ...

    def log(self, message: str, /, **fields: Any) -> None:
        """A log line with the ids of this attempt. `print` works too."""
        ...


class StepTypeError(Exception):
    """A step type is declared wrongly; the text names the function and what to change."""


@dataclass(frozen=True, slots=True)
class UserStepType:
    """A registered function, and how its parameters are filled."""

    name: str
    effect: Effect
    function: Callable[..., Any]
    is_async: bool
    takes_input: Literal["none", "first", "all"]
    takes_others: bool  # `*others`: the inputs after the first
    takes_context: bool
    fields_required: tuple[str, ...]
    fields_optional: tuple[str, ...]
    takes_fields: bool  # `**fields`: whatever no parameter names
    description: str = field(default="", compare=False)

    @property
    def fields_named(self) -> tuple[str, ...]:
        return self.fields_required + self.fields_optional

    def missing_fields(self, data: Mapping[str, Any]) -> list[str]:
        """Fields that the function cannot do without and that `data` lacks: for validation, before anything runs."""
        return [name for name in self.fields_required if name not in data]

    def call(self, inputs: Sequence[Any], data: Mapping[str, Any], ctx: StepContext | None) -> Any:
        """Call the function. For an `async def` function the answer is the awaitable; exceptions pass through.

        Raises StepFailed (not retryable) when `data` lacks a required field.
        """
        if not data and not self.fields_required and not self.takes_others and self.takes_input == "first":
            first = inputs[0] if inputs else None  # the common case, kept short
            return self.function(first, ctx=ctx) if self.takes_context else self.function(first)
        missing = self.missing_fields(data)
        if missing:
            names = ", ".join(missing)
            raise StepFailed(
                f"step type {self.name} needs {names} in the step's data",
                code="invalid_data",
                retryable=False,
            )
        named = {name: data[name] for name in self.fields_named if name in data}
        if self.takes_fields:
            named.update((name, value) for name, value in data.items() if name not in ("ctx", "inputs"))
        if self.takes_context:
            named["ctx"] = ctx
        return self.function(*self._positional(inputs), **named)

    def _positional(self, inputs: Sequence[Any]) -> list[Any]:
        if self.takes_input == "none":
            return []
        if self.takes_input == "all":
            return [list(inputs)]
        first = [inputs[0] if inputs else None]
        return first + list(inputs[1:]) if self.takes_others else first


_registered: dict[str, UserStepType] = {}


def registered() -> Mapping[str, UserStepType]:
    """All step types that imported modules have registered, by name; a live read-only view."""
    return MappingProxyType(_registered)


@overload
def step_type(name: _F, /) -> _F: ...
@overload
def step_type(name: str | None = None, /, *, effect: Effect = "write") -> Callable[[_F], _F]: ...
def step_type(name: Any = None, /, *, effect: Effect = "write") -> Any:
    """Register the decorated function as a step type; without a name, the function's own is taken.

    `effect` says what may happen when a runner is lost in the middle: `pure` (nothing outside changes) and `read` steps
    are simply run again, a `write` step only if its retry policy allows another attempt. Raises StepTypeError for a bad
    name, a name that another function has, or a signature that cannot be filled. The function itself is returned
    unchanged, so it can be called and tested directly.
    """
    if callable(name):
        return step_type()(name)

    def register(function: _F) -> _F:
        declared = describe(function, name=name or getattr(function, "__name__", ""), effect=effect)
        other = _registered.get(declared.name)
        if other is not None and _place(other.function) != _place(function):
            raise StepTypeError(
                f"step type {declared.name} is registered twice: by {_place(other.function)} and by {_place(function)}"
            )
        _registered[declared.name] = declared
        return function

    return register


def describe(function: Callable[..., Any], *, name: str, effect: Effect = "write") -> UserStepType:
    """How `function` is called as a step; the pure part of `step_type`, registers nothing."""
    if not isinstance(name, str) or not NAME_PATTERN.match(name):
        raise StepTypeError(
            f"{name!r} is no name for a step type: lower-case letters, digits, `_`, `-` and `.`, "
            "beginning with a letter, at most 128"
        )
    if effect not in EFFECTS:
        raise StepTypeError(f"step type {name}: effect is {effect!r}, must be one of {', '.join(EFFECTS)}")
    takes_input: Literal["none", "first", "all"] = "none"
    takes_others = takes_context = takes_fields = False
    required: list[str] = []
    optional: list[str] = []
    for position, parameter in enumerate(inspect.signature(function).parameters.values()):
        if parameter.kind is parameter.VAR_POSITIONAL:
            takes_others = True
        elif parameter.kind is parameter.VAR_KEYWORD:
            takes_fields = True
        elif parameter.name == "ctx":
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise StepTypeError(
                    f"step type {name}: ctx is passed by name, it must not stand before a `/`"
                )
            takes_context = True
        elif position == 0 and parameter.kind is not parameter.KEYWORD_ONLY:
            takes_input = "all" if parameter.name == "inputs" else "first"
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            raise StepTypeError(
                f"step type {name}: {parameter.name} stands before a `/`, but fields of `data` are passed by name"
            )
        elif parameter.default is parameter.empty:
            required.append(parameter.name)
        else:
            optional.append(parameter.name)
    if takes_others and takes_input != "first":
        raise StepTypeError(f"step type {name}: `*others` needs a parameter for the first input before it")
    if takes_others and (clash := _named_before_others(function)):
        raise StepTypeError(
            f"step type {name}: {clash} stands between the input and `*others`; put it after them"
        )
    return UserStepType(
        name=name,
        effect=effect,
        function=function,
        is_async=_is_async(function),
        takes_input=takes_input,
        takes_others=takes_others,
        takes_context=takes_context,
        fields_required=tuple(required),
        fields_optional=tuple(optional),
        takes_fields=takes_fields,
        description=(inspect.getdoc(function) or "").partition("\n")[0],
    )


def _named_before_others(function: Callable[..., Any]) -> str | None:
    for position, parameter in enumerate(inspect.signature(function).parameters.values()):
        if position > 0 and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            return parameter.name
    return None


def _is_async(function: Callable[..., Any]) -> bool:
    if inspect.iscoroutinefunction(function):
        return True
    return inspect.iscoroutinefunction(type(function).__call__)  # an object with an `async def __call__`


def _place(function: Callable[..., Any]) -> str:
    module = getattr(function, "__module__", "?")
    return f"{module}.{getattr(function, '__qualname__', repr(function))}"
