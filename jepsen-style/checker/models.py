"""What operations do to a state, one model for each kind of object that a history can be of.

A model gives the state at the beginning and `step(state, operation)`: the state afterwards, or `IMPOSSIBLE` if the
operation cannot have had its result in that state. For an operation of unknown outcome (`end` is None) it gives the
state if it took effect; that it did not is not its affair. States are hashable.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from checker.history import HistoryInvalid, Operation, frozen


class _Impossible:
    def __repr__(self) -> str:
        return "IMPOSSIBLE"


IMPOSSIBLE: Final = _Impossible()


class Model(Protocol):
    """A sequential object."""

    @property
    def initial(self) -> Hashable:
        """The state at the beginning."""
        ...

    @property
    def by_key(self) -> bool:
        """Operations on different keys touch different objects, and are checked apart."""
        ...

    def step(self, state: Any, operation: Operation) -> Hashable: ...

    def says_nothing(self, operation: Operation) -> bool:
        """Neither changes the state nor tells of it."""
        ...


def _unknown(operation: Operation, model: str) -> HistoryInvalid:
    return HistoryInvalid(f"{model} has no operation {operation.f!r} with {operation.argument!r}")


@dataclass(frozen=True, slots=True)
class CasRegister:
    """read, write, cas([from, to]). With `null_is_value`, a read of null saw a register that holds null."""

    initial: Hashable = None
    null_is_value: bool = True
    by_key: bool = True

    def step(self, state: Any, operation: Operation) -> Hashable:
        """See Model."""
        argument = operation.argument
        match operation.f:
            case "read":
                if self.says_nothing(operation) or operation.result == state:
                    return state  # type: ignore[no-any-return]
                return IMPOSSIBLE
            case "write":
                return argument
            case "cas" if isinstance(argument, tuple) and len(argument) == 2:
                expected, new = argument
                if operation.mismatch:
                    return state if state != expected else IMPOSSIBLE
                return new if state == expected else IMPOSSIBLE
        raise _unknown(operation, "a register")

    def says_nothing(self, operation: Operation) -> bool:
        """See Model."""
        if operation.f != "read":
            return False
        return operation.end is None or (operation.result is None and not self.null_is_value)


@dataclass(frozen=True, slots=True)
class KvAppend:
    """get, put, append on strings; keys are independent."""

    initial: Hashable = ""
    by_key: bool = True

    def step(self, state: Any, operation: Operation) -> Hashable:
        """See Model."""
        match operation.f:
            case "get":
                return state if operation.end is None or operation.result == state else IMPOSSIBLE
            case "put":
                return operation.argument
            case "append" if isinstance(operation.argument, str):
                return state + operation.argument  # type: ignore[no-any-return]
        raise _unknown(operation, "a string")

    def says_nothing(self, operation: Operation) -> bool:
        """See Model."""
        return operation.f == "get" and operation.end is None


@dataclass(frozen=True, slots=True)
class MultiRegister:
    """txn: a list of ["read" | "write", key, value] that takes effect at once. The state: sorted (key, value) pairs."""

    initial: Hashable = (("x", 0), ("y", 0))
    by_key: bool = False

    def step(self, state: Any, operation: Operation) -> Hashable:
        """See Model."""
        parts = operation.argument if operation.result is None else operation.result
        if operation.f != "txn" or not isinstance(parts, tuple):
            raise _unknown(operation, "a set of registers")
        registers = dict(state)
        for part in parts:
            match part:
                case ("read", key, value):
                    if operation.end is not None and value is not None and registers.get(key) != value:
                        return IMPOSSIBLE
                case ("write", key, value):
                    registers[key] = value
                case _:
                    raise _unknown(operation, "a set of registers")
        return tuple(sorted(registers.items()))

    def says_nothing(self, operation: Operation) -> bool:
        """See Model."""
        return False


@dataclass(frozen=True, slots=True)
class Mutex:
    """acquire needs it free, release needs it held, by anyone."""

    initial: Hashable = False
    by_key: bool = True

    def step(self, state: Any, operation: Operation) -> Hashable:
        """See Model."""
        match operation.f:
            case "acquire":
                return IMPOSSIBLE if state else True
            case "release":
                return False if state else IMPOSSIBLE
        raise _unknown(operation, "a lock")

    def says_nothing(self, operation: Operation) -> bool:
        """See Model."""
        return False


MODELS: Final = ("cas-register", "kv-append", "multi-register", "mutex")


def model_named(name: str, *, initial: Any = None, null_read: str = "absent") -> Model:
    """The model of that name. `initial` and `null_read` (absent, any) are for the register. Raises ValueError."""
    match name:
        case "cas-register" if null_read in ("absent", "any"):
            return CasRegister(frozen(initial), null_is_value=null_read == "absent")
        case "cas-register":
            raise ValueError(f"null_read is {null_read!r}, and not absent or any")
        case "kv-append":
            return KvAppend()
        case "multi-register":
            return MultiRegister()
        case "mutex":
            return Mutex()
    raise ValueError(f"there is no model {name!r}; there are {', '.join(MODELS)}")
