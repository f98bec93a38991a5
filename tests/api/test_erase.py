"""Erasing a user: everything they own and said is gone, other people keep what is theirs, and nobody else can do it."""

import asyncio
import hashlib
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from psycopg import errors, sql

from service.db.database import Database
from service.db.statements import SESSION, Context, Prepared
from service.settings import Secret, Settings
from service.users import ERASE_SECONDS
from tests.conftest import Server, TestDatabase, User, _server_factory, user_factory
from tests.support.commands import as_migrator, complaint, run
from tests.support.problems import problem
from tests.support.worlds import Connection, snapshot

NewUser = Callable[..., User]
ERASE = {"erase": "true"}


def word() -> str:
    """One that stands nowhere else."""
    return f"marker{secrets.token_hex(8)}"


@pytest.fixture
def service(server: Server) -> Iterator[Connection]:
    with psycopg.connect(server.database.service_url, autocommit=True) as connection:
        yield connection


def act_as(connection: Connection, user_id: UUID | None) -> None:
    """For the rest of the transaction."""
    connection.execute(sql.SQL("SET LOCAL app.user_id = {}").format(str(user_id or "")))


def post(user: User, path: str, **body: Any) -> Any:
    made = user.client.post(path, json=body)
    assert made.is_success, made.text
    return made.json()


def in_background(ask: Callable[[], httpx.Response]) -> tuple[threading.Thread, list[httpx.Response]]:
    """A thread to be started, and the list that its answer goes into."""
    answers: list[httpx.Response] = []
    return threading.Thread(target=lambda: answers.append(ask())), answers


def wait_for_a_lock(connection: Connection, statement: str) -> None:
    """Until a session that runs something with this text waits for a lock."""
    deadline = time.monotonic() + 10
    query = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
    while not connection.execute(query, (f"%{statement}%",)).fetchone():
        assert time.monotonic() < deadline, "nobody waits"
        time.sleep(0.01)


# What is gone, and what stays


class Planted:
    """A user who left a word of theirs wherever words go, and an assignee who has seen one of their todos."""

    def __init__(self, new_user: NewUser, superuser: Connection) -> None:
        self.words: list[str] = []
        self.request_ids: list[str] = []
        self.bob = new_user()
        self.email = f"{self.word()}@Example.com"
        self.ada = ada = new_user(email=self.email, username=self.word(), full_name=self.word())
        self.hash = superuser.execute("SELECT password_hash FROM users WHERE id = %s", (ada.id,)).fetchone()[0]
        self.patch("/v1/users/me", username=self.word())
        superuser.execute(
            "INSERT INTO identities (user_id, issuer, subject) VALUES (%s, %s, %s)", (ada.id, self.word(), self.word())
        )
        todo = self.post("/v1/todos", **self.words_for("title", "description"), assigned_to=str(self.bob.id))
        self.patch(f"/v1/todos/{todo['id']}", title=self.word(), metadata={self.word(): self.word()})
        gone = self.post("/v1/todos", **self.words_for("title", "description"))
        assert ada.client.delete(f"/v1/todos/{gone['id']}").status_code == 204
        chat = self.post("/v1/conversations", title=self.word(), metadata={"a": self.word()})
        said = self.post(f"/v1/conversations/{chat['id']}/messages", sender_type="user", content=self.word())
        path = f"/v1/conversations/{chat['id']}/messages/{said['id']}"
        self.patch(path, content=self.word(), metadata={"a": [self.word()]})
        self.post("/v1/links", todo_id=todo["id"], conversation_id=chat["id"])
        # In what is another's: a change to their todo, and a kept answer that shows one of hers.
        self.bobs = post(self.bob, "/v1/todos", title="Water the plants", assigned_to=str(ada.id))
        self.patch(f"/v1/todos/{self.bobs['id']}", status="in_progress")
        self.batch = {"update": [{"id": todo["id"], "status": "in_progress"}], "create": [{"title": "Buy milk"}]}
        self.batch_key = {"Idempotency-Key": secrets.token_hex(8)}
        answer = self.bob.client.post("/v1/todos/batch", json=self.batch, headers=self.batch_key)
        assert self.words[-1] not in answer.text
        assert todo["id"] in answer.text
        self.own_key = {"Idempotency-Key": secrets.token_hex(8)}
        self.bob.client.post("/v1/todos", json={"title": "Buy bread", "assigned_to": str(ada.id)}, headers=self.own_key)
        wrong = {"email": self.email, "password": "a wrong one"}
        assert ada.client.post("/v1/auth/token", json=wrong).status_code == 401

    def word(self) -> str:
        self.words.append(word())
        return self.words[-1]

    def words_for(self, *names: str) -> dict[str, str]:
        return {name: self.word() for name in names}

    def headers(self, **more: str) -> dict[str, str]:
        self.request_ids.append(word())
        return {"X-Request-ID": self.request_ids[-1], **more}

    def post(self, path: str, **body: Any) -> Any:
        headers = self.headers(**{"Idempotency-Key": self.word()})
        made = self.ada.client.post(path, json=body, headers=headers)
        assert made.status_code == 201, made.text
        return made.json()

    def patch(self, path: str, **body: Any) -> None:
        assert self.ada.client.patch(path, json=body, headers=self.headers()).status_code == 200


