"""What the data of a level-2 step may hold: the fields of each type, checked at load, and once more when templates are
filled in.

A `Shape` is what validation, the JSON Schema, the reference in docs/language.md and the editor know of a type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from workflow.durations import DurationInvalid, parse_duration
from workflow.level2.grammar import compile_expression
from workflow.level2.scope import ExpressionError


@dataclass(frozen=True, slots=True)
class DataField:
    """One field. `kind`: see KINDS. An expression is never a template; any other text may hold templates, unless the
    field is `fixed`: then the plan depends on it. `least` and `most` bound a number (for a duration: its seconds).
    """

    name: str
    kind: str
    required: bool = False
    about: str = ""
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    fixed: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind {self.kind!r} of field {self.name}")


@dataclass(frozen=True, slots=True)
class Shape:
    """A type of step as its author sees it.

    `ports`: named outputs beside the unnamed one and `error`, which every step has; None: they depend on the data
    (`switch`). `guard`: the step watches the one that feeds it and is compiled into its policy. `loop`: the port behind
    which its body stands. `one_of`: at least one of these fields is there. `open`: fields of any name are allowed.
    """

    fields: tuple[DataField, ...] = ()
    about: str = ""
    ports: tuple[str, ...] | None = ()
    guard: bool = False
    loop: str | None = None
    one_of: tuple[str, ...] = ()
    open: bool = False


DURATION_S_MAX: Final = 3e9
"""About a hundred years: what a timer can hold."""
_INTEGER_MAX: Final = 2**53


def _is_number(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _is_whole(value: Any) -> bool:
    return _is_number(value) and value == int(value) and abs(value) <= _INTEGER_MAX


KINDS: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    "text": ("a text", lambda v: type(v) is str),
    "number": ("a number", _is_number),
    "integer": ("a whole number", _is_whole),
    "boolean": ("true or false", lambda v: type(v) is bool),
    "any": ("any value", lambda v: True),
    "array": ("an array", lambda v: isinstance(v, list)),
    "object": ("an object", lambda v: isinstance(v, dict)),
    "texts": ("an array of texts", lambda v: isinstance(v, list) and all(type(x) is str for x in v)),
    "expression": ("an expression, which is a text", lambda v: type(v) is str),
    "duration": ('a duration such as "5s", "10m" or "1h30m", or seconds', lambda v: _is_duration(v)),
    "cases": ("an array of {when, output_path, is_default}", lambda v: _are_cases(v)),
    "context_values": ("an array of {name, value, type}", lambda v: _are_objects_with(v, "name")),
    "time": ("an RFC 3339 time or Unix seconds", lambda v: type(v) is str or _is_number(v)),
}


def _is_duration(value: Any) -> bool:
    seconds = duration_s(value) if _is_number(value) or type(value) is str else None
    return seconds is not None and 0 <= seconds <= DURATION_S_MAX


def duration_s(value: Any) -> float | None:
    """Seconds of a duration: a number of seconds, or text such as "5s" or "1h30m"; None when it is neither."""
    if type(value) is not str:
        return float(value) if _is_number(value) and abs(value) < _INTEGER_MAX else None
    try:
        return parse_duration(value) / 1e9
    except DurationInvalid:
        return None


def _are_objects_with(value: Any, name: str) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, dict) and type(item.get(name)) is str for item in value
    )


def _are_cases(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def has_template(value: Any) -> bool:
    """Whether a template stands anywhere in a piece of data."""
    if type(value) is str:
        return "{{" in value
    if isinstance(value, list):
        return any(map(has_template, value))
    return isinstance(value, dict) and any(map(has_template, value.values()))


def problems_of(type_name: str, shape: Shape, data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(field, what is wrong) for each fault of a step's data as in the payload; templates are taken on trust."""
    found: list[tuple[str, str]] = []
    known = {field.name: field for field in shape.fields}
    for name, value in data.items():
        field = known.get(name)
        if field is None:
            if name != "label" and not name.startswith("_") and not shape.open:
                near = get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; {type_name} has {_listed(known)}"
                found.append((name, f"unknown field {name!r}{hint}"))
        elif value is not None:
            text = _problem(field, value)
            if text is not None:
                found.append((name, text))
    for field in shape.fields:
        if field.required and data.get(field.name) is None:
            found.append((field.name, f"missing required field: {field.name}"))
    if shape.one_of and all(data.get(name) is None for name in shape.one_of):
        found.append((shape.one_of[0], f"missing: one of {_listed(shape.one_of)}"))
    return found


def _listed(names: Mapping[str, Any] | tuple[str, ...]) -> str:
    return ", ".join(names) if names else "no fields"


def _problem(field: DataField, value: Any) -> str | None:
    if field.kind == "expression":
        return _expression_problem(value)
    if field.kind == "cases":
        return _cases_problem(value)
    if has_template(value):
        return "takes no template: the plan of the workflow depends on it" if field.fixed else None
    return _misfit(field, value)


def _misfit(field: DataField, value: Any) -> str | None:
    expected, fits = KINDS[field.kind]
    if not fits(value):
        return f"must be {expected}"
    if field.choices and value not in field.choices:
        return f"must be one of {', '.join(field.choices)}"
    if field.least is None and field.most is None:
        return None
    amount = duration_s(value)
    if amount is not None and field.least is not None and amount < field.least:
        return f"must be at least {field.least:g}"
    if amount is not None and field.most is not None and amount > field.most:
        return f"must be at most {field.most:g}"
    return None


def _expression_problem(value: Any) -> str | None:
    if type(value) is not str:
        return "must be an expression, which is a text"
    if "{{" in value:
        return "is an expression already: write it without {{ }}"
    try:
        compile_expression(value)
    except ExpressionError as error:
        return str(error)
    return None


def _cases_problem(value: Any) -> str | None:
    if not _are_cases(value):
        return "must be an array of {when, output_path, is_default}, with at least one"
    for position, case in enumerate(value):
        if case.get("is_default") is not None and type(case["is_default"]) is not bool:
            return f"case {position}, is_default must be true or false"
        if case.get("output_path") is not None and type(case["output_path"]) is not str:
            return f"case {position}, output_path must be a text"
        if case.get("is_default"):
            if position != len(value) - 1:
                return f"the default case is case {position}; it must be the last"
            continue
        if type(case.get("output_path")) is not str or not case["output_path"]:
            return f"case {position} needs an output_path"
        problem = _expression_problem(case.get("when"))
        if problem is not None:
            return f"case {position}, when: {problem}"
    return None


def filled_problem(shape: Shape, data: Mapping[str, Any]) -> str | None:
    """What is wrong with data whose templates have been filled in; None when it fits."""
    for field in shape.fields:
        value = data.get(field.name)
        if value is None:
            if field.required:
                return f"{field.name} is null"
            continue
        misfit = _misfit(field, value)
        if misfit is not None:
            return f"{field.name} {misfit}"
    return None
