"""Which segments run, in which order, and what an execution ends with."""

from __future__ import annotations

import msgspec

from node.coordinator.run import may_retry, retry_delay_s
from node.coordinator.state import Stage
from tests.unit.coordinator.plans import Machine, Seg, chain, done, failed, make_plan, open_attempts, spawns
from workflow import codec
from workflow.messages import RetryPolicy, StepError


def opened(x):
    return [segment for segment, _, _ in open_attempts(x)]


def loop_ended(results: bytes, *, failed: int, last_error: str | None, carry: bytes = b"\xc0") -> bytes:
    """What a loop step is resumed with: [carry, results, failed count, last error]."""
    return b"\x94" + carry + results + codec.encode(float(failed)) + codec.encode(last_error)


def test_a_chain_runs_one_segment_after_the_other():
    plan = chain(3)
    m = Machine(plan)
    x = m.start(plan)
    for segment in range(3):
        assert opened(x) == [segment]
        m.report(x, segment, done(plan, segment, bytes([segment])))
    assert x.status == "completed"
    assert x.outputs == {0: b"\x00", 1: b"\x01", 2: b"\x02"}
    assert m.state.executions == {}


def test_the_next_segment_is_ready_in_the_apply_that_completes_its_source():
    plan = chain(2)
    m = Machine(plan)
    x = m.start(plan)
    fx = m.report(x, 0, done(plan, 0))
    assert [(r.attempt.segment, r.number) for r in fx.ready] == [(1, 1)]


def test_an_empty_workflow_completes_at_once():
    plan = make_plan([])
    m = Machine(plan)
    x = m.start(plan)
    assert x.status == "completed"
    assert [ended.execution for ended in m.fx.finished] == [x]


def test_a_join_runs_once_when_all_its_sources_are_resolved():
    plan = make_plan([Seg(), Seg(after=[0]), Seg(after=[0]), Seg(after=[1, 2])])
    m = Machine(plan)
    x = m.start(plan)
    m.report(x, 0, done(plan, 0))
    assert opened(x) == [1, 2]
    m.report(x, 2, done(plan, 2))
    assert opened(x) == [1]
    m.report(x, 1, done(plan, 1))
    assert opened(x) == [3]


def test_a_dead_branch_is_skipped_and_skipping_cascades():
    plan = make_plan(
        [Seg(), Seg(after=[(0, "if")]), Seg(after=[1]), Seg(after=[(0, "if")]), Seg(after=[2, 3])]
    )
    m = Machine(plan)
    x = m.start(plan)
    branch = next(e.index for e in plan.edges if e.target_segment == 3)
    m.report(x, 0, done(plan, 0, live=[branch]))
    assert opened(x) == [3]
    m.report(x, 3, done(plan, 3))
    assert opened(x) == [4], "one live edge is enough for a join"
    m.report(x, 4, done(plan, 4))
    assert x.status == "completed"
    assert sorted(x.outputs) == [0, 3, 4]


def test_an_execution_whose_last_segments_are_skipped_completes():
    plan = make_plan([Seg(), Seg(after=[(0, "if")])])
    m = Machine(plan)
    x = m.start(plan)
    m.report(x, 0, done(plan, 0))
    assert x.status == "completed"


def test_an_order_edge_delays_but_never_activates():
    plan = make_plan([Seg(), Seg(), Seg(after=[(0, "if"), (1, "order")]), Seg(after=[(0, "order")])])
    m = Machine(plan)
    x = m.start(plan)
    m.report(x, 0, done(plan, 0))
    assert opened(x) == [1, 3], "only order edges in: it runs"
    m.report(x, 1, done(plan, 1))
    m.report(x, 3, done(plan, 3))
    assert x.status == "completed", "the order edge from 1 did not activate 2"
    assert 2 not in x.outputs


def test_a_failed_step_fails_the_execution_and_keeps_results():
    plan = chain(3, level=1)
    m = Machine(plan)
    x = m.start(plan)
    m.report(x, 0, done(plan, 0))
    m.report(x, 1, failed("s1", "division by zero"))
    assert x.status == "failed"
    assert x.error is not None
    assert x.error.message == "error executing node s1: division by zero"
    assert x.outputs == {0: b"\x01"}


def test_level_two_keeps_the_message_as_it_is():
    plan = chain(1, level=2)
    m = Machine(plan)
    x = m.start(plan)
    m.report(x, 0, failed("s0", "nope"))
    assert x.error is not None
    assert x.error.message == "nope"


def test_a_failure_waits_for_what_still_runs_and_starts_nothing_more():
    plan = make_plan([Seg(), Seg(), Seg(after=[1])])
    m = Machine(plan)
    x = m.start(plan)
    fx = m.report(x, 0, failed("s0"))
    assert fx.cancels == [("x", 1, (), 1)]
    assert x.status == ""
    m.report(x, 1, done(plan, 1))
    assert x.status == "failed"
    assert x.outputs == {1: b"\x01"}


