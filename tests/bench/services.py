"""The contenders: how each is started, asked and understood."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import msgspec

from service.commands.development import SERVICE_LOGIN
from tests.bench import operations
from tests.bench.data import POSTGREST_LOGIN, BenchDatabase
from tests.bench.install import CONTENDERS, install_node, install_python, node_program, postgrest_program
from tests.bench.measure import REPOSITORY, BenchError, descendants
from tests.bench.operations import (
    CONTEXT,
    DESCRIPTION,
    LAST,
    LISTED,
    MESSAGE_FIELDS,
    SAID,
    SECRET,
    TITLE,
    TODO_FIELDS,
    TOKEN_SECONDS,
    Answer,
    Operation,
    Pick,
    http_request,
    messages,
    normal_row,
)
from tests.support.ports import free_port

START_SECONDS = 30.0
NOBODY = "00000000-0000-7000-8000-000000000000"
NEW_TODO = {"title": TITLE, "description": DESCRIPTION, "priority": "high"}
NEW_MESSAGE = {"sender_type": "user", "content": SAID}
STATUS: dict[Operation, int] = {"get": 200, "list": 200, "create": 201, "append": 201, "last": 200, "turn": 201}


class Contender:
    """todochat, and what the others have in common with it: the same paths and bodies."""

    name = "todochat"
    label = "todochat"
    needs_install = False
    is_ceiling = False
    """Whether its answers don't come from the database, so that they can't be right or wrong."""
    checks_tokens = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self) -> None:
        """Get what isn't there yet. Raises BenchError."""

    def command(self) -> list[str]:
        return [sys.executable, "-m", "service", "serve"]

    def environment(self, database: BenchDatabase, socket_folder: Path, port: int) -> dict[str, str]:
        url = f"postgresql://{SERVICE_LOGIN}@/{database.name}?host={socket_folder}&port=5432"
        return {
            "DATABASE_URL": url,
            "JWT_SECRET": SECRET,
            "ACCESS_TOKEN_SECONDS": str(TOKEN_SECONDS),
            "SHUTDOWN_DELAY_SECONDS": "0",
            "PORT": str(port),
        }

    def probe(self) -> bytes:
        """A request that is answered with less than 500 when it is ready: the others don't know the path."""
        return http_request("GET", "/health/ready", self.token(NOBODY))

    def status(self, operation: Operation) -> int:
        return STATUS[operation]

    def token(self, user_id: str) -> str:
        return operations.token(user_id)

    def request(self, operation: Operation, asked: Pick) -> bytes:
        """A request, to be sent as it is."""
        bearer = self.token(asked.user_id)
        of_conversation = f"/v1/conversations/{asked.id}"
        if operation == "get":
            return http_request("GET", f"/v1/todos/{asked.id}", bearer)
        if operation == "list":
            return http_request("GET", f"/v1/todos?status=pending&limit={LISTED}", bearer)
        if operation == "create":
            return http_request("POST", "/v1/todos", bearer, NEW_TODO)
        if operation == "append":
            return http_request("POST", f"{of_conversation}/messages", bearer, NEW_MESSAGE)
        if operation == "last":
            return http_request("GET", f"{of_conversation}/messages?order=-position&limit={LAST}", bearer)
        body = {"messages": messages(), "context": {"messages": CONTEXT}}
        return http_request("POST", f"{of_conversation}/turns", bearer, body)

    def read(self, operation: Operation, body: bytes) -> Answer:
        """What was answered."""
        found = json.loads(body)
        if operation == "turn":
            return Answer([normal_row(row) for row in found["messages"]], found["context"])
        return Answer([normal_row(row) for row in (found["items"] if operation in ("list", "last") else [found])])


class UvicornApp(Contender):
    """An ASGI application of ``contenders/``, served by uvicorn with uvloop and httptools."""

    app = ""
    """Where it is: the module and the name in it."""
    app_folder = CONTENDERS
    _python = Path(sys.executable)

    def command(self) -> list[str]:
        app = ["--app-dir", str(self.app_folder), self.app, "--no-access-log"]
        return [str(self._python), "-m", "uvicorn", *app, "--loop", "uvloop", "--http", "httptools"]


