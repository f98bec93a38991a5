"""The audit list: who changed what from what to what, newest first, and what a page of it costs."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from service.http.paging import LOOKED_AT
from tests.conftest import User
from tests.support.problems import problem

NewUser = Callable[..., User]


def entries(user: User, **filters: Any) -> list[dict[str, Any]]:
    """Every entry that matches, page by page."""
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = user.client.get("/v1/audit", params={**filters, **({"cursor": cursor} if cursor else {})})
        assert page.status_code == 200, page.text
        found += page.json()["items"]
        cursor = page.json()["next_cursor"]
    return found


def test_an_entry_leads_to_the_trace_of_its_request(new_user: NewUser) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    ada = new_user()
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    first = ada.client.post("/v1/todos", json={"title": "A"}, headers=headers).json()
    second = ada.client.post("/v1/todos", json={"title": "B"}, headers={**headers, "X-Request-ID": "named"}).json()
    assert [entries(ada, row_id=todo["id"])[0]["request_id"] for todo in (first, second)] == [trace, "named"]


@pytest.mark.every_column
def test_an_entry_says_who_changed_what_from_what_to_what(new_user: NewUser) -> None:
    ada = new_user()
    made = ada.client.post("/v1/todos", json={"title": "<A>", "due_date": "2030-01-01T00:00:00+01:00"})
    todo = made.json()
    patched = ada.client.patch(
        f"/v1/todos/{todo['id']}", json={"title": "B"}, headers={"X-Request-ID": "this-very-one"}
    ).json()
    ada.client.delete(f"/v1/todos/{todo['id']}")

    deleted, updated, inserted = entries(ada, row_id=todo["id"])

    assert updated == {
        "id": updated["id"],
        "user_id": str(ada.id),
        "actor_id": str(ada.id),
        "action": "update",
        "table": "todos",
        "row_id": todo["id"],
        "changes": {
            "title": ["<A>", "B"],
            "updated_at": [todo["updated_at"], patched["updated_at"]],
            "version": [1, 2],
        },
        "request_id": "this-very-one",
        "at": updated["at"],
    }
    assert abs(datetime.fromisoformat(updated["at"]) - datetime.fromisoformat(patched["updated_at"])) < timedelta(
        seconds=1
    )
    assert inserted["action"] == "insert"
    assert inserted["request_id"] == made.headers["X-Request-ID"]
    columns = set(todo) - {"completed"}
    assert inserted["changes"] == {name: [None, todo[name]] for name in columns}
    assert todo["due_date"] == "2029-12-31T23:00:00Z"
    assert deleted["changes"] == {name: [patched[name], None] for name in columns}


def test_what_a_column_became_is_found_past_changes_of_others(new_user: NewUser) -> None:
    ada = new_user()
    path = "/v1/todos/" + ada.client.post("/v1/todos", json={"title": "1"}).json()["id"]
    for body in ({"status": "completed"}, {"status": "pending"}) * 4:
        ada.client.patch(path, json=body)
    for body in ({"priority": "low"}, {"title": "2"}, {"status": "archived"}, {"title": "3", "description": ""}):
        ada.client.patch(path, json=body)

    changes = [entry["changes"] for entry in entries(ada, row_id=path[10:])]

    assert [change["title"] for change in changes if "title" in change] == [["2", "3"], ["1", "2"], [None, "1"]]
    assert [change["status"] for change in changes if "status" in change] == [
        ["pending", "archived"],
        *[["completed", "pending"], ["pending", "completed"]] * 4,
        [None, "pending"],
    ]
    assert [change["description"] for change in changes if "description" in change] == [[None, ""], [None, None]]
    assert all(set(change) <= {"status", "completed_at", "updated_at", "version"} for change in changes[4:-1])


def test_a_row_that_was_deleted_and_brought_back_has_the_values_of_each_of_its_lives(new_user: NewUser) -> None:
    ada = new_user()
    path = "/v1/todos/" + ada.client.post("/v1/todos", json={"title": "1"}).json()["id"]
    ada.client.delete(path)
    ada.client.post(f"/v1/changes/{entries(ada, row_id=path[10:])[0]['id']}/revert")
    ada.client.patch(path, json={"title": "2"})

    found = [(entry["action"], entry["changes"]["title"]) for entry in entries(ada, row_id=path[10:])]

    assert found == [("update", ["1", "2"]), ("insert", [None, "1"]), ("delete", ["1", None]), ("insert", [None, "1"])]


def test_every_kind_of_row_is_told_with_all_its_columns_and_no_secret(
    new_user: NewUser, superuser: psycopg.Connection[Any]
) -> None:
    ada = new_user(username=f"a{uuid4().hex[:8]}")
    turn = ada.client.post("/v1/turns", json={"messages": [{"sender_type": "user", "content": "x"}]}).json()
    conversation = turn["messages"][0]["conversation_id"]
    ada.client.post("/v1/todos", json={"title": "A", "conversation_id": conversation})
    ada.client.put("/v1/users/me/password", json={"current_password": ada.password, "new_password": "a new secret"})
    superuser.execute("INSERT INTO identities (user_id, issuer, subject) VALUES (%s, 'i', 's')", (ada.id,))
    hidden = {"password_hash", "tokens_valid_from", "completed", "updated_hour", "role", "sender_id"}
    derived = {"last_position", "message_count", "updated_at"}
    tables = ("users", "identities", "todos", "conversations", "messages", "todo_conversation_links")
    listed = superuser.execute(
        "SELECT attrelid::regclass::text, attname FROM pg_attribute"
        " WHERE attrelid = ANY(%s::regclass[]) AND attnum > 0 AND NOT attisdropped",
        (list(tables),),
    ).fetchall()

    found = [entry for entry in entries_of_changed(ada) if entry["action"] == "insert"]

    assert {entry["table"] for entry in found} == set(tables)
    for entry in found:
        expected = {column for table, column in listed if table == entry["table"]} - hidden
        assert set(entry["changes"]) == expected - (derived if entry["table"] == "conversations" else set())
    assert "argon2" not in json.dumps(found)


def entries_of_changed(user: User) -> list[dict[str, Any]]:
    """The whole trail of a user whose tokens a change of password has revoked: read with a new sign-in."""
    answer = user.client.post("/v1/auth/token", json={"email": user.email, "password": "a new secret"})
    headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    return list(user.client.get("/v1/audit", params={"limit": 200}, headers=headers).json()["items"])


def test_filters_mean_all_of_them_together(new_user: NewUser) -> None:
    ada = new_user()
    ids = [ada.client.post("/v1/todos", json={"title": str(number)}).json()["id"] for number in range(5)]
    for row_id in ids:
        ada.client.patch(f"/v1/todos/{row_id}", json={"title": "x"})
    row_id = ids[3]
    ada.client.delete(f"/v1/todos/{row_id}")
    ada.client.post("/v1/conversations", json={"title": "C"})
    everything = entries(ada)
    assert len(everything) == 13
    middle = everything[6]["at"]

    def expected(**wanted: Any) -> list[dict[str, Any]]:
        return [entry for entry in everything if all(entry[name] == value for name, value in wanted.items())]

    for limit in (1, 2, 50):
        assert entries(ada, limit=limit) == everything
        assert entries(ada, limit=limit, table="todos") == expected(table="todos")
        assert entries(ada, limit=limit, table="messages") == []
        assert entries(ada, limit=limit, action="update") == expected(action="update")
        assert entries(ada, limit=limit, action="delete", table="todos") == expected(action="delete")
        assert entries(ada, limit=limit, row_id=row_id) == expected(row_id=row_id)
        both = {"row_id": row_id, "action": "update"}
        assert entries(ada, limit=limit, **both) == expected(**both)
        assert entries(ada, limit=limit, since=middle) == everything[:7]
        assert entries(ada, limit=limit, until=middle) == everything[7:]
        assert entries(ada, limit=limit, row_id=row_id, since=middle) == [
            entry for entry in everything[:7] if entry["row_id"] == row_id
        ]


@pytest.mark.parametrize("since", ["1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_any_time_there_is_may_be_asked_for(new_user: NewUser, since: str) -> None:
    ada = new_user()
    found, none = ("since", "until") if since < "2" else ("until", "since")
    assert len(entries(ada, **{found: since})) == 1
    assert entries(ada, **{none: since}) == []


@pytest.mark.parametrize(
    ("filters", "field"),
    [
        ({"table": "audit_log"}, "table"),
        ({"action": "truncate"}, "action"),
        ({"row_id": "1"}, "row_id"),
        ({"since": "2026-01-01T00:00:00"}, "since"),
        ({"until": "0001-01-01T00:00:00Z"}, "until"),
        ({"actor_id": str(UUID(int=0))}, "actor_id"),
    ],
)
def test_filters_that_mean_nothing_are_refused(new_user: NewUser, filters: dict[str, str], field: str) -> None:
    problem(new_user().client.get("/v1/audit", params=filters), 422, "validation_failed", field=field)


def test_a_page_looks_at_so_many_entries_at_most_and_leads_on(
    new_user: NewUser, superuser: psycopg.Connection[Any]
) -> None:
    ada = new_user()
    todo = ada.client.post("/v1/todos", json={"title": "A"}).json()["id"]
    for row_id in (todo, str(UUID(int=1))):
        superuser.execute(
            "INSERT INTO audit_log (user_id, seq, at, action, table_name, row_id, before)"
            " SELECT %(user)s, l.seq + n, l.at, 'update', 'todos', %(row)s, '{\"version\": 1}'"
            " FROM (SELECT seq, at FROM audit_log WHERE user_id = %(user)s ORDER BY seq DESC LIMIT 1) AS l,"
            " generate_series(1, %(count)s) AS n",
            {"user": ada.id, "row": row_id, "count": LOOKED_AT},
        )

    for filters in ({"action": "insert"}, {"action": "insert", "row_id": todo}):
        pages = 0
        cursor: str | None = ""
        found: list[Any] = []
        while cursor is not None:
            answer = ada.client.get("/v1/audit", params={**filters, **({"cursor": cursor} if cursor else {})}).json()
            found += answer["items"]
            cursor = answer["next_cursor"]
            pages += 1
        assert pages == (3 if len(filters) == 1 else 2)
        assert [entry["row_id"] for entry in found] == ([todo] if "row_id" in filters else [todo, str(ada.id)])


def test_the_trail_of_a_row_of_somebody_elses_is_empty(new_user: NewUser) -> None:
    ada, eve = new_user(), new_user()
    todo = ada.client.post("/v1/todos", json={"title": "A", "assigned_to": str(eve.id)}).json()
    assert entries(eve, row_id=todo["id"]) == []
    assert [entry["user_id"] for entry in entries(eve)] == [str(eve.id)]


def test_times_are_utc_whatever_time_zone_a_change_was_made_in(
    new_user: NewUser, superuser: psycopg.Connection[Any]
) -> None:
    ada = new_user()
    todo = ada.client.post("/v1/todos", json={"title": "A", "due_date": "9999-12-31T23:59:59.5Z"}).json()["id"]
    with superuser.transaction():
        superuser.execute("SET LOCAL timezone = 'Pacific/Kiritimati'")
        superuser.execute("UPDATE todos SET due_date = '2030-01-01T00:00:00Z' WHERE id = %s", (todo,))

    entry = entries(ada, row_id=todo)[0]

    assert entry["changes"]["due_date"] == ["9999-12-31T23:59:59.500000Z", "2030-01-01T00:00:00Z"]
    assert datetime.fromisoformat(entry["changes"]["updated_at"][0]).tzinfo == UTC
    assert entry["actor_id"] is None
