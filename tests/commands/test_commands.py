"""The command line and the Makefile: what goes right, and one clear line for everything that commonly goes wrong."""

import contextlib
import itertools
import json
import os
import pty
import re
import secrets
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import psycopg
import pytest

from service.commands import main
from service.db.loading import TEXTS
from service.db.migration_files import known_ids, load
from service.embedded import EmbeddedPostgres
from service.settings import describe_settings
from tests.conftest import (
    REPOSITORY,
    Server,
    TestDatabase,
    User,
    connect_as_service,
    insert_user,
    reachable_folder,
    service_environment,
)
from tests.support.commands import as_migrator, complaint, run, run_process
from tests.support.ports import free_port

SECRET = secrets.token_hex(32)
PASSWORD = "do-not-print-me"


COMMANDS = [
    ["migrate"],
    ["rollback"],
    ["status"],
    ["create-login"],
    ["users", "list"],
    ["users", "deactivate", "a@b.example"],
    ["users", "erase", "a@b.example"],
    ["prune"],
    ["backup", "file.backup"],
    ["export", "a@b.example"],
    ["import", "a@b.example", "README.md"],
]


def test_a_database_that_is_down_is_said_in_one_line_without_its_password(subtests: pytest.Subtests) -> None:
    url = f"postgresql://someone:{PASSWORD}@127.0.0.1:{free_port()}/todochat"
    for command in COMMANDS:
        with subtests.test(" ".join(command)):
            line = complaint(run(*command, DATABASE_URL=url))
            assert "can't connect to 127.0.0.1" in line
            assert "DATABASE_URL" in line
            assert PASSWORD not in line


def test_serving_from_a_database_that_is_down_is_said_in_one_line_without_its_password() -> None:
    url = f"postgresql://someone:{PASSWORD}@127.0.0.1:{free_port()}/todochat"
    done = run_process("serve", DATABASE_URL=url, JWT_SECRET=SECRET, PORT=str(free_port()))
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("todochat: ")]
    assert len(lines) == 1, done.stderr
    assert "database" in lines[0]
    assert "Traceback" not in done.stderr + done.stdout
    assert PASSWORD not in done.stderr + done.stdout


def test_a_database_host_that_can_be_none_is_said_in_one_line() -> None:
    assert "can't connect to a..b" in complaint(run("status", DATABASE_URL="postgresql://someone@a..b/todochat"))


def test_a_wrong_url_is_said_with_what_a_right_one_looks_like(subtests: pytest.Subtests) -> None:
    wrong = (f"mysql://u:{PASSWORD}@localhost/x", f"postgresql://u:{PASSWORD}@localhost:port/x")
    for command, url in itertools.product(COMMANDS, wrong):
        with subtests.test(" ".join(command), url=url):
            line = complaint(run(*command, DATABASE_URL=url))
            assert line.startswith("todochat: DATABASE_URL ")
            assert PASSWORD not in line


def test_a_wrong_password_and_a_missing_database_are_said(session_database: TestDatabase) -> None:
    missing = session_database.owner_url.replace(session_database.name, "no_such_database")
    assert '"no_such_database" does not exist' in complaint(run("status", DATABASE_URL=missing))


def test_all_bad_settings_are_said_at_once_and_no_secret_among_them() -> None:
    bad = {
        "DATABASE_URL": f"oracle://{PASSWORD}",
        "PORT": "http",
        "JWT_SECRET": PASSWORD,
        "DATABASE_POOL_SIZE": "0",
        "LOG_LEVEL": "loud",
        "SHUTDOWN_GRACE_SECONDS": "soon",
    }
    done = run_process("serve", **bad)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert all(line.startswith("todochat: ") for line in lines)
    assert {line.split()[1] for line in lines} == bad.keys()
    assert PASSWORD not in done.stderr + done.stdout


def test_a_configured_database_is_not_served_without_a_secret(session_database: TestDatabase) -> None:
    line = complaint(run_process("serve", DATABASE_URL=session_database.service_url))
    assert "JWT_SECRET is missing" in line
    assert "openssl rand -hex 32" in line


