"""The tables in docs/language.md that are made from the code.

`python -m tests.unit.docs.tables` writes them anew; test_language.py checks that they are current.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from workflow.level2.functions import FUNCTIONS
from workflow.level2.shapes import KINDS, DataField, Shape
from workflow.level2.types import SHAPES
from workflow.steps.base import StepType
from workflow.steps.registry import LEVEL1

DOCUMENT: Final = Path(__file__).parents[3] / "docs" / "language.md"
_REGION: Final = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def functions() -> str:
    """Name, arguments, meaning of each function of level 2."""
    lines = ["| function | arguments | gives |", "| --- | --- | --- |"]
    for name, row in FUNCTIONS.items():
        most = "or more" if row.most is None else f"to {row.most}"
        count = str(row.least) if row.least == row.most else f"{row.least} {most}"
        if row.calls:
            count += f"; argument {row.calls[0] + 1} is a function"
        lines.append(f"| `{name}` | {count} | {_cell(row.about)} |")
    lines.append("| `now` | 0 | this moment, a date |")
    return "\n".join(lines) + "\n"


def fields() -> str:
    """The fields of every type of level 2."""
    lines = ["| type | does | fields (**bold**: required) | ports |", "| --- | --- | --- | --- |"]
    for name, shape in SHAPES.items():
        about = shape.about or f"as at level 1 ({LEVEL1[name].data_name})"
        listed = "<br>".join(_field(field, shape) for field in shape.fields) or "none"
        ports = "by its cases" if shape.ports is None else ", ".join(f"`{port}`" for port in shape.ports)
        lines.append(f"| `{name}` | {_cell(about)} | {_cell(listed)} | {ports or '–'} |")
    return "\n".join(lines) + "\n"


def _field(field: DataField, shape: Shape) -> str:
    name = f"**`{field.name}`**" if field.required else f"`{field.name}`"
    parts = [KINDS[field.kind][0] if field.kind != "duration" else "a duration"]
    if field.choices:
        parts = [" \\| ".join(field.choices).replace("\\|", "or")]
    if field.least is not None and field.kind != "duration":
        parts.append(f"from {field.least:g}")
    if field.about:
        parts.append(field.about)
    if field.name in shape.one_of:
        parts.append("one of these is needed")
    if field.fixed:
        parts.append("no template")
    return f"{name}: {'; '.join(parts)}"


def level1() -> str:
    """The fields of every type of level 1."""
    lines = ["| type | fields (**bold**: required) | effect |", "| --- | --- | --- |"]
    for name, step_type in LEVEL1.items():
        lines.append(f"| `{name}` | {_level1_fields(step_type)} | {step_type.effect} |")
    return "\n".join(lines) + "\n"


def _level1_fields(step_type: StepType) -> str:
    found = [
        f"**`{field.name}`** {field.kind}" if field.required else f"`{field.name}` {field.kind}"
        for field in step_type.fields
    ]
    return ", ".join(found) or "none"


TABLES: Final[Mapping[str, Callable[[], str]]] = {"functions": functions, "fields": fields, "level1": level1}


def renewed(text: str) -> str:
    """The document with every table as it is now."""
    return _REGION.sub(lambda region: region[1] + TABLES[region[2]]() + region[3], text)


if __name__ == "__main__":
    DOCUMENT.write_text(renewed(DOCUMENT.read_text()))
