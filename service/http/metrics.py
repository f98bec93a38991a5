"""What Prometheus reads: requests, latencies, queries, the pool and the process.

Counting happens on the event loop's thread only, in plain lists, which become Prometheus' families when somebody asks.
A request with two queries costs 0.6 µs; prometheus_client's own counters, which lock for threads, take 4.2 µs. Labels
are bounded: route templates, known methods, statuses and query names.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.db.statements import Step

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

UNMATCHED = "unmatched"
"""The route label of every request that met no route."""

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the latency histogram, in seconds."""

PAUSE_SECONDS = 0.08
"""Between two times that everything is rendered."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

OTHER_METHOD = "other"
"""The method label of every other method."""


class Metrics(Collector):
    """The service's counters; one object a process."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.connections: Callable[[], int] = int
        """How many HTTP connections are open; the server sets it."""
        self.log_lines_dropped: Callable[[], int] = int
        """How many log lines nobody took; the server sets it."""
        self.pool: Callable[[], Mapping[str, int]] = dict
        """``Database.stats``: in_use, waiting and size; the application sets it."""
        self._rendering: asyncio.Task[bytes] | None = None
        self._rendered_at = 0.0
        self._build = {"version": version("todochat")}
        self._requests: dict[tuple[str, str, int], list[float]] = {}
        self._queries: dict[bytes, list[float]] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a finished request. ``route`` is a template such as ``/v1/todos/{todo_id}``, or UNMATCHED."""
        cell = self._requests.get((method, route, status))
        if cell is None:
            known = (method if method in METHODS else OTHER_METHOD, route, status)
            cell = self._requests.setdefault(known, [0.0] * (len(BUCKETS) + 2))
        cell[bisect_left(BUCKETS, seconds)] += 1
        cell[-1] += seconds

    def observe_queries(self, steps: Iterable[Step], seconds: float, error: str) -> None:
        """Count a run of each; ``error`` says why the database refused them or didn't answer, and is "" otherwise."""
        for (name, _, _, _), _ in steps:
            cell = self._queries.get(name)
            if cell is None:
                cell = self._queries[name] = [0, 0.0, 0]
            cell[0] += 1
            cell[1] += seconds
            if error:
                cell[2] += 1

    def render(self) -> bytes:
        """Everything in Prometheus' text format, CONTENT_TYPE."""
        return generate_latest(self._registry)

    async def render_soon(self) -> bytes:
        """The same, now or in a moment: it takes 2 ms, so whoever asks soon after somebody else shares the next one."""
        if self._rendering is None:
            self._rendering = asyncio.create_task(self._render_after_a_pause())
        return await asyncio.shield(self._rendering)

    async def _render_after_a_pause(self) -> bytes:
        loop = asyncio.get_running_loop()
        try:
            if (pause := self._rendered_at + PAUSE_SECONDS - loop.time()) > 0:
                await asyncio.sleep(pause)
            self._rendered_at = loop.time()
            return self.render()
        finally:
            self._rendering = None

    def collect(self) -> Iterator[Metric]:
        yield from self._collect_requests()
        yield from self._collect_queries()
        yield InfoMetricFamily("todochat_build", "The release that answers.", value=self._build)
        yield GaugeMetricFamily("todochat_requests_in_flight", "Requests being answered.", value=self.in_flight)
        yield GaugeMetricFamily("todochat_http_connections", "Open HTTP connections.", value=self.connections())
        pool = self.pool()
        for state, meaning in _POOL.items():
            yield GaugeMetricFamily(f"todochat_pool_{state}", meaning, value=pool.get(state, 0))
        yield CounterMetricFamily(
            "todochat_log_lines_dropped", "Log lines nobody took in time.", value=self.log_lines_dropped()
        )

    def _collect_requests(self) -> Iterator[Metric]:
        total = CounterMetricFamily(
            "todochat_requests", "Requests answered; status 499: the client left.", labels=["method", "route", "status"]
        )
        by_route: dict[str, list[float]] = {}
        for (method, route, status), cell in self._requests.items():
            total.add_metric([method, route, str(status)], sum(cell[:-1]))
            sums = by_route.setdefault(route, [0.0] * len(cell))
            by_route[route] = [a + b for a, b in zip(sums, cell, strict=True)]
        yield total
        seconds = HistogramMetricFamily(
            "todochat_request_seconds", "Time from the request's head to its answer's end.", labels=["route"]
        )
        for route, cell in by_route.items():
            below = 0.0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip((*BUCKETS, "+Inf"), cell[:-1], strict=True):
                below += count
                buckets.append((str(bound), below))
            seconds.add_metric([route], buckets, sum_value=cell[-1])
        yield seconds

    def _collect_queries(self) -> Iterator[Metric]:
        seconds = SummaryMetricFamily("todochat_query_seconds", "Runs of named queries.", labels=["query"])
        errors = CounterMetricFamily("todochat_query_errors", "Runs that failed.", labels=["query"])
        for name, (count, total, failed) in self._queries.items():
            seconds.add_metric([name.decode()], int(count), total)
            errors.add_metric([name.decode()], failed)
        yield seconds
        yield errors


_POOL = {
    "in_use": "Database connections in use.",
    "waiting": "Requests waiting for a database connection.",
    "size": "Database connections, idle ones included.",
}
