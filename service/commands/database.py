"""The commands for the database itself: its migrations and its queries."""

from functools import partial

import click

from service.commands import migrate as runner
from service.commands.shared import confirm_loss, owner_url, say, yes_option


@click.command()
def migrate() -> None:
    """Apply the pending migrations.

    Migrations make and change the tables. They run as the login of MIGRATION_DATABASE_URL, which owns the database.
    It is safe to kill this at any moment, and to start it several times at once. The release that is running goes on
    with the new tables, so migrate first, then restart. Where a newer release has migrated, there is nothing to do.
    """
    with owner_url() as url:
        applied = runner.upgrade(url, done=partial(print, flush=True), doing=say)
    if not applied:
        print("nothing to do: every migration is applied")


@click.command()
@click.pass_context
def status(ctx: click.Context) -> None:
    """Say which migrations are applied.

    Each is applied, pending, changed (its file was edited after it was applied), missing (its file is gone) or newer (a
    later release applied it, and this one can serve). Where what is applied doesn't fit the files, so that the pending
    ones can't follow, it says so, and the exit status is 1.
    """
    with owner_url() as url:
        found = runner.status(url)
    for migration in found:
        applied_at = f"{migration.applied_at:%Y-%m-%d %H:%M:%S} UTC" if migration.applied_at else ""
        print(f"{migration.state:8} {migration.id:50} {applied_at}".rstrip())
    problems = [migration.problem for migration in found if migration.problem]
    for problem in problems:
        say(problem)
    ctx.exit(1 if problems else 0)


@click.command()
@click.option("--count", type=click.IntRange(1), default=1, show_default=True, help="How many migrations.")
@yes_option
def rollback(count: int, *, yes: bool) -> None:
    """Take the latest migrations back; it asks first.

    What is in the tables and columns that they made is lost: it says which, and about how many rows. `todochat migrate`
    makes them anew, empty.
    """
    with owner_url() as url:
        confirm = partial(confirm_loss, yes=yes)
        rolled_back = runner.rollback(url, count, confirm=confirm, done=partial(print, flush=True), doing=say)
    if not rolled_back:
        print("nothing to do: no migration is applied")


@click.command()
def queries() -> None:
    """Print the named queries.

    Each as the database gets it, with its slots filled, below what its file says of it.
    """
    from service.db.loading import show_queries

    print(show_queries(), end="")
