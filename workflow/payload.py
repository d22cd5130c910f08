"""The loader: payload text -> Definition, as strict and as lenient as the original's decoder.

What it checks is what the original checks at load: JSON, field types, required fields. Cycles, duplicate ids and
edges to nowhere are graph.py's. Two things of our own sit beside the original's keys: `language` (which level of
the language), and `inputs` (declared inputs), plus `policy` on nodes.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from workflow import inputs as declared_inputs
from workflow.decode import (
    ExactNeeded,
    FieldTable,
    NumberText,
    Repeated,
    Struct,
    TypeMismatch,
    fold,
    kind_of,
    object_from_pairs,
    pairs_of,
)
from workflow.definition import Definition, FlowEdge, InputSpec, LoadError, Problem
from workflow.graph import repeated_ids, unknown_targets
from workflow.infer import infer_type
from workflow.level2 import load as level2
from workflow.policy import PolicyInvalid, parse_policy
from workflow.steps.base import Step, StepType
from workflow.steps.json_text import error_text
from workflow.steps.registry import LEVEL1

__all__ = ["LoadError", "Problem", "load"]

body_bytes_max: Final = 10 * 1024 * 1024  # as the original's server
steps_max: Final = 10_000
edges_max: Final = 100_000
depth_max: Final = 100  # of arrays and objects in the payload; far below the interpreter's own limit
problems_max: Final = 100  # reported at once

_PREFIX = "failed to parse payload: "
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MINUS_ZERO = re.compile(r"-0(?![.eE\d])")
_SPACE = " \t\r\n"
_CUSTOM_TABLE = FieldTable("CustomExecutorData", ())


def load(
    payload: bytes | str | Mapping[str, Any], *, registry: Mapping[str, StepType] | None = None
) -> Definition:
    """The definition that a payload describes.

    `registry` has the step types (default: the built-in ones of level 1). Raises LoadError with the original's
    text and every problem found. Accepts parsed JSON too, for callers that have it.
    """
    text = _text(payload)
    step_types = LEVEL1 if registry is None else registry
    if _needs_exact_numbers(text):
        return _Loader(text, step_types, exact=True).load()
    try:
        return _Loader(text, step_types, exact=False).load()
    except ExactNeeded:
        return _Loader(text, step_types, exact=True).load()


def _text(payload: bytes | str | Mapping[str, Any]) -> str:
    if isinstance(payload, Mapping):
        try:
            text = json.dumps(payload, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError) as error:
            raise LoadError(f"{_PREFIX}{error}") from error
    elif isinstance(payload, str):
        text = payload
    else:
        text = payload.decode("utf-8", "workflow.replace_bytes") if len(payload) <= body_bytes_max else ""
        if not text and payload:
            raise _too_large(f"payload too large: {len(payload)} bytes (limit: {body_bytes_max})")
    if len(text) > body_bytes_max:
        raise _too_large(f"payload too large: more than {body_bytes_max} bytes")
    return text


def _too_large(text: str) -> LoadError:
    return LoadError(text, code="workflow_too_large")


def _replace_bytes(error: UnicodeError) -> tuple[str, int]:
    # Go puts one U+FFFD for each byte that is not UTF-8; Python's own handler one for each run.
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error("workflow.replace_bytes", _replace_bytes)


def _needs_exact_numbers(text: str) -> bool:
    return "-0" in text and _MINUS_ZERO.search(text) is not None


def _no_constant(name: str) -> Any:
    raise ValueError(name)


_PLAIN = json.JSONDecoder(object_pairs_hook=object_from_pairs, parse_constant=_no_constant)
_EXACT = json.JSONDecoder(
    object_pairs_hook=object_from_pairs,
    parse_constant=_no_constant,
    parse_int=NumberText,
    parse_float=NumberText,
)


def _parse(text: str, *, exact: bool) -> Any:
    """The JSON value. Raises LoadError with Go's words for a syntax error, ExactNeeded for a giant number."""
    stripped = text.strip(_SPACE)
    decoder = _EXACT if exact else _PLAIN
    try:
        value, end = decoder.raw_decode(stripped)
    except RecursionError:
        raise _too_large(f"{_PREFIX}payload too deeply nested (limit: {depth_max} levels)") from None
    except ValueError as error:
        if not exact and not isinstance(error, json.JSONDecodeError):
            raise ExactNeeded from None  # an integer of thousands of digits
        reason = error_text(stripped)
        if reason in ("EOF", "unexpected EOF"):
            reason = "unexpected end of JSON input"
        raise LoadError(_PREFIX + reason) from None
    if end < len(stripped):
        after = stripped[end:].lstrip(_SPACE)[0]
        raise LoadError(f"{_PREFIX}invalid character {_quoted(after)} after top-level value")
    if _SURROGATE_ESCAPE.search(stripped):
        value = _without_surrogates(value)
    return value


