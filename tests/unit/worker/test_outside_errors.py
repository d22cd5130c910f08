"""Errors that the pool and the runner give to tasks by themselves."""

from __future__ import annotations

import logging

import pytest

from node.worker.messages import LogLine, SegmentKind
from node.worker.outside_errors import outside_error
from node.worker.pool import log_to_logger


def test_level_1_names_the_step_as_the_original_does_and_level_2_does_not():
    first, second = (
        outside_error(SegmentKind(False, "it", "mine", 1, level), "timeout", "too long") for level in (1, 2)
    )
    assert (first.message, first.node) == ("error executing node it: too long", "it")
    assert (second.message, second.node) == ("too long", "it")


def test_of_several_steps_none_is_blamed():
    assert outside_error(SegmentKind(False, "it", "mine", 3, 2), "timeout", "too long").node is None


def test_an_error_before_the_plan_is_known_has_only_its_message():
    error = outside_error(None, "cancelled", "the execution was cancelled", retryable=False)
    assert (error.message, error.node, error.retryable) == ("the execution was cancelled", None, False)


def test_lines_of_steps_go_to_the_nodes_log_with_their_ids(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "thaiyyal.worker")
    log_to_logger([LogLine("hello %s", "log", 7, "e1", 2, (3,), 4, {"a": 1}), LogLine("stray", "stderr", 8)])
    first, second = caplog.records
    assert (first.getMessage(), first.levelno) == ("hello %s", logging.INFO)
    assert {
        name: getattr(first, name) for name in ("execution_id", "segment", "path", "attempt", "fields")
    } == {
        "execution_id": "e1",
        "segment": 2,
        "path": (3,),
        "attempt": 4,
        "fields": {"a": 1},
    }
    assert second.levelno == logging.WARNING
    assert not hasattr(second, "execution_id")
