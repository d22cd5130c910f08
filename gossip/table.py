"""What one member believes of all members, and the rules by which a belief changes.

`TRANSITIONS` is the whole rule book: (what is held, what is claimed) -> when the claim wins, and what the
node is told. docs/gossip.md's diagram is what `diagram()` returns.

A view may share an immutable `Base` with others and hold only its differences. A real node starts with the
empty base; the simulation gives 10,000 views one base, which is what lets 10,000 x 10,000 rows fit.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from hashlib import blake2b
from typing import NamedTuple

from gossip.messages import Member, NodeId, State

UNKNOWN, ALIVE, SUSPECT, DEAD, LEFT = State


class When(Enum):
    """Which incarnation i a claim needs to win against the held incarnation j."""

    ALWAYS = "always"
    NEWER = "i > j"
    SAME_OR_NEWER = "i ≥ j"
    NEVER = "never"


class Change(Enum):
    """What the node is told of a member. `UPDATED` is also the end of a suspicion by refutation."""

    JOINED = "joined"
    UPDATED = "updated"
    SUSPECTED = "suspected"
    FAILED = "failed"
    LEFT = "left"


class Rule(NamedTuple):
    when: When
    changes: tuple[Change, ...] = ()


# Precedence of SWIM, section 4.2: within one incarnation alive < suspect < dead < left, a higher incarnation
# beats any state. So every view is the maximum of the claims it heard, and views that heard the same agree.
# Deviation: in SWIM a Confirm is final; here a member that comes back takes a higher incarnation.
TRANSITIONS: Mapping[tuple[State, State], Rule] = {
    (UNKNOWN, ALIVE): Rule(When.ALWAYS, (Change.JOINED,)),
    (UNKNOWN, SUSPECT): Rule(When.NEVER),  # an accusation tells no address; the exchange brings the row
    (UNKNOWN, DEAD): Rule(When.ALWAYS),  # remembered, so that late gossip cannot raise the member here
    (UNKNOWN, LEFT): Rule(When.ALWAYS),
    (ALIVE, ALIVE): Rule(When.NEWER, (Change.UPDATED,)),
    (ALIVE, SUSPECT): Rule(When.SAME_OR_NEWER, (Change.SUSPECTED,)),
    (ALIVE, DEAD): Rule(When.SAME_OR_NEWER, (Change.FAILED,)),
    (ALIVE, LEFT): Rule(When.SAME_OR_NEWER, (Change.LEFT,)),
    (SUSPECT, ALIVE): Rule(When.NEWER, (Change.UPDATED,)),
    (SUSPECT, SUSPECT): Rule(When.NEWER),  # at the same incarnation it may count as a confirmation
    (SUSPECT, DEAD): Rule(When.SAME_OR_NEWER, (Change.FAILED,)),
    (SUSPECT, LEFT): Rule(When.SAME_OR_NEWER, (Change.LEFT,)),
    (DEAD, ALIVE): Rule(When.NEWER, (Change.JOINED,)),
    (DEAD, SUSPECT): Rule(When.NEWER, (Change.JOINED, Change.SUSPECTED)),
    (DEAD, DEAD): Rule(When.NEWER),
    (DEAD, LEFT): Rule(When.SAME_OR_NEWER, (Change.LEFT,)),
    (LEFT, ALIVE): Rule(When.NEWER, (Change.JOINED,)),
    (LEFT, SUSPECT): Rule(When.NEWER, (Change.JOINED, Change.SUSPECTED)),
    (LEFT, DEAD): Rule(When.NEWER),
    (LEFT, LEFT): Rule(When.NEWER),
}


def wins(held: Member | None, claimed: State, incarnation: int) -> bool:
    """Whether the claim changes the row. `held` None means that the member is unknown."""
    if held is None:
        return TRANSITIONS[UNKNOWN, claimed].when is When.ALWAYS
    when = TRANSITIONS[held.state, claimed].when
    if when is When.NEWER:
        return incarnation > held.incarnation
    return when is When.SAME_OR_NEWER and incarnation >= held.incarnation


def describes_newer(version: int, instance: int, held: Member) -> bool:
    """Whether a description replaces the held one. The instance only breaks the tie of two members that
    claim one id (an error that both report): without it their views would never agree."""
    return (version, instance) > (held.version, held.instance)


def is_live(member: Member | None) -> bool:
    """Alive or suspect: counted, probed and gossiped to."""
    return member is not None and (member.state is ALIVE or member.state is SUSPECT)


class Base:
    """Rows that many views share. Never changes."""

    __slots__ = ("digest", "ids", "live_count", "rows")

    def __init__(self, rows: Mapping[NodeId, Member]) -> None:
        self.rows = rows
        self.ids = tuple(rows)
        self.live_count = sum(is_live(member) for member in rows.values())
        self.digest = 0
        for member in rows.values():
            self.digest ^= _row_digest(member)


EMPTY = Base({})


class Snapshot:
    """All rows of a view at one moment; immutable. `ages` has the seconds since the dead and left went."""

    __slots__ = ("_base", "_changed", "ages")

    def __init__(
        self, base: Base, changed: dict[NodeId, Member | None], ages: Mapping[NodeId, float]
    ) -> None:
        self._base = base
        self._changed = changed
        self.ages = ages

    def get(self, node_id: NodeId) -> Member | None:
        if node_id in self._changed:
            return self._changed[node_id]
        return self._base.rows.get(node_id)

    def __iter__(self) -> Iterator[Member]:
        for node_id, member in self._base.rows.items():
            if node_id not in self._changed:
                yield member
        for changed in self._changed.values():
            if changed is not None:
                yield changed

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def without(self, node_id: NodeId) -> Snapshot:
        """The same rows but one."""
        return Snapshot(self._base, {**self._changed, node_id: None}, self.ages)

    @property
    def base(self) -> Base:
        return self._base

    @property
    def changed_count(self) -> int:
        """Rows that differ from the base; for size estimates."""
        return len(self._changed)

    def candidates(self, view: MemberTable) -> Iterator[NodeId]:
        """Ids whose rows may differ between this snapshot and `view`: all, or only those that one of the two
        changed when they share a base."""
        if self._base is view.base and self._base is not EMPTY:
            yield from self._changed
            yield from (node_id for node_id in view.changed_ids() if node_id not in self._changed)
            return
        for member in self:
            yield member.node_id
        yield from (node_id for node_id in view.all_ids() if self.get(node_id) is None)


class MemberTable:
    """The rows of one view. Owner of nothing but them: no rule is applied here, `core.Membership` decides.

    Invariants (`check_invariants`): `live_count` and `digest` equal a fresh count; the digest covers exactly
    the live rows, so that tombstones, which are forgotten at different times, never make tables differ.
    """

    __slots__ = ("_changed", "_tail", "_tail_index", "base", "digest", "live_count")

    def __init__(self, base: Base = EMPTY) -> None:
        self.base = base
        self.live_count = base.live_count
        self.digest = base.digest
        self._changed: dict[NodeId, Member | None] = {}
        self._tail: list[NodeId] = []  # ids that the base lacks
        self._tail_index: dict[NodeId, int] = {}

    def get(self, node_id: NodeId) -> Member | None:
        changed = self._changed
        if node_id in changed:
            return changed[node_id]
        return self.base.rows.get(node_id)

    def __len__(self) -> int:
        """Rows, those of base members that were forgotten included."""
        return len(self.base.ids) + len(self._tail)

    def put(self, member: Member) -> None:
        """Insert or replace one row."""
        node_id = member.node_id
        held = self.get(node_id)
        if is_live(held):
            assert held is not None
            self.live_count -= 1
            self.digest ^= _row_digest(held)
        if is_live(member):
            self.live_count += 1
            self.digest ^= _row_digest(member)
        self._changed[node_id] = member
        if node_id not in self.base.rows and node_id not in self._tail_index:
            self._tail_index[node_id] = len(self._tail)
            self._tail.append(node_id)

    def forget(self, node_id: NodeId) -> None:
        """Remove a row that is not live; without effect for an unknown id."""
        held = self.get(node_id)
        if held is None:
            return
        assert not is_live(held)
        if node_id in self.base.rows:
            self._changed[node_id] = None
            return
        del self._changed[node_id]
        index = self._tail_index.pop(node_id)
        last = self._tail.pop()
        if last != node_id:
            self._tail[index] = last
            self._tail_index[last] = index

    def id_at(self, index: int) -> NodeId:
        """Some id for `0 <= index < len(self)`; it may have been forgotten."""
        base_ids = self.base.ids
        return base_ids[index] if index < len(base_ids) else self._tail[index - len(base_ids)]

    def tail(self) -> list[NodeId]:
        """A copy of the ids that the base lacks."""
        return list(self._tail)

    def all_ids(self) -> Iterator[NodeId]:
        yield from self.base.ids
        yield from self._tail

    def changed_ids(self) -> Iterator[NodeId]:
        yield from self._changed

    def pick(self, rng: random.Random, count: int, accept: Callable[[NodeId], bool]) -> list[NodeId]:
        """Up to `count` different ids that `accept` takes, uniformly; fewer only when there are no more."""
        chosen: list[NodeId] = []
        total = len(self)
        if total > 8 * count:
            for _ in range(4 * count):
                node_id = self.id_at(int(rng.random() * total))
                if node_id not in chosen and accept(node_id):
                    chosen.append(node_id)
                    if len(chosen) == count:
                        return chosen
        rest = [node_id for node_id in self.all_ids() if node_id not in chosen and accept(node_id)]
        return chosen + rng.sample(rest, min(count - len(chosen), len(rest)))

    def snapshot(self, ages: Mapping[NodeId, float]) -> Snapshot:
        return Snapshot(self.base, dict(self._changed), ages)

    def check_invariants(self) -> None:
        live = [member for node_id in self.all_ids() if is_live(member := self.get(node_id)) and member]
        assert self.live_count == len(live), (self.live_count, len(live))
        digest = 0
        for member in live:
            digest ^= _row_digest(member)
        assert self.digest == digest
        assert len(set(self._tail)) == len(self._tail)
        assert self._tail_index == {node_id: index for index, node_id in enumerate(self._tail)}


def _row_digest(member: Member) -> int:
    text = f"{member.node_id}\0{member.state:d}\0{member.incarnation}\0{member.version}\0{member.instance}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def diagram() -> str:
    """TRANSITIONS as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> unknown"]
    for (held, claimed), rule in TRANSITIONS.items():
        if rule.when is When.NEVER:
            continue
        told = " + ".join(change.value for change in rule.changes) or "silent"
        lines.append(
            f"    {held.name.lower()} --> {claimed.name.lower()} : "
            f"{claimed.name.lower()}(i), {rule.when.value} / {told}"
        )
    lines += [
        "    dead --> unknown : tombstone_s / forgotten",
        "    left --> unknown : tombstone_s / forgotten",
    ]
    return "\n".join(lines)