def _quoted(char: str) -> str:
    byte = char.encode("utf-8", "replace")[0]
    if char in "'\\":
        return f"'\\{char}'"
    if byte < 0x20 or 0x7F <= byte <= 0xA0 or byte == 0xAD:
        return f"'\\x{byte:02x}'" if byte < 0x80 else f"'\\u{byte:04x}'"
    return f"'{chr(byte)}'"


def _without_surrogates(value: Any) -> Any:
    kind = type(value)
    if kind is str:
        return _SURROGATE.sub("\ufffd", value)
    if kind is list:
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        pairs = [(_SURROGATE.sub("\ufffd", key), _without_surrogates(item)) for key, item in pairs_of(value)]
        return object_from_pairs(pairs)
    return value


def _check_depth(text: str, tree: Any) -> None:
    if text.count("[") + text.count("{") <= depth_max:
        return
    level: list[Any] = [tree]
    for _ in range(depth_max):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise _too_large(f"{_PREFIX}payload too deeply nested (limit: {depth_max} levels)")


@lru_cache(maxsize=1024)
def _table(step_type: StepType) -> FieldTable:
    return FieldTable(step_type.data_name, step_type.fields)


def _id_of(node: Any) -> str | None:
    """The id of a node that may be wrong in other ways, None when it has none that is a text."""
    pairs = pairs_of(node) if isinstance(node, dict) else ()
    return next((value for key, value in pairs if fold(key) == "id" and type(value) is str), None)


