"""What holds for every request, whatever it asks: HTTP's limits, the request id, the log line, metrics, headers."""

import asyncio
import contextlib
import functools
import json
import os
import re
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from service.db.statements import Prepared
from service.health import may_read_metrics
from service.http.envelope import Envelope
from service.http.metrics import METHODS, OTHER_METHOD, UNMATCHED, Metrics
from service.serving.limits import Connections, Limits
from service.serving.refusals import Refusals
from service.serving.server import _within_file_limit
from service.setting_readers import proxies
from service.settings import Secret
from tests.conftest import PLAIN_HTTP
from tests.support.memory import most_memory
from tests.support.small_server import LARGE, SmallServer, command, environment, read_all, running

get = functools.partial(httpx.get, verify=PLAIN_HTTP)

LIMITS = {
    "header_seconds": 0.3,
    "idle_seconds": 0.6,
    "linger_seconds": 0.4,
    "stall_seconds": 0.4,
    "connections": 20,
    "connections_per_address": 16,
}
EDGE = {"body_seconds": 0.3, "body_rate": 20_000}
SERVER_ERROR = 500


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallServer]:
    """A server with limits short enough to meet."""
    with running(tmp_path_factory.mktemp("edge") / "log", limits=LIMITS, edge=EDGE) as server:
        yield server
        assert get(server.url).status_code == 200, "it still serves after everything that was done to it"


def exchange(server: SmallServer, data: bytes) -> bytes:
    with server.connect() as connection:
        connection.sendall(data)
        return read_all(connection)


def problem_of(answer: bytes) -> dict[str, Any]:
    """The problem in an answer's body, which closes its connection and repeats its own id."""
    head, _, body = answer.partition(b"\r\n\r\n")
    headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"connection"] == b"close"
    assert int(headers[b"content-length"]) == len(body)
    problem = json.loads(body)
    assert headers[b"x-request-id"].decode() == problem["request_id"]
    return problem


def status_and_code(answer: bytes) -> tuple[int, str]:
    problem = problem_of(answer)
    assert answer.startswith(b"HTTP/1.1 %d " % problem["status"])
    return problem["status"], problem["code"]


# Request ids


@pytest.mark.parametrize(
    "sent", ["a", "x" * 128, "Az09._:/+=@-", "3f0c-77/span=1", "018f4fd2-0000-7000-8000-000000000000"]
)
def test_a_sane_request_id_is_given_back_and_logged(small: SmallServer, sent: str) -> None:
    assert get(small.url, headers={"X-Request-ID": sent}).headers["x-request-id"] == sent
    assert small.line_of(sent)["status"] == 200


@pytest.mark.parametrize(
    "sent",
    [b"", b"x" * 129, b"a b", b'a"b', b"'", b"a\tb", b"a\x7f", b"<script>", b"\xc3\xa4", b"a,b", b"a\\nb"],
)
def test_any_other_request_id_is_replaced_by_a_new_one(small: SmallServer, sent: bytes) -> None:
    given = get(small.url, headers={b"X-Request-ID": sent}).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", given)


def test_new_request_ids_differ(small: SmallServer) -> None:
    with httpx.Client(verify=PLAIN_HTTP) as client:
        given = {client.get(small.url).headers["x-request-id"] for _ in range(300)}
    assert len(given) == 300
    assert all(re.fullmatch(r"[0-9a-f]{32}", request_id) for request_id in given)


# Traces (W3C Trace Context, section 3.2)

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize("sent", [f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00", f"cc-{TRACE}-{SPAN}-01-what-comes"])
def test_the_callers_trace_is_in_the_line_and_the_request_id_where_none_was_sent(small: SmallServer, sent: str) -> None:
    headers = {"traceparent": sent}
    assert get(small.url, headers=headers).headers["x-request-id"] == TRACE
    named = f"traced-{sent[:2]}{sent[53:55]}"
    assert get(small.url, headers={**headers, "X-Request-ID": named}).headers["x-request-id"] == named
    for request_id in (TRACE, named):
        line = small.line_of(request_id)
        assert (line["trace_id"], line["span_id"]) == (TRACE, SPAN)


MALFORMED = [
    "",
    "00",
    f"00-{TRACE}-{SPAN}",
    f"00-{TRACE}-{SPAN}-01-more",
    f"00-{TRACE}-{SPAN}-01-",
    f"cc-{TRACE}-{SPAN}-01.more",
    f"ff-{TRACE}-{SPAN}-01",
    f"0-{TRACE}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"00-{TRACE.upper()}-{SPAN}-01",
    f"00-{TRACE[1:]}-{SPAN}-01",
    f"00-{TRACE}-{SPAN}x-01",
    f"00-{TRACE}-{SPAN}-zz",
    f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01",
    "\xe4" * 55,
]


@pytest.mark.parametrize("sent", MALFORMED)
def test_a_malformed_trace_is_ignored(small: SmallServer, sent: str) -> None:
    given = get(small.url, headers={b"traceparent": sent.encode("latin-1")}).headers["x-request-id"]
    assert given != TRACE
    assert "trace_id" not in small.line_of(given)


def test_two_traces_are_none(small: SmallServer) -> None:
    twice = [(b"traceparent", f"00-{TRACE}-{SPAN}-01".encode())] * 2
    given = httpx.get(small.url, headers=twice, verify=PLAIN_HTTP).headers["x-request-id"]
    assert "trace_id" not in small.line_of(given)


# Answers


def test_head_answers_like_get_without_the_body(small: SmallServer) -> None:
    got = get(f"{small.url}/etag")
    head = httpx.head(f"{small.url}/etag", headers={"X-Request-ID": "head-1"})
    own = ("x-request-id", "date")
    assert head.status_code == 200
    assert head.content == b""
    assert {k: v for k, v in head.headers.items() if k not in own} == {
        k: v for k, v in got.headers.items() if k not in own
    }
    line = small.line_of("head-1")
    assert (line["method"], line["bytes_out"]) == ("HEAD", 0)


def test_an_answer_to_head_leaves_the_connection_usable(small: SmallServer) -> None:
    last = b"GET /etag HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answer = exchange(small, b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n" + last)
    first, second = answer.split(b"\r\n\r\n", 1)
    assert first.startswith(b"HTTP/1.1 200 ")
    assert b"content-length: 2" in first
    assert second.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("path", "cache_control"),
    [("/", "no-store"), ("/etag", "private, no-cache"), ("/cached", "public, max-age=60"), ("/crash", "no-store")],
)
def test_answers_are_stored_by_no_cache_but_may_be_revalidated(
    small: SmallServer, path: str, cache_control: str
) -> None:
    answer = get(small.url + path)
    assert answer.headers.get_list("cache-control") == [cache_control]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "server" not in answer.headers
    assert "content-security-policy" not in answer.headers
    assert len(answer.headers.get_list("date")) == 1


