"""A backup is complete or refused, and what is restored from it in another cluster is served as before."""

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, LiteralString

import httpx
import msgspec
import psycopg
import pytest
from psycopg import sql

from service.commands import backup, dump_tools
from service.commands.history import BOOKKEEPING
from service.commands.shared import ended_by_signals, written_whole
from service.db.migration_files import load
from service.embedded import EmbeddedPostgres
from service.embedded.programs import major_version, wheel_folders
from tests.conftest import (
    POSTGRES_15,
    REPOSITORY,
    TEMPLATE,
    UNSAFE_BUT_FAST,
    Server,
    TestDatabase,
    User,
    _database,
    _database_factory,
    _server_factory,
    reachable_folder,
    service_environment,
    user_factory,
)
from tests.support.commands import complaint, heeding, run, run_process
from tests.support.exports import export, fill
from tests.support.feed import assert_goes_on, follow
from tests.support.load import wait_for
from tests.support.operations import section
from tests.support.schema_dump import dump_schema

RESTORER = "restorer"
"""Who owns the new database: another login than in the old cluster."""
TABLES = {
    "api_keys", "audit_log", "conversations", "ended_identities", "idempotency_keys", "identities", "messages",
    "sign_in_attempts", "todo_conversation_links", "todo_counters", "todos", "users",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Source:
    """A database with everything in it, that is being served."""

    cluster: EmbeddedPostgres
    server: Server
    users: list[User]

    @property
    def database(self) -> TestDatabase:
        return self.server.database

    def env(self, **more: str) -> dict[str, str]:
        """What a backup needs: pg_dump of the server's version, and a login that sees every row."""
        return {"PATH": path_of(self.cluster), "MIGRATION_DATABASE_URL": self.database.superuser_url, **more}


ON_THE_NEWEST = pytest.mark.parametrize("source", ["postgres"], indirect=True)
ON_THE_OLDEST = pytest.mark.parametrize("source", ["postgres15"], indirect=True)


def version_of(cluster: EmbeddedPostgres) -> int:
    with psycopg.connect(cluster.url()) as connection:
        return connection.info.server_version // 10000


def path_of(cluster: EmbeddedPostgres) -> str:
    return f"{cluster.bin_dir}:{os.environ['PATH']}"


def rows(url: str) -> dict[str, int]:
    """How many rows each table has, for a superuser."""
    with psycopg.connect(url) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        return {
            name: connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(name))).fetchone()[0]
            for (name,) in names
        }


def schema(of: "Source | Target") -> str:
    """The schema without parentheses: PostgreSQL puts more around a condition that it wrote itself."""
    url = of.database.superuser_url if isinstance(of, Source) else of.superuser_url
    return re.sub(r"[()\s]+", " ", dump_schema(url, of.cluster.bin_dir / "pg_dump"))


