"""The change feed under all that may happen at once, and on another server than the one that wrote it."""

import contextlib
import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from service.commands.development import prepare_database
from service.embedded import EmbeddedPostgres
from tests.conftest import TEMPLATE, UNSAFE_BUT_FAST, Server, User, _database, reachable_folder, user_factory
from tests.support.feed import Entry, assert_goes_on, assert_whole, follow
from tests.support.load import wait_for

Connection = psycopg.Connection[Any]
WRITERS = 8
ROUNDS = 12
IMPORTED = 500


def export_of(todos: int) -> bytes:
    """A file with so many todos."""
    at = "2026-01-01T00:00:00Z"
    common = {"description": None, "status": "pending", "priority": "low", "due_date": None, "assigned_to": None}
    common |= {"completed_at": None, "metadata": {}, "created_at": at, "updated_at": at, "version": 1}
    lines: list[dict[str, Any]] = [{"type": "export", "format": 1, "email": None, "last_number": todos}]
    lines += [
        {"type": "todo", "id": f"00000000-0000-7000-9000-{n:012x}", "number": n, "title": f"imported {n}", **common}
        for n in range(1, todos + 1)
    ]
    lines.append({"type": "end", "todos": todos, "conversations": 0, "messages": 0, "links": 0})
    return "\n".join(map(json.dumps, lines)).encode() + b"\n"


class Writer(threading.Thread):
    """Transactions by hand, of one user in another's rows too, that stay open for a random while and may be undone."""

    def __init__(self, url: str, user: User, seed: int, todos: list[str], conversation: str) -> None:
        super().__init__()
        self.url, self.user, self.todos, self.conversation = url, user, todos, conversation
        self.random = random.Random(seed)
        self.written: list[str] = []
        """The titles and contents of what was committed."""
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            with psycopg.connect(self.url) as connection:
                for number in range(ROUNDS):
                    self.transaction(connection, number)
        except (psycopg.Error, AssertionError) as failure:
            self.failure = failure

    def transaction(self, connection: Connection, number: int) -> None:
        mark = f"{self.random.random()}"
        connection.execute(sql.SQL("SET LOCAL app.user_id = {}").format(str(self.user.id)))
        marks: list[str] = []
        try:
            for step in range(self.random.randint(1, 4)):
                marks.append(f"{mark} {number} {step}")
                if self.random.random() < 0.5:
                    connection.execute(
                        "INSERT INTO messages (user_id, conversation_id, sender_type, content)"
                        " VALUES (%s, %s, 'ai', %s)",
                        (self.user.id, self.conversation, marks[-1]),
                    )
                else:
                    connection.execute("INSERT INTO todos (user_id, title) VALUES (%s, %s)", (self.user.id, marks[-1]))
                time.sleep(self.random.random() / 50)
            if self.random.random() < 0.25:
                connection.rollback()
            else:
                connection.commit()
                self.written += marks
        except (
            psycopg.errors.DeadlockDetected,  # the counter and the conversation
            psycopg.errors.LockNotAvailable,
            psycopg.errors.QueryCanceled,  # after others, each of which waited for less than lock_timeout
        ):
            connection.rollback()


class Assignee(threading.Thread):
    """Moves the status of somebody else's todo to and fro."""

    def __init__(self, user: User, todo: str) -> None:
        super().__init__()
        self.user, self.todo = user, todo
        self.done = 0

    def run(self) -> None:
        for number in range(20):
            status = ("in_progress", "pending")[number % 2]
            self.done += self.user.client.patch(f"/v1/todos/{self.todo}", json={"status": status}).is_success


@pytest.fixture
def busy(start_server: Callable[..., Server]) -> Iterator[tuple[Server, User, list[Entry], str]]:
    """A server whose user was written to by everybody at once: what a follower heard, and its cursor."""
    server = start_server()
    with user_factory(server) as make:
        ada, bob = make(), make()
        todo = ada.client.post("/v1/todos", json={"title": "shared", "assigned_to": str(bob.id)}).json()["id"]
        conversation = ada.client.post("/v1/conversations", json={}).json()["id"]
        url = server.database.service_url
        writers = [Writer(url, ada, seed, [todo], conversation) for seed in range(WRITERS)]
        assignee = Assignee(bob, todo)

        def bring_in() -> None:
            headers = {"Content-Type": "application/x-ndjson"}
            file = export_of(IMPORTED)
            while ada.client.post("/v1/import", content=file, headers=headers, timeout=60).status_code == 503:
                time.sleep(0.1)  # a writer held the counter for too long

        importing = threading.Thread(target=bring_in)
        threads: list[threading.Thread] = [*writers, assignee, importing]
        for thread in threads:
            thread.start()
        heard: list[Entry] = []
        cursor = None
        while any(thread.is_alive() for thread in threads):
            more, cursor = follow(ada.client, cursor, limit=7)
            heard += more
            time.sleep(0.02)  # what follows without a rest leaves the others no time to write
        more, cursor = follow(ada.client, cursor)
        heard += more
        assert [writer.failure for writer in writers] == [None] * WRITERS
        assert assignee.done == 20
        told = {
            change[1]
            for entry in heard
            if entry["action"] == "insert"
            for name in ("title", "content")
            if (change := entry["changes"].get(name))
        }
        assert told >= {mark for writer in writers for mark in writer.written}
        imported = {title for title in told if title and title.startswith("imported")}
        assert len(imported) == IMPORTED
        made = {mark for writer in writers for mark in writer.written} | imported | {"shared", None}
        assert told <= made, "what was rolled back is never told"
        yield server, ada, heard, cursor