def test_a_page_may_load_nothing_from_elsewhere(small: SmallServer) -> None:
    policy = get(f"{small.url}/page").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_an_exception_is_a_500_that_tells_nothing_and_is_logged_in_full(small: SmallServer) -> None:
    answer = get(f"{small.url}/crash", headers={"X-Request-ID": "crash-1"})
    assert answer.status_code == SERVER_ERROR
    assert answer.json()["code"] == "internal"
    assert answer.json()["request_id"] == "crash-1"
    assert "secret of the crash" not in answer.text
    logged = small.wait_for_line(lambda line: line["event"] == "unhandled_exception" and "crash-1" in line.values())
    assert logged["exception"] == "LookupError: the secret of the crash"
    assert "small_app.py" in logged["traceback"]
    assert small.line_of("crash-1")["level"] == "error"


def test_an_exception_in_the_middle_of_an_answer_closes_the_connection(small: SmallServer) -> None:
    answer = exchange(small, b"GET /crash-later HTTP/1.1\r\nHost: a\r\nX-Request-ID: later-1\r\n\r\n")
    assert answer.endswith(b"\r\n\r\nhalf")
    assert small.wait_for_line(lambda line: line.get("exception") == "LookupError: too late")
    assert not [line for line in small.lines() if line["event"] == "library"]


def test_a_header_with_a_line_break_never_leaves(small: SmallServer) -> None:
    assert exchange(small, b"GET /split HTTP/1.1\r\nHost: a\r\nX-Request-ID: split-1\r\n\r\n") == b""
    assert small.wait_for_line(lambda line: line["event"] == "unhandled_exception" and "split-1" in line.values())


def test_an_application_that_answers_nothing_is_a_500(small: SmallServer) -> None:
    assert get(f"{small.url}/nothing").json()["code"] == "internal"


# Headers


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40_000,
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 129,
        b"GET /" + b"x" * 33_000 + b" HTTP/1.1\r\nHost: a",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + (b"X: " + b"x" * 1000 + b"\r\n") * 33,
    ],
    ids=["one long header", "many headers", "a long URL", "a few long headers"],
)
def test_headers_that_are_too_large_are_refused(small: SmallServer, head: bytes) -> None:
    assert status_and_code(exchange(small, head + b"\r\n\r\n")) == (431, "headers_too_large")


@pytest.mark.parametrize("more", [b"X: y\r\n" * 129, b"Host: b\r\n"], ids=["many headers", "two hosts"])
def test_a_refusal_of_the_server_s_has_the_request_s_id(small: SmallServer, more: bytes) -> None:
    answer = exchange(small, b"GET / HTTP/1.1\r\nHost: a\r\nX-Request-ID: sent-1\r\n" + more + b"\r\n")
    assert b"\r\nx-request-id: sent-1\r\n" in answer
    assert b'"request_id":"sent-1"' in answer


def test_headers_up_to_the_limit_are_taken(small: SmallServer) -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + (b"X: " + b"x" * 900 + b"\r\n") * 35
    assert len(head) < 32 * 1024
    assert exchange(small, head + b"\r\n").startswith(b"HTTP/1.1 200 ")


def test_a_header_that_never_ends_is_cut_off_at_the_limit(small: SmallServer) -> None:
    with small.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 5_000_000:
                sent += connection.send(b"x" * 8192)
                if select_readable(connection):
                    break
        assert status_and_code(read_all(connection)) == (431, "headers_too_large")
        assert sent < 5_000_000


