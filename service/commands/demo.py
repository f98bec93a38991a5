"""`todochat demo`, in one transaction: it leaves everything or nothing, and what is there it lets be.

The rows are made by the files of sql/demo: `account.sql` tells of one believable account, and the files named after
tables make any number of rows from a seed.
"""

import itertools
import re
import time
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import click
import msgspec
import psycopg

from service.commands.connection import OWNER_ROLE, configure, connect, one_line_errors
from service.commands.progress import Stage
from service.commands.shared import owner_url
from service.db.migration_files import split_statements
from service.identity.passwords import make_hash
from service.settings import OperatorError

PASSWORD = "correct horse battery"  # noqa: S105
"""Everybody's here. It guards nothing: whoever can reach the service can register an account as good as these."""
TABLES = ("users", "todos", "conversations", "messages", "todo_conversation_links")
"""What is counted for the reader. Each has a file of its name, which reads what those before it wrote."""
ACCOUNT = "ada@demo.example"
"""Whose account it is to look around in."""
ROWS_AT_ONCE = 20_000
"""About how many rows are written between two reports of progress."""

_PACKAGED = Path(__file__).parents[1] / "sql" / "demo"
_FOLDER = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "sql" / "demo"
_SESSION = {
    "timezone": "UTC",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
    "work_mem": "64MB",
    "default_transaction_read_only": "off",
}
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('todochat: demo'))"
_FIND = (
    'SELECT min(email), count(*) FROM public.users WHERE lower(email COLLATE "C") >= %(account)s'
    " AND lower(email COLLATE \"C\") < %(account)s || '~'"
)

_WHOLE = click.IntRange(0, 10**9 - 1)
_Connection = psycopg.Connection[Any]
_Parameters = dict[str, Any]
_Run = tuple[str, psycopg.Cursor[Any]]
"""The table that a statement inserts into, or "", and its cursor."""


class Size(msgspec.Struct, frozen=True):
    """How many rows to make. ``messages`` and ``todos`` are totals, shared out among the users."""

    users: int
    todos: int
    messages: int
    seed: int = 0


class Filled(msgspec.Struct, frozen=True):
    """What was added, by table (nothing, when users of the seed were there), and an account to sign in with.

    Its password is PASSWORD; ``users`` is how many of the seed there are.
    """

    email: str
    users: int
    added: dict[str, int]
    seconds: float
    as_superuser: bool


