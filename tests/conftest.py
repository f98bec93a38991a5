"""What the tests share: real PostgreSQL servers, clones of a migrated database, the service as a process, users.

Tests stay apart by using fresh users, not fresh databases, wherever that is enough.
"""

import contextlib
import dataclasses
import fcntl
import gc
import itertools
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
import pytest_timeout
from argon2 import PasswordHasher
from psycopg import sql

from service.commands.development import OWNER_LOGIN, SERVICE_LOGIN, migrate_database, prepare_database
from service.commands.migrate import upgrade
from service.db.migration_files import DEFAULT_DIRECTORY
from service.embedded import EmbeddedPostgres
from service.http.fields import new_id
from service.identity.tokens import Tokens
from tests.support.forked import Forked
from tests.support.ports import free_port

REPOSITORY = Path(__file__).parent.parent
POSTGRES_15 = Path("/usr/lib/postgresql/15/bin")
POSTGRES_BIN = os.environ.get("TEST_POSTGRES_BIN")
"""The folder of another PostgreSQL's programs, on which the tests run instead of that of the wheel."""
MIGRATIONS = Path(os.environ.get("TEST_MIGRATIONS", DEFAULT_DIRECTORY))
"""The folder of other migrations, of a later release, on which this one is tested."""
TEMPLATE = "todochat_template"
PASSWORD = "correct horse battery staple"
UNSAFE_BUT_FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "wal_level": "logical",  # for tests that look into the log for what really changed
}
MEMORY = Path("/dev/shm")
"""Where Linux keeps files in memory."""
MEMORY_BYTES = 4 * 1024**3
"""What must be free there: the suite's files take 1.7 GiB at most."""
STARTUP_SECONDS = 30.0
FIRST = (
    *("outage", "backup", "processes", "event_loop", "feed", "commands", "edge", "issuer_outages", "bounds", "scale"),
    *("migrate", "bench", "isolation", "revocation", "trail", "queries", "crowd", "embedded", "openapi", "better_auth"),
    *("telemetry", "budget", "locks", "upgrade", "refusals", "large_answers", "shutdown", "db", "sign_in", "stall"),
)
"""Files that take long, in the order in which they begin; one that mostly waits stands between files that work."""
PLAIN_HTTP = httpx.create_ssl_context()
"""One for all clients: each would read the system's certificates anew, which takes longer than most tests."""
KEPT = httpx.Limits(max_keepalive_connections=None, keepalive_expiry=None)
"""For clients that threads share: httpcore closes idle connections, at times one that a thread has just been given."""

for _name in [name for name in os.environ if name.startswith("PG")]:  # libpq would take defaults from them
    del os.environ[_name]


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # until all is imported
    if "PYTEST_XDIST_WORKER" not in os.environ:
        config.add_cleanup(keep_files_in_memory())
    config.addinivalue_line("markers", "root: needs to run as root; left out otherwise")
    config.addinivalue_line("markers", "every_column: names all columns of a table; left out on a later release's")


def keep_files_in_memory() -> Callable[[], None]:
    """Have all temporary files made there, by whatever process, if there is room; what removes them.

    On a disk, the file system spends a fifth of the suite's time on the many files of short-lived databases.
    """
    for folder in MEMORY.glob("todochat-tests-*"):
        if not Path("/proc", folder.name.rpartition("-")[2]).exists():  # its process was killed
            with contextlib.suppress(OSError):
                shutil.rmtree(folder, onerror=_remove_in_closed_folder)
    runs_programs = os.access(MEMORY, os.W_OK) and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
    if not runs_programs or shutil.disk_usage(MEMORY).free < MEMORY_BYTES:
        return lambda: None
    get_temp_dir()  # multiprocessing's own, which it removes when the process ends, and by then all others are gone
    folder = MEMORY / f"todochat-tests-{os.getpid()}"
    folder.mkdir(mode=0o711)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    return lambda: shutil.rmtree(folder, onerror=_remove_in_closed_folder)


def _remove_in_closed_folder(_: Callable[..., object], path: str, __: object) -> None:
    """Some tests leave a folder that nobody may write to, which stops all users but root."""
    Path(path).parent.chmod(0o700)
    if Path(path).is_dir():
        Path(path).chmod(0o700)
        shutil.rmtree(path, onerror=_remove_in_closed_folder)
    else:
        Path(path).unlink()


