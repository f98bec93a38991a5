"""pg_dump and pg_restore: found in a version that fits, run to their end, and their errors said in one line."""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import psycopg
from psycopg.sql import SQL, Identifier

from service.commands.connection import one_line
from service.commands.progress import Stage
from service.commands.shared import signals_deferred
from service.database_url import format_database_url, parse_database_url
from service.embedded.programs import wheel_folders
from service.settings import OperatorError

_ERROR = re.compile(r"^\S+: error: (?P<what>.*)$", re.MULTILINE)
_COPY = re.compile(rb"COPY public\.\"?(?P<table>\w+)\"? \(")


class Tool(NamedTuple):
    """One of the programs, and its major version."""

    path: str
    major: int


def find_tool(name: str, fits: Callable[[int], bool], wanted: str, *, encrypted: bool) -> Tool:
    """The program in the lowest version that fits, of those in PATH and, unless ``encrypted``, in PostgreSQL's wheel.

    The wheel's have no TLS. ``wanted`` says which versions fit; raises OperatorError when there is none.
    """
    folders = os.get_exec_path() + ([] if encrypted else [*map(str, wheel_folders())])
    found: dict[int, str] = {}
    for folder in folders:
        path = shutil.which(name, path=folder)
        major = _major(path) if path else None
        if path and major:
            found.setdefault(major, path)
    if fitting := sorted(filter(fits, found)):
        return Tool(found[fitting[0]], fitting[0])
    there = f"there is {', '.join(map(str, sorted(found)))}" if found else "there is none"
    raise OperatorError(
        f"{name} {wanted} is needed, and {there}: install PostgreSQL's client programs of that version and put their "
        "folder into PATH (Debian's are in /usr/lib/postgresql/VERSION/bin)"
    )


def _major(path: str) -> int | None:
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    match = re.search(r"\(PostgreSQL\) (\d+)", said)
    return int(match[1]) if match else None


def refuse_shown_password(url: str) -> None:
    """Raises OperatorError where a command line would show the passphrase of a key, which libpq takes no other way."""
    if parse_database_url(url).get("sslpassword"):
        raise OperatorError(
            "PostgreSQL's programs would show sslpassword to everybody on this machine: take it out of the URL, and "
            "use a key without a passphrase that only you can read"
        )


def run_tool(tool: Tool, url: str, *arguments: str, on_line: Callable[[str], None]) -> None:
    """Run it on the database of ``url``, with each line that it says on its way; raises OperatorError when it fails."""
    parts = {"keepalives_idle": "30", **parse_database_url(url)}
    secret = {"PGPASSWORD": password} if (password := parts.pop("password", "")) else {}  # no command line shows it
    command = [tool.path, "--verbose", "--no-password", *arguments, "--dbname", format_database_url(parts)]
    error = ""
    with _started(command, secret, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        for line in process.stderr or ():
            on_line(line)
            error = error or (line if _ERROR.match(line) else "")
    _check(tool, process.returncode, error)


@contextmanager
def read_tool(tool: Tool, *arguments: str) -> Generator[Iterator[bytes]]:
    """The lines that it writes; raises OperatorError at the end when it failed."""
    with tempfile.TemporaryFile() as errors:
        with _started([tool.path, *arguments], {}, stdout=subprocess.PIPE, stderr=errors) as process:
            yield iter(process.stdout or ())
        errors.seek(0)
        _check(tool, process.returncode, errors.read().decode(errors="replace"))


def count_rows(script: Iterator[bytes], on_table: Callable[[int], None]) -> dict[str, int]:
    """How many rows a dump's script has for each table: a line each, from COPY to a line with a backslash and a dot."""
    counts: dict[str, int] = {}
    table = None
    for line in script:
        if table is None:
            if match := _COPY.match(line):
                table = match["table"].decode()
                counts[table] = 0
        elif line == b"\\.\n":
            on_table(counts[table])
            table = None
        else:
            counts[table] += 1
    return counts


def digest_of(file: BinaryIO, size: int) -> str:
    """SHA-256 of the file's first bytes, in hexadecimal; leaves the file behind them."""
    file.seek(0)
    digest = hashlib.sha256()
    while piece := file.read(min(1 << 20, size)):
        digest.update(piece)
        size -= len(piece)
    return digest.hexdigest()


def count_tables(connection: psycopg.Connection, tables: list[str]) -> dict[str, int]:
    """How many rows each table has, as the connection sees them."""
    rows: dict[str, int] = {}
    with Stage("count rows") as stage:
        for table in tables:
            query = SQL("SELECT count(*) FROM ONLY public.{}").format(Identifier(table))
            (rows[table],) = connection.execute(query).fetchone() or (0,)
            stage.update(len(rows) / len(tables), rows[table])
    return rows


def compare_rows(wanted: dict[str, int], found: dict[str, int], where: str) -> None:
    """Raises OperatorError where they differ; ``where`` says whose rows were found."""
    differences = [
        f"{table}: {found.get(table, 0):,} instead of {wanted.get(table, 0):,}"
        for table in sorted(wanted.keys() | found.keys())
        if wanted.get(table) != found.get(table)
    ]
    if differences:
        raise OperatorError(
            f"{where} doesn't hold the rows that were counted ({', '.join(differences)}): do not use it"
        )


@contextmanager
def _started(command: list[str], secret: dict[str, str], **options: Any) -> "Generator[subprocess.Popen[Any]]":
    """The program; it has ended when the block has, and is killed where an error or a signal ends the block."""
    env = {**os.environ, "LC_ALL": "C", **secret}
    process = None
    try:
        with signals_deferred():
            process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, **options)
        yield process
    except BaseException:
        if process:
            process.kill()
        raise
    finally:
        if process:
            with process:  # closes its pipes, and waits: around the block, it would wait for an error's before the kill
                pass


def _check(tool: Tool, status: int, said: str) -> None:
    if status:
        error = _ERROR.search(said)
        what = error["what"] if error else f"it ended with status {status}"
        raise OperatorError(f"{Path(tool.path).name} failed: {one_line(what)}")
