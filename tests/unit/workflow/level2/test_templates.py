"""Templates in a step's data."""

from __future__ import annotations

import pytest

from workflow.level2.scope import ExpressionError, Scope
from workflow.level2.templates import compile_template

NAMES = {"inputs": {"n": 2.0, "name": "Ann", "list": [1.0], "none": None}}


def fill(data: object) -> object:
    template = compile_template(data)
    assert template is not None
    return template.fill(Scope(dict(NAMES)))


def test_a_whole_string_template_keeps_the_kind_of_its_value() -> None:
    assert fill("{{ inputs.n * 2 }}") == 4.0
    assert fill("{{inputs.list}}") == [1.0]


def test_a_template_among_text_is_text() -> None:
    assert (
        fill("Hi {{inputs.name}}, {{ inputs.n }} of {{inputs.list}}{{inputs.none}}.") == "Hi Ann, 2 of [1]."
    )


def test_templates_are_found_in_objects_and_arrays_and_nothing_else_is_touched() -> None:
    data = {"a": ["{{ inputs.n }}", "plain", 5], "{{k}}": True}
    assert fill(data) == {"a": [2.0, "plain", 5], "{{k}}": True}
    assert data["a"] == ["{{ inputs.n }}", "plain", 5]


def test_data_without_templates_costs_nothing() -> None:
    assert compile_template({"a": ["x", 1, None]}) is None


def test_braces_inside_a_text_of_the_expression_do_not_end_it() -> None:
    assert fill('{{ "}}" + "{{" }}') == "}}{{"


def test_an_open_template_is_an_error_with_its_place() -> None:
    with pytest.raises(ExpressionError, match="does not end") as caught:
        compile_template("ab {{ inputs.n")
    assert caught.value.position == 3


def test_the_references_of_all_templates_are_known() -> None:
    template = compile_template({"a": "{{ node.x.y }}", "b": ["{{ node.z }}-"]})
    assert template is not None
    assert {node for e in template.expressions for node in e.nodes} == {"x", "z"}
