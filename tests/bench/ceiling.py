"""The database's own ceiling: pgbench with the statements of todochat, and what row security and the audit cost.

The statements are the service's: taken from sql/queries, with their values written in, since pgbench has no variables
of type uuid. Each script is one user's; pgbench picks one at random for each transaction, and sends it as one pipeline
of prepared statements, as the service does.
"""

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from psycopg import sql

from service.commands.development import SERVICE_LOGIN
from service.db.loading import TEXTS
from service.db.statements import SESSION
from service.embedded.server import SUPERUSER
from tests.bench.data import BenchDatabase
from tests.bench.measure import BenchError, database_seconds
from tests.bench.operations import CONTEXT, DESCRIPTION, LAST, LISTED, READS, REPLY, SAID, TITLE, Operation, Pick

SCRIPTS = 100
"""pgbench takes 128 at most. With so many, two of 8 clients seldom have the same user at once."""
VARIANTS = {"full": (True, True), "secured": (True, False), "bare": (False, False)}
"""Whether row security and its context take part, and the check of the account: as the service does it, without that
check, and without either."""
_OPTIONS = " ".join(f"-c {setting}={value}" for setting, value in SESSION.items())
_PROGRESS = re.compile(r"^progress: .*?([\d.]+) tps.* (\d+) failed", re.MULTILINE)
_AUDITED = {"create": "todos", "append": "messages", "update": "todos"}
_DISABLE = sql.SQL("ALTER TABLE {} DISABLE TRIGGER {}")
_ENABLE = sql.SQL("ALTER TABLE {} ENABLE TRIGGER {}")
_LAST_TIME = "9999-12-31T23:59:59Z"
_LAST_ID = UUID(int=2**128 - 1)


class DatabaseSample(msgspec.Struct, frozen=True):
    """One run of pgbench. CPU is in microseconds of the database's processes for each transaction."""

    operation: str
    variant: str
    round: int
    per_second: float
    cpu: float
    wal: float
    """Bytes for each transaction."""


def _query(name: str, **values: Any) -> str:
    """The text of a query with its values in it, in one line: pgbench ends a statement with a semicolon."""
    source = TEXTS[name]
    literals = {
        parameter: f"{sql.Literal(values.get(parameter)).as_string(None)}::{kind}"
        for parameter, kind in source.parameters.items()
    }
    return re.sub(r"%\((\w+)\)s", lambda match: literals[match[1]], source.text)


def statements(operation: Operation, asked: Pick) -> list[str]:
    """What the service sends between the context and COMMIT, after the check of the account."""
    user_id = asked.user_id
    if operation == "get":
        return [_query("get_todo", user_id=user_id, id=asked.id)]
    if operation == "list":
        key = {"after": _LAST_TIME, "after_id": _LAST_ID, "row_limit": LISTED + 1}
        return [_query("list_todos_by_status", user_id=user_id, status="pending", **key)]
    if operation == "create":
        told = {"title": TITLE, "description": DESCRIPTION, "status": "pending", "priority": "high"}
        return [_query("create_todo", user_id=user_id, **told)]
    where = {"user_id": user_id, "conversation_id": asked.id}
    said = {**where, "sender_type": "user", "content": SAID, "message_type": "text", "content_truncated": False}
    if operation == "append":
        return [_query("create_tagged_message", **said)]
    if operation == "last":
        page = {"after": 0, "before": 2**31 - 1, "row_limit": LAST + 1}
        found = _query("find_conversation", user_id=user_id, id=asked.id)
        return [found, _query("list_messages_desc", **where, **page)]
    reply = {**said, "sender_type": "ai", "content": REPLY}
    context = _query("list_context", **where, messages=CONTEXT)
    expect = _query("expect_position", **where)
    return [expect, _query("create_message", **said), _query("create_message", **reply), context]


def _script(asked: Pick, told: list[str], *, context: bool, account: bool, reads: bool) -> str:
    who = [f"SET LOCAL app.user_id = '{asked.user_id}'"] if context else []
    request = [] if reads or not context else ["SET LOCAL app.request_id = 'bench'"]
    check = [_query("authenticate", user_id=asked.user_id, token_version=1)] if account else []
    begin = "BEGIN READ ONLY" if reads else "BEGIN"
    lines = ["\\startpipeline", *(f"{line};" for line in (begin, *who, *request, *check, *told, "COMMIT"))]
    return "\n".join([*lines, "\\endpipeline"]) + "\n"


def _scripts(operation: Operation, variant: str, picks: list[Pick]) -> tuple[list[str], str]:
    """One script for each pick, and who runs them: only a superuser can go around row security."""
    context, account = VARIANTS[variant]
    reads = operation in READS
    told = [(asked, statements(operation, asked)) for asked in picks]
    scripts = [_script(asked, lines, context=context, account=account, reads=reads) for asked, lines in told]
    return scripts, SERVICE_LOGIN if context else SUPERUSER


def _wal(connection: "psycopg.Connection[tuple[Any, ...]]") -> int:
    row = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()
    return int(row[0]) if row else 0


