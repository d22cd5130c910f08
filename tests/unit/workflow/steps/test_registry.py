"""The table of step types."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.workflow.steps.step_runs import run_step
from workflow.steps.base import StepFailed
from workflow.steps.registry import LEVEL1

_NAMES = """
number text_input boolean_input date_input datetime_input visualization renderer http operation text_operation
expression parse format extract transform condition switch for_each while_loop filter map reduce slice sort find
flat_map group_by unique chunk reverse partition zip sample range compact transpose variable accumulator counter
cache context_variable context_constant parallel join split delay retry try_catch timeout rate_limiter throttle
schema_validator
"""
NAMES = _NAMES.split()


def test_all_52_types_of_the_original_are_there_and_paginator() -> None:
    assert len(NAMES) == 52
    assert sorted(LEVEL1) == sorted([*NAMES, "paginator"])


def test_only_http_reads_and_only_delay_waits() -> None:
    effects = {name: step_type.effect for name, step_type in LEVEL1.items() if step_type.effect != "pure"}
    assert effects == {"http": "read", "delay": "wait"}
    assert {name for name, step_type in LEVEL1.items() if step_type.is_async} == {"http", "retry"}


def test_data_names_are_those_of_the_originals_structs() -> None:
    assert all(re.fullmatch("[A-Za-z]+Data", step_type.data_name) for step_type in LEVEL1.values())
    assert LEVEL1["http"].data_name == "HTTPData"
    assert LEVEL1["datetime_input"].data_name == "DateTimeInputData"


def test_paginator_loads_and_has_no_executor() -> None:
    with pytest.raises(StepFailed, match="no executor registered for type: paginator"):
        run_step("paginator", {"pagination_strategy": "cursor"})


def test_no_step_file_reads_a_clock_or_evaluates_code() -> None:
    folder = Path(LEVEL1["number"].run.__code__.co_filename).parent  # type: ignore[union-attr]
    forbidden = re.compile(r"\b(eval|exec|pickle|time\.time|datetime\.now|os\.environ|subprocess|socket)\b")
    for path in folder.glob("*.py"):
        assert not forbidden.search(path.read_text()), path
