"""The login the service connects with: a member of todochat_app that can do nothing else.

Row security binds only a login that is no superuser, has no BYPASSRLS and owns no table, so the login is made by SQL:
the same role made in a host's console often comes with more (on Neon, with BYPASSRLS).
"""

import re
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import TextIO
from urllib.parse import quote

import click
import psycopg
from psycopg.sql import SQL, Composed, Identifier, Literal

from service.commands.connection import connect, reason
from service.commands.shared import confirm_loss, owner_url, yes_option
from service.database_url import certificate_authorities, format_database_url, parse_database_url
from service.settings import OperatorError

APP_ROLE = "todochat_app"
SERVICE_LOGIN = "todochat_service"
GENERATED_PASSWORD_BYTES = 24
ROLE_DEFAULTS = {
    # What a request may cost the database; a login can be given other values by ALTER ROLE, which stay.
    "statement_timeout": "4s",  # as the service's sessions have it, whose setting a pooler may give to others
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "10s",
    # A plan for any user guesses that few rows are left after the filters and row security, and would rather read all
    # that the user has and sort it than walk the index in order: of 12,000 todos, the first 20 by priority took 12
    # buffers and 0.1 ms with this and 555 and 26 ms without. Where there is no index to walk, it still sorts ...
    "enable_sort": "off",
    # ... at a price that, before PostgreSQL 18, would make it compile the query first.
    "jit": "off",
}

_UNSAFE = """
SELECT array_remove(ARRAY[
    CASE WHEN NOT r.rolcanlogin THEN 'can''t log in' END,
    CASE WHEN r.rolsuper THEN 'is a superuser' END,
    CASE WHEN r.rolbypassrls THEN 'bypasses row security' END,
    CASE WHEN r.rolcreaterole THEN 'may create roles' END,
    CASE WHEN r.rolcreatedb THEN 'may create databases' END,
    CASE WHEN r.rolreplication THEN 'may replicate' END,
    CASE WHEN EXISTS (SELECT FROM pg_shdepend AS d WHERE d.deptype = 'o'
        AND d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid) THEN 'owns database objects' END,
    (SELECT 'is a member of ' || string_agg(DISTINCT g.rolname, ', ' ORDER BY g.rolname)
     FROM pg_auth_members AS m JOIN pg_roles AS g ON g.oid = m.roleid
     WHERE m.member = r.oid AND g.rolname <> %(app_role)s)
], NULL)
FROM pg_roles AS r WHERE r.rolname = %(name)s
"""


@click.command()
@click.argument("name", default=SERVICE_LOGIN)
@click.option(
    "--password-file",
    type=click.File(encoding="utf-8"),
    help="Read the password there (- is standard input) instead of making one; it is not printed then.",
)
@yes_option
def create_login(name: str, password_file: TextIO | None, *, yes: bool) -> None:
    """Make the service's login, or give it a new password; it asks first where the login is in use.

    It prints the DATABASE_URL for `todochat serve`, which refuses the login that owns the tables: row security doesn't
    bind that one. NAME is todochat_service unless it is given. Who has an existing login's old password can't connect
    any more. That login must not be able to do more than the service may; what else is set for it is left as it is.
    """
    password = secrets.token_urlsafe(GENERATED_PASSWORD_BYTES)
    if password_file is not None:
        try:
            password = password_file.read().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise OperatorError(f"can't read the password from {password_file.name}: {error}") from error
    with owner_url() as url:
        service_url = create_service_login(url, name, password, confirm=partial(confirm_loss, yes=yes))
    if password_file is not None:  # whoever has it need not see it again
        service_url = service_url.replace(f":{quote(password, safe='')}@", ":PASSWORD@", 1)
    print(f"DATABASE_URL={service_url}")


