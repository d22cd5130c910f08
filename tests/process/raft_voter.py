"""One voter in a process of its own, for tests and benchmarks of raft/: a key-value state machine behind a TCP port.

`python -m tests.process.raft_voter <json options>`. Prints one line of JSON when it listens, then serves requests:
frames of msgpack with a length of four bytes, `[id, operation, arguments]` -> `[id, code, definite, result]`, where the
code is "ok" or that of a RaftError.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from time import perf_counter
from typing import Any

import msgspec

from raft import Raft, Settings, TcpTransport
from raft.errors import RaftError

_LENGTH = struct.Struct(">I")


class Counting:
    """Keeps every command once by its id, and a hash of the state after each index.

    A command is `[id, value]` in msgpack. Applying one twice (a client's retry) changes nothing and answers the same.
    """

    def __init__(self) -> None:
        self.applied_index = 0
        self.values: dict[str, int] = {}
        self.applications = 0
        self.digest = b""
        self.digests: dict[int, str] = {}

    def apply(self, index: int, term: int, commands: Sequence[bytes]) -> Sequence[object]:
        results = []
        digest = hashlib.blake2b(self.digest + index.to_bytes(8, "big"), digest_size=16)
        for command in commands:
            digest.update(command)
            name = msgspec.msgpack.decode(command)[0]
            if name not in self.values:
                self.applications += 1
                self.values[name] = self.applications
            results.append(self.values[name])
        self.digest = digest.digest()
        self.digests[index] = self.digest.hex()
        self.applied_index = index
        return results

    def durable_index(self) -> int:
        return self.applied_index

    def begin_snapshot(self) -> tuple[int, Iterator[bytes]]:
        image = msgspec.msgpack.encode([self.values, self.applications, self.digest])
        return self.applied_index, iter([image[i : i + 65536] for i in range(0, len(image), 65536)])

    def restore(self, index: int, term: int, chunks: Iterable[bytes]) -> None:
        self.values, self.applications, self.digest = msgspec.msgpack.decode(b"".join(chunks))
        self.applied_index = index
        self.digests[index] = self.digest.hex()


class Null(Counting):
    """Applies nothing, for benchmarks: the log is what is measured."""

    def apply(self, index: int, term: int, commands: Sequence[bytes]) -> Sequence[object]:
        self.applied_index = index
        return [None] * len(commands)


async def serve(options: dict[str, Any]) -> None:
    transport = TcpTransport(listen=options["listen"])
    await transport.listen()
    machine = Null() if options.get("null") else Counting()
    raft = await Raft.open(
        data_dir=options["data_dir"],
        node_id=options["node_id"],
        initial_voters=options["voters"],
        state_machine=machine,
        transport=transport,
        settings=Settings(**options.get("settings", {})),
    )
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)

    async def answer(request: list[Any], writer: asyncio.StreamWriter) -> None:
        number, operation, arguments = request
        try:
            reply = [number, "ok", True, await perform(raft, machine, operation, arguments)]
        except RaftError as error:
            reply = [number, error.code, error.definite, getattr(error, "leader_id", None)]
        frame = msgspec.msgpack.encode(reply)
        writer.write(_LENGTH.pack(len(frame)) + frame)

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks: set[asyncio.Task[None]] = set()
        try:
            while True:
                (size,) = _LENGTH.unpack(await reader.readexactly(4))
                request = msgspec.msgpack.decode(await reader.readexactly(size))
                task = loop.create_task(answer(request, writer))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            for task in tasks:
                task.cancel()
            writer.close()

    host, _, port = options.get("client_listen", "127.0.0.1:0").rpartition(":")
    server = await asyncio.start_server(client, host, int(port))
    address = server.sockets[0].getsockname()
    print(json.dumps({"client": f"{address[0]}:{address[1]}", "pid": os.getpid()}), flush=True)
    stopped = loop.create_task(raft.wait_stopped())
    await asyncio.wait([stopped, loop.create_task(stopping.wait())], return_when=asyncio.FIRST_COMPLETED)
    server.close()
    await raft.close()


async def perform(raft: Raft, machine: Counting, operation: str, arguments: list[Any]) -> Any:
    if operation == "propose":
        return await raft.propose(arguments[0])
    if operation == "read":
        await raft.read_barrier()
        return machine.values.get(arguments[0])
    if operation == "status":
        return msgspec.to_builtins(raft.status())
    if operation == "digests":
        return machine.digests
    if operation == "values":
        return machine.values
    if operation == "barrier":
        return await raft.read_barrier()
    if operation == "snapshot":
        return await raft.snapshot()
    if operation == "transfer":
        return await raft.transfer_leadership(*arguments)
    if operation == "add_learner":
        return await raft.add_learner(*arguments)
    if operation == "promote":
        return await raft.promote(*arguments)
    if operation == "remove":
        return await raft.remove(*arguments)
    if operation == "load":
        return await load(raft, **arguments[0])
    raise ValueError(f"unknown operation {operation}")


async def load(raft: Raft, *, seconds: float, size: int, window: int, warmup: float = 0.2) -> dict[str, Any]:
    """Generate commands inside the leader, `window` of them waiting at any time; the rate and latencies."""
    loop = asyncio.get_running_loop()
    payload = os.urandom(size)
    begin = perf_counter()
    measured_from, end = begin + seconds * warmup, begin + seconds
    latencies: list[float] = []
    finished = loop.create_future()
    running = window

    def start() -> None:
        asked = perf_counter()
        raft.propose_nowait(payload).add_done_callback(lambda future: done(future, asked))

    def done(future: asyncio.Future[Any], asked: float) -> None:
        nonlocal running
        error = future.exception()
        now = perf_counter()
        if error is not None:
            if not finished.done():
                finished.set_exception(error)
            return
        if now >= measured_from:
            latencies.append(now - asked)
        if now < end:
            start()
        else:
            running -= 1
            if not running and not finished.done():
                finished.set_result(None)

    for _ in range(window):
        start()
    cpu_from = sum(os.times()[:2])
    await finished
    cpu = sum(os.times()[:2]) - cpu_from
    latencies.sort()
    span = perf_counter() - measured_from

    def percentile(share: float) -> float:
        return latencies[min(len(latencies) - 1, int(len(latencies) * share))] * 1e3

    return {
        "per_second": len(latencies) / span,
        "p50_ms": percentile(0.5),
        "p95_ms": percentile(0.95),
        "p99_ms": percentile(0.99),
        "cpu_share": cpu / (seconds),
    }


def main() -> None:
    options = json.loads(sys.argv[1])
    if options.get("uvloop", True):
        import uvloop

        uvloop.run(serve(options))
    else:
        asyncio.run(serve(options))


if __name__ == "__main__":
    main()
