"""Through PgBouncer 1.18 in transaction mode, which knows nothing of prepared statements, on one server connection.

With the settings that operators are told, but for the number of connections.
"""

import contextlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from uuid import uuid4

import psycopg
import pytest

from service.embedded import EmbeddedPostgres
from service.embedded.server import as_account
from service.identity.tokens import Tokens
from tests.conftest import Server, TestDatabase, reachable_folder, user_factory
from tests.support.commands import complaint, run
from tests.support.load import Ask, at_once, wait_for
from tests.support.operations import section
from tests.support.ports import free_port

CONFIGURATION = """
[databases]
* = host={socket_dir} port=5432
[pgbouncer]
{told}
default_pool_size = 1
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
"""


@pytest.fixture
def pgbouncer_port(postgres: EmbeddedPostgres) -> Iterator[int]:
    program = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
    if program is None:
        pytest.skip("needs PgBouncer: apt-get install pgbouncer")
    port = free_port()
    with reachable_folder() as folder:
        told = re.findall(r"`(\w+ = \w+)`", section("Several processes"))
        names = ["pool_mode", "max_client_conn", "default_pool_size", "max_prepared_statements"]
        assert [line.partition(" ")[0] for line in told] == names
        version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        major, minor = map(int, re.findall(r"PgBouncer (\d+)\.(\d+)", version)[0])
        told = "\n".join(told if (major, minor) >= (1, 21) else told[:-1])
        configuration = CONFIGURATION.format(socket_dir=postgres.socket_dir, port=port, folder=folder, told=told)
        (folder / "configuration").write_text(configuration)
        (folder / "users").write_text('"todochat_service" ""\n')
        with (folder / "log").open("wb") as log:
            command = [*as_account(postgres.cluster_dir), program, str(folder / "configuration")]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")
        try:
            wait_for(lambda: b"process up" in (folder / "log").read_bytes() or process.poll())
            assert process.poll() is None, (folder / "log").read_text()
            yield port
        finally:
            process.terminate()
            process.wait(10)


def url(database: TestDatabase, port: int) -> str:
    return f"postgresql://todochat_service@127.0.0.1:{port}/{database.name}?sslmode=disable&gssencmode=disable"


def backends(server: Server) -> int:
    with psycopg.connect(server.database.superuser_url) as admin:
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'todochat_service'"
        )
        row = admin.execute(query).fetchone()
        assert row
        return int(row[0])


def test_2000_requests_of_alternating_users_on_one_connection_see_their_own_rows_only(
    start_server: Callable[..., Server], make_database: Callable[[], TestDatabase], pgbouncer_port: int
) -> None:
    database = make_database()
    server = start_server(
        database=database, DATABASE_URL=url(database, pgbouncer_port), DATABASE_PREPARED_STATEMENTS="false"
    )
    with user_factory(server) as new_user:
        users = [new_user() for _ in range(5)]
        owned = [user.client.post("/v1/todos", json={"title": str(user.id)}).json() for user in users]
        ids = {user.token: str(user.id) for user in users}
        asks: list[Ask] = []
        expected: list[int] = []
        for turn in range(400):
            for place, user in enumerate(users):
                ask, status = {
                    0: (Ask("GET", "/v1/todos", user.token), 200),
                    1: (Ask("GET", f"/v1/todos/{owned[place]['id']}", user.token), 200),
                    2: (Ask("GET", f"/v1/todos/{owned[place - 1]['id']}", user.token), 404),
                    3: (Ask("PATCH", f"/v1/todos/{owned[place]['id']}", user.token, {"description": str(turn)}), 200),
                    4: (Ask("PATCH", f"/v1/todos/{owned[place - 1]['id']}", user.token, {"status": "completed"}), 404),
                }[(turn + place) % 5]
                asks.append(ask)
                expected.append(status)
        assert len(asks) == 2000
        answers = at_once(server.url, asks, clients=8)
    assert backends(server) == 1
    assert [answer.status for answer in answers] == expected
    for ask, answer in zip(asks, answers, strict=True):
        if answer.status == 200:
            items = answer.body.get("items", [answer.body])
            assert [(item["user_id"], item["title"]) for item in items] == [(ids[ask.token], ids[ask.token])]
    assert "prepared" not in server.log()


def test_a_command_refuses_to_take_a_role_in_a_session_that_others_get(
    session_database: TestDatabase, pgbouncer_port: int
) -> None:
    there = url(session_database, pgbouncer_port)
    said = complaint(run("users", "list", MIGRATION_DATABASE_URL=there))
    assert "this is a pooler in transaction mode: this needs the database's own address" in said


def test_with_prepared_statements_the_log_says_which_setting_helps(
    start_server: Callable[..., Server], make_database: Callable[[], TestDatabase], pgbouncer_port: int
) -> None:
    database = make_database()
    server = start_server(database=database, ready=False, DATABASE_URL=url(database, pgbouncer_port))

    tokens = Tokens(server.env["JWT_SECRET"], None, 900, 3600)
    asks = [Ask("GET", "/v1/users/me", token=tokens.issue(uuid4(), 1).access_token) for _ in range(20)]

    def is_told() -> bool:
        with contextlib.suppress(OSError):  # it still starts, or it said so at its start and ended
            at_once(server.url, asks)
        return "prepared_statement_refused" in server.log()

    wait_for(is_told, 20)
    assert "set DATABASE_PREPARED_STATEMENTS=false" in server.log()