def pytest_collection_finish() -> None:
    """What was imported stays: nobody need look for garbage in it."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    places = {f"test_{name}": place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
    without = {"root"} if os.geteuid() != 0 else set[str]()
    if MIGRATIONS != DEFAULT_DIRECTORY:
        without.add("every_column")
    left_out = [item for item in items if without & {marker.name for marker in item.iter_markers()}]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where CI is set, nothing may be left out silently: a skip is a failure."""
    report = yield
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, which CI does not accept: {call.excinfo and call.excinfo.value}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_exception_interact(node: pytest.Item, report: object) -> Generator[None]:
    """A subtest that fails ends its test's time limit: the limit begins anew, or the next might hang for ever."""
    yield
    if isinstance(report, pytest.SubtestReport):
        settings = pytest_timeout._get_item_settings(node)
        node.config.hook.pytest_timeout_set_timer(item=node, settings=settings)


# PostgreSQL


@contextlib.contextmanager
def reachable_folder() -> Iterator[Path]:
    """A temporary folder that the account which runs root's server can pass through."""
    folder = Path(tempfile.mkdtemp(prefix="todochat tests "))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def start_postgres(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., EmbeddedPostgres]:
    """Call it for a server of the test's own with the migrated database TEMPLATE: ``start_postgres(folder, …)``.

    Its data is made once for all processes that run tests, and copied: that takes a fourth of the time.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def made(bin_dir: Path | None) -> Path:
        cluster = shared / f"cluster of {bin_dir.parent.name if bin_dir else 'the wheel'}"
        with (shared / "cluster.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not cluster.exists():
                with EmbeddedPostgres(shared / "making", bin_dir=bin_dir, options=UNSAFE_BUT_FAST) as server:
                    urls = prepare_database(server, TEMPLATE)
                    upgrade(urls.owner, MIGRATIONS)
                    migrate_database(server, urls)
                server.cluster_dir.rename(cluster)
        return cluster

    def start(
        folder: Path, *, bin_dir: Path | None = None, options: Mapping[str, str] = UNSAFE_BUT_FAST
    ) -> EmbeddedPostgres:
        server = EmbeddedPostgres(folder, bin_dir=bin_dir, options=options)
        folder.mkdir(parents=True)
        subprocess.run([shutil.which("cp") or "cp", "-a", made(bin_dir), server.cluster_dir], check=True)
        return server

    return start


@pytest.fixture(scope="session")
def postgres(start_postgres: Callable[..., EmbeddedPostgres]) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server for this session, of the version in the wheel; its URL names a superuser by default."""
    bin_dir = Path(POSTGRES_BIN) if POSTGRES_BIN else None
    with reachable_folder() as folder, start_postgres(folder / "postgres", bin_dir=bin_dir) as server:
        yield server


@pytest.fixture(scope="session")
def postgres15(start_postgres: Callable[..., EmbeddedPostgres]) -> Iterator[EmbeddedPostgres]:
    """A server of the oldest version supported."""
    if not (POSTGRES_15 / "postgres").exists():
        pytest.skip("needs PostgreSQL 15: apt-get install postgresql-15")
    with reachable_folder() as folder, start_postgres(folder / "postgres", bin_dir=POSTGRES_15) as server:
        yield server


@dataclasses.dataclass(frozen=True)
class TestDatabase:
    """A database with the whole schema, and how to reach it as the service, as who migrates, and as a superuser."""

    __test__ = False

    name: str
    service_url: str
    owner_url: str
    superuser_url: str


@pytest.fixture(scope="session")
def template_database(postgres: EmbeddedPostgres) -> TestDatabase:
    """A migrated database to clone; nobody connects to it."""
    return _database(postgres, TEMPLATE)


def _database(server: EmbeddedPostgres, name: str) -> TestDatabase:
    return TestDatabase(name, server.url(name, SERVICE_LOGIN), server.url(name, OWNER_LOGIN), server.url(name))