def create_service_login(
    url: str, name: str, password: str, *, confirm: Callable[[Sequence[str]], None] = lambda _: None
) -> str:
    """Make or mend the service's login in `url`'s server and return the database URL for the service.

    `url` is a login with CREATEROLE (from PostgreSQL 16 on: the one that ran the migrations) or a superuser. An
    existing login of that name gets the new password, and those of the defaults for which nothing is set; where it is
    in use, ``confirm`` is told before, and raises if that isn't wanted. One that could do more than the service may is
    refused rather than cut down. The password travels as a SCRAM verifier, so that no server log or statistic can hold
    it; Neon refuses verifiers, and gets the password itself if the connection is encrypted.
    """
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", name) or name.startswith("pg_"):
        raise OperatorError(
            f"{name!r} is no good name for a login: use a to z, 0 to 9 and _, at most 63 in all, not beginning with pg_"
        )
    if not password or not {"\0", "\r", "\n"}.isdisjoint(password):
        raise OperatorError("the login needs a password, on one line and without NUL characters")
    try:
        with connect(url) as conn:
            if sessions := _sessions(conn, name):
                loss = "whoever uses it is refused at the next connection; another NAME makes another login"
                connections = f"{sessions} open connection{'s' if sessions > 1 else ''}"
                confirm([f"gives {name}, with {connections}, another password: {loss}"])
            verifier = conn.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
            try:
                _store_login(conn, name, verifier)
            except psycopg.Error as error:
                if "plaintext password" not in str(error):
                    raise
                if not conn.pgconn.ssl_in_use:
                    raise OperatorError(
                        "this server wants the password itself: connect with sslmode=require"
                    ) from error
                _store_login(conn, name, password)
    except UnicodeEncodeError as error:
        raise OperatorError("the password must be text in UTF-8") from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise OperatorError(
            f"{name} was not made: connect as a superuser or as the CREATEROLE login that ran the migrations, "
            "with MIGRATION_DATABASE_URL"
        ) from error
    except psycopg.Error as error:
        raise OperatorError(f"the login {name} was not made: {reason(error)}") from error
    parts = parse_database_url(url)
    if parts.get("sslrootcert") == certificate_authorities():  # of this machine; the service finds those of its own
        del parts["sslrootcert"]
    return format_database_url({"dbname": parts.get("user", ""), **parts, "user": name, "password": password})


def _sessions(conn: psycopg.Connection, name: str) -> int:
    """How many connections the login has. Raises OperatorError for one that could do more than the service may."""
    if conn.execute("SELECT FROM pg_roles WHERE rolname = %s", [APP_ROLE]).fetchone() is None:
        raise OperatorError(f"there is no role {APP_ROLE} yet: run the migrations first (make migrate)")
    found = conn.execute(_UNSAFE, {"name": name, "app_role": APP_ROLE}).fetchone()
    if found and found[0]:
        raise OperatorError(f"{name} exists and {', '.join(found[0])}: choose another name for the service")
    others = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND pid <> pg_backend_pid()"
    (sessions,) = conn.execute(others, [name]).fetchone() or (0,)
    return sessions


def _store_login(conn: psycopg.Connection, name: str, secret: str) -> None:
    login, app = Identifier(name), Identifier(APP_ROLE)
    with conn.transaction():
        # A CREATEROLE login may not even say NOSUPERUSER in ALTER ROLE (PostgreSQL 15), hence the check before.
        found = conn.execute("SELECT rolconfig FROM pg_roles WHERE rolname = %s", [name]).fetchone()
        is_set = {setting.partition("=")[0] for setting in (found and found[0]) or ()}
        verb = (
            SQL("ALTER ROLE {} LOGIN VALID UNTIL 'infinity' INHERIT PASSWORD {}")
            if found
            else SQL(
                "CREATE ROLE {} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS INHERIT PASSWORD {}"
            )
        )
        conn.execute(verb.format(login, Literal(secret)))
        inherit = SQL(" WITH INHERIT TRUE" if conn.info.server_version >= 160000 else "")
        conn.execute(Composed([SQL("GRANT {} TO {}").format(app, login), inherit]))
        for setting, value in ROLE_DEFAULTS.items():
            if setting not in is_set:
                conn.execute(SQL("ALTER ROLE {} SET {} = {}").format(login, Identifier(setting), Literal(value)))
