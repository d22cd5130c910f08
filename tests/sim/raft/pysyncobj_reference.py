"""Stock PySyncObj 0.3.17 in the same network and under the same faults: the simulation must convict it.

That is how we know that the simulation can see. The project's ADR 0002 tells what is wrong with it; this module
runs it as it is installed, with its own journal files and dumps, its clock, randomness and transport replaced by
the simulation's.

    python -m tests.sim.raft.pysyncobj_reference --seeds 40 --crash power        # convicted: nothing is synced
    python -m tests.sim.raft.pysyncobj_reference --seeds 40 --net late --crash none --snapshots
    python -m tests.sim.raft.pysyncobj_reference --seeds 40 --faults none        # acquitted

A crash by `kill` leaves the page cache; `power` goes back to the kernel's last writeback, 0 to 2 s ago. Prints one
line of JSON.
"""

from __future__ import annotations

import argparse
import heapq
import json
import logging
import os
import pickle
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import pysyncobj.syncobj as stock
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.config import FAIL_REASON
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from tests.sim.raft.check import Violation
from tests.sim.raft.network import Network

_WORLD: list[World] = []


class _Poller:
    """Nothing to poll: messages come from the simulation."""

    def subscribe(self, *_: Any) -> None: ...
    def unsubscribe(self, *_: Any) -> None: ...
    def poll(self, _: float) -> None: ...


class _Random:
    @staticmethod
    def random() -> float:
        return _WORLD[-1].rng.random()


def _clock() -> float:
    """Virtual time; a call costs 20 µs, or a loop that waits for time to pass would never end."""
    world = _WORLD[-1]
    world.clock_calls += 1
    return 1000.0 + world.now + world.clock_calls * 2e-5


stock.monotonicTime = _clock
stock.random = _Random
stock.createPoller = lambda _: _Poller()
stock.PIPE_NOTIFIER_ENABLED = False
logging.disable(logging.CRITICAL)


