"""What one client sends never keeps the others waiting: what is long is read beside the event loop, or in slices."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx
import pytest

from service.http.request import BODY_BYTES
from service.todos import BATCH_BYTES
from tests.conftest import PLAIN_HTTP, Server, User

KEYS = BODY_BYTES // 12 - 1
LONG_BODIES = {
    "1 MiB of []": ("/v1/todos", b"[" + b"[]," * (BODY_BYTES // 3 - 1) + b"[]]", 0.1),
    "1 MiB of keys, the last one given twice": (
        "/v1/todos",
        b"{" + b",".join(b'"k%06d":1' % key for key in range(KEYS)) + b',"k%06d":2}' % (KEYS - 1),
        0.1,
    ),
    "1 MiB of integers": (
        "/v1/todos/batch",
        b'{"create":[{"metadata":{"a":[' + b"1," * (BODY_BYTES // 2) + b"1]}}]}",
        0.1,
    ),
    # This many are seen to be JSON in one piece, which holds every thread for 60 to 130 ms.
    "12 MiB of integers": ("/v1/todos/batch", b'{"delete":[' + b"1," * ((BATCH_BYTES - 100) // 2) + b"1]}", 0.5),
}
"""Where it is sent, what, and how many seconds others may wait for the answer to a small request meanwhile.

Read on the event loop, each holds it for several times as long.
"""


@pytest.mark.parametrize(("path", "body", "seconds"), LONG_BODIES.values(), ids=LONG_BODIES)
def test_a_long_body_keeps_nobody_waiting(
    server: Server, new_user: Callable[..., User], path: str, body: bytes, seconds: float
) -> None:
    ada = new_user()
    headers = {"Content-Type": "application/json"}
    waits, statuses = longest_waits(server, lambda: ada.client.post(path, content=body, headers=headers, timeout=60))
    assert statuses == {422}
    # A busy machine may hold up one of them.
    assert min(waits) < seconds, waits


def test_the_largest_batch_keeps_nobody_waiting(server: Server, new_user: Callable[..., User]) -> None:
    ada = new_user()
    todo = {"title": "x", "description": "<" * 1000, "metadata": {"text": "<" * 2_000}}
    batch = {"create": [todo] * 500}
    waits, statuses = longest_waits(server, lambda: ada.client.post("/v1/todos/batch", json=batch, timeout=60))
    assert statuses == {200}
    assert min(waits) < 0.2, waits


@pytest.mark.parametrize(("lines", "size"), [(8, 510_000), (40, 65_000), (500, 5_000)])
def test_long_lines_of_an_import_keep_nobody_waiting(
    server: Server, new_user: Callable[..., User], lines: int, size: int
) -> None:
    ada = new_user()
    ada.client.post("/v1/todos", json={"title": "x"})
    header, todo, *_ = ada.client.get("/v1/export").content.splitlines(keepends=True)
    metadata = b'"metadata":{"a":[%b[]]}' % (b"[]," * (size // 3))
    assert b'"metadata":{}' in todo
    long_todo = todo.replace(b'"metadata":{}', metadata)
    file = header + b"".join(
        long_todo.replace(b'"number":1,', b'"number":%d,' % (number + 1)).replace(
            json.loads(todo)["id"].encode(), str(uuid4()).encode()
        )
        for number in range(lines)
    )
    headers = {"Content-Type": "application/x-ndjson"}
    waits, statuses = longest_waits(
        server, lambda: ada.client.post("/v1/import", content=file, headers=headers, timeout=60)
    )
    assert statuses == {422}
    assert min(waits) < 0.2, waits


def longest_waits(server: Server, send: Callable[[], httpx.Response]) -> tuple[list[float], set[int]]:
    """How long others waited for a small answer at most, each time of three that it is sent; and its statuses."""
    waits: list[float] = []
    statuses: set[int] = set()
    with httpx.Client(base_url=server.url, timeout=60, verify=PLAIN_HTTP) as bob, ThreadPoolExecutor(1) as other:
        for _ in range(3):
            sent = other.submit(send)
            longest = 0.0
            while not sent.done():
                began = time.perf_counter()
                assert bob.get("/health/live").status_code == 200
                longest = max(longest, time.perf_counter() - began)
                time.sleep(0.002)
            waits.append(longest)
            statuses.add(sent.result().status_code)
    print("longest waits", waits)
    return waits, statuses
