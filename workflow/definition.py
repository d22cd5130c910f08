"""A loaded workflow: frozen, and nothing but data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from workflow.errors import WorkflowError
from workflow.steps.base import Step, StepType
from workflow.values import Value


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a payload. `path` is its place, such as `nodes[3].data.value`."""

    path: str
    message: str


class LoadError(WorkflowError):
    """A payload cannot be loaded. `text` is the original's wording of the first problem."""

    def __init__(
        self, text: str, problems: list[Problem] | None = None, *, code: str = "workflow_invalid"
    ) -> None:
        super().__init__(text)
        self.text = text
        self.problems = problems or [Problem("", text)]
        self.code = code


@dataclass(frozen=True, slots=True)
class FlowEdge:
    """An edge of the payload. A `handle` (None: none) makes it conditional, the empty text too."""

    source: str
    target: str
    handle: str | None = None


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One declared input."""

    name: str
    type: str | None = None  # string | number | boolean | array | object
    required: bool = False
    has_default: bool = False
    default: Value = None


@dataclass(frozen=True)
class Definition:
    """What a payload says. `steps` keep the order of the payload; ids may repeat until check_graph has looked."""

    level: int
    workflow_id: str
    steps: tuple[Step, ...]
    edges: tuple[FlowEdge, ...]
    inputs: Mapping[str, InputSpec]
    step_types: Mapping[str, StepType] = field(repr=False, compare=False)
    canonical: bytes = field(repr=False)

    @cached_property
    def hash(self) -> bytes:
        """The content hash by which a plan is known."""
        return hashlib.sha256(self.canonical).digest()