@pytest.mark.parametrize("start", [b"1;x=", b"1\r\nx\r\n0\r\nX-Trailer: "], ids=["chunk extension", "trailer"])
def test_what_stands_around_a_body_is_cut_off_at_the_limit_too(small: SmallServer, start: bytes) -> None:
    with small.connect() as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + start)
        for _ in range(9):
            time.sleep(0.01)
            connection.sendall(b"x" * 8192)
            if select_readable(connection):
                break
        assert status_and_code(read_all(connection)) == (431, "headers_too_large")


def select_readable(connection: socket.socket) -> bool:
    connection.settimeout(0.002)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except TimeoutError:
        return False
    finally:
        connection.settimeout(20)


def test_headers_that_come_too_slowly_are_refused_even_when_they_keep_coming(small: SmallServer) -> None:
    with small.connect() as connection:
        started = time.monotonic()
        for byte in b"GET / HTTP/1.1\r\nX-Slow: " + b"x" * 1000:
            connection.sendall(bytes([byte]))
            if select_readable(connection):
                break
            time.sleep(0.01)
        assert status_and_code(read_all(connection)) == (408, "timeout")
        assert time.monotonic() - started < 3


def test_the_headers_of_a_later_request_have_the_same_time(small: SmallServer) -> None:
    with small.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"GET / HTTP/1.1\r\nHo")
        assert status_and_code(read_all(connection)) == (408, "timeout")


def test_a_connection_on_which_nothing_comes_is_closed_without_a_word(small: SmallServer) -> None:
    assert exchange(small, b"") == b""


def test_an_idle_connection_is_closed_without_a_word(small: SmallServer) -> None:
    answer = exchange(small, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "data",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHeader name: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a:99999/x HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_what_is_not_http_is_a_malformed_request(small: SmallServer, data: bytes) -> None:
    assert status_and_code(exchange(small, data)) == (400, "malformed_request")


@pytest.mark.parametrize(
    "bad",
    [
        b"GARBAGE\r\n\r\n",
        b"GET http:/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
    ],
)
def test_requests_before_a_malformed_one_are_answered(small: SmallServer, bad: bytes) -> None:
    answer = exchange(small, b"GET /slow?0.1 HTTP/1.1\r\nHost: a\r\n\r\n" + bad)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"slow")


def test_pipelined_requests_are_answered_in_order(small: SmallServer) -> None:
    requests = [b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n<%d>" % number for number in range(9)]
    last = b"GET /slow?0 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answer = exchange(small, b"GET /slow?0.05 HTTP/1.1\r\nHost: a\r\n\r\n" + b"".join(requests) + last)
    bodies = re.findall(rb"\r\n\r\n(<\d>|slow)", answer)
    assert bodies == [b"slow", *(b"<%d>" % number for number in range(9)), b"slow"]


def test_of_pipelined_requests_without_end_some_are_answered_and_none_is_kept(small: SmallServer) -> None:
    with small.connect() as connection:
        connection.sendall(b"GET /slow?0.01 HTTP/1.1\r\nHost: a\r\n\r\n" * 5000)
        answer = read_all(connection)
    count = Limits().pipelined + 1
    assert answer.count(b"HTTP/1.1 200 ") == answer.count(b"HTTP/1.1 ") == count
    assert answer.count(b"\r\nconnection: close\r\n") == 1
    assert answer.rindex(b"connection: close") > answer.rindex(b"HTTP/1.1 ")


def test_a_trailer_does_not_become_a_header(small: SmallServer) -> None:
    chunks = b"5\r\nhello\r\n0\r\nAuthorization: Bearer forged\r\n\r\n"
    head = b"POST /headers HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = exchange(small, head + chunks)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"forged" not in answer


def test_a_trailer_that_ends_the_connection_ends_it(small: SmallServer) -> None:
    head = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    trailer = b"5\r\nhello\r\n0\r\nConnection: close\r\n\r\n"
    answer = exchange(small, head + trailer + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close\r\n" in answer
    assert answer.endswith(b"hello")


SMALL_CHUNKS = b"1\r\n \r\n" * 1100
CHUNKED = b"Host: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_body_in_very_many_small_chunks_is_refused(small: SmallServer) -> None:
    with small.connect() as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\n" + CHUNKED + SMALL_CHUNKS)
        assert status_and_code(read_all(connection)) == (400, "malformed_request")


def test_many_chunks_of_a_body_that_has_its_answer_end_the_connection_with_no_other(small: SmallServer) -> None:
    with small.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n" + CHUNKED + b"1\r\n \r\n")
        assert connection.recv(12) == b"HTTP/1.1 200"
        connection.sendall((b"80\r\n%b\r\n" % (b"y" * 128)) * 1100 + b"0\r\n\r\n")
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert b"HTTP/1.1" not in read_all(connection)


def test_a_body_may_come_in_many_chunks_and_some_of_them_small(small: SmallServer) -> None:
    with small.connect() as connection:
        for _ in range(2):  # each request begins to count anew
            chunks = b"1\r\nx\r\n" * 990 + b"80\r\n%b\r\n" % (b"y" * 128) * 2000
            connection.sendall(b"POST /echo HTTP/1.1\r\n" + CHUNKED + chunks + b"0\r\n\r\n")
            answer = b""
            while answer.count(b"y") < 128 * 2000:
                answer += connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")


def test_who_speaks_http_1_0_is_not_told_to_continue(small: SmallServer) -> None:
    with small.connect() as connection:
        connection.sendall(b"POST /echo HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello")
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")


UPGRADES = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
    "websocket": b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
}
BODIES = {
    "no body": (b"GET", b"", b""),
    "a body": (b"POST", b"Content-Length: 4\r\n\r\n", b"body"),
    "a chunked body": (b"POST", b"Transfer-Encoding: chunked\r\n\r\n", b"4\r\nbody\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("upgrade", UPGRADES)
@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_wish_for_another_protocol_is_ignored_body_and_all(
    small: SmallServer, upgrade: str, kind: str, size: int
) -> None:
    method, length, body = BODIES[kind]
    head = method + b" /echo HTTP/1.1\r\nHost: a\r\n" + UPGRADES[upgrade] + (length or b"\r\n")
    data = head + body + b"GET /etag HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with small.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), size):
            connection.sendall(data[start : start + size])
        answer = read_all(connection)
    first, second = answer.split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"200 ")
    assert first.endswith(b"\r\n\r\n" + (b"body" if body else b""))
    assert second.startswith(b"200 ")
    assert second.endswith(b"\r\n\r\n{}")


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("size", [1, 100_000])
def test_a_wish_for_another_protocol_is_ignored_on_a_connection_s_last_request(
    small: SmallServer, version: bytes, size: int
) -> None:
    """As `curl --http2 -H 'Connection: close'` sends it."""
    data = b"POST /echo HTTP/" + version + b"\r\nHost: a\r\nUpgrade: h2c\r\nConnection: close, Upgrade\r\n"
    data += b"Content-Length: 4\r\n\r\nbody"
    with small.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), size):
            connection.sendall(data[start : start + size])
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\nbody")


