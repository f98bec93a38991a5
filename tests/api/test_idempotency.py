"""Idempotency-Key over HTTP: a POST that is sent again takes effect once, whatever happens to its answer."""

import contextlib
import json
import re
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from service.db.loading import TEXTS
from tests.conftest import Server, TestDatabase, User, user_factory
from tests.support import exports
from tests.support.load import in_parallel, wait_for
from tests.support.problems import problem
from tests.support.routes import ROUTES, Route

NewUser = Callable[..., User]
Connection = psycopg.Connection[Any]

KEPT = ("content-type", "content-length", "location", "etag")
REPLAYED = "idempotency-replayed"


def post(client: httpx.Client, path: str, body: Any, key: str, **headers: str) -> httpx.Response:
    return client.post(path, **content(body, **{"Idempotency-Key": key, **headers}))


def content(body: Any, **headers: str) -> dict[str, Any]:
    """How a body is sent: a list is the lines of a file."""
    if isinstance(body, list):
        return {"content": exports.written(body), "headers": {**exports.NDJSON, **headers}}
    return {"json": body, "headers": headers}


def assert_replayed(again: httpx.Response, first: httpx.Response) -> None:
    assert again.headers.get(REPLAYED) == "true"
    assert REPLAYED not in first.headers
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert {name: again.headers.get(name) for name in KEPT} == {name: first.headers.get(name) for name in KEPT}
    assert "transfer-encoding" not in again.headers


def titles(user: User) -> list[str]:
    return [todo["title"] for todo in user.client.get("/v1/todos").json()["items"]]


def kept(connection: Connection, user: User) -> set[str]:
    """The keys that are kept for the user."""
    return {key for (key,) in connection.execute("SELECT key FROM idempotency_keys WHERE user_id = %s", (user.id,))}


def poll(connection: Connection, query: str, expected: int) -> None:
    """Wait until the query counts so many."""
    wait_for(lambda: connection.execute(query).fetchone() == (expected,))


WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


# Every POST under a user

POSTS = [route for route in ROUTES if route.method == "POST" and not route.public and route.name != "create_key"]
"""The first answer of create_key is not kept as a whole: see test_keys."""
MESSAGE = {"sender_type": "user", "content": "hello"}
BODIES: dict[str, Any] = {
    "logout_everywhere": None,
    "create_todo": {"title": "Buy milk"},
    "batch_todos": {"create": [{"title": "a"}, {"title": "b"}]},
    "create_conversation": {"title": "Talk"},
    "create_message": MESSAGE,
    "create_turn": {"messages": [MESSAGE, MESSAGE], "context": {"messages": 5}},
    "create_first_turn": {"messages": [MESSAGE], "title": "Talk"},
    "create_link": {"todo_id": "{todo_id}", "conversation_id": "{conversation_id}"},
    "create_import": exports.small_file(),
    "revert_change": None,
    "create_task": {"title": "Buy milk"},
}
"""A body for each of them, by operation."""


def test_every_post_under_a_user_takes_a_key() -> None:
    assert {route.name for route in POSTS} == BODIES.keys()
    assert all(route.takes_key for route in POSTS)


@pytest.mark.parametrize("route", POSTS, ids=lambda route: route.name)
def test_a_post_that_is_sent_again_gets_the_first_answer_and_has_one_effect(
    new_user: NewUser, superuser: Connection, route: Route
) -> None:
    ada = new_user()
    known = {
        "user_id": str(ada.id),
        "todo_id": ada.client.post("/v1/todos", json={"title": "x"}).json()["id"],
        "conversation_id": ada.client.post("/v1/conversations", json={}).json()["id"],
    }
    ada.client.patch(f"/v1/todos/{known['todo_id']}", json={"title": "y"})
    known["change_id"] = str(ada.client.get(f"/v1/audit?row_id={known['todo_id']}").json()["items"][0]["id"])
    path = route.path.format(**known)
    text = json.dumps(BODIES[route.name])
    for name, value in known.items():
        text = text.replace(f"{{{name}}}", value)
    body = json.loads(text)
    audited = "SELECT count(*) FROM audit_log WHERE user_id = %s"
    client = ada.client
    first = post(client, path, body, "key") if body else client.post(path, headers={"Idempotency-Key": "key"})
    assert first.status_code in (200, 201, 204), first.text
    effects = superuser.execute(audited, (ada.id,)).fetchone()
    for _ in range(2):
        if route.name == "logout_everywhere":  # which took the token away
            signed_in = client.post("/v1/auth/token", json={"email": ada.email, "password": ada.password}).json()
            client.headers["Authorization"] = f"Bearer {signed_in['access_token']}"
            again = client.post(path, headers={"Idempotency-Key": "key"})
        else:
            again = post(client, path, body, "key")
        assert_replayed(again, first)
    assert superuser.execute(audited, (ada.id,)).fetchone() == effects
    assert kept(superuser, ada) == {"key"}
    if body:
        without = client.post(path, **content(body))
        assert REPLAYED not in without.headers
        assert without.content != first.content