def test_the_embedded_database_is_not_served_in_the_place_of_one_that_is_migrated(tmp_path: Path) -> None:
    url = f"postgresql://someone:{PASSWORD}@127.0.0.1:{free_port()}/todochat"
    line = complaint(run_process("serve", MIGRATION_DATABASE_URL=url, EMBEDDED_DATA_DIR=str(tmp_path / "data")))
    assert line.startswith("todochat: DATABASE_URL is missing: ")
    assert PASSWORD not in line
    assert not (tmp_path / "data").exists()


def test_a_taken_port_is_said_before_a_database_is_started(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        line = complaint(run_process("serve", PORT=str(port), EMBEDDED_DATA_DIR=str(tmp_path / "data")))
    assert line == f"todochat: port {port} is taken: set PORT=… or stop the other program"
    assert not (tmp_path / "data").exists()


def test_a_login_that_row_security_does_not_bind_is_not_served(session_database: TestDatabase) -> None:
    for url in (session_database.owner_url, session_database.superuser_url):
        done = run_process("serve", DATABASE_URL=url, JWT_SECRET=SECRET, PORT=str(free_port()))
        assert done.returncode == 1
        lines = [line for line in done.stderr.splitlines() if line.startswith("todochat: ")]
        assert len(lines) == 1, done.stderr
        assert "create-login" in lines[0]


def test_a_data_folder_that_can_not_be_used_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = complaint(run("status", EMBEDDED_DATA_DIR=str(tmp_path / "file")))
    assert "can't be" in line


def test_an_old_python_is_told_which_one_it_takes() -> None:
    text = (REPOSITORY / "service" / "__main__.py").read_text()
    program = f"import sys; sys.version_info = (3, 9, 2); exec(compile({text!r}, 'main', 'exec'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 1
    assert done.stderr == "todochat: needs Python 3.11 or later, this is 3.9\n"


def test_every_command_has_help_that_says_what_it_does() -> None:
    listed = run("--help").stdout.partition("Commands:")[2].partition("Settings")[0]
    names = re.findall(r"^  ([a-z-]+)", listed, re.MULTILINE)
    commands = {"serve", "migrate", "rollback", "status", "create-login", "users", "queries", "demo", "prune"}
    commands |= {"export", "import", "backup", "restore"}
    assert commands == set(names)
    for name in names:
        done = run(name, "--help")
        assert done.returncode == 0
        assert f"Usage: todochat {name}" in done.stdout
        assert main.COMMANDS[name][1] in " ".join(done.stdout.split()), "the list says what the command says of itself"


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (["serf"], "No such command 'serf'"),
        (["users", "lst"], "No such command 'lst'"),
        (["export"], "Missing argument 'ACCOUNT'"),
        (["status", "--fast"], "No such option '--fast'"),
        (["--fast"], "No such option '--fast'"),
        (["rollback", "--count", "0"], "Invalid value for '--count': 0 is not in the range x>=1"),
        (["create-login", "--password-file", "nowhere"], "'nowhere': No such file or directory"),
    ],
)
def test_a_command_line_that_can_not_be_understood_is_said_in_one_line(command: list[str], line: str) -> None:
    done = run(*command)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("todochat: ")
    assert line in done.stderr
    assert "--help" in done.stderr


def test_migrations_go_down_and_up_and_status_says_so(make_database: Callable[[], TestDatabase]) -> None:
    env = as_migrator(make_database())
    newest = known_ids()[-1]
    assert run("status", **env).stdout.splitlines()[-1].startswith(f"applied  {newest} ")
    assert run("rollback", "--yes", **env).stdout == f"rolled back {newest}\n"
    done = run("status", **env)
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == f"pending  {newest}"
    done = run("migrate", **env)
    assert done.stdout == f"applied {newest}\n"
    assert done.stderr == f"todochat: 1 of 1, {newest}: {load()[-1].purpose}\n"
    assert run("migrate", **env).stdout == "nothing to do: every migration is applied\n"
    assert run("rollback", "--count", "99", "--yes", **env).stdout.splitlines()[-1] == f"rolled back {known_ids()[0]}"
    assert run("rollback", "--yes", **env).stdout == "nothing to do: no migration is applied\n"


