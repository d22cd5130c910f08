"""Step types of the user's for the level-2 tests; each process counts in files, since runners come and go."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from thaiyyal import StepContext, StepFailed, step_type


def _count(file: str) -> int:
    path = Path(file)
    with path.open("a") as lines:
        lines.write("x\n")
    return len(path.read_text().splitlines())


@step_type("fails_at_first")
def fails_at_first(_: Any = None, *, file: str, times: float, value: Any = None) -> Any:
    """Fails so many times, then gives its value."""
    if _count(file) <= times:
        raise StepFailed("not yet", retryable=True)
    return value


@step_type("always_fails")
def always_fails(_: Any = None, *, message: str = "broken", type: str = "") -> None:
    raise StepFailed(message, retryable=True)


@step_type("naps", effect="pure")
async def naps(value: Any = None, *, seconds: float) -> dict[str, float]:
    """Sleeps, and says when it did."""
    began = time.time()
    await asyncio.sleep(seconds)
    return {"began": began, "ended": time.time()}


@step_type("now", effect="read")
def now(_: Any = None) -> float:
    return time.time()


@step_type("fails_on", effect="read")
def fails_on(value: Any = None, *, given: float, bad: list[Any]) -> float:
    """Fails when the number is among the bad ones, else doubles it."""
    if given in bad:
        raise StepFailed(f"{given:g} is bad", retryable=False)
    return given * 2


@step_type("heartbeats")
async def heartbeats(_: Any = None, *, file: str, ctx: StepContext) -> Any:
    """Reports a heartbeat and stalls, the first time; then gives what the attempt before had reported."""
    if _count(file) == 1:
        ctx.heartbeat({"done": 7})
        await asyncio.sleep(60)
    return ctx.heartbeat_details
