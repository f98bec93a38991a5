"""What the planner knows of the few users that there were makes no work grow for a user who comes after them.

As PostgreSQL keeps statistics of a column's most common values, a small table's users are all among them. Of anybody
else it then expects one row, however many there are, and takes any index that begins with the user for any search.
"""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from tests.conftest import Server, TestDatabase, user_factory
from tests.support import exports

Connection = psycopg.Connection[Any]
TODOS, CONVERSATIONS, MESSAGES_EACH = 4_500, 300, 15
ROWS = TODOS + CONVERSATIONS * (1 + MESSAGES_EACH)
READ = """
    SELECT
        (SELECT sum(seq_tup_read) FROM pg_stat_user_tables) + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes)
"""


@pytest.fixture
def database(make_database: Callable[[], TestDatabase], start_server: Callable[..., Server]) -> TestDatabase:
    """With three users, of whom statistics were gathered."""
    database = make_database()
    server = start_server(database=database)
    with user_factory(server) as make:
        for _ in range(3):
            exports.fill(make())
    server.stop()
    with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
        superuser.execute("VACUUM ANALYZE")
    return database


@pytest.fixture
def superuser(database: TestDatabase) -> Iterator[Connection]:
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        yield connection


def large_file() -> exports.Lines:
    header, todo, _, conversation, message, *_, end = exports.small_file()
    lines: exports.Lines = [{**header, "last_number": TODOS}]
    lines += ({**todo, "id": str(uuid4()), "number": number} for number in range(1, TODOS + 1))
    for conversation_id in sorted(str(uuid4()) for _ in range(CONVERSATIONS)):
        lines.append({**conversation, "id": conversation_id, "last_position": MESSAGES_EACH})
        lines[-1]["message_count"] = MESSAGES_EACH
        lines += (
            {**message, "id": str(uuid4()), "conversation_id": conversation_id, "position": position}
            for position in range(1, MESSAGES_EACH + 1)
        )
    count = {"todos": TODOS, "conversations": CONVERSATIONS, "messages": CONVERSATIONS * MESSAGES_EACH, "links": 0}
    return [*lines, {**end, **count}]


def test_an_import_an_undo_and_an_erasure_are_linear_for_a_user_who_comes_later(
    database: TestDatabase, superuser: Connection, start_server: Callable[..., Server]
) -> None:
    server = start_server(database=database)

    def reads(ask: Callable[[], httpx.Response]) -> int:
        """How many rows and entries of indexes it takes; processes say it when they end."""
        nonlocal server
        before = superuser.execute(READ).fetchone()[0]
        ask().raise_for_status()
        server.stop()
        after = superuser.execute(READ).fetchone()[0]
        server = start_server(database=database, JWT_SECRET=server.env["JWT_SECRET"], PORT=server.env["PORT"])
        return after - before

    with user_factory(server) as make:
        newcomer = make()
        assert reads(lambda: exports.send(newcomer, large_file())) < 200 * ROWS
        conversation = newcomer.client.get("/v1/conversations?messages=1&limit=1").json()["items"][0]
        path = f"/v1/conversations/{conversation['id']}/messages/{conversation['messages'][0]['id']}"
        newcomer.client.delete(path).raise_for_status()
        (entry,) = newcomer.client.get("/v1/audit?limit=1").json()["items"]
        assert reads(lambda: newcomer.client.post(f"/v1/changes/{entry['id']}/revert")) < 3 * ROWS
        assert reads(lambda: newcomer.client.delete("/v1/users/me?erase=true")) < 200 * ROWS
