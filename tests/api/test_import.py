"""Import: a file of an export goes into an account as it was, as a whole, or not at all."""

import asyncio
import contextlib
import http.client
import io
import json
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import msgspec
import psycopg
import pytest

from service import import_files
from service.exports import LARGEST, LINE_BYTES
from service.http import bulk
from service.import_files import CHUNK_LINES
from service.imports import IMPORT_BYTES, Imported, import_file
from service.problems import Problem
from tests.conftest import Server, User, user_factory
from tests.support import exports
from tests.support.asking import in_process
from tests.support.commands import complaint, run, run_process
from tests.support.exports import Lines, conversation, small_file
from tests.support.load import wait_for
from tests.support.problems import problem
from tests.support.worlds import Connection, snapshot

NewUser = Callable[..., User]


def imported(**counts: int) -> dict[str, dict[str, int]]:
    kinds = ("todos", "conversations", "messages", "links")
    return {kind: {"imported": counts.get(kind, 0), "skipped": counts.get(f"{kind}_skipped", 0)} for kind in kinds}


def counted(lines: Lines, *, skipped: bool = False) -> dict[str, dict[str, int]]:
    """The answer to a file of which all came in, or nothing."""
    end = {name: count for name, count in lines[-1].items() if name != "type"}
    return imported(**{f"{name}_skipped" if skipped else name: count for name, count in end.items()})


def refused(user: User, superuser: Connection, lines: bytes | Lines, line: int, reason: str) -> None:
    """The file is refused for this line, and nothing of it is there."""
    before = snapshot(superuser, user.id)
    body = problem(exports.send(user, lines), 422, "validation_failed", field=f"line {line}")
    assert reason in body["errors"][0]["message"], body
    assert snapshot(superuser, user.id) == before


# There and back


def test_what_was_exported_and_erased_comes_back_byte_for_byte(new_user: NewUser):
    friend = new_user()
    user = new_user()
    exports.fill(user, assignee=friend)
    before = exports.export(user)
    user.client.delete("/v1/users/me?erase=true").raise_for_status()
    again = new_user(email=user.email)
    assert again.id != user.id
    answer = exports.send(again, before)
    assert (answer.status_code, answer.json()) == (200, counted(exports.parsed(before)))
    assert exports.export(again) == before
    made = again.client.post("/v1/todos", json={"title": "Next"}).json()
    assert made["number"] == 7


def test_a_file_comes_into_an_empty_database(new_user: NewUser, start_server: Callable[..., Server], tmp_path: Path):
    user = new_user()
    exports.fill(user)
    before = exports.export(user)
    empty = start_server()
    with user_factory(empty) as new_empty_user:
        again = new_empty_user(email=user.email)
        path = tmp_path / "file"
        path.write_bytes(before)
        done = run("import", user.email, str(path), MIGRATION_DATABASE_URL=empty.database.owner_url)
        assert done.returncode == 0, done
        for kind, counts in counted(exports.parsed(before)).items():
            assert f"{kind}: {counts['imported']} imported, 0 there already" in done.stdout
        assert exports.export(again) == before
        piped = run_process(
            "import", user.email, "-", stdin=before.decode(), MIGRATION_DATABASE_URL=empty.database.owner_url
        )
        assert "todos: 0 imported, 4 there already" in piped.stdout
        assert exports.export(again) == before


def test_a_second_import_changes_nothing_at_all(new_user: NewUser, superuser: Connection):
    user = new_user()
    exports.fill(user)
    content = exports.export(user)
    before = snapshot(superuser, user.id)
    answer = exports.send(user, content)
    assert (answer.status_code, answer.json()) == (200, counted(exports.parsed(content), skipped=True))
    assert snapshot(superuser, user.id) == before


