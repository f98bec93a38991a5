"""`todochat users …`: accounts as an operator sees them, reached as the role that owns the tables."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, LiteralString, TypeVar, cast
from uuid import UUID

import click
import msgspec
import psycopg

from service.commands.connection import as_owner, configure
from service.commands.shared import account_argument, confirm_loss, owner_url, yes_option
from service.db.database import ATTEMPTS
from service.db.queries import Count, Many, Maybe, One, Query
from service.settings import OperatorError

R = TypeVar("R")

PAGE = 500
# Through all rows of a user, however many; behind a request that holds one of them, but not for ever.
_PATIENT = {"lock_timeout": "10s"}


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
_count_assigned = One("count_assigned", int)
_lock_account = Maybe("lock_account", UUID)
_erase_account = One("erase_account", bool)


@click.group()
def users() -> None:
    """List, activate, deactivate or erase accounts.

    An account is named by its e-mail address or its id.
    """


@users.command("list")
def list_accounts() -> None:
    """List the accounts, oldest first.

    Each with the day it was made, whether it is active, its id, its e-mail address and its username.
    """
    with owner_url() as url, as_owner(url) as connection:
        for account in each_account(connection):
            state = "active" if account.is_active else "inactive"
            names = f"{account.email or '-'}  {account.username or ''}".rstrip()
            print(f"{account.created_at:%Y-%m-%d}  {state:8}  {account.id}  {names}")


@users.command()
@account_argument
def activate(account: str) -> None:
    """Let an account be used again, after it was deactivated."""
    with owner_url() as url, as_owner(url) as connection:
        user_id = find_account(connection, account)
        connection.execute(text(_update_account), {"user_id": user_id, "is_active": True})
    print(f"{account} is active")


@users.command()
@account_argument
@click.option("--unassign", is_flag=True, help="Take the account off open todos, its own and other people's.")
def deactivate(account: str, *, unassign: bool) -> None:
    """Let an account be used no longer; nothing of it is lost.

    Its tokens stop working at once. While open todos are assigned to it, --unassign is needed: nobody could act on
    them. `todochat users activate` takes the deactivation back, but assigns nothing again.
    """
    with owner_url() as url, as_owner(url) as connection:
        user_id = find_account(connection, account)
        configure(connection, **_PATIENT)
        assigned = _repeat(lambda: _deactivate(connection, user_id, account, unassign=unassign))
    print(f"{account} is inactive")
    if assigned:
        print(f"{assigned:,} open todo{'s have' if assigned > 1 else ' has'} no assignee any more")


def _deactivate(connection: psycopg.Connection, user_id: UUID, account: str, *, unassign: bool) -> int:
    """Deactivate the account; how many todos lost their assignee."""
    with connection.transaction():
        connection.execute(text(_lock_account), {"user_id": user_id})
        assigned = number(connection, _count_assigned, {"user_id": user_id})
        if assigned and not unassign:
            todos = f"{assigned:,} open todo{'s are' if assigned > 1 else ' is'}"
            raise OperatorError(
                f"{account} is still active: {todos} assigned to it; with --unassign they lose their assignee, and the "
                "account is deactivated"
            )
        connection.execute(text(_update_account), {"user_id": user_id, "is_active": False})
    return assigned


def _repeat(work: Callable[[], R]) -> R:
    """Do ``work``, which is one transaction, again after a deadlock with requests."""
    for _ in range(ATTEMPTS - 1):
        with suppress(psycopg.errors.DeadlockDetected):
            return work()
    return work()


@users.command()
@account_argument
@yes_option
def erase(account: str, *, yes: bool) -> None:
    """Erase an account for good; it asks first.

    Everything its user owns is lost: todos, conversations, messages, and the audit trail.
    """
    loss = f"erases {account} with all todos, conversations and messages of the account, and its audit trail"
    with owner_url() as url, as_owner(url) as connection:
        user_id = find_account(connection, account)
        confirm_loss([loss], yes=yes)
        configure(connection, **_PATIENT)
        _repeat(lambda: connection.execute(text(_erase_account), {"user_id": user_id}))
    print(f"{account} is erased")


def each_account(connection: psycopg.Connection) -> Iterator[Account]:
    """Every account, oldest first, read some at a time."""
    last = UUID(int=0)
    while page := connection.execute(text(_list_accounts), {"user_id": last, "limit": PAGE}).fetchall():
        yield from (Account(*row) for row in page)
        last = page[-1][0]


def find_account(connection: psycopg.Connection, account: str) -> UUID:
    """The id of the account of this address or id. Raises OperatorError when there is none."""
    found = None
    try:
        found = connection.execute(text(_find_account_by_id), {"user_id": UUID(account)}).fetchone()
    except ValueError:
        with suppress(UnicodeEncodeError):  # no address has what isn't UTF-8
            found = connection.execute(text(_find_account), {"email": account}).fetchone()
    if found is None:
        raise OperatorError(f"no account has the {'address' if '@' in account else 'id'} {account}")
    return found[0]


def text(query: Query[Any]) -> LiteralString:
    """The query as psycopg takes it, with its named parameters."""
    return cast("LiteralString", query.source.text)


def number(connection: psycopg.Connection, query: One[int], values: Mapping[str, object]) -> int:
    """The number that the query returns."""
    ((found,),) = connection.execute(text(query), values)
    return int(found)
