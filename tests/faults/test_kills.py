"""Kills in the middle of writes with Idempotency-Keys: what was acknowledged is there, and there once.

``KILL_ROUNDS`` says how many times each kill is done; 20 before a release.
"""

import contextlib
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest

from service.embedded import EmbeddedPostgres
from tests.conftest import (
    PLAIN_HTTP,
    TEMPLATE,
    UNSAFE_BUT_FAST,
    Server,
    TestDatabase,
    User,
    _database,
    _server_factory,
    reachable_folder,
    user_factory,
)
from tests.support.load import wait_for

ROUNDS = int(os.environ.get("KILL_ROUNDS", "2"))
CLIENTS = 8
OURS = "datname = current_database() AND application_name = 'todochat'"


class Place:
    """A service, and a server of PostgreSQL of its own, both of which can be killed."""

    def __init__(self, postgres: EmbeddedPostgres, start: Callable[..., Server], database: TestDatabase) -> None:
        self.postgres = postgres
        self.database = database
        self.server = start()
        self._start = start

    def admin(self) -> "psycopg.Connection[Any]":
        """A superuser's connection, as soon as the server takes one."""

        def connect() -> "psycopg.Connection[Any] | None":
            with contextlib.suppress(psycopg.OperationalError):
                return psycopg.connect(self.database.superuser_url, autocommit=True)
            return None

        found = wait_for(connect, 30)
        assert found
        return found

    def kill_backend(self) -> None:
        """One of those that write; the server then ends all others and recovers."""
        with self.admin() as admin:
            busy = f"SELECT pid FROM pg_stat_activity WHERE {OURS} ORDER BY state = 'active' DESC LIMIT 1"
            row = wait_for(lambda: admin.execute(busy).fetchone())
            os.kill(row[0], signal.SIGKILL)

    def end_all_backends(self) -> None:
        with self.admin() as admin:
            admin.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS}")

    def kill_postmaster(self) -> None:
        os.kill(self.postgres.pid, signal.SIGKILL)
        time.sleep(0.5)
        self.postgres.stop()
        self.postgres.start()

    def kill_service(self) -> None:
        self.server.process.kill()
        self.server.process.wait()
        self.server = self._start(**{name: self.server.env[name] for name in ("PORT", "JWT_SECRET")})


@pytest.fixture(scope="module")
def place(start_postgres: Callable[..., EmbeddedPostgres], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    options = {**UNSAFE_BUT_FAST, "synchronous_commit": "on"}  # else a crash takes the last commits with it
    with reachable_folder() as folder, start_postgres(folder / "postgres", options=options) as postgres:
        database = _database(postgres, TEMPLATE)
        with _server_factory(tmp_path_factory.mktemp("kills"), lambda: database) as start:
            yield Place(postgres, start, database)


@pytest.fixture(scope="module")
def users(place: Place) -> Iterator[list[User]]:
    with user_factory(place.server) as make:
        yield [make() for _ in range(CLIENTS)]


class Writer:
    """Writes one todo after another, repeating each with its key until it is acknowledged."""

    def __init__(self, url: str, token: str) -> None:
        self.acknowledged: list[str] = []
        self.uncertain = 0
        self.wrong = ""
        """An answer that says neither that it was done nor that it may be tried again."""
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), "a write is not acknowledged within a minute"

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, headers=self._headers, timeout=15, verify=PLAIN_HTTP) as client:
            while not self._end.is_set():
                title = secrets.token_hex(12)
                while not (acknowledged := self._is_acknowledged(client, title)) and not self.wrong:
                    self.uncertain += 1
                    time.sleep(0.05)
                if acknowledged:
                    self.acknowledged.append(title)

    def _is_acknowledged(self, client: httpx.Client, title: str) -> bool:
        try:
            answer = client.post("/v1/todos", json={"title": title}, headers={"Idempotency-Key": title})
        except httpx.TransportError:
            return False
        if answer.status_code not in (201, 409, 503):
            self.wrong = answer.text
            self._end.set()
        return answer.status_code == 201


@pytest.mark.parametrize(
    "kill", [Place.kill_backend, Place.end_all_backends, Place.kill_postmaster, Place.kill_service]
)
def test_no_acknowledged_write_is_lost_or_doubled(
    place: Place,
    users: list[User],
    kill: Callable[[Place], None],
    record_property: Callable[[str, object], None],
) -> None:
    writers = [Writer(place.server.url, user.token) for user in users]

    def are_writing(more: int) -> None:
        """Wait until each of them had so many more writes acknowledged."""
        wanted = [len(writer.acknowledged) + more for writer in writers]
        wait_for(lambda: all(len(w.acknowledged) >= n or w.wrong for w, n in zip(writers, wanted, strict=True)), 60)

    rounds = 0
    try:
        # More of them if need be, until one met a write.
        while rounds < ROUNDS or (rounds < 50 and not any(writer.uncertain for writer in writers)):
            rounds += 1
            are_writing(1)
            kill(place)
            are_writing(3)
    finally:
        for writer in writers:
            writer.stop()
    assert not [writer.wrong for writer in writers if writer.wrong], place.server.log()[-20_000:]
    acknowledged = [title for writer in writers for title in writer.acknowledged]
    with place.admin() as admin:
        counted = "SELECT count(*), count(DISTINCT title) FROM todos WHERE title = ANY (%s)"
        assert admin.execute(counted, (acknowledged,)).fetchone() == (len(acknowledged), len(acknowledged))
    uncertain = sum(writer.uncertain for writer in writers)
    record_property("acknowledged", len(acknowledged))
    record_property("repeated", uncertain)
    print(f"{rounds} times {kill.__name__}: {len(acknowledged)} writes acknowledged, {uncertain} repeated")
    assert uncertain, "no kill met a write"
