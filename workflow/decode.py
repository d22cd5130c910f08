"""JSON into typed fields, as strictly as Go's encoding/json does it and with its error texts.

Keys match in any letter case, the last of several wins, null leaves a field alone. Like Go's decoder this goes on
after a value of the wrong type and reports the first one at the end.

Two ways through: JSON is first parsed with plain Python numbers. Where the text of a number matters (a fraction for
an integer field, a number out of range), ExactNeeded is raised and the caller parses again with NumberText, which
keeps it. Everything here takes either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from workflow.steps.base import Field
from workflow.values import Value

_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1


class ExactNeeded(Exception):
    """Parse again with NumberText: the text of a number decides."""


class NumberText(str):
    """A JSON number as its text."""

    __slots__ = ()


class Repeated(dict[str, Any]):
    """A JSON object with repeated keys: the last of each as usual, all of them in `pairs`."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def object_from_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """object_pairs_hook of the parser."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else Repeated(pairs)


def pairs_of(data: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """Keys and values in the order of the text, repeated keys included."""
    return data.pairs if type(data) is Repeated else data.items()


class TypeMismatch(ValueError):
    """A value of the wrong type. The text is Go's (`json: cannot unmarshal …`), `path` the place in the data."""

    def __init__(self, text: str, path: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.path = path


def kind_of(value: Any) -> str:
    """Go's word for the kind of a JSON value."""
    if value is None:
        return "null"
    if value is True or value is False:
        return "bool"
    if isinstance(value, int | float | NumberText):
        return "number"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, dict) else "array"


def fold(key: str) -> str:
    """The key as Go compares it with a field name: letter case ignored, the two odd letters included."""
    if not key.isascii():
        key = key.replace("\u017f", "s").replace("\u212a", "k")
    return key.lower()


class Struct:
    """Decodes an object into the fields of one Go struct. Collects the first mismatch in `mismatch`."""

    __slots__ = ("mismatch", "name", "prefix")

    def __init__(self, name: str, prefix: str = "") -> None:
        self.name = name
        self.prefix = prefix  # path of the enclosing field, with its dot
        self.mismatch: TypeMismatch | None = None

    def refuse(self, value: Any, path: str, go_type: str, *, number: str = "") -> None:
        """Note that `value` does not fit; the first note counts."""
        if self.mismatch is None:
            what = f"number {number}" if number else kind_of(value)
            where = f"{self.name}.{self.prefix}{path}"
            text = f"json: cannot unmarshal {what} into Go struct field {where} of type {go_type}"
            self.mismatch = TypeMismatch(text, self.prefix + path)

    def string(self, value: Any, path: str, go_type: str = "string") -> str | None:
        if type(value) is str:
            return value
        if value is not None:
            self.refuse(value, path, go_type)
        return None

    def number(self, value: Any, path: str) -> float | None:
        if type(value) is float or type(value) is int:
            return _float(value)
        if type(value) is NumberText:
            number = float(value)
            if number - number == 0.0:
                return number
            self.refuse(value, path, "float64", number=value)
        elif value is not None:
            self.refuse(value, path, "float64")
        return None

    def integer(self, value: Any, path: str, go_type: str = "int") -> int | None:
        if type(value) is int and _INT64_MIN <= value <= _INT64_MAX:
            return value
        if type(value) is float or type(value) is int:
            raise ExactNeeded
        if type(value) is NumberText:
            if (
                value.removeprefix("-").isdigit()
                and len(value) <= 20
                and _INT64_MIN <= int(value) <= _INT64_MAX
            ):
                return int(value)
            self.refuse(value, path, go_type, number=value)
        elif value is not None:
            self.refuse(value, path, go_type)
        return None

    def boolean(self, value: Any, path: str) -> bool | None:
        if value is True or value is False:
            return bool(value)
        if value is not None:
            self.refuse(value, path, "bool")
        return None

    def anything(self, value: Any, path: str) -> Value:
        """Any JSON value, numbers as floats."""
        if type(value) is str or value is None or value is True or value is False:
            return value
        if type(value) is int or type(value) is float:
            return _float(value)
        if type(value) is list:
            return [self.anything(item, path) for item in value]
        if isinstance(value, dict):
            return {key: self.anything(item, path) for key, item in value.items()}
        return self.number(value, path)

    def any_number(self, value: Any, path: str) -> float | None:
        value = self.anything(value, path)
        return value if type(value) is float else None

    def array(self, value: Any, path: str, go_type: str) -> list[Any] | None:
        if type(value) is list:
            return value
        if value is not None:
            self.refuse(value, path, go_type)
        return None

    def string_list(self, value: Any, path: str) -> list[str] | None:
        items = self.array(value, path, "[]string")
        if items is None:
            return None
        return [self.string(item, path) or "" for item in items]

    def struct_list(
        self, value: Any, path: str, go_type: str, make: Callable[[Any], Any]
    ) -> list[Any] | None:
        items = self.array(value, path, "[]" + go_type)
        if items is None:
            return None
        found = []
        for item in items:
            if item is not None and not isinstance(item, dict):
                self.refuse(item, path, go_type)
                item = None
            found.append(make(item))
        return found

    def cases(self, value: Any, path: str) -> list[dict[str, Any]] | None:
        return self.struct_list(value, path, "types.SwitchCase", lambda item: self._case(item, path))

    def _case(self, item: Mapping[str, Any] | None, path: str) -> dict[str, Any]:
        inner = Struct("SwitchCase", f"{self.prefix}{path}.")
        case: dict[str, Any] = {"when": "", "output_path": None, "is_default": False}
        for key, value in pairs_of(item or {}):
            match fold(key):
                case "when" if value is not None:
                    case["when"] = inner.string(value, "when") or ""
                case "output_path":
                    case["output_path"] = inner.string(value, "output_path")
                case "is_default" if value is not None:
                    case["is_default"] = inner.boolean(value, "is_default") or False
        self.mismatch = self.mismatch or inner.mismatch
        return case

    def context_values(self, value: Any, path: str) -> list[dict[str, Any]] | None:
        go_type = "types.ContextVariableValue"
        return self.struct_list(value, path, go_type, lambda item: self._context_value(item, path))

    def _context_value(self, item: Mapping[str, Any] | None, path: str) -> dict[str, Any]:
        inner = Struct("ContextVariableValue", f"{self.prefix}{path}.")
        entry: dict[str, Any] = {"name": "", "value": None, "type": ""}
        for key, value in pairs_of(item or {}):
            name = fold(key)
            if name == "value":
                entry["value"] = inner.anything(value, "value")
            elif name in ("name", "type") and value is not None:
                entry[name] = inner.string(value, name) or ""
        self.mismatch = self.mismatch or inner.mismatch
        return entry


def _float(value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        raise ExactNeeded from None
    if number - number != 0.0:
        raise ExactNeeded
    return number


_DECODERS: Final[Mapping[str, Callable[[Struct, Any, str], Any]]] = {
    "string": Struct.string,
    "number": Struct.number,
    "integer": Struct.integer,
    "int64": lambda struct, value, path: struct.integer(value, path, "int64"),
    "bool": Struct.boolean,
    "any": Struct.anything,
    "any_number": Struct.any_number,
    "duration": Struct.string,
    "string_list": Struct.string_list,
    "cases": Struct.cases,
    "context_values": Struct.context_values,
}
_LIST_KINDS = frozenset({"string_list", "cases", "context_values"})


class FieldTable:
    """The fields of one step type, ready to decode `data` objects. Made once per type."""

    __slots__ = ("_by_name", "_empty", "_required", "name")

    def __init__(self, name: str, fields: tuple[Field, ...]) -> None:
        self.name = name
        self._empty = {field.name: None for field in fields}
        self._by_name = {field.name: (field.name, _DECODERS[field.kind]) for field in fields}
        self._required = tuple((field.name, field.kind) for field in fields if field.required)

    def decode(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """All fields by name, None where absent or null.

        Raises TypeMismatch for a value of the wrong type and for a required field that is missing.
        """
        struct = Struct(self.name)
        found: dict[str, Any] = dict(self._empty)
        by_name = self._by_name
        odd: set[str] = set()  # any_number fields that hold something else: present, but None
        for key, value in pairs_of(data):
            entry = by_name.get(key)
            if entry is None:
                folded = fold(key)
                entry = by_name.get(folded)
                if entry is None:
                    if folded == "label" and value is not None and type(value) is not str:
                        struct.refuse(value, "CommonData.label", "string")
                    continue
            name, decode = entry
            decoded = None if value is None else decode(struct, value, name)
            found[name] = decoded
            if decoded is None and value is not None:
                odd.add(name)
        if struct.mismatch is not None:
            raise struct.mismatch
        for name, kind in self._required:
            missing = found[name] is None and name not in odd
            if missing or (kind in _LIST_KINDS and not found[name]):
                raise TypeMismatch(f"missing required field: {name}", name)
        return found
