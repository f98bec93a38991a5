"""The change feed: every change once, in an order that can be replayed, with all that a replay needs."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from psycopg import sql

from service.audit import REVERT_MESSAGES, AuditFilters
from service.http.paging import decode_cursor, encode_cursor
from service.problems import Problem
from tests.conftest import Server, TestDatabase, User
from tests.support.load import wait_for
from tests.support.problems import problem

NewUser = Callable[..., User]
Rows = dict[tuple[str, str], dict[str, Any]]
HIDDEN = {"completed", "role", "sender_id", "updated_hour", "password_hash", "tokens_valid_from"}
DERIVED = {"last_position", "message_count", "updated_at"}
"""What follows from a conversation's messages, and is no change of its own."""
TIMES = {"created_at", "updated_at", "due_date", "completed_at"}
TABLES = ("users", "todos", "conversations", "messages", "todo_conversation_links")


def follow(client: httpx.Client, cursor: str | None = None, limit: int = 50) -> tuple[list[dict[str, Any]], str]:
    """Every entry behind the cursor, and the cursor to go on with."""
    entries: list[dict[str, Any]] = []
    while True:
        page = client.get("/v1/changes", params={"limit": limit, **({"cursor": cursor} if cursor else {})})
        assert page.status_code == 200, page.text
        assert page.json()["next_cursor"]
        cursor = str(page.json()["next_cursor"])
        entries += page.json()["items"]
        if not page.json()["items"]:
            return entries, cursor


def replay(entries: list[dict[str, Any]], rows: Rows | None = None) -> Rows:
    """The rows that the changes lead to; every before must be what is there."""
    rows = {} if rows is None else rows
    for entry in entries:
        key = (entry["table"], entry["row_id"])
        before = {name: values[0] for name, values in entry["changes"].items()}
        after = {name: values[1] for name, values in entry["changes"].items()}
        if entry["action"] == "insert":
            assert key not in rows
            assert set(before.values()) == {None}
            rows[key] = after
        elif entry["action"] == "delete":
            assert set(after.values()) == {None}
            assert rows.pop(key) == before
        else:
            assert {name: rows[key][name] for name in before} == before
            rows[key].update(after)
    return rows


def stored(database: TestDatabase, user_id: UUID) -> Rows:
    """The user's rows as they are, times as the service writes them."""
    found: Rows = {}
    with psycopg.connect(database.superuser_url) as connection:
        connection.execute("SET timezone = 'UTC'")
        for table in TABLES:
            owner = "id" if table == "users" else "user_id"
            text = sql.SQL("SELECT to_jsonb(t) FROM {} AS t WHERE {} = %s").format(
                sql.Identifier(table), sql.Identifier(owner)
            )
            for (row,) in connection.execute(text, (user_id,)):
                found[(table, row["id"])] = {
                    name: as_answered(value) if name in TIMES and value else value
                    for name, value in row.items()
                    if name not in HIDDEN | (DERIVED if table == "conversations" else set())
                }
    return found


def as_answered(value: str) -> str:
    """PostgreSQL's 2026-01-01T00:00:00.1+00:00 as 2026-01-01T00:00:00.100000Z."""
    seconds, _, fraction = value.removesuffix("+00:00").partition(".")
    return f"{seconds}.{fraction:0<6}Z" if fraction else f"{seconds}Z"


def test_the_feed_replayed_gives_the_rows_that_are_there(new_user: NewUser, server: Server) -> None:
    ada = new_user(full_name="Ada Lovelace")
    client = ada.client
    todo = client.post("/v1/todos", json={"title": "a", "due_date": "2030-01-01T00:00:00+02:00"}).json()
    turn = client.post("/v1/turns", json={"title": "T", "messages": [{"sender_type": "user", "content": "<hi>"}] * 3})
    conversation = turn.json()["messages"][0]["conversation_id"]
    other = client.post("/v1/todos", json={"title": "b", "conversation_id": conversation}).json()
    client.patch(f"/v1/todos/{todo['id']}", json={"status": "completed", "metadata": {"at": "2020-01-01T00:00:00"}})
    client.patch(f"/v1/todos/{todo['id']}", json={"title": "c", "description": "d"})
    client.patch(f"/v1/todos/{todo['id']}", json={"description": None, "status": "pending"})
    client.patch(f"/v1/conversations/{conversation}", json={"title": "U"})
    client.delete(f"/v1/conversations/{conversation}/messages", params={"from_position": 3})
    client.post(f"/v1/conversations/{conversation}/messages", json={"sender_type": "ai", "content": "more"})
    client.patch("/v1/users/me", json={"username": f"ada_{uuid4().hex[:8]}"})
    client.delete(f"/v1/todos/{other['id']}")
    gone = client.post("/v1/turns", json={"messages": [{"sender_type": "user", "content": "gone"}] * 2}).json()
    client.delete(f"/v1/conversations/{gone['messages'][0]['conversation_id']}")

    for limit in (1, 7, 200):
        entries, cursor = follow(client, limit=limit)
        assert replay(entries) == stored(server.database, ada.id)
        assert len({entry["id"] for entry in entries}) == len(entries)
    assert follow(client, cursor) == ([], cursor)


