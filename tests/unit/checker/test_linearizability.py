"""The checker on small histories whose verdict is plain, against brute force, and within its bounds."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from checker.history import HistoryInvalid, Operation, parse_history
from checker.linearizability import Verdict, check
from checker.models import IMPOSSIBLE, CasRegister, KvAppend, Model, MultiRegister, Mutex, model_named
from hypothesis import given, settings
from hypothesis import strategies as st


def events(*rows: tuple[Any, ...]) -> list[Operation]:
    """Rows: (process, type, f, value[, key or error])."""
    import json

    lines = []
    for row in rows:
        event = {"process": row[0], "type": row[1], "f": row[2], "value": row[3]}
        if len(row) > 4:
            event["error" if row[1] in ("fail", "info") else "key"] = row[4]
        lines.append(json.dumps(event))
    return parse_history(lines)


def verdict(model: Model, *rows: tuple[Any, ...]) -> Verdict:
    return check(events(*rows), model).verdict


GOOD, BAD = Verdict.LINEARIZABLE, Verdict.NOT_LINEARIZABLE
REGISTER = CasRegister(0, null_is_value=False)


def test_nothing_at_all_is_linearizable() -> None:
    assert verdict(REGISTER) is GOOD


def test_a_read_after_a_finished_write_sees_it() -> None:
    write = [(1, "invoke", "write", 5), (1, "ok", "write", 5)]
    assert verdict(REGISTER, *write, (2, "invoke", "read", None), (2, "ok", "read", 5)) is GOOD
    assert verdict(REGISTER, *write, (2, "invoke", "read", None), (2, "ok", "read", 0)) is BAD


def test_a_read_during_a_write_sees_either_but_two_reads_do_not_go_back() -> None:
    def reads(first: int, second: int) -> Verdict:
        return verdict(
            REGISTER,
            (1, "invoke", "write", 5),
            (2, "invoke", "read", None),
            (2, "ok", "read", first),
            (2, "invoke", "read", None),
            (2, "ok", "read", second),
            (1, "ok", "write", 5),
        )

    assert [reads(0, 0), reads(0, 5), reads(5, 5), reads(5, 0)] == [GOOD, GOOD, GOOD, BAD]


@pytest.mark.parametrize("ending", [[(1, "info", "write", 5, "timeout")], []])
def test_an_unknown_write_may_take_effect_late_or_never_but_not_be_undone(
    ending: list[tuple[Any, ...]],
) -> None:
    def reads(*values: int) -> Verdict:
        rows = [row for value in values for row in ((2, "invoke", "read", None), (2, "ok", "read", value))]
        return verdict(REGISTER, (1, "invoke", "write", 5), *ending, *rows)

    assert [reads(0, 0), reads(0, 5), reads(5), reads(5, 0), reads(7)] == [GOOD, GOOD, GOOD, BAD, BAD]


def test_a_failed_write_had_no_effect() -> None:
    rows = [(1, "invoke", "write", 5), (1, "fail", "write", 5, "refused"), (2, "invoke", "read", None)]
    assert verdict(REGISTER, *rows, (2, "ok", "read", 0)) is GOOD
    assert verdict(REGISTER, *rows, (2, "ok", "read", 5)) is BAD


def test_a_cas_mismatch_is_an_observation_and_another_failure_is_none() -> None:
    begun = (1, "invoke", "cas", [0, 5])
    assert verdict(REGISTER, begun, (1, "fail", "cas", [0, 5], "mismatch")) is BAD
    assert verdict(REGISTER, begun, (1, "fail", "cas", [0, 5], "timed out")) is GOOD
    assert verdict(REGISTER, begun, (1, "ok", "cas", [0, 5])) is GOOD
    assert verdict(REGISTER, (1, "invoke", "cas", [3, 5]), (1, "ok", "cas", [3, 5])) is BAD
    assert verdict(REGISTER, (1, "invoke", "cas", [3, 5]), (1, "fail", "cas", [3, 5], "mismatch")) is GOOD


def test_a_null_read_says_nothing_or_that_the_register_is_empty() -> None:
    rows = [
        (1, "invoke", "write", 5),
        (1, "ok", "write", 5),
        (2, "invoke", "read", None),
        (2, "ok", "read", None),
    ]
    assert verdict(CasRegister(None, null_is_value=True), *rows) is BAD
    assert verdict(CasRegister(None, null_is_value=False), *rows) is GOOD


def test_true_is_not_one() -> None:
    rows = [
        (1, "invoke", "write", 1),
        (1, "ok", "write", 1),
        (2, "invoke", "read", None),
        (2, "ok", "read", True),
    ]
    assert verdict(REGISTER, *rows) is BAD


def test_keys_are_independent_and_the_bad_one_is_named() -> None:
    rows = [
        (1, "invoke", "put", "v", "a"),
        (1, "ok", "put", "v", "a"),
        (1, "invoke", "append", "w", "a"),
        (1, "ok", "append", "w", "a"),
        (2, "invoke", "get", None, "a"),
        (2, "ok", "get", "vw", "a"),
        (2, "invoke", "get", None, "b"),
        (2, "ok", "get", "", "b"),
    ]
    assert verdict(KvAppend(), *rows) is GOOD
    outcome = check(events(*rows, (1, "invoke", "get", None, "b"), (1, "ok", "get", "v", "b")), KvAppend())
    assert (outcome.verdict, outcome.key) == (BAD, "b")
    assert outcome.blocked is not None
    assert (outcome.blocked.process, outcome.blocked.result) == (1, "v")


def test_a_transaction_takes_effect_at_once() -> None:
    def seen(x: int | None, y: int | None) -> Verdict:
        return verdict(
            MultiRegister(),
            (1, "invoke", "txn", [["write", "x", 1], ["write", "y", 1]]),
            (2, "invoke", "txn", [["read", "x", None], ["read", "y", None]]),
            (2, "ok", "txn", [["read", "x", x], ["read", "y", y]]),
            (1, "ok", "txn", [["write", "x", 1], ["write", "y", 1]]),
        )

    assert [seen(0, 0), seen(1, 1), seen(None, 1), seen(0, 1), seen(1, 0)] == [GOOD, GOOD, GOOD, BAD, BAD]


def test_two_cannot_hold_a_lock_at_once() -> None:
    first = [(1, "invoke", "acquire", None), (1, "ok", "acquire", None)]
    second = [(2, "invoke", "acquire", None), (2, "ok", "acquire", None)]
    release = [(1, "invoke", "release", None), (1, "ok", "release", None)]
    assert verdict(Mutex(), *first, *release, *second) is GOOD
    assert verdict(Mutex(), *first, *second, *release) is BAD
    assert verdict(Mutex(), *release) is BAD
    assert verdict(Mutex(), *first, release[0], *second) is GOOD


def hard(count: int) -> list[Operation]:
    """All writes are concurrent, and no order explains the reads."""
    rows: list[tuple[Any, ...]] = [(number, "invoke", "write", number) for number in range(count)]
    rows += [(number, "ok", "write", number) for number in range(count)]
    rows += [(0, "invoke", "read", None), (0, "ok", "read", count + 1)]
    return events(*rows)


def test_a_search_that_ran_out_of_time_is_unknown_and_never_passed() -> None:
    now = 0.0

    def monotonic() -> float:
        nonlocal now
        now += 1.0
        return now

    outcome = check(hard(20), REGISTER, time_limit_s=3.5, monotonic=monotonic)
    assert outcome.verdict is Verdict.UNKNOWN
    assert "time limit" in outcome.reason


def test_a_search_that_needs_too_much_memory_is_unknown() -> None:
    outcome = check(hard(20), REGISTER, pairs_max=5000)
    assert outcome.verdict is Verdict.UNKNOWN
    assert "5000 pairs" in outcome.reason
    assert check(hard(5), REGISTER).verdict is BAD


def test_a_hard_key_does_not_keep_a_bad_one_waiting() -> None:
    rows: list[tuple[Any, ...]] = [(number, "invoke", "append", str(number), "hard") for number in range(20)]
    rows += [(number, "ok", "append", str(number), "hard") for number in range(20)]
    rows += [(0, "invoke", "get", None, "hard"), (0, "ok", "get", "no such order", "hard")]
    rows += [(0, "invoke", "get", None, "bad"), (0, "ok", "get", "never written", "bad")]
    outcome = check(events(*rows), KvAppend(), pairs_max=50_000)
    assert (outcome.verdict, outcome.key) == (BAD, "bad")


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["not json"], "line 1 is not JSON"),
        (['["a list"]'], "line 1 is not an event"),
        (['{"process": 1, "type": "invoke"}'], "line 1 is not an event"),
        (['{"process": 1, "type": "begin", "f": "read"}'], "the type is 'begin'"),
        (['{"process": 1, "type": "ok", "f": "read"}'], "no open operation"),
        (['{"process": 1, "type": "invoke", "f": "read"}'] * 2, "has an operation open"),
        (['{"process": 1, "type": "invoke", "f": "read", "order": 1}'], "its order is 1"),
        (
            [
                '{"process": 1, "type": "invoke", "f": "read"}',
                '{"process": 1, "type": "ok", "f": "write"}',
            ],
            "ends another operation",
        ),
        (
            [
                '{"process": 1, "type": "invoke", "f": "read"}',
                '{"process": 1, "type": "info", "f": "read"}',
                '{"process": 1, "type": "invoke", "f": "read"}',
            ],
            "goes on after an unknown outcome",
        ),
        (
            [
                '{"process": 1, "type": "invoke", "f": "write"}',
                '{"process": 1, "type": "fail", "f": "write", "error": "mismatch"}',
            ],
            "only a cas",
        ),
    ],
)
def test_what_is_not_a_history_is_refused_with_the_line(lines: list[str], text: str) -> None:
    with pytest.raises(HistoryInvalid, match=text):
        parse_history(lines)


@pytest.mark.parametrize("model", [REGISTER, KvAppend(), MultiRegister(), Mutex()])
def test_an_operation_that_a_model_does_not_have_is_refused(model: Model) -> None:
    with pytest.raises(HistoryInvalid, match="has no operation 'explode'"):
        check(events((1, "invoke", "explode", 1), (1, "ok", "explode", 1)), model)


def test_models_have_names() -> None:
    assert model_named("cas-register", initial=0, null_read="any") == REGISTER
    assert isinstance(model_named("mutex"), Mutex)
    with pytest.raises(ValueError, match="no model"):
        model_named("queue")
    with pytest.raises(ValueError, match="null_read"):
        model_named("cas-register", null_read="sometimes")


def brute_force(operations: list[Operation], model: Model) -> bool:
    """Try every subset of the unknown ones in every order. The definition, word by word."""
    certain = [held for held in operations if held.end is not None]
    unknown = [held for held in operations if held.end is None]
    for mask in range(1 << len(unknown)):
        chosen = certain + [held for number, held in enumerate(unknown) if mask >> number & 1]
        for order in permutations(chosen):
            if any(
                later.end is not None and later.end < earlier.call
                for number, earlier in enumerate(order)
                for later in order[number + 1 :]
            ):
                continue
            state = model.initial
            for held in order:
                state = model.step(state, held)
                if state is IMPOSSIBLE:
                    break
            else:
                return True
    return False


@st.composite
def small_histories(draw: st.DrawFn) -> list[Operation]:
    """Up to six operations of up to four clients on a register of three values."""
    open_operations: dict[int, tuple[str, Any]] = {}
    rows: list[tuple[Any, ...]] = []
    value = st.integers(0, 2)
    ended = 0
    for _ in range(draw(st.integers(2, 12))):
        process = draw(st.integers(0, 3)) + 10 * ended
        if process in open_operations:
            f, argument = open_operations.pop(process)
            ending = draw(st.sampled_from(["ok", "ok", "ok", "info", "mismatch"]))
            if ending == "mismatch":
                rows.append((process, "fail", f, argument, "mismatch" if f == "cas" else "refused"))
            elif ending == "info":
                rows.append((process, "info", f, argument, "timeout"))
                ended += 1
            else:
                rows.append((process, "ok", f, draw(value) if f == "read" else argument))
        elif sum(row[1] == "invoke" for row in rows) < 6:
            f = draw(st.sampled_from(["read", "read", "write", "cas"]))
            argument = {"read": None, "write": draw(value), "cas": [draw(value), draw(value)]}[f]
            open_operations[process] = (f, argument)
            rows.append((process, "invoke", f, argument))
    return events(*rows)


@given(small_histories())
@settings(max_examples=400, deadline=None)
def test_it_agrees_with_trying_every_order(operations: list[Operation]) -> None:
    expected = GOOD if brute_force(operations, REGISTER) else BAD
    assert check(operations, REGISTER).verdict is expected
