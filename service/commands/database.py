"""The commands for the database itself: its migrations, the service's login, and what is removed with age."""

from pathlib import Path
from typing import TYPE_CHECKING, TextIO
from urllib.parse import quote

import click

from service.commands.shared import confirm_loss, database_settings, embedded_server, owner_url, say, yes_option
from service.settings import OperatorError

if TYPE_CHECKING:
    from service.commands import retention

SCHEMA_PATH = Path("sql/schema.sql")
SERVICE_LOGIN = "todochat_service"
GENERATED_PASSWORD_BYTES = 24


@click.command()
def migrate() -> None:
    """Apply the pending migrations.

    Safe to kill at any moment, and to start several times at once.
    """
    from service.commands import migrate

    with owner_url() as url:
        applied = migrate.upgrade(url)
    for migration in applied:
        print(f"applied {migration}")
    if not applied:
        print("nothing to do: every migration is applied")


@click.command()
@click.pass_context
def status(ctx: click.Context) -> None:
    """Say which migrations are applied.

    The exit status is 1 if the file of an applied one was edited or is gone.
    """
    from service.commands import migrate

    with owner_url() as url:
        found = migrate.status(url)
    for migration in found:
        applied_at = f"{migration.applied_at:%Y-%m-%d %H:%M:%S} UTC" if migration.applied_at else ""
        print(f"{migration.state:8} {migration.id:50} {applied_at}".rstrip())
    ctx.exit(1 if any(migration.state in {"changed", "missing"} for migration in found) else 0)


@click.command()
@click.option("--count", type=click.IntRange(1), default=1, show_default=True, help="How many migrations.")
@yes_option
def rollback(count: int, *, yes: bool) -> None:
    """Take the latest migrations back; it asks first.

    What is in the tables that they made is lost: it says which, and about how many rows.
    """
    from service.commands import migrate

    def confirm(losses: list[migrate.Loss]) -> None:
        said: list[str] = []
        for loss in losses:
            said.append(f"rolls back {loss.id}: {loss.header}")
            said += [f"drops {name} (about {rows:,} rows)" for name, rows in loss.rows.items()]
        confirm_loss(said, yes=yes)

    with owner_url() as url:
        for migration in migrate.rollback(url, count, confirm=confirm):
            print(f"rolled back {migration}")


@click.command()
@click.option(
    "--output", type=click.Path(path_type=Path), default=SCHEMA_PATH, show_default=True, help="- is standard output."
)
def schema(output: Path) -> None:
    """Write what the migrations make, as SQL for reviewers.

    It is taken from an empty database on the embedded PostgreSQL.
    """
    from service.commands import development, migrate
    from service.commands.schema_dump import dump_schema

    with embedded_server(database_settings()) as embedded, development.scratch_database(embedded) as url:
        migrate.upgrade(url)
        text = dump_schema(url, embedded.bin_dir / "pg_dump")
    if str(output) == "-":
        print(text, end="")
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"can't write {output}: {error.strerror}") from error
    print(f"wrote {output}")


@click.command("create-login")
@click.argument("name", default=SERVICE_LOGIN)
@click.option(
    "--password-file",
    type=click.File(),
    help="Read the password there (- is standard input) instead of making one; it is not printed then.",
)
def create_login(name: str, password_file: TextIO | None) -> None:
    """Make the service's login, or give it a new password.

    Prints the DATABASE_URL for it. NAME is todochat_service unless it is given. An existing login of that name must not
    be able to do more than the service may.
    """
    import secrets

    from service.commands import logins

    password = secrets.token_urlsafe(GENERATED_PASSWORD_BYTES)
    if password_file is not None:
        try:
            password = password_file.read().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise OperatorError(f"can't read the password from {password_file.name}: {error}") from error
    with owner_url() as url:
        service_url = logins.create_service_login(url, name, password)
    if password_file is not None:  # whoever has it need not see it again
        service_url = service_url.replace(f":{quote(password, safe='')}@", ":PASSWORD@", 1)
    print(f"DATABASE_URL={service_url}")


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say how many there are.")
@click.option(
    "--audit-days", type=click.IntRange(1), default=365, show_default=True, help="Keep audit entries that long."
)
@click.option(
    "--conversation-days", type=click.IntRange(1), help="Remove conversations untouched for so long.  [default: none]"
)
@click.option("--batch", type=click.IntRange(1), default=1000, show_default=True, help="Rows in a transaction.")
@yes_option
def prune(audit_days: int, conversation_days: int | None, batch: int, *, dry_run: bool, yes: bool) -> None:
    """Remove old audit entries and idempotency keys, and conversations if told so.

    It asks first; with --yes it is fit for cron. It works in small batches, beside the running service. Idempotency
    keys are kept for 24 hours.
    """
    from service.commands import retention

    with owner_url() as url:

        def run(*, dry_run: bool) -> str:
            pruned = retention.prune(
                url, audit_days=audit_days, conversation_days=conversation_days, batch=batch, dry_run=dry_run
            )
            if pruned.held:
                say(f"passed over what other transactions held, {pruned.held:,} times: the next run finds it again")
            return _pruned(pruned, audit_days, conversation_days)

        if not dry_run and not yes:
            confirm_loss([f"removes {run(dry_run=True)}"], yes=yes)
        found = run(dry_run=dry_run)
    print(f"{'would remove' if dry_run else 'removed'} {found}")


def _pruned(pruned: "retention.Pruned", audit_days: int, conversation_days: int | None) -> str:
    found = (
        f"{pruned.entries:,} from audit_log (older than {audit_days} days, "
        f"of {pruned.users:,} user{'s' * (pruned.users != 1)}), "
        f"{pruned.keys:,} from idempotency_keys (older than 24 hours)"
    )
    if conversation_days is not None:
        found += f", {pruned.conversations:,} from conversations (untouched for {conversation_days} days)"
    return found


@click.command()
def queries() -> None:
    """Print the named queries.

    Each as the database gets it, with its slots filled, below what its file says of it.
    """
    from service.db.loading import show_queries

    print(show_queries(), end="")
