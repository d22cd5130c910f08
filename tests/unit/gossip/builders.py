"""Small cores for the unit tests: members n1, n2, ... at 10.0.0.1, 10.0.0.2, ...; time starts at 0."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

from gossip.core import Membership
from gossip.effects import Ask, Effect, MemberEvent, Send, TableHeard
from gossip.messages import Address, Alive, Member, NodeId, Ping, State
from gossip.settings import Settings
from gossip.table import EMPTY, Snapshot

T = TypeVar("T")
DEFAULTS = Settings()


def node(name: str) -> NodeId:
    return NodeId(name)


def address_of(name: str) -> Address:
    return Address(f"10.0.0.{name.lstrip('n')}", 7946)


def instance_of(name: str) -> int:
    return 1000 + int(name.lstrip("n"))


def alive(name: str, incarnation: int = 0, meta: bytes = b"") -> Alive:
    return Alive(node(name), incarnation, address_of(name), meta, instance_of(name))


def row(name: str, state: State = State.ALIVE, incarnation: int = 0, **changes: Any) -> Member:
    fields: dict[str, Any] = {
        "address": address_of(name),
        "meta": b"",
        "instance": instance_of(name),
        "version": incarnation,
    } | changes
    return Member(node(name), state, incarnation, **fields)


def table_of(
    *rows: Member, source: str, push: bool = False, ages: dict[str, float] | None = None
) -> TableHeard:
    snapshot = Snapshot(EMPTY, {r.node_id: r for r in rows}, {node(n): s for n, s in (ages or {}).items()})
    return TableHeard(node(source), instance_of(source), snapshot, push)


def newcomer(me: str = "n1", settings: Settings = DEFAULTS, seed: int = 1) -> Membership:
    return Membership(
        node_id=node(me),
        address=address_of(me),
        meta=b"",
        instance=instance_of(me),
        settings=settings,
        rng=random.Random(seed),
    )


def membership(
    peers: Sequence[str] = (), *, me: str = "n1", settings: Settings = DEFAULTS, seed: int = 1
) -> Membership:
    """An established core that knows `peers` alive and has told all it had to tell."""
    core = newcomer(me, settings, seed)
    core.establish(0.0)
    for peer in peers:
        core.handle(0.0, alive(peer))
    drain(core)
    return core


def drain(core: Membership) -> None:
    """Empty the broadcast queue, without moving the clock."""
    while core.waiting_updates():
        core.handle(0.0, Ping(1, node("n99"), 1, core.node_id), Address("10.0.0.99", 1))


def run_until(core: Membership, until: float) -> list[tuple[float, Effect]]:
    """Let the core's own deadlines pass, alone: nobody answers."""
    out: list[tuple[float, Effect]] = []
    while (deadline := core.next_deadline()) is not None and deadline <= until:
        out += [(deadline, effect) for effect in core.on_tick(deadline)]
        core.check_invariants()
    return out


def sent(effects: Sequence[Effect], kind: type[T]) -> list[tuple[Address, T]]:
    """The messages of one kind among the datagrams, with where they go."""
    return [(e.address, m) for e in effects if isinstance(e, Send) for m in e.messages if isinstance(m, kind)]


def asked(effects: Sequence[Effect], kind: type[T]) -> list[tuple[Address, T]]:
    return [(e.address, e.request) for e in effects if isinstance(e, Ask) and isinstance(e.request, kind)]


def events(effects: Sequence[Effect]) -> list[tuple[str, str]]:
    return [(e.change.value, e.member.node_id) for e in effects if isinstance(e, MemberEvent)]


def updates(core: Membership) -> list[object]:
    return list(core.waiting_updates())