@pytest.fixture(scope="module", params=["postgres", "postgres15"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Source]:
    cluster: EmbeddedPostgres = request.getfixturevalue(request.param)
    with (
        _database_factory(cluster, _database(cluster, TEMPLATE)) as make_database,
        _server_factory(tmp_path_factory.mktemp("service"), make_database) as start,
    ):
        server = start()
        with user_factory(server) as make:
            users = [make(username="ada", full_name="Ada \\. Lovelace\t<é>"), make()]
            fill(users[0], assignee=users[1])
            fill(users[1])
            answer = users[0].client.post("/v1/keys", json={"name": "Agent", "scope": "read"})
            assert answer.status_code == 201
            turn = {"messages": [{"sender_type": "ai", "item": {"text": "\\.\nCOPY public.users (id) FROM stdin;\n"}}]}
            answer = users[0].client.post("/v1/turns", json=turn, headers={"Idempotency-Key": "once"})
            assert answer.status_code == 201, answer.text
            assert users[0].client.post("/v1/auth/token", json={"email": "nobody@example.com", "password": "x" * 9})
            yield Source(cluster, server, users)


@pytest.fixture(scope="module")
def file(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of it."""
    path = tmp_path_factory.mktemp("backup") / "todochat.backup"
    done = run("backup", str(path), **source.env())
    assert done.returncode == 0, done.stderr
    return path


NewCluster = Callable[[Path], contextlib.AbstractContextManager[EmbeddedPostgres]]


@pytest.fixture(scope="module")
def new_cluster() -> Iterator[NewCluster]:
    """Call it for a cluster in which nobody has heard of todochat: of each version, one is made and copied."""

    @contextlib.contextmanager
    def new(bin_dir: Path) -> Iterator[EmbeddedPostgres]:
        made = folder / bin_dir.parent.name
        if not made.exists():
            with EmbeddedPostgres(made, bin_dir=bin_dir) as cluster, psycopg.connect(cluster.url()) as connection:
                connection.execute(f"CREATE ROLE {RESTORER} LOGIN CREATEROLE")
        with reachable_folder() as copies:
            subprocess.run([shutil.which("cp") or "cp", "-a", made, copies], check=True)
            with EmbeddedPostgres(copies / made.name, bin_dir=bin_dir, options=UNSAFE_BUT_FAST) as cluster:
                yield cluster

    with reachable_folder() as folder:
        yield new


@pytest.fixture(scope="module")
def other(source: Source, new_cluster: NewCluster) -> Iterator[EmbeddedPostgres]:
    """Another cluster of the same version, whose roles RESTORER made."""
    with new_cluster(source.cluster.bin_dir) as cluster:
        for target in new_target(cluster):
            target.tool("psql", "-1", "-f", "migrations/0001_create_roles.sql", "-d", target.url)
        yield cluster


@dataclasses.dataclass(frozen=True)
class Target:
    """An empty database that RESTORER owns."""

    cluster: EmbeddedPostgres
    name: str

    @property
    def url(self) -> str:
        return self.cluster.url(self.name, RESTORER)

    @property
    def superuser_url(self) -> str:
        return self.cluster.url(self.name)

    def env(self, **more: str) -> dict[str, str]:
        return {"PATH": path_of(self.cluster), "MIGRATION_DATABASE_URL": self.url, **more}

    def tool(self, name: str, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """One of PostgreSQL's programs, as an operator runs it."""
        command = [str(self.cluster.bin_dir / name), *arguments]
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=check)

    def as_superuser(self, statement: str) -> None:
        with psycopg.connect(self.superuser_url, autocommit=True) as connection:
            connection.execute(statement)

    def served(self, start_server: Callable[..., Server], source: Source, *, ready: bool = True) -> Server:
        """The service on it, with a login that `todochat create-login` made, and the secret of the old one."""
        done = run("create-login", f"{self.name}_service", **self.env())
        assert done.returncode == 0, done.stderr
        url = done.stdout.removeprefix("DATABASE_URL=").strip()
        database = TestDatabase(self.name, url, self.url, self.superuser_url)
        return start_server(database=database, ready=ready, JWT_SECRET=source.server.env["JWT_SECRET"])


@pytest.fixture
def target(other: EmbeddedPostgres) -> Iterator[Target]:
    yield from new_target(other)


def new_target(cluster: EmbeddedPostgres) -> Iterator[Target]:
    name = f"restored_{os.urandom(4).hex()}"
    with psycopg.connect(cluster.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} OWNER {RESTORER}")
        yield Target(cluster, name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


# Into another cluster


def test_what_is_restored_in_another_cluster_is_served_as_before(
    source: Source, file: Path, new_cluster: NewCluster, start_server: Callable[..., Server]
) -> None:
    heard = [follow(user.client) for user in source.users]
    with new_cluster(source.cluster.bin_dir) as cluster:
        target = next(new_target(cluster))
        done = run("restore", str(file), **target.env())
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"restored {sum(rows(source.database.superuser_url).values())} rows of 16 tables")
        assert f" UTC, into the database {target.name} at /" in done.stdout
        assert rows(target.superuser_url) == rows(source.database.superuser_url)
        assert rows(target.superuser_url).keys() >= TABLES
        assert schema(target) == schema(source)
        assert run("migrate", **target.env()).stdout == "nothing to do: every migration is applied\n"
        server = target.served(start_server, source)
        for user, (entries, cursor) in zip(source.users, heard, strict=True):
            with httpx.Client(base_url=server.url, headers=user.client.headers) as client:
                assert client.get("/v1/export").content == export(user)
            assert_goes_on(server, user, entries, cursor)
        with psycopg.connect(target.url) as connection:
            query = "SELECT reltuples > 0 FROM pg_class WHERE relname = 'todos'"
            assert connection.execute(query).fetchone() == (True,), "the planner knows the tables"
            query = "SELECT tableowner FROM pg_tables WHERE tablename = ANY (%s)"
            assert connection.execute(query, [[*BOOKKEEPING]]).fetchall() == [(RESTORER,)] * 4


def test_a_backup_is_of_one_moment_though_the_service_goes_on_writing(
    source: Source, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the count and pg_dump a row is added: it is in neither, and the numbers fit."""
    count = backup.count_tables

    def count_and_write(connection: psycopg.Connection, tables: list[str]) -> dict[str, int]:
        found = count(connection, tables)
        assert source.users[1].client.post("/v1/todos", json={"title": "Meanwhile"}).status_code == 201
        return found

    before = rows(source.database.superuser_url)
    monkeypatch.setattr(backup, "count_tables", count_and_write)
    path = tmp_path / "backup"
    assert run("backup", str(path), **source.env()).returncode == 0
    monkeypatch.undo()
    assert rows(source.database.superuser_url) != before
    assert run("restore", str(path), **target.env()).returncode == 0
    assert rows(target.superuser_url) == before


def test_a_superuser_may_restore_too_and_what_others_keep_in_the_database_stays_out(
    source: Source, target: Target, tmp_path: Path
) -> None:
    path = tmp_path / "backup"
    with psycopg.connect(source.database.superuser_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE public.strange (a int); CREATE SCHEMA guest CREATE TABLE theirs (a int)")
        connection.execute("CREATE FUNCTION public.strange() RETURNS int RETURN 1")
        try:
            assert run("backup", str(path), **source.env()).returncode == 0
        finally:
            connection.execute("DROP TABLE public.strange; DROP SCHEMA guest CASCADE; DROP FUNCTION public.strange()")
    assert run("restore", str(path), **target.env(MIGRATION_DATABASE_URL=target.superuser_url)).returncode == 0
    assert rows(target.superuser_url) == rows(source.database.superuser_url)
    assert schema(target) == schema(source)


THEIRS = """
CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER häkchen AFTER INSERT ON todos FOR EACH ROW EXECUTE FUNCTION theirs();
COMMENT ON TRIGGER häkchen ON todos IS 'Theirs';
CREATE OPERATOR CLASS their_ops FOR TYPE text USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=,
    OPERATOR 5 >, FUNCTION 1 bttextcmp(text, text);
CREATE INDEX their_index ON todos ((title::text) their_ops);
COMMENT ON INDEX their_index IS 'Theirs';
ALTER TABLE todos ADD CONSTRAINT their_exclusion EXCLUDE ((id::text) their_ops WITH =);
CREATE TABLE their_kinds (kind text PRIMARY KEY);
ALTER TABLE messages ADD CONSTRAINT their_key FOREIGN KEY (content) REFERENCES their_kinds NOT VALID;
CREATE FUNCTION theirs(text) RETURNS boolean LANGUAGE sql RETURN true;
CREATE POLICY their_policy ON todos FOR SELECT TO todochat_app USING (theirs(title));
CREATE RULE their_rule AS ON DELETE TO todos WHERE theirs(OLD.title) DO ALSO NOTHING;
CREATE STATISTICS their_statistics ON (theirs(title)), status FROM todos;
CREATE VIEW their_view AS SELECT id FROM todos WHERE theirs(title);
ALTER VIEW their_view OWNER TO todochat_owner;
GRANT SELECT ON their_view TO todochat_app;
CREATE FUNCTION on_their_view() RETURNS SETOF their_view LANGUAGE sql AS 'SELECT * FROM their_view';
ALTER FUNCTION on_their_view() OWNER TO todochat_owner;
"""
LEFT_OUT = {
    "trigger todos häkchen", "index their_index", "constraint todos their_exclusion",
    "fk constraint messages their_key", "policy todos their_policy", "rule todos their_rule",
    "statistics their_statistics", "view their_view", "function on_their_view()",
}  # fmt: skip


def test_what_needs_something_of_others_is_left_out_and_named_and_the_rows_are_restored(
    source: Source, target: Target, tmp_path: Path
) -> None:
    """Plain indexes of a DBA's are kept."""
    path = tmp_path / "backup"
    theirs = Target(source.cluster, f"theirs_{os.urandom(4).hex()}")
    with psycopg.connect(source.cluster.url(), autocommit=True) as connection:
        name, template = sql.Identifier(theirs.name), sql.Identifier(TEMPLATE)
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(name, template))
        try:
            theirs.as_superuser("CREATE INDEX plain ON todos (title)")
            expected = re.sub(r"[()\s]+", " ", dump_schema(theirs.superuser_url, source.cluster.bin_dir / "pg_dump"))
            with psycopg.connect(theirs.superuser_url, autocommit=True) as dba:
                dba.execute(THEIRS)
                dba.execute("SET allow_in_place_tablespaces = on")
                dba.execute(sql.SQL("CREATE TABLESPACE {} LOCATION ''").format(name))
                dba.execute(sql.SQL("ALTER INDEX plain SET TABLESPACE {}").format(name))
            done = run("backup", str(path), **source.env(MIGRATION_DATABASE_URL=theirs.superuser_url))
            assert done.returncode == 0, done.stderr
            (said,) = [line for line in done.stderr.splitlines() if line.startswith("todochat: ")]
            about, _, names = said.rpartition(": ")
            assert about == "todochat: left out, since they need what isn't todochat's"
            assert set(names.split(", ")) == LEFT_OUT
            done = run("restore", str(path), **target.env())
            assert done.returncode == 0, done.stderr
            assert said in done.stderr.splitlines()
            assert schema(target) == expected
            theirs.as_superuser("ALTER TABLE todos ADD CONSTRAINT theirs CHECK (theirs(title::text))")
            path.unlink()
            done = run("backup", str(path), **source.env(MIGRATION_DATABASE_URL=theirs.superuser_url))
            assert done.returncode == 1
            said = done.stderr.splitlines()[-1]
            assert said.endswith(
                "table todos needs function theirs(text), which isn't todochat_owner's and would not be restored: "
                "make it so, or drop what needs it"
            )
            assert not path.exists()
        finally:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))
            connection.execute(sql.SQL("DROP TABLESPACE IF EXISTS {}").format(name))