def test_every_row_that_comes_in_has_an_entry_in_the_trail(new_user: NewUser, superuser: Connection):
    user = new_user()
    lines = small_file()
    assert exports.send(user, lines, **{"X-Request-ID": "import-1"}).status_code == 200
    entries = superuser.execute(
        "SELECT table_name, action, row_id::text, actor_id, request_id FROM audit_log"
        " WHERE user_id = %s AND table_name <> 'users' ORDER BY seq",
        (user.id,),
    ).fetchall()
    tables = {
        "todo": "todos",
        "conversation": "conversations",
        "message": "messages",
        "link": "todo_conversation_links",
    }
    rows = [(tables[line["type"]], line["id"]) for line in lines if line["type"] in tables]
    assert sorted((table, row) for table, _, row, _, _ in entries) == sorted(rows)
    assert {entry[1] for entry in entries} == {"insert"}
    assert {entry[3:] for entry in entries} == {(user.id, "import-1")}


def test_what_is_missing_comes_back_to_what_is_there(new_user: NewUser):
    user = new_user()
    exports.fill(user)
    lines = exports.parsed(exports.export(user))
    content = exports.written(lines)
    message = next(line for line in lines if line["type"] == "message" and line["position"] == 2)
    path = f"/v1/conversations/{message['conversation_id']}"
    counts = user.client.get(path).json()["message_count"]
    user.client.delete(f"{path}/messages/{message['id']}").raise_for_status()
    user.client.post(f"{path}/messages", json={"sender_type": "ai", "content": "Later"}).raise_for_status()
    user.client.delete("/v1/todos/2").raise_for_status()
    before = user.client.get(path).json()
    answer = exports.send(user, content)
    result = answer.json()
    assert answer.status_code == 200
    assert (result["todos"]["imported"], result["messages"]["imported"], result["links"]["imported"]) == (1, 1, 2)
    after = user.client.get(path).json()
    assert (after["version"], after["updated_at"] > before["updated_at"]) == (before["version"] + 1, True)
    assert result["conversations"]["imported"] == 0
    assert user.client.get("/v1/todos/2").json()["status"] == "in_progress"
    found = user.client.get(f"{path}/messages").json()["items"]
    assert [item["position"] for item in found] == sorted(item["position"] for item in found)
    assert message["id"] in [item["id"] for item in found]
    assert user.client.get(path).json()["message_count"] == len(found) == counts + 1


def test_of_two_imports_at_once_of_the_same_messages_the_second_finds_them_there(
    new_user: NewUser, server: Server, superuser: Connection, monkeypatch: pytest.MonkeyPatch
):
    """Where they are in two processes: within one, a user's imports are one after another."""
    user = new_user()
    turn = user.client.post("/v1/turns", json={"messages": [{"sender_type": "ai", "content": "x"}]}).json()
    message = turn["messages"][0]
    content = exports.export(user)
    user.client.delete(f"/v1/conversations/{message['conversation_id']}/messages/{message['id']}").raise_for_status()
    columns = "user_id, conversation_id, position, id, sender_type, content, created_at, updated_at"
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    def commit_when_waited_for() -> None:
        wait_for(lambda: superuser.execute(waiting).fetchone() == (1,))
        first.commit()

    def go_ahead(_size: int, lines: int) -> None:
        """The first import brings the message in when the second has found the conversation."""
        if lines == 2 and not commits:
            first.execute("SET LOCAL app.restoring = 'on'")
            values = [message[column] for column in columns.split(", ")]
            first.execute(f"INSERT INTO messages ({columns}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)", values)
            commits.append(pool.submit(commit_when_waited_for))

    commits: list[Future[None]] = []
    monkeypatch.setattr(import_files, "CHUNK_LINES", 2)
    with psycopg.connect(server.database.superuser_url) as first, ThreadPoolExecutor() as pool:
        result = in_process(
            server.database.service_url,
            lambda caller_of: import_file(caller_of(user.id), io.BytesIO(content), go_ahead),
        )
        commits[0].result()
    assert result.messages == Imported(0, 1)


def test_a_todo_whose_number_is_taken_gets_the_next_and_no_number_is_used_twice(new_user: NewUser):
    user = new_user()
    for title in ("One", "Two", "Three"):
        user.client.post("/v1/todos", json={"title": title}).raise_for_status()
    lines = small_file()  # 2 and 5 of 9
    assert exports.send(user, lines).json() == counted(lines)
    assert user.client.get(f"/v1/todos/{lines[1]['id']}").json()["number"] == 10
    assert user.client.get(f"/v1/todos/{lines[2]['id']}").json()["number"] == 5
    assert user.client.get("/v1/todos/2").json()["title"] == "Two"
    assert user.client.post("/v1/todos", json={"title": "Next"}).json()["number"] == 11
    assert exports.send(user, lines).json() == counted(lines, skipped=True)


