"""What executions share: the cache and rate limits by key, and executions that start executions."""

from __future__ import annotations

import pytest

from node.coordinator import commands as c
from node.coordinator.effects import Accepted
from node.coordinator.journal import Kind
from node.coordinator.keyed import KeyedLimits
from node.coordinator.settings import Settings
from node.coordinator.state import Limits, Stage, executions_without_next_step
from node.coordinator.store.live import LiveStore
from node.coordinator.store.stores import Stores
from node.coordinator.views import view_of
from tests.unit.coordinator.plans import Machine, Seg, chain, done, failed, image, make_plan, start, waits
from workflow import codec
from workflow.messages import RetryPolicy, StepPolicy

WAIT = make_plan([Seg(effect="wait")], name="wait")
CHILD = make_plan([Seg(effect="read")], name="child")
RETRIED = make_plan(
    [Seg(effect="wait", policy=StepPolicy(retry=RetryPolicy(max_attempts=2)))], name="retried"
)


def asked(m, kind, name, *, value=None, id="x", **fields):
    """An execution whose step asks for this; what it was resumed with, None while it waits."""
    x = m.start(WAIT, id)
    data = None if value is None else codec.encode(value)
    m.report(x, 0, waits(WAIT, 0, kind, name=name, data=data, **fields))
    return x


def answer(m, x):
    attempt = m.attempt(x, 0)
    return None if attempt.resume is None else codec.decode(attempt.resume)


def registered(*plans, limits=None):
    m = Machine(WAIT, CHILD, RETRIED, *plans)
    if limits is not None:
        m.do(c.Configure(limits))
    m.do(c.RegisterWorkflow("child", CHILD.hash, "", ""))
    return m


def child_wait(plan=WAIT, **request):
    request = {"workflow_id": "child", "version": None, "inputs": {"n": 1.0}, "on_cancel": "cancel"} | request
    return waits(plan, 0, "child", name="child", data=codec.encode(request))


def parent_and_child(m, plan=WAIT, **request):
    x = m.start(plan)
    m.report(x, 0, child_wait(plan, **request))
    child = None if x.status else m.state.executions.get(m.attempt(x, 0).name or "")
    return x, child


# --- the cache --------------------------------------------------------------------------------------------


def test_the_cache_answers_at_once_and_other_executions_see_it():
    m = Machine(WAIT)
    assert answer(m, asked(m, "cache_get", "k", id="a")) == {"found": False, "value": None}
    assert answer(m, asked(m, "cache_set", "k", value={"v": [1.0]}, duration_s=60.0, id="b"))["found"]
    assert answer(m, asked(m, "cache_get", "k", id="c")) == {"found": True, "value": {"v": [1.0]}}
    assert answer(m, asked(m, "cache_delete", "k", id="d"))["found"]
    assert not answer(m, asked(m, "cache_delete", "k", id="e"))["found"]


def test_the_cache_forgets_in_cluster_time():
    m = Machine(WAIT)
    asked(m, "cache_set", "k", value=1.0, duration_s=10.0, id="a")
    m.do(after=9.9)
    assert answer(m, asked(m, "cache_get", "k", id="b"))["found"]
    m.do(after=0.1)
    assert m.state.keyed.cache == {}
    assert not answer(m, asked(m, "cache_get", "k", id="c"))["found"]


def test_what_has_ended_is_not_seen_even_before_it_is_forgotten():
    m = Machine(WAIT)
    for number in range(600):
        m.state.keyed.set(("default", f"k{number:03}"), b"\x01", 1.0, m.now, m.state.limits.keyed)
    m.do(after=1.0)
    left = len(m.state.keyed.cache)
    assert 0 < left < 600, "a bounded number with each batch"
    assert not answer(m, asked(m, "cache_get", "k599", id="a"))["found"]
    m.do()
    assert m.state.keyed.cache == {}


def test_tenants_do_not_see_each_other():
    m = Machine(WAIT)
    x = m.start(WAIT, "a", tenant="one")
    m.report(x, 0, waits(WAIT, 0, "cache_set", name="k", data=codec.encode(1.0), duration_s=9.0))
    assert not answer(m, asked(m, "cache_get", "k", id="b"))["found"]