def test_an_answer_is_given_again_even_when_its_object_is_changed_or_gone(new_user: NewUser) -> None:
    ada = new_user()
    first = post(ada.client, "/v1/todos", {"title": "a"}, "key")
    ada.client.patch(first.headers["location"], json={"title": "b"})
    assert_replayed(post(ada.client, "/v1/todos", {"title": "a"}, "key"), first)
    ada.client.delete(first.headers["location"])
    assert_replayed(post(ada.client, "/v1/todos", {"title": "a"}, "key"), first)
    assert titles(ada) == []


def test_the_longest_answer_is_given_again_whole(new_user: NewUser) -> None:
    ada = new_user()
    turn = {"messages": [{"sender_type": "user", "content": "<🎉>" * 3333}] * 100, "context": {"messages": 100}}
    first = post(ada.client, "/v1/turns", turn, "key")
    assert len(first.content) > 2_000_000
    assert_replayed(post(ada.client, "/v1/turns", turn, "key"), first)


def test_the_same_key_with_another_body_or_path_is_refused(new_user: NewUser) -> None:
    ada = new_user()
    path = ada.client.post("/v1/conversations", json={}).headers["location"]
    first = post(ada.client, f"{path}/messages", MESSAGE, "key")
    other = ada.client.post("/v1/conversations", json={}).headers["location"]
    for wrong, body in (
        (f"{path}/messages", {**MESSAGE, "content": "other"}),
        (f"{other}/messages", MESSAGE),
        ("/v1/turns", {"messages": [MESSAGE]}),
        ("/v1/todos", {"title": "x"}),
    ):
        problem(post(ada.client, wrong, body, "key"), 422, "idempotency_key_reused")
    assert_replayed(post(ada.client, f"{path}/messages", MESSAGE, "key"), first)
    assert len(ada.client.get(f"{path}/messages").json()["items"]) == 1
    assert ada.client.get(f"{other}/messages").json()["items"] == []
    assert titles(ada) == []


def test_two_users_may_use_the_same_key(new_user: NewUser) -> None:
    ada, eve = new_user(), new_user()
    mine, theirs = (post(user.client, "/v1/todos", {"title": "x"}, "same key") for user in (ada, eve))
    assert (mine.status_code, theirs.status_code) == (201, 201)
    assert REPLAYED not in theirs.headers
    assert (mine.json()["user_id"], theirs.json()["user_id"]) == (str(ada.id), str(eve.id))
    assert (titles(ada), titles(eve)) == (["x"], ["x"])
    # And another user's key with another body is nobody else's business.
    assert post(eve.client, "/v1/turns", {"messages": [MESSAGE]}, "another").status_code == 201
    assert post(ada.client, "/v1/todos", {"title": "y"}, "another").status_code == 201


def test_whoever_may_not_call_gets_no_kept_answer(new_user: NewUser, client: httpx.Client) -> None:
    ada = new_user()
    post(ada.client, "/v1/todos", {"title": "secret"}, "key")
    ada.client.post("/v1/auth/logout-everywhere")
    problem(post(ada.client, "/v1/todos", {"title": "secret"}, "key"), 401, "invalid_token")
    problem(post(ada.client, "/v1/todos", {"title": "other"}, "new key"), 401, "invalid_token")
    problem(post(client, "/v1/todos", {"title": "secret"}, "key"), 401, "unauthenticated")


