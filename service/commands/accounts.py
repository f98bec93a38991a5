"""What an operator does with accounts from the command line, as the role that owns the tables."""

from collections.abc import Callable, Iterator, Mapping
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
_count_assigned = Maybe("count_assigned", int)
_lock_account = Maybe("lock_account", UUID)
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


def activate(url: str, account: str) -> None:
    """Activate an account, named by its address or id. Raises AccountError: there is no such account."""
    with as_owner(url) as connection:
        connection.execute(text(_update_account), {"user_id": _find(connection, account), "is_active": True})


def deactivate(url: str, account: str, *, unassign: bool) -> int:
    """Deactivate an account, named by its address or id, and say how many open todos it was taken off.

    Its tokens stop working at once. Raises AccountError: there is no such account, or open todos are assigned to it,
    its own or others', and ``unassign`` is false.
    """
    with as_owner(url) as connection, connection.transaction():
        user_id = _find(connection, account)
        connection.execute(_PATIENT)
        connection.execute(text(_lock_account), {"user_id": user_id})
        assigned = number(connection, _count_assigned, {"user_id": user_id})
        if assigned and not unassign:
            todos = f"{assigned:,} open todo{'s are' if assigned > 1 else ' is'}"
            raise AccountError(
                f"{account} is still active: {todos} assigned to it; with --unassign they lose their assignee, and the "
                "account is deactivated"
            )
        connection.execute(text(_update_account), {"user_id": user_id, "is_active": False})
    return assigned


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


def number(connection: "psycopg.Connection", query: One[int] | Maybe[int], values: Mapping[str, object]) -> int:
    """The number that the query returns; 0 for no row."""
    row = connection.execute(text(query), values).fetchone()
    return int(row[0]) if row else 0
