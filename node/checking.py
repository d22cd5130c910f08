"""Every problem of a payload, with its place: what `validate` shows, and a start would refuse or fail on.

Finds what the loader finds (JSON, field types, required fields), what the planner finds (cycles, duplicate ids, edges
to nowhere), and step types that this node does not run: those load, and fail their execution. Warnings are beside that
(workflow/findings.py): they make no payload invalid.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from node.errors import Problem
from workflow import payload
from workflow.definition import Definition, LoadError
from workflow.findings import findings
from workflow.plan import compile_plan
from workflow.steps.base import StepType
from workflow.steps.registry import LEVEL1

# Far more than a person reads at once; a generated payload may be wrong in every step.
problems_max = 200


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check found; `valid` is False as soon as there is one problem."""

    valid: bool
    error: str  # the first problem, in the original's words; "" when valid
    problems: tuple[Problem, ...] = ()
    steps_total: int = 0
    loads: bool = True  # False: the original's decoder refuses it
    warnings: tuple[Problem, ...] = ()  # what runs, and hardly does what was meant


def check_payload(raw: bytes | str, user_types: Mapping[str, StepType] | None = None) -> CheckReport:
    """Check a payload against the built-in step types and `user_types`. Never raises for what is in it."""
    registry = {**LEVEL1, **(user_types or {})}
    try:
        definition = payload.load(raw, registry=registry)
    except LoadError as error:
        return CheckReport(False, error.text, _problems(error), loads=False)
    problems: list[Problem] = []
    warnings: tuple[Problem, ...] = ()
    try:
        plan = compile_plan(definition)
        warnings = tuple(Problem(found.path, found.message, "warning") for found in findings(plan))
    except LoadError as error:
        problems += _problems(error)
    if definition.level == 1:  # level 2 refuses them at load
        problems += _unknown_types(definition, registry)
    problems = problems[:problems_max]
    steps_total = len(definition.steps)
    if problems:
        return CheckReport(False, problems[0].message, tuple(problems), steps_total, warnings=warnings)
    return CheckReport(True, "", (), steps_total, warnings=warnings)


def _problems(error: LoadError) -> tuple[Problem, ...]:
    return tuple(Problem(found.path, found.message, error.code) for found in error.problems)


def _unknown_types(definition: Definition, registry: Mapping[str, StepType]) -> list[Problem]:
    found = []
    for position, step in enumerate(definition.steps):
        if step.type in definition.step_types or step.type in registry:
            continue
        near = difflib.get_close_matches(step.type, registry, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "; is its module loaded (--load)?"
        message = f"there is no step type {step.type!r}{hint}" if step.type else "the step has no type"
        found.append(Problem(f"nodes[{position}].type", message, "unknown_step_type"))
    return found