def test_the_order_of_the_fields_and_the_spelling_of_the_json_do_not_matter(new_user: NewUser):
    user = new_user()
    lines = [dict(reversed(line.items())) for line in small_file()]
    lines[1]["title"] = "Buy é 🙂 </script>"
    lines[1]["created_at"] = "2026-01-01T02:00:00.000+02:00"
    content = exports.written(lines).replace(b"\n", b" \r\n").rstrip()
    assert exports.send(user, content).json() == counted(lines)
    shown = user.client.get("/v1/todos/2").json()
    assert (shown["title"], shown["created_at"]) == (lines[1]["title"], "2026-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("2026-01-01T20:30:00+20:00", "2026-01-01T00:30:00Z"),
        ("2025-12-31T00:30:00-23:59", "2026-01-01T00:29:00Z"),
        ("2026-01-01T00:00:00." + "5" * 500 + "Z", "2026-01-01T00:00:00.555556Z"),
        ("2026-01-01T00:00:00.000001" + "0" * 500 + "+16:00", "2025-12-31T08:00:00.000001Z"),
    ],
)
def test_a_time_is_taken_in_every_form_that_a_body_may_have_it_in(new_user: NewUser, sent: str, kept: str):
    user = new_user()
    lines = small_file()
    lines[1].update(due_date=sent, created_at=sent, status="completed", completed_at=sent)
    for line in (lines[3], lines[4], lines[7]):
        line["created_at"] = sent
    assert exports.send(user, lines).json() == counted(lines)
    shown = user.client.get("/v1/todos/2").json()
    assert (shown["due_date"], shown["created_at"], shown["completed_at"]) == (kept, kept, kept)
    for path in (f"/v1/conversations/{lines[3]['id']}", f"/v1/links/{lines[7]['id']}"):
        assert user.client.get(path).json()["created_at"] == kept
    said = user.client.get(f"/v1/conversations/{lines[3]['id']}/messages/{lines[4]['id']}").json()
    assert said["created_at"] == kept


@pytest.mark.parametrize("media_type", ["application/x-ndjson", "application/jsonl", "application/json; charset=utf-8"])
def test_a_file_comes_under_any_of_its_names(new_user: NewUser, media_type: str):
    assert exports.send(new_user(), small_file(), **{"Content-Type": media_type}).status_code == 200


def test_what_is_no_file_is_refused_by_its_headers(new_user: NewUser):
    user = new_user()
    problem(exports.send(user, b"", **{"Content-Type": "text/plain"}), 415, "unsupported_media_type")
    problem(exports.send(user, b"", **{"Content-Encoding": "gzip"}), 415, "unsupported_media_type")
    connection = http.client.HTTPConnection(str(user.client.base_url.netloc, "ascii"))
    with contextlib.closing(connection):
        connection.putrequest("POST", "/v1/import")
        headers = {**exports.NDJSON, "Authorization": f"Bearer {user.token}", "Content-Length": str(IMPORT_BYTES + 1)}
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        assert (answer.status, json.load(answer)["code"]) == (413, "payload_too_large")


def test_a_key_has_the_first_answer_given_again(new_user: NewUser):
    user = new_user()
    lines = small_file()
    key = {"Idempotency-Key": "import"}
    first, again = [exports.send(user, lines, **key) for _ in range(2)]
    assert first.json() == again.json() == counted(lines)
    assert again.headers["Idempotency-Replayed"] == "true"
    problem(exports.send(user, small_file(), **key), 422, "idempotency_key_reused")
    bad = small_file(lambda lines: lines[-1].update(todos=7))
    other = {"Idempotency-Key": "other"}
    problem(exports.send(user, bad, **other), 422, "validation_failed")
    assert exports.send(user, lines, **other).json() == counted(lines, skipped=True)


