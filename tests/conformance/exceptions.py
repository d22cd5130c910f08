"""The deliberate differences from the original, in one table; docs/compatibility.md says the same to people.

An exception names the cases that it is about, why, and what must hold instead of the recorded result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tests.conformance.cases import VECTOR_FAMILY, Case
from tests.conformance.compare import Outcome, differences, same
from workflow.graph import CYCLE_TEXT


@dataclass(frozen=True)
class Difference:
    """A deliberate difference. `check` gives lines about what is wrong, none when the case holds."""

    name: str
    reason: str
    applies: Callable[[Case], bool]
    check: Callable[[Case, dict[str, Any], Outcome], list[str]]


def _kills(case: Case) -> bool:
    return bool(case.expect.get("crash")) and not _leads_nowhere(case)


def _leads_nowhere(case: Case) -> bool:
    """An edge from a node of the workflow to none: there a crash, here refused at load."""
    if not case.expect.get("crash") or not isinstance(case.workflow or case.raw, dict | str):
        return False
    workflow = case.workflow
    if workflow is None:
        return '"source"' in (case.raw or "") and '"target"' not in (case.raw or "")
    ids = {node.get("id", "") for node in workflow.get("nodes") or []}
    edges = workflow.get("edges") or []
    return any(edge.get("target", "") not in ids and edge.get("source", "") in ids for edge in edges)


def _step_error(case: Case, expect: dict[str, Any], outcome: Outcome) -> list[str]:
    if outcome.ok or not outcome.error.startswith("error executing node "):
        return [f"expected a step error, got {outcome}"]
    return []


def _refused_at_load(case: Case, expect: dict[str, Any], outcome: Outcome) -> list[str]:
    if outcome.ok or outcome.stage != "load" or "unknown node" not in outcome.error:
        return [f"expected a refusal at load, got {outcome}"]
    return []


def _same_text(case: Case, expect: dict[str, Any], outcome: Outcome) -> list[str]:
    if outcome.ok or outcome.error != expect["error"]:
        return [f"expected the error {expect['error']!r}, got {outcome}"]
    return []


def _schema_errors_in_any_order(case: Case, expect: dict[str, Any], outcome: Outcome) -> list[str]:
    in_order = replace(
        outcome,
        node_results=_with_sorted_errors(outcome.node_results),
        final_output=_with_sorted_errors(outcome.final_output),
    )
    return differences(_with_sorted_errors(expect), in_order)


def _with_sorted_errors(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_sorted_errors(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: _with_sorted_errors(item) for key, item in value.items()}
    if isinstance(found.get("errors"), list):
        found["errors"] = sorted(found["errors"], key=lambda error: (error["field"], error["type"]))
    return found


def _first_terminal(case: Case, expect: dict[str, Any], outcome: Outcome) -> list[str]:
    found = differences(expect, outcome)
    candidates = expect["final_output_any_of"]
    if not any(same(outcome.final_output, outcome.node_results.get(step_id)) for step_id in candidates):
        found.append(f"final_output is the result of none of {candidates}")
    if outcome.terminals:
        first = next((step_id for step_id in outcome.terminals if step_id in outcome.node_results), None)
        if first not in candidates or not same(outcome.final_output, outcome.node_results[first]):
            found.append(f"final_output is not the result of {first}, the first terminal in execution order")
    return found


def _sorted_lists(case: Case, expect: dict[str, Any], outcome: Outcome) -> list[str]:
    found = differences(expect, outcome)
    for step_id in expect["unordered"]:
        data = next(node["data"] for node in case.workflow["nodes"] if node["id"] == step_id)
        got = outcome.node_results.get(step_id)
        if data.get("transform_type") == "keys" and got != sorted(got or []):
            found.append(f"node_results[{step_id}] is not sorted: {got}")
    return found


def _seeded_sample(case: Case, expect: dict[str, Any], outcome: Outcome) -> list[str]:
    found: list[str] = [] if outcome.ok else [f"failed: {outcome.error}"]
    for step_id, expected in expect["node_results"].items():
        got = outcome.node_results.get(step_id)
        if not isinstance(expected, dict) or "sample" not in expected or not isinstance(got, dict):
            if not same(expected, got):
                found.append(f"node_results[{step_id}]: expected {expected}, got {got}")
            continue
        if not same({**expected, "sample": 0}, {**got, "sample": 0}) or len(got["sample"]) != len(
            expected["sample"]
        ):
            found.append(f"node_results[{step_id}]: expected {expected}, got {got}")
    return found


def _non_finite(case: Case, expect: dict[str, Any], outcome: Outcome) -> list[str]:
    found = differences(expect, outcome)
    if "$float" not in repr(outcome.node_results):
        found.append("no non-finite number in the results")
    return found


TABLE: tuple[Difference, ...] = (
    Difference(
        "an edge to nowhere",
        "an edge from a node to an unknown one crashes the original; here the workflow is refused at load",
        _leads_nowhere,
        _refused_at_load,
    ),
    Difference(
        "process death",
        "what kills the original's process is a step error that no fallback may hide",
        _kills,
        _step_error,
    ),
    Difference(
        "cycles",
        "the original finds cycles and repeated ids when it starts to run; here they are refused before, with its text",
        lambda case: case.expect.get("error") == CYCLE_TEXT,
        _same_text,
    ),
    Difference(
        "order of schema errors",
        "the original lists the errors of a schema in random order; here they come in the order of the schema's checks",
        lambda case: case.family == VECTOR_FAMILY and "'errors': [" in repr(case.expect),
        _schema_errors_in_any_order,
    ),
    Difference(
        "parallel without limit",
        "parallel with max_concurrency 0 hangs until the time limit there; here it is a step error",
        lambda case: case.id == "parallel/limit-zero-never-ends-16",
        _step_error,
    ),
    Difference(
        "one of several final outputs",
        "the original picks at random among terminals; here it is the first in execution order",
        lambda case: "final_output_any_of" in case.expect,
        _first_terminal,
    ),
    Difference(
        "order of keys and values",
        "keys and values come in random order there, by sorted key here",
        lambda case: bool(case.expect.get("unordered")),
        _sorted_lists,
    ),
    Difference(
        "random samples",
        "sample is seeded by execution and node here: the same on every attempt, other elements than there",
        lambda case: case.nondeterministic and "sample" in repr(case.expect),
        _seeded_sample,
    ),
    Difference(
        "numbers that JSON cannot write",
        'the original fails to answer; here they are {"$float": "NaN"} and so on',
        lambda case: bool(case.expect.get("unencodable")),
        _non_finite,
    ),
)


def difference_of(case: Case) -> Difference | None:
    """The exception that a case falls under, None for most."""
    return next((difference for difference in TABLE if difference.applies(case)), None)


def check(case: Case, expect: dict[str, Any], outcome: Outcome) -> list[str]:
    """What is wrong with an outcome; empty when the case holds, as recorded or as the table says."""
    difference = difference_of(case)
    return differences(expect, outcome) if difference is None else difference.check(case, expect, outcome)