class Pgbench:
    """Runs scripts against the database. ``folder`` is for the scripts."""

    def __init__(self, database: BenchDatabase, folder: Path, clients: int, seconds: float) -> None:
        self.database = database
        self.folder = folder
        self.clients = clients
        self.seconds = seconds
        self.program = str(database.server.bin_dir / "pgbench")

    def run(self, operation: str, variant: str, round_number: int, scripts: list[str], login: str) -> DatabaseSample:
        """One run: what it did after the first second, in which connections were made and statements prepared."""
        whole = max(2, round(self.seconds) + 1)
        command = self._command([f"--client={self.clients}", f"--time={whole}", "--progress=1"], scripts, login)
        environment = {**os.environ, "PGOPTIONS": _OPTIONS}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with (
            psycopg.connect(self.database.superuser_url, autocommit=True) as monitor,
            subprocess.Popen(command, text=True, env=environment, **pipes) as process,
        ):
            time.sleep(1.0)
            postmaster = self.database.server.pid
            wal_before, before, began = _wal(monitor), database_seconds(postmaster), time.monotonic()
            time.sleep(whole - 1.4)
            cpu, window = database_seconds(postmaster) - before, time.monotonic() - began
            wal = _wal(monitor) - wal_before
            ended_early = process.poll() is not None
            output, errors = process.communicate()
        if ended_early:
            raise BenchError(f"pgbench, {operation} ({variant}) ended early: {(errors + output)[-1500:]}")
        rates = [(float(rate), int(failed)) for rate, failed in _PROGRESS.findall(errors)]
        if process.returncode or not rates or any(failed for _, failed in rates) or " failed: 0" in output:
            raise BenchError(f"pgbench, {operation} ({variant}): {(errors + output)[-1500:]}")
        rate = median(rate for rate, _ in rates[1:] or rates)
        if not rate:
            raise BenchError(f"pgbench, {operation} ({variant}): it did nothing")
        return DatabaseSample(operation, variant, round_number, rate, cpu / window / rate * 1e6, wal / window / rate)

    def _command(self, options: list[str], scripts: list[str], login: str) -> list[str]:
        paths: list[str] = []
        for number, script in enumerate(scripts):
            path = self.folder / f"script{number}.sql"
            path.write_text(script)
            paths.append(f"--file={path}")
        command = [self.program, "--no-vacuum", "--protocol=prepared", "--jobs=1", "--random-seed=1", *options, *paths]
        return [*command, f"--host={self.database.server.socket_dir}", f"--username={login}", self.database.name]

    def check(self, operation: Operation, picks: list[Pick]) -> None:
        """Run each variant a few times. Raises BenchError."""
        for variant in VARIANTS:
            scripts, login = _scripts(operation, variant, picks[:2])
            command = self._command(["--transactions=3"], scripts, login)
            environment = {**os.environ, "PGOPTIONS": _OPTIONS}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if done.returncode or "actually processed: 3/3" not in done.stdout:
                raise BenchError(f"pgbench, {operation} ({variant}): {(done.stderr + done.stdout)[-1500:]}")

    def operation(self, operation: Operation, picks: list[Pick], rounds: int) -> Iterator[DatabaseSample]:
        """Each of VARIANTS in turns."""
        for number in range(rounds):
            for variant in VARIANTS:
                scripts, login = _scripts(operation, variant, picks[:SCRIPTS])
                yield self.run(operation, variant, number, scripts, login)

    def audit(self, picks: dict[Operation, list[Pick]], rounds: int) -> Iterator[DatabaseSample]:
        """Each write with the audit's triggers and without.

        Without full-page images, which a page costs once after each checkpoint, however much is written to it.
        """
        flips = "UPDATE todos SET description = clock_timestamp()::text WHERE user_id = '{}' AND id = '{}'"
        told: dict[str, Callable[[Pick], list[str]]] = {
            "create": lambda asked: statements("create", asked),
            "append": lambda asked: statements("append", asked),
            "update": lambda asked: [flips.format(*asked)],
        }
        rows = {"create": picks["create"], "append": picks["append"], "update": picks["get"]}
        with self._without_page_images():
            for number in range(rounds):
                for operation, write in told.items():
                    scripts = [
                        _script(asked, write(asked), context=True, account=False, reads=False)
                        for asked in rows[operation][:SCRIPTS]
                    ]
                    yield self.run(operation, "audited", number, scripts, SERVICE_LOGIN)
                    with self._without_audit():
                        yield self.run(operation, "unaudited", number, scripts, SERVICE_LOGIN)

    @contextlib.contextmanager
    def _without_page_images(self) -> Iterator[None]:
        self.database.execute("ALTER SYSTEM SET full_page_writes = off")
        self.database.execute("SELECT pg_reload_conf()")
        try:
            yield
        finally:
            self.database.execute("ALTER SYSTEM RESET full_page_writes")
            self.database.execute("SELECT pg_reload_conf()")

    @contextlib.contextmanager
    def _without_audit(self) -> Iterator[None]:
        found = self.database.execute(
            "SELECT t.tgrelid::regclass::text, t.tgname FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid"
            " WHERE p.proname LIKE 'audit%%' AND NOT t.tgisinternal"
        )
        if not found:
            raise BenchError("no trigger of the audit was found")
        for table, trigger in found:
            self.database.execute(_DISABLE.format(sql.Identifier(table), sql.Identifier(trigger)))
        try:
            yield
        finally:
            for table, trigger in found:
                self.database.execute(_ENABLE.format(sql.Identifier(table), sql.Identifier(trigger)))
