"""A real server process around a small application, for tests of HTTP itself: ``python small_app.py OPTIONS``.

OPTIONS is JSON: ``settings``, ``limits`` and ``edge`` are keyword arguments of Settings, Limits and Envelope, and
``places`` is how many requests may run at a time; ``open_to_all``: the kernel drops no newcomers at the end.
"""

# ruff: noqa: ARG001, ARG005 - every path is answered by something with ASGI's signature

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from litestar.config.cors import CORSConfig

from service.http.envelope import Envelope
from service.http.metrics import Metrics
from service.http.response import problem_answer
from service.problems import Problem, StartupError
from service.serving import server
from service.serving.limits import Limits
from service.serving.server import run
from service.serving.sockets import given_sockets
from service.settings import Settings
from tests.support.small_server import LARGE

OPTIONS = json.loads(sys.argv[1])
METRICS = Metrics()
DRAINING = asyncio.Event()
POOL = asyncio.Semaphore(10)
"""What makes a large answer waits for a connection of the database first: there are as many."""
finished: list[str] = []


async def read(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client left")
        body += message["body"]
        if not message["more_body"]:
            return body


async def answer(send: Any, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def lifespan() -> AsyncGenerator[None]:
    if OPTIONS.get("fail") == "told":
        raise ExceptionGroup("start", [StartupError("the moon is not full: wait")])
    if OPTIONS.get("fail") == "crash":
        raise LookupError("nothing there")
    yield


async def slow(scope: Any, _: Any, send: Any) -> None:
    await asyncio.sleep(float(scope["query_string"] or b"0.3"))
    finished.append(scope["state"]["request_id"])
    await answer(send, b"slow")


async def big(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(50):
        await send({"type": "http.response.body", "body": bytes(1_000_000), "more_body": True})
    await send({"type": "http.response.body", "body": b"."})


async def large(scope: Any, receive: Any, send: Any) -> None:
    async with POOL:
        await asyncio.sleep(0.01)
        await answer(send, b"x" * LARGE)


async def crash(scope: Any, receive: Any, send: Any) -> None:
    raise LookupError("the secret of the crash")


async def crash_later(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise LookupError("too late")


async def ready(scope: Any, receive: Any, send: Any) -> None:
    if DRAINING.is_set():
        await send_problem(Problem("overloaded", "The service is shutting down."), scope, send)
    else:
        await answer(send, b"{}", JSON)


async def headers(scope: Any, receive: Any, send: Any) -> None:
    await read(receive)
    await answer(send, repr(scope["headers"]).encode())


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, await read(receive))


async def plain(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, b"{}", JSON)


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    pass


JSON = (b"content-type", b"application/json")
PATHS: dict[str, Callable[[Any, Any, Any], Awaitable[None]]] = {
    "/ready": ready,
    "/slow": slow,
    "/crash": crash,
    "/crash-later": crash_later,
    "/headers": headers,
    "/echo": echo,
    "/nothing": nothing,
    "/etag": lambda scope, receive, send: answer(send, b"{}", JSON, (b"etag", b'"1"')),
    "/page": lambda scope, receive, send: answer(send, b"<p>", (b"content-type", b"text/html; charset=utf-8")),
    "/cached": lambda scope, receive, send: answer(send, b"{}", JSON, (b"cache-control", b"public, max-age=60")),
    "/split": lambda scope, receive, send: answer(send, b"{}", (b"x-name", b"a\r\nset-cookie: b=c")),
    "/finished": lambda scope, receive, send: answer(send, json.dumps(finished).encode()),
    "/unread": lambda scope, receive, send: send_problem(Problem("payload_too_large"), scope, send),
    "/big": big,
    "/large": large,
    "/metrics": lambda scope, receive, send: answer(send, METRICS.render()),
}


async def send_problem(problem: Problem, scope: Any, send: Any) -> None:
    await problem_answer(problem, scope["state"]["request_id"])(scope, send, send)


async def app(scope: Any, receive: Any, send: Any) -> None:
    path = scope["path"]
    if not path.startswith("/unknown"):
        scope["path_template"] = path
    await PATHS.get(path, plain)(scope, receive, send)


if __name__ == "__main__":
    defaults = {"port": 0, "shutdown_delay_seconds": 0.3, "shutdown_grace_seconds": 2.0}
    settings = Settings(**{**defaults, **OPTIONS["settings"]})
    places = OPTIONS.get("places", 1000)
    cors = CORSConfig(allow_origins=["https://app.example.com"], expose_headers=["Retry-After"])
    vars(app)["lifespan"] = lifespan  # as Litestar has it
    edge = Envelope(
        app,
        METRICS,
        DRAINING,
        is_full=lambda coming: METRICS.in_flight + coming >= places,
        cors=cors,
        **OPTIONS["edge"],
    )
    if OPTIONS.get("open_to_all"):
        server.drop_newcomers = lambda listener: False
    sys.exit(run(settings, edge, shared=given_sockets(), limits=Limits(**OPTIONS["limits"])))
