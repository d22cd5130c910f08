"""JSON Schemas, checked and taken apart before anything is validated.

The draft mix is gojsonschema's: `$schema` chooses draft 4, 6 or 7; without it all keywords of the three hold,
and where they differ (`id`/`$id`, boolean or numeric `exclusiveMinimum`) either form is read. Keywords of
later drafts are ignored. References stay within the schema (and the meta-schemas of those drafts, which are
part of the library): nothing is ever fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final

import jsonschema_specifications  # type: ignore[import-untyped]
from referencing.exceptions import NoSuchResource, PointerToNowhere, Unresolvable
from referencing.jsonschema import DRAFT4, DRAFT6, DRAFT7, SchemaRegistry

from workflow.steps.json_text import decode_floats, decode_numbers
from workflow.steps.regexp import PatternInvalid, Regexp
from workflow.values import JsonNumber, Value, json_form

schemas_cached_max: Final = 256  # compiled schemas kept; a definition rarely has more than one
exponent_max: Final = (
    10_000  # of numbers in schemas and documents: exact arithmetic on larger ones never ends
)

_HYBRID: Final = 99
_DRAFTS: Final = {
    "http://json-schema.org/draft-04/schema": 4,
    "http://json-schema.org/draft-06/schema": 6,
    "http://json-schema.org/draft-07/schema": 7,
}
_META_SCHEMAS: Final[SchemaRegistry] = jsonschema_specifications.REGISTRY
_TYPES: Final = ("array", "boolean", "integer", "number", "null", "object", "string")


class SchemaInvalid(ValueError):
    """The schema cannot be used; the message is gojsonschema's where it has one."""


@dataclass(slots=True)
class Node:
    """One schema, taken apart. None, or empty, where a keyword is absent."""

    ref: Node | None = None
    types: list[str] = field(default_factory=list)
    properties: dict[str, Node] = field(default_factory=dict)
    additional_properties: bool | Node | None = None
    pattern_properties: dict[str, tuple[Regexp, Node]] = field(default_factory=dict)
    property_names: Node | None = None
    dependencies: dict[str, list[str] | Node] = field(default_factory=dict)
    items: Node | list[Node] | None = None
    additional_items: bool | Node | None = None
    contains: Node | None = None
    unique_items: bool = False
    limits: dict[str, Any] = field(default_factory=dict)  # minimum, maxLength, multipleOf …: keyword -> value
    pattern: str | None = None
    format: str | None = None
    required: list[str] = field(default_factory=list)
    const: str | None = None  # normal JSON text
    enum: list[str] = field(default_factory=list)  # normal JSON texts
    one_of: list[Node] = field(default_factory=list)
    any_of: list[Node] = field(default_factory=list)
    all_of: list[Node] = field(default_factory=list)
    not_: Node | None = None
    if_: Node | None = None
    then: Node | None = None
    else_: Node | None = None


def compile_schema(schema: Value) -> Node:
    """The schema as a tree (a graph, where references go round). Raises SchemaInvalid."""
    return _compiled(json_form(schema))


@lru_cache(maxsize=schemas_cached_max)
def _compiled(text: str) -> Node:
    document = decode_numbers(text)
    try:
        return _Compiler(document).root()
    except RecursionError:
        raise SchemaInvalid("schema is nested too deeply") from None


def rational(number: JsonNumber) -> Fraction:
    """The exact value of a JSON number. Raises SchemaInvalid for one whose exponent is beyond exponent_max."""
    _, _, exponent = number.text.lower().partition("e")
    if len(exponent) > 6 or abs(int(exponent or 0)) > exponent_max:
        raise SchemaInvalid(f"number out of range: {number.text}")
    return Fraction(number.text)


def normal_text(value: Value) -> str:
    """JSON text in which equal values look equal (1 and 1.0, keys in any order)."""
    return json_form(decode_floats(json_form(value)))