class FastApi(UvicornApp):
    """FastAPI and SQLModel on asyncpg."""

    name = "fastapi"
    label = "FastAPI + SQLModel"
    needs_install = True
    app = "fastapi_sqlmodel:app"
    app_folder = CONTENDERS / "python"

    def install(self) -> None:
        self._python = install_python(self.folder)

    def environment(self, database: BenchDatabase, socket_folder: Path, port: int) -> dict[str, str]:
        return {**_libpq(database, socket_folder), "UVICORN_PORT": str(port), "JWT_SECRET": SECRET}


class FastApiPsycopg(FastApi):
    """FastAPI and psycopg, SQL by hand."""

    name = "fastapi-psycopg"
    label = "FastAPI + psycopg"
    app = "fastapi_psycopg:app"


class LitestarAlchemy(FastApi):
    """Litestar and advanced-alchemy on asyncpg, as their documentations write it."""

    name = "litestar-alchemy"
    label = "Litestar + advanced-alchemy"
    app = "litestar_alchemy:app"


class Fastify(Contender):
    """Fastify and node-postgres."""

    name = "fastify"
    label = "Fastify + node-postgres"
    needs_install = True
    _modules = Path()

    def install(self) -> None:
        self._modules = install_node(self.folder)

    def command(self) -> list[str]:
        return [str(node_program(self.folder)), str(self._modules / "server.js")]

    def environment(self, database: BenchDatabase, socket_folder: Path, port: int) -> dict[str, str]:
        own = {"PORT": str(port), "JWT_SECRET": SECRET, "NODE_ENV": "production"}
        return {**_libpq(database, socket_folder), **own}


class PostgRest(Contender):
    """PostgREST on the same tables, its row security the same, through a pre-request function."""

    name = "postgrest"
    label = "PostgREST 12"
    needs_install = True
    _program = Path()

    def install(self) -> None:
        self._program = postgrest_program(install_node(self.folder))

    def command(self) -> list[str]:
        return [str(self._program)]

    def environment(self, database: BenchDatabase, socket_folder: Path, port: int) -> dict[str, str]:
        return {
            "PGRST_DB_URI": f"postgresql://{POSTGREST_LOGIN}@/{database.name}?host={socket_folder}&port=5432",
            "PGRST_DB_SCHEMAS": "public",
            "PGRST_DB_POOL": "10",
            "PGRST_DB_PRE_REQUEST": "public.bench_context",
            "PGRST_DB_CHANNEL_ENABLED": "false",
            "PGRST_JWT_SECRET": SECRET,
            "PGRST_JWT_AUD": "todochat",
            "PGRST_JWT_CACHE_MAX_LIFETIME": "3600",
            "PGRST_LOG_LEVEL": "crit",
            "PGRST_OPENAPI_MODE": "disabled",
            "PGRST_SERVER_HOST": "127.0.0.1",
            "PGRST_SERVER_PORT": str(port),
        }

    def probe(self) -> bytes:
        return http_request("GET", "/todos?limit=0", self.token(NOBODY))

    def status(self, operation: Operation) -> int:
        return 200 if operation == "turn" else super().status(operation)

    def token(self, user_id: str) -> str:
        return operations.token(user_id, role="todochat_app")

    def request(self, operation: Operation, asked: Pick) -> bytes:
        bearer = self.token(asked.user_id)
        todo, message = "select=" + ",".join(TODO_FIELDS), "select=" + ",".join(MESSAGE_FIELDS)
        mine, of_conversation = f"user_id=eq.{asked.user_id}", f"conversation_id=eq.{asked.id}"
        one = "Accept: application/vnd.pgrst.object+json\r\n"
        made = f"{one}Prefer: return=representation\r\n"
        if operation == "get":
            return http_request("GET", f"/todos?{mine}&id=eq.{asked.id}&{todo}", bearer, headers=one)
        if operation == "list":
            order = f"order=created_at.desc,id.desc&limit={LISTED}"
            return http_request("GET", f"/todos?{mine}&status=eq.pending&{order}&{todo}", bearer)
        if operation == "create":
            return http_request("POST", f"/todos?{todo}", bearer, {"user_id": asked.user_id, **NEW_TODO}, made)
        if operation == "append":
            body = {"user_id": asked.user_id, "conversation_id": asked.id, **NEW_MESSAGE}
            return http_request("POST", f"/messages?{message}", bearer, body, made)
        if operation == "last":
            order = f"order=position.desc&limit={LAST}"
            return http_request("GET", f"/messages?{mine}&{of_conversation}&{order}&{message}", bearer)
        body = {"conversation_id": asked.id, "messages": messages(), "context": CONTEXT}
        return http_request("POST", "/rpc/bench_turn", bearer, body)

    def read(self, operation: Operation, body: bytes) -> Answer:
        if operation in ("list", "last"):
            return Answer([normal_row(row) for row in json.loads(body)])
        return super().read(operation, body)


