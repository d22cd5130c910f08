"""The node about itself: health, readiness, status, step types, metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from msgspec import json as msgspec_json
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from node.api.counters import BUCKETS, RequestCounters
from node.api.replies import AnyReply, Reply
from node.api.server import Call
from node.engine import Engine
from workflow.schema import workflow_schema

# (metric, help, path in the figures of the peer and of the engine). What is not there is left out.
GAUGES: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    ("thaiyyal_executions_live", "Executions that have not ended.", ("executions_live",)),
    (
        "thaiyyal_executions_without_next_step",
        "Executions that have no task, no timer and no wait: must be 0.",
        ("executions_without_next_step",),
    ),
    ("thaiyyal_state_bytes", "Bytes of values held by live executions.", ("state_bytes",)),
    ("thaiyyal_tasks_queued", "Tasks that wait for a worker.", ("tasks_queued",)),
    ("thaiyyal_tasks_running", "Tasks handed to workers.", ("tasks_running",)),
    ("thaiyyal_timers", "Timers that have not fired.", ("timers",)),
    ("thaiyyal_timer_lag_seconds", "How late the last timer fired.", ("timer_lag_s",)),
    ("thaiyyal_inbox_commands", "Requests that wait to be logged.", ("inbox",)),
    ("thaiyyal_waiting_clients", "Clients that wait for a result.", ("waiting_clients",)),
    ("thaiyyal_workflows", "Registered workflows.", ("workflows",)),
    ("thaiyyal_dedupe_keys", "Idempotency keys that are remembered.", ("dedupe_keys",)),
    ("thaiyyal_history_waiting", "Ended executions not yet in history.db.", ("store", "history_waiting")),
    ("thaiyyal_runners_ready", "Runner processes that take tasks.", ("runners", "runners_ready")),
    ("thaiyyal_raft_term", "Raft term.", ("raft", "term")),
    ("thaiyyal_raft_commit_index", "Highest committed log index.", ("raft", "commit_index")),
    ("thaiyyal_raft_applied_index", "Highest applied log index.", ("raft", "applied_index")),
    ("thaiyyal_raft_storage_full", "1 while the disk has no room for the log.", ("raft", "storage_full")),
    ("thaiyyal_raft_sync_latency_ms", "Mean of the last syncs of the log.", ("raft", "sync_latency_ms")),
)
COUNTERS: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    ("thaiyyal_executions_accepted", "Executions accepted, ever.", ("executions_accepted_total",)),
    ("thaiyyal_tasks_dispatched", "Tasks handed out since the node started.", ("dispatched_total",)),
    ("thaiyyal_reports_dropped", "Late completions that were fenced off.", ("reports_dropped_total",)),
    ("thaiyyal_timers_fired", "Timers fired since the node started.", ("timers_fired_total",)),
    ("thaiyyal_proposals", "Entries proposed to the log.", ("proposals_total",)),
    ("thaiyyal_commands", "Commands in them.", ("commands_total",)),
    ("thaiyyal_runners_lost", "Runner processes that died or were replaced.", ("runners", "runners_lost")),
    ("thaiyyal_tasks_lost", "Tasks that ended without a result.", ("runners", "lost")),
)
# Executions by how they ended on this node, from stats()["executions_ended_here"].
ENDINGS: Final = ("completed", "failed", "cancelled", "terminated")


_SCHEMA: Final = msgspec_json.encode(workflow_schema()) + b"\n"


class AboutRoutes:
    """The handlers. `facts` gives what the peer knows beside the engine (version, node id, addresses)."""

    def __init__(
        self,
        engine: Engine,
        counters: RequestCounters,
        *,
        facts: Callable[[], Mapping[str, Any]],
        ready: Callable[[], str],
        step_types: Callable[[], Sequence[Mapping[str, Any]]],
        connections: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._facts = facts
        self._ready = ready
        self._step_types = step_types
        self._registry = CollectorRegistry()
        self._registry.register(_NodeCollector(engine, counters, facts, connections))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    async def root(self, call: Call) -> AnyReply:
        """Where things are, for someone who opens the address in a browser."""
        document = {
            "service": "thaiyyal-node",
            "version": self._facts()["version"],
            "openapi": "/v1/openapi.json",
            "executions": "/v1/executions",
            "workflows": "/v1/workflows",
            "workflow_schema": "/v1/schema/workflow.json",
            "status": "/v1/status",
            "metrics": "/metrics",
        }
        return Reply(msgspec_json.encode(document) + b"\n")

    async def healthz(self, call: Call) -> AnyReply:
        """200 while the process answers: a liveness probe must not depend on anything else."""
        return Reply(b'{"status":"healthy"}\n')

    async def readyz(self, call: Call) -> AnyReply:
        """200 when the log's tail is applied and starts are accepted; else 503 with the reason."""
        reason = self._ready()
        if reason:
            body = msgspec_json.encode({"status": "not_ready", "reason": reason}) + b"\n"
            return Reply(body, status=503, headers=b"Retry-After: 1\r\n")
        return Reply(b'{"status":"ready"}\n')

    async def status(self, call: Call) -> AnyReply:
        """The node, its log, its workers and queues at this moment."""
        reason = self._ready()
        document = {**self._facts(), "ready": not reason, "engine": self._engine.stats()}
        if reason:
            document["reason"] = reason
        return Reply(msgspec_json.encode(document, enc_hook=str) + b"\n")

    async def step_types(self, call: Call) -> AnyReply:
        """Every type that a step may have on this node, with its effect class."""
        return Reply(msgspec_json.encode({"step_types": self._step_types()}) + b"\n")

    async def workflow_schema(self, call: Call) -> AnyReply:
        """The JSON Schema of payloads, of both levels of the language."""
        return Reply(_SCHEMA, content_type="application/schema+json")

    async def metrics(self, call: Call) -> AnyReply:
        """Prometheus text format."""
        return Reply(generate_latest(self._registry), content_type=CONTENT_TYPE_LATEST)


