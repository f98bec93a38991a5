"""What the hot path may cost, in figures that a busy machine doesn't change: a regression fails with the number.

Statements and round trips are read off the wire between the service and PostgreSQL. Buffers (pages read or written, the
work of triggers and foreign keys included) are PostgreSQL's own count, as are bytes of WAL. Python's share is the
number of calls it makes.
"""

import asyncio
import contextlib
import dataclasses
import gc
import json
import logging
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from service.app import create_app
from service.commands.demo import Size, fill_many
from service.contexts import ContextSize
from service.db.caller import Caller
from service.db.connection import Connection
from service.db.database import Database
from service.identity import tokens as auth
from service.identity.tokens import Tokens
from service.mcp import NEWEST
from service.messages import MessageCreate, MessageFilters, create_message, list_messages
from service.serving.log import JsonFormatter, PipeHandler
from service.settings import Secret, Settings
from service.todo_lists import TodoFilters, list_todos
from service.todos import TodoCreate, create_todo, get_todo
from service.turns import Turn, create_turn
from tests.conftest import Server, TestDatabase, _server_factory, user_factory
from tests.support.asking import asking
from tests.support.wire import Wire

MESSAGE = {"sender_type": "user", "content": "What is left to buy?"}
REPLY = {"sender_type": "ai", "content": "Bread and milk."}
TURN = {"messages": [MESSAGE, REPLY], "context": {"messages": 20}}


# Statements and round trips, off the wire


@dataclasses.dataclass(frozen=True)
class Watched:
    """A service behind a Wire, and a user of it with a todo and a conversation."""

    wire: Wire
    request: Callable[..., Any]
    todo: str
    conversation: str

    def round_trips(self, method: str, path: str, **options: Any) -> list[list[str]]:
        """The statements of each that the request takes, by their names; of SET, by what is set."""
        self.wire.forget()
        self.request(method, path, **options)
        return [
            [sent.name or sent.text.replace('"', "").partition(" =")[0] for sent in pipeline]
            for pipeline in self.wire.pipelines
        ]


@pytest.fixture(scope="module")
def watched(
    make_module_database: Callable[[], TestDatabase],
    tmp_path_factory: pytest.TempPathFactory,
    short_folder: Path,
) -> Iterator[Watched]:
    database = make_module_database()
    parts = conninfo_to_dict(database.service_url)
    url = f"postgresql://{parts['user']}@/{parts['dbname']}?host={short_folder}&port={parts['port']}"
    behind = dataclasses.replace(database, service_url=url)
    with (
        Wire(short_folder, Path(str(parts["host"]))) as wire,
        _server_factory(tmp_path_factory.mktemp("budget"), lambda: behind) as start,
    ):
        server: Server = start(DATABASE_POOL_SIZE="1")
        with user_factory(server) as new_user:
            client = new_user().client

            def request(method: str, path: str, **options: Any) -> Any:
                answer = client.request(method, path, **options)
                assert answer.status_code < 300, answer.text
                return answer.json()

            todo = request("POST", "/v1/todos", json={"title": "Buy milk"})["id"]
            conversation = request("POST", "/v1/conversations", json={})["id"]
            yield Watched(wire, request, todo, conversation)


