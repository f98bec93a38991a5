"""A crowd of connections, each of which asks again as soon as it has its answer, and somebody else beside it."""

import asyncio
import contextlib
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.conftest import Server, user_factory
from tests.support.load import wait_for
from tests.support.processes import stat_of

CROWD = 400
WANTED = 100
"""Answers that the other one is to get."""
REFUSED_AT_MOST = 10
"""Of the other one's requests: beside a crowd that nothing bounds, all are."""
SECONDS_AT_MOST = 60.0
"""A machine that does much else serves everybody slowly; to be refused is what is wrong."""

ME = "GET /v1/users/me"


async def ask_on(
    server: Server, token: str, found: Counter[int], is_over: Callable[[], bool], what: str = ME, body: bytes = b""
) -> None:
    """Ask on one connection until it is over, and count the answers by their status."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    about = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    request = f"{what} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n{about}\r\n".encode() + body
    while not is_over():
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].split()  # none behind 204
        if b"transfer-encoding: chunked" in head:
            await reader.readuntil(b"0\r\n\r\n")
        else:
            await reader.readexactly(int(length[0]) if length else 0)
        found[int(head[9:12])] += 1
    writer.close()


async def ask(
    server: Server,
    crowds: str,
    crowd: Counter[int],
    others: str,
    other: Counter[int],
    what: str = ME,
    body: bytes = b"",
) -> float:
    """The crowd, and when it is there somebody else, until that one is served; how many seconds that took."""
    began = time.monotonic()

    def is_over() -> bool:
        is_late = time.monotonic() - began > SECONDS_AT_MOST
        return is_late or other[200] >= WANTED or other[503] > REFUSED_AT_MOST

    async def ask_beside() -> None:
        while crowd.total() < CROWD and not is_over():  # noqa: ASYNC110 - many tasks count
            await asyncio.sleep(0.01)
        await ask_on(server, others, other, is_over)

    await asyncio.gather(*(ask_on(server, crowds, crowd, is_over, what, body) for _ in range(CROWD)), ask_beside())
    return time.monotonic() - began


def test_one_user_s_crowd_leaves_others_served_and_itself(start_server: Callable[..., Server]) -> None:
    """It took all of the processor to be refused, and every place: 3 of 4 requests of others were refused as well."""
    server = start_server()
    crowd, other = Counter[int](), Counter[int]()
    with user_factory(server) as make:
        seconds = asyncio.run(ask(server, make().token, crowd, make().token, other))
    assert crowd.keys() == {200, 503}
    assert crowd[503] < CROWD + 1600 * seconds  # 112 in 80 ms, and those that waited for 1.5 s
    assert other[200] == WANTED


def test_a_crowd_of_strangers_leaves_users_served(start_server: Callable[..., Server]) -> None:
    """Every request of a user was refused beside 1,500 connections without a token that counts."""
    server = start_server()
    crowd, other = Counter[int](), Counter[int]()
    with user_factory(server) as make:
        asyncio.run(ask(server, "made up", crowd, make().token, other))
    assert crowd.keys() <= {401, 503}
    assert other[200] == WANTED


def test_a_user_s_crowd_of_mistakes_leaves_others_served(start_server: Callable[..., Server]) -> None:
    """They need no connection to the database, so no share of these bounds them."""
    server = start_server()
    crowd, other = Counter[int](), Counter[int]()
    with user_factory(server) as make:
        asyncio.run(ask(server, make().token, crowd, make().token, other, "GET /v1/todos?limit=none"))
    assert crowd.keys() <= {422, 503}
    assert other[200] == WANTED


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("POST /mcp", b'{"jsonrpc":"2.0","method":"notifications/initialized"}'),
        ("POST /mcp", b'{"jsonrpc":"2.0","id":1,"method":"nonsense"}'),
        ("POST /mcp", b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'),
        ("GET /metrics", b""),
    ],
)
def test_a_user_s_crowd_that_asks_for_what_needs_no_database_leaves_others_served(
    start_server: Callable[..., Server], what: str, body: bytes
) -> None:
    server = start_server()
    crowd, other = Counter[int](), Counter[int]()
    with user_factory(server) as make:
        asyncio.run(ask(server, make().token, crowd, make().token, other, what, body))
    assert crowd.keys() <= {200, 202, 404, 503}
    assert other[200] == WANTED


@pytest.mark.parametrize("what", ["GET /health/live", "GET /schema", "GET /schema/openapi.json", "OPTIONS /v1/todos"])
def test_a_crowd_that_asks_for_what_anybody_may_have_leaves_users_served(
    start_server: Callable[..., Server], what: str
) -> None:
    server = start_server()
    crowd, other = Counter[int](), Counter[int]()
    with user_factory(server) as make:
        asyncio.run(ask(server, "", crowd, make().token, other, what))
    assert crowd.keys() <= {200, 204, 503}
    assert other[200] == WANTED


def test_what_a_crowd_asks_in_one_turn_of_the_event_loop_leaves_others_a_place(
    start_server: Callable[..., Server],
) -> None:
    """So it comes where the machine has little time for the process: up to half of others' requests was refused."""
    server = start_server()
    address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
    with user_factory(server) as make, contextlib.ExitStack() as stack:

        def connect(token: str) -> tuple[socket.socket, bytes]:
            connection = stack.enter_context(socket.create_connection(address, timeout=20))
            request = f"{ME} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
            connection.sendall(request)
            assert status(connection) == 200
            return connection, request

        def status(connection: socket.socket) -> int:
            return int(connection.recv(65536)[9:12])

        crowds, others = make().token, make().token
        connections = [*(connect(crowds) for _ in range(CROWD)), connect(others)]
        server.process.send_signal(signal.SIGSTOP)
        wait_for(lambda: stat_of(server.pid)[0] == "T")
        for connection, request in connections:
            connection.sendall(request)
        server.process.send_signal(signal.SIGCONT)
        *crowd, other = [status(connection) for connection, _ in connections]
    assert other == 200
    assert {*crowd} == {200, 503}
