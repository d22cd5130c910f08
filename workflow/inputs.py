"""Declared inputs of a workflow, and their values for one execution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from workflow.definition import Definition, InputSpec, LoadError, Problem
from workflow.values import Value, from_json

inputs_max: Final = 1000
_SPEC_FIELDS = frozenset({"type", "required", "default", "description", "label"})
TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "number": (float, int),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "any": (),
}


class InputsInvalid(LoadError):
    """The inputs of an execution do not fit the workflow's declaration."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems[0].message, problems, code="inputs_invalid")


def looks_declared(data: Any) -> bool:
    """Whether a level-1 payload's `inputs` key is a declaration, and not something that the original ignored."""
    return isinstance(data, dict) and all(
        isinstance(spec, dict) and _SPEC_FIELDS.issuperset(spec) for spec in data.values()
    )


def parse_inputs(data: Any) -> dict[str, InputSpec]:
    """The declaration `{"name": {"type", "required", "default", …}}`. Raises LoadError with every problem."""
    if not isinstance(data, dict):
        raise LoadError("inputs must be an object", [Problem("inputs", "must be an object")])
    if len(data) > inputs_max:
        raise LoadError(f"too many inputs: {len(data)} (limit: {inputs_max})")
    problems: list[Problem] = []
    specs = {name: _parse_spec(name, spec, problems) for name, spec in data.items()}
    if problems:
        raise LoadError(f"{problems[0].path}: {problems[0].message}", problems)
    return specs


def _parse_spec(name: str, data: Any, problems: list[Problem]) -> InputSpec:
    path = f"inputs.{name}"
    if not isinstance(data, dict):
        problems.append(Problem(path, "must be an object"))
        return InputSpec(name)
    for key in data:
        if key not in _SPEC_FIELDS:
            problems.append(Problem(f"{path}.{key}", "unknown field"))
    kind = data.get("type")
    if kind is not None and (type(kind) is not str or kind not in TYPES):
        problems.append(Problem(f"{path}.type", f"must be one of {', '.join(TYPES)}"))
        kind = None
    required = data.get("required", False)
    if type(required) is not bool:
        problems.append(Problem(f"{path}.required", "must be true or false"))
        required = False
    spec = InputSpec(name, kind, required, "default" in data, from_json(data.get("default")))
    if spec.has_default and spec.default is not None and not _fits(spec, spec.default):
        problems.append(Problem(f"{path}.default", f"must be of type {kind}"))
    return spec


def _fits(spec: InputSpec, value: Value) -> bool:
    kinds = TYPES[spec.type] if spec.type is not None else ()
    return not kinds or (isinstance(value, kinds) and (type(value) is not bool or bool in kinds))


def bind_inputs(definition: Definition, given: Mapping[str, Value] | None) -> dict[str, Value]:
    """The inputs of one execution: those given, and defaults for the rest.

    Inputs that are not declared are allowed: every entry becomes a context constant. Raises InputsInvalid with
    every problem.
    """
    bound = dict(given) if given else {}
    problems: list[Problem] = []
    for spec in definition.inputs.values():
        if spec.name in bound:
            if not _fits(spec, bound[spec.name]):
                problems.append(
                    Problem(f"inputs.{spec.name}", f"input {spec.name!r} must be of type {spec.type}")
                )
        elif spec.has_default:
            bound[spec.name] = spec.default
        elif spec.required:
            problems.append(Problem(f"inputs.{spec.name}", f"input {spec.name!r} is required"))
    if problems:
        raise InputsInvalid(problems)
    return bound
