"""What the commands share: the database they work on, how they speak, and how they ask before something is lost."""

import os
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from service.setting_readers import SECRET_MIN_BYTES
from service.settings import OperatorError, Settings

if TYPE_CHECKING:
    import psycopg

    from service.embedded import EmbeddedPostgres

yes_option = click.option("--yes", is_flag=True, help="Don't ask: for scripts.")
account_argument = click.argument("account")


def say(line: str) -> None:
    """A line for people, on standard error; standard output is for what the command was asked for."""
    print(f"todochat: {line}", file=sys.stderr)


def confirm_loss(losses: Sequence[str], *, yes: bool) -> None:
    """Say what will be lost and ask on the terminal; raises OperatorError unless the answer is yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise OperatorError(
            f"this can't be undone, and nobody is here to be asked: {'; '.join(losses)}; go on with --yes"
        )
    for loss in losses:
        say(loss)
    if not click.confirm("todochat: this can't be undone. Go on?", err=True):
        raise OperatorError("nothing was done")


def database_settings() -> Settings:
    """The settings of the database alone: no command but `serve` needs the others, or a secret."""
    names = ("DATABASE_URL", "MIGRATION_DATABASE_URL", "DATABASE_INSECURE", "EMBEDDED_DATA_DIR")
    unused_secret = {"JWT_SECRET": "-" * SECRET_MIN_BYTES}
    return Settings.from_environ({name: os.environ.get(name, "") for name in names} | unused_secret)


@contextmanager
def owner_url(*, to_fill: bool = False, to_dump: bool = False) -> Generator[str]:
    """The URL that migrates: MIGRATION_DATABASE_URL, else DATABASE_URL, else the embedded development database's.

    With ``to_fill`` the embedded one is migrated first, and its superuser's, who may copy rows in; with ``to_dump``
    its superuser's, who sees all rows.
    """
    settings = database_settings()
    if configured := settings.migration_database_url or settings.database_url:
        yield configured.value
        return
    from service.commands import development

    with embedded_server(settings) as embedded:
        say(f"DATABASE_URL is unset: this is the embedded database in {settings.embedded_data_dir}")
        urls = development.prepare_database(embedded)
        if to_fill:
            development.migrate_database(embedded, urls)
        yield embedded.url(development.DATABASE) if to_fill or to_dump else urls.owner


def place(connection: "psycopg.Connection") -> str:
    """Which database a connection to ``owner_url`` has reached, in words."""
    settings = database_settings()
    if settings.migration_database_url or settings.database_url:
        return f"the database {connection.info.dbname} at {connection.info.host or 'the local socket'}"
    return f"the embedded database in {settings.embedded_data_dir}"


@contextmanager
def ended_by_signals() -> Generator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does, with what it has begun cleared away; not SIGHUP under nohup."""
    with _handlers(signal.default_int_handler, signal.SIGTERM, signal.SIGHUP):
        yield


@contextmanager
def signals_deferred() -> Generator[None]:
    """Signals that come during the block are heeded at its end."""
    came: list[int] = []
    try:
        with _handlers(lambda number, _: came.append(number), signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            yield
    finally:
        for number in came:
            signal.raise_signal(number)


@contextmanager
def _handlers(handler: Callable[[int, FrameType | None], Any], *numbers: signal.Signals) -> Generator[None]:
    """One handler for these signals, but for those that are ignored."""
    before = {number: signal.getsignal(number) for number in numbers}
    for number, its_handler in before.items():
        if its_handler is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, its_handler in before.items():
            signal.signal(number, its_handler)


@contextmanager
def written_whole(path: Path) -> Generator[BinaryIO]:
    """A file that only its owner can read; it is at ``path`` when the block has ended well, at its ``.name`` before."""
    if path.exists() and not path.is_file():
        raise OperatorError(f"can't write {path}: it is no regular file")
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(draft, "x+b", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:  # of the file, or of another one or a program that the block has use for
        where = f"can't write {path}" if error.filename in (None, str(draft)) else error.filename
        raise OperatorError(f"{where}: {error.strerror}") from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


@contextmanager
def embedded_server(settings: Settings) -> "Generator[EmbeddedPostgres]":
    """The embedded PostgreSQL, started or joined."""
    from service.embedded import EmbeddedPostgres

    with EmbeddedPostgres(settings.embedded_data_dir / "postgres") as server:
        yield server
