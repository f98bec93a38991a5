"""What a DBA copies from sql/dba.sql does what it says there."""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from service.commands.retention import AUDIT_DAYS
from service.db.loading import TEXTS
from service.db.migration_files import split_statements
from service.embedded import EmbeddedPostgres
from tests.conftest import (
    POSTGRES_15,
    REPOSITORY,
    TEMPLATE,
    UNSAFE_BUT_FAST,
    Server,
    User,
    _database,
    reachable_folder,
    user_factory,
)
from tests.support.load import wait_for

TEXT = (REPOSITORY / "sql" / "dba.sql").read_text(encoding="utf-8")
DBA = "todochat_dba"
Row = tuple[Any, ...]


def recipe(title: str) -> list[str]:
    """The statements below the comment that begins so."""
    found = re.search(rf"^-- {re.escape(title)}.*?(?=^$|\Z)", TEXT, re.DOTALL | re.MULTILINE)
    assert found, title
    return [statement for statement, _ in split_statements(found[0])]


def run(connection: psycopg.Connection[Any], title: str, **other: str) -> list[Row]:
    """Its last rows; ``other`` stands for what the file has as an example."""
    rows: list[Row] = []
    for statement in recipe(title):
        text = statement
        for name, value in other.items():
            text = text.replace(EXAMPLES[name], value)
        cursor = connection.execute(text.encode())
        rows = cursor.fetchall() if cursor.description else rows
    return rows


EXAMPLES = {"email": "ada@example.com", "user_id": "01900000-0000-7000-8000-000000000000"}


@pytest.fixture
def dba(server: Server, postgres: EmbeddedPostgres) -> Iterator[psycopg.Connection[Any]]:
    """A connection as the role that the file makes."""
    with psycopg.connect(server.database.superuser_url, autocommit=True) as superuser:
        run(superuser, "A role that sees every row")
        try:
            with psycopg.connect(postgres.url(server.database.name, DBA), autocommit=True) as connection:
                yield connection
        finally:
            superuser.execute(f"DROP ROLE {DBA}")


@pytest.fixture
def ada(new_user: Callable[..., User]) -> User:
    user = new_user()
    for title in ("Milk", "Bread"):
        assert user.client.post("/v1/todos", json={"title": title}).status_code == 201
    return user


def test_the_role_reads_one_user_s_rows_and_changes_none(dba: psycopg.Connection[Any], ada: User) -> None:
    assert [row[:3] for row in run(dba, "One user's rows", email=ada.email)] == [
        (1, "Milk", "pending"),
        (2, "Bread", "pending"),
    ]
    for statement in ("UPDATE todos SET title = 'x'", "DELETE FROM users", "CREATE TABLE x ()", "TRUNCATE messages"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            dba.execute(statement)


@pytest.mark.parametrize("login", ["owner_url", "service_url"])
def test_a_login_that_row_security_binds_reads_one_user_s_rows_too(
    server: Server, ada: User, new_user: Callable[..., User], login: str
) -> None:
    """Also where others have todos that are assigned, of which the owner's functions must know."""
    bob = new_user()
    assert bob.client.post("/v1/todos", json={"title": "Bob's", "assigned_to": str(bob.id)}).status_code == 201
    with psycopg.connect(getattr(server.database, login), autocommit=True) as connection:
        rows = run(connection, "The same for logins that row security binds", user_id=str(ada.id))
        assert [row[1] for row in rows] == ["Milk", "Bread"]
        counted = connection.execute("SELECT count(*) FROM todos WHERE user_id = %s", [ada.id]).fetchone()
        assert counted == (0,), "nothing without saying for whom"


def test_rows_are_counted_or_the_login_is_refused(server: Server, dba: psycopg.Connection[Any], ada: User) -> None:
    with psycopg.connect(server.database.superuser_url) as superuser:
        counted = run(superuser, "How many rows there are")
    assert counted == run(dba, "How many rows there are")
    assert counted[0][1] >= 2
    with (
        psycopg.connect(server.database.owner_url, autocommit=True) as owner,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="would be affected by row-level security"),
    ):
        run(owner, "How many rows there are")
    assert ada


def test_what_takes_long_is_told_by_its_name(server: Server, dba: psycopg.Connection[Any], ada: User) -> None:
    """A request waits for a todo that somebody else holds."""
    answers: list[int] = []

    def change() -> None:
        while 200 not in answers:  # one gives up after the two seconds that a request waits for a lock
            answers.append(ada.client.patch("/v1/todos/1", json={"title": "Oat milk"}).status_code)

    with psycopg.connect(server.database.superuser_url) as holder:
        holder.execute("SELECT FROM todos WHERE user_id = %s FOR UPDATE", [ada.id])
        waiting = threading.Thread(target=change)
        waiting.start()
        told = wait_for(lambda: [row for row in run(dba, "What takes long now") if row[4] == "update_todo"])
        holder.rollback()
        waiting.join(30)
    assert told[0][2] == "active"
    assert told[0][1].total_seconds() >= 0


def test_every_query_is_known_by_its_name() -> None:
    for query in TEXTS.values():
        assert re.findall(rb"/\* (\w+) \*/", query.prepared.text) == [query.name.encode()]
        assert not query.prepared.text.startswith(b"/*")


def test_what_took_longest_is_told_by_its_name(
    start_postgres: Callable[..., EmbeddedPostgres], start_server: Callable[..., Server]
) -> None:
    """On PostgreSQL 15, since the wheel has no extensions."""
    if not (POSTGRES_15 / "postgres").exists():
        pytest.skip("needs PostgreSQL 15: apt-get install postgresql-15")
    options = {**UNSAFE_BUT_FAST, "shared_preload_libraries": "pg_stat_statements"}
    with contextlib.ExitStack() as stack:
        folder: Path = stack.enter_context(reachable_folder())
        cluster = stack.enter_context(start_postgres(folder / "postgres", bin_dir=POSTGRES_15, options=options))
        server = start_server(database=_database(cluster, TEMPLATE))
        with psycopg.connect(server.database.superuser_url, autocommit=True) as superuser:
            superuser.execute("CREATE EXTENSION pg_stat_statements")
            user = stack.enter_context(user_factory(server))()
            assert user.client.get("/v1/todos").status_code == 200
            names = [row[0] for row in run(superuser, "What took longest in all")]
            assert "list_todos_by_created_at_desc" in names
        assert server.stop() == 0


def test_sizes_and_retention_are_told_of_every_table(server: Server) -> None:
    with psycopg.connect(server.database.service_url) as connection:
        told = {row[0]: row[3] for row in run(connection, "How big each table is")}
        tables = connection.execute("SELECT relname FROM pg_stat_user_tables").fetchall()
    assert told.keys() == {name for (name,) in tables}
    assert told["audit_log"].startswith(f"{AUDIT_DAYS} days")
    assert told["todos"] == "until its user goes, or deletes it"


def test_every_statement_is_run_here() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    titles = re.findall(r"^\n-- (.*)", TEXT, re.MULTILINE)
    assert len(titles) == 7
    assert all(any(title.startswith(told) for told in re.findall(r'"([A-Z][^"]+)"', here)) for title in titles)
