"""What an operator does with accounts from the command line, as the role that owns the tables."""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, LiteralString, cast
from uuid import UUID

import msgspec
import psycopg

from service.commands.connection import as_owner
from service.db.queries import Count, Many, Maybe, One, Query
from service.settings import OperatorError

PAGE = 500
# Through all rows of a user, however many; behind a request that holds one of them, but not for ever.
_PATIENT = "SET statement_timeout = 0; SET lock_timeout = '10s'"


class AccountError(OperatorError):
    """There is no such account, or it can't be changed."""


class Account(msgspec.Struct, frozen=True):
    """An account as the operator sees it."""

    id: UUID
    email: str | None
    username: str | None
    is_active: bool
    created_at: datetime


_list_accounts = Many("list_accounts", Account)
_find_account = Maybe("find_account", UUID)
_find_account_by_id = Maybe("find_account_by_id", UUID)
_update_account = Count("update_account")
_erase_account = One("erase_account", bool)


def list_accounts(url: str) -> Iterator[Account]:
    """All accounts, oldest first. ``url`` names a login that migrates."""
    last = UUID(int=0)
    with as_owner(url) as connection:
        while page := connection.execute(text(_list_accounts), {"user_id": last, "limit": PAGE}).fetchall():
            yield from (Account(*row) for row in page)
            last = page[-1][0]


def find_account(url: str, account: str) -> UUID:
    """The id of the account of this address or id. Raises AccountError when there is none."""
    with as_owner(url) as connection:
        return _find(connection, account)


def set_active(url: str, account: str, *, is_active: bool) -> None:
    """Activate or deactivate an account, named by its address or id. A deactivated one's tokens stop working at once.

    Raises AccountError when there is no such account, DatabaseError when open todos are assigned to its user.
    """
    with as_owner(url) as connection:
        user_id = _find(connection, account)
        connection.execute(text(_update_account), {"user_id": user_id, "is_active": is_active})


def erase(url: str, account: str, confirm: Callable[[], None]) -> None:
    """Erase an account, named by its address or id, for good, with everything its user owns and their audit trail.

    ``confirm`` is called once the account is found; it raises to prevent it. Raises AccountError: there is none.
    """
    with as_owner(url) as connection:
        user_id = _find(connection, account)
        confirm()
        connection.execute(_PATIENT)
        connection.execute(text(_erase_account), {"user_id": user_id})


def _find(connection: "psycopg.Connection", account: str) -> UUID:
    try:
        found = connection.execute(text(_find_account_by_id), {"user_id": UUID(account)}).fetchone()
    except ValueError:
        found = connection.execute(text(_find_account), {"email": account}).fetchone()
    if found is None:
        raise AccountError(f"no account has the {'address' if '@' in account else 'id'} {account}")
    return found[0]


def text(query: Query[Any]) -> LiteralString:
    """The query as psycopg takes it, with its named parameters."""
    return cast("LiteralString", query.source.text)
