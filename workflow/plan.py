"""Compiling a definition into a plan: in which units its steps are handed out, and what orders them.

A segment is a run of pure steps ended by at most one read or write step; nothing is fused after an effect, so a
runner that dies repeats no effect. A wait step starts a segment of its own, which pure steps may follow: when the
wait is over the segment is handed out again, and nothing is re-run.

Level 1 is a chain of segments in the original's order, because counters, variables and `node.x` references make that
order visible; the shared state travels along. At level 2 steps depend on what feeds them and on what they refer to,
everything else runs in parallel, and a segment is a chain of steps that nothing else touches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from workflow.definition import Definition
from workflow.graph import execution_order, inputs_of
from workflow.level2 import plan as level2
from workflow.level2.types import SHAPES
from workflow.messages import BodyPlan, ControlPlan, Edge, SegmentPlan, StepPolicy
from workflow.steps.base import Settings, Step, StepType
from workflow.values import Value

_CONTEXT_TYPES: Final = frozenset({"context_variable", "context_constant"})
_UNKNOWN_EFFECT: Final = "write"  # a type that this process does not know may do anything


InputsOf = Callable[[Sequence[tuple[str, str | None]], Mapping[str, Value]], list[Value] | None]


@dataclass(frozen=True, slots=True)
class StepPlan:
    """A step at its place in the plan. `index` counts in the order of execution."""

    index: int
    id: str
    type: str
    step: Step
    step_type: StepType | None  # None: nothing registered under that name
    effect: str
    sources: tuple[tuple[str, str | None], ...]  # (id, handle) in edge order
    inputs_of: InputsOf = (
        inputs_of  # the run rule of the level: inputs from sources and results, None when skipped
    )


@dataclass(frozen=True)
class Plan:
    """A compiled definition. `segments[i].steps` are indices into `steps`."""

    hash: bytes
    level: int
    workflow_id: str
    steps: tuple[StepPlan, ...]
    segments: tuple[SegmentPlan, ...]
    edges: tuple[Edge, ...]
    bodies: tuple[BodyPlan, ...]
    terminals: tuple[int, ...]
    exits: Mapping[
        int, tuple[tuple[int, int, str | None], ...]
    ]  # segment -> (edge, source step, handle): level 2
    max_execution_time_s: float | None
    definition: Definition = field(repr=False)

    @cached_property
    def async_segments(self) -> frozenset[int]:
        """Segments with a step that awaits; all others have a synchronous way through."""
        return frozenset(
            segment.index
            for segment in self.segments
            if any(self._is_async(index) for index in segment.steps)
        )

    @cached_property
    def needs_loop(self) -> bool:
        """Whether running the whole plan involves awaiting anything."""
        return bool(self.async_segments) or any(segment.effect == "wait" for segment in self.segments)

    def _is_async(self, index: int) -> bool:
        step_type = self.steps[index].step_type
        return step_type is not None and step_type.is_async

    def control(self) -> ControlPlan:
        """The part that a coordinator needs: no step data."""
        return ControlPlan(
            hash=self.hash,
            level=self.level,
            step_ids=tuple(step.id for step in self.steps),
            step_types=tuple(step.type for step in self.steps),
            segments=self.segments,
            edges=self.edges,
            bodies=self.bodies,
            terminals=self.terminals,
            max_execution_time_s=self.max_execution_time_s,
        )


def compile_plan(definition: Definition, settings: Settings | None = None) -> Plan:
    """The plan of a definition. Raises GraphInvalid when its graph cannot run.

    `settings` only gives the time that a level-1 execution may take.
    """
    if definition.level == 1:
        seconds = (settings or Settings()).max_execution_time_ns / 1e9
        return _compile_level1(definition, seconds)
    return _compile_level2(definition)


def _compile_level1(definition: Definition, seconds: float) -> Plan:
    steps = _plan_steps(definition, execution_order(definition))
    segments, edges = _chain(steps)
    return Plan(
        hash=definition.hash,
        level=1,
        workflow_id=definition.workflow_id,
        steps=steps,
        segments=segments,
        edges=edges,
        bodies=(),
        terminals=_terminals(definition, steps),
        exits={},
        max_execution_time_s=seconds,
        definition=definition,
    )


def _compile_level2(definition: Definition) -> Plan:
    layout = level2.compile_layout(definition)
    steps = []
    for index, position in enumerate(layout.order):
        step = definition.steps[position]
        guarded = SHAPES[step.type].guard if step.type in SHAPES else False
        steps.append(
            StepPlan(
                index,
                step.id,
                step.type,
                step,
                layout.step_types[index],
                layout.effects[index],
                layout.sources[index],
                level2.gather_guarded if guarded else level2.gather,
            )
        )
    return Plan(
        hash=definition.hash,
        level=2,
        workflow_id=definition.workflow_id,
        steps=tuple(steps),
        segments=layout.segments,
        edges=layout.edges,
        bodies=layout.bodies,
        terminals=layout.terminals,
        exits=layout.exits,
        max_execution_time_s=None,
        definition=definition,
    )


def _plan_steps(definition: Definition, order: Sequence[int]) -> tuple[StepPlan, ...]:
    sources: dict[str, list[tuple[str, str | None]]] = {}
    for edge in definition.edges:
        sources.setdefault(edge.target, []).append((edge.source, edge.handle))
    steps = []
    for index, position in enumerate(order):
        step = definition.steps[position]
        step_type = definition.step_types.get(step.type)
        steps.append(
            StepPlan(
                index,
                step.id,
                step.type,
                step,
                step_type,
                _effect(step, step_type),
                tuple(sources.get(step.id, ())),
            )
        )
    return tuple(steps)


def _effect(step: Step, step_type: StepType | None) -> str:
    effect = _UNKNOWN_EFFECT if step_type is None else step_type.effect
    if effect != "wait" and step.policy is not None and step.policy.effect is not None:
        return step.policy.effect
    return effect


def _terminals(definition: Definition, steps: Sequence[StepPlan]) -> tuple[int, ...]:
    """Steps that no edge leaves, in the order of execution; context steps only after all others."""
    inner = {edge.source for edge in definition.edges}
    ends = [step for step in steps if step.id not in inner]
    return tuple(step.index for step in sorted(ends, key=lambda step: step.type in _CONTEXT_TYPES))


# --- references in step data ----------------------------------------------------------------------------------

_REFERENCE = re.compile(r"node\.([A-Za-z0-9_-]*)", re.ASCII)
_PLAIN_ID = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)
_odd_references_max: Final = 20  # in one text; with more, every step counts as referred to


class ReferenceFinder:
    """Finds the steps whose results an expression in a step's data may read as `node.<id>`.

    An id in an expression ends at the first dot, but may hold any other character: where ids are odd, every id
    that a text could mean counts.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        self._ids = frozenset(ids)
        odd = [step_id for step_id in self._ids if not _PLAIN_ID.fullmatch(step_id)]
        self._odd_lengths = sorted({len(step_id) for step_id in odd})

    def find(self, step: Step) -> set[str]:
        """Ids that `step` refers to, its own perhaps among them."""
        found: set[str] = set()
        for text in _texts(step.raw):
            if "node." in text:
                self._find_in(text, found)
        return found

    def _find_in(self, text: str, found: set[str]) -> None:
        matches = list(_REFERENCE.finditer(text))
        found.update(self._ids.intersection([match[1] for match in matches]))
        if not self._odd_lengths:
            return
        if len(matches) > _odd_references_max:
            found.update(self._ids)
            return
        for match in matches:
            start = match.start(1)
            candidates = [text[start : start + length] for length in self._odd_lengths]
            found.update(self._ids.intersection(candidates))