@contextlib.contextmanager
def _database_factory(server: EmbeddedPostgres, template: TestDatabase) -> Iterator[Callable[[], TestDatabase]]:
    names: list[str] = []

    def make() -> TestDatabase:
        name = f"test_{secrets.token_hex(6)}"
        parts = {
            "name": sql.Identifier(name),
            "template": sql.Identifier(template.name),
            "owner": sql.Identifier(OWNER_LOGIN),
        }
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {name} TEMPLATE {template} OWNER {owner} STRATEGY FILE_COPY").format(**parts)
            )
            names.append(name)
            # A clone has neither the privileges nor the settings of its template.
            connection.execute(
                "UPDATE pg_database AS d SET datacl = t.datacl FROM pg_database AS t"
                " WHERE t.datname = %s AND d.datname = %s",
                (template.name, name),
            )
            connection.execute(
                "INSERT INTO pg_db_role_setting SELECT d.oid, s.setrole, s.setconfig FROM pg_db_role_setting s"
                " JOIN pg_database t ON t.oid = s.setdatabase AND t.datname = %s JOIN pg_database d ON d.datname = %s",
                (template.name, name),
            )
        return _database(server, name)

    try:
        yield make
    finally:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            for name in names:
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def make_database(postgres: EmbeddedPostgres, template_database: TestDatabase) -> Iterator[Callable[[], TestDatabase]]:
    """Call it for a database of the test's own, with the whole schema and no rows."""
    with _database_factory(postgres, template_database) as make:
        yield make


@pytest.fixture(scope="module")
def make_module_database(
    postgres: EmbeddedPostgres, template_database: TestDatabase
) -> Iterator[Callable[[], TestDatabase]]:
    """The same for a database that a module's tests share."""
    with _database_factory(postgres, template_database) as make:
        yield make


@pytest.fixture(scope="session")
def session_database(postgres: EmbeddedPostgres, template_database: TestDatabase) -> Iterator[TestDatabase]:
    """The database that the session's server works on."""
    with _database_factory(postgres, template_database) as make:
        yield make()


# The service


