"""`todochat prune` removes what is past its age: audit entries, idempotency keys, and conversations if wanted.

Every batch is a transaction of its own, which holds no more than its own rows. So several of these, and the service,
can run at the same time, and one that is killed has done what it said so far.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from uuid import UUID

import click
import msgspec
import psycopg
from psycopg import sql

from service.commands.accounts import each_account, number, text
from service.commands.connection import as_owner, configure
from service.commands.shared import confirm_loss, owner_url, say, yes_option
from service.db.queries import Count, Maybe, One

AUDIT_DAYS = 365
LONGEST_DAYS = 700_000
"""Longer ago than any row says, and not before the first year that a time can be of."""
BATCH = 1000
"""Rows in a transaction: some ten milliseconds."""

# A lock is worth a short wait only: what is skipped now goes next time. A commit that a crash of the server undoes can
# be done again, so none of them waits for the disk.
_SESSION = {"lock_timeout": "1s", "statement_timeout": "60s", "synchronous_commit": "off"}

_HELD = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)


class Pruned(msgspec.Struct):
    """How many rows were removed; in a dry run, how many would be."""

    entries: int = 0
    users: int = 0
    """Whose trails the entries were of."""
    keys: int = 0
    conversations: int = 0
    held: int = 0
    """How often another transaction held something too long; the next run finds what was passed over."""


_find_user = Maybe("find_prunable_user", UUID)
_count_entries = One("count_prunable_entries", int)
_prune_entries = Count("prune_audit_log")
_blank_last = Count("blank_last_entry")
_count_keys = One("count_prunable_keys", int)
_prune_keys = Count("prune_idempotency_keys")
_count_conversations = One("count_untouched_conversations", int)
_prune_conversation = Count("prune_conversation")


@click.command("prune")
@click.option("--dry-run", is_flag=True, help="Only say how many there are.")
@click.option(
    "--audit-days", type=click.IntRange(1), default=AUDIT_DAYS, show_default=True, help="Keep audit entries that long."
)
@click.option(
    "--conversation-days", type=click.IntRange(1), help="Remove conversations untouched for so long.  [default: none]"
)
@click.option("--batch", type=click.IntRange(1), default=BATCH, show_default=True, help="Rows in a transaction.")
@yes_option
def prune_rows(audit_days: int, conversation_days: int | None, batch: int, *, dry_run: bool, yes: bool) -> None:
    """Remove old audit entries and idempotency keys, and conversations if told so.

    It asks first; with --yes it is fit for cron. It works in small batches, beside the running service. Idempotency
    keys are kept for 24 hours.
    """
    with owner_url() as url:

        def run(*, dry_run: bool) -> str:
            pruned = prune(
                url, audit_days=audit_days, conversation_days=conversation_days, batch=batch, dry_run=dry_run
            )
            if pruned.held:
                say(f"passed over what other transactions held, {pruned.held:,} times: the next run finds it again")
            found = (
                f"{pruned.entries:,} from audit_log (older than {audit_days} days, "
                f"of {pruned.users:,} user{'s' * (pruned.users != 1)}), "
                f"{pruned.keys:,} from idempotency_keys (older than 24 hours)"
            )
            if conversation_days is not None:
                found += f", {pruned.conversations:,} from conversations (untouched for {conversation_days} days)"
            return found

        if not dry_run and not yes:
            confirm_loss([f"removes {run(dry_run=True)}"], yes=yes)
        found = run(dry_run=dry_run)
    print(f"{'would remove' if dry_run else 'removed'} {found}")


def prune(
    url: str,
    *,
    audit_days: int = AUDIT_DAYS,
    conversation_days: int | None = None,
    batch: int = BATCH,
    dry_run: bool = False,
) -> Pruned:
    """Remove audit entries older than ``audit_days``, and idempotency keys past their 24 hours.

    With ``conversation_days`` also conversations in which nothing happened for so long, with their messages and links:
    the trail tells of that, and an undo brings one back. ``url`` names a login that migrates. Raises DatabaseError when
    the database can't be used.
    """
    pruned = Pruned()
    now = datetime.now(UTC)
    older_than = now - timedelta(days=min(audit_days, LONGEST_DAYS))
    with as_owner(url) as connection:
        configure(connection, **_SESSION)
        if conversation_days is not None:
            untouched_since = now - timedelta(days=min(conversation_days, LONGEST_DAYS))
            for account in each_account(connection):
                values = {"user_id": account.id, "untouched_since": untouched_since}
                pruned.conversations += _conversations(connection, values, pruned, dry_run=dry_run)
        position = {"user_id": UUID(int=0), "older_than": older_than, "batch": batch}
        while found := connection.execute(text(_find_user), position).fetchone():
            position["user_id"] = found[0]
            if dry_run:
                entries = number(connection, _count_entries, position)
            else:
                entries = _in_batches(connection, _prune_entries, position, pruned)
                _in_batches(connection, _blank_last, {**position, "batch": 1}, pruned)
            pruned.entries += entries
            pruned.users += entries > 0
        if dry_run:
            pruned.keys = number(connection, _count_keys, {})
        else:
            pruned.keys = _in_batches(connection, _prune_keys, {"batch": batch}, pruned)
    return pruned


def _conversations(
    connection: "psycopg.Connection", values: Mapping[str, object], pruned: Pruned, *, dry_run: bool
) -> int:
    """Delete a user's conversations that were left alone for long, each in a transaction of its own; how many."""
    removed = 0
    try:
        while True:
            with connection.transaction():
                # Row security is forced on the owner, too. But it isn't the user who deletes them.
                connection.execute(sql.SQL("SET LOCAL app.user_id = {}").format(str(values["user_id"])))
                if dry_run:
                    return number(connection, _count_conversations, values)
                deleted = connection.execute(text(_prune_conversation), values).rowcount
                connection.execute("SET LOCAL app.user_id = ''")
            if not deleted:
                return removed
            removed += deleted
    except _HELD:
        pruned.held += 1
        return removed


def _in_batches(connection: "psycopg.Connection", query: Count, values: Mapping[str, object], pruned: Pruned) -> int:
    """Run it until a batch isn't full, and say how many rows that removed in all."""
    removed = 0
    try:
        while (count := connection.execute(text(query), values).rowcount) == values["batch"]:
            removed += count
    except _HELD:
        pruned.held += 1
        return removed
    return removed + count