def test_what_a_runner_reports_outside_its_segment_fails_the_step():
    plan = chain(2)
    m = Machine(plan)
    x = m.start(plan)
    m.report(x, 0, done(plan, 1))
    assert x.status == "failed"
    assert x.error is not None
    assert x.error.code == "result_invalid"


def test_a_loop_runs_its_body_once_per_item_and_hands_the_results_back_in_order():
    plan = make_plan([Seg(body=1), Seg(scope=1), Seg(after=[1], scope=1), Seg(after=[0])])
    m = Machine(plan)
    x = m.start(plan)
    m.report(x, 0, spawns(plan, 0, [b"\x0a", b"\x0b", b"\x0c"], at_once=2))
    assert open_attempts(x) == [(0, (), Stage.LOOP), (1, (0,), Stage.ACTIVE), (1, (1,), Stage.ACTIVE)]
    m.report(x, 1, done(plan, 1), path=(1,))
    m.report(x, 2, done(plan, 2, b"\x0b"), path=(1,))
    assert (1, (2,), Stage.ACTIVE) in open_attempts(x), "the next item starts when one is done"
    m.report(x, 1, done(plan, 1), path=(2,))
    m.report(x, 2, done(plan, 2, b"\x0c"), path=(2,))
    m.report(x, 1, done(plan, 1), path=(0,))
    fx = m.report(x, 2, done(plan, 2, b"\x0a"), path=(0,))
    assert [r.attempt.segment for r in fx.ready] == [0]
    assert m.attempt(x, 0).resume == loop_ended(b"\x93\x0a\x0b\x0c", failed=0, last_error=None)
    m.report(x, 0, done(plan, 0, b"\x93\x0a\x0b\x0c"))
    m.report(x, 3, done(plan, 3))
    assert x.status == "completed"


def test_a_loop_without_items_is_handed_an_empty_list():
    plan = make_plan([Seg(body=1), Seg(scope=1)])
    m = Machine(plan)
    x = m.start(plan)
    m.report(x, 0, spawns(plan, 0, []))
    assert m.attempt(x, 0).resume == loop_ended(b"\x90", failed=0, last_error=None)


def test_a_body_whose_result_step_was_skipped_gives_null():
    plan = make_plan([Seg(body=1), Seg(scope=1), Seg(after=[(1, "if")], scope=1)])
    m = Machine(plan)
    x = m.start(plan)
    m.report(x, 0, spawns(plan, 0, [b"\x01"]))
    m.report(x, 1, done(plan, 1), path=(0,))
    assert m.attempt(x, 0).resume == loop_ended(b"\x91\xc0", failed=0, last_error=None)


def test_nested_loops_have_paths_of_their_own():
    plan = make_plan([Seg(body=1), Seg(scope=1, body=2), Seg(scope=2)])
    m = Machine(plan)
    x = m.start(plan)
    m.report(x, 0, spawns(plan, 0, [b"\x01", b"\x02"]))
    m.report(x, 1, spawns(plan, 1, [b"\x03", b"\x04"]), path=(1,))
    assert (2, (1, 1), Stage.ACTIVE) in open_attempts(x)
    for inner in (0, 1):
        m.report(x, 2, done(plan, 2, bytes([inner])), path=(1, inner))
    assert m.attempt(x, 1, (1,)).resume == loop_ended(b"\x92\x00\x01", failed=0, last_error=None)


def test_tolerated_failures_leave_null_in_their_place():
    plan = make_plan([Seg(body=1), Seg(scope=1)])
    m = Machine(plan)
    x = m.start(plan)
    m.report(x, 0, spawns(plan, 0, [b"\x01", b"\x02"], tolerated=1))
    m.report(x, 1, failed("s1"), path=(0,))
    m.report(x, 1, done(plan, 1), path=(1,))
    assert m.attempt(x, 0).resume == loop_ended(b"\x92\xc0\x01", failed=1, last_error="boom")


def test_one_failure_too_many_fails_the_loop_after_its_other_bodies_have_reported():
    plan = make_plan([Seg(body=1), Seg(scope=1)])
    m = Machine(plan)
    x = m.start(plan)
    m.report(x, 0, spawns(plan, 0, [b"\x01", b"\x02", b"\x03"], at_once=2))
    fx = m.report(x, 1, failed("s1", "bad item"), path=(0,))
    assert fx.cancels == [("x", 1, (1,), 1)]
    assert x.status == ""
    m.report(x, 1, done(plan, 1), path=(1,))
    assert x.status == "failed"
    assert x.error is not None
    assert x.error.message == "bad item"


