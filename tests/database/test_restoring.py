"""Bringing rows back as they were: what app.restoring lets through, and what holds all the same."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from tests.conftest import TestDatabase

Connection = psycopg.Connection[Any]

NOW = datetime.now(UTC).replace(microsecond=0)
PAST = NOW - timedelta(days=30)
_numbers = count(1)


@pytest.fixture(scope="module")
def database(make_module_database: Callable[[], TestDatabase]) -> TestDatabase:
    return make_module_database()


@pytest.fixture(scope="module")
def service(database: TestDatabase) -> Iterator[Any]:
    with psycopg.connect(database.service_url, autocommit=True, row_factory=dict_row) as connection:
        yield connection


@pytest.fixture
def user(database: TestDatabase) -> UUID:
    return new_user(database)


def new_user(database: TestDatabase, **values: Any) -> UUID:
    values = {"email": f"restored{next(_numbers)}@example.org", **values}
    with psycopg.connect(database.superuser_url) as connection:
        return one(connection, insertion("users", "id", values), list(values.values()))[0]


def insertion(table: str, returning: str, values: dict[str, Any]) -> sql.Composed:
    return sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING " + returning).format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, values)),
        sql.SQL(", ").join([sql.Placeholder()] * len(values)),
    )


def one(connection: Connection, statement: Any, values: Any = None) -> Any:
    row = connection.execute(statement, values).fetchone()
    assert row
    return row


@contextmanager
def acting(connection: Connection, user_id: UUID, *, restoring: bool = True) -> Iterator[Connection]:
    with connection.transaction():
        connection.execute(f"SET LOCAL app.user_id = '{user_id}'")
        if restoring:
            connection.execute("SET LOCAL app.restoring = 'on'")
        yield connection


def insert(connection: Connection, table: str, **values: Any) -> dict[str, Any]:
    return one(connection, insertion(table, "*", values), list(values.values()))


def read(connection: Connection, table: str, user_id: UUID, row_id: UUID) -> dict[str, Any]:
    with acting(connection, user_id, restoring=False):
        return one(connection, f"SELECT * FROM {table} WHERE user_id = %s AND id = %s", (user_id, row_id))


def audit(connection: Connection, user_id: UUID) -> list[tuple[str, str]]:
    with acting(connection, user_id, restoring=False):
        rows = connection.execute(
            "SELECT table_name, action FROM audit_log WHERE user_id = %s AND table_name <> 'users' ORDER BY seq",
            (user_id,),
        )
        return [(row["table_name"], row["action"]) for row in rows]


@contextmanager
def refused(state: str, constraint: str | None = None) -> Iterator[None]:
    with pytest.raises(psycopg.Error) as caught:
        yield
    assert (caught.value.sqlstate, caught.value.diag.constraint_name) == (state, constraint), caught.value


LATE: dict[str, Any] = {
    "title": "Finished late",
    "number": 7,
    "status": "completed",
    "due_date": PAST + timedelta(days=1),
    "completed_at": PAST + timedelta(days=2),
    "created_at": PAST,
    "updated_at": PAST + timedelta(days=3),
    "version": 12,
}


def test_a_todo_comes_back_as_it_was_and_numbers_go_on_behind_it(service: Connection, user: UUID):
    with refused("23514", "todos_due_date_check"), acting(service, user, restoring=False):
        insert(service, "todos", user_id=user, **LATE)
    with acting(service, user):
        row = insert(service, "todos", user_id=user, **LATE)
    assert {name: row[name] for name in LATE} == LATE
    with acting(service, user, restoring=False):
        assert insert(service, "todos", user_id=user, title="Next")["number"] == 8
    assert audit(service, user) == [("todos", "insert")] * 2


def test_a_completed_todo_is_not_given_another_completed_at(service: Connection, user: UUID):
    with refused("23514", "todos_completed_at_check"), acting(service, user):
        insert(service, "todos", user_id=user, title="When?", status="completed")
    with refused("23514", "todos_completed_at_check"), acting(service, user):
        late = {**LATE, "completed_at": NOW + timedelta(days=1)}
        insert(service, "todos", user_id=user, **late)


def test_an_archived_todo_goes_back_to_what_it_was_and_moves_on_its_version(service: Connection, user: UUID):
    completed_at = PAST + timedelta(days=2)
    with acting(service, user):
        row = insert(service, "todos", user_id=user, title="Put away", status="archived")
    change = "UPDATE todos SET status = 'completed', completed_at = %s, due_date = %s WHERE user_id = %s AND id = %s"
    values = (completed_at, PAST, user, row["id"])
    with refused("TC409"), acting(service, user, restoring=False):
        service.execute(change, values)
    with acting(service, user):
        service.execute(change, values)
    found = read(service, "todos", user, row["id"])
    assert (found["status"], found["completed_at"], found["due_date"]) == ("completed", completed_at, PAST)
    assert found["version"] == 2
    assert found["updated_at"] > row["updated_at"]
    back = "UPDATE todos SET status = 'archived', completed_at = NULL WHERE user_id = %s AND id = %s"
    with acting(service, user):
        service.execute(back, (user, row["id"]))
    assert read(service, "todos", user, row["id"])["completed_at"] is None
    assert audit(service, user) == [("todos", "insert"), ("todos", "update"), ("todos", "update")]


def test_the_mode_ends_with_its_transaction(service: Connection, user: UUID):
    with acting(service, user):
        pass
    with refused("23514", "todos_due_date_check"), acting(service, user, restoring=False):
        insert(service, "todos", user_id=user, **LATE)


def test_whoever_left_may_stay_the_assignee_of_a_closed_todo_only(
    service: Connection, database: TestDatabase, user: UUID
):
    gone = new_user(database, is_active=False)
    with acting(service, user):
        assert insert(service, "todos", user_id=user, assigned_to=gone, **LATE)["assigned_to"] == gone
    with refused("23514", "todos_assigned_to_check"), acting(service, user):
        insert(service, "todos", user_id=user, title="Open", assigned_to=gone)
    with refused("23503", "todos_assigned_to_fkey"), acting(service, user):
        insert(service, "todos", user_id=user, assigned_to=UUID(int=7), **{**LATE, "number": 8})


def test_an_assignee_still_changes_nothing_but_the_status(service: Connection, database: TestDatabase, user: UUID):
    assignee = new_user(database)
    with acting(service, user, restoring=False):
        row = insert(service, "todos", user_id=user, title="Shared", assigned_to=assignee)
    with refused("TC403"), acting(service, assignee):
        service.execute("UPDATE todos SET title = 'Mine' WHERE id = %s", (row["id"],))


def messages(conversation: UUID, user: UUID, positions: range) -> list[dict[str, Any]]:
    return [
        {
            "user_id": user,
            "conversation_id": conversation,
            "position": position,
            "sender_type": "ai",
            "content": f"Message {position}",
            "created_at": PAST + timedelta(minutes=position),
            "updated_at": PAST + timedelta(minutes=position),
            "version": 3,
        }
        for position in positions
    ]


COUNTED: dict[str, Any] = {
    "title": "Long ago",
    "last_position": 9,
    "created_at": PAST,
    "updated_at": PAST + timedelta(days=4),
    "version": 20,
}


def test_a_conversation_comes_back_and_its_messages_are_counted_as_they_come(service: Connection, user: UUID):
    with refused("42501"), acting(service, user):
        insert(service, "conversations", user_id=user, message_count=4, **COUNTED)
    with acting(service, user):
        row = insert(service, "conversations", user_id=user, **COUNTED)
        for values in messages(row["id"], user, range(2, 6)):
            message = insert(service, "messages", **values)
            assert {name: message[name] for name in values} == values
    assert read(service, "conversations", user, row["id"]) == {**row, "message_count": 4}
    assert {name: row[name] for name in COUNTED} == COUNTED
    assert audit(service, user) == [("conversations", "insert"), *[("messages", "insert")] * 4]
    with acting(service, user, restoring=False):
        appended = {"user_id": user, "conversation_id": row["id"], "sender_type": "ai", "content": "Next"}
        assert insert(service, "messages", **appended)["position"] == 10
    assert read(service, "conversations", user, row["id"])["message_count"] == 5


def test_a_message_that_comes_back_to_a_conversation_is_counted(service: Connection, user: UUID):
    with acting(service, user):
        row = insert(service, "conversations", user_id=user, **{**COUNTED, "last_position": 2})
        first, second = [insert(service, "messages", **values) for values in messages(row["id"], user, range(1, 3))]
    with acting(service, user, restoring=False):
        service.execute("DELETE FROM messages WHERE user_id = %s AND id = %s", (user, first["id"]))
    after = read(service, "conversations", user, row["id"])
    assert (after["message_count"], after["last_position"], after["version"]) == (1, 2, 20)
    with acting(service, user):
        first.pop("role")
        first.pop("sender_id")
        first.pop("metadata")
        insert(service, "messages", **first)
    after = read(service, "conversations", user, row["id"])
    assert (after["message_count"], after["last_position"], after["version"]) == (2, 2, 20)
    assert after["updated_at"] > row["updated_at"]
    assert audit(service, user)[-2:] == [("messages", "delete"), ("messages", "insert")]
    with refused("23505", "messages_pkey"), acting(service, user):
        insert(service, "messages", **messages(row["id"], user, range(2, 3))[0])
    assert second["position"] == 2


def test_counters_are_still_not_set_by_an_update(service: Connection, user: UUID):
    with acting(service, user):
        row = insert(service, "conversations", user_id=user, **COUNTED)
    with refused("23514", "conversations_immutable_check"), acting(service, user):
        service.execute("UPDATE conversations SET message_count = 0 WHERE user_id = %s AND id = %s", (user, row["id"]))


def test_rows_of_somebody_else_stay_out_of_reach(service: Connection, database: TestDatabase, user: UUID):
    stranger = new_user(database)
    with refused("42501"), acting(service, stranger):
        insert(service, "todos", user_id=user, **LATE)
    with refused("42501"), acting(service, stranger):
        insert(service, "conversations", user_id=user, **COUNTED)
