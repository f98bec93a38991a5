"""`todochat backup` and `todochat restore`: a whole database in a file of pg_dump's, complete or refused.

Rows are counted three times: in the very snapshot that pg_dump writes, in the file, which pg_restore reads back, and in
the database that is made of it. The file is one of pg_dump's custom format, with two lines at its end that pg_restore
passes over: what it holds, by table, and the SHA-256 of all before.

Row security hides rows from a login that it binds, and pg_dump's --enable-row-security makes a dump of the rest. So a
login that may see every row is asked for, and that option never used.
"""

import os
import re
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, Literal

import click
import msgspec
import psycopg
from psycopg.sql import SQL, Identifier

from service.commands import history
from service.commands.connection import OWNER_ROLE, configure, connect, one_line_errors, refuse_pooler
from service.commands.dump_entries import find_left_out, find_needs, list_restored
from service.commands.dump_tools import (
    Tool,
    compare_rows,
    count_rows,
    count_tables,
    digest_of,
    find_tool,
    read_tool,
    refuse_shown_password,
    run_tool,
)
from service.commands.owners import find_others
from service.commands.progress import Stage
from service.commands.shared import confirm_loss, ended_by_signals, owner_url, place, say, written_whole, yes_option
from service.db.migration_files import known_objects, load
from service.settings import OperatorError

_LAST_WITHOUT = 16
"""The last major version of servers that refuse what later versions of pg_restore begin with: a parameter of theirs."""
_TAIL_BYTES = 65_536
"""More than the two lines ever have."""
_SESSION = {
    "search_path": "public",
    "row_security": "off",
    "lock_timeout": "60s",
    "idle_in_transaction_session_timeout": "0",
    "client_min_messages": "warning",
}
_LOGIN = """
SELECT current_user::text AS login, rolsuper OR rolbypassrls AS sees_all_rows FROM pg_roles WHERE rolname = current_user
"""
_RELATIONS = """
SELECT c.relname, c.relowner IS NOT DISTINCT FROM to_regrole(%(owner)s) OR c.relname = ANY (%(bookkeeping)s),
    has_table_privilege(c.oid, 'SELECT'), c.relkind = 'r'
FROM pg_class AS c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
ORDER BY c.relname
"""
_OTHER_SCHEMAS = """
SELECT nspname FROM pg_namespace
WHERE nspname NOT IN ('public', 'information_schema') AND nspname !~ '^pg_' ORDER BY nspname
"""
_OBJECTS = """
SELECT pg_describe_object(found.classid, found.oid, 0)
FROM (
    SELECT 'pg_class'::regclass AS classid, oid FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    UNION ALL
    SELECT 'pg_proc'::regclass, oid FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL
    SELECT 'pg_type'::regclass, oid FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype = 'd'
) AS found
WHERE NOT EXISTS (  -- what belongs to an extension
    SELECT FROM pg_depend AS d WHERE d.classid = found.classid AND d.objid = found.oid AND d.deptype = 'e'
)
LIMIT 1
"""