@pytest.mark.parametrize("prepared", [True, False], ids=["prepared", "not prepared"])
def test_a_file_is_taken_and_refused_with_and_without_prepared_statements(
    server: Server, new_user: NewUser, superuser: Connection, prepared: bool
):
    user = new_user()
    told: list[tuple[int, int]] = []

    def bring_in(lines: Lines) -> Any:
        content = exports.written(lines)
        return in_process(
            server.database.service_url,
            lambda caller_of: import_file(caller_of(user.id), io.BytesIO(content), lambda *done: told.append(done)),
            prepared=prepared,
        )

    before = snapshot(superuser, user.id)
    with pytest.raises(Problem) as refusal:
        bring_in(small_file(lambda lines: lines[7].update(todo_id=ID)))
    assert refusal.value.errors[0].field == "line 8"
    assert snapshot(superuser, user.id) == before
    lines = small_file()
    told.clear()
    assert msgspec.to_builtins(bring_in(lines)) == counted(lines)
    assert told == [(len(exports.written(lines)), len(lines))]
    assert len(exports.parsed(exports.export(user))) == len(lines)


# Whose it is


def test_the_file_of_somebody_elses_account_stays_theirs(new_user: NewUser, superuser: Connection):
    user, stranger = new_user(), new_user()
    exports.fill(user)
    theirs = exports.export(user)
    refused(stranger, superuser, theirs, 1, "email: is the address of another account")
    louder = theirs.replace(user.email.encode(), user.email.upper().encode())
    refused(stranger, superuser, louder, 1, "email: is the address of another account")


def test_nobody_elses_ids_can_be_smuggled_in(new_user: NewUser, superuser: Connection):
    user, stranger = new_user(), new_user()
    exports.fill(user)
    before = snapshot(superuser, user.id)
    theirs = exports.parsed(exports.export(user))
    todo, conversation_, message, link = (
        next(line for line in theirs if line["type"] == kind) for kind in ("todo", "conversation", "message", "link")
    )
    # Another user's row by name: of no field that there is.
    for line in (1, 3, 4, 7):
        named = small_file(lambda lines, line=line: lines[line].update(user_id=str(user.id)))
        refused(stranger, superuser, named, line + 1, "user_id: is not a known field")
    # Links and messages that lead to another user's rows.
    for field, value in (("todo_id", todo["id"]), ("conversation_id", conversation_["id"])):
        leading = small_file(lambda lines, field=field, value=value: lines[7].update({field: value}))
        refused(stranger, superuser, leading, 8, "names a todo or a conversation that is not there")
    away = small_file(lambda lines: lines[4].update(conversation_id=message["conversation_id"]))
    refused(stranger, superuser, away, 5, "conversation_id: must be the one of the conversation above")
    # The ids of another user's rows on rows of one's own are no more than ids.
    same = small_file()
    same[1]["id"] = same[7]["todo_id"] = todo["id"]
    same[7]["id"] = link["id"]
    assert exports.send(stranger, same).status_code == 200
    assert snapshot(superuser, user.id) == before


def test_an_assignee_must_be_there_and_active_where_the_todo_is_open(new_user: NewUser, superuser: Connection):
    user, gone = new_user(), new_user()
    superuser.execute("UPDATE users SET is_active = false WHERE id = %s", (gone.id,))
    unknown = small_file(lambda lines: lines[2].update(assigned_to=str(uuid4())))
    refused(user, superuser, unknown, 3, "assigned_to: is not an active user")
    refused(user, superuser, unknown[:2] + closed(unknown[2:]), 3, "assigned_to: is not an active user")
    inactive = small_file(lambda lines: lines[2].update(assigned_to=str(gone.id)))
    refused(user, superuser, inactive, 3, "assigned_to: is not an active user")
    assert exports.send(user, inactive[:2] + closed(inactive[2:])).status_code == 200
    assert user.client.get("/v1/todos/5").json()["assigned_to"] == str(gone.id)


