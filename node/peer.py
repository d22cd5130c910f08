"""One node, put together: what starts in which order, what stops in which order, and what ends the node.

Start                                              Stop (graceful)
 1. the data directory is locked                    1. the API takes no new connections; streams end
 2. the user's step types are loaded                2. no more tasks are handed out; running ones get their time
 3. the stores are opened (live state)              3. requests under way get their answers
 4. the API listens: alive, not ready (503)         4. runners end; what they had is reported
 5. the log is opened and its tail applied          5. the stores are flushed: a restart has nothing to replay
 6. the runners start                               6. the log is closed, then the stores
 7. tasks flow; the node is ready                   7. the lock is given back

kill -9 at any point loses nothing that was acknowledged; the order only makes the next start quick and clients happy.
A background part that ends by itself ends the node, with an error that names it (`PeerFailed`).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Mapping
from importlib.metadata import version
from typing import Any

import uvloop

from node.api.routes import Api, ApiParts
from node.checking import CheckReport, check_payload
from node.coordinator.compiler import language_compiler
from node.coordinator.coordinator import Coordinator
from node.errors import ThaiyyalError
from node.settings import NodeSettings
from node.worker.messages import TaskOutcome
from node.worker.pool import WorkerPool
from node.worker.user_steps import StepTypesInvalid, load_step_types
from raft.driver import Raft
from raft.errors import RaftError
from raft.files import DirectoryLock
from workflow.level2.types import LEVEL2
from workflow.steps.base import StepType
from workflow.steps.registry import LEVEL1

log = logging.getLogger(__name__)

_LOCAL = "local"  # the worker of this very node


class PeerFailed(Exception):
    """The node cannot start, or a part of it ended; the text is one line for people."""


class Peer:
    """One node in this process. `start`, then `wait_failed` beside a wait for the signal, then `stop`."""

    def __init__(self, settings: NodeSettings) -> None:
        self._settings = settings
        self._started_at = time.time()
        self._lock: DirectoryLock | None = None
        self._user_types: Mapping[str, StepType] = {}
        self._coordinator: Coordinator | None = None
        self._raft: Raft | None = None
        self._pool: WorkerPool | None = None
        self._api: Api | None = None
        self._serving: asyncio.Task[None] | None = None
        self._stage = "starting"
        self._faulted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.address: tuple[str, int] = ("", 0)

    # ---- life -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Everything up, in the order of the module's docstring. Raises PeerFailed, with everything down again."""
        try:
            await self._start()
        except BaseException as error:
            await self._tear_down()
            explained = explain_start_failure(error, self._settings)
            if explained is None:
                raise
            raise PeerFailed(explained) from error

    async def _start(self) -> None:
        settings = self._settings
        directory = settings.data_dir
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        asyncio.get_running_loop().set_exception_handler(self._on_loop_exception)
        self._lock = DirectoryLock(directory)
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())  # --load finds modules beside the user, as `python -m` does
        self._user_types = load_step_types(settings.worker.load)
        self._coordinator = coordinator = Coordinator(
            directory,
            compile_payload=language_compiler({**LEVEL1, **self._user_types}, settings.worker.language),
            settings=settings.coordinator,
        )
        self._api = Api(self._api_parts(coordinator))
        self.address = await self._api.start()
        self._stage = "reading the log"
        self._raft = raft = await Raft.open(
            data_dir=directory,
            state_machine=coordinator.replica,
            settings=settings.raft,
            listener=coordinator.on_raft_event,
        )
        coordinator.attach_log(raft)
        self._serving = asyncio.create_task(coordinator.serve(), name="coordinator")
        self._stage = "starting the runners"
        self._pool = pool = WorkerPool(
            slots=settings.slots,
            settings=settings.worker,
            on_results=self._take_outcomes,
            on_heartbeats=coordinator.leader.heartbeats,
            fetch_plan=coordinator.fetch_plan,
        )
        await pool.start()
        coordinator.leader.attach(_LOCAL, pool, capacity=pool.credits_max)
        self._stage = ""
        await self._wait_leading()
        _settle_memory()
        log.info(
            "the node is ready",
            extra={
                "event": "node.ready",
                "api": f"http://{self.address[0]}:{self.address[1]}",
                "data_dir": str(directory),
                "slots": settings.slots,
                "executions": coordinator.stats()["executions_live"],
                "seconds": round(time.time() - self._started_at, 3),
            },
        )

    async def _wait_leading(self) -> None:
        """A group of one elects itself at once; until then its tail is not applied."""
        coordinator, raft = self._coordinator, self._raft
        assert coordinator is not None
        assert raft is not None
        stopped = asyncio.ensure_future(raft.wait_stopped())
        try:
            while not coordinator.is_leading:
                await asyncio.wait({stopped}, timeout=0.005)
                if stopped.done():
                    stopped.result()
                    raise PeerFailed("the log was closed while the node started")
        finally:
            stopped.cancel()
            await asyncio.wait({stopped})

    async def wait_failed(self) -> None:
        """Raises PeerFailed when a part of the node has ended by itself; never returns."""
        assert self._raft is not None
        assert self._serving is not None
        log_stopped = asyncio.create_task(self._raft.wait_stopped(), name="log")
        parts: dict[asyncio.Future[None], str] = {
            log_stopped: "log",
            self._serving: "coordinator",
            self._faulted: "event loop",
        }
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            log_stopped.cancel()
        for part in done:
            error = part.exception() if not part.cancelled() else None
            log.error(
                "a part of the node has ended",
                exc_info=error,
                extra={"event": "node.part_ended", "part": parts[part]},
            )
            reason = f"{type(error).__name__}: {error}" if error is not None else "it returned"
            raise PeerFailed(f"the node stops: its {parts[part]} has failed ({reason})") from error

    def _on_loop_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception in a callback is a fault in a core: its state is not to be trusted, so the node ends.

        What concerns one connection (a protocol) or a task that nobody waits for is logged, and the node goes on.
        """
        error = context.get("exception")
        log.error(
            context.get("message", "unhandled exception in the event loop"),
            exc_info=error,
            extra={"event": "node.loop_fault"},
        )
        if "handle" in context and error is not None and not self._faulted.done():
            self._faulted.set_exception(error)

    async def stop(self) -> None:
        """Everything down, in the order of the module's docstring, within `stop_timeout_s`."""
        self._stage = "stopping"
        log.info("the node stops", extra={"event": "node.stopping"})
        try:
            async with asyncio.timeout(self._settings.stop_timeout_s):
                await self._stop_gracefully()
        except TimeoutError:
            log.warning(
                "the stop took too long and is cut short; nothing acknowledged is lost",
                extra={"event": "node.stop_cut_short", "limit": "stop_timeout_s"},
            )
        finally:
            await self._tear_down()
        log.info("the node has stopped", extra={"event": "node.stopped"})

    async def _stop_gracefully(self) -> None:
        if self._api is not None:
            await self._api.stop_listening()
        if self._coordinator is not None:
            self._coordinator.leader.set_capacity(_LOCAL, 0)
        if self._api is not None:
            await self._api.close()
            self._api = None
        if self._pool is not None:
            await self._pool.close(drain_s=self._settings.drain_s)
            self._pool = None
        if self._coordinator is not None and self._raft is not None and self._raft.status().failure is None:
            await self._coordinator.flush()

    async def _tear_down(self) -> None:
        """Let go of everything that is still held, whatever state it is in. Idempotent."""
        api, self._api = self._api, None
        if api is not None:
            await api.close(0.2)
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()
        serving, self._serving = self._serving, None
        if serving is not None:
            serving.cancel()
            await asyncio.wait({serving})
        raft, self._raft = self._raft, None
        if raft is not None:
            await raft.close()
        coordinator, self._coordinator = self._coordinator, None
        if coordinator is not None:
            await coordinator.close()
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    # ---- between the parts ------------------------------------------------------------------------------------

    def _take_outcomes(self, outcomes: list[TaskOutcome]) -> None:
        if self._coordinator is not None:
            self._coordinator.leader.outcomes(_LOCAL, outcomes)

    def _api_parts(self, coordinator: Coordinator) -> ApiParts:
        def check(payload: bytes) -> CheckReport:
            return check_payload(payload, self._user_types)

        return ApiParts(
            engine=coordinator,
            settings=self._settings.api,
            data_dir=self._settings.data_dir,
            check=check,
            step_types=self._step_types,
            facts=self._facts,
            ready=self.not_ready_reason,
        )

    def not_ready_reason(self) -> str:
        """Why starts are not accepted now; "" when they are."""
        if self._stage:
            return f"the node is {self._stage}" if self._stage == "stopping" else f"starting: {self._stage}"
        if self._coordinator is None or not self._coordinator.is_leading:
            return "the log has no leader here"
        return ""

    def _step_types(self) -> list[dict[str, Any]]:
        tables = ((1, LEVEL1), (2, LEVEL2))
        found: dict[str, dict[str, Any]] = {}
        for level, table in tables:
            for kind in table.values():
                entry = found.setdefault(kind.name, {"name": kind.name, "effect": kind.effect, "levels": []})
                entry["levels"].append(level)
        for kind in self._user_types.values():
            found[kind.name] = {"name": kind.name, "effect": kind.effect, "levels": [1, 2], "user": True}
        return [found[name] for name in sorted(found)]

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "version": version("thaiyyal-node"),
            "node_id": self._raft.node_id if self._raft is not None else "",
            "pid": os.getpid(),
            "api": f"http://{self.address[0]}:{self.address[1]}",
            "data_dir": str(self._settings.data_dir.resolve()),
            "uptime_s": round(time.time() - self._started_at, 1),
        }
        if self._raft is not None:
            status = self._raft.status()
            facts["raft"] = {
                "role": status.role.value,
                "term": status.term,
                "leader_id": status.leader_id,
                "commit_index": status.commit_index,
                "applied_index": status.applied_index,
                "snapshot_index": status.snapshot_index,
                "sync_latency_ms": round(status.sync_latency_s * 1000, 3),
                "storage_full": status.storage_full,
            }
        if self._pool is not None:
            pool = self._pool.stats()
            facts["runners"] = {
                "slots": pool.slots,
                "runners_ready": pool.runners_ready,
                "runner_pids": list(pool.runner_pids),
                "backlog": pool.backlog,
                "running": pool.running_cpu + pool.running_io,
                "finished": pool.finished,
                "lost": pool.lost,
                "runners_lost": pool.runners_lost,
            }
        return facts