@pytest.fixture(scope="module")
def own_server(
    make_module_database: Callable[[], TestDatabase], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A service whose whole database can be dumped."""
    with _server_factory(tmp_path_factory.mktemp("own"), make_module_database) as start:
        yield start()


def dump(server: Server, bin_dir: Path) -> str:
    """Everything in the database, as text; bytea columns too, which a dump writes in hexadecimal."""
    done = subprocess.run(
        [bin_dir / "pg_dump", server.database.superuser_url], check=True, capture_output=True, text=True
    )
    text = done.stdout
    return text + "".join(
        bytes.fromhex(part.split("\t")[0].split("\n")[0]).decode("utf-8", "replace") for part in text.split(r"\\x")[1:]
    )


def found_in(text: str, words: list[str]) -> list[str]:
    return [each for each in words if each.lower() in text.lower()]


@pytest.mark.parametrize("how", ["over HTTP", "over HTTP, owning nothing any more", "by the operator"])
def test_no_word_of_an_erased_user_is_left_in_the_database_or_the_log(
    how: str, own_server: Server, postgres: Any
) -> None:
    with (
        user_factory(own_server) as new_user,
        psycopg.connect(own_server.database.superuser_url, autocommit=True) as superuser,
    ):
        planted = Planted(new_user, superuser)
        email = planted.email
        sign_in_key = hashlib.sha256(b"account:" + email.lower().encode()).hexdigest()
        words = [*planted.words, *planted.request_ids, planted.hash, sign_in_key]
        assert found_in(dump(own_server, postgres.bin_dir), words) == words

        if how == "over HTTP":
            headers = planted.headers()
            erased = planted.ada.client.delete("/v1/users/me", params=ERASE, headers=headers)
            assert (erased.status_code, erased.content) == (204, b"")
        elif how == "over HTTP, owning nothing any more":
            for path in ("/v1/todos", "/v1/conversations"):
                for item in planted.ada.client.get(path).json()["items"]:
                    if item.get("user_id", str(planted.ada.id)) == str(planted.ada.id):
                        gone = planted.ada.client.delete(f"{path}/{item['id']}", headers=planted.headers())
                        assert gone.status_code == 204
            deleted = planted.ada.client.delete("/v1/users/me", headers=planted.headers())
            assert (deleted.status_code, deleted.content) == (204, b"")
        else:
            done = run("users", "erase", "--yes", email.upper(), **as_migrator(own_server.database))
            assert (done.returncode, done.stdout) == (0, f"{email.upper()} is erased\n")

        assert found_in(dump(own_server, postgres.bin_dir), [*words, *planted.request_ids]) == []
        assert found_in(own_server.log(), [*planted.words, planted.hash]) == []  # request ids are what a log is for
        for table, rows in snapshot(superuser, planted.ada.id).items():
            assert bool(rows) == (table == "audit_log"), table
        (mark,) = snapshot(superuser, planted.ada.id)["audit_log"]
        actor = None if how == "by the operator" else str(planted.ada.id)
        assert (mark["action"], mark["table_name"], mark["row_id"]) == ("delete", "users", str(planted.ada.id))
        assert (mark["actor_id"], mark["before"], mark["request_id"]) == (actor, None, None)


def test_other_peoples_rows_are_untouched_but_for_the_unassignment(new_user: NewUser, superuser: Connection) -> None:
    planted = Planted(new_user, superuser)
    carol = new_user()
    post(carol, "/v1/todos", title="Nothing to do with it", assigned_to=str(planted.bob.id))
    ada, bob, hers = str(planted.ada.id), planted.bob, snapshot(superuser, carol.id)
    before = snapshot(superuser, bob.id)
    assert planted.ada.client.delete("/v1/users/me", params=ERASE).status_code == 204
    after = snapshot(superuser, bob.id)
    assert snapshot(superuser, carol.id) == hers

    assigned = {row["id"] for row in before["todos"] if row["assigned_to"] == ada}
    assert len(assigned) == 2
    for table in before.keys() - {"todos", "audit_log", "idempotency_keys"}:
        assert after[table] == before[table], table
    was = {row["id"]: row for row in before["todos"]}
    for row in after["todos"]:
        old = was[row["id"]]
        if row["id"] in assigned:
            assert row["updated_at"] > old["updated_at"]
            old = {**old, "assigned_to": None, "version": old["version"] + 1, "updated_at": row["updated_at"]}
        assert row == old
    entries = {row["seq"]: row for row in after["audit_log"]}
    for old in before["audit_log"]:
        by_her = old["actor_id"] == ada
        assert (old["request_id"] is not None) or by_her
        assert entries.pop(old["seq"]) == ({**old, "request_id": None} if by_her else old)
    unassignments = [(row["row_id"], row["action"], row["actor_id"], row["request_id"]) for row in entries.values()]
    assert sorted(unassignments) == sorted((todo, "update", ada, None) for todo in assigned)
    for row in entries.values():
        old = was[row["row_id"]]
        assert (row["before"]["title"], row["before"]["assigned_to"]) == (old["title"], ada)

    # Of the kept answers, the one that showed her todo; asked again, it has no second effect.
    keys = [row["key"] for row in after["idempotency_keys"]]
    assert keys == [planted.own_key["Idempotency-Key"]]
    again = bob.client.post("/v1/todos/batch", json=planted.batch, headers=planted.batch_key)
    problem(again, 404, "not_found", list="update", index=0)
    assert len(snapshot(superuser, bob.id)["todos"]) == len(before["todos"])


@pytest.mark.parametrize("days", [0, 40])
def test_the_kept_answer_of_somebody_who_is_no_assignee_any_more_goes_too(
    new_user: NewUser, superuser: Connection, days: int
) -> None:
    """However long ago that was: where nothing prunes, an answer stays until its key comes again."""
    planted = Planted(new_user, superuser)
    (todo,) = planted.ada.client.get("/v1/todos").json()["items"]
    planted.patch(f"/v1/todos/{todo['id']}", assigned_to=None)
    for table, moment, whose in (("audit_log", "at", planted.ada), ("idempotency_keys", "created_at", planted.bob)):
        superuser.execute(
            f"UPDATE {table} SET {moment} = {moment} - {days} * interval '1 day' WHERE user_id = '{whose.id}'".encode()
        )
    assert planted.ada.client.delete("/v1/users/me", params=ERASE).status_code == 204
    keys = superuser.execute("SELECT key FROM idempotency_keys WHERE user_id = %s", (planted.bob.id,)).fetchall()
    assert keys == [(planted.own_key["Idempotency-Key"],)]


def test_nothing_works_any_more_with_what_an_erased_user_had(client: httpx.Client, new_user: NewUser) -> None:
    username = f"ada-{secrets.token_hex(4)}"
    ada = new_user(username=username)
    credentials = {"email": ada.email, "password": ada.password}
    pair = client.post("/v1/auth/token", json=credentials).json()
    post(ada, "/v1/todos", title="Buy milk")
    assert ada.client.delete("/v1/users/me", params=ERASE).status_code == 204
    problem(ada.client.get("/v1/users/me"), 401, "invalid_token")
    problem(ada.client.get("/v1/todos"), 401, "invalid_token")
    problem(ada.client.post("/v1/todos", json={"title": "Buy bread"}), 401, "invalid_token")
    problem(ada.client.delete("/v1/users/me", params=ERASE), 401, "invalid_token")
    refresh = {"refresh_token": pair["refresh_token"]}
    problem(client.post("/v1/auth/refresh", json=refresh), 401, "invalid_token")
    problem(client.post("/v1/auth/token", json=credentials), 401, "bad_credentials")
    anew = new_user(email=ada.email, username=username)
    assert anew.id != ada.id
    assert anew.client.get("/v1/todos").json()["items"] == []
    assert post(anew, "/v1/todos", title="Buy milk")["number"] == 1


def test_only_the_version_that_was_asked_for_is_erased(new_user: NewUser) -> None:
    ada = new_user()
    post(ada, "/v1/todos", title="Buy milk")
    assert ada.client.patch("/v1/users/me", json={"full_name": "Ada"}).json()["version"] == 2
    stale = ada.client.delete("/v1/users/me", params=ERASE, headers={"If-Match": '"1"'})
    problem(stale, 412, "version_mismatch")
    assert len(ada.client.get("/v1/todos").json()["items"]) == 1
    assert ada.client.delete("/v1/users/me", params=ERASE, headers={"If-Match": '"2"'}).status_code == 204
    problem(ada.client.get("/v1/users/me"), 401, "invalid_token")


@pytest.mark.parametrize("value", ["", "1", "yes", "True"])
def test_erasing_is_asked_for_in_so_many_words(new_user: NewUser, value: str) -> None:
    ada = new_user()
    problem(ada.client.delete("/v1/users/me", params={"erase": value}), 422, "validation_failed", field="erase")
    assert ada.client.get("/v1/users/me").status_code == 200


@pytest.mark.parametrize("query", [{}, {"erase": "false"}], ids=["without", "false"])
def test_without_it_whoever_owns_records_is_not_deleted(new_user: NewUser, query: dict[str, str]) -> None:
    for path in ("/v1/todos", "/v1/conversations"):
        ada = new_user()
        post(ada, path, title="Kept")
        problem(ada.client.delete("/v1/users/me", params=query), 409, "user_has_records")
        assert len(ada.client.get(path).json()["items"]) == 1
    nobody = new_user()
    assert nobody.client.delete("/v1/users/me", params=query).status_code == 204


# In SQL

RECORDS = {
    "todos": "INSERT INTO todos (user_id, title) VALUES (%(user)s, 'Buy milk')",
    "conversations": "INSERT INTO conversations (user_id) VALUES (%(user)s)",
}


@pytest.mark.parametrize("table", RECORDS)
@pytest.mark.parametrize("role", ["the owner", "the service"])
def test_a_plain_delete_of_a_user_with_records_is_refused_in_sql_too(
    role: str, table: str, new_user: NewUser, superuser: Connection, service: Connection
) -> None:
    ada = new_user()
    superuser.execute(RECORDS[table], {"user": ada.id})
    before = snapshot(superuser, ada.id)
    connection = service if role == "the service" else superuser
    with connection.transaction(force_rollback=True):
        if connection is superuser:
            connection.execute("SET LOCAL ROLE todochat_owner")
        act_as(connection, ada.id)
        # The service may end an account by erase_user() alone.
        refusal = errors.InsufficientPrivilege if connection is service else errors.ForeignKeyViolation
        with pytest.raises(refusal):
            connection.execute("DELETE FROM users WHERE id = %s", (ada.id,))
    assert snapshot(superuser, ada.id) == before


@pytest.mark.parametrize("who", ["somebody else", "nobody"])
def test_the_service_can_erase_nobody_but_the_user_its_transaction_is_for(
    who: str, new_user: NewUser, superuser: Connection, service: Connection
) -> None:
    ada, bob = new_user(), new_user()
    post(ada, "/v1/todos", title="Buy milk", assigned_to=str(bob.id))
    before = snapshot(superuser, ada.id)
    with service.transaction(force_rollback=True):
        act_as(service, bob.id if who == "somebody else" else None)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="and nobody else"):
            service.execute("SELECT erase_user(%s, NULL)", (ada.id,))
    assert snapshot(superuser, ada.id) == before


def test_an_erasure_that_is_rolled_back_leaves_everything_and_the_audit_on(
    new_user: NewUser, superuser: Connection, service: Connection
) -> None:
    ada = new_user()
    todo = post(ada, "/v1/todos", title="Buy milk")
    before = snapshot(superuser, ada.id)
    with service.transaction():
        act_as(service, ada.id)
        with service.transaction(force_rollback=True):
            assert service.execute("SELECT erase_user(%s, NULL)", (ada.id,)).fetchone() == (True,)
        service.execute("DELETE FROM todos WHERE user_id = %s AND id = %s", (ada.id, todo["id"]))
    after = snapshot(superuser, ada.id)
    assert (after["users"], after["todos"]) == (before["users"], [])
    assert len(after["audit_log"]) == len(before["audit_log"]) + 1


def test_no_setting_of_the_services_keeps_a_deletion_out_of_the_audit(
    new_user: NewUser, superuser: Connection, service: Connection
) -> None:
    """An erasure leaves no entries because its user is gone; nothing else keeps one from being written."""
    ada = new_user()
    for setting in ("SET LOCAL app.restoring = 'on'", "SET CONSTRAINTS ALL IMMEDIATE", "SET CONSTRAINTS ALL DEFERRED"):
        todo = post(ada, "/v1/todos", title="Buy milk")
        with service.transaction():
            act_as(service, ada.id)
            service.execute(setting.encode())
            service.execute("DELETE FROM todos WHERE user_id = %s AND id = %s", (ada.id, todo["id"]))
        query = "SELECT before ->> 'title' FROM audit_log WHERE user_id = %s AND row_id = %s AND action = 'delete'"
        assert superuser.execute(query, (ada.id, todo["id"])).fetchall() == [("Buy milk",)]
    proof = (
        "INSERT INTO audit_log (user_id, seq, at, action, table_name, row_id)"
        " VALUES (%s, 0, now(), 'delete', 'users', %s)"
    )
    with service.transaction(force_rollback=True):
        act_as(service, ada.id)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            service.execute(proof, (ada.id, ada.id))


def test_an_erasure_writes_no_entry_for_what_it_deletes(new_user: NewUser, superuser: Connection) -> None:
    """They would hold the words anew, and be most of the work."""
    inserted = "SELECT n_tup_ins FROM pg_stat_xact_user_tables WHERE relname = 'audit_log'"
    written: list[int] = []
    for rows in (1, 50):
        ada = new_user()
        for _ in range(rows):
            post(ada, "/v1/turns", messages=[{"sender_type": "ai", "content": "Hello"}] * 3)
        post(ada, "/v1/todos/batch", create=[{"title": "Buy milk"}] * rows)
        with superuser.transaction(force_rollback=True):
            act_as(superuser, ada.id)
            before = superuser.execute(inserted).fetchone()[0]
            superuser.execute("SELECT erase_user(%s, NULL)", (ada.id,))
            superuser.execute("SET CONSTRAINTS ALL IMMEDIATE")
            written.append(superuser.execute(inserted).fetchone()[0] - before)
    assert written == [1, 1]  # what stays


# At the same time


def test_what_is_added_while_its_user_is_erased_is_refused_as_a_token_of_nobody(
    server: Server, new_user: NewUser, superuser: Connection
) -> None:
    for path, body in (
        ("/v1/todos", {"title": "Buy milk"}),
        ("/v1/conversations", {"title": "Shopping"}),
        ("/v1/turns", {"messages": [{"sender_type": "user", "content": "Hello"}]}),
    ):
        ada = new_user()
        post(ada, "/v1/todos", title="Has a counter")
        asking, answers = in_background(partial(ada.client.post, path, json=body))
        with superuser.transaction():
            act_as(superuser, ada.id)
            superuser.execute("SELECT erase_user(%s, NULL)", (ada.id,))
            asking.start()
            with psycopg.connect(server.database.superuser_url, autocommit=True) as watcher:
                wait_for_a_lock(watcher, "INSERT")
        asking.join(10)
        problem(answers[0], 401, "invalid_token")


def test_what_is_being_added_is_waited_for_and_erased(
    new_user: NewUser, superuser: Connection, service: Connection
) -> None:
    ada = new_user()
    erasing, answers = in_background(partial(ada.client.delete, "/v1/users/me", params=ERASE))
    with service.transaction():
        act_as(service, ada.id)
        service.execute("INSERT INTO todos (user_id, title) VALUES (%s, 'Late')", (ada.id,))
        service.execute("INSERT INTO conversations (user_id, title) VALUES (%s, 'Late')", (ada.id,))
        erasing.start()
        wait_for_a_lock(superuser, "erase_user")
    erasing.join(10)
    assert answers[0].status_code == 204
    assert {table for table, rows in snapshot(superuser, ada.id).items() if rows} == {"audit_log"}
    assert len(snapshot(superuser, ada.id)["audit_log"]) == 1


def test_an_erasure_may_take_longer_than_a_usual_statement(session_database: TestDatabase) -> None:
    async def timeouts() -> list[str]:
        database = Database(
            Settings(database_url=Secret(session_database.service_url), database_pool_size=1), lambda *_: None
        )
        await database.open()
        show = Prepared(b"show", b"SHOW statement_timeout", (), reads_only=True), ()
        nobody = Context(None, "")
        try:
            await database.ping()
            long = await database.transact(nobody, [show], seconds=ERASE_SECONDS)
            usual = await database.transact(nobody, [show])
            return [result.rows[0][0] for result in (*long, *usual)]
        finally:
            await database.close()

    assert asyncio.run(timeouts()) == ["59s", SESSION["statement_timeout"]]


# By the operator


def test_erasing_whom_nobody_knows_is_said_in_one_line(session_database: TestDatabase) -> None:
    line = complaint(run("users", "erase", "nobody@example.com", **as_migrator(session_database)))
    assert line == "todochat: no account has the address nobody@example.com"


def test_what_an_operator_erases_has_no_actor_in_other_peoples_trails(
    server: Server, new_user: NewUser, superuser: Connection
) -> None:
    ada, bob = new_user(), new_user()
    todo = post(bob, "/v1/todos", title="Water the plants", assigned_to=str(ada.id))
    assert run("users", "erase", "--yes", ada.email, **as_migrator(server.database)).returncode == 0
    query = "SELECT action, actor_id, request_id FROM audit_log WHERE user_id = %s AND row_id = %s ORDER BY seq DESC"
    assert superuser.execute(query, (bob.id, todo["id"])).fetchall()[0] == ("update", None, None)
    assert bob.client.get(f"/v1/todos/{todo['id']}").json()["assigned_to"] is None
