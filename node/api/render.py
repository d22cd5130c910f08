"""Views of the engine as JSON bytes.

Results arrive as encoded values (workflow.codec). Small ones repeat (statuses, flags, counters), so their JSON is
kept in a bounded cache; the rest of an object is spliced from finished pieces instead of being built as a dict.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Raw
from msgspec import json as msgspec_json

from node.engine import ExecutionEvent, ExecutionSummary, ExecutionView, StepView, WorkflowView
from workflow.codec import decode
from workflow.messages import StepError
from workflow.values import to_json

# Values of up to this size are worth keeping; bigger ones rarely repeat.
_cached_value_bytes_max: Final = 64
# Some megabytes at most; emptied when full, which costs less than bookkeeping of ages.
_cached_values_max: Final = 8192
# Beyond 2^53 a float64 is no exact integer any more, and stays in scientific form.
_exact_integer_max: Final = 2.0**53

_encode = msgspec_json.encode
_json_of_small: dict[bytes, bytes] = {}
_second: tuple[int, str] = (-1, "")


def value_json(encoded: bytes) -> bytes:
    """An encoded value as JSON: integral floats without `.0`, non-finite ones as {"$float": "NaN"}."""
    small = len(encoded) <= _cached_value_bytes_max
    if small:
        known = _json_of_small.get(encoded)
        if known is not None:
            return known
    text = _encode(plain(decode(encoded)))
    if small:
        if len(_json_of_small) >= _cached_values_max:
            _json_of_small.clear()
        _json_of_small[encoded] = text
    return text


def plain(value: Any) -> Any:
    """A value as data for a JSON encoder, objects with sorted keys as the original writes them."""
    kind = type(value)
    if kind is float:
        if -_exact_integer_max < value < _exact_integer_max and value == int(value):
            return int(value)
        return to_json(value)
    if kind is str or value is None or kind is bool or kind is int:
        return value
    if kind is dict:
        return {key: plain(value[key]) for key in sorted(value)}
    if kind is list:
        return [plain(item) for item in value]
    data = to_json(value)
    return plain(data) if type(data) in (dict, list, float) else data


def time_text(moment: float) -> str:
    """Unix seconds as RFC 3339 in UTC with milliseconds."""
    global _second
    milliseconds = int(moment * 1000 + 0.5)
    second, rest = divmod(milliseconds, 1000)
    if _second[0] != second:
        _second = (second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)))
    return f"{_second[1]}.{rest:03d}Z"


def _moment(moment: float | None) -> bytes:
    return b"null" if moment is None else b'"%b"' % time_text(moment).encode()


def error_json(error: StepError | None) -> bytes:
    """`{"code", "message", "node"}` or null; with the error's type and whether it may be retried, where known."""
    return b"null" if error is None else _encode(error_object(error))


def error_object(error: StepError) -> dict[str, Any]:
    """The same as a dict."""
    data: dict[str, Any] = {"code": error.code, "message": error.message, "node": error.node}
    if error.type:
        data["type"] = error.type
    return data


def execution_json(view: ExecutionView) -> bytes:
    """The execution object of the API."""
    results = view.node_results
    parts = [
        b'{"id":"',
        view.id.encode(),
        b'","workflow_id":',
        _encode(view.workflow_id),
        b',"workflow_version":',
        b"null" if view.workflow_version is None else b"%d" % view.workflow_version,
        b',"status":"',
        view.status.encode(),
        b'","node_results":{',
        b",".join([_encode(key) + b":" + value_json(value) for key, value in results.items()])
        if results
        else b"",
        b'},"final_output":',
        b"null" if view.final_output is None else value_json(view.final_output),
        b',"error":',
        error_json(view.error),
        b',"created_at":',
        _moment(view.created_at),
        b',"started_at":',
        _moment(view.started_at),
        b',"finished_at":',
        _moment(view.finished_at),
        b',"priority":%d,"tags":' % view.priority,
        _encode(view.tags) if view.tags else b"{}",
        b',"steps_total":%d,"steps_done":%d' % (view.steps_total, view.steps_done),
    ]
    if view.steps is not None:
        parts += [b',"steps":', _encode([step_object(step) for step in view.steps])]
    if view.parent is not None:
        parts.append(b',"parent":"%b"' % view.parent.encode())
    if view.deduplicated:
        parts.append(b',"deduplicated":true')
    parts.append(b"}\n")
    return b"".join(parts)


def step_object(step: StepView) -> dict[str, Any]:
    """One step's state."""
    return {
        "id": step.id,
        "type": step.type,
        "status": step.status,
        "path": list(step.path),
        "attempt": step.attempt,
        "started_at": None if step.started_at is None else time_text(step.started_at),
        "finished_at": None if step.finished_at is None else time_text(step.finished_at),
        "error": None if step.error is None else error_object(step.error),
        "waits_for": step.waits_for,
    }


def summary_object(item: ExecutionSummary) -> dict[str, Any]:
    """A line of a list."""
    return {
        "id": item.id,
        "workflow_id": item.workflow_id,
        "status": item.status,
        "created_at": time_text(item.created_at),
        "started_at": None if item.started_at is None else time_text(item.started_at),
        "finished_at": None if item.finished_at is None else time_text(item.finished_at),
        "tags": item.tags,
        "error_message": item.error_message,
        "steps_total": item.steps_total,
        "steps_done": item.steps_done,
    }


def event_object(event: ExecutionEvent) -> dict[str, Any]:
    """One line of an execution's history."""
    data: dict[str, Any] = {"seq": event.seq, "time": time_text(event.time), "type": event.type}
    if event.step is not None:
        data["step"] = event.step
    if event.path:
        data["path"] = list(event.path)
    if event.attempt is not None:
        data["attempt"] = event.attempt
    if event.detail:
        data["detail"] = plain(event.detail)
    return data


def workflow_object(view: WorkflowView, *, payload: bool = False) -> dict[str, Any]:
    """A registered workflow; with its payload as it was sent when `payload` is set."""
    data: dict[str, Any] = {
        "id": view.id,
        "version": view.version,
        "name": view.name,
        "description": view.description,
        "hash": view.hash,
        "created_at": time_text(view.created_at),
        "steps_total": view.steps_total,
    }
    if payload and view.payload is not None:
        data["workflow"] = Raw(view.payload)
    return data


def page_json(name: str, items: Sequence[Mapping[str, Any]], cursor: str | None) -> bytes:
    """A page of a list."""
    return _encode({name: items, "cursor": cursor}) + b"\n"
