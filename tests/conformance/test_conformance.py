"""Every recorded result of the original engine holds, or falls under a named exception."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.conformance.cases import (
    FAMILIES,
    SHARED_FAMILIES,
    Case,
    groups,
    load_family,
    missing_reason,
    vectors,
)
from tests.conformance.compare import Outcome, same
from tests.conformance.exceptions import TABLE, check
from tests.conformance.local import WAYS, LocalRunner
from workflow.expressions import EngineCrash, EvalContext, EvalError, evaluate_condition, evaluate_value
from workflow.expressions.evaluate import compiled_arithmetic
from workflow.expressions.paths import MISSING
from workflow.values import from_json, to_json

_GROUPS = [
    pytest.param(cases, id=f"{family}:{name}")
    for family in FAMILIES
    if missing_reason(family) is None
    for name, cases in groups(family).items()
]


@pytest.fixture(params=WAYS)
async def runner(request: pytest.FixtureRequest) -> AsyncIterator[LocalRunner]:
    local = LocalRunner(request.param)
    yield local
    await local.close()


@pytest.mark.parametrize("cases", _GROUPS)
async def test_results_equal_the_recorded_ones(runner: LocalRunner, cases: list[Case]):
    failures = {case.id: problems for case in cases if (problems := await runner.run(case))}
    assert not failures


@pytest.mark.parametrize("family", SHARED_FAMILIES)
def test_families_from_other_projects_are_here(family: str):
    reason = missing_reason(family)
    if reason is not None:
        pytest.skip(reason)
    assert load_family(family)


@pytest.mark.parametrize("number", range(len(vectors()["expressions"])))
def test_recorded_expressions_hold(number: int):
    entry = vectors()["expressions"][number]
    names = vectors()["contexts"][entry["ctx"]]
    context = EvalContext(*(from_json(names[part]) for part in ("input", "vars", "ctx", "nodes")))
    try:
        if entry["mode"] == "bool":
            value = evaluate_condition(entry["expr"], context)
        elif entry["mode"] == "value":
            value = evaluate_value(entry["expr"], context)
        else:
            value = compiled_arithmetic(entry["expr"])(context)
    except EngineCrash:
        assert entry.get("dies")
        return
    except EvalError:
        value = MISSING
    if value is MISSING:
        assert entry.get("error")
    elif entry.get("non_finite"):
        assert "$float" in to_json(value)
    else:
        assert "value" in entry
        assert same(to_json(value), entry["value"])


def test_every_exception_is_used_by_some_case():
    cases = [case for family in FAMILIES if missing_reason(family) is None for case in load_family(family)]
    unused = [difference.name for difference in TABLE if not any(map(difference.applies, cases))]
    assert not unused


def test_a_wrong_result_is_noticed():
    case = next(case for case in load_family("operations") if case.expect["ok"])
    step_id = next(iter(case.expect["node_results"]))
    wrong = Outcome(True, node_results={**case.expect["node_results"], step_id: "wrong"})
    assert check(case, case.expect, wrong)