# What can't be undone


@pytest.fixture
def filled(make_database: Callable[[], TestDatabase]) -> TestDatabase:
    """A database whose todos have been rolled back to be the latest, with three of them."""
    database = make_database()
    with connect_as_service(database.service_url) as connection:
        user_id = insert_user(connection, {"email": "ada@example.com", "password": PASSWORD})
    with psycopg.connect(database.service_url) as connection:
        connection.execute(f"SET LOCAL app.user_id = '{user_id}'".encode())
        connection.execute("INSERT INTO todos (user_id, title) SELECT %s, 'x' FROM generate_series(1, 3)", [user_id])
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        connection.execute("ANALYZE")
    return database


def on_a_terminal(answer: str | signal.Signals, *arguments: str, **env: str) -> tuple[int, str]:
    """Run a command on a terminal, answer its question; its exit status, and what the terminal shows."""
    controller, terminal = pty.openpty()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or a child of a background job would ignore it
    process = subprocess.Popen(
        [sys.executable, "-m", "service", *arguments],
        cwd=REPOSITORY,
        env=service_environment(**env),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    shown, answered = b"", False
    repeat = 1 if answer is signal.SIGINT else None
    with contextlib.suppress(OSError):  # the terminal's end
        while True:
            if not select.select([controller], [], [], repeat if answered else None)[0]:
                # A signal that came just before the command began to read did not interrupt its reading.
                process.send_signal(signal.SIGINT)
            elif not (piece := os.read(controller, 65_536)):
                break
            else:
                shown += piece
                if b"Go on?" in shown and not answered:
                    answered = True
                    if isinstance(answer, signal.Signals):
                        process.send_signal(answer)
                    else:
                        os.write(controller, answer.encode())
    os.close(controller)
    assert answered, shown
    return process.wait(30), shown.decode().replace("\r\n", "\n")


def tables_of(database: TestDatabase) -> set[str]:
    with psycopg.connect(database.superuser_url) as connection:
        return {row[0] for row in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}


def test_a_rollback_says_which_tables_it_loses_and_does_nothing_unless_told_to(filled: TestDatabase) -> None:
    count = len(known_ids()) - 3
    command = ["rollback", "--count", str(count)]
    line = complaint(run(*command, **as_migrator(filled)))
    assert "rolls back 0004_create_todos: Drop the tables of todos with their rules. All todos are lost" in line
    assert "drops public.todos (about 3 rows); drops public.todo_counters (about 1 rows)" in line
    assert line.endswith("--yes")

    status, shown = on_a_terminal("n\n", *command, **as_migrator(filled))
    assert status == 1
    assert "todochat: drops public.todos (about 3 rows)\n" in shown
    assert shown.splitlines()[-1] == "todochat: nothing was done"
    assert "todos" in tables_of(filled)

    status, shown = on_a_terminal("y\n", *command, **as_migrator(filled))
    assert (status, shown.splitlines()[-1]) == (0, "rolled back 0004_create_todos")
    assert {"todos", "messages"}.isdisjoint(tables := tables_of(filled))
    assert "users" in tables
    assert run(*command, "--yes", **as_migrator(filled)).returncode == 0
    assert "users" not in tables_of(filled)


def test_an_account_is_erased_only_when_that_was_confirmed(filled: TestDatabase) -> None:
    command = ["users", "erase", "ada@example.com"]
    line = complaint(run(*command, **as_migrator(filled)))
    assert "erases ada@example.com with all todos" in line
    status, _ = on_a_terminal("\n", *command, **as_migrator(filled))
    assert status == 1
    assert "ada@example.com" in run("users", "list", **as_migrator(filled)).stdout
    status, shown = on_a_terminal("y\n", *command, **as_migrator(filled))
    assert (status, shown.splitlines()[-1]) == (0, "ada@example.com is erased")
    assert "ada@example.com" not in run("users", "list", **as_migrator(filled)).stdout


def test_ctrl_c_at_the_question_leaves_all_as_it_is(filled: TestDatabase) -> None:
    status, _ = on_a_terminal(signal.SIGINT, "users", "erase", "ada@example.com", **as_migrator(filled))
    assert status == 130
    assert "ada@example.com" in run("users", "list", **as_migrator(filled)).stdout


def test_a_reader_that_has_gone_ends_a_command_quietly(filled: TestDatabase) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "service", "users", "list"]
    env = service_environment(**as_migrator(filled))
    done = subprocess.run(command, cwd=REPOSITORY, env=env, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("what", ["queries", "--help"])
def test_a_full_disk_behind_standard_output_is_said_in_one_line(what: str) -> None:
    command = [sys.executable, "-m", "service", what]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, cwd=REPOSITORY, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "todochat: can't go on: No space left on device\n")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("import ada@example.com - <&-", "can't go on: Bad file descriptor"),
        ("create-login other --password-file - <&-", "can't read the password from "),
        ("users erase ada@example.com <&-", "this can't be undone, and nobody is here to be asked: "),
        ("export ada@example.com >&-", "can't go on: Bad file descriptor"),
        ("users list >&-", "can't go on: Bad file descriptor"),
    ],
)
def test_a_standard_stream_that_is_closed_is_said_in_one_line(filled: TestDatabase, command: str, told: str) -> None:
    done = in_shell(f"'{sys.executable}' -m service {command}", filled)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("export  ")]  # which is its progress
    assert line.startswith(f"todochat: {told}")


