"""`{{ expression }}` in any string of a step's data, at level 2.

A string that is one template keeps the kind of its value; a template among other text is put in as text. Objects and
arrays are gone through; keys are left alone. `{{ "{{" }}` writes two braces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from workflow.level2.grammar import Compiled, compile_expression
from workflow.level2.operators import scalar_text
from workflow.level2.scope import ExpressionError, Scope
from workflow.values import Value, json_form

_TEMPLATE = re.compile(r"\{\{((?:\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|[^\"'])*?)\}\}", re.DOTALL)


class Template(NamedTuple):
    """A piece of data with templates in it, ready to fill in. `expressions` are all that it holds."""

    fill: Callable[[Scope], Value]
    expressions: tuple[Compiled, ...]


class Data(dict[str, Any]):
    """The data of a level-2 step. `template` fills in its texts, None: there are none."""

    __slots__ = ("expressions", "template")

    def __init__(
        self, fields: Mapping[str, Any], template: Template | None, expressions: tuple[Compiled, ...]
    ) -> None:
        super().__init__(fields)
        self.template = template
        self.expressions = expressions


def compile_template(data: Any) -> Template | None:
    """The template of a piece of data, None when it holds none. Raises ExpressionError with the place."""
    expressions: list[Compiled] = []
    fill = _compile(data, expressions)
    return None if fill is None else Template(fill, tuple(expressions))


def _compile(data: Any, expressions: list[Compiled]) -> Callable[[Scope], Value] | None:
    if type(data) is str:
        return _compile_text(data, expressions) if "{{" in data else None
    if isinstance(data, list):
        parts = [_compile(item, expressions) for item in data]
        if not any(parts):
            return None
        rows = list(zip(data, parts, strict=True))
        return lambda scope: [item if part is None else part(scope) for item, part in rows]
    if isinstance(data, dict):
        fields = {key: _compile(item, expressions) for key, item in data.items()}
        if not any(fields.values()):
            return None
        entries = [(key, data[key], part) for key, part in fields.items()]
        return lambda scope: {key: item if part is None else part(scope) for key, item, part in entries}
    return None


def _compile_text(text: str, expressions: list[Compiled]) -> Callable[[Scope], Value] | None:
    pieces: list[str | Compiled] = []
    end = 0
    for match in _TEMPLATE.finditer(text):
        if match.start() > end:
            pieces.append(text[end : match.start()])
        compiled = compile_expression(match.group(1).strip())
        expressions.append(compiled)
        pieces.append(compiled)
        end = match.end()
    if "{{" in text[end:]:
        raise ExpressionError("a template does not end: {{ without }}", text.index("{{", end), text)
    if end < len(text):
        pieces.append(text[end:])
    if len(pieces) == 1 and isinstance(pieces[0], Compiled):
        return pieces[0].evaluate
    return lambda scope: "".join(
        [piece if isinstance(piece, str) else _shown(piece.evaluate(scope)) for piece in pieces]
    )


def _shown(value: Value) -> str:
    """A value inside a text: null is nothing, arrays and objects are JSON."""
    if value is None:
        return ""
    text = scalar_text(value)
    return text if text is not None else json_form(value)
