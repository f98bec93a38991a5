"""Export: all that a user owns, from one moment, made while it is sent."""

import json
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from psycopg import sql

from service import exports as export
from service.db.caller import Caller
from service.http.bulk import UPLOADS, Bulk
from service.problems import Problem
from tests.conftest import REPOSITORY, Server, TestDatabase, User, service_environment
from tests.support import exports
from tests.support.asking import in_process
from tests.support.commands import as_migrator, complaint, heeding, run
from tests.support.load import wait_for
from tests.support.problems import problem

NewUser = Callable[..., User]
ORDER = ["export", "todo", "conversation", "message", "link", "end"]
DEADLINE_SECONDS = 20.0
TABLES = {"todo": "todos", "conversation": "conversations", "message": "messages", "link": "todo_conversation_links"}


def test_an_export_holds_every_row_in_order_and_says_how_many_there_are(new_user: NewUser):
    user = new_user()
    exports.fill(user)
    lines = exports.parsed(exports.export(user))
    assert lines[0] == {"type": "export", "format": 1, "email": user.email, "last_number": 6}
    kinds = [line["type"] for line in lines]
    assert [kind for kind in ORDER if kind in kinds] == ORDER
    todos = [line for line in lines if line["type"] == "todo"]
    assert [todo["number"] for todo in todos] == [1, 2, 3, 4]
    assert [todo["assigned_to"] for todo in todos] == ["me", None, None, None]
    for todo in todos:
        shown = user.client.get(f"/v1/todos/{todo['id']}").json()
        assert shown.pop("user_id") == str(user.id)
        assert shown.pop("completed") == (todo["status"] == "completed")
        assert {**todo, "assigned_to": shown["assigned_to"]} == {"type": "todo", **shown}
    current = ""
    position = messages = 0
    for line in lines:
        if line["type"] == "conversation":
            assert line["id"] > current
            current = line["id"]
            position = 0
        elif line["type"] == "message":
            assert line["conversation_id"] == current
            assert line["position"] > position
            position = line["position"]
            messages += 1
            shown = user.client.get(f"/v1/conversations/{current}/messages/{line['id']}").json()
            assert {name: shown[name] for name in line if name not in ("type", "version")}.items() <= line.items()
    links = [line for line in lines if line["type"] == "link"]
    shown = user.client.get("/v1/links?limit=200").json()["items"]
    assert (
        sorted(link["id"] for link in links) == sorted(link["id"] for link in shown) == [link["id"] for link in links]
    )
    assert lines[-1] == {
        "type": "end",
        "todos": 4,
        "conversations": kinds.count("conversation"),
        "messages": messages,
        "links": len(links),
    }
    assert messages == 6
    assert str(user.id) not in json.dumps(lines)


def test_an_account_without_anything_has_an_export_of_two_lines(new_user: NewUser):
    user = new_user()
    answer = user.client.get("/v1/export")
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["content-disposition"] == 'attachment; filename="todochat.ndjson"'
    assert [line["type"] for line in exports.parsed(answer.content)] == ["export", "end"]


def test_the_strings_are_harmless_in_a_page(new_user: NewUser):
    user = new_user()
    exports.fill(user)
    raw = exports.export(user)
    assert not set(b"<>&") & set(raw)
    escaped = user.client.get("/v1/export?escape=html").content
    assert b"&lt;b&gt;" in escaped
    assert not set(b"<>'") & set(escaped)
    assert len(exports.parsed(escaped)) == len(exports.parsed(raw))


def test_a_line_breaks_for_no_reader_where_it_does_not_end(new_user: NewUser):
    client = new_user().client
    said = {"sender_type": "ai", "content": "a\u2028b\u2029c\x85d", "metadata": {"\u2028": "\u2029"}}
    item = {"type": "x", "text": "a\u2028b\u2029c"}
    turn = {"messages": [said, {"sender_type": "ai", "item": item}]}
    path = client.post("/v1/turns", json=turn).headers["location"]
    file = client.get("/v1/export").content
    assert file.decode().splitlines() == file.decode().split("\n")[:-1]
    before = client.get(f"{path}/messages?items=true").json()
    assert client.delete(path).status_code == 204
    answer = client.post("/v1/import", content=file, headers={"Content-Type": "application/x-ndjson"})
    assert answer.status_code == 200, answer.text
    assert client.get(f"{path}/messages?items=true").json() == before
    assert client.get("/v1/export").content == file


def test_only_a_client_that_takes_lines_gets_them(new_user: NewUser):
    client = new_user().client
    problem(client.get("/v1/export", headers={"Accept": "application/json"}), 406, "not_acceptable")
    problem(client.get("/v1/export", headers={"Accept": "application/x-ndjson;q=0"}), 406, "not_acceptable")
    for accepted in ("application/x-ndjson", "application/*", "text/html, */*;q=0.1"):
        assert client.get("/v1/export", headers={"Accept": accepted}).status_code == 200


