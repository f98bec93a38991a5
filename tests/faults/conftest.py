"""A service whose way to the database leads through a proxy of ours."""

import contextlib
import dataclasses
import re
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from service.embedded import EmbeddedPostgres
from tests.conftest import Server, TestDatabase, User, _database_factory, _server_factory, user_factory
from tests.support.load import Ask, Stream, wait_for
from tests.support.proxy import Proxy

POOL_SIZE = 10
OURS = "datname = current_database() AND application_name = 'todochat'"


@dataclasses.dataclass(frozen=True)
class Service:
    """``admin`` is a superuser's connection to the same database, past the proxy; each user has one todo."""

    server: Server
    proxy: Proxy
    admin: "psycopg.Connection[Any]"
    users: list[User]
    todos: list[str]

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def reads(self) -> list[Ask]:
        """A read of each user's todo, by its owner."""
        owned = zip(self.users, self.todos, strict=True)
        return [Ask("GET", f"/v1/todos/{todo}", user.token) for user, todo in owned]

    def creations(self, title: str) -> list[Ask]:
        """One of each user."""
        return [Ask("POST", "/v1/todos", user.token, {"title": title}) for user in self.users]

    def pool(self) -> dict[str, int]:
        """What the service says about its connections: in_use, waiting and size."""
        text = httpx.get(f"{self.url}/metrics").text
        return {
            name: int(float(value)) for name, value in re.findall(r"^todochat_pool_(\w+) (\S+)$", text, re.MULTILINE)
        }

    def wait_until_whole(self) -> None:
        """All connections are open and idle, and the service is ready.

        On a busy machine the server's process of a connection that the service has closed may live on for a while.
        """
        wait_for(lambda: self.pool() == {"in_use": 0, "waiting": 0, "size": POOL_SIZE})
        count = f"SELECT count(*) FROM pg_stat_activity WHERE {OURS}"
        wait_for(lambda: self.admin.execute(count).fetchone() == (POOL_SIZE,))
        self.server.wait_until_ready(5)

    def terminate_all(self) -> int:
        """Have every connection of the service closed by the database, and wait until all of them are."""
        ended = self.admin.execute(
            f"SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS}"
        ).fetchall()
        pids = [pid for pid, _ in ended]
        alive = "SELECT FROM pg_stat_activity WHERE pid = ANY(%s)"
        wait_for(lambda: self.admin.execute(alive, (pids,)).fetchone() is None)
        return len(pids)


@contextlib.contextmanager
def running(postgres: EmbeddedPostgres, database: TestDatabase, folder: Path, users: int) -> Generator[Service]:
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(Proxy(postgres.socket_dir / ".s.PGSQL.5432"))
        start = stack.enter_context(_server_factory(folder, lambda: database))
        server = start(DATABASE_URL=proxy.url(database.service_url))
        new_user = stack.enter_context(user_factory(server))
        found = [new_user() for _ in range(users)]
        todos = [user.client.post("/v1/todos", json={"title": "first"}).json()["id"] for user in found]
        admin = stack.enter_context(psycopg.connect(database.superuser_url, autocommit=True))
        yield Service(server, proxy, admin, found, todos)


@pytest.fixture(scope="session")
def session_service(
    postgres: EmbeddedPostgres, template_database: TestDatabase, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    with (
        _database_factory(postgres, template_database) as make_database,
        running(postgres, make_database(), tmp_path_factory.mktemp("faults"), 6) as service,
    ):
        yield service


@pytest.fixture
def service(session_service: Service) -> Iterator[Service]:
    """A service in good health, which it must find back to after the test."""
    session_service.wait_until_whole()
    yield session_service
    session_service.proxy.resume()
    session_service.wait_until_whole()


@dataclasses.dataclass(frozen=True)
class Outage:
    """A service whose database has been refused since ``began``, and what its clients are answered."""

    service: Service
    stream: Stream
    began: float


_OUTAGE_TEST = "test_an_outage_is_answered_fast_and_the_service_is_back_soon_after_it"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the end of the outage behind all other tests of faults."""
    here = Path(__file__).parent
    mine = [item for item in items if item.path.parent == here]
    ordered = iter(sorted(mine, key=lambda item: getattr(item, "originalname", "") == _OUTAGE_TEST))
    items[:] = [next(ordered) if item.path.parent == here else item for item in items]


@pytest.fixture(scope="session")
def outage(
    postgres: EmbeddedPostgres, template_database: TestDatabase, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outage]:
    with (
        _database_factory(postgres, template_database) as make_database,
        running(postgres, make_database(), tmp_path_factory.mktemp("outage"), 2) as service,
    ):
        asks = [*service.reads, *service.creations("during")]
        asks += [Ask("GET", "/health/live"), Ask("GET", "/health/ready")]
        service.wait_until_whole()
        with Stream(service.url, asks, pause=0.1) as stream:
            wait_for(lambda: len(stream.answers) > 20)
            service.proxy.refuse()
            yield Outage(service, stream, time.monotonic())


@pytest.fixture(autouse=True)
def begin_outage(request: pytest.FixtureRequest) -> None:
    if any(getattr(item, "originalname", "") == _OUTAGE_TEST for item in request.session.items):
        request.getfixturevalue("outage")