@pytest.fixture(scope="module")
def short_folder() -> Iterator[Path]:
    """The path of a Unix socket has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="wire") as folder:
        yield Path(folder)


READS = ["begin_read_only", "SET LOCAL app.user_id", "authenticate"]
WRITES = ["begin", "SET LOCAL app.user_id", "SET LOCAL app.request_id", "authenticate"]

ROUND_TRIPS: dict[str, tuple[str, str, dict[str, Any], list[list[str]]]] = {
    "get a todo": ("GET", "/v1/todos/{todo}", {}, [[*READS, "get_todo", "commit"]]),
    "get a todo by number": ("GET", "/v1/todos/1", {}, [[*READS, "get_todo_by_number", "commit"]]),
    "list 20 by status": (
        "GET",
        "/v1/todos?status=pending&limit=20",
        {},
        [[*READS, "list_todos_by_status", "commit"]],
    ),
    "create a todo": ("POST", "/v1/todos", {"json": {"title": "Buy bread"}}, [[*WRITES, "create_todo", "commit"]]),
    "change a todo": (
        "PATCH",
        "/v1/todos/{todo}",
        {"json": {"priority": "high"}},
        [[*WRITES, "update_todo", "commit"]],
    ),
    "append a message": (
        "POST",
        "/v1/conversations/{conversation}/messages",
        {"json": MESSAGE},
        [[*WRITES, "create_message", "commit"]],
    ),
    "last 50 messages": (
        "GET",
        "/v1/conversations/{conversation}/messages?order=-position&limit=50",
        {},
        [[*READS, "find_last_position", "list_messages_desc", "commit"]],
    ),
    "a turn of two messages and the context": (
        "POST",
        "/v1/conversations/{conversation}/turns",
        {"json": TURN},
        [[*WRITES, "create_two_messages", "list_context", "commit"]],
    ),
    "a turn of three messages": (
        "POST",
        "/v1/conversations/{conversation}/turns",
        {"json": {"messages": [MESSAGE, REPLY, MESSAGE]}},
        [[*WRITES, "create_two_messages", "create_turn_message", "commit"]],
    ),
    "a turn that opens its conversation": (
        "POST",
        "/v1/turns",
        {"json": TURN},
        [[*WRITES, "open_conversation", "create_two_messages", "list_context", "commit"]],
    ),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_a_request_is_one_transaction_and_one_round_trip(watched: Watched, name: str):
    method, path, options, expected = ROUND_TRIPS[name]
    path = path.format(todo=watched.todo, conversation=watched.conversation)
    watched.request(method, path, **options)  # the first time, statements are prepared too
    assert watched.round_trips(method, path, **options) == expected
    assert not watched.wire.prepared


def test_an_idempotency_key_costs_one_round_trip_more(watched: Watched):
    def create() -> list[list[str]]:
        key = {"Idempotency-Key": secrets.token_hex(8)}
        return watched.round_trips("POST", "/v1/todos", json={"title": "Buy bread"}, headers=key)

    create()
    assert create() == [
        [*WRITES, "forget_idempotency_key", "claim_idempotency_key", "create_todo"],
        ["keep_answer", "commit"],
    ]
    assert not watched.wire.prepared


def test_statements_are_prepared_once_for_a_connection(watched: Watched):
    path = f"/v1/todos/{watched.todo}/conversations"
    watched.round_trips("GET", path)
    assert "list_todo_conversations" in watched.wire.prepared
    watched.round_trips("GET", path)
    assert not watched.wire.prepared


# Buffers

SMALL = Size(users=100, todos=5_000, messages=10_000)
LARGE = Size(users=1_000, todos=50_000, messages=100_000)
REQUESTS = 40


@dataclasses.dataclass(frozen=True)
class Seeded:
    """A database with rows of `service.commands.demo`, and some of them."""

    database: TestDatabase
    todos: Sequence[tuple[UUID, UUID]]
    conversations: Sequence[tuple[UUID, UUID]]


def seed(database: TestDatabase, size: Size) -> Seeded:
    fill_many(database.superuser_url, size)
    with psycopg.connect(database.superuser_url) as connection:
        todos = connection.execute("SELECT user_id, id FROM todos ORDER BY md5(id::text) LIMIT %s", (REQUESTS,))
        conversations = connection.execute(
            "SELECT user_id, id FROM conversations WHERE message_count > 20 ORDER BY md5(id::text) LIMIT %s",
            (REQUESTS,),
        )
        return Seeded(database, todos.fetchall(), conversations.fetchall())


@pytest.fixture(scope="module")
def small(make_module_database: Callable[[], TestDatabase]) -> Seeded:
    return seed(make_module_database(), SMALL)


@pytest.fixture(scope="module")
def large(make_module_database: Callable[[], TestDatabase]) -> Seeded:
    return seed(make_module_database(), LARGE)


PENDING = TodoFilters(status=["pending"], limit=20)
LAST_50 = MessageFilters(order="-position", limit=50)
ONE_TURN = Turn([MessageCreate(**MESSAGE), MessageCreate(**REPLY)], context=ContextSize(20))

Operation = Callable[[Caller, UUID], Awaitable[Any]]
BUFFERS: dict[str, tuple[Operation, float]] = {
    "get a todo": (lambda caller, row: get_todo.fn(asking(caller), row), 7.5),
    "list 20 by status": (lambda caller, _: list_todos.fn(asking(caller, PENDING)), 9),
    "create a todo": (lambda caller, _: create_todo.fn(asking(caller), TodoCreate(title="Buy bread")), 45),
    "append a message": (lambda caller, row: create_message.fn(asking(caller), row, MessageCreate(**MESSAGE)), 60),
    "last 50 messages": (lambda caller, row: list_messages.fn(asking(caller, LAST_50), row), 16),
    "a turn of two messages": (lambda caller, row: create_turn.fn(asking(caller), row, ONE_TURN), 97),
}
"""Each operation, and the buffers that a request may take on the small database: what it took when this was written,
and a tenth more."""

_COUNTED = """
SELECT sum(heap_blks_hit + heap_blks_read + coalesce(idx_blks_hit, 0) + coalesce(idx_blks_read, 0)
    + coalesce(toast_blks_hit, 0) + coalesce(toast_blks_read, 0))
