"""thaiyyal.client against an API over the memory engine: typed results, repeats, failover."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import thaiyyal
from node.errors import Overloaded, RequestInvalid, Unavailable
from node.errors import Problem as NodeProblem
from tests.api_server import Served, serve
from thaiyyal.client import (
    ApiError,
    Client,
    Execution,
    ExecutionFailed,
    RetrySettings,
    Start,
    SyncClient,
    Unreachable,
    WaitTimeout,
    normal_address,
    retry_delay_s,
)

NUMBER = {"workflow_id": "w", "nodes": [{"id": "a", "type": "number", "data": {"value": 5}}]}
HOLD = {"nodes": [{"id": "a", "type": "hold", "data": {}}]}
QUICK = RetrySettings(attempts_max=4, delay_first_s=0.001, delay_max_s=0.002, connect_timeout_s=1.0)
DEAD = "127.0.0.1:1"


@pytest.fixture
async def client(served: Served) -> AsyncIterator[Client]:
    async with Client(served.address, retry=QUICK) as client:
        yield client


async def test_run_returns_the_finished_execution(client: Client) -> None:
    execution = await client.run(NUMBER, inputs={"x": 1}, tags={"team": "blue"}, timeout_s=5)
    assert execution.final_output == 5
    assert execution.node_results == {"a": 5}
    assert (execution.status, execution.is_terminal, execution.workflow_id) == ("completed", True, "w")
    assert execution.tags == {"team": "blue"}


async def test_run_takes_json_text_and_raises_for_a_failed_execution(client: Client) -> None:
    assert (
        await client.run('{"nodes": [{"id": "a", "type": "number", "data": {"value": 1}}]}')
    ).final_output == 1
    with pytest.raises(ExecutionFailed, match="error executing node x: boom") as caught:
        await client.run({"nodes": [{"id": "x", "type": "explode"}]})
    assert caught.value.execution.error is not None
    assert caught.value.execution.error.node == "x"


async def test_a_wait_that_is_over_leaves_the_execution_running(served: Served, client: Client) -> None:
    with pytest.raises(WaitTimeout) as caught:
        await client.run(HOLD, timeout_s=0.02)
    assert served.engine.executions[caught.value.execution.id].status == "running"


async def test_a_start_without_answer_is_repeated_under_the_same_key_and_never_doubles(
    served: Served,
) -> None:
    port = int(served.address.rsplit(":", 1)[1])
    async with _LossyProxy(port, answers_lost=2) as proxy, Client(proxy.address, retry=QUICK) as client:
        execution = await client.start(NUMBER)
    assert len(served.engine.executions) == 1
    assert len(served.engine.requests) == 3
    assert len({request.idempotency_key for request in served.engine.requests}) == 1
    assert execution.deduplicated


async def test_the_next_address_is_asked_when_one_does_not_answer(served: Served) -> None:
    async with Client([DEAD, served.address], retry=QUICK) as client:
        assert (await client.run(NUMBER)).final_output == 5
        assert (await client.list()).executions[0].workflow_id == "w"


async def test_a_node_that_is_starting_is_asked_again(served: Served, client: Client) -> None:
    served.engine.fail_with = Unavailable("starting")
    running = asyncio.create_task(client.start(NUMBER))
    while not served.api.counters.by_route.get(("/v1/executions", 503)):
        await asyncio.sleep(0.001)
    served.engine.fail_with = None
    assert (await running).status == "completed"


async def test_repeats_have_an_end(served: Served, client: Client) -> None:
    served.engine.fail_with = Overloaded("full", limit="x", retry_after_s=0.001)
    with pytest.raises(ApiError) as caught:
        await client.start(NUMBER)
    assert (caught.value.status, caught.value.code) == (429, "overloaded")
    assert served.api.counters.by_route[("/v1/executions", 429)] == QUICK.attempts_max


async def test_a_longer_retry_after_than_the_budget_is_not_waited_for(served: Served) -> None:
    served.engine.fail_with = Overloaded("full", limit="x", retry_after_s=3600)
    async with Client(served.address, retry=QUICK) as client:
        with pytest.raises(ApiError):
            await client.start(NUMBER)


async def test_nobody_answers_is_unreachable(tmp_path: Path) -> None:
    async with Client([DEAD, "127.0.0.1:2"], retry=QUICK) as client:
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 and http://127\.0\.0\.1:2"):
            await client.start(NUMBER)


async def test_a_refusal_has_its_code_and_problems(served: Served, client: Client) -> None:
    served.engine.fail_with = RequestInvalid(
        "no", code="workflow_invalid", problems=[NodeProblem("nodes[0]", "bad")]
    )
    with pytest.raises(ApiError) as caught:
        await client.start(NUMBER)
    assert (caught.value.code, caught.value.problems[0]["path"]) == ("workflow_invalid", "nodes[0]")
    assert len(served.engine.requests) == 0


async def test_events_follow_to_the_end(served: Served, client: Client) -> None:
    execution = await client.start(HOLD)

    async def types() -> list[str]:
        return [event.type async for event in client.events(execution.id)]

    following = asyncio.create_task(types())
    while not served.api.counters.streams:
        await asyncio.sleep(0.001)
    await served.engine.finish(execution.id)
    assert await following == ["execution_accepted", "execution_completed"]
    assert [event.seq for event in await client.history(execution.id)] == [1, 2]


async def test_events_go_on_after_a_lost_connection_without_repeats(served: Served) -> None:
    port = int(served.address.rsplit(":", 1)[1])
    async with _LossyProxy(port) as proxy, Client(proxy.address, retry=QUICK) as client:
        execution = await client.start(HOLD)
        seen: list[int] = []

        async def follow() -> None:
            async for event in client.events(execution.id):
                seen.append(event.seq)

        following = asyncio.create_task(follow())
        while not seen:
            await asyncio.sleep(0.001)
        proxy.cut()
        await served.engine.finish(execution.id)
        await following
    assert seen == [1, 2]


async def test_events_of_an_unknown_execution_are_an_error(client: Client) -> None:
    with pytest.raises(ApiError) as caught:
        async for _ in client.events("nope"):
            pass
    assert caught.value.code == "not_found"


async def test_a_batch_has_one_answer_per_start(client: Client) -> None:
    answers = await client.batch(
        [Start(workflow=NUMBER), Start(workflow={"nodes": 3}), Start(workflow_id="none")]
    )
    assert isinstance(answers[0], Execution)
    assert [answer.code for answer in answers[1:] if isinstance(answer, ApiError)] == [
        "workflow_invalid",
        "not_found",
    ]


async def test_cancel_list_and_steps(client: Client) -> None:
    execution = await client.start(HOLD)
    assert (await client.cancel(execution.id, reason="enough")).status == "cancelled"
    page = await client.list(status="cancelled", limit=1)
    assert [item.id for item in page.executions] == [execution.id]
    steps = (await client.get(execution.id, steps=True)).steps
    assert steps is not None
    assert steps[0].id == "a"


async def test_workflows(client: Client) -> None:
    registered = await client.register_workflow(NUMBER, workflow_id="n", name="A number")
    assert (registered.id, registered.version, registered.name) == ("n", 1, "A number")
    assert (await client.get_workflow("n")).payload == NUMBER
    assert [item.id for item in (await client.list_workflows())[0]] == ["n"]
    assert (await client.run(workflow_id="n", version=1)).final_output == 5
    assert (await client.validate(NUMBER))["valid"] is True


def test_the_blocking_client_has_the_same_methods(tmp_path: Path) -> None:
    def methods(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert methods(SyncClient) == methods(Client)


async def test_the_blocking_client_blocks_its_own_thread_only(tmp_path: Path) -> None:
    def work(address: str) -> list[str]:
        with SyncClient(address, retry=QUICK) as client:
            execution = client.run(NUMBER)
            assert execution.final_output == 5
            return [event.type for event in client.events(execution.id)]

    async with serve(tmp_path) as served:
        assert await asyncio.to_thread(work, served.address) == ["execution_accepted", "execution_completed"]


def test_the_client_is_imported_when_it_is_used() -> None:
    assert thaiyyal.Client is Client
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = thaiyyal.Nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("address", "normal"),
    [
        ("localhost", "http://localhost:7410"),
        ("127.0.0.1:80", "http://127.0.0.1:80"),
        ("http://h:1/", "http://h:1"),
        ("https://h", "https://h:7410"),
        ("[::1]:7410", "http://[::1]:7410"),
        ("[::1]", "http://[::1]:7410"),
    ],
)
def test_addresses_are_completed(address: str, normal: str) -> None:
    assert normal_address(address) == normal


@pytest.mark.parametrize("address", ["", "http://", "ftp://h", "h:x", "http://h/path", ":80"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="is no address of a node"):
        normal_address(address)


@pytest.mark.parametrize(
    ("failures", "chance", "delay"),
    [(1, 1.0, 0.1), (2, 1.0, 0.2), (3, 0.5, 0.2), (7, 1.0, 5.0), (999, 1.0, 5.0)],
)
def test_the_delay_before_a_repeat_is_random_below_a_doubling_ceiling(
    failures: int, chance: float, delay: float
) -> None:
    assert retry_delay_s(failures, RetrySettings(), chance) == pytest.approx(delay)


class _LossyProxy:
    """A TCP proxy that loses the answers to its first requests, or cuts everything at a word."""

    def __init__(self, port: int, *, answers_lost: int = 0) -> None:
        self._port = port
        self._answers_lost = answers_lost
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> _LossyProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, upstream_writer}
        lose = self._answers_lost > 0
        self._answers_lost -= 1
        back = asyncio.create_task(self._pump(upstream_reader, writer, lose=lose))
        self._tasks.add(back)
        await self._pump(reader, upstream_writer, lose=False)
        await back

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, lose: bool) -> None:
        try:
            while data := await reader.read(65536):
                if lose:
                    break
                writer.write(data)
        except ConnectionError:
            pass
        writer.transport.abort()
