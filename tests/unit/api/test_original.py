"""The original server's routes (SERVER.md §2, §3): forms, texts and status codes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from node.errors import Overloaded, RequestInvalid
from tests.api_server import Served, serve
from tests.unit.api.test_executions import get, post

NUMBER = {"workflow_id": "w", "nodes": [{"id": "a", "type": "number", "data": {"value": 1}}], "edges": []}
API = "/api/v1"


async def test_execute_answers_in_the_original_form(served: Served) -> None:
    async with served.http.post(f"{API}/workflow/execute", data=json.dumps(NUMBER)) as response:
        text = await response.text()
        assert (response.status, response.content_type) == (200, "application/json")
    answer = json.loads(text)
    assert text.endswith("}\n")
    assert answer["success"] is True
    assert re.fullmatch(r"[\d.]+(µs|ms|s)", answer["execution_time"])
    execution_id = answer["results"].pop("execution_id")
    assert re.fullmatch("[0-9a-f]+", execution_id)
    assert answer["results"] == {"workflow_id": "w", "node_results": {"a": 1}, "final_output": 1}


async def test_an_empty_workflow_id_is_left_out_and_html_is_escaped(served: Served) -> None:
    payload = {"nodes": [{"id": "a", "type": "text_input", "data": {"text": "<b>&"}}]}
    async with served.http.post(f"{API}/workflow/execute", json=payload) as response:
        text = await response.text()
    assert '"final_output":"\\u003cb\\u003e\\u0026"' in text
    assert "workflow_id" not in text


async def test_a_payload_that_does_not_load_is_a_400_in_the_envelope(served: Served) -> None:
    status, answer = await post(served, f"{API}/workflow/execute", b"nope")
    assert (status, answer["success"], answer["error"]) == (400, False, "Failed to create engine")
    assert answer["details"].startswith("failed to parse payload: ")


async def test_a_body_over_the_limit_has_the_original_error(tmp_path: Path) -> None:
    from node.api.server import ApiSettings

    async with serve(tmp_path, ApiSettings(port=0, body_bytes_max=100)) as served:
        status, answer = await post(served, f"{API}/workflow/execute", b"x" * 101)
    assert (status, answer["error"]) == (400, "Failed to read request body")


async def test_a_failed_run_is_a_500_in_the_envelope(served: Served) -> None:
    payload = {"nodes": [{"id": "x", "type": "explode", "data": {}}]}
    status, answer = await post(served, f"{API}/workflow/execute", payload)
    assert status == 500
    assert answer == {
        "success": False,
        "error": "Workflow execution failed",
        "details": "error executing node x: boom",
    }


@pytest.mark.parametrize(
    ("text", "status", "error"),
    [
        ("workflow contains cycles (circular dependencies)", 500, "Workflow execution failed"),
        ("edge e1 leads to the node x, which does not exist", 400, "Failed to create engine"),
    ],
)
async def test_a_graph_that_cannot_be_ordered_is_a_clear_error_in_the_envelope(
    served: Served, text: str, status: int, error: str
) -> None:
    served.engine.fail_with = RequestInvalid(text, code="workflow_invalid")
    assert await post(served, f"{API}/workflow/execute", NUMBER) == (
        status,
        {"success": False, "error": error, "details": text},
    )


async def test_a_run_longer_than_the_limit_is_an_error_that_names_the_execution(tmp_path: Path) -> None:
    from node.api.server import ApiSettings

    async with serve(tmp_path, ApiSettings(port=0, compat_execution_timeout_s=0.01)) as served:
        status, answer = await post(
            served, f"{API}/workflow/execute", {"nodes": [{"id": "a", "type": "hold"}]}
        )
        [execution_id] = served.engine.executions
    assert status == 500
    assert answer["details"].startswith("workflow execution timeout: exceeded 10ms")
    assert execution_id in answer["details"]


async def test_overload_keeps_its_status_in_the_envelope(served: Served) -> None:
    served.engine.fail_with = Overloaded("full", limit="x", retry_after_s=3)
    async with served.http.post(f"{API}/workflow/execute", json=NUMBER) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "3")
        assert (await response.json())["details"] == "full"


async def test_validate_checks_what_the_original_checks(served: Served) -> None:
    dangling = {**NUMBER, "edges": [{"source": "a", "target": "nowhere"}]}
    assert await post(served, f"{API}/workflow/validate", dangling) == (200, {"valid": True})
    status, answer = await post(served, f"{API}/workflow/validate", b"[]")
    assert (status, answer["valid"]) == (200, False)
    assert answer["error"].startswith("failed to parse payload: ")


async def test_a_saved_workflow_is_listed_loaded_run_and_deleted(served: Served) -> None:
    status, saved = await post(
        served, f"{API}/workflow/save", {"name": "n1", "description": "d", "data": NUMBER}
    )
    assert (status, saved["success"], saved["message"]) == (201, True, "Workflow saved successfully")
    workflow_id = saved["id"]
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", workflow_id)

    _, listed = await get(served, f"{API}/workflow/list")
    assert (listed["success"], listed["count"]) == (True, 1)
    [line] = listed["workflows"]
    assert (line["id"], line["name"], line["description"]) == (workflow_id, "n1", "d")
    assert line["created_at"] == line["updated_at"]

    _, loaded = await get(served, f"{API}/workflow/load/{workflow_id}")
    assert (loaded["workflow"]["name"], loaded["workflow"]["data"]) == ("n1", NUMBER)

    status, ran = await post(served, f"{API}/workflow/execute/{workflow_id}", b"ignored")
    assert (status, ran["workflow_id"], ran["workflow_name"]) == (200, workflow_id, "n1")
    assert ran["results"]["final_output"] == 1
    assert "execution_time" not in ran

    async with served.http.delete(f"{API}/workflow/delete/{workflow_id}") as response:
        assert await response.json() == {"success": True, "message": "Workflow deleted successfully"}
    unknown = {"success": False, "error": f"workflow with ID {workflow_id} not found"}
    assert await get(served, f"{API}/workflow/load/{workflow_id}") == (404, unknown)
    async with served.http.delete(f"{API}/workflow/delete/{workflow_id}") as response:
        assert (response.status, await response.json()) == (404, unknown)


@pytest.mark.parametrize("data", ["null", '"text"', "[1, 2.50]", '{"nodes": 3,  "z": "é"}', "1e400"])
async def test_saved_data_may_be_any_json_and_comes_back_byte_for_byte(served: Served, data: str) -> None:
    body = f'{{"name": "n", "data": {data}}}'.encode()
    _, saved = await post(served, f"{API}/workflow/save", body)
    async with served.http.get(f"{API}/workflow/load/{saved['id']}") as response:
        assert f'"data":{data}}}' in await response.text()


async def test_the_same_name_twice_is_two_entries(served: Served) -> None:
    for _ in range(2):
        await post(served, f"{API}/workflow/save", {"name": "n", "data": {"nodes": []}})
    assert (await get(served, f"{API}/workflow/list"))[1]["count"] == 2


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"data": {}}', "Failed to save workflow: workflow name is required"),
        (b'{"name": "n"}', "Failed to save workflow: workflow data is required"),
        (b"nope", "Failed to parse request"),
        (b'{"name": 3}', "Failed to parse request"),
        (b'{"name": "n", "data": {"a": nope}}', "Failed to parse request"),
    ],
)
async def test_save_refuses_with_the_original_texts(served: Served, body: bytes, error: str) -> None:
    status, answer = await post(served, f"{API}/workflow/save", body)
    assert (status, answer["success"], answer["error"]) == (400, False, error)


async def test_unknown_and_empty_ids_have_the_original_answers(served: Served) -> None:
    assert await post(served, f"{API}/workflow/execute/nope", b"") == (
        404,
        {"success": False, "error": "Failed to load workflow", "details": "workflow with ID nope not found"},
    )
    empty = (400, {"success": False, "error": "Workflow ID is required"})
    assert await get(served, f"{API}/workflow/load/") == empty


# --- named HTTP clients -----------------------------------------------------------------------------------


def client(**config: Any) -> dict[str, Any]:
    return {"config": {"uid": "c1", **config}}


async def test_a_client_is_registered_once_listed_and_kept(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        assert await post(served, f"{API}/httpclient/register", client(network={"timeout": 5})) == (
            201,
            {"success": True, "message": "HTTP client registered successfully", "uid": "c1"},
        )
        status, answer = await post(served, f"{API}/httpclient/register", client())
        assert (status, answer["error"]) == (
            409,
            'Failed to register HTTP client: client with UID "c1" already exists',
        )
    async with serve(tmp_path) as served:
        assert await get(served, f"{API}/httpclient/list") == (
            200,
            {"success": True, "clients": ["c1"], "count": 1},
        )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "config is required"),
        ({"config": {}}, "invalid config"),
        (client(network={"timeout": "5s"}), "timeout"),
        (client(auth={"type": "oauth"}), "auth.type"),
    ],
)
async def test_a_wrong_client_config_is_a_400(served: Served, body: Any, words: str) -> None:
    status, answer = await post(served, f"{API}/httpclient/register", body)
    assert status == 400
    assert words in answer["error"]


async def test_health_has_the_original_form(served: Served) -> None:
    status, health = await get(served, "/health")
    assert (status, health["status"], health["service_name"]) == (200, "healthy", "thaiyyal-workflow-engine")
    assert health["checks"]["engine"]["status"] == "healthy"
    assert "checks" not in (await get(served, "/health/live"))[1]