def test_many_wishes_for_another_protocol_at_once_are_ignored_one_by_one(small: SmallServer) -> None:
    requests = b"GET /etag HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: a\r\n\r\n" * Limits().pipelined
    answer = exchange(small, requests + b"GET /etag HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 ") == Limits().pipelined + 1


def test_curl_with_http2_posts_a_body(small: SmallServer, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b"x" * 200_000)
    given = ["curl", "-sS", "--http2", "--data-binary", f"@{tmp_path}/body", "-w", "%{http_version} %{response_code}"]
    ended = subprocess.run([*given, f"{small.url}/echo"], capture_output=True, timeout=20, check=True)
    assert ended.stdout == b"x" * 200_000 + b"1.1 200"


def test_a_tunnel_is_refused(small: SmallServer) -> None:
    answer = exchange(small, b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\nGET /slow?0 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert status_and_code(answer) == (400, "malformed_request")


@pytest.mark.parametrize(
    ("hosts", "version", "status"),
    [
        (b"", b"1.1", 400),
        (b"Host: a\r\nHost: a\r\n", b"1.1", 400),
        (b"Host: a\r\nhost: b\r\n", b"1.1", 400),
        (b"Host:\r\n", b"1.1", 200),
        (b"HOST: a\r\n", b"1.1", 200),
        (b"", b"1.0", 200),
        (b"Host: a\r\nHost: a\r\n", b"1.0", 400),
    ],
)
def test_a_request_of_http_1_1_has_one_host(small: SmallServer, hosts: bytes, version: bytes, status: int) -> None:
    answer = exchange(small, b"GET / HTTP/%b\r\n%bConnection: close\r\n\r\n" % (version, hosts))
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    if status == 400:
        assert problem_of(answer)["code"] == "malformed_request"
        assert "Host" in problem_of(answer)["detail"]


def test_http_1_0_is_answered_and_closed(small: SmallServer) -> None:
    assert exchange(small, b"GET /etag HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\n{}")


# Bodies


def test_a_body_that_does_not_come_is_a_408_that_closes(small: SmallServer) -> None:
    with small.connect() as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf")
        assert status_and_code(read_all(connection)) == (408, "timeout")
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"-half." + b"GET /slow?0 HTTP/1.1\r\nHost: a\r\nX-Request-ID: behind-2\r\n\r\n")
            assert read_all(connection) == b""
    assert "behind-2" not in get(f"{small.url}/finished").json()


def test_a_body_that_trickles_is_a_408_and_one_that_flows_is_not(small: SmallServer) -> None:
    def send(piece: bytes, times: int) -> bytes:
        with small.connect() as connection:
            head = b"POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
            connection.sendall(head % (len(piece) * times))
            for _ in range(times):
                with contextlib.suppress(ConnectionError):
                    connection.sendall(piece)
                if select_readable(connection):
                    break
                time.sleep(0.01)
            return read_all(connection)

    assert status_and_code(send(b"x", 80)) == (408, "timeout")
    flowed = send(b"x" * 2000, 80)  # takes longer than the trickle was given, at 5 to 10 times the lowest rate
    assert flowed.startswith(b"HTTP/1.1 200 ")
    assert flowed.endswith(b"x" * 160_000)


def test_a_client_that_asks_whether_to_send_its_body_is_told_to_go_on(small: SmallServer) -> None:
    with small.connect() as connection:
        head = b"POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4\r\nExpect: 100-continue\r\n"
        connection.sendall(head + b"\r\n")
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"body")
        assert read_all(connection).endswith(b"\r\n\r\nbody")


