"""What happens to runners on uvloop, the loop that nodes run on; the other tests of the pool use asyncio's own."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.process import test_worker_faults as faults
from tests.process import test_worker_pool as tasks

SCENARIOS = [
    tasks.test_a_thousand_tasks_are_spread_over_all_runners_and_each_has_one_outcome,
    tasks.test_a_blocking_step_stops_neither_io_steps_nor_other_cpu_steps,
    tasks.test_closing_waits_for_tasks_only_as_long_as_it_is_told,
    tasks.test_a_module_that_does_not_load_is_refused_at_start_with_its_name_and_place,
    faults.test_sigkill_from_outside_reports_the_running_task_first_and_io_tasks_as_not_at_fault,
    faults.test_results_that_a_runner_sent_before_it_died_are_kept,
    faults.test_a_cpu_step_that_overruns_its_time_fails_with_timeout_and_innocent_tasks_go_on,
    faults.test_an_async_step_that_blocks_the_event_loop_is_found_out,
    faults.test_cancel_reaches_tasks_wherever_they_wait,
    faults.test_runners_that_cannot_be_replaced_are_tried_again_and_tasks_wait,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__.removeprefix("test_"))
def test_on_uvloop(scenario: Callable[..., Awaitable[None]], tmp_path: Path):
    arguments: dict[str, Any] = {"tmp_path": tmp_path}
    wanted = inspect.signature(scenario).parameters

    async def run() -> None:
        await scenario(**{name: arguments[name] for name in wanted})

    uvloop.run(run())


@pytest.mark.parametrize("step_type", ["touch_and_await", "touch_and_spin", "touch_and_ignore_cancel"])
def test_cancel_on_uvloop(step_type: str, tmp_path: Path):
    lost = 0 if step_type == "touch_and_await" else 1
    uvloop.run(faults.test_cancel_ends_a_running_step_within_200_ms(step_type, lost, tmp_path))
