"""Fencing, retries, losses, the grant window, cancel, waits, deadlines."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from node.coordinator import commands as c
from node.coordinator.effects import Accepted, Refused
from node.coordinator.journal import Kind
from node.coordinator.run import array_of, retry_delay_s
from node.coordinator.state import Stage
from tests.unit.coordinator.plans import (
    Machine,
    Seg,
    chain,
    done,
    failed,
    make_plan,
    open_attempts,
    retrying,
    start,
    waits,
)
from workflow import codec
from workflow.messages import RetryPolicy


def lost(m, x, segment=0, *, at_fault=False, path=()):
    number = m.attempt(x, segment, path).number
    return m.do(c.Lost(x.id, segment, path, number, "runner_died", "signal 9", at_fault))


def test_a_second_report_of_the_same_attempt_is_dropped():
    plan = chain(2)
    m = Machine(plan)
    x = m.start(plan)
    report = c.Completed("x", 0, (), 1, done(plan, 0, b"\x01"))
    m.do(report)
    fx = m.do(c.Completed("x", 0, (), 1, done(plan, 0, b"\x02")))
    assert fx.dropped == 1
    assert x.outputs == {0: b"\x01"}


@pytest.mark.parametrize(
    "key",
    [
        ("y", 0, (), 1),
        ("x", 1, (), 1),
        ("x", 0, (3,), 1),
        ("x", 0, (), 2),
        ("x", 99, (), 1),
        ("x", -1, (), 1),
    ],
)
def test_a_report_under_any_other_key_is_dropped(key):
    plan = chain(2)
    m = Machine(plan)
    x = m.start(plan)
    fx = m.do(c.Completed(*key, done(plan, 0)))
    assert fx.dropped == 1
    assert open_attempts(x) == [(0, (), Stage.ACTIVE)]


def test_a_failed_attempt_is_recorded_before_its_retry_which_waits_for_its_backoff():
    plan = chain(1, policy=retrying(3, initial_interval_s=10.0, jitter=0.0))
    m = Machine(plan)
    x = m.start(plan)
    fx = m.report(x, 0, failed())
    assert [(t.due, t.wall) for t in fx.timers] == [(m.now + 10.0, False)]
    assert open_attempts(x) == [(0, (), Stage.BACKOFF)]
    assert [e.kind for e in x.journal][-1] == Kind.ATTEMPT_FAILED
    m.do(c.TimerFired("x", 0, (), 2), after=9.9)
    assert open_attempts(x) == [(0, (), Stage.BACKOFF)], "never early"
    fx = m.do(c.TimerFired("x", 0, (), 2), after=0.1)
    assert [r.number for r in fx.ready] == [2]
    m.report(x, 0, failed())
    m.do(c.TimerFired("x", 0, (), 3), after=20)
    m.report(x, 0, failed(message="third"))
    assert x.status == "failed"
    assert x.error is not None
    assert x.error.message.endswith("third")


def test_errors_that_are_not_retryable_fail_at_once():
    plan = chain(1, policy=retrying(5, non_retryable=("bad_request",)))
    for result in (failed(retryable=False), failed(code="bad_request")):
        m = Machine(plan)
        x = m.start(plan)
        m.report(x, 0, result)
        assert x.status == "failed"


@pytest.mark.parametrize(
    ("failures", "chance", "expected"),
    [(1, 0.0, 0.0), (1, 0.5, 0.5), (3, 0.5, 2.0), (30, 0.5, 5.0), (2000, 0.99, 9.9)],
)
def test_full_jitter_spreads_over_the_whole_exponential_delay(failures, chance, expected):
    policy = RetryPolicy(
        max_attempts=9, initial_interval_s=1.0, max_interval_s=10.0, multiplier=2.0, jitter=1.0
    )
    assert retry_delay_s(policy, failures, chance) == pytest.approx(expected)


def test_a_lost_read_is_handed_out_again_under_a_new_number():
    plan = chain(1)
    m = Machine(plan)
    x = m.start(plan)
    fx = lost(m, x)
    assert [r.number for r in fx.ready] == [2]
    m.do(c.Completed("x", 0, (), 1, done(plan, 0)))
    assert x.status == "", "the lost attempt's late report is fenced off"
    m.report(x, 0, done(plan, 0))
    assert x.status == "completed"


def test_a_task_that_kills_its_runner_three_times_fails_with_the_reason():
    plan = chain(1)
    m = Machine(plan)
    x = m.start(plan)
    lost(m, x, at_fault=True)
    lost(m, x, at_fault=True)
    assert x.status == ""
    lost(m, x, at_fault=True)
    assert x.status == "failed"
    assert x.error is not None
    assert "ended its runner 3 times: signal 9" in x.error.message


def test_a_task_that_is_lost_again_and_again_by_nobodys_fault_fails_at_last():
    plan = chain(1)
    m = Machine(plan)
    x = m.start(plan)
    for _ in range(m.state.limits.losses_max - 1):
        lost(m, x)
        assert x.status == ""
    lost(m, x)
    assert x.status == "failed"
    assert x.error is not None
    assert "was lost 100 times" in x.error.message


def test_losses_that_are_not_its_fault_never_fail_a_read():
    plan = chain(1)
    m = Machine(plan)
    x = m.start(plan)
    for _ in range(10):
        lost(m, x)
    m.report(x, 0, done(plan, 0))
    assert x.status == "completed"


def test_a_lost_write_with_one_attempt_is_in_doubt_and_never_sent_again():
    plan = chain(1, effect="write")
    m = Machine(plan)
    x = m.start(plan)
    fx = lost(m, x)
    assert fx.ready == []
    assert x.status == "failed"
    assert x.error is not None
    assert x.error.code == "outcome_unknown"


def test_a_lost_write_follows_its_retry_policy():
    plan = chain(1, effect="write", policy=retrying(2))
    m = Machine(plan)
    x = m.start(plan)
    lost(m, x)
    assert x.journal[-1].error is not None
    assert x.journal[-1].error.code == "outcome_unknown"
    m.do(c.TimerFired("x", 0, (), 2), after=60)
    assert open_attempts(x) == [(0, (), Stage.ACTIVE)]
    lost(m, x)
    assert x.status == "failed"


def test_writes_above_the_window_wait_for_a_grant():
    plan = chain(1, effect="write")
    m = Machine(plan)
    m.do(c.Configure(replace(m.state.limits, write_window=1)))
    x, y = m.start(plan, "x"), m.start(plan, "y")
    assert open_attempts(x) == [(0, (), Stage.ACTIVE)]
    assert open_attempts(y) == [(0, (), Stage.QUEUED)]
    m.do(c.Completed("y", 0, (), 1, done(plan, 0)))
    assert y.status == "", "what was not granted cannot have run"
    fx = m.do(c.Grant([("y", 0, (), 1)]))
    assert [r.execution.id for r in fx.ready] == ["y"]
    m.report(y, 0, done(plan, 0))
    assert y.status == "completed"


def test_cancel_with_nothing_running_is_final_at_once():
    plan = chain(1, effect="wait")
    m = Machine(plan)
    x = m.start(plan)
    m.report(x, 0, waits(plan, 0, duration_s=60.0))
    fx = m.do(c.Cancel("x", "not needed"))
    assert x.status == "cancelled"
    assert [t.key.segment for t in fx.timers_cleared] == [0]
    assert x.error is not None
    assert x.error.message == "cancelled: not needed"


def test_cancel_waits_until_every_running_attempt_has_reported():
    plan = make_plan([Seg(effect="write"), Seg(), Seg(after=[0])])
    m = Machine(plan)
    x = m.start(plan)
    fx = m.do(c.Cancel("x", ""))
    assert sorted(fx.cancels) == [("x", 0, (), 1), ("x", 1, (), 1)]
    m.report(x, 0, done(plan, 0))
    assert x.status == ""
    lost(m, x, 1)
    assert x.status == "cancelled"
    assert x.outputs == {0: b"\x01"}, "what finished is kept"


def test_cancel_of_a_lost_write_ends_it_without_another_attempt():
    plan = chain(1, effect="write", policy=retrying(5))
    m = Machine(plan)
    x = m.start(plan)
    m.do(c.Cancel("x", ""))
    fx = lost(m, x)
    assert fx.ready == []
    assert x.status == "cancelled"


def test_an_attempt_that_was_never_handed_out_is_withdrawn():
    plan = chain(1)
    m = Machine(plan)
    x = m.start(plan)
    m.do(c.Cancel("x", ""))
    m.do(c.Withdrawn("x", 0, (), 1))
    assert x.status == "cancelled"


def test_a_second_cancel_and_one_of_an_unknown_execution_change_nothing():
    plan = chain(1)
    m = Machine(plan)
    x = m.start(plan)
    m.do(c.Cancel("x", "first"))
    fx = m.do(c.Cancel("x", "second"), c.Cancel("nope", ""))
    assert fx.answers[0] is x
    assert isinstance(fx.answers[1], Refused)
    assert sum(e.kind == Kind.CANCELLING for e in x.journal) == 1


def test_a_timer_resumes_the_same_segment_with_null():
    plan = chain(2, effect="wait")
    m = Machine(plan)
    x = m.start(plan)
    fx = m.report(x, 0, waits(plan, 0, duration_s=5.0))
    key = fx.timers[0].key
    m.do(c.TimerFired(key.id, key.segment, key.path, key.attempt), after=5.0)
    assert m.attempt(x, 0).resume == codec.encode(None)
    assert m.attempt(x, 0).number == 2
    fx = m.do(c.TimerFired(key.id, key.segment, key.path, key.attempt), after=5.0)
    assert fx.ready == [], "a timer fires once"
    m.report(x, 0, done(plan, 0))
    assert open_attempts(x) == [(1, (), Stage.ACTIVE)]


def test_a_repeated_report_of_a_wait_does_not_wait_again():
    plan = chain(1, effect="wait")
    m = Machine(plan)
    x = m.start(plan)
    m.report(x, 0, waits(plan, 0, duration_s=5.0))
    fx = m.do(c.Completed("x", 0, (), 1, waits(plan, 0, duration_s=5.0)))
    assert fx.dropped == 1
    assert fx.timers == []


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e300])
def test_a_wait_beyond_reason_fails_the_step(seconds):
    plan = chain(1, effect="wait")
    m = Machine(plan)
    x = m.start(plan)
    m.report(x, 0, waits(plan, 0, duration_s=seconds))
    assert x.status == "failed"


def test_a_signal_resumes_the_step_that_waits_for_it():
    plan = chain(1, effect="wait")
    m = Machine(plan)
    x = m.start(plan)
    m.report(x, 0, waits(plan, 0, "signal", name="go"))
    m.do(c.Signal("x", "other", b"\x01"))
    assert open_attempts(x) == [(0, (), Stage.SIGNAL)]
    m.do(c.Signal("x", "go", b"\x02"))
    assert m.attempt(x, 0).resume == b"\x81\xa7payload" + b"\x02"


def test_signals_that_come_early_are_kept_in_order_and_a_repeated_key_counts_once():
    plan = chain(2, effect="wait")
    m = Machine(plan)
    x = m.start(plan)
    m.do(
        c.Signal("x", "go", b"\x01", "k1"),
        c.Signal("x", "go", b"\x01", "k1"),
        c.Signal("x", "go", b"\x02", "k2"),
    )
    m.report(x, 0, waits(plan, 0, "signal", name="go"))
    assert m.attempt(x, 0).resume == b"\x81\xa7payload" + b"\x01"
    m.report(x, 0, done(plan, 0))
    m.report(x, 1, waits(plan, 1, "signal", name="go"))
    assert m.attempt(x, 1).resume == b"\x81\xa7payload" + b"\x02"


def test_a_signal_with_a_time_limit_resumes_with_null_when_it_runs_out():
    plan = chain(1, effect="wait")
    m = Machine(plan)
    x = m.start(plan)
    m.report(x, 0, waits(plan, 0, "signal", name="go", duration_s=3.0))
    m.do(c.TimerFired("x", 0, (), 2), after=3.0)
    assert m.attempt(x, 0).resume == codec.encode(None)


def test_unread_signals_are_bounded():
    plan = chain(1)
    m = Machine(plan)
    m.start(plan)
    m.do(c.Configure(replace(m.state.limits, signals_max=2, signal_bytes_max=10)))
    answers = m.do(*[c.Signal("x", "go", b"\x01") for _ in range(3)]).answers
    assert [isinstance(a, Refused) for a in answers] == [False, False, True]
    assert answers[2].limit == "signals_max"


def test_the_execution_deadline_fails_it_with_the_originals_text():
    plan = chain(1)
    m = Machine(plan)
    x = m.start(plan, timeout_s=300.0)
    m.do(c.TimerFired("x", -1, (), 0), after=299.0)
    assert x.ending == ""
    m.do(c.TimerFired("x", -1, (), 0), after=1.0)
    assert x.ending == "failed"
    m.report(x, 0, failed(code="cancelled"))
    assert x.status == "failed"
    assert x.error is not None
    assert x.error.message == "workflow execution timeout: exceeded 5m0s"


def test_a_repeated_key_leads_to_the_first_execution_and_other_content_is_refused():
    plan = chain(1)
    m = Machine(plan)
    x = m.start(plan, "a", key="k", digest=b"1")
    again, other, tenant = m.do(
        start(plan, "b", key="k", digest=b"1"),
        start(plan, "c", key="k", digest=b"2"),
        start(plan, "d", key="k", digest=b"2", tenant="t2"),
    ).answers
    assert again == Accepted("a", x, True)
    assert isinstance(other, Refused)
    assert other.code == "idempotency_key_reused"
    assert isinstance(tenant, Accepted)
    assert not tenant.deduplicated


def test_a_key_leads_to_its_execution_after_that_has_ended_and_is_forgotten_after_a_day():
    plan = chain(1)
    m = Machine(plan)
    x = m.start(plan, "a", key="k", digest=b"1")
    m.report(x, 0, done(plan, 0))
    assert m.do(start(plan, "b", key="k", digest=b"1"), after=86_000).answers == [Accepted("a", None, True)]
    fresh = m.do(start(plan, "c", key="k", digest=b"1"), after=401).answers[0]
    assert isinstance(fresh, Accepted)
    assert not fresh.deduplicated


def test_keys_are_bounded_per_tenant_and_refused_not_evicted():
    plan = chain(1)
    m = Machine(plan)
    m.do(c.Configure(replace(m.state.limits, dedupe_keys_max=1)))
    answers = m.do(
        start(plan, "a", key="1"), start(plan, "b", key="2"), start(plan, "c", key="3", tenant="t")
    ).answers
    assert [isinstance(a, Refused) for a in answers] == [False, True, False]
    assert answers[1].limit == "dedupe_keys_max"


def test_a_start_of_an_unknown_definition_is_refused():
    m = Machine()
    answer = m.do(start(chain(1))).answers[0]
    assert isinstance(answer, Refused)
    assert answer.code == "definition_unknown"


def test_a_definition_in_use_is_not_dropped():
    plan = chain(1)
    m = Machine(plan)
    x = m.start(plan)
    m.do(c.DropDefinitions([plan.hash]))
    assert plan.hash in m.state.definitions
    m.report(x, 0, done(plan, 0))
    m.do(c.DropDefinitions([plan.hash]))
    assert m.state.definitions == {}


def test_versions_count_by_content():
    one, two = chain(1), chain(2)
    m = Machine(one, two)
    answers = m.do(
        c.RegisterWorkflow("w", one.hash, "W", ""),
        c.RegisterWorkflow("w", two.hash, "W", ""),
        c.RegisterWorkflow("w", one.hash, "W", ""),
    ).answers
    assert [a.version for a in answers] == [1, 2, 1]
    m.do(c.DropDefinitions([one.hash]))
    assert one.hash in m.state.definitions
    m.do(c.DeleteWorkflow("w"), c.DropDefinitions([one.hash, two.hash]))
    assert m.state.definitions == {}


def test_cluster_time_never_goes_back():
    m = Machine(now=50.0)
    m.do(after=10.0)
    m.do(after=-30.0)
    assert m.state.now == 60.0


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65535, 65536])
def test_an_array_of_encoded_values_is_what_the_codec_would_have_made(count):
    assert array_of([b"\x01"] * count) == codec.encode([1] * count)