def test_what_has_the_largest_numbers_can_still_be_written_to(new_user: NewUser):
    user = new_user()
    lines = small_file()
    lines[0]["last_number"] = lines[2]["number"] = lines[3]["last_position"] = lines[5]["position"] = LARGEST
    for line in lines[1:-1]:
        line["version"] = LARGEST
    assert exports.send(user, lines).status_code == 200
    ahead = LARGEST + 1
    for path, change, version in (
        (f"/v1/todos/{lines[1]['id']}", {"title": "x"}, LARGEST),
        (f"/v1/links/{lines[7]['id']}", {"relationship_type": "update"}, LARGEST),
        (f"/v1/conversations/{lines[3]['id']}", {"title": "x"}, 3 * LARGEST - 2),
    ):
        assert user.client.get(path).headers["ETag"] == f'"{version}"'
        changed = user.client.patch(path, json=change, headers={"If-Match": f'"{version}"'})
        assert (changed.status_code, changed.headers["ETag"]) == (200, f'"{version + 1}"')
    assert user.client.post("/v1/todos", json={"title": "x"}).json()["number"] == ahead
    conversation = f"/v1/conversations/{lines[3]['id']}"
    said = user.client.post(f"{conversation}/messages", json={"sender_type": "user", "content": "x"})
    assert said.json()["position"] == ahead
    assert user.client.get(conversation).json()["version"] == ahead + 2 * ahead - 3


def test_a_clock_may_be_a_little_ahead(new_user: NewUser):
    def soon(seconds: int) -> Callable[[Lines], Any]:
        moment = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
        return lambda lines: [line.update(created_at=moment, updated_at=moment) for line in lines[1:-1]]

    assert exports.send(new_user(), small_file(soon(50))).status_code == 200
    problem(exports.send(new_user(), small_file(soon(90))), 422, "validation_failed", field="line 2")


def test_a_counter_at_the_end_of_its_range_is_said_to_be_that(new_user: NewUser, superuser: Connection):
    user = new_user()
    todo = user.client.post("/v1/todos", json={"title": "x"}).json()
    said = {"messages": [{"sender_type": "user", "content": "x"}]}
    turn = user.client.post("/v1/turns", json=said).json()["messages"][0]
    with superuser.transaction():
        superuser.execute("SET LOCAL session_replication_role = replica")
        for statement in (
            "UPDATE todos SET version = 2147483647 WHERE user_id = %s",
            "UPDATE todo_counters SET last_number = 2147483647 WHERE user_id = %s",
            "UPDATE conversations SET last_position = 2147483647, message_count = 2147483647 WHERE user_id = %s",
            "UPDATE messages SET position = 2147483647 WHERE user_id = %s",
        ):
            superuser.execute(statement, (user.id,))
    conversation = f"/v1/conversations/{turn['conversation_id']}"
    for answer in (
        user.client.patch(f"/v1/todos/{todo['id']}", json={"title": "y"}),
        user.client.post("/v1/todos", json={"title": "y"}),
        user.client.post(f"{conversation}/messages", json=said["messages"][0]),
    ):
        body = problem(answer, 422, "validation_failed", field="body")
        assert "larger than any that can be kept" in body["errors"][0]["message"]


def closed(lines: Lines) -> Lines:
    """The lines with the first one, a todo, completed after it was due."""
    done = {"status": "completed", "completed_at": TIME, "due_date": "2025-01-01T00:00:00Z"}
    return [{**lines[0], **done}, *lines[1:]]


# Bad lines