def test_what_is_said_where_standard_error_is_closed_gets_into_nothing_else(filled: TestDatabase) -> None:
    done = in_shell(f"'{sys.executable}' -m service users activate nobody@example.com 2>&-", filled)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_an_account_that_is_not_named_in_utf_8_is_said_in_one_line(filled: TestDatabase) -> None:
    done = in_shell(f"'{sys.executable}' -m service users activate $(printf '\\377@example.com')", filled)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "todochat: no account has the address \\udcff@example.com\n"


def in_shell(command: str, database: TestDatabase) -> "subprocess.CompletedProcess[str]":
    env = service_environment(**as_migrator(database))
    return subprocess.run(
        ["/bin/sh", "-c", command], cwd=REPOSITORY, env=env, capture_output=True, text=True, check=False
    )


def test_help_is_quick_and_lists_every_setting() -> None:
    program = (
        "import sys; from service.commands.main import main; main(['--help'], standalone_mode=False);"
        "print('slow:', *{'psycopg', 'litestar', 'rich', 'yoyo', 'asyncio', 'httpx'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.splitlines()[-1] == "slow:"
    words = " ".join(done.stdout.split())
    for name, default, meaning in describe_settings():
        assert f"{name} {meaning} [default: {default}]" in words


def test_status_fails_when_an_applied_migration_is_not_the_one_in_the_files(
    make_database: Callable[[], TestDatabase],
) -> None:
    database = make_database()
    with psycopg.connect(database.superuser_url) as connection:
        connection.execute("UPDATE _yoyo_migration SET checksum = 'another' WHERE migration_id = '0003_create_users'")
    done = run("status", **as_migrator(database))
    assert done.returncode == 1
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("changed")] == ["0003_create_users"]
    assert done.stderr.startswith("todochat: 0003_create_users.sql was edited after it was applied on ")
    assert len(done.stderr.splitlines()) == 1


def test_the_migrating_url_goes_before_the_services(session_database: TestDatabase) -> None:
    nowhere = f"postgresql://someone@127.0.0.1:{free_port()}/todochat"
    assert run("status", **as_migrator(session_database, DATABASE_URL=nowhere)).returncode == 0


def test_create_login_makes_a_login_that_can_be_served_with(make_database: Callable[[], TestDatabase]) -> None:
    database, name = make_database(), f"service_{secrets.token_hex(4)}"
    try:
        done = run("create-login", name, **as_migrator(database))
        assert done.stderr == ""
        url = done.stdout.removeprefix("DATABASE_URL=").strip()
        assert len(urlsplit(url).password or "") > 20
        with psycopg.connect(url) as connection:
            row = connection.execute("SELECT current_user, pg_has_role('todochat_app', 'member')").fetchone()
        assert row == (name, True)
    finally:
        with psycopg.connect(database.superuser_url, autocommit=True) as connection:
            connection.execute(f"DROP ROLE {name}".encode())


