"""Which runners must be killed, and which hold tasks up: judged from their shared pages.

Nothing here acts or reads a clock.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from node.worker.page import CPU_STARTED_NS, CPU_TICKET, LOOP_TICKET, LOOP_TURN_NS
from node.worker.settings import WorkerSettings
from node.worker.supervisor import Runner, Sentence

_NS: Final = 1_000_000_000


class Verdict(Enum):
    """What a look at a runner can end with, beside a sentence."""

    FINE = "fine"
    SLOW = "slow"  # its CPU task takes long: what waits behind it should go elsewhere


def look(runner: Runner, words: memoryview, now_ns: int, settings: WorkerSettings) -> Verdict | Sentence:
    """Judge one runner that has tasks. `words` is its shared page, `now_ns` CLOCK_MONOTONIC."""
    sentence = _look_at_loop(runner, words, now_ns, settings)
    return sentence if sentence is not None else _look_at_cpu(runner, words, now_ns, settings)


def _look_at_cpu(
    runner: Runner, words: memoryview, now_ns: int, settings: WorkerSettings
) -> Verdict | Sentence:
    ticket, started_ns = words[CPU_TICKET], words[CPU_STARTED_NS]
    dispatch = runner.tasks.get(ticket)
    if dispatch is None or words[CPU_TICKET] != ticket:  # between two tasks
        return Verdict.FINE
    took_s = (now_ns - started_ns) / _NS
    if took_s > dispatch.wall_s:
        error = dispatch.error("timeout", dispatch.overrun_message())
        return Sentence("runner_replaced", "a task in it took longer than its limit", ticket, error)
    return Verdict.SLOW if took_s > settings.steal_after_s else Verdict.FINE


def _look_at_loop(
    runner: Runner, words: memoryview, now_ns: int, settings: WorkerSettings
) -> Sentence | None:
    ticket, since_ns = words[LOOP_TICKET], words[LOOP_TURN_NS]
    dispatch = runner.tasks.get(ticket)
    if dispatch is None or words[LOOP_TICKET] != ticket:
        return None
    stalled_s = (now_ns - since_ns) / _NS
    overran_s = now_ns / _NS - dispatch.handed_at - dispatch.wall_s
    if stalled_s > settings.loop_stall_s_max:
        message = (
            f"the step did not yield to the event loop for {settings.loop_stall_s_max:g} s; "
            "make it a plain function, or await inside it"
        )
    elif overran_s > settings.stop_grace_s and stalled_s > settings.stop_grace_s:
        message = dispatch.overrun_message()
    else:
        return None
    error = dispatch.error("timeout", message)
    return Sentence("runner_hung", "a step in it blocked the event loop", ticket, error)