class _Loader:
    """One pass over a payload."""

    def __init__(self, text: str, step_types: Mapping[str, StepType], *, exact: bool) -> None:
        self._text = text
        self._step_types = step_types
        self._exact = exact
        self._problems: list[Problem] = []
        self._ids: list[str | None] = []  # of all nodes, refused ones too
        self._fatal: str | None = None  # what ends the original's decoder at once
        self._payload = Struct("Payload")

    def load(self) -> Definition:
        tree = _parse(self._text, exact=self._exact)
        if tree is None:
            tree = {}
        if not isinstance(tree, dict):
            raise LoadError(
                f"{_PREFIX}json: cannot unmarshal {kind_of(tree)} into Go value of type types.Payload"
            )
        _check_depth(self._text, tree)
        if self._level(tree.get("language")) == 2:
            self._check_sizes(tree)
            return level2.load(self._plain(tree, ""), self._canonical(tree), self._step_types)
        workflow_id = ""
        steps: list[Step] = []
        edges: list[FlowEdge] = []
        for key, value in pairs_of(tree):
            match fold(key):
                case "workflow_id" if value is not None:
                    workflow_id = self._payload.string(value, "workflow_id") or ""
                case "nodes":
                    steps = self._steps(self._payload.array(value, "nodes", "[]types.Node") or [])
                case "edges":
                    edges = self._edges(self._payload.array(value, "edges", "[]types.Edge") or [])
        inputs = self._inputs(tree.get("inputs"))
        self._add_graph_problems(edges)
        self._raise_problems()
        return Definition(
            1,
            workflow_id,
            tuple(steps),
            tuple(edges),
            inputs,
            self._step_types,
            self._canonical(tree),
        )

    def _canonical(self, tree: Mapping[str, Any]) -> bytes:
        """The text without white space. Where decoding lost something that matters, the text as it came."""
        text = self._text
        if not self._exact and not _has_repeated(tree):
            text = json.dumps(tree, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")

    def _add_graph_problems(self, edges: list[FlowEdge]) -> None:
        """Where nodes are refused, also what is wrong between them, so that one look shows all."""
        if self._problems:
            self._problems += repeated_ids(self._ids)
            self._problems += unknown_targets(
                edges, {step_id for step_id in self._ids if step_id is not None}
            )

    def _raise_problems(self) -> None:
        mismatch = self._payload.mismatch
        if mismatch is not None:
            self._problems.append(Problem(mismatch.path, mismatch.text))
        text = self._fatal or (mismatch.text if mismatch is not None else None)
        if text is not None:
            raise LoadError(_PREFIX + text, self._problems[:problems_max])
        if self._problems:
            first = self._problems[0]
            raise LoadError(f"{first.path}: {first.message}", self._problems[:problems_max])

    def _level(self, value: Any) -> int:
        if value is None:
            return 1
        number = int(value) if type(value) is NumberText and value.isdigit() and len(value) < 5 else value
        if type(number) is int and number in (1, 2):
            return number
        self._problems.append(Problem("language", "must be 1 or 2"))
        return 1

    @staticmethod
    def _check_sizes(tree: Mapping[str, Any]) -> None:
        for key, most, what in (("nodes", steps_max, "steps"), ("edges", edges_max, "edges")):
            items = tree.get(key)
            if isinstance(items, list) and len(items) > most:
                raise _too_large(f"workflow too large: {len(items)} {what} (limit: {most})")

    def _inputs(self, value: Any) -> dict[str, InputSpec]:
        if value is None or not declared_inputs.looks_declared(value):
            return {}
        try:
            return declared_inputs.parse_inputs(self._plain(value, "inputs"))
        except LoadError as error:
            self._problems += error.problems
            return {}

    def _plain(self, value: Any, path: str) -> Any:
        """JSON data with ordinary numbers and objects."""
        if type(value) is NumberText:
            return int(value) if value.removeprefix("-").isdigit() and len(value) < 20 else float(value)
        if type(value) is list:
            return [self._plain(item, path) for item in value]
        if isinstance(value, dict):
            return {key: self._plain(item, path) for key, item in value.items()}
        if type(value) is int and value.bit_length() > 1023:
            return math.inf if value > 0 else -math.inf  # as 1e400 is read
        return value

    # --- nodes ----------------------------------------------------------------------------------------------

    def _steps(self, nodes: list[Any]) -> list[Step]:
        if len(nodes) > steps_max:
            raise _too_large(f"workflow too large: {len(nodes)} steps (limit: {steps_max})")
        steps = []
        for index, node in enumerate(nodes):
            self._ids.append(_id_of(node))
            try:
                steps.append(self._step(index, node))
            except TypeMismatch as error:
                path = f"nodes[{index}]" + (f".{error.path}" if error.path else "")
                self._problems.append(Problem(path, error.text))
                self._fatal = self._fatal or error.text
        return steps

    def _step(self, index: int, node: Any) -> Step:
        if node is None:
            return Step("", "", None, None, None, index)
        if not isinstance(node, dict):
            text = f"json: cannot unmarshal {kind_of(node)} into Go value of type types.NodeTemp"
            raise TypeMismatch(f"failed to unmarshal node: {text}")
        temp = Struct("NodeTemp")
        step_id = type_name = ""
        data: Any = None
        policy: Any = None
        for key, value in pairs_of(node):
            match fold(key):
                case "id" if value is not None:
                    step_id = temp.string(value, "id") or ""
                case "type" if value is not None:
                    type_name = temp.string(value, "type", "types.NodeType") or ""
                case "data":
                    data = value
                case "policy":
                    policy = value
        if temp.mismatch is not None:
            raise TypeMismatch(f"failed to unmarshal node: {temp.mismatch.text}", temp.mismatch.path)
        if data is not None and not type_name:
            type_name = infer_type(data)
        decoded: Mapping[str, Any] | None = None
        if data is not None:
            try:
                decoded = self._data(type_name, data)
            except TypeMismatch as error:
                text = f"failed to unmarshal data for node {step_id} (type {type_name}): {error.text}"
                raise TypeMismatch(text, f"data.{error.path}" if error.path else "data") from None
        raw = data
        if raw is not None and (self._exact or type_name not in self._step_types):
            raw = self._plain(raw, "data")
        step_policy = None
        if policy is not None:
            try:
                step_policy = parse_policy(self._plain(policy, "policy"))
            except PolicyInvalid as error:
                self._problems.append(Problem(f"nodes[{index}].policy", str(error)))
        return Step(step_id, type_name, decoded, raw, step_policy, index)

    def _data(self, type_name: str, data: Any) -> Mapping[str, Any]:
        step_type = self._step_types.get(type_name)
        table = _CUSTOM_TABLE if step_type is None or not step_type.data_name else _table(step_type)
        if not isinstance(data, dict):
            text = f"json: cannot unmarshal {kind_of(data)} into Go value of type types.{table.name}"
            raise TypeMismatch(text)
        decoded = table.decode(data)
        if table is _CUSTOM_TABLE:
            custom = Struct("")
            fields: dict[str, Any] = {key: custom.anything(value, key) for key, value in data.items()}
            if custom.mismatch is not None:
                where = custom.mismatch.text.rpartition(" Go struct field ")[0]
                raise TypeMismatch(f"{where} Go value of type float64", custom.mismatch.path)
            decoded = fields
        if step_type is not None and step_type.check is not None:
            try:
                step_type.check(decoded)
            except ValueError as error:
                raise TypeMismatch(str(error)) from error
        return decoded

    # --- edges ----------------------------------------------------------------------------------------------

    def _edges(self, items: list[Any]) -> list[FlowEdge]:
        if len(items) > edges_max:
            raise _too_large(f"workflow too large: {len(items)} edges (limit: {edges_max})")
        return [self._edge(index, item) for index, item in enumerate(items)]

    def _edge(self, index: int, item: Any) -> FlowEdge:
        if item is not None and not isinstance(item, dict):
            self._payload.refuse(item, "edges", "types.Edge")
        if not isinstance(item, dict):
            return FlowEdge("", "")
        struct = Struct("Edge", "edges.")
        source = target = ""
        handle: str | None = None
        condition: str | None = None
        for key, value in pairs_of(item):
            match fold(key):
                case "source" if value is not None:
                    source = struct.string(value, "source") or ""
                case "target" if value is not None:
                    target = struct.string(value, "target") or ""
                case "id" if value is not None:
                    struct.string(value, "id")
                case "sourcehandle":
                    handle = struct.string(value, "sourceHandle")
                case "condition":
                    condition = struct.string(value, "condition")
                case "targethandle":
                    struct.string(value, "targetHandle")
        if struct.mismatch is not None:
            if self._payload.mismatch is None:
                self._payload.mismatch = struct.mismatch
            self._problems.append(Problem(f"edges[{index}].{struct.mismatch.path[6:]}", struct.mismatch.text))
        return FlowEdge(source, target, handle if handle is not None else condition)


def _has_repeated(value: Any) -> bool:
    if type(value) is list:
        return any(map(_has_repeated, value))
    if isinstance(value, dict):
        return type(value) is Repeated or any(map(_has_repeated, value.values()))
    return False