@pytest.mark.parametrize(
    ("limits", "key", "value", "limit"),
    [
        (KeyedLimits(cache_keys_max=1), "k2", 1.0, "cache_keys_max"),
        (KeyedLimits(cache_bytes_max=150), "k2", 1.0, "cache_bytes_max"),
        (KeyedLimits(cache_value_bytes_max=12), "k1", "a rather long text", "cache_value_bytes_max"),
        (KeyedLimits(key_chars_max=5), "k" * 6, 1.0, "key_chars_max"),
    ],
)
def test_a_full_cache_fails_the_step_with_its_limit_and_keeps_what_it_has(limits, key, value, limit):
    m = Machine(WAIT)
    m.do(c.Configure(Limits(keyed=limits)))
    asked(m, "cache_set", "k1", value=1.0, duration_s=60.0, id="a")
    x = asked(m, "cache_set", key, value=value, duration_s=60.0, id="b")
    assert x.status == "failed"
    assert x.error.code == "limit_exceeded"
    assert limit in x.error.message
    assert answer(m, asked(m, "cache_set", "k1", value=2.0, duration_s=60.0, id="c"))["found"], "no new key"


# --- rates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "window_s"), [(1, 0.5), (3, 10.0)])
def test_no_window_has_more_slots_than_allowed_and_all_are_used_in_order(count, window_s):
    m = Machine(WAIT)
    rate = {"count": float(count), "window_s": window_s}
    slots = []
    for number in range(10):
        x = asked(m, "rate", "k", value=rate, id=f"x{number}")
        attempt = m.attempt(x, 0)
        slots.append(attempt.due if attempt.stage == Stage.TIMER else m.now)
        m.do(after=0.01)
    assert slots[:count] == [1000.0 + 0.01 * n for n in range(count)]
    assert slots == sorted(slots)
    for earlier, later in zip(slots, slots[count:], strict=False):
        assert later == pytest.approx(earlier + window_s)


def test_a_slot_ends_the_wait_when_it_comes():
    m = Machine(WAIT)
    rate = {"count": 1.0, "window_s": 5.0}
    assert m.attempt(asked(m, "rate", "k", value=rate, id="a"), 0).stage == Stage.ACTIVE
    x = asked(m, "rate", "k", value=rate, id="b")
    number = m.attempt(x, 0).number
    m.do(c.TimerFired("b", 0, (), number), after=4.9)
    assert m.attempt(x, 0).stage == Stage.TIMER
    m.do(c.TimerFired("b", 0, (), number), after=0.1)
    assert m.attempt(x, 0).stage == Stage.ACTIVE


def test_a_rate_limiter_that_nobody_uses_is_forgotten():
    m = Machine(WAIT)
    asked(m, "rate", "k", value={"count": 2.0, "window_s": 5.0}, id="a")
    assert len(m.state.keyed.rates) == 1
    m.do(after=5.0)
    assert m.state.keyed.rates == {}


def test_a_rate_limiter_remembers_only_its_window():
    m = Machine(WAIT)
    for number in range(50):
        asked(m, "rate", "k", value={"count": 2.0, "window_s": 1.0}, id=f"x{number}")
        m.do(after=1.0)
        asked(m, "rate", "k", value={"count": 2.0, "window_s": 1.0}, id=f"y{number}")
        assert len(m.state.keyed.rates["default", "k"].slots) <= 3


@pytest.mark.parametrize(
    ("limits", "limit"),
    [
        (KeyedLimits(rate_keys_max=1), "rate_keys_max"),
        (KeyedLimits(rate_count_max=2), "rate_count_max"),
        (KeyedLimits(rate_ahead_max=1), "rate_ahead_max"),
    ],
)
def test_a_full_rate_limiter_fails_the_step_with_its_limit(limits, limit):
    m = Machine(WAIT)
    m.do(c.Configure(Limits(keyed=limits)))
    rate = {"count": 1.0, "window_s": 60.0}
    for number in range(2):
        asked(m, "rate", "k", value=rate, id=f"x{number}")
    key = "other" if limit == "rate_keys_max" else "k"
    x = asked(m, "rate", key, value={**rate, "count": 3.0} if limit == "rate_count_max" else rate, id="y")
    assert (x.status, x.error.code) == ("failed", "limit_exceeded")
    assert limit in x.error.message


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("rate", None),
        ("rate", b"\xc1"),
        ("rate", codec.encode({"count": 0.0, "window_s": 1.0})),
        ("rate", codec.encode({"count": 1.0, "window_s": float("nan")})),
        ("child", None),
        ("child", codec.encode({"workflow_id": 5.0})),
        ("child", codec.encode({"workflow_id": "child", "version": "x"})),
        ("child", codec.encode({"workflow_id": "child", "inputs": [1.0]})),
        ("child", codec.encode({"workflow_id": "child", "on_cancel": "explode"})),
    ],
)
def test_a_runner_that_asks_for_nonsense_fails_the_step(kind, data):
    m = registered()
    x = m.start(WAIT)
    m.report(x, 0, waits(WAIT, 0, kind, name="k", data=data))
    assert (x.status, x.error.code) == ("failed", "result_invalid")