FROM pg_statio_user_tables
"""


def buffers(seeded: Seeded, name: str) -> float:
    """What a request takes, on the average: handlers through the pool, as the service's login."""
    operation, _ = BUFFERS[name]
    rows = seeded.conversations if "message" in name else seeded.todos
    settings = Settings(database_url=Secret(seeded.database.service_url), database_pool_size=1)

    async def run() -> None:
        database = Database(settings, lambda *_: None)
        await database.open()
        for user_id, row in rows:
            await operation(Caller(database, "", user_id, 1), row)
        await database.close()

    before = counted(seeded.database)
    asyncio.run(run())
    return (counted(seeded.database) - before) / len(rows)


def counted(database: TestDatabase) -> int:
    """All buffers so far. A server process hands in its counts when it ends."""
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        deadline = time.monotonic() + 10
        while connection.execute(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND usename = %s)",
            (conninfo_to_dict(database.service_url)["user"],),
        ).fetchone()[0]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return int(connection.execute(_COUNTED).fetchone()[0])


@pytest.mark.parametrize("name", BUFFERS)
def test_a_request_takes_no_more_buffers_than_it_may(small: Seeded, name: str):
    assert buffers(small, name) <= BUFFERS[name][1]


WAL = {
    "get a todo": 0,
    "list 20 by status": 0,
    "create a todo": 1_520,
    "append a message": 1_160,
    "last 50 messages": 0,
    "a turn of two messages": 2_245,
}
"""Each operation, and the bytes of WAL that a request may write, without images of pages, which the tests' server
doesn't write: what it wrote when this was written, and a tenth more."""


@pytest.mark.parametrize("name", BUFFERS)
def test_a_request_writes_no_more_wal_than_it_may(small: Seeded, name: str):
    operation, _ = BUFFERS[name]
    rows = small.conversations if "message" in name else small.todos
    settings = Settings(database_url=Secret(small.database.service_url), database_pool_size=1)
    written: list[int] = []

    async def run() -> None:
        database = Database(settings, lambda *_: None)
        await database.open()
        with psycopg.connect(small.database.superuser_url, autocommit=True) as monitor:

            def position() -> int:
                return int(monitor.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()[0])

            # The first time after a vacuum, a page is also marked as no longer visible to all.
            for user_id, row in [*rows, *rows]:
                before = position()
                await operation(Caller(database, "", user_id, 1), row)
                written.append(position() - before)
        await database.close()

    asyncio.run(run())
    # Of a server that vacuums and checkpoints meanwhile, a few requests are charged with that.
    assert statistics.median(written[len(rows) :]) <= WAL[name]


@pytest.mark.parametrize("name", BUFFERS)
def test_ten_times_the_data_costs_a_level_of_the_indexes_and_no_more(small: Seeded, large: Seeded, name: str):
    # What reads more than it answers, of a table or of a user, takes several times as much.
    assert buffers(large, name) <= buffers(small, name) * 1.5 + 1


# Python

CALLS: dict[str, tuple[str, str, dict[str, Any] | None, int]] = {
    "get a todo": ("GET", "/v1/todos/{todo}", None, 315),
    "list 20 by status": ("GET", "/v1/todos?status=pending&limit=20", None, 408),
    "create a todo": ("POST", "/v1/todos", {"title": "Buy bread"}, 392),
    "append a message": ("POST", "/v1/conversations/{conversation}/messages", MESSAGE, 414),
    "last 50 messages": ("GET", "/v1/conversations/{conversation}/messages?order=-position&limit=50", None, 419),
    "a turn of two messages": ("POST", "/v1/conversations/{conversation}/turns", TURN, 532),
}
"""Each operation, and the calls of functions, Python's and C's, that a request may make: those of the interpreter's
profiler, from the envelope to the connection and back, Litestar's and psycopg_pool's among them. The parsing of HTTP,
the reading of the token and libpq are not in it. What it took when this was written, and 3 % more;
10 % for lists, whose rows differ."""