@ON_THE_NEWEST
def test_on_a_managed_host_the_role_of_its_console_backs_up_and_restores(
    source: Source,
    other: EmbeddedPostgres,
    new_cluster: NewCluster,
    tmp_path: Path,
    start_server: Callable[..., Server],
) -> None:
    """As on Neon: nobody is a superuser there, and the role of the console has BYPASSRLS and CREATEROLE."""
    with new_cluster(source.cluster.bin_dir) as cluster:
        old, new = next(new_target(cluster)), next(new_target(other))
        for target in (old, new):
            target.as_superuser(f"ALTER ROLE {RESTORER} BYPASSRLS CREATEDB")
        try:
            assert run("migrate", **old.env()).returncode == 0
            assert run("demo", **old.env()).returncode == 0
            done = run("backup", str(tmp_path / "backup"), **old.env())
            assert done.returncode == 0, done.stderr
            done = run("restore", str(tmp_path / "backup"), **new.env())
            assert done.returncode == 0, done.stderr
            assert rows(new.superuser_url) == rows(old.superuser_url)
            assert rows(new.superuser_url)["messages"] > 0
            assert schema(new) == schema(old)
            assert new.served(start_server, source).stop() == 0
        finally:
            new.as_superuser(f"ALTER ROLE {RESTORER} NOBYPASSRLS NOCREATEDB")


