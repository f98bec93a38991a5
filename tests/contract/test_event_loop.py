"""What one client sends never keeps the others waiting: long bodies are read beside the event loop."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

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

    def send() -> httpx.Response:
        return ada.client.post(path, content=body, headers={"Content-Type": "application/json"}, timeout=60)

    def longest_wait(sent: "Future[httpx.Response]", bob: httpx.Client) -> float:
        longest = 0.0
        while not sent.done():
            began = time.perf_counter()
            assert bob.get("/health/live").status_code == 200
            longest = max(longest, time.perf_counter() - began)
            time.sleep(0.002)
        return longest

    with httpx.Client(base_url=server.url, timeout=60, verify=PLAIN_HTTP) as bob, ThreadPoolExecutor(1) as other:
        waits: list[float] = []
        for _ in range(3):
            sent = other.submit(send)
            waits.append(longest_wait(sent, bob))
            assert sent.result().status_code == 422
    # A busy machine may hold up one of them.
    assert min(waits) < seconds, waits
