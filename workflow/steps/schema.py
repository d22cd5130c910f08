"""`schema_validator`: JSON Schema with the answers of gojsonschema 1.2.0.

The keywords on single values (lengths, limits, multiples, patterns, formats) and references are the
`jsonschema` library's, fed with exact numbers. The walk over a document is this file's, because results show
it: the order of the errors, that a wrong type ends the look at a value, and which alternative of anyOf and
oneOf counts as the closest (it has the highest score). Which drafts hold is said in `schema_compile.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

from jsonschema import Draft7Validator

from workflow.steps.base import Field, RunState, Services, Step, StepFailed, StepType
from workflow.steps.json_text import decode_numbers
from workflow.steps.schema_compile import (
    Node,
    SchemaInvalid,
    compile_pattern,
    compile_schema,
    normal_text,
    rational,
)
from workflow.steps.schema_formats import FORMATS
from workflow.values import JsonNumber, MapSlice, Value, json_form, text_form

depth_max: Final = (
    100  # schemas within schemas while validating; one that refers to itself without end stops here
)


def run_schema_validator(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """Whether the first input is valid and, if not, why."""
    assert step.data is not None
    if not inputs or inputs[0] is None:
        raise StepFailed("no input provided for validation")
    try:
        document = decode_numbers(json_form(inputs[0]))
    except ValueError as error:
        raise StepFailed(f"failed to serialize input: {error}") from None
    try:
        errors = validate(document, compile_schema(step.data["schema"]))
    except SchemaInvalid as error:
        raise StepFailed(f"schema validation failed: {error}", retryable=False) from None
    if not errors:
        return {"valid": True, "data": inputs[0]}
    if step.data["strict"]:
        raise StepFailed(f"validation failed: {len(errors)} errors found", retryable=False)
    return {"valid": False, "data": inputs[0], "errors": MapSlice(errors)}


def validate(document: Value, schema: Node) -> list[dict[str, Value]]:
    """The errors of a document (numbers as json.Number), in gojsonschema's order; properties by name."""
    outcome = _Outcome()
    _validate(schema, document, outcome, _Place("(root)", None, 0))
    return outcome.errors


@dataclass(slots=True)
class _Outcome:
    """Errors so far, and how close the value came (only for choosing among alternatives)."""

    errors: list[dict[str, Value]] = field(default_factory=list)
    score: int = 0

    def add(self, kind: str, place: _Place, value: Value, description: str) -> None:
        self.errors.append({"field": place.field(), "type": kind, "description": description, "value": value})
        self.score -= 2

    def merge(self, other: _Outcome) -> None:
        self.errors += other.errors
        self.score += other.score


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the document, and how deep in schemas."""

    name: str
    parent: _Place | None
    depth: int

    def below(self, name: str) -> _Place:
        return _Place(name, self, self.depth)

    def deeper(self) -> _Place:
        if self.depth >= depth_max:
            raise SchemaInvalid(
                f"more than {depth_max} schemas within each other; does the schema refer to itself?"
            )
        return _Place(self.name, self.parent, self.depth + 1)

    def field(self) -> str:
        """Dotted path without the root's name, which stands alone for the root."""
        names: list[str] = []
        place: _Place | None = self
        while place is not None and place.parent is not None:
            names.append(place.name)
            place = place.parent
        return ".".join(reversed(names)) or self.name


def _sub_outcome(schema: Node, value: Value, place: _Place) -> _Outcome:
    outcome = _Outcome()
    _validate(schema, value, outcome, place)
    return outcome


def _validate(schema: Node, value: Value, outcome: _Outcome, place: _Place) -> None:
    place = place.deeper()
    if schema.ref is not None:
        _validate(schema.ref, value, outcome, place)
        return
    given = _json_type(value)
    if schema.types and given not in schema.types and not (given == "integer" and "number" in schema.types):
        expected = schema.types[0] if len(schema.types) == 1 else f"[{','.join(schema.types)}]"
        outcome.add("invalid_type", place, value, f"Invalid type. Expected: {expected}, given: {given}")
        return
    _validate_combinations(schema, value, outcome, place)
    if given == "array":
        _validate_array(schema, value, outcome, place)
    elif given == "object":
        _validate_object(schema, value, outcome, place)
    elif given in ("integer", "number"):
        _validate_number(schema, value, outcome, place)
    _validate_values(schema, value, outcome, place)
    if given == "string":
        _validate_text(schema, value, outcome, place)
    elif given == "object":
        for name, property_schema in schema.properties.items():
            if name in value:
                _validate(property_schema, value[name], outcome, place.below(name))
    outcome.score += 1