def test_a_failing_inner_loop_fails_only_its_item_where_that_is_tolerated():
    plan = make_plan([Seg(body=1), Seg(scope=1, body=2), Seg(scope=2), Seg(scope=1)])
    m = Machine(plan)
    x = m.start(plan)
    m.report(x, 0, spawns(plan, 0, [b"\x01", b"\x02"], at_once=2, tolerated=1))
    m.report(x, 1, spawns(plan, 1, [b"\x03", b"\x04"]), path=(0,))
    m.report(x, 2, failed("s2"), path=(0, 0))
    assert x.status == ""
    m.report(x, 2, done(plan, 2), path=(0, 1))
    m.report(x, 3, done(plan, 3), path=(0,))
    m.report(x, 1, done(plan, 1), path=(1,))
    m.report(x, 3, done(plan, 3, b"\x07"), path=(1,))
    assert m.attempt(x, 0).resume == loop_ended(b"\x92\xc0\x07", failed=1, last_error="boom")


def test_too_many_items_fail_the_loop_with_the_limit_named():
    from msgspec.structs import replace

    from node.coordinator import commands as c

    plan = make_plan([Seg(body=1), Seg(scope=1)])
    m = Machine(plan)
    m.do(c.Configure(replace(m.state.limits, loop_items_max=3)))
    x = m.start(plan)
    m.report(x, 0, spawns(plan, 0, [b"\x01"] * 4))
    assert x.error is not None
    assert "loop_items_max" in x.error.message


def handled(plan, segment: int, edges: list[int]):
    """The plan with these edges of a segment going live when its last step has failed."""
    segments = list(plan.segments)
    segments[segment] = msgspec.structs.replace(segments[segment], error_edges=tuple(edges))
    return msgspec.structs.replace(plan, segments=tuple(segments))


def test_a_handled_failure_takes_only_the_error_edges_and_hands_on_the_error():
    plan = handled(make_plan([Seg(), Seg(after=[0]), Seg(after=[0])]), 0, [1])
    m = Machine(plan)
    x = m.start(plan)
    fx = m.report(x, 0, failed("s0", "boom"))
    assert [r.attempt.segment for r in fx.ready] == [2], "the error edge; the other is dead"
    value = codec.decode(x.outputs[0])
    assert value["failed_step"] == "s0"
    assert value["error"]["message"] == "boom"
    m.report(x, 2, done(plan, 2))
    assert x.status == "completed"
    assert x.error is None


def test_a_failure_of_an_earlier_step_of_the_segment_is_not_handled():
    plan = handled(make_plan([Seg(), Seg(after=[0])]), 0, [0])
    m = Machine(plan)
    x = m.start(plan)
    m.report(x, 0, failed("another"))
    assert x.status == "failed"


def test_a_loop_that_fails_is_handled_once_all_its_bodies_have_ended():
    plan = handled(make_plan([Seg(body=1), Seg(scope=1), Seg(after=[0])]), 0, [0])
    m = Machine(plan)
    x = m.start(plan)
    m.report(x, 0, spawns(plan, 0, [b"\x01", b"\x02", b"\x03"], at_once=2))
    m.report(x, 1, failed("s1"), path=(0,))
    assert open_attempts(x) == [(0, (), Stage.LOOP), (1, (1,), Stage.ACTIVE)], "the third item does not start"
    m.report(x, 1, done(plan, 1), path=(1,))
    assert [a[0] for a in open_attempts(x)] == [2]
    m.report(x, 2, done(plan, 2))
    assert x.status == "completed"


def test_a_loop_step_gets_back_what_it_carried():
    plan = make_plan([Seg(body=1), Seg(scope=1)])
    m = Machine(plan)
    x = m.start(plan)
    asked = spawns(plan, 0, [b"\x01"])
    m.report(x, 0, msgspec.structs.replace(asked, spawn=msgspec.structs.replace(asked.spawn, carry=b"\x05")))
    m.report(x, 1, done(plan, 1, b"\x09"), path=(0,))
    expected = loop_ended(b"\x91\x09", failed=0, last_error=None, carry=b"\x05")
    assert m.attempt(x, 0).resume == expected


def test_only_errors_that_the_policy_names_are_retried():
    policy = RetryPolicy(max_attempts=3, retry_on=("busy",))
    assert may_retry(policy, StepError("http_failed", "the host is busy", "s"))
    assert not may_retry(policy, StepError("http_failed", "no such host", "s"))
    assert not may_retry(RetryPolicy(max_attempts=3), StepError("x", "y", "s", retryable=False))


def test_linear_backoff_grows_by_the_initial_interval():
    policy = RetryPolicy(initial_interval_s=2.0, max_interval_s=5.0, jitter=0.0, backoff="linear")
    assert [retry_delay_s(policy, n, 0.5) for n in (1, 2, 3)] == [2.0, 4.0, 5.0]
