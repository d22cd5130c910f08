"""Named schedules: the shortest stories in which one broken rule loses something.

Each takes the core to be tried and asserts what the paper promises. The real core passes all of them
(tests/scenario/test_raft_paper.py); a mutant that the random seeds meet rarely must fail its own (test_mutants.py).
"""

from __future__ import annotations

import zlib

from raft.core import Core
from raft.errors import MembershipRefused
from raft.messages import Append, AppendReply, Heartbeat, ReadReply, SnapshotChunk, VoteReply, VoteRequest
from raft.storage_api import Config, Entry
from tests.sim.raft.lab import Lab, between, entries_of, meta_of


def a_vote_delivered_twice_counts_once(core_type: type[Core] = Core) -> None:
    """CONSENSUS 4b: with 5 voters, the candidate's own vote and one other are no majority, however often it comes."""
    lab = Lab("abcde", core_type=core_type)
    lab.campaign("a")
    lab.deliver(between("a", "b", "c"))  # pre-vote requests
    lab.deliver(between("a", "b", "c"))  # and the answers: the campaign begins
    lab.deliver(between("a", "b"))  # the vote request to b
    (vote,) = lab.drop(lambda letter: letter[1] == "a" and isinstance(letter[2], VoteReply))
    lab["a"].receive("b", vote[2], vote[2], vote[2])
    assert not lab["a"].is_leader


def a_node_votes_once_per_term(core_type: type[Core] = Core) -> None:
    """Paper, figure 2: first come, first served; also after a power loss."""
    lab = Lab("abc", core_type=core_type)
    c = lab["c"]
    request = VoteRequest(2, 1, 1, False)
    c.receive("a", request)
    c.receive("b", request)
    granted = {to: m.granted for _, to, m in lab.drop() if isinstance(m, VoteReply)}
    assert granted == {"a": True, "b": False}
    c.crash()
    c.receive("b", request)
    c.receive("a", request)
    granted = {to: m.granted for _, to, m in lab.drop() if isinstance(m, VoteReply)}
    assert granted == {"a": True, "b": False}


def entries_of_an_older_term_are_not_committed_by_counting(core_type: type[Core] = Core) -> None:
    """Paper, figure 8: an entry of term 2 on a majority can still be overwritten while the leader's own term has
    none."""
    logs = {"a": [1, 2], "b": [1, 2], "c": [1], "d": [1], "e": [1, 3]}
    lab = Lab("abcde", core_type=core_type, logs=logs, terms=dict.fromkeys("abcde", 3))
    a = lab["a"]
    lab.campaign("a")
    # Elected in term 4 by b, c and d. Its no-op (entry 3) reaches nobody; entry 2 of term 2 reaches c: on a majority.
    for _ in range(4):
        lab.deliver(lambda letter: between("a", "b", "c", "d")(letter) and not isinstance(letter[2], Append))
    assert a.is_leader
    lab.mail = []
    term, c = a.core.term, lab["c"]
    c.receive("a", Append(term, 1, 1, 0, 0, entries_of(logs["a"], lab.config)[1:]))
    lab["b"].receive("a", Append(term, 2, 2, 0, 0, []))
    lab.deliver(lambda letter: isinstance(letter[2], AppendReply))
    assert a.core.progress["b"].match == a.core.progress["c"].match == 2
    assert a.core.commit_index < 2, "entry 2 of term 2 counts as committed"
    # a dies; e may win with b, c or d, because its last term is higher, and overwrite entry 2.
    lab.mail = []
    lab.elect("e", "c", "d", "e")
    lab.settle("c", "d", "e")
    assert c.terms()[1] == 3
    assert lab["e"].core.commit_index >= 2


def an_ack_of_an_older_term_counts_nothing(core_type: type[Core] = Core) -> None:
    """CONSENSUS 4: an acknowledgement that a deposed and again elected leader gets late says nothing about its log
    now."""
    lab = Lab("abcde", core_type=core_type)
    a = lab.elect("a")
    for name in "bcde":
        lab[name].core.applied(lab[name].core.commit_index)
    last = a.propose("old1", "old2", "old3")
    lab.deliver(between("a", "b"))
    (late,) = lab.drop(lambda letter: letter[0] == "b" and isinstance(letter[2], AppendReply))
    lab.mail = []
    assert late[2].match == last
    # c, d, e go on without a and b, and what b acknowledged is overwritten; then a leads again, in a later term.
    c = lab.elect("c", "c", "d", "e")
    c.propose("new1", "new2", "new3", "new4")
    lab.later(0.11)
    lab.tick("c")
    lab.settle("a", "c", "d", "e")
    lab.elect("a", "a", "c", "d", "e")
    known = a.core.progress["b"].match
    a.receive("b", late[2])
    assert a.core.progress["b"].match == known, "an acknowledgement of an older term moved match"