def _json_type(value: Value) -> str:
    if type(value) is JsonNumber:
        return "integer" if rational(value).denominator == 1 else "number"
    return _JSON_TYPES[type(value)]


_JSON_TYPES = {str: "string", bool: "boolean", type(None): "null", list: "array", dict: "object"}


def _validate_combinations(schema: Node, value: Value, outcome: _Outcome, place: _Place) -> None:
    if schema.any_of:
        outcomes = _until_valid(_sub_outcome(option, value, place) for option in schema.any_of)
        if outcomes[-1].errors:
            outcome.add("number_any_of", place, value, "Must validate at least one schema (anyOf)")
            outcome.merge(_closest(outcomes))
    if schema.one_of:
        outcomes = [_sub_outcome(option, value, place) for option in schema.one_of]
        valid = sum(not option.errors for option in outcomes)
        if valid != 1:
            outcome.add("number_one_of", place, value, "Must validate one and only one schema (oneOf)")
            if valid == 0:
                outcome.merge(_closest(outcomes))
    if schema.all_of:
        outcomes = [_sub_outcome(part, value, place) for part in schema.all_of]
        for part in outcomes:
            outcome.merge(part)
        if any(part.errors for part in outcomes):
            outcome.add("number_all_of", place, value, "Must validate all the schemas (allOf)")
    if schema.not_ is not None and not _sub_outcome(schema.not_, value, place).errors:
        outcome.add("number_not", place, value, "Must not validate the schema (not)")
    if schema.dependencies and type(value) is dict:
        _validate_dependencies(schema, value, outcome, place)
    if schema.if_ is not None:
        holds = not _sub_outcome(schema.if_, value, place).errors
        branch = schema.then if holds else schema.else_
        if branch is not None:
            result = _sub_outcome(branch, value, place)
            if result.errors and holds:
                outcome.add("condition_then", place, value, 'Must validate "then" as "if" was valid')
            elif result.errors:
                outcome.add("condition_else", place, value, 'Must validate "else" as "if" was not valid')
            if result.errors:
                outcome.merge(result)
    outcome.score += 1


def _until_valid(outcomes: Iterable[_Outcome]) -> list[_Outcome]:
    seen: list[_Outcome] = []
    for outcome in outcomes:
        seen.append(outcome)
        if not outcome.errors:
            break
    return seen


def _closest(outcomes: list[_Outcome]) -> _Outcome:
    return max(outcomes, key=lambda outcome: outcome.score)  # the first of the highest


def _validate_dependencies(schema: Node, value: dict[str, Value], outcome: _Outcome, place: _Place) -> None:
    for name in sorted(value):
        dependency = schema.dependencies.get(name)
        if isinstance(dependency, Node):
            _validate(dependency, value, outcome, place)
            continue
        for needed in dependency or ():
            if needed not in value:
                outcome.add("missing_dependency", place, value, f"Has a dependency on {needed}")


def _validate_values(schema: Node, value: Value, outcome: _Outcome, place: _Place) -> None:
    if schema.const is not None and normal_text(value) != schema.const:
        outcome.add("const", place, value, f"{place.field()} does not match: {schema.const}")
    if schema.enum and normal_text(value) not in schema.enum:
        allowed = ", ".join(schema.enum)
        outcome.add("enum", place, value, f"{place.field()} must be one of the following: {allowed}")
    outcome.score += 1


def _validate_array(schema: Node, value: list[Value], outcome: _Outcome, place: _Place) -> None:
    for index, item_schema in enumerate(_item_schemas(schema, value, outcome, place)):
        if item_schema is not None:
            outcome.merge(_sub_outcome(item_schema, value[index], place.below(str(index))))
    _check_limit(schema, "minItems", value, value, outcome, place)
    _check_limit(schema, "maxItems", value, value, outcome, place)
    if schema.unique_items:
        _validate_unique(value, outcome, place)
    if schema.contains is not None:
        outcomes = _until_valid(
            _sub_outcome(schema.contains, item, place.below(str(index))) for index, item in enumerate(value)
        )
        if not outcomes or outcomes[-1].errors:
            outcome.add("contains", place, value, "At least one of the items must match")
            if outcomes:
                outcome.merge(_closest(outcomes))
    outcome.score += 1


def _item_schemas(schema: Node, value: list[Value], outcome: _Outcome, place: _Place) -> list[Node | None]:
    """The schema of each element, None where there is none."""
    if isinstance(schema.items, Node):
        return [schema.items] * len(value)
    if not schema.items:
        return []
    rest = len(value) - len(schema.items)
    if rest > 0 and isinstance(schema.additional_items, Node):
        return [*schema.items, *[schema.additional_items] * rest]
    if rest > 0 and schema.additional_items is False:
        outcome.add("array_no_additional_items", place, value, "No additional items allowed on array")
    return list(schema.items[: len(value)])


