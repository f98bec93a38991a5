"""Export and import from the command line, as the role that owns the tables: row security binds it, too."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any

from service.commands.accounts import find_account
from service.commands.connection import as_owner
from service.db.caller import Caller
from service.db.database import Database
from service.exports import exported
from service.imports import ImportResult, import_file
from service.problems import Problem, html_safe
from service.settings import OperatorError, Secret, Settings

REQUEST_ID = "todochat"
"""What the audit trail has in the place of a request's id."""
SECONDS = 24 * 3600.0
"""How long either may take."""

Progress = Callable[[int, int], None]
"""Told of bytes and lines that were done."""


def export_to(url: str, account: str, path: Path, progress: Progress) -> None:
    """Write the export of the account of this address or id to the file, which only its owner can read.

    ``url`` names a login that migrates. The file is there when it is whole, not before.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("xb") as file:
            draft.chmod(0o600)
            export_into(url, account, file, progress)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise OperatorError(f"can't write {path}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def export_into(url: str, account: str, file: IO[bytes], progress: Progress) -> None:
    """Write the export to a file that is open."""

    async def run() -> None:
        async with _acting(url, account) as caller:
            async for piece in exported(caller):
                file.write(html_safe(piece))
                progress(len(piece), piece.count(b"\n"))

    _run(run())


def import_from(url: str, account: str, file: IO[bytes], progress: Progress) -> ImportResult:
    """Import a file into the account of this address or id, as a whole or not at all.

    ``url`` names a login that migrates. A file that can be read only once, such as a pipe, is copied first.
    """

    async def run(source: IO[bytes]) -> ImportResult:
        async with _acting(url, account) as caller:
            return await import_file(caller, source, progress)

    if file.seekable():
        return _run(run(file))
    with tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(file, copy)
        copy.seek(0)
        return _run(run(copy))


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return asyncio.run(work)
    except Problem as problem:
        said = [f"{error.field}: {error.message}" for error in problem.errors or ()]
        raise OperatorError(said[0] if said else problem.detail) from problem


@asynccontextmanager
async def _acting(url: str, account: str) -> AsyncGenerator[Caller]:
    with as_owner(url) as connection:  # also says in one line why it can't connect
        user_id = find_account(connection, account)
    database = Database(Settings(database_url=Secret(url), database_pool_size=1), lambda _name, _seconds, _ok: None)
    await database.open()
    try:
        await database.ping()
        caller = Caller(database, REQUEST_ID, user_id)
        caller.seconds = SECONDS
        yield caller
    finally:
        await database.close()