def a_late_append_removes_nothing(core_type: type[Core] = Core) -> None:
    """CONSENSUS 3a: an old, shorter Append arrives after a newer one was acknowledged."""
    lab = Lab("abc", core_type=core_type, logs={"a": [1], "b": [1], "c": [1]})
    b = lab["b"]
    entries = entries_of([1, 2, 2, 2], lab.config)
    b.receive("a", Append(2, 1, 1, 0, 0, entries[1:]))
    assert [m.match for _, _, m in lab.drop() if isinstance(m, AppendReply)] == [4]
    b.receive("a", Append(2, 1, 1, 0, 0, entries[1:2]))
    b.receive("a", Append(2, 2, 2, 0, 0, []))
    assert b.core.log.last_index == 4
    assert b.disk.durable.last_index == 4


def entries_are_compared_before_they_are_appended(core_type: type[Core] = Core) -> None:
    """Paper, 5.3: a follower whose previous entry is of another term refuses."""
    lab = Lab("abc", core_type=core_type, logs={"a": [1, 3, 3], "b": [1, 2], "c": [1, 3]}, terms={"b": 3})
    b = lab["b"]
    b.receive("a", Append(3, 2, 3, 0, 0, entries_of([1, 3, 3], lab.config)[2:]))
    assert b.terms() == [1, 2]
    assert not [m for _, _, m in lab.drop() if isinstance(m, AppendReply)]


def a_snapshot_keeps_the_agreeing_rest_of_the_log(core_type: type[Core] = Core) -> None:
    """Paper, section 7: entries behind the snapshot stay when the log has the snapshot's last entry; they may have
    been acknowledged, so dropping them could lose a commit."""
    lab = Lab("abc", core_type=core_type, logs={"b": [1, 2, 2, 2, 2]})
    b = lab["b"]
    b.receive("a", Append(2, 5, 2, 0, 0, []))
    assert [m.match for _, _, m in lab.drop() if isinstance(m, AppendReply)] == [5]
    data = b"state at 3"
    b.receive("a", SnapshotChunk(2, meta_of(lab, 3, 2, data), 0, data, zlib.crc32(data), 0))
    assert b.core.commit_index == 3
    assert b.core.log.last_index == 5, "acknowledged entries behind the snapshot are gone"
    assert b.disk.durable.last_index == 5


def after_a_snapshot_only_the_snapshot_is_acknowledged(core_type: type[Core] = Core) -> None:
    """CONSENSUS 5a: what is left of the log behind an installed snapshot was never compared with this leader's."""
    lab = Lab("abc", core_type=core_type, logs={"b": [1, 2, 2, 2, 2]}, terms={"b": 3})
    b = lab["b"]
    data = b"state at 3"
    b.receive("a", SnapshotChunk(3, meta_of(lab, 3, 2, data), 0, data, zlib.crc32(data), 0))
    matches = [m.match for _, _, m in lab.drop() if isinstance(m, AppendReply)]
    assert matches == [3], f"acknowledged {matches} after a snapshot of 3 entries"


def the_commit_index_stops_where_the_logs_were_compared(core_type: type[Core] = Core) -> None:
    """CONSENSUS 3c: a deposed leader with entries of its own hears a high commit index; its entries are not
    committed."""
    lab = Lab("abc", core_type=core_type, logs={"b": [1, 2, 2, 2]}, terms={"b": 3})
    b = lab["b"]
    b.receive("a", Append(3, 1, 1, 4, 0, []))
    assert b.core.commit_index == 1
    b.receive("a", Heartbeat(3, 4, 3, 0))
    assert b.core.commit_index == 1
    assert b.applied == 1


def one_change_of_members_at_a_time(core_type: type[Core] = Core) -> None:
    """CONSENSUS 8a: a second change before the first is committed could make two disjoint majorities."""
    lab = Lab("abcde", core_type=core_type, voters="abc")
    a = lab.elect("a")
    for peer in "bc":
        lab[peer].core.applied(lab[peer].core.commit_index)
    voters = dict(a.core.log.config.voters)
    a.core.propose_config(Config(voters, {"d": ""}))
    try:
        a.core.propose_config(Config(voters, {"d": "", "e": ""}))
    except MembershipRefused:
        pass
    else:
        raise AssertionError("a second change began before the first was committed")
    a.pump()
    lab.settle("a", "b", "c")
    a.core.propose_config(Config(voters, {"d": "", "e": ""}))


def no_change_of_members_before_the_own_no_op(core_type: type[Core] = Core) -> None:
    """The bug of 2015 in one-at-a-time changes: a new leader must commit an entry of its term first, or its change
    and an earlier leader's uncommitted one may have disjoint majorities."""
    lab = Lab("abcd", core_type=core_type)
    lab.campaign("a")
    for _ in range(4):
        lab.deliver(lambda letter: not isinstance(letter[2], Append))
    a = lab["a"]
    assert a.is_leader
    assert a.core.commit_index == 0
    try:
        a.core.propose_config(Config(dict.fromkeys("abc", ""), {}))
    except MembershipRefused:
        return
    raise AssertionError("members changed before an entry of this term was committed")


