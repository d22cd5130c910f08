"""Histories: JSON lines of invoke, ok, fail and info, and the operations that they describe.

The format is described in `../README.md`. A line that breaks it raises `HistoryInvalid` with its number: a history that
was read wrongly could pass.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

MISMATCH = "mismatch"
"""`error` of a failed cas that was carried out and found another value: an observation."""


class HistoryInvalid(ValueError):
    """The text is not a history."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of one client. `call` and `end` are positions in the history.

    `end` is None for an operation of unknown outcome: it may take effect at any time behind `call`, or never.
    `mismatch` marks a cas that was carried out and found another value than it expected.
    """

    process: Hashable
    f: str
    key: Hashable
    argument: Hashable
    result: Hashable
    call: int
    end: int | None
    mismatch: bool = False


def frozen(value: Any) -> Hashable:
    """A JSON value as something hashable that is equal exactly when the value is."""
    if isinstance(value, bool):
        return ("bool", value)  # True == 1 in Python, not in JSON
    if isinstance(value, list):
        return tuple(frozen(item) for item in value)
    if isinstance(value, dict):
        return ("object", *sorted((key, frozen(item)) for key, item in value.items()))
    return value  # type: ignore[no-any-return]


def parse_history(lines: Iterable[str]) -> list[Operation]:
    """The operations of a history, ordered by their call. Those that certainly had no effect are left out.

    Raises HistoryInvalid.
    """
    open_calls: dict[Hashable, tuple[int, dict[str, Any]]] = {}
    finished: set[Hashable] = set()
    operations: list[Operation] = []
    for position, line in enumerate(lines):
        event = _event(line, position)
        process = frozen(event["process"])
        if event["type"] == "invoke":
            if process in open_calls:
                raise HistoryInvalid(f"line {position + 1}: process {process} has an operation open already")
            if process in finished:
                raise HistoryInvalid(
                    f"line {position + 1}: process {process} goes on after an unknown outcome"
                )
            open_calls[process] = (position, event)
            continue
        if process not in open_calls:
            raise HistoryInvalid(f"line {position + 1}: process {process} has no open operation to end")
        call, invoke = open_calls.pop(process)
        if invoke["f"] != event["f"] or invoke.get("key") != event.get("key"):
            raise HistoryInvalid(
                f"line {position + 1}: it ends another operation than the one begun in {call + 1}"
            )
        match event["type"]:
            case "ok":
                operations.append(_operation(invoke, call, event, position))
            case "fail" if event.get("error") == MISMATCH:
                if event["f"] != "cas":
                    raise HistoryInvalid(f"line {position + 1}: only a cas can find a mismatch")
                operations.append(_operation(invoke, call, event, position, mismatch=True))
            case "fail":
                pass  # it had no effect and saw nothing
            case "info":
                finished.add(process)
                operations.append(_operation(invoke, call, None, None))
    operations += [_operation(invoke, call, None, None) for call, invoke in open_calls.values()]
    operations.sort(key=lambda operation: operation.call)
    return operations


def _event(line: str, position: int) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError as error:
        raise HistoryInvalid(f"line {position + 1} is not JSON: {error}") from error
    if not isinstance(event, dict) or not {"process", "type", "f"} <= event.keys():
        raise HistoryInvalid(f"line {position + 1} is not an event: process, type and f are needed")
    if event["type"] not in ("invoke", "ok", "fail", "info"):
        raise HistoryInvalid(f"line {position + 1}: the type is {event['type']!r}")
    if event.get("order", position) != position:
        raise HistoryInvalid(
            f"line {position + 1}: its order is {event['order']}, lines are missing or moved"
        )
    return event


def _operation(
    invoke: dict[str, Any],
    call: int,
    event: dict[str, Any] | None,
    end: int | None,
    *,
    mismatch: bool = False,
) -> Operation:
    return Operation(
        process=frozen(invoke["process"]),
        f=invoke["f"],
        key=frozen(invoke.get("key")),
        argument=frozen(invoke.get("value")),
        result=None if event is None else frozen(event.get("value")),
        call=call,
        end=end,
        mismatch=mismatch,
    )
