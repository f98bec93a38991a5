"""Database migrations: yoyo's file format and yoyo's tables, run by a runner that can be killed and doubled.

yoyo 9 applies a migration on one connection and marks it on another, knows a file only by its name, and leaves a lock
row behind when it is killed. Here one transaction holds the DDL, yoyo's mark and the file's checksum, so a migration
is either wholly there or not at all.

* One runner at a time, by a session advisory lock that ends with its connection. It is polled: a session that waits
  inside pg_advisory_lock() holds a snapshot, and CREATE INDEX CONCURRENTLY waits for snapshots, a deadlock.
* DDL waits at most LOCK_TIMEOUT for a table, because everything the service asks of that table queues behind it; then
  the migration is rolled back whole and tried again, LOCK_ATTEMPTS times.
* Statements that can't run in a transaction stand alone in a file with `-- transactional: false`, optionally after
  `SET ROLE ...;`, and only in forms that can run twice, since a kill can fall between the statement and its mark.
* `row_security` is off while migrations run: a backfill that a policy would silently reduce to nothing fails instead.
  A migration whose role has a policy of its own says `SET LOCAL row_security = on`.
"""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg.errors import DeadlockDetected, InsufficientPrivilege, LockNotAvailable
from psycopg.pq import TransactionStatus
from psycopg.sql import SQL, Identifier

from service.commands import history
from service.commands.connection import DIRECT_ADDRESS, OWNER_ROLE, configure, connect, one_line, reason, refuse_pooler
from service.commands.owners import mend_owners
from service.db.migration_files import (
    DEFAULT_DIRECTORY,
    REPEATABLE,
    Migration,
    MigrationError,
    Operation,
    load,
    split_statements,
)

LOCK_TIMEOUT = "1s"  # below the service's own lock_timeout, so that a request queued behind DDL outlives the wait
LOCK_ATTEMPTS = 10
LOCK_PAUSE_SECONDS = 2.0
RUNNER_WAIT_SECONDS = 60.0
RUNNER_TELL_SECONDS = 1.0  # a runner that has ended needs a moment until its lock is free
_RUNNER_POLL_SECONDS = 0.2
_RUNNER_LOCK = 0x746F646F63686174  # "todochat" in ASCII; advisory locks are per database

_DIRECT = f"migrations need {DIRECT_ADDRESS}"

