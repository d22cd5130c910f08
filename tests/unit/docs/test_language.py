"""docs/language.md is complete and current, and what it shows runs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import pytest

from tests.level2_rig import level2, output
from tests.unit.docs.tables import DOCUMENT, TABLES, renewed
from workflow import codec
from workflow.errors import WorkflowError
from workflow.execute import run_local
from workflow.level2.grammar import compile_expression
from workflow.level2.scope import Scope
from workflow.level2.types import SHAPES
from workflow.payload import load
from workflow.plan import compile_plan
from workflow.steps.base import StepType
from workflow.steps.registry import LEVEL1
from workflow.values import from_json, to_json

TEXT = DOCUMENT.read_text()
OWN = {"charge_card": StepType("charge_card", (), "write", lambda *_: None, needs_data=False)}

_SNIPPET = re.compile(r"<!-- (runs|loads)(?:: (.*?))? -->\n```json\n(.*?)```", re.DOTALL)
_MARKER = re.compile(
    r"(?:inputs=(?P<inputs>.*?) )?(?:signal (?P<signal>\S+)=(?P<payload>.*?) )?(?P<how>gives|fails) (?P<what>.*)"
)
_EXPRESSIONS = re.compile(r"<!-- expressions: (.*?) -->\n\|.*?\n\| --- .*?\n((?:\|.*\n)+)")


@dataclass
class Snippet:
    kind: str
    marker: str
    payload: Any


SNIPPETS = [Snippet(kind, marker, json.loads(text)) for kind, marker, text in _SNIPPET.findall(TEXT)]
ROWS = [
    (
        json.loads(given),
        *[cell.strip().strip("`").replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:3]],
    )
    for given, rows in _EXPRESSIONS.findall(TEXT)
    for row in rows.splitlines()
]


def test_every_json_block_that_is_a_workflow_is_marked() -> None:
    blocks = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    workflows = [block for block in blocks if '"nodes"' in block]
    assert len(workflows) == len(SNIPPETS) > 12


def test_the_tables_are_current() -> None:
    assert set(re.findall(r"<!-- table: (\w+) -->", TEXT)) == set(TABLES)
    assert renewed(TEXT) == TEXT, "run: python -m tests.unit.docs.tables"


def test_the_result_of_every_type_is_described() -> None:
    results = TEXT.partition("### Results")[2].partition("\n## ")[0]
    assert {name for name in SHAPES if f"`{name}`" not in results} == set()


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.payload["nodes"][-1]["id"])
async def test_a_snippet_does_what_the_document_says(snippet: Snippet) -> None:
    plan = compile_plan(load(snippet.payload, registry={**LEVEL1, **OWN}))
    if snippet.kind == "loads":
        return
    marker = _MARKER.fullmatch(snippet.marker)
    assert marker is not None, snippet.marker
    inputs = json.loads(marker["inputs"] or "{}")
    if plan.level == 1:
        result = run_local(plan, {name: from_json(value) for name, value in inputs.items()})
        failed, got = result.error, to_json(result.final_output)
    else:
        async with level2() as node:
            view = await node.start(snippet.payload, inputs)
            if marker["signal"]:
                value = codec.encode(from_json(json.loads(marker["payload"])))
                await node.engine.signal(view.id, marker["signal"], value)
            view = await node.end(view.id)
            failed, got = view.error, output(view)
    if marker["how"] == "fails":
        assert failed is not None
        assert failed.code == marker["what"]
    else:
        assert failed is None, failed
        assert got == json.loads(marker["what"])


@pytest.mark.parametrize(("given", "text", "expected"), ROWS, ids=[row[1] for row in ROWS])
def test_an_expression_of_the_document_has_the_value_it_says(given: Any, text: str, expected: str) -> None:
    value = from_json(given)
    scope = Scope({"input": value, "item": value}, current=value)
    if expected.startswith("error"):
        with pytest.raises((ValueError, WorkflowError)):
            compile_expression(text).evaluate(scope)
    else:
        assert to_json(compile_expression(text).evaluate(scope)) == json.loads(expected)


def test_the_document_has_expressions_to_check() -> None:
    assert len(ROWS) > 30
