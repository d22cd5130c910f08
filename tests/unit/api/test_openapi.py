"""The OpenAPI document: it has every route, it is valid, and real answers keep to it."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from node import errors
from node.api.problems import CATALOGUE
from node.coordinator.compiler import language_compiler
from node.errors import ThaiyyalError
from tests.api_server import Served
from tests.unit.api.test_executions import get, post

NUMBER = {"nodes": [{"id": "a", "type": "number", "data": {"value": 5}}], "edges": []}


async def document(served: Served) -> dict[str, Any]:
    return (await get(served, "/v1/openapi.json"))[1]


async def test_every_route_of_the_router_is_in_the_document_and_the_other_way_round(served: Served) -> None:
    described = {
        (method.upper(), path)
        for path, methods in (await document(served))["paths"].items()
        for method in methods
    }
    assert described == {(route.method, route.path) for route in served.api.router.routes}


async def test_every_reference_in_the_document_leads_somewhere(served: Served) -> None:
    whole = await document(served)

    def references(part: Any) -> list[str]:
        if isinstance(part, dict):
            own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
            return own + [found for value in part.values() for found in references(value)]
        return [found for value in part for found in references(value)] if isinstance(part, list) else []

    found = references(whole)
    assert found
    for reference in found:
        prefix, _, name = reference.rpartition("/")
        assert prefix == "#/components/schemas"
        assert name in whole["components"]["schemas"]


async def test_every_schema_of_the_document_is_a_valid_schema(served: Served) -> None:
    for schema in (await document(served))["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


async def test_operation_ids_are_unique_and_every_operation_says_what_it_does(served: Served) -> None:
    operations = [
        operation for methods in (await document(served))["paths"].values() for operation in methods.values()
    ]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation["summary"] and operation["responses"] for operation in operations)


def check(whole: dict[str, Any], operation: dict[str, Any], status: int, kind: str, body: bytes) -> None:
    response = operation["responses"].get(str(status)) or operation["responses"]["default"]
    schema = response["content"][kind]["schema"]
    jsonschema.validate(json.loads(body), {**schema, "components": whole["components"]})


@pytest.mark.parametrize(
    ("method", "template", "path", "body"),
    [
        ("post", "/v1/executions", "/v1/executions", {"workflow": NUMBER}),
        ("post", "/v1/executions", "/v1/executions", {"workflow": []}),
        ("post", "/v1/executions", "/v1/executions", {"nodes": []}),
        ("post", "/v1/executions:batch", "/v1/executions:batch", {"executions": [{"workflow": NUMBER}, {}]}),
        ("get", "/v1/executions", "/v1/executions", None),
        ("get", "/v1/executions", "/v1/executions?limit=0", None),
        ("get", "/v1/executions/{id}", "/v1/executions/ID", None),
        ("get", "/v1/executions/{id}", "/v1/executions/ID?steps=1", None),
        ("get", "/v1/executions/{id}", "/v1/executions/none", None),
        ("get", "/v1/executions/{id}/history", "/v1/executions/ID/history", None),
        ("post", "/v1/executions/{id}/cancel", "/v1/executions/ID/cancel", {"reason": "x"}),
        ("post", "/v1/workflows", "/v1/workflows", {"id": "w", "workflow": NUMBER}),
        ("get", "/v1/workflows", "/v1/workflows", None),
        ("get", "/v1/workflows/{id}", "/v1/workflows/w", None),
        ("get", "/v1/workflows/{id}/versions", "/v1/workflows/w/versions", None),
        ("post", "/v1/workflows:validate", "/v1/workflows:validate", {"workflow": NUMBER}),
        ("get", "/v1/status", "/v1/status", None),
        ("get", "/v1/step-types", "/v1/step-types", None),
        ("get", "/v1/schema/workflow.json", "/v1/schema/workflow.json", None),
        ("get", "/healthz", "/healthz", None),
        ("get", "/readyz", "/readyz", None),
        ("get", "/health", "/health", None),
        ("post", "/api/v1/workflow/execute", "/api/v1/workflow/execute", NUMBER),
        ("post", "/api/v1/workflow/execute", "/api/v1/workflow/execute", []),
        ("get", "/api/v1/workflow/load/{id}", "/api/v1/workflow/load/none", None),
        ("get", "/api/v1/workflow/list", "/api/v1/workflow/list", None),
    ],
)
async def test_real_answers_keep_to_their_schemas(
    served: Served, method: str, template: str, path: str, body: Any
) -> None:
    await post(served, "/v1/workflows", {"id": "w", "workflow": NUMBER})
    _, started = await post(served, "/v1/executions", {"workflow": NUMBER})
    whole = await document(served)
    async with served.http.request(method, path.replace("ID", started["id"]), json=body) as response:
        content = await response.read()
        check(whole, whole["paths"][template][method], response.status, response.content_type, content)


async def test_what_the_request_schema_allows_is_accepted_and_what_it_forbids_is_refused(
    served: Served,
) -> None:
    whole = await document(served)
    schema = {"$ref": "#/components/schemas/StartBody", "components": whole["components"]}
    validator = jsonschema.Draft202012Validator(schema)
    bodies: list[tuple[Any, bool]] = [
        ({"workflow": NUMBER}, True),
        ({"workflow": NUMBER, "priority": 9, "tags": {"a": "b"}, "inputs": {"x": 1}, "wait_s": 1}, True),
        ({"workflow": NUMBER, "priority": 10}, False),
        ({"workflow": NUMBER, "wait_s": 301}, False),
        ({"workflow": NUMBER, "surprise": 1}, False),
        ({"workflow": NUMBER, "tags": {"a": 1}}, False),
        ({}, False),
        ({"workflow_id": "a b"}, False),
    ]
    for body, good in bodies:
        assert validator.is_valid(body) is good, body
        status, _ = await post(served, "/v1/executions", body)
        assert (status < 400) is good, body


def test_every_error_code_of_the_node_is_in_the_catalogue() -> None:
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ThaiyyalError)
    ]
    assert len(kinds) > 8
    assert {kind.code for kind in kinds} <= set(CATALOGUE)


@pytest.mark.parametrize(
    "payload",
    [
        b"nope",
        b'{"nodes": [{"id": "a", "type": "number", "data": {"value": "x"}}]}',
        b'{"nodes": [{"id": "a", "type": "number"}], "edges": [{"source": "a", "target": "b"}]}',
        b'{"language": 2, "nodes": [{"id": "a", "type": "nope"}]}',
        b'{"language": 3}',
        b'{"inputs": {"a": {"type": "nope"}}}',
        b'{"nodes": [' + b'{"id": "a"},' * 10_000 + b'{"id": "a"}]}',
    ],
)
def test_every_code_of_the_languages_refusals_is_in_the_catalogue(payload: bytes) -> None:
    with pytest.raises(ThaiyyalError) as caught:
        language_compiler()(payload)
    assert getattr(caught.value, "detail_code", caught.value.code) in CATALOGUE


async def test_the_schema_of_workflows_is_served_as_one(served: Served) -> None:
    async with served.http.get("/v1/schema/workflow.json") as response:
        assert response.content_type == "application/schema+json"
        schema = json.loads(await response.read())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(NUMBER, schema)