class Contents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a backup says of itself."""

    todochat: str
    """The release that wrote it."""
    made_at: datetime
    server: int
    """The major version of the server it is of."""
    pg_dump: int
    """The major version of the program that wrote it: an older pg_restore can't read it."""
    rows: dict[str, int]
    left_out: dict[int, str] = {}
    """Entries of the file that would need what isn't todochat's: pg_restore's number and what it is."""
    format: Literal[1] = 1

    def summary(self) -> str:
        """Its size in words."""
        return f"{sum(self.rows.values()):,} rows of {len(self.rows)} tables"

    def say_left_out(self) -> None:
        """What of a DBA's is not restored, in one line."""
        if names := [name for name in self.left_out.values() if name]:
            say(f"left out, since they need what isn't todochat's: {', '.join(names)}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@yes_option
def backup(file: Path, *, yes: bool) -> None:
    """Write the whole database into a file, while it is served.

    MIGRATION_DATABASE_URL must name a login that sees every row: a superuser's, or one that has BYPASSRLS and
    pg_read_all_data. pg_dump is taken from PATH. FILE is there when it is whole and has been read back, and only its
    owner can read it: password hashes are in it. Logins, their passwords and JWT_SECRET are not. It asks before it
    replaces a file.
    """
    if file.is_file():
        confirm_loss([f"replaces {file}"], yes=yes)
    with ended_by_signals(), owner_url(to_dump=True) as url:
        refuse_pooler(url)
        refuse_shown_password(url)
        with written_whole(file) as draft:
            contents, where = _dump(url, draft)
    contents.say_left_out()
    print(f"wrote {file}: {contents.summary()}, {file.stat().st_size:,} bytes, of {where}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def restore(file: Path) -> None:
    """Make a database of a file that `todochat backup` wrote.

    As a whole or not at all, and only where nothing can be lost: in an empty database. MIGRATION_DATABASE_URL names a
    login that owns it and has CREATEROLE, or a superuser's. The roles are made first. pg_restore is taken from PATH.
    """
    contents = _read_contents(file)
    with ended_by_signals(), owner_url() as url:
        refuse_pooler(url)
        refuse_shown_password(url)
        where = _fill(url, file, contents)
        contents.say_left_out()
        say("next: `todochat migrate`, `todochat create-login`, and serve with the JWT_SECRET that there was")
    print(f"restored {contents.summary()}, as of {contents.made_at:%Y-%m-%d %H:%M:%S} UTC, into {where}")


def _dump(url: str, draft: BinaryIO) -> tuple[Contents, str]:
    with connect(url) as connection, one_line_errors():
        server = connection.info.server_version // 10000
        _refuse_bound_login(connection)
        tool = find_tool(
            "pg_dump",
            lambda major: major >= server,
            f"of PostgreSQL {server} or later",
            encrypted=bool(connection.pgconn.ssl_in_use),
        )
        reader = find_tool("pg_restore", lambda major: major >= tool.major, f"{tool.major} or later", encrypted=False)
        configure(connection, **_SESSION)
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        snapshot, now = connection.execute("SELECT pg_export_snapshot(), now()").fetchone() or ("", datetime.now(UTC))
        ours, arguments = _what_to_dump(connection)
        needs = find_needs(connection)
        rows = count_tables(connection, ours)
        arguments += ["--format=custom", f"--snapshot={snapshot}", f"--file={draft.name}", "--lock-wait-timeout=60s"]
        _run(tool, url, rows, *arguments)
        connection.execute("ROLLBACK")
        where = place(connection)
    left_out = find_left_out(reader, str(draft.name), needs)
    with Stage("read back") as stage, read_tool(reader, "--data-only", "--file=-", str(draft.name)) as script:
        dumped = count_rows(script, lambda count: stage.update(None, count))
    compare_rows(rows, dumped, "the file")
    contents = Contents(version("todochat"), now.astimezone(UTC), server, tool.major, rows, left_out)
    draft.seek(0, os.SEEK_END)
    draft.write(b"\n" + msgspec.json.encode(contents) + b"\n")
    draft.write(f"{digest_of(draft, draft.tell())}\n".encode())
    return contents, where


def _refuse_bound_login(connection: psycopg.Connection) -> None:
    login, sees_all_rows = connection.execute(_LOGIN).fetchone() or ("?", False)
    if not sees_all_rows:
        raise OperatorError(
            f"row security binds the login {login}, so its backup would lack rows: set MIGRATION_DATABASE_URL to a "
            "superuser's (on Neon: a role's that was made in its console), or to one that a superuser makes once by "
            "CREATE ROLE todochat_backup LOGIN BYPASSRLS PASSWORD '…' IN ROLE pg_read_all_data"
        )


def _what_to_dump(connection: psycopg.Connection) -> tuple[list[str], list[str]]:
    """The tables of todochat, and pg_dump's arguments that leave out what else is in the database."""
    parameters = {"owner": OWNER_ROLE, "bookkeeping": [*history.BOOKKEEPING]}
    ours, arguments = list[str](), list[str]()
    if others := find_others(connection, known_objects()):
        raise OperatorError(
            f"{others[0][2]} owns {others[0][1]}, not {OWNER_ROLE}, as after a restore by hand: run `todochat migrate` "
            "first, which gives it back"
        )
    for name, is_ours, is_readable, has_rows in connection.execute(_RELATIONS, parameters).fetchall():
        if not is_ours:
            arguments.append(f'--exclude-table=public."{name}"')
            continue
        if not is_readable:
            raise OperatorError(f"the login {connection.info.user} may not read {name}: GRANT pg_read_all_data TO it")
        if has_rows:
            ours.append(name)
    if "users" not in ours:
        raise OperatorError("the database has no tables of todochat: is MIGRATION_DATABASE_URL right?")
    if ahead := history.newer(load(), history.read(connection)):
        raise OperatorError(
            f"a newer release applied {ahead[-1]}, and this one doesn't know all of its tables: make the backup with "
            "that release's todochat"
        )
    arguments += [f'--exclude-schema="{name}"' for (name,) in connection.execute(_OTHER_SCHEMAS)]
    return ours, arguments


def _run(tool: Tool, url: str, rows: dict[str, int], *arguments: str) -> None:
    """Run one of PostgreSQL's programs with a bar that moves on with each table it begins."""
    done, current, total = 0, "", max(1, sum(rows.values()))
    with Stage(Path(tool.path).name) as stage:

        def on_line(line: str) -> None:
            nonlocal done, current
            if match := re.search(r'(?:contents of|data for) table "public\.(\w+)"', line):
                finished, current = rows.get(current, 0), match[1]
                done += finished
                stage.update(done / total, finished)

        run_tool(tool, url, *arguments, on_line=on_line)
        stage.update(1, sum(rows.values()) - done)


def _read_contents(file: Path) -> Contents:
    """What the backup says of itself. Raises OperatorError where a byte of it is missing or another one."""
    try:
        with file.open("rb") as source:
            size = source.seek(0, os.SEEK_END)
            source.seek(max(0, size - _TAIL_BYTES))
            tail = source.read()
            _, line, digest, end = tail.rsplit(b"\n", 3)
            contents = msgspec.json.decode(line, type=Contents)
            is_whole = not end and digest.decode(errors="replace") == digest_of(source, size - len(digest) - 1)
    except OSError as error:
        raise OperatorError(f"can't read {file}: {error.strerror}") from error
    except msgspec.ValidationError:
        raise OperatorError(
            f"{file} is of a format that this release doesn't know, as a newer one writes it: restore it with the "
            "release that made it; nothing was done"
        ) from None
    except (ValueError, msgspec.MsgspecError):
        raise OperatorError(
            f"{file} doesn't end like a file of `todochat backup`: it was cut short, or something else wrote it; "
            "nothing was done"
        ) from None
    if not is_whole:
        raise OperatorError(f"{file} is damaged: it is not what `todochat backup` wrote; nothing was done")
    return contents


def _fill(url: str, file: Path, contents: Contents) -> str:
    """Fill the database, and say which one it is."""
    with connect(url) as connection, one_line_errors():
        configure(connection, **_SESSION)
        where, server = place(connection), connection.info.server_version // 10000
        if found := connection.execute(_OBJECTS).fetchone():
            raise OperatorError(f"the database is not empty (there is {found[0]}): make a new one to restore into")
        if server <= _LAST_WITHOUT < contents.pg_dump:
            older = f", or make a backup with a pg_dump from {contents.server} to {_LAST_WITHOUT}"
            raise OperatorError(
                f"pg_dump {contents.pg_dump} wrote {file}, for servers from {_LAST_WITHOUT + 1} on: restore it there"
                + (older if contents.server <= _LAST_WITHOUT else "")
            )
        newest = _LAST_WITHOUT if server <= _LAST_WITHOUT else 99
        tool = find_tool(
            "pg_restore",
            lambda major: contents.pg_dump <= major <= newest,
            f"from {contents.pg_dump} " + (f"to {newest}" if server <= _LAST_WITHOUT else "on"),
            encrypted=bool(connection.pgconn.ssl_in_use),
        )
        with connection.transaction():
            connection.execute(load()[0].text.encode())
        _pg_restore(tool, url, file, contents)
        try:
            _count_restored(connection, contents.rows)
        except BaseException:
            say(f"{where} is filled, but nobody knows with what: drop it")
            raise
        with connection.transaction():
            for table in history.BOOKKEEPING:
                connection.execute(SQL("ALTER TABLE public.{} OWNER TO CURRENT_USER").format(Identifier(table)))
        with Stage("analyze"):
            connection.execute(SQL("SET ROLE {}").format(Identifier(OWNER_ROLE)))
            connection.execute(SQL("ANALYZE {}").format(SQL(", ").join(Identifier("public", t) for t in contents.rows)))
        return where


def _count_restored(connection: psycopg.Connection, rows: dict[str, int]) -> None:
    with connection.transaction(force_rollback=True):
        connection.execute(SQL("SET LOCAL ROLE {}").format(Identifier(OWNER_ROLE)))
        for table in rows:  # nobody sees this, and it lets the owner count
            connection.execute(SQL("ALTER TABLE public.{} NO FORCE ROW LEVEL SECURITY").format(Identifier(table)))
        compare_rows(rows, count_tables(connection, [*rows]), "the database")


def _pg_restore(tool: Tool, url: str, file: Path, contents: Contents) -> None:
    """Make all that belongs to todochat, as the role that owns it; the runner's own tables, too."""
    with read_tool(tool, "--list", str(file)) as lines:
        entries = list_restored(lines, contents.left_out)
    with tempfile.NamedTemporaryFile() as wanted:
        wanted.write(b"".join(entries))
        wanted.flush()
        arguments = ("--exit-on-error", "--single-transaction", "--no-owner", "--no-tablespaces")
        role, use = f"--role={OWNER_ROLE}", f"--use-list={wanted.name}"
        try:
            _run(tool, url, contents.rows, *arguments, role, use, str(file))
        except OperatorError as error:
            raise OperatorError(f"{error}; nothing was restored") from error
