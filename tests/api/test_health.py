"""Liveness, readiness, and the logins that the service refuses to serve with."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql

from service import health
from service.commands.development import OWNER_LOGIN, SERVICE_LOGIN
from service.commands.migrate import upgrade
from service.db.caller import Caller
from service.db.database import Database
from service.db.migration_files import known_ids
from service.embedded import EmbeddedPostgres
from service.problems import Problem, StartupError
from service.settings import Secret, Settings
from tests.conftest import MIGRATIONS, PLAIN_HTTP, Server, TestDatabase


@pytest.fixture(scope="module")
def database(make_module_database: Callable[[], TestDatabase]) -> TestDatabase:
    return make_module_database()


def with_database(url: str, use: Callable[[Database], Awaitable[None]]) -> None:
    """Run ``use`` with a pool on that database."""

    async def run() -> None:
        database = Database(Settings(database_url=Secret(url), database_pool_size=2), lambda *_: None)
        await database.open()
        try:
            await use(database)
        finally:
            await database.close()

    asyncio.run(run())


def as_superuser(database: TestDatabase, statement: str | sql.Composed) -> None:
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        connection.execute(statement)


async def why_not_ready(database: Database, known: list[str], draining: asyncio.Event | None = None) -> tuple[str, str]:
    with pytest.raises(Problem) as caught:
        await health.Readiness(draining or asyncio.Event(), known).check(Caller(database, "test"))
    assert caught.value.status == 503
    return caught.value.code, caught.value.detail


# Over HTTP


def test_liveness_and_readiness_answer_ok(client: httpx.Client) -> None:
    for path in ("/health/live", "/health/ready"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.json() == {"status": "ok"}


def test_without_the_database_the_service_is_alive_but_not_ready(
    start_server: Callable[..., Server], make_database: Callable[[], TestDatabase]
) -> None:
    database = make_database()
    server = start_server(database=database)
    name = sql.Identifier(database.name)
    with psycopg.connect(server.database.superuser_url.replace(database.name, "postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (database.name,))
        deadline = time.monotonic() + 5
        while (answer := httpx.get(f"{server.url}/health/ready", verify=PLAIN_HTTP)).status_code == 200:
            assert time.monotonic() < deadline
        assert answer.status_code == 503
        assert answer.json()["code"] == "database_unavailable"
        assert answer.headers["retry-after"]
        assert httpx.get(f"{server.url}/health/live", verify=PLAIN_HTTP).status_code == 200
        admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
    server.wait_until_ready(10)


def test_readiness_is_red_as_soon_as_the_service_is_told_to_stop(start_server: Callable[..., Server]) -> None:
    server = start_server(SHUTDOWN_DELAY_SECONDS="0.8")
    server.process.terminate()
    deadline = time.monotonic() + 0.7
    while (answer := httpx.get(f"{server.url}/health/ready", verify=PLAIN_HTTP)).status_code == 200:
        assert time.monotonic() < deadline
    assert (answer.json()["code"], answer.json()["detail"]) == ("overloaded", "The service is shutting down.")
    assert answer.headers["connection"] == "close"
    assert httpx.get(f"{server.url}/health/live", verify=PLAIN_HTTP).status_code == 200
    assert server.process.wait(10) == 0


# Readiness


def test_pending_migrations_are_named(database: TestDatabase) -> None:
    known = list(known_ids())

    async def use(pool: Database) -> None:
        await health.Readiness(asyncio.Event(), known).check(Caller(pool, "test"))
        reason = ("database_unavailable", "1 migration is pending: 9998_add_moon.")
        assert await why_not_ready(pool, [*known, "9998_add_moon"]) == reason
        reason = ("database_unavailable", "2 migrations are pending: 9998_add_moon, 9999_add_sun.")
        assert await why_not_ready(pool, [*known, "9999_add_sun", "9998_add_moon"]) == reason

    with_database(database.service_url, use)


def test_a_migration_this_release_does_not_know_is_no_reason(database: TestDatabase) -> None:
    async def use(pool: Database) -> None:
        await health.Readiness(asyncio.Event(), list(known_ids())[:-1]).check(Caller(pool, "test"))

    with_database(database.service_url, use)


def test_a_service_that_shuts_down_is_not_ready_whatever_the_database_says(database: TestDatabase) -> None:
    draining = asyncio.Event()
    draining.set()

    async def use(pool: Database) -> None:
        assert await why_not_ready(pool, [], draining) == ("overloaded", "The service is shutting down.")

    with_database(database.service_url, use)


def test_a_database_that_keeps_the_question_waiting_makes_readiness_red_within_its_time(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "READY_SECONDS", 0.2)

    async def use(pool: Database) -> None:
        readiness = health.Readiness(asyncio.Event(), [])
        with psycopg.connect(database.superuser_url) as blocker:
            blocker.execute("LOCK TABLE _yoyo_migration IN ACCESS EXCLUSIVE MODE")
            started = time.monotonic()
            assert await why_not_ready(pool, []) == ("database_unavailable", "The database does not answer.")
            assert time.monotonic() - started < 1.5
        await readiness.check(Caller(pool, "test"))

    with_database(database.service_url, use)


def test_many_who_ask_at_once_cost_the_database_one_query(
    database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(pool: Database) -> None:
        runs: list[object] = []
        transact = pool.transact

        async def counted(*arguments: Any, **keywords: Any) -> Any:
            runs.append(arguments)
            return await transact(*arguments, **keywords)

        monkeypatch.setattr(pool, "transact", counted)
        readiness = health.Readiness(asyncio.Event(), [])
        await asyncio.gather(*(readiness.check(Caller(pool, "test")) for _ in range(50)))
        assert len(runs) == 1
        await readiness.check(Caller(pool, "test"))
        assert len(runs) == 2

    with_database(database.service_url, use)


# Logins


def refusal(url: str) -> str:
    """What the service says at its start with this login."""
    caught: list[str] = []

    async def use(pool: Database) -> None:
        with pytest.raises(StartupError) as error:
            await health.refuse_unsafe_login(pool)
        caught.append(str(error.value))

    with_database(url, use)
    assert "\n" not in caught[0]
    return caught[0]


@pytest.fixture
def login(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A login that may do what the service's own may, for a test to give more."""
    name = "unsafe_login"
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN IN ROLE todochat_app")
        yield name
        admin.execute(f"DROP ROLE {name}")


