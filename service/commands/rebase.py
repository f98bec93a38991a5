"""What an operator does after a dump was restored into another cluster, whose transaction ids begin anew."""

from service.commands.accounts import text
from service.commands.connection import as_owner
from service.db.queries import One

_rebase = One("rebase_audit_log", int)


def rebase(url: str) -> int:
    """Put the audit trail before what is written from now on, in the order it has; how many entries were moved.

    ``url`` names a login that migrates. None are moved where none are ahead of the cluster. The trail, and so every
    change, waits meanwhile: a few seconds for a million entries. Raises DatabaseError when the database can't be used.
    """
    with as_owner(url) as connection:
        found = connection.execute(text(_rebase)).fetchone()
    return found[0] if found else 0
