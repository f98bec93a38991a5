"""However many long bodies are on their way: what they hold in memory is bounded, for one user and for all."""

import asyncio
import contextlib
import re
import secrets
import socket
import time
import tracemalloc
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from service.app import create_app
from service.db.caller import Caller
from service.http.request import BODIES_BYTES, BODY_BYTES, Request
from service.settings import Secret, Settings
from service.todos import BATCH_BYTES
from tests.conftest import Server, User, user_factory

HEAD = (
    "POST {} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    "Authorization: Bearer {}\r\nContent-Length: {}\r\n\r\n"
)
USERS = 4


@pytest.fixture(scope="module")
def service(start_module_server: Callable[..., Server]) -> Server:
    return start_module_server()


@pytest.fixture(scope="module")
def users(service: Server) -> Iterator[list[User]]:
    with user_factory(service) as make:
        yield [make() for _ in range(USERS)]


def memory(process: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found
    return int(found[1]) * 1024


def begin(
    service: Server, user: User, path: str = "/v1/todos/batch", size: int = BATCH_BYTES, token: str | None = None
) -> socket.socket:
    """A body of which only the end is missing."""
    connection = socket.create_connection(("127.0.0.1", int(service.url.rpartition(":")[2])), timeout=10)
    connection.sendall(HEAD.format(path, token or user.token, size).encode())
    connection.setblocking(False)
    return connection


def send(connections: list[socket.socket], size: int) -> None:
    """Send so many bytes on each, as far as they are taken within a while."""
    left = dict.fromkeys(connections, size)
    deadline = time.monotonic() + 5
    while any(left.values()) and time.monotonic() < deadline:
        for connection in connections:
            try:
                left[connection] -= connection.send(b"[" * min(left[connection], 1 << 18))
            except BlockingIOError:
                time.sleep(0.001)
            except OSError:  # refused, and closed behind the answer
                left[connection] = 0


def test_long_bodies_are_refused_before_they_take_too_much_memory(service: Server, users: list[User]) -> None:
    before = memory(service.pid)
    connections = [begin(service, user) for user in users for _ in range(10)]
    send(connections, BATCH_BYTES - 1)
    assert memory(service.pid) - before < 2 * BODIES_BYTES
    body = {"title": "x", "description": "y" * 900}
    assert users[0].client.post("/v1/todos", json=body).status_code == 201, "short bodies are read all the same"
    refused = 0
    for connection in connections:
        connection.settimeout(0.2)
        with contextlib.suppress(OSError):
            refused += b"503 Service Unavailable" in connection.recv(4096)
        connection.close()
    assert refused >= len(connections) // 2
    time.sleep(0.5)
    assert users[0].client.post("/v1/todos/batch", json={"create": [body] * 100}).status_code == 200, "there is room"


def test_one_user_leaves_room_for_others(service: Server, users: list[User]) -> None:
    greedy = [begin(service, users[0]) for _ in range(10)]
    send(greedy, BATCH_BYTES - 1)
    with begin(service, users[1]) as connection:
        connection.setblocking(True)
        connection.sendall(b"[" * BATCH_BYTES)
        assert b" 400 " in connection.recv(4096).partition(b"\r\n")[0]
    for one in greedy:
        one.close()


def test_keys_that_are_none_leave_room_for_others(service: Server, users: list[User]) -> None:
    """Each names another user, and is proven by nothing before its body is there."""
    keys = [b"tck_" + urlsafe_b64encode(secrets.token_bytes(48)) for _ in range(BODIES_BYTES // BODY_BYTES + 6)]
    crowd = [begin(service, users[0], "/v1/todos", BODY_BYTES, key.decode()) for key in keys]
    send(crowd, BODY_BYTES - 6)
    body = {"create": [{"title": "x", "metadata": {"text": "y" * 2500}}] * 490}
    assert users[1].client.post("/v1/todos/batch", json=body).status_code == 200
    for one in crowd:
        one.close()


def test_a_body_that_comes_in_crumbs_takes_no_more_than_another() -> None:
    """A megabyte, eight bytes at a time: each piece by itself would take seven times as much."""
    body = b'{"title":"%b"}' % (b"a" * 1_000_000)
    settings = Settings(database_url=Secret("postgresql://nowhere"), jwt_secret=Secret("x" * 64))
    app: Any = create_app(settings).litestar
    handlers = [handler for route in app.routes for handler in getattr(route, "route_handlers", ())]
    (handler,) = {handler for handler in handlers if handler.handler_name == "create_todo"}
    pieces = [body[start : start + 8] for start in range(0, len(body), 8)]
    left = iter(pieces)

    async def receive() -> dict[str, Any]:
        piece = next(left)
        return {"type": "http.request", "body": piece, "more_body": piece is not pieces[-1]}

    headers = {b"content-type": b"application/json", b"content-length": b"%d" % len(body)}
    scope: Any = {"type": "http", "method": "POST", "path": "/", "state": {"headers": headers}, "client": None}
    scope |= {"route_handler": handler, "user": Caller(cast("Any", None), ""), "headers": []}
    scope["litestar_app"] = scope["app"] = app
    tracemalloc.start()
    try:
        request = Request(scope, cast("Any", receive))
        assert asyncio.run(request.body()) == body
        taken, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        scope["state"]["held_body"].close()
    assert taken < 1.5 * len(body)
    assert peak < 3 * len(body)
