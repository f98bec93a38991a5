"""Gives what the migrations made back to todochat_owner, where a restore by hand left it with whoever restored.

With another owner the triggers run as somebody whom the policy of audit_log doesn't know, or as a superuser.
"""

import re
from collections.abc import Iterable

import psycopg
from psycopg.errors import InsufficientPrivilege

from service.commands.connection import OWNER_ROLE, reason
from service.commands.logins import APP_ROLE
from service.db.migration_files import Migration, MigrationError

_MADE = re.compile(r"^CREATE (TABLE|FUNCTION|DOMAIN) public\.(\w+)", re.MULTILINE)
_HAS_PRIVILEGES = """
SELECT coalesce(has_table_privilege(to_regrole(%(app)s), to_regclass('public.users'), 'SELECT'), false)
    AND to_regrole(%(owner)s) IS NOT NULL
"""
_OTHERS = """
SELECT found.kind, found.name, pg_get_userbyid(found.owner)
FROM (
    SELECT 'TABLE' AS kind, oid::regclass::text AS name, relowner AS owner FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relname = ANY (%(TABLE)s)
    UNION ALL
    SELECT 'FUNCTION', oid::regprocedure::text, proowner FROM pg_proc
    WHERE pronamespace = 'public'::regnamespace AND proname = ANY (%(FUNCTION)s)
    UNION ALL
    SELECT 'DOMAIN', oid::regtype::text, typowner FROM pg_type
    WHERE typnamespace = 'public'::regnamespace AND typtype = 'd' AND typname = ANY (%(DOMAIN)s)
) AS found
WHERE found.owner IS DISTINCT FROM to_regrole(%(owner)s)
"""


def find_others(conn: psycopg.Connection, migrations: Iterable[Migration]) -> list[tuple[str, str, str]]:
    """What these migrations make and another role than todochat_owner owns: its kind, its name, and whose it is."""
    made: dict[str, list[str]] = {"TABLE": [], "FUNCTION": [], "DOMAIN": []}
    for migration in migrations:
        for kind, name in _MADE.findall(migration.text):
            made[kind].append(name)
    return conn.execute(_OTHERS.encode(), {**made, "owner": OWNER_ROLE}).fetchall()


def mend_owners(conn: psycopg.Connection, applied: list[Migration]) -> list[str]:
    """Make todochat_owner the owner of what these migrations made, in one transaction; what was somebody else's.

    Raises MigrationError where the database was restored before there were the roles: then privileges and policies
    are missing, too, and only another restore brings them back.
    """
    if not any(("TABLE", "users") in _MADE.findall(migration.text) for migration in applied):
        return []
    if conn.execute(_HAS_PRIVILEGES.encode(), {"owner": OWNER_ROLE, "app": APP_ROLE}).fetchone() != (True,):
        raise MigrationError(
            f"this database was restored before the roles {OWNER_ROLE} and {APP_ROLE} were made, and lost what they "
            "may do: restore it anew, into an empty database, as the README says under Backup and restore"
        )
    others = find_others(conn, applied)
    try:
        with conn.transaction():
            for kind, name, _ in others:
                conn.execute(f"ALTER {kind} {name} OWNER TO {OWNER_ROLE}".encode())
    except InsufficientPrivilege as error:
        raise MigrationError(
            f"{reason(error)}: it must belong to {OWNER_ROLE}; run this as a superuser, or as {others[0][2]}, who owns "
            f"it and must be a member of {OWNER_ROLE}"
        ) from error
    return [name for _, name, _ in others]
