"""What a pool knows of plans: definitions, the kinds of their segments, and the tasks that wait for either.

A definition is fetched once and kept while there is room. One runner is asked for the kinds of its segments; until it
has answered, the plan's tasks wait here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from node.worker.dispatch import Dispatch, SegmentProfile
from node.worker.messages import FromPlan
from node.worker.process import RunnerProcess
from node.worker.settings import WorkerSettings
from node.worker.supervisor import Runner

log = logging.getLogger("thaiyyal.worker")

FetchPlan = Callable[[bytes], Awaitable[bytes]]
"""Plan hash -> the definition's canonical JSON. May raise: then the tasks that need it end as lost."""


@dataclass(slots=True)
class KnownPlan:
    """A definition, and what a runner said of it: neither `segments` nor `error` means no answer yet."""

    definition: bytes
    segments: list[SegmentProfile] | None = None
    error: str | None = None


class Plans:
    """The plans of one pool."""

    def __init__(
        self,
        settings: WorkerSettings,
        runners: list[Runner],
        fetch_plan: FetchPlan,
        on_unavailable: Callable[[list[Dispatch], str], None],
    ) -> None:
        self._settings = settings
        self._runners = runners
        self._fetch_plan = fetch_plan
        self._on_unavailable = on_unavailable
        self._known: OrderedDict[bytes, KnownPlan] = OrderedDict()  # least recently used first
        self._bytes = 0
        self._waiting: dict[bytes, list[Dispatch]] = {}
        self._fetching: dict[bytes, asyncio.Task[None]] = {}

    @property
    def waiting(self) -> int:
        """Tasks that wait for a plan."""
        return sum(map(len, self._waiting.values()))

    def answered(self, plan_hash: bytes) -> KnownPlan | None:
        """The plan, if a runner has answered for it."""
        plan = self._known.get(plan_hash)
        if plan is None or (plan.segments is None and plan.error is None):
            return None
        self._known.move_to_end(plan_hash)
        return plan

    def wait(self, dispatch: Dispatch) -> None:
        """Keep the task until the plan is answered for, and see to it that it will be."""
        plan_hash = dispatch.frame.task.plan_hash
        self._waiting.setdefault(plan_hash, []).append(dispatch)
        if plan_hash in self._known:
            self._ask(plan_hash)
        elif plan_hash not in self._fetching:
            name = f"fetch plan {plan_hash.hex()[:12]}"
            self._fetching[plan_hash] = asyncio.get_running_loop().create_task(
                self._fetch(plan_hash), name=name
            )

    def forget(self, dispatch: Dispatch) -> bool:
        """The task waits no more; False if it did not."""
        waiting = self._waiting.get(dispatch.frame.task.plan_hash, [])
        if dispatch not in waiting:
            return False
        waiting.remove(dispatch)
        return True

    def learn(self, message: FromPlan) -> list[Dispatch]:
        """A runner has answered; the tasks that waited for it."""
        plan = self._known.get(message.plan_hash)
        if plan is None:  # forgotten meanwhile: whoever waits for it has it fetched again
            return []
        if message.error is not None:
            plan.error = message.error
        else:
            plan.segments = [SegmentProfile(kind) for kind in message.segments]
        return self._waiting.pop(message.plan_hash, [])

    def ask_again(self) -> None:
        """A runner came or went: ask for plans that nobody is asked for."""
        for plan_hash in list(self._waiting):
            if plan_hash in self._known:
                self._ask(plan_hash)

    def frames_for(self, process: RunnerProcess, plan_hash: bytes) -> bytearray | None:
        """What makes a runner know the plan; None if the definition was forgotten here and there."""
        settings = self._settings
        plan = self._known.get(plan_hash)
        if plan is None:
            return bytearray() if plan_hash in process.plans else None
        return process.frames_for_plan(
            plan_hash, plan.definition, plans_max=settings.plans_max, bytes_max=settings.plan_bytes_max
        )

    async def close(self) -> None:
        """Stop fetching."""
        fetching = list(self._fetching.values())
        for background in fetching:
            background.cancel()
        await asyncio.gather(*fetching, return_exceptions=True)

    async def _fetch(self, plan_hash: bytes) -> None:
        try:
            definition = await self._fetch_plan(plan_hash)
        except Exception as error:  # the edge of this task: whoever waits for the plan is told
            log.warning(
                "plan not available",
                extra={"event": "worker.plan_unavailable", "plan": plan_hash.hex(), "error": str(error)},
            )
            self._on_unavailable(self._waiting.pop(plan_hash, []), str(error))
            return
        finally:
            del self._fetching[plan_hash]
        self._known[plan_hash] = KnownPlan(definition)
        self._bytes += len(definition)
        while len(self._known) > 1 and (
            len(self._known) > self._settings.plans_max or self._bytes > self._settings.plan_bytes_max
        ):
            self._bytes -= len(self._known.popitem(last=False)[1].definition)
        self._ask(plan_hash)

    def _ask(self, plan_hash: bytes) -> None:
        """Send the definition to one runner, unless one has it to answer; with none ready, a later one is asked."""
        if any(plan_hash in runner.plans_asked for runner in self._runners):
            return
        ready = [runner for runner in self._runners if runner.can_be_used]
        if not ready:
            return
        runner = min(ready, key=lambda runner: (runner.is_slow, runner.cpu))
        assert runner.process is not None
        runner.process.forget_plan(plan_hash)  # it may have it from before: its answer is what is missing
        runner.plans_asked.add(plan_hash)
        frames = self.frames_for(runner.process, plan_hash)
        assert frames is not None
        runner.process.send(frames)
