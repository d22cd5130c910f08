"""Inside a runner: definitions made into plans, and segments of them run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from node.worker.messages import SegmentKind, SegmentResult, Task
from workflow.definition import LoadError
from workflow.execute import run_segment, run_segment_now
from workflow.payload import load
from workflow.plan import Plan, compile_plan
from workflow.steps.base import Services
from workflow.steps.registry import LEVEL1


class DefinitionInvalid(Exception):
    """A definition cannot be run here; the text says why."""


@dataclass(frozen=True, slots=True)
class LoadedPlan:
    """A plan, and the kind of each of its segments."""

    plan: Plan
    kinds: list[SegmentKind]


class Segments:
    """Loads and runs with the services of this process."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._step_types = {**LEVEL1, **services.step_types}

    def load(self, plan_hash: bytes, definition: bytes) -> LoadedPlan:
        """Raises DefinitionInvalid when the bytes are not what the hash names, or do not make a plan here."""
        if hashlib.sha256(definition).digest() != plan_hash:
            raise DefinitionInvalid("the definition does not have the hash by which it was asked for")
        try:
            plan = compile_plan(load(definition, registry=self._step_types), self._services.settings)
        except LoadError as error:
            raise DefinitionInvalid(error.text) from error
        async_segments = plan.async_segments
        kinds = []
        for segment in plan.segments:
            last, is_io = plan.steps[segment.steps[-1]], segment.index in async_segments
            kinds.append(SegmentKind(is_io, last.id, last.type, len(segment.steps), plan.level))
        return LoadedPlan(plan, kinds)

    def run_now(self, loaded: LoadedPlan, task: Task) -> SegmentResult:
        """Run a segment that awaits nothing."""
        return run_segment_now(loaded.plan, task, self._services)

    async def run(self, loaded: LoadedPlan, task: Task) -> SegmentResult:
        """Run a segment that may await."""
        return await run_segment(loaded.plan, task, self._services)
