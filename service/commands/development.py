"""The database that is served when no other is configured."""

import secrets
from typing import LiteralString, NamedTuple

import psycopg
from psycopg import sql

from service.commands import logins, migrate
from service.embedded.server import EmbeddedPostgres

DATABASE = "todochat"
OWNER_LOGIN = "todochat_admin"
SERVICE_LOGIN = "todochat_service"


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
            logins.create_service_login(urls.owner, SERVICE_LOGIN, secrets.token_urlsafe(24))
    return applied


def _wait_for_turn(connection: "psycopg.Connection[tuple[object, ...]]") -> None:
    connection.execute("SELECT pg_advisory_lock(hashtext('todochat: prepare'))")


def _exists(connection: "psycopg.Connection[tuple[object, ...]]", query: LiteralString, value: str) -> bool:
    return connection.execute(query, (value,)).fetchone() is not None