def test_a_follower_hears_everything_once_and_in_order_and_so_it_does_after_a_restore_elsewhere(
    busy: tuple[Server, User, list[Entry], str], start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server, ada, heard, cursor = busy
    assert_whole(heard, ada.client)
    dump = tmp_path / "dump"
    with reachable_folder() as folder, EmbeddedPostgres(folder / "other", options=UNSAFE_BUT_FAST) as other:
        prepare_database(other, "restored")
        tool = [str(other.bin_dir / "pg_dump"), "-Fc", "-f", str(dump), "-d", server.database.superuser_url]
        subprocess.run(tool, check=True, capture_output=True)
        with psycopg.connect(other.url(), autocommit=True) as connection:
            connection.execute("CREATE ROLE todochat_owner NOLOGIN")
            connection.execute("CREATE ROLE todochat_app NOLOGIN")
            connection.execute("CREATE ROLE todochat_service LOGIN IN ROLE todochat_app")
            connection.execute("REVOKE TEMPORARY ON DATABASE restored FROM PUBLIC")
        tool = [str(other.bin_dir / "pg_restore"), "--exit-on-error", "-1", "-d", other.url("restored"), str(dump)]
        subprocess.run(tool, check=True, capture_output=True)
        assert_goes_on(
            start_server(database=_database(other, "restored"), JWT_SECRET=server.env["JWT_SECRET"]), ada, heard, cursor
        )


@contextlib.contextmanager
def standby_of(primary: EmbeddedPostgres, folder: Path, options: dict[str, str]) -> Iterator[EmbeddedPostgres]:
    """A server that follows another one's log."""
    standby = EmbeddedPostgres(folder, options=options)
    standby.cluster_dir.parent.mkdir(parents=True, exist_ok=True)
    tool = [str(primary.bin_dir / "pg_basebackup"), "-R", "-X", "stream", "-c", "fast"]
    subprocess.run([*tool, "-D", str(standby.cluster_dir), "-d", primary.url()], check=True, capture_output=True)
    owner = primary.cluster_dir.stat()
    for path in (standby.cluster_dir, *standby.cluster_dir.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    with standby:
        yield standby


def wait_until_caught_up(primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> None:
    with (
        psycopg.connect(primary.url(), autocommit=True) as there,
        psycopg.connect(standby.url(), autocommit=True) as here,
    ):
        (reached,) = there.execute("SELECT pg_current_wal_insert_lsn()").fetchone() or ("",)
        query = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
        wait_for(lambda: here.execute(query, (reached,)).fetchone() == (True,))


def test_a_follower_goes_on_at_a_standby_that_was_promoted(
    start_postgres: Callable[..., EmbeddedPostgres], start_server: Callable[..., Server]
) -> None:
    options = {**UNSAFE_BUT_FAST, "wal_level": "replica", "hot_standby": "on", "max_wal_senders": "4"}
    with reachable_folder() as folder, start_postgres(folder / "primary", options=options) as primary:
        server = start_server(database=_database(primary, TEMPLATE))
        with user_factory(server) as make, contextlib.ExitStack() as stack:
            ada = make()
            for number in range(20):
                assert ada.client.post("/v1/todos", json={"title": f"{number}"}).status_code == 201
            heard, cursor = follow(ada.client)
            standby = stack.enter_context(standby_of(primary, folder / "standby", options))
            assert ada.client.patch("/v1/todos/1", json={"title": "through the log"}).status_code == 200
            heard, cursor = follow(ada.client)
            wait_until_caught_up(primary, standby)
            with psycopg.connect(standby.url(), autocommit=True) as connection:
                assert connection.execute("SELECT pg_promote()").fetchone() == (True,)
            assert_goes_on(
                start_server(database=_database(standby, TEMPLATE), JWT_SECRET=server.env["JWT_SECRET"]),
                ada,
                heard,
                cursor,
            )