def test_create_login_gives_a_login_that_is_in_use_another_password_only_after_asking(
    make_database: Callable[[], TestDatabase],
) -> None:
    database, name = make_database(), f"service_{secrets.token_hex(4)}"
    command, env = ["create-login", name], as_migrator(database)
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:

        def verifier() -> object:
            query = "SELECT rolpassword FROM pg_authid WHERE rolname = %s"
            return connection.execute(query, [name]).fetchone()

        assert run(*command, **env).returncode == 0
        try:
            first = verifier()
            done = run(*command, **env)
            before = verifier()
            assert before != first, "nobody uses it, so nobody is asked"
            with psycopg.connect(done.stdout.strip().removeprefix("DATABASE_URL=")):
                line = complaint(run(*command, **env))
                assert f"gives {name}, with 1 open connection, another password" in line
                assert line.endswith("; go on with --yes")
                status, shown = on_a_terminal("n\n", *command, **env)
            assert status == 1
            assert shown.endswith("todochat: nothing was done\n")
            assert verifier() == before
            assert run(*command, "--yes", **env).stdout.startswith("DATABASE_URL=")
            assert verifier() != before
        finally:
            connection.execute(f"DROP ROLE {name}".encode())


def test_create_login_does_not_repeat_a_password_that_it_was_given(make_database: Callable[[], TestDatabase]) -> None:
    database, name = make_database(), f"service_{secrets.token_hex(4)}"
    try:
        done = run("create-login", name, "--password-file", "-", stdin=f"{PASSWORD} & more\n", **as_migrator(database))
        assert done.stdout.startswith(f"DATABASE_URL=postgresql://{name}:PASSWORD@")
        assert PASSWORD not in done.stdout + done.stderr
        assert quote(PASSWORD) not in done.stdout + done.stderr
    finally:
        with psycopg.connect(database.superuser_url, autocommit=True) as connection:
            connection.execute(f"DROP ROLE {name}".encode())


def test_users_can_be_listed_deactivated_and_activated(server: Server, new_user: Callable[..., User]) -> None:
    user = new_user()
    env = as_migrator(server.database)
    line = next(line for line in run("users", "list", **env).stdout.splitlines() if user.email in line)
    assert line.split()[1:4] == ["active", str(user.id), user.email]
    assert user.client.get("/v1/users/me").status_code == 200

    assert run("users", "deactivate", user.email.upper(), **env).stdout == f"{user.email.upper()} is inactive\n"
    assert user.client.get("/v1/users/me").status_code == 401
    line = next(line for line in run("users", "list", **env).stdout.splitlines() if user.email in line)
    assert line.split()[1] == "inactive"

    assert run("users", "activate", user.email, **env).returncode == 0
    credentials = {"email": user.email, "password": user.password}
    assert user.client.post("/v1/auth/token", json=credentials).status_code == 200


