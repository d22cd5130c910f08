"""Starts, kills, pauses and asks voters in processes of their own (see `raft_voter.py`)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import msgspec

_LENGTH = struct.Struct(">I")
ROOT = Path(__file__).parents[2]


class Refused(Exception):
    """The voter answered with an error; `definite` says whether the command is certainly not in the log."""

    def __init__(self, code: str, definite: bool, leader_id: str | None) -> None:
        super().__init__(f"{code} (leader {leader_id})")
        self.code = code
        self.definite = definite
        self.leader_id = leader_id


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Voter:
    """One process and a connection to it."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        self.name = name
        self.options = options
        self.process: asyncio.subprocess.Process | None = None
        self._reader_task: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._number = 0

    @property
    def is_up(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.process.raft_voter",
            json.dumps(self.options),
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"voter {self.name} did not start (exit status {await self.process.wait()})")
        host, _, port = json.loads(line)["client"].rpartition(":")
        reader, self._writer = await asyncio.open_connection(host, int(port))
        self._reader_task = asyncio.get_running_loop().create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                (size,) = _LENGTH.unpack(await reader.readexactly(4))
                number, code, definite, result = msgspec.msgpack.decode(
                    await reader.readexactly(size), strict=False
                )
                future = self._waiting.pop(number, None)
                if future is None or future.done():
                    continue
                if code == "ok":
                    future.set_result(result)
                else:
                    future.set_exception(Refused(code, definite, result))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(Refused("connection_lost", False, None))
            self._waiting.clear()

    async def ask(self, operation: str, *arguments: Any, timeout_s: float = 15.0) -> Any:
        """Raises Refused; a lost connection and a timeout are indefinite."""
        if self._writer is None or not self.is_up:
            raise Refused("down", True, None)
        self._number += 1
        frame = msgspec.msgpack.encode([self._number, operation, arguments])
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[self._number] = future
        self._writer.write(_LENGTH.pack(len(frame)) + frame)
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise Refused("timeout", False, None) from None

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    async def kill(self) -> None:
        """kill -9"""
        with contextlib.suppress(ProcessLookupError):  # it may be dead already, and not reaped
            if self.is_up:
                self.signal(signal.SIGKILL)
        await self._gone()

    async def stop(self) -> None:
        """SIGTERM, and wait."""
        if self.is_up:
            self.signal(signal.SIGTERM)
        await self._gone()

    async def _gone(self) -> None:
        if self.process is not None:
            await self.process.wait()
            # asyncio keeps the pipe's transport open until its end was read
            assert self.process.stdout is not None
            await self.process.stdout.read()
            self.process._transport.close()  # type: ignore[attr-defined]
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()
            self._writer = None
        if self._reader_task is not None:
            self._reader_task.cancel()
            await asyncio.gather(self._reader_task, return_exceptions=True)
            self._reader_task = None


