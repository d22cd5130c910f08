"""The loader of level 2: every problem with its place, nothing passed over.

A step's data becomes `Data`: numbers as floats, with the template of its texts and the expressions it holds, compiled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Any, Final

from workflow.definition import Definition, FlowEdge, InputSpec, LoadError, Problem
from workflow.infer import infer_type
from workflow.inputs import parse_inputs
from workflow.level2.grammar import Compiled, compile_expression
from workflow.level2.scope import ExpressionError
from workflow.level2.shapes import Shape, has_template, problems_of
from workflow.level2.templates import Data, compile_template
from workflow.level2.types import LEVEL2, SHAPES
from workflow.policy import PolicyInvalid, parse_policy
from workflow.steps.base import Step, StepType
from workflow.steps.registry import LEVEL1
from workflow.values import from_json

ID_LENGTH_MAX: Final = 200
PROBLEMS_MAX: Final = 100
HINTS_MAX: Final = 20  # problems for which a name that was meant is looked for
HINT_NAMES_MAX: Final = 1000
_OPEN: Final = Shape(open=True)


def load(tree: Mapping[str, Any], canonical: bytes, step_types: Mapping[str, StepType]) -> Definition:
    """The definition of a parsed payload. `step_types` may hold types of the user's beside the built-in ones.

    Raises LoadError with every problem.
    """
    own = {name: step_type for name, step_type in step_types.items() if name not in LEVEL1}
    loader = _Loader(own)
    definition = loader.load(tree, canonical)
    if loader.problems:
        first = loader.problems[0]
        raise LoadError(f"{first.path}: {first.message}", loader.problems[:PROBLEMS_MAX])
    return definition


def _shown(text: str) -> str:
    return repr(text if len(text) <= ID_LENGTH_MAX else text[:ID_LENGTH_MAX] + "…")


class _Loader:
    def __init__(self, own: Mapping[str, StepType]) -> None:
        self.own = own
        self.types = {**LEVEL2, **own}
        self.names = sorted({*SHAPES, *own})
        self.problems: list[Problem] = []

    def problem(self, path: str, message: str) -> None:
        self.problems.append(Problem(path, message))

    def hint(self, wrong: str, known: Iterable[str]) -> str:
        """What was meant, perhaps: only for the problems that are shown, since looking takes time."""
        if len(self.problems) >= HINTS_MAX or len(wrong) > ID_LENGTH_MAX:
            return ""
        near = get_close_matches(wrong, list(islice(known, HINT_NAMES_MAX)), n=1)
        return f"; did you mean {near[0]!r}?" if near else ""

    def load(self, tree: Mapping[str, Any], canonical: bytes) -> Definition:
        workflow_id = tree.get("workflow_id")
        if workflow_id is not None and type(workflow_id) is not str:
            self.problem("workflow_id", "must be a text")
        nodes, edges = self.array(tree, "nodes"), self.array(tree, "edges")
        steps = tuple(
            step for index, node in enumerate(nodes) if (step := self.step(index, node)) is not None
        )
        seen: dict[str, int] = {}
        for step in steps:
            if step.id in seen:
                self.problem(
                    f"nodes[{step.index}].id", f"id {step.id!r} is used twice (nodes[{seen[step.id]}] has it)"
                )
            seen.setdefault(step.id, step.index)
        flows = tuple(
            edge for index, item in enumerate(edges) if (edge := self.edge(index, item, seen)) is not None
        )
        return Definition(
            2, workflow_id or "", steps, flows, self.inputs(tree.get("inputs")), self.types, canonical
        )

    def array(self, tree: Mapping[str, Any], key: str) -> Sequence[Any]:
        value = tree.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self.problem(key, "must be an array")
            return []
        return value

    def inputs(self, declared: Any) -> Mapping[str, InputSpec]:
        if declared is None:
            return {}
        try:
            return parse_inputs(declared)
        except LoadError as error:
            self.problems += error.problems
            return {}

    # --- nodes

    def step(self, index: int, node: Any) -> Step | None:
        path = f"nodes[{index}]"
        if not isinstance(node, dict):
            self.problem(path, "must be an object")
            return None
        step_id = node.get("id")
        if type(step_id) is not str or not step_id or len(step_id) > ID_LENGTH_MAX:
            self.problem(f"{path}.id", f"must be a text of 1 to {ID_LENGTH_MAX} characters")
            return None
        if not step_id.isprintable():
            self.problem(f"{path}.id", "must be of printable characters")
            return None
        data = node.get("data")
        if data is not None and not isinstance(data, dict):
            self.problem(f"{path}.data", "must be an object")
            return None
        data = data or {}
        type_name = node.get("type") or infer_type(data)
        if type(type_name) is not str or type_name not in self.names:
            if type(type_name) is not str:
                self.problem(f"{path}.type", "must be a text")
            elif not type_name:
                self.problem(f"{path}.type", "the step has no type, and its data does not tell")
            else:
                hint = self.hint(type_name, self.names) or "; GET /v1/step-types lists the types"
                self.problem(f"{path}.type", f"unknown step type {_shown(type_name)}{hint}")
            return None
        shape = SHAPES.get(type_name, _OPEN)
        for field, message in problems_of(type_name, shape, data):
            self.problem(f"{path}.data.{field}", message)
        named = data.get("step") if type_name == "task" else None
        if type(named) is str and named not in self.own and not has_template(named):
            known = ", ".join(sorted(self.own)) or "none; start the node with --load MODULE"
            self.problem(
                f"{path}.data.step", f"no Python step {_shown(named)} is registered (registered: {known})"
            )
        return Step(step_id, type_name, self.data(path, shape, data), data, self.policy(path, node), index)

    def data(self, path: str, shape: Shape, data: Mapping[str, Any]) -> Data:
        fields: dict[str, Any] = from_json(dict(data))
        expressions: list[Compiled] = []
        templated: dict[str, Any] = {}
        kinds = {field.name: field.kind for field in shape.fields}
        for name, value in fields.items():
            kind = kinds.get(name)
            try:
                if kind == "expression" and type(value) is str:
                    expressions.append(compile_expression(value))
                elif kind == "cases" and isinstance(value, list):
                    expressions += [
                        compile_expression(case["when"])
                        for case in value
                        if isinstance(case, dict) and type(case.get("when")) is str and case["when"]
                    ]
                elif name != "label":
                    templated[name] = value
            except ExpressionError:
                continue  # problems_of has said so
        for name, value in list(templated.items()):
            try:
                compile_template(value)
            except ExpressionError as error:
                self.problem(f"{path}.data.{name}", f"template: {error}")
                del templated[name]
        template = compile_template(templated)
        if template is not None:
            expressions += template.expressions
        return Data(fields, template, tuple(expressions))

    def policy(self, path: str, node: Mapping[str, Any]) -> Any:
        if node.get("policy") is None:
            return None
        try:
            return parse_policy(node["policy"])
        except PolicyInvalid as error:
            self.problem(f"{path}.policy.{error.path}".removesuffix("."), str(error))
            return None

    # --- edges

    def edge(self, index: int, item: Any, steps: Mapping[str, int]) -> FlowEdge | None:
        path = f"edges[{index}]"
        if not isinstance(item, dict):
            self.problem(path, "must be an object")
            return None
        ends = []
        for end in ("source", "target"):
            value = item.get(end)
            if type(value) is not str or value not in steps:
                if type(value) is not str:
                    self.problem(f"{path}.{end}", "must be the id of a step")
                else:
                    self.problem(
                        f"{path}.{end}", f"no step has the id {_shown(value)}{self.hint(value, steps)}"
                    )
                return None
            ends.append(value)
        handle = item.get("sourceHandle") if item.get("sourceHandle") is not None else item.get("condition")
        if handle is not None and type(handle) is not str:
            self.problem(f"{path}.sourceHandle", "must be a text or null")
            return None
        return FlowEdge(ends[0], ends[1], handle or None)
