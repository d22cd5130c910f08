"""Many starts, one call of the engine: what arrives in one turn of the event loop goes down together.

A proposal to the log costs a sync however many executions it starts, and a call of the engine costs a task. Under load
one turn reads many sockets, so the batch forms by itself and adds no waiting: the flush runs at the end of the turn.
"""

from __future__ import annotations

import asyncio

from node.engine import Engine, ExecutionView, StartRequest
from node.errors import ThaiyyalError


class StartBatcher:
    """Owns the starts of the present turn and the calls under way."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._requests: list[StartRequest] = []
        self._answers: list[asyncio.Future[ExecutionView]] = []
        self._calls: set[asyncio.Task[None]] = set()

    def submit(self, request: StartRequest) -> asyncio.Future[ExecutionView]:
        """The future resolves when the start is durable, or fails with the ThaiyyalError of this request."""
        answer: asyncio.Future[ExecutionView] = self._loop.create_future()
        if not self._requests:
            self._loop.call_soon(self._flush)
        self._requests.append(request)
        self._answers.append(answer)
        return answer

    def _flush(self) -> None:
        requests, self._requests = self._requests, []
        answers, self._answers = self._answers, []
        call = self._loop.create_task(self._start(requests, answers), name="api.start_batch")
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _start(
        self, requests: list[StartRequest], answers: list[asyncio.Future[ExecutionView]]
    ) -> None:
        try:
            results = await self._engine.start(requests)
        except BaseException as error:
            for answer in answers:
                if not answer.done():
                    answer.set_exception(
                        error if isinstance(error, Exception) else ConnectionResetError("stopped")
                    )
            if not isinstance(error, Exception):
                raise
            return
        for answer, result in zip(answers, results, strict=True):
            if answer.done():
                continue  # its client has gone
            if isinstance(result, ThaiyyalError):
                answer.set_exception(result)
            else:
                answer.set_result(result)

    async def close(self) -> None:
        """Wait for the calls under way; the engine ends them all when it stops."""
        if self._calls:
            await asyncio.wait(self._calls)