def test_the_login_that_create_login_makes_is_accepted(database: TestDatabase) -> None:
    with_database(database.service_url, health.refuse_unsafe_login)


def test_a_login_without_the_settings_of_plans_is_told_how_to_get_them(
    database: TestDatabase, postgres: EmbeddedPostgres, login: str, caplog: pytest.LogCaptureFixture
) -> None:
    with_database(postgres.url(database.name, login), health.refuse_unsafe_login)
    (told,) = caplog.records
    assert told.msg == "login_without_plan_settings"
    as_superuser(database, sql.SQL(vars(told)["hint"].split("`")[1]))
    caplog.clear()
    with_database(postgres.url(database.name, login), health.refuse_unsafe_login)
    assert caplog.records == []


def test_a_database_that_knows_ascii_letters_only_is_told_of(
    postgres: EmbeddedPostgres, template_database: TestDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    del template_database  # whose making made the logins
    name = f"ascii_{secrets.token_hex(4)}"
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute(
            f"CREATE DATABASE {name} OWNER {OWNER_LOGIN} TEMPLATE template0 LOCALE_PROVIDER libc LOCALE 'C'".encode()
        )
        try:
            upgrade(postgres.url(name, OWNER_LOGIN), MIGRATIONS)
            with_database(postgres.url(name, SERVICE_LOGIN), health.refuse_unsafe_login)
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
    assert [record.msg for record in caplog.records] == ["database_of_ascii_letters"]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("ALTER ROLE unsafe_login SUPERUSER", "is a superuser"),
        ("ALTER ROLE unsafe_login BYPASSRLS", "bypasses row security"),
        ("GRANT todochat_owner TO unsafe_login", "owns tables or belongs to their owner (api_keys,"),
        ("CREATE ROLE unsafe_group SUPERUSER; GRANT unsafe_group TO unsafe_login", "may become one"),
        ("CREATE ROLE unsafe_group BYPASSRLS; GRANT unsafe_group TO unsafe_login", "may become a role that does"),
    ],
)
def test_a_login_that_row_security_does_not_bind_is_refused(
    database: TestDatabase, postgres: EmbeddedPostgres, login: str, more: str, reason: str
) -> None:
    as_superuser(database, more)
    try:
        message = refusal(postgres.url(database.name, login))
    finally:
        as_superuser(database, "DROP ROLE IF EXISTS unsafe_group")
    assert reason in message
    assert "todochat create-login NAME" in message
    assert "'unsafe_login'" in message


