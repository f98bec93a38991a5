"""Statements as the database gets them, and for whom a transaction is."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple
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


_PLAIN = re.compile(r"[\w.:/+=@-]*", re.ASCII)
"""Nothing in it that a literal must escape: most values are so, and psycopg takes ten times as long for them."""


def set_setting(setting: str, value: str, scope: str = "LOCAL") -> Step:
    """A setting until the transaction ends, or with ``SESSION`` until the connection does."""
    # SET takes no parameters. Not set_config(): Citus doesn't carry that to its workers, and it is slower.
    literal = f"'{value}'" if _PLAIN.fullmatch(value) else sql.Literal(value).as_string(None)
    return Prepared(b"", f"SET {scope} {setting} = {literal}".encode(), (), reads_only=True), ()


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