async def test_what_is_kept_by_key_survives_a_restart_and_a_snapshot(tmp_path):
    m = registered()
    for number in range(3):
        asked(m, "cache_set", f"k{number}", value=float(number), duration_s=60.0, id=f"c{number}")
        asked(m, "rate", "r", value={"count": 1.0, "window_s": 60.0}, id=f"r{number}")
    parent_and_child(m)
    stores = Stores(tmp_path, Settings())
    stores.begin(m.state, 5, 1)
    await stores.finish(m.state)
    asked(m, "cache_delete", "k1", id="d")
    stores.begin(m.state, 6, 1)
    await stores.finish(m.state)
    state, _, _ = LiveStore(tmp_path / "live.db").load()
    assert image(state) == image(m.state)
    _, chunks = stores.begin_snapshot()
    copied, _ = LiveStore(tmp_path / "copy.db").install(list(chunks))
    assert image(copied) == image(m.state)
    copied.keyed.expire(m.now + 3600)
    assert (copied.keyed.cache, copied.keyed.rates) == ({}, {})
    await stores.close()


# --- other executions -------------------------------------------------------------------------------------


def test_a_childs_output_resumes_the_step_that_started_it():
    m = registered()
    x, child = parent_and_child(m)
    assert m.attempt(x, 0).stage == Stage.CHILD
    assert (child.workflow_id, child.workflow_version, child.tenant) == ("child", 1, x.tenant)
    assert codec.decode(child.context) == {"n": 1.0}
    m.report(child, 0, done(CHILD, 0, codec.encode({"v": 5.0})), after=3.0)
    assert child.status == "completed"
    assert answer(m, x) == {
        "execution_id": child.id,
        "status": "completed",
        "error": None,
        "final_output": {"v": 5.0},
    }
    m.report(x, 0, done(WAIT, 0))
    assert x.status == "completed"


def test_the_child_and_the_parent_name_each_other():
    m = registered()
    x, child = parent_and_child(m)
    assert view_of(child, CHILD, lambda key: False).parent == x.id
    (step,) = view_of(x, WAIT, lambda key: False, steps=True).steps
    assert step.waits_for == f"child {child.id}"
    assert child.journal[0].text == x.id
    assert [e.text for e in x.journal if e.kind == Kind.WAITING] == [f"child {child.id}"]


def test_a_failed_child_resumes_its_parent_with_the_error():
    m = registered()
    x, child = parent_and_child(m)
    m.report(child, 0, failed(message="no stock", code="stock"))
    outcome = answer(m, x)
    assert (outcome["status"], outcome["final_output"]) == ("failed", None)
    assert outcome["error"]["code"] == "stock"


def test_the_id_of_a_child_is_a_function_of_the_attempt_that_starts_it():
    ids = []
    for _ in range(2):
        m = registered()
        ids.append(parent_and_child(m)[1].id)
    assert ids[0] == ids[1]
    m = registered()
    m.start(WAIT, "y")
    m.report(m.state.executions["y"], 0, child_wait())
    assert m.attempt(m.state.executions["y"], 0).name != ids[0]


def test_versions_are_found_the_newest_without_a_number():
    second = make_plan([Seg(effect="read"), Seg(effect="read", after=[0])], name="second")
    m = registered(second)
    m.do(c.RegisterWorkflow("child", second.hash, "", ""))
    for number, (version, expected) in enumerate(((None, second), (1.0, CHILD), (2.0, second))):
        x = m.start(WAIT, f"p{number}")
        m.report(x, 0, child_wait(version=version))
        assert m.state.executions[m.attempt(x, 0).name].plan == expected.hash
    x = m.start(WAIT, "p9")
    m.report(x, 0, child_wait(version=3.0))
    assert x.error.code == "workflow_not_found"
    assert "no version 3" in x.error.message


def test_an_unknown_workflow_fails_the_step():
    m = Machine(WAIT)
    x, _ = parent_and_child(m)
    assert (x.status, x.error.code) == ("failed", "workflow_not_found")
    assert "'child'" in x.error.message


@pytest.mark.parametrize("on_cancel", ["cancel", "abandon"])
@pytest.mark.parametrize("cause", ["cancelled", "deadline"])
def test_a_parent_that_ends_early_does_to_its_child_what_it_says(on_cancel, cause):
    m = registered()
    m.do(start(WAIT, "x", timeout_s=10.0))
    x = m.state.executions["x"]
    m.report(x, 0, child_wait(on_cancel=on_cancel))
    child = m.state.executions[m.attempt(x, 0).name]
    m.do(c.Cancel("x", "") if cause == "cancelled" else c.TimerFired("x", -1, (), 0), after=10.0)
    assert x.status == ("cancelled" if cause == "cancelled" else "failed")
    assert child.ending == ("cancelled" if on_cancel == "cancel" else "")
    m.report(child, 0, done(CHILD, 0))
    assert child.status == ("cancelled" if on_cancel == "cancel" else "completed")