def test_a_login_that_may_create_temporary_tables_is_refused(make_database: Callable[[], TestDatabase]) -> None:
    database = make_database()
    as_superuser(database, sql.SQL("GRANT TEMP ON DATABASE {} TO PUBLIC").format(sql.Identifier(database.name)))
    assert "may create temporary tables" in refusal(database.service_url)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE todos NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE messages DISABLE ROW LEVEL SECURITY",
        "CREATE TABLE later (user_id uuid)",
        "CREATE TABLE later (user_id uuid); ALTER TABLE later ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    ],
)
def test_a_table_of_users_without_forced_row_security_and_a_policy_is_refused(
    make_database: Callable[[], TestDatabase], change: str
) -> None:
    database = make_database()
    as_superuser(database, f"SET ROLE todochat_owner; {change}")
    message = refusal(database.service_url)
    table = change.split()[2]
    assert f"row security is not enabled and forced, with a policy, on: {table}." in message


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("ALTER TABLE messages OWNER TO postgres", "messages"),
        ("ALTER TABLE sign_in_attempts OWNER TO todochat_admin", "sign_in_attempts"),
        ("ALTER FUNCTION audit() OWNER TO todochat_admin", "audit()"),
        ("ALTER FUNCTION find_credentials(text) OWNER TO postgres", "find_credentials(text)"),
        ("ALTER FUNCTION erase_user(uuid, integer, boolean) OWNER TO postgres", "erase_user(uuid, integer, boolean)"),
        ("ALTER DOMAIN title OWNER TO todochat_admin", "title"),
        ("ALTER TABLE todos OWNER TO postgres; ALTER TABLE users OWNER TO postgres", "todos, users"),
    ],
)
def test_what_another_role_than_todochat_owner_owns_is_refused_with_the_command_that_mends_it(
    make_database: Callable[[], TestDatabase], change: str, what: str
) -> None:
    database = make_database()
    as_superuser(database, change)
    message = refusal(database.service_url)
    assert message.startswith(f"todochat_owner must own {what} and does not, as after a restore by hand")
    assert "run `todochat migrate`, which gives them back" in message
    upgrade(database.superuser_url)
    with_database(database.service_url, health.refuse_unsafe_login)


def test_what_others_own_beside_todochat_is_theirs(make_database: Callable[[], TestDatabase]) -> None:
    database = make_database()
    for statement in (
        "CREATE TABLE theirs (id int, user_id uuid); GRANT SELECT ON theirs TO PUBLIC",
        "CREATE FUNCTION theirs() RETURNS int LANGUAGE sql SECURITY DEFINER RETURN 1",
        "GRANT EXECUTE ON FUNCTION theirs() TO todochat_app",
        "CREATE FUNCTION touch(text) RETURNS text LANGUAGE sql SECURITY DEFINER RETURN $1",
        "CREATE FUNCTION handle_new_user() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN END'",
        "CREATE TRIGGER theirs BEFORE INSERT ON theirs FOR EACH ROW EXECUTE FUNCTION handle_new_user()",
        "CREATE FOREIGN DATA WRAPPER files; CREATE SERVER files FOREIGN DATA WRAPPER files",
        "CREATE FOREIGN TABLE abroad (user_id uuid) SERVER files",
    ):
        as_superuser(database, statement)
    with_database(database.service_url, health.refuse_unsafe_login)
    upgrade(database.superuser_url)
    with psycopg.connect(database.superuser_url) as connection:
        owners = (
            "SELECT proname, pg_get_userbyid(proowner) FROM pg_proc"
            " WHERE oid::regprocedure::text IN ('theirs()', 'touch(text)', 'handle_new_user()')"
            " UNION ALL SELECT relname, pg_get_userbyid(relowner) FROM pg_class WHERE relname IN ('theirs', 'abroad')"
        )
        names = ["abroad", "handle_new_user", "theirs", "theirs", "touch"]
        assert sorted(connection.execute(owners).fetchall()) == [(name, "postgres") for name in names]


def test_a_login_without_the_privileges_of_the_service_is_refused(
    make_database: Callable[[], TestDatabase], postgres: EmbeddedPostgres, login: str
) -> None:
    database = make_database()
    as_superuser(database, f"REVOKE todochat_app FROM {login}")
    message = refusal(postgres.url(database.name, login))
    assert message.startswith(
        f"the database login {login!r} may not read the tables: make one with `todochat create-login`"
    )


def test_a_database_without_tables_is_refused(postgres: EmbeddedPostgres) -> None:
    assert refusal(postgres.url("postgres")) == "the database has no tables yet: run `todochat migrate`"


def test_the_service_says_so_in_one_line_and_ends(
    start_server: Callable[..., Server], make_database: Callable[[], TestDatabase]
) -> None:
    database = make_database()
    server = start_server(database=database, ready=False, DATABASE_URL=database.superuser_url)
    assert server.process.wait(20) == 1
    last = server.log().splitlines()[-1]
    assert last.startswith("todochat: the database login 'postgres' is not safe to serve with: it is a superuser")
    assert "Traceback" not in server.log()
