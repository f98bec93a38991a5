"""`todochat export` and `todochat import`, as the role that owns the tables: row security binds it, too."""

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, Coroutine
from pathlib import Path
from typing import IO, Any

import click

from service.commands.accounts import find_account
from service.commands.connection import as_owner
from service.commands.progress import Stage
from service.commands.shared import (
    account_argument,
    confirm_loss,
    ended_by_signals,
    owner_url,
    written_whole,
    yes_option,
)
from service.db.caller import Caller
from service.db.database import Database
from service.exports import exported
from service.imports import import_file
from service.problems import Problem, html_safe, unbroken
from service.settings import OperatorError, Secret, Settings

REQUEST_ID = "todochat"
"""What the audit trail has in the place of a request's id."""
SECONDS = 24 * 3600.0
"""How long either may take."""


@click.command("export")
@account_argument
@click.option("--output", type=click.Path(path_type=Path), help="A file instead of standard output.")
@yes_option
def export_account(account: str, output: Path | None, *, yes: bool) -> None:
    """Write everything that an account owns, as lines of JSON.

    ACCOUNT is an e-mail address or an id. A file can be read by its owner only, and is there when it is whole. It asks
    before it replaces a file.
    """
    if str(output) == "-":
        output = None
    if output is not None and output.is_file():
        confirm_loss([f"replaces {output}"], yes=yes)
    with ended_by_signals(), owner_url() as url, Stage("export") as stage:
        if output is None:
            _run(_export(url, account, sys.stdout.buffer, stage))
            return
        with written_whole(output) as file:
            _run(_export(url, account, file, stage))


async def _export(url: str, account: str, file: IO[bytes], stage: Stage) -> None:
    async with _acting(url, account) as caller:
        async for piece in exported(caller):
            file.write(unbroken(html_safe(piece)))
            stage.update(None, piece.count(b"\n"))


@click.command("import")
@account_argument
@click.argument("file", type=click.Path(path_type=Path))
def import_account(account: str, file: Path) -> None:
    """Bring a file that an export wrote into an account.

    As a whole or not at all; what is there already is left as it is, so nothing is lost. ACCOUNT is an e-mail address
    or an id, and FILE may be - for standard input. Whoever a todo in it is assigned to must have an account here, an
    active one where the todo is open: otherwise put null in the place of that id. The address in the first line must
    be nobody else's here.
    """
    with contextlib.ExitStack() as stack:
        try:
            source = sys.stdin.buffer if str(file) == "-" else stack.enter_context(file.open("rb"))
            size = os.fstat(source.fileno()).st_size
        except OSError as error:
            raise OperatorError(f"can't read {file}: {error.strerror}") from error
        url = stack.enter_context(owner_url())
        stage = stack.enter_context(Stage("import"))
        done = 0

        def progress(sent: int, lines: int) -> None:
            nonlocal done
            done += sent
            stage.update(min(1, done / size) if size else None, lines)

        async def run(source: IO[bytes]) -> Any:
            async with _acting(url, account) as caller:
                return await import_file(caller, source, progress)

        if not source.seekable():  # it is read twice
            copy = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(source, copy)
            copy.seek(0)
            source = copy
        result = _run(run(source))
    for name in result.__struct_fields__:
        counts = getattr(result, name)
        print(f"{name}: {counts.imported:,} imported, {counts.skipped:,} there already")


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return asyncio.run(work)
    except Problem as problem:
        said = [f"{error.field}: {error.message}" for error in problem.errors]
        raise OperatorError(said[0] if said else problem.detail) from problem


@contextlib.asynccontextmanager
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
