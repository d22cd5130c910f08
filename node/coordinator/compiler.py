"""The language's loader and compiler, as the coordinator wants them: bytes in, `Compiled` or a clear refusal out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from node.coordinator.definitions import Compile, Compiled
from node.coordinator.program import Program
from node.errors import Problem, RequestInvalid, TooLarge
from workflow import codec, payload
from workflow.definition import Definition, LoadError
from workflow.inputs import bind_inputs
from workflow.plan import compile_plan
from workflow.steps.base import Settings, StepType
from workflow.values import Value


def language_compiler(
    registry: Mapping[str, StepType] | None = None, settings: Settings | None = None
) -> Compile:
    """The compiler of the language with these step types (None: the built-in ones) and settings."""

    def compile_payload(raw: bytes) -> Compiled:
        try:
            definition = payload.load(raw, registry=registry)
            plan = compile_plan(definition, settings)
        except LoadError as error:
            raise _refusal(error) from error
        control = plan.control()
        Program(control)  # a plan that contradicts itself must not get into the log
        bind = _binder(definition) if definition.inputs else None
        return Compiled(
            plan.hash,
            definition.canonical,
            control,
            msgspec.msgpack.encode(control),
            definition.workflow_id,
            bind,
        )

    return compile_payload


def _binder(definition: Definition) -> Callable[[bytes | None], bytes | None]:
    def bind(given: bytes | None) -> bytes | None:
        values: dict[str, Value] | None = codec.decode(given) if given is not None else None
        try:
            bound = bind_inputs(definition, values)
        except LoadError as error:
            raise _refusal(error) from error
        return codec.encode(bound) if bound else None

    return bind


def _refusal(error: LoadError) -> RequestInvalid | TooLarge:
    if error.code == "workflow_too_large":
        return TooLarge(error.text)
    problems = [Problem(problem.path, problem.message) for problem in error.problems]
    return RequestInvalid(error.text, code=error.code, status=422, problems=problems)
