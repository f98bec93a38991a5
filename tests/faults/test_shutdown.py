"""SIGTERM drops nothing: what was sent is answered, readiness turns red first, and the process ends with 0."""

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from uvicorn import Config

from service.http.envelope import Envelope
from service.http.metrics import Metrics
from service.serving.limits import Connections, Limits
from service.serving.protocol import HttpProtocol
from service.serving.sockets import drop_newcomers
from tests.support.small_server import SmallServer, read_all, running

HEAD = b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n"


def stop(server: SmallServer, number: signal.Signals = signal.SIGTERM) -> None:
    """Send the signal, and return when the server has seen it."""
    server.process.send_signal(number)
    server.wait_for("draining")


def read_answer(connection: socket.socket) -> bytes:
    """One answer of a connection that may stay open; shorter than its Content-Length only if the server closed."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = connection.recv(65536)
        if not piece:
            return answer
        answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        piece = connection.recv(65536)
        if not piece:
            break
        body += piece
    return head + b"\r\n\r\n" + body


def ask(connection: socket.socket, path: bytes = b"/") -> bytes:
    connection.sendall(HEAD % path)
    return read_answer(connection)


class Load:
    """Clients in threads, each sending one request after another until the server takes no more connections."""

    def __init__(self, server: SmallServer) -> None:
        self.results: Counter[str] = Counter()
        self.answered = 0
        self._server = server
        self._threads: list[threading.Thread] = []

    def start(self, client: Callable[[], None], number: int) -> None:
        for _ in range(number):
            thread = threading.Thread(target=self._until_refused, args=(client,))
            thread.start()
            self._threads.append(thread)

    def keep_alive(self) -> None:
        """A client that reuses its connection until it is told that the connection closes."""
        with self._server.connect() as connection:
            while b"connection: close" not in self._request(connection):
                pass

    def one_by_one(self) -> None:
        """A client that connects anew for every request."""
        with self._server.connect() as connection:
            self._request(connection)

    def wait(self) -> Counter[str]:
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
        return self.results

    def _request(self, connection: socket.socket) -> bytes:
        answer = ask(connection)
        if not answer.endswith(b"\r\n\r\n{}"):
            self.results["cut" if answer else "closed unanswered"] += 1
            return b"connection: close"
        self.results["answered"] += 1
        return answer

    def _until_refused(self, client: Callable[[], None]) -> None:
        while True:
            try:
                client()
            except ConnectionRefusedError:
                self.results["refused"] += 1
                return
            except OSError as error:
                self.results[type(error).__name__] += 1


@pytest.mark.parametrize("open_to_all", [False, True])
def test_every_request_sent_around_sigterm_is_answered(tmp_path: Path, open_to_all: bool) -> None:
    settings = {"port": 0, "shutdown_delay_seconds": 0.5}
    with running(tmp_path / "log", settings=settings, open_to_all=open_to_all) as server:
        load = Load(server)
        load.start(load.keep_alive, 6)
        load.start(load.one_by_one, 6)
        deadline = time.monotonic() + 5
        while load.results["answered"] < 200:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        before = load.results["answered"]
        stop(server)
        results = load.wait()
        assert results.pop("answered") > before
        assert results == {"refused": 12}
        assert server.process.wait(5) == 0


@pytest.mark.root
@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::")])
def test_at_the_end_the_kernel_drops_newcomers_and_keeps_who_is_there(family: socket.AddressFamily, host: str) -> None:
    with socket.create_server((host, 0), family=family, dualstack_ipv6=family == socket.AF_INET6) as listener:
        address = ("127.0.0.1", listener.getsockname()[1])
        with socket.create_connection(address) as early:
            assert drop_newcomers(listener)
            with pytest.raises(TimeoutError):
                socket.create_connection(address, timeout=0.3)
            accepted, _ = listener.accept()
            early.sendall(b"still here")
            assert accepted.recv(100) == b"still here"
            accepted.close()


def test_only_a_connection_on_which_nothing_runs_comes_or_is_unread_counts_as_idle() -> None:
    asyncio.run(_check_idleness())


async def _check_idleness() -> None:
    loop = asyncio.get_running_loop()
    config = Config(_answer_shortly, ws="none", lifespan="off", log_config=None)
    config.load()
    state = Connections(Limits(), Envelope(_answer_shortly, Metrics()))
    server = await loop.create_server(lambda: HttpProtocol(config, state, {}, loop), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    client = writer.get_extra_info("socket")
    await asyncio.sleep(0.02)
    (connection,) = state.connections
    assert isinstance(connection, HttpProtocol)

    def is_idle(later: float = 0.0) -> bool:
        return connection.is_idle(loop.time() + later)

    async def sent(data: bytes) -> None:
        os.write(client.fileno(), data)
        assert not is_idle(later=60), "it was sent but not read yet"
        await asyncio.sleep(0.02)

    assert not is_idle(), "its first request may be on its way"
    assert is_idle(later=2)
    await sent(b"GET / HTTP/1.1\r\nHo")
    assert not is_idle(later=60), "the headers are not complete"
    await sent(b"st: a\r\nContent-Length: 1\r\n\r\n")
    assert not is_idle(later=60), "the request is running, its body is not complete"
    assert b" 204 " in await reader.readuntil(b"\r\n\r\n")
    assert not is_idle(later=60), "the body is not complete"
    await sent(b"x")
    assert is_idle()
    writer.close()
    server.close()


async def _answer_shortly(scope: Any, receive: Any, send: Any) -> None:
    del scope, receive
    await asyncio.sleep(0.05)
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_connections_still_waiting_to_be_accepted_are_answered(tmp_path: Path) -> None:
    delay = 1.5  # long enough for a busy machine to come here within it
    with running(tmp_path / "log", settings={"port": 0, "shutdown_delay_seconds": delay}) as server:
        stop(server)
        draining = time.monotonic()
        server.process.send_signal(signal.SIGSTOP)
        with contextlib.ExitStack() as held:
            waiting = [held.enter_context(server.connect()) for _ in range(50)]
            for connection in waiting:
                connection.sendall(HEAD % b"/")
            # The delay passes while the process can't accept.
            time.sleep(max(0.0, draining + delay + 0.2 - time.monotonic()))
            server.process.send_signal(signal.SIGCONT)
            assert [read_answer(connection)[:13] for connection in waiting] == [b"HTTP/1.1 200 "] * 50
        assert server.process.wait(5) == 0


def test_readiness_is_red_and_answers_close_while_draining(tmp_path: Path) -> None:
    with running(tmp_path / "log", settings={"port": 0, "shutdown_delay_seconds": 0.5}) as server:
        with server.connect() as connection:
            assert ask(connection, b"/ready").startswith(b"HTTP/1.1 200 ")
            assert b"connection: close" not in ask(connection)
            stop(server)
            answer = ask(connection)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"\r\nconnection: close\r\n" in answer
            assert connection.recv(1) == b""
        with server.connect() as connection:
            answer = ask(connection, b"/ready")
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b'"code":"overloaded"' in answer
        assert server.process.wait(5) == 0


def test_a_running_request_is_finished(tmp_path: Path) -> None:
    with (
        running(tmp_path / "log", settings={"port": 0, "shutdown_delay_seconds": 0}) as server,
        server.connect() as connection,
        server.connect() as idle,
    ):
        assert ask(idle).startswith(b"HTTP/1.1 200 ")
        connection.sendall(HEAD % b"/slow?0.5")
        time.sleep(0.1)
        stop(server)
        assert read_all(idle) == b""
        answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in answer
        assert answer.endswith(b"slow")
        assert server.process.wait(5) == 0


def test_pipelined_requests_are_finished(tmp_path: Path) -> None:
    with (
        running(tmp_path / "log", settings={"port": 0, "shutdown_delay_seconds": 0}) as server,
        server.connect() as connection,
    ):
        connection.sendall(HEAD % b"/slow?0.3" + HEAD % b"/slow?0.1" + HEAD % b"/")
        time.sleep(0.1)
        stop(server)
        answer = read_all(connection)
        assert answer.count(b"HTTP/1.1 200 ") == 3
        assert answer.count(b"connection: close") == 1
        assert server.process.wait(5) == 0


def test_a_request_still_arriving_is_answered(tmp_path: Path) -> None:
    with (
        running(tmp_path / "log", settings={"port": 0, "shutdown_delay_seconds": 0}) as server,
        server.connect() as connection,
    ):
        connection.sendall(b"POST /echo HTTP/1.1\r\nContent-Le")
        time.sleep(0.1)
        stop(server)
        time.sleep(0.3)
        connection.sendall(b"ngth: 4\r\nHost: a\r\n\r\nab")
        time.sleep(0.1)
        connection.sendall(b"cd")
        assert read_all(connection).endswith(b"\r\n\r\nabcd")
        assert server.process.wait(5) == 0


@pytest.mark.parametrize("method", [b"GET", b"POST"])
def test_a_request_that_outlasts_the_grace_is_told_so(tmp_path: Path, method: bytes) -> None:
    """And, where it may have changed something, that nobody knows whether it did: its COMMIT may be on its way."""
    options = {"port": 0, "shutdown_delay_seconds": 0, "shutdown_grace_seconds": 0.3}
    with running(tmp_path / "log", settings=options) as server, server.connect() as connection:
        connection.sendall(method + b" /slow?30 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        time.sleep(0.1)
        started = time.monotonic()
        stop(server)
        answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'"code":"overloaded"' in answer
        assert (b"made is not known" in answer) == (method == b"POST")
        assert server.process.wait(5) == 0
        assert time.monotonic() - started < 3
        assert server.wait_for("requests_cut_off")["requests"] == 1


@pytest.mark.parametrize(("first", "second"), [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGINT)])
def test_a_second_signal_stops_at_once(tmp_path: Path, first: signal.Signals, second: signal.Signals) -> None:
    options = {"port": 0, "shutdown_delay_seconds": 30, "shutdown_grace_seconds": 30}
    with running(tmp_path / "log", settings=options) as server, server.connect() as connection:
        connection.sendall(HEAD % b"/slow?30")
        time.sleep(0.1)
        stop(server, first)
        server.process.send_signal(second)
        assert server.process.wait(2) == 128 + second
