"""The rows that are measured: filled once into a template database, and cloned for each run, which changes them."""

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from service.commands.demo import Size, fill_many
from service.commands.development import OWNER_LOGIN, SERVICE_LOGIN, migrate_database, prepare_database
from service.db.migration_files import DEFAULT_DIRECTORY
from service.embedded import EmbeddedPostgres

SETTINGS = {
    "shared_buffers": "1GB",
    "max_connections": "500",
    # Nothing of the server's own housekeeping falls into one contender's time and not into another's.
    "autovacuum": "off",
    "checkpoint_timeout": "1h",
    "max_wal_size": "8GB",
}
"""Beyond PostgreSQL's defaults: durability (fsync, synchronous_commit) is as it comes."""
FILL_BYTES, RUN_BYTES = 12 * 2**30, 2 * 2**30
"""Of free disk that is left for the log: max_wal_size and half of it again where it is filled, else what runs write."""
POSTGREST_LOGIN = "bench_postgrest"

_OTHER_SCHEMAS = (
    "SELECT datname FROM pg_database WHERE datistemplate AND datname LIKE 'bench%%' AND datname NOT LIKE %s"
)
_FOR_POSTGREST = f"""
CREATE FUNCTION public.bench_context() RETURNS void LANGUAGE plpgsql AS $body$
BEGIN
    PERFORM set_config('app.user_id', current_setting('request.jwt.claims')::json->>'sub', true);
END
$body$;

CREATE FUNCTION public.bench_turn(conversation_id uuid, messages jsonb, context integer) RETURNS json
LANGUAGE plpgsql SET enable_sort = off AS $body$
DECLARE
    owner constant uuid := current_setting('app.user_id')::uuid;
    appended json;
    last json;
BEGIN
    WITH added AS (
        INSERT INTO messages (user_id, conversation_id, sender_type, content)
        SELECT owner, bench_turn.conversation_id, m.value->>'sender_type', m.value->>'content'
        FROM jsonb_array_elements(bench_turn.messages) WITH ORDINALITY AS m
        ORDER BY m.ordinality
        RETURNING id, messages.conversation_id, user_id, position, sender_type, role, sender_id, content,
            message_type, metadata, created_at, updated_at
    )
    SELECT json_agg(a ORDER BY a.position) INTO appended FROM added AS a;
    SELECT json_agg(json_build_object('role', l.role, 'content', l.content) ORDER BY l.position) INTO last
    FROM (
        SELECT m.role, m.content, m.position FROM messages AS m
        WHERE m.user_id = owner AND m.conversation_id = bench_turn.conversation_id
        ORDER BY m.position DESC
        LIMIT bench_turn.context
    ) AS l;
    RETURN json_build_object('messages', appended, 'context', last);
END
$body$;

DO $body$ BEGIN
    IF to_regrole('{POSTGREST_LOGIN}') IS NULL THEN
        CREATE ROLE {POSTGREST_LOGIN} LOGIN NOINHERIT IN ROLE todochat_app;
    END IF;
END $body$;
GRANT EXECUTE ON FUNCTION public.bench_context(), public.bench_turn(uuid, jsonb, integer) TO todochat_app;
GRANT USAGE ON SCHEMA public TO {POSTGREST_LOGIN};
"""
"""What PostgREST needs beside the tables: who asks, from the token, and the one operation that isn't one table's."""


