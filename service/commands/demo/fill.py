"""What `todochat demo` does, in one transaction: it leaves everything or nothing, and what is there it lets be."""

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import msgspec
import psycopg
from psycopg.sql import SQL, Identifier

from service.commands.demo import story
from service.commands.demo.copy import copy_as_superuser
from service.commands.demo.insert import Connection, Counts, insert_through_triggers
from service.commands.demo.progress import Stage
from service.commands.demo.rows import Size, World
from service.commands.migrate import connect
from service.identity.passwords import Passwords
from service.settings import OperatorError

PASSWORD = "correct horse battery"  # noqa: S105
"""Everybody's here. It guards nothing: whoever can reach the service can register an account as good as these."""

TABLES = ("users", "todos", "todo_counters", "conversations", "messages", "todo_conversation_links", "audit_log")

_SESSION = """
SELECT set_config(name, wanted, false)
FROM (VALUES ('timezone', 'UTC'), ('statement_timeout', '0'), ('transaction_timeout', '0'), ('lock_timeout', '10s'),
    ('idle_in_transaction_session_timeout', '60s'), ('work_mem', '64MB'), ('default_transaction_read_only', 'off'))
    AS settings (name, wanted)
JOIN pg_settings USING (name)
"""
_IS_SUPERUSER = "SELECT rolsuper FROM pg_roles WHERE rolname = session_user"
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('todochat: demo'))"
_COUNT_SEED = """
SELECT count(*)
FROM public.users AS u
WHERE u.email_key >= %(prefix)s AND u.email_key < %(end)s
"""
_NO_SCHEMA = (psycopg.errors.InvalidParameterValue, psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction)
"""No such role, table, function."""


class DemoError(OperatorError):
    """There is no filling this database; the message is one line."""


class Filled(msgspec.Struct, frozen=True):
    """What was added (nothing, when it was there already), and an account to sign in with, by PASSWORD."""

    email: str
    added: Counts
    seconds: float
    as_superuser: bool


def fill_account(url: str) -> Filled:
    """Make the account of `story`, unless there is one. ``url`` names a login that migrates, or a superuser.

    Raises DemoError, and MigrationError when the database can't be reached.
    """
    password_hash = asyncio.run(_hash())
    started = time.monotonic()
    with _filling(url) as connection, connection.transaction():
        connection.execute(_LOCK)
        connection.execute("SET LOCAL ROLE todochat_owner")
        added = story.tell(connection, password_hash)
    return Filled(story.ADA.email, added, time.monotonic() - started, as_superuser=False)


def fill_many(url: str, size: Size) -> Filled:
    """Make as many rows as ``size`` says, unless users of its seed are there; then vacuum and analyze.

    A superuser's are copied in, anybody else's go through every trigger as todochat_owner, several times slower. The
    account answered is the one with most rows. Raises as `fill_account` does.
    """
    world, password_hash = World(size), asyncio.run(_hash())
    email = world.user(world.busiest).email
    prefix = world.user(0).email.partition("-")[0] + "-"
    started = time.monotonic()
    with _filling(url) as connection:
        as_superuser = bool(_scalar(connection, _IS_SUPERUSER))
        with connection.transaction():
            connection.execute(_LOCK)
            if not as_superuser:
                connection.execute("SET LOCAL ROLE todochat_owner")
            there = _scalar(connection, _COUNT_SEED, {"prefix": prefix, "end": prefix[:-1] + "."})
            if there:  # perhaps in another size, so that only the first is certain to be there
                return Filled(world.user(0).email, {}, 0, as_superuser)
            write = copy_as_superuser if as_superuser else insert_through_triggers
            added = write(connection, world, password_hash)
        with Stage("vacuum, analyze") as stage:
            connection.execute("RESET ROLE")
            if not as_superuser:
                connection.execute("SET ROLE todochat_owner")
            for done, table in enumerate(TABLES, start=1):
                # Sets what the first reader of each row would set otherwise: measurements begin even.
                connection.execute(SQL("VACUUM (ANALYZE) {}").format(Identifier("public", table)))
                stage.update(done / len(TABLES), 0)
    return Filled(email, added, time.monotonic() - started, as_superuser)


async def _hash() -> str:
    passwords = Passwords()
    try:
        return await passwords.hash(PASSWORD)
    finally:
        passwords.close()


def _scalar(connection: Connection, query: Any, parameters: dict[str, Any] | None = None) -> Any:
    row = connection.execute(query, parameters).fetchone()
    return row[0] if row else None


@contextmanager
def _filling(url: str) -> Generator[Connection]:
    with connect(url) as connection:
        try:
            connection.execute(_SESSION)
            yield connection
        except _NO_SCHEMA:
            raise DemoError("the database is empty: run the migrations first (make migrate)") from None
        except psycopg.errors.InsufficientPrivilege:
            raise DemoError(
                "this login can't act as todochat_owner: set MIGRATION_DATABASE_URL to the one that migrates"
            ) from None
        except psycopg.Error as error:
            raise DemoError(error.diag.message_primary or "the connection to the database was lost") from error