class HttpConnection:
    """What the server puts under a request."""

    def is_lost(self) -> bool:
        return False

    def has_body(self) -> bool:
        return True

    def has_next(self) -> bool:
        return False


class Rig:
    """The application without HTTP around it. ``calls`` runs a request on the database's answer of the one before."""

    def __init__(self, app: Any, token: str) -> None:
        self.app = app
        self._token = token
        self._connection = HttpConnection()
        self.status = 0
        self.body = b""

    async def send(self, message: Any) -> None:
        self.status = message.get("status", self.status)
        self.body = message.get("body", b"")

    def request(
        self, method: str, path: str, data: dict[str, Any] | None, more: Sequence[tuple[bytes, bytes]] = ()
    ) -> Any:
        path, _, query = path.partition("?")
        body = b"" if data is None else json.dumps(data).encode()
        headers = [
            (b"host", b"127.0.0.1:8000"),
            (b"authorization", b"Bearer " + self._token.encode()),
            (b"accept", b"*/*"),
            (b"user-agent", b"budget"),
            *more,
        ]
        if body:
            headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": headers,
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
            "scheme": "http",
            "state": {"connection": self._connection},
        }

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        return self.app(scope, receive, self.send)


def count_calls(request: Any) -> int | None:
    """The calls that a coroutine makes, without those that auth.py makes; None if it had to wait for something."""
    count = inside = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        del argument
        nonlocal count, inside
        if event in {"call", "return"} and frame.f_code.co_filename == auth.__file__:
            inside += 1 if event == "call" else -1
        elif not inside:
            count += event in {"call", "c_call"}

    sys.setprofile(note)
    try:
        request.send(None)
    except StopIteration:
        return count
    finally:
        sys.setprofile(None)
    request.close()
    return None


async def settle() -> None:
    """Let the tasks end that give connections back."""
    for _ in range(20):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def running(seeded: Seeded) -> AsyncGenerator[Callable[[str], tuple[Rig, Callable[[], Any]]]]:
    """The application on the database, and what makes requests of an operation of CALLS."""
    secret = secrets.token_hex(32)
    app = create_app(Settings(database_url=Secret(seeded.database.service_url), jwt_secret=Secret(secret)))
    tokens = Tokens(secret, None, 900, 3600)
    messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    started = asyncio.Event()

    async def note(message: Any) -> None:
        assert message["type"].endswith(".complete"), message
        started.set()

    lifespan = asyncio.create_task(app({"type": "lifespan", "state": {}}, messages.get, note))
    await messages.put({"type": "lifespan.startup"})
    await started.wait()

    def prepare(name: str) -> tuple[Rig, Callable[[], Any]]:
        method, path, data, _ = CALLS[name]
        user_id, row = (seeded.conversations if "message" in name else seeded.todos)[0]
        rig = Rig(app, tokens.issue(user_id, 1).access_token)
        return rig, lambda: rig.request(method, path.format(todo=row, conversation=row), data)

    try:
        yield prepare
    finally:
        await messages.put({"type": "lifespan.shutdown"})
        await lifespan


@contextlib.contextmanager
def logging_to_nowhere() -> Iterator[None]:
    """Log lines are written, to nowhere. Not a fixture: pytest adds its own handlers, which keep all records, later."""
    logger = logging.getLogger("service")
    with Path("/dev/null").open("wb") as nowhere:
        handler = PipeHandler(nowhere.fileno())
        handler.setFormatter(JsonFormatter())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        yield
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
        logger.removeHandler(handler)


