"""Gives what the migrations made back to todochat_owner, where a restore by hand left it with whoever restored.

With another owner the triggers run as somebody whom the policy of audit_log doesn't know, or as a superuser.
"""

import msgspec
import psycopg
from psycopg.errors import InsufficientPrivilege

from service.commands.connection import OWNER_ROLE, reason
from service.commands.logins import APP_ROLE
from service.db.loading import TEXTS
from service.db.migration_files import Made, Migration, MigrationError, made_by

_HAS_PRIVILEGES = """
SELECT coalesce(has_table_privilege(to_regrole(%(app)s), to_regclass('public.users'), 'SELECT'), false)
    AND to_regrole(%(owner)s) IS NOT NULL
"""


def find_others(conn: psycopg.Connection, made: Made) -> list[tuple[str, str, str]]:
    """What is todochat's and another role than todochat_owner owns: its kind, its name, and whose it is."""
    return conn.execute(TEXTS["list_misowned"].text.encode(), msgspec.structs.asdict(made)).fetchall()


def mend_owners(conn: psycopg.Connection, applied: list[Migration]) -> list[str]:
    """Make todochat_owner the owner of what these migrations made, in one transaction; what was somebody else's.

    Raises MigrationError where the database was restored before there were the roles: then privileges and policies
    are missing, too, and only another restore brings them back.
    """
    made = made_by(migration.text for migration in applied)
    if "users" not in made.tables:
        return []
    if conn.execute(_HAS_PRIVILEGES.encode(), {"owner": OWNER_ROLE, "app": APP_ROLE}).fetchone() != (True,):
        raise MigrationError(
            f"this database was restored before the roles {OWNER_ROLE} and {APP_ROLE} were made, and lost what they "
            "may do: restore it anew, into an empty database, as service/commands/operations.md says"
        )
    others = find_others(conn, made)
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
