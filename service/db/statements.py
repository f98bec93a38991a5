"""Statements as the database gets them, and for whom a transaction is."""

import re
from collections.abc import Callable, Sequence
from typing import Any, LiteralString, NamedTuple
from uuid import UUID

from psycopg import sql

SESSION = {
    "statement_timeout": "4s",
    "lock_timeout": "2s",
    # Of times inside of JSON: elsewhere, the last ones there are have no year of four digits.
    "TimeZone": "UTC",
}
"""Settings of every session."""

Row = tuple[Any, ...]
Value = bytes | None


class Prepared(NamedTuple):
    """A statement as the server gets it: its name, its text with ``$1 …``, and its parameters' type oids.

    One without a name is parsed anew each time.
    """

    name: bytes
    text: bytes
    types: tuple[int, ...]
    reads_only: bool


Step = tuple[Prepared, Sequence[Value]]
"""A statement with its values in PostgreSQL's binary formats."""


def set_session(setting: str, value: str) -> Step:
    """The setting until the connection ends."""
    return _set("SET SESSION {} = {}", setting, value)


def set_local(setting: str, value: str) -> Step:
    """The setting until the transaction ends."""
    return _set("SET LOCAL {} = {}", setting, value)


_PLAIN = re.compile(r"[\w.:/+=@-]*", re.ASCII)


def set_locally(setting: str) -> Callable[[str], Step]:
    """`set_local` for a setting that changes with every transaction, at a tenth of the cost for a plain value."""
    before = sql.SQL("SET LOCAL {} = ").format(sql.Identifier(*setting.split("."))).as_bytes(None)

    def make(value: str) -> Step:
        if _PLAIN.fullmatch(value):  # nothing in it that a literal must escape
            return Prepared(b"", b"%b'%b'" % (before, value.encode()), (), True), ()
        return set_local(setting, value)

    return make


def _set(command: LiteralString, setting: str, value: str) -> Step:
    # SET takes no parameters. Not set_config(): Citus doesn't carry that to its workers, and it is slower.
    text = sql.SQL(command).format(sql.Identifier(*setting.split(".")), sql.Literal(value)).as_bytes(None)
    return Prepared(b"", text, (), reads_only=True), ()


class Context(NamedTuple):
    """Whom a transaction is for. Row security shows it that user's rows and no others; without one, none."""

    user_id: UUID | None
    request_id: str
    ahead: Sequence[Step] = ()
    """What its first round trip begins with, such as the check that the user may sign in."""
    network: str | None = None
    """Where the request comes from, as long as nothing has proven that it is the user's."""

    @property
    def borrower(self) -> int | str | None:
        """Whose share of the connections it takes: the network's, or the user's, as the integer of the id."""
        return self.network if self.network is not None or self.user_id is None else self.user_id.int