TIME = "2026-01-02T00:00:00Z"
SOON = "9000-01-01T00:00:00Z"
ID = "018f4fd2-0000-7000-8000-000000000000"
WRONG: dict[str, tuple[int, dict[str, Any], str]] = {
    "another format": (0, {"format": 2}, "format"),
    "a header without an address": (0, {"email": ...}, "email: is required"),
    "a negative last number": (0, {"last_number": -1}, "last_number"),
    "a number beyond the last": (2, {"number": 10}, "number: must ascend, up to last_number"),
    "a number that goes back": (2, {"number": 2}, "number: must ascend"),
    "the number 0": (1, {"number": 0}, "number"),
    "a number of text": (1, {"number": "2"}, "number: must be a whole number"),
    "an unknown kind": (1, {"type": "task"}, "type"),
    "no kind": (1, {"type": ...}, "type"),
    "no id": (1, {"id": ...}, "id: is required"),
    "an id that is none": (1, {"id": "1"}, "id: must be a UUID"),
    "an unknown field": (1, {"completed": False}, "completed: is not a known field"),
    "an empty title": (1, {"title": " \u200b"}, "title: must hold a character that can be seen"),
    "a long title": (1, {"title": "x" * 201}, "title: must have at most 200 characters"),
    "NUL": (1, {"title": "a\0b"}, "title: holds a NUL character"),
    "half a surrogate pair": (1, {"title": "\ud800"}, "title: holds half of a surrogate pair"),
    "a long description": (1, {"description": "x" * 1001}, "description"),
    "a status that is none": (
        1,
        {"status": "done"},
        "status: must be one of: pending, in_progress, completed, archived",
    ),
    "completed without a time": (1, {"status": "completed"}, "completed_at: goes with status completed"),
    "a time without being completed": (1, {"completed_at": TIME}, "completed_at: goes with status completed"),
    "completed in the future": (1, {"status": "completed", "completed_at": "9000-01-01T00:00:00Z"}, "in the future"),
    "a time without an offset": (1, {"due_date": "2026-01-01T00:00:00"}, "due_date: is a time without an offset"),
    "a time before 1970": (1, {"due_date": "1969-12-31T23:59:59Z"}, "due_date: must lie in the years 1970 to 9999"),
    "a time beyond 9999": (1, {"updated_at": "9999-12-31T23:59:59-14:00"}, "updated_at: must lie in the years"),
    "updated before it was created": (1, {"updated_at": "2025-12-31T00:00:00Z"}, "updated_at: is before created_at"),
    "the version 0": (1, {"version": 0}, "version"),
    "a great version": (1, {"version": LARGEST + 1}, "version"),
    "a great last number": (0, {"last_number": LARGEST + 1}, "last_number"),
    "a great number": (1, {"number": LARGEST + 1}, "number"),
    "a great last position": (3, {"last_position": LARGEST + 1}, "last_position"),
    "a great position": (5, {"position": LARGEST + 1}, "position"),
    "a todo from the future": (1, {"updated_at": SOON}, "updated_at: can't be in the future"),
    "a conversation from the future": (3, {"created_at": SOON, "updated_at": SOON}, "updated_at: can't be in the"),
    "a message from the future": (4, {"created_at": SOON, "updated_at": SOON}, "updated_at: can't be in the future"),
    "a link from the future": (7, {"created_at": SOON, "updated_at": SOON}, "updated_at: can't be in the future"),
    "an assignee that is none": (1, {"assigned_to": "5"}, "assigned_to: must be a UUID in small letters, or me"),
    "metadata that is a list": (1, {"metadata": []}, "metadata"),
    "a todo's metadata of null": (1, {"metadata": None}, "metadata: must be an object"),
    "a conversation's metadata of null": (3, {"metadata": None}, "metadata: must be an object"),
    "a message's metadata of null": (4, {"metadata": None}, "metadata: must be an object"),
    "a long external_id": (3, {"external_id": "x" * 256}, "external_id"),
    "an item that is no JSON": (4, {"item": "x"}, "item: must be the text of a JSON value"),
    "an item of NaN": (4, {"item": "[NaN]"}, "item: must be the text of a JSON value"),
    "an item of nothing": (4, {"item": ""}, "item: must be the text of a JSON value"),
    "an item nested deeper than a body's": (
        4,
        {"item": "[" * 101 + "]" * 101},
        "item: is nested more than 100 levels deep",
    ),
    "an item nested too deep": (4, {"item": "[" * 100_000 + "]" * 100_000}, "item: must be the text of a JSON value"),
    "metadata of 33 levels": (1, {"metadata": json.loads('{"a":' * 33 + "1" + "}" * 33)}, "metadata"),
    "much metadata": (1, {"metadata": {"k": "x" * 16384}}, "metadata: must have at most 16384 bytes"),
    "a number without end": (1, {"metadata": {"k": 10**400}}, "metadata"),
    "a message of another conversation": (4, {"conversation_id": ID}, "conversation_id: must be the one"),
    "a position that goes back": (5, {"position": 1}, "position: must ascend"),
    "a position beyond the last": (5, {"position": 5}, "position: must ascend, up to last_position"),
    "a sender that is none": (4, {"sender_type": "assistant"}, "sender_type: must be one of: user, ai, system"),
    "no content": (4, {"content": ""}, "content"),
    "long content": (4, {"content": "x" * 10_001}, "content"),
    "an id that another message has": (5, {"id": ID}, "The message is there already"),
    "too few positions": (3, {"last_position": 1}, "last_position: is less than message_count"),
    "a link to nothing": (7, {"todo_id": ID}, "names a todo or a conversation that is not there"),
    "a relationship that is none": (
        7,
        {"relationship_type": "friend"},
        "relationship_type: must be one of: discussion, update, creation",
    ),
    "a wrong count": (8, {"links": 2}, "counts other lines than are there"),
    "a count of text": (8, {"links": "1"}, "links: must be a whole number"),
}
"""What is wrong: the line (from 0) and its fields, the reason. ``...`` takes a field away."""