@pytest.mark.parametrize(
    "key", ["x", "!", "~" * 255, 'a"b', "8e03978e-40d5-43dd-bc93-6894a57f9324", "a, b", "a b", "%00", "'; --"]
)
def test_a_key_is_1_to_255_printable_characters(new_module_user: NewUser, key: str) -> None:
    ada = new_module_user()
    first = post(ada.client, "/v1/todos", {"title": "x"}, key)
    assert first.status_code == 201
    assert_replayed(post(ada.client, "/v1/todos", {"title": "x"}, key), first)


def test_a_key_of_another_form_is_refused_and_nothing_is_done(new_user: NewUser, superuser: Connection) -> None:
    ada = new_user()
    for key in (b"", b"x" * 256, b"\xe9", "é".encode(), b"a\tb", b"\xff" * 10):
        request = ada.client.build_request("POST", "/v1/todos", json={"title": "x"})
        request.headers = httpx.Headers([*request.headers.raw, (b"Idempotency-Key", key)])
        problem(ada.client.send(request), 422, "validation_failed", field="Idempotency-Key")
    assert titles(ada) == []
    assert kept(superuser, ada) == set()


def test_a_failed_request_keeps_no_key_and_leaves_nothing_behind(new_user: NewUser, superuser: Connection) -> None:
    ada = new_user()
    nobody = "018f4fd2-0000-7000-8000-000000000000"
    todo = ada.client.post("/v1/todos", json={"title": "there"}).json()
    talk = ada.client.post("/v1/turns", json={"messages": [MESSAGE]}).json()["messages"][0]["conversation_id"]
    link = {"todo_id": todo["id"], "conversation_id": talk}
    assert ada.client.post("/v1/links", json=link).status_code == 201
    stale = {"messages": [MESSAGE, MESSAGE], "expected_position": 7}
    batch = {"create": [{"title": "new"}], "update": [{"id": 1, "title": "changed"}], "delete": [99]}
    transitions = {"create": [{"title": "new"}], "update": [{"id": 1, "status": s} for s in ("archived", "completed")]}
    failures: list[tuple[str, Any, int]] = [
        ("/v1/todos", {"title": ""}, 422),
        ("/v1/todos", {"title": "x", "assigned_to": nobody}, 422),
        ("/v1/todos", {"title": "x", "conversation_id": nobody}, 404),
        ("/v1/todos/batch", batch, 404),
        ("/v1/todos/batch", transitions, 409),
        ("/v1/links", link, 409),
        ("/v1/links", {**link, "todo_id": nobody}, 404),
        (f"/v1/conversations/{talk}/turns", stale, 409),
        (f"/v1/conversations/{nobody}/messages", MESSAGE, 404),
        (f"/api/{nobody}/tasks", {"title": "x"}, 403),
    ]
    for path, body, status in failures:
        for _ in range(2):
            failed = post(ada.client, path, body, "key")
            assert failed.status_code == status, failed.text
            assert REPLAYED not in failed.headers
            plain = ada.client.post(path, json=body, headers={"X-Request-ID": failed.headers["x-request-id"]})
            assert plain.content == failed.content
    assert kept(superuser, ada) == set()
    assert titles(ada) == ["there"]
    assert len(ada.client.get(f"/v1/conversations/{talk}/messages").json()["items"]) == 1
    assert REPLAYED not in post(ada.client, "/v1/todos", {"title": "at last"}, "key").headers
    assert titles(ada) == ["at last", "there"]