class _Compiler:
    def __init__(self, document: Value) -> None:
        if type(document) is not bool and type(document) is not dict:
            raise SchemaInvalid("schema is invalid")
        self._document = document
        self._draft = self._declared_draft()
        self._nodes: dict[int, Node] = {}  # by identity of the dict, for references
        self._converted: dict[int, Value] = {}  # parts of meta-schemas, by identity of the original

    def root(self) -> Node:
        return self._node(self._document, self._new_resolver())

    def _declared_draft(self) -> int:
        if type(self._document) is not dict or "$schema" not in self._document:
            return _HYBRID
        uri = self._document["$schema"]
        if type(uri) is not str:
            raise _wrong_type("string", "$schema")
        return _DRAFTS.get(uri.rstrip("#"), _HYBRID)

    def _new_resolver(self) -> Any:
        old_id = self._draft == 4 or (
            self._draft == _HYBRID and type(self._document) is dict and "id" in self._document
        )
        specification = DRAFT4 if old_id else DRAFT6 if self._draft == 6 else DRAFT7
        resource = specification.create_resource(self._document)
        try:
            return _META_SCHEMAS.resolver_with_root(resource)
        except (Unresolvable, ValueError, TypeError, AttributeError) as error:
            raise SchemaInvalid(f"the identifiers of the schema cannot be read: {error}") from None

    def _node(self, schema: Value, resolver: Any) -> Node:
        if type(schema) is bool and self._draft >= 6:
            return Node() if schema else Node(not_=Node())
        if type(schema) is not dict:
            raise SchemaInvalid("Expected: schema, given: Invalid JSON")
        known = self._nodes.get(id(schema))
        if known is not None:
            return known
        node = self._nodes[id(schema)] = Node()
        inner = self._in_subresource(schema, resolver)
        self._read_annotations(schema, inner)
        if "$ref" in schema:
            node.ref = self._referenced(schema["$ref"], inner)
            return node
        self._read_types(node, schema)
        self._read_object_keywords(node, schema, inner)
        self._read_array_keywords(node, schema, inner)
        self._read_number_limits(node, schema)
        self._read_text_keywords(node, schema)
        self._read_counts_and_required(node, schema)
        self._read_values(node, schema)
        self._read_combinations(node, schema, inner)
        return node

    def _in_subresource(self, schema: dict[str, Value], resolver: Any) -> Any:
        key = "id" if self._draft == 4 or (self._draft == _HYBRID and "id" in schema) else "$id"
        if key in schema and type(schema[key]) is not str:
            raise _wrong_type("string", key)
        if key not in schema or schema is self._document:
            return resolver
        specification = DRAFT4 if key == "id" else DRAFT7
        return resolver.in_subresource(specification.create_resource(schema))

    def _read_annotations(self, schema: dict[str, Value], resolver: Any) -> None:
        if "definitions" in schema:
            if type(schema["definitions"]) is not dict:
                raise _wrong_type("array of schemas", "definitions")
            for definition in schema["definitions"].values():
                if type(definition) not in (dict, bool):
                    raise _wrong_type("array of schemas", "definitions")
                self._node(definition, resolver)
        for key in ("title", "description"):
            if key in schema and type(schema[key]) is not str:
                raise _wrong_type("string", key)

    def _referenced(self, reference: Value, resolver: Any) -> Node:
        if type(reference) is not str:
            raise _wrong_type("string", "$ref")
        try:
            resolved = resolver.lookup(reference)
        except PointerToNowhere as error:
            raise SchemaInvalid(f"Object has no key '{error.ref.rpartition('/')[2]}'") from None
        except (NoSuchResource, Unresolvable, ValueError):
            raise SchemaInvalid(
                f"$ref {reference!r} leads outside the schema; only references within it are followed"
            ) from None
        if type(resolved.contents) not in (dict, bool):
            raise SchemaInvalid("schema must be of type object")
        return self._node(self._own(resolved.contents), resolved.resolver)

    def _own(self, contents: Value) -> Value:
        """Contents with numbers as json.Number: those of the schema as they are, those of a meta-schema
        converted.
        """
        if _has_json_numbers(contents):
            return contents
        if id(contents) not in self._converted:
            self._converted[id(contents)] = decode_numbers(json_form(contents))
        return self._converted[id(contents)]

    # Each reader below takes a group of keywords. Order matters only for which of two mistakes is reported.

    def _read_types(self, node: Node, schema: dict[str, Value]) -> None:
        if "type" not in schema:
            return
        declared = schema["type"]
        names = declared if type(declared) is list else [declared]
        for name in names:
            if type(name) is not str:
                raise _wrong_type("string/array of strings", "type")
            if name not in _TYPES:
                raise SchemaInvalid(
                    f"has a primitive type that is NOT VALID -- given: /{name}/ "
                    f"Expected valid values are:[{' '.join(_TYPES)}]"
                )
            if name in node.types:
                raise SchemaInvalid(f"{name} type is duplicated")
            node.types.append(name)

    def _read_object_keywords(self, node: Node, schema: dict[str, Value], resolver: Any) -> None:
        if "properties" in schema:
            properties = _object(schema, "properties")
            node.properties = {name: self._node(properties[name], resolver) for name in sorted(properties)}
        if "additionalProperties" in schema:
            node.additional_properties = self._bool_or_node(schema, "additionalProperties", resolver)
        if "patternProperties" in schema:
            if type(schema["patternProperties"]) is not dict:
                raise _wrong_type("schema", "patternProperties")
            for text, value in sorted(schema["patternProperties"].items()):
                try:
                    pattern = compile_pattern(text)
                except PatternInvalid:
                    raise SchemaInvalid(f"Invalid regex pattern '{text}'") from None
                node.pattern_properties[text] = (pattern, self._node(value, resolver))
        if "propertyNames" in schema and self._draft >= 6:
            if type(schema["propertyNames"]) not in (dict, bool):
                raise _wrong_type("schema", "patternProperties")
            node.property_names = self._node(schema["propertyNames"], resolver)
        if "dependencies" in schema:
            for name, value in sorted(_object(schema, "dependencies").items()):
                node.dependencies[name] = self._dependency(value, resolver)

    def _dependency(self, value: Value, resolver: Any) -> list[str] | Node:
        if type(value) in (dict, bool):
            return self._node(value, resolver)
        if type(value) is list and all(type(name) is str for name in value):
            return value
        raise SchemaInvalid("dependency must be of type schema or array of strings")

    def _read_array_keywords(self, node: Node, schema: dict[str, Value], resolver: Any) -> None:
        if "items" in schema:
            items = schema["items"]
            if type(items) is list and all(type(item) in (dict, bool) for item in items):
                node.items = [self._node(item, resolver) for item in items]
            elif type(items) in (dict, bool):
                node.items = self._node(items, resolver)
            else:
                raise _wrong_type("schema/array of schemas", "items")
        if "additionalItems" in schema:
            node.additional_items = self._bool_or_node(schema, "additionalItems", resolver)
        if "uniqueItems" in schema:
            if type(schema["uniqueItems"]) is not bool:
                raise SchemaInvalid("uniqueItems must be of a boolean")
            node.unique_items = schema["uniqueItems"]
        if "contains" in schema and self._draft >= 6:
            node.contains = self._node(schema["contains"], resolver)

    def _bool_or_node(self, schema: dict[str, Value], key: str, resolver: Any) -> bool | Node:
        value = schema[key]
        if type(value) is bool:
            return value
        if type(value) is not dict:
            raise _wrong_type("boolean/schema", key)
        return self._node(value, resolver)

    def _read_number_limits(self, node: Node, schema: dict[str, Value]) -> None:
        if "multipleOf" in schema:
            if type(schema["multipleOf"]) is not JsonNumber:
                raise _wrong_type("number", "multipleOf")
            step = rational(schema["multipleOf"])
            if step <= 0:
                raise SchemaInvalid("multipleOf must be strictly greater than 0")
            node.limits["multipleOf"] = step
        for plain, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
            if plain in schema:
                if type(schema[plain]) is not JsonNumber:
                    raise SchemaInvalid(f"{plain} must be of a number")
                node.limits[plain] = rational(schema[plain])
            if exclusive in schema:
                self._read_exclusive(node, schema[exclusive], plain, exclusive)

    def _read_exclusive(self, node: Node, value: Value, plain: str, exclusive: str) -> None:
        if type(value) is bool and self._draft in (4, _HYBRID):
            if plain not in node.limits:
                raise SchemaInvalid(f"{exclusive} cannot be used without {plain}")
            if value:
                node.limits[exclusive] = node.limits.pop(plain)
        elif type(value) is JsonNumber and self._draft != 4:
            node.limits[exclusive] = rational(value)
        else:
            kinds = {4: "boolean", _HYBRID: "boolean/number"}.get(self._draft, "number")
            raise _wrong_type(kinds, exclusive)

    def _read_text_keywords(self, node: Node, schema: dict[str, Value]) -> None:
        _read_counts(node, schema, "minLength", "maxLength", "cannot be greater than")
        if "pattern" in schema:
            if type(schema["pattern"]) is not str:
                raise SchemaInvalid("pattern must be of a string")
            try:
                compile_pattern(schema["pattern"])
            except PatternInvalid:
                raise SchemaInvalid("pattern must be a valid regex") from None
            node.pattern = schema["pattern"]
        if "format" in schema:
            if type(schema["format"]) is not str:
                raise SchemaInvalid("format must be of type string")
            node.format = schema["format"]

    def _read_counts_and_required(self, node: Node, schema: dict[str, Value]) -> None:
        _read_counts(node, schema, "minProperties", "maxProperties", "cannot be greater than")
        if "required" in schema:
            if type(schema["required"]) is not list:
                raise SchemaInvalid("required must be of an array")
            for name in schema["required"]:
                if type(name) is not str:
                    raise SchemaInvalid("required items must be string")
                if name in node.required:
                    raise SchemaInvalid("required items must be unique")
                node.required.append(name)
        _read_counts(node, schema, "minItems", "maxItems", None)

    def _read_values(self, node: Node, schema: dict[str, Value]) -> None:
        if "const" in schema and self._draft >= 6:
            node.const = normal_text(schema["const"])
        if "enum" in schema:
            if type(schema["enum"]) is not list:
                raise SchemaInvalid("enum must be of an array")
            for value in schema["enum"]:
                text = normal_text(value)
                if text in node.enum:
                    raise SchemaInvalid("enum items must be unique")
                node.enum.append(text)

    def _read_combinations(self, node: Node, schema: dict[str, Value], resolver: Any) -> None:
        for key, nodes in (("oneOf", node.one_of), ("anyOf", node.any_of), ("allOf", node.all_of)):
            if key in schema:
                if type(schema[key]) is not list:
                    # gojsonschema names anyOf for allOf too
                    raise SchemaInvalid(f"{'anyOf' if key == 'allOf' else key} must be of an array")
                nodes.extend(self._node(value, resolver) for value in schema[key])
        node.not_ = self._optional(schema, "not", resolver)
        if self._draft >= 7:
            node.if_ = self._optional(schema, "if", resolver)
            node.then = self._optional(schema, "then", resolver)
            node.else_ = self._optional(schema, "else", resolver)

    def _optional(self, schema: dict[str, Value], key: str, resolver: Any) -> Node | None:
        if key not in schema:
            return None
        if type(schema[key]) not in (dict, bool):
            raise SchemaInvalid(f"{key} must be of an object")
        return self._node(schema[key], resolver)


