"""Requests that come while the service is full: refused for little, soon, and in a way every client can read."""

import contextlib
import json
import selectors
import socket
import time
from collections.abc import Iterator
from statistics import median
from typing import cast

import httpx
import pytest

from service.serving.refusals import REFUSAL_SECONDS_AT_MOST, REFUSED_SOON
from tests.conftest import PLAIN_HTTP
from tests.support.load import lateness
from tests.support.small_server import SmallServer, read_all, running

PLACES = 2
GET = b"GET /anything HTTP/1.1\r\nHost: a\r\n%b\r\n"
SLOW = b"GET /slow?%s HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallServer]:
    with running(tmp_path_factory.mktemp("full") / "log", places=PLACES) as server:
        yield server
        assert httpx.get(server.url, verify=PLAIN_HTTP).status_code == 200, "it serves again"


@pytest.fixture
def full(small: SmallServer) -> Iterator[list[socket.socket]]:
    """Connections whose requests take all places, until they are answered."""
    connections = [small.connect() for _ in range(PLACES)]
    for connection in connections:
        connection.sendall(SLOW.replace(b"%s", b"1.5"))
    time.sleep(0.2)
    yield connections
    for connection in connections:
        assert b"slow" in connection.recv(65536)
        connection.close()


def split(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().lower().split("\r\n")
    return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body


@pytest.mark.usefixtures("full")
def test_a_request_is_refused_soon_and_its_connection_serves_on(small: SmallServer) -> None:
    with lateness() as late, small.connect() as connection:
        started = time.monotonic()
        connection.sendall(GET % b"X-Request-ID: mine\r\nOrigin: https://app.example.com\r\n")
        status, headers, body = split(connection.recv(65536))
        assert time.monotonic() - started < 0.5 + late()
        problem = json.loads(body)
        assert (status, problem["code"], problem["request_id"]) == (503, "overloaded", "mine")
        assert headers["content-type"] == "application/problem+json"
        assert headers["retry-after"] == "1"
        assert headers["x-request-id"] == "mine"
        assert int(headers["content-length"]) == len(body)
        assert headers["access-control-allow-origin"] == "https://app.example.com"
        assert "retry-after" in headers["access-control-expose-headers"]
        assert "connection" not in headers
        trace = "4bf92f3577b34da6a3ce929d0e0e4736"
        connection.sendall(GET % f"traceparent: 00-{trace}-00f067aa0ba902b7-01\r\n".encode())
        assert split(connection.recv(65536))[1]["x-request-id"] == trace
        time.sleep(1.6)
        connection.sendall(GET % b"")
        assert split(connection.recv(65536))[0] == 200
    line = small.wait_for("requests_refused")
    assert (line["code"], line["count"] >= 1) == ("overloaded", True)
    counted = httpx.get(f"{small.url}/metrics", verify=PLAIN_HTTP).text
    assert 'todochat_requests_total{method="GET",route="unmatched",status="503"}' in counted


@pytest.mark.usefixtures("full")
def test_of_a_crowd_the_newest_are_refused_at_once_and_the_others_within_a_second(small: SmallServer) -> None:
    crowd = 2 * REFUSED_SOON
    sent, answered = dict[socket.socket, float](), dict[socket.socket, float]()
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector, lateness() as late:
        for _ in range(crowd):
            connection = stack.enter_context(small.connect())
            selector.register(connection, selectors.EVENT_READ)
            sent[connection] = 0.0
        for connection in sent:
            connection.sendall(GET % b"")
            sent[connection] = time.monotonic()
        while len(answered) < crowd:
            for key, _ in selector.select(5):
                connection = cast("socket.socket", key.fileobj)
                assert split(connection.recv(65536))[0] == 503
                answered[connection] = time.monotonic()
                selector.unregister(connection)
        took = [answered[connection] - sent[connection] for connection in sent]
        assert max(took) < REFUSAL_SECONDS_AT_MOST + 0.5 + late()
        assert median(took[-REFUSED_SOON // 2 :]) < median(took[: REFUSED_SOON // 2])


@pytest.mark.usefixtures("full")
def test_health_and_metrics_are_never_refused(small: SmallServer) -> None:
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert httpx.get(small.url + path, verify=PLAIN_HTTP).status_code == 200


@pytest.mark.usefixtures("full")
def test_head_is_refused_without_a_body(small: SmallServer) -> None:
    with small.connect() as connection:
        connection.sendall(GET.replace(b"GET", b"HEAD") % b"")
        status, headers, body = split(connection.recv(65536))
        assert (status, body, int(headers["content-length"]) > 100) == (503, b"", True)
        connection.sendall(GET % b"")
        assert split(connection.recv(65536))[0] == 503


@pytest.mark.usefixtures("full")
def test_a_body_that_is_there_is_thrown_away_and_one_that_is_to_come_is_not_awaited(small: SmallServer) -> None:
    post = GET.replace(b"GET", b"POST") % b"Content-Length: 4\r\n"
    with small.connect() as connection:
        connection.sendall(post + b"body")
        assert split(connection.recv(65536))[0] == 503
        connection.sendall(post + b"bo")
        status, headers, _ = split(read_all(connection))
        assert (status, headers["connection"]) == (503, "close")


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("is_used", [False, True])
@pytest.mark.parametrize("data", [GET.replace(b"1.1", b"1.0") % b"", GET % b"Connection: close\r\n"])
def test_a_connection_that_ends_with_its_request_ends_with_the_refusal(
    small: SmallServer, data: bytes, is_used: bool
) -> None:
    with small.connect() as connection:
        if is_used:
            connection.sendall(GET.replace(b"anything", b"health/live") % b"")
            assert split(connection.recv(65536))[0] == 200
        connection.sendall(data)
        status, headers, _ = split(read_all(connection))
        assert (status, headers["connection"]) == (503, "close")


@pytest.mark.usefixtures("full")
def test_a_trailer_that_ends_the_connection_ends_it_with_the_refusal_too(small: SmallServer) -> None:
    head = GET.replace(b"GET", b"POST") % b"Transfer-Encoding: chunked\r\n"
    with small.connect() as connection:
        connection.sendall(head + b"1\r\nx\r\n0\r\nConnection: close\r\n\r\n")
        status, headers, _ = split(read_all(connection))
        assert (status, headers["connection"]) == (503, "close")


@pytest.mark.usefixtures("full")
def test_what_is_sent_behind_a_refused_request_ends_the_connection(small: SmallServer) -> None:
    with small.connect() as connection:
        connection.sendall((GET % b"") * 1000)
        answers = read_all(connection)
        assert answers.count(b"HTTP/1.1 503 ") == 2
        assert answers.lower().count(b"connection: close") == 1


def test_those_that_come_at_once_are_counted_before_they_run(small: SmallServer) -> None:
    connections = [small.connect() for _ in range(20)]
    for connection in connections:
        connection.sendall(SLOW.replace(b"%s", b"0.5"))
    statuses = [split(connection.recv(65536))[0] for connection in connections]
    assert statuses.count(200) == PLACES
    assert statuses.count(503) == 20 - PLACES
    for connection in connections:
        connection.close()


def test_what_the_server_refuses_itself_can_be_read_by_an_allowed_page(small: SmallServer) -> None:
    for origin, allowed in ((b"https://app.example.com", True), (b"https://evil.example.com", False)):
        with small.connect() as connection:
            connection.sendall(GET % (b"Origin: %b\r\nX-Long: %b\r\n" % (origin, b"x" * 40_000)))
            status, headers, _ = split(read_all(connection))
            assert (status, "access-control-allow-origin" in headers) == (431, allowed)
