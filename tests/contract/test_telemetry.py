"""Spans: a request and its transactions, in the caller's trace, by OTEL_*, and nothing of it where nobody wants it."""

import asyncio
import json
import re
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import httpx
import pytest
from litestar import Litestar
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from service.app import create_app
from service.db.caller import Caller
from service.identity.tokens import Tokens
from service.problems import Problem
from service.settings import Secret, Settings
from service.telemetry import CLOSE_SECONDS, Telemetry
from tests.conftest import REPOSITORY, Server, TestDatabase, User, connect_as_service, insert_user, user_factory
from tests.support.load import lateness, wait_for
from tests.support.operations import section

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACED = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=secret"}


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


@pytest.fixture
def ask(make_database: Callable[[], TestDatabase]) -> Callable[..., list[ReadableSpan]]:
    """Call it with requests, each a method, a path and what httpx takes, for the spans of a user's asking."""
    database = make_database()
    with connect_as_service(database.service_url) as connection:
        user_id = insert_user(connection, {"email": "ada@example.com", "password": "correct horse"})
    secret = secrets.token_hex(32)
    settings = Settings(database_url=Secret(database.service_url), jwt_secret=Secret(secret), database_pool_size=2)
    token = Tokens(secret, None, 900, 3600).issue(user_id, 1).access_token

    async def run(requests: Sequence[tuple[str, str, dict[str, Any]]]) -> list[ReadableSpan]:
        exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        app = create_app(settings, Telemetry(provider))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        headers = {"Authorization": f"Bearer {token}", "User-Agent": "secret", "Cookie": "secret=1", "Host": "secret"}
        async with (
            cast(Litestar, app.litestar).lifespan(),
            httpx.AsyncClient(transport=transport, base_url="http://here:8000", headers=headers | TRACED) as client,
        ):
            for method, path, options in requests:
                await client.request(method, path, **options)
        return list(exporter.get_finished_spans())

    return lambda *requests: asyncio.run(run(requests))


def test_a_request_is_a_span_of_the_callers_trace_and_its_transaction_one_of_its_own(
    ask: Callable[..., list[ReadableSpan]],
) -> None:
    transaction, request = ask(("POST", "/v1/todos", {"json": {"title": "secret milk"}}))
    assert (request.name, request.kind) == ("POST /v1/todos", SpanKind.SERVER)
    assert f"{request.context.trace_id:032x}" == TRACE
    assert f"{request.parent.span_id:016x}" == SPAN
    assert attributes(request)["http.route"] == "/v1/todos"
    assert attributes(request)["http.response.status_code"] == 201
    assert (transaction.name, transaction.kind) == ("transaction", SpanKind.CLIENT)
    assert transaction.context.trace_id == request.context.trace_id
    assert transaction.parent.span_id == request.context.span_id
    assert attributes(transaction) == {
        "db.system.name": "postgresql",
        "db.query.summary": "authenticate create_todo",
    }


def test_each_round_trip_of_a_transaction_is_a_span(ask: Callable[..., list[ReadableSpan]]) -> None:
    first, *others, request = ask(("GET", "/v1/export", {}))
    assert request.name == "GET /v1/export"
    summary = str(attributes(first)["db.query.summary"]).split()
    assert summary[0] == "authenticate"
    assert len(summary) == len(set(summary))
    assert len(others) > 3
    assert {span.parent and span.parent.span_id for span in (first, *others)} == {request.context.span_id}


def test_what_fails_says_so_by_its_code(ask: Callable[..., list[ReadableSpan]]) -> None:
    body = {"title": "x", "assigned_to": "018f0000-0000-7000-8000-00000000beef"}
    transaction, request = ask(("POST", "/v1/todos", {"json": body}))
    assert transaction.status.status_code is StatusCode.ERROR
    assert attributes(transaction)["error.type"] == "validation_failed"
    assert transaction.status.description is None
    assert attributes(request)["http.response.status_code"] == 422