def _texts(data: Any) -> Iterable[str]:
    if type(data) is str:
        yield data
    elif isinstance(data, dict):
        for value in data.values():
            yield from _texts(value)
    elif type(data) is list:
        for value in data:
            yield from _texts(value)


# --- level 1: a chain -----------------------------------------------------------------------------------------


def _chain(steps: Sequence[StepPlan]) -> tuple[tuple[SegmentPlan, ...], tuple[Edge, ...]]:
    groups = _cut(steps)
    last = len(groups) - 1
    indices = {step.id: step.index for step in steps}
    finder = ReferenceFinder(indices)
    segments = []
    for number, group in enumerate(groups):
        inside = set(group)
        needs: set[int] = set()
        if number:
            for index in group:
                step = steps[index]
                needs.update(indices[source] for source, _ in step.sources if source in indices)
                needs.update(indices[source] for source in finder.find(step.step))
        segments.append(
            SegmentPlan(
                index=number,
                steps=tuple(group),
                effect=_strongest(steps, group),
                edges_in=(number - 1,) if number else (),
                edges_out=(number,) if number < last else (),
                needs=tuple(sorted(need for need in needs - inside if need < group[0])),
                shared_state=last > 0,
                policy=_policy(steps, group),
            )
        )
    edges = tuple(Edge(number, number, number + 1, True) for number in range(last))
    return tuple(segments), edges


def _cut(steps: Sequence[StepPlan]) -> list[list[int]]:
    """Steps in groups, cut behind effects, before waits, and between a wait and an effect.

    A pure step with a policy of its own stands alone: the policy is about it.
    """
    groups: list[list[int]] = []
    is_open = False
    waits = False
    for step in steps:
        alone = step.effect == "pure" and step.step.policy is not None
        if not is_open or alone or step.effect == "wait" or (waits and step.effect != "pure"):
            groups.append([])
            waits = step.effect == "wait"
        groups[-1].append(step.index)
        is_open = step.effect in ("pure", "wait") and not alone
    return groups


def _strongest(steps: Sequence[StepPlan], group: Sequence[int]) -> str:
    return next((steps[index].effect for index in group if steps[index].effect != "pure"), "pure")


def _policy(steps: Sequence[StepPlan], group: Sequence[int]) -> StepPolicy | None:
    """The policy of the segment's effectful step; of a pure one, that of its first step that has one."""
    effectful = [index for index in group if steps[index].effect != "pure"]
    return next(
        (policy for index in effectful or group if (policy := steps[index].step.policy) is not None), None
    )