def test_a_key_is_free_again_after_24_hours(new_user: NewUser, superuser: Connection) -> None:
    ada = new_user()
    age = "UPDATE idempotency_keys SET created_at = now() - %s::interval WHERE user_id = %s"
    first = post(ada.client, "/v1/todos", {"title": "a"}, "key")
    superuser.execute(age, ("23 hours 59 minutes", ada.id))
    assert_replayed(post(ada.client, "/v1/todos", {"title": "a"}, "key"), first)
    problem(post(ada.client, "/v1/todos", {"title": "b"}, "key"), 422, "idempotency_key_reused")
    superuser.execute(age, ("24 hours 1 second", ada.id))
    # Not for a request that fails, though: it changes nothing.
    problem(post(ada.client, "/v1/todos", {"title": "c", "conversation_id": str(ada.id)}, "key"), 404, "not_found")
    assert kept(superuser, ada) == {"key"}
    answers = in_parallel(5, lambda _: post(ada.client, "/v1/todos", {"title": "b"}, "key"))
    second = next(answer for answer in answers if REPLAYED not in answer.headers)
    assert second.json()["title"] == "b"
    for answer in answers:
        if answer is not second:
            assert_replayed(answer, second)
    assert titles(ada) == ["b", "a"]


# At once


def test_fifty_posts_at_once_with_one_key_have_one_effect_and_fifty_equal_bodies(
    new_user: NewUser, superuser: Connection
) -> None:
    ada = new_user()
    path = ada.client.post("/v1/conversations", json={}).headers["location"]
    turn = {"messages": [MESSAGE, MESSAGE], "context": {"messages": 10}}
    for target, body in (("/v1/todos", {"title": "once"}), (f"{path}/turns", turn), ("/v1/turns", turn)):
        answers = in_parallel(50, lambda _, target=target, body=body: post(ada.client, target, body, f"key {target}"))
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.content for answer in answers}) == 1
        assert len({answer.headers["location"] for answer in answers}) == 1
        assert sorted(answer.headers.get(REPLAYED, "") for answer in answers) == [""] + ["true"] * 49
    assert titles(ada) == ["once"]
    assert len(ada.client.get(f"{path}/messages").json()["items"]) == 2
    assert len(ada.client.get("/v1/conversations").json()["items"]) == 2
    assert len(kept(superuser, ada)) == 3


def test_of_two_bodies_with_one_key_at_once_one_takes_effect_and_the_other_is_refused(new_user: NewUser) -> None:
    ada = new_user()
    for round_ in range(5):
        key = f"key {round_}"
        answers = in_parallel(6, lambda number, key=key: post(ada.client, "/v1/todos", {"title": str(number)}, key))
        won = [answer for answer in answers if answer.status_code == 201]
        assert len(won) == 1
        for answer in answers:
            if answer is not won[0]:
                problem(answer, 422, "idempotency_key_reused")
        assert titles(ada)[0] == won[0].json()["title"]
        assert len(titles(ada)) == round_ + 1


@contextlib.contextmanager
def claimed(server: Server, user: User, key: str) -> Iterator[Connection]:
    """A transaction that has the key and isn't done: what another server's request in progress looks like."""
    with psycopg.connect(server.database.superuser_url) as connection:
        connection.execute(
            "INSERT INTO idempotency_keys (user_id, key, operation, request_hash)"
            " VALUES (%s, %s, 'POST /x', sha256(''))",
            (user.id, key),
        )
        yield connection
        connection.rollback()


def test_while_the_first_still_runs_the_answer_is_409(new_user: NewUser, server: Server) -> None:
    ada = new_user()
    with claimed(server, ada, "key"):
        refused = problem(post(ada.client, "/v1/todos", {"title": "x"}, "key"), 409, "idempotency_in_progress")
        assert "still runs" in refused["detail"]
        assert post(ada.client, "/v1/todos", {"title": "y"}, "another key").status_code == 201
    assert titles(ada) == ["y"]
    assert post(ada.client, "/v1/todos", {"title": "x"}, "key").status_code == 201


def test_when_the_first_fails_after_all_the_second_takes_effect(
    new_user: NewUser, server: Server, superuser: Connection
) -> None:
    ada = new_user()
    with ThreadPoolExecutor(1) as pool, claimed(server, ada, "key") as first:
        second = pool.submit(post, ada.client, "/v1/todos", {"title": "x"}, "key")
        poll(superuser, WAITING, 1)
        first.rollback()
        answer = second.result()
    assert (answer.status_code, answer.headers.get(REPLAYED)) == (201, None)
    assert titles(ada) == ["x"]