def test_whose_session_has_ended_neither_exports_nor_imports(new_user: NewUser):
    user = new_user()
    file = exports.small_file()
    user.client.post("/v1/auth/logout-everywhere").raise_for_status()
    problem(user.client.get("/v1/export"), 401, "invalid_token")
    problem(exports.send(user, file), 401, "invalid_token")
    problem(exports.send(user, file, **{"Idempotency-Key": "one"}), 401, "invalid_token")


# As it is made


EXTREMES = (UUID(int=0), UUID(int=2**128 - 1))
"""The least id and the greatest: a DBA, or a file that is brought in, may give any."""


def add_extremes(server: Server, user: User) -> None:
    """Conversations with a message, and links between them and a todo, with the ids at both ends."""
    with psycopg.connect(server.database.service_url) as connection:
        connection.execute(sql.SQL("SET LOCAL app.user_id = {}").format(str(user.id)))
        for extreme in EXTREMES:
            values = {"user": user.id, "id": extreme}
            for table, columns, row in (
                ("todos", "title", "'x'"),
                ("conversations", "title", "'x'"),
                ("messages", "conversation_id, sender_type, content", "%(id)s, 'ai', 'x'"),
                ("todo_conversation_links", "todo_id, conversation_id", "%(id)s, %(id)s"),
            ):
                insert = f"INSERT INTO {table} (user_id, id, {columns}) VALUES (%(user)s, %(id)s, {row})"
                connection.execute(insert.encode(), values)


def test_the_pages_leave_nothing_out_wherever_they_end(
    server: Server, new_user: NewUser, monkeypatch: pytest.MonkeyPatch
):
    user = new_user()
    exports.fill(user)
    add_extremes(server, user)

    async def whole(caller_of: Callable[[UUID], Caller]) -> bytes:
        return b"".join([piece async for piece in export.exported(caller_of(user.id))])

    expected = in_process(server.database.service_url, whole)
    file = exports.export(user)
    lines = exports.parsed(file)
    assert exports.parsed(expected) == lines
    with psycopg.connect(server.database.superuser_url) as connection:
        for kind, table in TABLES.items():
            query = sql.SQL("SELECT id::text FROM {} WHERE user_id = %s").format(sql.Identifier(table))
            ids = sorted(row_id for (row_id,) in connection.execute(query, (user.id,)))
            assert sorted(line["id"] for line in lines if line["type"] == kind) == ids
    assert in_process(server.database.service_url, whole, prepared=False) == expected
    for page in range(1, 8):
        monkeypatch.setattr(export, "PAGE", page)
        assert in_process(server.database.service_url, whole) == expected, page
    monkeypatch.undo()
    assert user.client.delete("/v1/users/me", params={"erase": "true"}).status_code == 204
    anew = new_user(email=user.email)
    assert exports.send(anew, file).status_code == 200
    assert exports.export(anew) == file


def test_an_export_is_of_one_moment(server: Server, new_user: NewUser, monkeypatch: pytest.MonkeyPatch):
    user = new_user()
    exports.fill(user)
    before = exports.export(user)
    monkeypatch.setattr(export, "PAGE", 1)

    async def while_it_changes(caller_of: Callable[[UUID], Caller]) -> bytes:
        pieces = export.exported(caller_of(user.id))
        found = await anext(pieces)
        user.client.patch("/v1/todos/3", json={"title": "Changed"}).raise_for_status()
        user.client.delete("/v1/todos/1").raise_for_status()
        user.client.post("/v1/todos", json={"title": "New"}).raise_for_status()
        user.client.post("/v1/turns", json={"messages": [{"sender_type": "user", "content": "New"}]}).raise_for_status()
        return found + b"".join([piece async for piece in pieces])

    seen = in_process(server.database.service_url, while_it_changes)
    assert exports.parsed(seen) == exports.parsed(before)
    assert exports.export(user) != before


# As it is sent


def fill_with_much(database: TestDatabase, user_id: UUID, messages: int) -> None:
    """Messages of 10 kB each: more than the buffers between the service and a client take."""
    with psycopg.connect(database.superuser_url) as connection:
        connection.execute(
            "WITH c AS (INSERT INTO conversations (user_id) VALUES (%(user)s) RETURNING id)"
            " INSERT INTO messages (user_id, conversation_id, sender_type, content)"
            " SELECT %(user)s, c.id, 'ai', repeat('x', 10000) FROM c, generate_series(1, %(count)s)",
            {"user": user_id, "count": messages},
        )


