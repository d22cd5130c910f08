"""The table of every route, each with its part of the OpenAPI document.

A new route is one line here, its handler, and its name in a test; tests/unit/api/test_openapi.py walks this table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.api.about import AboutRoutes
from node.api.batching import StartBatcher
from node.api.counters import RequestCounters
from node.api.executions import ExecutionRoutes
from node.api.http_clients import HttpClientStore
from node.api.openapi import OpenApiRoute, operation
from node.api.original import HealthRoutes, OriginalRoutes, enveloped
from node.api.router import Route, Router
from node.api.server import ApiServer, ApiSettings
from node.api.signals import SignalRoutes
from node.api.workflows import Checker, WorkflowRoutes
from node.engine import Engine


@dataclass(frozen=True, kw_only=True)
class ApiParts:
    """What the API needs of the node around it."""

    engine: Engine
    settings: ApiSettings
    data_dir: Path
    check: Checker  # a payload's problems, by the rules that a start applies
    step_types: Callable[[], Sequence[Mapping[str, Any]]]
    facts: Callable[[], Mapping[str, Any]]  # at least `version`; goes into /v1/status
    ready: Callable[[], str]  # "" when starts are accepted, else the reason


class Api:
    """The API of one node: start() listens, close() ends. Must be made inside a running loop."""

    def __init__(self, parts: ApiParts) -> None:
        self.counters = RequestCounters()
        self.batcher = StartBatcher(parts.engine)
        self.router = Router(_table(parts, self.batcher, self.counters, lambda: self.server.connections))
        self.server = ApiServer(self.router, parts.settings, self.counters)

    async def start(self) -> tuple[str, int]:
        """The address that was bound. Raises OSError when the port is taken."""
        return await self.server.start()

    async def stop_listening(self) -> None:
        """No new connections; what is under way goes on."""
        await self.server.stop_listening()

    async def close(self, timeout_s: float | None = None) -> None:
        """Requests under way get their time, then everything is closed."""
        await self.server.close(timeout_s)
        await self.batcher.close()


def _table(
    parts: ApiParts, batcher: StartBatcher, counters: RequestCounters, connections: Callable[[], int]
) -> list[Route]:
    executions = ExecutionRoutes(parts.engine, parts.settings, batcher, counters)
    signals = SignalRoutes(parts.engine, parts.settings)
    workflows = WorkflowRoutes(parts.engine, parts.settings, parts.check)
    about = AboutRoutes(
        parts.engine,
        counters,
        facts=parts.facts,
        ready=parts.ready,
        step_types=parts.step_types,
        connections=connections,
    )
    clients = HttpClientStore(parts.data_dir / "http-clients.json")
    original = OriginalRoutes(parts.engine, parts.settings, parts.check, clients)
    health = HealthRoutes(version=str(parts.facts()["version"]), ready=parts.ready)
    document = OpenApiRoute(version=str(parts.facts()["version"]))
    routes = [
        Route("POST", "/v1/executions", executions.start_one, operation("startExecution")),
        Route("GET", "/v1/executions", executions.list, operation("listExecutions")),
        Route("POST", "/v1/executions:batch", executions.start_batch, operation("startExecutions")),
        Route("GET", "/v1/executions/{id}", executions.get, operation("getExecution")),
        Route("GET", "/v1/executions/{id}/history", executions.history, operation("getHistory")),
        Route("GET", "/v1/executions/{id}/events", executions.events, operation("followExecution")),
        Route("POST", "/v1/executions/{id}/cancel", executions.cancel, operation("cancelExecution")),
        Route("POST", "/v1/executions/{id}/signals/{name}", signals.send, operation("signalExecution")),
        Route("POST", "/v1/workflows", workflows.register, operation("registerWorkflow")),
        Route("GET", "/v1/workflows", workflows.list, operation("listWorkflows")),
        Route("POST", "/v1/workflows:validate", workflows.validate, operation("validateWorkflow")),
        Route("GET", "/v1/workflows/{id}", workflows.get, operation("getWorkflow")),
        Route("GET", "/v1/workflows/{id}/versions", workflows.versions, operation("listWorkflowVersions")),
        Route("DELETE", "/v1/workflows/{id}", workflows.delete, operation("deleteWorkflow")),
        Route("GET", "/v1/status", about.status, operation("getStatus")),
        Route("GET", "/v1/step-types", about.step_types, operation("listStepTypes")),
        Route("GET", "/v1/schema/workflow.json", about.workflow_schema, operation("getWorkflowSchema")),
        Route("GET", "/v1/openapi.json", document.get, operation("getOpenApi")),
        Route("GET", "/", about.root, operation("getRoot")),
        Route("GET", "/healthz", about.healthz, operation("getHealthz")),
        Route("GET", "/readyz", about.readyz, operation("getReadyz")),
        Route("GET", "/metrics", about.metrics, operation("getMetrics")),
        *_original_table(original, health),
    ]
    document.routes = routes
    return routes


def _original_table(original: OriginalRoutes, health: HealthRoutes) -> list[Route]:
    v1 = "/api/v1"
    table = [
        ("POST", f"{v1}/workflow/execute", original.execute, "originalExecute"),
        ("POST", f"{v1}/workflow/execute/{{id}}", original.execute_saved, "originalExecuteSaved"),
        ("POST", f"{v1}/workflow/validate", original.validate, "originalValidate"),
        ("POST", f"{v1}/workflow/save", original.save, "originalSave"),
        ("GET", f"{v1}/workflow/list", original.list, "originalList"),
        ("GET", f"{v1}/workflow/load/{{id}}", original.load, "originalLoad"),
        ("DELETE", f"{v1}/workflow/delete/{{id}}", original.delete, "originalDelete"),
        ("POST", f"{v1}/httpclient/register", original.register_client, "originalRegisterClient"),
        ("GET", f"{v1}/httpclient/list", original.list_clients, "originalListClients"),
    ]
    routes = [
        Route(method, path, enveloped(handler), operation(name)) for method, path, handler, name in table
    ]
    for path, handler, name in (
        ("/health", health.ready, "originalHealth"),
        ("/health/ready", health.ready, "originalHealthReady"),
        ("/health/live", health.live, "originalHealthLive"),
    ):
        routes.append(Route("GET", path, handler, operation(name)))
    return routes
