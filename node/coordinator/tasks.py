"""The task that an attempt becomes when it is handed out. Pure: state in, message out."""

from __future__ import annotations

from collections.abc import Iterable

from node.coordinator.effects import Ready
from node.coordinator.program import Program
from node.coordinator.state import Scope, State, parent_scope
from workflow.messages import Task


def task_for(state: State, ready: Ready, deadline_s: float | None) -> Task:
    """Everything that a runner needs of this attempt beside the plan."""
    x, scope, attempt = ready.execution, ready.scope, ready.attempt
    program = state.definitions[x.plan].program
    segment, path = attempt.segment, scope.path
    needs = program.needs[segment]
    key = f"{x.id}:{program.last_steps[segment]}"
    if path:
        key += ":" + ".".join(map(str, path))
    if x.generation:
        key += f":g{x.generation}"
    return Task(
        x.id,
        segment,
        path,
        attempt.number,
        x.plan,
        _inputs(ready, program, needs) if needs else {},
        x.shared if program.segments[segment].shared_state else None,
        x.context,
        scope.item,
        attempt.resume,
        key,
        deadline_s,
        attempt.heartbeat,
    )


def _inputs(ready: Ready, program: Program, needs: Iterable[int]) -> dict[int, bytes]:
    """Results that a segment needs: of its own scope, or of one around it."""
    x, scope = ready.execution, ready.scope
    if scope.body == 0:
        outputs = x.outputs
        return {step: outputs[step] for step in needs if step in outputs}
    found: dict[int, bytes] = {}
    around: Scope | None = scope
    while around is not None:
        for step in needs:
            if step not in found and step in around.outputs:
                found[step] = around.outputs[step]
        around = parent_scope(x, program, around) if around.body else None
    return found