class _SimTransport(Transport):
    """Hands messages to the simulated network."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(None, None, [])
        self.world = world
        self.name = name

    def send(self, node: Node, message: Any) -> bool:
        self.world.network.send(self.world.now, self.name, node.id, message)
        return True

    def receive(self, sender: str, message: Any) -> None:
        self._onMessageReceived(self.world.node_objects[sender], message)

    def connected(self, peer: str) -> None:
        self._onNodeConnected(self.world.node_objects[peer])

    def disconnected(self, peer: str) -> None:
        self._onNodeDisconnected(self.world.node_objects[peer])


class Machine(SyncObj):
    """A list of commands."""

    def __init__(
        self, name: str, others: list[Node], conf: SyncObjConf, transport: Transport, me: Node
    ) -> None:
        super().__init__(me, others, conf=conf, transport=transport)
        self.items: list[str] = []

    @replicated
    def put(self, command: str) -> int:
        self.items.append(command)
        return _WORLD[-1].applied(self, command)


class Member:
    def __init__(self, world: World, name: str, directory: str) -> None:
        self.world = world
        self.name = name
        self.live = os.path.join(directory, name, "live")
        self.saved = os.path.join(directory, name, "saved")
        os.makedirs(self.live)
        os.makedirs(self.saved)
        self.machine: Machine | None = None
        self.transport: _SimTransport | None = None
        self.paused_until = 0.0
        self.broken = False

    def start(self) -> None:
        world = self.world
        conf = SyncObjConf(
            autoTick=False,
            journalFile=os.path.join(self.live, "journal"),
            fullDumpFile=os.path.join(self.live, "dump") if world.options.snapshots else None,
            useFork=False,
            logCompactionMinEntries=world.rng.choice((15, 40, 100)) if world.options.snapshots else 10**9,
            logCompactionMinTime=10**9,
            logCompactionBatchSize=world.rng.choice((64, 65536)),
            appendEntriesBatchSizeBytes=world.rng.choice((150, 1000, 65536)),
            appendEntriesUseBatch=world.rng.random() < 0.5,
        )
        self.transport = _SimTransport(world, self.name)
        others = [node for name, node in world.node_objects.items() if name != self.name]
        self.broken = False
        try:
            self.machine = Machine(self.name, others, conf, self.transport, world.node_objects[self.name])
        except Exception:  # as shipped, a damaged journal keeps it from starting: dead, not unsafe
            self.machine = None
            return
        for other in world.members.values():
            if other is not self and other.machine is not None and other.transport is not None:
                self.transport.connected(other.name)
                other.transport.connected(self.name)
        self.tick()

    def write_back(self) -> None:
        """The kernel writes dirty pages by and by; nothing else ever reaches the disk."""
        shutil.rmtree(self.saved)
        shutil.copytree(self.live, self.saved)

    def crash(self, kind: str) -> None:
        if self.machine is None:
            return
        self.machine._SyncObj__raftLog._destroy()  # type: ignore[attr-defined]  # only closes the files
        self.machine = None
        if kind == "power":
            shutil.rmtree(self.live)
            shutil.copytree(self.saved, self.live)
        for other in self.world.members.values():
            if other is not self:
                self.world.network.reset(self.name, other.name)
                if other.transport is not None and other.machine is not None:
                    other.transport.disconnected(self.name)

    def tick(self) -> None:
        """An exception in a tick is logged and the tick repeated, as its thread does; the node stays as it is."""
        if self.machine is not None:
            try:
                self.machine.doTick(0.0)
            except Violation:
                raise
            except Exception:
                self.broken = True

    def receive(self, sender: str, message: Any) -> None:
        assert self.transport is not None
        try:
            self.transport.receive(sender, message)
        except Violation:
            raise
        except Exception:
            self.broken = True


class World:
    def __init__(self, seed: int, options: argparse.Namespace, directory: str) -> None:
        self.rng = random.Random(f"{seed}/stock")
        self.options = options
        self.now = 0.0
        self.clock_calls = 0
        self.sequence = 0
        self.heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.network = Network(
            kind=options.net,
            rng=random.Random(f"{seed}/network"),
            schedule=self.at,
            deliver=self.deliver,
            copy=lambda message: pickle.loads(pickle.dumps(message)),
        )
        self.network.faulty = options.faults == "all"
        names = [f"n{number}" for number in range(1, options.voters + 1)]
        self.node_objects = {name: Node(name) for name in names}
        self.members = {name: Member(self, name, directory) for name in names}
        self.at_index: dict[int, str] = {}
        self.acknowledged: dict[str, None] = {}
        self.number = 0
        self.calm = False

    def at(self, when: float | None, function: Callable[..., None], *arguments: Any) -> None:
        if when is None:
            when = self.now + self.rng.uniform(0.05, 3.0)
        self.sequence += 1
        heapq.heappush(self.heap, (max(when, self.now), self.sequence, function, arguments))

    def run_until(self, end: float) -> None:
        while self.heap and self.heap[0][0] <= end:
            self.now, _, function, arguments = heapq.heappop(self.heap)
            self.clock_calls = 0
            function(*arguments)
        self.now = end

    def applied(self, machine: Machine, command: str) -> int:
        """StateMachineSafety: one entry per index, on all nodes, for ever."""
        index = machine._SyncObj__raftLastApplied + 1  # type: ignore[attr-defined]
        other = self.at_index.setdefault(index, command)
        if other != command:
            mine, others = command.split(":")[0], other.split(":")[0]
            raise Violation(
                f"StateMachineSafety: entry {index} is command {others} on one node, {mine} on {machine.selfNode.id}"
            )
        return index

    def deliver(self, sender: str, to: str, epoch: int, message: Any) -> None:
        member = self.members[to]
        if member.machine is None:
            return
        if member.paused_until > self.now:
            self.at(member.paused_until, self.deliver, sender, to, epoch, message)
            return
        member.receive(sender, message)
        if self.rng.random() < 0.5:
            member.tick()

    def ticker(self, member: Member) -> None:
        if member.paused_until <= self.now:
            member.tick()
        self.at(self.now + 0.02, self.ticker, member)

    def client(self) -> None:
        up = [m for m in self.members.values() if m.machine is not None and m.paused_until <= self.now]
        if up:
            member = self.rng.choice(up)
            self.number += 1
            command = f"{self.number}:" + "x" * self.rng.randint(0, 250)
            assert member.machine is not None

            def done(_: Any, error: Any) -> None:
                if error == FAIL_REASON.SUCCESS:
                    self.acknowledged[command] = None

            member.machine.put(command, callback=done)
        self.at(self.now + self.rng.uniform(0, 0.04), self.client)

    def writeback(self, member: Member) -> None:
        if member.machine is not None:
            member.write_back()
        self.at(self.now + self.rng.uniform(0.0, 2.0), self.writeback, member)

    def restart(self, member: Member) -> None:
        if member.machine is None:
            member.start()

    def fault(self) -> None:
        rng = self.rng
        if self.calm:
            return
        names = list(self.members)
        kinds = ["reset", "isolate", "heal", "heal", "pause"]
        if self.options.crash != "none":
            kinds += ["crash", "crash", "crash all"]
        kind = rng.choice(kinds)
        member = self.members[rng.choice(names)]
        if kind == "reset":
            self.network.reset(*rng.sample(names, 2))
        elif kind == "isolate":
            for other in names:
                if other != member.name:
                    self.network.cuts |= {(member.name, other), (other, member.name)}
        elif kind == "heal":
            self.network.cuts.clear()
        elif kind == "pause":
            member.paused_until = self.now + rng.choice((0.1, 0.6, 1.5))
        else:
            for victim in self.members.values() if kind == "crash all" else (member,):
                victim.crash(self.options.crash)
                self.at(self.now + rng.uniform(0.0, 1.0), self.restart, victim)
        self.at(self.now + rng.uniform(0.1, 1.5), self.fault)

    def play(self) -> bool:
        """Raises Violation. True if all came together in the end."""
        for member in self.members.values():
            member.start()
            self.at(self.rng.uniform(0, 0.02), self.ticker, member)
            self.at(self.rng.uniform(0, 2.0), self.writeback, member)
        self.at(3.0, self.client)
        if self.options.faults == "all":
            self.at(4.0, self.fault)
        self.run_until(14.0)
        self.calm = True
        self.network.heal()
        for member in self.members.values():
            member.paused_until = 0.0
            self.restart(member)
        self.heap = [event for event in self.heap if event[2] != self.client]
        heapq.heapify(self.heap)
        self.run_until(28.0)
        lists = [m.machine.items for m in self.members.values() if m.machine is not None]
        longest = max(lists, key=len)
        for items in lists:
            if items != longest[: len(items)]:
                raise Violation("StateMachineSafety: two nodes' states are no prefixes of one another")
        missing = [command for command in self.acknowledged if command not in set(longest)]
        if missing:
            raise Violation(f"Lost: {len(missing)} acknowledged commands, first {missing[0][:8]}")
        return all(len(items) == len(longest) for items in lists) and len(lists) == len(self.members)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.raft.pysyncobj_reference", description=__doc__)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--voters", type=int, default=3)
    parser.add_argument("--net", choices=("tcp", "late"), default="tcp")
    parser.add_argument("--crash", choices=("none", "kill", "power"), default="none")
    parser.add_argument("--faults", choices=("all", "none"), default="all")
    parser.add_argument("--snapshots", action="store_true")
    options = parser.parse_args()
    unsafe: dict[int, str] = {}
    stuck = acknowledged = 0
    for seed in range(options.first, options.first + options.seeds):
        with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as directory:
            world = World(seed, options, directory)
            _WORLD[:] = [world]
            try:
                stuck += not world.play()
            except Violation as violation:
                unsafe[seed] = str(violation)
            acknowledged += len(world.acknowledged)
    print(
        json.dumps({"seeds": options.seeds, "acknowledged": acknowledged, "stuck": stuck, "unsafe": unsafe})
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
