"""What is odd about a workflow that loads and has a plan: warnings, for people who look before they run.

At level 1 the original passes over all of this, so none of it may refuse a payload. At level 2 the loader and the
planner refuse what cannot work; what is left here can work, and hardly does what was meant.

Nothing here runs anything. Every finding has its place, as problems have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final

from workflow.definition import Definition, FlowEdge, Problem
from workflow.level2.types import SHAPES
from workflow.plan import Plan, ReferenceFinder
from workflow.steps.base import Step
from workflow.steps.registry import LEVEL1

findings_max: Final = 100

_PORTS_LEVEL1: Final[Mapping[str, frozenset[str]]] = {
    **dict.fromkeys(set(LEVEL1), frozenset()),
    "condition": frozenset({"true", "false"}),
}
"""Ports that a type of level 1 can take, by the shape of its results; types that pass a value on may take any."""
_ANY_PORT: Final = frozenset(
    {"visualization", "renderer", "http", "expression", "parse", "extract", "switch"}
)


def findings(plan: Plan) -> list[Problem]:
    """Warnings about a workflow, in the order of the payload, at most `findings_max`."""
    definition = plan.definition
    found = [*_dead_ports(definition), *_unreachable(definition)]
    if plan.level == 1:
        found += [*_late_references(plan), *_ignored_fields(definition)]
    else:
        found += _cache_races(plan)
    return found[:findings_max]


# --- what never runs ------------------------------------------------------------------------------------------


def _can_take(step: Step, handle: str | None) -> bool:
    """Whether an edge with this handle can ever be live behind this step."""
    if handle is None:
        return True
    data = step.data or {}
    if step.type == "switch":
        return handle in {case.get("output_path") or "default" for case in data.get("cases") or ()} | {
            "error"
        }
    if step.type in SHAPES and handle == "timeout" and "timeout" in (SHAPES[step.type].ports or ()):
        return data.get("timeout") is not None
    ports = _PORTS_LEVEL1.get(step.type)
    return ports is None or step.type in _ANY_PORT or handle in ports


def _dead(definition: Definition, edge: FlowEdge, steps: Mapping[str, Step]) -> bool:
    step = steps.get(edge.source)
    if step is None or _can_take(step, edge.handle):
        return False
    # At level 2 the planner has refused unknown ports; only those are dead whose cause is missing.
    return definition.level == 1 or edge.handle == "timeout"


def _dead_ports(definition: Definition) -> Iterable[Problem]:
    steps = {step.id: step for step in definition.steps}
    for index, edge in enumerate(definition.edges):
        if not _dead(definition, edge, steps):
            continue
        step = steps[edge.source]
        why = " (it has no timeout)" if definition.level == 2 else ""
        text = f"{step.type} step {step.id!r} never takes the port {edge.handle!r}{why}"
        yield Problem(f"edges[{index}].sourceHandle", text)


def _unreachable(definition: Definition) -> Iterable[Problem]:
    steps = {step.id: step for step in definition.steps}
    waiting: dict[str, int] = {}
    targets: dict[str, list[tuple[str, bool]]] = {}
    for edge in definition.edges:
        if edge.source in steps:
            waiting[edge.target] = waiting.get(edge.target, 0) + 1
            targets.setdefault(edge.source, []).append((edge.target, _dead(definition, edge, steps)))
    live = [step_id for step_id in steps if step_id not in waiting]
    seen = set(live)
    for step_id in live:
        for target, is_dead in targets.get(step_id, ()):
            if not is_dead and target not in seen:
                seen.add(target)
                live.append(target)
    for step in definition.steps:
        if step.id not in seen:
            yield Problem(f"nodes[{step.index}]", f"{step.id!r} never runs: no edge to it is ever taken")


# --- level 1 --------------------------------------------------------------------------------------------------


def _late_references(plan: Plan) -> Iterable[Problem]:
    """References order nothing at level 1: what has not run by then is not there."""
    places = {step.id: step.index for step in plan.steps}
    finder = ReferenceFinder(places)
    for step in sorted(plan.steps, key=lambda step: step.step.index):
        for name in sorted(finder.find(step.step)):
            if places[name] >= step.index:
                text = f"reads node.{name}, which runs after this step: there is no result yet"
                yield Problem(f"nodes[{step.step.index}].data", text)


def _ignored_fields(definition: Definition) -> Iterable[Problem]:
    """Fields that nothing reads and whose name is nearly that of one that something reads."""
    hints = 0
    for step in definition.steps:
        step_type = LEVEL1.get(step.type)
        if step_type is None or not isinstance(step.raw, Mapping):
            continue
        known = [field.name for field in step_type.fields]
        missing = [name for name in known if name not in step.raw]
        for name in step.raw:
            if name in known or name == "label" or name.startswith("_") or hints >= findings_max:
                continue
            hints += 1
            near = get_close_matches(name[:200], missing, n=1, cutoff=0.75)
            if near and near[0].lower() != name.lower():
                text = f"unknown field {name!r} is passed over; did you mean {near[0]!r}?"
                yield Problem(f"nodes[{step.index}].data.{name}", text)


# --- level 2 --------------------------------------------------------------------------------------------------


def _cache_races(plan: Plan) -> Iterable[Problem]:
    """Two steps on one key of the cache, one of which changes it, with no path between them."""
    touching: dict[str, list[tuple[int, bool]]] = {}
    for step in plan.steps:
        data: Mapping[str, Any] = step.step.data or {}
        key = data.get("cache_key")
        if step.type == "cache" and type(key) is str and "{{" not in key:
            touching.setdefault(key, []).append((step.index, data.get("cache_op") != "get"))
    if not touching:
        return
    before = _ancestors(plan)
    for key, entries in touching.items():
        touched = wrote = 0
        for index, writes in entries:
            rivals = (touched if writes else wrote) & ~before[index]
            if rivals:
                step, other = plan.steps[index], plan.steps[rivals.bit_length() - 1]
                text = f"no path orders this and {other.id!r}, which is on the same key {key!r} of the cache"
                yield Problem(f"nodes[{step.step.index}]", text)
            touched |= 1 << index
            wrote |= 1 << index if writes else 0


def _ancestors(plan: Plan) -> Sequence[int]:
    """Bit set of the steps before each step, by edges; plan.steps is in an order of execution."""
    places = {step.id: step.index for step in plan.steps}
    before = [0] * len(plan.steps)
    incoming: dict[str, list[str]] = {}
    for edge in plan.definition.edges:
        incoming.setdefault(edge.target, []).append(edge.source)
    for step in plan.steps:
        for source in incoming.get(step.id, ()):
            before[step.index] |= before[places[source]] | 1 << places[source]
    return before
