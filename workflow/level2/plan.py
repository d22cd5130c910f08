"""The plan of a level-2 workflow: by dependency, in parallel, with guards compiled away and loops as scopes.

- A **guard** (retry, timeout, try_catch) watches the step that feeds it: its settings become that step's policy.
- An **error edge** goes live when its source has finally failed: those of the `error` port, and those into a guard that
  catches.
- The **body** of a loop is what its item port leads to: a scope of its own, run once per item.
- Expressions that name `node.<id>` add order edges; from inside a body to the outside, at the loop step.
- Steps that touch state of the whole execution (variables, counter …) must be ordered by paths where they touch the
  same; otherwise they are put one after the other, since the state travels as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final, NamedTuple

import msgspec

from workflow.definition import Definition, FlowEdge, LoadError, Problem
from workflow.graph import is_satisfied
from workflow.level2.control import caught_error
from workflow.level2.http import READ_METHODS
from workflow.level2.shapes import Shape, duration_s
from workflow.level2.templates import Data
from workflow.level2.types import SHAPES, with_templates
from workflow.messages import BodyPlan, Edge, RetryPolicy, SegmentPlan, StepPolicy
from workflow.steps.base import Step, StepType
from workflow.values import Value

ITEM: Final = "\0item"
"""The id under which a body step finds the loop's item among its inputs; no step of a payload can have it."""
ERROR_PORT: Final = "error"
LOOP_DEPTH_MAX: Final = 16
"""Loops inside loops: each level is a part of the path of every attempt inside."""
SHOWN_MAX: Final = 10
"""Steps or references that one text names."""
_CONTEXT_TYPES: Final = frozenset({"context_variable", "context_constant"})


class Layout(NamedTuple):
    """What compile() finds out; workflow/plan.py puts it into a Plan. Indices count in the order of execution."""

    order: tuple[int, ...]  # positions in definition.steps
    sources: tuple[tuple[tuple[str, str | None], ...], ...]
    step_types: tuple[StepType | None, ...]
    effects: tuple[str, ...]
    segments: tuple[SegmentPlan, ...]
    edges: tuple[Edge, ...]
    exits: Mapping[int, tuple[tuple[int, int, str | None], ...]]
    bodies: tuple[BodyPlan, ...]
    terminals: tuple[int, ...]


def compile_layout(definition: Definition) -> Layout:
    """The layout of a loaded definition. Raises LoadError with every problem found."""
    return _Compiler(definition).compile()


def gather(sources: Sequence[tuple[str, str | None]], results: Mapping[str, Value]) -> list[Value] | None:
    """The inputs of a step, None when it is skipped (graph.inputs_of). A failed source counts at its error port."""
    return _gather(sources, results, takes_errors=False)


def gather_guarded(
    sources: Sequence[tuple[str, str | None]], results: Mapping[str, Value]
) -> list[Value] | None:
    """The input of a guard: the result of the step that it watches, or that step's failure."""
    return _gather(sources, results, takes_errors=True)


def _gather(
    sources: Sequence[tuple[str, str | None]], results: Mapping[str, Value], *, takes_errors: bool
) -> list[Value] | None:
    inputs: list[Value] = []
    is_live = not sources
    for source, handle in sources:
        if source not in results:
            continue
        result = results[source]
        failed = (
            type(result) is dict and result.get("failed_step") == source and caught_error(result) is not None
        )
        if failed is not (handle == ERROR_PORT) and not (failed and takes_errors):
            continue
        inputs.append(result)
        if not is_live:
            is_live = handle is None or failed or is_satisfied(handle, result)
    return inputs if is_live else None


@lru_cache(maxsize=1024)
def _own_type(step_type: StepType, args: str | None) -> StepType:
    """A step type of the user's at level 2: its data may hold templates."""
    return with_templates(step_type, SHAPES["task"] if args else Shape(open=True), args)


