"""What is handed out next, and to whom; deadlines."""

from __future__ import annotations

from node.coordinator.effects import Ready, TimerKey
from node.coordinator.scheduler import Scheduler, Worker, key_of
from node.coordinator.state import Stage
from node.coordinator.timers import TimerWheel
from tests.unit.coordinator.plans import Machine, Seg, chain, make_plan


class Nowhere:
    def submit(self, tasks):
        raise AssertionError("the scheduler does not submit")

    def cancel(self, *key):
        raise AssertionError("the scheduler does not cancel")


def scheduler(**capacities: int) -> Scheduler:
    made = Scheduler()
    for name, capacity in capacities.items():
        made.add_worker(Worker(name, Nowhere(), capacity, None))
    return made


def ready(machine: Machine, plan, id: str) -> Ready:
    x = machine.start(plan, id)
    return Ready(x, x, x.attempts[0], 1)


def assigned(made: Scheduler) -> dict[str, list[str]]:
    return {worker.id: [item.execution.id for item in batch] for worker, batch in made.assign()[0]}


def test_the_worker_with_most_room_gets_the_next_attempt():
    plan = chain(1)
    machine = Machine(plan)
    made = scheduler(a=3, b=1)
    for number in range(5):
        made.push(ready(machine, plan, str(number)), "default", 5)
    assert assigned(made) == {"a": ["0", "1", "2"], "b": ["3"]}
    assert len(made) == 1
    assert made.running == 4


def test_a_freed_slot_is_used_again():
    plan = chain(1)
    machine = Machine(plan)
    made = scheduler(a=1)
    first, second = ready(machine, plan, "1"), ready(machine, plan, "2")
    made.push(first, "default", 5)
    made.push(second, "default", 5)
    assert assigned(made) == {"a": ["1"]}
    assert assigned(made) == {}
    assert made.release("a", key_of(first)) is first
    assert made.release("a", key_of(first)) is None
    assert assigned(made) == {"a": ["2"]}


def test_workers_take_only_their_queues_and_one_queue_does_not_block_another():
    plan = chain(1)
    machine = Machine(plan)
    made = Scheduler()
    made.add_worker(Worker("cpu", Nowhere(), 5, frozenset({"default"})))
    made.push(ready(machine, plan, "g"), "gpu", 9)
    made.push(ready(machine, plan, "d"), "default", 0)
    assert assigned(made) == {"cpu": ["d"]}
    assert made.backlog() == {"gpu": 1}
    made.add_worker(Worker("gpu", Nowhere(), 5, frozenset({"gpu"})))
    assert assigned(made) == {"gpu": ["g"]}


def test_priorities_outside_0_to_9_are_taken_as_the_nearest():
    plan = chain(1)
    machine = Machine(plan)
    made = scheduler(a=0)
    for id, priority in (("low", -5), ("nine", 9), ("high", 50)):
        made.push(ready(machine, plan, id), "default", priority)
    made.workers["a"].capacity = 10
    assert assigned(made) == {"a": ["nine", "high", "low"]}


def test_a_withdrawn_attempt_is_not_handed_out():
    plan = chain(1)
    machine = Machine(plan)
    made = scheduler(a=0)
    item = ready(machine, plan, "1")
    made.push(item, "default", 5)
    assert made.withdraw(key_of(item)) is item
    assert made.withdraw(key_of(item)) is None
    made.workers["a"].capacity = 1
    assert assigned(made) == {}


def test_an_attempt_that_the_state_has_moved_on_from_is_passed_over():
    plan = chain(1)
    machine = Machine(plan)
    made = scheduler(a=5)
    item = ready(machine, plan, "1")
    made.push(item, "default", 5)
    item.attempt.number += 1
    assert assigned(made) == {}


def test_an_ungranted_write_asks_for_a_grant_keeps_a_slot_and_goes_first_when_it_has_it():
    plan = make_plan([Seg(effect="write")])
    machine = Machine(plan)
    made = scheduler(a=2)
    items = [ready(machine, plan, str(number)) for number in range(3)]
    for item in items[:2]:
        item.attempt.stage = Stage.QUEUED
    for item in items:
        made.push(item, "default", 5)
    batches, grants = made.assign()
    assert grants == [key_of(items[0]), key_of(items[1])]
    assert batches == [], "the slots are kept for those that asked"
    for item in items[:2]:
        item.attempt.stage = Stage.ACTIVE
        made.push(item, "default", 5)
    assert assigned(made) == {"a": ["0", "1"]}


def test_what_a_lost_worker_had_is_given_back():
    plan = chain(1)
    machine = Machine(plan)
    made = scheduler(a=2)
    item = ready(machine, plan, "1")
    made.push(item, "default", 5)
    made.assign()
    assert made.worker_of(key_of(item)) is made.workers["a"]
    assert made.remove_worker("a") == [item]
    assert made.remove_worker("a") == []
    assert not made.is_running(key_of(item))


def key(name: str) -> TimerKey:
    return TimerKey(name, 0, (), 1)


def test_a_deadline_is_never_early_and_at_most_a_bucket_late():
    wheel = TimerWheel(0.01)
    wheel.set(key("a"), 10.004)
    assert wheel.pop_due(10.004, count_max=9) == []
    assert wheel.pop_due(10.0141, count_max=9) == [key("a")]
    assert wheel.next_due() is None


def test_a_cleared_deadline_does_not_fire_and_costs_no_memory():
    wheel = TimerWheel()
    for number in range(10_000):
        wheel.set(key(str(number)), 300.0 + number / 100)
        wheel.clear(key(str(number)), 300.0 + number / 100)
    wheel.clear(key("never set"), 1.0)
    assert len(wheel) == 0
    assert len(wheel._heap) <= 70
    assert wheel.pop_due(1e9, count_max=99) == []


def test_many_deadlines_of_one_moment_are_taken_in_portions():
    wheel = TimerWheel()
    for number in range(25):
        wheel.set(key(str(number)), 5.0)
    wheel.set(key("0"), 5.0)
    assert [len(wheel.pop_due(6.0, count_max=10)) for _ in range(4)] == [10, 10, 5, 0]
