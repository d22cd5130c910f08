"""References by name (forms 5 to 10): results, variables, context values, and paths on the current value."""

from __future__ import annotations

from workflow.expressions.context import EvalContext
from workflow.expressions.parts import Part, Run
from workflow.expressions.paths import MISSING, compile_path
from workflow.values import Value


def compile_name(text: str) -> Part:
    """References by name: forms 5 to 10."""
    if text.startswith("node."):
        return Part(compile_result_reference(text[5:]))
    if text.startswith("variables."):
        return Part(compile_variable(text[10:]))
    if text.startswith("context."):
        return Part(compile_context_reference(text[8:]))
    if text == "input" or text == "item":
        return Part(_current_value)
    for root in ("item.", "input."):
        if text.startswith(root):
            path = text[len(root) :]
            break
    else:
        return Part(_bare_path(text))
    if path and "." not in path and "(" not in path and "[" not in path and path != "length":
        return Part(_field(path))
    follow = compile_path(path)
    return Part(lambda context: follow(context.value))


def _field(name: str) -> Run:
    def field(context: EvalContext) -> Value:
        value = context.value
        return value.get(name, MISSING) if type(value) is dict else MISSING

    return field


def _bare_path(text: str) -> Run:
    follow = compile_path(text)

    def bare_path(context: EvalContext) -> Value:
        return MISSING if context.value is None else follow(context.value)

    return bare_path


def _current_value(context: EvalContext) -> Value:
    return context.value


def current_value_unwrapped(context: EvalContext) -> Value:
    value = context.value
    while type(value) is dict and "value" in value:
        value = value["value"]
    return value


def compile_result_reference(rest: str) -> Run:
    """`node.<rest>`: the id ends at the first dot."""
    step_id, dot, path = rest.partition(".")
    if not dot:
        return lambda context: context.results.get(step_id, MISSING)
    follow = compile_path(path)

    def result_path(context: EvalContext) -> Value:
        value = context.results.get(step_id, MISSING)
        return MISSING if value is MISSING else follow(value)

    return result_path


def compile_context_reference(name: str) -> Run:
    """`context.<name>`: the name is everything after the dot."""
    return lambda context: context.context.get(name, MISSING)


def compile_variable(rest: str) -> Run:
    """`variables.<rest>`: the name ends at the first dot or bracket.

    `item` and `input` are variables too, with the current value, unless it is null or the names are taken.
    """
    end = min((at for at in (rest.find("."), rest.find("[")) if at >= 0), default=len(rest))
    name = rest[:end]
    get: Run
    if name in ("item", "input"):

        def get(context: EvalContext) -> Value:
            value = context.variables.get(name, MISSING)
            if value is MISSING and context.value is not None:
                return context.value
            return value
    else:

        def get(context: EvalContext) -> Value:
            return context.variables.get(name, MISSING)

    if end == len(rest):
        return get
    follow = compile_path(rest[end:].removeprefix("."))

    def variable_path(context: EvalContext) -> Value:
        value = get(context)
        return MISSING if value is MISSING else follow(value)

    return variable_path