class _Compiler:
    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.problems: list[Problem] = []
        self.steps: dict[str, Step] = {step.id: step for step in definition.steps}
        self.flows = [self._plain_handle(edge) for edge in definition.edges]
        self.state_steps: set[str] = set()
        self.scope_of: dict[str, str] = {}  # step -> id of the innermost loop around it, "" for none

    def problem(self, path: str, message: str) -> None:
        self.problems.append(Problem(path, message))

    def at(self, step_id: str) -> str:
        return f"nodes[{self.steps[step_id].index}]"

    def fail_if_problems(self) -> None:
        if self.problems:
            first = self.problems[0]
            text = f"{first.path}: {first.message}" if first.path else first.message
            raise LoadError(text, self.problems[:100], code="workflow_graph_invalid")

    def compile(self) -> Layout:
        self._check_ports()
        self._find_scopes()
        self.fail_if_problems()
        self.guarded = self._find_guards()
        self.references = self._find_references()
        self.fail_if_problems()
        order = self._order()
        self.fail_if_problems()
        self.number = {step_id: index for index, step_id in enumerate(order)}
        self.state_orders = self._order_shared_state(order)
        self.fail_if_problems()
        return self._lay_out(order)

    def _plain_handle(self, edge: FlowEdge) -> FlowEdge:
        """`done` of a loop is the unnamed port."""
        source = self.steps[edge.source]
        if edge.handle == "done" and self._shape_loop(source):
            return FlowEdge(edge.source, edge.target, None)
        return edge

    @staticmethod
    def _shape_loop(step: Step) -> str | None:
        shape = SHAPES.get(step.type)
        return shape.loop if shape is not None else None

    # --- ports ----------------------------------------------------------------------------------------------

    def _check_ports(self) -> None:
        for index, edge in enumerate(self.flows):
            if edge.handle is None or edge.handle == ERROR_PORT:
                continue
            source = self.steps[edge.source]
            ports = self._ports(source)
            if ports is not None and edge.handle not in ports:
                listed = ", ".join((*ports, ERROR_PORT))
                self.problem(
                    f"edges[{index}].sourceHandle",
                    f"{source.type} step {source.id!r} has no port {edge.handle!r}; it has {listed}",
                )

    def _ports(self, step: Step) -> tuple[str, ...] | None:
        """Named ports of a step; None when any name may be one (a value with a `path` of its own)."""
        shape = SHAPES.get(step.type)
        if shape is None or step.type in ("task", "http", "set", "visualization", "renderer", "sub_workflow"):
            return None
        if step.type == "switch":
            cases = (step.data or {}).get("cases") or ()
            return tuple(
                case.get("output_path") or "default"
                for case in cases
                if case.get("output_path") or case.get("is_default")
            )
        if step.type == "try_catch":
            path = (step.data or {}).get("error_output_path")
            return (path,) if path else ()
        return shape.ports

    # --- loops ----------------------------------------------------------------------------------------------

    def _find_scopes(self) -> None:
        """The innermost loop around each step; problems for cycles and for edges that enter or leave a body.

        What a loop's port leads to stands in its body, and so does all that follows from there.
        """
        targets: dict[str, list[FlowEdge]] = {}
        sources: dict[str, list[FlowEdge]] = {}
        for edge in self.flows:
            targets.setdefault(edge.source, []).append(edge)
            sources.setdefault(edge.target, []).append(edge)
        order, stuck = _sorted(self.steps, [(edge.source, edge.target) for edge in self.flows])
        if stuck:
            self._report_cycle(stuck, targets)
            return
        depths = {"": 0}
        for step_id in order:
            incoming = sources.get(step_id, ())
            scopes: dict[str, FlowEdge | None] = {self._scope_behind(edge): edge for edge in incoming}
            scopes = scopes or {"": None}
            scope = max(scopes, key=lambda loop: (depths[loop], loop))
            self.scope_of[step_id] = scope
            if len(scopes) > 1:
                fed = ", ".join(repr(edge.source) for edge in scopes.values() if edge is not None)
                self.problem(
                    self.at(step_id),
                    f"{step_id!r} is fed from inside the loop {scope!r} and from outside it ({fed}), and an edge must "
                    "not cross the border of a loop's body; what follows a loop hangs on its done port",
                )
                return
            port = self._shape_loop(self.steps[step_id])
            if port is not None:
                depths[step_id] = depths[scope] + 1
                if depths[step_id] > LOOP_DEPTH_MAX:
                    self.problem(self.at(step_id), f"loops are nested over {LOOP_DEPTH_MAX} deep")
                    return
                if not any(edge.handle == port for edge in targets.get(step_id, ())):
                    self.problem(self.at(step_id), f"no step stands behind the {port!r} port of {step_id!r}")

    def _scope_behind(self, edge: FlowEdge) -> str:
        """The scope that an edge leads to, from that of its source."""
        is_entry = edge.handle is not None and edge.handle == self._shape_loop(self.steps[edge.source])
        return edge.source if is_entry else self.scope_of[edge.source]

    def _report_cycle(self, stuck: Sequence[str], targets: Mapping[str, Sequence[FlowEdge]]) -> None:
        for step_id in stuck[:SHOWN_MAX]:
            port = self._shape_loop(self.steps[step_id])
            entries = [edge.target for edge in targets.get(step_id, ()) if edge.handle == port]
            if port is not None and step_id in _reach(entries, targets):
                text = f"the body of {step_id!r} leads back to it; a loop goes on by itself"
                self.problem(self.at(step_id), text)
                return
        shown = ", ".join(map(repr, stuck[:SHOWN_MAX]))
        self.problem(
            "edges", f"workflow contains cycles (circular dependencies): {shown} are on a cycle or behind one"
        )

    def _loops_around(self, step_id: str) -> list[str]:
        """Ids of the loops around a step, innermost first, then "" for the root."""
        found, scope = [], self.scope_of[step_id]
        while scope:
            found.append(scope)
            scope = self.scope_of[scope]
        return [*found, ""]

    # --- guards ---------------------------------------------------------------------------------------------

    def _is_guard(self, step_id: str) -> bool:
        shape = SHAPES.get(self.steps[step_id].type)
        return shape is not None and shape.guard

    def _find_guards(self) -> dict[str, list[Step]]:
        """step -> the guards behind it, nearest first; problems for those that watch nothing or too much."""
        incoming: dict[str, list[FlowEdge]] = {}
        for edge in self.flows:
            incoming.setdefault(edge.target, []).append(edge)
        self.feeder: dict[str, str] = {}
        self.guards_behind: dict[str, list[str]] = {}
        for step_id in self.steps:
            if not self._is_guard(step_id):
                continue
            kind, feeders = self.steps[step_id].type, incoming.get(step_id, ())
            if len(feeders) != 1:
                text = f"{kind} watches the one step that feeds it; {len(feeders)} edges lead here"
                self.problem(self.at(step_id), text)
            elif feeders[0].handle is not None:
                text = f"{kind} watches the step that feeds it, by its unnamed port; this edge is of the port"
                self.problem(self.at(step_id), f"{text} {feeders[0].handle!r}")
            else:
                self.feeder[step_id] = feeders[0].source
                self.guards_behind.setdefault(feeders[0].source, []).append(step_id)
        guarded: dict[str, list[Step]] = {}
        for root in self.guards_behind:
            if not self._is_guard(root):
                guarded[root] = self._guards_of(root)
        return guarded

    def _guards_of(self, root: str) -> list[Step]:
        found: list[Step] = []
        queue = list(self.guards_behind[root])
        for guard in queue:
            found.append(self.steps[guard])
            queue += self.guards_behind.get(guard, ())
        for kind in ("retry", "timeout"):
            same = [step for step in found if step.type == kind]
            if len(same) > 1:
                text = (
                    f"{root!r} is watched by two {kind} steps, {same[0].id!r} and {same[1].id!r}; one must go"
                )
                self.problem(self.at(same[1].id), text)
            policy = self.steps[root].policy
            if (
                same
                and policy is not None
                and (policy.retry if kind == "retry" else policy.timeout_s) is not None
            ):
                text = (
                    f"{root!r} has a policy with the same in it; {kind} steps and policies exclude each other"
                )
                self.problem(self.at(same[0].id), text)
        return found

    def _catches(self, step_id: str) -> bool:
        """Whether a guard, or one behind it, goes on after a failure."""
        step = self.steps[step_id]
        data = step.data or {}
        if step.type == "try_catch":
            return True
        if step.type == "timeout" and data.get("timeout_action") not in (None, "error"):
            return True
        return any(map(self._catches, self.guards_behind.get(step_id, ())))

    def _is_error_edge(self, edge: FlowEdge) -> bool:
        if edge.handle == ERROR_PORT:
            return True
        return edge.handle is None and edge.target in self.feeder and self._catches(edge.target)

    def _policy(self, step: Step) -> StepPolicy | None:
        policy = step.policy
        for guard in self.guarded.get(step.id, ()):
            data = guard.data or {}
            policy = policy or StepPolicy()
            if guard.type == "retry" and policy.retry is None:
                policy = msgspec.structs.replace(policy, retry=_retry_policy(data))
            elif guard.type == "timeout" and policy.timeout_s is None:
                policy = msgspec.structs.replace(policy, timeout_s=duration_s(data.get("timeout")))
        return policy

    # --- references -----------------------------------------------------------------------------------------

    def _find_references(self) -> list[tuple[str, str]]:
        """(source, target) pairs of steps in the same scope: the target's expressions name the source."""
        pairs: set[tuple[str, str]] = set()
        self.reads: dict[str, set[str]] = {}
        for step in self.definition.steps:
            data = step.data
            if not isinstance(data, Data):
                continue
            for expression in data.expressions:
                for name in sorted(expression.nodes):
                    self._reference(step, name, pairs)
        return sorted(pairs)

    def _reference(self, step: Step, name: str, pairs: set[tuple[str, str]]) -> None:
        path = f"{self.at(step.id)}.data"
        if name not in self.steps:
            self.problem(path, f"node.{name}: there is no step with this id")
            return
        if name == step.id:
            self.problem(path, f"node.{name}: a step cannot see its own result")
            return
        around = self._loops_around(step.id)
        scope = self.scope_of[name]
        if scope not in around:
            self.problem(
                path,
                f"node.{name}: it stands inside the loop {scope!r}, whose results are seen at its done port",
            )
            return
        if name in around:
            self.problem(path, f"node.{name}: the loop around this step has no result yet")
            return
        self.reads.setdefault(step.id, set()).add(name)
        place = around.index(scope)
        pairs.add((name, step.id if place == 0 else around[place - 1]))

    # --- order ----------------------------------------------------------------------------------------------

    def _order(self) -> list[str]:
        """Ids in an order in which everything comes after what it needs; a body comes behind its loop."""
        pairs = [(edge.source, edge.target) for edge in self.flows]
        order, stuck = _sorted(self.steps, pairs + self.references)
        if stuck:
            self._report_late(set(stuck))
        return order

    def _report_late(self, stuck: set[str]) -> None:
        """References to steps that only run afterwards: the flow itself has no cycle."""
        targets: dict[str, list[FlowEdge]] = {}
        for edge in self.flows:
            targets.setdefault(edge.source, []).append(edge)
        for reader in sorted(stuck & self.reads.keys(), key=lambda step_id: self.steps[step_id].index)[
            :SHOWN_MAX
        ]:
            after = _reach([reader], targets)
            for name in sorted(self.reads[reader] & after):
                text = f"node.{name}: it runs after this step, and has no result yet"
                self.problem(f"{self.at(reader)}.data", text)
        if not self.problems:
            shown = ", ".join(map(repr, sorted(stuck)[:SHOWN_MAX]))
            self.problem("nodes", f"these steps wait for each other's results: {shown}")

    # --- shared state ---------------------------------------------------------------------------------------

    def _touches(self, step: Step) -> dict[str, bool]:
        """Shared state that a step touches: name -> whether it changes it."""
        data = step.data or {}
        if step.type == "variable":
            return {f"variable {data.get('var_name')!r}": data.get("var_op") != "get"}
        if step.type in ("accumulator", "counter"):
            return {f"the {step.type}": True}
        if step.type in _CONTEXT_TYPES:
            names = [value["name"] for value in data.get("context_values") or ()] or [
                data.get("context_name")
            ]
            return dict.fromkeys([f"context {name!r}" for name in names], True)
        return {}

    def _order_shared_state(self, order: Sequence[str]) -> list[tuple[str, str]]:
        """Order edges that put steps with shared state in a row; problems where no path orders two on the same.

        A step of a body counts as its outermost loop: it runs while that runs.
        """
        writers = {
            name for step in self.definition.steps for name, writes in self._touches(step).items() if writes
        }
        touching: list[tuple[str, dict[str, bool]]] = []
        for step_id in order:
            touches = self._reads_of_state(self.steps[step_id], writers) | self._touches(self.steps[step_id])
            if touches:
                touching.append((step_id, touches))
            if self.scope_of[step_id] and any(touches.values()):
                name = next(name for name, writes in touches.items() if writes)
                text = f"{name} would be changed by all rounds of a loop at once; use their results"
                self.problem(self.at(step_id), text)
        if not touching or not writers or self.problems:
            return []
        self._check_paths(order, touching)
        self.state_steps = {step_id for step_id, _ in touching}
        rooted = sorted({self._rooted(step_id) for step_id, _ in touching}, key=self.number.__getitem__)
        self.state_steps.update(rooted)
        return list(pairwise(rooted))

    def _reads_of_state(self, step: Step, writers: set[str]) -> dict[str, bool]:
        """Names that its expressions may read and somebody writes; "any variable" when they may read each."""
        touches: dict[str, bool] = {}
        for expression in step.data.expressions if isinstance(step.data, Data) else ():
            for kind, root in (("variable", "variables"), ("context", "context")):
                if root not in expression.names:
                    continue
                fields = _fields_read(expression.text, root)
                names = [f"any {kind}"] if fields is None else [f"{kind} {field!r}" for field in fields]
                touches |= dict.fromkeys([name for name in names if fields is None or name in writers], False)
        return touches

    def _rooted(self, step_id: str) -> str:
        """The step itself, or the outermost loop around it."""
        while self.scope_of[step_id]:
            step_id = self.scope_of[step_id]
        return step_id

    def _check_paths(self, order: Sequence[str], touching: Sequence[tuple[str, dict[str, bool]]]) -> None:
        """Of two steps on the same state, one of which changes it, one must come before the other."""
        before = self._ancestors(order)
        wrote: dict[str, int] = {}  # name -> bit set of the steps that changed it so far
        touched: dict[str, int] = {}
        for step_id, touches in sorted(touching, key=lambda entry: self.number[self._rooted(entry[0])]):
            rooted = self._rooted(step_id)
            bit = 1 << self.number[rooted]
            for name, writes in touches.items():
                every = f"any {name.split(' ', 1)[0]}"
                rivals = touched.get(name, 0) | touched.get(every, 0) if writes else wrote.get(name, 0)
                rivals &= ~before[rooted] & ~bit
                if rivals:
                    earlier = order[rivals.bit_length() - 1]
                    text = f"{name} is also touched by {earlier!r}, and no path orders the two; connect them"
                    self.problem(self.at(step_id), text)
                touched[name] = touched.get(name, 0) | bit
                if writes:
                    wrote[name] = wrote.get(name, 0) | bit
                    wrote[every] = wrote.get(every, 0) | bit

    def _ancestors(self, order: Sequence[str]) -> dict[str, int]:
        """step -> bit set (by number) of the steps before it."""
        before = dict.fromkeys(order, 0)
        incoming: dict[str, list[str]] = {}
        for edge in self.flows:
            incoming.setdefault(edge.target, []).append(edge.source)
        for source, target in self.references:
            incoming.setdefault(target, []).append(source)
        for step_id in order:
            for source in incoming.get(step_id, ()):
                before[step_id] |= before[source] | (1 << self.number[source])
        return before

    # --- segments -------------------------------------------------------------------------------------------

    def _step_type(self, step: Step) -> StepType | None:
        types = self.definition.step_types
        if step.type == "task":
            own = types.get(str((step.data or {}).get("step")))
            return None if own is None else _own_type(own, "args")
        found = types.get(step.type)
        return found if found is None or step.type in SHAPES else _own_type(found, None)

    def _effect(self, step: Step, step_type: StepType | None) -> str:
        if step_type is None:
            return "write"
        effect = step_type.effect
        if step.type == "http":
            method = (step.data or {}).get("method") or "GET"
            effect = "read" if str(method).upper() in READ_METHODS else "write"
        if effect != "wait" and step.policy is not None and step.policy.effect is not None:
            return step.policy.effect
        return effect

    def _lay_out(self, order: list[str]) -> Layout:
        steps = [self.steps[step_id] for step_id in order]
        types = [self._step_type(step) for step in steps]
        effects = [self._effect(step, kind) for step, kind in zip(steps, types, strict=True)]
        policies = [self._policy(step) for step in steps]
        number = self.number
        entering = {
            (edge.source, edge.target, edge.handle)
            for edge in self.flows
            if edge.handle is not None and edge.handle == self._shape_loop(self.steps[edge.source])
        }
        flows = [
            (number[e.source], number[e.target], e.handle, self._is_error_edge(e))
            for e in self.flows
            if (e.source, e.target, e.handle) not in entering
        ]
        orders = [
            (number[source], number[target]) for source, target in [*self.references, *self.state_orders]
        ]
        breaks = {source for source, _, _, is_error in flows if is_error}
        groups, group_of = self._fuse(order, effects, policies, flows, orders, breaks)
        return self._assemble(order, types, effects, policies, flows, orders, groups, group_of)

    def _fuse(
        self,
        order: Sequence[str],
        effects: Sequence[str],
        policies: Sequence[StepPolicy | None],
        flows: Sequence[tuple[int, int, str | None, bool]],
        orders: Sequence[tuple[int, int]],
        breaks: set[int],
    ) -> tuple[list[list[int]], dict[int, int]]:
        """A step joins its only predecessor's segment when that is pure so far and leads nowhere else."""
        before: dict[int, set[int]] = {index: set() for index in range(len(order))}
        after: dict[int, set[int]] = {index: set() for index in range(len(order))}
        for source, target in [*((s, t) for s, t, _, _ in flows), *orders]:
            before[target].add(source)
            after[source].add(target)
        # An order edge alone joins nothing: its source may be skipped while its target runs.
        flowing = {(source, target) for source, target, _, _ in flows}
        groups: list[list[int]] = []
        group_of: dict[int, int] = {}
        for index, step_id in enumerate(order):
            joins: int | None = None
            if len(before[index]) == 1 and effects[index] != "wait":
                (source,) = before[index]
                group = groups[group_of[source]]
                waits = effects[group[0]] == "wait"
                source_is_open = effects[source] == "pure" or (waits and len(group) == 1)
                if (
                    group[-1] == source
                    and after[source] == {index}
                    and (source, index) in flowing
                    and source_is_open
                    and not (waits and effects[index] != "pure")
                    and policies[index] is None
                    and policies[source] is None
                    and source not in breaks
                    and self.scope_of[order[source]] == self.scope_of[step_id]
                ):
                    joins = group_of[source]
            if joins is None:
                joins = len(groups)
                groups.append([])
            groups[joins].append(index)
            group_of[index] = joins
        return groups, group_of

    def _assemble(
        self,
        order: Sequence[str],
        types: Sequence[StepType | None],
        effects: Sequence[str],
        policies: Sequence[StepPolicy | None],
        flows: Sequence[tuple[int, int, str | None, bool]],
        orders: Sequence[tuple[int, int]],
        groups: Sequence[Sequence[int]],
        group_of: Mapping[int, int],
    ) -> Layout:
        edges: list[Edge] = []
        exits: dict[int, list[tuple[int, int, str | None]]] = {}
        error_edges: dict[int, list[int]] = {}
        for source, target, handle, is_error in flows:
            here, there = group_of[source], group_of[target]
            if here == there:
                continue
            always = handle is None and groups[here][0] == source
            if not always and handle != ERROR_PORT:
                exits.setdefault(here, []).append((len(edges), source, handle))
            if is_error:
                error_edges.setdefault(here, []).append(len(edges))
            edges.append(Edge(len(edges), here, there, always))
        for source, target in orders:
            here, there = group_of[source], group_of[target]
            if here != there:
                edges.append(Edge(len(edges), here, there, True, "order"))
        bodies = {
            step_id: at + 1 for at, step_id in enumerate(s for s in order if self._shape_loop(self.steps[s]))
        }
        needs = self._needs(order, flows, group_of, len(groups))
        segments = tuple(
            SegmentPlan(
                index=at,
                steps=tuple(group),
                effect=next((effects[i] for i in group if effects[i] != "pure"), "pure"),
                edges_in=(),
                edges_out=(),
                needs=tuple(sorted(needs[at])),
                shared_state=any(order[i] in self.state_steps for i in group),
                body=next((bodies[order[i]] for i in group if order[i] in bodies), None),
                scope=bodies[self.scope_of[order[group[0]]]] if self.scope_of[order[group[0]]] else 0,
                policy=next((policies[i] for i in reversed(group) if policies[i] is not None), None),
                error_edges=tuple(error_edges.get(at, ())),
            )
            for at, group in enumerate(groups)
        )
        segments = _with_edges(segments, edges)
        inner = {
            edge.source
            for edge in self.flows
            if edge.handle != self._shape_loop(self.steps[edge.source]) or not edge.handle
        }
        # What others read by name is no end, unless nothing else is.
        read = {name for names in self.reads.values() for name in names}
        ends = [index for index, step_id in enumerate(order) if step_id not in inner]
        ends.sort(key=lambda i: (self.steps[order[i]].type in _CONTEXT_TYPES, order[i] in read))
        return Layout(
            order=tuple(self._positions(order)),
            sources=self._sources(order),
            step_types=tuple(types),
            effects=tuple(effects),
            segments=segments,
            edges=tuple(edges),
            exits={at: tuple(found) for at, found in exits.items()},
            bodies=tuple(
                BodyPlan(
                    index,
                    tuple(segment.index for segment in segments if segment.scope == index),
                    None,
                    tuple(i for i in ends if self.scope_of[order[i]] == loop),
                )
                for loop, index in bodies.items()
            ),
            terminals=tuple(i for i in ends if not self.scope_of[order[i]]),
        )

    def _positions(self, order: Sequence[str]) -> Iterable[int]:
        at = {step.id: position for position, step in enumerate(self.definition.steps)}
        return [at[step_id] for step_id in order]

    def _sources(self, order: Sequence[str]) -> tuple[tuple[tuple[str, str | None], ...], ...]:
        """What feeds each step: (id, handle) in the order of the payload's edges; ITEM for the loop's item."""
        found: dict[str, list[tuple[str, str | None]]] = {}
        for edge in self.flows:
            is_entry = edge.handle is not None and edge.handle == self._shape_loop(self.steps[edge.source])
            found.setdefault(edge.target, []).append((ITEM, None) if is_entry else (edge.source, edge.handle))
        return tuple(tuple(found.get(step_id, ())) for step_id in order)

    def _needs(
        self,
        order: Sequence[str],
        flows: Sequence[tuple[int, int, str | None, bool]],
        group_of: Mapping[int, int],
        count: int,
    ) -> list[set[int]]:
        needs: list[set[int]] = [set() for _ in range(count)]
        pairs = [(source, target) for source, target, _, _ in flows]
        pairs += [
            (self.number[name], self.number[step_id])
            for step_id, names in self.reads.items()
            for name in names
        ]
        for source, target in pairs:
            if group_of[source] != group_of[target]:
                needs[group_of[target]].add(source)
        return needs


