"""A backend dies in the middle of a write, and the whole server with it starts anew."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from service.embedded import EmbeddedPostgres
from tests.conftest import TEMPLATE, UNSAFE_BUT_FAST, _database, reachable_folder
from tests.faults.conftest import Service, running
from tests.support.load import Ask, at_once, wait_for


@pytest.fixture
def crashing(start_postgres: Callable[..., EmbeddedPostgres], tmp_path: Path) -> Iterator[Service]:
    """A service on a server of its own: a crash takes down every session of it."""
    options = {**UNSAFE_BUT_FAST, "synchronous_commit": "on"}  # else a crash takes the last commits with it
    with (
        reachable_folder() as folder,
        start_postgres(folder / "postgres", options=options) as postgres,
        running(postgres, _database(postgres, TEMPLATE), tmp_path, 1) as service,
    ):
        yield service


def test_a_backend_killed_in_the_middle_of_a_write_leaves_nothing_half_written(crashing: Service) -> None:
    (user,) = crashing.users
    batch = {
        "create": [{"title": "half"}],
        "update": [{"id": crashing.todos[0], "title": "changed"}],
    }
    superuser_url = crashing.server.database.superuser_url
    with ThreadPoolExecutor() as threads, contextlib.closing(psycopg.connect(superuser_url)) as holder:
        holder.execute("SELECT FROM todos WHERE id = %s FOR UPDATE", (crashing.todos[0],))
        writing = threads.submit(at_once, crashing.url, [Ask("POST", "/v1/todos/batch", user.token, batch)])
        blocked = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'todochat'"
        pids = wait_for(lambda: crashing.admin.execute(blocked).fetchall())
        os.kill(pids[0][0], signal.SIGKILL)
        (answer,) = writing.result(10)
    assert (answer.status, answer.code) == (503, "database_unavailable")
    assert answer.retry_after

    def is_down() -> bool:
        """The server ends all its sessions when it hears of the death of one."""
        with contextlib.suppress(psycopg.OperationalError):
            crashing.admin.execute("SELECT")
        return crashing.admin.broken

    def is_back() -> bool:
        return at_once(crashing.url, [Ask("GET", "/v1/todos", user.token)])[0].status == 200

    wait_for(is_down)
    wait_for(is_back)
    titles = [todo["title"] for todo in user.client.get("/v1/todos").json()["items"]]
    assert titles == ["first"]
    again = user.client.post("/v1/todos/batch", json=batch)
    assert again.status_code == 200, again.text
    assert again.json()["create"][0]["number"] == 2