def _settle_memory() -> None:
    """What is in memory after the start stays: keep the collector from walking it, and from running too often.

    A node makes many small objects that die by reference count; full collections of a big heap would be pauses.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def explain_start_failure(error: BaseException, settings: NodeSettings) -> str | None:
    """One line for what an operator can mend; None for what is a fault of ours and keeps its traceback."""
    if isinstance(error, PeerFailed | RaftError | StepTypesInvalid | ThaiyyalError):
        return str(error)
    if isinstance(error, sqlite3.Error):
        return f"a store in {settings.data_dir} cannot be opened: {error}"
    if isinstance(error, OSError):
        if error.errno == errno.EADDRINUSE:
            return (
                f"port {settings.api.port} on {settings.api.host} is in use by another process; "
                "choose another one with --api HOST:PORT, or port 0 for a free one"
            )
        if error.errno in (errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM) and error.filename is None:
            return f"the API cannot listen on {settings.api.host}:{settings.api.port}: {os.strerror(error.errno)}"
        if isinstance(error, socket.gaierror):
            return f"the API cannot listen on {settings.api.host}:{settings.api.port}: {error.strerror}"
        where = error.filename or settings.data_dir
        return f"the data directory cannot be used: {where}: {error.strerror or error}"
    return None


# ---- a process around a peer ---------------------------------------------------------------------------------


def run_peer(settings: NodeSettings) -> None:
    """Run a node until SIGINT or SIGTERM; blocks. Raises PeerFailed. A second signal ends the process at once."""
    uvloop.run(_run(settings))


async def _run(settings: NodeSettings) -> None:
    loop = asyncio.get_running_loop()
    signalled = asyncio.Event()

    def on_signal() -> None:
        if signalled.is_set():
            os._exit(130)
        signalled.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    async with _started(settings, signalled) as peer:
        if peer is None:
            return
        ends = asyncio.create_task(signalled.wait(), name="signal")
        fails = asyncio.create_task(peer.wait_failed(), name="parts")
        try:
            await asyncio.wait({ends, fails}, return_when=asyncio.FIRST_COMPLETED)
            if fails.done():
                fails.result()
        finally:
            ends.cancel()
            fails.cancel()
            await asyncio.wait({ends, fails})


@contextlib.asynccontextmanager
async def _started(settings: NodeSettings, signalled: asyncio.Event) -> AsyncIterator[Peer | None]:
    """A started peer, stopped at the end; None when the signal came before it had started."""
    peer = Peer(settings)
    starting = asyncio.create_task(peer.start(), name="start")
    ends = asyncio.create_task(signalled.wait(), name="signal")
    try:
        await asyncio.wait({starting, ends}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ends.cancel()
        await asyncio.wait({ends})
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
        yield None
        return
    starting.result()
    try:
        yield peer
    finally:
        await peer.stop()