def _with_edges(segments: Sequence[SegmentPlan], edges: Sequence[Edge]) -> tuple[SegmentPlan, ...]:
    edges_in: list[list[int]] = [[] for _ in segments]
    edges_out: list[list[int]] = [[] for _ in segments]
    for edge in edges:
        edges_in[edge.target_segment].append(edge.index)
        edges_out[edge.source_segment].append(edge.index)
    return tuple(
        msgspec.structs.replace(segment, edges_in=tuple(edges_in[at]), edges_out=tuple(edges_out[at]))
        for at, segment in enumerate(segments)
    )


def _fields_read(text: str, root: str) -> set[str] | None:
    """Fields of `root` that an expression reads by name; None when it may read any."""
    fields = re.findall(rf"\b{root}\s*\??\.\s*([A-Za-z_$][A-Za-z0-9_$]*)", text)
    return set(fields) if len(fields) == len(re.findall(rf"\b{root}\b", text)) else None


def _sorted(ids: Iterable[str], pairs: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Ids with each source before its target, roots by id and then breadth first; and those that a cycle holds up."""
    waiting = dict.fromkeys(ids, 0)
    targets: dict[str, list[str]] = {}
    for source, target in pairs:
        waiting[target] += 1
        targets.setdefault(source, []).append(target)
    queue = sorted(step_id for step_id, count in waiting.items() if count == 0)
    for step_id in queue:
        for target in targets.get(step_id, ()):
            waiting[target] -= 1
            if waiting[target] == 0:
                queue.append(target)
    return queue, [step_id for step_id, count in waiting.items() if count]


def _reach(entries: Iterable[str], targets: Mapping[str, Sequence[FlowEdge]]) -> set[str]:
    seen, stack = set(entries), list(entries)
    while stack:
        for edge in targets.get(stack.pop(), ()):
            if edge.target not in seen:
                seen.add(edge.target)
                stack.append(edge.target)
    return seen


def _retry_policy(data: Mapping[str, Any]) -> RetryPolicy:
    strategy = data.get("backoff_strategy") or "exponential"
    multiplier = data.get("multiplier")
    return RetryPolicy(
        max_attempts=max(1, int(data.get("max_attempts") or 3)),
        initial_interval_s=_seconds(data.get("initial_delay"), 1.0),
        max_interval_s=_seconds(data.get("max_delay"), 30.0),
        multiplier=float(multiplier or 2.0) if strategy == "exponential" else 1.0,
        jitter=0.0 if strategy == "constant" else 1.0,
        retry_on=tuple(data.get("retry_on_errors") or ()),
        backoff="linear" if strategy == "linear" else "exponential",
    )


def _seconds(value: Any, default: float) -> float:
    seconds = duration_s(value) if value is not None else None
    return default if seconds is None else seconds