class BenchDatabase:
    """A clone in use. ``superuser_url`` goes around row security, ``service_url`` is bound by it."""

    def __init__(self, server: EmbeddedPostgres, name: str) -> None:
        self.server = server
        self.name = name
        self.superuser_url = server.url(name)
        self.service_url = server.url(name, SERVICE_LOGIN)

    def execute(self, query: Any, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser, by itself."""
        with psycopg.connect(self.superuser_url, autocommit=True) as connection:
            cursor = connection.execute(query, parameters)
            return cursor.fetchall() if cursor.description else []

    def settings(self) -> dict[str, str]:
        """What a reader must know of the server to judge the figures."""
        names = ("server_version", "shared_buffers", "synchronous_commit", "fsync", "autovacuum", "io_method")
        rows = self.execute("SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY (%s)", (list(names),))
        return {"server_version": self.execute("SHOW server_version")[0][0], **dict(rows)}


def template_prefix() -> str:
    """Other migrations make another template."""
    schema = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(DEFAULT_DIRECTORY.glob("*.sql"))))
    return f"bench_{schema.hexdigest()[:8]}_"


@contextlib.contextmanager
def bench_database(
    folder: Path, size: Size, settings: dict[str, str] = SETTINGS, *, keep: bool = True
) -> Iterator[BenchDatabase]:
    """A fresh clone of the filled template, dropped afterwards. The first call for a size fills it.

    Without ``keep`` there is no template: it is filled each time, and takes half the space.
    """
    with EmbeddedPostgres(folder / "postgres", options=settings) as server:
        template = _template(size)
        name = f"{template}_run"
        _drop(server, name)
        try:
            if keep:
                _make_template(server, template, size)
                _clone(server, template, name)
            else:
                _fill(server, name, size)
            database = BenchDatabase(server, name)
            database.execute(_FOR_POSTGREST)
            yield database
        finally:
            _drop(server, name)


@contextlib.contextmanager
def large_database(folder: Path, size: Size, settings: dict[str, str] = SETTINGS) -> Iterator[BenchDatabase]:
    """The filled template itself, which is kept: a clone would need its space again, and runs add few rows to many.

    The first call for a size fills it, which takes half an hour for 30 million messages.
    """
    with EmbeddedPostgres(folder / "postgres", options=settings) as server:
        _make_template(server, _template(size), size)
        yield BenchDatabase(server, _template(size))


def missing_bytes(database: BenchDatabase, size: Size, factor: int) -> int:
    """How much room the disk lacks for ``factor`` times what is in the database: 0 if it has enough, or holds it."""
    large = _template(Size(size.users * factor, size.todos * factor, size.messages * factor))
    ((bytes_now, is_filled),) = database.execute(
        "SELECT pg_database_size(current_database()),"
        " EXISTS (SELECT FROM pg_database WHERE datname = %s AND datistemplate)",
        (large,),
    )
    needed = RUN_BYTES if is_filled else FILL_BYTES + int(bytes_now * factor * 1.1)
    return max(0, needed - shutil.disk_usage(database.server.data_dir).free)


def _template(size: Size) -> str:
    return f"{template_prefix()}{size.users}_{size.todos}_{size.messages}"


def _drop(server: EmbeddedPostgres, name: str) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _clone(server: EmbeddedPostgres, template: str, name: str) -> None:
    parts = {"name": name, "template": template, "owner": OWNER_LOGIN}
    command = sql.SQL("CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY OWNER {owner}")
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(command.format(**{part: sql.Identifier(value) for part, value in parts.items()}))
        # A clone has not the privileges of its template.
        connection.execute(
            "UPDATE pg_database AS d SET datacl = t.datacl FROM pg_database AS t"
            " WHERE t.datname = %s AND d.datname = %s",
            (template, name),
        )


def _make_template(server: EmbeddedPostgres, name: str, size: Size) -> None:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        found = connection.execute("SELECT datistemplate FROM pg_database WHERE datname = %s", (name,)).fetchone()
    if found is not None and found[0]:
        return
    _drop(server, name)  # filling it was interrupted
    with psycopg.connect(server.url(), autocommit=True) as connection:
        rows = connection.execute(_OTHER_SCHEMAS, (f"{template_prefix()}%",)).fetchall()
        for (outdated,) in rows:
            connection.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(sql.Identifier(outdated)))
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(outdated)))
    _fill(server, name, size)
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE true").format(sql.Identifier(name)))


def _fill(server: EmbeddedPostgres, name: str, size: Size) -> None:
    migrate_database(server, prepare_database(server, name))
    fill_many(server.url(name), size)