class RawUvicorn(UvicornApp):
    """A ceiling: todochat's own server, and fixed bytes."""

    name = "uvicorn"
    label = "raw uvicorn"
    is_ceiling = True
    checks_tokens = False
    app = "raw_uvicorn:app"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.answers: dict[Operation, bytes] = {}

    def environment(self, database: BenchDatabase, socket_folder: Path, port: int) -> dict[str, str]:
        del database, socket_folder
        path = self.folder / f"{self.name}-answers.json"
        path.write_text(json.dumps({name: body.decode() for name, body in self.answers.items()}))
        return {"ANSWERS": str(path), "UVICORN_PORT": str(port)}


class BareLitestar(RawUvicorn):
    """A ceiling: todochat's own framework and server, and nothing done."""

    name = "litestar"
    label = "bare Litestar"
    app = "bare_litestar:app"


class WithoutDatabase(Contender):
    """A ceiling: todochat itself, to which each answer of the database is given again from memory."""

    name = "without-database"
    label = "todochat without its database"
    is_ceiling = True

    def command(self) -> list[str]:
        return [sys.executable, str(CONTENDERS / "without_database.py")]


CONTENDER_TYPES: tuple[type[Contender], ...] = (
    *(Contender, FastApi, FastApiPsycopg, LitestarAlchemy, Fastify, PostgRest),
    *(RawUvicorn, BareLitestar, WithoutDatabase),
)
CEILINGS = frozenset(kind.name for kind in CONTENDER_TYPES if kind.is_ceiling)
_ELSEWHERE = ("DATABASE_", "JWT_", "LOG_", "METRICS_", "MIGRATION_", "PG", "PGRST_", "PYTHON", "SHUTDOWN_", "UVICORN_")


def _libpq(database: BenchDatabase, socket_folder: Path) -> dict[str, str]:
    return {"PGHOST": str(socket_folder), "PGUSER": SERVICE_LOGIN, "PGDATABASE": database.name}


class Running:
    """A contender that serves."""

    def __init__(self, contender: Contender, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.contender = contender
        self.process = process
        self.port = port
        self.start_seconds = 0.0
        """From the start of the process to its being ready."""

    @property
    def pids(self) -> set[int]:
        return descendants(self.process.pid)

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a prepared request over a connection of its own; status and body."""
        head, _, body = request.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        method, path, _ = first.split(" ")
        connection = HTTPConnection("127.0.0.1", self.port, timeout=15)
        try:
            headers = dict(line.split(": ", 1) for line in lines)
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@contextlib.contextmanager
def running(contender: Contender, database: BenchDatabase, socket_folder: Path | None = None) -> Iterator[Running]:
    """Start it and wait until it answers; end it afterwards. ``socket_folder``: where PostgreSQL's socket is."""
    port = free_port()
    own = contender.environment(database, socket_folder or database.server.socket_dir, port)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_ELSEWHERE)}
    log_path = contender.folder / f"{contender.name}-{port}.log"
    with log_path.open("wb") as log:
        started = time.monotonic()
        process = subprocess.Popen(
            contender.command(),
            cwd=REPOSITORY,
            env={**inherited, **own},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # todochat's log of requests among it, which it writes all the same
            stderr=log,
        )
        try:
            one = Running(contender, process, port)
            _wait_for(one, log_path)
            one.start_seconds = time.monotonic() - started
            yield one
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    log_path.unlink()  # that of one which failed stays


def _wait_for(one: Running, log_path: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    probe = one.contender.probe()
    while True:
        with contextlib.suppress(OSError, HTTPException):
            if one.ask(probe)[0] < 500:
                return
        if one.process.poll() is not None or time.monotonic() > deadline:
            log = log_path.read_text(errors="replace")[-2000:]
            raise BenchError(f"{one.contender.label} did not start: {log}")
        time.sleep(0.02)


def write_requests(path: Path, contender: Contender, operation: Operation, picks: list[Pick]) -> None:
    """Prepare a file for the load."""
    path.write_bytes(msgspec.msgpack.encode([contender.request(operation, asked) for asked in picks]))
