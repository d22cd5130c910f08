"""A ControlPlan turned into the tables that the run rule walks.

Built once per definition, shared by all its executions, never changed. Nothing here knows an execution.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from workflow.messages import BodyPlan, ControlPlan, RetryPolicy, SegmentPlan

_ONE_ATTEMPT: Final = RetryPolicy(max_attempts=1)


class OutEdge(NamedTuple):
    """An edge as its source sees it."""

    number: int  # plan-wide
    target: int
    flow: bool  # can activate its target; an order edge only delays it
    live_by_default: bool


class Program:
    """Lookup tables of one plan. Segments are numbered plan-wide, `local` is a segment's place in its scope."""

    __slots__ = (
        "bodies",
        "bodies_with_loops",
        "edges_out",
        "flow_in",
        "in_degree",
        "last_steps",
        "level",
        "local",
        "loop_of",
        "needs",
        "nests",
        "plan",
        "policies",
        "priorities",
        "queues",
        "retries",
        "roots",
        "scope_of",
        "scope_size",
        "segments",
        "step_sets",
        "terminals",
        "timeouts",
        "writes",
    )

    def __init__(self, plan: ControlPlan) -> None:
        """Raises ValueError for a plan that contradicts itself (a fault of the compiler, found before it is logged)."""
        self.plan: Final = plan
        self.level: Final = plan.level
        self.segments: Final[tuple[SegmentPlan, ...]] = plan.segments
        self.bodies: Final[dict[int, BodyPlan]] = {body.index: body for body in plan.bodies}
        self.terminals: Final = plan.terminals
        self.loop_of: Final = {
            s.body: s.index for s in plan.segments if s.body is not None
        }  # body -> its loop
        self.bodies_with_loops: Final = frozenset(s.scope for s in plan.segments if s.body is not None)
        self.nests: Final = frozenset(
            s.scope for s in plan.segments if s.body is not None
        )  # with loops inside
        self.scope_of: Final = tuple(segment.scope for segment in plan.segments)
        self.writes: Final = tuple(segment.effect == "write" for segment in plan.segments)
        self.needs: Final = tuple(segment.needs for segment in plan.segments)
        self.step_sets: Final = tuple(frozenset(segment.steps) for segment in plan.segments)
        self.policies: Final = tuple(segment.policy for segment in plan.segments)
        self.queues: Final = tuple((p.queue if p else None) or "default" for p in self.policies)
        self.priorities: Final = tuple(p.priority if p else None for p in self.policies)
        self.timeouts: Final = tuple(p.timeout_s if p else None for p in self.policies)
        self.retries: Final = tuple((p.retry if p else None) or _ONE_ATTEMPT for p in self.policies)
        self._check(plan)
        self.last_steps: Final = tuple(plan.step_ids[segment.steps[-1]] for segment in plan.segments)

        local = [0] * len(plan.segments)
        size: dict[int, int] = {0: 0}
        for index, scope in enumerate(self.scope_of):
            local[index] = size.get(scope, 0)
            size[scope] = local[index] + 1
        self.local: Final = tuple(local)
        self.scope_size: Final = size

        out: list[list[OutEdge]] = [[] for _ in plan.segments]
        in_degree = [0] * len(plan.segments)
        flow_in = [0] * len(plan.segments)
        for edge in plan.edges:
            if self.scope_of[edge.source_segment] != self.scope_of[edge.target_segment]:
                continue  # into or out of a body: the body starts when its loop says so
            flow = edge.kind == "flow"
            out[edge.source_segment].append(
                OutEdge(edge.index, edge.target_segment, flow, edge.live_by_default)
            )
            in_degree[edge.target_segment] += 1
            flow_in[edge.target_segment] += flow
        self.edges_out: Final = tuple(tuple(edges) for edges in out)
        self.in_degree: Final = tuple(in_degree)
        self.flow_in: Final = tuple(flow_in)
        roots: dict[int, list[int]] = {scope: [] for scope in size}
        for index, degree in enumerate(in_degree):
            if degree == 0:
                roots[self.scope_of[index]].append(index)
        self.roots: Final = {scope: tuple(found) for scope, found in roots.items()}

    def body_result(self, body: int, outputs: dict[int, bytes]) -> bytes | None:
        """The result of one run of a loop body, None when the step that would give it was skipped."""
        plan = self.bodies[body]
        if plan.result_step is not None:
            return outputs.get(plan.result_step)
        return next((outputs[step] for step in plan.terminals if step in outputs), None)

    def final_output(self, outputs: dict[int, bytes]) -> bytes | None:
        """Output of the first terminal that has one."""
        for step in self.terminals:
            if step in outputs:
                return outputs[step]
        return None

    def _check(self, plan: ControlPlan) -> None:
        count = len(plan.segments)
        steps = len(plan.step_ids)
        for index, segment in enumerate(plan.segments):
            if segment.index != index:
                raise ValueError(f"segment {index} calls itself {segment.index}")
            if not segment.steps:
                raise ValueError(f"segment {index} has no steps")
            if any(not 0 <= step < steps for step in (*segment.steps, *segment.needs)):
                raise ValueError(f"segment {index} names a step outside 0..{steps - 1}")
            if segment.body is not None and segment.body not in self.bodies:
                raise ValueError(f"segment {index} runs body {segment.body}, which does not exist")
            if segment.scope and segment.scope not in self.bodies:
                raise ValueError(f"segment {index} belongs to body {segment.scope}, which does not exist")
        for edge in plan.edges:
            if not (0 <= edge.source_segment < count and 0 <= edge.target_segment < count):
                raise ValueError(f"edge {edge.index} names a segment outside 0..{count - 1}")
        if any(body.index < 1 for body in plan.bodies):
            raise ValueError("bodies are numbered from 1; 0 is the root scope")
