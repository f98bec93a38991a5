"""What an operator removes when it is past its age: audit entries and idempotency keys, in small batches.

Every batch is a transaction of its own, which holds no more than its own rows and passes over what others hold. So
several of these, and the service, can run at the same time, and one that is killed has done what it said so far.
"""

import time
from uuid import UUID

import msgspec
import psycopg

from service.commands.accounts import number, text
from service.commands.connection import as_owner
from service.db.queries import Maybe, One

AUDIT_DAYS = 365
BATCH = 1000
"""Rows in a transaction: some ten milliseconds."""

# A lock is worth a short wait only: what is skipped now goes next time. A commit that a crash of the server undoes can
# be done again, so none of them waits for the disk.
_SESSION = "SET lock_timeout = '1s'; SET statement_timeout = '60s'; SET synchronous_commit = off"


class Pruned(msgspec.Struct):
    """How many rows were removed; in a dry run, how many would be."""

    entries: int = 0
    users: int = 0
    """Whose trails the entries were of."""
    keys: int = 0
    held: int = 0
    """How often another transaction held something too long; the next run finds what was passed over."""


_find_user = Maybe("find_prunable_user", UUID)
_count_entries = One("count_prunable_entries", int)
_prune_entries = One("prune_audit_log", int)
_count_keys = One("count_prunable_keys", int)
_prune_keys = One("prune_idempotency_keys", int)


def prune(url: str, *, audit_days: int = AUDIT_DAYS, batch: int = BATCH, dry_run: bool = False) -> Pruned:
    """Remove audit entries older than ``audit_days``, and idempotency keys past their 24 hours.

    ``url`` names a login that migrates. Raises DatabaseError when the database can't be used.
    """
    pruned = Pruned()
    older_than = _first_id(time.time() - audit_days * 24 * 3600)
    with as_owner(url) as connection:
        connection.execute(_SESSION)
        position = {"user_id": UUID(int=0), "older_than": older_than, "batch": batch}
        while found := connection.execute(text(_find_user), position).fetchone():
            position["user_id"] = found[0]
            if dry_run:
                entries = number(connection, _count_entries, position)
            else:
                entries = _in_batches(connection, _prune_entries, position, pruned)
            pruned.entries += entries
            pruned.users += entries > 0
        if dry_run:
            pruned.keys = number(connection, _count_keys, {})
        else:
            pruned.keys = _in_batches(connection, _prune_keys, {"batch": batch}, pruned)
    return pruned


def _first_id(moment: float) -> UUID:
    """The lowest UUID version 7 of that time (RFC 9562, section 5.7): an entry's id begins with its time."""
    return UUID(f"{max(0, int(moment * 1000)):012x}70008000000000000000")


def _in_batches(
    connection: "psycopg.Connection", query: One[int], values: dict[str, UUID | int], pruned: Pruned
) -> int:
    """Run it until a batch isn't full, and say how many rows that removed in all."""
    removed = 0
    try:
        while (count := number(connection, query, values)) == values["batch"]:
            removed += count
    except psycopg.errors.LockNotAvailable:
        pruned.held += 1
        return removed
    return removed + count
