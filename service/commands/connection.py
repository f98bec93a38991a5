"""How commands reach the database: the URL that administers it, a connection, and errors in one line."""

import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.errors import InsufficientPrivilege, InvalidParameterValue, UndefinedFunction, UndefinedTable
from psycopg.types.json import Jsonb

from service.database_url import parse_database_url
from service.settings import OperatorError

OWNER_ROLE = "todochat_owner"


DIRECT_ADDRESS = "the database's own address in MIGRATION_DATABASE_URL (Neon: the host without -pooler)"


class DatabaseError(OperatorError):
    """The database can't be reached, or refuses; never holds a password."""


def connect(url: str) -> psycopg.Connection:
    """An autocommit connection to administer the database with; raises DatabaseError that says why not."""
    try:
        params = parse_database_url(url)
    except ValueError as error:
        raise DatabaseError(f"the database URL {error}") from None
    where = f"{params.get('host') or 'the local socket'}, database {params.get('dbname') or params.get('user') or '?'}"
    defaults = {
        "connect_timeout": "10",
        "tcp_user_timeout": "30000",  # milliseconds
        "keepalives_idle": "30",  # it is silent while another program works, or a statement that takes long
        "client_encoding": "utf8",
        "application_name": f"todochat on {socket.gethostname()} pid {os.getpid()}",
    }
    try:
        conn = psycopg.connect(make_conninfo(**{**defaults, **params}), autocommit=True)
    except (psycopg.Error, UnicodeError) as error:  # a name that is none of a host, as a..b
        raise DatabaseError(
            f"can't connect to {where}: {one_line(str(error))} "
            "(is it running, and is MIGRATION_DATABASE_URL or DATABASE_URL right?)"
        ) from error
    if conn.info.server_version < 150000:
        conn.close()
        raise DatabaseError(f"{where}: PostgreSQL 15 or later is needed, this is {conn.info.server_version // 10000}")
    return conn


def configure(connection: psycopg.Connection[Any], **settings: str) -> None:
    """Settings of the session, by their names in lower case, whatever the login or the database has as defaults.

    Nothing limits how long a statement, a transaction or an idle session takes, unless one of them does. One that this
    version of PostgreSQL doesn't know is left out.
    """
    unlimited = {"statement_timeout": "0", "transaction_timeout": "0", "idle_session_timeout": "0"}
    connection.execute(
        "SELECT set_config(wanted.key, wanted.value, false)"
        " FROM jsonb_each_text(%s) AS wanted JOIN pg_settings ON lower(name) = key",
        (Jsonb(unlimited | settings),),
    )


def refuse_pooler(url: str) -> None:
    """Raises DatabaseError where the address says that it is a pooler's: sessions there are shared with others."""
    if "-pooler." in url:
        raise DatabaseError(f"this is the address of a connection pooler: this needs {DIRECT_ADDRESS}")


@contextmanager
def as_owner(url: str) -> Generator[psycopg.Connection]:
    """A connection as the role that owns the tables. What PostgreSQL refuses on it becomes a DatabaseError."""
    with connect(url) as connection, one_line_errors():
        if (backend := backend_of(connection)) != connection.info.backend_pid:  # as behind a pooler, or Neon's proxy
            with connect(url) as other:
                if backend_of(other) == backend or backend_of(connection) != backend:
                    raise DatabaseError(f"this is a pooler in transaction mode: this needs {DIRECT_ADDRESS}")
        connection.execute(f"SET ROLE {OWNER_ROLE}".encode())
        yield connection


def backend_of(connection: psycopg.Connection) -> int:
    """The process of the server that answers; a pooler says another one when it is connected to."""
    ((pid,),) = connection.execute("SELECT pg_backend_pid()")
    return pid


@contextmanager
def one_line_errors() -> Generator[None]:
    """Make DatabaseErrors of PostgreSQL's, which say what to do where the role or the tables are missing."""
    try:
        yield
    except (InvalidParameterValue, UndefinedTable, UndefinedFunction):  # no such role, table, function
        raise DatabaseError("the database is empty: run the migrations first (make migrate)") from None
    except InsufficientPrivilege as error:
        raise DatabaseError(
            f"{reason(error)}: set MIGRATION_DATABASE_URL to the login that migrates, which can act as {OWNER_ROLE}"
        ) from error
    except psycopg.Error as error:
        raise DatabaseError(reason(error)) from error


def reason(error: psycopg.Error) -> str:
    """PostgreSQL's own words in one line, without the rows and values that its other lines may repeat."""
    return one_line(error.diag.message_primary or str(error) or "the connection to the database was lost")


def one_line(text: str) -> str:
    """The text with every run of white space as one blank."""
    return " ".join(text.split())
