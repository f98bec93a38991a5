"""The migration runner: what it refuses, and that it can be killed, doubled and rolled back without harm.

Its behaviour is shown on small made-up folders; the real migrations are then run up, down and up again.
"""

import contextlib
import hashlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from service.commands import logins, migrate
from service.commands.connection import DatabaseError
from service.commands.development import OWNER_LOGIN, prepare_database
from service.commands.logins import create_service_login
from service.commands.migrate import rollback, status, upgrade
from service.db import migration_files
from service.db.migration_files import MigrationError, known_ids
from service.embedded import EmbeddedPostgres
from service.embedded.server import as_account
from service.settings import OperatorError
from tests.support.schema_dump import SCHEMA, dump_schema
from tests.support.schema_picture import PICTURE, draw_schema

ROOT = Path(__file__).parents[2]
REAL = known_ids()
LOGIN = OWNER_LOGIN
DEADLINE_SECONDS = 10.0
_numbers = itertools.count(1)


class Database:
    """An empty database that LOGIN owns: no superuser, but CREATEROLE."""

    def __init__(self, server: EmbeddedPostgres, name: str) -> None:
        self.server, self.name = server, name
        self.url = server.url(name, LOGIN)
        self.superuser_url = server.url(name)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.superuser_url, autocommit=True) as conn:
            return conn.execute(query.encode()).fetchall()

    def value(self, query: str) -> Any:
        return self.rows(query)[0][0]

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.superuser_url, autocommit=True) as conn:
            conn.execute(statement.encode())

    def tables(self) -> set[str]:
        found = self.rows("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'")
        return {row[0] for row in found} - {"_yoyo_log", "_yoyo_migration", "_yoyo_version", "yoyo_lock"}

    def wait_for(self, condition: str) -> int:
        """The process id of the backend in this database for which the condition comes true."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        with psycopg.connect(self.superuser_url, autocommit=True) as conn:
            query = f"SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND {condition}".encode()
            while (found := conn.execute(query).fetchone()) is None:
                assert time.monotonic() < deadline, f"never saw {condition}"
                time.sleep(0.01)
            return int(found[0])


@contextlib.contextmanager
def empty_database(server: EmbeddedPostgres) -> Iterator[Database]:
    name = f"migrate_{os.getpid()}_{next(_numbers)}"
    prepare_database(server, name)
    try:
        yield Database(server, name)
    finally:
        with psycopg.connect(server.url(), autocommit=True) as conn:
            conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database(postgres: EmbeddedPostgres) -> Iterator[Database]:
    with empty_database(postgres) as found:
        yield found


@pytest.fixture(params=["postgres", "postgres15"])
def any_database(request: pytest.FixtureRequest) -> Iterator[Database]:
    with empty_database(request.getfixturevalue(request.param)) as found:
        yield found


class Folder:
    """Made-up migrations, each depending on the one before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ids: list[str] = []

    def add(self, migration_id: str, up: str, down: str = "SELECT 1;", *, directives: str = "") -> None:
        depends = f"-- depends: {self.ids[-1]}\n" if self.ids else ""
        (self.path / f"{migration_id}.sql").write_text(f"-- Made up.\n{depends}{directives}\n{up}\n")
        (self.path / f"{migration_id}.rollback.sql").write_text(f"{down}\n")
        self.ids.append(migration_id)

    def add_table(self, name: str) -> None:
        number = len(self.ids) + 1
        self.add(f"{number:04}_create_{name}", f"CREATE TABLE {name} (id int);", f"DROP TABLE {name};")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    found = Folder(tmp_path)
    found.add_table("apples")
    found.add_table("pears")
    return found