def test_a_bad_line_is_refused_by_its_number_and_nothing_comes_in(
    new_user: NewUser, superuser: Connection, subtests: pytest.Subtests
):
    user = new_user()
    for case, (line, fields, reason) in WRONG.items():
        lines = small_file()
        if fields == {"id": ID}:
            lines[4]["id"] = ID
        lines[line] = {name: value for name, value in {**lines[line], **fields}.items() if value is not ...}
        with subtests.test(case):
            refused(user, superuser, lines, line + 1, reason)


def moved(source: int, target: int) -> Callable[[Lines], Any]:
    return lambda lines: lines.insert(target, lines.pop(source))


MISPLACED: dict[str, tuple[Callable[[Lines], Any], int, str]] = {
    "no header": (lambda lines: lines.pop(0), 1, "type: must be export"),
    "a second header": (lambda lines: lines.insert(3, lines[0]), 4, "is a second header"),
    "no end": (lambda lines: lines.pop(), 9, "is missing: the file was cut off"),
    "nothing": (lambda lines: lines.clear(), 1, "is missing"),
    "something behind the end": (lambda lines: lines.append(lines[-1]), 10, "stands behind the end"),
    "a todo behind a conversation": (moved(2, 3), 4, "type: the order is todo"),
    "a link ahead of the conversations": (moved(7, 3), 5, "type: the order is todo"),
    "a message without a conversation": (moved(4, 3), 4, "conversation_id: must be the one"),
    "a message too few": (lambda lines: lines.pop(5), 6, "has 2 messages, and 1 are there"),
    "a message too many": (
        lambda lines: lines.insert(6, {**lines[5], "id": ID, "position": 4}),
        8,
        "has 2 messages, and 3 are there",
    ),
    "a message of the conversation before": (moved(5, 6), 6, "has 2 messages, and 1 are there"),
}


def test_a_line_in_the_wrong_place_is_refused_by_its_number(
    new_user: NewUser, superuser: Connection, subtests: pytest.Subtests
):
    user = new_user()
    for case, (change, line, reason) in MISPLACED.items():
        with subtests.test(case):
            refused(user, superuser, small_file(change), line, reason)


TEXTS: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"x",
    "half an object": b'{"type": "todo"',
    "a list": b"[]",
    "a number": b"5",
    "two objects": b"{} {}",
    "invalid UTF-8": b'{"type": "\xff"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "1000 lists deep": b"[" * 1000 + b"]" * 1000,
    "a duplicate key": b'{"type": "todo", "type": "todo"}',
    "very long": b"[" + b" " * LINE_BYTES + b"]",
}


def test_a_line_that_is_no_object_is_refused_by_its_number(
    new_user: NewUser, superuser: Connection, subtests: pytest.Subtests
):
    user = new_user()
    for case, text in TEXTS.items():
        content = exports.written(small_file()).split(b"\n")
        content.insert(3, text)
        with subtests.test(case):
            refused(user, superuser, b"\n".join(content), 4, "")


def test_a_duplicate_key_is_found_also_where_the_rest_is_as_an_export_writes_it(
    new_user: NewUser, superuser: Connection
):
    user = new_user()
    user.client.post("/v1/todos", json={"title": "Buy milk", "metadata": {"a": 1}}).raise_for_status()
    content = exports.export(user)
    refused(user, superuser, content.replace(b'{"a": 1}', b'{"a": 1, "a": 1}'), 2, "a: is given more than once")
    refused(user, superuser, content.replace(b'"version"', b'"title":"x","version"'), 2, "title: is given more than")