def test_only_waiting_for_the_client_counts_against_its_body(small: SmallServer) -> None:
    answer = httpx.post(f"{small.url}/slow?0.5", content=b"x", verify=PLAIN_HTTP)
    assert answer.text == "slow"


def test_an_answer_given_before_a_large_body_was_read_can_be_read(small: SmallServer) -> None:
    with small.connect() as connection:
        connection.sendall(b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n")
        connection.sendall(b"x" * 1_000_000)
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 413 ")
        connection.sendall(b"x" * 2_000_000 + b"GET /etag HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")


def test_an_answer_that_closes_can_be_read_by_a_client_that_still_sends(tmp_path: Path) -> None:
    # More than the kernel takes for a server that doesn't read, and time for that on a busy machine.
    sizes = 1_000_000, 99_000_000
    head = b"POST /unread HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % sum(sizes)
    with running(tmp_path / "log", limits={"linger_seconds": 30}) as server:
        with server.connect() as connection:
            connection.settimeout(40)
            connection.sendall(head + b"x" * sizes[0])
            time.sleep(0.1)
            connection.sendall(b"x" * sizes[1])
            connection.sendall(b"GET /slow?0 HTTP/1.1\r\nHost: a\r\nX-Request-ID: behind-1\r\n\r\n")
            answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert "behind-1" not in get(f"{server.url}/finished").json()


def test_the_rest_of_an_unwanted_body_has_little_time(small: SmallServer) -> None:
    with small.connect() as connection:
        connection.sendall(b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n")
        started = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - started < 5:
                connection.sendall(b"x")
                time.sleep(0.01)
        assert time.monotonic() - started < 3


@pytest.mark.parametrize("path", [b"/big", b"/large"])
@pytest.mark.parametrize("goes_on_asking", [False, True])
def test_a_client_that_does_not_read_its_answer_is_cut_off(
    small: SmallServer, path: bytes, goes_on_asking: bool
) -> None:
    with small.connect() as connection:
        request = b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n\r\n"
        connection.sendall(request)
        deadline = time.monotonic() + 5
        while is_open(small, connection.getsockname()[1]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
            if goes_on_asking:
                with contextlib.suppress(ConnectionError):
                    connection.sendall(request)


def test_a_client_that_reads_its_answer_slowly_gets_it(small: SmallServer) -> None:
    with small.connect() as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        received, started = 0, time.monotonic()
        while piece := connection.recv(500_000, socket.MSG_WAITALL):
            received += len(piece)
            time.sleep(0.05)
    assert received > LARGE
    assert time.monotonic() - started > 2 * LIMITS["stall_seconds"]


def test_answers_that_nobody_reads_take_little_memory_and_keep_nobody_else_from_theirs(tmp_path: Path) -> None:
    with running(tmp_path / "log") as server, contextlib.ExitStack() as held:
        for _ in range(60):
            connection = held.enter_context(server.connect())
            connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        other = held.enter_context(server.connect("127.0.0.2"))
        other.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert len(read_all(other)) > LARGE
        assert most_memory(server.process.pid) < 250 * 1024


UNENDING = {
    "headers": b"POST /echo HTTP/1.1\r\nHost: a\r\n" + b"aa:bb\r\n" * 35_000,
    "headers below the limit": b"POST /echo HTTP/1.1\r\nHost: a\r\n" + b"aa:bb\r\n" * 4_000,
    "trailers": b"POST /slow?5 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"aa:bb\r\n" * 35_000,
    "requests": (b"GET /slow?5 HTTP/1.1\r\nHost: a\r\n" + b"aa:bb\r\n" * 126 + b"\r\n") * 40,
    "a header": b"POST /echo HTTP/1.1\r\nHost: a\r\naa:" + b"b" * 240_000,
}


@pytest.mark.parametrize("kind", UNENDING)
def test_what_many_connections_begin_and_never_end_takes_little_memory(tmp_path: Path, kind: str) -> None:
    """Small headers take twenty times their bytes: 80 connections took 400 MiB for 20 MB of them."""
    with running(tmp_path / "log") as server, contextlib.ExitStack() as held:
        for _ in range(500):
            connection = held.enter_context(server.connect())
            with contextlib.suppress(OSError):  # it may close before it has read all
                connection.sendall(UNENDING[kind])
        assert exchange(server, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        assert most_memory(server.process.pid) < 140 * 1024


def test_answers_that_are_due_leave_some_at_a_time_with_others_work_in_between() -> None:
    async def use() -> list[int]:
        loop, given, seen = asyncio.get_running_loop(), list[int](), list[int]()
        refusals = Refusals(Envelope(_nothing, Metrics()))
        for number in range(100):
            refusals.answer_soon(loop, functools.partial(given.append, number))
        refusals._answer()
        while len(given) < 100:
            seen.append(len(given))
            await asyncio.sleep(0)
        return seen

    assert asyncio.run(use()) == [32, 64, 96]


@pytest.mark.parametrize(("places", "crowd"), [(200, 32 + 84), (40, 32 + 4), (20, 20)])
@pytest.mark.parametrize("token", [b"Bearer a", None])
def test_of_what_comes_in_one_turn_one_sender_begins_half_of_what_the_first_leave(
    places: int, crowd: int, token: bytes | None
) -> None:
    async def begun(
        refusals: Refusals, count: int, token: bytes | None, address: str, url: bytes = b"/v1/todos"
    ) -> int:
        headers = [(b"host", b"a")] if token is None else [(b"host", b"a"), (b"authorization", token)]
        loop = asyncio.get_running_loop()
        connection: Any = SimpleNamespace(headers=headers, address=address, url=url, loop=loop)
        return sum(refusals.has_place(connection) for _ in range(count))

    async def use() -> None:
        refusals = Refusals(Envelope(_nothing, Metrics(), is_full=lambda coming: coming >= places))
        for _ in range(2):  # in the next turn as in the first
            assert await begun(refusals, 500, token, "10.0.0.1") == crowd
            assert await begun(refusals, 1, b"Bearer b", "10.0.0.1") == (crowd < places)
            assert await begun(refusals, 1, None, "10.0.0.2") == (crowd + 1 < places)
            assert await begun(refusals, 500, token, "10.0.0.1", b"/health/ready") == 500
            await asyncio.sleep(0)

    asyncio.run(use())


async def _nothing(*_: Any) -> None:
    pass


def test_who_asks_for_the_metrics_at_once_shares_what_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, rendered = Metrics(), list[bytes]()
    render = metrics.render
    monkeypatch.setattr(metrics, "render", lambda: rendered.append(render()) or rendered[-1])

    async def ask_often() -> None:
        for number in (1, 2):
            metrics.observe_request("GET", "/", 200, 0.001)
            answers = await asyncio.gather(*(metrics.render_soon() for _ in range(50)))
            assert set(answers) == {rendered[-1]}
            assert len(rendered) == number
            assert f'status="200"}} {number}.0' in answers[0].decode()

    asyncio.run(ask_often())


def is_open(server: SmallServer, port: int) -> bool:
    """Whether the server still holds its end of the connection from there."""
    wanted = f":{server.port:04X} 0100007F:{port:04X} 01"
    return wanted in Path("/proc/net/tcp").read_text()


def test_a_client_that_leaves_is_noted_and_its_handler_runs_on(small: SmallServer) -> None:
    with small.connect() as connection:
        connection.sendall(b"GET /slow?0.2 HTTP/1.1\r\nHost: a\r\nX-Request-ID: gone-1\r\n\r\n")
        time.sleep(0.05)
    assert small.line_of("gone-1")["status"] == 499
    assert "gone-1" in get(f"{small.url}/finished").json()


def test_a_client_that_leaves_in_the_middle_of_its_body_is_noted(small: SmallServer) -> None:
    with small.connect() as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nX-Request-ID: gone-2\r\nContent-Length: 9\r\n\r\nhalf")
        time.sleep(0.05)
    assert small.line_of("gone-2")["status"] == 499
    assert not [line for line in small.lines() if "the client left" in json.dumps(line)]


CLOSING = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def ask_from(server: SmallServer, address: str) -> bytes:
    with server.connect(address) as connection:
        connection.sendall(CLOSING)
        return read_all(connection)


def test_one_address_can_not_take_every_connection(tmp_path: Path) -> None:
    limits = {**LIMITS, "header_seconds": 60}
    with running(tmp_path / "log", limits=limits) as server, contextlib.ExitStack() as held:
        first = [held.enter_context(server.connect()) for _ in range(40)]
        refused = [read_all(connection) for connection in first[LIMITS["connections_per_address"] :]]
        assert {status_and_code(answer) for answer in refused} == {(503, "overloaded")}
        assert all(b"\r\nretry-after: " in answer for answer in refused)
        for address in ("127.0.0.2", "127.0.0.3"):
            assert ask_from(server, address).startswith(b"HTTP/1.1 200 ")
        for connection in first:
            connection.close()
        deadline = time.monotonic() + 3
        while not ask_from(server, "127.0.0.1").startswith(b"HTTP/1.1 200 "):
            assert time.monotonic() < deadline


@pytest.mark.parametrize(("files", "connections", "per_address"), [(65_536, 2000, 1600), (1024, 704, 563), (256, 1, 1)])
def test_no_address_can_take_every_file_that_the_system_allows(
    monkeypatch: pytest.MonkeyPatch, files: int, connections: int, per_address: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    limits = _within_file_limit(Limits(), 10)
    assert (limits.connections, limits.connections_per_address) == (connections, per_address)


def test_connections_beyond_the_limit_are_told_so(tmp_path: Path) -> None:
    limits = {**LIMITS, "header_seconds": 60}
    with running(tmp_path / "log", limits=limits) as server, contextlib.ExitStack() as held:
        for number in range(LIMITS["connections"]):
            held.enter_context(server.connect(f"127.0.0.{2 + number % 2}"))
        answer = ask_from(server, "127.0.0.1")
        assert status_and_code(answer) == (503, "overloaded")
        assert b"\r\nretry-after: " in answer
        held.close()
        deadline = time.monotonic() + 3
        while not ask_from(server, "127.0.0.1").startswith(b"HTTP/1.1 200 "):
            assert time.monotonic() < deadline


def test_a_configured_proxy_may_take_every_connection(tmp_path: Path) -> None:
    settings = {"port": 0, "forwarded_allow_ips": "10.0.0.0/8, 127.0.0.2"}
    limits = {**LIMITS, "header_seconds": 60}
    with running(tmp_path / "log", limits=limits, settings=settings) as server, contextlib.ExitStack() as held:
        for _ in range(LIMITS["connections"] - 1):
            held.enter_context(server.connect("127.0.0.2"))
        assert ask_from(server, "127.0.0.2").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("host", "counted_as"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2fe::1", "2001:db8:1:200::/56"),
        ("2001:db8:1:201:a:b:c:d", "2001:db8:1:200::/56"),
        ("fe80::1%eth0", "fe80::/56"),
        ("10.1.2.3", ""),
    ],
)
def test_an_address_is_that_of_a_customer_or_a_proxy(host: str, counted_as: str) -> None:
    async def unused(*_: object) -> None: ...

    assert Connections(Limits(), Envelope(unused, Metrics()), {"10.1.2.3"}).address(host) == counted_as


# Logs


def test_a_request_is_one_line_without_secrets(small: SmallServer) -> None:
    httpx.post(
        f"{small.url}/echo?token=query-secret",
        headers={"X-Request-ID": "log-1", "Authorization": "Bearer header-secret", "Cookie": "cookie-secret"},
        content=b"body-secret",
    )
    line = small.line_of("log-1")
    assert line["route"] == "/echo"
    assert (line["method"], line["status"], line["bytes_in"], line["bytes_out"]) == ("POST", 200, 11, 11)
    assert line["remote"] == "127.0.0.1"
    assert line["level"] == "info"
    assert 0 < line["duration_ms"] < 5000
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert [found["event"] for found in small.lines() if found.get("request_id") == "log-1"] == ["request"]
    assert "secret" not in small.log_path.read_text().replace("the secret of the crash", "")


def test_a_log_that_nobody_reads_does_not_stop_the_service() -> None:
    given = command(settings={"port": 0})
    with subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            url = json.loads(process.stdout.readline())["url"]
            with httpx.Client(base_url=url, timeout=5, verify=PLAIN_HTTP) as client:
                for _ in range(500):  # 500 lines with 128 bytes of id each are more than a pipe's 64 KiB
                    assert client.get("/", headers={"X-Request-ID": "x" * 128}).status_code == 200
                os.set_blocking(process.stdout.fileno(), False)
                kept = process.stdout.read()
                assert kept is not None
                assert kept.count(b"\n") < 500
                assert client.get("/").status_code == 200
                deadline = time.monotonic() + 3
                later = b""
                while b"log_lines_dropped" not in later:
                    assert time.monotonic() < deadline, later
                    later += process.stdout.read() or b""
                    time.sleep(0.01)
                dropped = json.loads(next(line for line in later.splitlines() if b"log_lines_dropped" in line))
                assert dropped["count"] > 0
                process.stdout.close()
                for _ in range(50):
                    assert client.get("/").status_code == 200
        finally:
            process.kill()
        assert process.stderr.read() == b""


@pytest.mark.parametrize("host", ["127.0.0.1", "::"])
@pytest.mark.parametrize(("trusted", "is_believed"), [("", False), ("127.0.0.1", True), ("127.0.0.0/8", True)])
def test_a_proxy_is_believed_only_where_it_is_configured(
    tmp_path: Path, host: str, trusted: str, is_believed: bool
) -> None:
    settings = {"host": host, "port": 0, "forwarded_allow_ips": proxies(trusted) if trusted else None}
    remote = "192.0.2.7" if is_believed else "::ffff:127.0.0.1" if host == "::" else "127.0.0.1"
    with running(tmp_path / "log", settings=settings) as server:
        get(server.url, headers={"X-Request-ID": "proxy-1", "X-Forwarded-For": "192.0.2.7"})
        assert server.line_of("proxy-1")["remote"] == remote


# Metrics


def test_labels_of_metrics_are_bounded(small: SmallServer) -> None:
    with httpx.Client(base_url=small.url, verify=PLAIN_HTTP) as client:
        for number in range(20):
            client.get(f"/unknown/{number}?x={number}")
        client.request("PROPFIND", "/")
        exposed = client.get("/metrics").text
    labels = set(re.findall(r'todochat_requests_total\{method="([^"]*)",route="([^"]*)"', exposed))
    assert ("GET", UNMATCHED) in labels
    assert {method for method, _ in labels} <= METHODS | {OTHER_METHOD}
    assert not [route for _, route in labels if route.startswith("/unknown")]
    assert f'todochat_build_info{{version="{version("todochat")}"}} 1.0' in exposed
    assert "todochat_requests_in_flight 1.0" in exposed
    assert "todochat_pool_in_use" in exposed
    assert "process_resident_memory_bytes" in exposed


def test_the_histogram_counts_what_the_counter_counts() -> None:
    metrics = Metrics()
    for seconds in (0.0005, 0.001, 0.002, 0.3, 60.0):
        metrics.observe_request("GET", "/a", 200, seconds)
    metrics.observe_request("BREW", "/a", 405, 0.1)
    metrics.observe_request("COOK", "/a", 405, 0.1)
    exposed = metrics.render().decode()
    assert 'todochat_requests_total{method="GET",route="/a",status="200"} 5.0' in exposed
    assert f'todochat_requests_total{{method="{OTHER_METHOD}",route="/a",status="405"}} 2.0' in exposed
    assert 'todochat_request_seconds_bucket{le="0.001",route="/a"} 2.0' in exposed
    assert 'todochat_request_seconds_bucket{le="10.0",route="/a"} 6.0' in exposed
    assert 'todochat_request_seconds_bucket{le="+Inf",route="/a"} 7.0' in exposed
    assert 'todochat_request_seconds_count{route="/a"} 7.0' in exposed


def test_queries_and_the_pool_are_measured() -> None:
    metrics = Metrics()
    metrics.pool = lambda: {"in_use": 3, "waiting": 2, "size": 10}
    steps = [(Prepared(b"get_todo", b"SELECT", (), reads_only=True), ())]
    metrics.observe_queries(steps, 0.25, "")
    metrics.observe_queries(steps, 0.5, "timeout")
    exposed = metrics.render().decode()
    assert 'todochat_query_seconds_count{query="get_todo"} 2.0' in exposed
    assert 'todochat_query_seconds_sum{query="get_todo"} 0.75' in exposed
    assert 'todochat_query_errors_total{query="get_todo"} 1.0' in exposed
    assert "todochat_pool_in_use 3.0" in exposed
    assert "todochat_pool_waiting 2.0" in exposed
    assert "todochat_pool_size 10.0" in exposed


@pytest.mark.parametrize(
    ("token", "remote", "headers", "allowed"),
    [
        (None, "127.0.0.1", {}, True),
        (None, "127.8.8.8", {}, True),
        (None, "::1", {}, True),
        (None, "::ffff:127.0.0.1", {}, True),
        (None, "10.0.0.1", {}, False),
        (None, None, {}, False),
        (None, "localhost", {}, False),
        (None, "127.0.0.1", {"x-forwarded-for": "127.0.0.1"}, False),
        (None, "127.0.0.1", {"forwarded": "for=_x"}, False),
        (None, "127.0.0.1", {"via": "1.1 proxy"}, False),
        (None, "127.0.0.1", {"origin": "https://app.example.com"}, False),
        (None, "10.0.0.1", {"authorization": "Bearer access"}, True),
        (None, "10.0.0.1", {"authorization": "Bearer other"}, False),
        ("m" * 32, "127.0.0.1", {}, False),
        ("m" * 32, "10.0.0.1", {"authorization": "Bearer " + "m" * 32}, True),
        ("m" * 32, "10.0.0.1", {"authorization": "bearer " + "m" * 32, "via": "1.1 proxy"}, True),
        ("m" * 32 + "\n", "10.0.0.1", {"authorization": "Bearer " + "m" * 32}, True),
        ("m" * 32, "10.0.0.1", {"authorization": "Bearer " + "m" * 33}, False),
        ("m" * 32, "10.0.0.1", {"authorization": "Basic " + "m" * 32}, False),
        ("m" * 32, "10.0.0.1", {"authorization": "Bearer \xff"}, False),
        ("m" * 32, "10.0.0.1", {"authorization": "Bearer access"}, False),
        ("m" * 32, "10.0.0.1", {"authorization": "Bearer " + "m" * 32, "origin": "https://app.example.com"}, False),
    ],
)
def test_metrics_are_for_their_token_alone_and_without_one_for_this_machine_and_signed_in_users(
    token: str | None, remote: str | None, headers: dict[str, str], allowed: bool
) -> None:
    sent = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
    secret = Secret(token) if token else None
    assert may_read_metrics(secret, remote, sent, lambda given: given == "access") is allowed


# Starting


def start_and_fail(**options: object) -> "subprocess.CompletedProcess[str]":
    given = command(**options)
    return subprocess.run(given, capture_output=True, text=True, timeout=20, env=environment(), check=False)


def test_a_taken_port_is_one_line(small: SmallServer) -> None:
    ended = start_and_fail(settings={"port": small.port})
    assert ended.returncode == 1
    assert ended.stderr == f"todochat: port {small.port} is taken: set PORT=… or stop the other program\n"
    assert ended.stdout == ""


def test_an_address_of_another_machine_is_one_line() -> None:
    ended = start_and_fail(settings={"host": "192.0.2.1", "port": 0})
    assert ended.returncode == 1
    assert ended.stderr == "todochat: HOST=192.0.2.1 is not an address of this machine\n"


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 64}.example", "no such host"])
def test_what_can_be_no_host_is_one_line(host: str) -> None:
    ended = start_and_fail(settings={"host": host, "port": 0})
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"todochat: HOST={host} can't be used: ")
    assert ended.stderr.count("\n") == 1


def test_an_error_the_application_explains_at_its_start_is_one_line() -> None:
    ended = start_and_fail(fail="told")
    assert ended.returncode == 1
    assert ended.stderr == "todochat: the moon is not full: wait\n"
    assert ended.stdout == ""


def test_any_other_error_at_the_start_is_one_line_and_logged_in_full() -> None:
    ended = start_and_fail(fail="crash")
    assert ended.returncode == 1
    assert ended.stderr == "todochat: the service can't start: LookupError: nothing there\n"
    assert "small_app.py" in json.loads(ended.stdout)["traceback"]


def test_an_ipv6_address_can_be_listened_on(tmp_path: Path) -> None:
    with running(tmp_path / "log", settings={"host": "::1", "port": 0}) as server:
        assert get(f"http://[::1]:{server.port}/").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(5) == 0
