"""The benchmarks' own arithmetic and client: wrong figures would be worse than none."""

from __future__ import annotations

import asyncio
import math

import pytest

from benchmarks.load_client import Connection, Load, WrongAnswer, post
from benchmarks.report import latency_figures, percentile


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 1), (0.01, 1), (0.07, 7), (0.5, 50), (0.95, 95), (0.99, 99), (1.0, 100)]
)
def test_a_percentile_is_the_value_that_so_many_do_not_exceed(share: float, value: int):
    assert percentile(range(1, 101), share) == value


def test_percentiles_of_one_value_and_of_none():
    assert percentile([3.0], 0.99) == 3.0
    assert math.isnan(percentile([], 0.5))


def test_latencies_are_given_in_milliseconds():
    assert latency_figures([0.003, 0.001, 0.002]) == {
        "p50_ms": 2.0,
        "p95_ms": 3.0,
        "p99_ms": 3.0,
        "max_ms": 3.0,
    }


ANSWERS = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirstHTTP/1.1 202 Accepted\r\nContent-Length: 6\r\n\r\nsecond"


@pytest.mark.parametrize("size", [1, 7, 40, 1000])
async def test_answers_are_read_however_they_are_cut(size: int):
    answers: list[tuple[int, bytes]] = []
    connection = Connection(lambda _, status, body: answers.append((status, body)))
    for start in range(0, len(ANSWERS), size):
        connection.data_received(ANSWERS[start : start + size])
        connection.data_received(b"")
    assert answers == [(200, b"first"), (202, b"second")]


async def serve(answer: bytes) -> asyncio.Server:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (head := await reader.readline()) != b"":
            assert head == b"POST /x HTTP/1.1\r\n"
            while (line := await reader.readline()) != b"\r\n":
                if line.startswith(b"Content-Length"):
                    length = int(line.split(b":")[1])
            await reader.readexactly(length)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
        writer.close()

    return await asyncio.start_server(handle, "127.0.0.1", 0)


async def test_a_load_makes_exactly_so_many_requests():
    async with await serve(b"good") as server:
        port = server.sockets[0].getsockname()[1]
        load = Load(post("/x", b"{}"), statuses=(200,), must_hold=b"good")
        assert await load.run("127.0.0.1", port, in_flight=8, requests=100) > 0
        assert len(load.latencies) == 100


async def test_one_wrong_answer_ends_the_run():
    async with await serve(b"bad") as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(WrongAnswer, match="status 200: bad"):
            await Load(post("/x", b"{}"), statuses=(200,), must_hold=b"good").run(
                "127.0.0.1", port, in_flight=4, requests=100
            )
