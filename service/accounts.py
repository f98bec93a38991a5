"""What an operator does with accounts from the command line, as the role that owns the tables."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import LiteralString, cast
from uuid import UUID

import msgspec
import psycopg

from service.migrate import connect
from service.queries import Count, Many, Maybe

PAGE = 500
_NO_SCHEMA = (psycopg.errors.InvalidParameterValue, psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction)
"""No such role, table, function."""


class AccountError(Exception):
    """The accounts can't be had or changed; the message is one line."""


class Account(msgspec.Struct, frozen=True):
    """An account as the operator sees it."""

    id: UUID
    email: str
    username: str | None
    is_active: bool
    created_at: datetime


_list_accounts = Many("list_accounts", Account)
_find_account = Maybe("find_account", UUID)
_update_account = Count("update_account")


def list_accounts(url: str) -> Iterator[Account]:
    """All accounts, oldest first. ``url`` names a login that migrates."""
    last = UUID(int=0)
    with _as_owner(url) as connection:
        while page := connection.execute(_text(_list_accounts), {"user_id": last, "limit": PAGE}).fetchall():
            yield from (Account(*row) for row in page)
            last = page[-1][0]


def set_active(url: str, email: str, *, is_active: bool) -> None:
    """Activate or deactivate the account of ``email``. A deactivated one's tokens stop working at once.

    Raises AccountError: nobody has that address, or open todos are assigned to them.
    """
    with _as_owner(url) as connection:
        found = connection.execute(_text(_find_account), {"email": email}).fetchone()
        if found is None:
            raise AccountError(f"no account has the address {email}")
        connection.execute(_text(_update_account), {"user_id": found[0], "is_active": is_active})


def _text(query: "Many[Account] | Maybe[UUID] | Count") -> LiteralString:
    return cast("LiteralString", query.source.text)


@contextmanager
def _as_owner(url: str) -> "Generator[psycopg.Connection]":
    with connect(url) as connection:
        try:
            connection.execute("SET ROLE todochat_owner")
            yield connection
        except _NO_SCHEMA:
            raise AccountError("the database is empty: run the migrations first (make migrate)") from None
        except psycopg.Error as error:
            raise AccountError(error.diag.message_primary or "the connection to the database was lost") from error