# In commit order


def as_user(database: TestDatabase, user_id: UUID) -> psycopg.Connection[Any]:
    """A session of the service's own login that works for the user, from transaction to transaction."""
    connection = psycopg.connect(database.service_url)
    connection.execute(sql.SQL("SET app.user_id = {}").format(str(user_id)))
    connection.commit()
    return connection


def write(connection: psycopg.Connection[Any], title: str, row_id: str) -> None:
    connection.execute("UPDATE todos SET title = %s WHERE id = %s", (title, row_id))


@pytest.fixture
def sessions(server: Server) -> Any:
    """Call it for a session of a user; all are closed in the end."""
    opened: list[psycopg.Connection[Any]] = []

    def open_session(user: User) -> psycopg.Connection[Any]:
        opened.append(as_user(server.database, user.id))
        return opened[-1]

    yield open_session
    for connection in opened:
        connection.close()


def test_what_a_transaction_that_began_earlier_commits_later_is_not_skipped(new_user: NewUser, sessions: Any) -> None:
    ada = new_user()
    ids = [ada.client.post("/v1/todos", json={"title": "t"}).json()["id"] for _ in range(2)]
    _, cursor = follow(ada.client)
    slow, fast = sessions(ada), sessions(ada)
    write(slow, "slow", ids[0])
    write(fast, "fast", ids[1])
    fast.commit()

    at_once, cursor = follow(ada.client, cursor)
    slow.commit()
    entries, _ = follow(ada.client, cursor)

    assert [entry["row_id"] for entry in at_once] == [ids[1]]
    assert [entry["row_id"] for entry in entries] == [ids[0]]


def test_two_changes_of_one_row_are_in_the_order_they_were_made_whichever_transaction_began_first(
    new_user: NewUser, server: Server, sessions: Any
) -> None:
    ada = new_user()
    first, second = (ada.client.post("/v1/todos", json={"title": "t"}).json()["id"] for _ in range(2))
    old, young = sessions(ada), sessions(ada)
    write(old, "gives it its id", first)
    write(young, "young", second)
    young.commit()
    write(old, "old", second)
    old.commit()

    entries, _ = follow(ada.client)

    assert [e["changes"]["title"] for e in entries if e["row_id"] == second and e["action"] == "update"] == [
        ["t", "young"],
        ["young", "old"],
    ]
    assert replay(entries) == stored(server.database, ada.id)


def test_a_change_is_seen_as_soon_as_nothing_else_writes(new_user: NewUser, sessions: Any) -> None:
    """Also one whose transaction began before another that is through: nobody else needs to write first."""
    ada = new_user()
    first, second = (ada.client.post("/v1/todos", json={"title": "t"}).json()["id"] for _ in range(2))
    _, cursor = follow(ada.client)
    old, young = sessions(ada), sessions(ada)
    write(old, "a", first)
    write(young, "b", second)
    young.commit()
    write(old, "c", first)
    old.commit()

    assert len(follow(ada.client, cursor)[0]) == 3


def test_what_is_rolled_back_is_never_seen(new_user: NewUser, sessions: Any) -> None:
    ada = new_user()
    row_id = ada.client.post("/v1/todos", json={"title": "t"}).json()["id"]
    session = sessions(ada)
    write(session, "never", row_id)
    session.execute("SAVEPOINT here")
    write(session, "nor this", row_id)
    session.rollback()

    assert "never" not in json.dumps(follow(ada.client)[0])


# Cursors


def test_an_empty_page_leads_on_to_what_comes_later(new_user: NewUser) -> None:
    ada = new_user()
    entries, cursor = follow(ada.client)
    assert [(entry["table"], entry["action"]) for entry in entries] == [("users", "insert")]
    answer = ada.client.get("/v1/changes", params={"cursor": cursor})
    assert answer.json() == {"items": [], "next_cursor": cursor}
    assert answer.headers["Link"] == f'</v1/changes?cursor={cursor}>; rel="next"'

    ada.client.post("/v1/todos", json={"title": "t"})

    assert [entry["table"] for entry in follow(ada.client, cursor)[0]] == ["todos"]


def test_a_strangers_cursor_is_refused(new_user: NewUser) -> None:
    ada, eve = new_user(), new_user()
    _, cursor = follow(ada.client)
    problem(eve.client.get("/v1/changes", params={"cursor": cursor}), 422, "invalid_cursor")


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "kJ", "ÿ"])
def test_what_never_was_a_cursor_is_refused(new_user: NewUser, cursor: str) -> None:
    problem(new_user().client.get("/v1/changes", params={"cursor": cursor}), 422, "invalid_cursor")


