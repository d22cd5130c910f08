"""`parse` (text to data) and `format` (data to text)."""

from __future__ import annotations

from collections.abc import Sequence

from workflow.steps.base import Field, RunState, Services, Step, StepFailed, StepType
from workflow.steps.casing import trim_space, upper
from workflow.steps.csv_text import CsvError, is_delimiter, read_csv, write_row
from workflow.steps.json_text import JsonError, decode_floats, is_json
from workflow.steps.xml_text import XmlError, root_element
from workflow.values import MapSlice, Value, json_form, parse_float, text_form, type_name

# --- parse ------------------------------------------------------------------------------------------------


def run_parse(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """Data of the first input's text, read as JSON, CSV, TSV, YAML or XML, or as what it looks like."""
    assert step.data is not None
    if not inputs:
        raise StepFailed("parse node requires input")
    text = _source_text(inputs[0])
    declared = step.data["input_type"]
    kind = "AUTO" if declared is None else upper(declared)
    if kind == "AUTO":
        kind = _detected_kind(text)
    match kind:
        case "JSON":
            return parse_json(text)
        case "CSV":
            return _parse_rows(text, ",")
        case "TSV":
            return _parse_rows(text, "\t")
        case "YAML":
            return _parse_pairs(text)
        case "XML":
            return _parse_element(text)
    raise StepFailed(f"unsupported input type: {kind} (supported: AUTO, JSON, CSV, TSV, YAML, XML)")


def _source_text(value: Value) -> str:
    kind = type(value)
    if kind is str:
        return value  # type: ignore[no-any-return]
    if value is None:
        return ""
    if kind is float or kind is int or kind is bool:
        return text_form(value)
    try:
        return json_form(value)
    except ValueError:  # a NaN inside; the original falls back likewise
        return text_form(value)


def _detected_kind(text: str) -> str:
    trimmed = trim_space(text)
    if not trimmed:
        return "JSON"
    ends = trimmed[0] + trimmed[-1]
    if ends in ("{}", "[]") and is_json(trimmed):
        return "JSON"
    if ends == "<>":
        return "XML"
    lines = trimmed.split("\n")
    if len(lines) == 1:
        return "JSON"
    if sum(": " in trim_space(line) for line in lines) >= 2:
        return "YAML"
    commas, tabs = lines[0].count(","), lines[0].count("\t")
    if tabs > commas:
        return "TSV"
    return "CSV" if commas else "JSON"


def parse_json(text: str) -> Value:
    """The first JSON value of `text`; before that, a bare word or any float that Go reads (`inf`, `1_000`)."""
    trimmed = trim_space(text)
    if trimmed in _WORDS:
        return _WORDS[trimmed]
    number = parse_float(trimmed)
    if number is not None:
        return number
    try:
        return decode_floats(trimmed)
    except JsonError as error:
        raise StepFailed(f"invalid JSON: {error}") from None


def _parse_rows(text: str, delimiter: str) -> MapSlice:
    try:
        rows = read_csv(text, delimiter)
    except CsvError as error:
        raise StepFailed(f"invalid CSV/TSV: {error}") from None
    if not rows:
        return MapSlice([])
    header = rows[0]
    return MapSlice([dict(zip(header, map(parse_cell, row), strict=True)) for row in rows[1:]])


def _parse_pairs(text: str) -> dict[str, Value]:
    pairs: dict[str, Value] = {}
    for raw_line in trim_space(text).split("\n"):
        line = trim_space(raw_line)
        if not line or line[0] == "#":
            continue
        key, colon, value = line.partition(":")
        if colon:
            pairs[trim_space(key)] = parse_cell(value)
    if not pairs:
        raise StepFailed("no valid YAML key-value pairs found")
    return pairs


def _parse_element(text: str) -> dict[str, Value]:
    try:
        name, content = root_element(trim_space(text))
    except XmlError as error:
        raise StepFailed(f"invalid XML: {error}") from None
    return {name: parse_cell(content)}


_WORDS: dict[str, Value] = {"true": True, "false": False, "null": None}


def parse_cell(text: str) -> Value:
    """A cell of CSV, YAML or XML: empty text, true, false, null, a float, or the trimmed text."""
    trimmed = trim_space(text)
    if not trimmed:
        return ""
    if trimmed in _WORDS:
        return _WORDS[trimmed]
    number = parse_float(trimmed)
    return trimmed if number is None else number


# --- format -----------------------------------------------------------------------------------------------


def run_format(step: Step, inputs: Sequence[Value], state: RunState, services: Services) -> Value:
    """The first input as JSON, CSV or TSV text."""
    assert step.data is not None
    if not inputs:
        raise StepFailed("format node requires input")
    data = step.data
    kind = upper(data["output_type"])
    if kind == "JSON":
        try:
            return json_form(inputs[0], indent="  " if data["pretty_print"] else None)
        except ValueError as error:
            raise StepFailed(f"failed to format as JSON: {error}") from None
    with_header = data["include_headers"] is not False
    if kind == "CSV":
        return _format_rows(inputs[0], _first_byte(data["delimiter"]) or ",", with_header)
    if kind == "TSV":
        return _format_rows(inputs[0], "\t", with_header)
    raise StepFailed(f"unsupported output type: {kind} (supported: JSON, CSV, TSV)")


def _first_byte(text: str | None) -> str:
    """The first byte of a text as a character: what the original makes of a delimiter."""
    return chr(text[0].encode("utf-8", "replace")[0]) if text else ""


def _format_rows(value: Value, delimiter: str, with_header: bool) -> str:
    rows = _rows_of(value)
    if not rows:
        return ""
    if not is_delimiter(delimiter):
        what = "headers" if with_header else "row"
        raise StepFailed(f"failed to write CSV {what}: csv: invalid field or comment delimiter")
    columns = sorted({key for row in rows for key in row})
    lines = [write_row(columns, delimiter)] if with_header else []
    lines += [write_row([_cell_text(row.get(column)) for column in columns], delimiter) for row in rows]
    return "".join(lines)


def _rows_of(value: Value) -> list[dict[str, Value]]:
    if type(value) is MapSlice:
        return value.items
    if type(value) is dict:
        return [value]
    if not isinstance(value, list):
        raise StepFailed(f"CSV formatting requires array of objects or single object, got {type_name(value)}")
    for row in value:
        if type(row) is not dict:
            raise StepFailed(
                f"CSV formatting requires array of objects, got array element of type {type_name(row)}"
            )
    return value


def _cell_text(value: Value) -> str:
    kind = type(value)
    if kind is str:
        return value  # type: ignore[no-any-return]
    if value is None:
        return ""
    if kind is float:
        return str(int(value)) if -(2.0**63) <= value < 2.0**63 and value == int(value) else text_form(value)
    if kind is bool:
        return "true" if value else "false"
    try:
        return json_form(value)
    except ValueError:
        return text_form(value)


STEP_TYPES = (
    StepType("parse", (Field("input_type", "string"),), "pure", run_parse, "ParseData"),
    StepType(
        "format",
        (
            Field("output_type", "string", required=True),
            Field("pretty_print", "bool"),
            Field("include_headers", "bool"),
            Field("delimiter", "string"),
        ),
        "pure",
        run_format,
        "FormatData",
    ),
)
