"""What really changed in a database, read from its write-ahead log: independent of any trigger.

PostgreSQL's own decoder (pgoutput, protocol version 1) tells every row inserted, updated and deleted by transactions
that committed, in the order in which they did, cascades included.
"""

import contextlib
import dataclasses
import secrets
import struct
from collections.abc import Callable, Generator, Sequence
from typing import Any

import psycopg
from psycopg import sql

Connection = psycopg.Connection[Any]
Row = dict[str, str | None]


@dataclasses.dataclass(frozen=True)
class RowChange:
    """``before`` and ``after`` are whole rows, each value as text."""

    xid: int
    action: str
    table: str
    before: Row | None
    after: Row | None

    @property
    def row(self) -> Row:
        found = self.after or self.before
        assert found
        return found

    @property
    def is_real(self) -> bool:
        """Not an UPDATE that leaves every column as it was."""
        return self.before != self.after


class RowChanges:
    """The changes of some tables since it was made. The connection is a superuser's, in autocommit."""

    def __init__(self, connection: Connection, tables: Sequence[str]) -> None:
        self._connection = connection
        self._name = f"changes_{secrets.token_hex(6)}"
        for table in tables:  # else an update's or a delete's change holds no more than the primary key
            connection.execute(sql.SQL("ALTER TABLE {} REPLICA IDENTITY FULL").format(sql.Identifier(table)))
        names = sql.SQL(", ").join(map(sql.Identifier, tables))
        # From 18 on, a publication without them refuses updates of tables that have generated columns.
        generated = sql.SQL(
            "WITH (publish_generated_columns = stored)" if connection.info.server_version >= 180000 else ""
        )
        create = sql.SQL("CREATE PUBLICATION {} FOR TABLE {} {}")
        connection.execute(create.format(sql.Identifier(self._name), names, generated))
        connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (self._name,))

    def read(self) -> list[RowChange]:
        """All that was committed since the last time."""
        with self._connection.transaction():  # only what has left the log's buffers is told
            self._connection.execute("SET LOCAL synchronous_commit = on")
            self._connection.execute("SELECT pg_logical_emit_message(true, '', '')")
        messages = self._connection.execute(
            "SELECT data FROM pg_logical_slot_get_binary_changes("
            "%(name)s::text::name, NULL, NULL, 'proto_version', '1', 'publication_names', %(name)s::text)",
            {"name": self._name},
        )
        decoder = _Decoder()
        return [change for (data,) in messages if (change := decoder.decode(data))]

    def close(self) -> None:
        self._connection.execute("SELECT pg_drop_replication_slot(%s)", (self._name,))
        self._connection.execute(sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(self._name)))


@contextlib.contextmanager
def row_changes(connection: Connection, tables: Sequence[str]) -> Generator[RowChanges]:
    changes = RowChanges(connection, tables)
    try:
        yield changes
    finally:
        changes.close()


class _Decoder:
    """Messages as "Logical Replication Message Formats" of PostgreSQL's manual has them."""

    def __init__(self) -> None:
        self._relations: dict[int, tuple[str, list[str]]] = {}
        self._xid = 0
        self._data = b""
        self._place = 0

    def decode(self, data: bytes) -> RowChange | None:
        self._data, self._place = data, 1
        readers: dict[bytes, Callable[[], RowChange | None]] = {
            b"B": self._begin,
            b"R": self._relation,
            b"I": self._insert,
            b"U": self._update,
            b"D": self._delete,
        }
        kind = data[:1]
        assert kind in (b"C", b"Y", b"O", *readers), f"a change that nobody expected: {kind!r}"
        return readers[kind]() if kind in readers else None

    def _take(self, form: str) -> int:
        (value,) = struct.unpack_from(f">{form}", self._data, self._place)
        self._place += struct.calcsize(f">{form}")
        return value

    def _bytes(self, length: int) -> bytes:
        self._place += length
        return self._data[self._place - length : self._place]

    def _string(self) -> str:
        end = self._data.index(b"\0", self._place)
        found = self._data[self._place : end].decode()
        self._place = end + 1
        return found

    def _begin(self) -> None:
        self._take("q")  # where the commit is
        self._take("q")  # when it was
        self._xid = self._take("I")

    def _relation(self) -> None:
        relation = self._take("I")
        self._string()
        name = self._string()
        self._bytes(1)
        columns: list[str] = []
        for _ in range(self._take("h")):
            self._bytes(1)
            columns.append(self._string())
            self._take("I")
            self._take("i")
        self._relations[relation] = (name, columns)

    def _insert(self) -> RowChange:
        table, columns = self._relations[self._take("I")]
        assert self._bytes(1) == b"N"
        return RowChange(self._xid, "insert", table, None, self._tuple(columns))

    def _update(self) -> RowChange:
        table, columns = self._relations[self._take("I")]
        assert self._bytes(1) == b"O"
        before = self._tuple(columns)
        assert self._bytes(1) == b"N"
        return RowChange(self._xid, "update", table, before, self._tuple(columns, before))

    def _delete(self) -> RowChange:
        table, columns = self._relations[self._take("I")]
        assert self._bytes(1) == b"O"
        return RowChange(self._xid, "delete", table, self._tuple(columns), None)

    def _tuple(self, columns: list[str], before: Row | None = None) -> Row:
        values: Row = {}
        assert self._take("h") == len(columns)
        for name in columns:
            kind = self._bytes(1)
            if kind == b"n":
                values[name] = None
            elif kind == b"u":  # a long value that was not touched
                assert before is not None
                values[name] = before[name]
            else:
                assert kind == b"t"
                values[name] = self._bytes(self._take("i")).decode()
        return values