def in_process(call: str, url: str, directory: Path) -> "subprocess.Popen[str]":
    lines = [
        "import sys, pathlib",
        "from service.commands.migrate import rollback, upgrade",
        "url, directory = sys.argv[1], pathlib.Path(sys.argv[2])",
        f"print(*{call})",
    ]
    command = [sys.executable, "-c", "\n".join(lines), url, str(directory)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def upgrade_in_process(url: str, directory: Path) -> "subprocess.Popen[str]":
    return in_process("upgrade(url, directory)", url, directory)


@contextlib.contextmanager
def killed_at(process: "subprocess.Popen[str]") -> Iterator[None]:
    """Kill -9 the runner at the end of the block."""
    try:
        yield
        assert process.poll() is None, f"the runner was to be killed at work, but ended: {process.communicate()}"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def pg_dump(server: EmbeddedPostgres) -> Path:
    return server.bin_dir / "pg_dump"


# Files


def _write(name: str, text: str) -> Callable[[Path], object]:
    return lambda path: (path / name).write_text(text)


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no rollback file": (
        lambda path: (path / "0002_create_pears.rollback.sql").unlink(),
        "0002_create_pears.rollback.sql is missing",
    ),
    "an empty rollback file": (_write("0002_create_pears.rollback.sql", "-- nothing;\n"), "holds no statement"),
    "an empty file": (_write("0001_create_apples.sql", "\n"), "holds no statement"),
    "a name without an object": (_write("0003_create.sql", "SELECT 1"), "NNNN_verb_object.sql"),
    "a short number": (_write("003_create_plums.sql", "SELECT 1"), "NNNN_verb_object.sql"),
    "upper case": (_write("0003_Create_plums.SQL", "SELECT 1"), "NNNN_verb_object.sql"),
    "a Python migration": (_write("0003_create_plums.py", "step()"), "NNNN_verb_object.sql"),
    "a hook of yoyo's": (_write("post-apply.sql", "SELECT 1"), "NNNN_verb_object.sql"),
    "a rollback alone": (_write("0003_create_plums.rollback.sql", "SELECT 1"), "no migration of that name"),
    "the same number twice": (_write("0002_create_plums.sql", "SELECT 1"), "same number"),
    "no dependency": (
        _write("0003_create_plums.sql", "SELECT 1"),
        "depends on nothing: .*-- depends: 0002_create_pears",
    ),
    "two heads": (_write("0003_create_plums.sql", "-- depends: 0001_create_apples\nSELECT 1"), "history is one line"),
    "a first one that depends": (
        _write("0001_create_apples.sql", "-- depends: 0000_x\nSELECT 1"),
        "it is the first one",
    ),
    "a directive yoyo overlooks": (
        _write("0001_create_apples.sql", "SELECT 1;\n-- transactional: false\n"),
        "above the first statement",
    ),
    "a third truth": (_write("0001_create_apples.sql", "-- transactional: maybe\nSELECT 1;"), "true or false"),
    "a commit": (_write("0001_create_apples.sql", "CREATE TABLE x ();\n/* ; */ commit; SELECT 1"), "take out COMMIT"),
    "a begin in the rollback": (_write("0001_create_apples.rollback.sql", "-- go\nBEGIN; SELECT 1"), "take out BEGIN"),
    "two statements without a transaction": (
        _write(
            "0001_create_apples.sql",
            "-- transactional: false\nCREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (a);\nSELECT 1",
        ),
        "without a transaction only one",
    ),
    "an index that can't be made twice": (
        _write("0001_create_apples.sql", "-- transactional: false\nCREATE INDEX CONCURRENTLY i ON t (a)"),
        "without a transaction only one",
    ),
    "a rollback of another kind": (
        _write("0001_create_apples.rollback.sql", "-- transactional: false\nDROP INDEX CONCURRENTLY IF EXISTS i"),
        "only the migration's own",
    ),
    "another encoding": (
        lambda path: (path / "0001_create_apples.sql").write_bytes(b"SELECT '\xe4'"),
        "not UTF-8",
    ),
    "no migrations": (lambda path: [file.unlink() for file in path.iterdir()], "no migrations in"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_folder_is_refused_before_the_database_is_asked(folder: Folder, case: str) -> None:
    spoil, message = BAD_FILES[case]
    assert known_ids(folder.path) == folder.ids
    spoil(folder.path)
    for ask in (
        lambda: migration_files.load(folder.path),
        lambda: upgrade("postgresql://nobody@127.0.0.1:1/none", folder.path),
    ):
        with pytest.raises(MigrationError, match=message) as refused:
            ask()
        assert "\n" not in str(refused.value)


def test_what_looks_like_a_commit_inside_a_function_is_none(folder: Folder, database: Database) -> None:
    body = "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $f$\nBEGIN -- it's; COMMIT;\n RETURN 1; END\n$f$;"
    standard = "CREATE FUNCTION g() RETURNS int BEGIN ATOMIC SELECT 1; END;"
    folder.add(
        "0003_create_functions", f"{body}\n{standard}\nCOMMENT ON FUNCTION f() IS 'a; COMMIT;';", "DROP FUNCTION f, g;"
    )
    assert upgrade(database.url, folder.path) == folder.ids
    assert database.value("SELECT f() + g()") == 2


def test_the_real_migrations_are_well_formed_and_one_line_of_history() -> None:
    assert sorted(REAL) == REAL
    assert [migration_id[:4] for migration_id in REAL] == [f"{number:04}" for number in range(1, len(REAL) + 1)]
    for migration in migration_files.load()[1:]:
        start = migration_files.split_statements(migration.text)[0][1]
        assert re.match(r"SET (LOCAL )?ROLE todochat_owner", start), f"{migration.id} makes objects of the wrong owner"


BLOCKING = {
    "ShareLock": "against writes",
    "ShareRowExclusiveLock": "against writes",
    "ExclusiveLock": "against writes",
    "AccessExclusiveLock": "against everything",
}
"""Locks of tables that requests have to wait for, and how a header says it."""


def test_every_migration_states_the_locks_it_takes_of_tables_that_were_there(database: Database) -> None:
    """What PostgreSQL says it holds at the end, and the header says as much: which tables, against what."""
    with psycopg.connect(database.url) as conn:
        for migration in migration_files.load():
            stated = re.search(r"^Locks: (.+?)\.(?:$| )", migration.header, re.MULTILINE)
            assert stated, f"{migration.id} doesn't state its locks"
            before = "SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
            tables = [oid for (oid,) in conn.execute(before)]
            conn.execute(migration.text.encode())
            held = conn.execute(
                "SELECT relation::regclass::text, mode FROM pg_locks WHERE pid = pg_backend_pid()"
                " AND locktype = 'relation' AND relation = ANY (%s::oid[]) AND mode = ANY (%s)",
                [tables, [*BLOCKING]],
            ).fetchall()
            conn.commit()
            conn.execute("RESET ROLE")
            for table in {table for table, _ in held}:
                assert table in stated[1] or "each" in stated[1], f"{migration.id} locks {table}, too"
            assert bool(held) == ("against" in stated[1] and "roles" not in stated[1]), f"{migration.id}: {held}"
            for mode in {mode for _, mode in held}:
                assert BLOCKING[mode] in stated[1] or "against everything" in stated[1], f"{migration.id} takes {mode}"


def test_the_service_knows_the_names_of_migrations_without_loading_what_runs_them() -> None:
    program = "import sys, service.app; sys.exit(str({'yoyo', 'sqlparse', 'click', 'rich'} & sys.modules.keys() or ''))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


# Applying and marking


def test_migrations_are_applied_once_in_order_and_marked_as_yoyo_marks_them(
    any_database: Database, folder: Folder
) -> None:
    assert [entry.state for entry in status(any_database.url, folder.path)] == ["pending", "pending"]
    assert any_database.rows("SELECT FROM pg_class WHERE relname LIKE '%yoyo%'") == []  # status only looks
    assert upgrade(any_database.url, folder.path) == folder.ids
    assert upgrade(any_database.url, folder.path) == []
    assert any_database.tables() == {"apples", "pears"}
    assert any_database.rows("SELECT migration_id, migration_hash, checksum FROM _yoyo_migration ORDER BY 1") == [
        (i, hashlib.sha256(i.encode()).hexdigest(), hashlib.sha256((folder.path / f"{i}.sql").read_bytes()).hexdigest())
        for i in folder.ids
    ]
    assert any_database.rows("SELECT migration_id, operation, username FROM _yoyo_log ORDER BY created_at_utc") == [
        (i, "apply", LOGIN) for i in folder.ids
    ]
    assert [entry.state for entry in status(any_database.url, folder.path)] == ["applied", "applied"]
    assert all(entry.applied_at is not None for entry in status(any_database.url, folder.path))


def test_a_rollback_undoes_the_latest_first_and_only_as_many_as_asked(any_database: Database, folder: Folder) -> None:
    folder.add_table("plums")
    assert rollback(any_database.url, directory=folder.path) == []  # nothing there yet
    upgrade(any_database.url, folder.path)
    assert rollback(any_database.url, 2, folder.path) == ["0003_create_plums", "0002_create_pears"]
    assert any_database.tables() == {"apples"}
    assert [entry.state for entry in status(any_database.url, folder.path)] == ["applied", "pending", "pending"]
    assert upgrade(any_database.url, folder.path) == ["0002_create_pears", "0003_create_plums"]
    assert rollback(any_database.url, 99, folder.path) == list(reversed(folder.ids))
    assert any_database.tables() == set()


def test_what_is_done_is_said_at_once_and_before_it_what_is_begun(database: Database, folder: Folder) -> None:
    folder.add("0003_create_plums", "SELECT 1 / 0;")
    said: list[str] = []
    with pytest.raises(MigrationError, match="division by zero"):
        upgrade(database.url, folder.path, done=said.append, doing=said.append)
    assert said == [
        "1 of 3, 0001_create_apples: Made up.",
        "applied 0001_create_apples",
        "2 of 3, 0002_create_pears: Made up.",
        "applied 0002_create_pears",
        "3 of 3, 0003_create_plums: Made up.",
    ]
    said.clear()
    rollback(database.url, 2, folder.path, done=said.append)
    assert said == ["rolled back 0002_create_pears", "rolled back 0001_create_apples"]


def test_a_failing_migration_leaves_nothing_and_says_file_and_line(database: Database, folder: Folder) -> None:
    folder.add(
        "0003_create_plums", "CREATE TABLE plums (id int);\nINSERT INTO plums\nVALUES ('x');", "DROP TABLE plums;"
    )
    with pytest.raises(MigrationError, match=r'^0003_create_plums.sql line 6: invalid input syntax .* "x"$'):
        upgrade(database.url, folder.path)
    assert database.tables() == {"apples", "pears"}
    text = (folder.path / "0003_create_plums.sql").read_text()
    (folder.path / "0003_create_plums.sql").write_text(text.replace("'x'", "1"))
    assert upgrade(database.url, folder.path) == ["0003_create_plums"]


def test_a_migration_meets_the_same_session_whatever_the_database_has_as_defaults(
    database: Database, folder: Folder
) -> None:
    for setting in ("timezone = 'America/New_York'", "datestyle = 'German'", "statement_timeout = '1min'"):
        database.execute(f"ALTER DATABASE {database.name} SET {setting}")
    names = "'TimeZone', 'DateStyle', 'statement_timeout', 'lock_timeout', 'row_security'"
    folder.add(
        "0003_create_plums",
        f"CREATE TABLE plums AS SELECT name, setting FROM pg_settings WHERE name IN ({names});",
        "DROP TABLE plums;",
    )
    upgrade(database.url, folder.path)
    assert dict(database.rows("SELECT * FROM plums")) == {
        "TimeZone": "UTC",
        "DateStyle": "ISO, DMY",
        "statement_timeout": "0",
        "lock_timeout": "1000",
        "row_security": "off",
    }


def test_a_migration_under_another_role_is_marked_by_the_login(database: Database, folder: Folder) -> None:
    database.execute(f"CREATE ROLE {database.name} ROLE {LOGIN}; GRANT CREATE ON SCHEMA public TO {database.name}")
    try:
        folder.add("0003_create_plums", f"SET LOCAL ROLE {database.name};\nCREATE TABLE plums ();")
        folder.add("0004_create_nuts", f"SET ROLE {database.name};\nCREATE TABLE nuts ();")
        folder.add_table("figs")
        upgrade(database.url, folder.path)
        owners = dict(database.rows("SELECT tablename, tableowner FROM pg_tables WHERE schemaname = 'public'"))
        assert (owners["plums"], owners["nuts"], owners["figs"]) == (database.name, database.name, LOGIN)
    finally:
        database.execute(f"DROP OWNED BY {database.name}; DROP ROLE {database.name}")


def test_a_backfill_that_row_security_would_hide_rows_from_fails(database: Database, folder: Folder) -> None:
    forced = "ALTER TABLE apples ENABLE ROW LEVEL SECURITY; ALTER TABLE apples FORCE ROW LEVEL SECURITY;"
    folder.add("0003_close_apples", f"INSERT INTO apples VALUES (1);\n{forced}")
    folder.add("0004_fill_apples", "UPDATE apples SET id = 2;")
    with pytest.raises(MigrationError, match=r"0004_fill_apples\.sql: query would be affected by row-level security"):
        upgrade(database.url, folder.path)


def test_a_migration_that_ends_the_transaction_by_another_word_is_caught(database: Database, folder: Folder) -> None:
    folder.add("0003_create_plums", "CREATE TABLE plums (); END;")
    with pytest.raises(MigrationError, match="ended the runner's transaction"):
        upgrade(database.url, folder.path)


# History


def _edit(path: Path) -> None:
    (path / "0001_create_apples.sql").write_text("CREATE TABLE apples (id bigint);")


def _remove(path: Path) -> None:
    for file in path.glob("0001_*"):
        file.unlink()
    text = (path / "0002_create_pears.sql").read_text()
    (path / "0002_create_pears.sql").write_text(text.replace("-- depends: 0001_create_apples", ""))


HISTORIES = {
    "an edited file": (_edit, "0001_create_apples.sql was edited", ["changed", "applied"]),
    "a removed file": (_remove, "0001_create_apples was applied on .* but its file is gone", ["missing", "changed"]),
}


def test_what_a_file_advises_is_said(database: Database, folder: Folder) -> None:
    folder.add(
        "0003_ask_somebody",
        "DO $$ BEGIN RAISE EXCEPTION 'not so' USING ERRCODE = '42501', HINT = 'Ask the other one'; END $$;",
    )
    with pytest.raises(MigrationError, match=r"^0003_ask_somebody\.sql: not so: Ask the other one$"):
        upgrade(database.url, folder.path)


@pytest.mark.parametrize("case", HISTORIES)
def test_a_database_that_does_not_match_the_files_is_refused(database: Database, folder: Folder, case: str) -> None:
    change, message, states = HISTORIES[case]
    upgrade(database.url, folder.path)
    change(folder.path)
    with pytest.raises(MigrationError, match=message):
        upgrade(database.url, folder.path)
    with pytest.raises(MigrationError, match=message):
        rollback(database.url, 1, folder.path)
    assert [entry.state for entry in status(database.url, folder.path)] == states
    assert database.tables() == {"apples", "pears"}


def test_a_database_that_a_newer_release_migrated_is_left_as_it_is(database: Database, folder: Folder) -> None:
    folder.add_table("plums")
    upgrade(database.url, folder.path)
    for file in [*folder.path.glob("0002_*"), *folder.path.glob("0003_*")]:
        file.unlink()
    said: list[str] = []
    assert upgrade(database.url, folder.path, doing=said.append) == []
    assert len(said) == 1
    assert said[0].startswith(
        "the database is ahead: a newer release applied 0002_create_pears, 0003_create_plums. This"
    )
    assert said[0].endswith("ends at 0001_create_apples and can serve it as it is")
    assert [(entry.state, entry.problem) for entry in status(database.url, folder.path)] == [
        ("applied", None),
        ("newer", None),
        ("newer", None),
    ]
    with pytest.raises(
        MigrationError, match="newer release applied 0003_create_plums, this one ends at 0001"
    ) as refused:
        rollback(database.url, 1, folder.path)
    assert "roll back with the newer release" in str(refused.value)
    assert database.tables() == {"apples", "pears", "plums"}
    _edit(folder.path)
    with pytest.raises(MigrationError, match=r"0001_create_apples\.sql was edited"):
        upgrade(database.url, folder.path)


def test_a_migration_that_a_newer_release_passed_over_is_refused(database: Database, folder: Folder) -> None:
    """Two branches: what is pending here comes before what is applied there."""
    folder.add_table("plums")
    upgrade(database.url, folder.path)
    for file in folder.path.glob("0003_*"):
        file.unlink()
    database.execute("DELETE FROM _yoyo_migration WHERE migration_id = '0002_create_pears'")
    with pytest.raises(MigrationError, match="0002_create_pears comes before 0003_create_plums, which is applied"):
        upgrade(database.url, folder.path)


def test_a_database_of_before_1_0_is_told_how_to_come_along(database: Database, folder: Folder) -> None:
    (folder.path / "old").mkdir()
    old = Folder(folder.path / "old")
    old.add("0001_create_roles", "CREATE TABLE roles ();")
    old.add("0002_create_functions", "CREATE TABLE functions ();")
    upgrade(database.url, old.path)
    for ask in (upgrade, lambda url, path: rollback(url, 1, path)):
        with pytest.raises(MigrationError, match=r"before 1\.0: export each account .* and import") as refused:
            ask(database.url, folder.path)
        assert "\n" not in str(refused.value)
    assert database.tables() == {"roles", "functions"}


def test_a_late_older_migration_is_refused(database: Database, tmp_path: Path) -> None:
    early, late = Folder(tmp_path / "early"), Folder(tmp_path / "late")
    for branch in (early, late):
        branch.path.mkdir()
        branch.add_table("apples")
    early.add("0003_create_plums", "CREATE TABLE plums ();")
    upgrade(database.url, early.path)
    late.add_table("pears")
    for name in ("0003_create_plums.sql", "0003_create_plums.rollback.sql"):
        shutil.copy(early.path / name, late.path / name)
    plums = late.path / "0003_create_plums.sql"
    plums.write_text(plums.read_text().replace("0001_create_apples", "0002_create_pears"))
    database.execute(
        f"UPDATE _yoyo_migration SET checksum = '{hashlib.sha256(plums.read_bytes()).hexdigest()}'"
        " WHERE migration_id = '0003_create_plums'"
    )
    with pytest.raises(MigrationError, match="0002_create_pears comes before 0003_create_plums, which is applied"):
        upgrade(database.url, late.path)


def test_other_line_endings_are_no_edit(database: Database, folder: Folder) -> None:
    upgrade(database.url, folder.path)
    for file in folder.path.glob("*.sql"):
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert upgrade(database.url, folder.path) == []
    assert rollback(database.url, 1, folder.path) == ["0002_create_pears"]


# yoyo's own command


def yoyo(*arguments: str) -> str:
    command = [sys.executable, "-m", "yoyo", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT / "tests")
    assert done.returncode == 0, done.stderr
    return done.stdout


COLUMNS = """
SELECT table_name, column_name, data_type, character_maximum_length, is_nullable, column_default
FROM information_schema.columns WHERE table_name LIKE '%yoyo%' AND column_name <> 'checksum' ORDER BY 1, 2
"""


def test_the_yoyo_command_reads_what_the_runner_wrote_and_the_other_way_round(
    postgres: EmbeddedPostgres, folder: Folder
) -> None:
    with empty_database(postgres) as ours, empty_database(postgres) as theirs:
        upgrade(ours.url, folder.path)
        folder.add_table("plums")
        options = ["--batch", "--no-config-file", "--database"]
        listed = yoyo("list", *options, ours.url.replace("postgresql:", "postgresql+psycopg:"), str(folder.path))
        assert re.findall(r"^([AU]) +(\w+)", listed, re.MULTILINE) == [
            ("A", "0001_create_apples"),
            ("A", "0002_create_pears"),
            ("U", "0003_create_plums"),
        ]
        yoyo("mark", "-r", "0001", *options, theirs.url.replace("postgresql:", "postgresql+psycopg:"), str(folder.path))
        assert ours.rows(COLUMNS) == theirs.rows(COLUMNS)
        assert ours.rows("SELECT version FROM _yoyo_version") == theirs.rows("SELECT max(version) FROM _yoyo_version")
        with pytest.raises(MigrationError, match="0001_create_apples was marked without a checksum") as refused:
            upgrade(theirs.url, folder.path)
        theirs.execute("CREATE TABLE apples (id int)")
        setting = re.search(r"SET checksum = '\w+'", str(refused.value))
        assert setting is not None
        theirs.execute(f"UPDATE _yoyo_migration {setting[0]}")
        assert upgrade(theirs.url, folder.path) == ["0002_create_pears", "0003_create_plums"]


def test_the_yoyo_command_lists_the_real_migrations(database: Database) -> None:
    upgrade(database.url)
    url = database.url.replace("postgresql:", "postgresql+psycopg:")
    listed = yoyo("list", "--batch", "--no-config-file", "--database", url, str(migrate.DEFAULT_DIRECTORY))
    assert re.findall(r"^([AU]) +(\w+)", listed, re.MULTILINE) == [("A", migration_id) for migration_id in REAL]


# Several runners, dead runners


def test_five_runners_at_once_apply_each_migration_once(any_database: Database, folder: Folder) -> None:
    folder.add("0003_wait_here", "SELECT pg_sleep(0.2);")
    with ThreadPoolExecutor(5) as threads:
        applied = list(threads.map(lambda _: upgrade(any_database.url, folder.path), range(5)))
    assert sorted(applied) == [[], [], [], [], folder.ids]
    assert any_database.value("SELECT count(*) FROM _yoyo_log") == len(folder.ids)


def test_a_runner_that_waits_too_long_says_for_whom(
    database: Database, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "RUNNER_TELL_SECONDS", -1.0)
    key = migrate._RUNNER_LOCK
    with psycopg.connect(database.url, application_name="the other one", autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [key])
        the_other, said = f"backend {other.info.backend_pid}, {LOGIN}, the other one", list[str]()
        with pytest.raises(MigrationError, match=the_other):
            upgrade(database.url, folder.path, wait_seconds=0.1, doing=said.append)
        assert said == [f"waiting for another runner ({the_other}), 0.1 s at most"]
    assert upgrade(database.url, folder.path) == folder.ids


def test_a_runner_killed_in_the_middle_of_a_migration_leaves_no_trace_of_it(
    any_database: Database, folder: Folder
) -> None:
    folder.add("0003_create_plums", "CREATE TABLE plums (id int);\nSELECT pg_sleep(600);")
    with killed_at(upgrade_in_process(any_database.url, folder.path)):
        any_database.wait_for("wait_event = 'PgSleep'")
    plums = folder.path / "0003_create_plums.sql"
    plums.write_text(plums.read_text().replace("600", "0"))
    assert upgrade(any_database.url, folder.path, wait_seconds=DEADLINE_SECONDS) == ["0003_create_plums"]
    assert any_database.tables() == {"apples", "pears", "plums"}


def test_a_runner_killed_between_the_change_and_its_mark_leaves_neither(any_database: Database, folder: Folder) -> None:
    upgrade(any_database.url, folder.path)
    folder.add_table("plums")
    with psycopg.connect(any_database.superuser_url) as blocker:
        blocker.execute("LOCK TABLE _yoyo_migration IN EXCLUSIVE MODE")
        with killed_at(upgrade_in_process(any_database.url, folder.path)):
            any_database.wait_for("wait_event_type = 'Lock' AND query LIKE '%INSERT INTO public._yoyo_migration%'")
        assert any_database.tables() == {"apples", "pears"}
    assert upgrade(any_database.url, folder.path, wait_seconds=DEADLINE_SECONDS) == ["0003_create_plums"]
    assert any_database.tables() == {"apples", "pears", "plums"}


def test_a_runner_killed_in_a_rollback_leaves_the_migration_applied(database: Database, folder: Folder) -> None:
    folder.add("0003_create_plums", "CREATE TABLE plums ();", "DROP TABLE plums;\nSELECT pg_sleep(600);")
    upgrade(database.url, folder.path)
    with killed_at(in_process("rollback(url, 1, directory)", database.url, folder.path)):
        database.wait_for("wait_event = 'PgSleep'")
    assert database.tables() == {"apples", "pears", "plums"}
    (folder.path / "0003_create_plums.rollback.sql").write_text("DROP TABLE plums;")
    assert rollback(database.url, 1, folder.path, wait_seconds=DEADLINE_SECONDS) == ["0003_create_plums"]
    assert database.tables() == {"apples", "pears"}


# Without a transaction

INDEX = "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS pears_id_key ON pears (id) WHERE id <> 0;"
VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('pears_id_key')"


def add_index(folder: Folder) -> None:
    drop = "DROP INDEX CONCURRENTLY IF EXISTS pears_id_key;"
    folder.add("0003_index_pears", f"SET ROLE {LOGIN};\n{INDEX}", drop, directives="-- transactional: false\n")


def test_a_runner_killed_while_it_builds_an_index_is_followed_by_one_that_builds_it_anew(
    any_database: Database, folder: Folder
) -> None:
    upgrade(any_database.url, folder.path)
    add_index(folder)
    with psycopg.connect(any_database.superuser_url) as writer:
        writer.execute("INSERT INTO pears VALUES (1)")  # CONCURRENTLY waits for the end of this transaction
        with killed_at(upgrade_in_process(any_database.url, folder.path)):
            any_database.wait_for("wait_event_type = 'Lock' AND query LIKE '%INDEX CONCURRENTLY%'")
        assert any_database.rows(VALID) == [(False,)]
    assert upgrade(any_database.url, folder.path, wait_seconds=DEADLINE_SECONDS) == ["0003_index_pears"]
    assert any_database.rows(VALID) == [(True,)]
    assert rollback(any_database.url, 1, folder.path) == ["0003_index_pears"]
    assert any_database.rows(VALID) == []


def test_an_index_that_can_not_be_built_leaves_none_behind(database: Database, folder: Folder) -> None:
    upgrade(database.url, folder.path)
    database.execute("INSERT INTO pears VALUES (7), (7)")
    add_index(folder)
    with pytest.raises(MigrationError, match=r"0003_index_pears\.sql: could not create unique index"):
        upgrade(database.url, folder.path)
    assert database.rows(VALID) == []
    database.execute("TRUNCATE pears")
    assert upgrade(database.url, folder.path) == ["0003_index_pears"]


def test_an_index_built_by_a_runner_that_died_before_marking_it_is_taken_as_it_is(
    database: Database, folder: Folder
) -> None:
    upgrade(database.url, folder.path)
    database.execute(INDEX)
    add_index(folder)
    assert upgrade(database.url, folder.path) == ["0003_index_pears"]
    assert database.rows(VALID) == [(True,)]


def test_something_else_of_the_index_name_is_not_taken_for_it(database: Database, folder: Folder) -> None:
    database.execute("CREATE TABLE pears_id_key ()")
    add_index(folder)
    with pytest.raises(MigrationError, match="pears_id_key exists and is no valid index"):
        upgrade(database.url, folder.path)


def test_an_interrupted_rollback_of_an_index_is_not_taken_for_applied(database: Database, folder: Folder) -> None:
    add_index(folder)
    upgrade(database.url, folder.path)
    database.execute("INSERT INTO pears VALUES (1)")
    with psycopg.connect(database.superuser_url) as reader:
        reader.execute("SELECT * FROM pears WHERE id = 1")
        with killed_at(in_process("rollback(url, 1, directory)", database.url, folder.path)):
            database.wait_for("wait_event_type = 'Lock' AND query LIKE '%INDEX CONCURRENTLY%'")
    with pytest.raises(MigrationError, match="the rollback of 0003_index_pears was interrupted: roll back again"):
        upgrade(database.url, folder.path, wait_seconds=DEADLINE_SECONDS)
    assert [entry.state for entry in status(database.url, folder.path)] == ["applied", "applied", "changed"]
    assert rollback(database.url, 1, folder.path) == ["0003_index_pears"]
    assert database.rows(VALID) == []


# Locks of the service


def test_a_migration_behind_a_long_transaction_gives_way_and_then_up(
    database: Database, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT", "50ms")
    monkeypatch.setattr(migrate, "LOCK_ATTEMPTS", 2)
    monkeypatch.setattr(migrate, "LOCK_PAUSE_SECONDS", 0.0)
    upgrade(database.url, folder.path)
    folder.add("0003_alter_pears", "CREATE TABLE plums ();\nALTER TABLE pears ADD COLUMN name text;")
    said: list[str] = []
    with (
        psycopg.connect(database.url, application_name="another table's") as other,
        psycopg.connect(database.url, application_name="a long report") as reader,
    ):
        other.execute("SELECT * FROM apples")
        reader.execute("SELECT * FROM pears")
        with pytest.raises(
            MigrationError, match=f"no lock in 2 tries of 50ms: backend .*{LOGIN}, a long report.* open for"
        ):
            upgrade(database.url, folder.path, doing=said.append)
        assert len(said) == 2
        assert re.fullmatch(
            rf"0003_alter_pears.sql got no lock in 50ms, try 1 of 2: backend .*{LOGIN}, a long report.* end it first",
            said[1],
        )
        assert database.tables() == {"apples", "pears"}
    assert upgrade(database.url, folder.path) == ["0003_alter_pears"]


def test_who_is_in_the_way_is_named_though_the_login_may_not_see_what_others_do(
    database: Database, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT", "50ms")
    monkeypatch.setattr(migrate, "LOCK_ATTEMPTS", 1)
    upgrade(database.url, folder.path)
    folder.add("0003_alter_pears", "ALTER TABLE pears ADD COLUMN name text;")
    with psycopg.connect(database.superuser_url, application_name="a long report") as reader:
        reader.execute("SELECT * FROM pears")
        who = f"backend {reader.info.backend_pid} .postgres, a long report."
        with pytest.raises(MigrationError, match=f"{who} has a transaction open, end it first"):
            upgrade(database.url, folder.path)


def test_a_migration_is_tried_again_when_its_lock_was_busy(
    database: Database, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT", "50ms")
    upgrade(database.url, folder.path)
    folder.add("0003_alter_pears", "ALTER TABLE pears ADD COLUMN name text;")
    with psycopg.connect(database.url) as reader:
        reader.execute("SELECT * FROM pears")
        monkeypatch.setattr(migrate.time, "sleep", lambda _: reader.rollback())  # the pause: the reader ends
        assert upgrade(database.url, folder.path) == ["0003_alter_pears"]


# Connections


BAD_URLS = [
    "",
    "nonsense",
    "mysql://me:hunter2@db/x",
    "postgresql://me:hunter2@ter2@127.0.0.1/x",
    "postgresql://me:hunter2/er2@127.0.0.1/x",
    "postgresql://me:hunter2%zz@127.0.0.1/x",
    "postgresql://me:hunter2@127.0.0.1:54x2/x",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_url_that_can_not_be_read_is_refused_without_repeating_it(folder: Folder, url: str) -> None:
    for ask in (upgrade, status):
        with pytest.raises(DatabaseError, match="form postgresql://USER:PASSWORD@HOST") as refused:
            ask(url, folder.path)
        assert "ter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://me:hunter2@127.0.0.1:1/x", r"can't connect to 127.0.0.1, database x: .* refused"),
        ("postgresql://me:hunter2@nowhere.invalid/x", "can't connect to nowhere.invalid, database x"),
        ("postgresql+psycopg://me:hunter2@127.0.0.1:1/x", "can't connect to 127.0.0.1"),
        ("postgresql://me:hunter2@ep-cool-1-pooler.region.invalid/x", "address of a connection pooler"),
    ],
)
def test_a_database_that_can_not_be_reached_is_one_line_that_says_where(folder: Folder, url: str, message: str) -> None:
    with pytest.raises(OperatorError, match=message) as refused:
        upgrade(url, folder.path)
    assert "\n" not in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_login_that_may_not_migrate_is_told_which_may(database: Database, folder: Folder) -> None:
    database.execute(f"CREATE ROLE {database.name} LOGIN")
    try:
        with pytest.raises(MigrationError, match=f"login {database.name} may not create tables in {database.name}"):
            upgrade(database.server.url(database.name, database.name), folder.path)
    finally:
        database.execute(f"DROP ROLE {database.name}")


def listens(path: Path) -> bool:
    """Whether somebody does: the file may be what another one left."""
    with socket.socket(socket.AF_UNIX) as found:
        return found.connect_ex(str(path)) == 0


@contextlib.contextmanager
def pgbouncer(database: Database, mode: str) -> Iterator[str]:
    """A pooler in front of the database, run as the server's account: like PostgreSQL it refuses root."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("needs PgBouncer: apt-get install pgbouncer")
    sockets = database.server.socket_dir
    settings = sockets / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n* = host={sockets} port=5432 user={LOGIN}\n[pgbouncer]\n"
        f"unix_socket_dir = {sockets}\nlisten_port = 6432\nauth_type = any\npool_mode = {mode}\n"
    )
    command = [*as_account(database.server.cluster_dir), program, "-q", str(settings)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not listens(sockets / ".s.PGSQL.6432"):
            assert process.poll() is None, "PgBouncer did not start"
            assert time.monotonic() < deadline, "PgBouncer does not listen"
            time.sleep(0.02)
        yield database.url.replace("port=5432", "port=6432")
    finally:
        process.terminate()
        process.wait()
        settings.unlink()


def test_a_pooler_that_shares_sessions_is_refused_and_one_that_keeps_them_is_not(
    database: Database, folder: Folder
) -> None:
    with pgbouncer(database, "transaction") as url:
        with pytest.raises(MigrationError, match="a pooler in transaction mode"):
            upgrade(url, folder.path)
        assert database.tables() == set()
    with pgbouncer(database, "session") as url:
        assert upgrade(url, folder.path) == folder.ids


def test_a_session_that_does_not_hold_the_lock_runs_no_migration(database: Database, folder: Folder) -> None:
    upgrade(database.url, folder.path)
    folder.add_table("plums")
    plums = migration_files.load(folder.path)[-1]
    with (
        psycopg.connect(database.url, autocommit=True) as other,
        pytest.raises(MigrationError, match="the runner's lock is gone, as behind a pooler"),
    ):
        migrate._run(other, plums, "apply")
    assert database.tables() == {"apples", "pears"}


# The real migrations


@pytest.fixture
def steps(tmp_path: Path) -> list[Path]:
    """For each migration a folder that ends with it."""
    folders: list[Path] = []
    for count, migration_id in enumerate(REAL, 1):
        path = tmp_path / migration_id
        path.mkdir()
        for included in REAL[:count]:
            for name in (f"{included}.sql", f"{included}.rollback.sql"):
                shutil.copy(migrate.DEFAULT_DIRECTORY / name, path / name)
        folders.append(path)
    return folders


def test_every_real_migration_can_be_rolled_back_and_applied_again(database: Database, steps: list[Path]) -> None:
    program = pg_dump(database.server)
    with contextlib.suppress(MigrationError):
        upgrade(database.url, steps[0])
    rollback(database.url, 1, steps[0])
    before = dump_schema(database.url, program)
    for step, migration_id in zip(steps, REAL, strict=True):
        assert upgrade(database.url, step) == [migration_id]
        after = dump_schema(database.url, program)
        assert rollback(database.url, 1, step) == [migration_id]
        assert dump_schema(database.url, program) == before, f"{migration_id} is not undone by its rollback"
        assert upgrade(database.url, step) == [migration_id]
        assert dump_schema(database.url, program) == after
        before = after


def test_up_down_up_leaves_the_same_schema(any_database: Database, postgres: EmbeddedPostgres) -> None:
    program = pg_dump(postgres)  # reads older servers too
    assert upgrade(any_database.url) == REAL
    up = dump_schema(any_database.url, program)
    assert rollback(any_database.url, len(REAL)) == list(reversed(REAL))
    assert any_database.tables() == set()
    assert any_database.rows("SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace") == []
    assert upgrade(any_database.url) == REAL
    assert dump_schema(any_database.url, program) == up


def test_schema_sql_and_its_picture_are_what_the_migrations_make_whoever_runs_them(postgres: EmbeddedPostgres) -> None:
    for login in (LOGIN, "postgres"):
        with empty_database(postgres) as database:
            url = postgres.url(database.name, login)
            upgrade(url)
            assert SCHEMA.read_text() == dump_schema(url, pg_dump(postgres)), "run `make schema`"
            assert PICTURE.read_text() == draw_schema(url), "run `make schema`"


def test_schema_sql_depends_on_no_place_and_no_version() -> None:
    text = SCHEMA.read_text()
    assert not re.search(r"restrict|Dumped|\bSET default_|postgres\b", text)
    assert all(character.isprintable() or character in "\n\t" for character in text)


# The service's login


@pytest.fixture
def migrated(any_database: Database) -> Database:
    upgrade(any_database.url)
    return any_database


@pytest.fixture
def login(migrated: Database) -> Iterator[str]:
    name = f"{migrated.name}_service"
    yield name
    migrated.execute(f"DROP ROLE IF EXISTS {name}")


def verifies(verifier: str, password: str) -> bool:
    """Whether a SCRAM verifier (RFC 5803) is that password's."""
    iterations, salt, stored, _ = re.fullmatch(r"SCRAM-SHA-256\$(\d+):(.+)\$(.+):(.+)", verifier).groups()  # type: ignore[union-attr]
    from base64 import b64decode
    from hmac import digest

    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), b64decode(salt), int(iterations))
    return hashlib.sha256(digest(salted, b"Client Key", "sha256")).digest() == b64decode(stored)


