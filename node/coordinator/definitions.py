"""Raw payload -> compiled definition, remembered by the hash of the raw bytes.

A workflow that is sent inline again and again costs one hash and one lookup. Compiling itself is handed in
as a function (`compiler.py`), so that this file holds nothing but the cache and its bounds.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from workflow.messages import ControlPlan


@dataclass(frozen=True, slots=True)
class Compiled:
    """A definition, ready to be started."""

    plan: bytes  # hash of the canonical payload
    payload: bytes  # canonical
    control: ControlPlan
    control_bytes: bytes
    workflow_id: str
    bind: Callable[[bytes | None], bytes | None] | None = (
        None  # encoded inputs -> checked, with defaults; None: as given
    )


Compile = Callable[[bytes], Compiled]


class Definitions:
    """The cache. Owner of what has been compiled; bounded in number and bytes, least recently used goes first."""

    def __init__(
        self,
        compile_payload: Compile,
        *,
        count_max: int,
        bytes_max: int,
        inline_bytes_max: int,
        thread: bool = True,
    ) -> None:
        self._compile = compile_payload
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._inline_bytes_max = inline_bytes_max
        self._by_raw: OrderedDict[bytes, Compiled] = OrderedDict()
        self._bytes = 0
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="compiler") if thread else None

    def close(self) -> None:
        """End the compiler's thread."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def known(self, raw: bytes) -> Compiled | None:
        """The compiled form if it is remembered."""
        digest = hashlib.sha256(raw).digest()
        found = self._by_raw.get(digest)
        if found is not None:
            self._by_raw.move_to_end(digest)
        return found

    async def compiled(self, raw: bytes) -> Compiled:
        """The compiled form; big payloads are compiled off the loop. Raises RequestInvalid, TooLarge."""
        found = self.known(raw)
        if found is not None:
            return found
        if len(raw) <= self._inline_bytes_max or self._executor is None:
            compiled = self._compile(raw)
        else:
            compiled = await asyncio.get_running_loop().run_in_executor(self._executor, self._compile, raw)
        self._remember(raw, compiled)
        return compiled

    def _remember(self, raw: bytes, compiled: Compiled) -> None:
        digest = hashlib.sha256(raw).digest()
        if digest in self._by_raw:
            return
        self._by_raw[digest] = compiled
        self._bytes += _size(compiled)
        while len(self._by_raw) > self._count_max or (
            self._bytes > self._bytes_max and len(self._by_raw) > 1
        ):
            _, dropped = self._by_raw.popitem(last=False)
            self._bytes -= _size(dropped)

    def __len__(self) -> int:
        return len(self._by_raw)


def _size(compiled: Compiled) -> int:
    return 2 * len(compiled.payload) + 3 * len(compiled.control_bytes) + 500
