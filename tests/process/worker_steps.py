"""Step types for the tests of the worker pool; loaded in real runners by `load=("tests.process.worker_steps",)`."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from thaiyyal import StepContext, StepFailed, step_type


@step_type("plus_one", effect="pure")
def plus_one(given: float | None = None, *, number: float = 0.0) -> float:
    return (number if given is None else given) + 1


@step_type("raise_unreadable", effect="pure")
def raise_unreadable(_: Any = None, *, how: str) -> None:
    """Raises an error that cannot be sent as it is."""
    if how == "text":
        raise ValueError("half of a pair: \ud800")
    if how == "code":
        raise StepFailed("the code is a number", code=5)  # type: ignore[arg-type]
    raise KeyboardInterrupt


@step_type("raise_unreadable_awaiting", effect="pure")
async def raise_unreadable_awaiting(_: Any = None, *, how: str) -> None:
    """The same from a task that may await."""
    await asyncio.sleep(0)
    if how == "text":
        raise ValueError("half of a pair: \ud800")
    raise StepFailed("the code is a number", code=5)  # type: ignore[arg-type]


@step_type("pid_of_runner", effect="pure")
def pid_of_runner(*, seconds: float = 0.0) -> int:
    time.sleep(seconds)
    return os.getpid()


@step_type("sleep_awaiting", effect="pure")
async def sleep_awaiting(_: Any = None, *, seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


@step_type("touch_and_await")
async def touch_and_await(_: Any = None, *, file: str) -> None:
    """Makes a file, then waits for ever; cancellation ends it."""
    Path(file).touch()
    await asyncio.Event().wait()


@step_type("touch_and_spin")
def touch_and_spin(_: Any = None, *, file: str) -> None:
    """Makes a file, then computes for ever and lets nothing end it."""
    Path(file).touch()
    while True:
        pass


@step_type("touch_and_obey")
def touch_and_obey(_: Any = None, *, file: str, ctx: StepContext) -> str:
    """Makes a file, then computes until it is cancelled."""
    Path(file).touch()
    while not ctx.cancelled:
        time.sleep(0.001)
    return "stopped early"


@step_type("touch_and_ignore_cancel")
async def touch_and_ignore_cancel(_: Any = None, *, file: str) -> None:
    Path(file).touch()
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


@step_type("block_loop")
async def block_loop(_: Any = None, *, file: str) -> None:
    """An async step that forgets to await."""
    Path(file).touch()
    while True:
        pass


@step_type("wait_for_file", effect="pure")
def wait_for_file(_: Any = None, *, file: str) -> bool:
    while not Path(file).exists():
        time.sleep(0.001)
    return True


@step_type("eat_memory")
def eat_memory() -> int:
    return len(bytearray(1 << 40))


@step_type("end_process")
def end_process(_: Any = None, *, how: str) -> None:
    if how == "exit":
        os._exit(7)
    if how == "segfault":
        ctypes.string_at(0)
    os.kill(os.getpid(), signal.SIGKILL)


@step_type("call_sys_exit")
def call_sys_exit() -> None:
    sys.exit(3)


@step_type("return_odd")
def return_odd(_: Any = None, *, what: str) -> Any:
    values: dict[str, Any] = {
        "set": {1, 2},
        "object": object(),
        "bytes": {"deep": [b"x"]},
        "int_key": {1: 2},
        "huge_int": 1 << 70,
        "endless": None,
        "surrogate": "\ud800",
        "coroutine": None,
        "large": "x" * 3_000_000,
    }
    if what == "endless":
        loop: list[Any] = []
        loop.append(loop)
        return loop
    if what == "coroutine":
        return asyncio.sleep(0)
    return values[what]


@step_type("raise_error")
def raise_error(_: Any = None, *, retryable: bool = True) -> None:
    if retryable:
        raise ValueError("that is no good")
    raise StepFailed("never again", code="no_use", retryable=False)


@step_type("talk")
def talk(_: Any = None, *, lines: int = 1, ctx: StepContext) -> None:
    for number in range(lines):
        print(f"printed {number}")
    print("to stderr", file=sys.stderr)
    ctx.log("logged", answer=42)
    os.write(1, b"written to the descriptor\n")
    sys.stdout.write("no newline")


@step_type("heartbeats")
def heartbeats(_: Any = None, *, ctx: StepContext) -> Any:
    ctx.heartbeat({"done": 1})
    ctx.heartbeat({"done": 2})
    if ctx.heartbeat_details is None:
        raise ValueError("stopped half way")
    return ctx.heartbeat_details


@step_type("context_of_step", effect="pure")
def context_of_step(*, ctx: StepContext) -> dict[str, Any]:
    return {
        "execution_id": ctx.execution_id,
        "step_id": ctx.step_id,
        "attempt": ctx.attempt,
        "idempotency_key": ctx.idempotency_key,
        "inputs": list(ctx.inputs),
        "data": dict(ctx.data),
    }


@step_type("environment_of_runner", effect="pure")
def environment_of_runner() -> dict[str, Any]:
    status = Path("/proc/self/status").read_text()
    import resource

    return {
        "environment": dict(os.environ),
        "no_new_privileges": "NoNewPrivs:\t1" in status,
        "core_limit": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "address_space_limit": resource.getrlimit(resource.RLIMIT_AS)[0],
        "files_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "is_group_leader": os.getpgrp() == os.getpid(),
        "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd")),
    }


@step_type("start_child")
def start_child(_: Any = None, *, file: str) -> None:
    """Starts a process that would outlive the runner, says its pid, and then never ends."""
    child = subprocess.Popen(["sleep", "1000"])
    Path(file).write_text(str(child.pid))
    while True:
        time.sleep(1)


@step_type("send_garbage")
def send_garbage(_: Any = None, *, what: str, ctx: StepContext) -> None:
    """Writes to the descriptor of the outbox behind the runner's back."""
    garbage = {
        "noise": b"\x03\x00\x00\x00\xc1\xc1\xc1",
        "huge": b"\xff\xff\xff\xff",
        "wrong_shape": b"\x02\x00\x00\x00\x91\x63",
        "bomb": (1000).to_bytes(4, "little") + b"\x91" * 1000,
    }
    if what in garbage:
        frame = garbage[what]
    else:
        body = msgspec.msgpack.encode([3, [[int(ctx.idempotency_key), b"\xc1", 0, 0, 0]]])
        frame = len(body).to_bytes(4, "little") + body
    os.write(int(sys.argv[2]), frame)
    time.sleep(1000)