@pytest.mark.parametrize("number", [1 << 63, (1 << 64) - 1, (1 << 63) - 1, -1, -(1 << 63)])
def test_a_made_up_cursor_of_a_number_that_no_change_has_is_refused(new_user: NewUser, number: int) -> None:
    cursor = encode_cursor("changes", (number, None))
    problem(new_user().client.get("/v1/changes", params={"cursor": cursor}), 422, "invalid_cursor")


def test_a_made_up_cursor_of_the_trail_is_refused_where_its_number_is_none(new_user: NewUser) -> None:
    user = new_user()
    for number in (1 << 63, (1 << 64) - 1):
        cursor = encode_cursor(AuditFilters(limit=1), (number,))
        problem(user.client.get("/v1/audit", params={"cursor": cursor}), 422, "invalid_cursor")
    cursor = encode_cursor(AuditFilters(limit=1), (-(1 << 63),))
    assert user.client.get("/v1/audit", params={"cursor": cursor}).json() == {"items": [], "next_cursor": None}


@pytest.mark.parametrize("kind", [tuple[int], tuple[Any]])
def test_no_cursor_holds_a_number_beyond_those_that_the_database_has(kind: Any) -> None:
    for number in ((1 << 63) - 1, -(1 << 63)):
        assert decode_cursor(encode_cursor("list", (number,)), "list", kind) == (number,)
    for number in (1 << 63, (1 << 64) - 1):
        with pytest.raises(Problem) as refused:
            decode_cursor(encode_cursor("list", (number,)), "list", kind)
        assert refused.value.code == "invalid_cursor"


def test_the_cursor_of_a_list_is_refused(new_user: NewUser) -> None:
    ada = new_user()
    ada.client.post("/v1/todos", json={"title": "t"})
    ada.client.patch("/v1/users/me", json={"full_name": "Ada"})
    cursor = ada.client.get("/v1/audit", params={"limit": 1}).json()["next_cursor"]
    problem(ada.client.get("/v1/changes", params={"cursor": cursor}), 422, "invalid_cursor")
    cursor = ada.client.get("/v1/changes", params={"limit": 1}).json()["next_cursor"]
    problem(ada.client.get("/v1/audit", params={"cursor": cursor, "limit": 1}), 422, "invalid_cursor")


# Undoing


def last_entry(user: User, row_id: str) -> dict[str, Any]:
    return dict(user.client.get("/v1/audit", params={"row_id": row_id, "limit": 1}).json()["items"][0])


def revert(user: User, change_id: int | str, **headers: str) -> httpx.Response:
    return user.client.post(f"/v1/changes/{change_id}/revert", headers=headers)


def tidy(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("version", "updated_at")}


CHANGES = {
    "title": {"title": "B"},
    "description set": {"description": "d"},
    "description cleared": {"description": None},
    "archived from completed": {"status": "archived"},
    "reopened": {"status": "pending"},
    "everything": {
        "title": "C", "status": "in_progress", "priority": "urgent", "due_date": "2031-01-01T00:00:00.123456Z",
        "metadata": {"a": [1, 1e300]}, "description": "e",
    },
}  # fmt: skip


@pytest.mark.parametrize("patch", CHANGES.values(), ids=CHANGES)
def test_an_update_of_a_todo_is_undone(new_user: NewUser, patch: dict[str, Any]) -> None:
    ada = new_user()
    body = {"title": "A", "description": "x", "status": "completed", "completed_at": "2020-01-01T00:00:00Z"}
    path = "/v1/todos/" + ada.client.post("/v1/todos", json=body).json()["id"]
    was = ada.client.get(path).json()
    changed = ada.client.patch(path, json=patch)
    assert changed.status_code == 200, changed.text
    change = last_entry(ada, was["id"])

    undo = revert(ada, change["id"])

    assert undo.status_code == 200, undo.text
    now = ada.client.get(path).json()
    assert tidy(now) == tidy(was)
    assert now["version"] == 3
    entry = undo.json()
    assert entry == last_entry(ada, was["id"])
    assert entry["request_id"] == undo.headers["X-Request-ID"]
    own = {"updated_at", "version"}
    assert {name: pair[::-1] for name, pair in entry["changes"].items() if name not in own} == {
        name: pair for name, pair in change["changes"].items() if name not in own
    }


def test_the_undo_is_undone(new_user: NewUser) -> None:
    ada = new_user()
    todo = ada.client.post("/v1/todos", json={"title": "A"}).json()
    ada.client.patch(f"/v1/todos/{todo['id']}", json={"title": "B"})
    undo = revert(ada, last_entry(ada, todo["id"])["id"]).json()

    assert revert(ada, undo["id"]).json()["changes"]["title"] == ["A", "B"]


def test_what_has_moved_on_is_not_undone(new_user: NewUser) -> None:
    ada = new_user()
    path = "/v1/todos/" + ada.client.post("/v1/todos", json={"title": "A"}).json()["id"]
    ada.client.patch(path, json={"title": "B"})
    change = last_entry(ada, path[10:])["id"]
    ada.client.patch(path, json={"priority": "low"})

    problem(revert(ada, change), 412, "version_mismatch")
    assert ada.client.get(path).json()["title"] == "B"