def test_an_account_with_open_todos_assigned_is_deactivated_once_they_are_to_be_unassigned(
    server: Server, new_user: Callable[..., User]
) -> None:
    user, boss = new_user(), new_user()
    env = as_migrator(server.database)
    todo = {"title": "Water the plants", "assigned_to": str(user.id)}
    made = {owner: owner.client.post("/v1/todos", json=todo).json()["id"] for owner in (user, boss)}
    line = complaint(run("users", "deactivate", user.email, **env))
    assert f"{user.email} is still active: 2 open todos are assigned to it; with --unassign" in line
    assert user.client.get("/v1/users/me").status_code == 200

    done = run("users", "deactivate", user.email, "--unassign", **env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{user.email} is inactive\n2 open todos have no assignee any more\n"
    assert user.client.get("/v1/users/me").status_code == 401
    assert boss.client.get(f"/v1/todos/{made[boss]}").json()["assigned_to"] is None
    with psycopg.connect(server.database.superuser_url) as connection:
        entries = connection.execute(
            "SELECT user_id, actor_id, before ->> 'assigned_to' FROM audit_log"
            " WHERE row_id = ANY (%s) AND action = 'update'",
            [list(made.values())],
        ).fetchall()
    assert sorted(entries) == sorted((owner.id, None, str(user.id)) for owner in made)


def test_an_unknown_user_is_said_in_one_line(session_database: TestDatabase) -> None:
    line = complaint(run("users", "activate", "nobody@example.com", **as_migrator(session_database)))
    assert line == "todochat: no account has the address nobody@example.com"


def test_a_login_that_does_not_own_the_tables_is_told_which_one_to_use(session_database: TestDatabase) -> None:
    for command in (["users", "list"], ["prune", "--yes"], ["demo"], ["rollback", "--yes"]):
        line = complaint(run(*command, DATABASE_URL=session_database.service_url))
        assert "set MIGRATION_DATABASE_URL to the login that migrates" in line


def test_commands_on_a_database_without_tables_say_to_migrate(postgres: EmbeddedPostgres) -> None:
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE without_tables")
    try:
        for command in (["users", "list"], ["users", "activate", "a@example.com"], ["prune"]):
            assert "make migrate" in complaint(run(*command, DATABASE_URL=postgres.url("without_tables")))
    finally:
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            connection.execute("DROP DATABASE without_tables WITH (FORCE)")


def test_queries_shows_every_named_query_as_the_golden_file_has_it() -> None:
    done = run("queries")
    assert done.stdout == (REPOSITORY / "sql" / "filled_queries.sql").read_text()
    assert sorted(re.findall(r"^-- (\w+)\(", done.stdout, re.MULTILINE)) == sorted(TEXTS)


def test_without_a_database_url_the_embedded_one_is_made_migrated_and_served() -> None:
    with reachable_folder() as folder:
        port = str(free_port())
        env = service_environment(EMBEDDED_DATA_DIR=str(folder / "my data"), PORT=port, SHUTDOWN_DELAY_SECONDS="0")
        for attempt in (1, 2):
            log = folder / f"log {attempt}"
            with log.open("wb") as out:
                command = [sys.executable, "-m", "service", "serve"]
                process = subprocess.Popen(command, cwd=REPOSITORY, env=env, stdout=out, stderr=out)
            served = Server(f"http://127.0.0.1:{port}", TestDatabase("", "", "", ""), log, env, process)
            try:
                served.wait_until_ready()
                account = {"email": "ada@example.com", "password": "correct horse battery"}
                answer = httpx.post(f"{served.url}/v1/auth/register", json=account)
                assert answer.status_code == (201 if attempt == 1 else 409), "the account is kept from start to start"
            finally:
                process.send_signal(signal.SIGINT)
                assert process.wait(20) == 0
            secret = (folder / "my data" / "jwt_secret").read_text()
            assert stat.S_IMODE((folder / "my data" / "jwt_secret").stat().st_mode) == 0o600
            said = [line for line in served.log().splitlines() if not line.startswith("{")]
            assert any(f"serving {served.url}, documentation at {served.url}/schema" in line for line in said)
            assert any("JWT_SECRET is unset" in line for line in said)
            unset = "todochat: DATABASE_URL is unset:"
            assert f"{unset} serving the embedded database in {folder / 'my data'}" in said
            done = run_process("users", "list", EMBEDDED_DATA_DIR=str(folder / "my data"))
            assert done.stderr == f"{unset} this is the embedded database in {folder / 'my data'}\n"
            assert "ada@example.com" in done.stdout
            assert any(line.lstrip().startswith("curl ") for line in said)
            assert secret not in served.log()


def test_everything_the_service_logs_to_standard_output_is_json(server: Server) -> None:
    for line in server.log().splitlines():
        if not line.startswith(("todochat: ", "  curl ")):
            json.loads(line)


def test_the_greeting_is_information_as_the_log_has_it(start_server: Callable[..., Server]) -> None:
    assert "to begin with:\n  curl " in start_server().log()
    assert start_server(LOG_LEVEL="warning").log() == ""


# Folders that may not be read or written. Root may do both, unless it gives that right away.

_RIGHTS = "-dac_override,-dac_read_search"
BOUND = ["setpriv", f"--bounding-set={_RIGHTS}", f"--inh-caps={_RIGHTS}"] if os.geteuid() == 0 else []
"""The beginning of a command that the permissions of files hold for, whoever runs it."""


UNUSABLE = [".", "postgres", "postgres/cluster", "postgres/start.lock", "postgres/server.log"]


@pytest.mark.parametrize(("command", "unusable"), [*itertools.product(["serve"], UNUSABLE), ("demo", ".")])
def test_a_data_folder_that_can_not_be_read_is_said_in_one_line(tmp_path: Path, command: str, unusable: str) -> None:
    """Every command goes into it the same way."""
    data = tmp_path / "data"
    (data / "postgres/cluster").mkdir(parents=True)
    for name in ("start.lock", "server.log"):
        (data / "postgres" / name).touch()
    (data / unusable).chmod(0)
    done = subprocess.run(
        [*BOUND, sys.executable, "-m", "service", command],
        cwd=REPOSITORY,
        env=service_environment(EMBEDDED_DATA_DIR=str(data), PORT="0"),
        capture_output=True,
        text=True,
        check=False,
    )
    (data / unusable).chmod(0o700)
    line = complaint(done)
    assert str(data) in line
    assert "Permission denied" in line
    assert line.endswith("set EMBEDDED_DATA_DIR to a folder of your own")


def test_a_data_folder_that_no_postgresql_made_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "postgres/cluster").mkdir(parents=True)
    (tmp_path / "postgres/cluster/PG_VERSION").write_text("eighteen\n")
    line = complaint(run_process("serve", EMBEDDED_DATA_DIR=str(tmp_path), PORT="0"))
    assert line.endswith("cluster is damaged, no PostgreSQL made it: move that folder away to begin anew")


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make: apt-get install make")
class TestMakefile:
    def make(self, *arguments: str, before: Sequence[str] = (), **env: str) -> "subprocess.CompletedProcess[str]":
        command = [*before, shutil.which("make") or "make", *arguments]
        given = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON", "ARGS"}  # as by `make test PYTHON=…`
        kept = {name: value for name, value in os.environ.items() if name not in given}
        return subprocess.run(
            command, cwd=self.folder, env={**kept, **env}, capture_output=True, text=True, check=False
        )

    @pytest.fixture(autouse=True)
    def _copy(self, tmp_path: Path) -> None:
        """What the Makefile needs, in a folder whose name has a space."""
        self.folder = tmp_path / "a clone"
        (self.folder / ".ci").mkdir(parents=True)
        for name in ("Makefile", ".ci/install", "requirements.lock", "pyproject.toml"):
            shutil.copy(REPOSITORY / name, self.folder / name)

    def test_make_alone_says_what_there_is(self) -> None:
        targets = re.findall(r"^([a-z]+):.*## ", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        for arguments in ([], ["help"]):
            done = self.make(*arguments)
            assert re.findall(r"^make ([a-z]+) +\S", done.stdout, re.MULTILINE) == targets
        assert {"run", "test", "lint", "migrate", "rollback", "status", "schema", "lock", "help", "clean"} <= set(
            targets
        )

    def fake(self, name: str, script: str) -> str:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    def only(self, *programs: str) -> str:
        """A PATH with these programs and no Python."""
        folder = self.folder / "path"
        folder.mkdir()
        for name in programs:
            (folder / name).symlink_to(shutil.which(name) or name)
        return str(folder)

    def test_a_missing_or_old_python_is_said_in_one_line(self) -> None:
        path = self.only("sh", "make", "cat", "cmp", "flock")
        old = self.fake("python3.9", '[ "$1" = --version ] && echo Python 3.9.2 && exit; exit 1')
        for python, found in ((old, "Python 3.9.2"), ("python3", "there is no python3")):
            done = self.make("run", f"PYTHON={python}", PATH=path)
            said = [line for line in done.stderr.splitlines() if line.startswith("todochat: ")]
            what_to_do = "install one, or name it: make PYTHON=/path/to/python3.12"
            assert said == [f"todochat: Python 3.11 or later is needed ({found}): {what_to_do}"]
            assert done.returncode != 0

    def test_a_python_without_venv_is_said_in_one_line(self) -> None:
        path = self.only("sh", "make", "cat", "cmp", "flock")
        bare = self.fake("python3", 'case "$2" in *ensurepip*) exit 1;; esac')
        done = self.make("status", f"PYTHON={bare}", PATH=path)
        said = [line for line in done.stderr.splitlines() if line.startswith("todochat: ")]
        assert len(said) == 1
        assert "apt-get install python3-venv" in said[0]

    def fake_python(self, minor: int) -> str:
        """A Python that makes virtual environments whose Python it is."""
        folder = f".venv/lib/python3.{minor}"
        makes = f"mkdir -p .venv/bin {folder} && cp '{self.folder}/python3.{minor}' .venv/bin/python"
        answers = f'*"version_info[:2]"*) echo "(3, {minor})";; *purelib*) test -d {folder};;'
        return self.fake(f"python3.{minor}", f'case "$*" in {answers} "-m venv .venv") {makes};; esac')

    def test_the_virtual_environment_is_made_anew_for_another_python_and_only_then(self) -> None:
        one, other = (f"PYTHON={self.fake_python(minor)}" for minor in (12, 13))
        made = [
            "making a virtual environment" in self.make("status", *given).stderr
            for given in ([one], [one], [], [other], [], [one])
        ]
        assert made == [True, False, False, True, False, True]

    def test_the_virtual_environment_is_made_anew_where_its_python_became_another_minor_version(self) -> None:
        python = self.fake_python(12)
        assert self.make("status", f"PYTHON={python}").returncode == 0
        shutil.copy(self.fake_python(13), self.folder / ".venv/bin/python")
        path = f"{self.folder}:{os.environ['PATH']}"
        (self.folder / "python3").symlink_to("python3.13")
        for is_made in (True, False):
            done = self.make("status", PATH=path)
            assert done.returncode == 0
            assert ("making a virtual environment" in done.stderr) == is_made

    def test_a_python_that_is_named_and_no_good_is_not_replaced_by_another(self) -> None:
        assert self.make("status", f"PYTHON={self.fake_python(12)}").returncode == 0
        done = self.make("status", "PYTHON=python3.99")
        assert "Python 3.11 or later is needed (there is no python3.99)" in done.stderr
        assert done.returncode != 0
        assert self.make("status").returncode == 0, "what was there is used on"

    def test_help_says_where_the_command_line_is(self) -> None:
        assert self.make().stdout.splitlines()[-1].endswith("see .venv/bin/todochat --help")

    def test_a_checkout_that_can_not_be_written_to_is_used_where_it_is_set_up_else_said_in_one_line(self) -> None:
        (self.folder / ".venv/bin").mkdir(parents=True)
        self.fake(".venv/bin/python", '[ "$1" = -c ] || echo the service runs')  # -c asks for its version
        (self.folder / ".venv/service.stamp").touch()
        self.folder.chmod(0o555)
        what_to_do = "copy it to a folder of your own, or have its owner run `sh .ci/install"
        done = self.make("run", before=BOUND)
        assert done.stderr.splitlines()[0] == f"todochat: {self.folder} can't be written to: {what_to_do}` there"
        assert done.returncode != 0
        made_from = [(self.folder / name).read_text() for name in ("requirements.lock", "pyproject.toml")]
        (self.folder / ".venv/service.stamp").write_text("".join(made_from))
        assert self.make("run", before=BOUND).stdout == "the service runs\n"
        assert f"{what_to_do} tools` there\n" in self.make("lint", before=BOUND).stderr

    def test_clean_leaves_the_database(self) -> None:
        for name in (".venv/bin", ".data/postgres", ".pytest_cache", "service/__pycache__", "tests"):
            (self.folder / name).mkdir(parents=True)
        assert self.make("clean").returncode == 0
        assert sorted(path.name for path in self.folder.iterdir() if path.name.startswith(".")) == [".ci", ".data"]
        assert not (self.folder / "service/__pycache__").exists()
