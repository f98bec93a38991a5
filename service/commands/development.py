"""The database that is served when no other is configured."""

import contextlib
import os
import secrets
from collections.abc import Generator
from pathlib import Path
from typing import LiteralString, NamedTuple

import msgspec
import psycopg
from psycopg import sql

from service.commands import migrate
from service.commands.logins import SERVICE_LOGIN, create_service_login
from service.commands.shared import embedded_server, say
from service.embedded import EmbeddedPostgres
from service.setting_readers import SECRET_MIN_BYTES
from service.settings import OperatorError, Secret, Settings

DATABASE = "todochat"
OWNER_LOGIN = "todochat_admin"


class DevelopmentUrls(NamedTuple):
    """How to reach it: ``owner`` migrates, ``service`` serves. Neither login is a superuser."""

    owner: str
    service: str


def prepare_database(server: EmbeddedPostgres, name: str = DATABASE) -> DevelopmentUrls:
    """Make the database ``name`` with its owner's login where missing, and say how to reach it.

    Safe to run several times at once. ``migrate_database`` comes next.
    """
    with psycopg.connect(server.url(), autocommit=True) as connection:
        _wait_for_turn(connection)
        if not _exists(connection, "SELECT FROM pg_roles WHERE rolname = %s", OWNER_LOGIN):
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEROLE").format(sql.Identifier(OWNER_LOGIN)))
        if not _exists(connection, "SELECT FROM pg_database WHERE datname = %s", name):
            names = {"name": sql.Identifier(name), "owner": sql.Identifier(OWNER_LOGIN)}
            connection.execute(sql.SQL("CREATE DATABASE {name} OWNER {owner}").format(**names))
    return DevelopmentUrls(server.url(name, OWNER_LOGIN), server.url(name, SERVICE_LOGIN))


def migrate_database(server: EmbeddedPostgres, urls: DevelopmentUrls) -> list[str]:
    """Migrate a prepared database and make the service's login where missing; the ids of the migrations applied."""
    applied = migrate.upgrade(urls.owner)
    with psycopg.connect(server.url(), autocommit=True) as connection:
        _wait_for_turn(connection)
        if not _exists(connection, "SELECT FROM pg_roles WHERE rolname = %s", SERVICE_LOGIN):
            # Nobody needs this password: the folder of the socket is the protection.
            create_service_login(urls.owner, SERVICE_LOGIN, secrets.token_urlsafe(24))
    return applied


@contextlib.contextmanager
def served(settings: Settings) -> Generator[Settings]:
    """The settings with this database, started and migrated, and where no secret is configured with one of its own."""
    with embedded_server(settings) as server:
        say(f"DATABASE_URL is unset: serving the embedded database in {settings.embedded_data_dir}")
        urls = prepare_database(server)
        if applied := migrate_database(server, urls):
            say(f"applied {len(applied)} migration{'s' * (len(applied) > 1)}")
        complete = msgspec.structs.replace(settings, database_url=Secret(urls.service))
        if settings.local_accounts and settings.jwt_secret is None:
            complete = msgspec.structs.replace(complete, jwt_secret=_kept_secret(settings.embedded_data_dir))
        yield complete


def _kept_secret(folder: Path) -> Secret:
    """A secret that is made at the first start and kept in the data folder, where only its owner can read it."""
    path = folder / "jwt_secret"
    draft = folder / f"jwt_secret.{os.getpid()}"
    try:
        if not path.exists():
            file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(file, "w", encoding="ascii") as out:
                out.write(secrets.token_hex(SECRET_MIN_BYTES))
            with contextlib.suppress(FileExistsError):  # of two first starts at once, one makes the secret of both
                path.hardlink_to(draft)
            draft.unlink()
        secret = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"can't keep the development secret in {path}: {error}") from error
    if len(secret) < SECRET_MIN_BYTES:
        raise OperatorError(f"{path} is damaged: remove it, and everybody signs in again")
    say(f"JWT_SECRET is unset: signing with the development database's own secret, in {path}")
    return Secret(secret)


def _wait_for_turn(connection: "psycopg.Connection[tuple[object, ...]]") -> None:
    connection.execute("SELECT pg_advisory_lock(hashtext('todochat: prepare'))")


def _exists(connection: "psycopg.Connection[tuple[object, ...]]", query: LiteralString, value: str) -> bool:
    return connection.execute(query, (value,)).fetchone() is not None
