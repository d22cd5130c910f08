"""The graph of a definition: order, which steps run, what they get.

Plain functions on ids and edges; nothing here knows what a step does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Final

from workflow.definition import Definition, FlowEdge, LoadError, Problem
from workflow.values import Value

CYCLE_TEXT: Final = "workflow contains cycles (circular dependencies)"


class GraphInvalid(LoadError):
    """The steps and edges make no graph that can run. `text` is the original's wording where it has one."""

    def __init__(self, text: str, problems: list[Problem] | None = None) -> None:
        super().__init__(text, problems, code="workflow_graph_invalid")


def check_graph(definition: Definition) -> None:
    """Refuse what can never run: edges to unknown steps, repeated ids, cycles. Raises GraphInvalid."""
    execution_order(definition)


def execution_order(definition: Definition, references: Iterable[tuple[str, str]] = ()) -> list[int]:
    """Positions in `definition.steps` in the order in which the original runs them.

    Roots by id, then breadth first in edge order. `references` are further (source, target) pairs that order two
    steps (level 2). Raises GraphInvalid.
    """
    ids = [step.id for step in definition.steps]
    positions = {step_id: position for position, step_id in enumerate(ids)}
    unknown = unknown_targets(definition.edges, positions)
    if unknown:
        raise GraphInvalid(unknown[0].message, unknown)
    repeated = repeated_ids(ids)
    if repeated:
        raise GraphInvalid(CYCLE_TEXT, repeated)

    targets: dict[str, list[str]] = {}
    waiting_for = dict.fromkeys(positions, 0)
    for source, target in _pairs(definition.edges, references):
        if target in waiting_for:
            waiting_for[target] += 1
            targets.setdefault(source, []).append(target)
    queue = deque(sorted(step_id for step_id, count in waiting_for.items() if count == 0))
    order: list[int] = []
    while queue:
        step_id = queue.popleft()
        order.append(positions[step_id])
        for target in targets.get(step_id, ()):
            waiting_for[target] -= 1
            if waiting_for[target] == 0:
                queue.append(target)
    if len(order) < len(positions):
        raise GraphInvalid(CYCLE_TEXT, _stuck(definition, positions, waiting_for))
    return order


def _pairs(edges: Sequence[FlowEdge], references: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    for edge in edges:
        yield edge.source, edge.target
    yield from references


def repeated_ids(ids: Sequence[str | None]) -> list[Problem]:
    """A problem for each node whose id another one before it has; None is no id."""
    seen: set[str] = set()
    problems = []
    for position, step_id in enumerate(ids):
        if step_id in seen:
            problems.append(Problem(f"nodes[{position}].id", f"id {step_id!r} is used twice"))
        if step_id is not None:
            seen.add(step_id)
    return problems


def unknown_targets(edges: Sequence[FlowEdge], positions: Container[str]) -> list[Problem]:
    """The original crashes on an edge from a known step to an unknown one. One between unknown steps is inert."""
    return [
        Problem(f"edges[{index}].target", f"edge {index} leads to an unknown node: {edge.target!r}")
        for index, edge in enumerate(edges)
        if edge.target not in positions and edge.source in positions
    ]


def _stuck(
    definition: Definition, positions: Mapping[str, int], waiting_for: Mapping[str, int]
) -> list[Problem]:
    """Why steps never get their turn: an edge from an unknown step, or a place on or behind a cycle."""
    problems = [
        Problem(f"edges[{index}].source", f"edge {index} comes from an unknown node: {edge.source!r}")
        for index, edge in enumerate(definition.edges)
        if edge.source not in positions and edge.target in positions
    ]
    if not problems:
        on_cycle = [step_id for step_id, count in waiting_for.items() if count > 0]
        shown = ", ".join(map(repr, on_cycle[:10])) + (" …" if len(on_cycle) > 10 else "")
        problems = [Problem("edges", f"these nodes are on a cycle or behind one: {shown}")]
    return problems


def is_satisfied(handle: str, result: Value) -> bool:
    """Whether a conditional edge with this handle is live after a source with this result.

    It looks at the shape of the result, not at the type of the source.
    """
    if type(result) is not dict:
        return False
    if result.get("path") == handle or result.get("output_path") == handle:
        return True
    if handle == "true":
        flag = result.get("true_path")
        if type(flag) is not bool:
            flag = result.get("condition_met")
        return flag is True
    if handle == "false":
        flag = result.get("false_path")
        if type(flag) is not bool:
            flag = result.get("condition_met")
            return flag is False
        return flag
    return False


def inputs_of(sources: Sequence[tuple[str, str | None]], results: Mapping[str, Value]) -> list[Value] | None:
    """The inputs of a step: the results of its sources in edge order. None when the step is skipped.

    `sources` are (id, handle). A step without edges runs; another runs when any source that has a result is
    joined by an edge that is live. It then gets every source's result, those behind dead edges too.
    """
    inputs: list[Value] = []
    is_live = not sources
    for source, handle in sources:
        if source in results:
            result = results[source]
            inputs.append(result)
            if not is_live:
                is_live = handle is None or is_satisfied(handle, result)
    return inputs if is_live else None
