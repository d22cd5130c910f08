"""The core's view of the log: terms by runs, a tail in memory, memberships."""

from __future__ import annotations

import random

import pytest

from raft.log import Log, decode_config, encode_config
from raft.storage_api import KIND_COMMANDS, KIND_CONFIG, Config, Entry


def new_log(*, base: int = 0, base_term: int = 0, tail_bytes_max: int = 1 << 20) -> Log:
    return Log(
        base_index=base,
        base_term=base_term,
        last_index=base,
        term_runs=[],
        configs=[],
        read=lambda lo, hi, bytes_max: [Entry(i, 0, 0, b"from disk") for i in range(lo, hi + 1)],
        tail_bytes_max=tail_bytes_max,
    )


def commands(first: int, *terms: int, size: int = 3) -> list[Entry]:
    return [Entry(index, term, KIND_COMMANDS, bytes(size)) for index, term in enumerate(terms, first)]


def test_terms_are_known_for_every_held_index_and_for_the_base() -> None:
    log = new_log(base=10, base_term=3)
    log.append(commands(11, 3, 3, 4, 7, 7))
    assert [log.term_at(index) for index in range(10, 16)] == [3, 3, 3, 4, 7, 7]
    for index in (9, 16):
        with pytest.raises(IndexError):
            log.term_at(index)
    log.check_invariants()


def test_a_log_is_up_to_date_by_last_term_then_by_length() -> None:
    log = new_log()
    log.append(commands(1, 1, 2))
    assert log.is_up_to_date(2, 2)
    assert log.is_up_to_date(1, 3)
    assert not log.is_up_to_date(1, 2)
    assert not log.is_up_to_date(9, 1)


def test_truncating_forgets_terms_and_memberships() -> None:
    log = new_log()
    first, second = Config({"a": ""}, {}), Config({"a": "", "b": ""}, {})
    log.append([Entry(1, 1, KIND_CONFIG, encode_config(first))])
    log.append(commands(2, 1, 2))
    assert log.append([Entry(4, 2, KIND_CONFIG, encode_config(second))])
    assert log.config == second
    assert log.config_at(3) == first
    assert log.truncate(3)
    assert (log.config, log.config_index, log.last_index, log.last_term) == (first, 1, 2, 1)
    assert not log.truncate(2)
    log.check_invariants()


@pytest.mark.parametrize("index", range(1, 9))
def test_compaction_at_any_index_keeps_what_is_behind_it(index: int) -> None:
    log = new_log()
    terms = [1, 1, 2, 2, 2, 5, 5, 8]
    log.append(commands(1, *terms))
    log.compacted(index)
    assert log.base_index == index
    assert [log.term_at(i) for i in range(index, 9)] == terms[index - 1 :]
    log.check_invariants()
    log.append(commands(9, 8, 9))
    assert log.last_term == 9
    log.check_invariants()
    log.compacted(index - 1)
    assert log.base_index == index


def test_compaction_keeps_the_membership_that_was_in_force() -> None:
    log = new_log()
    config = Config({"a": ""}, {"b": "addr"})
    log.append([Entry(1, 1, KIND_CONFIG, encode_config(config))])
    log.append(commands(2, 1, 1))
    log.compacted(2)
    assert log.config == log.config_at(2) == config


def test_the_meeting_point_is_the_highest_entry_not_above_index_and_term() -> None:
    log = new_log(base=2, base_term=1)
    log.append(commands(3, 1, 4, 4, 6, 6))
    assert log.highest_not_above(7, 9) == (7, 6)
    assert log.highest_not_above(99, 5) == (5, 4)
    assert log.highest_not_above(6, 6) == (6, 6)
    assert log.highest_not_above(7, 3) == (3, 1)
    assert log.highest_not_above(7, 0) == (2, 1)
    assert log.highest_not_above(2, 9) == (2, 1)


def test_a_slice_is_bounded_by_bytes_and_count_but_never_empty() -> None:
    log = new_log()
    log.append(commands(1, 1, 1, 1, 1, size=10))
    assert [e.index for e in log.slice(1, 4, 1000, 1000)] == [1, 2, 3, 4]
    assert [e.index for e in log.slice(1, 4, 20, 1000)] == [1, 2]
    assert [e.index for e in log.slice(1, 4, 19, 1000)] == [1]
    assert [e.index for e in log.slice(3, 4, 1, 1000)] == [3]
    assert [e.index for e in log.slice(1, 4, 1000, 3)] == [1, 2, 3]


def test_trimmed_entries_are_read_from_disk() -> None:
    log = new_log(tail_bytes_max=100)
    log.append(commands(1, *[1] * 20, size=10))
    log.trim(15)
    assert log.slice(1, 20, 1000, 1000)[0].payload == b"from disk"
    assert log.slice(20, 20, 1000, 1000)[0].payload == bytes(10)
    assert len(log.slice(1, 20, 1000, 1000)) + len(log.slice(14, 20, 1000, 1000)) <= 21
    log.check_invariants()
    log.truncate(3)
    log.append(commands(3, 2))
    log.check_invariants()


def test_only_what_is_synced_and_applied_is_trimmed() -> None:
    log = new_log(tail_bytes_max=10)
    log.append(commands(1, *[1] * 20, size=10))
    log.trim(4)
    assert log.slice(5, 20, 1000, 1000)[0].payload == bytes(10)


def test_random_changes_keep_the_copies_equal() -> None:
    rng = random.Random(5)
    log, model = new_log(tail_bytes_max=60), [0]
    base = 0
    for _ in range(2000):
        act = rng.random()
        if act < 0.5:
            term = max(model[-1], rng.randint(1, 60))
            count = rng.randint(1, 4)
            log.append(commands(len(model), *[term] * count))
            model += [term] * count
        elif act < 0.7 and log.last_index > base:
            index = rng.randint(base + 1, log.last_index)
            log.truncate(index)
            del model[index:]
        elif act < 0.9:
            log.trim(rng.randint(base, log.last_index))
        else:
            base = rng.randint(base, log.last_index)
            log.compacted(base)
        log.check_invariants()
        assert [log.term_at(i) for i in range(base, log.last_index + 1)] == model[base:]


def test_a_membership_survives_its_encoding_and_nonsense_is_refused() -> None:
    config = Config({"b": "x:1", "a": ""}, {"c": "y:2"})
    assert decode_config(encode_config(config)) == config
    assert encode_config(Config({"a": "", "b": "x:1"}, {"c": "y:2"})) == encode_config(config)
    with pytest.raises(ValueError):
        decode_config(b"\xc1")