def test_of_two_undos_of_one_change_the_second_is_refused(new_user: NewUser) -> None:
    ada = new_user()
    path = "/v1/todos/" + ada.client.post("/v1/todos", json={"title": "A"}).json()["id"]
    ada.client.patch(path, json={"title": "B"})
    change = last_entry(ada, path[10:])["id"]

    assert revert(ada, change).status_code == 200
    problem(revert(ada, change), 412, "version_mismatch")


def test_an_undo_with_a_key_is_done_once(new_user: NewUser) -> None:
    ada = new_user()
    path = "/v1/todos/" + ada.client.post("/v1/todos", json={"title": "A"}).json()["id"]
    ada.client.delete(path)
    change = last_entry(ada, path[10:])["id"]

    answers = [revert(ada, change, **{"Idempotency-Key": "k"}) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].content == answers[1].content
    assert "Idempotency-Replayed" in answers[1].headers


def test_a_deleted_todo_comes_back_with_its_number_and_links(new_user: NewUser, server: Server) -> None:
    ada, bob = new_user(), new_user()
    conversation = ada.client.post("/v1/conversations", json={"title": "C"}).json()["id"]
    body = {
        "title": "A", "status": "completed", "completed_at": "2020-01-01T00:00:00Z", "assigned_to": str(bob.id),
        "metadata": {"é": "\u007f"}, "conversation_id": conversation,
    }  # fmt: skip
    todo = ada.client.post("/v1/todos", json=body).json()
    ada.client.post("/v1/links", json={"todo_id": todo["id"], "conversation_id": conversation})
    later = ada.client.post("/v1/todos", json={"title": "B"}).json()
    before = stored(server.database, ada.id)
    assert ada.client.delete(f"/v1/todos/{todo['id']}").status_code == 204
    assert len(stored(server.database, ada.id)) == len(before) - 3

    undo = revert(ada, last_entry(ada, todo["id"])["id"])

    assert undo.status_code == 200, undo.text
    assert undo.json()["action"] == "insert"
    assert stored(server.database, ada.id) == before
    assert ada.client.get("/v1/todos/1").json() == todo
    assert ada.client.post("/v1/todos", json={"title": "C"}).json()["number"] == later["number"] + 1
    assert replay(follow(ada.client)[0]) == stored(server.database, ada.id)


def test_a_deleted_conversation_comes_back_with_its_messages_and_links(new_user: NewUser, server: Server) -> None:
    ada = new_user()
    said = [{"sender_type": kind, "content": f"<{kind}>", "metadata": {"k": kind}} for kind in ("user", "ai", "system")]
    turn = ada.client.post("/v1/turns", json={"title": "T", "messages": said * 3}).json()
    path = f"/v1/conversations/{turn['messages'][0]['conversation_id']}"
    ada.client.delete(f"{path}/messages/{turn['messages'][4]['id']}")
    ada.client.delete(f"{path}/messages", params={"from_position": 9})
    ada.client.patch(f"{path}/messages/{turn['messages'][1]['id']}", json={"content": "changed"})
    todo = ada.client.post("/v1/todos", json={"title": "A", "conversation_id": path[18:]}).json()
    gone = ada.client.post("/v1/todos", json={"title": "B", "conversation_id": path[18:]}).json()
    before = stored(server.database, ada.id)
    assert ada.client.delete(path).status_code == 204
    ada.client.delete(f"/v1/todos/{gone['id']}")

    undo = revert(ada, last_entry(ada, path[18:])["id"])

    assert undo.status_code == 200, undo.text
    assert ada.client.get(path).json()["message_count"] == 7
    now = stored(server.database, ada.id)
    lost = [key for key, row in before.items() if gone["id"] in (row["id"], row.get("todo_id"))]
    assert len(lost) == 2
    assert now == {key: row for key, row in before.items() if key not in lost}
    assert [link["todo_id"] for link in ada.client.get("/v1/links").json()["items"]] == [todo["id"]]
    assert ada.client.post(f"{path}/messages", json=said[0]).json()["position"] == 10
    assert replay(follow(ada.client)[0]) == stored(server.database, ada.id)


def test_a_deleted_message_comes_back_to_its_place_and_is_counted(new_user: NewUser, server: Server) -> None:
    ada = new_user()
    said = [{"sender_type": "user", "content": str(number)} for number in range(3)]
    messages = ada.client.post("/v1/turns", json={"messages": said}).json()["messages"]
    path = f"/v1/conversations/{messages[0]['conversation_id']}"
    for message in messages[1:]:
        ada.client.delete(f"{path}/messages/{message['id']}")

    undo = revert(ada, last_entry(ada, messages[1]["id"])["id"])

    assert undo.status_code == 200, undo.text
    assert ada.client.get(f"{path}/messages").json()["items"] == messages[:2]
    assert ada.client.get(path).json()["message_count"] == 2
    assert replay(follow(ada.client)[0]) == stored(server.database, ada.id)


