"""What the simulation is asked: each function is one run (or a few) and returns the figures of one row."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gossip.settings import Settings
from gossip.table import Change
from tests.sim.gossip.simulation import SEEDS, Network, Simulation, Traffic

WARM_S = 5.0
WINDOW_S = 5.0


@dataclass(frozen=True)
class Run:
    """One cluster: steady traffic, then one update, then one crash, and what was wrongly believed."""

    members: int
    seconds: float
    loss: float
    slow: int
    datagrams_per_s: float  # per member, while nothing happens
    bytes_per_s: float
    stream_bytes_per_s: float
    update_half_rounds: float  # gossip periods until half of all know
    update_rounds: float  # until all know
    update_reached: int
    suspected_s: float  # first suspicion after the crash
    dead_first_s: float
    dead_last_s: float
    dead_seen_by: int
    false_suspicions: int  # (observer, member) pairs
    false_deaths: int
    cpu_s: float


def whole_run(
    members: int,
    *,
    seconds: float = 60.0,
    seed: int = 1,
    loss: float = 0.0,
    slow_share: float = 0.0,
    settings: Settings | None = None,
) -> Run:
    """Steady from 5 to 10 s, an update at 10 s, a crash at a quarter of the whole time, at 15 s at least."""
    started = time.process_time()
    settings = settings or Settings()
    slow = range(2, 2 + round(members * slow_share))
    sim = Simulation(members, seed=seed, settings=settings, network=Network(loss=loss), slow=slow)
    teller, victim = 1, members - 1
    told = sim.watch(teller, Change.UPDATED)
    suspected, failed = sim.watch(victim, Change.SUSPECTED), sim.watch(victim, Change.FAILED)
    sim.run(WARM_S)
    before = sim.traffic.copy()
    sim.run(WARM_S + WINDOW_S)
    rate = _rate(before, sim.traffic, members)
    told.times.clear()
    updated_at = sim.now
    sim.act(teller, sim.cores[teller].announce(sim.now, meta=b"x" * 100))
    crash_at = max(15.0, seconds / 4)
    sim.run(crash_at)
    suspected.times.clear()
    sim.crash(victim)
    sim.run(seconds)
    rounds = sorted((when - updated_at) / settings.gossip_period_s for when in told.times.values())
    deaths = sorted(when - crash_at for when in failed.times.values())
    return Run(
        members=members,
        seconds=seconds,
        loss=loss,
        slow=len(slow),
        datagrams_per_s=rate[0],
        bytes_per_s=rate[1],
        stream_bytes_per_s=rate[2],
        update_half_rounds=statistics.median(rounds),
        update_rounds=rounds[-1],
        update_reached=len(rounds),
        suspected_s=min(suspected.times.values(), default=crash_at) - crash_at,
        dead_first_s=deaths[0] if deaths else float("nan"),
        dead_last_s=deaths[-1] if deaths else float("nan"),
        dead_seen_by=len(deaths),
        false_suspicions=sim.false_suspicions,
        false_deaths=sim.false_deaths,
        cpu_s=time.process_time() - started,
    )


def _rate(before: Traffic, after: Traffic, members: int) -> tuple[float, float, float]:
    scale = members * WINDOW_S
    return (
        (after.datagrams - before.datagrams) / scale,
        (after.bytes - before.bytes) / scale,
        (after.stream_bytes - before.stream_bytes) / scale,
    )


@dataclass(frozen=True)
class Detection:
    """Crashes of one member in many seeded clusters; seconds after the crash, sorted."""

    suspected: tuple[float, ...]
    dead_first: tuple[float, ...]
    dead_last: tuple[float, ...]


def detection(members: int, *, runs: int, loss: float = 0.0, settings: Settings | None = None) -> Detection:
    suspected, first, last = [], [], []
    for seed in range(runs):
        sim = Simulation(members, seed=seed, settings=settings, network=Network(loss=loss))
        victim = members - 1
        suspicion, death = sim.watch(victim, Change.SUSPECTED), sim.watch(victim, Change.FAILED)
        sim.run(3.0 + sim.rng.random())
        suspicion.times.clear()
        crash_at = sim.now
        sim.crash(victim)
        sim.run(crash_at + 60.0, stop=lambda death=death: len(death.times) == members - 1)  # type: ignore[misc]
        suspected.append(min(suspicion.times.values()) - crash_at)
        first.append(min(death.times.values()) - crash_at)
        last.append(max(death.times.values()) - crash_at)
        assert len(death.times) == members - 1
    return Detection(tuple(sorted(suspected)), tuple(sorted(first)), tuple(sorted(last)))


@dataclass(frozen=True)
class Wrong:
    """What healthy clusters wrongly believed."""

    suspicions: int
    deaths: int
    probes: int
    probes_failed: int


def wrong_beliefs(
    members: int, *, loss: float, seconds: float, runs: int = 1, settings: Settings | None = None
) -> Wrong:
    total = Wrong(0, 0, 0, 0)
    for seed in range(runs):
        sim = Simulation(members, seed=seed, settings=settings, network=Network(loss=loss))
        sim.run(seconds)
        total = Wrong(
            total.suspicions + sim.false_suspicions,
            total.deaths + sim.false_deaths,
            total.probes + sum(core.totals.probes for core in sim.cores),
            total.probes_failed + sum(core.totals.probes_failed for core in sim.cores),
        )
    return total


@dataclass(frozen=True)
class Slow:
    """Accusations of healthy members, by the slow ones and by the others; deaths believed of any."""

    by_slow: int
    by_healthy: int
    suspicions: int
    deaths: int


def slow_members(
    members: int, slow: int, *, seconds: float, seeds: Sequence[int], settings: Settings
) -> Slow:
    total = Slow(0, 0, 0, 0)
    for seed in seeds:
        sim = Simulation(members, seed=seed, settings=settings, slow=range(2, 2 + slow))
        sim.run(seconds)
        total = Slow(
            total.by_slow + sim.accusations_by[True],
            total.by_healthy + sim.accusations_by[False],
            total.suspicions + sim.false_suspicions,
            total.deaths + sim.false_deaths,
        )
    return total


def missed_by_gossip_alone(members: int, *, loss: float, clusters: int, settings: Settings) -> float:
    """Share of updates that did not reach all within 6 s with exchanges switched off."""
    alone = replace(settings, exchange_period_s=1e6, rejoin_period_s=1e6)
    missed = updates = 0
    for seed in range(clusters):
        sim = Simulation(members, seed=seed, settings=alone, network=Network(loss=loss))
        sim.run(3.0)
        told = sim.watch(1, Change.UPDATED)
        for number in range(5):
            told.times.clear()
            sim.act(1, sim.cores[1].announce(sim.now, meta=bytes([number + 1])))
            sim.run(sim.now + 6.0)
            updates += 1
            missed += len(told.times) < members
    return missed / updates


def without_local_health(settings: Settings) -> Settings:
    return replace(settings, awareness_max=1)


def plain_swim(settings: Settings) -> Settings:
    """Neither local health nor shrinking suspicions."""
    return replace(settings, awareness_max=1, suspicion_max_mult=1)


@dataclass(frozen=True)
class Healed:
    """A cut in two and its end."""

    apart_s: float
    """Until the larger side held the whole smaller one dead. The smaller one takes longer: a member that
    loses nearly everybody distrusts itself (awareness) and probes every 4 s only."""
    healed_s: float  # after the end of the cut, until all hold all alive, equally
    false_deaths: int  # believed after the end of the cut


def cut_and_heal(
    members: int, *, cut_s: float, seed: int = 1, smaller_side: int | None = None, loss: float = 0.0
) -> Healed:
    smaller = members // 2 if smaller_side is None else smaller_side
    sim = Simulation(members, seed=seed, network=Network(loss=loss))
    sim.run(WARM_S)
    sim.cut(lambda index: int(index < smaller))
    cut_at = sim.now

    def is_apart() -> bool:
        return all(core.live_count == members - smaller for core in sim.cores[smaller:])

    apart_s = _until(sim, is_apart, cut_at + 120.0) - cut_at
    sim.run(cut_at + cut_s)
    sim.false_deaths = 0
    sim.cut(lambda _: 0)
    healed_at = sim.now
    return Healed(apart_s, _until(sim, sim.agree, healed_at + 120.0) - healed_at, sim.false_deaths)


@dataclass(frozen=True)
class Joined:
    first_s: float  # last start until it is established
    all_s: float  # last start until all hold all alive, equally


def join_storm(members: int, *, stagger_s: float, seed: int = 1) -> Joined:
    """Everybody starts one after the other and calls the first three."""
    sim = Simulation(members, seed=seed, known=False)
    for index in range(members):
        sim.start(index, seeds=range(SEEDS) if index else ())
        sim.run(sim.now + stagger_s)
    last = sim.now - stagger_s
    first = _until(sim, lambda: sim.cores[-1].established, last + 60.0) - last
    return Joined(first, _until(sim, sim.agree, last + 60.0) - last)


def _until(sim: Simulation, holds, deadline: float) -> float:  # type: ignore[no-untyped-def]
    """Run to the tenth of a second in which `holds` is true; raises when it never is."""
    while not holds():
        if sim.now > deadline:
            raise AssertionError(f"not reached at {sim.now:.1f} s of virtual time")
        sim.run(sim.now + 0.1)
    return sim.now