class _NodeCollector(Collector):
    """Reads figures that others keep, at the moment of the scrape; keeps none itself."""

    def __init__(
        self,
        engine: Engine,
        counters: RequestCounters,
        facts: Callable[[], Mapping[str, Any]],
        connections: Callable[[], int],
    ) -> None:
        self._engine = engine
        self._counters = counters
        self._facts = facts
        self._connections = connections

    def collect(self) -> Iterator[Metric]:
        """All families."""
        facts = self._facts()
        info = InfoMetricFamily("thaiyyal_node", "Who this node is.")
        info.add_metric([], {"version": str(facts["version"]), "node_id": str(facts.get("node_id", ""))})
        yield info
        stats = {**facts, **self._engine.stats()}
        for name, text, path in GAUGES:
            value = _at(stats, path)
            if value is not None:
                yield GaugeMetricFamily(name, text, value=value)
        for name, text, path in COUNTERS:
            value = _at(stats, path)
            if value is not None:
                yield CounterMetricFamily(name, text, value=value)
        endings = stats.get("executions_ended_here")
        if isinstance(endings, Mapping):
            family = CounterMetricFamily(
                "thaiyyal_executions_ended", "Executions that ended.", labels=["status"]
            )
            for status in ENDINGS:
                family.add_metric([status], endings.get(status, 0))
            yield family
        yield from self._requests()

    def _requests(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "thaiyyal_api_connections", "Open API connections.", value=self._connections()
        )
        yield GaugeMetricFamily("thaiyyal_api_streams", "Open event streams.", value=self._counters.streams)
        requests = CounterMetricFamily(
            "thaiyyal_api_requests", "Answered requests by route and status.", labels=["route", "status"]
        )
        for (route, status), count in sorted(self._counters.by_route.items()):
            requests.add_metric([route, str(status)], count)
        yield requests
        seconds = HistogramMetricFamily(
            "thaiyyal_api_request_duration_seconds", "From request to answer.", labels=["route"]
        )
        for route, counts in sorted(self._counters.durations.items()):
            running = 0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip((*BUCKETS, float("inf")), counts, strict=True):
                running += count
                buckets.append(("+Inf" if bound == float("inf") else str(bound), running))
            seconds.add_metric([route], buckets, sum_value=self._counters.seconds[route])
        yield seconds


def _at(stats: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    value: Any = stats
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
    return float(value) if isinstance(value, int | float) else None
