"""retry and its relatives: markers that look at their first input."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.unit.workflow.steps.step_runs import run_step
from workflow.steps.base import EngineCrash, Services, Settings, StepFailed
from workflow.steps.resilience import total_backoff_ns
from workflow.values import Int64

ERROR = {"error": "connection refused"}


@dataclass
class Naps:
    """Stands in for sleeping."""

    taken: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.taken.append(seconds)


def retry(data: dict[str, Any], value: Any = ERROR, **settings: Any) -> tuple[str, list[float]]:
    naps = Naps()
    services = Services(settings=Settings(**settings), sleep=naps.sleep)
    with pytest.raises(StepFailed) as caught:
        run_step("retry", data, value, services=services)
    return caught.value.text, naps.taken


def test_an_error_object_fails_after_the_waits_of_all_attempts() -> None:
    assert retry({}) == ("max retry attempts (3) reached: connection refused", [3.0])
    assert retry({"max_attempts": 1}) == ("max retry attempts (1) reached: connection refused", [])
    assert retry({"retry_on_errors": ["timeout"]}) == ("error not in retry list: connection refused", [])


def test_the_wait_ends_with_the_time_of_the_execution() -> None:
    _, naps = retry({"max_attempts": 10**9, "initial_delay": "30s"}, max_execution_time_ns=2_000_000_000)
    assert naps == [2.0]


@pytest.mark.parametrize("attempts", [0, -1])
def test_no_attempts_at_all_is_an_error_that_nothing_hides(attempts: int) -> None:
    with pytest.raises(EngineCrash):
        run_step("retry", {"max_attempts": attempts}, 5.0)


@pytest.mark.parametrize(
    ("data", "attempts", "total_ms"),
    [
        ({}, 4, 7000),
        ({"backoff_strategy": "linear"}, 4, 6000),
        ({"backoff_strategy": "constant"}, 4, 3000),
        ({"backoff_strategy": "other"}, 4, 3000),
        ({"max_delay": "2s"}, 4, 5000),
        ({"multiplier": 0.0}, 4, 1000),
        ({"multiplier": -2.0}, 4, 5000),  # a negative wait is none
        ({"multiplier": 1e200}, 4, 1000),  # beyond an int64 the wait becomes negative
        ({"initial_delay": "soon", "max_delay": "later"}, 2, 1000),
        ({"initial_delay": "0s"}, 10**9, 0),
        ({"backoff_strategy": "constant", "initial_delay": "1ms"}, 10**6, 999_999),
    ],
)
def test_waits_add_up_by_strategy(data: dict[str, Any], attempts: int, total_ms: int) -> None:
    fields = dict.fromkeys(("initial_delay", "max_delay", "backoff_strategy", "multiplier"))
    assert total_backoff_ns(fields | data, attempts, None) == total_ms * 1_000_000


def test_only_an_object_with_the_key_error_counts_as_an_error() -> None:
    for value in (None, "error", ["error"], {"Error": 1.0}, 5.0):
        assert run_step("try_catch", {"fallback_value": "f"}, value) == {
            "value": value,
            "error_caught": False,
        }
    assert run_step("try_catch", {"fallback_value": "f"}, {"error": None})["error_message"] == "<nil>"
    with pytest.raises(StepFailed, match="error caught: connection refused"):
        run_step("try_catch", {"continue_on_error": False}, ERROR)


def test_a_claimed_time_over_the_limit_fails_or_is_marked() -> None:
    value = {"execution_time": "1500ms"}
    with pytest.raises(StepFailed, match=r"operation timed out after 1.5s \(limit: 1s\)"):
        run_step("timeout", {"timeout": "1s"}, value)
    marked = run_step("timeout", {"timeout": "1s", "timeout_action": "go on"}, value)
    assert [marked[key] for key in ("timed_out", "timeout_exceeded", "partial_result")] == [True] * 3


def test_limiters_let_the_first_request_of_an_execution_pass() -> None:
    assert type(run_step("throttle", {"requests_per_second": 0.001}, 1.0)["delay_ms"]) is Int64
    assert run_step("rate_limiter", {"max_requests": 1, "per_duration": "1h"})["requests_count"] == 1
    with pytest.raises(EngineCrash):
        run_step("rate_limiter", {"max_requests": 0, "per_duration": "1h"}, 1.0)
