"""What PostgreSQL says of the service's queries: their plans, and the pages that they touch."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, LiteralString, cast
from uuid import UUID

import psycopg
from psycopg import sql

from service.db.caller import Caller
from service.db.database import Database
from service.db.loading import QueryText
from service.db.queries import Statement
from service.db.statements import SESSION
from tests.support.worlds import Connection


@contextlib.contextmanager
def service_session(url: str) -> Iterator[Connection]:
    """A connection with the settings that the service gives to its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        for name, value in SESSION.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        yield connection


def seed(url: str, statements: LiteralString) -> None:
    """Fill a database, as a superuser, and tell its planner."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statements)
        connection.execute("VACUUM (ANALYZE)")


def prepare(connection: Connection, query: QueryText) -> None:
    kinds = f" ({', '.join(query.parameters.values())})" if query.parameters else ""
    connection.execute(f"PREPARE planned{kinds} AS ".encode() + query.prepared.text)


def execute(query: QueryText, values: dict[str, Any]) -> sql.Composable:
    arguments = [
        sql.SQL("{}::{}").format(
            values[name].decode() if kind == "jsonb" and isinstance(values[name], bytes) else values[name],
            sql.SQL(cast("LiteralString", kind)),
        )
        for name, kind in query.parameters.items()
    ]
    if not arguments:
        return sql.SQL("EXECUTE planned")
    return sql.SQL("EXECUTE planned ({})").format(sql.SQL(", ").join(arguments))


def plan(
    connection: Connection, query: QueryText, values: dict[str, Any], options: LiteralString = ""
) -> dict[str, Any]:
    """What EXPLAIN says of the query with these values."""
    prepare(connection, query)
    row = connection.execute(
        sql.SQL("EXPLAIN (FORMAT JSON {}) {}").format(sql.SQL(options), execute(query, values))
    ).fetchone()
    connection.execute("DEALLOCATE planned")
    assert row
    return row[0][0]


def nodes(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield found
    for child in found.get("Plans", ()):
        yield from nodes(child)


def buffers(connection: Connection, user: UUID, statement: Statement[Any], **values: Any) -> int:
    """Pages of 8 KiB that the statement touches when the user runs it, on the second run; by a plan for any values."""
    query = statement.query.source
    values = {**statement.values, "user_id": user, **values}
    with connection.transaction(force_rollback=True):
        connection.execute(sql.SQL("SET LOCAL app.user_id = {}").format(str(user)))
        connection.execute("SET LOCAL plan_cache_mode = force_generic_plan")
        plan(connection, query, values, ", ANALYZE, BUFFERS")
        found = plan(connection, query, values, ", ANALYZE, BUFFERS")["Plan"]
    return found["Shared Hit Blocks"] + found["Shared Read Blocks"]


class Recorder(Caller):
    """A caller that keeps what it ran."""

    def __init__(self, database: Database, user: UUID) -> None:
        super().__init__(database, "test", user)
        self.statements: list[Statement[Any]] = []

    async def run_all(
        self,
        statements: Sequence[Statement[Any]],
        accept: Callable[[list[Any]], None] | None = None,
        **options: Any,
    ) -> list[Any]:
        self.statements += statements
        return await super().run_all(statements, accept, **options)
