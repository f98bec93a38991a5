"""The database's own ceiling: pgbench with the statements of todochat, and what row security and the audit cost.

The statements are those that the service was seen to send for one request (`tests.support.wire`): pgbench sends them as
one pipeline of prepared statements too, for other users' rows, and `Pgbench.check` holds what it sends against what the
service sent. Two things differ, which cost the server little: pgbench asks for results as text, where the service asks
for them in binary form, and it can't send NULL as a parameter, so that NULL stands in the text.

SET takes no parameters, so each script is one user's, and pgbench takes 128 scripts at most. For no two clients to
wait for one user's rows, each client is a pgbench of its own, with users of its own.
"""

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import msgspec
import psycopg
from psycopg import sql

from service.commands.development import SERVICE_LOGIN
from service.db.statements import SESSION
from service.embedded.server import SUPERUSER
from tests.bench.data import BenchDatabase
from tests.bench.measure import BenchError, database_seconds
from tests.bench.operations import Operation, Pick
from tests.support.wire import SOCKET, Sent, Wire

SCRIPTS = 8
"""How many users each client has. A script's statements are prepared for it alone, and many don't stay in the caches: a
get took PostgreSQL 117 µs with 2 users, 130 with 8, 133 with 32 and 338 with 100."""
VARIANTS = {"full": (True, True), "secured": (True, False), "bare": (False, False)}
"""Whether row security and its context take part, and the check of the account: as the service does it, without that
check, and without either."""
_OPTIONS = " ".join(f"-c {setting}={value}" for setting, value in SESSION.items())
_PROGRESS = re.compile(r"^progress: .*?([\d.]+) tps.* (\d+) failed", re.MULTILINE)
_PARAMETER = re.compile(r"\$(\d+)")
_DISABLE = sql.SQL("ALTER TABLE {} DISABLE TRIGGER {}")
_ENABLE = sql.SQL("ALTER TABLE {} ENABLE TRIGGER {}")


class DatabaseSample(msgspec.Struct, frozen=True):
    """One run of pgbench. CPU is in microseconds of the database's processes for each transaction."""

    operation: str
    variant: str
    round: int
    per_second: float
    cpu: float
    wal: float
    """Bytes for each transaction."""


class Statement(NamedTuple):
    """One that the service sent. ``values`` are text, as PostgreSQL shows them; ``types`` are their names."""

    text: str
    types: tuple[str, ...]
    values: tuple[str | None, ...]

    def fill(self, value: Callable[[str], str]) -> str:
        """Its text with a cast in the place of each parameter, of what ``value`` makes of the value."""

        def place(found: re.Match[str]) -> str:
            number = int(found[1]) - 1
            known = self.values[number]
            return f"{'NULL' if known is None else value(known)}::{self.types[number]}"

        return _PARAMETER.sub(place, self.text)


class Request(NamedTuple):
    """What the service sent for one request, from BEGIN to COMMIT, and for which row."""

    asked: Pick
    statements: tuple[Statement, ...]

    def without(self, *, context: bool, account: bool) -> "Request":
        """The same without what tells the database who asks, or without the check of the account."""
        left = [
            statement
            for statement in self.statements
            if (context or not statement.text.startswith("SET LOCAL app."))
            and (account or "/* authenticate */" not in statement.text)
        ]
        return Request(self.asked, tuple(left))


def read_request(database: BenchDatabase, asked: Pick, sent: Sequence[Sent]) -> Request:
    """What was noted on the wire, as text: PostgreSQL itself reads the values."""
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:

        def text(value: bytes | None, oid: int) -> str | None:
            found = connection.pgconn.exec_params(b"SELECT $1::text", [value], [oid], [1]).get_value(0, 0)
            return None if found is None else found.decode()

        def name(oid: int) -> str:
            row = connection.execute("SELECT format_type(%s, NULL)", (oid,)).fetchone()
            return row[0] if row else ""

        found = [
            Statement(each.text, tuple(map(name, each.types)), tuple(map(text, each.values, each.types)))
            for each in sent
        ]
    return Request(asked, tuple(found))


class _Scripts:
    """The scripts of one client, and the variables that they use: one for each value."""

    def __init__(self, request: Request, picks: Sequence[Pick]) -> None:
        self.variables: dict[str, str] = {}
        self.texts = [self._script(request, asked) for asked in picks]

    def _script(self, request: Request, asked: Pick) -> str:
        other = {mine: others for mine, others in zip(request.asked, asked, strict=True) if mine}

        def variable(value: str) -> str:
            return ":" + self.variables.setdefault(other.get(value, value), f"value{len(self.variables)}")

        lines = [each.fill(variable).replace(request.asked.user_id, asked.user_id) for each in request.statements]
        return "\n".join(["\\startpipeline", *(f"{line};" for line in lines), "\\endpipeline"]) + "\n"


def _filled(sent: Sent) -> str:
    """What pgbench sent, with its values, which are text, in their places; it sends the semicolon, too."""
    text = sent.text.removesuffix(";")
    return _PARAMETER.sub(lambda found: repr((sent.values[int(found[1]) - 1] or b"").decode()), text)


def _wal(connection: "psycopg.Connection[tuple[Any, ...]]") -> int:
    row = connection.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchone()
    return int(row[0]) if row else 0