@pytest.mark.parametrize("number", [b"1e-20000", b"1e-99999999999999999999", b"0." + b"1" * 16_384])
def test_a_number_that_the_database_cannot_keep_is_refused(
    new_module_user: NewUser, superuser: Connection, number: bytes
):
    content = exports.written(small_file()).replace(b'"metadata": {}', b'"metadata": {"n": %b}' % number, 1)
    refused(new_module_user(), superuser, content, 2, "metadata: ")


def many(count: int) -> Lines:
    """A file of one conversation with that many messages."""
    lines = small_file()
    lines[3] = {**conversation(lines[3]["id"], count), "last_position": count}
    message = lines[4]
    lines[4:6] = [{**message, "id": str(uuid4()), "position": position} for position in range(1, count + 1)]
    lines[-1]["messages"] = count
    return lines


def test_a_long_file_is_taken_or_refused_as_a_whole(new_user: NewUser, superuser: Connection):
    user = new_user()
    lines = many(3 * CHUNK_LINES)
    late = 2 * CHUNK_LINES + 123
    good = lines[late]
    lines[late] = {**good, "metadata": {"k": "x" * 16384}}  # which the database finds, and not what reads the file
    refused(user, superuser, lines, late + 1, "metadata: must have at most 16384 bytes")
    lines[late] = good
    assert exports.send(user, lines).json() == counted(lines)
    found = user.client.get(f"/v1/conversations/{lines[3]['id']}").json()
    assert (found["message_count"], found["version"]) == (3 * CHUNK_LINES, lines[3]["version"] + 3 * CHUNK_LINES)
    user.client.delete(f"/v1/conversations/{found['id']}/messages?from_position=400").raise_for_status()
    answer = exports.send(user, lines).json()
    assert answer["messages"] == {"imported": 3 * CHUNK_LINES - 399, "skipped": 399}
    found = user.client.get(f"/v1/conversations/{lines[3]['id']}").json()
    assert found["message_count"] == 3 * CHUNK_LINES


def test_a_place_that_another_message_took_is_refused(new_user: NewUser, superuser: Connection):
    user = new_user()
    lines = many(5)
    assert exports.send(user, lines).status_code == 200
    lines[6]["id"] = str(uuid4())
    refused(user, superuser, lines, 7, "Another message has the position by now")


# The command


def test_the_command_says_in_one_line_what_is_wrong(server: Server, new_user: NewUser, tmp_path: Path):
    user = new_user()
    path = tmp_path / "file"
    path.write_bytes(exports.written(small_file(lambda lines: lines[2].update(number=1))))
    owner = {"MIGRATION_DATABASE_URL": server.database.owner_url}
    assert "line 3: number: must ascend" in complaint(run("import", user.email, str(path), **owner))
    path.write_bytes(exports.written(small_file(lambda lines: lines[7].update(todo_id=ID))))
    assert "line 8: names a todo" in complaint(run("import", user.email, str(path), **owner))
    assert "no account has the address" in complaint(run("import", "nobody@example.org", str(path), **owner))
    assert "can't read" in complaint(run("import", user.email, str(tmp_path / "none"), **owner))
    assert "can't read" in complaint(run("import", user.email, str(tmp_path), **owner))


def test_where_no_temporary_file_can_be_made_there_is_no_room(monkeypatch: pytest.MonkeyPatch):
    def fail() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bulk.tempfile, "TemporaryFile", fail)
    request: Any = SimpleNamespace(check_content=lambda *_: None)
    with pytest.raises(Problem) as refused:
        asyncio.run(bulk.spool_body(request, "application/x-ndjson"))
    assert refused.value.code == "overloaded"


def test_a_file_that_takes_for_ever_to_arrive_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "UPLOAD_SECONDS", 0.01)

    async def stream() -> AsyncGenerator[bytes]:
        yield b"{}"
        await asyncio.Event().wait()

    request: Any = SimpleNamespace(check_content=lambda *_: None, stream=stream)
    with pytest.raises(Problem) as refused:
        asyncio.run(bulk.spool_body(request))
    assert (refused.value.code, refused.value.status) == ("timeout", 408)