class Cluster:
    """`count` voters on loopback; use as an async context manager."""

    def __init__(
        self,
        directory: Path,
        count: int,
        *,
        settings: dict[str, Any] | None = None,
        spares: int = 0,
        **options: Any,
    ) -> None:
        self._leader_seen: str | None = None
        names = [f"n{number}" for number in range(1, count + 1)]
        spare_names = [f"s{number}" for number in range(1, spares + 1)]
        self.addresses = {name: f"127.0.0.1:{free_port()}" for name in names + spare_names}
        founders = {name: self.addresses[name] for name in names}
        self.voters = {
            name: Voter(
                name,
                {
                    "node_id": name,
                    "data_dir": str(directory / name),
                    "listen": self.addresses[name],
                    "voters": founders if name in founders else {},
                    "settings": settings or {},
                    **options,
                },
            )
            for name in self.addresses
        }

    async def __aenter__(self) -> Cluster:
        try:
            await asyncio.gather(*[voter.start() for voter in self.voters.values()])
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*[voter.kill() for voter in self.voters.values()])

    def __getitem__(self, name: str) -> Voter:
        return self.voters[name]

    async def leader(self, timeout_s: float = 10.0) -> Voter:
        """The voter that says it leads, in the highest term, once its no-op is applied."""
        async with asyncio.timeout(timeout_s):
            while True:
                found: tuple[int, Voter] | None = None
                for voter in self.voters.values():
                    try:
                        status = await voter.ask("status", timeout_s=0.5)
                    except Refused:
                        continue
                    if status["role"] == "leader" and (found is None or status["term"] > found[0]):
                        found = (status["term"], voter)
                if found is not None:
                    return found[1]
                await asyncio.sleep(0.01)

    async def propose(self, command_id: str, size: int = 40, timeout_s: float = 20.0) -> Any:
        """Until some leader has applied it; retries under the same id."""
        command = msgspec.msgpack.encode([command_id, bytes(size)])
        hint: str | None = self._leader_seen
        async with asyncio.timeout(timeout_s):
            while True:
                targets = [self.voters[hint]] if hint in self.voters else list(self.voters.values())
                hint = None
                for voter in targets:
                    try:
                        result = await voter.ask("propose", command, timeout_s=1.0)
                    except Refused as error:
                        hint = error.leader_id or hint
                    else:
                        self._leader_seen = voter.name
                        return result
                await asyncio.sleep(0.02)

    async def same_digests(self, timeout_s: float = 20.0) -> dict[int, str]:
        """Until all voters have applied equally far; then every index that two of them know must have one state.
        Returns the digests of the furthest."""
        async with asyncio.timeout(timeout_s):
            while True:
                up = [voter for voter in self.voters.values() if voter.is_up]
                statuses = await asyncio.gather(*[voter.ask("status") for voter in up])
                members = set(statuses[0]["voters"]) | set(statuses[0]["learners"])
                counted = [status for status in statuses if status["node_id"] in members]
                ends = {(status["applied_index"], status["commit_index"]) for status in counted}
                if len(ends) == 1 and all(a == c for a, c in ends):
                    break
                await asyncio.sleep(0.05)
        merged: dict[int, str] = {}
        for voter in up:
            for index, digest in (await voter.ask("digests")).items():
                other = merged.setdefault(int(index), digest)
                assert other == digest, f"state at index {index} of {voter.name} differs"
        return merged


class Writers:
    """Writes under ids of their own, one after the other each, until stopped; remembers what was acknowledged."""

    def __init__(self, cluster: Cluster, count: int = 8) -> None:
        self._cluster = cluster
        self._count = count
        self.acknowledged: list[str] = []
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Writers:
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._write(number)) for number in range(self._count)]
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        self._stop.set()
        if kind is not None:  # the story has failed: do not hide why behind writers that cannot end
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=kind is not None)

    async def _write(self, writer: int) -> None:
        number = 0
        while not self._stop.is_set():
            name = f"w{writer}.{number}"
            await self._cluster.propose(name, timeout_s=30.0)
            self.acknowledged.append(name)
            number += 1

    async def more(self, count: int = 100, timeout_s: float = 30.0) -> None:
        """Until `count` more have been acknowledged."""
        target = len(self.acknowledged) + count
        async with asyncio.timeout(timeout_s):
            while len(self.acknowledged) < target:
                await asyncio.sleep(0.01)


async def check(cluster: Cluster, acknowledged: list[str]) -> None:
    """Every acknowledged write is on every voter that is up, once; and their states agree at every index."""
    await cluster.propose("the last one")
    await cluster.same_digests()
    for voter in cluster.voters.values():
        if voter.is_up:
            values = await voter.ask("values")
            missing = [name for name in acknowledged if name not in values]
            assert not missing, f"{voter.name} lacks {len(missing)} acknowledged writes, first {missing[0]}"
            assert sorted(values.values()) == list(range(1, len(values) + 1))