def _validate_unique(value: list[Value], outcome: _Outcome, place: _Place) -> None:
    seen: dict[str, int] = {}
    for index, item in enumerate(value):
        text = normal_text(item)
        if text in seen:
            outcome.add("unique", place, value, f"array items[{seen[text]},{index}] must be unique")
        seen[text] = index


def _validate_object(schema: Node, value: dict[str, Value], outcome: _Outcome, place: _Place) -> None:
    _check_limit(schema, "minProperties", value, value, outcome, place)
    _check_limit(schema, "maxProperties", value, value, outcome, place)
    for name in schema.required:
        if name in value:
            outcome.score += 1
        else:
            outcome.add("required", place, value, f"{name} is required")
    additional = schema.additional_properties
    for name in sorted(value):
        matched = _validate_pattern_properties(schema, name, value[name], outcome, place)
        if matched or name in schema.properties:
            continue
        if additional is False:
            outcome.add(
                "additional_property_not_allowed",
                place,
                value[name],
                f"Additional property {name} is not allowed",
            )
        elif isinstance(additional, Node):
            outcome.merge(_sub_outcome(additional, value[name], place))
    if schema.property_names is not None:
        for name in sorted(value):
            result = _sub_outcome(schema.property_names, name, place)
            if result.errors:
                outcome.add(
                    "invalid_property_name", place, value, f'Property name of "{name}" does not match'
                )
                outcome.merge(result)
    outcome.score += 1


def _validate_pattern_properties(
    schema: Node, name: str, value: Value, outcome: _Outcome, place: _Place
) -> bool:
    matched = False
    for pattern, pattern_schema in schema.pattern_properties.values():
        if pattern.search(name):
            matched = True
            outcome.merge(_sub_outcome(pattern_schema, value, place.below(name)))
    outcome.score += matched
    return matched


def _validate_number(schema: Node, value: JsonNumber, outcome: _Outcome, place: _Place) -> None:
    if schema.limits:
        number = rational(value)
        for keyword in ("multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"):
            _check_limit(schema, keyword, number, value, outcome, place)
    outcome.score += 1


def _validate_text(schema: Node, value: str, outcome: _Outcome, place: _Place) -> None:
    _check_limit(schema, "minLength", value, value, outcome, place)
    _check_limit(schema, "maxLength", value, value, outcome, place)
    if schema.pattern is not None and not compile_pattern(schema.pattern).search(value):
        outcome.add("pattern", place, value, f"Does not match pattern '{schema.pattern}'")
    if schema.format is not None and not FORMATS.conforms(value, schema.format):
        outcome.add("format", place, value, f"Does not match format '{schema.format}'")
    outcome.score += 1


# --- keywords on single values: the library decides, the words are gojsonschema's -------------------------

_LIMITS: Final = {
    "minItems": ("array_min_items", "Array must have at least {} items"),
    "maxItems": ("array_max_items", "Array must have at most {} items"),
    "minProperties": ("array_min_properties", "Must have at least {} properties"),
    "maxProperties": ("array_max_properties", "Must have at most {} properties"),
    "multipleOf": ("multiple_of", "Must be a multiple of {}"),
    "maximum": ("number_lte", "Must be less than or equal to {}"),
    "exclusiveMaximum": ("number_lt", "Must be less than {}"),
    "minimum": ("number_gte", "Must be greater than or equal to {}"),
    "exclusiveMinimum": ("number_gt", "Must be greater than {}"),
    "minLength": ("string_gte", "String length must be greater than or equal to {}"),
    "maxLength": ("string_lte", "String length must be less than or equal to {}"),
}
_LIBRARY: Final = Draft7Validator(True)
_KEYWORDS: Final[dict[str, Callable[..., Any]]] = dict(Draft7Validator.VALIDATORS)


def _check_limit(
    schema: Node, keyword: str, measured: Value | Fraction, value: Value, outcome: _Outcome, place: _Place
) -> None:
    limit = schema.limits.get(keyword)
    if limit is None or not any(_KEYWORDS[keyword](_LIBRARY, limit, measured, {})):
        return
    kind, text = _LIMITS[keyword]
    shown = text_form(float(limit)) if isinstance(limit, Fraction) else str(limit)
    outcome.add(kind, place, value, text.format(shown))


STEP_TYPES = (
    StepType(
        "schema_validator",
        (Field("schema", "any", required=True), Field("strict", "bool")),
        "pure",
        run_schema_validator,
        "SchemaValidatorData",
    ),
)
