"""The border between the language's values and a user's function."""

from __future__ import annotations

import enum
from collections import OrderedDict, UserDict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from node.worker.user_steps import (
    BUILTIN_NAMES,
    Context,
    StepTypesInvalid,
    adapt,
    current_attempt,
    from_result,
    load_step_types,
    to_plain,
)
from thaiyyal.step_types import StepFailed as UserStepFailed
from thaiyyal.step_types import describe
from workflow import codec
from workflow.errors import StepFailed
from workflow.messages import Task
from workflow.steps.base import RunState, Services, Step
from workflow.values import Int64, JsonNumber, MapSlice, NilSlice, SliceMap, StringPtr, StringSlice


class AttemptOfTest:
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.task = Task("e", 0, (), 2, b"", {}, None, None, None, None, "key", None, codec.encode([1.0]))
        self.cancelled = False
        self.heartbeats: list[Any] = []
        self.logs: list[tuple[str, str, dict[str, Any]]] = []

    def report_heartbeat(self, details: bytes) -> None:
        self.heartbeats.append(codec.decode(details))

    def report_log(self, stream: str, text: str, fields: Mapping[str, Any]) -> None:
        self.logs.append((stream, text, dict(fields)))


@pytest.fixture
def attempt() -> AttemptOfTest:
    attempt = AttemptOfTest()
    current_attempt.set(attempt)
    return attempt


def run(function: Any, inputs: list[Any], data: dict[str, Any] | None = None) -> Any:
    step = Step("it", "mine", data)
    return adapt(describe(function, name="mine")).run(step, inputs, RunState(), Services())


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (JsonNumber("3"), 3),
        (JsonNumber("1.50"), 1.5),
        (Int64(4), 4),
        (NilSlice(), []),
        (MapSlice([{"a": JsonNumber("1")}]), [{"a": 1}]),
        (SliceMap({"a": [1.0]}), {"a": [1.0]}),
        (StringSlice(["x"]), ["x"]),
        (StringPtr(None), None),
        (5.0, 5),
        (-5.5, -5.5),
        (2.0**53, 2**53),
        (2.0**54, 2.0**54),
        (1e300, 1e300),
        ({"deep": [StringPtr("x")]}, {"deep": ["x"]}),
    ],
)
def test_a_function_sees_plain_python_values(value: Any, plain: Any):
    assert to_plain(value) == plain
    assert type(to_plain(value)) is type(plain)


def test_a_function_may_change_what_it_is_given():
    given = {"list": [1.0]}
    copy = to_plain(given)
    copy["list"].append(2.0)
    assert given == {"list": [1.0]}


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("returned", "value"),
    [
        (1, 1.0),
        (True, True),
        (2**53, float(2**53)),
        (2**53 + 1, 2**53 + 1),
        (-(2**63), -(2**63)),
        ((1, 2), [1.0, 2.0]),
        (Colour.RED, "red"),
        (Level.HIGH, 3.0),
        (OrderedDict(a=1), {"a": 1.0}),
        (UserDict(a=1), {"a": 1.0}),
        ({Colour.RED: 1}, {"red": 1.0}),
        (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_what_a_function_returns_becomes_a_value_of_the_language(returned: Any, value: Any):
    result = from_result(returned, "it")
    assert result == value
    assert type(result) is type(value)
    codec.encode(result)


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        ({"a": [0, {1}]}, "a value of type set at a[1]; make it a list"),
        (b"x", "bytes must be made text first"),
        ({1: 2}, "keys must be text"),
        (2**63, "does not fit into 64 bits"),
        (datetime(2026, 1, 1), "a datetime without a time zone"),  # noqa: DTZ001
        (["\udc80"], r"not valid Unicode at \[0\]"),
        (1j, "type complex"),
    ],
)
def test_what_is_no_value_is_refused_with_its_place(returned: Any, text: str):
    with pytest.raises(StepFailed, match=text.replace("[1]", r"\[1\]")) as failure:
        from_result(returned, "step type mine")
    assert failure.value.code == "result_not_encodable"
    assert not failure.value.retryable
    assert "step type mine" in failure.value.text


def test_a_step_runs_with_its_inputs_data_and_context(attempt: AttemptOfTest):
    def function(first: float, *, add: int, ctx: Context) -> Any:
        ctx.log("adding", add=add)
        ctx.heartbeat({"at": add})
        return {
            "sum": first + add,
            "ids": [ctx.execution_id, ctx.step_id, ctx.attempt, ctx.idempotency_key],
            "details": ctx.heartbeat_details,
            "given": [list(ctx.inputs), dict(ctx.data), ctx.cancelled],
        }

    assert run(function, [JsonNumber("1")], {"add": 2}) == {
        "sum": 3.0,
        "ids": ["e", "it", 2.0, "key"],
        "details": [1.0],
        "given": [[1.0], {"add": 2.0}, False],
    }
    assert attempt.logs == [("log", "adding", {"add": 2})]
    assert attempt.heartbeats == [{"at": 2.0}]


def test_an_exception_becomes_a_step_error_and_its_traceback_is_logged(attempt: AttemptOfTest):
    def function() -> None:
        raise KeyError("gone")

    with pytest.raises(StepFailed) as failure:
        run(function, [])
    assert (failure.value.text, failure.value.code, failure.value.type) == (
        "KeyError: 'gone'",
        "step_failed",
        "KeyError",
    )
    assert failure.value.retryable
    text = attempt.logs[0][1]
    assert 'raise KeyError("gone")' in text
    assert "node/worker" not in text, "our own frames only hide the user's"


def test_step_failed_keeps_what_it_says(attempt: AttemptOfTest):
    def function() -> None:
        raise UserStepFailed("no such customer", code="unknown_customer", retryable=False)

    with pytest.raises(StepFailed) as failure:
        run(function, [])
    assert (failure.value.text, failure.value.code, failure.value.retryable) == (
        "no such customer",
        "unknown_customer",
        False,
    )
    assert attempt.logs == []


def test_fields_that_a_function_needs_are_checked_when_a_workflow_is_loaded():
    check = adapt(describe(lambda _, width: 0, name="mine")).check
    assert check is not None
    with pytest.raises(ValueError, match="step type mine needs width"):
        check({})
    check({"width": 1})


def test_modules_are_loaded_and_their_types_found():
    types = load_step_types(["tests.process.worker_steps"], builtin=())
    assert types["plus_one"].effect == "pure"
    assert types["sleep_awaiting"].is_async
    assert not types["plus_one"].is_async


@pytest.mark.parametrize("name", ["number", "for_each", "task", "wait_signal"])
def test_the_names_of_both_levels_are_built_in(name: str):
    assert name in BUILTIN_NAMES


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("tests.process.nowhere", "there is no module tests.process.nowhere"),
        ("nowhere_at_all.sub", "there is no module nowhere_at_all.sub"),
        ("tests/process/worker_steps.py", "import tests.process.worker_steps"),
        ("tests.process.worker_steps_raising", "ZeroDivisionError"),
    ],
)
def test_a_module_that_cannot_be_used_is_named_with_the_reason(module: str, text: str):
    with pytest.raises(StepTypesInvalid, match=text):
        load_step_types([module], builtin=())


def test_a_type_with_a_built_in_name_is_refused():
    with pytest.raises(StepTypesInvalid, match="step type plus_one, which is built in"):
        load_step_types(["tests.process.worker_steps"], builtin={"plus_one"})
