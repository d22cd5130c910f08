"""Named scenarios for the core, each citing the paper, the dissertation or the fault that it guards against.

"Paper" is Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm (Extended Version)";
"dissertation" is Ongaro, "Consensus: Bridging Theory and Practice". Numbers R1 to R24 are the project's list of
consensus scenarios. What needs real processes or disks is in tests/process and tests/unit; what needs chance is in
tests/sim/raft.
"""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable

import pytest

from raft.effects import Role
from raft.errors import MembershipRefused, NotLeader, Overloaded
from raft.messages import (
    Append,
    AppendReject,
    AppendReply,
    Heartbeat,
    PreVoteReply,
    PreVoteRequest,
    SnapshotChunk,
    SnapshotReply,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from raft.settings import Settings
from raft.storage_api import Config, Entry
from tests.sim.raft import schedules
from tests.sim.raft.lab import Lab, entries_of, meta_of

SCHEDULES = [
    function
    for _, function in sorted(vars(schedules).items())
    if inspect.isfunction(function) and function.__module__ == schedules.__name__
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda function: function.__name__)
def test_the_core_keeps_the_rule_of(schedule: Callable[[], None]) -> None:
    """Each of these stories convicts a mutant (tests/sim/raft/test_mutants.py); the real core passes all. R7, R10,
    R11."""
    schedule()


# -- elections


def test_one_leader_per_term_even_when_everybody_campaigns_at_once() -> None:
    """Paper 5.2, R1."""
    lab = Lab("abcde")
    for _ in range(20):
        for name in "abcde":
            lab.campaign(name)
        lab.settle()
        leaders = [name for name in "abcde" if lab[name].is_leader]
        assert len({lab[name].core.term for name in leaders}) == len(leaders)
        if leaders:
            break
    lab.elect("a")


@pytest.mark.parametrize("voters", [1, 3, 5, 7])
def test_a_majority_of_any_group_size_elects_and_commits(voters: int) -> None:
    """Paper 5.2, 5.3."""
    names = "abcdefg"[:voters]
    lab = Lab(names)
    majority = names[: voters // 2 + 1]
    leader = lab.elect("a", *majority)
    last = leader.propose("x")
    lab.settle(*majority)
    assert leader.core.commit_index == last
    assert leader.applied == last


def test_a_minority_neither_elects_nor_commits() -> None:
    """Paper 5.2, R5."""
    lab = Lab("abcde")
    for _ in range(3):
        lab.campaign("a")
        lab.settle("a", "b")
    assert not lab["a"].is_leader
    assert lab["a"].core.term == 1, "asking for pre-votes must not raise the term"
    leader = lab.elect("c")
    commit = leader.core.commit_index
    leader.propose("x")
    lab.settle("c", "d")
    assert leader.core.commit_index == commit


def test_vote_and_term_survive_a_power_loss() -> None:
    """Paper, figure 2; R2."""
    lab = Lab("abc")
    c = lab["c"]
    c.receive("a", VoteRequest(7, 1, 1, False))
    assert [m.granted for _, _, m in lab.drop()] == [True]
    c.crash()
    assert (c.core.term, c.core.voted_for) == (7, "a")
    c.receive("b", VoteRequest(7, 1, 1, False))
    assert [m.granted for _, _, m in lab.drop()] == [False]


def test_a_candidate_whose_log_is_behind_does_not_win() -> None:
    """Paper 5.4.1, R8: first by the term of the last entry, then by length."""
    lab = Lab("abc", logs={"a": [1, 1, 1], "b": [1, 1, 2], "c": [1, 1]}, terms=dict.fromkeys("abc", 3))
    for name in ("a", "c"):
        lab.campaign(name)
        lab.settle("b", name)
        assert not lab[name].is_leader
    lab.elect("b", "a", "b")


def test_a_node_that_heard_a_leader_lately_refuses_even_the_pre_vote() -> None:
    """Dissertation 4.2.3 and 9.6, R9."""
    lab = Lab("abc")
    leader = lab.elect("a")
    term = leader.core.term
    lab["b"].receive("c", PreVoteRequest(term + 1, 9, term))
    assert [m for _, _, m in lab.drop()] == [PreVoteReply(term, False)]
    lab["b"].receive("c", VoteRequest(term + 5, 9, term, False))
    assert lab.drop() == []
    assert lab["b"].core.term == term, "the term of a disturber was taken"


def test_a_healed_node_does_not_disturb() -> None:
    """Dissertation 9.6, R9: however long it was alone, its term is that of the others, and they keep their leader."""
    lab = Lab("abc")
    leader = lab.elect("a")
    term = leader.core.term
    for _ in range(10):
        lab.campaign("c")
        lab.drop(lambda letter: "c" in letter[:2])
    assert lab["c"].core.term == term
    lab.later(0.05)
    leader.receive("b", AppendReply(term, leader.core.log.last_index, 0))
    lab["b"].receive("a", Heartbeat(term, 0, 0, 0))
    lab.campaign("c")
    lab["b"].receive("a", Heartbeat(term, 0, 0, 0))
    lab.settle()
    assert leader.is_leader
    assert leader.core.term == term


def test_a_leader_that_hears_no_majority_for_an_election_timeout_steps_down() -> None:
    """Dissertation 6.2 (check-quorum), R5."""
    lab = Lab("abc")
    leader = lab.elect("a")
    for _ in range(9):
        lab.later(0.1)
        lab.tick("a")
        lab.drop()
    assert not leader.is_leader
    with pytest.raises(NotLeader):
        leader.propose("x")


def test_a_leader_with_a_majority_stays() -> None:
    """Dissertation 6.2: one silent voter of three is no reason."""
    lab = Lab("abc")
    leader = lab.elect("a")
    for _ in range(50):
        lab.later(0.1)
        lab.tick("a")
        lab.settle("a", "b")
    assert leader.is_leader


def test_stale_terms_change_nothing() -> None:
    """Paper 5.1, R12."""
    lab = Lab("abc", logs={"b": [1, 2]}, terms={"b": 5})
    b = lab["b"]
    deadline = b.core.next_deadline()
    stale = [
        Append(4, 0, 0, 9, 0, [Entry(1, 4, 1, b"")]),
        Heartbeat(4, 2, 2, 7),
        VoteRequest(4, 9, 4, False),
        VoteReply(4, True),
        AppendReply(4, 9, 9),
        AppendReject(4, 1, 0, 0, 9),
        TimeoutNow(4),
        SnapshotChunk(4, meta_of(lab, 9, 4, b"x"), 0, b"x", zlib.crc32(b"x"), 0),
        SnapshotReply(4, b"", 9, 9),
    ]
    b.receive("a", *stale)
    assert (b.core.term, b.core.role, b.terms(), b.core.commit_index) == (5, Role.FOLLOWER, [1, 2], 0)
    assert b.core.next_deadline() == deadline
    for _, _, answer in lab.drop():
        assert answer.term == 5


def test_a_closed_link_from_the_leader_shortens_the_wait_and_is_safe_when_it_lives() -> None:
    """The kill of a leader is noticed at once; a link that closed for another reason deposes nobody."""
    lab = Lab("abc")
    leader = lab.elect("a")
    b = lab["b"]
    b.receive("a", Heartbeat(leader.core.term, 0, 0, 0))
    lab["c"].receive("a", Heartbeat(leader.core.term, 0, 0, 0))
    b.core.link_closed(lab.now, "a")
    assert b.core.next_deadline() - lab.now <= lab.settings.link_closed_timeout_s
    lab.now = b.core.next_deadline()
    lab.tick("b")
    lab.settle("b", "c")
    assert b.core.role is Role.PRECANDIDATE, "c hears the leader and refuses"
    term = leader.core.term
    # Now the leader is really dead: c notices as well, and b wins at its next, early, try.
    lab["c"].core.link_closed(lab.now, "a")
    lab.now = b.core.next_deadline()
    lab.tick("b")
    lab.settle("b", "c")
    assert b.is_leader
    assert b.core.term == term + 1


# -- replication

FIGURE_7 = {
    "a": [1, 1, 1, 4, 4, 5, 5, 6, 6],
    "b": [1, 1, 1, 4],
    "c": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    "d": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    "e": [1, 1, 1, 4, 4, 4, 4],
    "f": [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}


@pytest.mark.parametrize("shape", sorted(FIGURE_7))
def test_every_follower_of_figure_7_ends_with_the_leaders_log(shape: str) -> None:
    """Paper, figure 7; R6. (The first entry founds the group, so it is of term 1 everywhere.)"""
    leader_log = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
    lab = Lab(
        ["leader", "helper", "follower"],
        logs={"leader": leader_log, "helper": leader_log, "follower": FIGURE_7[shape]},
        terms=dict.fromkeys(("leader", "helper", "follower"), 7),
    )
    leader = lab.elect("leader", "leader", "helper")
    for _ in range(3):
        lab.later(0.1)
        lab.tick("leader")
        lab.settle()
    assert lab["follower"].terms() == [*leader_log, 8]
    assert lab["follower"].core.commit_index == leader.core.commit_index == 11


def test_back_off_finds_the_meeting_point_by_terms_not_entry_by_entry() -> None:
    """Paper 5.3, last paragraph: one rejection per conflicting term at most."""
    lab = Lab(
        "abc",
        logs={"a": [1] * 50 + [4] * 50, "b": [1] * 50 + [2] * 30 + [3] * 300, "c": [1] * 50 + [4] * 50},
        terms=dict.fromkeys("abc", 5),
    )
    lab.elect("a", "a", "c")
    rejections = 0
    for _ in range(8):
        lab.later(0.1)
        lab.tick("a")
        while lab.mail:
            rejections += sum(isinstance(letter[2], AppendReject) for letter in lab.mail)
            lab.deliver()
    assert lab["b"].terms() == lab["a"].terms()
    assert rejections <= 3


def test_a_stale_leaders_entries_vanish() -> None:
    """Paper 5.3, R6."""
    lab = Lab("abc")
    old = lab.elect("a")
    old.propose("lost1", "lost2")
    lab.mail = []
    new = lab.elect("b", "b", "c")
    new.propose("kept")
    lab.settle("b", "c")
    lab.later(0.1)
    lab.tick("b")
    lab.settle()
    assert old.terms() == new.terms()
    assert old.core.role is Role.FOLLOWER
    assert b"lost1" not in b"".join(entry.payload for entry in old.disk.view.entries)


def test_duplicated_and_reordered_appends_add_each_entry_once() -> None:
    """R10."""
    lab = Lab("abc")
    b = lab["b"]
    entries = entries_of([1, 2, 2, 2, 2], lab.config)
    first = Append(2, 1, 1, 0, 0, entries[1:3])
    second = Append(2, 3, 2, 3, 0, entries[3:5])
    b.receive("a", second, first, first, second, first, second, second)
    assert b.terms() == [1, 2, 2, 2, 2]
    assert b.core.commit_index == 3
    assert [entry.index for entry in b.disk.durable.entries] == [1, 2, 3, 4, 5]


def test_what_is_committed_is_never_removed_not_even_by_a_lying_leader() -> None:
    """Paper 5.4.3, R10: every leader's log holds the committed entries, so nothing said about them is obeyed."""
    lab = Lab("abc", logs={"b": [1, 2, 2]}, terms={"b": 3}, commits={"b": 2})
    b = lab["b"]
    b.receive("a", Append(3, 1, 1, 3, 0, [Entry(2, 3, 0, b"\x90"), Entry(3, 3, 0, b"\x90")]))
    assert b.terms() == [1, 2, 3]
    assert b.disk.durable.term_at(2) == 2


def test_flow_control_bounds_what_is_under_way() -> None:
    """One follower that does not answer holds back only itself, and only a bounded number of bytes."""
    settings = Settings(inflight_messages_max=4, append_entries_max=1, inflight_bytes_max=1 << 20)
    lab = Lab("abc", settings=settings)
    leader = lab.elect("a")
    lab.settle()
    lab.later(0.1)
    lab.tick("a")
    lab.settle()
    for number in range(20):
        leader.propose(f"x{number}")
    to_c = [m for _, to, m in lab.drop(lambda letter: letter[1] == "c") if isinstance(m, Append)]
    assert sum(len(m.entries) for m in to_c) == 4
    lab.settle("a", "b")
    assert leader.core.commit_index == leader.core.log.last_index
    # It answers again: the rest follows without a new command.
    for _ in range(4):
        lab.later(0.1)
        lab.tick("a")
        lab.settle()
    assert lab["c"].core.commit_index == leader.core.commit_index


def test_a_lost_append_is_noticed_without_a_new_command() -> None:
    """R10: in replicate state nothing is resent by itself; the next heartbeats ask where the follower is."""
    lab = Lab("abc")
    leader = lab.elect("a")
    lab.settle()
    leader.propose("x")
    lab.drop(lambda letter: letter[1] == "b")
    lab.settle("a", "c")
    assert lab["b"].core.log.last_index < leader.core.log.last_index
    for _ in range(4):
        lab.later(0.1)
        lab.tick("a")
        lab.settle()
    assert lab["b"].core.commit_index == leader.core.commit_index == leader.core.log.last_index


# -- snapshots


def test_a_follower_behind_the_log_gets_snapshot_and_tail_and_goes_on_without_a_new_command() -> None:
    """Paper 7, R13; chunks, with one lost on the way."""
    settings = Settings(snapshot_chunk_bytes=16, snapshot_window_chunks=2)
    lab = Lab("abc", settings=settings)
    leader = lab.elect("a")
    for number in range(10):
        leader.propose(f"x{number}")
    lab.settle("a", "b")
    data = bytes(range(100))
    meta = meta_of(lab, 8, leader.core.log.term_at(8), data)
    leader.disk.store_snapshot(meta, data)
    leader.core.snapshot_made(meta)
    leader.core.compacted(8)
    leader.disk.compact(8)
    lost = 0
    for _ in range(60):
        lab.later(0.1)
        lab.tick("a")
        for _ in range(30):
            for effect in [e for e in leader.effects if type(e).__name__ == "ReadSnapshot"]:
                leader.effects.remove(effect)
                leader.core.snapshot_read(
                    "c", effect.meta, effect.offset, data[effect.offset :][: effect.bytes_max]
                )
                leader.pump()
            if not lost:
                lost = len(
                    lab.drop(lambda letter: isinstance(letter[2], SnapshotChunk) and letter[2].offset == 32)
                )
            if not lab.deliver():
                break
        if lab["c"].core.commit_index == leader.core.commit_index:
            break
    assert lost == 1
    assert lab["c"].disk.latest() == meta
    assert lab["c"].core.log.base_index == 8
    assert lab["c"].core.commit_index == leader.core.commit_index == leader.core.log.last_index


def test_a_damaged_chunk_is_dropped() -> None:
    """Paper 7; the checksum of a chunk covers its way."""
    lab = Lab("abc")
    b = lab["b"]
    data = b"0123456789"
    b.receive("a", SnapshotChunk(2, meta_of(lab, 5, 2, data), 0, data, zlib.crc32(data) ^ 1, 0))
    assert b.disk.partial is None
    assert b.core.commit_index == 0


def test_entries_during_an_install_are_not_acknowledged() -> None:
    """What arrives while the log is being replaced is as if lost."""
    lab = Lab("abc")
    b = lab["b"]
    b._perform = lambda effect: b.effects.append(effect)  # type: ignore[method-assign]
    data = b"0123456789"
    meta = meta_of(lab, 5, 2, data)
    b.receive("a", SnapshotChunk(2, meta, 0, data, zlib.crc32(data), 0))
    b.core.snapshot_received(meta, meta.size)
    b.pump()
    lab.drop()
    b.receive("a", Append(2, 1, 1, 1, 0, [Entry(2, 2, 1, b"")]))
    assert not [m for _, _, m in lab.drop() if isinstance(m, AppendReply)]
    b.core.snapshot_installed(meta)
    b.pump()
    assert [m.match for _, _, m in lab.drop() if isinstance(m, AppendReply)] == [5]
    assert b.core.log.last_index == 5


# -- reads


def test_reads_that_come_together_share_one_round() -> None:
    """Dissertation 6.4."""
    lab = Lab("abc")
    leader = lab.elect("a")
    for context in range(50):
        leader.core.read(context)
    leader.pump()
    assert len([1 for _, _, m in lab.mail if isinstance(m, Heartbeat)]) == 2
    lab.settle()
    assert len(leader.reads()) == 1


def test_a_follower_asks_the_leader_for_its_readers() -> None:
    """Dissertation 6.4, R18."""
    lab = Lab("abc")
    leader = lab.elect("a")
    last = leader.propose("x")
    lab.settle("a", "c")
    lab["b"].core.read(1)
    lab["b"].pump()
    lab.settle()
    assert lab["b"].reads() == [last]


def test_a_read_without_a_known_leader_is_refused_at_once() -> None:
    lab = Lab("abc")
    lab["a"].core.read(1)
    lab["a"].pump()
    assert lab["a"].refused_reads() == 1


# -- members


def test_a_learner_is_replicated_to_but_does_not_count() -> None:
    """Dissertation 4.2.1."""
    lab = Lab("abcd", voters="abc")
    leader = lab.elect("a", "a", "b", "c")
    leader.core.propose_config(Config(dict(leader.core.log.config.voters), {"d": ""}))
    leader.pump()
    lab.settle()
    for _ in range(3):
        lab.later(0.1)
        lab.tick("a")
        lab.settle()
    assert lab["d"].core.log.last_index == leader.core.log.last_index
    commit = leader.core.commit_index
    leader.propose("x")
    lab.settle("a", "d")
    assert leader.core.commit_index == commit
    lab["d"].core.tick(lab.now + 100)
    lab["d"].pump()
    assert not lab.mail, "a learner campaigned"


def test_a_learner_is_promoted_only_when_it_has_caught_up() -> None:
    """Dissertation 4.2.1, R23."""
    lab = Lab("abcd", voters="abc", settings=Settings(learner_lag_entries_max=3))
    leader = lab.elect("a", "a", "b", "c")
    voters = dict(leader.core.log.config.voters)
    with pytest.raises(MembershipRefused, match="not a learner"):
        leader.core.propose_config(Config({**voters, "d": ""}, {}))
    leader.core.propose_config(Config(voters, {"d": ""}))
    for number in range(5):
        leader.propose(f"x{number}")
    lab.settle("a", "b", "c")
    with pytest.raises(MembershipRefused, match="lacks"):
        leader.core.propose_config(Config({**voters, "d": ""}, {}))
    for _ in range(3):
        lab.later(0.1)
        lab.tick("a")
        lab.settle()
    leader.core.propose_config(Config({**voters, "d": ""}, {}))
    leader.pump()
    lab.settle()
    assert set(leader.core.log.config.voters) == set("abcd")


def test_two_voters_do_not_change_at_once() -> None:
    """Dissertation 4.1: old and new majorities must overlap."""
    lab = Lab("abcde")
    leader = lab.elect("a")
    lab.settle()
    with pytest.raises(MembershipRefused, match="one voter"):
        leader.core.propose_config(Config(dict.fromkeys("abc", ""), {}))
    with pytest.raises(MembershipRefused, match="at least one"):
        leader.core.propose_config(Config({}, dict.fromkeys("abcde", "")))


def test_a_membership_that_is_overwritten_is_rolled_back() -> None:
    """Dissertation 4.1: the newest configuration in the log counts, so a truncated one no longer does. CONSENSUS
    8c."""
    lab = Lab("abcd", voters="abc")
    leader = lab.elect("a", "a", "b", "c")
    voters = dict(leader.core.log.config.voters)
    leader.core.propose_config(Config(voters, {"d": ""}))
    leader.pump()
    lab.mail = []
    lab.elect("b", "b", "c")
    lab.later(0.1)
    lab.tick("b")
    lab.settle("a", "b", "c")
    assert leader.core.log.config == Config(voters, {})


def test_a_leader_that_removes_itself_commits_that_and_steps_down_and_another_takes_over_at_once() -> None:
    """Dissertation 4.2.2, R22."""
    lab = Lab("abc")
    leader = lab.elect("a")
    lab.settle()
    term = leader.core.term
    leader.core.propose_config(Config({"b": "", "c": ""}, {}))
    leader.pump()
    lab.settle()
    assert not leader.is_leader
    new = [name for name in "bc" if lab[name].is_leader]
    assert len(new) == 1
    assert lab[new[0]].core.term == term + 1
    # The removed node goes on asking for pre-votes at most; nobody takes a term from it.
    lab.campaign("a")
    lab.settle()
    assert lab[new[0]].is_leader
    assert lab[new[0]].core.term == term + 1


def test_a_leader_that_removes_itself_does_not_count_itself() -> None:
    """Dissertation 4.2.2."""
    lab = Lab("abc")
    leader = lab.elect("a")
    lab.settle()
    leader.core.propose_config(Config({"b": "", "c": ""}, {}))
    index = leader.core.log.last_index
    leader.pump()
    lab.settle("a", "b")
    assert leader.core.commit_index < index, (
        "one of two voters is no majority, and the leader is none of them"
    )


# -- handing over


def test_leadership_moves_to_the_target_and_commands_are_refused_meanwhile() -> None:
    """Dissertation 3.10, R20."""
    lab = Lab("abc")
    leader = lab.elect("a")
    lab.settle()
    leader.propose("x")
    assert leader.core.transfer(lab.now, "c") == "c"
    with pytest.raises(Overloaded) as refused:
        leader.propose("y")
    assert refused.value.definite
    leader.pump()
    lab.settle()
    assert lab["c"].is_leader
    assert leader.core.role is Role.FOLLOWER
    assert leader.core.leader_id == "c"


def test_a_hand_over_waits_until_the_target_has_everything_and_ends_if_it_never_does() -> None:
    """Dissertation 3.10."""
    lab = Lab("abc")
    leader = lab.elect("a")
    lab.settle()
    leader.propose("x")
    lab.drop(lambda letter: letter[1] == "c")
    leader.core.transfer(lab.now, "c")
    leader.pump()
    assert not [1 for _, _, m in lab.mail if isinstance(m, TimeoutNow)]
    for _ in range(12):
        lab.later(0.1)
        lab.tick("a")
        lab.settle("a", "b")
    assert leader.is_leader
    leader.propose("y")


def test_only_another_voter_can_be_handed_leadership() -> None:
    lab = Lab("abcd", voters="abc")
    leader = lab.elect("a", "a", "b", "c")
    for target in ("a", "d", "nobody"):
        with pytest.raises(MembershipRefused):
            leader.core.transfer(lab.now, target)
    with pytest.raises(NotLeader):
        lab["b"].core.transfer(lab.now, "c")


def test_a_deposed_leader_in_a_minority_rejoins_as_follower_of_the_new_one() -> None:
    """R4, R5, R24: two of five are cut off with the leader; the three go on; then all are equal."""
    lab = Lab("abcde")
    old = lab.elect("a")
    lab.settle()
    old.propose("minority")
    lab.settle("a", "b")
    new = lab.elect("c", "c", "d", "e")
    last = new.propose("majority")
    lab.settle("c", "d", "e")
    assert new.core.commit_index == last
    for _ in range(4):
        lab.later(0.1)
        lab.tick("c")
        lab.settle()
    assert {tuple(lab[name].terms()) for name in "abcde"} == {tuple(new.terms())}
    assert {lab[name].core.commit_index for name in "abcde"} == {last}
    assert old.core.leader_id == "c"


def test_a_one_way_cut_does_not_leave_the_group_without_a_leader() -> None:
    """R24: the leader is heard but hears nobody: it steps down by itself, and another is elected."""
    lab = Lab("abc")
    leader = lab.elect("a")
    lab.settle()
    for _ in range(9):
        lab.later(0.1)
        lab.tick("a")
        lab.deliver(lambda letter: letter[1] != "a")
        lab.drop(lambda letter: letter[1] == "a")
    assert not leader.is_leader
    lab.elect("b", "b", "c")