class Pgbench:
    """Runs requests' statements against the database. ``folder`` is for the scripts, ``clients`` says how many send.

    ``requests`` are those of the service, by operation; ``rate`` is how many of them a client sends in a second, where
    a test wants to see that it works: 0, as many as it can, is what measures.
    """

    def __init__(
        self,
        database: BenchDatabase,
        folder: Path,
        clients: int,
        seconds: float,
        requests: dict[Operation, Request],
        *,
        rate: int = 0,
    ) -> None:
        self.database = database
        self.folder = folder
        self.clients = clients
        self.seconds = seconds
        self.requests = requests
        self.rate = rate
        self.program = str(database.server.bin_dir / "pgbench")

    def run(
        self, operation: str, variant: str, round_number: int, request: Request, picks: Sequence[Pick], login: str
    ) -> DatabaseSample:
        """One run: what it did after the first second, in which connections were made and statements prepared."""
        whole = max(2, round(self.seconds) + 1)
        options = [f"--time={whole + 1}", "--progress=1"]  # a second for starting them all
        options += [f"--rate={self.rate}"] if self.rate else []
        each = min(SCRIPTS, max(1, len(picks) // self.clients))
        owned = [picks[client * each : (client + 1) * each] or picks[:each] for client in range(self.clients)]
        commands = [self._command(client, options, request, own, login) for client, own in enumerate(owned)]
        environment = {**os.environ, "PGOPTIONS": _OPTIONS}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with (
            psycopg.connect(self.database.superuser_url, autocommit=True) as monitor,
            contextlib.ExitStack() as stack,
        ):
            processes = [
                stack.enter_context(subprocess.Popen(command, text=True, env=environment, **pipes))
                for command in commands
            ]
            time.sleep(1.0)
            postmaster = self.database.server.pid
            wal_before, before, began = _wal(monitor), database_seconds(postmaster), time.monotonic()
            time.sleep(whole - 1.4)
            cpu, window = database_seconds(postmaster) - before, time.monotonic() - began
            wal = _wal(monitor) - wal_before
            ended_early = any(process.poll() is not None for process in processes)
            told = [process.communicate() for process in processes]
        rate = 0.0
        for process, (output, errors) in zip(processes, told, strict=True):
            rates = [(float(found), int(failed)) for found, failed in _PROGRESS.findall(errors)]
            if ended_early or process.returncode or not rates or any(failed for _, failed in rates):
                raise BenchError(f"pgbench, {operation} ({variant}): {(errors + output)[-1500:]}")
            rate += median(found for found, _ in rates[1:] or rates)
        if not rate:
            raise BenchError(f"pgbench, {operation} ({variant}): it did nothing")
        return DatabaseSample(operation, variant, round_number, rate, cpu / window / rate * 1e6, wal / window / rate)

    def _command(
        self, client: int, options: list[str], request: Request, picks: Sequence[Pick], login: str, host: str = ""
    ) -> list[str]:
        scripts = _Scripts(request, picks)
        paths: list[str] = []
        for number, text in enumerate(scripts.texts):
            path = self.folder / f"script{client}-{number}.sql"
            path.write_text(text)
            paths.append(f"--file={path}")
        defined = [f"--define={name}={value}" for value, name in scripts.variables.items()]
        where = [f"--host={host or self.database.server.socket_dir}", f"--username={login}", self.database.name]
        command = [self.program, "--no-vacuum", "--protocol=prepared", f"--random-seed={client + 1}"]
        return [*command, *options, *defined, *paths, *where]

    def check(self, operation: Operation) -> None:
        """Send each variant once; as the service does it, it must be what the service sent. Raises BenchError."""
        request = self.requests[operation]
        for variant in VARIANTS:
            told, login = self._variant(operation, variant)
            with Wire(self.folder, self.database.server.socket_dir) as wire:
                options = ["--transactions=1"]
                command = self._command(0, options, told, [request.asked], login, str(self.folder))
                environment = {**os.environ, "PGOPTIONS": _OPTIONS}
                done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
                sent = [_filled(each) for each in wire.sent]
            (self.folder / SOCKET).unlink()
            if done.returncode or "actually processed: 1/1" not in done.stdout:
                raise BenchError(f"pgbench, {operation} ({variant}): {(done.stderr + done.stdout)[-1500:]}")
            wanted = [statement.fill(repr) for statement in told.statements]
            if sent != wanted:
                raise BenchError(f"pgbench, {operation} ({variant}): it sent {sent}, the service {wanted}")

    def _variant(self, operation: Operation, variant: str) -> tuple[Request, str]:
        """What is sent, and who sends it: only a superuser can go around row security."""
        context, account = VARIANTS[variant]
        request = self.requests[operation].without(context=context, account=account)
        return request, SERVICE_LOGIN if context else SUPERUSER

    def operation(self, operation: Operation, picks: Sequence[Pick], rounds: int) -> Iterator[DatabaseSample]:
        """Each of VARIANTS in turns."""
        for number in range(rounds):
            for variant in VARIANTS:
                request, login = self._variant(operation, variant)
                yield self.run(operation, variant, number, request, picks, login)

    def audit(self, picks: dict[Operation, list[Pick]], rounds: int) -> Iterator[DatabaseSample]:
        """Each write with the audit's triggers and without.

        Without full-page images, which a page costs once after each checkpoint, however much is written to it.
        """
        create, append = (self.requests[name].without(context=True, account=False) for name in ("create", "append"))
        asked = Pick(create.asked.user_id, self.requests["get"].asked.id)
        flip = "UPDATE todos SET description = clock_timestamp()::text WHERE user_id = $1 AND id = $2"
        changed = Statement(flip, ("uuid", "uuid"), asked)
        update = Request(asked, tuple(changed if "/* create" in one.text else one for one in create.statements))
        writes = {
            "create": (create, picks["create"]),
            "append": (append, picks["append"]),
            "update": (update, picks["get"]),
        }
        with self._without_page_images():
            for number in range(rounds):
                for operation, (request, asked_for) in writes.items():
                    yield self.run(operation, "audited", number, request, asked_for, SERVICE_LOGIN)
                    with self._without_audit():
                        yield self.run(operation, "unaudited", number, request, asked_for, SERVICE_LOGIN)

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