@click.command()
@click.option("--users", type=click.IntRange(1, 10**9 - 1), help="That many users, numbered, with one password.")
@click.option("--todos", type=_WHOLE, help="In all.  [default: 50 a user]")
@click.option("--messages", type=_WHOLE, help="In all.  [default: 100 a user]")
@click.option("--seed", type=_WHOLE, help="The same seed and sizes make the same rows.  [default: 0]")
def demo(users: int | None, todos: int | None, messages: int | None, seed: int | None) -> None:
    """Add demo data, once, and say whom to sign in as.

    An account to look around in, or as many rows as --users, --todos and --messages say. Where users of the same seed
    are, nothing is added.
    """
    is_account = users is None and todos is None and messages is None
    if is_account and seed is not None:
        raise OperatorError("--seed goes with --users, --todos or --messages")
    if users is None:
        users = max(1, (todos or 0) // 50, (messages or 0) // 100)
    todos = 50 * users if todos is None else todos
    messages = 100 * users if messages is None else messages
    seed = seed or 0
    with owner_url(to_fill=True) as url:
        filled = _fill(url, ACCOUNT) if is_account else fill_many(url, Size(users, todos, messages, seed))
    if filled.users != users:
        raise OperatorError(
            f"seed {seed} has {filled.users:,} users here, not {users:,}, and nothing was added: --seed {seed + 1} does"
        )
    if filled.added:
        rows = sum(filled.added.values())
        print(", ".join(f"{count:,} {table}" for table, count in filled.added.items()))
        print(f"{rows:,} rows in {filled.seconds:.1f} s, {rows / filled.seconds:,.0f} a second")
    elif is_account:
        print("it is there already: nothing was added")
    else:
        print(f"{users:,} users of seed {seed} are there already, with what they have: nothing was added")
    print(f"sign in as {filled.email} with the password: {PASSWORD}")


def fill_many(url: str, size: Size) -> Filled:
    """Make as many rows as ``size`` says, unless users of its seed are there; then vacuum and analyze.

    ``url`` names a login that migrates, or a superuser, who writes them without triggers; anybody else writes through
    every trigger as todochat_owner, several times slower. The account answered is the one with most rows. Raises
    DatabaseError.
    """
    return _fill(url, f"seed{size.seed}-user", size)


def _fill(url: str, account: str, size: Size | None = None) -> Filled:
    parameters: _Parameters = {"account": account, **(msgspec.structs.asdict(size) if size else {})}
    parameters["password_hash"] = make_hash(PASSWORD)
    started = time.monotonic()
    with connect(url) as connection, one_line_errors():
        as_superuser = size is not None and connection.info.parameter_status("is_superuser") == "on"
        configure(connection, **_SESSION)
        with connection.transaction():
            connection.execute(_LOCK)
            if not as_superuser:
                connection.execute(f"SET LOCAL ROLE {OWNER_ROLE}".encode())
            email, users = _find(connection, parameters)
            if users:  # perhaps made in another size
                return Filled(email, users, {}, 0, as_superuser)
            _run(connection, "begin")
            if size is None:
                added = _count(_run(connection, "account", parameters))
            else:
                added = _write_all(connection, parameters, as_superuser=as_superuser)
            email, users = _find(connection, parameters)
            _run(connection, "end")
        if size is not None:
            with Stage("vacuum, analyze"):
                _run(connection, "vacuum")
    return Filled(email, users, {table: added[table] for table in TABLES}, time.monotonic() - started, as_superuser)


def _write_all(connection: _Connection, parameters: _Parameters, *, as_superuser: bool) -> Counter[str]:
    _run(connection, "as_superuser" if as_superuser else "as_owner")
    added = Counter[str]()
    for name in (*TABLES, "instead_of_triggers") if as_superuser else TABLES:
        added += _write(connection, name, parameters, by_user=not as_superuser)
    return added


def _write(connection: _Connection, name: str, parameters: _Parameters, *, by_user: bool) -> Counter[str]:
    """Run a file for slices of the users, or for each user alone, as row security asks for."""
    users: int = parameters["users"]
    step = max(1, ROWS_AT_ONCE * users // (users + parameters["todos"] + parameters["messages"]))
    files, added = ("as_user", name) if by_user else (name,), Counter[str]()
    with Stage(name) as stage:
        for first in range(1, users + 1, step):
            numbers = range(first, min(first + step, users + 1))
            slices = [(number, number) for number in numbers] if by_user else [(numbers[0], numbers[-1])]
            with connection.pipeline():
                runs = [
                    _run(connection, file, parameters | {"first": a, "last": z}) for a, z in slices for file in files
                ]
            counted = _count(itertools.chain(*runs))
            added += counted
            stage.update(numbers[-1] / users, counted.total())
    return added


def _run(connection: _Connection, name: str, parameters: _Parameters | None = None) -> list[_Run]:
    return [(table, connection.execute(text, parameters)) for table, text in _statements(name)]


def _count(runs: Iterable[_Run]) -> Counter[str]:
    """How many rows were inserted into each table."""
    added = Counter[str]()
    for table, cursor in runs:
        if table:
            added[table] += cursor.rowcount
    return added


@cache
def _statements(name: str) -> list[tuple[str, bytes]]:
    """The statements of a file, each with the table it inserts into, or ""."""
    texts = [text for text, _ in split_statements((_FOLDER / f"{name}.sql").read_text(encoding="utf-8"))]
    return [("".join(re.findall(r"^INSERT INTO public\.(\w+)", text, re.MULTILINE)), text.encode()) for text in texts]


def _find(connection: _Connection, parameters: _Parameters) -> tuple[str, int]:
    """The first of the users whose address begins with ``account``, and how many there are."""
    return connection.execute(_FIND, parameters).fetchone() or ("", 0)