def test_an_answer_that_is_the_service_s_fault_is_an_error(
    ask: Callable[..., list[ReadableSpan]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise Problem("overloaded")

    monkeypatch.setattr(Caller, "transaction", fail)
    (request,) = ask(("GET", "/v1/export", {}))
    assert attributes(request)["http.response.status_code"] == 503
    assert attributes(request)["error.type"] == "503"
    assert request.status.status_code is StatusCode.ERROR


def test_a_transaction_of_several_round_trips_says_why_one_failed(ask: Callable[..., list[ReadableSpan]]) -> None:
    body = {"title": "x", "assigned_to": "018f0000-0000-7000-8000-00000000beef"}
    *_, transaction, request = ask(("POST", "/v1/todos", {"json": body, "headers": {"Idempotency-Key": "k"}}))
    assert attributes(transaction)["error.type"] == "validation_failed"
    assert request.status.status_code is StatusCode.UNSET


def test_an_error_that_nobody_expects_leaves_its_words_in_the_log(
    ask: Callable[..., list[ReadableSpan]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise LookupError("secret words")

    monkeypatch.setattr(Caller, "transaction", fail)
    (request,) = ask(("GET", "/v1/export", {}))
    assert attributes(request)["error.type"] == "LookupError"
    assert (request.status.status_code, request.status.description) == (StatusCode.ERROR, None)
    assert request.events == ()


def test_spans_take_as_long_as_what_they_stand_for(ask: Callable[..., list[ReadableSpan]]) -> None:
    transaction, request = ask(("GET", "/v1/todos", {}))
    times = (request.start_time, transaction.start_time, transaction.end_time, request.end_time)
    assert list(times) == sorted(times)


def test_spans_tell_nothing_that_a_client_sent(ask: Callable[..., list[ReadableSpan]]) -> None:
    spans = ask(
        ("GET", "/v1/todos", {"params": {"q": "secret"}}),
        ("GET", "/v1/messages", {"params": {"q": "secret"}}),
        ("GET", "/v1/todos/secret", {}),
        ("GET", "/secret", {}),
        ("GET", "/v1/todos?q=%FF%FE", {}),
        ("SECRET", "/v1/todos", {}),
        ("POST", "/v1/todos", {"json": {"title": "secret", "secret": 1}}),
        ("POST", "/v1/turns", {"json": {"messages": [{"sender_type": "user", "content": "secret"}]}}),
        ("POST", "/v1/auth/token", {"json": {"email": "secret@example.com", "password": "secret secret"}}),
        ("POST", "/v1/auth/refresh", {"json": {"refresh_token": "secret"}}),
        ("POST", "/mcp", {"json": {"jsonrpc": "2.0", "id": 1, "method": "secret"}}),
    )
    assert len(spans) > 11
    told = json.dumps([json.loads(span.to_json()) for span in spans])
    assert re.findall(".{,60}secret.{,60}", told, re.IGNORECASE) == []
    assert "127.0.0.1" not in told  # the client's address
    names = [span.name for span in spans if span.kind is SpanKind.SERVER]
    assert "GET" in names
    assert "other" in names


def test_health_and_metrics_are_not_traced(ask: Callable[..., list[ReadableSpan]]) -> None:
    assert ask(("GET", "/health/ready", {}), ("GET", "/health/live", {}), ("GET", "/metrics", {})) == []


# By the environment


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """Where to send spans to, and what came there."""
    came: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                came.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002 - the name in the base class

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", came
        finally:
            server.shutdown()
            thread.join()


def test_otel_variables_configure_it(
    start_server: Callable[..., Server], collector: tuple[str, list[ExportTraceServiceRequest]]
) -> None:
    url, came = collector
    server = start_server(OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_BSP_SCHEDULE_DELAY="50", OTEL_SERVICE_NAME="mine")
    with user_factory(server) as new_user:
        ada: User = new_user()
        answer = ada.client.get("/v1/users/me", headers=TRACED)
    wait_for(lambda: came)
    (resource,) = came[0].resource_spans
    told = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
    assert told["service.name"] == "mine"
    spans = [span for scope in resource.scope_spans for span in scope.spans]
    (request,) = [span for span in spans if span.name == "GET /v1/users/me"]
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, SPAN)
    # The log's line names the request's own span, by which it is found from the line and the line from it.
    request_id = answer.headers["x-request-id"]
    (text,) = wait_for(lambda: [line for line in server.log().splitlines() if f'"request_id":"{request_id}"' in line])
    line = json.loads(text)
    assert (line["trace_id"], line["span_id"]) == (TRACE, request.span_id.hex())


def test_a_collector_that_is_away_disturbs_nobody(start_server: Callable[..., Server]) -> None:
    server = start_server(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1", OTEL_BSP_SCHEDULE_DELAY="50")
    with user_factory(server) as new_user:
        ada: User = new_user()
        assert {ada.client.get("/v1/users/me").status_code for _ in range(20)} == {200}
    with lateness() as late:
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < CLOSE_SECONDS + 3 + late()


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"OTEL_SERVICE_NAME": "mine"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_without_a_collector_nothing_of_it_is_imported(env: dict[str, str]) -> None:
    script = (
        "import os, sys; from service.commands.serve import _telemetry; assert _telemetry() is None\n"
        "import service.app; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_collector_without_the_packages_is_said_in_one_line() -> None:
    script = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from service.commands.serve import _telemetry; assert _telemetry() is None"
    )
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True, check=True)
    install = "`.venv/bin/pip install -e '.[telemetry]'`"
    assert done.stderr == f"todochat: OTEL_EXPORTER_OTLP_ENDPOINT is set, but nothing is traced: run {install}\n"
    assert install in section("Traces")


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf"),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL must be http/protobuf",
        ),
        ({"OTEL_TRACES_EXPORTER": "console"}, "OTEL_TRACES_EXPORTER must be otlp or none"),
        ({"OTEL_BSP_MAX_QUEUE_SIZE": "1"}, "a variable of OTEL_* has a wrong value: "),
        ({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "x"}, "a variable of OTEL_* has a wrong value: "),
    ],
)
def test_a_variable_that_can_not_be_used_is_said_in_one_line(env: dict[str, str], told: str) -> None:
    script = (
        "from service.commands.serve import _telemetry\n"
        "from service.settings import OperatorError\n"
        "try: _telemetry()\n"
        "except OperatorError as error: print(error)"
    )
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", **env}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(told)
    assert done.stdout.count("\n") == 1