ATTRIBUTES = """
SELECT rolcanlogin, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication, rolvaliduntil,
    (SELECT array_agg(m.roleid::regrole::text) FROM pg_auth_members AS m WHERE m.member = r.oid)
FROM pg_roles AS r WHERE rolname =
"""


def test_the_service_login_can_use_the_tables_and_nothing_more(migrated: Database, login: str) -> None:
    password = "pä:ss@w/ö?r&d%20"
    url = create_service_login(migrated.url, login, password)
    assert {"user": login, "password": password, "dbname": migrated.name}.items() <= conninfo_to_dict(url).items()
    assert migrated.rows(f"{ATTRIBUTES} '{login}'") == [
        (True, False, False, False, False, False, None, ["todochat_app"])
    ]
    verifier = migrated.value(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{login}'")
    assert verifies(verifier, password)
    assert not verifies(verifier, password + "x")
    with psycopg.connect(url, autocommit=True) as conn:
        settings = [conn.execute(f"SHOW {name}".encode()).fetchone() for name in logins.ROLE_DEFAULTS]
        assert settings == [("4s",), ("2s",), ("10s",), ("off",), ("off",)]
        assert [entry.state for entry in status(url)] == ["applied"] * len(REAL)
        for forbidden in ("CREATE TABLE public.x ()", "CREATE TEMP TABLE x ()", "SET ROLE todochat_owner"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(forbidden)


def test_making_the_login_again_gives_it_the_new_password_and_what_it_lacks(migrated: Database, login: str) -> None:
    create_service_login(migrated.url, login, "the first one")
    migrated.execute(f"ALTER ROLE {login} RESET ALL; ALTER ROLE {login} VALID UNTIL '2001-01-01' CONNECTION LIMIT 7")
    migrated.execute(f"ALTER ROLE {login} SET statement_timeout = '3s'; ALTER ROLE {login} SET work_mem = '7MB'")
    migrated.execute(f"REVOKE todochat_app FROM {login}")
    url = create_service_login(migrated.url, login, "the second one")
    assert verifies(migrated.value(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{login}'"), "the second one")
    assert migrated.value(f"SELECT pg_has_role('{login}', 'todochat_app', 'USAGE')")
    assert migrated.value(f"SELECT rolvaliduntil > now() FROM pg_roles WHERE rolname = '{login}'")
    assert migrated.value(f"SELECT rolconnlimit FROM pg_roles WHERE rolname = '{login}'") == 7
    with psycopg.connect(url) as conn:
        names = (*logins.ROLE_DEFAULTS, "work_mem")
        settings = [conn.execute(f"SHOW {name}".encode()).fetchone() for name in names]
        assert settings == [("3s",), ("2s",), ("10s",), ("off",), ("off",), ("7MB",)]


def test_a_login_that_could_do_more_is_refused_before_anybody_is_asked(migrated: Database, login: str) -> None:
    asked: list[Sequence[str]] = []
    url = create_service_login(migrated.url, login, "the first one", confirm=asked.append)
    migrated.execute(f"ALTER ROLE {login} CREATEDB")
    with psycopg.connect(url), pytest.raises(OperatorError, match="may create databases"):
        create_service_login(migrated.url, login, "the second one", confirm=asked.append)
    assert asked == []


def test_the_password_is_never_in_the_server_log(database: Database) -> None:
    upgrade(database.url)
    name = f"{database.name}_service"
    database.execute(f"ALTER ROLE {LOGIN} IN DATABASE {database.name} SET log_statement = 'all'")
    create_service_login(database.url, name, "a secret of the service")
    log = database.server.log_path.read_text(errors="replace")
    database.execute(f"DROP ROLE {name}")
    assert f'CREATE ROLE "{name}" LOGIN' in log
    assert "a secret of the service" not in log


UNSAFE = {
    "SUPERUSER": "is a superuser",
    "BYPASSRLS": "bypasses row security",
    "CREATEROLE": "may create roles",
    "CREATEDB": "may create databases",
    "REPLICATION": "may replicate",
    "NOLOGIN": "can't log in",
    "NOINHERIT; GRANT todochat_owner TO {}": "is a member of todochat_owner",
}


def test_an_existing_login_that_can_do_more_is_refused(migrated: Database, login: str) -> None:
    for attribute, reason in UNSAFE.items():
        migrated.execute(f"CREATE ROLE {login} LOGIN; ALTER ROLE {login} {attribute.format(login)}")
        with pytest.raises(OperatorError, match=f"{login} exists and .*{reason}"):
            create_service_login(migrated.url, login, "a good password")
        migrated.execute(f"DROP ROLE {login}")
    for name in (LOGIN, "todochat_app", "todochat_owner", "postgres"):
        with pytest.raises(OperatorError, match=f"{name} exists and"):
            create_service_login(migrated.url, name, "a good password")
    migrated.execute(f"CREATE ROLE {login} LOGIN; CREATE SCHEMA own AUTHORIZATION {login}")
    with pytest.raises(OperatorError, match="owns database objects"):
        create_service_login(migrated.url, login, "a good password")
    migrated.execute("DROP SCHEMA own")


@pytest.mark.parametrize(
    ("name", "password", "message"),
    [
        ("Robert'); --", "a good password", "no good name"),
        ("pg_service", "a good password", "no good name"),
        ("x" * 64, "a good password", "no good name"),
        ("service", "", "needs a password"),
        ("service", "a\0b", "needs a password"),
        ("service", "a\nb", "needs a password"),
        ("service", "a\ud800b", "must be text"),
    ],
)
def test_a_bad_name_or_password_is_refused(database: Database, name: str, password: str, message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        create_service_login(database.url, name, password)


def test_a_login_without_the_right_to_make_logins_is_told_so(migrated: Database, login: str) -> None:
    url = create_service_login(migrated.url, login, "a good password")
    with pytest.raises(
        OperatorError, match=f"{login}_2 was not made: connect as a superuser or as the CREATEROLE login"
    ):
        create_service_login(url, f"{login}_2", "a good password")


def test_a_login_before_the_migrations_is_refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins, "APP_ROLE", "todochat_app_of_nobody")
    with pytest.raises(OperatorError, match="run the migrations first"):
        create_service_login(database.url, "service", "a good password")
    with pytest.raises(DatabaseError, match="can't connect to"):
        create_service_login("postgresql://me:hunter2@127.0.0.1:1/x", "service", "a good password")


def test_a_server_that_wants_the_password_itself_gets_it_only_over_tls(
    migrated: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Neon's does, which answers the COMMIT so."""
    sent: list[str] = []

    def store(_: object, __: str, secret: str) -> None:
        sent.append(secret)
        if secret.startswith("SCRAM-SHA-256$"):
            raise psycopg.InternalError("Neon only supports being given plaintext passwords")

    monkeypatch.setattr(logins, "_store_login", store)
    with pytest.raises(OperatorError, match="sslmode=require"):
        create_service_login(migrated.url, "service", "a good password")
    assert len(sent) == 1