def _read_counts(node: Node, schema: dict[str, Value], low: str, high: str, conflict: str | None) -> None:
    for key in (low, high):
        if key not in schema:
            continue
        value = schema[key]
        count = rational(value) if type(value) is JsonNumber else None
        if count is None or count.denominator != 1:
            raise SchemaInvalid(f"{key} must be of an integer")
        if count < 0:
            raise SchemaInvalid(f"{key} must be greater than or equal to 0")
        node.limits[key] = int(count)
    if conflict and low in node.limits and high in node.limits and node.limits[low] > node.limits[high]:
        raise SchemaInvalid(f"{low} {conflict} {high}")


def _object(schema: Mapping[str, Value], key: str) -> dict[str, Value]:
    value = schema[key]
    if type(value) is not dict:
        raise SchemaInvalid(f"{key} must be of type object")
    return value


def _wrong_type(expected: str, given: str) -> SchemaInvalid:
    return SchemaInvalid(f"Invalid type. Expected: {expected}, given: {given}")


def _has_json_numbers(value: Any) -> bool:
    """Whether every number in `value` is a json.Number, as in a schema that was decoded here."""
    if isinstance(value, dict):
        return all(map(_has_json_numbers, value.values()))
    if isinstance(value, list):
        return all(map(_has_json_numbers, value))
    return type(value) not in (int, float)


@lru_cache(maxsize=schemas_cached_max)
def compile_pattern(text: str) -> Regexp:
    """A pattern of a schema. Raises PatternInvalid."""
    return Regexp(text)