def calls(seeded: Seeded, name: str, monkeypatch: pytest.MonkeyPatch) -> int:
    async def run() -> int:
        async with running(seeded) as prepare:
            rig, request = prepare(name)
            answers: list[Any] = []
            exchange = Connection.exchange

            async def record(link: Connection, steps: Any, deadline: float) -> Any:
                answers.append(await exchange(link, steps, deadline))
                return answers[-1]

            async def replay(*_: Any) -> Any:
                return answers[-1]

            database: Database = rig.app.litestar.state.database
            while database.stats()["size"] < Settings().database_pool_size:  # noqa: ASYNC110 - nobody says when
                await asyncio.sleep(0.01)  # else a new connection's settings would be among what is recorded
            with monkeypatch.context() as patch:
                patch.setattr(Connection, "exchange", record)
                await request()
                assert rig.status in {200, 201}, rig.body
                patch.setattr(Connection, "exchange", replay)
                # Now and then a request also writes the log lines of others, fetches randomness for them, or finds that
                # the connection isn't back from the one before.
                counts: list[int] = []
                with logging_to_nowhere():
                    for _ in range(20):
                        count = count_calls(request())
                        if count is None:
                            await asyncio.sleep(0.01)
                        else:
                            counts.append(count)
                            assert rig.status in {200, 201}, rig.body
                assert len(counts) >= 5, "the requests waited for something"
                return min(counts)

    return asyncio.run(run())


@pytest.mark.parametrize("name", CALLS)
def test_a_request_makes_no_more_calls_than_it_may(small: Seeded, name: str, monkeypatch: pytest.MonkeyPatch):
    assert calls(small, name, monkeypatch) <= CALLS[name][3]


def test_nothing_of_a_request_stays_in_memory(small: Seeded):
    async def run() -> int:
        async with running(small) as prepare:
            _, request = prepare("get a todo")
            held = 0
            with logging_to_nowhere():
                grown: list[int] = []
                for _ in range(6):
                    for _ in range(208):  # a multiple of the lines that are gathered
                        await request()
                    await settle()
                    gc.collect()
                    before, held = held, sys.getallocatedblocks()
                    grown.append(held - before)
                return min(grown)  # what stays would stay in every round; a connection is made anew in one

    assert asyncio.run(run()) < 208  # less than a block for a request


# Tools of MCP

TOOLS: dict[str, tuple[dict[str, Any], tuple[str, str, dict[str, Any] | None]]] = {
    "get_task": ({"task_id": "{todo}"}, ("GET", "/v1/todos/{todo}", None)),
    "list_tasks": ({"limit": 20}, ("GET", "/v1/todos?limit=20", None)),
    "add_task": ({"title": "Buy bread"}, ("POST", "/v1/todos", {"title": "Buy bread"})),
}
"""A tool with its arguments, and the request that it stands for."""
_META = "io.modelcontextprotocol/"
MOST = 1.5
"""How many times the request's CPU time, the service's own, without HTTP and the database's, a call may take."""
ROUNDS = 40
ROUND = 15
"""Requests of each kind in a round: so few that both meet the same noise of a busy machine."""


def tool_call(tool: str, arguments: dict[str, Any]) -> tuple[str, str, dict[str, Any], Sequence[tuple[bytes, bytes]]]:
    """A call as clients of the newest revision make it."""
    meta = {f"{_META}protocolVersion": NEWEST, f"{_META}clientCapabilities": {}}
    body = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": tool, "arguments": arguments, "_meta": meta},
    }
    headers = {"mcp-protocol-version": NEWEST, "mcp-method": "tools/call", "mcp-name": tool}
    return "POST", "/mcp", body, [(name.encode(), value.encode()) for name, value in headers.items()]


@pytest.mark.parametrize("tool", TOOLS)
def test_a_call_of_a_tool_costs_at_most_half_as_much_again_as_its_request(small: Seeded, tool: str):
    arguments, (method, path, data) = TOOLS[tool]

    async def run() -> float:
        async with running(small) as prepare:
            rig, _ = prepare("get a todo")
            todo = str(small.todos[0][1])
            filled = {name: todo if value == "{todo}" else value for name, value in arguments.items()}
            kinds = [tool_call(tool, filled), (method, path.format(todo=todo), data)]
            seconds: list[list[float]] = [[], []]
            with logging_to_nowhere():
                for _ in range(ROUNDS):
                    for kind, taken in zip(kinds, seconds, strict=True):
                        started = time.process_time()
                        for _ in range(ROUND):
                            await rig.request(*kind)
                            assert rig.status in {200, 201}, rig.body
                            assert b'"isError":true' not in rig.body
                        taken.append(time.process_time() - started)
            call, request = map(min, seconds)  # what else the machine does makes both slower, never quicker
            return call / request

    assert asyncio.run(run()) <= MOST or asyncio.run(run()) <= MOST