def test_a_conversation_to_which_a_message_comes_back_has_a_version_it_never_had(new_user: NewUser) -> None:
    ada = new_user()
    said = [{"sender_type": "user", "content": str(number)} for number in range(3)]
    messages = ada.client.post("/v1/turns", json={"messages": said}).json()["messages"]
    path = f"/v1/conversations/{messages[0]['conversation_id']}"
    seen = [ada.client.get(path).json()]

    def delete(message: dict[str, Any]) -> None:
        ada.client.delete(f"{path}/messages/{message['id']}")
        seen.append(ada.client.get(path).json())

    for message in messages[:2]:
        delete(message)
        assert revert(ada, last_entry(ada, message["id"])["id"]).status_code == 200
        seen.append(ada.client.get(path).json())
        delete(messages[2] if message is messages[0] else messages[0])
        ada.client.patch(path, json={"title": message["content"]})
        seen.append(ada.client.get(path).json())

    versions = [conversation["version"] for conversation in seen]
    assert versions == sorted(set(versions)), "each is greater than all before"
    times = [conversation["updated_at"] for conversation in seen]
    assert times == sorted(set(times))


def test_a_message_and_a_link_of_what_is_gone_do_not_come_back_alone(new_user: NewUser) -> None:
    ada = new_user()
    turn = ada.client.post("/v1/turns", json={"messages": [{"sender_type": "user", "content": "x"}]}).json()
    message = turn["messages"][0]
    conversation = message["conversation_id"]
    ada.client.post("/v1/todos", json={"title": "A", "conversation_id": conversation})
    link = ada.client.get("/v1/links").json()["items"][0]
    ada.client.delete(f"/v1/conversations/{conversation}")

    for row in (message, link):
        problem(revert(ada, last_entry(ada, row["id"])["id"]), 412, "version_mismatch")


@pytest.mark.parametrize("restored", [("todo", "conversation"), ("conversation", "todo")])
@pytest.mark.parametrize("deleted", [("todo", "conversation"), ("conversation", "todo")])
def test_a_link_comes_back_in_whatever_order_its_ends_went_and_come(
    new_user: NewUser, deleted: tuple[str, str], restored: tuple[str, str]
) -> None:
    ada = new_user()
    ids = {
        "conversation": ada.client.post("/v1/conversations", json={}).json()["id"],
        "todo": ada.client.post("/v1/todos", json={"title": "A"}).json()["id"],
    }
    body = {f"{noun}_id": row_id for noun, row_id in ids.items()}
    links = [
        ada.client.post("/v1/links", json={**body, "relationship_type": kind}).json()["id"]
        for kind in ("discussion", "creation", "update")
    ]
    ada.client.delete(f"/v1/links/{links[2]}")
    for noun in deleted:
        assert ada.client.delete(f"/v1/{noun}s/{ids[noun]}").status_code == 204
    for noun in restored:
        assert revert(ada, last_entry(ada, ids[noun])["id"]).status_code == 200

    # The one that was deleted by itself stays deleted.
    assert {link["id"] for link in ada.client.get("/v1/links").json()["items"]} == set(links[:2])
    # Once they are back they go and come with their ends, and one that is deleted by itself then stays so, too.
    ada.client.delete(f"/v1/links/{links[1]}")
    for noun, row_id in ids.items():
        assert ada.client.delete(f"/v1/{noun}s/{row_id}").status_code == 204
        assert revert(ada, last_entry(ada, row_id)["id"]).status_code == 200
        assert [link["id"] for link in ada.client.get("/v1/links").json()["items"]] == links[:1]


def test_updates_of_messages_links_conversations_and_the_account_are_undone(new_user: NewUser, server: Server) -> None:
    ada = new_user(username=f"a{uuid4().hex[:8]}", full_name="Ada")
    turn = ada.client.post("/v1/turns", json={"title": "T", "messages": [{"sender_type": "ai", "content": "x"}]}).json()
    conversation = f"/v1/conversations/{turn['messages'][0]['conversation_id']}"
    ada.client.post("/v1/todos", json={"title": "A", "conversation_id": conversation[18:]})
    link = "/v1/links/" + ada.client.get("/v1/links").json()["items"][0]["id"]
    message = f"{conversation}/messages/{turn['messages'][0]['id']}"
    patches = {
        "/v1/users/me": {"username": None, "full_name": "Eve"},
        conversation: {"title": None, "metadata": {"a": None}},
        message: {"content": "y", "message_type": "error", "metadata": {"a": 1}},
        link: {"relationship_type": "update"},
    }
    for path, patch in patches.items():
        before = stored(server.database, ada.id)
        assert ada.client.patch(path, json=patch).status_code == 200
        row_id = str(ada.id) if path.endswith("me") else path.rsplit("/", 1)[1]

        undo = revert(ada, last_entry(ada, row_id)["id"])

        assert undo.status_code == 200, undo.text
        now = stored(server.database, ada.id)
        assert {key: tidy(row) for key, row in now.items()} == {key: tidy(row) for key, row in before.items()}


