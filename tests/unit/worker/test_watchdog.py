"""Verdicts on runners, from what their shared pages say."""

from __future__ import annotations

from typing import Any

from node.worker.dispatch import Dispatch, SegmentProfile
from node.worker.messages import SegmentKind, Task, TaskFrame
from node.worker.page import (
    CPU_LAST_STARTED,
    CPU_STARTED_NS,
    CPU_TICKET,
    LOOP_TICKET,
    LOOP_TURN_NS,
    PAGE_BYTES,
)
from node.worker.settings import WorkerSettings
from node.worker.supervisor import Runner, Sentence
from node.worker.watchdog import Verdict, look

NOW_S = 1000.0
SETTINGS = WorkerSettings(steal_after_s=0.02, loop_stall_s_max=10.0, stop_grace_s=0.1)


def runner_with(*, is_io: bool, wall_s: float, handed_s_ago: float = 0.0) -> Runner:
    task = Task("e", 0, (), 1, b"", {}, None, None, None, None, "", None)
    dispatch = Dispatch(TaskFrame(task), ("e", 0, (), 1), wall_s)
    dispatch.profile = SegmentProfile(SegmentKind(is_io, "it", "mine", 1, 1))
    dispatch.ticket = 7
    dispatch.handed_at = NOW_S - handed_s_ago
    return Runner(0, tasks={7: dispatch}, cpu=0 if is_io else 1)


def page(**slots: tuple[int, float]) -> memoryview:
    """`cpu` and `loop`: (ticket, seconds since it began)."""
    words = memoryview(bytearray(PAGE_BYTES)).cast("Q")
    for name, (ticket, seconds) in slots.items():
        began_ns = int((NOW_S - seconds) * 1e9)
        if name == "cpu":
            words[CPU_TICKET], words[CPU_STARTED_NS], words[CPU_LAST_STARTED] = ticket, began_ns, ticket
        else:
            words[LOOP_TICKET], words[LOOP_TURN_NS] = ticket, began_ns
    return words


def verdict(runner: Runner, words: memoryview) -> Any:
    return look(runner, words, int(NOW_S * 1e9), SETTINGS)


def test_a_runner_that_does_nothing_is_fine():
    assert verdict(runner_with(is_io=False, wall_s=1.0), page()) is Verdict.FINE


def test_a_cpu_task_is_slow_after_a_while_and_overdue_after_its_limit():
    runner = runner_with(is_io=False, wall_s=1.0)
    assert verdict(runner, page(cpu=(7, 0.019))) is Verdict.FINE
    assert verdict(runner, page(cpu=(7, 0.021))) is Verdict.SLOW
    assert verdict(runner, page(cpu=(7, 0.999))) is Verdict.SLOW
    sentence = verdict(runner, page(cpu=(7, 1.001)))
    assert isinstance(sentence, Sentence)
    assert sentence.ticket == 7
    assert sentence.error is not None
    assert sentence.error.code == "timeout"


def test_a_ticket_that_the_pool_does_not_know_is_not_judged():
    assert verdict(runner_with(is_io=False, wall_s=1.0), page(cpu=(8, 100.0))) is Verdict.FINE


def test_an_io_task_may_take_a_turn_of_the_loop_but_not_keep_it():
    runner = runner_with(is_io=True, wall_s=1000.0)
    assert verdict(runner, page(loop=(7, 9.9))) is Verdict.FINE
    sentence = verdict(runner, page(loop=(7, 10.1)))
    assert isinstance(sentence, Sentence)
    assert sentence.code == "runner_hung"


def test_an_io_task_beyond_its_limit_is_left_to_its_runner_unless_it_holds_the_loop():
    runner = runner_with(is_io=True, wall_s=1.0, handed_s_ago=1.2)
    assert verdict(runner, page()) is Verdict.FINE
    assert verdict(runner, page(loop=(7, 0.05))) is Verdict.FINE
    sentence = verdict(runner, page(loop=(7, 0.2)))
    assert isinstance(sentence, Sentence)
    assert sentence.error is not None
    assert sentence.error.message == "error executing node it: the step took longer than 1 s"
