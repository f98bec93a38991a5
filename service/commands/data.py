"""The commands that carry rows in and out: `demo`, `export` and `import`."""

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from service.commands.shared import account_argument, owner_url
from service.settings import OperatorError

if TYPE_CHECKING:
    from service.commands import demo as demo_data

WHOLE = click.IntRange(0, 10**9 - 1)


@click.command()
@click.option("--users", type=click.IntRange(1, 10**9 - 1), help="That many users, numbered, with one password.")
@click.option("--todos", type=WHOLE, help="In all.  [default: 50 a user]")
@click.option("--messages", type=WHOLE, help="In all.  [default: 100 a user]")
@click.option("--seed", type=WHOLE, help="The same seed and sizes make the same rows.  [default: 0]")
def demo(users: int | None, todos: int | None, messages: int | None, seed: int | None) -> None:
    """Add demo data, once, and say whom to sign in as.

    An account to look around in, or as many rows as --users, --todos and --messages say.
    """
    from service.commands import demo

    size = _demo_size(users, todos, messages, seed)
    with owner_url(to_fill=True) as url:
        filled = demo.fill_account(url) if size is None else demo.fill_many(url, size)
    if filled.added:
        rows = sum(filled.added.values())
        print(", ".join(f"{count:,} {table}" for table, count in filled.added.items()))
        print(f"{rows:,} rows in {filled.seconds:.1f} s, {rows / filled.seconds:,.0f} a second")
    else:
        print("it is there already: nothing was added")
    print(f"sign in as {filled.email} with the password: {demo.PASSWORD}")


def _demo_size(users: int | None, todos: int | None, messages: int | None, seed: int | None) -> "demo_data.Size | None":
    """What was asked for; sizes left out follow from the others: 100 messages and 50 todos a user."""
    from service.commands import demo

    if users is None and todos is None and messages is None:
        if seed is not None:
            raise OperatorError("--seed goes with --users, --todos or --messages")
        return None
    if users is None:
        users = max(1, (todos or 0) // 50, (messages or 0) // 100)
    return demo.Size(
        users=users,
        todos=50 * users if todos is None else todos,
        messages=100 * users if messages is None else messages,
        seed=seed or 0,
    )


@click.command("export")
@account_argument
@click.option("--output", type=click.Path(path_type=Path), default=Path("-"), help="A file instead of standard output.")
def export_account(account: str, output: Path) -> None:
    """Write everything that an account owns, as lines of JSON.

    ACCOUNT is an e-mail address or an id.
    """
    from service.commands import transfer
    from service.commands.progress import Stage

    with owner_url() as url, Stage("export") as stage:

        def progress(_: int, lines: int) -> None:
            stage.update(None, lines)

        if str(output) == "-":
            transfer.export_into(url, account, sys.stdout.buffer, progress)
            sys.stdout.buffer.flush()
        else:
            transfer.export_to(url, account, output, progress)


@click.command("import")
@account_argument
@click.argument("file", type=click.Path(path_type=Path))
def import_account(account: str, file: Path) -> None:
    """Bring a file that an export wrote into an account.

    As a whole or not at all; what is there already is left as it is, so nothing is lost. ACCOUNT is an e-mail address
    or an id, and FILE may be - for standard input.
    """
    from service.commands import transfer
    from service.commands.progress import Stage

    with contextlib.ExitStack() as stack:
        try:
            source = sys.stdin.buffer if str(file) == "-" else stack.enter_context(file.open("rb"))
            size = os.fstat(source.fileno()).st_size
        except OSError as error:
            raise OperatorError(f"can't read {file}: {error.strerror}") from error
        url = stack.enter_context(owner_url())
        stage = stack.enter_context(Stage("import"))
        done = 0

        def progress(sent: int, lines: int) -> None:
            nonlocal done
            done += sent
            stage.update(min(1, done / size) if size else None, lines)

        result = transfer.import_from(url, account, source, progress)
    for name in result.__struct_fields__:
        counts = getattr(result, name)
        print(f"{name}: {counts.imported:,} imported, {counts.skipped:,} there already")