def test_nesting_is_bounded():
    m = Machine(WAIT)
    m.do(c.RegisterWorkflow("child", WAIT.hash, "", ""))
    x = m.start(WAIT)
    for depth in range(17):
        m.report(x, 0, child_wait())
        if x.status:
            break
        x = m.state.executions[m.attempt(x, 0).name]
        assert x.depth == depth + 1
    assert x.depth == 16
    assert "nesting_max" in x.error.message


def test_cancelling_ends_a_whole_chain_of_children_in_one_go():
    m = Machine(WAIT)
    m.do(c.RegisterWorkflow("child", WAIT.hash, "", ""))
    x = m.start(WAIT)
    chain_of = [x]
    for _ in range(5):
        m.report(chain_of[-1], 0, child_wait())
        chain_of.append(m.state.executions[m.attempt(chain_of[-1], 0).name])
    m.report(chain_of[-1], 0, waits(WAIT, 0, "signal", name="never"))
    m.do(c.Cancel("x", ""))
    assert {one.status for one in chain_of} == {"cancelled"}
    assert m.state.executions == {}


def test_live_executions_are_bounded_for_children_too():
    m = registered(limits=Limits(executions_max=1))
    x, _ = parent_and_child(m)
    assert "executions_max" in x.error.message


def test_a_retried_step_starts_another_child():
    m = registered()
    x, child = parent_and_child(m, RETRIED)
    m.report(child, 0, failed())
    m.report(x, 0, failed())
    attempt = m.attempt(x, 0)
    assert (attempt.stage, attempt.resume) == (Stage.BACKOFF, None)
    m.do(c.TimerFired("x", 0, (), attempt.number), after=60.0)
    m.report(x, 0, child_wait(RETRIED))
    assert m.attempt(x, 0).stage == Stage.CHILD
    assert m.attempt(x, 0).name != child.id


def test_a_child_without_steps_ends_at_once():
    empty = make_plan([], name="empty")
    m = Machine(WAIT, empty)
    m.do(c.RegisterWorkflow("child", empty.hash, "", ""))
    x = m.start(WAIT)
    m.report(x, 0, child_wait())
    assert answer(m, x)["status"] == "completed"
    assert executions_without_next_step(m.state) == 0


# --- the time that a waiting step has ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["signal", "timer", "until", "child", "rate"])
def test_timeout_s_ends_every_kind_of_wait(kind):
    plan = make_plan([Seg(effect="wait", policy=StepPolicy(timeout_s=5.0))], name="timed")
    m = registered(plan)
    asked(m, "rate", "k", value={"count": 1.0, "window_s": 900.0}, id="first")
    x = m.start(plan)
    fields = {
        "signal": {"name": "go"},
        "timer": {"duration_s": 900.0},
        "until": {"until": 9e9},
        "rate": {"name": "k", "data": codec.encode({"count": 1.0, "window_s": 900.0})},
    }
    m.report(x, 0, child_wait(plan) if kind == "child" else waits(plan, 0, kind, **fields[kind]))
    attempt = m.attempt(x, 0)
    child = m.state.executions.get(attempt.name or "")
    assert attempt.due == m.now + 5.0
    m.do(c.TimerFired("x", 0, (), attempt.number), after=5.0)
    assert (x.status, x.error.code) == ("failed", "timeout")
    if kind == "child":
        assert child.ending == "cancelled"


def test_a_wait_that_ends_in_time_is_not_touched_by_the_timeout():
    plan = make_plan([Seg(effect="wait", policy=StepPolicy(timeout_s=5.0))], name="timed")
    m = Machine(plan)
    x = m.start(plan)
    m.report(x, 0, waits(plan, 0, "timer", duration_s=2.0))
    number = m.attempt(x, 0).number
    m.do(c.TimerFired("x", 0, (), number), after=2.0)
    m.do(c.TimerFired("x", 0, (), number), after=10.0)
    m.report(x, 0, done(plan, 0))
    assert x.status == "completed"


def test_an_accepted_start_is_nobodys_child():
    m = Machine(chain(1))
    fx = m.do(start(chain(1)))
    assert isinstance(fx.answers[0], Accepted)
    assert fx.answers[0].execution.parent is None