@ON_THE_NEWEST
def test_only_its_owner_can_read_a_backup_and_an_older_one_is_replaced_when_that_is_wanted(
    source: Source, file: Path, tmp_path: Path
) -> None:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    path = tmp_path / "backup"
    path.write_text("an older one")
    assert "replaces" in complaint(run("backup", str(path), **source.env()))
    assert path.read_text() == "an older one"
    done = run("backup", str(path), "--yes", **source.env())
    assert (done.returncode, [*tmp_path.iterdir()]) == (0, [path])
    assert done.stdout.startswith(f"wrote {path}: ")
    assert f" bytes, of the database {source.database.name} at /" in done.stdout


def test_a_draft_is_made_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not opened to others first and closed to them then."""
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    before = os.umask(0)
    try:
        with written_whole(tmp_path / "backup") as draft:
            assert stat.S_IMODE(os.fstat(draft.fileno()).st_mode) == 0o600
    finally:
        os.umask(before)


# By hand, with PostgreSQL's own programs


def recipe(*titles: str) -> str:
    """The commands below the comments that begin so, as operators are told them."""
    parts = re.findall(r"^# .*\n(?:[^#`].*\n)*", section("Backup and restore"), re.MULTILINE)
    return "".join(next(part for part in parts if part.startswith(f"# {title}")) for title in titles)


def run_recipe(script: str, target: Target, source: Source, folder: Path) -> str:
    """Run it as it stands there, in ``folder``; the URL of the service that it prints in the end."""
    folders = [str(target.cluster.bin_dir), str(Path(sys.executable).parent), os.environ["PATH"]]
    (folder / "migrations").symlink_to(REPOSITORY / "migrations")
    env = service_environment(PATH=":".join(folders), OLD=source.database.superuser_url, NEW=target.url)
    command = ["/bin/bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout.splitlines()[-1].removeprefix("DATABASE_URL=")


@ON_THE_NEWEST
@pytest.mark.parametrize("way", ["OLD is", "Instead, by hand"])
def test_the_recipe_runs_as_it_stands_there(
    source: Source, target: Target, tmp_path: Path, start_server: Callable[..., Server], way: str
) -> None:
    url = run_recipe(recipe(way, "After either"), target, source, tmp_path)
    assert rows(target.superuser_url) == rows(source.database.superuser_url)
    assert schema(target) == schema(source)
    database = TestDatabase(target.name, url, target.url, target.superuser_url)
    served = start_server(database=database, JWT_SECRET=source.server.env["JWT_SECRET"])
    with httpx.Client(base_url=served.url, headers=source.users[0].client.headers) as client:
        assert client.get("/v1/export").content == export(source.users[0])


@pytest.fixture
def dump(source: Source, tmp_path: Path) -> str:
    """What pg_dump alone writes of it."""
    path = str(tmp_path / "dump")
    program = str(source.cluster.bin_dir / "pg_dump")
    subprocess.run([program, "-Fc", "-f", path, "-d", source.database.superuser_url], check=True)
    return path


@ON_THE_NEWEST
def test_tables_of_whoever_restored_them_are_not_served_until_migrate_gives_them_back(
    source: Source, target: Target, dump: str, start_server: Callable[..., Server]
) -> None:
    target.tool("psql", "-1", "-f", "migrations/0001_create_roles.sql", "-d", target.url)
    target.tool("pg_restore", "--exit-on-error", "-1", "--no-owner", "-d", target.url, dump)
    refused = target.served(start_server, source, ready=False)
    assert refused.process.wait(20) == 1
    said = refused.log().splitlines()[-1]
    assert said.startswith("todochat: todochat_owner must own action, api_keys, audit() … and does not, as after a")
    assert "run `todochat migrate`, which gives them back" in said
    done = run("migrate", **target.env())
    assert done.returncode == 0, done.stderr
    given, rest = done.stdout.split("\n", 1)
    assert given.startswith("gave todochat_owner what others owned: ")
    assert {name.strip() for name in given.partition(": ")[2].split(", ")} >= TABLES
    assert rest == "nothing to do: every migration is applied\n"
    assert run("migrate", **target.env()).stdout == rest
    assert schema(target) == schema(source)
    served = target.served(start_server, source)
    with httpx.Client(base_url=served.url, headers=source.users[0].client.headers) as client:
        entries, cursor = follow(source.users[0].client)
        assert follow(client) == (entries, cursor)
        assert client.post("/v1/todos", json={"title": "later"}).status_code == 201
        assert [entry["action"] for entry in follow(client, cursor)[0]] == ["insert"]


@ON_THE_NEWEST
def test_who_may_not_give_the_tables_back_is_told_who_may(source: Source, target: Target, dump: str) -> None:
    target.tool("psql", "-1", "-f", "migrations/0001_create_roles.sql", "-d", target.url)
    target.tool("pg_restore", "--exit-on-error", "-1", "--no-owner", "-d", target.superuser_url, dump)
    for table in BOOKKEEPING:
        target.as_superuser(f"ALTER TABLE {table} OWNER TO {RESTORER}")
    said = complaint(run("migrate", **target.env()))
    assert "it must belong to todochat_owner; run this as a superuser, or as postgres, who owns it" in said
    env = target.env(MIGRATION_DATABASE_URL=target.superuser_url)
    assert run("migrate", **env).returncode == 0
    assert schema(target) == schema(source)


@ON_THE_NEWEST
def test_a_restore_without_the_roles_is_told_wherever_it_is_met(
    source: Source, dump: str, new_cluster: NewCluster, start_server: Callable[..., Server]
) -> None:
    with new_cluster(source.cluster.bin_dir) as cluster:
        target = next(new_target(cluster))
        assert target.tool("pg_restore", "-d", target.url, dump, check=False).returncode == 1
        said = complaint(run("migrate", **target.env()))
        assert "restored before the roles todochat_owner and todochat_app were made" in said
        assert "restore it anew, into an empty database" in said
        assert "run the migrations first" in complaint(run("create-login", **target.env()))
        # Somebody makes the roles, or another database of the cluster has them.
        target.tool("psql", "-1", "-f", "migrations/0001_create_roles.sql", "-d", target.url)
        assert "were made, and lost" in complaint(run("migrate", **target.env()))
        refused = target.served(start_server, source, ready=False)
        assert refused.process.wait(20) == 1
        assert (
            "restored before the roles, and lost their privileges: restore them anew" in refused.log().splitlines()[-1]
        )


@ON_THE_OLDEST
def test_a_backup_of_the_oldest_server_is_restored_on_the_newest(
    source: Source,
    file: Path,
    postgres: EmbeddedPostgres,
    new_cluster: NewCluster,
    start_server: Callable[..., Server],
) -> None:
    """The way from one major version to another; for the newest, with the pg_restore that is its own."""
    with new_cluster(postgres.bin_dir) as cluster:
        target = next(new_target(cluster))
        done = run("restore", str(file), **target.env())
        assert done.returncode == 0, done.stderr
        assert rows(target.superuser_url) == backup._read_contents(file).rows
        server = target.served(start_server, source)
        with httpx.Client(base_url=server.url, headers=source.users[0].client.headers) as client:
            assert client.get("/v1/export").content == export(source.users[0])


# Ended

SLOW = """\
#!/bin/sh
case $1 in
--version) echo "pg_dump (PostgreSQL) %s.0" ;;
*) echo $$ > %s; exec sleep 600 ;;
esac
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_a_backup_that_is_told_to_end_leaves_neither_a_file_nor_pg_dump(
    postgres: EmbeddedPostgres, session_database: TestDatabase, tmp_path: Path, how: signal.Signals
) -> None:
    pid_file = tmp_path / "pid"
    slow = tmp_path / "bin" / "pg_dump"
    slow.parent.mkdir()
    slow.write_text(SLOW % (version_of(postgres), pid_file))
    slow.chmod(0o755)
    env = service_environment(
        PATH=f"{slow.parent}:{path_of(postgres)}", MIGRATION_DATABASE_URL=session_database.superuser_url
    )
    command = heeding(how, "backup", str(tmp_path / "backup"))
    with subprocess.Popen(command, cwd=REPOSITORY, env=env) as process:
        pid = int(wait_for(lambda: pid_file.exists() and pid_file.read_text().strip(), 60))
        process.send_signal(how)
        assert process.wait(20) == 130
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert {path.name for path in tmp_path.iterdir()} == {"bin", "pid"}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_program_is_being_started_ends_it(
    monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    begun: list[subprocess.Popen[Any]] = []
    popen = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[Any]:
        begun.append(popen(*arguments, **options))
        signal.raise_signal(how)
        return begun[0]

    sleep = dump_tools.Tool(sys.executable, 3)
    monkeypatch.setattr(subprocess, "Popen", start)
    before = signal.signal(how, signal.default_int_handler)  # a shell has its background jobs ignore SIGINT
    try:
        with (
            pytest.raises(KeyboardInterrupt),
            ended_by_signals(),
            dump_tools.read_tool(sleep, "-c", "import time; time.sleep(60)"),
        ):
            pass
    finally:
        signal.signal(how, before)
    assert begun[0].poll() == -signal.SIGKILL


# Refused


@ON_THE_NEWEST
def test_a_login_that_row_security_binds_writes_no_backup(source: Source, tmp_path: Path) -> None:
    path = tmp_path / "backup"
    env = source.env(MIGRATION_DATABASE_URL=source.database.owner_url)
    said = complaint(run("backup", str(path), **env))
    assert "row security binds the login todochat_admin" in said
    assert "CREATE ROLE todochat_backup LOGIN BYPASSRLS PASSWORD '…' IN ROLE pg_read_all_data" in said
    assert not [*tmp_path.iterdir()]


def test_the_login_that_is_advised_writes_one_and_can_do_no_harm(source: Source, tmp_path: Path) -> None:
    path = tmp_path / "backup"
    with psycopg.connect(source.database.superuser_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE todochat_backup LOGIN BYPASSRLS")
        env = source.env(MIGRATION_DATABASE_URL=source.cluster.url(source.database.name, "todochat_backup"))
        try:
            assert "may not read _yoyo_log: GRANT pg_read_all_data" in complaint(run("backup", str(path), **env))
            connection.execute(
                "DROP ROLE todochat_backup; CREATE ROLE todochat_backup LOGIN BYPASSRLS IN ROLE pg_read_all_data"
            )
            done = run("backup", str(path), **env)
            assert done.returncode == 0, done.stderr
            with (
                psycopg.connect(env["MIGRATION_DATABASE_URL"]) as backing_up,
                pytest.raises(psycopg.errors.InsufficientPrivilege),
            ):
                backing_up.execute("DELETE FROM todos")
        finally:
            connection.execute("DROP ROLE todochat_backup")


@ON_THE_NEWEST
def test_a_file_may_have_a_name_that_is_not_utf_8(source: Source, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.backup")
    done = run_process("backup", str(path), **source.env(PYTHONIOENCODING="utf-8:strict"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"wrote {tmp_path}/\\udcff.backup: ")
    assert path.exists()


@ON_THE_NEWEST
def test_a_file_that_was_cut_short_is_refused(
    file: Path, target: Target, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    path, whole = tmp_path / "backup", file.read_bytes()
    for end in (-1, -65, -700, len(whole) // 2):
        path.write_bytes(whole[:end])
        with subtests.test(end=end):
            assert "nothing was done" in complaint(run("restore", str(path), **target.env()))
            assert rows(target.superuser_url) == {}


@ON_THE_NEWEST
def test_a_file_of_which_one_byte_is_another_is_refused(
    file: Path, target: Target, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    path, whole = tmp_path / "backup", file.read_bytes()
    for place in (0, 100, *(len(whole) * tenths // 10 for tenths in (3, 6, 9)), -70, -2):
        spoilt = bytearray(whole)
        spoilt[place] ^= 1
        path.write_bytes(spoilt)
        with subtests.test(place=place):
            assert "nothing was done" in complaint(run("restore", str(path), **target.env()))
            assert rows(target.superuser_url) == {}


@ON_THE_NEWEST
def test_a_file_that_holds_other_rows_than_were_counted_is_no_backup(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with --enable-row-security, which has pg_dump leave rows out and say nothing."""
    run_tool = dump_tools.run_tool

    def run_without_rows(tool: Any, _: str, *arguments: str, **more: Any) -> None:
        run_tool(tool, source.database.owner_url, "--enable-row-security", *arguments, **more)

    monkeypatch.setattr(backup, "run_tool", run_without_rows)
    done = run("backup", str(tmp_path / "backup"), **source.env())
    assert done.returncode == 1
    assert "the file doesn't hold the rows that were counted (" in done.stderr
    assert "messages: 0 instead of " in done.stderr
    assert not [*tmp_path.iterdir()]


@ON_THE_NEWEST
@pytest.mark.parametrize(
    ("loss", "what"),
    [
        ("DELETE FROM todo_counters", "the rows that were counted (todo_counters: 0 instead of 2)"),
        (
            "RESET ROLE; SELECT pg_terminate_backend(pg_backend_pid())",
            "terminating connection due to administrator command",
        ),
    ],
)
def test_a_database_that_may_hold_other_rows_than_the_file_says_is_to_be_dropped(
    file: Path, target: Target, monkeypatch: pytest.MonkeyPatch, loss: LiteralString, what: str
) -> None:
    count = backup.count_tables

    def count_after_loss(connection: psycopg.Connection, tables: list[str]) -> dict[str, int]:
        connection.execute(loss)
        return count(connection, tables)

    monkeypatch.setattr(backup, "count_tables", count_after_loss)
    done = run("restore", str(file), **target.env())
    assert done.returncode == 1
    assert what in done.stderr
    assert re.search(
        f"todochat: the database {target.name} at /.* is filled, but nobody knows with what: drop it", done.stderr
    )


@ON_THE_NEWEST
@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("CREATE TABLE todos ()", "table todos"),
        ("CREATE VIEW mine AS SELECT 1", "view mine"),
        ("CREATE FUNCTION mine() RETURNS int RETURN 1", "function mine()"),
        ("CREATE DOMAIN mine AS int", "type mine"),
    ],
)
def test_a_database_that_is_not_empty_is_left_alone(file: Path, target: Target, statement: str, what: str) -> None:
    target.as_superuser(statement)
    said = complaint(run("restore", str(file), **target.env()))
    assert f"the database is not empty (there is {what}): make a new one" in said


@ON_THE_NEWEST
def test_a_login_that_can_not_make_the_roles_is_told(file: Path, source: Source, new_cluster: NewCluster) -> None:
    with new_cluster(source.cluster.bin_dir) as cluster:
        target = next(new_target(cluster))
        target.as_superuser(f"ALTER ROLE {RESTORER} NOCREATEROLE")
        said = complaint(run("restore", str(file), **target.env()))
        assert "permission denied to create role: set MIGRATION_DATABASE_URL to the login that migrates" in said
        assert rows(target.superuser_url) == {}


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL's programs are only in PATH."""
    monkeypatch.setattr(dump_tools, "wheel_folders", list)


@pytest.mark.usefixtures("no_wheel")
def test_an_older_pg_dump_than_the_server_is_refused(
    postgres: EmbeddedPostgres, session_database: TestDatabase, tmp_path: Path
) -> None:
    env = {"MIGRATION_DATABASE_URL": session_database.superuser_url}
    said = complaint(run("backup", str(tmp_path / "backup"), PATH=str(tmp_path), **env))
    major = version_of(postgres)
    assert f"pg_dump of PostgreSQL {major} or later is needed, and there is none: install" in said
    if not (POSTGRES_15 / "pg_dump").exists():
        pytest.skip("needs PostgreSQL 15: apt-get install postgresql-15")
    said = complaint(run("backup", str(tmp_path / "backup"), PATH=str(POSTGRES_15), **env))
    assert f"pg_dump of PostgreSQL {major} or later is needed, and there is 15: install" in said


@pytest.mark.usefixtures("no_wheel")
def test_a_pg_restore_that_can_not_read_the_file_or_talk_to_the_server_is_refused(file: Path, target: Target) -> None:
    written_by = backup._read_contents(file).pg_dump
    is_new = version_of(target.cluster) >= 17
    wrong = POSTGRES_15 if is_new else max(wheel_folders(), key=major_version)
    said = complaint(run("restore", str(file), **target.env(PATH=str(wrong))))
    assert f"pg_restore from {written_by} {'on' if is_new else 'to 16'} is needed, and there is " in said
    assert rows(target.superuser_url) == {}


def test_a_file_of_a_newer_pg_dump_is_refused_for_a_server_that_can_not_take_it(
    postgres15: EmbeddedPostgres, postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dump_tools, "wheel_folders", list)
    path = tmp_path / "backup"
    env = {"PATH": str(postgres.bin_dir), "MIGRATION_DATABASE_URL": postgres15.url(TEMPLATE)}
    done = run("backup", str(path), **env)
    assert done.returncode == 0, done.stderr
    said = complaint(run("restore", str(path), **env | {"MIGRATION_DATABASE_URL": postgres15.url("template1")}))
    assert said.endswith("for servers from 17 on: restore it there, or make a backup with a pg_dump from 15 to 16")


@ON_THE_NEWEST
def test_what_the_new_cluster_lacks_is_said_and_nothing_is_restored(
    source: Source, target: Target, tmp_path: Path
) -> None:
    path = tmp_path / "backup"
    with psycopg.connect(source.database.superuser_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE reporting; GRANT SELECT ON todos TO reporting")
        try:
            assert run("backup", str(path), **source.env()).returncode == 0
        finally:
            connection.execute("REVOKE ALL ON todos FROM reporting; DROP ROLE reporting")
    done = run("restore", str(path), **target.env())
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith('ERROR: role "reporting" does not exist; nothing was restored')
    assert rows(target.superuser_url) == {}


@ON_THE_NEWEST
def test_a_database_without_tables_of_todochat_has_no_backup(target: Target, tmp_path: Path) -> None:
    env = target.env(MIGRATION_DATABASE_URL=target.superuser_url)
    said = complaint(run("backup", str(tmp_path / "backup"), **env))
    assert "the database has no tables of todochat: is MIGRATION_DATABASE_URL right?" in said


@ON_THE_NEWEST
def test_a_database_of_which_somebody_else_owns_a_part_has_no_backup_without_it(
    source: Source, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    with psycopg.connect(source.database.superuser_url, autocommit=True) as connection:
        for what in ("TABLE messages", "TABLE users", "FUNCTION audit()", "DOMAIN title"):
            connection.execute(f"ALTER {what} OWNER TO postgres")
            with subtests.test(what):
                said = complaint(run("backup", str(tmp_path / what), **source.env()))
                assert f"postgres owns {what.split()[1]}, not todochat_owner" in said
                assert "run `todochat migrate` first, which gives it back" in said
            connection.execute(f"ALTER {what} OWNER TO todochat_owner")


@ON_THE_NEWEST
def test_an_older_release_writes_no_backup_of_a_newer_one_s_tables(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *known, newest = load()
    monkeypatch.setattr(backup, "load", lambda: known)
    said = complaint(run("backup", str(tmp_path / "backup"), **source.env()))
    assert f"a newer release applied {newest.id}" in said
    assert "make the backup with that release's todochat" in said


@ON_THE_NEWEST
def test_what_is_no_regular_file_is_not_replaced(source: Source, tmp_path: Path) -> None:
    """Such as /dev/null."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    for more in ([], ["--yes"]):
        assert f"can't write {path}: it is no regular file" in complaint(
            run("backup", str(path), *more, **source.env())
        )
    assert "can't write .: it is no regular file" in complaint(run("backup", "", **source.env())), "an unset variable"
    assert stat.S_ISFIFO(path.stat().st_mode)


@ON_THE_NEWEST
def test_the_passphrase_of_a_key_comes_on_no_command_line(source: Source, file: Path, tmp_path: Path) -> None:
    env = source.env(MIGRATION_DATABASE_URL=f"{source.database.superuser_url}&sslpassword=Geheim")
    for arguments in (["backup", str(tmp_path / "backup")], ["restore", str(file)]):
        said = complaint(run(*arguments, **env))
        assert "would show sslpassword" in said
        assert "Geheim" not in said


@ON_THE_NEWEST
def test_a_file_of_a_format_to_come_names_the_newer_release(file: Path, target: Target, tmp_path: Path) -> None:
    path = tmp_path / "backup"
    text, line, _, _ = file.read_bytes().rsplit(b"\n", 3)
    contents = msgspec.json.decode(line) | {"format": 2, "moons": 3}
    path.write_bytes(text + b"\n" + msgspec.json.encode(contents) + b"\n" + b"0" * 64 + b"\n")
    said = complaint(run("restore", str(path), **target.env()))
    assert (
        "is of a format that this release doesn't know, as a newer one writes it: restore it with the release" in said
    )


@ON_THE_NEWEST
def test_a_login_whose_idle_sessions_are_ended_restores(
    file: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While pg_restore works the command's own session is idle."""
    restore = backup._pg_restore

    def restore_slowly(*arguments: Any) -> None:
        restore(*arguments)
        time.sleep(1)

    monkeypatch.setattr(backup, "_pg_restore", restore_slowly)
    target.as_superuser(f"ALTER ROLE {RESTORER} SET idle_session_timeout = '500ms'")
    try:
        done = run("restore", str(file), **target.env())
    finally:
        target.as_superuser(f"ALTER ROLE {RESTORER} RESET idle_session_timeout")
    assert done.returncode == 0, done.stderr


def test_the_embedded_database_needs_no_setting(tmp_path: Path) -> None:
    first, second, path = tmp_path / "first", tmp_path / "second", tmp_path / "backup"
    env = {"PATH": os.defpath}
    assert run("demo", EMBEDDED_DATA_DIR=str(first), **env).returncode == 0
    done = run("backup", str(path), EMBEDDED_DATA_DIR=str(first), **env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f", of the embedded database in {first}\n")
    done = run("restore", str(path), EMBEDDED_DATA_DIR=str(second), **env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f", into the embedded database in {second}\n")
    assert run("users", "list", EMBEDDED_DATA_DIR=str(second)).stdout.count("\n") == 2