def test_a_user_has_one_export_at_a_time_and_whoever_leaves_ends_it(server: Server, new_user: NewUser):
    user, other = new_user(), new_user()
    fill_with_much(server.database, user.id, 3000)
    with user.client.stream("GET", "/v1/export", headers={"X-Request-ID": "left"}) as answer:
        assert answer.status_code == 200
        pieces = answer.iter_bytes()  # without a name it would be gone at once, and the connection with it
        assert next(pieces).startswith(b'{"type":"export"')
        problem(user.client.get("/v1/export"), 503, "overloaded")
        problem(exports.send(user, exports.small_file()), 503, "overloaded")
        assert other.client.get("/v1/export").status_code == 200
    deadline = time.monotonic() + DEADLINE_SECONDS
    while (again := user.client.head("/v1/export")).status_code == 503 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert again.status_code == 200
    answer = user.client.get("/v1/export")
    assert len(exports.parsed(answer.content)) == 3003
    assert logged(server, "left") == [("answer_cut_off", None), ("request", 499)]


def logged(server: Server, request_id: str) -> list[tuple[str, int | None]]:
    """The events that the service has logged of a request, when it has ended, and its status."""

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in server.log().splitlines() if f'"request_id":"{request_id}"' in line]

    wait_for(lambda: [line for line in lines() if line["event"] == "request"])
    return [(line["event"], line.get("status")) for line in lines()]


def test_what_is_cut_off_has_no_end(server: Server, new_user: NewUser):
    user = new_user()
    fill_with_much(server.database, user.id, 3000)
    received: list[bytes] = []

    def read_on_while_the_connection_to_the_database_is_cut() -> None:
        with user.client.stream("GET", "/v1/export", headers={"X-Request-ID": "cut"}) as answer:
            for piece in answer.iter_bytes():
                if not received:
                    hang_up(server.database)
                received.append(piece)

    with pytest.raises(httpx.RemoteProtocolError):
        read_on_while_the_connection_to_the_database_is_cut()
    assert received
    assert b'"type":"end"' not in b"".join(received)
    assert logged(server, "cut") == [("answer_cut_off", None), ("request", 503)]


def hang_up(database: TestDatabase) -> None:
    """End the transaction that waits for the service, as it does as soon as nobody reads its answer."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        while not connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = %s AND state = 'idle in transaction' AND state_change < now() - interval '50 ms'",
            (database.name,),
        ).fetchall():
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_places_for_exports_and_uploads_are_counted():
    bulk = Bulk(6)
    users = [UUID(int=number) for number in range(UPLOADS + 1)]
    with bulk.running.hold(users[0]), bulk.running.hold(users[1]):
        for user in users[:3]:
            with pytest.raises(Problem, match="overloaded"), bulk.running.hold(user):
                pass
    with bulk.running.hold(users[2]):
        pass
    with pytest.raises(RuntimeError), bulk.arriving.hold(users[0]):
        raise RuntimeError
    with bulk.arriving.hold(users[0]), pytest.raises(Problem, match="overloaded"), bulk.arriving.hold(users[0]):
        pass
    with Bulk(1).running.hold(users[0]):
        pass


# The command


def test_the_command_writes_the_same_file_for_its_owner_only(server: Server, new_user: NewUser, tmp_path: Path):
    user = new_user()
    exports.fill(user)
    expected = exports.export(user)
    path = tmp_path / "export.ndjson"
    done = run("export", user.email.upper(), "--output", str(path), **as_migrator(server.database))
    assert (done.returncode, done.stdout) == (0, ""), done
    assert path.read_bytes() == expected
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert f"{len(expected.splitlines()):,} rows" in done.stderr
    assert f"replaces {path}" in complaint(
        run("export", user.email, "--output", str(path), **as_migrator(server.database))
    )
    done = run("export", user.email, "--output", str(path), "--yes", **as_migrator(server.database))
    assert (done.returncode, path.read_bytes()) == (0, expected), done
    printed = run("export", user.email, **as_migrator(server.database))
    assert printed.stdout.encode() == expected


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_the_command_that_is_told_to_end_leaves_no_file(
    server: Server, new_user: NewUser, tmp_path: Path, how: signal.Signals
):
    command = heeding(how, "export", new_user().email, "--output", str(tmp_path / "export.ndjson"))
    env = service_environment(**as_migrator(server.database))
    with psycopg.connect(server.database.superuser_url) as connection:
        connection.execute("LOCK TABLE todos")
        with subprocess.Popen(command, cwd=REPOSITORY, env=env) as process:
            wait_for(lambda: [*tmp_path.iterdir()], 60)
            process.send_signal(how)
            assert process.wait(20) == 130
    assert not [*tmp_path.iterdir()]


def test_the_command_says_in_one_line_what_is_wrong(server: Server, tmp_path: Path):
    path = tmp_path / "export.ndjson"
    line = complaint(run("export", "nobody@example.org", "--output", str(path), **as_migrator(server.database)))
    assert "no account has the address nobody@example.org" in line
    assert list(tmp_path.iterdir()) == []
    missing = tmp_path / "no" / "folder"
    line = complaint(run("export", "nobody@example.org", "--output", str(missing), **as_migrator(server.database)))
    assert "can't write" in line