def test_who_waits_for_a_key_keeps_nobody_else_waiting(
    new_user: NewUser, server: Server, superuser: Connection
) -> None:
    ada, eve = new_user(), new_user()
    with ThreadPoolExecutor(20) as pool, claimed(server, ada, "key") as first:
        waiting = [pool.submit(post, ada.client, "/v1/todos", {"title": "x"}, "key") for _ in range(20)]
        poll(superuser, WAITING, 5)  # half of the pool: a user's share
        assert eve.client.get("/v1/todos").status_code == 200
        assert post(eve.client, "/v1/todos", {"title": "x"}, "key").status_code == 201
        first.rollback()
        answers = [answer.result() for answer in waiting]
    assert {answer.status_code for answer in answers} <= {201, 503}
    assert len({answer.content for answer in answers if answer.status_code == 201}) == 1
    assert titles(ada) == ["x"]


# When the service dies


class Proxy:
    """Stands between the service and PostgreSQL, and can hold a keyed request just before or just after its commit."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.hold = ""
        """``request`` holds back what ends the request's transaction, ``answer`` what PostgreSQL says to it."""
        self.held = threading.Event()
        self.release = threading.Event()
        self.closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self.upstream)
                self._sockets += [client, server]
                ending = threading.Event()
                for pump in (self._forward, self._back):
                    threading.Thread(target=pump, args=(client, server, ending), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket, ending: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 20):
                if self.hold and b"keep_answer" in data:
                    ending.set()
                    if self.hold == "request":
                        self._wait()
                server.sendall(data)
        self._hang_up(client, server)

    def _back(self, client: socket.socket, server: socket.socket, ending: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 20):
                if self.hold == "answer" and ending.is_set():
                    self._wait()
                client.sendall(data)
        self._hang_up(client, server)

    def _wait(self) -> None:
        self.held.set()
        self.release.wait()
        if self.closed:
            raise OSError("what was held back is lost")

    def _hang_up(self, *sockets: socket.socket) -> None:
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up on both sides; what is held back never arrives."""
        self.closed = True
        self.release.set()
        self._hang_up(*self._sockets)
        for one in self._sockets:
            one.close()


@pytest.fixture
def proxied(make_database: Callable[[], TestDatabase]) -> Iterator[tuple[TestDatabase, Proxy, str]]:
    """A database, a proxy to it, and the URL that leads through it."""
    database = make_database()
    parts = conninfo_to_dict(database.service_url)
    proxy = Proxy(str(Path(str(parts["host"])) / f".s.PGSQL.{parts.get('port', 5432)}"))
    yield database, proxy, f"postgresql://{parts['user']}@127.0.0.1:{proxy.port}/{parts['dbname']}"
    proxy.close()


@pytest.mark.parametrize("hold", ["answer", "request"])
def test_a_service_killed_around_the_commit_has_one_effect_when_asked_again(
    proxied: tuple[TestDatabase, Proxy, str], start_server: Callable[..., Server], hold: str
) -> None:
    database, proxy, url = proxied
    secret = secrets.token_hex(32)
    dying = start_server(database=database, DATABASE_URL=url, JWT_SECRET=secret)
    turn = {"messages": [MESSAGE, {"sender_type": "ai", "content": "hi"}], "title": "Talk", "context": {"messages": 5}}
    stored = "SELECT count(*) FROM messages"
    with (
        psycopg.connect(database.superuser_url, autocommit=True) as superuser,
        user_factory(dying) as new_user,
        ThreadPoolExecutor(1) as pool,
    ):
        ada = new_user()
        proxy.hold = hold
        lost = pool.submit(post, ada.client, "/v1/turns", turn, "key")
        assert proxy.held.wait(10)
        committed = hold == "answer"
        poll(superuser, stored, 2 if committed else 0)
        assert not lost.done()
        dying.process.send_signal(signal.SIGKILL)
        dying.process.wait(10)
        with pytest.raises(httpx.TransportError):
            lost.result()
        proxy.close()
        poll(superuser, stored, 2 if committed else 0)
        first = superuser.execute("SELECT body, status, headers FROM idempotency_keys").fetchall()
        assert len(first) == committed

        started = start_server(database=database, JWT_SECRET=secret)
        with httpx.Client(base_url=started.url, headers=ada.client.headers, timeout=10) as client:
            again = post(client, "/v1/turns", turn, "key")
            assert again.status_code == 201, again.text
            assert (REPLAYED in again.headers) == committed
            if committed:
                (body, status, headers) = first[0]
                assert (again.content, again.status_code) == (bytes(body), status)
                assert headers.items() <= dict(again.headers).items()
            assert again.json()["messages"] == client.get(f"{again.headers['location']}/messages").json()["items"]
            assert [message["content"] for message in again.json()["context"]] == ["hello", "hi"]
            third = post(client, "/v1/turns", turn, "key")
            assert third.headers[REPLAYED] == "true"
            assert third.content == again.content
            assert len(client.get("/v1/conversations").json()["items"]) == 1
        poll(superuser, stored, 2)


def test_a_second_request_meets_the_first_in_progress_and_the_third_its_answer(
    proxied: tuple[TestDatabase, Proxy, str], start_server: Callable[..., Server]
) -> None:
    database, proxy, url = proxied
    server = start_server(database=database, DATABASE_URL=url)
    with user_factory(server) as new_user, ThreadPoolExecutor(1) as pool:
        ada = new_user()
        proxy.hold = "request"
        first = pool.submit(post, ada.client, "/v1/todos", {"title": "x"}, "key")
        assert proxy.held.wait(10)
        problem(post(ada.client, "/v1/todos", {"title": "x"}, "key"), 409, "idempotency_in_progress")
        assert not first.done()
        proxy.release.set()
        assert first.result().status_code == 201
        assert_replayed(post(ada.client, "/v1/todos", {"title": "x"}, "key"), first.result())
        assert titles(ada) == ["x"]


def test_a_keyed_post_goes_through_when_a_migration_has_changed_its_table(start_server: Callable[..., Server]) -> None:
    server = start_server(DATABASE_POOL_SIZE="1")
    with user_factory(server) as new_user, psycopg.connect(server.database.superuser_url, autocommit=True) as superuser:
        ada = new_user()
        assert post(ada.client, "/v1/todos", {"title": "a"}, "first").status_code == 201
        superuser.execute("DROP TRIGGER todos_touch ON todos")  # whose WHEN names the column
        superuser.execute("ALTER TABLE todos ALTER COLUMN title TYPE varchar")  # which the prepared statement answers
        second = post(ada.client, "/v1/todos", {"title": "b"}, "second")
        assert second.status_code == 201, second.text
        assert_replayed(post(ada.client, "/v1/todos", {"title": "b"}, "second"), second)
        assert titles(ada) == ["b", "a"]


def test_the_metrics_know_a_keyed_requests_queries_by_name_and_nothing_else(new_user: NewUser, server: Server) -> None:
    post(new_user().client, "/v1/todos", {"title": "x"}, "key")
    named = set(re.findall(r'todochat_query_seconds_count\{query="(\w+)"\}', httpx.get(f"{server.url}/metrics").text))
    assert {"claim_idempotency_key", "create_todo", "keep_answer"} <= named <= TEXTS.keys()


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/conversations/{}/messages", 404, "not_found"),
        ("/v1/changes/{}/revert", 404, "not_found"),
        ("/openai/v1/conversations/{}", 404, "not_found"),
        ("/api/{}/tasks", 403, "forbidden"),
    ],
)
@pytest.mark.parametrize("name", ["x" * 600, "%00"])
def test_a_key_with_a_long_path_or_an_odd_one_changes_nothing_of_the_refusal(
    new_user: Any, path: str, status: int, code: str, name: str
) -> None:
    client = new_user().client
    body = {"title": "x"} if "tasks" in path else {"sender_type": "ai", "content": "x"} if "mess" in path else {}
    sent = {} if "revert" in path else {"json": body}
    without = client.post(path.format(name), **sent)
    keyed = client.post(path.format(name), **sent, headers={"Idempotency-Key": "once"})
    assert without.status_code == keyed.status_code == status
    assert code == keyed.json().get("code", keyed.json().get("error", {}).get("code"))
