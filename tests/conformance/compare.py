"""When a result counts as equal: numbers as JSON numbers, objects without order, lists with, null is not []."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What came of a case here, as plain JSON data."""

    ok: bool
    stage: str = "run"
    error: str = ""
    node_results: dict[str, Any] = field(default_factory=dict)
    final_output: Any = None
    workflow_id: str = ""
    http_requests: list[str] | None = None
    terminals: tuple[str, ...] = ()  # ids in the order in which the final output is chosen


def same(left: Any, right: Any) -> bool:
    """Equal as JSON; floats within 1e-9 relative."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, int | float) and isinstance(right, int | float):
        return left == right or math.isclose(left, right, rel_tol=1e-9)
    if type(left) is not type(right):
        return False
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return bool(left == right)


def differences(expect: dict[str, Any], outcome: Outcome) -> list[str]:
    """What differs, as lines for a person; empty when the case holds."""
    if expect["ok"] != outcome.ok:
        return [f"ok: expected {expect['ok']}, got {outcome.ok} {outcome.error}".rstrip()]
    found = _failure(expect, outcome) if not expect["ok"] else _success(expect, outcome)
    if outcome.http_requests is not None and expect.get("http_requests") is not None:
        found += _unequal("http_requests", expect["http_requests"], outcome.http_requests)
    return found


def _failure(expect: dict[str, Any], outcome: Outcome) -> list[str]:
    found = _unequal("stage", expect.get("stage", "run"), outcome.stage)
    if "error_any_of" in expect:
        return found if outcome.error in expect["error_any_of"] else [*found, f"error: got {outcome.error!r}"]
    return found + _unequal("error", expect["error"], outcome.error)


def _success(expect: dict[str, Any], outcome: Outcome) -> list[str]:
    found: list[str] = []
    if "node_results" in expect:
        found += _node_results(expect, outcome)
    if "final_output" in expect and not expect.get("unordered"):
        found += _unequal("final_output", expect["final_output"], outcome.final_output)
    if "workflow_id" in expect:
        found += _unequal("workflow_id", expect["workflow_id"], outcome.workflow_id)
    return found


def _node_results(expect: dict[str, Any], outcome: Outcome) -> list[str]:
    expected, got = expect["node_results"], outcome.node_results
    found = []
    for step_id in sorted({*expected, *got}):
        if step_id not in got or step_id not in expected:
            found.append(f"node_results[{step_id}]: {'not expected' if step_id in got else 'missing'}")
        elif step_id in expect.get("unordered", ()):
            found += _unequal(
                f"sorted node_results[{step_id}]",
                sorted(expected[step_id], key=repr),
                sorted(got[step_id], key=repr),
            )
        else:
            found += _unequal(f"node_results[{step_id}]", expected[step_id], got[step_id])
    return found


def _unequal(what: str, expected: Any, got: Any) -> list[str]:
    return [] if same(expected, got) else [f"{what}: expected {_short(expected)}, got {_short(got)}"]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else text[:300] + "…"