def test_an_undo_does_not_assign_to_who_is_inactive(new_user: NewUser) -> None:
    ada, bob = new_user(), new_user()
    todo = ada.client.post("/v1/todos", json={"title": "A", "assigned_to": str(bob.id)}).json()
    ada.client.patch(f"/v1/todos/{todo['id']}", json={"assigned_to": None})
    assert bob.client.patch("/v1/users/me", json={"is_active": False}).status_code == 200

    problem(revert(ada, last_entry(ada, todo["id"])["id"]), 422, "validation_failed", field="assigned_to")


def test_what_an_assignee_did_is_the_owners_to_undo(new_user: NewUser) -> None:
    ada, bob = new_user(), new_user()
    todo = ada.client.post("/v1/todos", json={"title": "A", "assigned_to": str(bob.id)}).json()
    assert bob.client.patch(f"/v1/todos/{todo['id']}", json={"status": "archived"}).status_code == 200
    change = last_entry(ada, todo["id"])
    assert (change["actor_id"], change["user_id"]) == (str(bob.id), str(ada.id))

    problem(revert(bob, change["id"]), 404, "not_found")
    assert revert(ada, change["id"]).status_code == 200


def test_what_was_made_or_is_no_users_to_change_is_not_undone(new_user: NewUser, server: Server) -> None:
    ada = new_user()
    turn = ada.client.post("/v1/turns", json={"messages": [{"sender_type": "user", "content": "x"}]}).json()
    with psycopg.connect(server.database.superuser_url) as connection:
        connection.execute("UPDATE users SET email = 'a' || email WHERE id = %s", (ada.id,))
    renamed = last_entry(ada, str(ada.id))
    assert renamed["action"] == "update"
    inserted = last_entry(ada, turn["messages"][0]["id"])
    for change in (renamed, inserted):
        problem(revert(ada, change["id"]), 422, "validation_failed", field="id")


@pytest.mark.parametrize("change_id", ["0", "2", str(2**63 - 1), str(2**63), "-1", "x", str(UUID(int=0))])
def test_an_unknown_change_is_not_found(new_user: NewUser, change_id: str) -> None:
    problem(revert(new_user(), change_id), 404, "not_found")


def test_a_link_that_was_made_anew_meanwhile_is_in_the_way(new_user: NewUser) -> None:
    ada = new_user()
    conversation = ada.client.post("/v1/conversations", json={}).json()["id"]
    todo = ada.client.post("/v1/todos", json={"title": "A"}).json()["id"]
    body = {"todo_id": todo, "conversation_id": conversation}
    link = ada.client.post("/v1/links", json=body).json()["id"]
    ada.client.delete(f"/v1/links/{link}")
    ada.client.post("/v1/links", json=body)

    problem(revert(ada, last_entry(ada, link)["id"]), 409, "link_exists")


def test_a_username_that_somebody_took_meanwhile_stays_theirs(new_user: NewUser) -> None:
    name = f"n{uuid4().hex[:8]}"
    ada, bob = new_user(username=name), new_user()
    ada.client.patch("/v1/users/me", json={"username": None})
    bob.client.patch("/v1/users/me", json={"username": name})

    problem(revert(ada, last_entry(ada, str(ada.id))["id"]), 409, "username_taken")


def test_a_conversation_s_name_that_another_has_meanwhile_stays_that_one_s(new_user: NewUser) -> None:
    ada = new_user()
    path = "/v1/conversations/by-external-id/chat"
    gone = ada.client.put(path, json={}).json()["id"]
    ada.client.delete(f"/v1/conversations/{gone}")
    ada.client.put(path, json={})

    problem(revert(ada, last_entry(ada, gone)["id"]), 409, "external_id_taken")
    operation = ada.client.get("/schema/openapi.json").json()["paths"]["/v1/changes/{change_id}/revert"]["post"]
    assert "external_id_taken" in operation["x-problem-codes"]["409"]


# What guards an undo, each guard alone


def test_an_update_is_not_undone_once_its_row_was_deleted_and_brought_back(new_user: NewUser) -> None:
    """Its version is again what the change made it: only the entries that came since tell."""
    ada = new_user()
    path = "/v1/todos/" + ada.client.post("/v1/todos", json={"title": "A"}).json()["id"]
    ada.client.patch(path, json={"title": "B"})
    update = last_entry(ada, path[10:])["id"]
    ada.client.delete(path)
    back = revert(ada, last_entry(ada, path[10:])["id"])
    assert back.json()["changes"]["version"] == [None, 2]

    problem(revert(ada, update), 412, "version_mismatch")
    assert ada.client.get(path).json()["title"] == "B"


