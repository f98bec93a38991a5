"""What a database knows of its migrations, in yoyo's tables, and whether that fits the files.

yoyo names the columns that it reads and writes, so `yoyo list` still works beside the column that is added here: the
checksum, by which a file that was edited after it was applied is noticed.
"""

import socket
from datetime import UTC, datetime
from typing import Literal

import msgspec
import psycopg
from psycopg.errors import InsufficientPrivilege

from service.db.migration_files import Migration, MigrationError, Operation

BOOKKEEPING = ("_yoyo_log", "_yoyo_migration", "_yoyo_version", "yoyo_lock")
"""The runner's own tables, which belong to the login that migrates."""
_BEFORE_1_0 = "0002_create_functions"  # which 1.0's baseline doesn't have
_ROLLING_BACK = "rolling back"  # stands for the checksum while a rollback without a transaction is under way
_TABLES = """
CREATE TABLE IF NOT EXISTS public._yoyo_migration (
    migration_hash varchar(64) PRIMARY KEY, migration_id varchar(255), applied_at_utc timestamp);
CREATE TABLE IF NOT EXISTS public._yoyo_log (
    id varchar(36) PRIMARY KEY, migration_hash varchar(64), migration_id varchar(255), operation varchar(10),
    username varchar(255), hostname varchar(255), comment varchar(255), created_at_utc timestamp);
CREATE TABLE IF NOT EXISTS public._yoyo_version (version int PRIMARY KEY, installed_at_utc timestamp);
CREATE TABLE IF NOT EXISTS public.yoyo_lock (locked int DEFAULT 1 PRIMARY KEY, ctime timestamp, pid int NOT NULL);
INSERT INTO public._yoyo_version VALUES (2, now() AT TIME ZONE 'UTC') ON CONFLICT DO NOTHING;
ALTER TABLE public._yoyo_migration ADD COLUMN IF NOT EXISTS checksum text;
COMMENT ON TABLE public._yoyo_migration IS 'Applied migrations: one row each, written in the migration''s transaction.';
COMMENT ON COLUMN public._yoyo_migration.checksum IS 'SHA-256 of the file as it was applied, in hexadecimal.';
COMMENT ON TABLE public._yoyo_log IS 'Every migration and rollback that ever ran here; comment holds the checksum.';
COMMENT ON TABLE public._yoyo_version IS 'The shape of these tables, for the yoyo command.';
COMMENT ON TABLE public.yoyo_lock IS 'The lock of the yoyo command; the runner uses an advisory lock instead.';
"""
_HAS_TABLES = """
SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('public._yoyo_migration')
               AND attname = 'checksum' AND NOT attisdropped)
"""
_APPLIED = """
SELECT migration_id, checksum, applied_at_utc AT TIME ZONE 'UTC' FROM public._yoyo_migration ORDER BY migration_id
"""
_MARK = {
    "apply": """
        INSERT INTO public._yoyo_migration (migration_hash, migration_id, applied_at_utc, checksum)
        VALUES (%(hash)s, %(id)s, clock_timestamp() AT TIME ZONE 'UTC', %(checksum)s)""",
    "rollback": "DELETE FROM public._yoyo_migration WHERE migration_hash = %(hash)s",
}
_MARK_ROLLING_BACK = "UPDATE public._yoyo_migration SET checksum = %(checksum)s WHERE migration_hash = %(hash)s"
_LOG = """
INSERT INTO public._yoyo_log
    (id, migration_hash, migration_id, operation, username, hostname, comment, created_at_utc)
VALUES (gen_random_uuid(), %(hash)s, %(id)s, %(operation)s, session_user, %(host)s, %(checksum)s,
    clock_timestamp() AT TIME ZONE 'UTC')
"""
Applied = dict[str, tuple[str | None, datetime]]
"""Each migration in the database with its checksum, None where the yoyo command marked it, and when it was applied."""


class MigrationStatus(msgspec.Struct, frozen=True):
    """One line of `status`.

    `changed` was edited after it was applied. `missing` is applied but has no file here. So is `newer`, but a later
    release applied it, which only adds: this one goes on with it.
    """

    id: str
    state: Literal["applied", "pending", "changed", "missing", "newer"]
    applied_at: datetime | None
    problem: str | None
    """Why no migration can be run, in one line that says what to do."""


