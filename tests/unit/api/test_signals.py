"""/v1/executions/{id}/signals/{name} over the memory engine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from node.errors import Overloaded
from tests.api_server import Served
from workflow.codec import decode

NUMBER = {"nodes": [{"id": "a", "type": "number", "data": {"value": 5}}], "edges": []}
HOLD = {"nodes": [{"id": "a", "type": "hold", "data": {}}], "edges": []}


async def post(served: Served, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
    async with served.http.post(path, **options) as response:
        return response.status, json.loads(await response.read())


async def started(served: Served, workflow: Any) -> str:
    _, execution = await post(served, "/v1/executions", json={"workflow": workflow})
    return str(execution["id"])


async def test_a_signal_reaches_the_engine_with_its_value_and_key(served: Served) -> None:
    execution_id = await started(served, HOLD)
    path = f"/v1/executions/{execution_id}/signals/approval%3Aboss"
    status, answer = await post(served, path, json={"payload": {"n": [1, "x"]}, "key": "k1"})
    assert (status, answer["id"]) == (202, execution_id)
    ((_, name, payload, key),) = served.engine.signals
    assert (name, decode(payload), key) == ("approval:boss", {"n": [1.0, "x"]}, "k1")


async def test_a_signal_without_a_body_carries_null(served: Served) -> None:
    execution_id = await started(served, HOLD)
    for options in ({}, {"data": b""}, {"json": {}}, {"json": {"payload": None}}):
        status, _ = await post(served, f"/v1/executions/{execution_id}/signals/go", **options)
        assert status == 202
    assert [decode(payload) for _, _, payload, _ in served.engine.signals] == [None] * 4


async def test_signals_to_what_is_unknown_or_has_ended_are_404_and_409(served: Served) -> None:
    status, problem = await post(served, "/v1/executions/nobody/signals/go", json={})
    assert (status, problem["code"]) == (404, "not_found")
    execution_id = await started(served, NUMBER)
    status, problem = await post(served, f"/v1/executions/{execution_id}/signals/go", json={})
    assert (status, problem["code"]) == (409, "conflict")


async def test_a_full_buffer_is_429_with_the_limit(served: Served) -> None:
    execution_id = await started(served, HOLD)
    served.engine.fail_with = Overloaded("10000 unread signals", limit="signals_max")
    status, problem = await post(served, f"/v1/executions/{execution_id}/signals/go", json={})
    assert (status, problem["limit"]) == (429, "signals_max")


@pytest.mark.parametrize(
    ("path", "body"),
    [("go", {"paylod": 1}), ("go", {"key": 5}), ("go", {"key": ""}), ("go", [1]), ("x" * 201, {})],
)
async def test_what_is_no_signal_is_a_400_that_names_the_place(served: Served, path: str, body: Any) -> None:
    execution_id = await started(served, HOLD)
    status, problem = await post(served, f"/v1/executions/{execution_id}/signals/{path}", json=body)
    assert status == 400
    assert problem["detail"]
    assert served.engine.signals == []