@pytest.fixture
def rows(new_user: NewUser) -> tuple[User, dict[str, tuple[str, str, dict[str, Any]]]]:
    """A user, and for each table where one of the user's rows is, its id, and a change of it."""
    ada = new_user(full_name="Ada")
    turn = ada.client.post("/v1/turns", json={"title": "T", "messages": [{"sender_type": "ai", "content": "x"}]}).json()
    message, conversation = turn["messages"][0]["id"], turn["messages"][0]["conversation_id"]
    todo = ada.client.post("/v1/todos", json={"title": "A", "conversation_id": conversation}).json()["id"]
    link = ada.client.get("/v1/links").json()["items"][0]["id"]
    return ada, {
        "users": ("/v1/users/me", str(ada.id), {"full_name": "B"}),
        "todos": (f"/v1/todos/{todo}", todo, {"title": "B"}),
        "conversations": (f"/v1/conversations/{conversation}", conversation, {"title": "B"}),
        "messages": (f"/v1/conversations/{conversation}/messages/{message}", message, {"content": "B"}),
        "todo_conversation_links": (f"/v1/links/{link}", link, {"relationship_type": "update"}),
    }


def wait_for_waiting(server: Server, count: int) -> None:
    """Until so many of the service's sessions wait for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(server.database.superuser_url, autocommit=True) as connection:
        wait_for(lambda: connection.execute(query).fetchone() == (count,))


@pytest.mark.parametrize("table", TABLES)
def test_an_update_is_not_undone_when_its_row_moves_on_at_the_same_moment(
    rows: Any, server: Server, sessions: Any, table: str
) -> None:
    """When the undo begins, nothing has come since: only the version of the row tells, once its lock is free."""
    ada, places = rows
    path, row_id, patch = places[table]
    assert ada.client.patch(path, json=patch).status_code == 200
    update = last_entry(ada, row_id)
    meanwhile = sessions(ada)
    column = "full_name" if table == "users" else "relationship_type" if "links" in table else "metadata"
    value = {"metadata": '{"a": 1}', "relationship_type": "discussion"}.get(column, "C")
    changed = sql.SQL("UPDATE {} SET {} = %s WHERE id = %s").format(sql.Identifier(table), sql.Identifier(column))
    meanwhile.execute(changed, (value, row_id))
    with ThreadPoolExecutor() as threads:
        undo = threads.submit(revert, ada, update["id"])
        wait_for_waiting(server, 1)
        meanwhile.commit()

    problem(undo.result(), 412, "version_mismatch")
    last = last_entry(ada, row_id)
    assert last["changes"].keys() == {column, "version", *(() if table == "conversations" else ("updated_at",))}
    assert last["changes"]["version"][0] == update["changes"]["version"][1]


@pytest.mark.parametrize("table", TABLES[1:])
def test_a_delete_is_not_undone_when_its_row_came_and_went_again_at_the_same_moment(
    rows: Any, server: Server, table: str
) -> None:
    """When the undo begins, nothing has come since, and when it inserts, no row is in the way."""
    ada, places = rows
    path, row_id, _ = places[table]
    assert ada.client.delete(path).status_code == 204
    delete = last_entry(ada, row_id)
    with (
        psycopg.connect(server.database.superuser_url) as meanwhile,
        ThreadPoolExecutor() as threads,
    ):
        meanwhile.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(sql.Identifier(table)))
        undo = threads.submit(revert, ada, delete["id"])
        wait_for_waiting(server, 1)
        meanwhile.execute(
            "INSERT INTO audit_log (user_id, seq, at, action, table_name, row_id, before)"
            " SELECT user_id, seq + 10, at, action, table_name, row_id, before FROM audit_log"
            " WHERE user_id = %s AND seq = %s",
            (ada.id, delete["id"]),
        )
        meanwhile.commit()

    problem(undo.result(), 412, "version_mismatch")
    problem(ada.client.get(path), 404, "not_found")


@pytest.mark.parametrize("action", ["update", "delete"])
def test_of_two_undos_at_once_one_is_refused(rows: Any, server: Server, action: str) -> None:
    ada, places = rows
    path, row_id, patch = places["todos"]
    before = ada.client.get(path).json()
    changed = ada.client.delete(path) if action == "delete" else ada.client.patch(path, json=patch)
    assert changed.is_success
    change = last_entry(ada, row_id)["id"]
    with (
        psycopg.connect(server.database.superuser_url) as meanwhile,
        ThreadPoolExecutor() as threads,
    ):
        meanwhile.execute("LOCK TABLE todos IN SHARE MODE")
        undos = [threads.submit(revert, ada, change) for _ in range(2)]
        wait_for_waiting(server, 2)
        meanwhile.commit()
    answers = sorted((undo.result() for undo in undos), key=lambda answer: answer.status_code)

    assert answers[0].status_code == 200
    problem(answers[1], 412, "version_mismatch")
    assert tidy(ada.client.get(path).json()) == tidy(before)
    assert last_entry(ada, row_id) == answers[0].json()


# After a failover to an older state


def test_a_cursor_that_the_database_knows_nothing_of_any_more_is_refused(new_user: NewUser, server: Server) -> None:
    """The newest entries are lost, and others take their numbers."""
    ada = new_user()
    for number in range(3):
        ada.client.post("/v1/todos", json={"title": str(number)})
    kept = ada.client.get("/v1/changes", params={"limit": 2}).json()["next_cursor"]
    _, lost = follow(ada.client)
    with psycopg.connect(server.database.superuser_url) as connection:
        connection.execute("DELETE FROM audit_log WHERE user_id = %s AND seq > 2", (ada.id,))
    problem(ada.client.get("/v1/changes", params={"cursor": lost}), 422, "invalid_cursor")
    for number in range(3):
        ada.client.post("/v1/todos", json={"title": f"again {number}"})
        problem(ada.client.get("/v1/changes", params={"cursor": lost}), 422, "invalid_cursor")
    assert len(follow(ada.client, kept)[0]) == 3


# After the oldest entries were pruned


def prune_up_to(server: Server, user: User, entry: dict[str, Any]) -> None:
    with psycopg.connect(server.database.superuser_url) as connection:
        connection.execute("DELETE FROM audit_log WHERE user_id = %s AND seq <= %s", (user.id, entry["id"]))


def test_a_cursor_whose_next_changes_were_pruned_is_refused_and_others_lead_on(
    new_user: NewUser, server: Server
) -> None:
    ada = new_user()
    for number in range(4):
        ada.client.post("/v1/todos", json={"title": str(number)})
    entries, end = follow(ada.client)
    cursors = [ada.client.get("/v1/changes", params={"limit": 1}).json()["next_cursor"]]
    for _ in entries[1:]:
        page = ada.client.get("/v1/changes", params={"limit": 1, "cursor": cursors[-1]}).json()
        cursors.append(page["next_cursor"])

    prune_up_to(server, ada, entries[2])

    for number, cursor in enumerate(cursors):
        if number < 2:
            problem(ada.client.get("/v1/changes", params={"cursor": cursor}), 422, "invalid_cursor")
        else:
            assert follow(ada.client, cursor)[0] == entries[number + 1 :]
    assert follow(ada.client)[0] == entries[3:]
    assert end == cursors[-1]


def test_a_trail_pruned_to_its_last_entry_leads_on(new_user: NewUser, server: Server) -> None:
    ada = new_user()
    ada.client.post("/v1/todos", json={"title": "t"})
    entries, end = follow(ada.client)
    prune_up_to(server, ada, entries[0])
    assert follow(ada.client, end) == ([], end)
    assert follow(ada.client) == (entries[1:], end)

    ada.client.post("/v1/todos", json={"title": "t"})

    assert [entry["id"] for entry in follow(ada.client, end)[0]] == [3]


@pytest.mark.parametrize(("table", "action"), [("users", "update"), *product(TABLES[1:], ["update", "delete"])])
def test_what_retention_has_taken_the_content_off_is_not_undone(
    rows: Any, server: Server, table: str, action: str
) -> None:
    ada, places = rows
    path, row_id, patch = places[table]
    changed = ada.client.delete(path) if action == "delete" else ada.client.patch(path, json=patch)
    assert changed.is_success
    change = last_entry(ada, row_id)["id"]
    with psycopg.connect(server.database.superuser_url) as connection:
        connection.execute("UPDATE audit_log SET before = NULL WHERE user_id = %s AND seq = %s", (ada.id, change))
    was = ada.client.get(path)

    assert last_entry(ada, row_id)["changes"] == {}, "nobody knows any more what it was"
    problem(revert(ada, change), 412, "version_mismatch")
    now = ada.client.get(path)
    assert (now.status_code, now.headers.get("ETag")) == (was.status_code, was.headers.get("ETag"))


def forge(server: Server, user: User, message_count: int) -> int:
    """The entry of a deleted conversation with so many messages, none of which are in the trail."""
    with psycopg.connect(server.database.superuser_url) as connection:
        row = connection.execute(
            "INSERT INTO audit_log (user_id, seq, at, action, table_name, row_id, before)"
            " SELECT %(user)s, 1000, now(), 'delete', 'conversations', r.id, jsonb_build_object('user_id', %(user)s,"
            "     'id', r.id, 'message_count', %(count)s::integer, 'last_position', %(count)s::integer,"
            "     'metadata', '{}'::jsonb, 'version', 1, 'created_at', now(), 'updated_at', now())"
            " FROM (SELECT uuid7()) AS r (id) RETURNING seq",
            {"user": user.id, "count": message_count},
        ).fetchone()
    assert row
    return int(row[0])


def test_a_conversation_that_is_too_big_to_bring_back_is_refused_at_once(new_user: NewUser, server: Server) -> None:
    ada = new_user()
    problem(revert(ada, forge(server, ada, REVERT_MESSAGES + 1)), 422, "validation_failed", field="id")


def test_a_conversation_does_not_come_back_without_all_its_messages(new_user: NewUser, server: Server) -> None:
    ada = new_user()
    problem(revert(ada, forge(server, ada, 1)), 412, "version_mismatch")
    assert ada.client.get("/v1/conversations").json()["items"] == []
