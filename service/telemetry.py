"""Spans for OpenTelemetry, where it is installed (`.venv/bin/pip install -e '.[telemetry]'`) and configured (OTEL_*).

This module is imported only then, so that everybody else pays nothing. A request is a span by Litestar's own plugin, a
child of the caller's; its transactions are children of that. A span tells what this code has named (methods, routes,
queries, codes of errors), and nothing that a client has sent: neither paths nor query strings, headers or addresses.
"""

import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from typing import Any, cast

from litestar.middleware import DefineMiddleware
from litestar.plugins.opentelemetry import OpenTelemetryConfig, OpenTelemetryInstrumentationMiddleware
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode

from service.db.database import TRANSACTION_SECONDS, Database, Held
from service.db.results import Result
from service.db.statements import Context, Step
from service.http.envelope import Message, Receive, Scope, Send
from service.http.metrics import METHODS, OTHER_METHOD
from service.http.traces import Trace
from service.problems import Problem
from service.settings import Settings

CLOSE_SECONDS = 2.0
"""How long what is left may take to be sent at the end."""
_PROPAGATED = (b"traceparent", b"tracestate")
_UNTRACED = ("/health/", "/metrics")
"""Asked for every few seconds by machines: no spans, so that they don't drown the others."""


def configured_provider() -> TracerProvider:
    """What sends spans by OTLP over HTTP, in the background: all of it is as OTEL_* says."""
    ours = Resource.create({"service.name": "todochat", "service.version": version("todochat")})
    provider = TracerProvider(resource=ours.merge(OTELResourceDetector().detect()), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class Telemetry:
    """What the application takes in: its middleware, and the database whose transactions are spans."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        config = OpenTelemetryConfig(
            tracer_provider=provider,
            scope_span_details_extractor=_name_at_first,
            exclude_spans=["receive", "send"],
            middleware_class=RequestSpans,
        )
        self.middleware: DefineMiddleware = config.middleware

    def close(self) -> None:
        """Send what is left, if that can be done in time: the SDK itself would try for as long as 10 s."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)

    def database(self, settings: Settings, observe: Callable[[str, float, bool], None]) -> Database:
        return TracedDatabase(settings, observe, self._provider.get_tracer("todochat"))


def _name_at_first(told: Any) -> tuple[str, dict[str, Any]]:
    """The span's name and attributes until the route is known."""
    return told["method"], {}


class RequestSpans(OpenTelemetryInstrumentationMiddleware):
    """Litestar's middleware, which sees no more of a request than its spans may tell."""

    def __init__(self, app: Any, config: OpenTelemetryConfig) -> None:
        self._app = app
        super().__init__(cast("Any", self._answer), config)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].startswith(_UNTRACED):
            await self._app(scope, receive, send)
            return
        told: dict[str, Any] = {
            "type": "http",
            "method": scope["method"] if scope["method"] in METHODS else OTHER_METHOD,
            "scheme": scope["scheme"],
            "server": scope["server"],
            "http_version": scope["http_version"],
            "headers": [header for header in scope["headers"] if header[0] in _PROPAGATED],
            "scope": scope,
        }
        await super().__call__(cast("Any", told), receive, send)
        if "error" in told:
            raise told["error"]

    async def _answer(self, told: Scope, receive: Receive, send: Send) -> None:
        """Pass the request itself on, within its span. The span is told of an error's type alone, not of its words."""
        span, scope = trace.get_current_span(), told["scope"]
        state, context = scope["state"], span.get_span_context()
        if context.is_valid:
            state["trace"] = Trace(trace_id=f"{context.trace_id:032x}", span_id=f"{context.span_id:016x}")

        def send_named(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start" and "route" in state:
                span.update_name(f"{told['method']} {state['route']}")
                span.set_attribute("http.route", state["route"])
            return send(message)

        try:
            await self._app(scope, receive, send_named)
        except Exception as error:  # noqa: BLE001 - raised again outside of the span
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(StatusCode.ERROR)
            told["error"] = error


class TracedDatabase(Database):
    """The database, with a span for each transaction of a traced request."""

    def __init__(self, settings: Settings, observe: Callable[[str, float, bool], None], tracer: trace.Tracer) -> None:
        super().__init__(settings, observe)
        self._tracer = tracer

    async def transact(
        self,
        context: Context,
        steps: Sequence[Step],
        accept: Callable[[list[Result]], None] | None = None,
        **limits: float,
    ) -> list[Result]:
        with self._span([*context.ahead, *steps]):
            return await super().transact(context, steps, accept, **limits)

    @asynccontextmanager
    async def hold(
        self, context: Context, *, seconds: float = TRANSACTION_SECONDS, snapshot: bool = False
    ) -> AsyncGenerator[Held]:
        steps = [*context.ahead]
        with self._span(steps):
            async with super().hold(context, seconds=seconds, snapshot=snapshot) as held:
                yield _TracedHeld(held, steps)

    @contextmanager
    def _span(self, steps: list[Step]) -> Generator[None]:
        """A span of the present request. ``steps`` may grow until its end."""
        if not trace.get_current_span().is_recording():
            yield
            return
        attributes = {"db.system.name": "postgresql"}
        span = self._tracer.start_span("transaction", kind=SpanKind.CLIENT, attributes=attributes)
        try:
            yield
        except BaseException as error:
            span.set_attribute("error.type", error.code if isinstance(error, Problem) else type(error).__name__)
            span.set_status(StatusCode.ERROR)
            raise
        finally:
            names = dict.fromkeys(prepared.name.decode() for prepared, _ in steps if prepared.name)
            span.set_attribute("db.query.summary", " ".join(names))
            span.end()


class _TracedHeld(Held):
    """A transaction of several round trips, which notes its steps."""

    def __init__(self, held: Held, noted: list[Step]) -> None:
        vars(self).update(vars(held))
        self._noted = noted

    async def run(self, steps: Sequence[Step], *, commit: bool = False) -> list[Result]:
        self._noted += steps
        return await super().run(steps, commit=commit)