def service_environment(**env: str) -> dict[str, str]:
    """This process's environment without any setting of the service, and with ``env``."""
    names = (
        "DATABASE_",
        "MIGRATION_",
        "JWT_",
        "HOST",
        "PORT",
        "METRICS_",
        "CORS_",
        "FORWARDED_",
        "SHUTDOWN_",
        "LOG_",
        "EMBEDDED_",
        "ISSUER",
        "LOCAL_",
        "OTEL_",
        "LISTEN_",
        "NOTIFY_",
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    return {**inherited, "PYTHONUNBUFFERED": "1", **env}


@dataclasses.dataclass
class Server:
    """The service, running as a process of its own."""

    url: str
    database: TestDatabase
    log_path: Path
    env: dict[str, str]
    process: Forked

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        """What it printed up to now."""
        return self.log_path.read_text(errors="replace")

    def wait_until_ready(self, seconds: float = STARTUP_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health/ready", timeout=5, verify=PLAIN_HTTP).status_code == 200:
                    return
            if self.process.poll() is not None or time.monotonic() > deadline:
                state = "ended" if self.process.poll() is not None else f"not ready after {seconds} s"
                pytest.fail(f"the service is {state}; it said:\n{self.log()[-4000:]}")
            time.sleep(0.02)

    def stop(self, seconds: float = 20.0) -> int:
        """Ask it to end; its exit status. One that stays longer than ``seconds`` is killed, and the test fails."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"the service did not end within {seconds} s of SIGTERM; it said:\n{self.log()[-4000:]}")


@contextlib.contextmanager
def _server_factory(folder: Path, make_database: Callable[[], TestDatabase]) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(
        *, database: TestDatabase | None = None, ready: bool = True, module: str = "service", **env: str
    ) -> Server:
        database = database or make_database()
        port = env.get("PORT") or str(free_port())
        settings = {
            "DATABASE_URL": database.service_url,
            "JWT_SECRET": secrets.token_hex(32),
            "SHUTDOWN_DELAY_SECONDS": "0",
            **env,
            "PORT": port,
        }
        log_path = folder / f"service-{port}-{len(servers)}.log"
        environment = service_environment(**settings)
        process = Forked([module, "serve"], cwd=REPOSITORY, env=environment, log_path=log_path)
        server = Server(f"http://127.0.0.1:{port}", database, log_path, environment, process)
        servers.append(server)
        if ready:
            server.wait_until_ready()
        return server

    try:
        yield start
    finally:
        for server in servers:
            if server.process.poll() is None:
                server.process.send_signal(signal.SIGCONT)
                server.process.send_signal(signal.SIGTERM)
        for server in servers:
            try:
                server.process.wait(20)
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()


@pytest.fixture(scope="session")
def server(session_database: TestDatabase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service on a database of its own, shared by the session's tests."""
    with _server_factory(tmp_path_factory.mktemp("service"), lambda: session_database) as start:
        yield start()


@pytest.fixture
def start_server(tmp_path: Path, make_database: Callable[[], TestDatabase]) -> Iterator[Callable[..., Server]]:
    """Call it for a service of the test's own: ``start_server(database=…, ready=…, NAME="value", …)``."""
    with _server_factory(tmp_path, make_database) as start:
        yield start


@pytest.fixture(scope="module")
def start_module_server(
    tmp_path_factory: pytest.TempPathFactory, make_module_database: Callable[[], TestDatabase]
) -> Iterator[Callable[..., Server]]:
    """The same for services that a module's tests share."""
    with _server_factory(tmp_path_factory.mktemp("service"), make_module_database) as start:
        yield start


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[httpx.Client]:
    """A client of the session's service that is not signed in."""
    with httpx.Client(base_url=server.url, timeout=10, verify=PLAIN_HTTP, limits=KEPT) as found:
        yield found


@pytest.fixture(scope="session")
def superuser(session_database: TestDatabase) -> "Iterator[psycopg.Connection[Any]]":
    """A superuser's look at the database of the session's service."""
    with psycopg.connect(session_database.superuser_url, autocommit=True) as connection:
        yield connection


@dataclasses.dataclass(frozen=True)
class User:
    """A registered user who is signed in; ``client`` sends the token."""

    id: UUID
    email: str
    token: str
    client: httpx.Client
    password: str = PASSWORD


_numbers = itertools.count(1)


_hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


def connect_as_service(url: str) -> "psycopg.Connection[Any]":
    """A connection for `insert_user`; ``url`` is the service's login."""
    return psycopg.connect(url, autocommit=True, options="-c idle_in_transaction_session_timeout=0")


def insert_user(connection: "psycopg.Connection[Any]", fields: dict[str, object]) -> UUID:
    """What registering does, with a hash that is made and checked fast."""
    user_id = new_id()
    row = {"username": None, "full_name": None, **fields, "id": user_id}
    row["password_hash"] = _hasher.hash(str(row.pop("password")))
    with connection.transaction():
        connection.execute(sql.SQL("SET LOCAL app.user_id = {}").format(str(user_id)))
        connection.execute("SET LOCAL app.request_id = 'registration'")
        names = sql.SQL(", ").join(map(sql.Identifier, row))
        places = sql.SQL(", ").join(map(sql.Placeholder, row))
        connection.execute(sql.SQL("INSERT INTO users ({}) VALUES ({})").format(names, places), row)
    return user_id


@contextlib.contextmanager
def user_factory(
    server: Server, registrations: "psycopg.Connection[Any] | None" = None
) -> Generator[Callable[..., User]]:
    """Makes users of any server. Rows and tokens are made here, as the service would: that spares hashing passwords.

    ``registrations`` is a connection to its database; without one, each user takes a connection of their own.
    """
    tokens = Tokens(server.env["JWT_SECRET"], None, 900, 3600)
    with contextlib.ExitStack() as clients:

        def make(**fields: object) -> User:
            number = next(_numbers)
            body = {"email": f"user{number}-{secrets.token_hex(4)}@example.com", "password": PASSWORD, **fields}
            if registrations is None:
                with connect_as_service(server.database.service_url) as connection:
                    user_id = insert_user(connection, body)
            else:
                user_id = insert_user(registrations, body)
            token = tokens.issue(user_id, 1).access_token
            headers = {"Authorization": f"Bearer {token}"}
            own = clients.enter_context(
                httpx.Client(base_url=server.url, headers=headers, timeout=10, verify=PLAIN_HTTP, limits=KEPT)
            )
            return User(user_id, str(body["email"]), token, own, str(body["password"]))

        yield make


@pytest.fixture(scope="session")
def registrations(session_database: TestDatabase) -> "Iterator[psycopg.Connection[Any]]":
    """One connection for all users of the session's service: opening it takes longer than making a user."""
    with connect_as_service(session_database.service_url) as connection:
        yield connection


@pytest.fixture
def new_user(server: Server, registrations: "psycopg.Connection[Any]") -> Iterator[Callable[..., User]]:
    """Call it for a fresh user of the session's service; keywords go into the registration."""
    with user_factory(server, registrations) as make:
        yield make


@pytest.fixture(scope="module")
def new_module_user(server: Server, registrations: "psycopg.Connection[Any]") -> Iterator[Callable[..., User]]:
    """The same for users whom a module's tests share."""
    with user_factory(server, registrations) as make:
        yield make