# Whatever the role or the database has set as a default, a migration meets the same session. The keepalives let the
# server notice a runner whose machine has gone, and give its lock away, within a minute.
_SESSION = {
    "search_path": "public",
    "timezone": "UTC",
    "datestyle": "ISO",
    "row_security": "off",
    "client_min_messages": "warning",
    "idle_in_transaction_session_timeout": "60s",
    "default_transaction_read_only": "off",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
_TRY_LOCK = "SELECT pg_try_advisory_lock(%(key)s)"
_LOCK_HOLDER = """
SELECT a.pid = pg_backend_pid(), format('backend %%s, %%s, %%s', a.pid, a.usename, nullif(a.application_name, ''))
FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (l.classid::bigint << 32) | l.objid::bigint = %(key)s
"""
# Whose transactions lock a table that the file names. Of other logins' a login sees no more than that, unless it is a
# superuser's or has pg_read_all_stats.
_HOLDERS = """
SELECT l.virtualtransaction, format('backend %%s (%%s, %%s) has a transaction open%%s, end it first', a.pid, a.usename,
    nullif(a.application_name, ''), ' for ' || extract(epoch FROM now() - a.xact_start)::int || ' s')
FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) JOIN pg_class AS c ON c.oid = l.relation
WHERE l.granted AND l.pid <> pg_backend_pid() AND a.usename IS NOT NULL
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND c.relkind IN ('r', 'p') AND strpos(%(text)s, c.relname) > 0
ORDER BY a.xact_start
"""
_ABOUT_ROWS = """
SELECT greatest(c.reltuples, pg_stat_get_live_tuples(c.oid), 0)::bigint
FROM pg_class AS c WHERE c.oid = to_regclass(%(table)s)
"""


Tell = Callable[[str], None]
"""Takes a line for whoever waits."""


def _silent(_: str) -> None:
    pass


def upgrade(
    url: str,
    directory: Path = DEFAULT_DIRECTORY,
    *,
    wait_seconds: float = RUNNER_WAIT_SECONDS,
    done: Tell = _silent,
    doing: Tell = _silent,
) -> list[str]:
    """Apply every pending migration and return their ids; wait up to `wait_seconds` for another runner to end.

    Before, what a restore by hand has left with another owner is given back. `done` is told what is done, at once, and
    `doing` what is begun or waited for.
    """
    migrations = load(directory)
    with _locked_session(url, wait_seconds, doing) as conn:
        history.create_tables(conn)
        applied = history.read(conn)
        history.check(migrations, applied)
        if given := mend_owners(conn, [migration for migration in migrations if migration.id in applied]):
            done(f"gave {OWNER_ROLE} what others owned: {', '.join(given)}")
        if ahead := history.newer(migrations, applied):
            doing(
                f"the database is ahead: a newer release applied {', '.join(ahead)}. This one ends at "
                f"{migrations[-1].id} and can serve it as it is"
            )
        pending = [migration for migration in migrations if migration.id not in applied]
        for number, migration in enumerate(pending, 1):
            doing(f"{number} of {len(pending)}, {migration.id}: {migration.purpose}")
            _run(conn, migration, "apply", doing)
            done(f"applied {migration.id}")
    return [migration.id for migration in pending]


def rollback(
    url: str,
    count: int = 1,
    directory: Path = DEFAULT_DIRECTORY,
    *,
    wait_seconds: float = RUNNER_WAIT_SECONDS,
    confirm: Callable[[list[str]], None] = lambda _: None,
    done: Tell = _silent,
    doing: Tell = _silent,
) -> list[str]:
    """Roll the latest `count` applied migrations back, from 1 on, newest first, and return their ids.

    `confirm` is told before what will be lost, while no other runner can change it; it raises to prevent it. `done` and
    `doing` as in `upgrade`.
    """
    migrations = load(directory)
    with _locked_session(url, wait_seconds, doing) as conn:
        applied = history.read(conn)
        history.check(migrations, applied, to_roll_back=True)
        latest = [migration for migration in reversed(migrations) if migration.id in applied][:count]
        if latest:
            confirm([line for migration in latest for line in _losses(conn, migration)])
        for migration in latest:
            _run(conn, migration, "rollback", doing)
            done(f"rolled back {migration.id}")
    return [migration.id for migration in latest]


def status(url: str, directory: Path = DEFAULT_DIRECTORY) -> list[history.MigrationStatus]:
    """The state of every migration in `directory` or in the database, by id. Changes nothing and takes no lock."""
    migrations = load(directory)
    with _one_line_errors(), connect(url) as conn:
        return history.compare(migrations, history.read(conn))


def _losses(conn: psycopg.Connection, migration: Migration) -> list[str]:
    """What rolling it back loses: its own words, and each table and column with the database's estimate of its rows."""
    losses = [f"rolls back {migration.id}: {migration.rollback_header}"]
    for table, column in migration.dropped():
        rows = _scalar(conn, _ABOUT_ROWS, table=table) or 0
        losses.append(f"drops {table}{f'.{column}' if column else ''} (about {rows:,} rows)")
    return losses


@contextmanager
def _locked_session(url: str, wait_seconds: float, doing: Tell) -> Generator[psycopg.Connection]:
    """A connection with a migration's settings that holds the one runner's lock."""
    refuse_pooler(url)
    with _one_line_errors(), connect(url) as conn:
        started, is_told = time.monotonic(), False
        while not _scalar(conn, _TRY_LOCK):
            row = conn.execute(_LOCK_HOLDER, {"key": _RUNNER_LOCK}).fetchone()
            who = row[1] if row else "which has just ended"
            waited = time.monotonic() - started
            if waited > RUNNER_TELL_SECONDS and not is_told:
                doing(f"waiting for another runner ({who}), {wait_seconds:g} s at most")
                is_told = True
            if waited > wait_seconds:
                raise MigrationError(f"waited {wait_seconds:g} s for another runner ({who}): try again when it is done")
            time.sleep(_RUNNER_POLL_SECONDS)
        if conn.info.backend_pid != _scalar(conn, "SELECT pg_backend_pid()"):
            _refuse_shared_sessions(url)
        configure(conn, lock_timeout=LOCK_TIMEOUT, **_SESSION)
        with suppress(psycopg.Error):  # not on every platform; ends a statement soon after its runner was killed
            conn.execute("SET client_connection_check_interval = '500ms'")
        yield conn


def _refuse_shared_sessions(url: str) -> None:
    """Refuse a pooler in transaction mode: it lends the session that has the lock to others, who then have it too."""
    with connect(url) as other, other.transaction():
        if _scalar(other, _TRY_LOCK):
            other.execute("SELECT pg_advisory_unlock_all()")
            raise MigrationError(f"this is the address of a pooler in transaction mode: {_DIRECT}")


def _check_lock(conn: psycopg.Connection) -> None:
    """The last word on poolers: the backend that runs the migration holds the lock, in this very transaction."""
    if not _scalar(conn, _LOCK_HOLDER):
        raise MigrationError(f"the runner's lock is gone, as behind a pooler: {_DIRECT}")


def _run(conn: psycopg.Connection, migration: Migration, operation: Operation, doing: Tell = _silent) -> None:
    if not migration.transactional:
        return _run_alone(conn, migration, operation)
    name, text = migration.file(operation)
    why = ""
    for attempt in range(1, LOCK_ATTEMPTS + 1):
        held = {transaction for transaction, _ in conn.execute(_HOLDERS, {"text": text}).fetchall()}
        try:
            with conn.transaction():
                _check_lock(conn)
                with _one_line_errors(name, text):
                    conn.execute(text.encode())
                if conn.info.transaction_status != TransactionStatus.INTRANS:
                    raise MigrationError(f"{name} ended the runner's transaction: take the statement out")
                return history.mark(conn, migration, operation)
        except (LockNotAvailable, DeadlockDetected):
            holders = conn.execute(_HOLDERS, {"text": text}).fetchall()
            why = next((who for transaction, who in holders if transaction in held), "the database is busy")
            if attempt < LOCK_ATTEMPTS:
                doing(f"{name} got no lock in {LOCK_TIMEOUT}, try {attempt} of {LOCK_ATTEMPTS}: {why}")
                time.sleep(LOCK_PAUSE_SECONDS)  # the requests that queued behind the try go first
    raise MigrationError(f"{name} got no lock in {LOCK_ATTEMPTS} tries of {LOCK_TIMEOUT}: {why}")


def _run_alone(conn: psycopg.Connection, migration: Migration, operation: Operation) -> None:
    """Run a file of one repeatable statement, then mark it; a kill in between costs running it again."""
    name, text = migration.file(operation)
    if operation == "rollback":  # from here on the index may be gone, so `upgrade` must not take it as applied
        history.mark_rolling_back(conn, migration)
    _check_lock(conn)
    conn.execute("SET lock_timeout = 0")  # CONCURRENTLY waits for old transactions, and nobody waits for it
    with _one_line_errors(name, text):
        for statement, blank in split_statements(text):
            index = match["created"] if (match := REPEATABLE.fullmatch(blank)) else None
            _drop_invalid_index(conn, index)
            try:
                conn.execute(statement.encode())
            except psycopg.Error:
                with suppress(psycopg.Error):
                    _drop_invalid_index(conn, index)
                raise
            if index and not _index_is_valid(conn, index):
                raise MigrationError(f"{name}: {index} exists and is no valid index")
    configure(conn, lock_timeout=LOCK_TIMEOUT, **_SESSION)
    with conn.transaction():
        history.mark(conn, migration, operation)


def _drop_invalid_index(conn: psycopg.Connection, name: str | None) -> None:
    if name and _index_is_valid(conn, name) is False:
        conn.execute(SQL("DROP INDEX CONCURRENTLY {}").format(Identifier(name.lower())))


def _index_is_valid(conn: psycopg.Connection, name: str) -> bool | None:
    return _scalar(conn, "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%(name)s)", name=name)


def _scalar(conn: psycopg.Connection, query: str, **params: Any) -> Any:
    row = conn.execute(query.encode(), {"key": _RUNNER_LOCK, **params}).fetchone()
    return row[0] if row else None


@contextmanager
def _one_line_errors(name: str | None = None, text: str = "") -> Generator[None]:
    """Make MigrationErrors of PostgreSQL's, which say at which line of the file `name` it stopped.

    Within a file lock errors pass: they are tried again.
    """
    try:
        yield
    except psycopg.Error as error:
        if name and isinstance(error, (LockNotAvailable, DeadlockDetected)):
            raise
        hint = error.diag.message_hint if name else None
        if isinstance(error, InsufficientPrivilege) and not hint:
            hint = f"set MIGRATION_DATABASE_URL to the login that migrates, which can act as {OWNER_ROLE}"
        position = error.diag.statement_position
        line = f" line {text.count(chr(10), 0, int(position) - 1) + 1}" if name and position else ""
        where = f"{name}{line}" if name else "the database refused or went away"
        raise MigrationError(f"{where}: {reason(error)}" + (f": {one_line(hint)}" if hint else "")) from error