def a_voice_of_the_past_is_not_heard(core_type: type[Core] = Core) -> None:
    """A candidate's vote is on disk before anybody is told (paper, figure 2: persistent state)."""
    lab = Lab("abc", core_type=core_type)
    c = lab["c"]
    c.auto_sync = False
    c.receive("a", VoteRequest(2, 1, 1, False))
    assert not lab.mail, "a vote was shown before it was on disk"
    c.sync()
    assert [m.granted for _, _, m in lab.drop()] == [True]


def an_entry_is_acknowledged_when_it_is_on_disk(core_type: type[Core] = Core) -> None:
    lab = Lab("abc", core_type=core_type)
    b = lab["b"]
    b.receive("a", Append(2, 1, 1, 0, 0, []))
    lab.drop()
    b.auto_sync = False
    b.receive("a", Append(2, 1, 1, 0, 0, [Entry(2, 2, 1, b"")]))
    assert all(m.match < 2 for _, _, m in lab.drop() if isinstance(m, AppendReply))
    b.sync()
    assert [m.match for _, _, m in lab.drop() if isinstance(m, AppendReply)] == [2]


def the_leader_counts_itself_when_its_own_disk_has_the_entry(core_type: type[Core] = Core) -> None:
    lab = Lab("abc", core_type=core_type)
    a = lab.elect("a")
    commit = a.core.commit_index
    a.auto_sync = False
    a.propose("x")
    lab.settle("a", "b")
    assert a.core.commit_index == commit, "an entry on one disk of three counts as committed"
    a.sync()
    assert a.core.commit_index == commit + 1


def a_read_waits_for_a_majority(core_type: type[Core] = Core) -> None:
    """Dissertation, 6.4: a leader that was deposed without knowing answers no read."""
    lab = Lab("abc", core_type=core_type)
    a = lab.elect("a")
    a.core.read(1)
    a.pump()
    assert a.reads() == []
    lab.settle("a", "b")
    assert a.reads() == [a.core.commit_index]
    lab.campaign("b")
    lab.settle("b", "c")
    assert lab["b"].is_leader
    a.core.read(2)
    a.pump()
    lab.settle()
    assert a.reads() == [a.core.commit_index] or len(a.reads()) == 1
    assert a.refused_reads() == 1


def a_new_leader_answers_no_read_before_its_no_op(core_type: type[Core] = Core) -> None:
    """Dissertation, 6.4: until then it may not know the newest commit."""
    lab = Lab("abc", core_type=core_type, logs={name: [1, 1, 1] for name in "abc"})
    lab.campaign("b")
    for _ in range(4):
        lab.deliver(lambda letter: not isinstance(letter[2], Append))
    b = lab["b"]
    assert b.is_leader
    assert b.core.commit_index == 0
    b.core.read(1)
    b.pump()
    for _ in range(4):
        lab.deliver(lambda letter: not isinstance(letter[2], Append))
    assert b.reads() == []
    lab.tick("b")
    lab.settle()
    lab.later(0.2)
    lab.tick("b")
    lab.settle()
    assert [index >= 4 for index in b.reads()] == [True]


def a_follower_restarted_within_a_term_learns_what_is_committed(core_type: type[Core] = Core) -> None:
    """Its acknowledgements were counted, so no Append comes any more; the heartbeat must prove what is committed."""
    lab = Lab("abc", core_type=core_type)
    a = lab.elect("a")
    last = a.propose("x", "y")
    lab.settle()
    c = lab["c"]
    c.crash()
    assert c.core.commit_index == 0
    for _ in range(3):
        lab.later(0.11)
        lab.tick("a")
        lab.settle()
    assert c.applied == a.core.commit_index == last


def an_answer_to_a_former_life_answers_no_read(core_type: type[Core] = Core) -> None:
    """A read index may arrive after its asker was restarted; the new life's question is another one."""
    lab = Lab("abc", core_type=core_type)
    a = lab.elect("a")
    lab.later(0.11)
    lab.tick("a")
    lab.settle()
    c = lab["c"]
    c.core.read(1)
    c.pump()
    lab.deliver(lambda letter: letter[0] == "c")
    lab.deliver(between("a", "b"))
    lab.deliver(between("a", "b"))
    (late,) = lab.drop(lambda letter: isinstance(letter[2], ReadReply))
    a.propose("newer")
    lab.settle()
    c.crash()
    lab.later(0.11)
    lab.tick("a")
    lab.settle()
    c.core.read(1)
    c.pump()
    lab.drop()
    c.receive("a", late[2])
    assert c.reads() == [], "an old answer was taken for a new one"
