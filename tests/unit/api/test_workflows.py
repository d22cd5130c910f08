"""/v1/workflows: register, versions by content, read, delete, check."""

from __future__ import annotations

from tests.api_server import Served
from tests.unit.api.test_executions import get, post

ONE = {"workflow_id": "orders", "nodes": [{"id": "a", "type": "number", "data": {"value": 1}}]}
TWO = {"workflow_id": "orders", "nodes": [{"id": "a", "type": "number", "data": {"value": 2}}]}


async def test_new_content_is_a_new_version_and_the_same_content_is_not(served: Served) -> None:
    assert await _register(served, ONE) == (201, 1)
    assert await _register(served, TWO) == (201, 2)
    assert await _register(served, ONE) == (200, 1)


async def _register(served: Served, workflow: object) -> tuple[int, int]:
    status, view = await post(served, "/v1/workflows", {"id": "orders", "workflow": workflow})
    return status, view["version"]


async def test_the_id_comes_from_the_id_the_name_or_the_payload(served: Served) -> None:
    bodies = (
        ({"id": "x.1", "workflow": ONE}, "x.1"),
        ({"name": "Big Orders (EU)", "workflow": ONE}, "big-orders-eu"),
        ({"workflow": ONE}, "orders"),
    )
    for body, expected in bodies:
        assert (await post(served, "/v1/workflows", body))[1]["id"] == expected
    status, problem = await post(served, "/v1/workflows", {"workflow": {"nodes": []}})
    assert (status, problem["problems"][0]["path"]) == (400, "id")


async def test_an_id_cannot_break_out_of_its_header(served: Served) -> None:
    for text in ("a\n", "a\r", "a\r\nX-Evil: 1", "a/b", "\n", "ก"):
        status, problem = await post(served, "/v1/workflows", {"id": text, "workflow": ONE})
        assert (status, problem["problems"][0]["path"]) == (400, "id")


async def test_a_workflow_is_read_as_it_was_sent_in_any_version(served: Served) -> None:
    await _register(served, ONE)
    await _register(served, TWO)
    assert (await get(served, "/v1/workflows/orders"))[1]["workflow"] == TWO
    assert (await get(served, "/v1/workflows/orders?version=1"))[1]["workflow"] == ONE
    assert (await get(served, "/v1/workflows/orders?version=3"))[0] == 404
    _, listed = await get(served, "/v1/workflows")
    assert [(item["id"], item["version"]) for item in listed["workflows"]] == [("orders", 2)]
    assert "workflow" not in listed["workflows"][0]


async def test_versions_are_listed_newest_first_in_pages(served: Served) -> None:
    for value in range(5):
        await _register(served, {"nodes": [], "n": value})
    _, first = await get(served, "/v1/workflows/orders/versions?limit=2")
    assert [item["version"] for item in first["versions"]] == [5, 4]
    _, rest = await get(served, f"/v1/workflows/orders/versions?before={first['next_before']}")
    assert [item["version"] for item in rest["versions"]] == [3, 2, 1]
    assert rest["next_before"] is None


async def test_a_deleted_workflow_is_gone(served: Served) -> None:
    await _register(served, ONE)
    async with served.http.delete("/v1/workflows/orders") as response:
        assert (response.status, await response.read()) == (204, b"")
    assert (await get(served, "/v1/workflows/orders"))[0] == 404
    async with served.http.delete("/v1/workflows/orders") as response:
        assert response.status == 404


async def test_a_registered_workflow_runs_by_its_id_and_version(served: Served) -> None:
    await _register(served, ONE)
    await _register(served, TWO)
    _, newest = await post(served, "/v1/executions", {"workflow_id": "orders", "wait_s": 1})
    _, first = await post(served, "/v1/executions", {"workflow_id": "orders", "version": 1, "wait_s": 1})
    assert (newest["final_output"], first["final_output"]) == (2, 1)
    assert (await post(served, "/v1/executions", {"workflow_id": "none"}))[0] == 404


async def test_validate_says_every_problem_with_its_place_and_stores_nothing(served: Served) -> None:
    broken = {**ONE, "edges": [{"source": "a", "target": "x"}, {"source": "a", "target": "y"}]}
    status, report = await post(served, "/v1/workflows:validate", {"workflow": broken})
    assert (status, report["valid"]) == (200, False)
    assert [problem["path"] for problem in report["problems"]] == ["edges[0].target", "edges[1].target"]
    assert (await post(served, "/v1/workflows:validate", {"workflow": ONE}))[1] == {
        "valid": True,
        "error": None,
        "problems": [],
        "warnings": [],
        "steps_total": 1,
    }
    assert not served.engine.workflows
