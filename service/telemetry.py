"""Spans for OpenTelemetry, where it is installed (`.venv/bin/pip install -e '.[telemetry]'`) and configured (OTEL_*).

This module is imported only then, so that everybody else pays nothing. A request is a span, a child of the caller's;
its round trips to the database are children of that. A span tells what this code has named (methods, routes, queries),
and nothing that a client has sent: neither paths nor query strings, headers or addresses. Litestar's own plugin, on
opentelemetry-instrumentation-asgi, tells all of these: to keep them from it took more code than the span itself takes.
"""

import threading
import time
from collections.abc import Awaitable, Sequence
from importlib.metadata import version
from typing import cast

from litestar.types import ASGIApp
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.db.observed import Observe
from service.db.statements import Step
from service.http.envelope import App, Message, Receive, Scope, Send
from service.http.metrics import METHODS, OTHER_METHOD
from service.http.traces import Trace

CLOSE_SECONDS = 2.0
"""How long what is left may take to be sent at the end."""
_UNTRACED = ("/health/", "/metrics")
"""Asked for every few seconds by machines: no spans, so that they don't drown the others."""


def configured_provider() -> TracerProvider:
    """What sends spans by OTLP over HTTP, in the background: all of it is as OTEL_* says."""
    ours = Resource.create({"service.name": "todochat", "service.version": version("todochat")})
    provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class Telemetry:
    """What the application takes in: what goes around Litestar, and what is told of every round trip."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("todochat")

    def close(self) -> None:
        """Send what is left, if that can be done in time: the SDK itself would try for as long as 10 s."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)

    def around(self, app: ASGIApp) -> ASGIApp:
        """The application, whose requests are spans."""
        return cast("ASGIApp", RequestSpans(cast("App", app), self._tracer))

    def observing(self, observe: Observe) -> Observe:
        """Tell ``observe`` as before, and of what a traced request has run, make a span."""

        def observe_both(steps: Sequence[Step], seconds: float, error: str) -> None:
            observe(steps, seconds, error)
            if not trace.get_current_span().is_recording():
                return
            now = time.time_ns()
            queries = dict.fromkeys(prepared.name.decode() for prepared, _ in steps if prepared.name)
            attributes = {"db.system.name": "postgresql", "db.query.summary": " ".join(queries) or "COMMIT"}
            began = now - int(seconds * 1e9)
            span = self._tracer.start_span("transaction", kind=SpanKind.CLIENT, attributes=attributes, start_time=began)
            if error:
                span.set_attribute("error.type", error)
                span.set_status(StatusCode.ERROR)
            span.end(now)

        return observe_both


class RequestSpans:
    """An ASGI application around another one, by which a request is a span. That tells of an error its type alone."""

    def __init__(self, app: App, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith(_UNTRACED):
            await self._app(scope, receive, send)
            return
        state = scope["state"]
        method = scope["method"] if scope["method"] in METHODS else OTHER_METHOD
        told = {"traceparent": state["headers"].get(b"traceparent", b"").decode("latin-1")}
        with self._tracer.start_as_current_span(
            method,
            TraceContextTextMapPropagator().extract(told),
            SpanKind.SERVER,
            {"http.request.method": method, "url.scheme": scope["scheme"]},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            context = span.get_span_context()
            if context.is_valid:
                state["trace"] = Trace(trace_id=f"{context.trace_id:032x}", span_id=f"{context.span_id:016x}")

            def send_told(message: Message) -> Awaitable[None]:
                if message["type"] == "http.response.start":
                    status = message["status"]
                    span.set_attribute("http.response.status_code", status)
                    if status >= 500:
                        span.set_attribute("error.type", str(status))
                        span.set_status(StatusCode.ERROR)
                    if route := scope.get("path_template"):
                        span.update_name(f"{method} {route}")
                        span.set_attribute("http.route", route)
                return send(message)

            try:
                await self._app(scope, receive, send_told)
            except Exception as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(StatusCode.ERROR)
                raise
