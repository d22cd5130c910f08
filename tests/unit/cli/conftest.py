"""The command in this process, against an API over the memory engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from cli.main import main
from tests.api_server import Served, serve


class Result(NamedTuple):
    status: int
    out: str
    err: str


Command = Callable[..., Awaitable[Result]]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(tmp_path) as server:
        yield server


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run `thaiyyal-node ARGUMENTS` in a thread: its status, standard output and standard error."""
    monkeypatch.delenv("THAIYYAL_NODE", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def run(arguments: tuple[str, ...]) -> int:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert isinstance(ended.value.code, int)
        return ended.value.code

    async def in_thread(*arguments: str) -> Result:
        status = await asyncio.to_thread(run, arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return Result(status, out, err)

    return in_thread