def create_tables(conn: psycopg.Connection) -> None:
    """Make the tables where they are missing. Raises MigrationError when the login may not."""
    if _has_tables(conn):
        return
    try:
        with conn.transaction():
            conn.execute(_TABLES.encode())
    except InsufficientPrivilege as error:
        raise MigrationError(
            f"login {conn.info.user} may not create tables in {conn.info.dbname}: migrations need the database's "
            "owner with CREATEROLE, or a superuser, in MIGRATION_DATABASE_URL"
        ) from error


def _has_tables(conn: psycopg.Connection) -> bool:
    return conn.execute(_HAS_TABLES).fetchone() == (True,)


def read(conn: psycopg.Connection) -> Applied:
    """The applied migrations by id, oldest first."""
    if not _has_tables(conn):
        return {}
    return {row[0]: (row[1], row[2].astimezone(UTC)) for row in conn.execute(_APPLIED)}


def mark(conn: psycopg.Connection, migration: Migration, operation: Operation) -> None:
    """Write down that the migration was applied or rolled back, in the transaction that did it."""
    conn.execute("RESET ROLE")  # a migration begins with SET LOCAL ROLE; the mark is the login's own
    params = {
        "id": migration.id,
        "hash": migration.hash,
        "checksum": migration.checksum,
        "operation": operation,
        "host": socket.gethostname(),
    }
    conn.execute(_MARK[operation].encode(), params)
    conn.execute(_LOG, params)


def mark_rolling_back(conn: psycopg.Connection, migration: Migration) -> None:
    """Write down that a rollback without a transaction begins: if it is killed, the migration counts as neither."""
    conn.execute(_MARK_ROLLING_BACK, {"hash": migration.hash, "checksum": _ROLLING_BACK})


def compare(migrations: list[Migration], applied: Applied) -> list[MigrationStatus]:
    """Every migration among the files or in the database, by id, and what stands in the way of going on."""
    files = {migration.id: migration.checksum for migration in migrations}
    newest, latest = migrations[-1].id, max(applied, default="")
    found: list[MigrationStatus] = []
    for migration_id in sorted(files.keys() | applied.keys()):
        wanted, (checksum, applied_at) = files.get(migration_id), applied.get(migration_id, (None, None))
        problem = None
        if applied_at is None:
            state = "pending"
            if migration_id < latest:
                problem = f"{migration_id} comes before {latest}, which is applied: give it a number after {newest}"
        elif wanted is None:
            state = "newer" if migration_id > newest else "missing"
            if state == "missing":
                problem = f"{migration_id} was applied on {applied_at:%Y-%m-%d} but its file is gone: restore it"
        elif checksum == wanted:
            state = "applied"
        else:
            state = "changed"
            problem = (
                f"{migration_id}.sql was edited after it was applied on {applied_at:%Y-%m-%d}: restore the file and "
                "put the change into a new migration"
            )
            if checksum == _ROLLING_BACK:
                problem = f"the rollback of {migration_id} was interrupted: roll back again to end it"
            elif checksum is None:
                problem = (
                    f"{migration_id} was marked without a checksum, by the yoyo command? If the database really holds "
                    f"it, say so: SET checksum = '{wanted}' in its row of _yoyo_migration"
                )
        found.append(MigrationStatus(migration_id, state, applied_at, problem))
    return found


def newer(migrations: list[Migration], applied: Applied) -> list[str]:
    """The migrations that a later release applied."""
    return [found.id for found in compare(migrations, applied) if found.state == "newer"]


def check(migrations: list[Migration], applied: Applied, *, to_roll_back: bool = False) -> None:
    """Raise MigrationError unless the database's history is the beginning of the files', or goes on from their end.

    To roll back, a migration may be in the middle of its rollback, but the last one must be known here.
    """
    if _BEFORE_1_0 in applied and all(migration.id != _BEFORE_1_0 for migration in migrations):
        raise MigrationError(
            "this database is of a version before 1.0: export each account with that version (todochat export), "
            "migrate an empty database and import them there (todochat import)"
        )
    if to_roll_back and (ahead := newer(migrations, applied)):
        raise MigrationError(
            f"the database is ahead: a newer release applied {ahead[-1]}, this one ends at {migrations[-1].id}: roll "
            "back with the newer release"
        )
    for found in compare(migrations, applied):
        if found.problem and not (to_roll_back and applied.get(found.id, ("", None))[0] == _ROLLING_BACK):
            raise MigrationError(found.problem)
